"""Models that are told to leave the memory: those of Ollama, and those that nbllm itself loaded."""

from __future__ import annotations

import asyncio
from typing import Any

from ..core import errors
from ..core.calls import HttpCall
from ..dialects._json import items, obj
from ..routing.registry import Route
from .attempt import fetch_json
from .client import Client
from .prepare import dialect_of

_WITHIN = 30.0  # seconds for a server to let a model go
_CONNECT = 10.0


def unloads(client: Client, route: Route) -> bool:
    """Whether a model can be told to leave the memory."""
    return (
        route.path is not None or dialect_of(route.provider, client.registry.dialects).unloading is not None
    )


def unloaded(client: Client, model: str | None = None) -> list[str]:
    """Unloads a model, or without a name those that this process has loaded from files; gives their names.
    Raises as unload does."""
    if model is None:
        return client.run(client.pool.transports.local.unload())
    route = client.resolve(model)
    client.run(unload(client, route))
    return [f"{route.provider.name}/{route.model}"]


async def unload(client: Client, route: Route, connect: float | None = _CONNECT) -> None:
    """Has a model leave the memory, and waits until it has; to be run on the engine's loop.

    Raises ConfigError for one that cannot be told to, or that answers now; NbllmError where a server does not
    let it go within _WITHIN seconds. The operating system may keep the file in its page cache.
    """
    row = route.provider
    words = dialect_of(row, client.registry.dialects)
    if route.path is not None:
        await client.pool.transports.local.unload(str(route.path))
        return
    if words.unloading is None:
        raise errors.ConfigError(
            f"{row.label or row.name} cannot be told to unload a model.",
            hint="Ollama can, and models in files: local/NAME, llamacpp/PATH.gguf.",
        )
    leave, listing = words.unloading(row.base_url, route.model)

    async def answer(call: HttpCall) -> Any:
        return (await fetch_json(client.http, words, row, call, _WITHIN, connect=connect))[1]

    try:
        async with asyncio.timeout(_WITHIN):
            await answer(leave)
            while _is_in(await answer(listing), route.model):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)
    except errors.Timeout:
        raise
    except TimeoutError:
        raise errors.TransportError(
            f"{row.base_url} has not let {route.model} go within {_WITHIN:g} s.",
            hint="Check that nothing else uses the model.",
        ) from None


def _is_in(told: Any, model: str) -> bool:
    """Whether a model is in a server's list of those that are loaded; the tag :latest may be left out."""
    models = items(obj(told).get("models"))
    names = {str(m.get(n)).removesuffix(":latest") for m in models for n in ("name", "model")}
    return model.removesuffix(":latest") in names
