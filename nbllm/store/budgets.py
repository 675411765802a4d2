"""Budgets: limits in US dollars and in tokens, enforced by a reservation before each call and a settlement
after it.

A limit that is only checked before a call and updated after it does not hold: simultaneous calls all find it
unspent. So each call reserves the most that it may take, and is refused where the limit, less what is spent
and reserved, leaves no room for that; at its end the actual amount replaces the reservation.

A Budget belongs to one process. A SharedBudget is stored by name in a small file that all kernels of the user
share, one transaction at a time (see database.open_shared). Each kernel holds a lock as long as it runs; the
reservations of a killed one are deleted by the next kernel that finds no room.
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

_BUSY_TIMEOUT = 30.0  # seconds to wait for other kernels
_ROUNDING = 1e-9  # dollars
_RAISE_HINT = "Raise it (%llm budget, or budget= of this call), or request less with max_tokens=."


class Amount(msgspec.Struct, frozen=True):
    """US dollars, None where a price is unknown; and tokens of input and output."""

    usd: float | None = 0.0
    tokens: int = 0


class BudgetState(msgspec.Struct, frozen=True):
    """Limits (None for none), what is spent, and what running calls have reserved."""

    usd: float | None
    tokens: int | None
    spent: Amount
    reserved: Amount

    def check(self, amount: Amount, label: str) -> None:
        """Raises BudgetExceeded where `amount` is more than is left, ConfigError for an unknown price under a
        limit in dollars. label: the budget's name in the message."""
        if self.usd is not None and amount.usd is None:
            raise ConfigError(
                f"The price of this model is not known, so {label} in US dollars cannot be enforced.",
                hint="Limit tokens instead (budget=tokens:20000, in Python budget={'tokens': 20_000}), or "
                "give the model's prices in your providers.toml.",
            )
        reserved, spent = self.reserved.usd or 0.0, self.spent.usd or 0.0
        if self.usd is not None and spent + reserved + (amount.usd or 0.0) > self.usd + _ROUNDING:
            raise _exceeded(label, "", (f"${x:.4g}" for x in (self.usd, spent, reserved, amount.usd or 0.0)))
        counts = (self.tokens or 0, self.spent.tokens, self.reserved.tokens, amount.tokens)
        if self.tokens is not None and sum(counts[1:]) > self.tokens:
            raise _exceeded(label, "tokens", (f"{x:,}" for x in counts))

    def __str__(self) -> str:
        lines = []
        if self.usd is not None:
            spent, reserved = self.spent.usd or 0.0, self.reserved.usd or 0.0
            left = max(0.0, self.usd - spent - reserved)
            lines.append(f"${self.usd:g}: ${spent:.4g} spent, ${reserved:.4g} reserved, ${left:.4g} left")
        if self.tokens is not None:
            left = max(0, self.tokens - self.spent.tokens - self.reserved.tokens)
            lines.append(
                f"{plural(self.tokens, 'token')}: {self.spent.tokens:,} spent, "
                f"{self.reserved.tokens:,} reserved, {left:,} left"
            )
        return "; ".join(lines)


def _exceeded(label: str, unit: str, figures: Iterable[str]) -> BudgetExceeded:
    limit, spent, reserved, wanted = figures
    return BudgetExceeded(
        f"This call was not sent: {label} is {f'{limit} {unit}'.strip()}, {spent} of it spent, {reserved} "
        f"reserved by running calls, and this one may take {wanted}.",
        hint=_RAISE_HINT,
    )


class Budget:
    """A limit for the calls that use it, in this process: usd in US dollars, tokens of input and output. Any
    thread may use it. Raises ConfigError for an invalid limit."""

    label = "the budget"

    def __init__(self, usd: float | None = None, tokens: float | None = None) -> None:
        for name, value in (("usd", usd), ("tokens", tokens)):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < 1e18):
                raise ConfigError(f"Not a budget: {name}={value!r}.", hint="Give a number above 0.")
        self.usd = None if usd is None else float(usd)
        self.tokens = None if tokens is None else int(tokens)
        self._lock = threading.Lock()
        self._usd, self._tokens = 0.0, 0  # spent
        self._reservations: dict[int, Amount] = {}
        self._last = 0

    @classmethod
    def of(cls, value: Any) -> Budget:
        """The budget of a number of US dollars or a mapping of usd and tokens; a Budget is returned as is."""
        if isinstance(value, Budget):
            return value
        limits = dict(value) if isinstance(value, Mapping) else {"usd": value}
        if unknown := [name for name in limits if name not in ("usd", "tokens")]:
            raise ConfigError(f"Not a budget: {str(unknown[0])[:40]!r}.", hint="It has usd and tokens.")
        if not limits:
            raise ConfigError("A budget without a limit.", hint="It has usd and tokens.")
        return cls(**limits)

    @property
    def limits(self) -> dict[str, float]:
        """The limits as a mapping."""
        limits = {"usd": self.usd, "tokens": self.tokens}
        return {name: value for name, value in limits.items() if value is not None}

    def __str__(self) -> str:
        usd = [] if self.usd is None else [f"${self.usd:g}"]
        return " and ".join([*usd, *([] if self.tokens is None else [plural(self.tokens, "token")])])

    def reserve(self, amount: Amount, *, unconditional: bool = False) -> int:
        """Reserves the amount that a call may take, and returns the reservation's number. unconditional:
        without a check. Raises BudgetExceeded, and ConfigError for an unknown price under a limit in
        dollars."""
        with self._lock:
            if not unconditional and (self.usd is not None or self.tokens is not None):
                self._state().check(amount, self.label)
            self._last += 1
            self._reservations[self._last] = amount
            return self._last

    def settle(self, number: int, used: Amount) -> None:
        """Replaces a call's reservation by the amount that it took."""
        with self._lock:
            if self._reservations.pop(number, None) is not None:
                self.add_spent(used)

    def add_spent(self, used: Amount) -> None:
        """Adds an amount to what is spent."""
        self._usd, self._tokens = self._usd + (used.usd or 0.0), self._tokens + used.tokens

    def state(self) -> BudgetState:
        """The limits, and what is spent and reserved now."""
        with self._lock:
            return self._state()

    def _state(self) -> BudgetState:
        amounts = self._reservations.values()
        reserved = Amount(sum(a.usd or 0.0 for a in amounts), sum(a.tokens for a in amounts))
        return BudgetState(self.usd, self.tokens, Amount(self._usd, self._tokens), reserved)


class LoopBudget(Budget):
    """A budget as the tool loop applies it: the loop may begin while anything is left. All its turns are then
    counted and sent; once nothing is left, the loop itself ends with a final answer."""

    def __init__(self, parent: Budget) -> None:
        super().__init__()
        self.parent, self.is_used_up = parent, False  # is_used_up: nothing was left after the last turn
        self._has_begun = False

    def reserve(self, amount: Amount, *, unconditional: bool = False) -> int:
        """See Budget.reserve. It raises at the first turn only, where nothing is left or the price is
        unknown."""
        if not (unconditional or self._has_begun):
            self.parent.state().check(_minimum(amount), self.parent.label)
        self._has_begun = True
        return self.parent.reserve(amount, unconditional=True)

    def settle(self, number: int, used: Amount) -> None:
        """See Budget.settle."""
        self.parent.settle(number, used)
        try:
            self.parent.state().check(_minimum(Amount()), self.parent.label)
        except BudgetExceeded:
            self.is_used_up = True


def _minimum(amount: Amount) -> Amount:
    """The smallest amount, with the price of `amount` known or unknown: where it does not fit, nothing is
    left."""
    return Amount(None if amount.usd is None else 2 * _ROUNDING, 1)


_TABLES = (
    "create table if not exists budgets (name text primary key, usd real, tokens integer, "
    "spent_usd real not null default 0, spent_tokens integer not null default 0)",
    "create table if not exists held (id integer primary key autoincrement, name text not null, "
    "holder text not null, usd real not null, tokens integer not null)",
)
_SET_LIMITS = (
    "insert into budgets (name, usd, tokens) values (?, ?, ?) "
    "on conflict (name) do update set usd = excluded.usd, tokens = excluded.tokens"
)


class SharedBudget(Budget):
    """A budget that all processes of the user share by its name. The limits that were set last are valid for
    all; what is spent is never reset. Raises ConfigError where its file cannot be used."""

    def __init__(self, name: str, usd: float | None = None, tokens: float | None = None) -> None:
        super().__init__(usd, tokens)
        self._holder, self._pid, self._lock_fd = "", 0, -1
        self._select(name)

    def _select(self, name: str) -> None:
        self.name, self.label = name, f"the budget of {name[-60:]}"
        with self._transaction() as db:
            db.execute(_SET_LIMITS, (name, self.usd, self.tokens))

    def reserve(self, amount: Amount, *, unconditional: bool = False) -> int:
        """See Budget.reserve."""
        with self._transaction() as db:
            try:
                if not unconditional:
                    self._read_state(db).check(amount, self.label)
            except BudgetExceeded:
                if not self._delete_stale_reservations(db):
                    raise
                self._read_state(db).check(amount, self.label)
            row = (self.name, self._holder, amount.usd or 0.0, amount.tokens)
            cursor = db.execute("insert into held (name, holder, usd, tokens) values (?, ?, ?, ?)", row)
            return int(cursor.lastrowid or 0)

    def settle(self, number: int, used: Amount) -> None:
        """See Budget.settle."""
        with self._transaction() as db:
            found = db.execute("select name from held where id = ?", (number,)).fetchone()
            if found is not None:
                db.execute("delete from held where id = ?", (number,))
                db.execute(
                    "update budgets set spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ? "
                    "where name = ?",
                    (used.usd or 0.0, used.tokens, *found),
                )

    def state(self) -> BudgetState:
        """See Budget.state."""
        with self._transaction() as db:
            self._delete_stale_reservations(db)
            return self._read_state(db)

    def delete(self) -> None:
        """Deletes it, for all processes."""
        with self._transaction() as db:
            db.execute("delete from budgets where name = ?", (self.name,))

    def _read_state(self, db: sqlite3.Connection) -> BudgetState:
        query = "select usd, tokens, spent_usd, spent_tokens from budgets where name = ?"
        usd, tokens, *spent = db.execute(query, (self.name,)).fetchone() or (None, None, 0.0, 0)
        reserved = db.execute(
            "select coalesce(sum(usd), 0.0), coalesce(sum(tokens), 0) from held where name = ?", (self.name,)
        ).fetchone()
        return BudgetState(usd, tokens, Amount(*spent), Amount(*reserved))

    def _delete_stale_reservations(self, db: sqlite3.Connection) -> bool:
        """Deletes the reservations of processes that have ended; whether there were such processes."""
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
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The file, within one transaction. A forked child gets a lock of its own."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()
        hint = "NBLLM_HOME chooses another folder; %llm budget off goes on without a budget."
        with self._lock, translate_errors("The file of shared budgets cannot be used", hint):
            self._hold_lock()
            path = _folder() / "budgets.sqlite"
            with open_shared(
                path, _TABLES, 1, synchronous="normal", wait=_BUSY_TIMEOUT
            ) as db:  # rolled back on an error
                db.execute("begin immediate")
                yield db
                db.execute("commit")

    def _hold_lock(self) -> None:
        if self._pid != os.getpid():
            holder = f"{os.getpid()}-{time.time_ns()}"
            self._lock_fd = hold_lock(_folder() / f"{holder}.lock")
            self._holder, self._pid = holder, os.getpid()

    def __del__(self) -> None:
        if getattr(self, "_lock_fd", -1) >= 0 and self._pid == os.getpid():
            os.close(self._lock_fd)


class DailyBudget(SharedBudget):
    """A budget per day (by this machine's clock), which all processes of the user share."""

    def __init__(self, usd: float | None = None, tokens: float | None = None) -> None:
        super().__init__(_today(), usd, tokens)

    def reserve(self, amount: Amount, *, unconditional: bool = False) -> int:
        """See Budget.reserve."""
        self._select_today()
        return super().reserve(amount, unconditional=unconditional)

    def state(self) -> BudgetState:
        """See Budget.state."""
        self._select_today()
        return super().state()

    def _select_today(self) -> None:
        if (today := _today()) != self.name:
            self._select(today)


def _today() -> str:
    return f"today, {date.today()}"


def _folder() -> Path:
    return private_folder(state_folder() / "budgets")
