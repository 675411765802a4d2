"""The wire formats, one module each with the same functions: they parse a request into a NormalizedRequest
and write a Reply in the provider's format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..normalized_request import NormalizedRequest
from ..plan import Reply, WireEvent
from ..text import replace_lone_surrogates

encode = msgspec.json.encode
# What a value of a wrong type or size raises while a request is parsed.
PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ApiError(Exception):
    """A request that is answered with an error. `reason` distinguishes errors of the same status."""

    def __init__(
        self, status: int, message: str = "", reason: str = "", retry_after: float | None = None
    ) -> None:
        self.status, self.message, self.reason, self.retry_after = status, message, reason, retry_after
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A complete HTTP request. Header names are lower case; `path` is decoded and has no query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Mapping[str, Any]:
        """The JSON object in the body. Raises ApiError."""
        try:
            value = json.loads(self.body)
            if b"\\ud" in self.body.lower():  # lone surrogates, which an answer could not repeat
                value = json.loads(replace_lone_surrogates(json.dumps(value, ensure_ascii=False)))
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"We could not parse the JSON body of your request: {error}") from None
        if not isinstance(value, dict):
            raise ApiError(400, "The JSON body of your request is not an object.")
        return value


class Format(Protocol):
    """The interface of each module of this package."""

    NAME: str
    ID: str  # prefix of its answers' ids
    PING: bytes  # a keep-alive, b"" if the format has none

    def parse_request(self, request: HttpRequest) -> NormalizedRequest:
        """Parses a request. Raises ApiError."""

    def content_type(self, request: NormalizedRequest) -> str:
        """The content type of a streaming answer."""

    def stream(self, reply: Reply) -> Iterator[WireEvent]:
        """The events of a streaming answer."""

    def full_body(self, reply: Reply) -> Mapping[str, Any]:
        """The body of a non-streaming answer."""

    def error_events(self, reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
        """The events of an error inside the stream, after `sent` events, and what the provider sends after
        it."""

    def error_body(self, error: ApiError, request_id: str) -> Any:
        """The body of an error."""

    def headers(self, id: str, seconds: float) -> Mapping[str, str]:
        """The provider's own headers. id: the request's; seconds: the time until the first token."""


def sse_event(value: Any, name: str = "") -> bytes:
    """A server-sent event."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + encode(value) + b"\n\n"


def in_one_write(events: list[WireEvent], more: bool = False) -> Iterator[WireEvent]:
    """Yields the events in one socket write. more: the following events are in it too."""
    for i, event in enumerate(events):
        yield event._replace(more=more or i < len(events) - 1)


def content_text(content: Any) -> str:
    """The text of a message's content, nested at any depth."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(content_text, content)))
    if isinstance(content, Mapping):
        return next(
            (content_text(content[k]) for k in ("text", "content", "output", "parts") if content.get(k)), ""
        )
    return ""


def count_images(value: Any) -> int:
    """The number of images in a request."""
    if isinstance(value, list):
        return sum(map(count_images, value))
    if not isinstance(value, Mapping):
        return 0
    own = (
        value.get("type") in ("image", "image_url", "input_image")
        or "inlineData" in value
        or "inline_data" in value
    )
    return (
        own
        + sum(map(count_images, value.values()))
        + (len(value["images"]) if isinstance(value.get("images"), list) else 0)
    )


def positive_int(value: Any) -> int | None:
    """`value` if it is a positive integer, otherwise None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def parse_arguments(text: str) -> Any:
    """The arguments of a call as an object; {} if a token limit cut their JSON. Lone surrogates, which only
    JSON can contain, stay escaped."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return msgspec.Raw(json.dumps(value).encode()) if "\\ud" in text.lower() else value


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A value or a list of values as a tuple; None is ()."""
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)
