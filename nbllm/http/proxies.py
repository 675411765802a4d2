"""Determines the proxy for an address from the environment; error messages name the variable.

Loopback addresses never use a proxy. A variable for the scheme takes precedence over ALL_PROXY (GNOME sets
both, the latter as socks://). NO_PROXY may contain names, addresses, networks (10.0.0.0/8) and ports.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from importlib.util import find_spec
from typing import NamedTuple

from ..core import addresses
from ..core.addresses import Address
from ..core.errors import ConfigError

_VARIABLES = (
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "REQUEST_METHOD",
)
_HAS_SYSTEM_SETTINGS = sys.platform in ("darwin", "win32")  # they have system settings for proxies
_KINDS = {"http": "http", "https": "https", "socks": "socks5", "socks5": "socks5", "socks5h": "socks5h"}
_ENTRY = r"\[([^\]]*)\](?::(\d+))?|([^:]+)(?::(\d+))?"


class Proxy(NamedTuple):
    """A proxy. `host_port`: its address without user and password; `variable`: where it is configured."""

    url: str
    host_port: str
    variable: str


def proxy_settings() -> tuple[str | None, ...]:
    """The environment variables that determine the proxies, to detect changes."""
    return tuple(map(os.environ.get, _VARIABLES))


def proxy_for(address: Address) -> Proxy | None:
    """The proxy for an address, None for none. Raises ConfigError for an invalid one."""
    if address.is_local or not (
        _HAS_SYSTEM_SETTINGS or any(n.lower().endswith("_proxy") for n in os.environ)
    ):
        return None
    from urllib.request import getproxies, proxy_bypass  # imported late: it loads mail and cookies

    configured = getproxies()
    key = next((k for k in (address.scheme, "all") if configured.get(k)), None)
    if key is None or _is_own_host(address.host):
        return None
    exceptions = re.split(r"[,\s]+", configured.get("no", "").lower())
    if any(_entry_matches(e, address) for e in exceptions if e) or proxy_bypass(address.host):
        return None
    variable = next(
        (n for n in (f"{key}_proxy", f"{key}_PROXY".upper()) if os.environ.get(n)), "the system's settings"
    )
    return _parse_proxy(configured[key].strip(), variable)


def _is_own_host(host: str) -> bool:
    """Whether a host is this machine, under any of its names or addresses: a socket can be bound to it."""
    number = addresses.parse_ip(host.partition("%")[0])
    if number is None:
        name = socket.gethostname().lower()
        return host.rstrip(".") in (name, name.partition(".")[0])
    family = socket.AF_INET if number.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(number), 0))
    except OSError:
        return False
    return not number.is_multicast


def _parse_proxy(text: str, variable: str) -> Proxy:
    hint = f"Correct {variable} or unset it, or name the hosts that need no proxy in NO_PROXY."
    kind, _, rest = text.partition("://") if "://" in text else ("http", "", text)
    scheme = _KINDS.get(kind.lower())
    if scheme is None:
        raise ConfigError(f"{variable} has a proxy of an unknown kind: {kind[:20]!r}.", hint=hint)
    try:
        host_port = addresses.parse(f"http://{rest}").host_port
    except ConfigError as exc:
        raise ConfigError(f"{variable} has an invalid proxy. {exc.message}", hint=hint) from None
    if scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigError(
            f"{variable} has a SOCKS proxy ({host_port}), which needs the package socksio.",
            hint=f"pip install socksio. {hint}",
        )
    return Proxy(f"{scheme}://{rest}", host_port, variable)


def _entry_matches(entry: str, address: Address) -> bool:
    """Whether an entry of NO_PROXY matches the address."""
    number = addresses.parse_ip(address.host)
    if "/" in entry:
        try:
            return number is not None and number in ipaddress.ip_network(
                entry.replace("[", "").replace("]", ""), strict=False
            )
        except ValueError:
            return False
    found = re.fullmatch(_ENTRY, entry)
    name, port = (found[1] or found[3] or "", found[2] or found[4]) if found else (entry, None)
    if port and port.lstrip("0") != str(address.port):
        return False
    if addresses.parse_ip(name) is not None or number is not None:
        return name == "*" or addresses.parse_ip(name) == number
    name = name.lstrip("*").strip(".")
    host = address.host.rstrip(".")
    return not name or host == name or host.endswith(f".{name}")
