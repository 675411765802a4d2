"""How the user is asked before a tool runs in a notebook."""

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

_FOLDED = 1_200  # characters of a call that stand open
_LISTED = 20  # changes that are listed
_OPEN = 12_000  # and of what it would change
# answer, what stands on its button, what it does
CHOICES = (
    ("once", "Run once", "Run this call"),
    ("always", "Always in this answer", "Run this call, and what else this answer calls of the same tool"),
    ("no", "No", "Do not run it; the model is told"),
)


def ask(question: Question) -> str | None:
    """Asks the user whether a call may run, with all that would run in sight: once, always or no; None
    where nobody can answer. What was answered does not stay: the answer tells what came of the call."""
    session = current_session()
    if not session.can_prompt_user:
        return None
    words = asked(question)
    port, ident = KernelPort(session.shell), uuid4().hex
    port.publish(shown(question), display_id=ident)
    try:
        chosen = prompt_with_buttons(session, words, [c[1:] for c in CHOICES])
        if chosen is not None:
            return CHOICES[chosen][0]
        return parse_answer(prompt_keyboard(words + ANSWER_PROMPT))
    finally:
        port.publish({"text/plain": ""}, display_id=ident, update=True)


def asked(question: Question) -> str:
    """The question in words."""
    words = f"Run {question.call.name} ({question.tool.source})?"
    return words + (f" {question.number} of {question.of}" if question.of > 1 else "")


def shown(question: Question) -> dict[str, str]:
    """The call, whole; folded where it is long, and how long it is."""
    source = clean(call_source(question.call))
    html, text = _folded(render_call(source).html, source, _FOLDED), f"[tool call] {source}"
    if question.change is not None and (diff := clean(question.change.diff)):
        html = f"{_folded(code_html(diff, 'diff'), diff, _OPEN)}{html}"
        text = f"{diff}\n{text}"
    return {"text/html": container(html, style=True), "text/plain": plain_text(text)}


def _folded(html: str, source: str, most: int) -> str:
    if len(source) <= most:
        return html
    more = f"{escape(source[:200])}… ({len(source):,} characters)"
    return f"<details class=nbllm-think><summary>{more}</summary>\n{html}</details>"


def undo(session: Session, rest: str) -> Any:
    """`%llm undo`: takes back what tools changed in the last answer that changed something; `list`: what can
    be taken back; a number of that list: this change alone."""
    journal = session.client.changes
    if rest == "list":
        session.show_bundle(_listed(journal))
        return None
    if rest and not rest.isdecimal():
        raise ConfigError(f"%llm undo has no {rest[:40]!r}.", hint="%llm undo, %llm undo list, %llm undo N.")
    done = session.client.run(journal.undo(int(rest) if rest else None))
    return f"Taken back: {', '.join(map(clean, done))}."


def _listed(journal: Journal) -> dict[str, str]:
    """The changes that can be taken back, with their numbers; of very many the last."""
    lines = []
    for number, made in [*enumerate(journal.entries, 1)][-_LISTED:]:
        diff = clean(made.change.diff)
        lines.append(render_note(f"{number}: {made.change.what} (answer {made.answer})"))
        lines.append(Rendered(_folded(code_html(diff, "diff"), diff, _OPEN), diff))
    return to_bundle(
        join_rendered(lines or [render_note("Tools have changed nothing that can be taken back.")])
    )
