"""Models that are told to leave the memory: those of Ollama, and those that nbllm itself loaded."""

from __future__ import annotations

import asyncio
from typing import Any

from ..core import errors
from ..core.calls import HttpCall
from ..dialects._json import items, obj
from ..routing.registry import Route
from .attempt import exchanged
from .client import Client

_WITHIN = 30.0  # seconds for a server to let a model go
_CONNECT = 10.0


def unloads(route: Route) -> bool:
    """Whether a model can be told to leave the memory."""
    return route.provider.dialect == "ollama" or route.path is not None


def unloaded(client: Client, model: str | None = None) -> list[str]:
    """Unloads a model, or without a name those that this process has loaded from files; gives their names.
    Raises as unload does."""
    if model is None:
        return client.run(client.pool.local.unload())
    route = client.resolve(model)
    client.run(unload(client, route))
    return [f"{route.provider.name}/{route.model}"]


async def unload(client: Client, route: Route, connect: float | None = _CONNECT) -> None:
    """Has a model leave the memory, and waits until it has; to be run on the engine's loop.

    Raises ConfigError for one that cannot be told to, or that answers now; NbllmError where a server does not
    let it go within _WITHIN seconds. The operating system may keep the file in its page cache.
    """
    row = route.provider
    if not unloads(route):
        raise errors.ConfigError(
            f"{row.label or row.name} cannot be told to unload a model.",
            hint="Ollama can, and models in files: local/NAME, llamacpp/PATH.gguf.",
        )
    if row.dialect != "ollama":
        await client.pool.local.unload(str(route.path))
        return
    base, asked = row.base_url, {"model": route.model, "keep_alive": 0}
    try:
        async with asyncio.timeout(_WITHIN):
            await _small(client, route, HttpCall(f"{base}/api/generate", {}, asked), connect)
            while await _there(client, route, connect):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)
    except errors.Timeout:
        raise
    except TimeoutError:
        raise errors.TransportError(
            f"{base} has not let {route.model} go within {_WITHIN:g} s.",
            hint="Check that nothing else uses the model.",
        ) from None


async def _small(client: Client, route: Route, call: HttpCall, connect: float | None) -> Any:
    """The JSON that a server answers. Raises our errors."""
    row = route.provider
    spoken = client.registry.dialects[row.dialect]
    return (await exchanged(client.http, spoken, row, call, _WITHIN, connect=connect))[1]


async def _there(client: Client, route: Route, connect: float | None) -> bool:
    """Whether a model is in the server's list of those that are loaded; the tag :latest may be left out."""
    call = HttpCall(f"{route.provider.base_url}/api/ps", {}, {}, "GET")
    models = items(obj(await _small(client, route, call, connect)).get("models"))
    names = {str(m.get(n)).removesuffix(":latest") for m in models for n in ("name", "model")}
    return route.model.removesuffix(":latest") in names
