"""One provider's table in TOML, read into a ProviderSpec entry by entry; what is wrong is named with what was
expected."""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..core.calls import AGENT, SECRET_HEADERS, ModelFacts, OAuth, ProviderSpec, Quirks, origin, same_host
from ..core.errors import ConfigError, did_you_mean, similar_names
from ..dialects._limits import WINDOWS
from ..dialects.batches import FORMATS
from .base_urls import without
from .dialects import DIALECTS

BUILT_IN = ""  # the source of nbllm's own rows
HERE = "http://127.0.0.1"  # the address of models in files
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-/]*")


class EntryError(ConfigError):
    """A wrong entry in a provider's table; `entry` is its name."""

    def __init__(self, entry: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


def _reader(
    kind: Any, expected: str, fits: Callable[[Any], bool] = lambda _found: True
) -> Callable[[Any], Any]:
    """A reader of an entry as msgspec converts it, without unknown names. Raises TypeError with what was
    expected."""
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else set()

    def read(value: Any) -> Any:
        try:
            found = msgspec.convert(value, kind)
        except msgspec.ValidationError:
            raise TypeError(expected) from None
        odd = next((repr(name)[:40] for name in value if name not in known), "") if known else ""
        if odd or not fits(found):
            raise TypeError(f"{expected}, not {odd}" if odd else expected)
        return found

    return read


def _printable(found: str | Iterable[str]) -> bool:
    """It may be printed: escapes could do things to a terminal."""
    return "".join(found).isprintable()


_text = _reader(str, "text in quotes, on one line", _printable)
_truth = _reader(bool, "true or false")
_list = _reader(str | tuple[str, ...], 'a list of texts, such as ["A", "B"]', _printable)
_pairs = _reader(
    dict[str, str],
    'a table of texts, such as { name = "value" }',
    lambda found: _printable(found) and _printable(found.values()),
)
_tables = _reader(
    dict[str, dict[str, Any]], 'tables by the models\' names, such as model."NAME" = { context = 128000 }'
)
_numbers = _reader(
    ModelFacts,
    f"numbers of at least 0 for {', '.join(ModelFacts.__slots__)}",
    lambda found: all(v is None or v >= 0 for v in astuple(found)),
)
_TOML = {"str": "text", "bool": "true or false", "tuple[str, ...]": "list of texts"}
_settings = _reader(
    Quirks, f"quirks out of {', '.join(f'{f.name} ({_TOML[str(f.type)]})' for f in fields(Quirks))}"
)
_login = _reader(
    OAuth,
    "a table of client_id, token_url, device_url or authorize_url, and perhaps a list of scopes",
    lambda found: _printable(found.client_id) and bool(found.device_url or found.authorize_url),
)


def _texts(value: Any) -> tuple[str, ...]:
    found: str | tuple[str, ...] = _list(value)
    return (found,) if isinstance(found, str) else found


def _address(value: Any) -> str:
    text: str = _text(value)
    if not re.match(r"https?://|\$\{", text) or re.search(r"[\s@\\?#]", text):
        raise TypeError(
            "an address such as https://host/v1, without a key in it (what follows a ? stands in `query`)"
        )
    return text.rstrip("/")


def _path(value: Any) -> str:
    """A path that can be put after an address and leads nowhere but to the same server."""
    text: str = _text(value)
    if re.search(r"^[^/]|^//|[\s\\#]|\.\.|\$\{|%(?:2e|2f|5c|0|1)", text, re.IGNORECASE):
        raise TypeError('a path such as "/models", or "" for none')
    return text


def _header(value: Any) -> str:
    if _text(value).lower() not in SECRET_HEADERS:
        raise TypeError(f"one of {', '.join(sorted(SECRET_HEADERS))}, which are never shown")
    return str(value)


def _batch(value: Any) -> str:
    if value not in ("", *FORMATS):
        raise TypeError(f'one of {", ".join(FORMATS)}, or "" for none')
    return str(value)


def _quirks(value: Any) -> dict[str, Any]:
    found = _settings(value)
    if any(said.partition("/")[2] not in WINDOWS for said in found.limits):
        raise TypeError('limits such as "requests/day"')
    return {name: getattr(found, name) for name in value}


def _oauth(value: Any) -> OAuth:
    found: OAuth = _login(value)
    for name in ("token_url", "device_url", "authorize_url"):
        url = getattr(found, name)
        if name in value and not (
            url.startswith("https://") or (url.startswith("http://") and is_loopback(url))
        ):
            raise TypeError(f"an https address in {name}")
    return found


_READERS: dict[str, Callable[[Any], Any]] = {
    "dialect": _text,
    "base_url": _address,
    "key_header": _header,
    "batch": _batch,
    "quirks": _quirks,
    "model": lambda value: {name: _numbers(facts) for name, facts in _tables(value).items()},
    "local": _truth,
    "oauth": _oauth,
    "models": _path,
    **dict.fromkeys(("label", "default_model", "key_url", "price", "opencode", "refused"), _text),
    **dict.fromkeys(
        (
            "base_url_env",
            "timeout_env",
            "key_env",
            "prefixes",
            "bare",
            "verified",
            "command",
            "passes",
            "folders",
        ),
        _texts,
    ),
    **dict.fromkeys(("headers", "query", "embeddings"), _pairs),
}


def provider_row(
    name: str,
    table: Any,
    below: ProviderSpec | None = None,
    source: str = "here",
    dialects: Iterable[str] = DIALECTS,
) -> ProviderSpec:
    """The ProviderSpec that a table describes, entry by entry over the row `below`, if there is one: where it
    moves to another host, that row's variables, headers and stored keys stay behind. Raises ConfigError for
    what is wrong, EntryError where it is one entry."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no provider's name.", hint="Expected small letters, digits, - and _.")
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"Provider {name!r} is no table.",
            hint=f"Expected [provider.{name}] with base_url and key_env under it.",
        )
    given = {entry: _read(name, entry, value) for entry, value in table.items()}
    if "dialect" in given and given["dialect"] not in dialects:
        raise EntryError(
            "dialect",
            f"Provider {name!r} has a wrong 'dialect': none is called {given['dialect']!r}.",
            hint=did_you_mean(given["dialect"], dialects),
        )
    if given.get("command") and below is None:
        given = {
            "base_url": f"cli://{given['command'][0]}",
            "dialect": "cli_text",
            "local": True,
            "models": "",
            **given,
        }
    if below is None and name.startswith("remote/"):
        keyless = not given.get("key_env")
        given = {"dialect": "a2a", "default_model": AGENT, "models": "", "local": keyless, **given}
    if "folders" in given:
        given = {**({"base_url": HERE} if below is None else {}), "local": True, "models": "", **given}
        beside = Path(source).parent  # where no full path is given
        given["folders"] = tuple(
            f if f.startswith(("~", "$")) else os.path.abspath(beside / f) for f in given["folders"]
        )
    elif "base_url" in given:  # a server of the user's own, whatever the row was before
        given["folders"] = ()
    if below is None and "base_url" not in given:
        raise ConfigError(
            f"Provider {name!r} lacks 'base_url'.",
            hint='Add base_url = "https://host/v1" to its table, or command = ["NAME"] for a command-line '
            "program.",
        )
    facts, quirks = given.pop("model", {}), given.pop("quirks", {})
    if below is not None and not same_host(given.get("base_url", below.base_url), below.base_url):
        below = replace(
            below,
            key_env=(),
            base_url_env=(),
            opencode="",
            key_url="",
            refused="",
            headers={},
            query={},
            verified=(),
            pending_consent=(),
            oauth=None,
            passes=(),
            builtin_origin="",
        )
    old = below or ProviderSpec(name, "openai_chat", given["base_url"], models="/models")
    shipped = (
        origin(given["base_url"])
        if source == BUILT_IN
        else old.builtin_origin
        if given.get("opencode", old.opencode) == old.opencode
        else ""
    )
    return replace(
        old,
        **given,
        facts={**old.facts, **facts},
        quirks=replace(old.quirks, **quirks),
        source=source,
        builtin_origin=shipped,
    )


def _read(name: str, entry: str, value: Any) -> Any:
    reader = _READERS.get(entry)
    if reader is None:
        near = similar_names(entry, _READERS)
        raise EntryError(
            entry,
            f"Provider {name!r} has an unknown entry {entry!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Expected {', '.join(_READERS)}.",
        )
    try:
        return reader(value)
    except TypeError as error:
        raise EntryError(
            entry, f"Provider {name!r} has a wrong {entry!r}.", hint=f"Expected {error}."
        ) from None


def spent(row: ProviderSpec) -> set[str]:
    """The environment variables that a row would send or go by."""
    values = {
        f.name: getattr(row, f.name)
        for f in fields(row)
        if f.name not in ("pending_consent", "source", "facts")
    }
    return {*row.key_env, *row.base_url_env, *row.passes, *(m[1] for m in _VARIABLE.finditer(str(values)))}


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return _is_own(urlsplit(url).hostname or "")
    except ValueError:
        return False


@functools.lru_cache(256)  # each call asks
def _is_own(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def variables(text: str, env: Mapping[str, str], held: Iterable[str] = ()) -> list[str]:
    """The values of the variables that stand in `text` and are set."""
    return [v for m in _VARIABLE.finditer(text) if m[1] not in held and (v := env.get(m[1], "").strip())]


def filled(text: str, env: Mapping[str, str], held: Iterable[str] = ()) -> tuple[str, list[str]]:
    """(`text` with its variables filled in, the names of those that are not set). Held variables count as not
    set."""
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        found = "" if match[1] in held else env.get(match[1], "").strip()
        if found or match[2] is not None:
            return (
                without(found or match[2], text[match.end() :]) if match.start() == 0 else found or match[2]
            )
        missing.append(match[1])
        return match[0]

    return _VARIABLE.sub(value, text), missing
