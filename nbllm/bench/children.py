"""Python processes of our own: they import no file of the working folder, and end when their parent does.

A folder that came with somebody's notebook may hold a `queue.py`, and these processes are given keys. So they
start with Python's safe path, they get this very nbllm by its place, and what else is on our path stands
behind their own.
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
sys.path += [place for place in {paths!r} if place not in sys.path]
spec = spec_from_file_location("nbllm", {init!r}, submodule_search_locations=[{package!r}])
sys.modules["nbllm"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def command(module: str, *words: str) -> tuple[str, ...]:
    """The command that runs one of our modules; to be started with `environment()`, its standard input a pipe
    of ours."""
    boot = _BOOTSTRAP.format(
        paths=list(filter(_is_outside_working_folder, sys.path)),
        init=str(_PACKAGE / "__init__.py"),
        package=str(_PACKAGE),
    )
    return (sys.executable, "-P", "-c", boot, module, *words)


def environment() -> dict[str, str]:
    """Ours, without what of PYTHONPATH means the working folder, or a place in it that its name alone
    decides."""
    places = filter(_is_outside_working_folder, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def _is_outside_working_folder(place: str) -> bool:
    try:
        return os.path.isabs(place) and os.path.realpath(place) != os.path.realpath(os.getcwd())
    except OSError:  # the working folder is gone
        return os.path.isabs(place)


def end_with_parent(within: float = 0.0) -> None:
    """Ends this process `within` seconds after the other end of its standard input was closed: a parent that
    is killed cleans nothing up. To be called when nothing more is read from there."""

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
