"""The pipes of an MCP server that runs as a command, as the two streams that the SDK's Client needs.

The SDK's own transport hangs on an invalid byte, on a lone surrogate and on servers that do not exit. Here
lines are parsed leniently, invalid ones are counted, a line has at most 16 MiB, and the owner starts and ends
the command. There are no tasks: a reader reads from the pipe directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec

from ..agents.process import Command
from ..core.collector import gc_paused
from ..core.errors import NbllmError, ProtocolError
from ..core.events import is_too_deep
from ..dialects._json import load_json
from .mcp_mend import MAX_ITEMS, TEXT_LIMIT

_MAX_INVALID_LINES = 1_000  # in a row
LARGE = 2**16  # bytes of a line that takes a millisecond or more to parse, which is done on another thread
_DECODE = msgspec.json.Decoder().decode
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Stream:
    """The common part of both streams."""

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Does nothing: the pipes belong to the command."""


class Incoming(_Stream):
    """The messages that a command writes. decode: makes the SDK's message of a JSON object; raises
    ValueError. Notifications (progress, logs, changed lists) are dropped: they are not needed, and many would
    keep the loop busy. on_end: called when no more messages will come. error: why reading was given up, None
    where the output ended."""

    def __init__(
        self, command: Command, decode: Callable[[dict[str, Any]], Any], on_end: Callable[[], None]
    ) -> None:
        self.error: NbllmError | None = None
        self._command, self._decode, self._on_end = command, decode, on_end
        self._messages = self._read()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._messages)

    async def _read(self) -> AsyncGenerator[Any, None]:
        n_invalid, large = 0, gc_paused()(self._message)
        try:
            async for lines, _at, _size in self._command.lines():
                for text in lines:
                    is_notification, message = (
                        await asyncio.to_thread(large, text) if len(text) > LARGE else self._message(text)
                    )
                    n_invalid = 0 if is_notification or message is not None else n_invalid + 1
                    if n_invalid > _MAX_INVALID_LINES:
                        raise ProtocolError(
                            f"It wrote {_MAX_INVALID_LINES:,} lines in a row that are not messages."
                        )
                    if message is not None:
                        yield message
        except NbllmError as error:
            self.error = error
        self._on_end()  # not reached where we close the reader ourselves

    def _message(self, text: bytes) -> tuple[bool, Any]:
        """(whether a line is a notification, its message where it is a response or a request)."""
        value = parse_object(text)
        is_notification = value is not None and "method" in value and "id" not in value
        try:
            return is_notification, None if value is None or is_notification else self._decode(value)
        except ValueError:
            return is_notification, None


class Outgoing(_Stream):
    """Writes messages to a command. encode: makes JSON of the SDK's message."""

    def __init__(self, command: Command, encode: Callable[[Any], str]) -> None:
        self._command, self._encode = command, encode

    async def send(self, item: Any) -> None:
        """Writes a message. A command that no longer reads shows by the end of its output."""
        await self._command.write(self._encode(item) + "\n")


def parse_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None where there is none. Invalid UTF-8 and lone surrogates are replaced."""
    if not text[:64].lstrip().startswith(b"{"):
        return None
    value = _parse_long(text) if len(text) > LARGE else _parse_value(text)
    return value if isinstance(value, dict) and not is_too_deep(value) else None


def _parse_long(text: bytes) -> Any:
    """`parse_object` for a long line. No other thread can run during one parse, so the result is parsed field
    by field, and of lists only the items that are used."""
    try:
        top = _FIELDS.decode(text)
        result = _FIELDS.decode(top.pop("result"))
        return {name: _parse_value(v) for name, v in top.items()} | {
            "result": {name: _parse_field(v) for name, v in result.items()}
        }
    except (*_UNREADABLE, KeyError):
        return _parse_value(text)


def _parse_field(raw: msgspec.Raw) -> Any:
    """A field's value: of a list the first items, with None for the others; of a long object its text."""
    kind = bytes(memoryview(raw)[:1])
    if kind == b"[":
        return [_parse_value(v) if i < MAX_ITEMS else None for i, v in enumerate(_ITEMS.decode(raw))]
    long = kind == b"{" and len(memoryview(raw)) > TEXT_LIMIT
    return bytes(raw).decode("utf-8", "replace") if long else _parse_value(raw)


def _parse_value(text: bytes | msgspec.Raw) -> Any:
    try:
        return _DECODE(text)
    except _UNREADABLE:
        with suppress(ProtocolError):
            return replace_surrogates(load_json(bytes(text).decode("utf-8", "replace")))
        return None


def replace_surrogates(value: Any) -> Any:
    """A value with the lone surrogates in its texts replaced."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [replace_surrogates(v) for v in value]
    return (
        {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
        if isinstance(value, dict)
        else value
    )
