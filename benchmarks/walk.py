"""The path of one cell from the magic to the socket and back: which files it enters, in which order, and how
often each file is entered again.

    python benchmarks/walk.py [options of the cell ...]

It traces the second `%%llm` cell of a session in this process (the first one loads everything), which
requests one token from the simulator on loopback. Calls of functions in nbllm's files count; a stay is a
sequence of calls in one file before a call in another one. The notebook's thread is listed apart from the
engine's and its helpers'.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbllm

ROOT = Path(nbllm.__file__).parent
EXCLUDED = ("simulator/",)  # the other side of the socket


class Walk:
    """The calls in order: (whether on the notebook's thread, file, function). Only threads started after
    `start` are traced."""

    def __init__(self) -> None:
        self.steps: list[tuple[bool, str, str]] = []
        self.on = False
        self._files: dict[str, str] = {}
        self._suspended: dict[int, FrameType] = {}  # frames of generators and coroutines, which resume

    def start(self) -> None:
        """Traces every call from now on."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def _file(self, path: str) -> str:
        file = Path(path)
        own = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else ""
        return "" if own.startswith(EXCLUDED) else own

    def _on_event(self, frame: FrameType, event: str, _arg: object) -> None:
        if event != "call" or not self.on:
            return
        code = frame.f_code
        name = self._files.get(code.co_filename)
        if name is None:
            name = self._files[code.co_filename] = self._file(code.co_filename)
        if not name or self._suspended.get(id(frame)) is frame:
            return
        if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            self._suspended[id(frame)] = frame
        self.steps.append((threading.current_thread() is threading.main_thread(), name, code.co_qualname))

    def stays(self, notebook: bool, parts: int = 9) -> list[tuple[str, list[str]]]:
        """(file, functions called in it) for each stay, on the notebook's thread or on the others; parts=1:
        by subpackage."""
        found: list[tuple[str, list[str]]] = []
        for here, file, what in self.steps:
            name = "/".join(file.split("/")[:parts])
            if here is notebook:
                if not found or found[-1][0] != name:
                    found.append((name, []))
                found[-1][1].append(what)
        return found


def main() -> None:
    """Runs the cell twice, and prints the path of the second one."""
    os.environ["NBLLM_HOME"] = tempfile.mkdtemp()
    from IPython.core.interactiveshell import InteractiveShell

    options = " ".join(sys.argv[1:])
    shell, walk = InteractiveShell.instance(), Walk()
    cell = f"%%llm sim/openai@tokens=1,ttft=0.02 {options}\nWhy is the sky blue?"
    walk.start()
    with contextlib.redirect_stdout(io.StringIO()):
        shell.run_line_magic("load_ext", "nbllm")
        shell.run_cell(cell).raise_error()
        walk.on = True
        shell.run_cell(cell).raise_error()
        walk.on = False
    for notebook in (True, False):
        stays = walk.stays(notebook)
        seen = Counter(name for name, _ in stays)
        n_functions, returns = sum(len(w) for _, w in stays), len(stays) - len(seen)
        print(
            f"{'The notebook' if notebook else 'The engine'}: {len(seen)} files, {len(stays)} stays, ", end=""
        )
        print(f"{returns} returns, {n_functions} calls")
        for name, what in stays:
            print(f"  {name:<34} {', '.join(what[:6])}{' ...' if len(what) > 6 else ''}")
        packages = walk.stays(notebook, 1)
        names = [name for name, _ in packages]
        print(f"  {len(names)} stays in {len(set(names))} subpackages: {' '.join(names)}")
        print("  most entered: " + ", ".join(f"{n} {c}" for n, c in seen.most_common(8)) + "\n")


if __name__ == "__main__":
    main()
