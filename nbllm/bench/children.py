"""Python subprocesses that import nothing from the working folder and end with their parent.

A folder that came with a downloaded notebook may contain a file such as `queue.py`, and these processes
receive API keys. So they start in Python's safe-path mode, load this nbllm from its own location, and append
the other entries of our sys.path behind their own.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_BOOTSTRAP = """
import sys, runpy
from importlib.util import module_from_spec, spec_from_file_location
sys.path += [path for path in {paths!r} if path not in sys.path]
spec = spec_from_file_location("nbllm", {init!r}, submodule_search_locations=[{package!r}])
sys.modules["nbllm"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs one of our modules. Start it with `environment()` and with a pipe as
    standard input."""
    boot = _BOOTSTRAP.format(
        paths=list(filter(_is_outside_working_folder, sys.path)),
        init=str(_PACKAGE / "__init__.py"),
        package=str(_PACKAGE),
    )
    return (sys.executable, "-P", "-c", boot, module, *arguments)


def environment() -> dict[str, str]:
    """Our environment variables, with PYTHONPATH reduced to absolute entries other than the working
    folder."""
    paths = filter(_is_outside_working_folder, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _is_outside_working_folder(path: str) -> bool:
    try:
        return os.path.isabs(path) and os.path.realpath(path) != os.path.realpath(os.getcwd())
    except OSError:  # the working folder is gone
        return os.path.isabs(path)


def end_with_parent(within: float = 0.0) -> None:
    """Ends this process `within` seconds after its standard input is closed: a killed parent cannot clean up.
    Call it when nothing more will be read from standard input."""

    def watch() -> None:
        while _read_stdin():
            continue
        threading.Event().wait(within)
        os._exit(1)

    threading.Thread(target=watch, name="nbllm-parent", daemon=True).start()


def _read_stdin() -> bytes:
    try:
        return os.read(0, 4096)
    except OSError:
        return b""
