"""What a reply is made of, in the order it arrives, and the one place that folds it into an answer. Pure
values.

A decoder turns frames into events; a stream keeps them in a log; `Fold` turns the log into a Response.
Several events may describe one part: consecutive TextDeltas are one text, ReasoningDeltas are one block until
a signature (or a redacted block) ends it, ToolCallDeltas with one index are one call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .messages import (
    Document,
    Image,
    Message,
    Part,
    Raw,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
    audio_type,
    caption,
)

P = TypeVar("P", bound=Part)
DEPTH_LIMIT = 500  # levels of a JSON value; whatever walks through one afterwards has room for that many
NAME_LIMIT = 256  # characters of a function's name that comes in pieces
# refused: by the user; unknown: no tool of that name; invalid: arguments that do not fit; repeated: the
# same call for the third time; stopped: by the user, before or while it ran; limit: no step was left for it
ToolOutcome = Literal[
    "ran", "failed", "refused", "unknown", "invalid", "repeated", "stopped", "timeout", "limit"
]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "cancelled", "other"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts in OpenTelemetry's GenAI meaning; None means the provider did not report it.

    input_tokens counts all input, cached and cache-written included; output_tokens counts reasoning too.
    `raw` is the provider's own usage object.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The provider's id of the answer and the model that really answers. May be repeated; later values that
    are set win."""

    id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the visible answer. A signature alone (text "") belongs to the text before it."""

    text: str
    signature: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of thinking. A `signature` ends the block; `redacted` is a block of its own."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call. `index` names the call within the answer; id and name are given once; arguments are
    fragments of JSON text to be joined."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class MediaDelta:
    """A picture or another file that the model made. One with the `key` of an earlier one takes its place, as
    a picture does that of its previews; with `append` its bytes follow the earlier one's."""

    part: Image | Document
    key: str | None = None
    append: bool = False


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What the provider counted so far. Each report replaces the one before it. `final`: nothing will be
    added to it."""

    usage: Usage
    final: bool = True


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth keeping that is not the answer: kind is one of retry, refusal, citation, server_tool,
    timing, warning, media (a file that cannot be read), compacted (a conversation was shortened), wait
    (for a rate limit), cached (known before), context (what a provider keeps of a prompt), tools (what was
    left out or not run), unknown. `text` is for a person, `data` is the provider's own object."""

    kind: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restarted:
    """What came so far is void: the provider (a CLI that retries by itself) sends the answer again."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A block that goes back to its provider as it came, see Raw."""

    part: Raw


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool begins to run, after its arguments were found valid and the user had nothing against it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """What a call came to. `outcome` says how; `result` is what the model is told; seconds: how long it ran,
    None where it did not."""

    result: ToolResult
    outcome: ToolOutcome = "ran"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The end of an assistant turn that others follow: its calls have their results. `reason` and `raw` as in
    Finished."""

    number: int
    reason: FinishReason = "tool_calls"
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the answer. `raw` is the provider's own word for the reason."""

    reason: FinishReason
    raw: str | None = None


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | MediaDelta
    | UsageReport
    | Notice
    | Restarted
    | RawBlock
    | ToolStarted
    | ToolEnded
    | StepEnded
    | Finished
)


class ReasoningText(str):
    """Short for a ReasoningDelta of this text alone."""

    __slots__ = ()


Item = (
    Event | str
)  # an event, or the short form of the two that nearly all are: a TextDelta's text, a Thought


def to_event(item: Item) -> Event:
    """The event that an item stands for."""
    if not isinstance(item, str):
        return item
    return ReasoningDelta(str(item)) if isinstance(item, ReasoningText) else TextDelta(item)


def to_item(event: Event) -> Item:
    """The shortest form of an event."""
    match event:
        case TextDelta(text, None):
            return text
        case ReasoningDelta(text, None, None, None):
            return ReasoningText(text)
    return event


def is_token(event: Item) -> bool:
    """Whether `event` carries something the model generated."""
    if isinstance(event, str):
        return bool(event)
    match event:
        case TextDelta(text) | ReasoningDelta(text):
            return bool(text)
        case ToolCallDelta() | MediaDelta():
            return True
    return False


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds on the monotonic clock, measured where the bytes arrived; None where it did not happen.

    The clock starts when the call is handed to the network's thread; making the client and its TLS context,
    once a process, comes before. ttft: call to first token, text or reasoning or tool call. ttfo: call to
    first visible text. total: call to the end. connect: TCP and TLS set-up, None on a reused connection.
    decode: first token to last, of all turns together; decoded: tokens that came in that time, where they are
    counted. attempts: requests sent, retries included.
    """

    connect: float | None = None
    ttfb: float | None = None
    ttft: float | None = None
    ttfo: float | None = None
    total: float | None = None
    decode: float | None = None
    decoded: int | None = None
    reused: bool | None = None
    attempts: int = 1

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second between the first and the last (a row's tpot_ms, turned round); None where it
        cannot be known, or where all came within 20 ms: then the span says how the bytes were packed, not how
        fast they were made."""
        return self.decoded / self.decode if self.decoded and self.decode and self.decode >= 0.02 else None


def _messages(parts: tuple[Part, ...], results: tuple[ToolEnded, ...]) -> tuple[Message, ...]:
    told = (Message("tool", [e.result for e in results]),) if results else ()
    return (Message("assistant", parts), *told) if parts else told


class _Turn:
    """What a turn's parts hold."""

    __slots__ = ()
    parts: tuple[Part, ...]

    def _of(self, kind: type[P]) -> tuple[P, ...]:
        return tuple(p for p in self.parts if isinstance(p, kind))

    @property
    def text(self) -> str:
        """The visible text."""
        return "".join(p.text for p in self._of(Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls the model asks for, in order."""
        return self._of(ToolCall)


@dataclass(frozen=True, slots=True)
class Step(_Turn):
    """One assistant turn of an answer that used tools. results: what its calls came to, in their order. cost:
    US dollars."""

    number: int
    parts: tuple[Part, ...] = ()
    results: tuple[ToolEnded, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    cost: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turn, and the one with its results, ready to be sent back."""
        return _messages(self.parts, self.results)


def sum_usage(usages: Iterable[Usage | None]) -> Usage | None:
    """The sum of several counts. What one of them does not say of input and output is not known of the sum; a
    detail counts where it was told. None for none."""
    known = list(usages)
    if len(known) < 2 or all(u is None for u in known):
        return known[0] if known else None
    each = [u or Usage() for u in known]

    def add(name: str, whole: bool) -> int | None:
        values = [getattr(u, name) for u in each]
        told = [v for v in values if v is not None]
        return sum(told) if told and not (whole and len(told) < len(values)) else None

    details = ("reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
    return Usage(
        **{n: add(n, True) for n in ("input_tokens", "output_tokens")},
        **{n: add(n, False) for n in details},
        raw=each[-1].raw,
    )


PASS_THRESHOLD = 0.5  # what is asserted of an answer, and a score, is passed from here on


def all_checks_pass(values: Iterable[float | None]) -> bool | None:
    """Whether all checks of an answer are passed; None where one is not known and none has failed."""
    told = list(values)
    if any(v is not None and v < PASS_THRESHOLD for v in told):
        return False
    return None if None in told else True


# What answers of other libraries call it, and our word.
_ELSEWHERE = {
    **dict.fromkeys(("content", "choices", "output", "output_text", "completion", "answer"), "text"),
    **dict.fromkeys(("reasoning_content", "thinking", "thoughts"), "reasoning"),
    **dict.fromkeys(("usage_metadata", "tokens"), "usage"),
    **dict.fromkeys(("stop_reason", "status"), "finish_reason"),
    **dict.fromkeys(("price", "cost_usd"), "cost"),
    **dict.fromkeys(("latency", "ttft", "duration"), "timing"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Response(_Turn):
    """An answer, whole or partial, with everything known about it. Where tools ran, `parts` are those of the
    last turn, `before` has the turns that came before it, and `usage` and `cost` are sums."""

    parts: tuple[Part, ...] = ()
    finish_reason: FinishReason | None = None
    finish_raw: str | None = None
    usage: Usage | None = None
    model: str | None = None
    provider: str | None = None
    id: str | None = None
    cost: float | None = None
    timing: Timing = field(default_factory=Timing)
    request: Request | None = None
    notices: tuple[Notice, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False
    before: tuple[Step, ...] = ()
    results: tuple[ToolEnded, ...] = ()
    turn_usage: Usage | None = None  # of the last turn alone
    cached: bool = False
    saved_usd: float | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)  # what was asserted: 0 to 1, None: not known

    @property
    def passed(self) -> bool | None:
        """Whether all that was asserted of it holds; None where one thing is not known, or nothing was
        asserted."""
        return all_checks_pass(self.checks.values()) if self.checks else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every assistant turn of the answer, in order; one, where no tool ran."""
        if self.before and not self.parts:
            return self.before
        usage, cost = (self.turn_usage, None) if self.before else (self.usage, self.cost)
        last = Step(len(self.before) + 1, self.parts, self.results, self.finish_reason, usage, cost)
        return (*self.before, last)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that the answer adds to a conversation: its turns and what their calls came to."""
        earlier = (m for step in self.before for m in step.messages)
        return (*earlier, *_messages(self.parts, self.results))

    @property
    def conversation(self) -> tuple[Message, ...]:
        """What was sent and all that the answer adds to it: where to go on from, see nbllm.resume."""
        return (*(self.request.messages if self.request else ()), *self.messages)

    @property
    def empty(self) -> bool:
        """Whether nothing came."""
        return not (self.parts or self.before)

    @property
    def reasoning(self) -> str:
        """What the model showed of its thinking; "" where it showed none."""
        return "".join(p.text for p in self._of(Reasoning))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures the model made, in order; `data` holds the bytes."""
        return self._of(Image)

    @property
    def files(self) -> tuple[Document, ...]:
        """What else the model made: sound, documents; `data` holds the bytes."""
        return self._of(Document)

    @property
    def transcript(self) -> str:
        """The words in the sound that the model made, where the provider sends them."""
        return "".join(n.text for n in self.notices if "audio" in n.data)

    @property
    def refusal(self) -> str:
        """The words of a refusal, where the provider sends them apart from the text."""
        return "".join(n.text for n in self.notices if n.kind == "refusal")

    @property
    def message(self) -> Message:
        """The answer as an assistant turn, ready to be sent back."""
        return Message("assistant", self.parts)

    def response(self, timeout: float | None = None) -> Response:
        """Itself, as a stream's: a variable that an answer in the background fills may hold either."""
        return self

    if not TYPE_CHECKING:  # else any name would be one

        def __getattr__(self, name):
            """Raises AttributeError, with our word for what other libraries call so."""
            ours = f": see .{_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise AttributeError(f"A Response has no .{name}{ours}", name=name, obj=self)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        made = (caption(p) for p in self.parts if isinstance(p, (Image, Document)))
        text = " ".join(filter(None, (text, *made)))
        return f"Response({text!r}, model={self.model!r}, finish_reason={self.finish_reason!r})"


class _Words:
    """A text, or a block of reasoning. kind: which of the two."""

    __slots__ = ("id", "kind", "pieces", "redacted", "signature")

    def __init__(self, kind: type[Text | Reasoning]) -> None:
        self.kind, self.pieces = kind, list[str]()
        self.id: str | None = None
        self.signature: str | None = None
        self.redacted: str | None = None

    def takes(self, kind: type[Text | Reasoning], id: str | None) -> bool:
        """Whether more of a kind goes on with it: a signature or a redacted block ends reasoning, and another
        id begins another block."""
        over = self.signature or self.redacted or (id and self.id and id != self.id)
        return self.kind is kind and not (kind is Reasoning and over)

    def build(self, taken: Container[str | None]) -> Part | None:
        text, sent = "".join(self.pieces), (self.signature, self.redacted, self.id)
        if not (text or self.signature or self.redacted):
            return None
        return Text(text, self.signature) if self.kind is Text else Reasoning(text, *sent)


class _File:
    __slots__ = ("part", "pieces")

    def __init__(self, part: Image | Document) -> None:
        self.part, self.pieces = part, [part.data or b""]

    def build(self, taken: Container[str | None]) -> Image | Document:
        if len(self.pieces) == 1:
            return self.part
        data = b"".join(self.pieces)
        return replace(self.part, data=data, media_type=audio_type(data) or self.part.media_type)


class _Call:
    __slots__ = ("arguments", "id", "index", "name", "signature")

    def __init__(self, index: int) -> None:
        self.index, self.name, self.arguments = index, "", list[str]()
        self.id: str | None = None
        self.signature: str | None = None

    def build(self, taken: Container[str | None]) -> ToolCall:
        raw, id = "".join(self.arguments), self.id or unique_id(f"nbllm-{self.index}", taken)
        return ToolCall(id, self.name, parse_arguments(raw), raw, self.signature, made_up=not self.id)


def parse_arguments(raw: str) -> dict[str, Any] | None:
    """The arguments object in `raw`: {} for an empty string or null, None where it is not valid JSON for an
    object. A JSON string that itself holds an object is decoded once more."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else {}
        if value is None:
            return {}
        return _encodable(value) if isinstance(value, dict) and not is_too_deep(value) else None
    except (ValueError, RecursionError):
        return None


def is_too_deep(value: Any) -> bool:
    """Whether a value has more than DEPTH_LIMIT levels; goes down level by level, not by recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEPTH_LIMIT):
        level = [
            c
            for v in level
            for c in (v.values() if isinstance(v, dict) else v)
            if isinstance(c, (dict, list))
        ]
        if not level:
            return False
    return True


def _encodable(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with halves of surrogate pairs joined, and lone ones replaced: they could neither be shown nor
    sent."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        mended: dict[str, Any] = json.loads(
            text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
        return mended
    return value


class Fold:
    """Adds events up, one by one; `response()` may be asked at any moment for what there is so far."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self._report: UsageReport | None = None
        self._counted = False  # the report is final: nothing was made after it
        self.finished: Finished | None = None
        self.notices: list[Notice] = []
        self._blocks: list[_Words | _File | _Call | Raw] = []
        self._files: dict[str, _File] = {}  # by key
        self._calls: dict[int, _Call] = {}
        self._results: list[ToolEnded] = []
        self.steps: list[Step] = []  # those that have ended

    def add(self, event: Item) -> None:
        """Takes one event into account."""
        if (take := _TAKEN.get(type(event))) is not None:
            take(self, event)

    def _start(self, e: Started) -> None:
        self.id, self.model = e.id or self.id, e.model or self.model

    def _count(self, e: UsageReport) -> None:
        self._report, self._counted = e, e.final

    def _finish(self, e: Finished) -> None:
        self.finished = e

    def _end(self, e: StepEnded) -> None:
        """Puts a turn aside; the next one begins."""
        self.finished = Finished(e.reason, e.raw)
        parts = self.parts()
        step = Step(len(self.steps) + 1, parts, self._told(parts), e.reason, self._usage())
        self.steps.append(step)
        self._results = []
        self._void()

    def _told(self, parts: tuple[Part, ...]) -> tuple[ToolEnded, ...]:
        """What the calls came to, in the order of the calls."""
        places = {p.id: i for i, p in reversed(list(enumerate(parts))) if isinstance(p, ToolCall)}
        return tuple(sorted(self._results, key=lambda e: places.get(e.result.id, 0)))

    def _void(self) -> None:
        self._blocks, self._calls, self._files, self._report, self.finished = [], {}, {}, None, None

    @property
    def usage(self) -> Usage | None:
        """The sum of what was counted in each turn."""
        last = [self._usage()] if self._blocks or self._report or not self.steps else []
        return sum_usage([*(step.usage for step in self.steps), *last])

    def _usage(self) -> Usage | None:
        """The provider's last report. Where the answer ended before its counts were final, what it made is
        not known."""
        usage = self._report.usage if self._report is not None else None
        whole = self.finished is not None and self.finished.reason not in ("error", "cancelled")
        if usage is None or self._counted or whole:
            return usage
        return replace(usage, output_tokens=None, reasoning_tokens=None)

    def _text(self, text: str, kind: type[Text | Reasoning] = Text, id: str | None = None) -> _Words:
        last = self._blocks[-1] if self._blocks else None
        if not (isinstance(last, _Words) and last.takes(kind, id)):
            last = _Words(kind)
            self._blocks.append(last)
        last.pieces.append(text)
        self._counted = self._counted and not text
        return last

    def _say(self, e: TextDelta) -> None:
        block = self._text(e.text)
        block.signature = e.signature or block.signature

    def _reason(self, e: ReasoningDelta) -> None:
        if e.redacted is None:
            block = self._text(e.text, Reasoning, e.id)
        else:
            block = _Words(Reasoning)
            self._blocks.append(block)
        block.redacted = e.redacted
        block.signature, block.id = e.signature or block.signature, e.id or block.id

    def _file(self, e: MediaDelta) -> None:
        known = self._files.get(e.key) if e.key is not None else None
        self._counted = False
        if known is None:
            known = _File(e.part)
            self._blocks.append(known)
            if e.key is not None:
                self._files[e.key] = known
        elif e.append:
            known.pieces.append(e.part.data or b"")
        else:
            known.part, known.pieces = e.part, [e.part.data or b""]

    def _tool(self, e: ToolCallDelta) -> None:
        call = self._calls.get(e.index)
        if call is None:
            call = self._calls[e.index] = _Call(e.index)
            self._blocks.append(call)
        call.id = e.id or call.id
        call.name = (call.name + (e.name or ""))[:NAME_LIMIT]
        call.signature = e.signature or call.signature
        if e.arguments:
            call.arguments.append(e.arguments)
            self._counted = False

    def parts(self) -> tuple[Part, ...]:
        """The parts so far, in the order in which they began. A call without an id gets one that no other
        has."""
        taken = {call.id for call in self._calls.values()}
        built = (b if isinstance(b, Raw) else b.build(taken) for b in self._blocks)
        return tuple(part for part in built if part is not None)

    def response(self, **about: Any) -> Response:
        """The answer so far; `about` fills the fields that events do not know (provider, cost, timing,
        request)."""
        about.setdefault("model", self.model)
        parts = self.parts()
        return Response(
            parts=parts,
            finish_reason=self.finished.reason if self.finished else None,
            finish_raw=self.finished.raw if self.finished else None,
            usage=self.usage,
            id=self.id,
            notices=tuple(self.notices),
            results=self._told(parts),
            turn_usage=self._usage(),
            **{"before": tuple(self.steps), **about},
        )


_TAKEN: dict[type, Callable[[Fold, Any], Any]] = {
    str: Fold._text,
    ReasoningText: lambda fold, text: fold._text(str(text), Reasoning),
    TextDelta: Fold._say,
    ReasoningDelta: Fold._reason,
    ToolCallDelta: Fold._tool,
    MediaDelta: Fold._file,
    UsageReport: Fold._count,
    Started: Fold._start,
    Finished: Fold._finish,
    Notice: lambda fold, e: fold.notices.append(e),
    Restarted: lambda fold, e: fold._void(),
    RawBlock: lambda fold, e: fold._blocks.append(e.part),
    ToolEnded: lambda fold, e: fold._results.append(e),
    StepEnded: Fold._end,
}


def total_cost(responses: Iterable[Response]) -> float | None:
    """US dollars of all answers that have a price; None where none has."""
    known = [r.cost for r in responses if r.cost is not None]
    return sum(known) if known else None


def unique_id(id: str, taken: Container[str | None]) -> str:
    """`id`, lengthened until none of `taken` is the same."""
    while id in taken:
        id += "-"
    return id


def fold(events: Iterable[Event]) -> Response:
    """The answer that `events` make."""
    f = Fold()
    for event in events:
        f.add(event)
    return f.response()
