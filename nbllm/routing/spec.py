"""Parses a provider's TOML table into a ProviderSpec, entry by entry; an error names the entry and what was
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
from .base_urls import without_suffix
from .dialects import DIALECTS

BUILT_IN = ""  # the source of nbllm's own rows
LOCAL_FILES_URL = "http://127.0.0.1"  # base_url of rows whose models are files
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-/]*")


class EntryError(ConfigError):
    """An invalid entry in a provider's table; `entry` is its name."""

    def __init__(self, entry: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


def _make_parser(
    kind: Any, expected: str, is_valid: Callable[[Any], bool] = lambda _parsed: True
) -> Callable[[Any], Any]:
    """A parser of entries of type `kind` by msgspec, which rejects unknown fields. It raises TypeError with
    the text `expected`."""
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else set()

    def parse(value: Any) -> Any:
        try:
            parsed = msgspec.convert(value, kind)
        except msgspec.ValidationError:
            raise TypeError(expected) from None
        unknown = next((repr(name)[:40] for name in value if name not in known), "") if known else ""
        if unknown or not is_valid(parsed):
            raise TypeError(f"{expected}, not {unknown}" if unknown else expected)
        return parsed

    return parse


def _is_printable(parsed: str | Iterable[str]) -> bool:
    """Whether the text can be printed safely: it holds no terminal escapes."""
    return "".join(parsed).isprintable()


_parse_text = _make_parser(str, "text in quotes, on one line", _is_printable)
_parse_bool = _make_parser(bool, "true or false")
_parse_list = _make_parser(str | tuple[str, ...], 'a list of texts, such as ["A", "B"]', _is_printable)
_parse_pairs = _make_parser(
    dict[str, str],
    'a table of texts, such as { name = "value" }',
    lambda pairs: _is_printable(pairs) and _is_printable(pairs.values()),
)
_parse_model_tables = _make_parser(
    dict[str, dict[str, Any]], 'tables by the models\' names, such as model."NAME" = { context = 128000 }'
)
_parse_facts = _make_parser(
    ModelFacts,
    f"numbers of at least 0 for {', '.join(ModelFacts.__slots__)}",
    lambda facts: all(v is None or v >= 0 for v in astuple(facts)),
)
_TOML_TYPES = {"str": "text", "bool": "true or false", "tuple[str, ...]": "list of texts"}
_parse_quirks_table = _make_parser(
    Quirks, f"quirks out of {', '.join(f'{f.name} ({_TOML_TYPES[str(f.type)]})' for f in fields(Quirks))}"
)
_parse_oauth_table = _make_parser(
    OAuth,
    "a table of client_id, token_url, device_url or authorize_url, and perhaps a list of scopes",
    lambda oauth: _is_printable(oauth.client_id) and bool(oauth.device_url or oauth.authorize_url),
)


def _parse_texts(value: Any) -> tuple[str, ...]:
    texts: str | tuple[str, ...] = _parse_list(value)
    return (texts,) if isinstance(texts, str) else texts


def _parse_address(value: Any) -> str:
    text: str = _parse_text(value)
    if not re.match(r"https?://|\$\{", text) or re.search(r"[\s@\\?#]", text):
        raise TypeError(
            "an address such as https://host/v1, without a key in it (what follows a ? belongs in `query`)"
        )
    return text.rstrip("/")


def _parse_path(value: Any) -> str:
    """A path that can be appended to an address and stays on the same server."""
    text: str = _parse_text(value)
    if re.search(r"^[^/]|^//|[\s\\#]|\.\.|\$\{|%(?:2e|2f|5c|0|1)", text, re.IGNORECASE):
        raise TypeError('a path such as "/models", or "" for none')
    return text


def _parse_key_header(value: Any) -> str:
    if _parse_text(value).lower() not in SECRET_HEADERS:
        raise TypeError(f"one of {', '.join(sorted(SECRET_HEADERS))}, which are never shown")
    return str(value)


def _parse_batch_format(value: Any) -> str:
    if value not in ("", *FORMATS):
        raise TypeError(f'one of {", ".join(FORMATS)}, or "" for none')
    return str(value)


def _parse_quirks(value: Any) -> dict[str, Any]:
    quirks = _parse_quirks_table(value)
    if any(limit.partition("/")[2] not in WINDOWS for limit in quirks.limits):
        raise TypeError('limits such as "requests/day"')
    return {name: getattr(quirks, name) for name in value}


def _parse_oauth(value: Any) -> OAuth:
    oauth: OAuth = _parse_oauth_table(value)
    for name in ("token_url", "device_url", "authorize_url"):
        url = getattr(oauth, name)
        if name in value and not (
            url.startswith("https://") or (url.startswith("http://") and is_loopback(url))
        ):
            raise TypeError(f"an https address in {name}")
    return oauth


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "dialect": _parse_text,
    "base_url": _parse_address,
    "key_header": _parse_key_header,
    "batch": _parse_batch_format,
    "quirks": _parse_quirks,
    "model": lambda value: {name: _parse_facts(facts) for name, facts in _parse_model_tables(value).items()},
    "local": _parse_bool,
    "oauth": _parse_oauth,
    "models": _parse_path,
    **dict.fromkeys(("label", "default_model", "key_url", "price", "opencode", "refused"), _parse_text),
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
        _parse_texts,
    ),
    **dict.fromkeys(("headers", "query", "embeddings"), _parse_pairs),
}
# TOML entries whose field of ProviderSpec has another name.
_FIELDS = {"passes": "passthrough_env", "refused": "unavailable_reason"}


def field_of(entry: str) -> str:
    """The field of ProviderSpec that a TOML entry sets."""
    return _FIELDS.get(entry, entry)


def provider_row(
    name: str,
    table: Any,
    base: ProviderSpec | None = None,
    source: str = "here",
    dialects: Iterable[str] = DIALECTS,
) -> ProviderSpec:
    """The ProviderSpec of a table, whose entries override those of the row `base`, if there is one. Where the
    table moves the row to another host, the variables, headers and stored keys of `base` are not inherited.
    Raises ConfigError for an invalid table, EntryError for an invalid entry."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid provider name.", hint="Expected lower-case letters, digits, - and _."
        )
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"Provider {name!r} is not a table.",
            hint=f"Expected [provider.{name}] with base_url and key_env under it.",
        )
    entries = {field_of(entry): _parse_entry(name, entry, value) for entry, value in table.items()}
    if "dialect" in entries and entries["dialect"] not in dialects:
        raise EntryError(
            "dialect",
            f"Provider {name!r} has an invalid 'dialect': none is called {entries['dialect']!r}.",
            hint=did_you_mean(entries["dialect"], dialects),
        )
    if base is None and entries.get("command"):
        entries = {
            "base_url": f"cli://{entries['command'][0]}",
            "dialect": "cli_text",
            "local": True,
            "models": "",
            **entries,
        }
    if base is None and name.startswith("remote/"):
        keyless = not entries.get("key_env")
        entries = {"dialect": "a2a", "default_model": AGENT, "models": "", "local": keyless, **entries}
    if "folders" in entries:
        url = LOCAL_FILES_URL if base is None else base.base_url
        entries = {"base_url": url, "local": True, "models": "", **entries}
        config_folder = Path(source).parent  # relative folders start here
        entries["folders"] = tuple(
            f if f.startswith(("~", "$")) else os.path.abspath(config_folder / f) for f in entries["folders"]
        )
    elif "base_url" in entries:  # the row is now a server, even if it was a folder of models
        entries["folders"] = ()
    if base is None and "base_url" not in entries:
        raise ConfigError(
            f"Provider {name!r} lacks 'base_url'.",
            hint='Add base_url = "https://host/v1" to its table, or command = ["NAME"] for a command-line '
            "program.",
        )
    facts, quirks = entries.pop("model", {}), entries.pop("quirks", {})
    if base is not None and not same_host(entries.get("base_url", base.base_url), base.base_url):
        base = replace(
            base,
            key_env=(),
            base_url_env=(),
            opencode="",
            key_url="",
            unavailable_reason="",
            headers={},
            query={},
            verified=(),
            pending_consent=(),
            oauth=None,
            passthrough_env=(),
            builtin_origin="",
        )
    old = base or ProviderSpec(name, "openai_chat", entries["base_url"], models="/models")
    keeps_store_name = entries.get("opencode", old.opencode) == old.opencode
    builtin_origin = old.builtin_origin if keeps_store_name else ""
    return replace(
        old,
        **entries,
        facts={**old.facts, **facts},
        quirks=replace(old.quirks, **quirks),
        source=source,
        builtin_origin=origin(entries["base_url"]) if source == BUILT_IN else builtin_origin,
    )


def _parse_entry(name: str, entry: str, value: Any) -> Any:
    parse = _PARSERS.get(entry)
    if parse is None:
        near = similar_names(entry, _PARSERS)
        raise EntryError(
            entry,
            f"Provider {name!r} has an unknown entry {entry!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Expected {', '.join(_PARSERS)}.",
        )
    try:
        return parse(value)
    except TypeError as error:
        raise EntryError(
            entry, f"Provider {name!r} has an invalid {entry!r}.", hint=f"Expected {error}."
        ) from None


def referenced_env(row: ProviderSpec) -> set[str]:
    """The environment variables whose values a row may send, or whose values change where it leads."""
    skipped = ("pending_consent", "source", "facts")
    values = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in skipped}
    names = (m[1] for m in _VARIABLE.finditer(str(values)))
    return {*row.key_env, *row.base_url_env, *row.passthrough_env, *names}


def is_loopback(url: str) -> bool:
    """Whether an address belongs to this machine."""
    try:
        return _is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False


@functools.lru_cache(256)  # needed for every call
def _is_loopback_host(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def env_values(text: str, env: Mapping[str, str], blocked: Iterable[str] = ()) -> list[str]:
    """The values of the variables in `text` that are set and not blocked."""
    return [v for m in _VARIABLE.finditer(text) if m[1] not in blocked and (v := env.get(m[1], "").strip())]


def expand_env(text: str, env: Mapping[str, str], blocked: Iterable[str] = ()) -> tuple[str, list[str]]:
    """(`text` with its variables replaced by their values, the names of those that are not set). Blocked
    variables count as not set."""
    missing: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        value = ("" if match[1] in blocked else env.get(match[1], "").strip()) or match[2]
        if value is None:
            missing.append(match[1])
            return match[0]
        return without_suffix(value, text[match.end() :]) if match.start() == 0 else value

    return _VARIABLE.sub(replacement, text), missing
