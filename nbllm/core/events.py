"""The events of a reply, in the order of arrival, and `Fold`, which combines them into a Response. Pure.

A decoder turns frames into events; a stream stores them in a log; `Fold` turns the log into a Response.
Several events may describe one part: consecutive TextDeltas are one text, ReasoningDeltas are one block until
a signature (or a redacted block) ends it, ToolCallDeltas with the same index are one call.
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
DEPTH_LIMIT = 500  # levels of a JSON value; recursive functions can process that many
NAME_LIMIT = 256  # characters of a function's name, which may arrive in pieces
# refused: by the user; unknown: no tool of that name; invalid: arguments do not match the schema; repeated:
# the same call for the third time; stopped: by the user, before or while it ran; limit: no step was left
ToolOutcome = Literal[
    "ran", "failed", "refused", "unknown", "invalid", "repeated", "stopped", "timeout", "limit"
]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "cancelled", "other"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as OpenTelemetry's GenAI conventions define them; None where the provider reported none.

    input_tokens includes tokens read from and written to a cache; output_tokens includes reasoning.
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
    """The provider's id of the answer and the model that actually answers. May be repeated; later values that
    are set take precedence."""

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
    """A piece of a tool call. `index` identifies the call within the answer; id and name are given once;
    arguments are fragments of JSON text to be joined."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class MediaDelta:
    """An image or another file that the model made. One with the `key` of an earlier one replaces it, as an
    image replaces its previews; with `append`, its bytes are appended to the earlier one."""

    part: Image | Document
    key: str | None = None
    append: bool = False


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The usage so far. Each report replaces the one before it. `final`: no more will be added."""

    usage: Usage
    final: bool = True


@dataclass(frozen=True, slots=True)
class Notice:
    """Additional information that is not part of the answer. kind is one of retry, refusal, citation,
    server_tool, timing, warning, media (a file that cannot be read), compacted (a conversation was
    shortened), wait (for a rate limit), cached (answered from the cache), context (a prompt cached by the
    provider), tools (left out or not run), unknown. `text` is for the user, `data` is the provider's own
    object."""

    kind: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restarted:
    """Everything so far is void: the provider (a CLI that retries by itself) sends the answer again."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A block that is sent back to its provider unchanged, see Raw."""

    part: Raw


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool starts to run: its arguments are valid and the user has not refused it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """The end of a tool call. `result` is sent to the model; seconds: how long it ran, None where it did
    not."""

    result: ToolResult
    outcome: ToolOutcome = "ran"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The end of an assistant turn that is followed by another: its calls have their results. `reason` and
    `raw` as in Finished."""

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
    """Short form of a ReasoningDelta that has only text."""

    __slots__ = ()


# An event, or the short form of the two most frequent ones: a TextDelta as str, a ReasoningDelta as
# ReasoningText.
Item = Event | str


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
    """Whether `event` contains something that the model generated."""
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
    """Seconds on the monotonic clock, measured when the bytes arrived; None for what did not happen.

    The clock starts when the call is handed to the network thread; creating the client and its TLS context,
    once per process, comes before. ttft: call to first token (text, reasoning or tool call). ttfo: call to
    first visible text. total: call to the end. connect: TCP and TLS set-up, None on a reused connection.
    decode: first token to last, summed over all turns; decoded: tokens that arrived in that time, where they
    are counted. attempts: requests sent, retries included.
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
        """Tokens per second between the first and the last token (the inverse of a row's tpot_ms); None where
        it is not known, or where all arrived within 20 ms: then the time depends on how the bytes were
        packed, not on how fast the tokens were generated."""
        return self.decoded / self.decode if self.decoded and self.decode and self.decode >= 0.02 else None


def _messages(parts: tuple[Part, ...], results: tuple[ToolEnded, ...]) -> tuple[Message, ...]:
    following = (Message("tool", [e.result for e in results]),) if results else ()
    return (Message("assistant", parts), *following) if parts else following


class _HasParts:
    """Access to the parts of a turn by kind."""

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
        """The tool calls that the model requests, in order."""
        return self._of(ToolCall)


@dataclass(frozen=True, slots=True)
class Step(_HasParts):
    """One assistant turn of an answer that used tools. results: those of its calls, in the same order. cost:
    US dollars."""

    number: int
    parts: tuple[Part, ...] = ()
    results: tuple[ToolEnded, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    cost: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turn and its tool results, as messages to send back."""
        return _messages(self.parts, self.results)


def sum_usage(usages: Iterable[Usage | None]) -> Usage | None:
    """The sum of several usages. Input and output are None where one of them is unknown; details are summed
    where they are known. None for no usages."""
    found = list(usages)
    if len(found) < 2 or all(u is None for u in found):
        return found[0] if found else None
    each = [u or Usage() for u in found]

    def add(name: str, all_needed: bool) -> int | None:
        values = [getattr(u, name) for u in each]
        known = [v for v in values if v is not None]
        return sum(known) if known and not (all_needed and len(known) < len(values)) else None

    details = ("reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
    return Usage(
        **{n: add(n, True) for n in ("input_tokens", "output_tokens")},
        **{n: add(n, False) for n in details},
        raw=each[-1].raw,
    )


PASS_THRESHOLD = 0.5  # an assertion or score of at least this passes


def all_checks_pass(values: Iterable[float | None]) -> bool | None:
    """Whether all checks of an answer pass; None where one is unknown and none has failed."""
    results = list(values)
    if any(v is not None and v < PASS_THRESHOLD for v in results):
        return False
    return None if None in results else True


# Attribute names of other libraries' answers, and nbllm's name.
_FOREIGN_NAMES = {
    **dict.fromkeys(("content", "choices", "output", "output_text", "completion", "answer"), "text"),
    **dict.fromkeys(("reasoning_content", "thinking", "thoughts"), "reasoning"),
    **dict.fromkeys(("usage_metadata", "tokens"), "usage"),
    **dict.fromkeys(("stop_reason", "status"), "finish_reason"),
    **dict.fromkeys(("price", "cost_usd"), "cost"),
    **dict.fromkeys(("latency", "ttft", "duration"), "timing"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Response(_HasParts):
    """An answer, complete or partial, with everything known about it. Where tools ran, `parts` are those of
    the last turn, `before` has the earlier turns, and `usage` and `cost` are sums."""

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
    checks: Mapping[str, Any] = field(default_factory=dict)  # result of each assertion: 0 to 1, or None

    @property
    def passed(self) -> bool | None:
        """Whether all assertions hold; None where one is unknown, or there are none."""
        return all_checks_pass(self.checks.values()) if self.checks else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every assistant turn of the answer, in order; a single one where no tool ran."""
        if self.before and not self.parts:
            return self.before
        usage, cost = (self.turn_usage, None) if self.before else (self.usage, self.cost)
        last = Step(len(self.before) + 1, self.parts, self.results, self.finish_reason, usage, cost)
        return (*self.before, last)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that the answer adds to a conversation: its turns and their tool results."""
        earlier = (m for step in self.before for m in step.messages)
        return (*earlier, *_messages(self.parts, self.results))

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages that were sent, and those of the answer: the state to continue from, see
        nbllm.resume."""
        return (*(self.request.messages if self.request else ()), *self.messages)

    @property
    def empty(self) -> bool:
        """Whether nothing arrived."""
        return not (self.parts or self.before)

    @property
    def reasoning(self) -> str:
        """The reasoning that the model showed; "" where it showed none."""
        return "".join(p.text for p in self._of(Reasoning))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that the model made, in order; `data` holds the bytes."""
        return self._of(Image)

    @property
    def files(self) -> tuple[Document, ...]:
        """The other files that the model made: sound, documents; `data` holds the bytes."""
        return self._of(Document)

    @property
    def transcript(self) -> str:
        """The transcript of generated sound, where the provider sends it."""
        return "".join(n.text for n in self.notices if "audio" in n.data)

    @property
    def refusal(self) -> str:
        """The text of a refusal, where the provider sends it separately."""
        return "".join(n.text for n in self.notices if n.kind == "refusal")

    @property
    def message(self) -> Message:
        """The answer as an assistant turn, ready to be sent back."""
        return Message("assistant", self.parts)

    def response(self, timeout: float | None = None) -> Response:
        """Itself. Streams have the same method, and a variable of a background cell may hold either."""
        return self

    if not TYPE_CHECKING:  # otherwise type checkers would accept any name

        def __getattr__(self, name):
            """Raises AttributeError, with nbllm's name for an attribute of other libraries."""
            hint = f": see .{_FOREIGN_NAMES[name]}" if name in _FOREIGN_NAMES else ""
            raise AttributeError(f"A Response has no .{name}{hint}", name=name, obj=self)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        files = (caption(p) for p in self.parts if isinstance(p, (Image, Document)))
        text = " ".join(filter(None, (text, *files)))
        return f"Response({text!r}, model={self.model!r}, finish_reason={self.finish_reason!r})"


class _TextBlock:
    """A text or a block of reasoning that grows, as `kind` says."""

    __slots__ = ("id", "kind", "pieces", "redacted", "signature")

    def __init__(self, kind: type[Text | Reasoning]) -> None:
        self.kind, self.pieces = kind, list[str]()
        self.id: str | None = None
        self.signature: str | None = None
        self.redacted: str | None = None

    def accepts(self, kind: type[Text | Reasoning], id: str | None) -> bool:
        """Whether a piece continues this block: reasoning ends with a signature or a redacted block, and
        another id begins another block."""
        ended = self.signature or self.redacted or (id and self.id and id != self.id)
        return self.kind is kind and not (kind is Reasoning and ended)

    def build(self, used_ids: Container[str | None]) -> Part | None:
        text, provided = "".join(self.pieces), (self.signature, self.redacted, self.id)
        if not (text or self.signature or self.redacted):
            return None
        return Text(text, self.signature) if self.kind is Text else Reasoning(text, *provided)


class _FileBlock:
    __slots__ = ("part", "pieces")

    def __init__(self, part: Image | Document) -> None:
        self.part, self.pieces = part, [part.data or b""]

    def build(self, used_ids: Container[str | None]) -> Image | Document:
        if len(self.pieces) == 1:
            return self.part
        data = b"".join(self.pieces)
        return replace(self.part, data=data, media_type=audio_type(data) or self.part.media_type)


class _CallBlock:
    __slots__ = ("arguments", "id", "index", "name", "signature")

    def __init__(self, index: int) -> None:
        self.index, self.name, self.arguments = index, "", list[str]()
        self.id: str | None = None
        self.signature: str | None = None

    def build(self, used_ids: Container[str | None]) -> ToolCall:
        raw, id = "".join(self.arguments), self.id or unique_id(f"nbllm-{self.index}", used_ids)
        return ToolCall(id, self.name, parse_arguments(raw), raw, self.signature, made_up=not self.id)


def parse_arguments(raw: str) -> dict[str, Any] | None:
    """The arguments object in `raw`: {} for an empty string or null, None where it is not a JSON object. A
    JSON string that contains an object is decoded once more."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else {}
        if value is None:
            return {}
        return _replace_surrogates(value) if isinstance(value, dict) and not is_too_deep(value) else None
    except (ValueError, RecursionError):
        return None


def is_too_deep(value: Any) -> bool:
    """Whether a value has more than DEPTH_LIMIT levels; checked level by level, without recursion."""
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


def _replace_surrogates(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with surrogate pairs joined and lone surrogates replaced, which can neither be shown nor
    sent."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        value = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


class Fold:
    """Combines events, one by one; `response()` gives the answer so far at any moment."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self._report: UsageReport | None = None
        self._is_final = False  # the report is final: nothing was generated after it
        self.finished: Finished | None = None
        self.notices: list[Notice] = []
        self._blocks: list[_TextBlock | _FileBlock | _CallBlock | Raw] = []
        self._files: dict[str, _FileBlock] = {}  # by key
        self._calls: dict[int, _CallBlock] = {}
        self._results: list[ToolEnded] = []
        self.steps: list[Step] = []  # the completed ones

    def add(self, event: Item) -> None:
        """Adds an event."""
        if (handler := _HANDLERS.get(type(event))) is not None:
            handler(self, event)

    def _set_start(self, e: Started) -> None:
        self.id, self.model = e.id or self.id, e.model or self.model

    def _set_usage(self, e: UsageReport) -> None:
        self._report, self._is_final = e, e.final

    def _set_finish(self, e: Finished) -> None:
        self.finished = e

    def _end_step(self, e: StepEnded) -> None:
        """Completes a turn; the next one begins."""
        self.finished = Finished(e.reason, e.raw)
        parts = self.parts()
        step = Step(len(self.steps) + 1, parts, self._ordered_results(parts), e.reason, self._turn_usage())
        self.steps.append(step)
        self._results = []
        self._reset()

    def _ordered_results(self, parts: tuple[Part, ...]) -> tuple[ToolEnded, ...]:
        """The results in the order of their calls."""
        positions = {p.id: i for i, p in reversed(list(enumerate(parts))) if isinstance(p, ToolCall)}
        return tuple(sorted(self._results, key=lambda e: positions.get(e.result.id, 0)))

    def _reset(self) -> None:
        self._blocks, self._calls, self._files, self._report, self.finished = [], {}, {}, None, None

    @property
    def usage(self) -> Usage | None:
        """The sum over all turns."""
        last = [self._turn_usage()] if self._blocks or self._report or not self.steps else []
        return sum_usage([*(step.usage for step in self.steps), *last])

    def _turn_usage(self) -> Usage | None:
        """The provider's last report. Where the answer ended before it was final, the output is unknown."""
        usage = self._report.usage if self._report is not None else None
        complete = self.finished is not None and self.finished.reason not in ("error", "cancelled")
        if usage is None or self._is_final or complete:
            return usage
        return replace(usage, output_tokens=None, reasoning_tokens=None)

    def _append_text(
        self, text: str, kind: type[Text | Reasoning] = Text, id: str | None = None
    ) -> _TextBlock:
        last = self._blocks[-1] if self._blocks else None
        if not (isinstance(last, _TextBlock) and last.accepts(kind, id)):
            last = _TextBlock(kind)
            self._blocks.append(last)
        last.pieces.append(text)
        self._is_final = self._is_final and not text
        return last

    def _add_text(self, e: TextDelta) -> None:
        block = self._append_text(e.text)
        block.signature = e.signature or block.signature

    def _add_reasoning(self, e: ReasoningDelta) -> None:
        if e.redacted is None:
            block = self._append_text(e.text, Reasoning, e.id)
        else:
            block = _TextBlock(Reasoning)
            self._blocks.append(block)
        block.redacted = e.redacted
        block.signature, block.id = e.signature or block.signature, e.id or block.id

    def _add_file(self, e: MediaDelta) -> None:
        known = self._files.get(e.key) if e.key is not None else None
        self._is_final = False
        if known is None:
            known = _FileBlock(e.part)
            self._blocks.append(known)
            if e.key is not None:
                self._files[e.key] = known
        elif e.append:
            known.pieces.append(e.part.data or b"")
        else:
            known.part, known.pieces = e.part, [e.part.data or b""]

    def _add_call(self, e: ToolCallDelta) -> None:
        call = self._calls.get(e.index)
        if call is None:
            call = self._calls[e.index] = _CallBlock(e.index)
            self._blocks.append(call)
        call.id = e.id or call.id
        call.name = (call.name + (e.name or ""))[:NAME_LIMIT]
        call.signature = e.signature or call.signature
        if e.arguments:
            call.arguments.append(e.arguments)
            self._is_final = False

    def parts(self) -> tuple[Part, ...]:
        """The parts so far, in the order in which they began. A call without an id gets a unique one."""
        used_ids = {call.id for call in self._calls.values()}
        built = (b if isinstance(b, Raw) else b.build(used_ids) for b in self._blocks)
        return tuple(part for part in built if part is not None)

    def response(self, **more: Any) -> Response:
        """The answer so far; `more` sets the fields that events do not contain (provider, cost, timing,
        request)."""
        more.setdefault("model", self.model)
        parts = self.parts()
        return Response(
            parts=parts,
            finish_reason=self.finished.reason if self.finished else None,
            finish_raw=self.finished.raw if self.finished else None,
            usage=self.usage,
            id=self.id,
            notices=tuple(self.notices),
            results=self._ordered_results(parts),
            turn_usage=self._turn_usage(),
            **{"before": tuple(self.steps), **more},
        )


_HANDLERS: dict[type, Callable[[Fold, Any], Any]] = {
    str: Fold._append_text,
    ReasoningText: lambda fold, text: fold._append_text(str(text), Reasoning),
    TextDelta: Fold._add_text,
    ReasoningDelta: Fold._add_reasoning,
    ToolCallDelta: Fold._add_call,
    MediaDelta: Fold._add_file,
    UsageReport: Fold._set_usage,
    Started: Fold._set_start,
    Finished: Fold._set_finish,
    Notice: lambda fold, e: fold.notices.append(e),
    Restarted: lambda fold, e: fold._reset(),
    RawBlock: lambda fold, e: fold._blocks.append(e.part),
    ToolEnded: lambda fold, e: fold._results.append(e),
    StepEnded: Fold._end_step,
}


def total_cost(responses: Iterable[Response]) -> float | None:
    """US dollars of all answers with a known cost; None where there is none."""
    known = [r.cost for r in responses if r.cost is not None]
    return sum(known) if known else None


def unique_id(id: str, used: Container[str | None]) -> str:
    """`id`, lengthened until it is not among the `used` ones."""
    while id in used:
        id += "-"
    return id


def fold(events: Iterable[Event]) -> Response:
    """The answer that results from `events`."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.response()
