"""One prompt, several models (or runs, or temperatures): asked at the same time, shown side by side, kept as one result."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, NbllmError
from ..events import Event, Response
from ..streams import Stream
from .bundle import footer
from .buttons import StopBar
from .port import KernelPort, where
from .run import FRAME, Drawing, drawn, stoppable
from .session import Asked, Session
from .side import Column, Entry, Printed, Side, bundle

if TYPE_CHECKING:
    import pandas as pd

_MOST = 24  # columns; more are a benchmark


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answers of several models to one prompt, in the order in which they were named.

    `cmp["openai/mini"]` or `cmp[0]` is a Response; `cmp.df` has one row per column; as a cell's value it draws itself as the
    columns.
    """

    entries: tuple[Entry, ...]
    prompt: str = ""
    format: str = "md"

    @property
    def labels(self) -> list[str]:
        """What stands above the columns."""
        return [e.label for e in self.entries]

    @property
    def responses(self) -> list[Response]:
        """The answers, partial ones too."""
        return [e.response for e in self.entries]

    @property
    def df(self) -> pd.DataFrame:
        """One row per column: model, text, finish_reason, ttft_s, total_s, tokens_per_s, input_tokens, output_tokens, cost_usd, error;
        what is not known is NA."""
        import pandas as pd

        frame = pd.DataFrame([_row(e) for e in self.entries], index=pd.Index(self.labels, name="column"))
        return frame.astype({"ttft_s": "float64", "total_s": "float64", "tokens_per_s": "float64", "cost_usd": "float64",
                             "input_tokens": "Int64", "output_tokens": "Int64", "error": "string"})

    def __getitem__(self, which: str | int) -> Response:
        """The answer of a column, by its label or place."""
        if isinstance(which, int):
            return self.entries[which].response
        return next((e.response for e in self.entries if e.label == which), None) or self._missing(which)

    def _missing(self, which: str) -> Response:
        raise KeyError(f"no column is called {which!r}; there are {', '.join(self.labels)}")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Response]:
        return iter(self.responses)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.labels)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return bundle([(e.label, e.line(self.format)) for e in self.entries])


def _row(e: Entry) -> dict[str, Any]:
    r, usage = e.response, e.response.usage
    return {
        "model": r.model, "text": r.text, "finish_reason": r.finish_reason, "ttft_s": r.timing.ttft, "total_s": r.timing.total,
        "tokens_per_s": r.timing.tokens_per_second(usage.output_tokens if usage else None), "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None, "cost_usd": r.cost, "error": f"{type(e.error).__name__}: {e.error.message}" if e.error else None,
    }


class Screen(Protocol):
    """What shows several answers."""

    def start(self) -> None:
        """Shows that something was asked."""

    def feed(self, column: int, event: Event, at: float) -> None:
        """Takes an event of a column into account."""

    def tick(self, now: float) -> None:
        """Draws, where something is due."""

    def finish(self, entries: Sequence[Entry]) -> None:
        """Leaves the final form."""

    def give_up(self, text: str) -> None:
        """Leaves `text`, where the final form could not be drawn."""


def columns_of(models: Sequence[str], options: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(label, model, options) of every column: models, times temperatures, times runs. Raises ConfigError for too many."""
    temperatures = options.get("temperature")
    sweep = list(temperatures) if isinstance(temperatures, (list, tuple)) else [temperatures]
    runs = int(options.get("runs", 1))
    several = len(set(models)) < len(models) or runs > 1
    cells = list(itertools.product(models, sweep, range(runs)))
    if len(cells) > _MOST:
        raise ConfigError(f"{len(cells)} answers side by side are too many to read ({_MOST} at most).", hint="nbllm.bench.run measures many.")
    found: list[tuple[str, str, dict[str, Any]]] = []
    for model, temperature, _run in cells:
        own = {k: v for k, v in options.items() if k not in ("runs", "temperature")} | ({} if temperature is None else {"temperature": temperature})
        label = " ".join(filter(None, (model, f"t={temperature:g}" if len(sweep) > 1 else "")))
        number = sum(label == known.partition(" #")[0] for known, _, _ in found) + 1
        found.append((f"{label} #{number}" if several else label, model, own))
    return found


def compare(session: Session, asked: Asked, models: Sequence[str], out: str | None, before: Sequence[Entry] = ()) -> Comparison:
    """Asks every model at once and shows the answers side by side, after the columns of `before`.

    One that fails shows why in its column; all failing raises the first one's error. Stop ends all and keeps what came.
    """
    wanted = columns_of(models, asked.options)
    now = time.perf_counter()
    columns = [Column(e.label, now, fixed=e.line(_format(asked))) for e in before] + [Column(label, now) for label, _, _ in wanted]
    screen = _screen(session, asked, columns)
    bar = _stop_bar(session, screen, [label for label, _, _ in wanted])
    Drawing().do(screen.start)
    streams: list[Stream | NbllmError] = [_asked(session, replace(asked, model=model, options=own)) for _, model, own in wanted]
    running = [s for s in streams if isinstance(s, Stream)]
    if bar is not None:
        bar.streams = [s if isinstance(s, Stream) else None for s in streams]
    problem = None
    with stoppable(*running) as interrupt:
        try:
            follow_all(streams, screen, columns, len(before), bar)
        except KeyboardInterrupt:  # off the main thread, or pressed twice
            interrupt.stop()
        entries = [*before, *(_entry(label, s, asked) for (label, _, _), s in zip(wanted, streams, strict=True))]
        result = Comparison(tuple(entries), "".join(getattr(p, "text", "") for p in asked.parts), _format(asked))
        session.keep_comparison(asked, result, out)
        try:
            problem = finish_columns(screen, entries)
        except KeyboardInterrupt:  # pressed twice after the answers: they are kept
            interrupt.stop()
        if bar is not None:
            Drawing().do(bar.close)
    session.shown(result)
    _raise(entries[len(before):], interrupt.asked, out)
    if problem is not None:
        raise problem
    return result


def entries_so_far(session: Session) -> tuple[Entry, ...]:
    """The columns of the last answers: those of the last comparison, or the one answer."""
    if session.comparison is not None:
        return session.comparison.entries
    if session.last is None:
        return ()
    label = session.asked.model if session.asked else session.last.model or "?"
    return (Entry(label, session.last, None, footer(session.last)),)


def _raise(entries: Sequence[Entry], stopped: bool, out: str | None) -> None:
    from .cell import Stopped

    if stopped:
        raise Stopped(out or "_llm")
    failed = [e.error for e in entries if e.error is not None]
    if failed and len(failed) == len(entries):
        raise failed[0]


def _format(asked: Asked) -> str:
    return str(asked.options.get("format", "md"))


def _asked(session: Session, asked: Asked) -> Stream | NbllmError:
    """The call, or what is wrong with it on this side: one bad name must not keep the others from answering."""
    try:
        return session.stream(asked)
    except NbllmError as error:
        return error


def _entry(label: str, stream: Stream | NbllmError, asked: Asked) -> Entry:
    if isinstance(stream, NbllmError):
        return Entry(label, Response(), stream)
    response, error = stream.partial(), stream.error
    if error is not None:
        error.partial = error.partial or response
    return Entry(label, response, error, footer(response, filled=asked.filled, attached=asked.attached))


def _stop_bar(session: Session, screen: Screen, labels: Sequence[str]) -> StopBar | None:
    """A Stop for each column, where a page may be there to show it."""
    if not isinstance(screen, Side) or not screen.live or session.comm is None:
        return None
    bar = StopBar(KernelPort(session.shell), labels)
    Drawing().do(bar.show)
    return bar


def follow_all(streams: Sequence[Stream | NbllmError], screen: Screen, columns: Sequence[Column], first: int, bar: StopBar | None = None) -> None:
    """Shows all streams' events until the last one has ended. The first stream's column is `first`. Where the screen fails, the
    rest is only waited for."""
    places, shown = [0] * len(streams), Drawing()
    while True:
        live = [s for s in streams if isinstance(s, Stream) and not s.done]
        for i, stream in enumerate(streams):
            if isinstance(stream, Stream):
                for at, event in stream.log[places[i]:]:
                    shown.do(screen.feed, first + i, event, at)
                    places[i] += 1
                if stream.done and columns[first + i].ended is None:
                    columns[first + i].ended = stream.ended_at
                    if bar is not None:
                        shown.do(bar.ended, i)
        if not live:
            return
        shown.do(screen.tick, time.perf_counter())
        live[0].wait_end(FRAME)


def finish_columns(screen: Screen, entries: Sequence[Entry]) -> NbllmError | None:
    """Leaves the final form on the screen, the texts alone where it cannot be drawn; gives what went wrong."""
    texts = "\n\n".join(f"## {e.label}\n\n{e.response.text}" for e in entries)
    return drawn(entries[-1].response, lambda: screen.finish(entries), lambda words: screen.give_up(f"{texts}\n\n{words}"))


def _screen(session: Session, asked: Asked, columns: Sequence[Column]) -> Screen:
    from .port import _to_stdout

    mode = where(session.shell, str(asked.options.get("render", "auto")))
    if asked.options.get("quiet"):
        return Printed(lambda _text: None)
    if mode == "terminal":
        return Printed(_to_stdout)
    return Side(KernelPort(session.shell), columns, mode=mode, format=_format(asked), in_place=not session.alone)
