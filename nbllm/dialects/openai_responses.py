"""OpenAI's Responses API, streamed: items that start, grow and end, in typed events.

Every text comes up to four times: in deltas, in the done event of its part, in that of its item, and in the
final response. Servers leave out any of them, so a text that is longer than what came before adds the
difference, and a shorter one adds nothing. An item is identified by its output_index; without that by its id;
and because ids may change from event to event, else as the last item of its kind.

The answer is complete when a final event (or [DONE]) has come, or all of it in one JSON object.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ..core.calls import Dialect, Endpoint, Frame, HttpCall, Quirks, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    Finished,
    FinishReason,
    Item,
    Notice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from ..core.messages import (
    Document,
    Image,
    Message,
    Raw,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from ..core.strict import OPENAI, strict_parameters
from ._caching import openai_cache_fields
from ._decoder import BaseDecoder, citation, find_error
from ._errors import http_error
from ._fast_path import FastReader, define_struct
from ._json import items, label, obj, string
from ._media import check_image_type, is_media, media, move_media_to_user
from ._openai import REASONS, build_post, check_supported, file_name, schema_format, usage
from ._request import data_url, describe_tool, raw_arguments, reasoning_effort, result_text, with_short_ids

# --- request ------------------------------------------------------------------------------------------------


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The streaming call for `request`: POST /responses, with the complete conversation each time.

    Thinking is sent back as a reasoning item with its id and encrypted content. That content is requested
    (`include`) only if thinking is requested or sent back, because other models refuse the field. Whether the
    provider stores the answer is left to its default: `extra={"store": False}` forbids it, and encrypted
    content works either way. A picture that a model made moves to the next user message. Summaries of
    thinking require a verified organisation at OpenAI, so they are sent only on request: `extra={"reasoning":
    {"effort": "high", "summary": "auto"}}`.
    """
    check_supported(request, provider)
    for option, value in (("stop", request.stop), ("seed", request.seed)):
        if value not in (None, ()):
            raise ConfigError(
                f"The Responses API has no {option}.",
                hint=f"Leave {option} out, or use dialect='openai_chat'.",
            )
    word, form = reasoning_effort(request.reasoning), schema_format(request)
    messages = with_short_ids(move_media_to_user(request.messages), longest=64)
    turns = [item for m in messages if m.role != "system" for item in _turn(m, provider.quirks)]
    thinks = word not in (None, "none") or any("encrypted_content" in item for item in turns)
    body = {
        "model": request.model,
        "instructions": request.system or None,
        "input": turns or "",
        "stream": True,
        "tools": [_tool(t) for t in request.tools],
        "tool_choice": _choice(request.tool_choice),
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning": {"effort": word} if word else None,
        "text": form and {"format": {"type": "json_schema", **form}},
        "include": ["reasoning.encrypted_content"] if thinks else None,
        **openai_cache_fields(request, provider),
    }
    return build_post(provider, "/responses", key, body, request.extra)


def _choice(choice: str | None) -> str | dict[str, Any] | None:
    return choice if choice in (None, "auto", "none", "required") else {"type": "function", "name": choice}


def _tool(tool: Tool) -> dict[str, Any]:
    # `strict` is true by default here, unlike in Chat Completions: a schema that is not closed would be
    # refused.
    about = describe_tool(tool, parameters=strict_parameters(tool, OPENAI), strict=bool(tool.strict))
    return {"type": "function", **about}


def _turn(message: Message, quirks: Quirks) -> Iterator[dict[str, Any]]:
    """The items of one message: neighbouring parts of content are one item, every other part is an item of
    its own."""
    role = "assistant" if message.role == "assistant" else "user"
    content: list[Any] = []
    for part in message.parts:
        if isinstance(part, (Text, Image, Document)):
            content.append(part)
            continue
        if content:
            yield _message(role, content)
            content = []
        if not isinstance(part, Raw):  # move_media_to_user has removed those of other dialects
            yield from _input_item(part, quirks)
    if content:
        yield _message(role, content)


def _message(role: str, content: list[Any]) -> dict[str, Any]:
    # OpenAI infers a missing type; llama.cpp refuses an assistant message without one.
    if all(isinstance(p, Text) for p in content):
        return {"type": "message", "role": role, "content": "".join(p.text for p in content)}
    if role == "assistant":
        raise ConfigError(
            "The Responses API takes no pictures or documents in an assistant message.",
            hint="Put them into a user message.",
        )
    return {"type": "message", "role": role, "content": [_part(p) for p in content]}


def _part(part: Text | Image | Document) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "input_text", "text": text}
        case Image(url=url):
            check_image_type(part, "The Responses API")
            return {"type": "input_image", "image_url": url or data_url(part)}
        case Document(url=str(url)):
            return {"type": "input_file", "file_url": url}
    return {"type": "input_file", "filename": file_name(part), "file_data": data_url(part)}


def _input_item(part: Reasoning | ToolCall | ToolResult, quirks: Quirks) -> Iterator[dict[str, Any]]:
    match part:
        case ToolCall():
            yield {
                "type": "function_call",
                "call_id": part.id,
                "name": part.name,
                "arguments": raw_arguments(part),
            }
        case ToolResult():
            yield {"type": "function_call_output", "call_id": part.id, "output": _output(part)}
        case Reasoning(id=str(id), signature=str(signature)):
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            yield {"type": "reasoning", "id": id, "summary": summary, "encrypted_content": signature}
        case Reasoning(text=text) if text and quirks.reasoning_field:
            thought = {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": text}],
            }
            yield {**thought, "id": part.id} if part.id else thought


def _output(result: ToolResult) -> str | list[dict[str, Any]]:
    text = result_text(result)
    if isinstance(result.content, str) or all(isinstance(p, Text) for p in result.content):
        return text
    if result.is_error:
        return [_part(Text(text)), *(_part(p) for p in result.content if not isinstance(p, Text))]
    return [_part(p) for p in result.content]


# --- answer -------------------------------------------------------------------------------------------------

# Texts, by the stem of their events: the channel, the field of the done event, the kind of their item.
_TEXT_EVENTS = {
    "response.output_text": ("text", "text", "message"),
    "response.refusal": ("refusal", "refusal", "message"),
    "response.reasoning_summary_text": ("summary", "text", "reasoning"),
    "response.reasoning_summary": ("summary", "text", "reasoning"),
    "response.reasoning_text": ("thought", "text", "reasoning"),
    "response.reasoning": ("thought", "text", "reasoning"),
    "response.function_call_arguments": ("arguments", "arguments", "function_call"),
    "response.custom_tool_call_input": ("arguments", "input", "custom_tool_call"),
}
_DELTA_EVENTS = {f"{stem}.delta": row for stem, row in _TEXT_EVENTS.items()}
_DONE_EVENTS = {f"{stem}.done": row for stem, row in _TEXT_EVENTS.items()}
_PART_DONES = frozenset(
    {"response.content_part.done", "response.reasoning_summary_part.done", "response.reasoning_part.done"}
)
_PARTS = {
    "reasoning_text": ("thought", "text"),
    "reasoning": ("thought", "text"),
    "thinking": ("thought", "thinking"),
    "summary_text": ("summary", "text"),
    "output_text": ("text", "text"),
    "text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
}
_CALLS = frozenset({"function_call", "custom_tool_call"})
_FINAL_EVENTS = frozenset(
    {"response.completed", "response.done", "response.incomplete", "response.failed", "response.cancelled"}
)
_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "length": "length",
    "content_filter": "content_filter",
}
_SEPARATORS: dict[str, Event] = {"text": TextDelta("\n\n"), "summary": ReasoningDelta("\n\n")}


class _Item:
    """One item of the output so far; `number` is its position. `sent`: the emitted pieces, by channel and
    part; `sizes`: their characters, by channel and by both, so that pieces are joined only if a text may be
    longer."""

    __slots__ = ("call", "closed", "has_signature", "id", "kind", "number", "opened", "sent", "sizes")

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.number, self.closed, self.has_signature = kind, number, False, False
        self.id: str | None = None
        self.call: int | None = None
        self.opened: dict[str, Any] = {}
        self.sent: dict[tuple[str, Any], list[str]] = {}
        self.sizes: Counter[Any] = Counter()

    def text_of(self, channel: str) -> str:
        return "".join(piece for (c, _), pieces in self.sent.items() if c == channel for piece in pieces)

    def append(self, channel: str, part: Any, text: str) -> None:
        self.sent.setdefault((channel, part), []).append(text)
        self.sizes[channel] += len(text)
        self.sizes[channel, part] += len(text)

    def unsent_part(self, full: str, channel: str, *part: Any) -> str:
        """The end of `full` that was not emitted yet in a channel, or in one part of it."""
        size = self.sizes[(channel, *part) if part else channel]
        if len(full) <= size:
            return ""
        sent = "".join(self.sent.get((channel, part[0]), ())) if part else self.text_of(channel)
        return full[size:] if full.startswith(sent) else ""


_DeltaEvent = define_struct(
    "Growth",
    ("id", "call_id", "summary_index"),
    type=Literal["response.output_text.delta"],
    item_id=str,
    output_index=int,
    content_index=int,
    delta=str,
)


class ResponsesDecoder(BaseDecoder):
    """Reads the events of one answer."""

    format = "openai_responses"
    reasons = REASONS
    has_done_mark = True

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._items: list[_Item] = []
        self._by_index: dict[str, _Item] = {}
        self._by_id: dict[str, _Item] = {}
        self._latest: dict[str, _Item] = {}  # by kind
        self._named_calls: set[int] = set()
        self._last_item: dict[str, _Item] = {}  # by channel, the item of the last text
        self._finished: Finished | None = None
        self._fast_key: tuple[Any, ...] = ()  # ids of the item and part with the text of the last event
        self._fast_target: _Item | None = None
        self._fast_reader = FastReader(_DeltaEvent, self._fast_item, "response.output_text.delta", "message")

    def read_fast(self, frames: list[Frame], start: int) -> list[Item]:
        """See core.calls.FastRead."""
        if self._fast_target is None:
            return []
        found = super().read_fast(frames, start)
        for text in found:
            self._fast_target.append("text", label(self._fast_key[2]), str(text))
        return found

    def _fast_item(self, event: Any) -> Item | None:
        """The text of an event that continues the item and part of the last one, else None."""
        continues = (event.item_id, event.output_index, event.content_index) == self._fast_key
        return event.delta if event.type and continues and event.delta else None

    def _read(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._fast_target = None
        self._check_format(value)
        yield from self._object(value, name)

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        kind = string(value.get("type")) or name
        row = _DELTA_EVENTS.get(kind)
        yield from self._delta(value, row) if row is not None else self._other_event(kind, value)

    def _final_events(self) -> Iterator[Event]:
        for item in self._items:
            if not item.closed:
                yield from self._close(item, item.opened)

    def _emit_joined(self, channel: Any, text: str) -> Iterator[Event]:
        kind, item = channel
        yield from self._emit_piece(
            item, kind, next((p for k, p in reversed(item.sent) if k == kind), None), text
        )

    def _finished_event(self) -> Finished:
        return self._finished or super()._finished_event()

    # events that are no deltas

    def _other_event(self, kind: str, value: dict[str, Any]) -> Iterator[Event]:
        response = value.get("response")
        if kind in _FINAL_EVENTS or (response is None and value.get("object") == "response"):
            yield from self._final(response if isinstance(response, dict) else value)
        elif (error := find_error(value, kind)) is not None:
            self._raise_error(error)
        elif kind in _DONE_EVENTS:
            yield from self._done_text(value, value, *_DONE_EVENTS[kind])
        elif kind == "response.output_item.added":
            yield from self._open(value)
        elif kind == "response.output_item.done":
            full = obj(value.get("item"))
            yield from self._close(self._find({**full, **value}, string(full.get("type"))), full)
        elif kind in _PART_DONES and obj(value.get("part")).get("type") in tuple(_PARTS):
            channel, field = _PARTS[value["part"]["type"]]
            owner = "message" if channel in ("text", "refusal") else "reasoning"
            yield from self._done_text(value, value["part"], channel, field, owner)
        elif kind.endswith(".partial_image"):
            yield from self._emit_image(self._find(value, "image_generation_call"), value)
        elif kind == "response.output_text.annotation.added":
            yield from self._emit_citations([value.get("annotation")])
        elif isinstance(response, dict):
            yield from self._start(response)

    def _start(self, response: dict[str, Any]) -> Iterator[Event]:
        self._recognized = True
        yield from self._emit_started(self._started.id or response.get("id"), response.get("model"))

    def _final(self, response: dict[str, Any]) -> Iterator[Event]:
        yield from self._start(response)
        yield from self._final_items(list(items(response.get("output"))))
        counted = usage(obj(response.get("usage")))
        if counted is not None:
            yield UsageReport(counted)
        status = string(response.get("status"))
        if response.get("error") or status == "failed":
            self._raise_error({"error": response.get("error") or "The response failed, without a reason."})
        self.done = True
        why = string(obj(response.get("incomplete_details")).get("reason"))
        if status == "incomplete":
            self._finished = Finished(_INCOMPLETE.get(why, "other"), f"incomplete:{why}" if why else status)
        else:
            self._reason = status or None

    # items

    def _find(self, value: dict[str, Any], kind: str) -> _Item:
        """The item that an event is about; a new one if it was not announced."""
        index = label(value.get("output_index"))
        item = self._by_index.get(index) if index is not None else None
        item = item or self._find_by_id(_ids(value))
        if item is None and index is None:
            item = self._latest.get(kind)
        return item or self._new(kind, index, _ids(value))

    def _find_by_id(self, ids: set[str]) -> _Item | None:
        return max(
            (self._by_id[i] for i in ids if i in self._by_id), key=lambda item: item.number, default=None
        )

    def _new(self, kind: str, index: str | None, ids: set[str]) -> _Item:
        self._recognized = True
        item = _Item(kind, len(self._items))
        self._items.append(item)
        self._register(item, ids)
        if index is not None:
            self._by_index[index] = item
        return item

    def _register(self, item: _Item, ids: set[str]) -> None:
        """Registers an item under its ids and as the latest of its kind; of two, the later one counts."""
        for names, name in (*((self._by_id, i) for i in ids), (self._latest, item.kind)):
            if name not in names or names[name].number < item.number:
                names[name] = item

    def _open(self, value: dict[str, Any]) -> Iterator[Event]:
        opened, index = obj(value.get("item")), label(value.get("output_index"))
        item = self._by_index.get(index) if index is not None else None
        kind, call_id = string(opened.get("type")), opened.get("call_id")
        if item is None or item.closed or item.kind != kind or item.opened.get("call_id") != call_id:
            item = self._new(kind, index, _ids(value))
        item.opened = opened
        yield from self._emit_call_start(item, opened)

    def _emit_call_start(self, item: _Item, full: dict[str, Any]) -> Iterator[Event]:
        """Updates the ids of an item; emits the id and name of a call as soon as they are known."""
        item.kind = string(full.get("type")) or item.kind
        item.id = item.id or label(full.get("id"))
        self._register(item, _ids(full))
        if item.kind in _CALLS:
            index = self._call(item)
            id, name = label(full.get("call_id")) or label(full.get("id")), label(full.get("name"))
            if name and index not in self._named_calls:
                self._named_calls.add(index)
                yield ToolCallDelta(index, id, name)

    def _call(self, item: _Item) -> int:
        if item.call is None:
            item.call = self._call_count
            self._call_count += 1
        return item.call

    def _close(self, item: _Item, full: dict[str, Any]) -> Iterator[Event]:
        """The events for what a complete item adds to its deltas."""
        first, item.closed = not item.closed, True
        signature = string(full.get("encrypted_content"))
        yield from self._emit_call_start(item, full)
        if item.kind == "message":
            yield from self._parts(item, full.get("content"))
        elif item.kind == "reasoning":
            yield from self._parts(item, full.get("content"))
            yield from self._parts(item, full.get("summary"))
            if signature and not item.has_signature:
                item.has_signature = True
                yield ReasoningDelta(signature=signature, id=item.id)
        elif item.kind in _CALLS:
            value = full.get("arguments", full.get("input"))
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else ""
            yield from self._emit_missing(item, "arguments", 0, item.unsent_part(text, "arguments"))
        elif item.kind == "image_generation_call" and full.get("result"):
            yield from self._emit_image(item, full)
        elif item.kind and first:
            yield Notice("server_tool", item.kind, full)

    def _emit_image(self, item: _Item, holder: dict[str, Any]) -> Iterator[Event]:
        """The event for a picture, or for a preview, which the next one replaces."""
        yield from self._media.emit(media({"type": "image", **holder}), f"picture {item.number}")

    def _parts(self, item: _Item, content: Any) -> Iterator[Event]:
        parts = (
            [{"type": "output_text", "text": content}] if isinstance(content, str) else list(items(content))
        )
        for part in parts:
            yield from self._emit_citations(part.get("annotations"))
            if is_media(part):
                yield from self._media.emit(media(part))
        for channel, field in dict.fromkeys(_PARTS.values()):
            texts = [
                string(p.get(field)) for p in parts if _PARTS.get(string(p.get("type"))) == (channel, field)
            ]
            full = "".join(texts)
            if (
                channel == "summary"
                and len(full) == item.sizes["thought"]
                and full == item.text_of("thought")
            ):
                continue  # the same thinking under both names
            missing = [(0, item.unsent_part(full, channel))] if item.sizes[channel] else enumerate(texts)
            for part_index, text in missing:
                yield from self._emit_missing(item, channel, part_index, text)

    def _final_items(self, output: list[dict[str, Any]]) -> Iterator[Event]:
        """The events for the final list of items, which completes the streamed ones, or is the answer if
        nothing was streamed."""
        unmatched = set(self._items)  # streamed items without a final one
        kinds: defaultdict[str, deque[_Item]] = defaultdict(deque)
        for item in self._items:
            kinds[item.kind].append(item)
        for index, full in enumerate(output):
            kind = string(full.get("type"))
            while kinds[kind] and kinds[kind][0] not in unmatched:
                kinds[kind].popleft()
            found = (
                self._find_by_id(_ids(full)),
                self._by_index.get(str(index)),
                next(iter(kinds[kind]), None),
            )
            matched = next((i for i in found if i is not None and i in unmatched and i.kind == kind), None)
            matched = matched or self._new(kind, None, set())
            unmatched.discard(matched)
            yield from self._close(matched, full)

    # text

    def _delta(self, value: dict[str, Any], row: tuple[str, str, str]) -> Iterator[Event]:
        text = value.get("delta")
        if text and isinstance(text, str):
            channel, _, kind = row
            item = self._find(value, kind)
            yield from self._emit_piece(item, channel, _part_index(value), text)
            key = tuple(map(value.get, ("item_id", "output_index", "content_index")))
            if (
                channel == "text"
                and tuple(map(type, key)) == (str, int, int)
                and "summary_index" not in value
            ):
                self._fast_key, self._fast_target = key, item

    def _done_text(
        self, value: dict[str, Any], holder: dict[str, Any], channel: str, field: str, kind: str
    ) -> Iterator[Event]:
        item, part = self._find(value, kind), _part_index(value)
        if channel == "arguments":
            yield from self._emit_call_start(
                item, {"call_id": value.get("call_id"), "name": value.get("name")}
            )
        yield from self._emit_missing(
            item, channel, part, item.unsent_part(string(holder.get(field)), channel, part)
        )

    def _emit_missing(self, item: _Item, channel: str, part: Any, text: str) -> Iterator[Event]:
        if text:
            self._joiner.pending.pop((channel, item), None)
            yield from self._emit_piece(item, channel, part, text)

    def _emit_piece(self, item: _Item, channel: str, part: Any, text: str) -> Iterator[Event]:
        text = self._joiner.join((channel, item), text)
        if not text:
            return
        if (channel, part) not in item.sent:
            if (
                channel in _SEPARATORS
                and channel in self._last_item
                and (channel == "summary" or self._last_item[channel] is not item)
            ):
                yield _SEPARATORS[channel]  # two summaries, or two messages, are two paragraphs
            self._last_item[channel] = item
        item.append(channel, part, text)
        if channel == "text":
            yield TextDelta(text)
        elif channel == "arguments":
            yield ToolCallDelta(self._call(item), arguments=text)
        elif channel == "refusal":
            yield Notice("refusal", text)
        else:
            yield ReasoningDelta(text, id=item.id)

    def _emit_citations(self, annotations: Any) -> Iterator[Event]:
        for annotation in items(annotations):
            if self._is_new_source(annotation):
                yield citation(annotation)


def _ids(value: Mapping[str, Any]) -> set[str]:
    """All ids in an event or an item by which it may be found."""
    return {i for i in map(label, map(value.get, ("item_id", "id", "call_id"))) if i is not None}


def _part_index(value: Mapping[str, Any]) -> str | None:
    return label(value.get("content_index", value.get("summary_index")))


DIALECT = Dialect("openai_responses", encode, ResponsesDecoder, http_error)
