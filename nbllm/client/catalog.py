"""The catalog: providers with their state and health, and the models that a provider lists."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..agents.base import allowed_passthrough
from ..agents.model_files import list_model_files, local_model_problem
from ..agents.process import find_command
from ..core import errors
from ..core.calls import Endpoint, ProcessCall, ProviderSpec, Secret, Trace
from ..dialects._errors import provider_error
from ..dialects._json import count, items, label, obj
from ..routing import prices
from ..routing.config import provider_prefix
from ..routing.files import read_small_file, write_atomic
from ..routing.registry import Route
from ..routing.spec import is_loopback
from .attempt import LIMIT
from .client import Client
from .provider_api import TIMEOUT, fetch, get, resolve_provider

LIST_AGE = 86_400.0  # seconds for which a list is cached on disk


@dataclass(frozen=True, slots=True)
class ProviderState:
    """The state of a provider on this machine. mode: api, local, or headless (a command-line program). key:
    where a key was found, never the key itself. answers: None where the server was not tried. note: why it is
    not ready. source: the file or package that defines it, "" for nbllm's own."""

    name: str
    label: str
    mode: str
    dialect: str
    base_url: str
    key: str | None
    answers: bool | None
    ready: bool
    note: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of a provider's list: its context window in tokens, and its prices in US dollars per million
    tokens; None where neither the provider, the price data nor the user's configuration knows."""

    name: str
    provider: str
    id: str
    context: int | None = None
    input_price: float | None = None
    output_price: float | None = None
    created: Any = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a provider is reachable and accepts the key, and the seconds until its answer. None where that
    is not known: it has no list of models, or a public one."""

    name: str
    mode: str
    reachable: bool
    authorised: bool | None
    seconds: float | None
    note: str = ""


# --- providers ----------------------------------------------------------------------------------------------


def provider_states(client: Client, *, connect: bool = True) -> list[ProviderState]:
    """The state of every provider. connect: try a connection to those with a key and the local ones (0.5 s,
    all at once)."""
    known = [_state(client, row) for row in client.registry.rows.values()]
    rows = client.registry.rows
    checks: dict[str, Future[bool]] = {
        s.name: client.check(client.registry.address(rows[s.name]))
        for s in known
        if connect and s.ready and s.mode != "headless" and not rows[s.name].folders
    }
    return [_with_reachability(s, checks[s.name].result()) if s.name in checks else s for s in known]


def _state(client: Client, row: ProviderSpec) -> ProviderState:
    address, key = client.registry.masked_address(row), client.registry.own_key(row)
    note = _unready_reason(client, row, address, key)
    return ProviderState(
        row.name,
        row.label or row.name,
        row.mode,
        row.dialect,
        address,
        key.source if key else None,
        None,
        not note,
        note
        or (
            f"{find_command(row.command[0])} with {'that key' if key else 'its own login'}"
            if row.command
            else "not asked"
        ),
        row.source,
    )


def _unready_reason(client: Client, row: ProviderSpec, address: str, key: Secret | None) -> str:
    """Why a provider is not ready; "" where it is, as far as is known."""
    if row.unavailable_reason:
        return row.unavailable_reason
    if row.pending_consent:
        return (
            f"{row.source} wants to use {', '.join(row.pending_consent)} at {address}: allow it with "
            f"`%llm key allow {row.name}`"
        )
    if "${" in address:
        return f"set {address.partition('${')[2].partition('}')[0]}"
    if row.command and shutil.which(row.command[0]) is None:
        return f"{row.command[0]} is not installed"
    if row.folders:
        return local_model_problem(client.registry.with_model_folders(row))
    if key is None and not row.local:
        return f"set {' or '.join(row.key_env) or 'a key'}" + (f" ({row.key_url})" if row.key_url else "")
    return ""


def _with_reachability(state: ProviderState, answers: bool) -> ProviderState:
    return replace(
        state,
        answers=answers,
        ready=answers,
        note="ready" if answers else f"nothing answers at {state.base_url}",
    )


def health(client: Client, name: str) -> Health:
    """Checks a provider by requesting its list of models. Raises ConfigError for an unknown provider."""
    if (files := client.registry.row(name)) is not None and files.folders:
        note = _unready_reason(client, files, "", None)
        return Health(files.name, files.mode, not note, None, None, note)
    route = resolve_provider(client, name)
    row = route.provider
    if row.command:
        return _command_health(client, row)
    started_at = time.perf_counter()
    try:
        if row.models:
            fetch(client, route, row.models)
        elif not client.check(row.base_url, TIMEOUT).result():
            return Health(row.name, row.mode, False, None, None, f"nothing answers at {row.display_url}")
    except (errors.AuthenticationError, errors.PermissionDenied) as error:
        return Health(row.name, row.mode, True, False, time.perf_counter() - started_at, error.message)
    except errors.TransportError as error:
        return Health(row.name, row.mode, False, None, None, error.message)
    except errors.NbllmError as error:
        return Health(
            row.name,
            row.mode,
            not isinstance(error, errors.ConfigError),
            None,
            time.perf_counter() - started_at,
            error.message,
        )
    return Health(
        row.name,
        row.mode,
        True,
        _key_is_needed(client, route) if row.models else None,
        time.perf_counter() - started_at,
    )


def _command_health(client: Client, row: ProviderSpec) -> Health:
    """Checks that the command runs, by its version. Whether it is logged in would take a prompt."""
    started_at = time.perf_counter()
    try:
        version = client.run(_version(client, row))
    except errors.NbllmError as error:
        return Health(row.name, row.mode, False, None, None, error.message)
    except TimeoutError:
        return Health(
            row.name,
            row.mode,
            False,
            None,
            None,
            f"{row.command[0]} --version did not end within {TIMEOUT:g} s",
        )
    return Health(
        row.name,
        row.mode,
        bool(version),
        None,
        time.perf_counter() - started_at,
        version or f"{row.command[0]} --version printed nothing",
    )


async def _version(client: Client, row: ProviderSpec) -> str:
    async with (
        asyncio.timeout(TIMEOUT),
        client.pool.transports.processes.open(
            ProcessCall((*row.command, "--version"), passthrough_env=allowed_passthrough(row)), Trace()
        ) as reply,
    ):
        frames = [frame async for batch in reply.frames() for frame in batch]
    return next((f.data.strip() for f in frames if not f.name), "")


def _key_is_needed(client: Client, route: Route) -> bool | None:
    """True where the list is refused without the key, so that the key was accepted; None where that is not
    known."""
    if client.registry.key_for(route, None) is None:
        return None
    try:
        get(client, replace(route.provider, local=True), route.provider.models, None)
    except (errors.AuthenticationError, errors.PermissionDenied):
        return True
    except errors.NbllmError:
        pass
    return None


def ping(client: Client, model: str, **options: Any) -> dict[str, Any]:
    """Asks `model` for one word and returns the measured seconds to connect, to the first token and in total,
    and the model that answered; `error` instead where it failed."""
    started_at = time.perf_counter()
    try:
        row = client.resolve(model, options.get("base_url"), options.get("dialect")).provider
        short = {} if row.command or row.mode == "remote" else {"max_tokens": 64}  # agents take no limit
        stream = client.stream(
            "Answer with the single word: pong", model, **{**short, "retries": 0, **options}
        )
        response = stream.response()
    except errors.NbllmError as error:
        return {
            "asked": model,
            "ok": False,
            "total": time.perf_counter() - started_at,
            "error": error.message,
        }
    t = response.timing
    return {
        "asked": model,
        "ok": True,
        "model": response.model,
        "connect": t.connect,
        "ttft": t.ttft,
        "total": t.total,
        "text": response.text.strip()[:40],
        "simulated": response.simulated,
    }


# --- models -------------------------------------------------------------------------------------------------


def list_models(
    client: Client, prefix: str = "", *, cache: Path | None = None, fresh: bool = False
) -> list[ModelInfo]:
    """The models whose full name starts with `prefix`. "groq/" or "groq/lla" requests that provider's list,
    "" those of all ready providers, without those that do not answer. Lists are cached for a day in `cache`
    (None: the platform's cache folder, and then not the lists of this machine's servers); `fresh` requests
    them again. Raises the provider's error where one provider was named."""
    provider = provider_prefix(prefix) or prefix
    slash, rest = prefix[len(provider) : len(provider) + 1], prefix[len(provider) + 1 :]
    if not provider:
        ready = [s.name for s in provider_states(client) if s.ready]
        return [m for name in ready for m in _models_of(client, name, cache, fresh, strict=False)]
    row = client.registry.row(provider)
    if row is None:
        raise client.registry.unknown_provider(provider)
    models = _models_of(client, row.name, cache, fresh, strict=True)
    return [m for m in models if m.id.startswith(rest)] if slash else models


def _models_of(
    client: Client, name: str, cache: Path | None, fresh: bool, *, strict: bool
) -> list[ModelInfo]:
    if (files := client.registry.with_model_folders(client.registry.rows[name])).folders:
        return [
            ModelInfo(full, name, full.partition("/")[2], created=round(file.modified))
            for full, file in list_model_files(files).items()
        ]
    try:
        route = resolve_provider(client, name)
        row = route.provider
        if not row.models:
            raise errors.ConfigError(
                f"{row.label or row.name} has no list of models.",
                hint="See its documentation for their names.",
            )
        models = _cached_list(
            client,
            route,
            cache,
            fresh,
            lambda: [asdict(m) for m in _parse_models(row.name, fetch(client, route, row.models))],
        )
    except errors.NbllmError:
        if strict:
            raise
        return []
    return sorted((_with_known_facts(ModelInfo(**m), row) for m in models), key=lambda m: m.id)


def _cached_list(
    client: Client,
    route: Route,
    cache: Path | None,
    fresh: bool,
    fetch_list: Callable[[], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """The list from the disk, or a new one. It holds nothing of a key; its file's name depends on the address
    and on where the key was found, because lists differ by account."""
    row = route.provider
    if route.simulated or (cache is None and is_loopback(row.base_url)):
        return fetch_list()
    key = client.registry.key_for(route, None)
    digest = hashlib.sha256(
        f"{row.name} {row.base_url}{row.models} {key.source if key else ''}".encode()
    ).hexdigest()[:16]
    path = (cache or _cache_folder()) / f"models-{row.name.replace('/', '_')}-{digest}.json"
    if not fresh and (models := _read_cached(path)) is not None:
        return models
    models = fetch_list()
    with contextlib.suppress(OSError):  # it cannot be cached: the next call requests it again
        write_atomic(path, json.dumps(models))
    return models


def _cache_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("nbllm", appauthor=False)


def _read_cached(path: Path) -> list[dict[str, Any]] | None:
    try:
        if time.time() - path.stat().st_mtime > LIST_AGE:
            return None
        models = json.loads(read_small_file(path, LIMIT))
        return (
            models
            if isinstance(models, list)
            and all(isinstance(m, dict) and set(m) == set(ModelInfo.__slots__) for m in models)
            else None
        )
    except (OSError, ValueError, RecursionError):
        return None


def _parse_models(provider: str, value: Any) -> Iterable[ModelInfo]:
    if isinstance(value, Mapping) and value.get("error") and not (value.get("data") or value.get("models")):
        raise provider_error(Endpoint(provider, "", ""), value)
    entries = (value.get("data") or value.get("models")) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and isinstance(value.get("providers"), list):  # OpenCode's, by provider
        entries = [
            {"id": f"{p.get('id')}/{m}", "context_length": obj(obj(facts).get("limit")).get("context")}
            for p in items(value["providers"])
            for m, facts in obj(p.get("models")).items()
        ]
    for entry in items(entries):
        name = label(entry.get("id")) or label(entry.get("name"))
        if name:
            sizes = (
                count(entry.get(n))
                for n in (
                    "inputTokenLimit",
                    "context_length",
                    "context_window",
                    "max_model_len",
                    "max_context_length",
                )
            )
            short = name.removeprefix("models/")
            yield ModelInfo(
                f"{provider}/{short}",
                provider,
                short,
                next((s for s in sizes if s), None),
                created=entry.get("created") or entry.get("created_at") or entry.get("modified_at"),
            )


def _with_known_facts(model: ModelInfo, row: ProviderSpec) -> ModelInfo:
    """The model with its prices and context window. The user's own figure for the context takes precedence
    over the list's, and the list's over the price data's."""
    own, facts = row.facts.get(model.id), prices.facts(model.id, row)
    context = own.context if own and own.context is not None else model.context or facts.context
    return replace(model, context=context, input_price=facts.input, output_price=facts.output)
