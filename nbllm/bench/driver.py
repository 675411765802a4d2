"""Sends what the plan says, when it says so: turns one after another, within a turn a closed or an open loop.

Runs on the engine's loop in the worker process. Between turns it waits until everything is on disk, so that
measuring one answer does not disturb the next.
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
from ..client.provider_api import question
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

_STAGGER = 5e-3  # seconds between the starts of a closed loop's users, so that they do not march in step
_TIMER_ERROR = 1.5e-3  # seconds by which a timer may be late
_WARM_REQUEST_TIMEOUT = 10.0  # seconds for the request that warms a connection


@dataclass(frozen=True, slots=True)
class _Request:
    """One request of a slot: the `number`th of its prompt's turns, with all that was said before."""

    slot: Slot
    number: int
    prompt: prompts.Prompt
    messages: tuple[Message, ...]
    thought: float | None = None  # seconds before it

    @property
    def several(self) -> bool:
        return len(self.prompt.turns) > 1

    @property
    def id(self) -> str:
        return f"{self.slot.id}.{self.number}" if self.several else self.slot.id

    @property
    def prompt_id(self) -> str:
        return f"{self.prompt.id}#{self.number + 1}" if self.several else self.prompt.id

    @property
    def ends(self) -> str | None:
        """The slot, where it is finished with this request."""
        return self.slot.id if self.number == len(self.prompt.turns) - 1 else None


@dataclass(slots=True)
class LoadGenerator:
    """A job at work. `stop` ends it after what is in flight has been cancelled."""

    job: Job
    client: Client
    recorder: Recorder
    epoch: float
    finished: set[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    pauses: GcPauses = field(default_factory=GcPauses)
    pressure: CpuPressure = field(default_factory=CpuPressure)
    inflight: int = 0
    reason: str = ""
    # One request goes out in a turn of the loop: users whose answers came together would else hold up each
    # other's requests between the call and the socket.
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)
    _warmed: set[int] = field(default_factory=set)
    _over: dict[int, EarlyStop] = field(default_factory=dict)
    _narrow: set[int] = field(default_factory=set)
    _usual: dict[int, float] = field(default_factory=dict)  # seconds that an answer takes, by arm

    async def run(self) -> str:
        """Runs the plan to its end; returns why it ended early, "" where it did not. Whatever becomes of a
        request is its row."""
        tasks = [asyncio.create_task(self._turns()), asyncio.create_task(self.stop.wait())]
        if self.job.rules.disturb:
            tasks.append(asyncio.create_task(_block_loop(*self.job.rules.disturb)))
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks[1:] if tasks[0].done() else tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[0].cancelled():
            tasks[0].result()  # raises what went wrong
        await self.recorder.drained()
        return self.recorder.failure or self.reason or ("stopped" if self.stop.is_set() else "")

    async def _turns(self) -> None:
        for turn in self.job.turns:
            left = [slot for slot in turn.slots if slot.id not in self.finished]
            if not left or turn.level in self._narrow or self._refuses(turn.contestant):
                continue
            if self.reason or self._full():
                break
            if turn.level not in self._warmed:
                self._warmed.add(turn.level)
                await self._warm_up(turn.level)
            if turn.idle_s:
                await asyncio.sleep(turn.idle_s)
            await self._turn(turn, left)
            await self.recorder.drained()
            self.recorder.note_time()
            self._judge(turn)

        refused = [contestant.name for i, contestant in enumerate(self.job.contestants) if self._refuses(i)]
        if refused and not self.reason:
            words = " and ".join(refused)
            self.reason = f"{words} was asked no more: max_errors={self.job.rules.max_errors} was reached"

    def _full(self) -> bool:
        """Whether the budget has no room for one request more; that is why the run ends, then."""
        self.reason = self.reason or self.recorder.exceeded(self.inflight) or ""
        return bool(self.reason)

    def _refuses(self, contestant: int) -> bool:
        most = self.job.rules.max_errors
        return (
            most is not None and self.recorder.refused.get(self.job.contestants[contestant].name, 0) >= most
        )

    # --- a turn ---

    async def _turn(self, turn: Turn, slots: list[Slot]) -> None:
        contestant = self.job.contestants[turn.contestant]
        if turn.start_kind == "warm" and not contestant.route.provider.command:
            await self._warm_connections(contestant, min(len(slots), turn.load.concurrency))
        if turn.load.kind == "closed":
            await self._closed(turn, slots)
        else:
            await self._open(turn, slots)

    async def _closed(self, turn: Turn, slots: Iterable[Slot]) -> None:
        waiting = iter(slots)

        async def user(number: int) -> None:
            await asyncio.sleep(number * _STAGGER)
            first = True
            for slot in waiting:
                if self._full() or self._refuses(turn.contestant):
                    return
                await self._slot(turn, slot, None, thinks=not first)
                first = False

        async with asyncio.TaskGroup() as group:
            for number in range(turn.load.concurrency):
                group.create_task(user(number))

    async def _open(self, turn: Turn, slots: list[Slot]) -> None:
        start = time.perf_counter() + 0.01 - (slots[0].at or 0.0)
        ramp = self._ramp(turn)
        async with asyncio.TaskGroup() as group:
            for slot in slots:
                due = start + (slot.at or 0.0)
                await _sleep_until(due)
                if self._full() or self._refuses(turn.contestant):
                    return
                if slot.phase is None and (slot.at or 0.0) < ramp:
                    slot = slot._replace(phase="ramp")  # noqa: PLW2901
                group.create_task(self._slot(turn, slot, due))

    def _ramp(self, turn: Turn) -> float:
        """Seconds until the first answers of an open loop end, by those before: as many are in flight then as
        will be. 0 where nothing is known, or the user has said how long a turn is."""
        usual = self._usual.get(turn.contestant, 0.0)
        lasts = turn.slots[-1].at or 0.0
        return usual if turn.load.steady and turn.load.kind != "closed" and lasts >= 3 * usual else 0.0

    async def _slot(self, turn: Turn, slot: Slot, due: float | None, *, thinks: bool = False) -> None:
        """One prompt: a request, or several where it is a conversation. A conversation ends where a request
        of it fails. Of embeddings, a request has the texts of the prompts that follow. thinks: whether its
        user thinks before it, as before every later request of it."""
        prompt, batch = self.job.prompts[slot.prompt], self.job.contestants[turn.contestant].batch
        thought = await self._think(turn, slot, 0) if thinks else None
        if batch:
            places = (place % len(self.job.prompts) for place in range(slot.prompt, slot.prompt + batch))
            texts = tuple(self.job.prompts[place].turns[0][0] for place in places)
            await self._request(turn, _Request(slot, 0, prompt, texts, thought), due)
            return
        said: tuple[Message, ...] = ()
        for number, asked in enumerate(prompt.turns):
            said += tuple(asked)
            thought = await self._think(turn, slot, number) if number else thought
            ask = _Request(slot, number, prompt, said, thought)
            stream = await self._request(turn, ask, due if number == 0 else None)
            if ask.ends or stream is None or stream.error is not None:
                return
            said = (*said, stream.partial().message)

    async def _think(self, turn: Turn, slot: Slot, number: int) -> float | None:
        """Waits as a user does who reads an answer; None where nobody thinks."""
        rules = self.job.rules
        if rules.think is None or turn.phase == "warmup":
            return None
        seconds = random.Random(f"think {rules.seed} {slot.seq} {number}").uniform(*rules.think)
        await asyncio.sleep(seconds)
        return seconds

    def _prefixed(self, turn: Turn, slot: Slot, said: tuple[Message, ...]) -> tuple[Message, ...]:
        prefix = "unique" if turn.start_kind == "cold_cache" else self.job.rules.prefix
        if self.job.contestants[turn.contestant].batch:
            return tuple(
                prompts.add_prefix([text], prefix, self.job.rules.seed, slot.seq)[0] for text in said
            )
        return tuple(prompts.add_prefix(said, prefix, self.job.rules.seed, slot.seq))

    async def _request(self, turn: Turn, ask: _Request, due: float | None) -> Stream | None:
        """Sends one request and hands what came of it to the recorder; None where another process did, or
        where it came to nothing: that is a row too, whatever went wrong, and the other models go on."""
        contestant, extra = self.job.contestants[turn.contestant], self._about(turn, ask)
        began = time.perf_counter()
        try:
            return await self._sent(
                turn, replace(ask, messages=self._prefixed(turn, ask.slot, ask.messages)), due, extra
            )
        except Exception as exc:  # noqa: BLE001
            at = round((began - self.epoch) * 1e9)
            row = measure.failed(
                errors.as_nbllm_error(exc).scrubbed(contestant.secrets),
                contestant.route.provider,
                contestant.route.asked,
                {"ns_call": at, "ns_sched": at, **extra},
            )
            self.recorder.add(MeasuredRequest(extra, turn.index, ask.slot.id, rows=(row,)))
            return None

    async def _sent(
        self, turn: Turn, ask: _Request, due: float | None, extra: dict[str, Any]
    ) -> Stream | None:
        contestant = self.job.contestants[turn.contestant]
        if turn.start_kind == "cold_process":
            rows, chunks = await cold.run_in_fresh_process(
                contestant, ask.messages, ask.prompt.options, self.epoch, extra
            )
            self.recorder.add(MeasuredRequest(extra, turn.index, ask.ends, rows=rows, chunks=chunks))
            return None
        if turn.start_kind == "cold_model":
            await unload(self.client, contestant.route, contestant.limits.connect)
        self.inflight += 1
        extra["inflight"] = self.inflight
        pressed = self._pressed()
        try:
            async with cold.client_for(turn.start_kind, self.client, contestant, extra, self.epoch) as client:
                if due is None:  # nobody is late who waits here: a closed loop's user has not called yet
                    await self._door.acquire()
                    asyncio.get_running_loop().call_soon(self._door.release)
                stream = self._send(
                    client, contestant, ask, fresh=turn.start_kind not in ("warm", "cold_cache")
                )
                try:
                    await stream.wait_end_async()
                except asyncio.CancelledError:
                    stream.cancel()
                    raise
        finally:
            self.inflight -= 1
        self._note(stream, extra, due, pressed)
        # put together by the recorder's thread, where something was sent: it takes a while
        request = stream.attempts[-1].request if stream.attempts else stream.partial().request
        assert request is not None
        call = measure.CallContext(
            request, contestant.route.provider, contestant.route.asked, contestant.route.simulated, self.epoch
        )
        failed = stream.error is not None
        self.recorder.add(
            MeasuredRequest(
                extra,
                turn.index,
                ask.slot.id if failed else ask.ends,
                stream,
                call,
                counter=contestant.counter,
            )
        )
        return stream

    def _about(self, turn: Turn, ask: _Request) -> dict[str, Any]:
        closed = turn.load.kind == "closed"
        return {
            "request_id": f"w{turn.level}.{turn.contestant}{ask.id}" if turn.phase == "warmup" else ask.id,
            "seq": ask.slot.seq,
            "prompt_id": ask.prompt_id,
            "name": self.job.contestants[turn.contestant].name,
            "block": turn.block,
            "order_in_block": turn.order,
            "phase": ask.slot.phase or turn.phase,
            "start_kind": turn.start_kind,
            "load_kind": turn.load.kind,
            "target_rate": turn.load.rate,
            "concurrency": turn.load.concurrency if closed else None,
            "idle_s": turn.idle_s or None,
            "think_s": ask.thought,
            "t_wall": datetime.now(UTC).isoformat(),
        }

    @staticmethod
    def _send(client: Client, contestant: Contestant, ask: _Request, *, fresh: bool) -> Stream:
        request = client.request(
            ask.messages, contestant.route.model, **{**contestant.options, **ask.prompt.options}
        )
        return client.send(
            request,
            contestant.route,
            key=contestant.key,
            timeouts=contestant.limits,
            retries=contestant.patience,
            fresh=fresh,
            keep=contestant.keep,
        )

    def _note(self, stream: Stream, extra: dict[str, Any], due: float | None, pressed: float | None) -> None:
        ended = stream.ended_at or time.perf_counter()
        extra["ns_sched"] = round(((due if due is not None else stream.called_at) - self.epoch) * 1e9)
        extra["gc_ms"] = self.pauses.within(stream.called_at, ended)
        now = self._pressed()
        if pressed is not None and now is not None and ended > stream.called_at:
            extra["cpu_psi"] = min(1.0, (now - pressed) / (ended - stream.called_at))

    def _pressed(self) -> float | None:
        clock = getattr(asyncio.get_running_loop(), "clock", None)
        return self.pressure.now() if clock is None else self.pressure.at(clock.woke)

    # --- warmth ---

    async def _warm_connections(self, contestant: Contestant, wanted: int) -> None:
        """Makes sure that enough connections stand open that have carried a request: one that costs no
        tokens. Where that fails, the request itself will say what is wrong."""
        limits = contestant.limits
        within = min(
            limit for limit in (_WARM_REQUEST_TIMEOUT, limits.first, limits.total) if limit is not None
        )
        with contextlib.suppress(Exception):
            missing = wanted - (
                idle
                if (idle := self.client.http.idle(contestant.route.provider.base_url)) is not None
                else wanted
            )
            async with asyncio.timeout(within):
                await asyncio.gather(
                    *(self._touch(contestant, min(within, limits.connect or within)) for _ in range(missing))
                )

    async def _touch(self, contestant: Contestant, connect: float) -> None:
        row = contestant.route.provider
        if self.client.registry.dialects[row.dialect].vouched:
            return  # its password waits until it is known who listens there
        with contextlib.suppress(errors.NbllmError):
            key = None if contestant.route.simulated else contestant.key
            call = question(self.client, row, row.models or "/models", key)
            async with self.client.http.open(call, Trace(), connect) as reply:
                await reply.body()

    async def _warm_up(self, level: int) -> None:
        """Repeats requests of each model until their times are stable; what is cold on purpose needs none."""
        turns = [t for t in self.job.turns if t.level == level and t.start_kind == "warm"]
        for turn in {t.contestant: t for t in reversed(turns)}.values():
            values: list[float] = []
            number = 0
            planned = sum(len(t.slots) for t in turns if t.contestant == turn.contestant)
            while self._cold_still(values, number, planned):
                slots = [
                    Slot(-1 - number - k, turn.slots[0].prompt, None) for k in range(turn.load.concurrency)
                ]
                number += len(slots)
                await self._turn(_warm_up_turn(turn, slots), slots)
                await self.recorder.drained()
                rows = self.recorder.recent.pop(-1, [])
                values += [r["e2e_ms"] for r in rows if r.get("e2e_ms") is not None]
                self._usual[turn.contestant] = statistics.median(values) / 1e3 if values else 0.0
                if self.recorder.exceeded() or not any(r.get("ok") for r in rows):
                    break  # a model that fails is no warmer for it

    def _cold_still(self, values: list[float], number: int, planned: int) -> bool:
        """Whether a model needs more warming: once, and at most a quarter of what is measured."""
        warmup = self.job.rules.warmup
        most = min(30, max(1, planned // 4))
        return not is_stable(values, most=most) if warmup == "auto" else number < int(warmup)

    # --- ending early ---

    def _judge(self, turn: Turn) -> None:
        rows = self.recorder.recent.pop(turn.index, [])
        rules = self.job.rules
        if rules.width is None or turn.phase != "measure":
            return
        stopper = self._over.setdefault(turn.level, EarlyStop(rules.width))
        values = [
            r[rules.metric]
            for r in rows
            if r.get("phase") == "measure"
            and r.get("ok")
            and r.get(rules.metric)
            and r.get("quality") != "contaminated"
        ]
        if values:
            stopper.add(
                f"{self.job.contestants[turn.contestant].name} {turn.start_kind}",
                math.log(statistics.median(values)),
            )
        expected = {
            f"{self.job.contestants[t.contestant].name} {t.start_kind}"
            for t in self.job.turns
            if t.level == turn.level
        }
        if turn.order == len(expected) - 1 and expected <= set(stopper.intervals()) and stopper.done:
            self._narrow.add(turn.level)


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
    """Sleeps until a moment (perf_counter seconds). Timers are good for a millisecond: the last one is spent
    going round the loop, which meanwhile sees to everything else."""
    await asyncio.sleep(max(0.0, due - time.perf_counter() - _TIMER_ERROR))
    while time.perf_counter() < due:  # noqa: ASYNC110 - nothing would wake us in time
        await asyncio.sleep(0)


async def _block_loop(busy_ms: float, every_ms: float) -> None:
    """Blocks the loop, as a careless callback would."""
    while True:
        time.sleep(busy_ms / 1e3)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep((every_ms - busy_ms) / 1e3)
