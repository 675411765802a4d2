"""One module per wire format, each with the same words: it reads a request into an Ask and writes a Reply as
the provider does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..normalized_request import Ask
from ..plan import Out, Reply
from ..text import clean

encode = msgspec.json.encode


class Refused(Exception):
    """A request that is answered with an error. `why` chooses among errors of one status."""

    def __init__(
        self, status: int, message: str = "", why: str = "", retry_after: float | None = None
    ) -> None:
        self.status, self.message, self.why, self.retry_after = status, message, why, retry_after
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, read whole. Header names are lower case; `path` is decoded and without its query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Mapping[str, Any]:
        """The body's JSON object. Raises Refused."""
        try:
            value = json.loads(self.body)
            if b"\\ud" in self.body.lower():  # halves of characters, which no answer could repeat
                value = json.loads(clean(json.dumps(value, ensure_ascii=False)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"We could not parse the JSON body of your request: {error}") from None
        if not isinstance(value, dict):
            raise Refused(400, "The JSON body of your request is not an object.")
        return value


class Format(Protocol):
    """What each module of this package has."""

    NAME: str
    ID: str  # what its answers' ids begin with
    PING: bytes  # a keep-alive, b"" where the format has none

    def ask(self, request: Request) -> Ask:
        """What the request asks. Raises Refused."""

    def media(self, ask: Ask) -> str:
        """The content type of a streamed answer."""

    def stream(self, reply: Reply) -> Iterator[Out]:
        """The answer as a stream."""

    def whole(self, reply: Reply) -> Mapping[str, Any]:
        """The answer in one piece."""

    def broken(self, reply: Reply, at: float, sent: int) -> Iterator[Out]:
        """An error inside the stream, after so many events, and what the provider sends after it."""

    def error(self, refused: Refused, request_id: str) -> Any:
        """The body of an error."""

    def headers(self, id: str, seconds: float) -> Mapping[str, str]:
        """Headers of its own: `id` is the request's, `seconds` what the server needed until the first
        token."""


def sse(value: Any, name: str = "") -> bytes:
    """A server-sent event."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + encode(value) + b"\n\n"


def joined(outs: list[Out], more: bool = False) -> Iterator[Out]:
    """`outs` in one socket write; with `more`, what follows is in it too."""
    for i, out in enumerate(outs):
        yield out._replace(more=more or i < len(outs) - 1)


def said(content: Any) -> str:
    """All the text in a message's content, whatever its nesting."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(said, content)))
    if isinstance(content, Mapping):
        return next((said(content[k]) for k in ("text", "content", "output", "parts") if content.get(k)), "")
    return ""


def pictures(value: Any) -> int:
    """How many pictures a request holds."""
    if isinstance(value, list):
        return sum(map(pictures, value))
    if not isinstance(value, Mapping):
        return 0
    own = (
        value.get("type") in ("image", "image_url", "input_image")
        or "inlineData" in value
        or "inline_data" in value
    )
    return (
        own
        + sum(map(pictures, value.values()))
        + (len(value["images"]) if isinstance(value.get("images"), list) else 0)
    )


def whole_number(value: Any) -> int | None:
    """`value` where it is a whole number of one or more."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def arguments(text: str) -> Any:
    """A call's arguments as an object; {} where a token limit cut their JSON. Halves of characters, which
    only JSON can write, stay as they are written."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return msgspec.Raw(json.dumps(value).encode()) if "\\ud" in text.lower() else value


def listed(value: Any) -> tuple[Any, ...]:
    """One thing or a list of things as a tuple."""
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)
