"""One attempt: a request on its way to one route, sent once and read once into a sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import msgspec

from ..core import errors
from ..core.calls import (
    AnyCall,
    Decoder,
    Dialect,
    Frame,
    Guard,
    HttpCall,
    ProviderSpec,
    Reply,
    Secret,
    Trace,
    Transport,
    Usual,
)
from ..core.eventlog import EventLog
from ..core.events import Event, Item, Notice, Response, is_token, to_event, to_item
from ..core.messages import Request
from ..dialects._json import load_json
from ..http.stamps import stalls_since
from ..http.transport import HttpTransport
from ..http.transport import Reply as HttpReply
from ..routing.registry import Route
from .policy import Timeouts

# Seconds without a message, after an answer has told its end: then that was all. Also how often one looks.
_AFTER_END = 3.0
_NEVER = float("inf")
ANSWER_LIMIT = (
    128 * 2**20
)  # characters of an answer's messages: 500,000 chunks, or a text that no notebook can hold


class Attempt(msgspec.Struct, frozen=True):
    """What is asked of whom. `call` is the request in the provider's words, `ready` the same as its transport
    sends it, made before any clock starts. `Client.attempt` makes one, for this route or another.
    background: nobody waits for it, so that at a provider's gate others go first.
    label: a word for the log."""

    request: Request
    route: Route
    dialect: Dialect
    key: Secret | None
    guard: Guard
    call: AnyCall
    ready: Any
    timeouts: Timeouts
    background: bool = False
    label: str | None = None

    @property
    def who(self) -> str:
        """The provider's name as people read it."""
        return self.route.provider.label or self.route.provider.name

    @property
    def asked(self) -> tuple[str, str, int]:
        """Row, model, and a number for the address (which may hold a password) and the secrets: equal where
        limits and failures are shared."""
        row = self.route.provider
        return row.name, self.route.model, hash((row.base_url, self.guard.texts))

    def timed_out(self, which: str, stderr: str = "") -> errors.NbllmError:
        """The error for a limit of `timeouts` that has run out; by what a command says on standard error,
        where it tells what it waits for."""
        seconds: float = getattr(self.timeouts, which) or 0.0
        what = {
            "first": "No token came",
            "idle": "Nothing more came",
            "silent": "Signs of life came, but no token",
            "total": "The answer did not end",
        }
        error = errors.Timeout(
            f"{what[which]} from {self.who} within {seconds:g} s ({which} timeout).",
            which=which,
            seconds=seconds,
            hint=f"Allow more with timeout.{which}={seconds * 2:g}, or choose another model.",
        )
        if not stderr:
            return error
        from ..agents.base import late

        return late(error, stderr, self.route.provider)


class Sink(Protocol):
    """Where an answer goes: a Stream, or what a wrapper puts before one. `log` is what is there already, by
    time; `traces` has one of each attempt that was sent."""

    log: EventLog
    traces: list[Trace]
    called: float

    def begin(self, attempt: Attempt) -> Trace:
        """Says that an attempt is being sent, and gives the trace for it."""

    def publish(self, event: Event, at: float | None = None) -> None:
        """Adds an event that came at `at` (perf_counter seconds; now, where None)."""

    def extend(self, items: Sequence[Item], at: float) -> None:
        """Adds events, in their short form, that came at one moment."""

    def partial(self) -> Response:
        """The answer so far."""


class Passing:
    """A sink that hands each event on to another."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.log, self.traces, self.called = sink, sink.log, sink.traces, sink.called

    def begin(self, attempt: Attempt) -> Trace:
        """As the sink's."""
        return self.sink.begin(attempt)

    def publish(self, event: Event, at: float | None = None) -> None:
        """Hands it on."""
        self.sink.publish(event, at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """As publish, of several."""
        for item in items:
            self.publish(to_event(item), at)

    def partial(self) -> Response:
        """The sink's."""
        return self.sink.partial()


Handler = Callable[[Attempt, Sink], Coroutine[Any, Any, None]]


def sender(transport: Callable[[AnyCall], Transport]) -> Handler:
    """The handler at the bottom: sends an attempt the way that its call takes, and reads the answer into the
    sink."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        trace = sink.begin(attempt)
        try:
            await _Sending(attempt, sink, trace).run(transport(attempt.call))
        except errors.NbllmError as error:
            call, route, key = attempt.call, attempt.route, attempt.key
            if isinstance(error, errors.AuthenticationError) and key is None:
                error.hint = call.no_key_hint or error.hint
            error.sent = "" if route.simulated else call.told(route.provider, key, trace.address)
            trace.error = error.scrubbed(attempt.guard.texts).with_traceback(None)
            raise error from None

    return send


class _Sending:
    """An attempt at work on the engine's loop. which: the time limit that runs; since: when it began; seen:
    when the last message came; size: characters of all messages; clock: ends the attempt, after_end what is
    read of an answer that has told its end.

    Time limits cost a chunk nothing: a timer looks now and then how far things have come.
    """

    def __init__(self, attempt: Attempt, sink: Sink, trace: Trace) -> None:
        self.attempt, self.sink, self.trace = attempt, sink, trace
        self.which = "first"
        self.size = 0
        self.tokens = False
        self.since = self.seen = time.perf_counter()
        self.decoder: Decoder | None = None
        self.usual: Usual = lambda _frames, _place: []
        self.clock: asyncio.Timeout | None = None
        self.after_end: asyncio.Timeout | None = None
        self.timer: asyncio.TimerHandle | None = None

    async def run(self, transport: Transport) -> None:
        attempt, trace, sink = self.attempt, self.trace, self.sink
        try:
            async with asyncio.timeout(None) as self.clock:
                self._look()
                if words := transport.waits(attempt.ready):
                    sink.publish(Notice("wait", words))
                opened = transport.open(attempt.ready, trace, attempt.timeouts.connect)
                async with opened as reply:
                    if reply.status >= 300:
                        raise refusal(attempt.dialect, reply, await reply.body(), attempt.route.provider)
                    await self._decode(reply)
        except errors.Timeout:
            raise  # the transport has named it already: connect
        except TimeoutError:
            raise attempt.timed_out(self.which, trace.stderr) from None
        finally:
            if self.timer is not None:
                self.timer.cancel()
            trace.stalls = stalls_since(
                trace.marks.get("start", sink.called) if len(sink.traces) > 1 else sink.called
            )

    def _look(self) -> None:
        """Ends what has waited too long; else looks again when it may have."""
        limits, now, reads = self.attempt.timeouts, time.perf_counter(), self.trace.reads
        self.which, limit = ("idle", limits.idle) if self.tokens else ("first", limits.first)
        ended = self.after_end is not None and getattr(self.decoder, "ended", False)
        sign, token = max(self.seen, reads[-1].at if reads else 0.0), self._last_token()
        left = _NEVER if limit is None else sign + limit - now
        silent = _NEVER if limit is None else token + limits.patience(limit) - now
        if ended:
            left = self.seen + min(limit or _AFTER_END, _AFTER_END) - now
        elif sign > token and silent < left:
            self.which, left = "silent", silent
        if left > 0:
            again = min(left, _AFTER_END, silent if silent > 0 else _NEVER)
            self.timer = asyncio.get_running_loop().call_later(again, self._look)
        elif (clock := self.after_end if ended else self.clock) is not None:
            clock.reschedule(asyncio.get_running_loop().time())

    def _last_token(self) -> float:
        """When the last token came, or else the attempt began."""
        return max(self.since, next((at for at, event in reversed(self.sink.log) if is_token(event)), 0.0))

    async def _decode(self, reply: Reply) -> None:
        row = self.attempt.route.provider
        try:
            self.decoder = reply.decoder() or self.attempt.dialect.decoder(row)
            await self._read(self.decoder, reply)
        except errors.NbllmError:
            raise  # what a session made of the turn is not known: the next one tells it all again
        except BaseException:
            self._finish(reply)
            raise
        self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        reply.finish(self._answer)

    def _answer(self) -> str:
        from ..agents.base import spoken

        return spoken(self.sink.partial().message, self.attempt.route.provider)

    async def _read(self, decoder: Decoder, reply: Reply) -> None:
        self.trace.whole = getattr(decoder, "whole", False)
        self.usual = getattr(decoder, "usual", self.usual)
        self.after_end = clock = asyncio.timeout(None)
        try:
            async with clock:
                await reply.each(partial(self._take, decoder))
        except TimeoutError:
            if not clock.expired():
                raise
        except (errors.StreamCut, errors.ProtocolError):
            if not getattr(decoder, "ended", False):
                raise  # else the answer is whole, and how the connection or its words ended is no news
        finally:
            self.after_end = None
        if "done" not in self.trace.marks:
            self._close(decoder)

    def _take(self, decoder: Decoder, batch: list[Frame]) -> bool:
        """Publishes what came together, at once; whether that was all. What a decoder knows as usual goes the
        short way."""
        items: list[Item] = []
        upto: list[int] = []
        self.seen, sizes = batch[-1].at, [len(frame.data) for frame in batch]
        if (size := self.size + sum(sizes)) > ANSWER_LIMIT:
            raise errors.ProtocolError(
                f"The answer is larger than {ANSWER_LIMIT >> 20} MiB, and was stopped.",
                hint="What came is kept. Limit it with max_tokens, or choose another model.",
            )
        self.size, before = size, len(self.sink.log)
        try:
            while len(upto) < len(batch) and not decoder.done:
                if found := self.usual(batch, len(upto)):
                    upto += range(len(items) + 1, len(items) + len(found) + 1)
                    items += found
                else:
                    self._feed(decoder, batch[len(upto)], items)
                    upto.append(len(items))
        finally:
            self._show(items, batch[0].at)
            reads = [frame.read for frame in batch[: len(upto)]]
            whole = len(self.sink.log)  # a sink may keep some to itself
            self.trace.arrivals.extend([min(before + n, whole) for n in upto], reads, sizes[: len(upto)])
        if decoder.done:
            self.trace.marks["done"] = self.seen
            self._close(decoder)
        return decoder.done

    def _close(self, decoder: Decoder) -> None:
        items: list[Item] = []
        try:
            self._feed(decoder, None, items)
        finally:
            self._show(items, time.perf_counter())

    def _feed(self, decoder: Decoder, frame: Frame | None, items: list[Item]) -> None:
        """Adds what is in a frame, or in the end where it is None. Raises ProtocolError for whatever else a
        decoder raises: its input is the server's, and what came before stays."""
        try:
            for event in decoder.close() if frame is None else decoder.feed(frame):
                items.append(to_item(event))
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - what nobody thought of: a wrong type, a depth, a number
            raise unreadable(self.attempt.route.provider, exc) from None

    def _show(self, items: list[Item], at: float) -> None:
        if not self.tokens and any(map(is_token, items)):
            self._first_token()
        if items:
            self.sink.extend(items, at)

    def _first_token(self) -> None:
        """From here on, the limit is another one."""
        self.tokens = True
        timer, idle = self.timer, self.attempt.timeouts.idle
        if timer is None or (idle is not None and timer.when() - asyncio.get_running_loop().time() > idle):
            if timer is not None:
                timer.cancel()
            self._look()


def refusal(dialect: Dialect, reply: Reply, body: bytes, row: ProviderSpec) -> errors.NbllmError:
    """The error in an answer that refuses, whatever its page holds."""
    try:
        return dialect.error(reply.status, reply.headers, body, row)
    except Exception as exc:  # noqa: BLE001 - the page is the server's
        return unreadable(row, exc, f" (HTTP {reply.status})")


def unreadable(row: ProviderSpec, exc: Exception, about: str = "") -> errors.ProtocolError:
    """The error for an answer that a decoder stumbled over."""
    return errors.ProtocolError(
        f"{row.label or row.name} sent what cannot be read{about}: {type(exc).__name__}.",
        hint="Ask again, or check that base_url and dialect belong together.",
    )


LIMIT = 32 * 2**20  # bytes of a small answer; OpenRouter's list of models is over 1 MiB
_CONNECT = 10.0  # seconds for a connection to be there


async def exchanged(
    http: HttpTransport,
    dialect: Dialect,
    row: ProviderSpec,
    call: HttpCall,
    limit: float,
    *,
    connect: float | None = _CONNECT,
) -> tuple[dict[str, str], Any]:
    """(the headers, the JSON) that answer a small question to a provider's server; an answer without a body
    is None. Raises as `opened` does."""
    async with opened(http, dialect, row, call, limit, connect=connect) as reply:
        body = await reply.body(LIMIT)
        return reply.headers, load_json(body) if body.strip() else None


@asynccontextmanager
async def opened(
    http: HttpTransport,
    dialect: Dialect,
    row: ProviderSpec,
    call: HttpCall,
    limit: float,
    *,
    connect: float | None = _CONNECT,
) -> AsyncIterator[HttpReply]:
    """A good answer to a question, which must end within `limit` seconds, `connect` of them for a connection.
    What makes something (a batch, a kept context) has a connection of its own: over one that was kept, it
    would be sent again where the server lets go of that, and be made and paid for twice. Raises our errors,
    what is secret masked in them."""
    try:
        sent = http.ready(call, fresh=call.method == "POST")
        async with asyncio.timeout(limit), http.open(sent, Trace(), connect) as reply:
            if not 200 <= reply.status < 300:
                raise refusal(dialect, reply, await reply.body(LIMIT), row)
            yield reply
    except errors.NbllmError as error:
        raise error.scrubbed(call.guard.texts).with_traceback(None) from None
    except TimeoutError:
        raise errors.Timeout(
            f"No answer from {row.label or row.name} within {limit:g} s.",
            which="total",
            seconds=limit,
            hint="Try again.",
        ) from None
