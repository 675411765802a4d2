"""dry_run: shows the call without sending it: the messages, and below them the request as JSON (collapsed),
with keys masked and long data shortened."""

from __future__ import annotations

from ..core.calls import Secret
from ..core.messages import Document, Image, Message, Text, caption
from ..dialects import _contexts
from .question import Contestant, Question
from .session import Session
from .view.hidden import clean
from .view.markdown import code_html, fold, plain_html, to_html
from .view.static import Rendered, join_rendered, pretty_json, to_bundle


def show_dry_run(session: Session, question: Question) -> None:
    """Shows the call for each contestant."""
    if question.unfilled:
        session.print_text(f"Not filled: {question.unfilled}")
    many = len(question.contestants) > 1
    lines: list[Rendered] = []
    for c in question.contestants:
        lines += [_markdown_line(f"**{c.label}**")] if many else []
        lines += _call_lines(session, question, c)
    session.show_bundle(to_bundle(join_rendered(lines)))


def _markdown_line(markdown: str) -> Rendered:
    return Rendered(to_html(markdown), markdown)


def _call_lines(session: Session, question: Question, contestant: Contestant) -> list[Rendered]:
    client = session.client
    route, spec = session.prepare_call(question, contestant)
    key = client.registry.key_for(route, spec.api_key)
    parameters = client.request_parameters(spec) | {"tools": client.tool_descriptions(spec.tools)}
    request = client.request(session.build_messages(question, route), route.model, **parameters)
    placeholder_key = (
        None if route.provider.local else Secret("MISSING", "nowhere")
    )  # so that the request can be built
    call = client.encode(request, route, key or placeholder_key, keep=bool(spec.keep), mode=spec.mode)
    verb, payload = call.preview(route.provider)
    provider = route.provider.label or route.provider.name
    source = "" if verb != "sent" else f", key from {key.source}" if key else ", no key"
    request_json = pretty_json(payload)
    cache_note = _contexts.cache_notice(call, route.model) if request.cache == "1h" else ""
    return [
        _markdown_line(
            f"Nothing was {verb}. It would {'be' if verb == 'run' else 'go to'} {provider}{source}:"
        ),
        *([_markdown_line(cache_note)] if cache_note else ()),
        *(_message_line(m) for m in request.messages),
        Rendered(
            fold(code_html(clean(request_json), "json"), "The whole request"),
            f"```json\n{request_json}\n```",
        ),
    ]


def _message_line(message: Message) -> Rendered:
    """One message for the user; images, calls and reasoning by their names."""
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
    text = "\n".join(texts)
    head = _markdown_line(f"**{message.role}**")
    return Rendered(head.html + plain_html(text), f"{head.text}\n\n{text}")
