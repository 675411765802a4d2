"""`%%llm` and `%llm` (and `%%nbllm`, `%nbllm`): loading, unloading, and what a cell does.

A failed call fails its cell: our errors draw themselves as a few lines instead of a traceback, so that Run
All stops.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import MethodType
from typing import Any

from ..core.errors import ConfigError, NbllmError
from .session import Session, Stopped, forget, loaded, session_of
from .syntax.options import SUBCOMMANDS
from .syntax.statements import TARGETS, statements

NAMES = ("llm", "nbllm")
_API = "nbllm.client.api"  # has the shared client
_IDLE = 0.3  # seconds after loading


def load_ipython_extension(shell: Any) -> None:
    """Registers the magics, completion and the drawing of responses in `shell`."""
    from . import hooks, settings
    from .comms import warm_up
    from .view.frontend import listen, where

    session = session_of(shell)
    session.asker = _ask
    if _API in sys.modules:  # the shared client may be in use
        attach(shell)
    if session.matcher is None:
        settings.install(session)
        if os.environ.get("NBLLM_BUDGET"):
            from .budget import install

            install(session)
        if where(shell) == "live":
            session.comm = warm_up()
            listen(session.hear)
            with suppress(AttributeError):  # another kernel's than ipykernel's
                shell.display_pub.register_hook(session.see)
            with suppress(Exception):  # a kernel without such a loop: the first cell loads it
                shell.kernel.io_loop.call_later(_IDLE, _prepare)
    for name in NAMES:
        shell.register_magic_function(_magic(session), "line_cell", name)
        shell.register_magic_function(_bench_magic(session), "cell", f"{name}_bench")
    hooks.install(session)
    if questions not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(questions)


def attach(shell: Any = None) -> None:
    """Lets the shared client ask in the notebook where it is loaded, whatever asks a model."""
    from IPython import get_ipython

    session = loaded(shell or get_ipython())
    if session is not None:
        session.client.asker = session.asker


def _prepare() -> None:
    """Loads what the first cell needs, while the user writes it."""
    with suppress(Exception):  # the first cell will say what is wrong
        import_module(".cell", __package__)
        import_module(".view.markdown", __package__).parser()


def _ask(question: Any) -> Any:
    """Asks the user before a tool runs."""
    from .tool_use import ask

    return ask(question)


def unload_ipython_extension(shell: Any) -> None:
    """Takes away what loading brought; the notebook's variables stay."""
    from . import hooks, settings
    from .view.frontend import listen

    session = session_of(shell)
    if session.matcher is None:  # it is not loaded
        return
    if session.made is not None:
        session.made.asker = None
    for part in (settings, hooks):
        part.remove(session)
    if session.actions is not None:
        session.actions.close()
    listen(session.hear, listening=False)
    with suppress(AttributeError):  # not of a kernel
        shell.display_pub.unregister_hook(session.see)
    forget(shell)
    if questions in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(questions)
    for name in NAMES:
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
        shell.magics_manager.magics["cell"].pop(f"{name}_bench", None)


_OURS, _SPOKEN = re.compile(r"%%n?b?llm(?:_bench)?\b"), r"[^\W\d_]+(?:['’-][^\W\d_]+)*,?"  # what's
_QUESTION = re.compile(
    rf"(?P<before>\s*+{TARGETS})%(?P<name>llm|nbllm)\s++"
    rf"(?P<rest>(?!(?:{'|'.join(SUBCOMMANDS)})\?)[^\s?].*\?)\s*"
)


def questions(lines: list[str]) -> list[str]:
    """IPython reads a line that ends in `?` as a wish for help; a question to a model is not one, where the
    line is a command. What a cell magic takes is no line, and neither is what stands in a string. A cell of
    ours without a body gets an empty one, so that we say what is wrong with it and not IPython."""
    if lines and lines[0].startswith("%%"):
        return [*lines, "\n"] if _OURS.match(lines[0]) and not "".join(lines[1:]) else lines
    if not any(map(_QUESTION.fullmatch, lines)):
        return lines
    commands = statements(lines)
    return [_asked(line) if i in commands else line for i, line in enumerate(lines)]


def _asked(line: str) -> str:
    match = _QUESTION.fullmatch(line)
    return (
        f"{match['before']}get_ipython().run_line_magic({match['name']!r}, {match['rest']!r})\n"
        if match
        else line
    )


def _magic(session: Session) -> Callable[..., Any]:
    from IPython.core.magic import no_var_expand

    def llm(line: str, cell: str | None = None) -> Any:
        """Ask a language model.

        %%llm [NAME <<] [MODEL] [key=value ...]      a cell: the prompt is below the line, {name} is filled
        %llm SUBCOMMAND ...                          `%llm help` lists them

        Examples:
            %%llm gemini/pro temperature=0
            Why is the sky blue? Use {n} sentences.

            answer = %llm ask -m claude/haiku name a colour
        """
        return _told(
            session, lambda: _cell(session, line, cell) if cell is not None else _line(session, line)
        )

    made: Callable[..., Any] = no_var_expand(llm)
    return made


def _bench_magic(session: Session) -> Callable[..., Any]:
    from IPython.core.magic import no_var_expand

    def llm_bench(line: str, cell: str) -> Any:
        """Measure language models against each other on the prompts of the cell, which lines of --- divide.

        %%llm_bench [NAME <<] MODEL,MODEL [blocks=10] [cold=true] [concurrency=1,4] [rate=2] ... [options of a
        call]

        The frame with one row per request goes into NAME (`_bench` without one); see nbllm.bench.run.
        """
        return _told(session, lambda: _bench(session, line, cell))

    made: Callable[..., Any] = no_var_expand(llm_bench)
    return made


def _told(session: Session, work: Callable[[], Any]) -> Any:
    """Runs `work`; one of our errors leaves as itself, drawn in a few lines."""
    try:
        return work()
    except Stopped:
        raise
    except KeyboardInterrupt:  # while a part of ours was loaded, or in a line that waits for something else
        raise Stopped("") from None
    except NbllmError as error:
        from .view.static import error_lines

        lines = error_lines(error).splitlines()
        error._render_traceback_ = MethodType(lambda _self: lines, error)  # type: ignore[method-assign]
        raise error.with_traceback(None) from None


def _cell(session: Session, line: str, cell: str) -> Any:
    if line.split(maxsplit=1)[:1] in (["help"], ["--help"], ["-h"], ["?"]):
        raise ConfigError("help is a line: %llm help.", hint="A %%llm cell asks a model.")
    from .cell import run_cell

    return run_cell(session, session.parse(line), cell.replace("\r\n", "\n"))


def _bench(session: Session, line: str, cell: str) -> Any:
    from .bench_magics import bench

    return bench(session, line, cell)


def _question(session: Session, line: str) -> str:
    """What `%llm ask` would be given, where a line is no command but a question: a model and a prompt (`%llm
    sim "hi"`), options first, or words that end in a question mark; "" elsewhere."""
    word, prompt = (*line.strip().split(maxsplit=1), "")[:2]
    if word.startswith("-"):
        return line if prompt else ""
    try:
        session.client.resolve(word)
    except ConfigError:
        return line if prompt.rstrip().endswith("?") and re.fullmatch(_SPOKEN, word) else ""
    quoted = len(prompt) > 1 and prompt[0] == prompt[-1] and prompt[0] in "\"'"
    return f"-m {word} {prompt[1:-1] if quoted else prompt}"


def _line(session: Session, line: str) -> Any:
    from .commands import COMMANDS
    from .overview import or_none
    from .syntax.parser import subcommand

    try:
        name, rest = subcommand(line)
    except ConfigError:
        name, rest = "ask", _question(session, line)
        if not rest:
            raise
    named = name == "ask" and re.match(r"\w\S*[/\d]\S*\s", rest) and _question(session, rest)
    try:
        result = COMMANDS[name](session, named or rest)
    except OSError as error:  # a folder that is gone, or that nobody may write to
        raise ConfigError(
            f"{error.filename or 'The working folder'}: {error.strerror or error}.",
            hint="Name another place, or os.chdir to a folder that is there.",
        ) from None
    if isinstance(result, str):
        session.say(result)
        return None
    return or_none(result)
