"""Who may ask the simulator: programs of this machine that call it by its own name, and no page of another
origin.

A page that a browser has open can send requests to any address of this machine, and where its name is made to
lead here (DNS rebinding) it can read the answers: prompts lie in /__sim/records. So the Host must be ours,
and an Origin our own. No header ever allows another origin.
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
        """(status, why) for a request that is not ours to answer, None for one that is."""
        said = {name: value.decode("latin-1").strip().lower() for name, value in headers if name in _ASKED}
        host, origin = said.get(b"host"), said.get(b"origin")
        if host is not None and not self._own(
            host
        ):  # HTTP/1.1 has one, HTTP/1.0 may have none; no browser speaks that
            return 421, "This host name is not the simulator's. Call it by the address that it printed."
        if (origin is not None and origin != f"http://{host}") or said.get(b"sec-fetch-site", "none") not in (
            "none",
            "same-origin",
        ):
            return 403, "A page of another origin may not ask the simulator."
        return None

    def _own(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        if not port:  # written by hand: a browser names the port, and no public name is a single word
            return name.isalnum()
        return port == str(self.port) and self._names_us(
            name.removeprefix("[").removesuffix("]") if name.startswith("[") else name
        )

    def _names_us(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in ("localhost", self.host.lower()) or (
                self.host in _EVERY and name == socket.gethostname().lower()
            )
        return address.is_loopback or name == self.host or self.host in _EVERY  # an address cannot be rebound


_ASKED = {b"host", b"origin", b"sec-fetch-site"}
_EVERY = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
