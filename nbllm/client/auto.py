"""The choice of a provider for the model name "auto"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ..core import addresses, errors
from ..core.calls import Secret
from ..routing.registry import Registry, Route


def choose(registry: Registry, listens: Callable[[str], bool]) -> Route:
    """The first provider with a key of the user's own, else a running Ollama, else a provider with a key in
    `.env`, which may be somebody else's, else a model file, else the simulator. listens: whether a server
    answers at an address."""
    simulating, project_key, invalid = registry.simulating, "", list[errors.ConfigError]()
    for name, row in registry.rows.items() if not simulating else ():
        key = _find_key(registry, name, invalid) if not row.local else None
        if key is not None and not key.from_project:
            return _route_to(registry, name, f"{row.label or name} has a key ({key.source})")
        project_key = project_key or (f"{name} {key.source}" if key is not None else "")
    ollama = registry.rows.get("ollama")
    if ollama and not simulating and listens(registry.address(ollama)):
        return _route_to(registry, "ollama", "no key was found, and Ollama runs here")
    if project_key:
        name, _, source = project_key.partition(" ")
        return _route_to(
            registry,
            name,
            f"no other key and no Ollama was found, only {source}: whoever put it there may read the prompts",
        )
    if not simulating and (local := _model_file_route(registry)) is not None:
        return replace(
            local, name="auto", why="no key and no Ollama was found, and it is the newest model file here"
        )
    if invalid:
        raise invalid[0]
    return _route_to(
        registry,
        "sim/openai",
        "simulation is on (%llm simulate off ends it)"
        if simulating
        else "no key and no Ollama was found, so the simulator answers. Set OPENAI_API_KEY or another key, "
        "or type one: %llm key openai; %llm models shows more",
    )


def _route_to(registry: Registry, name: str, why: str) -> Route:
    return replace(registry.resolve(name), name="auto", why=why)


def _model_file_route(registry: Registry) -> Route | None:
    """The route to a model file, where there is a usable one."""
    row = registry.rows.get("local")
    route = registry.resolve("local") if row is not None and row.folders else None
    return route if route is not None and route.problem is None else None


def _find_key(registry: Registry, name: str, invalid: list[errors.ConfigError]) -> Secret | None:
    """A provider's key, None where there is none. The error for an invalid key is added to `invalid`."""
    try:
        return registry.key_for(registry.resolve(name), None)
    except errors.ConfigError as error:
        invalid.append(error)
        return None
    except errors.AuthenticationError:  # a login that has ended; another provider may answer
        return None


async def listens(url: str, within: float) -> bool:
    """Whether a server accepts a connection at an address within `within` seconds."""
    try:
        address = addresses.parse(url)
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (errors.ConfigError, OSError, TimeoutError):
        return False
    writer.close()
    return True
