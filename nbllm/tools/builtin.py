"""Built-in tools: the files of one folder, and Python in the notebook's own namespace. None is marked as
read-only, so each call needs the user's approval."""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import io
import os
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, NbllmError
from ..core.messages import Text, ToolResult
from ..core.values import CHARACTERS_PER_TOKEN, plural, truncate
from . import functions
from .changes import Change
from .results import describe_error
from .usable import Usable

LIMIT = 2**20  # bytes of a file that are read or written
_MAX_ENTRIES = 500  # of a folder's list
_BUDGET = 8_000  # tokens of a result: a file of about 500 lines
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FILE_NAME = "<python tool>"


def files(folder: str | Path, *, hidden: bool = False) -> tuple[Usable, ...]:
    """The tools read_file, list_files and write_file for the files in `folder`. hidden: include names that
    begin with a dot. Raises ConfigError where there is no such folder."""
    root = Path(os.path.realpath(Path(folder).expanduser()))
    if not root.is_dir():
        raise ConfigError(f"There is no folder {str(folder)!r}.", hint="Name one that exists.")
    own = Folder(root, hidden=hidden)
    readers = (functions.of(f, budget=_BUDGET) for f in (own.read_file, own.list_files))
    tools = (*readers, replace(functions.of(own.write_file, reads=False), change=own.change))
    return tuple(replace(t, source=f"{t.tool.name} in {root.name or root}") for t in tools)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files in one folder; neither links nor `..` lead out of it, and hidden names are excluded by
    default. `root` contains no links."""

    root: Path
    hidden: bool = False

    def read_file(self, path: str, first_line: int = 1, lines: int = 500) -> Any:
        """The content of a file of the user's folder: text, a picture or a PDF.

        Args:
            path: from the folder, with / between names
            first_line: counted from 1
            lines: how many at most
        """
        with self._open(path, os.O_RDONLY) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(LIMIT)
        if b"\0" in data or data.startswith(b"%PDF"):
            if size > LIMIT:
                raise NbllmError(f"{path} has {size:,} bytes and is no text; at most {LIMIT:,} are read.")
            return data
        text = data.decode("utf-8", "replace").splitlines(keepends=True)
        first = max(first_line, 1)
        shown = text[first - 1 : first - 1 + max(lines, 1)]
        notes = [
            f"lines {first:,} to {first - 1 + len(shown):,} of {len(text):,}"
            if shown
            else f"it has only {len(text):,} lines"
        ] * (len(shown) < len(text))
        notes += [f"only the first {LIMIT:,} of {size:,} bytes were read"] * (size > LIMIT)
        return "".join(shown) + "".join(f"\n({n})" for n in notes)

    def list_files(self, folder: str = ".", pattern: str = "*") -> list[str]:
        """The files and folders in a folder of the user's: name and size; folders end with /.

        Args:
            folder: from the user's folder, with / between names
            pattern: such as *.csv
        """
        directory = self._resolve(folder)
        with _short_errors(folder):
            names = sorted(n for n in os.listdir(directory) if fnmatch.fnmatch(n, pattern))
        known = (line for n in names if (line := self._entry(directory, n)))
        entries = list(islice(known, _MAX_ENTRIES + 1))
        more = [f"(more than {_MAX_ENTRIES}: ask with a pattern)"] * (len(entries) > _MAX_ENTRIES)
        return entries[:_MAX_ENTRIES] + more

    def write_file(self, path: str, text: str) -> str:
        """Writes a text into a file of the user's folder; what it held is replaced.

        Args:
            path: from the folder, with / between names
            text: all that the file shall hold
        """
        data = text.encode("utf-8", "replace")
        if len(data) > LIMIT:
            raise NbllmError(f"The text has {len(data):,} bytes; at most {LIMIT:,} are written.")
        with _short_errors(path):
            self._resolve(path).parent.mkdir(parents=True, exist_ok=True)
        with self._open(path, os.O_RDWR | os.O_CREAT) as file:
            before = os.fstat(file.fileno()).st_size
            file.truncate(0)
            file.write(data)
        return f"written: {plural(len(data), 'byte')} to {path}" + (
            f" (it held {before:,})" if before else ""
        )

    def change(self, arguments: Mapping[str, Any]) -> Change | None:
        """The change that write_file would make; None where the old content is too long or cannot be read."""
        path, data = arguments["path"], arguments["text"].encode("utf-8", "replace")
        real = self._resolve(path)
        exists = real.exists()
        before = self._read_bytes(path) if exists else None
        if exists and (before is None or len(before) > LIMIT):
            return None
        new_folders = [p for p in real.parents if not p.exists()]

        def undo(_result: Any) -> None:
            if before is None:
                real.unlink()
                with contextlib.suppress(OSError):  # another file has been put there since
                    for folder in new_folders:
                        folder.rmdir()
                return
            with self._open(path, os.O_RDWR) as file:
                file.truncate(0)
                file.write(before)

        old = None if before is None else before.decode("utf-8", "replace")
        return Change(path, old, arguments["text"], lambda _: self._read_bytes(path) == data, undo)

    def _read_bytes(self, path: str) -> bytes | None:
        """A file's content, at most one byte more than may be written; None where there is none."""
        try:
            with self._open(path, os.O_RDONLY) as file:
                return bytes(file.read(LIMIT + 1))
        except NbllmError:
            return None

    def _resolve(self, path: str) -> Path:
        """The real path of `path`. Raises NbllmError where it is not in this folder."""
        with _short_errors(path):
            real = Path(os.path.realpath(self.root / path))
        if not real.is_relative_to(self.root):
            raise NbllmError(f"{path!r} is outside the folder.")
        if not self.hidden and any(n.startswith(".") for n in real.relative_to(self.root).parts):
            raise NbllmError(f"{path!r} is hidden: names that begin with a dot are left alone.")
        return real

    @contextlib.contextmanager
    def _open(self, path: str, flags: int) -> Iterator[Any]:
        """Opens a regular file of this folder in binary mode; never a pipe or device, which may block."""
        real = self._resolve(path)
        with _short_errors(path):
            handle = os.open(real, flags | _FLAGS, 0o666)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise NbllmError(f"{path!r} is no file.")
            with open(handle, "rb+" if flags & os.O_RDWR else "rb") as file:
                yield file

    def _entry(self, directory: Path, name: str) -> str:
        """A line about an entry of a folder; "" for one that is not listed."""
        try:
            real = self._resolve(str((directory / name).relative_to(self.root)))
            about = real.stat()
        except (NbllmError, OSError):
            return ""
        return f"{name}/" if stat.S_ISDIR(about.st_mode) else f"{name} ({plural(about.st_size, 'byte')})"


@contextlib.contextmanager
def _short_errors(path: str) -> Iterator[None]:
    """Raises the system's errors as NbllmError, without the complete path."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise NbllmError(f"{path!r}: {getattr(error, 'strerror', None) or error}") from None


# --- Python -------------------------------------------------------------------------------------------------


def python(namespace: MutableMapping[str, Any], *, budget: int = _BUDGET) -> Usable:
    """A tool that runs code in `namespace`, on the reader's thread."""

    def python(code: str) -> Any:
        """Runs Python code where the user's variables are; what it defines stays there. Gives what the code
        printed, and the value of its last line where that is an expression.

        Args:
            code: statements of Python, no magics and no shell
        """
        return _run(code, namespace, budget * CHARACTERS_PER_TOKEN)

    return replace(functions.of(python, reads=False, budget=budget), source="python in this notebook")


class _CapturedOutput(io.TextIOBase):
    """Captures printed text, of which it keeps the first `limit` characters."""

    def __init__(self, limit: int) -> None:
        self._limit, self._kept, self._size = limit, io.StringIO(), 0

    def write(self, text: str) -> int:
        self._kept.write(text[: max(self._limit + 1 - self._size, 0)])
        self._size += len(text)
        return len(text)

    @property
    def text(self) -> str:
        """The captured text, with a note where it was cut."""
        kept = self._kept.getvalue()
        if self._size <= self._limit:
            return kept
        return f"{kept[: self._limit]}...\n(the first {self._limit:,} of {self._size:,} characters)"


def _run(code: str, namespace: MutableMapping[str, Any], limit: int) -> Any:
    printed = _CapturedOutput(limit // 2)  # the other half is for the value, or the error
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), _no_exit(namespace):
            value = _execute(code, namespace)
    except SystemExit as error:
        return _error_result(printed.text, f"failed: the code ended itself (exit {error.code!r})", limit)
    except SyntaxError as error:
        where = f" (line {error.lineno})" if error.filename == _FILE_NAME and error.lineno else ""
        return _error_result(printed.text, f"failed: {type(error).__name__}: {error.msg}{where}", limit)
    except Exception as error:  # noqa: BLE001 - whatever the code raises is for the model
        return _error_result(printed.text, describe_error(error), limit)
    text = printed.text
    if not text:
        return value
    return text if value is None else [Text(text if text.endswith("\n") else f"{text}\n"), value]


def _error_result(printed: str, reason: str, limit: int) -> ToolResult:
    before = printed if not printed or printed.endswith("\n") else f"{printed}\n"
    return ToolResult("", before + truncate(reason, limit), is_error=True)


def _execute(code: str, namespace: MutableMapping[str, Any]) -> Any:
    """Runs statements and returns the value of the last one where it is an expression."""
    tree, value = ast.parse(code, _FILE_NAME), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    spaces: Any = namespace
    exec(compile(tree, _FILE_NAME, "exec", dont_inherit=True), spaces)  # noqa: S102 - the tool's purpose
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), _FILE_NAME, "eval", dont_inherit=True), spaces)  # noqa: S307
    return value


@contextlib.contextmanager
def _no_exit(namespace: MutableMapping[str, Any]) -> Iterator[None]:
    """Within a `with`, IPython's `exit` and `quit` end the code and not the kernel."""

    def leave(code: object = None, **_: object) -> None:
        raise SystemExit(code)

    own = {name: namespace[name] for name in ("exit", "quit") if name in namespace}
    namespace.update(dict.fromkeys(own, leave))
    try:
        yield
    finally:
        namespace.update({name: value for name, value in own.items() if namespace.get(name) is leave})
