"""What may be spent: limits in US dollars and in tokens, kept by reserving before a call and settling after.

A limit that is looked at before a call and written down after it does not hold: calls under way at once all
find it unspent. So each call reserves the most that it may take, and is refused where limit, spent and
reserved leave no room for that; at its end the reservation gives way to what it really took.

A Budget is one process's. A SharedBudget is kept by its name in a small file, where all kernels of the user
that name it meet, one transaction at a time (see database.shared). Each of them holds a lock for as long as
it lives; what a killed one had reserved is dropped by the next that finds no room.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import BudgetExceeded, ConfigError
from ..core.values import plural
from .database import hold_lock, open_shared, private_folder, state_folder, translate_errors, try_lock

if TYPE_CHECKING:
    import sqlite3

_BUSY = 30.0  # seconds to wait for other kernels' moments with the file
_ROUNDING = 1e-9  # dollars
_RAISE = "Raise it (%llm budget, or budget= of this call), or ask for less with max_tokens=."


class Amount(msgspec.Struct, frozen=True):
    """US dollars, None where a price is not known; and tokens, read and written."""

    usd: float | None = 0.0
    tokens: int = 0


class State(msgspec.Struct, frozen=True):
    """Limits (None for none), what is spent, and what calls under way have reserved."""

    usd: float | None
    tokens: int | None
    spent: Amount
    held: Amount

    def check(self, want: Amount, who: str) -> None:
        """Raises BudgetExceeded where `want` does not fit any more, ConfigError for a price that is not
        known under a limit in dollars."""
        if self.usd is not None and want.usd is None:
            raise ConfigError(
                f"The price of this model is not known, so {who} in US dollars cannot hold.",
                hint="Limit tokens instead (budget=tokens:20000, in Python budget={'tokens': 20_000}), or "
                "give the model's prices in your providers.toml.",
            )
        held, spent = self.held.usd or 0.0, self.spent.usd or 0.0
        if self.usd is not None and spent + held + (want.usd or 0.0) > self.usd + _ROUNDING:
            raise _exceeded(who, "", (f"${x:.4g}" for x in (self.usd, spent, held, want.usd or 0.0)))
        counts = (self.tokens or 0, self.spent.tokens, self.held.tokens, want.tokens)
        if self.tokens is not None and sum(counts[1:]) > self.tokens:
            raise _exceeded(who, "tokens", (f"{x:,}" for x in counts))

    def __str__(self) -> str:
        lines = []
        if self.usd is not None:
            spent, held = self.spent.usd or 0.0, self.held.usd or 0.0
            left = max(0.0, self.usd - spent - held)
            lines.append(f"${self.usd:g}: ${spent:.4g} spent, ${held:.4g} reserved, ${left:.4g} left")
        if self.tokens is not None:
            left = max(0, self.tokens - self.spent.tokens - self.held.tokens)
            lines.append(
                f"{plural(self.tokens, 'token')}: {self.spent.tokens:,} spent, "
                f"{self.held.tokens:,} reserved, {left:,} left"
            )
        return "; ".join(lines)


def _exceeded(who: str, unit: str, figures: Iterable[str]) -> BudgetExceeded:
    limit, spent, held, want = figures
    return BudgetExceeded(
        f"This call was not sent: {who} is {f'{limit} {unit}'.strip()}, {spent} of it spent, {held} reserved "
        f"by calls under way, and this one may take {want}.",
        hint=_RAISE,
    )


class Budget:
    """Limits of the calls that are given it, in this process: usd US dollars, tokens read and written. Any
    thread. Raises ConfigError for what is no limit."""

    who = "the budget"

    def __init__(self, usd: float | None = None, tokens: float | None = None) -> None:
        for name, value in (("usd", usd), ("tokens", tokens)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < 1e18):
                raise ConfigError(f"Not a budget: {name}={value!r}.", hint="Give a number above 0.")
        self.usd = None if usd is None else float(usd)
        self.tokens = None if tokens is None else int(tokens)
        self._lock = threading.Lock()
        self._usd, self._tokens = 0.0, 0  # spent
        self._held: dict[int, Amount] = {}
        self._last = 0

    @classmethod
    def of(cls, given: Any) -> Budget:
        """From US dollars, a mapping of usd and tokens, or a Budget, which is kept."""
        if isinstance(given, Budget):
            return given
        most = dict(given) if isinstance(given, Mapping) else {"usd": given}
        if odd := [name for name in most if name not in ("usd", "tokens")]:
            raise ConfigError(f"Not a budget: {str(odd[0])[:40]!r}.", hint="It has usd and tokens.")
        if not most:
            raise ConfigError("A budget without a limit.", hint="It has usd and tokens.")
        return cls(**most)

    @property
    def limits(self) -> dict[str, float]:
        """As a mapping."""
        found = {"usd": self.usd, "tokens": self.tokens}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        usd = [] if self.usd is None else [f"${self.usd:g}"]
        return " and ".join([*usd, *([] if self.tokens is None else [plural(self.tokens, "token")])])

    def reserve(self, want: Amount, *, sure: bool = False) -> int:
        """Sets aside what a call may take; gives the reservation's number. sure: it is sent in any case.
        Raises BudgetExceeded, and ConfigError for an unknown price under a limit in dollars."""
        with self._lock:
            if not sure and (self.usd is not None or self.tokens is not None):
                self._state().check(want, self.who)
            self._last += 1
            self._held[self._last] = want
            return self._last

    def settle(self, number: int, used: Amount) -> None:
        """Puts what a call took in the place of its reservation."""
        with self._lock:
            if self._held.pop(number, None) is not None:
                self.spend(used)

    def spend(self, used: Amount) -> None:
        """Counts what was taken before there was this budget."""
        self._usd, self._tokens = self._usd + (used.usd or 0.0), self._tokens + used.tokens

    def state(self) -> State:
        """Limits, spent and reserved, as they are now."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        held = self._held.values()
        reserved = Amount(sum(a.usd or 0.0 for a in held), sum(a.tokens for a in held))
        return State(self.usd, self.tokens, Amount(self._usd, self._tokens), reserved)


class Turns(Budget):
    """A budget as a loop of tools keeps it, whoever else does: it begins while anything is left. Its turns
    then count and are all sent, since it is the loop that ends, by a last answer, once nothing is left."""

    def __init__(self, whole: Budget) -> None:
        super().__init__()
        self.whole, self.over = whole, False  # over: nothing was left when the last turn ended
        self._begun = False

    def reserve(self, want: Amount, *, sure: bool = False) -> int:
        """Raises what Budget.reserve does where nothing is left at the first turn, or its price is not
        known."""
        if not (sure or self._begun):
            self.whole.state().check(_least(want), self.whole.who)
        self._begun = True
        return self.whole.reserve(want, sure=True)

    def settle(self, number: int, used: Amount) -> None:
        """As Budget.settle."""
        self.whole.settle(number, used)
        try:
            self.whole.state().check(_least(Amount()), self.whole.who)
        except BudgetExceeded:
            self.over = True


def _least(want: Amount) -> Amount:
    """Of `want`: a budget without room for that has nothing left."""
    return Amount(None if want.usd is None else 2 * _ROUNDING, 1)


_TABLES = (
    "create table if not exists budgets (name text primary key, usd real, tokens integer, "
    "spent_usd real not null default 0, spent_tokens integer not null default 0)",
    "create table if not exists held (id integer primary key autoincrement, name text not null, "
    "holder text not null, usd real not null, tokens integer not null)",
)
_SET = (
    "insert into budgets (name, usd, tokens) values (?, ?, ?) "
    "on conflict (name) do update set usd = excluded.usd, tokens = excluded.tokens"
)


class SharedBudget(Budget):
    """A budget that all processes of the user which give the same name share; the limits of whoever came
    last hold for all, what was spent stays. Raises ConfigError where its file cannot be used."""

    def __init__(self, name: str, usd: float | None = None, tokens: float | None = None) -> None:
        super().__init__(usd, tokens)
        self._holder, self._pid, self._alive = "", 0, -1
        self._begin(name)

    def _begin(self, name: str) -> None:
        self.name, self.who = name, f"the budget of {name[-60:]}"
        with self._file() as db:
            db.execute(_SET, (name, self.usd, self.tokens))

    def reserve(self, want: Amount, *, sure: bool = False) -> int:
        """As Budget.reserve, among all that share it."""
        with self._file() as db:
            try:
                if not sure:
                    self._found(db).check(want, self.who)
            except BudgetExceeded:
                if not self._sweep(db):
                    raise
                self._found(db).check(want, self.who)
            row = (self.name, self._holder, want.usd or 0.0, want.tokens)
            made = db.execute("insert into held (name, holder, usd, tokens) values (?, ?, ?, ?)", row)
            return int(made.lastrowid or 0)

    def settle(self, number: int, used: Amount) -> None:
        """As Budget.settle."""
        with self._file() as db:
            found = db.execute("select name from held where id = ?", (number,)).fetchone()
            if found is not None:
                db.execute("delete from held where id = ?", (number,))
                db.execute(
                    "update budgets set spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ? "
                    "where name = ?",
                    (used.usd or 0.0, used.tokens, *found),
                )

    def state(self) -> State:
        """As Budget.state, of all that share it."""
        with self._file() as db:
            self._sweep(db)
            return self._found(db)

    def drop(self) -> None:
        """Ends it, for all that share it."""
        with self._file() as db:
            db.execute("delete from budgets where name = ?", (self.name,))

    def _found(self, db: sqlite3.Connection) -> State:
        words = "select usd, tokens, spent_usd, spent_tokens from budgets where name = ?"
        usd, tokens, *spent = db.execute(words, (self.name,)).fetchone() or (None, None, 0.0, 0)
        held = db.execute(
            "select coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) from held where name = ?", (self.name,)
        ).fetchone()
        return State(usd, tokens, Amount(*spent), Amount(*held))

    def _sweep(self, db: sqlite3.Connection) -> bool:
        """Drops what processes that are gone had reserved; whether there was anything."""
        gone = []
        for path in _folder().glob("*.lock"):
            if path.stem != self._holder and (fd := try_lock(path)) is not None:
                gone.append((path.stem,))
                with suppress(OSError):  # on Windows it stays until it is closed
                    path.unlink()
                os.close(fd)
        db.executemany("delete from held where holder = ?", gone)
        return bool(gone)

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        """The file, within one transaction. In a child that was forked, with a lock of its own."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()
        hint = "NBLLM_HOME chooses another folder; %llm budget off goes on without a budget."
        with self._lock, translate_errors("The file of shared budgets cannot be used", hint):
            self._hold()
            path = _folder() / "budgets.sqlite"
            with open_shared(
                path, _TABLES, 1, synchronous="normal", wait=_BUSY
            ) as db:  # undone where it raises
                db.execute("begin immediate")
                yield db
                db.execute("commit")

    def _hold(self) -> None:
        if self._pid != os.getpid():
            holder = f"{os.getpid()}-{time.time_ns()}"
            self._alive = hold_lock(_folder() / f"{holder}.lock")
            self._holder, self._pid = holder, os.getpid()

    def __del__(self) -> None:
        if getattr(self, "_alive", -1) >= 0 and self._pid == os.getpid():
            os.close(self._alive)


class DailyBudget(SharedBudget):
    """A budget of each day (of this machine's clock), which all processes of the user share."""

    def __init__(self, usd: float | None = None, tokens: float | None = None) -> None:
        super().__init__(_today(), usd, tokens)

    def reserve(self, want: Amount, *, sure: bool = False) -> int:
        """As Budget.reserve, of what is left of today's."""
        self._renew()
        return super().reserve(want, sure=sure)

    def state(self) -> State:
        """As Budget.state, of today."""
        self._renew()
        return super().state()

    def _renew(self) -> None:
        if (today := _today()) != self.name:
            self._begin(today)


def _today() -> str:
    return f"today, {date.today()}"


def _folder() -> Path:
    return private_folder(state_folder() / "budgets")
