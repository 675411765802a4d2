"""Rejects requests of web pages: only local programs that use the simulator's own host name are served.

A page open in a browser can send requests to any address of this machine. If its host name is made to resolve
to this machine (DNS rebinding), it can also read the answers, and /__sim/records contains prompts. So the
Host header must name this server, and an Origin header must be its own. No CORS header is ever sent.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """The address at which a simulator listens."""

    host: str
    port: int

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """(status, message) for a request that must be rejected, otherwise None."""
        values = {
            name: value.decode("latin-1").strip().lower()
            for name, value in headers
            if name in _CHECKED_HEADERS
        }
        host, origin = values.get(b"host"), values.get(b"origin")
        if host is not None and not self._is_own_host(
            host
        ):  # HTTP/1.0 may omit it; browsers do not use HTTP/1.0
            return 421, "This host name is not the simulator's. Use the address that it printed."
        if (origin is not None and origin != f"http://{host}") or values.get(
            b"sec-fetch-site", "none"
        ) not in (
            "none",
            "same-origin",
        ):
            return 403, "Pages of another origin may not send requests to the simulator."
        return None

    def _is_own_host(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        if not port:  # browsers always send the port, and a public name has a dot
            return name.isalnum()
        return port == str(self.port) and self._is_own_name(
            name.removeprefix("[").removesuffix("]") if name.startswith("[") else name
        )

    def _is_own_name(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in ("localhost", self.host.lower()) or (
                self.host in _ALL_ADDRESSES and name == socket.gethostname().lower()
            )
        return (
            address.is_loopback or name == self.host or self.host in _ALL_ADDRESSES
        )  # an address cannot be rebound


_CHECKED_HEADERS = {b"host", b"origin", b"sec-fetch-site"}
_ALL_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
