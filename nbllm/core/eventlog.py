"""A compact log of the events of a call, stored in columns: some 30 bytes for a typical chunk. Event objects
are made when they are read.

One writer appends; any thread reads what is there, by index. The log is divided into blocks; in a full block,
texts are joined, and the times are a single number where they are all equal.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, starmap
from typing import Any, Generic, TypeVar, overload

from .events import Event, Fold, Item, ReasoningText, to_event, to_item

T = TypeVar("T")
_BLOCK = 256  # events


class _SealedItems:
    """The items of a full block, compacted."""

    __slots__ = ("_ends", "_kinds", "_others", "_text")

    def __init__(self, items: list[Item]) -> None:
        texts = [item if isinstance(item, str) else "" for item in items]
        self._text = "".join(texts)
        self._ends = array("I", accumulate(map(len, texts)))
        kinds = bytes(_KINDS.get(type(item), 2) for item in items)
        self._kinds = kinds if any(kinds) else b""
        self._others = {i: item for i, item in enumerate(items) if kinds[i] == 2}

    def __getitem__(self, part: slice) -> list[Item]:
        text, ends, kinds = self._text, self._ends, self._kinds
        out: list[Item] = []
        begin = ends[part.start - 1] if part.start else 0
        for i, end in enumerate(ends[part], part.start):
            kind = kinds[i] if kinds else 0
            out.append(
                text[begin:end]
                if not kind
                else ReasoningText(text[begin:end])
                if kind == 1
                else self._others[i]
            )
            begin = end
        return out

    def fold(self, into: Fold) -> None:
        for item in [self._text] if not self._kinds else self[0:_BLOCK]:
            into.add(item)


_KINDS: dict[type, int] = {str: 0, ReasoningText: 1}


class _Block:
    """A block of events. Both columns are replaced when it is full; readers may continue with the old
    ones."""

    __slots__ = ("items", "times")

    def __init__(self) -> None:
        self.items: list[Item] | _SealedItems = []
        self.times: array[float] | float = array("d")

    def seal(self) -> None:
        items, times = self.items, self.times
        if isinstance(items, list) and isinstance(times, array):
            self.items = _SealedItems(items)
            self.times = times[0] if times.count(times[0]) == len(times) else times

    def columns(self, start: int, stop: int) -> tuple[Sequence[float], list[Item]]:
        items, times = self.items[start:stop], self.times
        return [times] * len(items) if isinstance(times, float) else times[start:stop], items


class EventLog(Sequence[tuple[float, Event]]):
    """(perf_counter seconds, event), in the order in which they were published."""

    def __init__(self, events: Iterable[tuple[float, Event]] = ()) -> None:
        self._blocks: list[_Block] = []
        self._size = 0
        for at, event in events:
            self.append(at, event)

    def append(self, at: float, event: Event) -> None:
        """Adds an event."""
        self.extend((to_item(event),), at)

    def extend(self, items: Sequence[Item], at: float) -> None:
        """Adds events that arrived at the same moment."""
        start = 0
        while start < len(items):
            free = _BLOCK - self._size % _BLOCK
            if free == _BLOCK:
                self._blocks.append(_Block())
            block, part = self._blocks[-1], items[start : start + free]
            size = len(part)
            start += size
            block.times.extend([at] * size)  # type: ignore[union-attr]
            block.items += part  # type: ignore[operator]
            if size == free:
                block.seal()
            self._size += size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> tuple[float, Event]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[float, Event]]: ...
    def __getitem__(self, index: int | slice) -> tuple[float, Event] | list[tuple[float, Event]]:
        if isinstance(index, int):
            position = range(self._size)[index]
            times, items = next(self._columns(position, position + 1))
            return times[0], to_event(items[0])
        start, stop, step = index.indices(self._size)
        return list(self._events(start, stop)) if step == 1 else [self[i] for i in range(start, stop, step)]

    def __iter__(self) -> Iterator[tuple[float, Event]]:
        return self._events(0, self._size)

    def _events(self, start: int, stop: int) -> Iterator[tuple[float, Event]]:
        return chain.from_iterable(
            zip(times, map(to_event, items), strict=True) for times, items in self._columns(start, stop)
        )

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[float, Item]]:
        """The (time, item) pairs of a slice, in the short form, one by one."""
        stop = self._size if stop is None else min(stop, self._size)
        return chain.from_iterable(starmap(zip, self._columns(start, stop)))

    def _columns(self, start: int, stop: int) -> Iterator[tuple[Sequence[float], list[Item]]]:
        """(times, items) of each block in the slice."""
        while start < stop:
            first = start % _BLOCK
            last = min(first + stop - start, _BLOCK)
            yield self._blocks[start // _BLOCK].columns(first, last)
            start += last - first

    def fold(self) -> Fold:
        """A Fold of all events so far."""
        fold, size = Fold(), self._size
        for start in range(0, size, _BLOCK):
            items = self._blocks[start // _BLOCK].items
            if isinstance(items, _SealedItems) and start + _BLOCK <= size:
                items.fold(fold)
            else:
                for item in items[0 : size - start]:
                    fold.add(item)
        return fold


class ColumnStore(Sequence[T], Generic[T]):
    """A sequence of tuples, stored in columns. codes: the `array` type code of each column; O for objects."""

    def __init__(self, make: Callable[..., T], codes: str) -> None:
        self._make = make
        self._columns: list[Any] = [[] if code == "O" else array(code) for code in codes]

    def append(self, row: Iterable[Any]) -> None:
        """Adds a row."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def extend(self, *columns: Iterable[Any]) -> None:
        """Adds rows, column by column."""
        for column, values in zip(self._columns, columns, strict=True):
            column.extend(values)

    def __len__(self) -> int:
        return len(self._columns[-1])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return list(map(self._make, *[column[index] for column in self._columns]))
        position = range(len(self))[index]
        return self._make(*[column[position] for column in self._columns])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, *self._columns)

    def __repr__(self) -> str:
        return repr(list(self))
