"""A request as the call that will be sent, with the key that goes with it."""

from __future__ import annotations

from collections.abc import Mapping

from ..core import errors
from ..core.calls import AnyCall, Dialect, Guard, ProviderSpec, Secret
from ..core.messages import Request
from ..dialects import _caching
from ..dialects.embeddings import EMBEDDERS
from ..routing.registry import Route


def encode(
    request: Request,
    route: Route,
    key: Secret | None,
    dialects: Mapping[str, Dialect],
    *,
    keep: bool = False,
    mode: str | None = None,
) -> AnyCall:
    """The call that `request` becomes, with what of it is secret and where that may go: the row's to the
    row's address, the key to its own, which is the row's where nobody said another. Nothing is sent. Raises
    ConfigError for keep and mode, and for cache="1h", where the provider has no such mode."""
    row = route.provider
    if mode is not None:
        from ..agents.protocols import able

        able(row, mode, simulated=route.simulated)
    if key is None and not row.local:
        raise no_key(row)
    _caching.check_supported(request, row)
    words = dialect(row, dialects).encode
    if not route.simulated and (keep or mode == "execute"):
        from ..agents import protocols

        words = protocols.execute if mode == "execute" else protocols.keep
    if (path := route.path) is not None:
        from ..agents.local_server import local_call

        return local_call(path, words(request, row, None))
    return words(request, row, key).with_guard(
        Guard.for_provider(row, key.bound_to(row.base_url) if key is not None else None)
    )


def dialect(row: ProviderSpec, dialects: Mapping[str, Dialect]) -> Dialect:
    """The dialect of a row. Those of embeddings are no words for a conversation, and in no list of them."""
    return EMBEDDERS.get(row.dialect) or dialects[row.dialect]


def no_key(row: ProviderSpec) -> errors.ConfigError:
    """The error that says which key is missing and how to give one."""
    where = f" (a key comes from {row.key_url})" if row.key_url else ""
    return errors.ConfigError(
        f"No key for {row.label or row.name}: "
        + (
            f"neither {' nor '.join(row.key_env)} is set{where}."
            if len(row.key_env) > 1
            else f"{''.join(row.key_env) or 'its key'} is not set{where}."
        ),
        hint=f"Log in: %llm key login {row.name}."
        if row.oauth
        else f"Set {row.key_env[0] if row.key_env else 'it'} in the environment, or type `%llm key "
        f"{row.name}`. "
        f"To try without a key: `%llm simulate on`, or model=sim/{row.name.partition('_')[0]}.",
    )
