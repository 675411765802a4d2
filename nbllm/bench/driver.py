"""The load generator: sends the planned requests on time, turn after turn, each turn as a closed or an open
loop.

It runs on the engine's event loop in the worker process. Between turns it waits until everything is on disk,
so that storing one answer does not disturb the timing of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from ..client.client import Client
from ..client.provider_api import get_request
from ..client.stream import Stream
from ..client.unloading import unload
from ..core import errors
from ..core.calls import Trace
from ..core.messages import Message
from ..store import measure
from . import cold_start as cold
from . import prompts
from .early_stop import EarlyStop
from .plan import LoadShape, Slot, Turn, is_stable
from .recorder import CpuPressure, GcPauses, MeasuredRequest, Recorder
from .run_spec import Contestant, Job

_STAGGER = 5e-3  # seconds between the starts of a closed loop's users: not all at once
_TIMER_ERROR = 1.5e-3  # seconds by which a timer may be late
_WARM_REQUEST_TIMEOUT = 10.0  # seconds for the request that warms a connection


@dataclass(frozen=True, slots=True)
class _Request:
    """One request of a slot: turn `number` of the prompt, with all earlier messages."""

    slot: Slot
    number: int
    prompt: prompts.Prompt
    messages: tuple[Message, ...]
    think_s: float | None = None  # think time before it

    @property
    def is_conversation(self) -> bool:
        return len(self.prompt.turns) > 1

    @property
    def id(self) -> str:
        return f"{self.slot.id}.{self.number}" if self.is_conversation else self.slot.id

    @property
    def prompt_id(self) -> str:
        return f"{self.prompt.id}#{self.number + 1}" if self.is_conversation else self.prompt.id

    @property
    def completed_slot(self) -> str | None:
        """The slot, if this is its last request."""
        return self.slot.id if self.number == len(self.prompt.turns) - 1 else None


@dataclass(slots=True)
class LoadGenerator:
    """Runs a job. Setting `stop` ends it: requests in flight are cancelled."""

    job: Job
    client: Client
    recorder: Recorder
    epoch: float
    finished_slots: set[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    gc_pauses: GcPauses = field(default_factory=GcPauses)
    cpu_pressure: CpuPressure = field(default_factory=CpuPressure)
    inflight: int = 0
    reason: str = ""
    # At most one request starts in each iteration of the event loop: otherwise users whose answers arrive
    # together delay each other's requests between the call and the socket.
    _send_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _warmed_levels: set[int] = field(default_factory=set)
    _early_stops: dict[int, EarlyStop] = field(default_factory=dict)
    _finished_levels: set[int] = field(default_factory=set)
    _usual_seconds: dict[int, float] = field(default_factory=dict)  # median seconds of an answer

    async def run(self) -> str:
        """Runs the plan; returns why it ended early, or "". Every request becomes a row, whatever happens to
        it."""
        tasks = [asyncio.create_task(self._run_turns()), asyncio.create_task(self.stop.wait())]
        if self.job.rules.disturb:
            tasks.append(asyncio.create_task(_block_loop(*self.job.rules.disturb)))
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks[1:] if tasks[0].done() else tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[0].cancelled():
            tasks[0].result()  # raises its exception
        await self.recorder.flush()
        return self.recorder.failure or self.reason or ("stopped" if self.stop.is_set() else "")

    async def _run_turns(self) -> None:
        for turn in self.job.turns:
            open_slots = [slot for slot in turn.slots if slot.id not in self.finished_slots]
            if not open_slots or turn.level in self._finished_levels or self._is_excluded(turn.contestant):
                continue
            if self.reason or self._is_budget_exhausted():
                break
            if turn.level not in self._warmed_levels:
                self._warmed_levels.add(turn.level)
                await self._warm_up(turn.level)
            if turn.idle_s:
                await asyncio.sleep(turn.idle_s)
            await self._run_turn(turn, open_slots)
            await self.recorder.flush()
            self.recorder.store_elapsed()
            self._check_early_stop(turn)

        excluded = [
            contestant.name for i, contestant in enumerate(self.job.contestants) if self._is_excluded(i)
        ]
        if excluded and not self.reason:
            names = " and ".join(excluded)
            self.reason = f"no more requests to {names}: max_errors={self.job.rules.max_errors} was reached"

    def _is_budget_exhausted(self) -> bool:
        """Whether the budget allows no further request; if so, that is the reason why the run ends."""
        self.reason = self.reason or self.recorder.exhausted_limit(self.inflight) or ""
        return bool(self.reason)

    def _is_excluded(self, contestant: int) -> bool:
        limit = self.job.rules.max_errors
        return (
            limit is not None
            and self.recorder.consecutive_failures.get(self.job.contestants[contestant].name, 0) >= limit
        )

    # --- a turn ---

    async def _run_turn(self, turn: Turn, slots: list[Slot]) -> None:
        contestant = self.job.contestants[turn.contestant]
        if turn.start_kind == "warm" and not contestant.route.provider.command:
            await self._warm_connections(contestant, min(len(slots), turn.load.concurrency))
        if turn.load.kind == "closed":
            await self._run_closed_loop(turn, slots)
        else:
            await self._run_open_loop(turn, slots)

    async def _run_closed_loop(self, turn: Turn, slots: Iterable[Slot]) -> None:
        waiting = iter(slots)

        async def user(number: int) -> None:
            await asyncio.sleep(number * _STAGGER)
            first = True
            for slot in waiting:
                if self._is_budget_exhausted() or self._is_excluded(turn.contestant):
                    return
                await self._run_slot(turn, slot, None, thinks=not first)
                first = False

        async with asyncio.TaskGroup() as group:
            for number in range(turn.load.concurrency):
                group.create_task(user(number))

    async def _run_open_loop(self, turn: Turn, slots: list[Slot]) -> None:
        start = time.perf_counter() + 0.01 - (slots[0].at or 0.0)
        ramp = self._ramp_seconds(turn)
        async with asyncio.TaskGroup() as group:
            for slot in slots:
                due = start + (slot.at or 0.0)
                await _sleep_until(due)
                if self._is_budget_exhausted() or self._is_excluded(turn.contestant):
                    return
                if slot.phase is None and (slot.at or 0.0) < ramp:
                    slot = slot._replace(phase="ramp")  # noqa: PLW2901
                group.create_task(self._run_slot(turn, slot, due))

    def _ramp_seconds(self, turn: Turn) -> float:
        """Length of an open loop's ramp: until its first answers end, as estimated from earlier ones, the
        number of requests in flight still grows. 0 where nothing is known, or where the user set the length
        of a turn."""
        usual_s = self._usual_seconds.get(turn.contestant, 0.0)
        turn_s = turn.slots[-1].at or 0.0
        return usual_s if turn.load.steady and turn.load.kind != "closed" and turn_s >= 3 * usual_s else 0.0

    async def _run_slot(self, turn: Turn, slot: Slot, due: float | None, *, thinks: bool = False) -> None:
        """Sends one prompt: one request, or several for a conversation, which ends where a request fails. For
        embeddings, one request has the texts of this prompt and of those that follow. thinks: whether the
        user thinks before the first request too."""
        prompt, batch = self.job.prompts[slot.prompt], self.job.contestants[turn.contestant].batch
        think_s = await self._wait_think_time(turn, slot, 0) if thinks else None
        if batch:
            indices = (index % len(self.job.prompts) for index in range(slot.prompt, slot.prompt + batch))
            texts = tuple(self.job.prompts[index].turns[0][0] for index in indices)
            await self._run_request(turn, _Request(slot, 0, prompt, texts, think_s), due)
            return
        history: tuple[Message, ...] = ()
        for number, turn_messages in enumerate(prompt.turns):
            history += tuple(turn_messages)
            think_s = await self._wait_think_time(turn, slot, number) if number else think_s
            request = _Request(slot, number, prompt, history, think_s)
            stream = await self._run_request(turn, request, due if number == 0 else None)
            if request.completed_slot or stream is None or stream.error is not None:
                return
            history = (*history, stream.partial().message)

    async def _wait_think_time(self, turn: Turn, slot: Slot, number: int) -> float | None:
        """Waits for as long as a user thinks, and returns the seconds; None if users do not think."""
        rules = self.job.rules
        if rules.think is None or turn.phase == "warmup":
            return None
        seconds = random.Random(f"think {rules.seed} {slot.seq} {number}").uniform(*rules.think)
        await asyncio.sleep(seconds)
        return seconds

    def _with_prefix(self, turn: Turn, slot: Slot, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        prefix = "unique" if turn.start_kind == "cold_cache" else self.job.rules.prefix
        seed = self.job.rules.seed
        if self.job.contestants[turn.contestant].batch:
            return tuple(prompts.add_prefix([text], prefix, seed, slot.seq)[0] for text in messages)
        return prompts.add_prefix(messages, prefix, seed, slot.seq)

    async def _run_request(self, turn: Turn, request: _Request, due: float | None) -> Stream | None:
        """Sends one request and passes the result to the recorder. None if another process sent it, or if it
        failed before it was sent: then a failed row is recorded, and the run goes on."""
        contestant, extra = self.job.contestants[turn.contestant], self._row_columns(turn, request)
        start = time.perf_counter()
        try:
            messages = self._with_prefix(turn, request.slot, request.messages)
            return await self._send_and_record(turn, replace(request, messages=messages), due, extra)
        except Exception as exc:  # noqa: BLE001
            at = round((start - self.epoch) * 1e9)
            row = measure.failure_row(
                errors.as_nbllm_error(exc).scrub_secrets(contestant.secrets),
                contestant.route.provider,
                contestant.route.name,
                {"ns_call": at, "ns_sched": at, **extra},
            )
            self.recorder.add(MeasuredRequest(extra, turn.index, request.slot.id, rows=(row,)))
            return None

    async def _send_and_record(
        self, turn: Turn, request: _Request, due: float | None, extra: dict[str, Any]
    ) -> Stream | None:
        contestant = self.job.contestants[turn.contestant]
        if turn.start_kind == "cold_process":
            rows, chunks = await cold.run_in_fresh_process(
                contestant, request.messages, request.prompt.options, self.epoch, extra
            )
            self.recorder.add(
                MeasuredRequest(extra, turn.index, request.completed_slot, rows=rows, chunks=chunks)
            )
            return None
        if turn.start_kind == "cold_model":
            await unload(self.client, contestant.route, contestant.timeouts.connect)
        self.inflight += 1
        extra["inflight"] = self.inflight
        cpu_wait_before = self._cpu_wait_seconds()
        try:
            async with cold.client_for(turn.start_kind, self.client, contestant, extra, self.epoch) as client:
                if due is None:  # a closed loop: waiting here is no delay, the call has not started yet
                    await self._send_lock.acquire()
                    asyncio.get_running_loop().call_soon(self._send_lock.release)
                stream = self._start_stream(
                    client, contestant, request, fresh=turn.start_kind not in ("warm", "cold_cache")
                )
                try:
                    await stream.wait_end_async()
                except asyncio.CancelledError:
                    stream.cancel()
                    raise
        finally:
            self.inflight -= 1
        self._add_measurements(stream, extra, due, cpu_wait_before)
        # `partial` would build the whole answer here: that takes a while, and the recorder's thread does it
        model_request = stream.attempts[-1].request if stream.attempts else stream.partial().request
        assert model_request is not None
        call = measure.CallContext(
            model_request,
            contestant.route.provider,
            contestant.route.name,
            contestant.route.simulated,
            self.epoch,
        )
        failed = stream.error is not None
        self.recorder.add(
            MeasuredRequest(
                extra,
                turn.index,
                request.slot.id if failed else request.completed_slot,
                stream,
                call,
                counter=contestant.counter,
            )
        )
        return stream

    def _row_columns(self, turn: Turn, request: _Request) -> dict[str, Any]:
        closed = turn.load.kind == "closed"
        return {
            "request_id": f"w{turn.level}.{turn.contestant}{request.id}"
            if turn.phase == "warmup"
            else request.id,
            "seq": request.slot.seq,
            "prompt_id": request.prompt_id,
            "name": self.job.contestants[turn.contestant].name,
            "block": turn.block,
            "order_in_block": turn.order,
            "phase": request.slot.phase or turn.phase,
            "start_kind": turn.start_kind,
            "load_kind": turn.load.kind,
            "target_rate": turn.load.rate,
            "concurrency": turn.load.concurrency if closed else None,
            "idle_s": turn.idle_s or None,
            "think_s": request.think_s,
            "t_wall": datetime.now(UTC).isoformat(),
        }

    @staticmethod
    def _start_stream(client: Client, contestant: Contestant, request: _Request, *, fresh: bool) -> Stream:
        model_request = client.request(
            request.messages, contestant.route.model, **{**contestant.options, **request.prompt.options}
        )
        return client.send(
            model_request,
            contestant.route,
            key=contestant.key,
            timeouts=contestant.timeouts,
            retries=contestant.retry_policy,
            fresh=fresh,
            keep=contestant.keep,
        )

    def _add_measurements(
        self, stream: Stream, extra: dict[str, Any], due: float | None, cpu_wait_before: float | None
    ) -> None:
        end = stream.ended_at or time.perf_counter()
        extra["ns_sched"] = round(((due if due is not None else stream.called_at) - self.epoch) * 1e9)
        extra["gc_ms"] = self.gc_pauses.total_ms(stream.called_at, end)
        cpu_wait = self._cpu_wait_seconds()
        if cpu_wait_before is not None and cpu_wait is not None and end > stream.called_at:
            extra["cpu_psi"] = min(1.0, (cpu_wait - cpu_wait_before) / (end - stream.called_at))

    def _cpu_wait_seconds(self) -> float | None:
        clock = getattr(asyncio.get_running_loop(), "clock", None)
        return self.cpu_pressure.now() if clock is None else self.cpu_pressure.since_wakeup(clock.woke)

    # --- warm-up ---

    async def _warm_connections(self, contestant: Contestant, n_wanted: int) -> None:
        """Opens connections until `n_wanted` of them have carried a request, one that costs no tokens.
        Failures are ignored: the measured request will report them."""
        limits = contestant.timeouts
        timeout_s = min(
            limit for limit in (_WARM_REQUEST_TIMEOUT, limits.first, limits.total) if limit is not None
        )
        with contextlib.suppress(Exception):
            n_idle = self.client.http.count_idle(contestant.route.provider.base_url)
            n_missing = 0 if n_idle is None else n_wanted - n_idle
            connect_s = min(timeout_s, limits.connect or timeout_s)
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(
                    *(self._warm_connection(contestant, connect_s) for _ in range(n_missing))
                )

    async def _warm_connection(self, contestant: Contestant, connect: float) -> None:
        row = contestant.route.provider
        if self.client.registry.dialects[row.dialect].vouched:
            return  # its password must not be sent before the server is verified
        with contextlib.suppress(errors.NbllmError):
            key = None if contestant.route.simulated else contestant.key
            call = get_request(self.client, row, row.models or "/models", key)
            async with self.client.http.open(call, Trace(), connect) as reply:
                await reply.body()

    async def _warm_up(self, level: int) -> None:
        """Repeats requests of each model until their times are stable. Turns with a cold start need none."""
        turns = [t for t in self.job.turns if t.level == level and t.start_kind == "warm"]
        for turn in {t.contestant: t for t in reversed(turns)}.values():
            values: list[float] = []
            number = 0
            planned = sum(len(t.slots) for t in turns if t.contestant == turn.contestant)
            while self._needs_warm_up(values, number, planned):
                slots = [
                    Slot(-1 - number - k, turn.slots[0].prompt, None) for k in range(turn.load.concurrency)
                ]
                number += len(slots)
                await self._run_turn(_warm_up_turn(turn, slots), slots)
                await self.recorder.flush()
                rows = self.recorder.recent.pop(-1, [])
                values += [r["e2e_ms"] for r in rows if r.get("e2e_ms") is not None]
                self._usual_seconds[turn.contestant] = statistics.median(values) / 1e3 if values else 0.0
                if self.recorder.exhausted_limit() or not any(r.get("ok") for r in rows):
                    break  # failing requests warm nothing up

    def _needs_warm_up(self, values: list[float], number: int, planned: int) -> bool:
        """Whether a model needs another warm-up request: at least one, at most a quarter of those
        measured."""
        warmup = self.job.rules.warmup
        limit = min(30, max(1, planned // 4))
        return not is_stable(values, limit=limit) if warmup == "auto" else number < int(warmup)

    # --- ending early ---

    def _check_early_stop(self, turn: Turn) -> None:
        rows = self.recorder.recent.pop(turn.index, [])
        rules = self.job.rules
        if rules.width is None or turn.phase != "measure":
            return
        early_stop = self._early_stops.setdefault(turn.level, EarlyStop(rules.width))
        values = [
            r[rules.metric]
            for r in rows
            if r.get("phase") == "measure"
            and r.get("ok")
            and r.get(rules.metric)
            and r.get("quality") != "contaminated"
        ]
        if values:
            early_stop.add(
                f"{self.job.contestants[turn.contestant].name} {turn.start_kind}",
                math.log(statistics.median(values)),
            )
        expected = {
            f"{self.job.contestants[t.contestant].name} {t.start_kind}"
            for t in self.job.turns
            if t.level == turn.level
        }
        if turn.order == len(expected) - 1 and expected <= set(early_stop.intervals()) and early_stop.done:
            self._finished_levels.add(turn.level)


def _warm_up_turn(turn: Turn, slots: list[Slot]) -> Turn:
    return structs.replace(
        turn,
        index=-1,
        phase="warmup",
        block=-1,
        idle_s=0.0,
        slots=tuple(slots),
        load=turn.load if turn.load.kind == "closed" else LoadShape("closed", concurrency=1),
    )


async def _sleep_until(due: float) -> None:
    """Sleeps until a moment (perf_counter seconds). Timers are accurate to about a millisecond, so the last
    one is spent yielding to the event loop in a busy wait."""
    await asyncio.sleep(max(0.0, due - time.perf_counter() - _TIMER_ERROR))
    while time.perf_counter() < due:  # noqa: ASYNC110 - no timer is accurate enough
        await asyncio.sleep(0)


async def _block_loop(busy_ms: float, every_ms: float) -> None:
    """Blocks the event loop at intervals, as a badly written callback would."""
    while True:
        time.sleep(busy_ms / 1e3)  # noqa: ASYNC251 - blocking is intended
        await asyncio.sleep((every_ms - busy_ms) / 1e3)
