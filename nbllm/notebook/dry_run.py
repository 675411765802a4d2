"""dry_run: what would be sent, the messages first and the whole request folded, with keys masked and long
data shortened; nothing is."""

from __future__ import annotations

from ..core.calls import Secret
from ..core.messages import Document, Image, Message, Text, caption
from ..dialects import _contexts
from .question import Contestant, Question
from .session import Session
from .view.hidden import clean
from .view.markdown import code_html, folded, plain_html, to_html
from .view.static import Rendered, bundle_of, joined, pretty


def show(session: Session, question: Question) -> None:
    """Shows the call to each who would be asked."""
    if question.unfilled:
        session.say(f"Not filled: {question.unfilled}")
    many = len(question.contestants) > 1
    lines: list[Rendered] = []
    for c in question.contestants:
        lines += [_said(f"**{c.label}**")] if many else []
        lines += _lines(session, question, c)
    session.show(bundle_of(joined(lines)))


def _said(markdown: str) -> Rendered:
    return Rendered(to_html(markdown), markdown)


def _lines(session: Session, question: Question, contestant: Contestant) -> list[Rendered]:
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
    whole = pretty(payload)
    kept = _contexts.cache_notice(call, route.model) if request.cache == "1h" else ""
    return [
        _said(f"Nothing was {done}. It would {'be' if done == 'run' else 'go to'} {where}{source}:"),
        *([_said(kept)] if kept else ()),
        *(_message(m) for m in request.messages),
        Rendered(folded(code_html(clean(whole), "json"), "The whole request"), f"```json\n{whole}\n```"),
    ]


def _message(message: Message) -> Rendered:
    """One message as a person reads it; pictures, calls and thoughts in a few words."""
    texts = []
    for part in message.parts:
        shown = (
            part.text
            if isinstance(part, Text)
            else caption(part)
            if isinstance(part, Image | Document)
            else ""
        )
        texts.append(shown or f"[{type(part).__name__}]")
    words = "\n".join(texts)
    head = _said(f"**{message.role}**")
    return Rendered(head.html + plain_html(words), f"{head.text}\n\n{words}")
