"""How the person is asked before a tool runs in a notebook."""

from __future__ import annotations

from html import escape
from uuid import uuid4

from ..client.agent import TYPED, Question, meant
from .buttons import ask_with_buttons, by_keyboard
from .session import current_session
from .view.frontend import KernelPort
from .view.hidden import clean, plain
from .view.static import call_rendered, call_source
from .view.styles import container

_FOLDED = 1_200  # characters of a call that stand open
# answer, what stands on its button, what it does
CHOICES = (
    ("once", "Run once", "Run this call"),
    ("always", "Always in this answer", "Run this call, and what else this answer calls of the same tool"),
    ("no", "No", "Do not run it; the model is told"),
)


def ask(question: Question) -> str | None:
    """Asks the person whether a call may run, with all that would run in sight: once, always or no; None
    where nobody can answer. What was answered does not stay: the answer tells what came of the call."""
    session = current_session()
    if not session.can_ask:
        return None
    words = asked(question)
    port, ident = KernelPort(session.shell), uuid4().hex
    port.publish(shown(question), display_id=ident)
    try:
        chosen = ask_with_buttons(session, words, [c[1:] for c in CHOICES])
        if chosen is not None:
            return CHOICES[chosen][0]
        return meant(by_keyboard(words + TYPED))
    finally:
        port.publish({"text/plain": ""}, display_id=ident, update=True)


def asked(question: Question) -> str:
    """The question in words."""
    words = f"Run {question.call.name} ({question.tool.source})?"
    return words + (f" {question.number} of {question.of}" if question.of > 1 else "")


def shown(question: Question) -> dict[str, str]:
    """The call, whole; folded where it is long, and how long it is."""
    source = clean(call_source(question.call))
    html = call_rendered(source).html
    if len(source) > _FOLDED:
        more = f"{escape(source[:200])}… ({len(source):,} characters)"
        html = f"<details class=nbllm-think><summary>{more}</summary>\n{html}</details>"
    return {"text/html": container(html, style=True), "text/plain": plain(f"[tool call] {source}")}
