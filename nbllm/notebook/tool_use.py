"""Asks the user before a tool runs in a notebook, and `%llm undo`."""

from __future__ import annotations

from html import escape
from typing import Any
from uuid import uuid4

from ..client.agent import ANSWER_PROMPT, Question, parse_answer
from ..core.errors import ConfigError
from ..tools.changes import Journal
from .buttons import prompt_keyboard, prompt_with_buttons
from .session import Session, current_session
from .view.frontend import KernelPort
from .view.hidden import clean, plain_text
from .view.markdown import code_html
from .view.static import Rendered, call_source, join_rendered, render_call, render_note, to_bundle
from .view.styles import container

_OPEN_CALL = 1_200  # characters of a call that are shown expanded
_MAX_LISTED = 20  # changes that are listed
_OPEN_DIFF = 12_000  # characters of a change that are shown expanded
# (answer, label of its button, tooltip)
CHOICES = (
    ("once", "Run once", "Run this call"),
    ("always", "Always in this answer", "Run this call and all later ones of the same tool in this answer"),
    ("no", "No", "Do not run it; the model is told"),
)


def ask_before_call(question: Question) -> str | None:
    """Asks the user whether a call may run and shows all that would run: returns once, always or no; None if
    no user can answer. The prompt is removed afterwards, since the answer shows the result of the call."""
    session = current_session()
    if not session.can_prompt_user:
        return None
    text = question_text(question)
    port, ident = KernelPort(session.shell), uuid4().hex
    port.publish(call_bundle(question), display_id=ident)
    try:
        chosen = prompt_with_buttons(session, text, [c[1:] for c in CHOICES])
        if chosen is not None:
            return CHOICES[chosen][0]
        return parse_answer(prompt_keyboard(text + ANSWER_PROMPT))
    finally:
        port.publish({"text/plain": ""}, display_id=ident, update=True)


def question_text(question: Question) -> str:
    """The question as text."""
    text = f"Run {question.call.name} ({question.tool.source})?"
    return text + (f" {question.number} of {question.of}" if question.of > 1 else "")


def call_bundle(question: Question) -> dict[str, str]:
    """The complete call as a MIME bundle, collapsed if it is long."""
    source = clean(call_source(question.call))
    html, text = _fold_long(render_call(source).html, source, _OPEN_CALL), f"[tool call] {source}"
    if question.change is not None and (diff := clean(question.change.diff)):
        html = f"{_fold_long(code_html(diff, 'diff'), diff, _OPEN_DIFF)}{html}"
        text = f"{diff}\n{text}"
    return {"text/html": container(html, style=True), "text/plain": plain_text(text)}


def _fold_long(html: str, source: str, limit: int) -> str:
    if len(source) <= limit:
        return html
    summary = f"{escape(source[:200])}… ({len(source):,} characters)"
    return f"<details class=nbllm-think><summary>{summary}</summary>\n{html}</details>"


def undo(session: Session, rest: str) -> Any:
    """`%llm undo`: reverts what tools changed in the last answer with changes; `list` lists the changes; a
    number reverts only that one."""
    journal = session.client.changes
    if rest == "list":
        session.show_bundle(_changes_bundle(journal))
        return None
    if rest and not rest.isdecimal():
        raise ConfigError(f"%llm undo has no {rest[:40]!r}.", hint="%llm undo, %llm undo list, %llm undo N.")
    undone = session.client.run(journal.undo(int(rest) if rest else None))
    return f"Taken back: {', '.join(map(clean, undone))}."


def _changes_bundle(journal: Journal) -> dict[str, str]:
    """The last changes that can be reverted, with their numbers."""
    lines = []
    for number, made in [*enumerate(journal.entries, 1)][-_MAX_LISTED:]:
        diff = clean(made.change.diff)
        lines.append(render_note(f"{number}: {made.change.what} (answer {made.answer})"))
        lines.append(Rendered(_fold_long(code_html(diff, "diff"), diff, _OPEN_DIFF), diff))
    return to_bundle(join_rendered(lines or [render_note("There are no changes of tools to revert.")]))
