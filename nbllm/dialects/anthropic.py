"""Anthropic's Messages API, also implemented by llama.cpp, vLLM, LiteLLM and others.

A stream consists of events about one message: message_start, blocks, message_delta (finish reason and usage),
message_stop. A block starts, grows by deltas and stops. Blocks are distinguished by `index`, because they may
overlap: some servers start one before they stop another. The input in the start of a tool_use block counts
only if no fragments follow it, so it is emitted when the block stops. Blocks of tools that the provider runs
itself become notices.

The answer is complete when a stop reason or message_stop has come, or all of it in one object. Otherwise it
was cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from typing import Any, Literal

from ..core.calls import Dialect, Endpoint, HttpCall, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    FinishReason,
    Item,
    MediaDelta,
    Notice,
    RawBlock,
    ReasoningDelta,
    ReasoningText,
    Restarted,
    ToolCallDelta,
    Usage,
    UsageReport,
    parse_arguments,
)
from ..core.messages import Document, Image, Part, Raw, Reasoning, Request, Text, ToolCall, ToolResult
from ..core.strict import ANTHROPIC, strict_answer_schema, strict_parameters
from ._caching import with_breakpoints
from ._decoder import BaseDecoder, citation, is_thought, thought_signature, thought_text
from ._errors import http_error
from ._fast_path import ERROR_FIELDS, FastReader, define_struct
from ._json import count, items, label, obj, string
from ._media import check_image_type, is_media, media, move_media_to_user
from ._request import (
    argument_object,
    arguments_json,
    base64_data,
    bearer_header,
    build_post,
    checked_system_text,
    describe_tool,
    document_text,
    dumps,
    merge_turns,
    misplaced_part,
    reasoning_budget,
    reasoning_effort,
    result_parts,
    url_under,
    without_none,
)

# The limits that are sent if the caller names none, because the protocol requires one: the first is what
# every model may write. Later Claude models think by default, and thinking counts, so they get more (they may
# write at least 64,000).
MAX_TOKENS = 8192
MAX_TOKENS_LATER = 32_000
_MAX_WORD_BUDGET = 16_384  # largest budget for an effort word: these models write at most 32,000 tokens
_MIN_BUDGET = 1024  # the smallest budget that Anthropic accepts
_VERSION = "2023-06-01"
_ROLES = {"user": "user", "tool": "user", "assistant": "assistant"}

# Claude models that take a budget of thinking. All later ones take only an effort.
_BUDGET_MODELS = re.compile(
    r"claude-(?:v?[123]\b|instant|(?:opus|sonnet|haiku)-4(?:[-.][0-5])?(?:[-@]\d{8}|(?![-.]?\d)))"
)


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The streaming call for `request`: POST /v1/messages.

    max_tokens defaults to MAX_TOKENS, or MAX_TOKENS_LATER for Claude 4.6 and later, plus the thinking budget.
    `reasoning` becomes adaptive thinking with an effort on Claude 4.6 and later, where a budget in tokens
    becomes the nearest word; on older models, and on those of other makers, it becomes a budget, and
    max_tokens must exceed it. A schema becomes output_config.format, with additionalProperties false in
    objects that do not set it, because Anthropic requires that; output_config in `extra` is merged with ours.
    `cache` sets breakpoints, see _caching. Unsigned thinking and empty texts are left out, because Anthropic
    refuses both. A picture that a model made moves to the next user message.
    Raises ConfigError for a seed, which the protocol does not have.
    """
    if request.seed is not None:
        raise ConfigError("Anthropic has no seed.", hint="Leave seed out, or ask another provider.")
    thinking, thinking_tokens, word = _thinking(request)
    limit = thinking_tokens + (MAX_TOKENS_LATER if _is_later_model(request.model) else MAX_TOKENS)
    body = {
        "model": request.model,
        "max_tokens": limit if request.max_tokens is None else request.max_tokens,
        "system": checked_system_text(request) or None,
        "messages": _messages(request),
        "stream": True,
        "tools": [
            describe_tool(t, strict=t.strict, input_schema=strict_parameters(t, ANTHROPIC))
            for t in request.tools
        ],
        "tool_choice": _choice(request.tool_choice),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop),
        "thinking": thinking,
        "output_config": without_none({"effort": word, "format": _format(request)}),
    }
    headers = {"anthropic-version": _VERSION, **_auth_header(key)}
    body = with_breakpoints(without_none(body), request)
    return build_post(
        provider, url_under(provider, "/v1", "/messages"), headers, body, request.extra, "output_config"
    )


def _auth_header(key: Secret | None) -> dict[str, str]:
    """Anthropic's header with the key, or a bearer token if the key comes from ANTHROPIC_AUTH_TOKEN, as
    gateways require."""
    if key is None or key.source.startswith("ANTHROPIC_AUTH_TOKEN"):
        return bearer_header(key)
    return {"x-api-key": key.reveal()}


# --- request ------------------------------------------------------------------------------------------------


def _is_later_model(model: str) -> bool:
    return "claude" in model and not _BUDGET_MODELS.search(model)


def _thinking(request: Request) -> tuple[dict[str, Any] | None, int, str | None]:
    """(the thinking field, its budget in tokens, the effort word)."""
    reasoning = request.reasoning
    if reasoning is None:
        return None, 0, None
    tokens = reasoning_budget(reasoning)
    if not tokens:
        return {"type": "disabled"}, 0, None
    if _is_later_model(request.model):
        word = reasoning_effort(reasoning)
        return {"type": "adaptive", "display": "summarized"}, 0, "low" if word == "minimal" else word
    limit = request.max_tokens
    if isinstance(reasoning, str):
        tokens = min(tokens, _MAX_WORD_BUDGET, (limit or 2 * _MAX_WORD_BUDGET) // 2)
    tokens = max(tokens, _MIN_BUDGET)
    if limit is not None and limit <= tokens:
        raise ConfigError(
            f"max_tokens={limit} leaves no tokens for the answer after {tokens} tokens of thinking.",
            hint=f"Use max_tokens above {tokens}, or less reasoning (at least {_MIN_BUDGET}).",
        )
    return {"type": "enabled", "budget_tokens": tokens}, tokens, None


def _format(request: Request) -> dict[str, Any] | None:
    if (schema := request.schema) is None:
        return None
    return {
        "type": "json_schema",
        "schema": strict_answer_schema(schema, ANTHROPIC) if request.strict else _close_objects(schema),
    }


def _close_objects(schema: Any) -> Any:
    """`schema` with additionalProperties false in each object that does not set it. Values that are data are
    not changed."""
    if isinstance(schema, (list, tuple)):
        return [_close_objects(s) for s in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {
        k: v if k in ("enum", "const", "default", "examples") else _close_objects(v)
        for k, v in schema.items()
    }
    if out.get("type") == "object":
        out.setdefault("additionalProperties", False)
    return out


def _choice(choice: str | None) -> dict[str, Any] | None:
    plain = {"auto": "auto", "none": "none", "required": "any"}
    return (
        None
        if choice is None
        else {"type": plain[choice]}
        if choice in plain
        else {"type": "tool", "name": choice}
    )


def _messages(request: Request) -> list[dict[str, Any]]:
    """The turns, without those that would be empty (unsigned thinking, empty texts): Anthropic refuses
    them."""
    out: list[dict[str, Any]] = []
    for role, parts in merge_turns(move_media_to_user(request.messages, "anthropic"), _ROLES):
        blocks = _blocks(role, parts)
        if out and out[-1]["role"] == role:
            out[-1]["content"] += blocks
        elif blocks:
            out.append({"role": role, "content": blocks})
    _set_valid_ids(block for turn in out for block in turn["content"])
    return out


def _set_valid_ids(blocks: Iterable[dict[str, Any]]) -> None:
    """Replaces characters in the ids of calls and results that Anthropic does not accept; different ids stay
    different."""
    new_ids: dict[str, str] = {}
    taken: set[str] = set()
    for block in blocks:
        field = {"tool_use": "id", "tool_result": "tool_use_id"}.get(str(block.get("type")))
        if field is None:
            continue
        if (id := block[field]) not in new_ids:
            new_ids[id] = re.sub(r"[^a-zA-Z0-9_-]", "_", id)
            if new_ids[id] in taken:
                new_ids[id] += f"_{sha256(id.encode('utf-8', 'replace')).hexdigest()[:8]}"
            taken.add(new_ids[id])
        block[field] = new_ids[id]


def _blocks(role: str, parts: list[Part]) -> list[dict[str, Any]]:
    """The blocks of a turn; results of tools come first, as Anthropic requires."""
    parts = sorted(parts, key=lambda p: not isinstance(p, ToolResult))
    return [block for part in parts if (block := _block(role, part)) is not None]


def _block(role: str, part: Part) -> dict[str, Any] | None:
    match part:
        case Text(text):
            return {"type": "text", "text": text} if text.strip() else None
        case Image() if role == "user":
            check_image_type(part, "Anthropic")
            return {"type": "image", "source": _source(part)}
        case Document() if role == "user":
            return without_none({"type": "document", "source": _document(part), "title": part.name})
        case ToolResult() if role == "user":
            return _result(part)
        case ToolCall(id, name) if role == "assistant":
            return {"type": "tool_use", "id": id, "name": name, "input": argument_object(part)}
        case Reasoning() if role == "assistant":
            return _thought(part)
        case Raw(_, block) if role == "assistant":
            return dict(block)
    raise misplaced_part(part, role, "Anthropic")


def _thought(part: Reasoning) -> dict[str, Any] | None:
    """A block of thinking; None for thinking that cannot be sent back: unsigned, or of another provider,
    whose thoughts have an id."""
    if part.id is not None:
        return None
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": part.redacted}
    return (
        {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None
    )


def _source(part: Image | Document) -> dict[str, Any]:
    if part.url is not None:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type, "data": base64_data(part)}


def _document(part: Document) -> dict[str, Any]:
    text = document_text(part)
    if text is not None:
        return {"type": "text", "media_type": "text/plain", "data": text}
    if part.media_type != "application/pdf":
        raise ConfigError(
            f"Anthropic reads PDF and text documents, not {part.media_type}.",
            hint="Convert it, or paste its text.",
        )
    return _source(part)


def _result(result: ToolResult) -> dict[str, Any]:
    blocks = [block for part in result_parts(result) if (block := _block("user", part)) is not None]
    return without_none(
        {
            "type": "tool_result",
            "tool_use_id": result.id,
            "is_error": True if result.is_error else None,
            "content": result.content if isinstance(result.content, str) else blocks,
        }
    )


# --- answer -------------------------------------------------------------------------------------------------

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "stop": "stop",
    "max_tokens": "length",
    "length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "tool_calls": "tool_calls",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "error": "error",
}


_MAX_COUNTS = 100  # fields of usage that are stored


class _Block:
    """A block that has started: its kind, its content at the start, the index of its call, the fragments
    since."""

    __slots__ = ("call", "kind", "pieces", "start")

    def __init__(self, kind: str, start: dict[str, Any], call: int) -> None:
        self.kind, self.start, self.call = kind, start, call
        self.pieces: list[str] = []


_Delta = define_struct(
    "Delta",
    ("signature", "citations", "citation"),
    type=Literal["text_delta", "thinking_delta"],
    text=str,
    thinking=str,
)
_DeltaEvent = define_struct(
    "Growth", (*ERROR_FIELDS, "object"), type=Literal["content_block_delta"], delta=_Delta
)


def _fast_item(event: Any) -> Item | None:
    delta = event.delta if event.type else None
    if delta is None or (delta.type == "thinking_delta" and delta.text):
        return None
    if delta.type == "text_delta":
        return delta.text or None
    return ReasoningText(delta.thinking) if delta.type and delta.thinking else None


class MessageDecoder(BaseDecoder):
    """Reads the events of one message."""

    format = "anthropic"
    reasons = _REASONS

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._has_started = False
        self._usage: dict[str, Any] = {}
        self._blocks: dict[str | None, _Block] = {}
        self._fast_reader = FastReader(_DeltaEvent, _fast_item, "content_block_delta", "message")

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        kind = string(value.get("type"))
        read = _EVENTS.get(kind or ("" if name == "message" else name))  # "message" means an unnamed event
        if read is None and "content" in value:
            read = MessageDecoder._full_message
        if read is not None:
            self._recognized = True
            yield from read(self, value)

    @property
    def _is_complete(self) -> bool:
        return self._reason is not None or self.done

    def _final_events(self) -> Iterator[Event]:
        for index in list(self._blocks):
            yield from self._close_block(index)

    def _message_start(self, value: dict[str, Any]) -> Iterator[Event]:
        message = obj(value.get("message"))
        if self._has_started:  # a relay switched to another server when the first one failed in mid-answer
            self._usage, self._reason, self._blocks, self._call_count = {}, None, {}, 0
            self._joiner.pending.clear()
            yield Restarted("The provider restarted its answer.")
        self._has_started = True
        yield from self._emit_started(message.get("id"), message.get("model"))
        yield from self._emit_usage(message.get("usage"))

    def _full_message(self, value: dict[str, Any]) -> Iterator[Event]:
        yield from self._emit_started(value.get("id"), value.get("model"))
        content = value.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for n, block in enumerate(items(blocks)):
            yield from self._block_start({"index": n, "content_block": block})
            yield from self._close_block(str(n))
        yield from self._message_delta({"delta": value, "usage": value.get("usage")})
        self.done = True

    def _block_start(self, value: dict[str, Any]) -> Iterator[Event]:
        start = obj(value.get("content_block"))
        kind, index = string(start.get("type")), label(value.get("index"))
        yield from self._close_block(
            self._index(value)
        )  # some servers send no index, or no stop of the block before
        block = self._blocks[index] = _Block(kind, start, self._call_count)
        if kind == "tool_use":
            self._call_count += 1
            yield ToolCallDelta(block.call, label(start.get("id")), label(start.get("name")))
        elif kind == "redacted_thinking":
            yield ReasoningDelta(redacted=string(start.get("data")))
        elif kind == "fallback":
            model = label(obj(start.get("to")).get("model"))
            yield from self._emit_started(None, model)
            yield Notice("warning", f"The provider answered with {model} instead.", start)
        elif kind.endswith("_tool_result"):
            yield Notice("server_tool", kind, start)
            yield RawBlock(Raw(self.format, start))
        elif kind in ("text", "thinking"):
            yield from self._emit_piece(index, start)
        elif is_media(start) and (found := media(start)) is not None:
            yield MediaDelta(found)
        elif is_thought(start):
            yield ReasoningDelta(thought_text(start), thought_signature(start))
        elif not kind.endswith("_tool_use"):
            yield Notice("unknown", kind, start)

    def _index(self, value: dict[str, Any]) -> str | None:
        """The index of the block that an event is about: by default, the block that started last."""
        index = label(value.get("index"))
        return index if index is not None else next(reversed(self._blocks), None)

    def _block_delta(self, value: dict[str, Any]) -> Iterator[Event]:
        index, delta = self._index(value), obj(value.get("delta"))
        block = self._blocks.get(index)
        kind = string(delta.get("type"))
        if kind == "text_delta":  # nearly always
            yield from self._emit_text(("text", index), string(delta.get("text")))
        elif kind in ("input_json_delta", "compaction_delta") and block is not None:
            piece = delta.get("partial_json", delta.get("content"))
            yield from self._emit_text(("arguments", index), string(piece) or arguments_json(piece))
        elif kind in _PIECE_KINDS:
            yield from self._emit_piece(index, delta)
        else:
            yield Notice("unknown", kind, delta)

    def _emit_piece(self, index: str | None, piece: dict[str, Any]) -> Iterator[Event]:
        """The events for a piece of text or thinking, at the start of a block or in a delta."""
        yield from self._emit_text(("text", index), string(piece.get("text")))
        yield from self._emit_text(("thinking", index), string(piece.get("thinking")))
        if signature := label(piece.get("signature")):
            yield ReasoningDelta(signature=signature)
        for source in (*items(piece.get("citations")), *items([piece.get("citation")])):
            yield citation(source)

    def _emit_joined(self, channel: Any, text: str) -> Iterator[Event]:
        kind, index = channel
        if kind != "arguments":
            yield from super()._emit_joined(kind, text)
        elif (block := self._blocks.get(index)) is not None:
            block.pieces.append(text)
            if block.kind == "tool_use":
                yield ToolCallDelta(block.call, arguments=text)

    def _close_block(self, index: str | None) -> Iterator[Event]:
        yield from self._flush_halves(*((kind, index) for kind in ("text", "thinking", "arguments")))
        if (block := self._blocks.pop(index, None)) is None:
            return
        initial, pieces = block.start.get("input"), "".join(block.pieces)
        if block.kind == "tool_use" and initial and not pieces:
            yield ToolCallDelta(block.call, arguments=arguments_json(initial))
        elif block.kind == "compaction":  # must be sent back: it replaces a part of the conversation
            yield RawBlock(Raw(self.format, {**block.start, "content": pieces or block.start.get("content")}))
        elif block.kind.endswith("_tool_use"):
            yield Notice(
                "server_tool", string(block.start.get("name")), {**block.start, "input": pieces or initial}
            )
            input = parse_arguments(pieces) if pieces else obj(initial)
            yield RawBlock(Raw(self.format, {**block.start, "input": input or {}}))

    def _message_delta(self, value: dict[str, Any]) -> Iterator[Event]:
        delta = obj(value.get("delta"))
        self._reason = label(delta.get("stop_reason")) or self._reason
        details = obj(delta.get("stop_details"))
        if details.get("explanation"):
            yield Notice("refusal", string(details["explanation"]), details)
        yield from self._emit_usage(value.get("usage"))
        yield from self._emit_timing(value)

    def _message_stop(self, value: dict[str, Any]) -> Iterator[Event]:
        self.done = True
        yield from self._emit_timing(value)

    def _emit_timing(self, value: dict[str, Any]) -> Iterator[Event]:
        """Notices with the timings that Bedrock and llama.cpp measured."""
        for times in filter(
            None, (obj(value.get(name)) for name in ("amazon-bedrock-invocationMetrics", "timings"))
        ):
            yield Notice("timing", dumps(times), times)

    def _emit_usage(self, raw: Any) -> Iterator[Event]:
        """The usage so far. Later counts replace earlier ones, field by field, because the last event may
        have only the output. Input counts come at the start; output counts are cumulative, and final with the
        finish reason."""
        raw = {k: v for k, v in obj(raw).items() if v is not None}
        if raw:
            self._usage = dict(islice({**self._usage, **raw}.items(), _MAX_COUNTS))
            yield UsageReport(_usage(self._usage), self._reason is not None)


_PIECE_KINDS = frozenset({"thinking_delta", "signature_delta", "citations_delta"})
_EVENTS: dict[str, Callable[[MessageDecoder, dict[str, Any]], Iterator[Event]]] = {
    "message_start": MessageDecoder._message_start,
    "content_block_start": MessageDecoder._block_start,
    "content_block_delta": MessageDecoder._block_delta,
    "content_block_stop": lambda decoder, value: decoder._close_block(decoder._index(value)),
    "message_delta": MessageDecoder._message_delta,
    "message_stop": MessageDecoder._message_stop,
    "message": MessageDecoder._full_message,
}


def _usage(raw: dict[str, Any]) -> Usage:
    """Usage from Anthropic's counts, whose input_tokens leave out those read from or written to the cache."""
    uncached, read = count(raw.get("input_tokens")), count(raw.get("cache_read_input_tokens"))
    written = count(raw.get("cache_creation_input_tokens"))
    total = None if uncached is None else uncached + (read or 0) + (written or 0)
    reasoning = count(obj(raw.get("output_tokens_details")).get("thinking_tokens"))
    return Usage(total, count(raw.get("output_tokens")), reasoning, read, written, raw)


def token_count_call(call: HttpCall) -> HttpCall:
    """The call that counts the tokens of another call."""
    body = {k: call.body[k] for k in ("model", "messages")}
    return replace(call, url=f"{call.url}/count_tokens", body=body)


DIALECT = Dialect(
    "anthropic", encode, MessageDecoder, http_error, counting=(token_count_call, "input_tokens")
)
