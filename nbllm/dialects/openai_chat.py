"""OpenAI's Chat Completions, the wire format that nearly every provider implements, each with differences.

A stream is a series of chunks. Each may have choices (the one with index 0 is the answer), usage, or an
error; none of the three, nor their order, can be relied upon. The `delta` of a chunk is new; its `message`
repeats everything so far, so only the part that was not yet seen counts. Fragments of tool calls are
assembled in _toolcalls.

The answer is complete when a finish reason has come, or [DONE], or the closing usage chunk, or all of it in
one JSON object. Otherwise it was cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from ..core.calls import Dialect, Endpoint, Frame, HttpCall, Quirks, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    Finished,
    Item,
    Notice,
    ReasoningDelta,
    ReasoningText,
    TextDelta,
    ToolCallDelta,
    UsageReport,
    parse_arguments,
)
from ..core.messages import (
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
)
from ..core.strict import OPENAI, strict_parameters
from ._caching import openai_cache_fields
from ._decoder import (
    BaseDecoder,
    ChoiceSelector,
    citation,
    find_error,
    finished_event,
    is_thought,
    thought_signature,
    thought_text,
)
from ._errors import http_error
from ._fast_path import ERROR_FIELDS, FastReader, define_struct
from ._json import items, label, obj, string
from ._media import check_image_type, is_media, media, move_media_to_user
from ._openai import REASONS, build_post, check_supported, file_name, schema_format, usage
from ._request import (
    data_url,
    describe_tool,
    raw_arguments,
    reasoning_effort,
    result_parts,
    result_text,
    with_short_ids,
    without_none,
)
from ._toolcalls import ToolCallReader, google_extension

# Models whose chat templates require tool call ids of exactly nine letters and digits, on any server.
_NINE_CHARACTER_IDS = ("stral", "xtral")

# --- request ------------------------------------------------------------------------------------------------


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The streaming call for `request`: POST /chat/completions.

    A token budget in `reasoning` becomes the nearest effort word. A closed schema is sent in strict mode (see
    `is_closed`). Files in a tool's result follow it in a user message; files that a model made move to the
    next user message. Output modalities and audio options belong into `extra`. Thinking is sent back only
    under quirks.reasoning_field: "reasoning_details" means OpenRouter's list, "extra_content" Google's
    signatures on calls.
    """
    check_supported(request, provider)
    family = "mistral" if provider.name == "mistral" else request.model.lower()
    quirks, form, word = provider.quirks, schema_format(request), reasoning_effort(request.reasoning)
    switch = (
        {"type": "disabled" if word == "none" else "enabled"} if word and quirks.thinking_switch else None
    )
    tools = [
        describe_tool(t, parameters=strict_parameters(t, OPENAI), strict=t.strict) for t in request.tools
    ]
    limit = "max_completion_tokens" if _COMPLETION_LIMIT_MODELS.match(request.model) else "max_tokens"
    body = {
        "model": request.model,
        "messages": _messages(
            request,
            quirks,
            signature_fields=_signature_fields(request, provider),
            exactly=9 if any(name in family for name in _NINE_CHARACTER_IDS) else 0,
        ),
        "stream": True,
        "stream_options": {"include_usage": True} if quirks.stream_usage else None,
        "tools": [{"type": "function", "function": about} for about in tools],
        "tool_choice": _choice(request.tool_choice),
        quirks.max_tokens_field or limit: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop),
        "seed": request.seed,
        "reasoning_effort": None if switch and word == "none" else word,
        "thinking": switch,
        "response_format": form and {"type": "json_schema", "json_schema": form},
        **openai_cache_fields(request, provider),
    }
    return build_post(provider, "/chat/completions", key, body, request.extra)


# OpenAI's models that take the limit as max_completion_tokens, at other providers too.
_COMPLETION_LIMIT_MODELS = re.compile(r"(?:openai/)?(?:gpt-[5-9]|o[1-9](?:-|$))")


def _choice(choice: str | None) -> str | dict[str, Any] | None:
    return (
        choice
        if choice in (None, "auto", "none", "required")
        else {"type": "function", "function": {"name": choice}}
    )


def _signature_fields(request: Request, provider: Endpoint) -> tuple[str, ...]:
    """The names in extra_content under which signatures of calls are sent back: to Gemini's compatible
    endpoint, and to gateways that may lead there. Other servers refuse unknown fields."""
    if provider.quirks.reasoning_field == "extra_content":
        return ("google",)
    return ("google", "vertex") if provider.name in ("custom", "litellm") or "gemini" in request.model else ()


def _messages(
    request: Request, quirks: Quirks, *, signature_fields: tuple[str, ...] = (), exactly: int = 0
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    files: list[Part] = []  # of tool results, which must wait until all results of the turn are there
    for message in (*with_short_ids(move_media_to_user(request.messages), exactly), Message("user")):
        results = [p for p in message.parts if isinstance(p, ToolResult)]
        if files and not results:
            out.append({"role": "user", "content": _content(tuple(files))})
            files = []
        out += [{"role": "tool", "tool_call_id": r.id, "content": result_text(r)} for r in results]
        files += [p for r in results for p in result_parts(r) if not isinstance(p, Text)]
        rest = tuple(p for p in message.parts if not isinstance(p, ToolResult))
        if rest and message.role == "assistant":
            out.append(_assistant(message, quirks, signature_fields))
        elif rest:
            out.append(
                {
                    "role": quirks.system_role if message.role == "system" else "user",
                    "content": _content(rest),
                }
            )
    return out


def _content(parts: tuple[Any, ...]) -> str | list[dict[str, Any]]:
    if all(isinstance(p, Text) for p in parts):
        return "".join(p.text for p in parts)
    return [_part(p) for p in parts]


def _part(part: Any) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(url=url):
            check_image_type(part, "Chat Completions")
            return {"type": "image_url", "image_url": {"url": url or data_url(part)}}
        case Document(url=None):
            return {"type": "file", "file": {"filename": file_name(part), "file_data": data_url(part)}}
        case Document():
            raise ConfigError(
                "Chat Completions takes a document's bytes, not its url.",
                hint="Load it and pass data=, or use dialect='openai_responses'.",
            )
    raise ConfigError(
        f"A {type(part).__name__} cannot be part of a user or system message of Chat Completions.",
        hint="Put it into an assistant message.",
    )


def _assistant(message: Message, quirks: Quirks, signature_fields: tuple[str, ...]) -> dict[str, Any]:
    if any(isinstance(p, (Image, Document)) for p in message.parts):
        raise ConfigError(
            "Chat Completions takes no pictures or documents in an assistant message.",
            hint="Put them into a user message.",
        )
    calls = [p for p in message.parts if isinstance(p, ToolCall)]
    out: dict[str, Any] = {"role": "assistant", "content": message.text or (None if calls else "")}
    if calls:
        out["tool_calls"] = [_call(c, signature_fields) for c in calls]
    thoughts = [p for p in message.parts if isinstance(p, Reasoning)]
    if quirks.reasoning_field == "reasoning_details":
        back: Any = [_reasoning_detail(r) for r in thoughts]
    else:
        back = "".join(r.text for r in thoughts)
    if back and quirks.reasoning_field not in ("", "extra_content"):
        out[quirks.reasoning_field] = back
    return out


def _call(call: ToolCall, signature_fields: tuple[str, ...]) -> dict[str, Any]:
    out = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": raw_arguments(call)},
    }
    if call.signature and signature_fields:
        signature = {"thought_signature": call.signature}
        out["extra_content"] = dict.fromkeys(signature_fields, signature)
    return out


def _reasoning_detail(reasoning: Reasoning) -> dict[str, Any]:
    """One of OpenRouter's reasoning_details. The decoder stores an encrypted one as JSON in `redacted`."""
    if reasoning.redacted is not None:
        detail = parse_arguments(reasoning.redacted)
        return detail or {"type": "reasoning.encrypted", "data": reasoning.redacted}
    about = {"type": "reasoning.text", "text": reasoning.text}
    return without_none({**about, "signature": reasoning.signature, "id": reasoning.id})


# --- answer -------------------------------------------------------------------------------------------------

_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_DETAIL_FIELDS = ("reasoning_details", "thinking_blocks")
_RARE_FIELDS = frozenset(
    {"refusal", "annotations", "executed_tools", "audio", "images", "function_call", "extra_content"}
)


_Delta = define_struct(
    "Delta",
    (*_DETAIL_FIELDS, *sorted(_RARE_FIELDS), "reasoning_text", "thinking", "tool_calls", "reasoning_opaque"),
    content=str,
    reasoning_content=str,
    reasoning=str,
)
_Choice = define_struct(
    "Choice", ("message", "usage", "error", "finish_reason", "finishReason"), delta=_Delta, index=Literal[0]
)
_Chunk = define_struct(
    "Chunk",
    (*ERROR_FIELDS, "type", "usage", "x_groq", "citations", "search_results", "timings", "time_info"),
    choices=tuple[_Choice],  # type: ignore[valid-type]
    object=Literal["chat.completion.chunk", ""],
)


def _fast_item(chunk: Any) -> Item | None:
    delta = chunk.choices[0].delta if chunk.choices else None
    if delta is None:
        return None
    thought = delta.reasoning_content or delta.reasoning
    if not thought:
        return delta.content or None
    return None if delta.content else ReasoningText(thought)


class ChatDecoder(BaseDecoder):
    """Reads the chunks of one answer."""

    format = "openai_chat"
    reasons = REASONS
    has_done_mark = True

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._chunks = 0
        self._is_single_message = False  # the last chunk had a message and no delta
        self._has_closing_usage = False  # the usage chunk that closes a stream has come
        self._text: list[str] = []
        self._size = 0  # characters of _text
        self._has_thought = False
        self._tools = ToolCallReader(self._joiner)
        self._selector = ChoiceSelector()
        self._has_audio = False
        self._fast_reader = FastReader(_Chunk, _fast_item, "message")

    def read_fast(self, frames: list[Frame], start: int) -> list[Item]:
        """See core.calls.FastRead."""
        has_begun = self._started.id and self._started.model and self._selector.index == 0
        found = super().read_fast(frames, start) if has_begun else []
        if not found:
            return found
        texts = [item for item in found if type(item) is str]
        self._chunks += len(found)
        self._text += texts
        self._size += sum(map(len, texts))
        self._has_thought = self._has_thought or len(texts) < len(found)
        return found

    def _read(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._check_format(value)
        self._chunks += 1
        yield from self._object(value, name)  # a chunk may contain both text and an error
        self._raise_error(find_error(value, name))
        for choice in items(value.get("choices")):
            self._raise_error({"error": choice["error"]} if choice.get("error") else None)

    @property
    def _is_complete(self) -> bool:
        closed = self._has_closing_usage and self._has_answer
        return self.ended or self.done or closed or (self._is_single_message and self._chunks == 1)

    def _finished_event(self) -> Finished:
        return finished_event(self._reason, self._tools.has_calls, REASONS)

    @property
    def _has_answer(self) -> bool:
        return bool(self._text or self._has_thought or self._tools.has_calls or self._media.has_media)

    def _object(self, chunk: dict[str, Any], name: str) -> Iterator[Event]:
        if not (self._started.id and self._started.model):
            yield from self._emit_started(chunk.get("id"), chunk.get("model"))
        choices = chunk.get("choices")
        if isinstance(choices, list):
            self._recognized = True
            for choice in self._selector.select(choices):
                yield from self._choice(choice)
        counted = chunk.get("usage") or obj(chunk.get("x_groq")).get("usage")
        if counted:
            yield from self._emit_usage(counted, closing=not choices)
        for sources in map(chunk.get, ("citations", "search_results")):
            yield from self._emit_citations(sources)
        for times in ("timings", "time_info"):
            if chunk.get(times):
                yield Notice("timing", data={times: chunk[times]})

    def _emit_usage(self, counted: Any, *, closing: bool) -> Iterator[Event]:
        report = usage(obj(counted))
        if report is not None:
            self._recognized = True
            self._has_closing_usage = self._has_closing_usage or closing
            yield UsageReport(report, self.ended or self._is_single_message or (closing and self._has_answer))

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta, message = choice.get("delta"), choice.get("message")
        if delta and isinstance(delta, dict):
            yield from self._delta(delta)
        if isinstance(message, dict) and not obj(delta).get("content"):
            self._is_single_message = "delta" not in choice
            yield from self._delta(self._without_seen(message), is_full_message=self._is_single_message)
        elif delta is None and isinstance(choice.get("text"), str):
            yield from self._content(choice["text"])
        self._reason = label(choice.get("finish_reason") or choice.get("finishReason")) or self._reason
        if choice.get("usage"):
            yield from self._emit_usage(choice["usage"], closing=False)

    def _without_seen(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message, which repeats everything so far, without what came before."""
        content, sent = message.get("content"), self._size
        if sent:
            full = string(content)
            new = full[sent:] if len(full) > sent and full.startswith("".join(self._text)) else ""
            message = {**message, "content": new}
        seen = {
            *(_THOUGHT_FIELDS if self._has_thought else ()),
            *(("audio",) if self._has_audio else ()),
            *(("tool_calls", "function_call") if self._tools.slots else ()),
        }
        return {k: v for k, v in message.items() if k not in seen}

    def _delta(self, delta: dict[str, Any], is_full_message: bool = False) -> Iterator[Event]:
        content = delta.get("content")
        if len(delta) > 1 or content is None:
            yield from self._emit_thinking(delta)
        if content:
            yield from self._content(content)
        calls = delta.get("tool_calls")
        if calls:
            yield from self._tools.read(calls if isinstance(calls, list) else [calls])
        if not _RARE_FIELDS.isdisjoint(delta):
            yield from self._emit_rare(delta, is_full_message)

    def _content(self, content: Any) -> Iterator[Event]:
        if isinstance(content, str):
            yield from self._emit_text("text", content)
        else:
            for part in content if isinstance(content, list) else [content]:
                yield from self._part(part)

    def _emit_joined(self, channel: Any, text: str) -> Iterator[Event]:
        """The event for a text; a number as channel is the index of a call."""
        if isinstance(channel, int):
            yield ToolCallDelta(channel, arguments=text)
            return
        if channel == "text":
            self._text.append(text)
            self._size += len(text)
        self._has_thought = self._has_thought or channel != "text"
        yield from super()._emit_joined(channel, text)

    def _part(self, part: Any) -> Iterator[Event]:
        kind = part.get("type") if isinstance(part, dict) else None
        if is_thought(part):
            yield from self._emit_text("reasoning", "" if string(part.get("data")) else thought_text(part))
            yield from self._emit_signature(part)
        elif is_media(part):
            yield from self._media.emit(media(part))
        elif isinstance(part, str) or isinstance(obj(part).get("text"), str):
            yield from self._content(part if isinstance(part, str) else part["text"])
        elif kind == "reference":
            yield from self._emit_citations([part])
        elif kind == "refusal" and string(part.get("refusal")):
            yield Notice("refusal", part["refusal"])
        else:  # an object instead of text (Cloudflare's structured answers), or a part of an unknown type
            yield Notice("unknown", data={"content": part})

    def _emit_thinking(self, delta: dict[str, Any]) -> Iterator[Event]:
        thoughts = (thought_text(delta[name]) for name in _THOUGHT_FIELDS if delta.get(name))
        yield from self._emit_text("reasoning", next(filter(None, thoughts), ""))
        for block in (block for name in _DETAIL_FIELDS for block in items(delta.get(name))):
            if not self._has_thought and (text := thought_text(block)):  # else it repeats another field
                yield Notice("unknown", text, {"reasoning_details": block})
            yield from self._emit_signature(block)
        if string(delta.get("reasoning_opaque")):
            yield ReasoningDelta(signature=delta["reasoning_opaque"])

    def _emit_signature(self, block: dict[str, Any]) -> Iterator[Event]:
        """What must be sent back for a thought: its signature, or the complete block if it is encrypted."""
        if string(block.get("data")):
            yield ReasoningDelta(redacted=json.dumps(block), id=label(block.get("id")))
        elif signature := thought_signature(block):
            yield ReasoningDelta(signature=signature, id=label(block.get("id")))

    def _emit_rare(self, delta: dict[str, Any], is_full_message: bool) -> Iterator[Event]:
        if string(delta.get("refusal")):
            yield Notice("refusal", delta["refusal"])
        call = delta.get("function_call")
        if isinstance(call, dict) and (call.get("name") or call.get("arguments")):
            yield from self._tools.read([{"index": "function_call", "function": call}])
        elif isinstance(call, dict) and is_full_message:  # a call without a name and arguments is a call too
            slot = self._tools.begin("function_call")
            slot.is_announced = True
            yield ToolCallDelta(slot.index)
        yield from self._emit_citations(delta.get("annotations"))
        for tool in items(delta.get("executed_tools")):
            yield Notice("server_tool", string(tool.get("type")), tool)
        for picture in items(delta.get("images")):
            yield from self._media.emit(media(picture))
        if isinstance(delta.get("audio"), dict):
            yield from self._emit_audio(delta["audio"])
        signature = string(google_extension(delta).get("thought_signature"))
        if signature:
            yield TextDelta("", signature)

    def _emit_audio(self, audio: dict[str, Any]) -> Iterator[Event]:
        """A piece of audio, and its transcript."""
        self._has_audio = True
        if string(audio.get("transcript")):
            yield Notice(
                "unknown", audio["transcript"], {"audio": {k: v for k, v in audio.items() if k != "data"}}
            )
        yield from self._media.emit_audio(string(audio.get("data")))

    def _emit_citations(self, sources: Any) -> Iterator[Event]:
        for source in sources if isinstance(sources, list) else ():
            if source and self._is_new_source(source):
                yield citation(source)


DIALECT = Dialect("openai_chat", encode, ChatDecoder, http_error)
