"""The state of one answer while it arrives: its events folded for display. Painters decide when and where to
draw it.

Theory. A piece (a block of Markdown, a line of text, a finished thought) is final as soon as the next one has
begun. So the state holds finished pieces, which never change, and an open end, which is drawn again at each
frame. All painters take their texts from here (waiting, reasoning and calls in progress, figures, retries),
so they agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any, Literal

from ...core.events import (
    Event,
    MediaDelta,
    Notice,
    ReasoningDelta,
    Restarted,
    Started,
    StepEnded,
    TextDelta,
    ToolCallDelta,
    ToolEnded,
    ToolStarted,
    UsageReport,
    parse_arguments,
)
from ...core.messages import ToolCall, caption
from .blocks import BlockSplitter, LineSplitter, Splitter
from .hidden import clean
from .markdown import plain_html, reasoning_html
from .static import (
    Rendered,
    format_seconds,
    output_tokens,
    render_call,
    render_footer,
    render_note,
    render_tool_call,
)

_THOUGHT_TAIL = 600  # last characters of reasoning that are shown while it arrives
_ARGUMENTS_TAIL = 300  # the same for a call's arguments
# kinds of notices that the status line shows
_STATUS_NOTICES = frozenset(
    {"retry", "wait", "warning", "refusal", "compacted", "tools", "failover", "hedge"}
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A finished part of an answer: its source, and its kind (text, thought, a tool call with its result, or
    a note about a picture or file)."""

    source: str
    kind: Literal["text", "thought", "note", "tool"] = "text"
    call: ToolCall | None = None
    end: ToolEnded | None = None
    open: bool = False  # whether a thought is expanded

    def render(self, text: Callable[[str], str]) -> Rendered:
        """The piece in both forms; `text` converts text to HTML."""
        if self.call is not None and self.end is not None:
            line = render_tool_call(self.call, self.end)
            return Rendered(line.html, f"\n\n{line.text}\n\n")
        if self.kind == "note":
            return render_note(self.source)
        if self.kind == "thought":
            return Rendered(
                reasoning_html(self.source, open=self.open),
                f"[reasoning]\n{clean(self.source)}\n[/reasoning]\n\n",
            )
        return Rendered(text(self.source), clean(self.source))


def merge_events(log: Iterable[tuple[float, Event]]) -> Iterator[tuple[float, Event, int]]:
    """The events of a part of a log as (arrival, event, number of merged events). Consecutive deltas of one
    text are merged, so that the cost of drawing depends on polls and not on chunks."""
    for _, group in groupby(log, _merge_key):
        entries = list(group)
        yield (*(_merge(entries) if len(entries) > 1 else entries[0]), len(entries))


def _merge_key(entry: tuple[float, Event]) -> tuple[type[Event] | None, int]:
    """The key that consecutive events must share to be merged."""
    event = entry[1]
    if isinstance(event, (TextDelta, ReasoningDelta)):
        return type(event), 0
    if isinstance(event, ToolCallDelta) and not (event.id or event.name):
        return ToolCallDelta, event.index
    return None, id(event)


def _merge(entries: list[tuple[float, Any]]) -> tuple[float, Event]:
    at, first = entries[0]
    if isinstance(first, ToolCallDelta):
        return at, ToolCallDelta(first.index, arguments="".join([e.arguments for _, e in entries]))
    arrived = next((at for at, e in entries if e.text), at)
    return arrived, type(first)("".join([e.text for _, e in entries]))


@dataclass(slots=True)
class AnswerState:
    """The state of one answer. label: the heading of its column. began, first_token, ended: perf_counter
    seconds. characters: of text, reasoning and calls. chunks: events that changed the display. restarts:
    how often everything so far became void."""

    label: str
    began: float
    format: str = "md"
    model: str = ""
    splitter: Splitter = field(init=False)
    pieces: list[Piece] = field(default_factory=list)
    thought: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)  # by id of a call, its index, if the provider sends ids
    running_tools: list[str] = field(default_factory=list)  # names of running tools
    settled_pieces: int = 0  # pieces of finished turns, which a restart keeps
    notice: str = ""
    report: UsageReport | None = None
    characters: int = 0
    chunks: int = 0
    restarts: int = 0
    first_token: float | None = None
    ended: float | None = None
    display_id: str = ""  # the id of the display with the final form
    show_reasoning: bool | None = None  # expanded (True), not at all (False), or collapsed

    def __post_init__(self) -> None:
        self.model = self.model or self.label
        self.splitter = self._splitter()

    def _splitter(self) -> Splitter:
        return BlockSplitter() if self.format == "md" else LineSplitter()

    def feed(self, event: Event, at: float, count: int = 1) -> None:
        """Processes an event that arrived at `at`, merged from `count` events."""
        before = self.chunks
        self.chunks += count
        match event:
            case TextDelta(text):
                self._add_text(text)
                self._count(text, at)
            case ReasoningDelta(text):
                self._add_reasoning(text)
                self._count(text, at)
            case ToolCallDelta():
                self._add_arguments(event)
                self._count(event.arguments or event.name or "", at)
            case ToolStarted() | ToolEnded() | StepEnded():
                self._handle_tool_event(event)
            case MediaDelta(part, append=append) if (
                not append
            ):  # audio arrives in pieces with its transcript: it is shown at the end
                self._add_note(caption(part), at)
            case UsageReport():
                self.report = event
            case Started(_, model):
                self.model = model or self.model
            case Notice(kind, text) if kind in _STATUS_NOTICES:
                self.notice = text
            case Restarted(why):
                self.restart(why)
            case _:
                self.chunks = before

    def restart(self, why: str) -> None:
        """Drops everything of the current turn; `why` becomes the notice."""
        self.splitter, self.thought, self.calls, self.ids = self._splitter(), "", {}, {}
        del self.pieces[self.settled_pieces :]
        self.characters, self.first_token, self.report, self.notice = 0, None, None, why
        self.restarts += 1
        self.chunks += 1

    def _add_text(self, text: str) -> None:
        if text:
            self._close_thought()
        self.pieces += map(Piece, self.splitter.feed(text))

    def _add_reasoning(self, text: str) -> None:
        if self.show_reasoning is False:
            return
        if text and not self.thought:
            self._close_text()
        self.thought += text

    def _add_note(self, caption: str, at: float) -> None:
        """Adds a caption in place of a picture or file, which is displayed once, at the end."""
        self._close_thought()
        self._close_text()
        note = Piece(caption, "note")
        if note not in self.pieces[-4:]:  # pictures arrive in stages
            self.pieces.append(note)
        self._count(caption, at)

    def _add_arguments(self, e: ToolCallDelta) -> None:
        call = self.calls.setdefault(e.index, ["", ""])
        call[0] += e.name or ""
        call[1] += e.arguments
        if e.id:
            self.ids[e.id] = e.index

    def _handle_tool_event(self, event: ToolStarted | ToolEnded | StepEnded) -> None:
        match event:
            case ToolStarted(_, name):
                self.running_tools.append(name)
            case ToolEnded():
                self._end_call(event)
            case StepEnded():
                self.end_step()

    def _end_call(self, end: ToolEnded) -> None:
        """Turns a call that has ended into a piece."""
        result = end.result
        named = (i for i, (name, _) in self.calls.items() if name == result.name)
        index = self.ids.pop(result.id, None)
        name, raw = self.calls.pop(next(named, -1) if index is None else index, [result.name or "", ""])
        self._close_thought()
        self._close_text()
        call = ToolCall(result.id, name, parse_arguments(raw), raw)
        self.pieces.append(Piece(f"{name}({raw})", "tool", call, end))
        if result.name in self.running_tools:
            self.running_tools.remove(result.name)

    def end_step(self) -> None:
        """Ends a turn."""
        self._close_thought()
        self._close_text()
        self.calls, self.ids, self.settled_pieces = {}, {}, len(self.pieces)

    def _close_text(self) -> None:
        if self.splitter.tail():
            self.pieces.append(Piece(self.splitter.tail()))
            self.splitter = self._splitter()

    def _close_thought(self) -> None:
        if self.thought:
            self.pieces.append(Piece(self.thought.strip(), "thought", open=bool(self.show_reasoning)))
            self.thought = ""

    def _count(self, text: str, at: float) -> None:
        self.characters += len(text)
        if self.first_token is None and text:
            self.first_token = at

    def split_tail(self, above: int) -> None:
        """Makes a part of an open block longer than `above` characters a piece, so that it is drawn only
        once."""
        if part := self.splitter.split_tail(above):
            self.pieces.append(Piece(part))

    def reasoning_lines(self) -> list[Rendered]:
        """The end of the reasoning in progress."""
        tail = self.thought[-_THOUGHT_TAIL:].strip()
        html = f"<div class=nbllm-think>{plain_html(tail)}</div>"
        return [Rendered(html, f"[reasoning]\n{clean(tail)}\n")] if self.thought else []

    def call_lines(self) -> list[Rendered]:
        """The calls in progress, each with the end of its arguments."""
        return [render_call(clean(f"{name}({raw[-_ARGUMENTS_TAIL:]})")) for name, raw in self.calls.values()]

    def status(self, now: float) -> str:
        """The status line: model, time, first token, tokens, running tools, notice."""
        elapsed = (self.ended or now) - self.began
        if self.first_token is None:
            items = ["waiting for the first token…" + (f" {elapsed:.0f} s" if elapsed >= 1 else "")]
        else:
            items = [
                f"{format_seconds(self.first_token - self.began)} to first token",
                format_seconds(elapsed),
                output_tokens(self.report, self.characters),
            ]
        running = f"running {', '.join(self.running_tools)}" if self.running_tools else ""
        return clean(" · ".join(filter(None, (self.model, *items, running, self.notice))))

    def status_line(self, now: float) -> Rendered:
        """`status` in both forms."""
        text = self.status(now)
        return render_footer(Rendered(escape(text, quote=False), text))
