"""Unloads models from memory: those of Ollama, and those that nbllm itself loaded."""

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

_TIMEOUT = 30.0  # seconds for a server to unload a model
_CONNECT = 10.0


def can_unload(client: Client, route: Route) -> bool:
    """Whether nbllm can unload the route's model."""
    return (
        route.path is not None or dialect_of(route.provider, client.registry.dialects).unloading is not None
    )


def unload_models(client: Client, model: str | None = None) -> list[str]:
    """Unloads a model, or without a name those that this process loaded from files; returns their names.
    Raises as unload does."""
    if model is None:
        return client.run(client.pool.transports.local.unload())
    route = client.resolve(model)
    client.run(unload(client, route))
    return [f"{route.provider.name}/{route.model}"]


async def unload(client: Client, route: Route, connect: float | None = _CONNECT) -> None:
    """Unloads a model and waits until it is gone. On the engine's loop.

    Raises ConfigError for a model that cannot be unloaded, or that is answering now; NbllmError where a
    server does not unload it within _TIMEOUT seconds. The operating system may keep the file in its page
    cache.
    """
    row = route.provider
    dialect = dialect_of(row, client.registry.dialects)
    if route.path is not None:
        await client.pool.transports.local.unload(str(route.path))
        return
    if dialect.unloading is None:
        raise errors.ConfigError(
            f"{row.label or row.name} cannot unload a model.",
            hint="Ollama can, and so can models in files: local/NAME, llamacpp/PATH.gguf.",
        )
    unload_call, list_call = dialect.unloading(row.base_url, route.model)

    async def fetch(call: HttpCall) -> Any:
        return (await fetch_json(client.http, dialect, row, call, _TIMEOUT, connect=connect))[1]

    try:
        async with asyncio.timeout(_TIMEOUT):
            await fetch(unload_call)
            while _is_listed(await fetch(list_call), route.model):  # noqa: ASYNC110 - it sends no event
                await asyncio.sleep(0.1)
    except errors.Timeout:
        raise
    except TimeoutError:
        raise errors.TransportError(
            f"{row.base_url} did not unload {route.model} within {_TIMEOUT:g} s.",
            hint="Check that nothing else uses the model.",
        ) from None


def _is_listed(value: Any, model: str) -> bool:
    """Whether a model is in a server's list of loaded models; the tag :latest may be left out."""
    models = items(obj(value).get("models"))
    names = {str(m.get(n)).removesuffix(":latest") for m in models for n in ("name", "model")}
    return model.removesuffix(":latest") in names
