"""What the model name "auto" stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ..core import addresses, errors
from ..core.calls import Secret
from ..routing.registry import Registry, Route


def choose(registry: Registry, listens: Callable[[str], bool]) -> Route:
    """The first provider with a key of the user's own, else an Ollama that `listens`, else a provider with a
    key in `.env`, which may be somebody else's, else a model file, else the simulator."""
    simulating, beside, wrong = registry.simulating, "", list[errors.ConfigError]()
    for name, row in registry.rows.items() if not simulating else ():
        key = _key_of(registry, name, wrong) if not row.local else None
        if key is not None and not key.from_project:
            return _chosen(registry, name, f"{row.label or name} has a key ({key.source})")
        beside = beside or (f"{name} {key.source}" if key is not None else "")
    ollama = registry.rows.get("ollama")
    if ollama and not simulating and listens(registry.address(ollama)):
        return _chosen(registry, "ollama", "no key was found, and Ollama answers here")
    if beside:
        name, _, source = beside.partition(" ")
        return _chosen(
            registry,
            name,
            f"no other key and no Ollama was found, and {source} is one: whoever put it there may read what "
            f"is asked",
        )
    if not simulating and (local := _file(registry)) is not None:
        return replace(
            local, name="auto", why="no key and no Ollama was found, and it is the newest model file here"
        )
    if wrong:
        raise wrong[0]
    return _chosen(
        registry,
        "sim/openai",
        "simulation is on (%llm simulate off ends it)"
        if simulating
        else "no key and no Ollama was found, so the simulator answers. Set OPENAI_API_KEY or another key, "
        "or type one: %llm key openai; %llm models shows more",
    )


def _chosen(registry: Registry, name: str, why: str) -> Route:
    return replace(registry.resolve(name), name="auto", why=why)


def _file(registry: Registry) -> Route | None:
    """The route to a model file that can be asked, where there is one."""
    row = registry.rows.get("local")
    route = registry.resolve("local") if row is not None and row.folders else None
    return route if route is not None and route.problem is None else None


def _key_of(registry: Registry, name: str, wrong: list[errors.ConfigError]) -> Secret | None:
    """A provider's key; what is wrong with one that cannot be a key is put into `wrong`."""
    try:
        return registry.key_for(registry.resolve(name), None)
    except errors.ConfigError as error:
        wrong.append(error)
        return None
    except errors.AuthenticationError:  # a login that has ended; another provider may answer
        return None


async def listens(url: str, within: float) -> bool:
    """Whether something takes connections at an address, found out in `within` seconds."""
    try:
        address = addresses.parse(url)
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (errors.ConfigError, OSError, TimeoutError):
        return False
    writer.close()
    return True
