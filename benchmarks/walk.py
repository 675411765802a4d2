"""The walk of one cell from the magic to the socket and back: which files it enters, in order, and how often
one is entered again.

    python benchmarks/walk.py [options of the cell ...]

The second `%%llm` cell of a session in this process is watched (the first has loaded everything), asking the
simulator on loopback for one token. What counts is a function that begins in one of nbllm's files; one stay
is what begins in a file before another file's turn comes. The notebook's thread is told apart from the
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
BESIDE = ("simulator/",)  # the other side of the socket


class Walk:
    """Who began where: (whether on the notebook's thread, file, function), in their order. Threads that begin
    after `listen` are heard."""

    def __init__(self) -> None:
        self.steps: list[tuple[bool, str, str]] = []
        self.on = False
        self._files: dict[str, str] = {}
        self._begun: dict[int, FrameType] = {}  # of functions that are left and entered again in their middle

    def listen(self) -> None:
        """Hears every function that begins from now on."""
        threading.setprofile(self._hear)
        sys.setprofile(self._hear)

    def _file(self, path: str) -> str:
        place = Path(path)
        own = place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else ""
        return "" if own.startswith(BESIDE) else own

    def _hear(self, frame: FrameType, event: str, _arg: object) -> None:
        if event != "call" or not self.on:
            return
        code = frame.f_code
        name = self._files.get(code.co_filename)
        if name is None:
            name = self._files[code.co_filename] = self._file(code.co_filename)
        if not name or self._begun.get(id(frame)) is frame:
            return
        if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            self._begun[id(frame)] = frame
        self.steps.append((threading.current_thread() is threading.main_thread(), name, code.co_qualname))

    def stays(self, notebook: bool, parts: int = 9) -> list[tuple[str, list[str]]]:
        """(file, what began in it) of each stay on one side; parts=1: of wings."""
        found: list[tuple[str, list[str]]] = []
        for here, file, what in self.steps:
            name = "/".join(file.split("/")[:parts])
            if here is notebook:
                if not found or found[-1][0] != name:
                    found.append((name, []))
                found[-1][1].append(what)
        return found


def main() -> None:
    """Asks twice, and prints the second walk."""
    os.environ["NBLLM_HOME"] = tempfile.mkdtemp()
    from IPython.core.interactiveshell import InteractiveShell

    options = " ".join(sys.argv[1:])
    shell, walk = InteractiveShell.instance(), Walk()
    cell = f"%%llm sim/openai@tokens=1,ttft=0.02 {options}\nWhy is the sky blue?"
    walk.listen()
    with contextlib.redirect_stdout(io.StringIO()):
        shell.run_line_magic("load_ext", "nbllm")
        shell.run_cell(cell).raise_error()
        walk.on = True
        shell.run_cell(cell).raise_error()
        walk.on = False
    for notebook in (True, False):
        stays = walk.stays(notebook)
        seen = Counter(name for name, _ in stays)
        begun, back = sum(len(w) for _, w in stays), len(stays) - len(seen)
        print(
            f"{'The notebook' if notebook else 'The engine'}: {len(seen)} files, {len(stays)} stays, ", end=""
        )
        print(f"{back} returns, {begun} functions begun")
        for name, what in stays:
            print(f"  {name:<34} {', '.join(what[:6])}{' ...' if len(what) > 6 else ''}")
        wings = walk.stays(notebook, 1)
        print(f"  {len(wings)} stays in {len({w for w, _ in wings})} wings: {' '.join(w for w, _ in wings)}")
        print("  most entered: " + ", ".join(f"{n} {c}" for n, c in seen.most_common(8)) + "\n")


if __name__ == "__main__":
    main()
