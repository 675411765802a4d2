"""A call as the bytes that will be sent."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from ..core import addresses, errors
from ..core.addresses import Address
from ..core.calls import HttpCall
from .faults import InvalidRequest

if TYPE_CHECKING:
    import httpx

_HEADERS = {
    "user-agent": "nbllm",
    "accept": "text/event-stream, application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
}
_JSON = {"content-type": "application/json"}
_WITH_BODY = ("POST", "PUT", "PATCH")  # they say how much they send, nothing too
_BAD_NAME, _BAD_VALUE = re.compile(r"[^!-9;-~]|\A\Z"), re.compile(r"[\r\n\0]")
_BLANKS = " \t\v\f"
_USERINFO = re.compile(r"https?://([^/?#]*)@", re.IGNORECASE)
_SAFE_PATH = r"(?:[A-Za-z0-9_~!$&()*+,;=:@/-]|%[0-9A-Fa-f]{2}|(?<!/)\.)*"  # what stands in a request as it is
_PLAIN_URL = re.compile(rf"https?://[^/?#]*(/{_SAFE_PATH})?(\?{_SAFE_PATH})?", re.IGNORECASE)


class PreparedRequest:
    """A call as the bytes that will be sent; made before the clock of a call starts. May be sent several
    times.

    fresh: over a connection of its own. public: to an address of the internet only, and so fresh. Raises
    ConfigError for an address, a header or a body that HTTP cannot carry.
    """

    def __init__(self, call: HttpCall, *, fresh: bool = False, public: bool = False) -> None:
        self.address, self._content = addresses.parse(call.url), _encode_body(call)
        self._headers = {**_HEADERS, **(_JSON if self._content else {}), **call.headers}
        if "@" in call.url:
            self._headers = {**_basic_auth(call), **self._headers}
        call.guard.check(str(self.address))
        try:
            target = (_request_target if addresses.may_hold_secret(call.url) else _cached_target)(call.url)
            size = len(self._content) if self._content or call.method in _WITH_BODY else None
            self.wire = (
                _encode_head(f"{call.method} {target}", self.address, self._headers, size) + self._content
            )
        except InvalidRequest as exc:
            raise invalid_request_error(exc) from None
        except (ValueError, TypeError) as exc:
            raise self._unusable(exc) from None
        self.call, self.size, self.fresh, self.public = call, len(self._content), fresh or public, public

    def _unusable(self, exc: Exception) -> errors.ConfigError:
        return errors.ConfigError(
            f"No request can be made to {self.address} ({type(exc).__name__}).",
            hint="base_url should look like http://127.0.0.1:8000/v1, and keys hold no line breaks.",
        )

    @property
    def request(self) -> httpx.Request:
        """The same for httpx. Raises ConfigError where that reads another address."""
        import httpx

        sent = [(name.encode("ascii"), value.encode("utf-8")) for name, value in self._headers.items()]
        try:
            made = httpx.Request(self.call.method, self.call.url, content=self._content or None, headers=sent)
        except httpx.InvalidURL as exc:
            raise self._unusable(exc) from None
        self.call.guard.check(str(made.url))
        return made


def _encode_head(begun: str, address: Address, headers: Mapping[str, str], size: int | None) -> bytes:
    """The request line and headers. Raises Unsendable for what HTTP does not allow in them."""
    lines = [f"{begun} HTTP/1.1"]
    given = set(map(str.lower, headers))
    if "host" not in given:
        lines.append(f"Host: {address.authority}")
    for name, value in headers.items():
        if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
            raise InvalidRequest(f"the header {name[:40]!r} holds a character that HTTP does not allow")
        lines.append(f"{name}: {value.strip(_BLANKS)}")
    if size is not None and given.isdisjoint(("content-length", "transfer-encoding")):
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def _request_target(url: str) -> str:
    """What of an address stands in the request line, as httpx writes it."""
    if (plain := _PLAIN_URL.fullmatch(url)) is not None:
        return f"{plain[1] or '/'}{plain[2] or ''}"
    import httpx

    try:
        return httpx.URL(url).raw_path.decode("ascii")
    except httpx.InvalidURL as exc:
        raise ValueError(str(exc)) from None


_cached_target = functools.lru_cache(256)(_request_target)  # a run asks one address thousands of times


def _basic_auth(call: HttpCall) -> dict[str, str]:
    """What stands before an @ in an address, as curl and browsers send it, where nothing else says who
    asks."""
    user = _USERINFO.match(call.url)
    if user is None or "authorization" in map(str.lower, call.headers):
        return {}
    name, colon, password = user[1].partition(":")
    said = f"{unquote(name)}:{unquote(password) if colon else ''}"
    return {"authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}


def _encode_body(call: HttpCall) -> bytes:
    if call.method == "GET" or (call.method == "DELETE" and not call.body):
        return b""
    if call.content:
        return call.content
    try:
        return msgspec.json.encode(call.body)
    except UnicodeEncodeError:
        return json.dumps(call.body).encode()  # lone surrogates travel as escapes
    except (TypeError, OverflowError) as exc:
        raise errors.ConfigError(
            f"The request cannot be written as JSON: {exc}.",
            hint="Options such as x.name and schema take JSON values only.",
        ) from None


def invalid_request_error(exc: Exception) -> errors.ConfigError:
    """Our error for what HTTP does not allow to be sent."""
    return errors.ConfigError(
        f"The request cannot be sent: {exc}.", hint="Check the key and the row's headers for line breaks."
    )
