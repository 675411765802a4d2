"""Small questions to a provider's server, answered in JSON: lists and counts."""

from __future__ import annotations

from typing import Any

from ..core import errors
from ..core.calls import Guard, HttpCall, ProviderSpec, Secret
from ..core.messages import Message, Request
from ..dialects._json import load_json
from ..routing.registry import Route
from .attempt import fetch_json
from .client import Client
from .prepare import dialect, no_key

TIMEOUT = 10.0  # seconds for an answer


def listing(client: Client, name: str) -> Route:
    """The route to the provider called `name` for questions that name no model. Raises ConfigError where it
    cannot be asked."""
    row = client.registry.row(name)
    if row is None:
        raise client.registry.unknown_provider(name)
    return client.registry.resolve(f"{row.name}/{row.default_model or 'm/m'}")


def auth_headers(client: Client, row: ProviderSpec, key: Secret | None) -> dict[str, str]:
    """The headers by which `row`'s dialect carries a key, taken from the dialect itself."""
    call = dialect(row, client.registry.dialects).encode(Request("m/m", (Message("user", "x"),)), row, key)
    if call.headers is None:
        raise errors.ConfigError(
            f"{row.label or row.name} is a command: it has no list of models and no address.",
            hint="Name its model after the slash, as the command itself would.",
        )
    return {k: v for k, v in call.headers.items() if k.lower() not in ("content-type", "accept")}


def fetch(client: Client, route: Route, path: str) -> Any:
    """The JSON at `path` of the route's server. Raises our errors for everything else."""
    key = client.registry.key_for(route, None)
    if key is None and not route.provider.local:
        raise no_key(route.provider)
    return get(client, route.provider, path, key)


def get(client: Client, row: ProviderSpec, path: str, key: Secret | None) -> Any:
    """As fetch, with the key given, or without any."""
    return client.run(get_json(client, row, question(client, row, path, key)))


def question(client: Client, row: ProviderSpec, path: str, key: Secret | None) -> HttpCall:
    """The call that asks for `path` of the row's server, the key carried as its dialect does."""
    base = row.base_url.rstrip("/")
    path = path.removeprefix("/v1") if base.endswith("/v1") else path
    key = key.bound_to(row.base_url) if key is not None else None
    return HttpCall(
        f"{base}/{path.removeprefix('/')}",
        auth_headers(client, row, key),
        {},
        "GET",
        Guard.for_provider(row, key),
    )


async def get_json(client: Client, row: ProviderSpec, call: HttpCall, limit: float = TIMEOUT) -> Any:
    """The JSON that answers `call` within `limit` seconds; to be run on the engine's loop. Raises our errors,
    what is secret masked in them."""
    found = (await get_reply(client, row, call, limit))[1]
    return load_json(b"") if found is None else found


async def get_reply(
    client: Client, row: ProviderSpec, call: HttpCall, limit: float = TIMEOUT
) -> tuple[dict[str, str], Any]:
    """As get_json, after the headers of the answer. An answer without a body is None."""
    words = client.registry.dialects[row.dialect]
    if words.vouched:
        await client.pool.transports.sessions.check(row.base_url.rstrip("/"))
    return await fetch_json(client.http, words, row, call, limit)
