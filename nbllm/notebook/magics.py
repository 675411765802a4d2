"""`%%llm` and `%llm` (and `%%nbllm`, `%nbllm`): loading, unloading, and running the magics.

A failed call fails its cell, so that Run All stops; our errors are shown in a few lines without a traceback.
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
from .session import Session, Stopped, existing_session, reset_session, session_of
from .syntax.options import SUBCOMMANDS
from .syntax.statements import TARGETS, statement_lines

NAMES = ("llm", "nbllm")
_API_MODULE = "nbllm.client.api"  # holds the shared client
_PRELOAD_DELAY = 0.3  # seconds after loading


def load_ipython_extension(shell: Any) -> None:
    """Registers the magics, completion and the display of responses in `shell`."""
    from . import hooks, settings
    from .comms import open_comm
    from .view.frontend import hook_printed_text, output_mode

    session = session_of(shell)
    session.asker = _ask_before_tool
    if _API_MODULE in sys.modules:  # the shared client may exist already
        attach_user_prompt(shell)
    if session.matcher is None:
        settings.install(session)
        if os.environ.get("NBLLM_BUDGET"):
            from .budget import install_daily_budget

            install_daily_budget(session)
        if output_mode(shell) == "live":
            session.comm = open_comm()
            hook_printed_text(session.on_stream_message)
            with suppress(AttributeError):  # kernels other than ipykernel
                shell.display_pub.register_hook(session.on_display_message)
            with suppress(Exception):  # no such loop: the first cell loads the modules
                shell.kernel.io_loop.call_later(_PRELOAD_DELAY, _preload)
    for name in NAMES:
        shell.register_magic_function(_make_magic(session), "line_cell", name)
        shell.register_magic_function(_make_bench_magic(session), "cell", f"{name}_bench")
    hooks.install(session)
    if transform_questions not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(transform_questions)


def attach_user_prompt(shell: Any = None) -> None:
    """Lets the shared client prompt the user in the notebook, if the extension is loaded."""
    from IPython import get_ipython

    session = existing_session(shell or get_ipython())
    if session is not None:
        session.client.asker = session.asker


def _preload() -> None:
    """Imports what the first cell needs while the user writes it."""
    with suppress(Exception):  # the first cell will report the problem
        import_module(".cell", __package__)
        import_module(".view.markdown", __package__).parser()


def _ask_before_tool(question: Any) -> Any:
    """Asks the user before a tool runs."""
    from .tool_use import ask_before_call

    return ask_before_call(question)


def unload_ipython_extension(shell: Any) -> None:
    """Undoes load_ipython_extension; the notebook's variables stay."""
    from . import hooks, settings
    from .view.frontend import hook_printed_text

    session = session_of(shell)
    if session.matcher is None:  # the extension is not loaded
        return
    if session.current_client is not None:
        session.current_client.asker = None
    for part in (settings, hooks):
        part.remove(session)
    if session.actions is not None:
        session.actions.close()
    hook_printed_text(session.on_stream_message, enabled=False)
    with suppress(AttributeError):  # not in a kernel
        shell.display_pub.unregister_hook(session.on_display_message)
    reset_session(shell)
    if transform_questions in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(transform_questions)
    for name in NAMES:
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
        shell.magics_manager.magics["cell"].pop(f"{name}_bench", None)


_CELL_MAGIC, _PLAIN_WORD = re.compile(r"%%n?b?llm(?:_bench)?\b"), r"[^\W\d_]+(?:['’-][^\W\d_]+)*,?"  # what's
_QUESTION = re.compile(
    rf"(?P<before>\s*+{TARGETS})%(?P<name>llm|nbllm)\s++"
    rf"(?P<rest>(?!(?:{'|'.join(SUBCOMMANDS)})\?)[^\s?].*\?)\s*"
)


def transform_questions(lines: list[str]) -> list[str]:
    """Input transformer for questions to a model. IPython reads a line that ends in `?` as a request for
    help; where such a line is a %llm command it is rewritten as a call of the magic. Lines of cell magics
    and lines inside strings are left alone. A cell of ours without a body gets an empty one, so that our
    own error is shown and not IPython's."""
    if lines and lines[0].startswith("%%"):
        return [*lines, "\n"] if _CELL_MAGIC.match(lines[0]) and not "".join(lines[1:]) else lines
    if not any(map(_QUESTION.fullmatch, lines)):
        return lines
    commands = statement_lines(lines)
    return [_as_magic_call(line) if i in commands else line for i, line in enumerate(lines)]


def _as_magic_call(line: str) -> str:
    match = _QUESTION.fullmatch(line)
    return (
        f"{match['before']}get_ipython().run_line_magic({match['name']!r}, {match['rest']!r})\n"
        if match
        else line
    )


def _make_magic(session: Session) -> Callable[..., Any]:
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
        return _run_magic(
            session,
            lambda: (
                _run_cell_magic(session, line, cell) if cell is not None else _run_line_magic(session, line)
            ),
        )

    magic: Callable[..., Any] = no_var_expand(llm)
    return magic


def _make_bench_magic(session: Session) -> Callable[..., Any]:
    from IPython.core.magic import no_var_expand

    def llm_bench(line: str, cell: str) -> Any:
        """Measure language models against each other on the prompts of the cell, which lines of --- divide.

        %%llm_bench [NAME <<] MODEL,MODEL [blocks=10] [cold=true] [concurrency=1,4] [rate=2] ... [options of a
        call]

        The frame with one row per request goes into NAME (`_bench` without one); see nbllm.bench.run.
        """
        return _run_magic(session, lambda: _run_bench_magic(session, line, cell))

    magic: Callable[..., Any] = no_var_expand(llm_bench)
    return magic


def _run_magic(session: Session, work: Callable[[], Any]) -> Any:
    """Runs `work`; our own errors are raised again without a traceback, shown in a few lines."""
    try:
        return work()
    except Stopped:
        raise
    except KeyboardInterrupt:  # during an import, or while a line command waits
        raise Stopped("") from None
    except NbllmError as error:
        from .view.static import error_lines

        lines = error_lines(error).splitlines()
        error._render_traceback_ = MethodType(lambda _self: lines, error)  # type: ignore[method-assign]
        raise error.with_traceback(None) from None


def _run_cell_magic(session: Session, line: str, cell: str) -> Any:
    if line.split(maxsplit=1)[:1] in (["help"], ["--help"], ["-h"], ["?"]):
        raise ConfigError("help is a line command: %llm help.", hint="A %%llm cell asks a model.")
    from .cell import run_cell

    return run_cell(session, session.parse(line), cell.replace("\r\n", "\n"))


def _run_bench_magic(session: Session, line: str, cell: str) -> Any:
    from .bench_magics import bench

    return bench(session, line, cell)


def _as_ask_line(session: Session, line: str) -> str:
    """The arguments of `%llm ask` for a line that is a question and not a command: a model and a prompt
    (`%llm sim "hi"`), leading options, or words that end in a question mark; "" otherwise."""
    word, prompt = (*line.strip().split(maxsplit=1), "")[:2]
    if word.startswith("-"):
        return line if prompt else ""
    try:
        session.client.resolve(word)
    except ConfigError:
        return line if prompt.rstrip().endswith("?") and re.fullmatch(_PLAIN_WORD, word) else ""
    quoted = len(prompt) > 1 and prompt[0] == prompt[-1] and prompt[0] in "\"'"
    return f"-m {word} {prompt[1:-1] if quoted else prompt}"


def _run_line_magic(session: Session, line: str) -> Any:
    from .commands import COMMANDS
    from .overview import note_if_empty
    from .syntax.parser import split_subcommand

    try:
        name, rest = split_subcommand(line)
    except ConfigError:
        name, rest = "ask", _as_ask_line(session, line)
        if not rest:
            raise
    is_question = name == "ask" and re.match(r"\w\S*[/\d]\S*\s", rest) and _as_ask_line(session, rest)
    try:
        result = COMMANDS[name](session, is_question or rest)
    except OSError as error:  # a folder that does not exist or is not writable
        raise ConfigError(
            f"{error.filename or 'The working folder'}: {error.strerror or error}.",
            hint="Name another path, or os.chdir to an existing folder.",
        ) from None
    if isinstance(result, str):
        session.print_text(result)
        return None
    return note_if_empty(result)
