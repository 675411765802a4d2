"""What is there to ask: providers with their state, and the models that a provider lists itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from . import errors
from .client import Client
from .dialects import DIALECTS
from .dialects.common import items, label, load_json
from .messages import Message, Request
from .registry import Route
from .wire import HttpCall, Provider, Secret, Trace

LIST_TIMEOUT = 10.0  # seconds for a model list
LIST_LIMIT = 32 * 2**20  # bytes of one; OpenRouter's is over 1 MiB
HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class ProviderState:
    """One provider as it stands on this machine. `key` says where a key was found, never what it is; `answers` is None
    where nothing was asked of the server."""

    name: str
    label: str
    dialect: str
    base_url: str
    key: str | None
    answers: bool | None
    ready: bool
    note: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of a provider's own list; None where the provider does not say."""

    name: str
    provider: str
    id: str
    context: int | None = None
    created: Any = None


def states(client: Client, *, ask: bool = True) -> list[ProviderState]:
    """Every provider's state; with `ask`, servers are tried for a connection (0.5 s each, all at once)."""
    rows = list(client.registry.rows.values())
    checks: dict[str, Future[bool]] = {r.name: client.check(client.registry.address(r)) for r in rows} if ask else {}
    return [_state(client, row, checks[row.name].result() if ask else None) for row in rows]


def _state(client: Client, row: Provider, answers: bool | None) -> ProviderState:
    address = client.registry.address(row)
    key = client.registry.own_key(row)
    ready = (row.local or key is not None) and answers is not False
    if key is None and not row.local:
        note = f"set {' or '.join(row.key_env)}" + (f" ({row.key_url})" if row.key_url else "")
    elif answers is False:
        note = f"nothing answers at {address}"
    else:
        note = "ready" if answers else "not asked"
    return ProviderState(row.name, row.label or row.name, row.dialect, address, key.source if key else None, answers, ready, note)


def list_models(client: Client, prefix: str = "") -> list[ModelInfo]:
    """The models whose full name starts with `prefix`. "groq/" or "groq/lla" asks that provider alone, "" asks every ready
    one and leaves out those that do not answer. Raises the provider's error where one provider was named."""
    word, slash, rest = prefix.partition("/")
    if not word:
        ready = [s.name for s in states(client) if s.ready]
        return [m for name in ready for m in _listed(client, name, strict=False)]
    row = client.registry.row(word)
    if row is None:
        raise client.registry.unknown_provider(word)
    found = _listed(client, row.name, strict=True)
    return [m for m in found if m.id.startswith(rest)] if slash else found


def _listed(client: Client, name: str, *, strict: bool) -> list[ModelInfo]:
    route = client.resolve(name)
    try:
        value = fetch(client, route, route.provider.models)
    except errors.NbllmError:
        if strict:
            raise
        return []
    return sorted(_models(name, value), key=lambda m: m.id)


def _models(provider: str, value: Any) -> Iterable[ModelInfo]:
    entries = value.get("data", value.get("models")) if isinstance(value, Mapping) else value
    for entry in items(entries):
        name = label(entry.get("id")) or label(entry.get("name"))
        if name:
            context = entry.get("inputTokenLimit") or entry.get("context_length") or entry.get("context_window") or entry.get("max_model_len")
            short = name.removeprefix("models/")
            yield ModelInfo(f"{provider}/{short}", provider, short, context if isinstance(context, int) else None,
                            entry.get("created") or entry.get("created_at") or entry.get("modified_at"))


def ping(client: Client, model: str, **options: Any) -> dict[str, Any]:
    """Asks `model` for one word and gives what was measured: seconds to connect, to the first token, in all, and the model
    that answered; `error` instead where it failed."""
    began = time.perf_counter()
    try:
        stream = client.stream("Answer with the single word: pong", model, **{"max_tokens": 64, "retries": 0, **options})
        response = stream.response()
    except errors.NbllmError as error:
        return {"asked": model, "ok": False, "total": time.perf_counter() - began, "error": error.message}
    t = response.timing
    return {"asked": model, "ok": True, "model": response.model, "connect": t.connect, "ttft": t.ttft, "total": t.total,
            "text": response.text.strip()[:40], "simulated": response.simulated}


def auth_headers(row: Provider, key: Secret | None) -> dict[str, str]:
    """The headers by which `row`'s dialect carries a key, taken from the dialect itself."""
    call = DIALECTS[row.dialect].encode(Request("m", (Message("user", "x"),)), row, key)
    return {k: v for k, v in call.headers.items() if k.lower() not in ("content-type", "accept")}


def fetch(client: Client, route: Route, path: str) -> Any:
    """The JSON at `path` of the route's server. Raises our errors for everything else."""
    row = route.provider
    key = client.registry.key_for(route, None)
    if key is None and not row.local:
        raise client.no_key(row)
    base = row.base_url.rstrip("/")
    url = base + (path.removeprefix("/v1") if base.endswith("/v1") else path)
    return client.run(_get_json(client, row, HttpCall(url, auth_headers(row, key), {}, "GET")))


async def _get_json(client: Client, row: Provider, call: HttpCall) -> Any:
    try:
        async with asyncio.timeout(LIST_TIMEOUT), client.http.send(call, Trace(), LIST_TIMEOUT) as reply:
            body = await reply.body(LIST_LIMIT)
            if reply.status != HTTP_OK:
                raise DIALECTS[row.dialect].error(reply.status, reply.headers, body, row)
            return load_json(body)
    except errors.Timeout:
        raise
    except TimeoutError:
        raise errors.Timeout(f"No answer from {row.label or row.name} within {LIST_TIMEOUT:g} s.", which="total", seconds=LIST_TIMEOUT,
                             hint="Try again.") from None
