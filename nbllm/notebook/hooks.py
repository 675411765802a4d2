"""What is hooked into a shell: which cell failed last, completion, and how a Response draws itself as a
cell's value. Light: what they do loads when it is first done."""

from __future__ import annotations

import re
import traceback
from typing import Any

from .session import CellFailure, Session

_CELL = re.compile(r"/ipykernel_\d+/\d+\.py$")
_MAX_TRACEBACK = 6_000  # characters of a traceback: its end says most
_DRAWN_TYPES = (("nbllm.core.events", "Response"), ("nbllm.notebook.comparison", "Comparison"))


def install(session: Session) -> None:
    """Puts all into the session's shell; what is there already stays."""
    if session.matcher is None:
        _record_failures(session)
        _install_completion(session)
        if not session.in_kernel:
            _delay_out_prompt(session.shell.displayhook)
    printer = session.shell.display_formatter.ipython_display_formatter
    for names in _DRAWN_TYPES:
        printer.for_type_by_name(*names, lambda value: _display_value(session, value))


def remove(session: Session) -> None:
    """Takes all away."""
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
            frame.filename = "<cell>"  # its file is a temporary one of this machine
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
    if text.lstrip().startswith("%") or "\n%" in text:  # ours, or another magic's
        from .completion import candidates

        prefix, found = candidates(session, text, column, row)
    entries = [SimpleCompletion(text=word, type=kind) for word, kind in found]
    shown = {"completions": entries, "matched_fragment": prefix, "suppress": bool(entries)}
    return {**shown, "ordered": True}  # models stand first


# --- drawing ---


def _display_value(session: Session, value: Any) -> None:
    """The safe bundle of a Response or a Comparison, unless that cell has just streamed it."""
    if not session.was_drawn(value):
        from .view.static import answer_bundle, answer_footer

        drawn = getattr(value, "_repr_mimebundle_", None)
        session.show_bundle(drawn() if drawn else answer_bundle(value, footer=answer_footer(value)))


def _delay_out_prompt(hook: Any) -> None:
    """A terminal's Out[n] stands before what is written there, and not where a value has drawn itself."""
    prompt, write = hook.write_output_prompt, hook.write_format_data

    def write_both(*given: Any, **named: Any) -> None:
        prompt()
        write(*given, **named)

    hook.write_output_prompt, hook.write_format_data = lambda: None, write_both
