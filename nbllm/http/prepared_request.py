"""Serialises a call into the bytes of an HTTP request."""

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
_WITH_BODY = ("POST", "PUT", "PATCH")  # always have a Content-Length, even without a body
_BAD_NAME, _BAD_VALUE = re.compile(r"[^!-9;-~]|\A\Z"), re.compile(r"[\r\n\0]")
_WHITESPACE = " \t\v\f"
_USERINFO = re.compile(r"https?://([^/?#]*)@", re.IGNORECASE)
_SAFE_PATH = r"(?:[A-Za-z0-9_~!$&()*+,;=:@/-]|%[0-9A-Fa-f]{2}|(?<!/)\.)*"  # needs no quoting in a request
_PLAIN_URL = re.compile(rf"https?://[^/?#]*(/{_SAFE_PATH})?(\?{_SAFE_PATH})?", re.IGNORECASE)


class PreparedRequest:
    """The serialised request of a call, prepared before the clock of the call starts. Can be sent several
    times.

    fresh: over a new connection. public: to a public address only, and therefore fresh. Raises ConfigError
    for an address, a header or a body that is not valid in HTTP.
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
            raise self._error(exc) from None
        self.call, self.size, self.fresh, self.public = call, len(self._content), fresh or public, public

    def _error(self, exc: Exception) -> errors.ConfigError:
        return errors.ConfigError(
            f"No request can be sent to {self.address} ({type(exc).__name__}).",
            hint="base_url should look like http://127.0.0.1:8000/v1, and keys must not contain line breaks.",
        )

    @property
    def request(self) -> httpx.Request:
        """The request for httpx. Raises ConfigError if httpx interprets the address differently."""
        import httpx

        headers = [(name.encode("ascii"), value.encode("utf-8")) for name, value in self._headers.items()]
        try:
            request = httpx.Request(
                self.call.method, self.call.url, content=self._content or None, headers=headers
            )
        except httpx.InvalidURL as exc:
            raise self._error(exc) from None
        self.call.guard.check(str(request.url))
        return request


def _encode_head(start: str, address: Address, headers: Mapping[str, str], size: int | None) -> bytes:
    """The request line and headers. start: method and target. Raises InvalidRequest for invalid headers."""
    lines = [f"{start} HTTP/1.1"]
    names = set(map(str.lower, headers))
    if "host" not in names:
        lines.append(f"Host: {address.authority}")
    for name, value in headers.items():
        if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
            raise InvalidRequest(f"the header {name[:40]!r} contains a character that HTTP does not allow")
        lines.append(f"{name}: {value.strip(_WHITESPACE)}")
    if size is not None and names.isdisjoint(("content-length", "transfer-encoding")):
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def _request_target(url: str) -> str:
    """The target of the request line for an address, as httpx writes it."""
    if (plain := _PLAIN_URL.fullmatch(url)) is not None:
        return f"{plain[1] or '/'}{plain[2] or ''}"
    import httpx

    try:
        return httpx.URL(url).raw_path.decode("ascii")
    except httpx.InvalidURL as exc:
        raise ValueError(str(exc)) from None


_cached_target = functools.lru_cache(256)(_request_target)  # a run uses the same address thousands of times


def _basic_auth(call: HttpCall) -> dict[str, str]:
    """Basic authentication from the user information in an address, as curl and browsers send it; none if
    there is an authorization header."""
    user = _USERINFO.match(call.url)
    if user is None or "authorization" in map(str.lower, call.headers):
        return {}
    name, colon, password = user[1].partition(":")
    credentials = f"{unquote(name)}:{unquote(password) if colon else ''}"
    return {"authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def _encode_body(call: HttpCall) -> bytes:
    if call.method == "GET" or (call.method == "DELETE" and not call.body):
        return b""
    if call.content:
        return call.content
    try:
        return msgspec.json.encode(call.body)
    except UnicodeEncodeError:
        return json.dumps(call.body).encode()  # escapes lone surrogates
    except (TypeError, OverflowError) as exc:
        raise errors.ConfigError(
            f"The request cannot be written as JSON: {exc}.",
            hint="Options such as x.name and schema take JSON values only.",
        ) from None


def invalid_request_error(exc: Exception) -> errors.ConfigError:
    """The ConfigError for a request that is not valid in HTTP."""
    return errors.ConfigError(
        f"The request cannot be sent: {exc}.",
        hint="Check the key and the configured headers for line breaks.",
    )
