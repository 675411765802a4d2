"""Models that are told to leave the memory: those of Ollama, and those that nbllm itself loaded."""

from __future__ import annotations

import asyncio
from typing import Any

from ..agents.model_files import path_of
from ..core import errors
from ..core.calls import HttpCall, Trace
from ..dialects._json import items, load_json, obj
from ..routing.registry import Route
from .client import Client

_WITHIN = 30.0  # seconds for a server to let a model go
_CONNECT = 10.0


def unloads(route: Route) -> bool:
    """Whether a model can be told to leave the memory."""
    row = route.provider
    return row.dialect == "ollama" or (not route.simulated and path_of(row, route.model) is not None)


def unloaded(client: Client, model: str | None = None) -> list[str]:
    """Unloads a model, or without a name those that this process has loaded from files; gives their names.
    Raises as unload does."""
    if model is None:
        return client.run(client.local.unload())
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
        await client.local.unload(str(path_of(row, route.model)))
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
    async with client.http.open(call, Trace(), connect) as reply:
        body = await reply.body()
        if reply.status >= 300:
            raise client.registry.dialects[route.provider.dialect].error(
                reply.status, reply.headers, body, route.provider
            )
        return load_json(body or b"{}")


async def _there(client: Client, route: Route, connect: float | None) -> bool:
    """Whether a model is in the server's list of those that are loaded; the tag :latest may be left out."""
    call = HttpCall(f"{route.provider.base_url}/api/ps", {}, {}, "GET")
    models = items(obj(await _small(client, route, call, connect)).get("models"))
    names = {str(m.get(n)).removesuffix(":latest") for m in models for n in ("name", "model")}
    return route.model.removesuffix(":latest") in names
