"""One attempt: a request on its way to one route, sent once and read once into a sink."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from ..agents.base import spoken
from ..core import errors
from ..core.calls import AnyCall, Arrival, Decoder, Dialect, Frame, Guard, Provider, Reply, Secret, Trace
from ..core.events import Event, Response, is_token
from ..core.messages import Request
from ..http.stamps import stalls_since
from ..routing.registry import Route
from .policy import Timeouts
from .pool import Pool

ANSWER_LIMIT = (
    128 * 2**20
)  # characters of an answer's messages: 500,000 chunks, or a text that no notebook can hold


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is asked of whom. `call` is the request in the provider's words, `ready` the same as its transport
    sends it, made before any clock starts. `Client.attempt` makes one, for this route or another.
    background: nobody waits for it, so that at a provider's gate others go first."""

    request: Request
    route: Route
    dialect: Dialect
    key: Secret | None
    guard: Guard
    call: AnyCall
    ready: Any
    timeouts: Timeouts
    background: bool = False

    @property
    def who(self) -> str:
        """The provider's name as people read it."""
        return self.route.provider.label or self.route.provider.name

    @property
    def asked(self) -> tuple[str, str, str, int]:
        """Row, address, model and secrets: equal where limits and failures are shared."""
        row = self.route.provider
        return row.name, row.base_url, self.route.model, hash(self.guard.texts)

    def timed_out(self, which: str) -> errors.Timeout:
        """The error for a limit of `timeouts` that has run out."""
        seconds: float = getattr(self.timeouts, which) or 0.0
        what = {"first": "No token came", "idle": "Nothing more came", "total": "The answer did not end"}
        return errors.Timeout(
            f"{what[which]} from {self.who} within {seconds:g} s ({which} timeout).",
            which=which,
            seconds=seconds,
            hint=f"Allow more with timeout.{which}={seconds * 2:g}, or choose another model.",
        )


class Sink(Protocol):
    """Where an answer goes: a Stream, or what a wrapper puts before one. `log` is what is there already, by
    time; `traces` has one of each attempt that was sent."""

    log: list[tuple[float, Event]]
    traces: list[Trace]
    called: float

    def begin(self, attempt: Attempt) -> Trace:
        """Says that an attempt is being sent, and gives the trace for it."""

    def publish(self, event: Event, at: float | None = None) -> None:
        """Adds an event that came at `at` (perf_counter seconds; now, where None)."""

    def partial(self) -> Response:
        """The answer so far."""


Handler = Callable[[Attempt, Sink], Coroutine[Any, Any, None]]


def sender(pool: Pool) -> Handler:
    """The handler at the bottom: sends an attempt, and reads the answer into the sink."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        trace = sink.begin(attempt)
        try:
            await _Sending(attempt, sink, trace).run(pool)
        except errors.NbllmError as error:
            call, route, key = attempt.call, attempt.route, attempt.key
            if isinstance(error, errors.AuthenticationError) and key is None:
                error.hint = call.no_key_hint or error.hint
            error.sent = "" if route.simulated else call.told(route.provider, key, trace.address)
            trace.error = error.scrubbed(attempt.guard.texts).with_traceback(None)
            raise error from None

    return send


@dataclass(slots=True)
class _Sending:
    """An attempt at work on the engine's loop. tokens: one has come; which: the time limit that runs."""

    attempt: Attempt
    sink: Sink
    trace: Trace
    tokens: bool = False
    which: str = "first"

    async def run(self, pool: Pool) -> None:
        attempt, trace, sink = self.attempt, self.trace, self.sink
        try:
            async with (
                asyncio.timeout(attempt.timeouts.first) as clock,
                pool.transport(attempt.call).open(attempt.ready, trace, attempt.timeouts.connect) as reply,
            ):
                if reply.status >= 300:
                    raise refusal(attempt.dialect, reply, await reply.body(), attempt.route.provider)
                await self._decode(reply, clock)
        except errors.Timeout:
            raise  # the transport has named it already: connect
        except TimeoutError:
            raise attempt.timed_out(self.which) from None
        finally:
            trace.stalls = stalls_since(
                trace.marks.get("start", sink.called) if len(sink.traces) > 1 else sink.called
            )

    async def _decode(self, reply: Reply, clock: asyncio.Timeout) -> None:
        row = self.attempt.route.provider
        try:
            await self._read(reply.decoder() or self.attempt.dialect.decoder(row), reply, clock)
        except errors.NbllmError:
            raise  # what a session made of the turn is not known: the next one tells it all again
        except BaseException:
            self._finish(reply)
            raise
        self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        reply.finish(lambda: spoken(self.sink.partial().message, self.attempt.route.provider))

    async def _read(self, decoder: Decoder, reply: Reply, clock: asyncio.Timeout) -> None:
        trace, log = self.trace, self.sink.log
        trace.whole = getattr(decoder, "whole", False)
        loop, size = asyncio.get_running_loop(), 0
        async with contextlib.aclosing(reply.frames()) as frames:
            async for frame in frames:
                self._feed(decoder, frame)
                if (size := size + len(frame.data)) > ANSWER_LIMIT:
                    raise errors.ProtocolError(
                        f"The answer is larger than {ANSWER_LIMIT >> 20} MiB, and was stopped.",
                        hint="What came is kept. Limit it with max_tokens, or choose another model.",
                    )
                trace.arrivals.append(Arrival(len(log), frame.read, len(frame.data)))
                if decoder.done:
                    trace.marks["done"] = frame.at
                    break
                if self.tokens:
                    self._extend(clock, loop.time())
            self._feed(decoder, None)
            await reply.drain(frames)

    def _extend(self, clock: asyncio.Timeout, now: float) -> None:
        """Moves the idle limit. Timers cost more than a chunk's decoding, so only when a twentieth of the
        limit has gone by."""
        idle = self.attempt.timeouts.idle
        if self.which != "idle" or (idle is not None and now + 0.95 * idle > (clock.when() or 0.0)):
            self.which = "idle"
            clock.reschedule(None if idle is None else now + idle)

    def _feed(self, decoder: Decoder, frame: Frame | None) -> None:
        """Publishes what is in a frame, or in the end where it is None. Raises ProtocolError for whatever
        else a decoder raises: its input is the server's, and what came before stays."""
        try:
            for event in decoder.close() if frame is None else decoder.feed(frame):
                self.tokens = self.tokens or is_token(event)
                self.sink.publish(event, None if frame is None else frame.at)
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - what nobody thought of: a wrong type, a depth, a number
            raise unreadable(self.attempt.route.provider, exc) from None


def refusal(dialect: Dialect, reply: Reply, body: bytes, row: Provider) -> errors.NbllmError:
    """The error in an answer that refuses, whatever its page holds."""
    try:
        return dialect.error(reply.status, reply.headers, body, row)
    except Exception as exc:  # noqa: BLE001 - the page is the server's
        return unreadable(row, exc, f" (HTTP {reply.status})")


def unreadable(row: Provider, exc: Exception, about: str = "") -> errors.ProtocolError:
    """The error for an answer that a decoder stumbled over."""
    return errors.ProtocolError(
        f"{row.label or row.name} sent what cannot be read{about}: {type(exc).__name__}.",
        hint="Ask again, or check that base_url and dialect belong together.",
    )
