"""Finds a provider's key in a table of sources, in their order. A key is a Secret and shown masked; its
source is not secret.

The order: given with the call, typed in this session, the environment, `.env` beside the notebook, the
system's keyring, a login (OAuth 2), Colab's secrets, OpenCode's auth.json. VS Code's secret storage is not
accessible to kernels, so it is not a source.

A key goes to its own address only: the Secret that is found has an origin, and wire.Guard compares it with
the address to which the request is sent. In the keyring a key is stored under its origin
(https://api.openai.com), so rows of other origins do not find it; OpenCode's keys belong to the address in
nbllm's own row; a variable that a project's file names needs the user's consent
(`ProviderSpec.pending_consent`). A key in `.env` may have come with the folder (`Secret.from_project`):
`auto` prefers all others.
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
from .base_urls import strip_quotes
from .files import read_small_file
from .key_stores import SERVICE, KeyStores, read_dotenv

__all__ = [
    "SOURCES",
    "KeyStores",
    "Source",
    "delete_from_keyring",
    "find",
    "forget_session_key",
    "list_sources",
    "origin",
    "read_dotenv",
    "same_host",
    "set_session_key",
    "store_in_keyring",
]

# dialects that can carry an access token
_TOKEN_DIALECTS = frozenset({"openai_chat", "openai_responses", "cohere", "ollama"})


# Keys typed by the user (`%llm key NAME`), by provider name, for every client of the process.
_session_keys: dict[str, Secret] = {}


def set_session_key(provider: str, key: str, address: str = "") -> None:
    """Stores a typed key in memory; with `address`, for that server only."""
    _session_keys[provider] = Secret(key, "this session", origin(address) if address else "")


def forget_session_key(provider: str) -> bool:
    """Removes a typed key; False where there was none."""
    return _session_keys.pop(provider, None) is not None


# --- the sources --------------------------------------------------------------------------------------------


def _allowed_names(row: ProviderSpec) -> Iterator[str]:
    return (name for name in row.key_env if name not in row.pending_consent)


def _from_environment(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    names = (n for n in _allowed_names(row) if stores.env.get(n, "").strip())
    return next((Secret(stores.env[n].strip(), n) for n in names), None)


def _from_dotenv(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    for folder in stores.folders() if row.key_env else ():
        path = folder / ".env"
        values = stores.dotenv(path)
        name = next((n for n in _allowed_names(row) if values.get(n, "").strip()), None)
        if name:
            return Secret(values[name].strip(), f"{name} in {path}", from_project=True)
    return None


def _from_keyring(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    if (row.local and not row.key_env) or row.needs_consent:
        return None
    key = stores.load(SERVICE, origin(address))
    return Secret(key, "the keyring") if key else None


def _from_colab(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    for name in _allowed_names(row) if stores.colab else ():
        key = stores.cached_lookup("colab", name, lambda name=name: stores.colab(name)).strip()  # type: ignore[misc]
        if key:
            return Secret(key, f"{name} in Colab's secrets")
    return None


def _from_opencode(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    """An API key, or an access token that has not expired (`expires` is in milliseconds, 0 for never)."""
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
    expires, token = entry.get("expires"), entry.get("access")
    is_login = entry.get("type") == "oauth" and row.dialect in _TOKEN_DIALECTS
    if not is_login or not isinstance(token, str) or not token:
        return None
    is_valid = isinstance(expires, (int, float)) and (expires == 0 or expires / 1000 > time.time() + 60)
    return Secret(token, "OpenCode's auth.json (a login)") if is_valid else None


def _from_login(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    """The token of a login, renewed where it has expired. Raises AuthenticationError where that fails."""
    if row.oauth is None or row.dialect not in _TOKEN_DIALECTS or row.needs_consent:
        return None
    from . import oauth

    return oauth.access_token(row, origin(address), stores)


class Source(msgspec.Struct, frozen=True):
    """A source of keys. `slow`: it queries another process or prompts the user, so it is skipped while the
    user types."""

    name: str
    find: Callable[[ProviderSpec, str, KeyStores], Secret | None]
    slow: bool = False


SOURCES = (
    Source("environment", _from_environment),
    Source(".env", _from_dotenv),
    Source("keyring", _from_keyring, slow=True),
    Source("login", _from_login, slow=True),
    Source("Colab", _from_colab, slow=True),
    Source("OpenCode", _from_opencode),
)


def find(
    row: ProviderSpec,
    stores: KeyStores,
    explicit: str | Secret | None = None,
    *,
    address: str | None = None,
    quick: bool = False,
) -> Secret | None:
    """The key for `row`, which belongs to `address` (by default the row's own): the explicit one, else the
    one typed in this session, else from the sources in their order; None where there is none. `quick` skips
    slow sources. Raises ConfigError for a value that cannot be a key."""
    address = address or row.base_url
    if explicit is not None:
        found: Secret | None = explicit if isinstance(explicit, Secret) else Secret(explicit)
    else:
        keys = (s.find(row, address, stores) for s in SOURCES if not (quick and s.slow))
        found = _session_key(row, address) or next((key for key in keys if key is not None), None)
    key, error = _clean(found, row, address) if found else (None, None)
    if error is not None:
        address = ""  # tracebacks that show local variables would show it
        raise error
    return key


_PASSWORD_DIALECTS = frozenset({"opencode_server"})  # dialects whose key is a password of any characters


# What is often copied along with a key: an assignment, a header's name, the end of a line.
_DECORATIONS = (
    r"^(?:export\s+|set\s+|\$env:)?[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+(?:\s*=\s*|:\s+|\":\s*\")(?=\S{8})",
    r"^(?i:authorization|x-api-key|api-key|x-goog-api-key)\s*:",
    r"^(?i:bearer)(?:\s+|$)|^(?i:token|api-?key)\s+(?=\S{8})",
    r"\s#\s.*$",
    r"[;,]$",
)
_DECORATION = re.compile("|".join(f"(?:{p})" for p in _DECORATIONS))
# Placeholders for a key: <your key>, $NAME, os.environ/NAME, YOUR_API_KEY, sk-...abcd, sk-****abcd, a vault's
# address.
_PLACEHOLDER = re.compile(
    r"^<.*>$|^[{\[]|^\$\{?\w+\}?$|\.\.\.|^[*]+$|[*]{3}|^os\.environ\b|^\w+://|^%\w+%$|"
    r"^(?:your|my|insert|enter)[-_ ].*key",
    re.IGNORECASE,
)
# A key that has neither decorations nor the form of a placeholder: a fast check, made at each call.
_PLAIN = re.compile(r"(?!bearer|your|my|insert|enter)[a-z0-9_-]+", re.IGNORECASE | re.ASCII)


def _clean(key: Secret, row: ProviderSpec, address: str) -> tuple[Secret | None, ConfigError | None]:
    """(the key without quotes, white space, "Bearer " and so on; None where nothing is left; the error for a
    value that cannot be a key)."""
    text = key.reveal()
    if row.dialect not in _PASSWORD_DIALECTS and not _PLAIN.fullmatch(text):
        for _ in _DECORATIONS:
            before, text = text, strip_quotes(_DECORATION.sub("", strip_quotes(text)))
            if text == before:
                break
        invalid = next((c for c in text if not " " <= c <= "~"), None)
        if (is_placeholder := bool(_PLACEHOLDER.search(text))) or invalid is not None:
            name = "api_key" if key.source == "argument" else key.source
            why = "it is a placeholder" if is_placeholder else f"it contains {_describe(invalid or '')}"
            return None, ConfigError(
                f"The value of {name} cannot be a key: {why}.",
                hint="Replace it by the key itself."
                if is_placeholder
                else "Copy the key again, as plain text, from where it was created: it was changed since.",
            )
    if not text:
        return None, None
    if text != key.reveal():
        key = Secret(text, key.source, key.origin, from_project=key.from_project)
    return key.bound_to(address), None


def _describe(character: str) -> str:
    if character in "\r\n":
        return "a line break"
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character').lower()})"


def _session_key(row: ProviderSpec, address: str) -> Secret | None:
    key = _session_keys.get(row.name)
    return key if key and key.origin in ("", origin(address)) else None


def list_sources(row: ProviderSpec, stores: KeyStores, address: str) -> list[tuple[str, str | None]]:
    """Each source by name, with the masked key it holds for `row`, None for none."""
    found = [("this session", _session_key(row, address))]
    for source in SOURCES:
        try:
            found.append((source.name, source.find(row, address, stores)))
        except AuthenticationError:  # a login that has expired holds none
            found.append((source.name, None))
    return [(name, key.masked if key else None) for name, key in found]


# --- the keyring --------------------------------------------------------------------------------------------


def store_in_keyring(key: str, stores: KeyStores, address: str) -> bool:
    """Stores a key in the keyring for `address`; False where there is no keyring. Raises ConfigError where
    the keyring refuses."""
    ring = stores.keyring()
    if ring is None:
        return False
    try:
        ring.set_password(SERVICE, origin(address), key)
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        raise ConfigError(
            f"The keyring did not accept the key ({type(error).__name__}).",
            hint="Unlock it and try again, or set the variable in the environment.",
        ) from None
    stores.cache[SERVICE, origin(address)] = key
    return True


def delete_from_keyring(stores: KeyStores, address: str) -> bool:
    """Deletes the key for `address` from the keyring; False where there was none."""
    return stores.delete(SERVICE, origin(address))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_small_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
