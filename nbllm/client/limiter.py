"""When the next call with one provider, key and model may start. Pure: the caller passes the time, in seconds
of any clock.

Theory. Three mechanisms hold calls back.

Buckets follow the limits that the provider reports in its headers. A call is charged when it starts, and the
bucket refills at the limit's rate. Before the first answer no limit is known, and only the initial
concurrency holds calls back. A header reports the state at some moment after its call began, so calls that
began later are subtracted from it, and our own count is corrected only as far as that allows. Where `reset`
stays the same while calls are charged, or is later than a steady refill could need, the provider counts in
fixed windows and everything is refilled at once: then one call goes first, on trial, and the others follow
once it was accepted.

The concurrency limit is how many calls may be in flight. It doubles while it is used and nothing is refused;
a refusal or an overload cuts it to 0.8, at most once in COOLDOWN seconds; after that it grows by a twentieth
(AIMD).

The rate estimate serves where no header reports the limit that applies. The rows of a table then find it with
few probe calls, so that few are refused: one first, then three, then a twentieth of the calls accepted so
far. What was accepted before the first refusal is taken as the limit per minute, tried, and kept
(RateEstimate).

Where other clients use up a limit that is reported, which our count reveals, at most an eighth of the rest is
taken before the next answer, and a twentieth of the limit is left unused, so that clients that do not know of
each other do not collide at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..dialects._limits import HOUR, Limit

START_LIMIT, MAX_LIMIT = 8, 256  # calls in flight: the first concurrency limit, and the highest
INITIAL_CONCURRENCY = 64  # calls that a user waits for, before the first answer
COOLDOWN = 15.0  # seconds between two cuts
_TRIAL_TIME = 1.0  # seconds that a call on trial holds the others back
_MIN_PAUSE, _MAX_PAUSE = 0.02, 16.0  # seconds of a pause that the provider did not ask for
_PROBES, _PROBE_SHARE = 3, 20  # rows without an answer yet: at first, and one per so many accepted calls
_MIN_ACCEPTED = 8  # calls accepted before a refusal that are enough to estimate a limit
# Changes of an estimated rate: at the first refusal of a small limit, at any, at one after a quiet time;
# growth.
_SMALL_LIMIT_CUT, _CUT, _GENTLE_CUT, _GROWTH = 0.9, 0.85, 0.95, 0.03
_QUIET_TIME = 45.0  # seconds without a refusal, after which an estimated rate grows
_MARGIN = 0.97  # share of a limit that is safe to use, since clocks and network delays differ
_MAX_RATE = 1_000.0  # calls a second
_SMALL_LIMIT = 5  # below it no reserve can be left
_KINDS = ("requests", "tokens", "input", "output")


class Need(msgspec.Struct, frozen=True):
    """The tokens that a call is expected to use."""

    input: float = 0.0
    output: float = 0.0

    def amount(self, kind: str) -> float:
        """What a limit of this kind counts of it."""
        return {"requests": 1.0, "input": self.input, "output": self.output}.get(
            kind, self.input + self.output
        )


class Ticket(msgspec.Struct):
    """A call that has started. number: its number among all calls. total_charged: the needs of all calls so
    far, this one included. limit_known: whether a limit of requests was known. answered: the head of its
    answer has arrived."""

    number: int
    at: float
    need: Need
    total_charged: Need
    limit_known: bool
    answered: bool = False


class Bucket(msgspec.Struct):
    """What is left of one limit (level), as of `at`. span: seconds in which all of it is refilled.
    fixed_window: whether that happens all at once, at `refills_at`; None where it is not known."""

    limit: float
    span: float
    level: float
    at: float
    capacity: float
    fixed_window: bool | None = None
    refills_at: float = 0.0
    last_number: int = 0  # of the newest call whose headers were used
    trusted: bool = False  # the reported rest follows our use: this limit is the one that applies
    exhausted_at: float = float("inf")  # when a refusal last reported it as used up
    shared_at: float = -1e9  # when other clients were last seen to use it

    @property
    def rate(self) -> float:
        """What is refilled in a second."""
        return self.limit / self.span * (_MARGIN if self.limit < _SMALL_LIMIT else 1.0)

    def refill(self, now: float) -> bool:
        """Adds what was refilled up to now; True where a fixed window ended."""
        if not self.fixed_window:
            self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.rate)
        window_ended = bool(self.fixed_window) and now >= self.refills_at
        if window_ended:
            self.level, self.refills_at = self.capacity, now + self.span
        self.at = now
        return window_ended

    def wait_time(self, need: float, reserve: float = 0.0) -> float:
        """Seconds from the last refill until `need` and the reserve are available."""
        missing = min(need + reserve, self.limit) - self.level
        if missing <= 1e-9:
            return 0.0
        return self.refills_at - self.at if self.fixed_window else missing / self.rate

    def reserve(self, now: float) -> float:
        """Requests to leave unused, since network delays vary and other clients may use the key."""
        if self.fixed_window or self.limit < _SMALL_LIMIT:
            return 0.0
        return max(0.5, 0.05 * self.limit) if self.is_shared(now) else 0.5

    def is_shared(self, now: float) -> bool:
        """Whether other clients were seen to use it recently."""
        return now - self.shared_at < 2 * self.span

    def update(self, now: float, report: Limit, ticket: Ticket, after: float, unanswered: int) -> None:
        """Takes in the limit that an answer's headers report. after: what was charged to calls that began
        after this one. unanswered: calls without an answer yet, some of which may reach the provider later
        than this one did."""
        left = report.remaining
        if report.reset is None and left is not None and left >= self.limit - 1:
            self.refills_at = now + self.span  # a window has just begun
        if left is None or (left == 0 and report.reset == 0) or ticket.number < self.last_number:
            return
        self._detect_refill(now, report, left)
        lag = 0.0 if self.fixed_window else (now - ticket.at) * self.rate
        is_rounded = report.kind != "requests" and self.limit >= 10_000 and left % 1_000 == 0
        slack = 1_000.0 if is_rounded else float(not self.fixed_window)
        before = max(0.0, unanswered - after) if report.kind == "requests" else 0.0
        self.last_number = ticket.number
        self.level = max(self.level, left - after - before - max(0.0, slack - 1.0))
        most = left - after + lag + slack
        if self.level > most + 1.0 and ticket.limit_known:
            self.shared_at = now
        self.level = min(self.level, most)

    def _detect_refill(self, now: float, report: Limit, left: float) -> None:
        """Finds out from `reset` whether it refills steadily or all at once, and how fast."""
        used = self.limit - left
        self.trusted |= used >= min(3, self.limit)
        if report.reset is None or used < 1:
            return
        span = report.reset * self.limit / used  # if it refills steadily
        if report.assumed and span >= HOUR and self.fixed_window is None:
            self.trusted = False  # the limit of a day
            return
        if left < 0.1 * self.limit:
            return
        # A `reset` in whole seconds is rounded up.
        if self.fixed_window is None and span - report.reset.is_integer() * self.limit / used > 2 * self.span:
            self.fixed_window = True
        elif self.fixed_window is None and not report.assumed and 0.05 < used / self.limit < 0.4:
            self.fixed_window = False if 0.9 < span / self.span < 1.1 else None
        elif not self.fixed_window and report.reset >= 0.005 and report.assumed:
            self.fixed_window = False
            self.span = report.window if 0.7 < span / report.window < 1.4 else span
        if self.fixed_window:
            self.refills_at = now + report.reset


class ConcurrencyLimit(msgspec.Struct):
    """How many calls may be in flight. slow_start: it has never been cut. successes: calls that ended well
    since its last change; peak: most calls in flight since then."""

    value: float = START_LIMIT
    slow_start: bool = True
    successes: int = 0
    peak: int = 0
    cut_at: float = -COOLDOWN

    def cut(self, now: float) -> None:
        """Lowers the limit, after a refusal or an overload."""
        if now - self.cut_at >= COOLDOWN:
            self.value = max(1.0, 0.8 * min(self.value, max(self.peak, START_LIMIT)))
            self.slow_start, self.cut_at = False, now
        self.successes = 0

    def on_success(self, now: float, in_flight: int, growth: float = 2.0) -> None:
        """Counts a call that ended well, and raises the limit where that is due. growth: the factor in the
        slow start, lower where no limit would be reported before it is reached."""
        self.successes += now - self.cut_at >= COOLDOWN
        if self.successes >= self.value:
            if self.peak >= 0.8 * int(self.value):
                grown = growth * self.value if self.slow_start else max(1.05 * self.value, self.value + 1)
                self.value = min(MAX_LIMIT, grown)
            self.successes, self.peak = 0, in_flight


class RateEstimate(msgspec.Struct):
    """How many calls a second may start, learnt from refusals alone: where no limit is reported, or where
    other clients, which no header mentions, use the same key.

    Most limits are per minute, so what was accepted before the first refusal is taken as the limit of one.
    That is tried: the rate doubles with each answer until the next refusal, which confirms a value. From then
    on a refusal cuts it, and it grows in steps while there is none (AIMD).

    rate: None until it is known. ramp: calls in flight until then, once one of few was refused. since: the
    start of counting (the first call, or a refusal); accepted: calls since then. steps: increases since the
    last refusal."""

    rate: float | None = None
    base_rate: float = 0.0  # at the last refusal
    previous_rate: float = 0.0  # before the last step
    confirmed: bool = False
    ramp: float = float("inf")
    since: float | None = None
    accepted: int = 0
    last_start: float = 0.0
    refused_at: float = 0.0
    changed_at: float = 0.0
    steps: int = 0
    quiet_time: float = _QUIET_TIME

    def wait_time(self, now: float) -> float:
        """Seconds until another call may start."""
        return 0.0 if self.rate is None else max(0.0, self.last_start + 1.0 / self.rate - now)

    def on_refusal(self, now: float, known_rate: float | None) -> None:
        """A call was refused unexpectedly. known_rate: calls a second that the provider's limit allows to all
        clients of the key."""
        elapsed = max(0.001, now - (now if self.since is None else self.since))
        if self.rate is None:
            self._set_first_rate(elapsed, known_rate)
        elif self.steps:
            seen = min(self.previous_rate, _MARGIN * self.accepted / elapsed)
            self.rate = max(self.base_rate, seen) if self.confirmed or self.steps > 2 else self.base_rate
            self.confirmed = True
            self.quiet_time = min(8 * _QUIET_TIME, 2.0 * self.quiet_time)
        else:
            self.rate *= _GENTLE_CUT if now - self.refused_at > _QUIET_TIME else _CUT
        self.base_rate = self.rate or 0.0
        self.since, self.accepted, self.steps = now, 0, 0
        self.last_start = self.refused_at = self.changed_at = now

    def _set_first_rate(self, elapsed: float, known_rate: float | None) -> None:
        """At the first refusal, or at another before a rate was known."""
        if known_rate is not None:
            self.rate, self.confirmed = _SMALL_LIMIT_CUT * known_rate, True
        elif self.accepted >= _MIN_ACCEPTED:
            self.rate = _MARGIN * self.accepted / max(60.0, 60.0 + elapsed if elapsed < 60.0 else elapsed)
        elif self.ramp < float("inf") and self.accepted:
            self.rate, self.confirmed = self.accepted / elapsed, True
        else:
            self.ramp = 1.0

    def on_answer(self, now: float, ticket: Ticket) -> None:
        """An answer began."""
        if self.since is None:
            self.since = ticket.at
        if ticket.at < self.refused_at:
            return
        self.accepted, self.ramp = self.accepted + 1, self.ramp + 1.0
        if self.rate is None:
            return
        pause = self.quiet_time / (3.0 if self.steps else 1.0) if self.confirmed else 0.0
        if now - self.changed_at >= pause:
            self.previous_rate = self.rate
            self.rate *= 1.0 + min(1.0, _GROWTH * 2.0**self.steps) if self.confirmed else 2.0
            self.steps, self.changed_at = self.steps + 1, now
        self.rate = self.rate if self.rate < _MAX_RATE else None


class Limiter(msgspec.Struct):
    """The state for one provider, key and model. is_local: the provider runs on this machine, where calls
    that a user waits for are held back by its refusals and headers only. paused_until: nothing starts before.
    answered: an answer's head has arrived. next_is_trial: the next call goes alone, until `trial_until`.
    refusal_streak: refusals without a success between them. started: number of calls so far; unanswered:
    those in flight whose answers have not begun."""

    is_local: bool = False
    buckets: dict[tuple[str, str], Bucket] = msgspec.field(default_factory=dict)
    concurrency: ConcurrencyLimit = msgspec.field(default_factory=ConcurrencyLimit)
    in_flight: int = 0
    paused_until: float = 0.0
    answered: bool = False
    next_is_trial: bool = False
    trial_until: float = 0.0
    refusal_streak: int = 0
    refused_at: float = 0.0
    started: int = 0
    unanswered: int = 0
    total_charged: Need = msgspec.field(default_factory=Need)
    estimate: RateEstimate = msgspec.field(default_factory=RateEstimate)

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit of tokens is known, so that calls need an estimate of theirs."""
        return any(kind != "requests" for kind, _ in self.buckets)

    def _max_in_flight(self, background: bool) -> float:
        if not self.answered and self.concurrency.slow_start:
            return _PROBES if background else float("inf") if self.is_local else INITIAL_CONCURRENCY
        if not self.concurrency.slow_start or (background and not self.is_local):
            return self.concurrency.value
        return float("inf")

    def wait_time(self, now: float, need: Need, background: bool = False) -> float | None:
        """Seconds until a call may start, 0 for now; None where one in flight must end first."""
        if now < self.paused_until:
            return self.paused_until - now
        if now < self.trial_until:
            return self.trial_until - now
        if self.in_flight + 1 > self._max_in_flight(background):
            return None
        wait = 0.0
        for (kind, _), bucket in self.buckets.items():
            self.next_is_trial |= bucket.refill(now)
            reserve = bucket.reserve(now) if kind == "requests" else 0.0
            wait = max(wait, bucket.wait_time(need.amount(kind), reserve))
        if not background:
            return wait
        probing = max(0.0, self.estimate.last_start + _TRIAL_TIME - now) if self._awaits_answers(now) else 0.0
        return max(wait, self.estimate.wait_time(now), probing)

    def _awaits_answers(self, now: float) -> bool:
        """Whether a row waits for the answers to those before it. An unreported limit is found by few at a
        time. Of a reported rest at most half is taken before the next answer (an eighth where it is shared),
        and no more than twice as many calls as were answered: their headers show whether others take of it,
        too."""
        if self.estimate.rate is not None:
            return False
        buckets = self._request_buckets
        if not any(bucket.trusted for bucket in buckets):
            probes = max(1 if not self.answered else _PROBES, self.estimate.accepted // _PROBE_SHARE)
            return self.unanswered >= probes or self.in_flight >= self.estimate.ramp
        left = min(bucket.level for bucket in buckets)
        if any(bucket.is_shared(now) for bucket in buckets):
            return self.unanswered >= max(1.0, left / 8.0)
        many = self.unanswered > min(left / 2.0, max(START_LIMIT, 2 * self.estimate.accepted))
        return many and left >= START_LIMIT

    def start(self, now: float, need: Need) -> Ticket:
        """Charges a call that starts now."""
        self.started += 1
        self.in_flight += 1
        self.unanswered += 1
        self.estimate.last_start = now
        self.concurrency.peak = max(self.concurrency.peak, self.in_flight)
        self.total_charged = Need(
            self.total_charged.input + need.input, self.total_charged.output + need.output
        )
        for (kind, _), bucket in self.buckets.items():
            bucket.level -= need.amount(kind)
        if self.next_is_trial:
            self.next_is_trial, self.trial_until = False, now + _TRIAL_TIME
        return Ticket(self.started, now, need, self.total_charged, bool(self._request_buckets))

    def on_answer(self, now: float, ticket: Ticket, limits: Iterable[Limit]) -> None:
        """The head of a good answer arrived, with its limits."""
        self._mark_answered(ticket)
        self.answered = True
        if ticket.at >= self.refused_at:
            self.refusal_streak, self.trial_until = 0, 0.0
        self.estimate.on_answer(now, ticket)
        self._update_buckets(now, ticket, limits)
        for bucket in self.buckets.values():
            refilled = ticket.at > bucket.exhausted_at
            if bucket.fixed_window is None and refilled and bucket.level < bucket.limit / 2:
                bucket.fixed_window = False  # a part came back, and not all

    def _update_buckets(self, now: float, ticket: Ticket, limits: Iterable[Limit]) -> None:
        for report in limits:
            if report.kind not in _KINDS or report.window >= HOUR or not report.limit:
                continue  # a limit of hours shows in the refusals: the provider says how long to wait
            after = float(self.started - ticket.number)
            if report.kind != "requests":
                after = self.total_charged.amount(report.kind) - ticket.total_charged.amount(report.kind)
            bucket = self.buckets.get((report.kind, report.per))
            if bucket is None or bucket.limit != report.limit:
                capacity = max(report.limit, report.remaining or 0)
                level = capacity if report.remaining is None else report.remaining - after
                bucket = Bucket(
                    report.limit, report.window, level, now, capacity, refills_at=now + report.window
                )
                self.buckets[report.kind, report.per] = bucket
                if report.kind == "requests" and report.limit - level > self.started + 2:
                    bucket.shared_at = now  # more is used than we have started
            bucket.refill(now)
            bucket.update(now, report, ticket, after, self.unanswered)

    def on_refusal(
        self, now: float, ticket: Ticket, retry_after: float | None, limits: tuple[Limit, ...], jitter: float
    ) -> float:
        """A call was refused for a rate limit; returns the seconds until another may start. retry_after:
        seconds that the provider asked for. jitter: a number in [0, 1) that keeps processes apart."""
        is_new = ticket.at >= self.refused_at  # it started after the last refusal
        self.refusal_streak += is_new
        self._update_buckets(now, ticket, limits)
        for limit in limits:
            bucket = self.buckets.get((limit.kind, limit.per))
            reset = limit.reset if retry_after is None else retry_after
            if bucket is None or not (limit.spent and ticket.limit_known) or bucket.fixed_window is False:
                continue
            bucket.exhausted_at = now
            is_long = reset is None or reset > 3 * bucket.span / bucket.limit
            many = self.refusal_streak > (5 if bucket.is_shared(now) else 2)
            if limit.kind == "requests" and is_long and (retry_after is not None or many):
                bucket.refills_at = max(bucket.refills_at, now) if reset is None else now + reset
                bucket.fixed_window, bucket.level = True, min(bucket.level, 0.0)
        expected = any(bucket.wait_time(1.0) > 0 for bucket in self.buckets.values())
        exponent = self.refusal_streak - 1 if retry_after is not None or expected else self.refusal_streak + 4
        backoff = min(_MAX_PAUSE, _MIN_PAUSE * 2.0 ** min(exponent, 10)) if exponent > 0 else 0.0
        pause = max(retry_after or 0.0, backoff)
        self.paused_until = max(self.paused_until, now + pause + jitter * min(0.5, 0.02 + 0.1 * pause))
        if is_new and self.refusal_streak == 1:
            self._on_unexplained_refusal(now, ticket, limits, retry_after is not None)
        self.refused_at, self.next_is_trial, self.trial_until = now, True, 0.0
        self.concurrency.cut(now)
        waits = (b.wait_time(ticket.need.amount(kind)) for (kind, _), b in self.buckets.items())
        return max(self.paused_until - now, *waits, 0.0)

    @property
    def _request_buckets(self) -> list[Bucket]:
        return [bucket for (kind, _), bucket in self.buckets.items() if kind == "requests"]

    def _mark_answered(self, ticket: Ticket) -> None:
        self.unanswered -= not ticket.answered
        ticket.answered = True

    def _on_unexplained_refusal(
        self, now: float, ticket: Ticket, limits: tuple[Limit, ...], has_retry_after: bool
    ) -> None:
        """Handles a refusal that no limit explains, or one while our count had room: other clients use the
        key, too."""
        spent = [(limit.kind, limit.per) for limit in limits if limit.spent]
        buckets = [
            bucket
            for name, bucket in self.buckets.items()
            if name in spent and name[0] == "requests" and not bucket.fixed_window and ticket.limit_known
        ]
        for bucket in buckets:
            if bucket.fixed_window is False or has_retry_after:
                bucket.shared_at = now
        small_rates = [b.rate for b in buckets if b.limit < _SMALL_LIMIT and b.fixed_window is False]
        if small_rates or not spent:
            self.estimate.on_refusal(now, min(small_rates, default=None))

    def on_overload(self, now: float) -> None:
        """The provider reported that it is overloaded."""
        self.concurrency.cut(now)

    def end(self, now: float, ticket: Ticket, *, ok: bool, used: Need | None = None) -> None:
        """A call ended. used: the tokens that it really used."""
        self.in_flight -= 1
        self._mark_answered(ticket)
        if ok:
            self.concurrency.on_success(now, self.in_flight, 2.0 if self._request_buckets else 1.5)
        if used is not None:
            for (kind, _), bucket in self.buckets.items():
                level = bucket.level + ticket.need.amount(kind) - used.amount(kind)
                bucket.level = min(bucket.capacity, level)
