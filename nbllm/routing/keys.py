"""Where a provider's key comes from: a table of sources, asked in order. A key is held as a Secret and shown
masked; its source is no secret.

The order: given with the call, typed in this session, the environment, `.env` beside the notebook, the
system's keyring, a login (OAuth 2), Colab's secrets, OpenCode's auth.json. VS Code's secret storage is closed
to kernels, so it is none of them.

A key goes to its own address only: what is found is a Secret with its origin, and wire.Guard compares that
with the address that is really sent. In the keyring a key lies under its origin (https://api.openai.com), so
no other row finds it there; OpenCode's keys belong to the address that nbllm's own row has; a variable that a
project's file names waits for the user's consent (`ProviderSpec.pending_consent`). A key in `.env` may have
come with the folder (`Secret.from_project`): `auto` prefers all others.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..core.calls import ProviderSpec, Secret, origin, same_host
from ..core.errors import AuthenticationError, ConfigError
from .base_urls import bare
from .files import read_small
from .key_stores import SERVICE, KeyStores, read_dotenv

__all__ = [
    "SOURCES",
    "KeyStores",
    "Source",
    "drop",
    "find",
    "forget",
    "keep",
    "origin",
    "read_dotenv",
    "remember",
    "same_host",
    "where",
]

_BEARERS = frozenset(
    {"openai_chat", "openai_responses", "cohere", "ollama"}
)  # dialects that can carry an access token


# Keys given by hand (`%llm key NAME`), by provider name: every client of the process finds them.
_typed_here: dict[str, Secret] = {}


def remember(provider: str, key: str, address: str = "") -> None:
    """Keeps a key that was typed, in memory, for the server at `address` where one is given."""
    _typed_here[provider] = Secret(key, "this session", origin(address) if address else "")


def forget(provider: str) -> bool:
    """Drops a key that was typed; False where there was none."""
    return _typed_here.pop(provider, None) is not None


# --- the sources --------------------------------------------------------------------------------------------


def _names(row: ProviderSpec) -> Iterator[str]:
    return (name for name in row.key_env if name not in row.pending_consent)


def _environment(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    return next(
        (Secret(stores.env[n].strip(), n) for n in _names(row) if stores.env.get(n, "").strip()), None
    )


def _dotenv(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    for folder in stores.folders() if row.key_env else ():
        path = folder / ".env"
        values = stores.dotenv(path)
        found = next((n for n in _names(row) if values.get(n, "").strip()), None)
        if found:
            return Secret(values[found].strip(), f"{found} in {path}", from_project=True)
    return None


def _ring(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    ring = stores.keyring()
    if ring is None or (row.local and not row.key_env) or row.needs_consent:
        return None
    found = stores.cached_lookup(
        "keyring", origin(address), lambda: ring.get_password(SERVICE, origin(address))
    )
    return Secret(found, "the keyring") if found else None


def _secrets(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    for name in _names(row) if stores.colab else ():
        found = stores.cached_lookup("colab", name, lambda name=name: stores.colab(name)).strip()  # type: ignore[misc]
        if found:
            return Secret(found, f"{name} in Colab's secrets")
    return None


def _opencode(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    """An api key, or an access token that has not expired (`expires` is in milliseconds, 0 for never)."""
    if (
        not row.opencode
        or stores.auth is None
        or not row.builtin_origin
        or origin(address) != row.builtin_origin
    ):
        return None
    entry = _read_json(stores.auth).get(row.opencode)
    if not isinstance(entry, dict):
        return None
    if entry.get("type") == "api" and isinstance(entry.get("key"), str) and entry["key"].strip():
        return Secret(entry["key"].strip(), "OpenCode's auth.json")
    until, token = entry.get("expires"), entry.get("access")
    if entry.get("type") != "oauth" or row.dialect not in _BEARERS or not isinstance(token, str) or not token:
        return None
    fresh = isinstance(until, (int, float)) and (until == 0 or until / 1000 > time.time() + 60)
    return Secret(token, "OpenCode's auth.json (a login)") if fresh else None


def _login(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    """The token of a login, renewed where it has ended. Raises AuthenticationError where it cannot be."""
    if row.oauth is None or row.dialect not in _BEARERS or row.needs_consent:
        return None
    from . import oauth

    return oauth.access(row, origin(address), stores)


class Source(msgspec.Struct, frozen=True):
    """One place that may hold a key. `slow`: it asks another process or the user, so it is not asked while
    typing."""

    name: str
    look: Callable[[ProviderSpec, str, KeyStores], Secret | None]
    slow: bool = False


SOURCES = (
    Source("environment", _environment),
    Source(".env", _dotenv),
    Source("keyring", _ring, slow=True),
    Source("login", _login, slow=True),
    Source("Colab", _secrets, slow=True),
    Source("OpenCode", _opencode),
)


def find(
    row: ProviderSpec,
    stores: KeyStores,
    explicit: str | Secret | None = None,
    *,
    address: str | None = None,
    quick: bool = False,
) -> Secret | None:
    """The key for `row` at `address` (its own where none is given), which it belongs to: given explicitly,
    else typed in this session, else from the sources in their order; None where there is none. `quick` leaves
    slow sources out. Raises ConfigError for what cannot be a key."""
    address = address or row.base_url
    if explicit is not None:
        found: Secret | None = explicit if isinstance(explicit, Secret) else Secret(explicit)
    else:
        looks = (s.look(row, address, stores) for s in SOURCES if not (quick and s.slow))
        found = _typed(row, address) or next((key for key in looks if key is not None), None)
    key, wrong = _usable(found, row, address) if found else (None, None)
    if wrong is not None:
        address = ""  # tracebacks that show local variables would show it
        raise wrong
    return key


_PASSWORDS = frozenset({"opencode_server"})  # dialects whose key is a password of any letters


# What is copied along with a key: an assignment, a header's name, what ends a line.
_BESIDE = (
    r"^(?:export\s+|set\s+|\$env:)?[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+(?:\s*=\s*|:\s+|\":\s*\")(?=\S{8})",
    r"^(?i:authorization|x-api-key|api-key|x-goog-api-key)\s*:",
    r"^(?i:bearer)(?:\s+|$)|^(?i:token|api-?key)\s+(?=\S{8})",
    r"\s#\s.*$",
    r"[;,]$",
)
_BESIDE_IT = re.compile("|".join(f"(?:{p})" for p in _BESIDE))
# What stands where a key will be: <your key>, $NAME, os.environ/NAME, YOUR_API_KEY, sk-...abcd, sk-****abcd,
# a vault's own address.
_PLACEHOLDER = re.compile(
    r"^<.*>$|^[{\[]|^\$\{?\w+\}?$|\.\.\.|^[*]+$|[*]{3}|^os\.environ\b|^\w+://|^%\w+%$|"
    r"^(?:your|my|insert|enter)[-_ ].*key",
    re.IGNORECASE,
)
# A key that begins like neither, and holds nothing of either: each call looks at one.
_PLAIN = re.compile(r"(?!bearer|your|my|insert|enter)[a-z0-9_-]+", re.IGNORECASE | re.ASCII)


def _usable(key: Secret, row: ProviderSpec, address: str) -> tuple[Secret | None, ConfigError | None]:
    """(a key without what was copied with it: blanks, quotes, "Bearer "; None where nothing is left; what is
    wrong with one that cannot be a key)."""
    text = key.reveal()
    if row.dialect not in _PASSWORDS and not _PLAIN.fullmatch(text):
        for _ in _BESIDE:
            before, text = text, bare(_BESIDE_IT.sub("", bare(text)))
            if text == before:
                break
        placeholder = _PLACEHOLDER.search(text)
        odd = None if placeholder else next((c for c in text if not " " <= c <= "~"), None)
        if odd is not None or placeholder:
            where = "What was given as api_key" if key.source == "argument" else f"What {key.source} holds"
            why = "it stands for one" if odd is None else f"{_named(odd)} stands in it"
            return None, ConfigError(
                f"{where} cannot be a key: {why}.",
                hint="Put the key itself there."
                if odd is None
                else "Copy the key again as plain text from where it was made: something on the way has "
                "changed it.",
            )
    if not text:
        return None, None
    clean = (
        key if text == key.reveal() else Secret(text, key.source, key.origin, from_project=key.from_project)
    )
    return clean.bound_to(address), None


def _named(character: str) -> str:
    if character in "\r\n":
        return "a line break"
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character').lower()})"


def _typed(row: ProviderSpec, address: str) -> Secret | None:
    key = _typed_here.get(row.name)
    return key if key and key.origin in ("", origin(address)) else None


def where(row: ProviderSpec, stores: KeyStores, address: str) -> list[tuple[str, str | None]]:
    """Each source by name, with the masked key it holds for `row`, None for none."""
    typed = _typed(row, address)
    found = [(s.name, _looked(s, row, address, stores)) for s in SOURCES]
    return [(name, key.masked if key else None) for name, key in (("this session", typed), *found)]


def _looked(source: Source, row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    try:
        return source.look(row, address, stores)
    except AuthenticationError:  # a login that has ended holds none
        return None


# --- keeping ------------------------------------------------------------------------------------------------


def keep(key: str, stores: KeyStores, address: str) -> bool:
    """Puts a key into the keyring for `address`; False where there is no keyring. Raises ConfigError where it
    refuses."""
    ring = stores.keyring()
    if ring is None:
        return False
    try:
        ring.set_password(SERVICE, origin(address), key)
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        raise ConfigError(
            f"The keyring did not take the key ({type(error).__name__}).",
            hint="Unlock it and try again, or set the variable in the environment.",
        ) from None
    stores.seen["keyring", origin(address)] = key
    return True


def drop(stores: KeyStores, address: str) -> bool:
    """Takes the key for `address` out of the keyring; False where there was none."""
    stores.seen.pop(("keyring", origin(address)), None)
    return stores.forget(SERVICE, origin(address))


# --- reading ------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
