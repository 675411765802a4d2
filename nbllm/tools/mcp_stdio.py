"""The pipes of an MCP server that runs as a command, as the two streams that the SDK's Client wants.

The SDK's own transport hangs on one invalid byte, on half a surrogate pair and on servers that do not end.
Here a line is read as leniently as it can be, what is no message is counted, a line is at most 16 MiB, and
the command's life is its owner's. There are no tasks: whoever reads, reads from the pipe.
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
from .mcp_mend import MOST, TEXT_LIMIT

_BABBLE = 1_000  # lines in a row that are no message
LARGE = 2**16  # bytes of a line that takes a millisecond to read, or many: that is done beside the loop
_DECODE = msgspec.json.Decoder().decode
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Stream:
    """What both ends have in common."""

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Nothing: the pipes are the command's."""


class Incoming(_Stream):
    """The messages that a command writes. decode: a JSON object as the SDK's message; raises ValueError.
    Notifications (progress, logs, changed lists) are dropped: nothing here waits for one, and a flood of them
    would keep the loop busy. over: told that no more will come. trouble: why reading was given up, None
    where the output ended."""

    def __init__(
        self, command: Command, decode: Callable[[dict[str, Any]], Any], over: Callable[[], None]
    ) -> None:
        self.trouble: NbllmError | None = None
        self._command, self._decode, self._over = command, decode, over
        self._messages = self._read()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._messages)

    async def _read(self) -> AsyncGenerator[Any, None]:
        babble, large = 0, gc_paused()(self._message)
        try:
            async for lines, _at, _size in self._command.lines():
                for text in lines:
                    passing, message = (
                        await asyncio.to_thread(large, text) if len(text) > LARGE else self._message(text)
                    )
                    babble = 0 if passing or message is not None else babble + 1
                    if babble > _BABBLE:
                        raise ProtocolError(f"It wrote {_BABBLE:,} lines that are no messages.")
                    if message is not None:
                        yield message
        except NbllmError as error:
            self.trouble = error
        self._over()  # not where the reader is closed: that is our own doing

    def _message(self, text: bytes) -> tuple[bool, Any]:
        """(whether a line is a notification, its message where it is one that somebody waits for)."""
        value = parsed(text)
        passing = value is not None and "method" in value and "id" not in value
        try:
            return passing, None if value is None or passing else self._decode(value)
        except ValueError:
            return passing, None


class Outgoing(_Stream):
    """What is written to a command. encode: the SDK's message as JSON."""

    def __init__(self, command: Command, encode: Callable[[Any], str]) -> None:
        self._command, self._encode = command, encode

    async def send(self, item: Any) -> None:
        """Writes a message; that nobody reads any more is told by the end of the output."""
        await self._command.write(self._encode(item) + "\n")


def parsed(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None where there is none. Bytes that are no UTF-8 and halves of surrogate
    pairs are replaced."""
    if not text[:64].lstrip().startswith(b"{"):
        return None
    value = _beginnings(text) if len(text) > LARGE else _value(text)
    return value if isinstance(value, dict) and not is_too_deep(value) else None


def _beginnings(text: bytes) -> Any:
    """The same of a long line. What is read at once, no other thread can interrupt: so its result is read
    value by value, of a list only what somebody will look at."""
    try:
        top = _FIELDS.decode(text)
        result = _FIELDS.decode(top.pop("result"))
        return {name: _value(v) for name, v in top.items()} | {
            "result": {name: _beginning(v) for name, v in result.items()}
        }
    except (*_UNREADABLE, KeyError):
        return _value(text)


def _beginning(raw: msgspec.Raw) -> Any:
    """A value: of a list the first items, the others as None; of a long object the text."""
    kind = bytes(memoryview(raw)[:1])
    if kind == b"[":
        return [_value(v) if i < MOST else None for i, v in enumerate(_ITEMS.decode(raw))]
    long = kind == b"{" and len(memoryview(raw)) > TEXT_LIMIT
    return bytes(raw).decode("utf-8", "replace") if long else _value(raw)


def _value(text: bytes | msgspec.Raw) -> Any:
    try:
        return _DECODE(text)
    except _UNREADABLE:
        with suppress(ProtocolError):
            return whole(load_json(bytes(text).decode("utf-8", "replace")))
        return None


def whole(value: Any) -> Any:
    """A value whose texts hold no half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [whole(v) for v in value]
    return {whole(k): whole(v) for k, v in value.items()} if isinstance(value, dict) else value
