"""Small requests to a provider's server that return JSON: lists and counts."""

from __future__ import annotations

from typing import Any

from ..core import errors
from ..core.calls import Guard, HttpCall, ProviderSpec, Secret
from ..core.messages import Message, Request
from ..dialects._json import load_json
from ..routing.registry import Route
from .attempt import fetch_json
from .client import Client
from .prepare import dialect_of, missing_key_error

TIMEOUT = 10.0  # seconds for an answer


def resolve_provider(client: Client, name: str) -> Route:
    """The route to the provider called `name`, for requests without a model. Raises ConfigError where there
    is no such provider."""
    row = client.registry.row(name)
    if row is None:
        raise client.registry.unknown_provider(name)
    return client.registry.resolve(f"{row.name}/{row.default_model or 'm/m'}")


def auth_headers(client: Client, row: ProviderSpec, key: Secret | None) -> dict[str, str]:
    """The headers in which the dialect of `row` sends a key."""
    call = dialect_of(row, client.registry.dialects).encode(Request("m/m", (Message("user", "x"),)), row, key)
    if call.headers is None:
        raise errors.ConfigError(
            f"{row.label or row.name} is a command: it has no list of models and no address.",
            hint="Write the model's name after the slash, as for the command itself.",
        )
    return {k: v for k, v in call.headers.items() if k.lower() not in ("content-type", "accept")}


def fetch(client: Client, route: Route, path: str) -> Any:
    """The JSON at `path` of the route's server. Raises NbllmError."""
    key = client.registry.key_for(route, None)
    if key is None and not route.provider.local:
        raise missing_key_error(route.provider)
    return get(client, route.provider, path, key)


def get(client: Client, row: ProviderSpec, path: str, key: Secret | None) -> Any:
    """`fetch` with the given key, or without one."""
    return client.run(get_json(client, row, get_request(client, row, path, key)))


def get_request(client: Client, row: ProviderSpec, path: str, key: Secret | None) -> HttpCall:
    """The GET call for `path` of the provider's server, with the key in its dialect's headers."""
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
    """The JSON of the answer to `call`, within `limit` seconds. On the engine's loop. Raises NbllmError with
    secrets masked."""
    value = (await get_reply(client, row, call, limit))[1]
    return load_json(b"") if value is None else value


async def get_reply(
    client: Client, row: ProviderSpec, call: HttpCall, limit: float = TIMEOUT
) -> tuple[dict[str, str], Any]:
    """(headers, JSON) of the answer to `call`; the JSON is None for an empty body. Otherwise as get_json."""
    dialect = client.registry.dialects[row.dialect]
    if dialect.vouched:
        await client.pool.transports.sessions.check(row.base_url.rstrip("/"))
    return await fetch_json(client.http, dialect, row, call, limit)
