"""dry_run: what would be sent, with keys masked and long data shortened; nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.calls import SECRET_HEADERS, AnyCall, ProcessCall, Secret, SessionCall, TalkCall, shown
from ..core.errors import MASK, scrub
from ..core.options import SENDING, USE
from ..core.schema import provider_schema
from ..routing.registry import Route
from .question import Contestant, Question
from .session import Session
from .view.static import pretty, static


def show(session: Session, question: Question) -> None:
    """Shows the call to each who would be asked."""
    asked = question.contestants
    texts = [_told(session, question, c) for c in asked]
    session.show(
        static(
            "\n\n".join(
                f"**{c.label}**\n\n{t}" if len(asked) > 1 else t for c, t in zip(asked, texts, strict=True)
            )
        )
    )


def _told(session: Session, question: Question, contestant: Contestant) -> str:
    client = session.client
    route, given = session.prepared(question, contestant)
    key = client.registry.key_for(route, given.pop("api_key", None))
    keep = bool(given.pop("keep", False))
    for name in (*SENDING, *USE):
        given.pop(name, None)
    given["schema"] = provider_schema(given.get("schema"))
    request = client.request(session.messages(question, route), route.model, **given)
    stand_in = None if route.provider.local else Secret("MISSING", "nowhere")  # so that the rest can be shown
    done, payload = _payload(client.encode(request, route, key or stand_in, keep=keep), route)
    where = route.provider.label or route.provider.name
    source = "" if done != "sent" else f", key from {key.source}" if key else ", no key"
    return (
        f"Nothing was {done}. It would {'be' if done == 'run' else 'go to'} "
        f"{where}{source}:\n\n```json\n{pretty(payload)}\n```"
    )


def _payload(call: AnyCall, route: Route) -> tuple[str, dict[str, Any]]:
    """(what is done with a call, what it holds)."""
    if isinstance(call, SessionCall):
        message = {**call.message, "parts": [{"type": "text", "text": call.turn.retold}]}
        return "sent", {
            "addresses": [shown(a, call.guard.texts) for a in call.addresses],
            "session": call.session,
            "message": message,
        }
    call = call.process if isinstance(call, TalkCall) else call
    if isinstance(call, ProcessCall):
        return "run", {
            "command": list(call.argv),
            "variables": sorted(call.env),
            "standard input": call.stdin,
        }
    private = SECRET_HEADERS | {name.lower() for name in route.provider.headers}
    headers = {
        k: MASK if k.lower() in private else scrub(v, call.guard.texts) for k, v in call.headers.items()
    }
    return "sent", {
        "url": shown(call.url, call.guard.texts),
        "headers": headers,
        "body": _shortened(call.body),
    }


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 2_000:
        return f"{value[:200]}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {k: _shortened(v) for k, v in value.items()}
    return [_shortened(v) for v in value] if isinstance(value, (list, tuple)) else value
