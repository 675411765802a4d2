"""One attempt: one request sent once to one route, with its answer written into a sink."""

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
    FastRead,
    Frame,
    Guard,
    HttpCall,
    ProviderSpec,
    Reply,
    Secret,
    Trace,
    Transport,
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

# Seconds without a message after which an answer that has signalled its end counts as complete. Also the
# longest interval between two checks of the time limits.
_END_GRACE = 3.0
_NEVER = float("inf")
# Characters of an answer's messages: 500,000 chunks, or a text that no notebook can hold.
ANSWER_LIMIT = 128 * 2**20


class Attempt(msgspec.Struct, frozen=True):
    """A request and the route it is sent to. `call` is the request in the provider's format, `prepared_call`
    its serialised form, made before any clock starts. `Client.attempt` makes one for this route or another.
    background: no user waits for it (a row of a table), so other calls pass a provider's gate first. label:
    the user's label for the log."""

    request: Request
    route: Route
    dialect: Dialect
    key: Secret | None
    guard: Guard
    call: AnyCall
    prepared_call: Any
    timeouts: Timeouts
    background: bool = False
    label: str | None = None

    @property
    def provider_label(self) -> str:
        """The provider's display name."""
        return self.route.provider.label or self.route.provider.name

    @property
    def quota_key(self) -> tuple[str, str, int]:
        """(provider, model, hash of the address and the secrets): equal for attempts that share rate limits
        and failures. Hashed, because an address may hold a password."""
        row = self.route.provider
        return row.name, self.route.model, hash((row.base_url, self.guard.secrets))

    def timed_out(self, which: str, stderr: str = "") -> errors.NbllmError:
        """The error for the limit of `timeouts` called `which`. stderr: what a command wrote to standard
        error, which may explain what it is waiting for."""
        seconds: float = getattr(self.timeouts, which) or 0.0
        what = {
            "first": "No token came",
            "idle": "Nothing more came",
            "silent": "Only keep-alives came, and no token",
            "total": "The answer did not end",
        }
        error = errors.Timeout(
            f"{what[which]} from {self.provider_label} within {seconds:g} s ({which} timeout).",
            which=which,
            seconds=seconds,
            hint=f"Allow more with timeout.{which}={seconds * 2:g}, or choose another model.",
        )
        if not stderr:
            return error
        from ..agents.base import timeout_error

        return timeout_error(error, stderr, self.route.provider)


class Sink(Protocol):
    """Where an answer is written: a Stream, or a wrapper's sink in front of one. `log` holds the events so
    far with their times; `traces` has one Trace for each attempt that was sent."""

    log: EventLog
    traces: list[Trace]
    called_at: float

    def begin(self, attempt: Attempt) -> Trace:
        """Registers an attempt that is about to be sent, and returns its trace."""

    def publish(self, event: Event, at: float | None = None) -> None:
        """Adds an event that arrived at `at` (perf_counter seconds; None for now)."""

    def extend(self, items: Sequence[Item], at: float) -> None:
        """Adds events, in their compact form (Item), that arrived together."""

    def partial(self) -> Response:
        """The answer so far."""


class ForwardingSink:
    """A sink that forwards each event to another sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.log, self.traces, self.called_at = sink, sink.log, sink.traces, sink.called_at

    def begin(self, attempt: Attempt) -> Trace:
        """See Sink."""
        return self.sink.begin(attempt)

    def publish(self, event: Event, at: float | None = None) -> None:
        """See Sink."""
        self.sink.publish(event, at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """See Sink."""
        for item in items:
            self.publish(to_event(item), at)

    def partial(self) -> Response:
        """See Sink."""
        return self.sink.partial()


Handler = Callable[[Attempt, Sink], Coroutine[Any, Any, None]]


def sender(transport: Callable[[AnyCall], Transport]) -> Handler:
    """The innermost handler: sends an attempt over the transport for its call, and reads the answer into the
    sink."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        trace = sink.begin(attempt)
        try:
            await _AttemptRun(attempt, sink, trace).run(transport(attempt.call))
        except errors.NbllmError as error:
            call, route, key = attempt.call, attempt.route, attempt.key
            if isinstance(error, errors.AuthenticationError) and key is None:
                error.hint = call.no_key_hint or error.hint
            error.sent = (
                "" if route.simulated else call.describe_destination(route.provider, key, trace.address)
            )
            trace.error = error.scrub_secrets(attempt.guard.secrets).with_traceback(None)
            raise error from None

    return send


class _AttemptRun:
    """A running attempt, on the engine's loop. which: the time limit in force. size: characters of all
    messages so far. clock: ends the attempt; grace_clock: ends the reading of an answer that has signalled
    its end.

    Time limits add no work per chunk: a timer compares the times of the last message and token with them.
    """

    def __init__(self, attempt: Attempt, sink: Sink, trace: Trace) -> None:
        self.attempt, self.sink, self.trace = attempt, sink, trace
        self.which = "first"
        self.size = 0
        self.has_tokens = False
        self.started_at = self.last_message_at = time.perf_counter()
        self.decoder: Decoder | None = None
        self.read_fast: FastRead = lambda _frames, _place: []
        self.clock: asyncio.Timeout | None = None
        self.grace_clock: asyncio.Timeout | None = None
        self.timer: asyncio.TimerHandle | None = None

    async def run(self, transport: Transport) -> None:
        attempt, trace, sink = self.attempt, self.trace, self.sink
        try:
            async with asyncio.timeout(None) as self.clock:
                self._check_limits()
                if wait_message := transport.describe_wait(attempt.prepared_call):
                    sink.publish(Notice("wait", wait_message))
                async with transport.open(attempt.prepared_call, trace, attempt.timeouts.connect) as reply:
                    if reply.status >= 300:
                        raise refusal_error(
                            attempt.dialect, reply, await reply.body(), attempt.route.provider
                        )
                    await self._decode(reply)
        except errors.Timeout:
            raise  # the transport's own: the time limit for the connection
        except TimeoutError:
            raise attempt.timed_out(self.which, trace.stderr) from None
        finally:
            if self.timer is not None:
                self.timer.cancel()
            trace.stalls = stalls_since(
                trace.marks.get("start", sink.called_at) if len(sink.traces) > 1 else sink.called_at
            )

    def _check_limits(self) -> None:
        """Ends an attempt that has exceeded a time limit, or schedules the next check."""
        limits, now, reads = self.attempt.timeouts, time.perf_counter(), self.trace.reads
        self.which, limit = ("idle", limits.idle) if self.has_tokens else ("first", limits.first)
        ended = self.grace_clock is not None and getattr(self.decoder, "ended", False)
        activity, token = max(self.last_message_at, reads[-1].at if reads else 0.0), self._last_token_at()
        left = _NEVER if limit is None else activity + limit - now
        silent = _NEVER if limit is None else token + limits.silent_limit(limit) - now
        if ended:
            left = self.last_message_at + min(limit or _END_GRACE, _END_GRACE) - now
        elif activity > token and silent < left:
            self.which, left = "silent", silent
        if left > 0:
            delay = min(left, _END_GRACE, silent if silent > 0 else _NEVER)
            self.timer = asyncio.get_running_loop().call_later(delay, self._check_limits)
        elif (clock := self.grace_clock if ended else self.clock) is not None:
            clock.reschedule(asyncio.get_running_loop().time())

    def _last_token_at(self) -> float:
        """When the last token arrived, or the attempt's start where there is none."""
        return max(
            self.started_at, next((at for at, event in reversed(self.sink.log) if is_token(event)), 0.0)
        )

    async def _decode(self, reply: Reply) -> None:
        row = self.attempt.route.provider
        try:
            self.decoder = reply.decoder() or self.attempt.dialect.decoder(row)
            await self._read(self.decoder, reply)
        except errors.NbllmError:
            raise  # no finish: the session's state is unknown, so the next turn sends the whole history again
        except BaseException:
            self._finish(reply)
            raise
        self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        reply.finish(self._answer_text)

    def _answer_text(self) -> str:
        from ..agents.base import message_text

        return message_text(self.sink.partial().message, self.attempt.route.provider)

    async def _read(self, decoder: Decoder, reply: Reply) -> None:
        self.trace.non_streaming = getattr(decoder, "non_streaming", False)
        self.read_fast = getattr(decoder, "read_fast", self.read_fast)
        self.grace_clock = clock = asyncio.timeout(None)
        try:
            async with clock:
                await reply.for_each_batch(partial(self._handle_frames, decoder))
        except TimeoutError:
            if not clock.expired():
                raise
        except (errors.StreamCut, errors.ProtocolError):
            if not getattr(decoder, "ended", False):
                raise  # else the answer is complete, and it does not matter how the connection ended
        finally:
            self.grace_clock = None
        if "done" not in self.trace.marks:
            self._close_decoder(decoder)

    def _handle_frames(self, decoder: Decoder, batch: list[Frame]) -> bool:
        """Decodes and publishes the frames that arrived together; True where the answer is complete. Frames
        that `read_fast` recognises take the decoder's fast path."""
        items: list[Item] = []
        upto: list[int] = []
        self.last_message_at, sizes = batch[-1].at, [len(frame.data) for frame in batch]
        if (size := self.size + sum(sizes)) > ANSWER_LIMIT:
            raise errors.ProtocolError(
                f"The answer is larger than {ANSWER_LIMIT >> 20} MiB, and was stopped.",
                hint="What has arrived is kept. Limit it with max_tokens, or choose another model.",
            )
        self.size, before = size, len(self.sink.log)
        try:
            while len(upto) < len(batch) and not decoder.done:
                if found := self.read_fast(batch, len(upto)):
                    upto += range(len(items) + 1, len(items) + len(found) + 1)
                    items += found
                else:
                    self._decode_frame(decoder, batch[len(upto)], items)
                    upto.append(len(items))
        finally:
            self._publish(items, batch[0].at)
            reads = [frame.read for frame in batch[: len(upto)]]
            end = len(self.sink.log)  # a sink may hold some events back
            self.trace.arrivals.extend([min(before + n, end) for n in upto], reads, sizes[: len(upto)])
        if decoder.done:
            self.trace.marks["done"] = self.last_message_at
            self._close_decoder(decoder)
        return decoder.done

    def _close_decoder(self, decoder: Decoder) -> None:
        items: list[Item] = []
        try:
            self._decode_frame(decoder, None, items)
        finally:
            self._publish(items, time.perf_counter())

    def _decode_frame(self, decoder: Decoder, frame: Frame | None, items: list[Item]) -> None:
        """Appends a frame's events to `items`; None is the end of the stream. Raises ProtocolError for any
        foreign exception in a decoder, whose input is the server's; the events before it stay."""
        try:
            for event in decoder.close() if frame is None else decoder.feed(frame):
                items.append(to_item(event))
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - input that the decoder does not foresee
            raise unreadable_error(self.attempt.route.provider, exc) from None

    def _publish(self, items: list[Item], at: float) -> None:
        if not self.has_tokens and any(map(is_token, items)):
            self._on_first_token()
        if items:
            self.sink.extend(items, at)

    def _on_first_token(self) -> None:
        """Switches from the limit for the first token to the one between tokens."""
        self.has_tokens = True
        timer, idle = self.timer, self.attempt.timeouts.idle
        if timer is None or (idle is not None and timer.when() - asyncio.get_running_loop().time() > idle):
            if timer is not None:
                timer.cancel()
            self._check_limits()


def refusal_error(dialect: Dialect, reply: Reply, body: bytes, row: ProviderSpec) -> errors.NbllmError:
    """The error for an answer with an error status, whatever its body holds."""
    try:
        return dialect.error(reply.status, reply.headers, body, row)
    except Exception as exc:  # noqa: BLE001 - the page is the server's
        return unreadable_error(row, exc, f" (HTTP {reply.status})")


def unreadable_error(row: ProviderSpec, exc: Exception, about: str = "") -> errors.ProtocolError:
    """The error for an answer that could not be decoded because of `exc`."""
    return errors.ProtocolError(
        f"{row.label or row.name} sent an answer that cannot be read{about}: {type(exc).__name__}.",
        hint="Try again, or check that base_url and dialect belong together.",
    )


LIMIT = 32 * 2**20  # bytes of a small answer; OpenRouter's list of models is over 1 MiB
_CONNECT = 10.0  # seconds to open a connection


async def fetch_json(
    http: HttpTransport,
    dialect: Dialect,
    row: ProviderSpec,
    call: HttpCall,
    limit: float,
    *,
    connect: float | None = _CONNECT,
) -> tuple[dict[str, str], Any]:
    """(headers, JSON) of the answer to a small request; the JSON is None for an empty body. Raises as
    `open_response` does."""
    async with open_response(http, dialect, row, call, limit, connect=connect) as reply:
        body = await reply.body(LIMIT)
        return reply.headers, load_json(body) if body.strip() else None


@asynccontextmanager
async def open_response(
    http: HttpTransport,
    dialect: Dialect,
    row: ProviderSpec,
    call: HttpCall,
    limit: float,
    *,
    connect: float | None = _CONNECT,
) -> AsyncIterator[HttpReply]:
    """Sends a request and yields the reply where its status is 2xx. All must end within `limit` seconds; the
    connection must be open within `connect`. A POST (it creates a batch, a cached context) uses a fresh
    connection: a reused one that the server has closed would make us send it again, and it might be created
    and paid for twice. Raises NbllmError with secrets masked."""
    try:
        sent = http.prepare_call(call, fresh=call.method == "POST")
        async with asyncio.timeout(limit), http.open(sent, Trace(), connect) as reply:
            if not 200 <= reply.status < 300:
                raise refusal_error(dialect, reply, await reply.body(LIMIT), row)
            yield reply
    except errors.NbllmError as error:
        raise error.scrub_secrets(call.guard.secrets).with_traceback(None) from None
    except TimeoutError:
        raise errors.Timeout(
            f"No answer from {row.label or row.name} within {limit:g} s.",
            which="total",
            seconds=limit,
            hint="Try again.",
        ) from None
