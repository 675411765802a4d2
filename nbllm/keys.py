"""Where a provider's key comes from. A key is held as a Secret and shown masked; its source is no secret."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from .wire import Provider, Secret

# Keys given by hand in this session (`%llm key NAME`), by provider name. They live in memory only.
_session: dict[str, Secret] = {}


def remember(provider: str, key: str) -> None:
    """Keeps a key for this session."""
    _session[provider] = Secret(key, "this session")


def forget(provider: str) -> bool:
    """Drops a key kept for this session; False where there was none."""
    return _session.pop(provider, None) is not None


def find(provider: Provider, env: Mapping[str, str], explicit: str | Secret | None = None) -> Secret | None:
    """The key for `provider`: given explicitly, else by hand in this session, else from its variables; None where there is none."""
    if isinstance(explicit, Secret):
        return explicit
    if explicit is not None:
        return Secret(explicit.strip())
    if provider.name in _session:
        return _session[provider.name]
    return next((Secret(env[name].strip(), name) for name in provider.key_env if env.get(name, "").strip()), None)


def same_host(a: str, b: str) -> bool:
    """Whether two addresses go to the same server, so that a key for one may be sent to the other."""
    return _origin(a) == _origin(b)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
