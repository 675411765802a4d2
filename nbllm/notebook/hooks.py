"""Hooks in the IPython shell: the last failed cell, completion, and the display of responses. Modules that
they need are imported on first use."""

from __future__ import annotations

import re
import traceback
from typing import Any

from .session import CellFailure, Session

_CELL = re.compile(r"/ipykernel_\d+/\d+\.py$")
_MAX_TRACEBACK = 6_000  # characters of a traceback: the end is the most useful part
_DRAWN_TYPES = (("nbllm.core.events", "Response"), ("nbllm.notebook.comparison", "Comparison"))


def install(session: Session) -> None:
    """Installs the hooks in the session's shell; installed ones stay."""
    if session.matcher is None:
        _record_failures(session)
        _install_completion(session)
        if not session.in_kernel:
            _delay_out_prompt(session.shell.displayhook)
    printer = session.shell.display_formatter.ipython_display_formatter
    for names in _DRAWN_TYPES:
        printer.for_type_by_name(*names, lambda value: _display_value(session, value))


def remove(session: Session) -> None:
    """Removes the hooks."""
    if session.failure_hook is not None:
        session.shell.events.unregister("post_run_cell", session.failure_hook)
        session.failure_hook = None
    matchers = session.shell.Completer.custom_matchers
    if session.matcher in matchers:
        matchers.remove(session.matcher)
    for name in ("write_output_prompt", "write_format_data"):
        vars(session.shell.displayhook).pop(name, None)
    printer = session.shell.display_formatter.ipython_display_formatter
    for module, name in _DRAWN_TYPES:
        printer.deferred_printers.pop((module, name), None)
        for kind in [k for k in printer.type_printers if (k.__module__, k.__name__) == (module, name)]:
            del printer.type_printers[kind]


# --- failures ---


def _record_failures(session: Session) -> None:
    def note(result: Any) -> None:
        error = result.error_in_exec or result.error_before_exec
        source = str(getattr(result.info, "raw_cell", "") or "")
        if error is not None and not source.lstrip().startswith(("%llm", "%%llm", "%nbllm", "%%nbllm")):
            session.last_failure = CellFailure(source, _format_traceback(error))

    session.failure_hook = note
    session.shell.events.register("post_run_cell", note)


def _format_traceback(error: BaseException) -> str:
    """The traceback without IPython's own frames and without values of variables."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/IPython/" not in f.filename.replace("\\", "/")
    ]
    for frame in frames:
        if _CELL.search(frame.filename.replace("\\", "/")):
            frame.filename = "<cell>"  # hides the path of a temporary file
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(type(error), error)]
    return "".join(lines)[-_MAX_TRACEBACK:].strip()


# --- completion ---


def _install_completion(session: Session) -> None:
    from IPython.core.completer import context_matcher

    def matcher(context: Any) -> dict[str, Any]:
        return _matches(session, context.full_text, context.cursor_position, context.cursor_line)

    session.matcher = context_matcher(identifier="nbllm")(matcher)
    session.shell.Completer.custom_matchers.append(session.matcher)


def _matches(session: Session, text: str, column: int, row: int) -> dict[str, Any]:
    from IPython.core.completer import SimpleCompletion

    prefix, found = "", list[tuple[str, str]]()
    if text.lstrip().startswith("%") or "\n%" in text:  # a line of ours, or of another magic
        from .completion import candidates

        prefix, found = candidates(session, text, column, row)
    entries = [SimpleCompletion(text=word, type=kind) for word, kind in found]
    shown = {"completions": entries, "matched_fragment": prefix, "suppress": bool(entries)}
    return {**shown, "ordered": True}  # models come first


# --- display ---


def _display_value(session: Session, value: Any) -> None:
    """Displays a Response or a Comparison as a safe bundle, unless the cell has just displayed it."""
    if not session.was_drawn(value):
        from .view.static import answer_bundle, answer_footer

        drawn = getattr(value, "_repr_mimebundle_", None)
        session.show_bundle(drawn() if drawn else answer_bundle(value, footer=answer_footer(value)))


def _delay_out_prompt(hook: Any) -> None:
    """Writes a terminal's Out[n] only before a written value, not before a value that displays itself."""
    prompt, write = hook.write_output_prompt, hook.write_format_data

    def write_both(*given: Any, **named: Any) -> None:
        prompt()
        write(*given, **named)

    hook.write_output_prompt, hook.write_format_data = lambda: None, write_both
