"""Encodes a request as the call that will be sent, with its key."""

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
    """The call for `request`, with its guard: which of its texts are secret and to which addresses they may
    go (the provider's secrets to the provider's address, the key to its own, by default the same). Nothing is
    sent. Raises ConfigError for keep, mode and cache="1h" where the provider does not support them."""
    row = route.provider
    if mode is not None:
        from ..agents.protocols import check_mode

        check_mode(row, mode, simulated=route.simulated)
    if key is None and not row.local:
        raise missing_key_error(row)
    _caching.check_supported(request, row)
    encoder = dialect_of(row, dialects).encode
    if not route.simulated and (keep or mode == "execute"):
        from ..agents import protocols

        encoder = protocols.encode_execute_call if mode == "execute" else protocols.encode_session_call
    if (path := route.path) is not None:
        from ..agents.local_server import local_call

        return local_call(path, encoder(request, row, None))
    return encoder(request, row, key).with_guard(
        Guard.for_provider(row, key.bound_to(row.base_url) if key is not None else None)
    )


def dialect_of(row: ProviderSpec, dialects: Mapping[str, Dialect]) -> Dialect:
    """The dialect of a provider. Those for embeddings are not in `dialects`, which are for conversations."""
    return EMBEDDERS.get(row.dialect) or dialects[row.dialect]


def missing_key_error(row: ProviderSpec) -> errors.ConfigError:
    """The error that names the missing key and how to set it."""
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
