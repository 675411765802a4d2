"""The words for a provider that cannot be asked: a row that is retired, not supported yet, or not ready on
this machine.

Choosing a model for `auto` looks at many rows, and one that is not ready must not stop it; so such a row is
routed here, and says why when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from ..core.calls import Decoder, HttpCall, Provider, Secret
from ..core.errors import ConfigError, ProviderError
from ..core.messages import Request
from ._json import http_error


class Refused:
    """Raises ConfigError with the row's own words for every request."""

    name = "refused"

    def encode(self, request: Request, provider: Provider, key: Secret | None) -> HttpCall:
        """Raises ConfigError."""
        self._refuse(provider)

    def decoder(self, provider: Provider) -> Decoder:
        """Raises ConfigError."""
        self._refuse(provider)

    def error(
        self, status: int, headers: Mapping[str, str], body: bytes, provider: Provider
    ) -> ProviderError:
        """The error that an HTTP answer means."""
        return http_error(status, headers, body, provider)

    def _refuse(self, provider: Provider) -> NoReturn:
        raise ConfigError(provider.refused)
