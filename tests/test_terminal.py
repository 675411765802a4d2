"""Answers in a terminal: Markdown drawn where rich is there, and text elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from nbllm.core.events import Finished, Fold, ReasoningDelta, Restarted, TextDelta
from nbllm.notebook.view.outcome import Outcome
from nbllm.notebook.view.rich_text import RichPainter
from nbllm.notebook.view.state import AnswerState
from nbllm.notebook.view.static import Rendered

CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def drawn(*events, thoughts=None, before=(), columns=1, width=60):
    """What is in the terminal when an answer is over, without colours and what moves the cursor."""
    out, fold = StringIO(), Fold()
    states = [AnswerState(name, 0.0, show_reasoning=thoughts) for name in "ab"[:columns]]
    console = Console(file=out, force_terminal=True, width=width, color_system="standard", _environ={})
    view = RichPainter(states, console, thoughts=thoughts, before=before)
    view.start()
    for i, event in enumerate((*events, Finished("stop"))):
        fold.add(event)
        states[0].feed(event, float(i))
        view.tick(float(i))
    done = [Outcome(s.label, fold.response(), footer=Rendered("", "figures")) for s in states]
    view.finish(done)
    return out.getvalue()


def words(text):
    return CODES.sub("", text)


STROKES = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|[\r\n]|[^\x1b\r\n]+")


def final(text):
    """What stands on the screen at the end, as a terminal makes it of lines that are taken back."""
    lines, row, column = [""], 0, 0
    for stroke in STROKES.finditer(text):
        found, how, what = stroke[0], stroke[1], stroke[2]
        if found in "\r\n":
            row, column = row + (found == "\n"), 0
            lines += [""] * (row == len(lines))
        elif what == "A":
            row = max(0, row - int(how or 1))
        elif what == "K":
            lines[row] = ""
        elif not found.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + found + line[column + len(found) :]
            column += len(found)
    return "\n".join(lines) + "\n"


def test_markdown_is_drawn():
    """Heads, lists, emphasis, tables and code, each word once, the figures below."""
    text = final(
        drawn(
            TextDelta("# Head\n\nSome **bold** and `code`.\n\n- one\n- two\n\n"),
            TextDelta("| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\nThe end."),
        )
    )
    assert "**" not in text
    assert "```" not in text
    assert "|---" not in text
    assert " • one" in text
    assert text.rstrip().endswith("figures")
    for word in ("Head", "bold", "x = 1", "The end."):
        assert word in text


@pytest.mark.parametrize("source", ["2*3*4 = 24", "x**2 + y**2", "__init__ and __main__"])
def test_products_keep_their_stars(source):
    """As they do in a cell, and names their lines."""
    assert source in final(drawn(TextDelta(f"{source}\n\nNext.")))


@pytest.mark.parametrize(
    "source",
    [
        "[Answer]: 42",
        "a <b>bold</b> word",
        "<div>\nin a block\n</div>",
        "<script>alert(1)</script>",
        "[red]no markup[/red]",
        "[a link](https://example.com/path)",
        "![a picture](https://example.com/p.png)",
    ],
)
def test_every_word_shows(source):
    """What rich would take for markup or leave out."""
    text = final(drawn(TextDelta(f"{source}\n\nNext.")))
    assert not [
        w
        for w in re.findall(r"\w+", source)
        if w not in text and w not in ("p", "png", "example", "com", "https")
    ]


@pytest.mark.parametrize(
    "source", ["a\x1b[2Jb", "\x1b]8;;http://x.invalid\x07here\x1b]8;;\x07", "a\u202eb", "`\x9b2J`"]
)
def test_nothing_steers_the_terminal(source):
    """No escape sequence of a model's reaches it, in text or code, live or at the end."""
    bare = drawn(TextDelta("ab\n\nNext."))
    allowed = set(re.findall(r"\x1b\[[\d;?]*[A-Za-z]", bare)) | {"\x1b[1;36;40m"}
    shown = drawn(TextDelta(source), TextDelta("\n\nNext."))
    left = re.sub("|".join(map(re.escape, sorted(allowed, key=len, reverse=True))), "", shown)
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", left)


def test_thoughts_restarts_and_several():
    """Reasoning stands before its answer unless it is not wanted; what is void is told; several stand one
    below the other."""
    text = final(drawn(ReasoningDelta("hm"), TextDelta("Yes.")))
    assert text.index("hm") < text.index("Yes.")
    assert "hm" not in final(drawn(ReasoningDelta("hm"), TextDelta("Yes."), thoughts=False))
    assert "starting again: late" in final(drawn(TextDelta("No"), Restarted("late"), TextDelta("Yes.")))
    text = final(drawn(TextDelta("**Yes.**"), columns=2))
    assert 2 == text.count("Yes.")
    assert "**" not in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal there")
def test_a_real_terminal(tmp_path):
    """IPython with a terminal of its own: drawn, without an Out[n] of an answer; without rich, as text."""
    import pty

    source = (
        "shell = get_ipython(); shell.run_line_magic('load_ext', 'nbllm')\n"
        "ran = shell.run_cell('%%llm sim/openai@echo=1,gap=0.15\\n# Head\\n\\nSome **bold** words.',"
        " store_history=True)"
    )
    for blocked in (False, True):
        code = ("import sys; sys.modules['rich'] = None\n" if blocked else "") + source
        here, there = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "IPython", "--quick", "--no-banner", "--colors=NoColor", "-c", code],
            stdin=there,
            stdout=there,
            stderr=there,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "NBLLM_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "80"},
        ) as process:
            os.close(there)
            shown = b""
            try:
                while data := os.read(here, 65_536):
                    shown += data
            except OSError:  # its other end is closed
                pass
            process.wait(30)
        os.close(here)
        text = shown.decode()
        assert "bold" in final(text)
        assert ("**" in final(text)) is blocked, text
        assert "Out[" not in text
