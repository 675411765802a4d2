"""dry_run: what would be sent, with keys masked and long data shortened; nothing is."""

from __future__ import annotations

from ..core.calls import Secret
from .question import Contestant, Question
from .session import Session
from .view.static import pretty, static


def show(session: Session, question: Question) -> None:
    """Shows the call to each who would be asked."""
    asked = question.contestants
    texts = [_told(session, question, c) for c in asked]
    if question.left:
        session.say(f"Not filled: {question.left}")
    session.show(
        static(
            "\n\n".join(
                f"**{c.label}**\n\n{t}" if len(asked) > 1 else t for c, t in zip(asked, texts, strict=True)
            )
        )
    )


def _told(session: Session, question: Question, contestant: Contestant) -> str:
    client = session.client
    route, spec = session.prepared(question, contestant)
    key = client.registry.key_for(route, spec.api_key)
    given = client.parameters(spec) | {"tools": client.described(spec.tools)}
    request = client.request(session.messages(question, route), route.model, **given)
    stand_in = None if route.provider.local else Secret("MISSING", "nowhere")  # so that the rest can be shown
    call = client.encode(request, route, key or stand_in, keep=bool(spec.keep), mode=spec.mode)
    done, payload = call.preview(route.provider)
    where = route.provider.label or route.provider.name
    source = "" if done != "sent" else f", key from {key.source}" if key else ", no key"
    return (
        f"Nothing was {done}. It would {'be' if done == 'run' else 'go to'} "
        f"{where}{source}:\n\n```json\n{pretty(payload)}\n```"
    )
