"""Anthropic's Messages, also spoken by llama.cpp, vLLM, LiteLLM and others.

A stream is a frame of events about one message: message_start, blocks, message_delta (the reason, the
counts), message_stop. A block starts, grows by deltas and stops; blocks are told apart by `index`, because
they may overlap and some servers start one before they stop another. What a tool_use block holds at its start
counts only where no fragments follow it, so its arguments are told when it stops. Blocks of tools that the
provider runs itself are notices.

The answer is whole when a stop reason or message_stop came, or all of it in one object. Anything else was
cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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

# The limit that is sent where the caller names none, because the protocol wants one: what every model may
# write. Later Claude models think unasked, and what they think counts, so they get more (they may write
# 64,000 at least).
MAX_TOKENS = 8192
MAX_TOKENS_LATER = 32_000
_MAX_WORD_BUDGET = (
    16_384  # the most that an effort word means as a budget: the old models write 32,000 tokens in all
)
_MIN_BUDGET = 1024  # the smallest budget that Anthropic takes
_VERSION = "2023-06-01"
_ROLES = {"user": "user", "tool": "user", "assistant": "assistant"}

# Claude models that take a budget of thinking. All later ones take an effort only, and no new model joins the
# old.
_BUDGET_MODELS = re.compile(
    r"claude-(?:v?[123]\b|instant|(?:opus|sonnet|haiku)-4(?:[-.][0-5])?(?:[-@]\d{8}|(?![-.]?\d)))"
)


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The call that asks for `request` as a stream: POST /v1/messages.

    max_tokens is MAX_TOKENS where none is asked for, MAX_TOKENS_LATER for Claude 4.6 and later, a budget of
    thinking on top. `reasoning` becomes adaptive thinking with an effort on Claude 4.6 and later, where a
    budget in tokens becomes the nearest word; on older ones, and on other makers' models, it becomes a
    budget, and max_tokens must exceed it. A schema goes to output_config.format, with objects closed unless
    they say otherwise, because Anthropic refuses open ones; output_config in `extra` is merged with ours.
    `cache` marks what is to be kept, see _caching.
    Thinking goes back only if it is signed, and empty texts are left out: Anthropic accepts neither. A
    picture that a model made stands in the next message of the user.
    Raises ConfigError for a seed, which the protocol has not.
    """
    if request.seed is not None:
        raise ConfigError("Anthropic has no seed.", hint="Leave seed out, or ask another provider.")
    thinking, spent, word = _thinking(request)
    limit = spent + (MAX_TOKENS_LATER if _is_later_model(request.model) else MAX_TOKENS)
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
    said = with_breakpoints(without_none(body), request)
    return build_post(
        provider, url_under(provider, "/v1", "/messages"), headers, said, request.extra, "output_config"
    )


def _auth_header(key: Secret | None) -> dict[str, str]:
    """The key as Anthropic takes it, or as a token where its variable says so: gateways want that."""
    if key is None or key.source.startswith("ANTHROPIC_AUTH_TOKEN"):
        return bearer_header(key)
    return {"x-api-key": key.reveal()}


# --- request ------------------------------------------------------------------------------------------------


def _is_later_model(model: str) -> bool:
    return "claude" in model and not _BUDGET_MODELS.search(model)


def _thinking(request: Request) -> tuple[dict[str, Any] | None, int, str | None]:
    """(thinking, the tokens of it, effort)."""
    asked = request.reasoning
    if asked is None:
        return None, 0, None
    tokens = reasoning_budget(asked)
    if not tokens:
        return {"type": "disabled"}, 0, None
    if _is_later_model(request.model):
        word = reasoning_effort(asked)
        return {"type": "adaptive", "display": "summarized"}, 0, "low" if word == "minimal" else word
    most = request.max_tokens
    if isinstance(asked, str):  # the word leaves the number to us
        tokens = min(tokens, _MAX_WORD_BUDGET, (most or 2 * _MAX_WORD_BUDGET) // 2)
    tokens = max(tokens, _MIN_BUDGET)
    if most is not None and most <= tokens:
        raise ConfigError(
            f"max_tokens={most} leaves nothing to say after {tokens} tokens of thinking.",
            hint=f"Ask for more than {tokens} tokens, or for less reasoning (at least {_MIN_BUDGET}).",
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
    """`schema` with additionalProperties false in each object that does not say. Values that are data stay as
    they are."""
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
    """The turns. One of which nothing is left (unsigned thinking, empty texts) is left out: Anthropic takes
    no empty turn."""
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
    """Gives calls and their results ids of the characters that Anthropic takes; those of other providers that
    would become equal stay different."""
    made: dict[str, str] = {}
    taken: set[str] = set()
    for block in blocks:
        place = {"tool_use": "id", "tool_result": "tool_use_id"}.get(str(block.get("type")))
        if place is None:
            continue
        if (id := block[place]) not in made:
            made[id] = re.sub(r"[^a-zA-Z0-9_-]", "_", id)
            if made[id] in taken:
                made[id] += f"_{sha256(id.encode('utf-8', 'replace')).hexdigest()[:8]}"
            taken.add(made[id])
        block[place] = made[id]


def _blocks(role: str, parts: list[Part]) -> list[dict[str, Any]]:
    """The blocks of a turn. Results of tools come first, as Anthropic demands."""
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
    """A block of thinking, None where it cannot go back: unsigned, or another provider's (those have an
    id)."""
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


_MAX_COUNTS = 100  # names of counts that are kept


class _Block:
    """A block that has started: its kind, its call's index, what it held at its start, the fragments
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
        read = _EVENTS.get(
            kind or ("" if name == "message" else name)
        )  # "message" is what an event without a name is called
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
        if self._has_started:  # a relay that asked another server when the first one failed in mid-answer
            self._usage, self._reason, self._blocks, self._call_count = {}, None, {}, 0
            self._joiner.pending.clear()
            yield Restarted("The provider began its answer again.")
        self._has_started = True
        yield from self._emit_started(message.get("id"), message.get("model"))
        yield from self._emit_usage(message.get("usage"))

    def _full_message(self, value: dict[str, Any]) -> Iterator[Event]:
        yield from self._emit_started(value.get("id"), value.get("model"))
        said = value.get("content")
        for n, block in enumerate(items([{"type": "text", "text": said}] if isinstance(said, str) else said)):
            yield from self._block_start({"index": n, "content_block": block})
            yield from self._block_stop({"index": n})
        yield from self._message_delta({"delta": value, "usage": value.get("usage")})
        self.done = True

    def _block_start(self, value: dict[str, Any]) -> Iterator[Event]:
        start = obj(value.get("content_block"))
        kind, index = string(start.get("type")), label(value.get("index"))
        yield from self._block_stop(
            value
        )  # a server that numbers no blocks, or stops none, means the one before to be over
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
        """The block that an event is about: the one that started last where it does not say."""
        index = label(value.get("index"))
        return index if index is not None else next(reversed(self._blocks), None)

    def _block_delta(self, value: dict[str, Any]) -> Iterator[Event]:
        index, delta = self._index(value), obj(value.get("delta"))
        block = self._blocks.get(index)
        kind = string(delta.get("type"))
        if kind == "text_delta":  # nearly all there is
            yield from self._emit_text(("text", index), string(delta.get("text")))
        elif kind in ("input_json_delta", "compaction_delta") and block is not None:
            piece = delta.get("partial_json", delta.get("content"))
            yield from self._emit_text(("arguments", index), string(piece) or arguments_json(piece))
        elif kind in _PIECE_KINDS:
            yield from self._emit_piece(index, delta)
        else:
            yield Notice("unknown", kind, delta)

    def _emit_piece(self, index: str | None, piece: dict[str, Any]) -> Iterator[Event]:
        """What a block of text or thinking holds, at its start or in a delta."""
        yield from self._emit_text(("text", index), string(piece.get("text")))
        yield from self._emit_text(("thinking", index), string(piece.get("thinking")))
        if signature := label(piece.get("signature")):
            yield ReasoningDelta(signature=signature)
        for source in (*items(piece.get("citations")), *items([piece.get("citation")])):
            yield citation(source)

    def _emit_joined(self, place: Any, text: str) -> Iterator[Event]:
        kind, index = place
        if kind != "arguments":
            yield from super()._emit_joined(kind, text)
        elif (block := self._blocks.get(index)) is not None:
            block.pieces.append(text)
            if block.kind == "tool_use":
                yield ToolCallDelta(block.call, arguments=text)

    def _block_stop(self, value: dict[str, Any]) -> Iterator[Event]:
        yield from self._close_block(self._index(value))

    def _close_block(self, index: str | None) -> Iterator[Event]:
        yield from self._flush_halves(*((kind, index) for kind in ("text", "thinking", "arguments")))
        if (block := self._blocks.pop(index, None)) is None:
            return
        held, said = block.start.get("input"), "".join(block.pieces)
        if block.kind == "tool_use" and held and not said:
            yield ToolCallDelta(block.call, arguments=arguments_json(held))
        elif block.kind == "compaction":  # must go back, or the model forgets what it stands for
            yield RawBlock(Raw(self.format, {**block.start, "content": said or block.start.get("content")}))
        elif block.kind.endswith("_tool_use"):
            yield Notice(
                "server_tool", string(block.start.get("name")), {**block.start, "input": said or held}
            )
            asked = parse_arguments(said) if said else obj(held)
            yield RawBlock(Raw(self.format, {**block.start, "input": asked or {}}))

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
        """What Bedrock and llama.cpp measured."""
        for times in filter(
            None, (obj(value.get(name)) for name in ("amazon-bedrock-invocationMetrics", "timings"))
        ):
            yield Notice("timing", dumps(times), times)

    def _emit_usage(self, raw: Any) -> Iterator[Event]:
        """Later counts replace earlier ones, name by name: the last event may hold the output alone. Those of
        the input hold from the start; those of the output are cumulative, and final with the reason of the
        end."""
        raw = {k: v for k, v in obj(raw).items() if v is not None}
        if raw:
            self._usage = dict(islice({**self._usage, **raw}.items(), _MAX_COUNTS))
            yield UsageReport(_usage(self._usage), self._reason is not None)


_PIECE_KINDS = frozenset({"thinking_delta", "signature_delta", "citations_delta"})
_EVENTS = {
    "message_start": MessageDecoder._message_start,
    "content_block_start": MessageDecoder._block_start,
    "content_block_delta": MessageDecoder._block_delta,
    "content_block_stop": MessageDecoder._block_stop,
    "message_delta": MessageDecoder._message_delta,
    "message_stop": MessageDecoder._message_stop,
    "message": MessageDecoder._full_message,
}


def _usage(raw: dict[str, Any]) -> Usage:
    """Anthropic counts input that was read from the cache, written to it, and neither, apart."""
    fresh, read = count(raw.get("input_tokens")), count(raw.get("cache_read_input_tokens"))
    written = count(raw.get("cache_creation_input_tokens"))
    total = None if fresh is None else fresh + (read or 0) + (written or 0)
    thought = count(obj(raw.get("output_tokens_details")).get("thinking_tokens"))
    return Usage(total, count(raw.get("output_tokens")), thought, read, written, raw)


def token_count_call(call: HttpCall) -> HttpCall:
    """The call that counts the tokens of another."""
    asked = {k: call.body[k] for k in ("model", "messages")}
    return replace(call, url=f"{call.url}/count_tokens", body=asked)


DIALECT = Dialect(
    "anthropic", encode, MessageDecoder, http_error, counting=(token_count_call, "input_tokens")
)
