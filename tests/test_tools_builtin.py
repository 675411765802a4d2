"""The tools that nbllm brings: what a folder's tools reach, and what code in the namespace comes to."""

import os
import sys
import threading

import pandas as pd
import pytest

from nbllm.core.errors import ConfigError, NbllmError
from nbllm.core.messages import Document, Image, ToolResult
from nbllm.tools.builtin import LIMIT, files, python
from nbllm.tools.results import describe_error, to_content

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 30
SYMLINKS = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links want rights there")


@pytest.fixture
def folder(tmp_path):
    """A folder, with a neighbour that holds a secret."""
    root = tmp_path / "root"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / "a.txt").write_text("one\ntwo\nthree\n")
    (root / "sub" / "b.csv").write_text("x,y\n1,2\n")
    (root / "sub" / ".git" / "config").write_text("canary")
    (root / ".env").write_text("canary")
    (root / "p.png").write_bytes(PNG)
    (root / "d.pdf").write_bytes(b"%PDF-1.7")
    (root / "x.bin").write_bytes(b"\0\xff")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "secret.txt").write_text("canary")
    return root


def use(tools, name, **arguments):
    """What a model reads of a call."""
    tool = next(t for t in tools if t.tool.name == name)
    try:
        value = tool.call(tool.validate(arguments))
    except NbllmError as error:
        return describe_error(error)
    made = value if isinstance(value, ToolResult) else ToolResult("c", to_content(value, tool.budget))
    return made.content


def test_what_they_are(folder):
    """Each waits for approval, and says what it is."""
    tools = (*files(folder), python({}))
    assert ["read_file", "list_files", "write_file", "python"] == [t.tool.name for t in tools]
    assert not any(t.reads for t in tools)
    assert all(t.where == "here" and t.tool.description for t in tools)
    assert ["read_file in root", "list_files in root", "write_file in root", "python in this notebook"] == [
        t.source for t in tools
    ]
    with pytest.raises(ConfigError, match="no folder"):
        files(folder / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({"path": "a.txt"}, "one\ntwo\nthree\n"),
        ({"path": "sub/b.csv"}, "x,y\n1,2\n"),
        ({"path": "./sub/../a.txt"}, "one\ntwo\nthree\n"),
        ({"path": "a.txt", "first_line": 2, "lines": 1}, "two\n\n(lines 2 to 2 of 3)"),
        ({"path": "a.txt", "first_line": 9}, "\n(it has only 3 lines)"),
        ({"path": "p.png"}, (Image(PNG),)),
        ({"path": "d.pdf"}, (Document(b"%PDF-1.7"),)),
        ({"path": "x.bin"}, "(2 bytes, no text)"),
        ({"path": "no.txt"}, "failed: 'no.txt': No such file or directory"),
        ({"path": "sub"}, "failed: 'sub' is no file."),
        ({"path": "a.txt/x"}, "failed: 'a.txt/x': Not a directory"),
        ({"path": "a\0b"}, "failed: 'a\\x00b': "),
    ],
)
def test_reading(folder, arguments, read):
    """Text by lines, pictures and PDFs as such, what fails in words without the whole path."""
    got = use(files(folder), "read_file", **arguments)
    assert got == read or (arguments["path"] == "a\0b" and got.startswith(read))
    assert str(folder) not in str(got)


OUTSIDE = [
    "..",
    "../root2/secret.txt",
    "/etc/passwd",
    "sub/../../root2/secret.txt",
    "link.txt",
    "link/secret.txt",
]
HIDDEN = [".env", "sub/.git/config", "./.env", "sub/../.env", "to_env"]


@SYMLINKS
@pytest.mark.parametrize("path", [*OUTSIDE, *HIDDEN])
def test_nothing_leads_out_of_the_folder(folder, path):
    """Neither reading nor writing, by any path or link; nor to what is hidden."""
    (folder / "link").symlink_to(folder.parent / "root2")
    (folder / "link.txt").symlink_to(folder.parent / "root2" / "secret.txt")
    (folder / "to_env").symlink_to(folder / ".env")
    tools = files(folder)
    words = "is outside the folder" if path in OUTSIDE else "is hidden"
    for name, more in (("read_file", {}), ("write_file", {"text": "x"})):
        got = use(tools, name, path=path, **more)
        assert words in got
        assert "canary" not in got
    assert words in use(tools, "list_files", folder=path)
    assert (folder.parent / "root2" / "secret.txt").read_text() == "canary"
    assert (folder / ".env").read_text() == "canary"
    assert os.listdir(folder.parent / "root2") == ["secret.txt"]


@SYMLINKS
def test_listing(folder):
    """Names and sizes; what leads out, and what is hidden, is not told of."""
    (folder / "link").symlink_to(folder.parent / "root2")
    (folder / "inner").symlink_to(folder / "sub")
    tools = files(folder)
    assert use(tools, "list_files") == (
        '["a.txt (14 bytes)", "d.pdf (8 bytes)", "inner/", "p.png (38 bytes)", "sub/", "x.bin (2 bytes)"]'
    )
    assert use(tools, "list_files", folder="sub", pattern="*.csv") == '["b.csv (8 bytes)"]'
    assert '".env (6 bytes)"' in use(files(folder, hidden=True), "list_files")
    assert use(tools, "list_files", folder="a.txt") == "failed: 'a.txt': Not a directory"


@pytest.mark.slow
def test_a_long_list_is_cut(folder):
    """And says so."""
    for i in range(501):
        (folder / "sub" / f"{i:03}.txt").touch()
    tool = files(folder)[1]
    made = tool.call({"folder": "sub"})
    assert len(made) == 501
    assert "more than 500" in made[-1]


def test_writing(folder):
    """New folders are made; what was there is replaced, and that is said."""
    tools = files(folder)
    assert use(tools, "write_file", path="new/c.txt", text="ü\r\n") == "written: 4 bytes to new/c.txt"
    assert (folder / "new" / "c.txt").read_bytes() == "ü\r\n".encode()
    assert use(tools, "write_file", path="new/c.txt", text="x") == "written: 1 byte to new/c.txt (it held 4)"
    assert (folder / "new" / "c.txt").read_text() == "x"
    assert "at most" in use(tools, "write_file", path="c.txt", text="x" * (LIMIT + 1))
    assert "'sub'" in use(tools, "write_file", path="sub", text="x")
    assert not (folder / "c.txt").exists()


def test_a_large_file(folder):
    """Is read in part, and that is said; what is no text is refused."""
    (folder / "l.txt").write_bytes(b"x\n" * LIMIT)
    text = use(files(folder), "read_file", path="l.txt", lines=3)
    assert (
        text
        == "x\nx\nx\n\n(lines 1 to 3 of 524,288)\n(only the first 1,048,576 of 2,097,152 bytes were read)"
    )
    (folder / "l.bin").write_bytes(b"\0" * (LIMIT + 1))
    assert "is no text" in use(files(folder), "read_file", path="l.bin")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_keeps_nobody_waiting(folder):
    """It is no file."""
    os.mkfifo(folder / "pipe")
    assert use(files(folder), "read_file", path="pipe") == "failed: 'pipe' is no file."
    assert "failed: 'pipe'" in use(files(folder), "write_file", path="pipe", text="x")


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("1 + 1", "2"),
        ("x = 3", "done (nothing returned)"),
        ("y = known * 2\ny", "14"),
        ("print('hi')", "hi\n"),
        ("print('hi')\nknown", "hi\n7"),
        ("import sys\nprint('a', end='')\nprint('b', file=sys.stderr)\n[1, 2]", "ab\n[1, 2]"),
        ("# nothing", "done (nothing returned)"),
        ("frame", "A table of 2 rows"),
        ("def f(a):\n    b = 1\n    return a[b]\n\nf({})", "failed: KeyError: 1 (line 3 of f)"),
        ("x = 1\n1 / 0", "failed: ZeroDivisionError: division by zero (line 2)"),
        ("print('so far')\nnope", "so far\nfailed: NameError: name 'nope' is not defined (line 2)"),
        ("x = 1\ny = (", "failed: SyntaxError: '(' was never closed (line 2)"),
        ("%ls", "failed: SyntaxError: invalid syntax (line 1)"),
        ("import sys\nsys.exit(3)", "failed: the code ended itself (exit 3)"),
        ("exit()", "failed: the code ended itself (exit None)"),
        ("quit", None),
        ("raise SystemExit('x')", "failed: the code ended itself (exit 'x')"),
        ("eval('(')", "failed: SyntaxError: '(' was never closed"),
    ],
)
def test_python(code, read):
    """What was printed, the last value in the forms of results, errors in one line; the kernel stays."""
    ended = []
    space = {"known": 7, "frame": pd.DataFrame({"a": [1, 2]}), "exit": ended.append, "quit": ended.append}
    made = use([python(space)], "python", code=code)
    text = made if isinstance(made, str) else "".join(p.text for p in made)
    assert read is None or text == read or (read.startswith("A table") and read in text)
    assert ended == []
    assert space["exit"] == space["quit"] == ended.append


def test_what_code_defines_stays():
    """In the namespace that it ran in, on the thread that called."""
    space = {}
    tool = python(space)
    use([tool], "python", code="import threading\nwho = threading.get_ident()\ndef f(): return who")
    assert use([tool], "python", code="f()") == str(threading.get_ident())
    assert space["who"] == threading.get_ident()


def test_what_is_printed_is_cut():
    """Without being kept."""
    made = use([python({}, budget=100)], "python", code="for _ in range(10_000): print('x' * 99)")
    assert made.endswith("(the first 150 of 1,000,000 characters)")
    assert len(made) < 400


def test_stop_reaches_the_user():
    """An interrupt is nobody's error."""
    with pytest.raises(KeyboardInterrupt):
        use([python({})], "python", code="raise KeyboardInterrupt")


def test_a_folder_within_a_hidden_one(tmp_path):
    """What counts is what lies below it; a whole path that leads into it is one."""
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.txt").write_text("a")
    tools = files(tmp_path / ".cache")
    assert use(tools, "read_file", path="a.txt") == "a"
    assert use(tools, "read_file", path=str(tmp_path / ".cache" / "a.txt")) == "a"
