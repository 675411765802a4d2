"""`python -m nbllm`: asks one question from a terminal or a pipe, with the same keys, providers and log.

    python -m nbllm "Why is the sky blue?"
    git diff | python -m nbllm -m claude/sonnet temperature=0 "Write a commit message."

Options come first, as in a %%llm line (`%llm help options` lists them in a notebook); `--` ends them. Text
from a pipe is added below the question. The answer is written to standard output as it arrives; a line with
time, tokens and cost is written to standard error if that is a terminal. Exit codes: 0, 1 if the call failed,
2 for an invalid command line, 130 after Ctrl-C (the text that had arrived is written).
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from . import __version__
from .client.api import default_client
from .core.errors import ConfigError, NbllmError
from .core.options import CALL_OPTIONS
from .notebook.syntax.options import OPTIONS, SHORT_OPTIONS
from .notebook.syntax.parser import CellLine, parse
from .notebook.view.hidden import plain_text
from .notebook.view.static import answer_footer

_MAX_INPUT = 20 * 2**20  # characters from a pipe; providers refuse larger requests
_OPTION = re.compile(r"(?P<dash>-{0,2})(?P<name>[A-Za-z][\w.-]*)=(?P<value>.*)", re.DOTALL)
_FLAG = re.compile(r"-[A-Za-z]|--[A-Za-z][\w.-]*")
_HINT = 'For example: python -m nbllm -m gemini/flash temperature=0 "Why is the sky blue?"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdin, sys.stdout):  # characters outside the locale are replaced
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = [
        os.fsencode(a).decode("utf-8", "replace") for a in (sys.argv[1:] if arguments is None else arguments)
    ]
    if given and given[0] in ("-h", "--help", "--version"):
        print(__version__ if given[0] == "--version" else __doc__)  # noqa: T201
        return 0
    try:
        line, prompt_words = split_options(given)
        prompt = "\n\n".join(filter(None, (" ".join(prompt_words).strip(), read_pipe())))
        if not prompt:
            raise ConfigError("The question is missing.", hint=_HINT)
        if len(line.models) > 1:
            raise ConfigError(
                "Only one model can answer here.", hint=f"{_HINT} Notebooks can compare several."
            )
        answer = default_client().stream(prompt, *line.models, **call_options(line))
    except NbllmError as error:
        return print_error(error, 2)
    try:
        return print_answer(answer)
    except KeyboardInterrupt:
        answer.cancel()
        return 130
    except BrokenPipeError:  # the reader has closed the pipe
        answer.cancel()
        sys.stderr.close()
        return 141


def print_answer(stream: Any) -> int:
    """Writes an answer to standard output as it arrives; returns the exit code."""
    out, screen, text = sys.stdout, sys.stdout.isatty(), ""
    try:
        for text in stream.text_stream:
            out.write(plain_text(text) if screen else text)
            out.flush()
        response = stream.response()
    except NbllmError as error:
        out.write("\n" if text and screen else "")
        return print_error(error, 1)
    out.write("" if text.endswith("\n") else "\n")
    out.flush()
    if sys.stderr.isatty():
        sys.stderr.write(f"{plain_text(answer_footer(response).text)}\n")
    return 0


def split_options(words: list[str]) -> tuple[CellLine, list[str]]:
    """(the leading options, the words of the prompt). Raises ConfigError as a cell's line does."""
    parts = []
    while words and words[0] != "--":
        if (option := _OPTION.fullmatch(words[0])) and (option["dash"] or _is_option(option["name"])):
            parts.append(f"{option['dash']}{option['name']}={_quote_value(option['value'], option['name'])}")
            words = words[1:]
        elif _FLAG.fullmatch(words[0]):
            if len(words) == 1:
                raise ConfigError(f"{words[0]} needs a value, followed by the question.", hint=_HINT)
            parts.append(f"{words[0]} {_quote_value(words[1])}")
            words = words[2:]
        else:
            break
    line = parse(" ".join(parts))
    if words[:1] == ["--"]:
        return line, words[1:]
    late_flag = next((w for w in words if _FLAG.fullmatch(w) and _is_flag(w)), None)
    if late_flag is not None:
        raise ConfigError(
            f"{late_flag} comes after the start of the question.",
            hint=f"Put options first, or quote the question. {_HINT}",
        )
    if not line.models and len(words) > 1 and "/" in words[0] and _is_model(words[0]):
        return replace(line, models=(words[0],)), words[1:]
    return line, words


def _is_flag(word: str) -> bool:
    """Whether a word with dashes is a known option."""
    name = word.lstrip("-").replace("-", "_")
    return name in (OPTIONS if word.startswith("--") else SHORT_OPTIONS)


def _is_model(word: str) -> bool:
    """Whether a word is the name of a model."""
    try:
        return bool(default_client().resolve(word))
    except ConfigError:
        return False


def _is_option(name: str) -> bool:
    """Whether name= is an option, exactly or nearly; otherwise it is part of the prompt."""
    return name.startswith("x.") or bool(get_close_matches(name.replace("-", "_"), OPTIONS, 1, 0.8))


def _quote_value(value: str, name: str = "") -> str:
    """A value in the syntax of a cell's line: JSON unchanged, for x.NAME= also numbers; other text is
    quoted."""
    literal = name.startswith("x.") and re.fullmatch(r"-?[\d.eE+-]+|true|false|null", value)
    return value if value[:1] in ("{", "[") or literal else '"' + value.replace('"', '""') + '"'


def call_options(line: CellLine) -> dict[str, Any]:
    """The keyword arguments of the call. Raises ConfigError for an option that only cells have."""
    cell_option = next((n for n in line.options if OPTIONS[n].keyword not in CALL_OPTIONS), None)
    if cell_option is not None or line.out:
        raise ConfigError(f"{cell_option or 'out'}= is an option for notebook cells only.", hint=_HINT)
    found = {OPTIONS[n].keyword: value for n, value in line.options.items()}
    return {**found, "extra": dict(line.extra) or None}


def read_pipe() -> str:
    """The text from the pipe, "" without one. Raises ConfigError if it is larger than a request can be."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    text = sys.stdin.read(_MAX_INPUT + 1)
    if len(text) > _MAX_INPUT:
        raise ConfigError("The text from the pipe is too large.", hint="At most 20 MB can be sent.")
    return text.strip()


def print_error(error: NbllmError, code: int) -> int:
    """Writes what failed and what to do to standard error; returns `code`."""
    note = " (%llm ... is a line of a notebook.)" if "%llm" in (error.hint or "") else ""
    sys.stderr.write(
        plain_text(f"nbllm: {error.message}\n") + (plain_text(f"{error.hint}{note}\n") if error.hint else "")
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
