"""Where an address leads: scheme, host as it is looked up and certified, port. Strict, so that nobody reads
it in another way. Pure."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .errors import ConfigError

PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_PLACE = re.compile(
    r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?"
)  # a host, or an IPv6 address in brackets; a port
_SHOWN = re.compile(r"(?:[^/?#]*//)?[^/?#]*")
_LONG = re.compile(r"(?<=\w{4})[\w+=-]{12,}")
_ODD = re.compile("[\x00-\x20\x7f]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HINT = "An address looks like https://api.example.com/v1 or http://127.0.0.1:8000/v1."


class Address(NamedTuple):
    """The origin of a URL: `host` in ASCII (IDNA 2008, lower case; an IPv6 address without its brackets),
    `port` always set."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """As a Host header has it: the port is left out where it is the scheme's own."""
        return self.host_port if self.port != PORTS[self.scheme] else self._shown

    @property
    def host_port(self) -> str:
        """Host and port."""
        return f"{self._shown}:{self.port}"

    @property
    def _shown(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_local(self) -> bool:
        """Whether it is an address of this machine itself: loopback, or 0.0.0.0 as servers print it."""
        number = parse_ip(self.host)
        if number is None:
            return self.host.rstrip(".").rpartition(".")[2] == "localhost"
        number = getattr(number, "ipv4_mapped", None) or number
        return number.is_loopback or number.is_unspecified


@functools.lru_cache(512)
def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The number that a host is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the internet, and none of a private network, of this machine, of its
    link, or of a cloud's own services; also where it stands inside an IPv6 address."""
    inner = [
        found for name in ("ipv4_mapped", "sixtofour") if (found := getattr(number, name, None)) is not None
    ]
    if number.version == 6 and number in _NAT64:
        inner.append(ipaddress.IPv4Address(int(number) & 0xFFFFFFFF))
    if inner:
        return all(map(is_public, inner))
    return number.is_global and not number.is_multicast and str(number) not in _CLOUD


def are_all_public(found: Iterable[Any]) -> bool:
    """Whether all addresses that getaddrinfo found for a name are of the internet."""
    numbers = [parse_ip(str(entry[4][0])) for entry in found]
    return all(number is not None and is_public(number) for number in numbers)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CLOUD = ("168.63.129.16",)  # Azure's; those of others are link-local or private


def may_hold_secret(url: str) -> bool:
    """Whether a user's name or a query stands in a URL. They may be secret, and so are nowhere remembered."""
    return "?" in url or "@" in url


def parse(url: str) -> Address:
    """The origin of a URL. Raises ConfigError, which says what is wrong with the address and shows no
    password in it."""
    try:
        return _parsed(url) if may_hold_secret(url) else _remembered(url)
    except ValueError as exc:
        shown = re.sub("//.*@", "//", "".join(_SHOWN.findall(url[:200])[:1]))
        if "//" not in shown:  # a key may have been put in its place
            shown = _LONG.sub("…", shown)
        raise ConfigError(f"Not a usable address: {shown!r} ({exc}).", hint=_HINT) from None


def _parsed(url: str) -> Address:
    if (odd := _ODD.search(url)) is not None:
        raise ValueError(
            "it holds a blank or a line break" if odd[0].isspace() else "it holds a control character"
        )
    parts = _PARTS.match(url)
    if parts is None or parts[1].lower() not in PORTS:
        raise ValueError("it does not begin with http:// or https://")
    scheme, (user, _, place) = parts[1].lower(), parts[2].rpartition("@")
    if "@" in user or "\\" in parts[2]:
        raise ValueError("more than one host may be meant")
    return _placed(scheme, place)


_remembered = functools.lru_cache(512)(_parsed)  # each call asks several times


@functools.lru_cache(512)
def _placed(scheme: str, place: str) -> Address:
    """Remembered. Neither a user's name nor a query is in it."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError("an IPv6 address stands in brackets, as in http://[::1]:8000")
    return Address(scheme, _host(found[1]), _port(found[2]) or PORTS[scheme])


def _port(text: str | None) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 2**16:
        raise ValueError(f"the port {text[:20]!r} is no number from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    """The host as it is looked up. Raises ValueError for what no host can be."""
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1].replace("%25", "%")))
    if not text:
        raise ValueError("it names no host")
    host = text.lower() if text.isascii() else _idna(text)
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        wrong = next((label for label in labels if not _LABEL.fullmatch(label)), host)
        raise ValueError(
            "a part of the host between dots is empty"
            if not wrong
            else f"no host can be called {wrong[:80]!r}"
        )
    return str(ipaddress.IPv4Address(host)) if _NUMBER.fullmatch(labels[-1]) else host


def _idna(host: str) -> str:
    import idna  # large tables, which hardly any host needs

    try:
        return idna.encode(host[:300].lower()).decode("ascii")
    except idna.IDNAError as exc:
        raise ValueError(f"the host is no name by IDNA 2008: {exc}") from None
