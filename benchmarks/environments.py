"""A virtual environment for each tool that is measured beside nbllm, made once in the user's cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import platformdirs


def python_of(name: str, packages: Sequence[str]) -> str:
    """The interpreter of a tool's environment, made where it is not there; this one where it needs no
    packages. Raises CalledProcessError where it cannot be made."""
    if not packages:
        return sys.executable
    place = Path(platformdirs.user_cache_dir("nbllm-bench")) / "peers" / name
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (place / "complete").exists():
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (place / "complete").touch()
    return str(python)


def without_keys() -> dict[str, str]:
    """The environment without what could lead a tool to a real provider, or to other packages."""
    odd, python = ("_API_KEY", "_BASE_URL", "_API_BASE"), ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {k: v for k, v in os.environ.items() if not k.endswith(odd) and k not in python}
