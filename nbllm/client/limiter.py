"""When the next call to one provider, with one key and model, may start. Pure: it is told the time, in
seconds of whatever clock.

Theory. Two things hold calls back. Buckets hold what the provider's headers say is left of a limit, charged
at each start and filled again at the limit's rate; before the first answer nothing is known and nothing is
held back but the crowd. What a header says left is that of some moment since its call began, so that calls
which began later are taken off it; our own count is moved only as far as that allows. Where `reset` stays
where it was while calls are charged, or is later than a bucket could need, the provider counts in fixed
windows, and all comes back at once: then one call goes first, and the others follow when it was let in.
The width is how many may be in flight: it doubles while it is used and nothing is refused, is cut to 0.8 by
a refusal or an overload, at most once in COOL seconds, and grows by a twentieth after that (AIMD).
Where no header tells what really holds, the rows of a table find it out by few at a time, so that few are
refused: one goes first, then three, then a twentieth of those that were let in; and what was let in before
the first refusal is taken for a minute's limit, tried, and kept to (Pace). Where others spend what ours tell,
which the count shows, of what is left nobody takes more than an eighth before looking again, and a twentieth
of the limit is left over, so that those who know nothing of each other do not meet at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..dialects._limits import HOUR, Limit

FIRST, MOST = 8, 256  # calls in flight at the beginning and at most
CROWD = 64  # calls that somebody waits for, before the first answer
COOL = 15.0  # seconds between two cuts
_TRIAL = 1.0  # seconds that a call on trial keeps the others back
_STEP, _PATIENCE = 0.02, 16.0  # seconds, the shortest and the longest pause that nobody asked for
_SCOUTS, _SHARE = 3, 20  # rows whose fate is unknown: at first, and one of so many that were let in
_MANY = 8  # that were let in before a refusal: so many are a limit's
# Of a pace: by the first refusal of a small limit, by any, by one after a quiet time, in a step.
_LESS, _CUT, _GENTLE, _GROWN = 0.9, 0.85, 0.95, 0.03
_QUIET = 45.0  # seconds without a refusal, after which a pace grows
_UNDER = 0.97  # of what a limit allows: what is safe where clocks and ways differ
_UNPACED = 1_000.0  # calls a second
_FEW = 5  # a limit that is too small to leave something over
_PACED = ("requests", "tokens", "input", "output")


class Need(msgspec.Struct, frozen=True):
    """What a call is expected to take, in tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, kind: str) -> float:
        """As a limit of this kind counts it."""
        return {"requests": 1.0, "input": self.input, "output": self.output}.get(
            kind, self.input + self.output
        )


class Ticket(msgspec.Struct):
    """A call that has started. number: how many had, with it. known: whether a limit of requests was
    known."""

    number: int
    at: float
    need: Need
    charged: Need  # of all calls so far, this one included
    known: bool
    seen: bool = False  # its answer's head has come


class Bucket(msgspec.Struct):
    """What is left of one limit. span: seconds in which all of it comes back. fixed: at once, at `full`."""

    limit: float
    span: float
    level: float
    at: float
    top: float
    fixed: bool | None = None
    full: float = 0.0
    newest: int = 0
    trusted: bool = False  # what is left follows our use, so that this is the limit that will hold us back
    spent_at: float = float("inf")  # when a refusal said so last
    others_at: float = -1e9  # when it was seen last that others spend it, too

    @property
    def rate(self) -> float:
        """What comes back in a second."""
        return self.limit / self.span * (_UNDER if self.limit < _FEW else 1.0)

    def refill(self, now: float) -> bool:
        """Counts what came back; whether that was all at once."""
        if not self.fixed:
            self.level = min(self.top, self.level + max(0.0, now - self.at) * self.rate)
        flipped = bool(self.fixed) and now >= self.full
        if flipped:
            self.level, self.full = self.top, now + self.span
        self.at = now
        return flipped

    def wait(self, need: float, spare: float = 0.0) -> float:
        """Seconds until `need` is there, as of the last refill, and something to spare."""
        short = min(need + spare, self.limit) - self.level
        if short <= 1e-9:
            return 0.0
        return self.full - self.at if self.fixed else short / self.rate

    def spare(self, now: float) -> float:
        """Requests that are left over, for the ways differ in length and others may use the key."""
        if self.fixed or self.limit < _FEW:
            return 0.0
        return max(0.5, 0.05 * self.limit) if self.shared(now) else 0.5

    def shared(self, now: float) -> bool:
        """Whether others were seen to use it."""
        return now - self.others_at < 2 * self.span

    def learn(self, now: float, told: Limit, ticket: Ticket, after: float, unseen: int) -> None:
        """From an answer's headers. after: what calls charged that began after this one; unseen: calls whose
        answers have not begun, some of which may reach the provider later than this one."""
        left = told.remaining
        if told.reset is None and left is not None and left >= self.limit - 1:
            self.full = now + self.span  # a window has just begun
        if left is None or (left == 0 and told.reset == 0) or ticket.number < self.newest:
            return
        self._how(now, told, left)
        lag = 0.0 if self.fixed else (now - ticket.at) * self.rate
        slack = (
            1_000.0
            if told.kind != "requests" and self.limit >= 10_000 and left % 1_000 == 0
            else float(not self.fixed)
        )
        before = max(0.0, unseen - after) if told.kind == "requests" else 0.0
        self.newest = ticket.number
        self.level = max(self.level, left - after - before - max(0.0, slack - 1.0))
        most = left - after + lag + slack
        if self.level > most + 1.0 and ticket.known:
            self.others_at = now
        self.level = min(self.level, most)

    def _how(self, now: float, told: Limit, left: float) -> None:
        """Whether it fills steadily or at once, and how fast, as far as `reset` tells."""
        used = self.limit - left
        self.trusted |= used >= min(3, self.limit)
        if told.reset is None or used < 1:
            return
        span = told.reset * self.limit / used  # where it fills steadily
        if told.assumed and span >= HOUR and self.fixed is None:
            self.trusted = False  # a day's
            return
        if left < 0.1 * self.limit:
            return
        # Whole seconds are rounded up.
        if span - told.reset.is_integer() * self.limit / used > 2 * self.span and self.fixed is None:
            self.fixed = True
        elif self.fixed is None and not told.assumed and 0.05 < used / self.limit < 0.4:
            self.fixed = False if 0.9 < span / self.span < 1.1 else None  # full in what was used
        elif not self.fixed and told.reset >= 0.005 and told.assumed:
            self.fixed = False
            self.span = told.window if 0.7 < span / told.window < 1.4 else span
        if self.fixed:
            self.full = now + told.reset


class Width(msgspec.Struct):
    """How many calls may be in flight."""

    value: float = FIRST
    slow: bool = True  # the slow start: it has never been cut
    clean: int = 0
    peak: int = 0
    cut_at: float = -COOL

    def cut(self, now: float) -> None:
        """A refusal or an overload."""
        if now - self.cut_at >= COOL:
            self.value = max(1.0, 0.8 * min(self.value, max(self.peak, FIRST)))
            self.slow, self.cut_at = False, now
        self.clean = 0

    def ended(self, now: float, flying: int, growth: float = 2.0) -> None:
        """A call ended well. growth: of the slow start, less where no limit is told before it is met."""
        self.clean += now - self.cut_at >= COOL
        if self.clean >= self.value:
            if self.peak >= 0.8 * int(self.value):
                grown = growth * self.value if self.slow else max(1.05 * self.value, self.value + 1)
                self.value = min(MOST, grown)
            self.clean, self.peak = 0, flying


class Pace(msgspec.Struct):
    """How many calls a second, as refusals alone teach it: where nothing else is told, or where others use
    the same key, whom no header names. Most limits are a minute's, and what was let in before the first
    refusal is theirs. That is tried: the pace doubles with each answer until the next refusal, which says
    what it is. Then it is cut by a refusal, and grows by steps while none comes (AIMD). rate: None until
    it is known; ramp: calls in flight until then, once one of few was refused."""

    rate: float | None = None
    base: float = 0.0  # the rate at the last refusal
    before: float = 0.0  # the last step
    tried: bool = False  # a refusal has said what the rate is
    ramp: float = float("inf")
    since: float | None = None  # the first start, or the refusal from which is counted
    let_in: int = 0  # after it
    last: float = 0.0  # start
    refused_at: float = 0.0
    stepped: float = 0.0  # when the rate changed
    steps: int = 0  # that it has grown since
    quiet: float = _QUIET

    def wait(self, now: float) -> float:
        """Seconds until another may start."""
        return 0.0 if self.rate is None else max(0.0, self.last + 1.0 / self.rate - now)

    def refused(self, now: float, known: float | None) -> None:
        """A refusal that nobody foresaw. known: calls a second that the provider's limit allows all who use
        the key."""
        after = max(0.001, now - (now if self.since is None else self.since))
        if self.rate is None:
            self._first(after, known)
        elif self.steps:
            seen = min(self.before, _UNDER * self.let_in / after)
            self.rate = max(self.base, seen) if self.tried or self.steps > 2 else self.base
            self.tried = True
            self.quiet = min(8 * _QUIET, 2.0 * self.quiet)
        else:
            self.rate *= _GENTLE if now - self.refused_at > _QUIET else _CUT
        self.base = self.rate or 0.0
        self.since, self.let_in, self.steps = now, 0, 0
        self.last = self.refused_at = self.stepped = now

    def _first(self, after: float, known: float | None) -> None:
        """The first one, or another before a rate was known."""
        if known is not None:
            self.rate, self.tried = _LESS * known, True
        elif self.let_in >= _MANY:
            self.rate = _UNDER * self.let_in / max(60.0, 60.0 + after if after < 60.0 else after)
        elif self.ramp < float("inf") and self.let_in:
            self.rate, self.tried = self.let_in / after, True
        else:
            self.ramp = 1.0

    def head(self, now: float, ticket: Ticket) -> None:
        """An answer began."""
        if self.since is None:
            self.since = ticket.at
        if ticket.at < self.refused_at:
            return
        self.let_in, self.ramp = self.let_in + 1, self.ramp + 1.0
        if self.rate is None:
            return
        pause = self.quiet / (3.0 if self.steps else 1.0) if self.tried else 0.0
        if now - self.stepped >= pause:
            self.before = self.rate
            self.rate *= 1.0 + min(1.0, _GROWN * 2.0**self.steps) if self.tried else 2.0
            self.steps, self.stepped = self.steps + 1, now
        self.rate = self.rate if self.rate < _UNPACED else None


class Limiter(msgspec.Struct):
    """The state. free: the provider is on this machine, where nothing but refusals and its headers hold back
    what somebody waits for."""

    free: bool = False
    buckets: dict[tuple[str, str], Bucket] = msgspec.field(default_factory=dict)
    width: Width = msgspec.field(default_factory=Width)
    flying: int = 0
    held: float = 0.0  # nothing starts before
    seen: bool = False  # an answer's head has come
    on_trial: bool = False  # the next call goes alone
    trial_until: float = 0.0
    streak: int = 0  # refusals without a good answer between them
    refused_at: float = 0.0
    started: int = 0
    unseen: int = 0  # in flight, and their answers' heads have not come
    charged: Need = msgspec.field(default_factory=Need)
    pace: Pace = msgspec.field(default_factory=Pace)

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit of tokens is known, so that an estimate is wanted."""
        return any(kind != "requests" for kind, _ in self.buckets)

    def _room(self, background: bool) -> float:
        if not self.seen and self.width.slow:
            return _SCOUTS if background else float("inf") if self.free else CROWD
        if not self.width.slow or (background and not self.free):
            return self.width.value
        return float("inf")

    def wait(self, now: float, need: Need, background: bool = False) -> float | None:
        """Seconds until a call may start, 0 for now; None where one of those in flight must end first."""
        if now < self.held:
            return self.held - now
        if now < self.trial_until:
            return self.trial_until - now
        if self.flying + 1 > self._room(background):
            return None
        for bucket in self.buckets.values():
            self.on_trial |= bucket.refill(now)
        known = max((self._short(now, need, *item) for item in self.buckets.items()), default=0.0)
        if not background:
            return known
        look = max(0.0, self.pace.last + _TRIAL - now) if self._unsure(now) else 0.0
        return max(known, self.pace.wait(now), look)

    def _unsure(self, now: float) -> bool:
        """Whether a row waits for what becomes of those before it: what nobody tells is found out by few at
        a time, and of what is told to be left nobody takes more than a third before looking again, nor more
        than twice as many as have been answered: by then it shows whether others take of it, too."""
        if self.pace.rate is not None:
            return False
        if not self._trusted:
            return self.unseen >= max(1 if not self.seen else _SCOUTS, self.pace.let_in // _SHARE) or (
                self.flying >= self.pace.ramp
            )
        left, others = self._left(now)
        return (
            self.unseen >= max(1.0, left / 8.0)
            if others
            else left >= FIRST and self.unseen > min(left / 2.0, max(FIRST, 2 * self.pace.let_in))
        )

    def _short(self, now: float, need: Need, name: tuple[str, str], bucket: Bucket) -> float:
        return bucket.wait(need.of(name[0]), bucket.spare(now) if name[0] == "requests" else 0.0)

    def start(self, now: float, need: Need) -> Ticket:
        """A call starts."""
        self.started, self.flying, self.unseen = self.started + 1, self.flying + 1, self.unseen + 1
        self.pace.last = now
        self.width.peak = max(self.width.peak, self.flying)
        self.charged = Need(self.charged.input + need.input, self.charged.output + need.output)
        for (kind, _), bucket in self.buckets.items():
            bucket.level -= need.of(kind)
        if self.on_trial:
            self.on_trial, self.trial_until = False, now + _TRIAL
        return Ticket(self.started, now, need, self.charged, self._tells_requests)

    def head(self, now: float, ticket: Ticket, limits: Iterable[Limit]) -> None:
        """The head of a good answer came, and told its limits."""
        self._see(ticket)
        self.seen = True
        if ticket.at >= self.refused_at:
            self.streak, self.trial_until = 0, 0.0
        self.pace.head(now, ticket)
        self._learn(now, ticket, limits)
        for bucket in self.buckets.values():
            if bucket.fixed is None and ticket.at > bucket.spent_at and bucket.level < bucket.limit / 2:
                bucket.fixed = False  # something came back, and not all

    def _learn(self, now: float, ticket: Ticket, limits: Iterable[Limit]) -> None:
        for told in limits:
            if told.kind not in _PACED or told.window >= HOUR or not told.limit:
                continue  # who waits for a limit of hours is told so by the provider
            since = Need(
                self.charged.input - ticket.charged.input, self.charged.output - ticket.charged.output
            )
            after = since.of(told.kind) if told.kind != "requests" else float(self.started - ticket.number)
            bucket = self.buckets.get((told.kind, told.per))
            if bucket is None or bucket.limit != told.limit:
                top = max(told.limit, told.remaining or 0)
                level = top if told.remaining is None else told.remaining - after
                bucket = Bucket(told.limit, told.window, level, now, top, full=now + told.window)
                self.buckets[told.kind, told.per] = bucket
                if told.kind == "requests" and told.limit - level > self.started + 2:
                    bucket.others_at = now  # more is gone than we have taken
            bucket.refill(now)
            bucket.learn(now, told, ticket, after, self.unseen)

    def refused(
        self, now: float, ticket: Ticket, told: float | None, limits: tuple[Limit, ...], spread: float
    ) -> float:
        """A call was refused for a rate limit; gives the seconds until another may start. told: seconds that
        the provider named. spread: a number in [0, 1) that keeps processes apart."""
        first = ticket.at >= self.refused_at  # since the last one
        self.streak += first
        self._learn(now, ticket, limits)
        for limit in limits:
            bucket, reset = self.buckets.get((limit.kind, limit.per)), limit.reset if told is None else told
            if bucket is None or not (limit.spent and ticket.known) or bucket.fixed is False:
                continue
            bucket.spent_at = now
            long = reset is None or reset > 3 * bucket.span / bucket.limit
            if (
                limit.kind == "requests"
                and long
                and (told is not None or self.streak > (5 if bucket.shared(now) else 2))
            ):
                bucket.full = max(bucket.full, now) if reset is None else now + reset
                bucket.fixed, bucket.level = True, min(bucket.level, 0.0)  # our count had room
        paced = any(bucket.wait(1.0) > 0 for bucket in self.buckets.values())
        steps = self.streak - 1 if told is not None or paced else self.streak + 4
        pause = max(told or 0.0, min(_PATIENCE, _STEP * 2.0 ** min(steps, 10)) if steps > 0 else 0.0)
        self.held = max(self.held, now + pause + spread * min(0.5, 0.02 + 0.1 * pause))
        if first and self.streak == 1:
            self._surprised(now, ticket, limits, told is not None)
        self.refused_at, self.on_trial, self.trial_until = now, True, 0.0
        self.width.cut(now)
        return max(self.held - now, *(b.wait(ticket.need.of(k)) for (k, _), b in self.buckets.items()), 0.0)

    @property
    def _trusted(self) -> bool:
        return any(b.trusted for (kind, _), b in self.buckets.items() if kind == "requests")

    @property
    def _tells_requests(self) -> bool:
        return any(kind == "requests" for kind, _ in self.buckets)

    def _left(self, now: float) -> tuple[float, bool]:
        """Requests that are left, as far as that is known, and whether others take of them."""
        asked = [bucket for (kind, _), bucket in self.buckets.items() if kind == "requests"]
        return min((b.level for b in asked), default=0.0), any(b.shared(now) for b in asked)

    def _see(self, ticket: Ticket) -> None:
        self.unseen -= not ticket.seen
        ticket.seen = True

    def _surprised(self, now: float, ticket: Ticket, limits: tuple[Limit, ...], named: bool) -> None:
        """A refusal that no limit explains, or one where our count had room: others use the key, too. named:
        whether it said how long to wait."""
        spent = [(limit.kind, limit.per) for limit in limits if limit.spent]
        sure = [
            bucket
            for name, bucket in self.buckets.items()
            if name in spent and name[0] == "requests" and not bucket.fixed and ticket.known
        ]
        for bucket in sure:
            if bucket.fixed is False or named:
                bucket.others_at = now
        few = [bucket.rate for bucket in sure if bucket.limit < _FEW and bucket.fixed is False]
        if few or not spent:
            self.pace.refused(now, min(few, default=None))

    def strained(self, now: float) -> None:
        """The provider had too much to do."""
        self.width.cut(now)

    def end(self, now: float, ticket: Ticket, *, ok: bool, used: Need | None = None) -> None:
        """A call ended; used: what it really took."""
        self.flying -= 1
        self._see(ticket)
        if ok:
            self.width.ended(now, self.flying, 2.0 if self._tells_requests else 1.5)
        if used is not None:
            for (kind, _), bucket in self.buckets.items():
                bucket.level = min(bucket.top, bucket.level + ticket.need.of(kind) - used.of(kind))
