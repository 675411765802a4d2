"""One provider's table in TOML, read into a Provider entry by entry; what is wrong is named with what was
expected."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

from ..core.calls import SECRET_HEADERS, ModelFacts, OAuth, Provider, Quirks, origin, same_host
from ..core.errors import ConfigError
from .dialects import DIALECTS

BUILT_IN = ""  # the source of nbllm's own rows
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-/]*")


class EntryError(ConfigError):
    """A wrong entry in a provider's table; `entry` is its name."""

    def __init__(self, entry: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


def _text(value: Any) -> str:
    if (
        not isinstance(value, str) or not value.isprintable()
    ):  # it may be printed: escapes could do things to a terminal
        raise TypeError("text in quotes, on one line")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(v, str) and v.isprintable() for v in values
    ):
        raise TypeError('a list of texts, such as ["A", "B"]')
    return tuple(values)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _pairs(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(v, str) and v.isprintable() and k.isprintable() for k, v in value.items()
    ):
        raise TypeError('a table of texts, such as { name = "value" }')
    return dict(value)


def _address(value: Any) -> str:
    text = _text(value)
    if not re.match(r"https?://|\$\{", text) or re.search(r"[\s@\\?#]", text):
        raise TypeError(
            "an address such as https://host/v1, without a key in it (what follows a ? stands in `query`)"
        )
    return text.rstrip("/")


def _path(value: Any) -> str:
    """A path that can be put after an address and leads nowhere but to the same server."""
    text = _text(value)
    if re.search(r"^[^/]|^//|[\s\\#]|\.\.|\$\{|%(?:2e|2f|5c|0|1)", text, re.IGNORECASE):
        raise TypeError('a path such as "/models", or "" for none')
    return text


def _header(value: Any) -> str:
    if _text(value).lower() not in SECRET_HEADERS:
        raise TypeError(f"one of {', '.join(sorted(SECRET_HEADERS))}, which are never shown")
    return str(value)


def _quirks(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("a table, such as { stream_usage = false }")
    for name, given in value.items():
        if name not in Quirks.__slots__ or (kind := type(getattr(Quirks(), name))) is not (
            tuple if isinstance(given, list) else type(given)
        ):
            raise TypeError(
                f"quirks out of {', '.join(Quirks.__slots__)}"
                if name not in Quirks.__slots__
                else f"{name} to be of type {kind.__name__}"
            )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def _facts(value: Any) -> dict[str, ModelFacts]:
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise TypeError('tables by the models\' names, such as model."NAME" = { context = 128000 }')
    for facts in value.values():
        wrong = next(
            (
                k
                for k, v in facts.items()
                if k not in ModelFacts.__slots__
                or isinstance(v, bool)
                or not isinstance(v, (int, float))
                or v < 0
            ),
            None,
        )
        if wrong:
            raise TypeError(f"numbers for {', '.join(ModelFacts.__slots__)}, not {wrong}")
    return {name: ModelFacts(**facts) for name, facts in value.items()}


def _oauth(value: Any) -> OAuth:
    known = {"client_id", "token_url", "device_url", "authorize_url", "scopes"}
    if (
        not isinstance(value, Mapping)
        or not {"client_id", "token_url"} <= set(value) <= known
        or not {"device_url", "authorize_url"} & set(value)
    ):
        raise TypeError(
            f"a table of client_id, token_url, device_url or authorize_url, and perhaps scopes, not "
            f"{sorted(value) if isinstance(value, Mapping) else value!r}"
        )
    for name in ("token_url", "device_url", "authorize_url"):
        url = value.get(name)
        if url is not None and not (
            isinstance(url, str)
            and (url.startswith("https://") or (url.startswith("http://") and is_loopback(url)))
        ):
            raise TypeError(f"an https address in {name}")
    return OAuth(
        _text(value["client_id"]),
        value["token_url"],
        value.get("device_url", ""),
        value.get("authorize_url", ""),
        _texts(value.get("scopes", [])),
    )


_READERS: dict[str, Callable[[Any], Any]] = {
    "dialect": _text,
    "base_url": _address,
    "key_header": _header,
    "quirks": _quirks,
    "model": _facts,
    "local": _truth,
    "oauth": _oauth,
    "models": _path,
    **dict.fromkeys(("label", "default_model", "key_url", "price", "opencode", "refused"), _text),
    **dict.fromkeys(("base_url_env", "key_env", "prefixes", "bare", "verified", "command", "passes"), _texts),
    **dict.fromkeys(("headers", "query"), _pairs),
}


def provider_row(
    name: str,
    table: Any,
    below: Provider | None = None,
    source: str = "here",
    dialects: Iterable[str] = DIALECTS,
) -> Provider:
    """The Provider that a table describes, entry by entry over the row `below`, if there is one: where it
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
        raise _wrong(name, "dialect", f"one of {', '.join(dialects)}")
    if given.get("command") and below is None:
        given = {
            "base_url": f"cli://{given['command'][0]}",
            "dialect": "cli_text",
            "local": True,
            "models": "",
            **given,
        }
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
            held=(),
            oauth=None,
            passes=(),
            shipped="",
        )
    old = below or Provider(name, "openai_chat", given["base_url"], models="/models")
    shipped = (
        origin(given["base_url"])
        if source == BUILT_IN
        else old.shipped
        if given.get("opencode", old.opencode) == old.opencode
        else ""
    )
    return replace(
        old,
        **given,
        facts={**old.facts, **facts},
        quirks=replace(old.quirks, **quirks),
        source=source,
        shipped=shipped,
    )


def _read(name: str, entry: str, value: Any) -> Any:
    reader = _READERS.get(entry)
    if reader is None:
        near = difflib.get_close_matches(entry, _READERS, 1)
        raise EntryError(
            entry,
            f"Provider {name!r} has an unknown entry {entry!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else f"Expected {', '.join(_READERS)}.",
        )
    try:
        return reader(value)
    except TypeError as error:
        raise _wrong(name, entry, error) from None


def _wrong(name: str, entry: str, expected: object) -> EntryError:
    return EntryError(entry, f"Provider {name!r} has a wrong {entry!r}.", hint=f"Expected {expected}.")


def spent(row: Provider) -> set[str]:
    """The environment variables that a row would send or go by."""
    values = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("held", "source", "facts")}
    return {*row.key_env, *row.base_url_env, *row.passes, *(m[1] for m in _VARIABLE.finditer(str(values)))}


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
            return (found or match[2]).rstrip("/") if match.start() == 0 else found or match[2]
        missing.append(match[1])
        return match[0]

    return _VARIABLE.sub(value, text), missing
