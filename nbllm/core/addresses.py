"""Parsing of addresses: scheme, host (as looked up and certified) and port. Strict, so that no other software
can interpret an address differently. Pure."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .errors import ConfigError

PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?")  # an IPv6 address is in brackets
_WITHOUT_PATH = re.compile(r"(?:[^/?#]*//)?[^/?#]*")
_LONG = re.compile(r"(?<=\w{4})[\w+=-]{12,}")
_CONTROL_OR_BLANK = re.compile("[\x00-\x20\x7f]")
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
        """The value of a Host header: without the port where it is the scheme's default."""
        return self.host_port if self.port != PORTS[self.scheme] else self._bracketed_host

    @property
    def host_port(self) -> str:
        """Host and port."""
        return f"{self._bracketed_host}:{self.port}"

    @property
    def _bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_local(self) -> bool:
        """Whether it is an address of this machine: loopback, or 0.0.0.0, which servers print."""
        number = parse_ip(self.host)
        if number is None:
            return self.host.rstrip(".").rpartition(".")[2] == "localhost"
        number = getattr(number, "ipv4_mapped", None) or number
        return number.is_loopback or number.is_unspecified


@functools.lru_cache(512)
def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address in `host`, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an IP address is public: not of a private network, this machine, its link, or a cloud's
    metadata service; also where it is embedded in an IPv6 address."""
    embedded = [
        found for name in ("ipv4_mapped", "sixtofour") if (found := getattr(number, name, None)) is not None
    ]
    if number.version == 6 and number in _NAT64:
        embedded.append(ipaddress.IPv4Address(int(number) & 0xFFFFFFFF))
    if embedded:
        return all(map(is_public, embedded))
    return number.is_global and not number.is_multicast and str(number) not in _CLOUD


def are_all_public(resolved: Iterable[Any]) -> bool:
    """Whether all addresses that getaddrinfo gave for a name are public."""
    numbers = [parse_ip(str(entry[4][0])) for entry in resolved]
    return all(number is not None and is_public(number) for number in numbers)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CLOUD = ("168.63.129.16",)  # Azure's metadata service; those of other clouds are link-local or private


def may_hold_secret(url: str) -> bool:
    """Whether a URL has user information or a query. They may be secret, so such URLs are not cached."""
    return "?" in url or "@" in url


def parse(url: str) -> Address:
    """The origin of a URL. Raises ConfigError, which says what is wrong with it and shows no password."""
    try:
        return _parse(url) if may_hold_secret(url) else _parse_cached(url)
    except ValueError as exc:
        shown = re.sub("//.*@", "//", "".join(_WITHOUT_PATH.findall(url[:200])[:1]))
        if "//" not in shown:  # a key may have been given instead of an address
            shown = _LONG.sub("…", shown)
        raise ConfigError(f"Not a usable address: {shown!r} ({exc}).", hint=_HINT) from None


def _parse(url: str) -> Address:
    if (bad := _CONTROL_OR_BLANK.search(url)) is not None:
        raise ValueError(
            "it contains a space or a line break" if bad[0].isspace() else "it contains a control character"
        )
    parts = _PARTS.match(url)
    if parts is None or parts[1].lower() not in PORTS:
        raise ValueError("it does not begin with http:// or https://")
    scheme, (user, _, host_port) = parts[1].lower(), parts[2].rpartition("@")
    if "@" in user or "\\" in parts[2]:
        raise ValueError("it could mean more than one host")
    return _parse_host_port(scheme, host_port)


_parse_cached = functools.lru_cache(512)(_parse)  # used several times per call


@functools.lru_cache(512)
def _parse_host_port(scheme: str, host_port: str) -> Address:
    """Cached: contains neither user information nor a query."""
    found = _HOST_PORT.fullmatch(host_port)
    if found is None:
        raise ValueError("an IPv6 address must be in brackets, as in http://[::1]:8000")
    return Address(scheme, _host(found[1]), _port(found[2]) or PORTS[scheme])


def _port(text: str | None) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 2**16:
        raise ValueError(f"the port {text[:20]!r} is not a number from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    """The host in the form that is looked up. Raises ValueError for an invalid one."""
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1].replace("%25", "%")))
    if not text:
        raise ValueError("it has no host")
    host = text.lower() if text.isascii() else _idna(text)
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        wrong = next((label for label in labels if not _LABEL.fullmatch(label)), host)
        raise ValueError(
            "a part of the host between dots is empty"
            if not wrong
            else f"{wrong[:80]!r} is not a valid host name"
        )
    return str(ipaddress.IPv4Address(host)) if _NUMBER.fullmatch(labels[-1]) else host


def _idna(host: str) -> str:
    import idna  # has large tables, which hardly any host needs

    try:
        return idna.encode(host[:300].lower()).decode("ascii")
    except idna.IDNAError as exc:
        raise ValueError(f"the host is not valid in IDNA 2008: {exc}") from None
