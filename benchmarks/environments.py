"""Virtual environments for the tools that are compared with nbllm, created once in the cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import platformdirs


def python_for(name: str, packages: Sequence[str]) -> str:
    """The interpreter of a tool's environment, which is created if needed; this interpreter for a tool
    without packages. Raises CalledProcessError if it cannot be created."""
    if not packages:
        return sys.executable
    directory = Path(platformdirs.user_cache_dir("nbllm-bench")) / "peers" / name
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (directory / "complete").exists():
        venv.create(directory, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (directory / "complete").touch()
    return str(python)


def clean_environment() -> dict[str, str]:
    """The environment variables without those that could lead a tool to a real provider or to other
    packages."""
    suffixes, names = ("_API_KEY", "_BASE_URL", "_API_BASE"), ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {k: v for k, v in os.environ.items() if not k.endswith(suffixes) and k not in names}
