"""`python -m nbllm`: one question from a terminal or a pipe, on the same keys, providers and log.

    python -m nbllm "Why is the sky blue?"
    git diff | python -m nbllm -m claude/sonnet temperature=0 "Write a commit message."

Options come first, as in a %%llm line (in a notebook `%llm help options` lists them); `--` ends them. What
comes through the pipe stands below the question. The answer goes to standard output as it comes, how it
was got to standard error where that is a terminal. Exit code 0; 1 where the call failed, 2 for a wrong
line, 130 for Ctrl-C: what came by then is there.
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
from .core.options import CALL
from .notebook.syntax.options import OPTIONS, SHORT_OPTIONS
from .notebook.syntax.parser import CellLine, parse
from .notebook.view.hidden import plain_text
from .notebook.view.static import answer_footer

_MAX_INPUT = 20 * 2**20  # characters of a pipe; providers refuse larger requests
_OPTION = re.compile(r"(?P<dash>-{0,2})(?P<name>[A-Za-z][\w.-]*)=(?P<value>.*)", re.DOTALL)
_FLAG = re.compile(r"-[A-Za-z]|--[A-Za-z][\w.-]*")
_HINT = 'For example: python -m nbllm -m gemini/flash temperature=0 "Why is the sky blue?"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks what the line says; gives the exit code."""
    for stream in (sys.stdin, sys.stdout):  # what a locale cannot read or write is no reason to fail
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
            raise ConfigError("There is no question.", hint=_HINT)
        if len(line.models) > 1:
            raise ConfigError("One model answers here.", hint=f"{_HINT} Several are asked in a notebook.")
        answer = default_client().stream(prompt, *line.models, **call_options(line))
    except NbllmError as error:
        return print_error(error, 2)
    try:
        return print_answer(answer)
    except KeyboardInterrupt:
        answer.cancel()
        return 130
    except BrokenPipeError:  # who reads has gone
        answer.cancel()
        sys.stderr.close()
        return 141


def print_answer(stream: Any) -> int:
    """Writes an answer as it comes."""
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
    """(the options that come first, the question's words). Raises ConfigError as a cell's line does."""
    parts = []
    while words and words[0] != "--":
        if (option := _OPTION.fullmatch(words[0])) and (option["dash"] or _is_option(option["name"])):
            parts.append(f"{option['dash']}{option['name']}={_quote_value(option['value'], option['name'])}")
            words = words[1:]
        elif _FLAG.fullmatch(words[0]):
            if len(words) == 1:
                raise ConfigError(f"{words[0]} needs a value, and a question behind it.", hint=_HINT)
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
            f"{late_flag} stands behind the question's first word.",
            hint=f"Options come first, or quote the question. {_HINT}",
        )
    if not line.models and len(words) > 1 and "/" in words[0] and _is_model(words[0]):
        return replace(line, models=(words[0],)), words[1:]
    return line, words


def _is_flag(word: str) -> bool:
    """Whether a word with dashes is an option of a line."""
    name = word.lstrip("-").replace("-", "_")
    return name in (OPTIONS if word.startswith("--") else SHORT_OPTIONS)


def _is_model(word: str) -> bool:
    """Whether a word is a model's name."""
    try:
        return bool(default_client().resolve(word))
    except ConfigError:
        return False


def _is_option(name: str) -> bool:
    """Whether name= is an option, rightly written or nearly; else it is a word of the question."""
    return name.startswith("x.") or bool(get_close_matches(name.replace("-", "_"), OPTIONS, 1, 0.8))


def _quote_value(value: str, name: str = "") -> str:
    """A value as the line of a cell has it: JSON as it is, for x.name= numbers too; else text."""
    literal = name.startswith("x.") and re.fullmatch(r"-?[\d.eE+-]+|true|false|null", value)
    return value if value[:1] in ("{", "[") or literal else '"' + value.replace('"', '""') + '"'


def call_options(line: CellLine) -> dict[str, Any]:
    """The keyword arguments of the call. Raises ConfigError for an option of a cell."""
    cell_option = next((n for n in line.options if OPTIONS[n].keyword not in CALL), None)
    if cell_option is not None or line.out:
        raise ConfigError(f"{cell_option or 'out'}= is an option of a cell.", hint=_HINT)
    found = {OPTIONS[n].keyword: value for n, value in line.options.items()}
    return {**found, "extra": dict(line.extra) or None}


def read_pipe() -> str:
    """What comes through a pipe. Raises ConfigError for more than a request can be."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    text = sys.stdin.read(_MAX_INPUT + 1)
    if len(text) > _MAX_INPUT:
        raise ConfigError("What comes through the pipe is too large.", hint="At most 20 MB can be asked.")
    return text.strip()


def print_error(error: NbllmError, code: int) -> int:
    """Says what went wrong, and what to do."""
    note = " (%llm ... is a line of a notebook.)" if "%llm" in (error.hint or "") else ""
    sys.stderr.write(
        plain_text(f"nbllm: {error.message}\n") + (plain_text(f"{error.hint}{note}\n") if error.hint else "")
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
