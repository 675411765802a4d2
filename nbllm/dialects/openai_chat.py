"""OpenAI's Chat Completions, the wire format that nearly every provider speaks and each in its own accent.

A stream is a row of chunks. Each may hold choices (one of them is the answer: that with index 0), usage, or
an error; none of the three can be relied upon, nor their order. What a chunk says in its `delta` is new; what
it says in `message` is everything so far, so only the part that was not yet seen counts. Fragments of
tool calls are sorted in _toolcalls.

The answer is whole when a finish reason came, or [DONE], or the closing usage chunk, or all of it in one JSON
object. Anything else was cut.
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
from ._caching import openai_words
from ._decoder import (
    BaseDecoder,
    Chosen,
    citation,
    failure,
    finish,
    is_thought,
    thought_signature,
    thought_text,
)
from ._errors import http_error
from ._fast_path import ERRORS, Usual, struct
from ._json import items, label, obj, string
from ._media import check_picture, is_media, media, told_by_user
from ._openai import REASONS, able, file_name, post, schema_format, usage
from ._request import (
    arguments,
    content,
    data_url,
    effort,
    function,
    result_text,
    with_short_ids,
    without_none,
)
from ._toolcalls import Calls, google

# Models whose templates, on any server, refuse ids of calls that have not nine letters and digits.
_NINE = ("stral", "xtral")

# --- request ------------------------------------------------------------------------------------------------


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The call that asks for `request` as a stream: POST /chat/completions.

    A token budget in `reasoning` becomes the nearest effort word. A schema is asked for in strict mode where
    it is closed (see `closed`). Files in a tool's result follow it in a user message; those that a model made
    stand in the user's next message, with what modalities and sound it makes asked for in `extra`.
    Thinking goes back only under quirks.reasoning_field: "reasoning_details" means OpenRouter's list,
    "extra_content" Google's signatures on calls.
    """
    able(request, provider)
    family = "mistral" if provider.name == "mistral" else request.model.lower()
    quirks, form, word = provider.quirks, schema_format(request), effort(request.reasoning)
    switch = (
        {"type": "disabled" if word == "none" else "enabled"} if word and quirks.thinking_switch else None
    )
    tools = [function(t, parameters=strict_parameters(t, OPENAI), strict=t.strict) for t in request.tools]
    limit = "max_completion_tokens" if _LATER.match(request.model) else "max_tokens"
    body = {
        "model": request.model,
        "messages": _messages(
            request,
            quirks,
            signed=_takes_signatures(request, provider),
            exactly=9 if any(name in family for name in _NINE) else 0,
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
        **openai_words(request, provider),
    }
    return post(provider, "/chat/completions", key, body, request.extra)


# Models of OpenAI's that take the limit under another name, at other addresses too.
_LATER = re.compile(r"(?:openai/)?(?:gpt-[5-9]|o[1-9](?:-|$))")


def _choice(choice: str | None) -> str | dict[str, Any] | None:
    return (
        choice
        if choice in (None, "auto", "none", "required")
        else {"type": "function", "function": {"name": choice}}
    )


def _takes_signatures(request: Request, provider: Endpoint) -> tuple[str, ...]:
    """Under which names signatures of calls go back: to Gemini's compatible endpoint, and to gateways that
    may lead there. Others refuse what they do not know."""
    if provider.quirks.reasoning_field == "extra_content":
        return ("google",)
    return ("google", "vertex") if provider.name in ("custom", "litellm") or "gemini" in request.model else ()


def _messages(
    request: Request, quirks: Quirks, *, signed: tuple[str, ...] = (), exactly: int = 0
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    files: list[Part] = []  # of tool results; they must wait until all results of the turn have been told
    for message in (*with_short_ids(told_by_user(request.messages), exactly), Message("user")):
        results = [p for p in message.parts if isinstance(p, ToolResult)]
        if files and not results:
            out.append({"role": "user", "content": _content(tuple(files))})
            files = []
        out += [{"role": "tool", "tool_call_id": r.id, "content": result_text(r)} for r in results]
        files += [p for r in results for p in content(r) if not isinstance(p, Text)]
        rest = tuple(p for p in message.parts if not isinstance(p, ToolResult))
        if rest and message.role == "assistant":
            out.append(_assistant(message, quirks, signed))
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
            check_picture(part, "Chat Completions")
            return {"type": "image_url", "image_url": {"url": url or data_url(part)}}
        case Document(url=None):
            return {"type": "file", "file": {"filename": file_name(part), "file_data": data_url(part)}}
        case Document():
            raise ConfigError(
                "Chat Completions takes a document's bytes, not its url.",
                hint="Load it and pass data=, or use dialect='openai_responses'.",
            )
    raise ConfigError(
        f"A {type(part).__name__} cannot stand in a user or system message of Chat Completions.",
        hint="Put it into an assistant message.",
    )


def _assistant(message: Message, quirks: Quirks, signed: tuple[str, ...]) -> dict[str, Any]:
    if any(isinstance(p, (Image, Document)) for p in message.parts):
        raise ConfigError(
            "Chat Completions takes no pictures or documents in an assistant message.",
            hint="Put them into a user message.",
        )
    calls = [p for p in message.parts if isinstance(p, ToolCall)]
    out: dict[str, Any] = {"role": "assistant", "content": message.text or (None if calls else "")}
    if calls:
        out["tool_calls"] = [_call(c, signed) for c in calls]
    thoughts = [p for p in message.parts if isinstance(p, Reasoning)]
    if quirks.reasoning_field == "reasoning_details":
        back: Any = [_detail(r) for r in thoughts]
    else:
        back = "".join(r.text for r in thoughts)
    if back and quirks.reasoning_field not in ("", "extra_content"):
        out[quirks.reasoning_field] = back
    return out


def _call(call: ToolCall, signed: tuple[str, ...]) -> dict[str, Any]:
    out = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments(call)}}
    if call.signature and signed:
        said = {"thought_signature": call.signature}
        out["extra_content"] = dict.fromkeys(signed, said)
    return out


def _detail(reasoning: Reasoning) -> dict[str, Any]:
    """One of OpenRouter's reasoning_details. `redacted` holds a detail as it came (the decoder put it
    there)."""
    if reasoning.redacted is not None:
        whole = parse_arguments(reasoning.redacted)
        return whole or {"type": "reasoning.encrypted", "data": reasoning.redacted}
    about = {"type": "reasoning.text", "text": reasoning.text}
    return without_none({**about, "signature": reasoning.signature, "id": reasoning.id})


# --- answer -------------------------------------------------------------------------------------------------

_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_DETAILS = ("reasoning_details", "thinking_blocks")
_ODDITIES = frozenset(
    {"refusal", "annotations", "executed_tools", "audio", "images", "function_call", "extra_content"}
)


_Delta = struct(
    "Delta",
    (*_DETAILS, *sorted(_ODDITIES), "reasoning_text", "thinking", "tool_calls", "reasoning_opaque"),
    content=str,
    reasoning_content=str,
    reasoning=str,
)
_Choice = struct(
    "Choice", ("message", "usage", "error", "finish_reason", "finishReason"), delta=_Delta, index=Literal[0]
)
_Chunk = struct(
    "Chunk",
    (*ERRORS, "type", "usage", "x_groq", "citations", "search_results", "timings", "time_info"),
    choices=tuple[_Choice],  # type: ignore[valid-type]
    object=Literal["chat.completion.chunk", ""],
)


def _usual(chunk: Any) -> Item | None:
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
    marked = True

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._chunks = 0
        self._at_once = False  # the last chunk held a message and no delta
        self._totalled = False  # the chunk of usage that closes a stream came
        self._text: list[str] = []
        self._size = 0  # its characters
        self._thought = False
        self._tools = Calls(self._halves)
        self._chosen = Chosen()
        self._sounded = False
        self._short = Usual(_Chunk, _usual, "message")

    def usual(self, frames: list[Frame], place: int) -> list[Item]:
        """See core.calls.Usual."""
        begun = self._started.id and self._started.model and self._chosen.index == 0
        found = super().usual(frames, place) if begun else []
        if not found:
            return found
        texts = [item for item in found if type(item) is str]
        self._chunks += len(found)
        self._text += texts
        self._size += sum(map(len, texts))
        self._thought = self._thought or len(texts) < len(found)
        return found

    def _read(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._expect(value)
        self._chunks += 1
        yield from self._object(value, name)  # a chunk may hold both words and the error that ends them
        self._refuse(failure(value, name))
        for choice in items(value.get("choices")):
            self._refuse({"error": choice["error"]} if choice.get("error") else None)

    @property
    def _whole(self) -> bool:
        closed = self._totalled and self._answered
        return self.ended or self.done or closed or (self._at_once and self._chunks == 1)

    def _end(self) -> Finished:
        return finish(self._reason, self._tools.any, REASONS)

    @property
    def _answered(self) -> bool:
        return bool(self._text or self._thought or self._tools.any or self._media.any)

    def _object(self, chunk: dict[str, Any], name: str) -> Iterator[Event]:
        if not (self._started.id and self._started.model):
            yield from self._begin(chunk.get("id"), chunk.get("model"))
        choices = chunk.get("choices")
        if isinstance(choices, list):
            self._known = True
            for choice in self._chosen.among(choices):
                yield from self._choice(choice)
        counted = chunk.get("usage") or obj(chunk.get("x_groq")).get("usage")
        if counted:
            yield from self._count(counted, closing=not choices)
        for sources in map(chunk.get, ("citations", "search_results")):
            yield from self._cite(sources)
        for times in ("timings", "time_info"):
            if chunk.get(times):
                yield Notice("timing", data={times: chunk[times]})

    def _count(self, counted: Any, *, closing: bool) -> Iterator[Event]:
        report = usage(obj(counted))
        if report is not None:
            self._known = True
            self._totalled = self._totalled or closing
            yield UsageReport(report, self.ended or self._at_once or (closing and self._answered))

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta, message = choice.get("delta"), choice.get("message")
        if delta and isinstance(delta, dict):
            yield from self._delta(delta)
        if isinstance(message, dict) and not obj(delta).get("content"):
            self._at_once = "delta" not in choice
            yield from self._delta(self._unseen(message), whole=self._at_once)
        elif delta is None and isinstance(choice.get("text"), str):
            yield from self._content(choice["text"])
        self._reason = label(choice.get("finish_reason") or choice.get("finishReason")) or self._reason
        if choice.get("usage"):
            yield from self._count(choice["usage"], closing=False)

    def _unseen(self, message: dict[str, Any]) -> dict[str, Any]:
        """What of a message, which repeats everything, did not come before."""
        content, sent = message.get("content"), self._size
        if sent:
            full = string(content)  # put together only where it can be a part of more
            new = full[sent:] if len(full) > sent and full.startswith("".join(self._text)) else ""
            message = {**message, "content": new}
        seen = {
            *(_THOUGHTS if self._thought else ()),
            *(("audio",) if self._sounded else ()),
            *(("tool_calls", "function_call") if self._tools.slots else ()),
        }
        return {k: v for k, v in message.items() if k not in seen}

    def _delta(self, delta: dict[str, Any], whole: bool = False) -> Iterator[Event]:
        content = delta.get("content")
        if len(delta) > 1 or content is None:
            yield from self._think(delta)
        if content:
            yield from self._content(content)
        calls = delta.get("tool_calls")
        if calls:
            yield from self._tools.read(calls if isinstance(calls, list) else [calls])
        if not _ODDITIES.isdisjoint(delta):
            yield from self._odd(delta, whole)

    def _content(self, content: Any) -> Iterator[Event]:
        if isinstance(content, str):
            yield from self._tell("text", content)
        else:
            for part in content if isinstance(content, list) else [content]:
                yield from self._part(part)

    def _say(self, place: Any, text: str) -> Iterator[Event]:
        """An index for a place means a call."""
        if isinstance(place, int):
            yield ToolCallDelta(place, arguments=text)
            return
        if place == "text":
            self._text.append(text)
            self._size += len(text)
        self._thought = self._thought or place != "text"
        yield from super()._say(place, text)

    def _part(self, part: Any) -> Iterator[Event]:
        kind = part.get("type") if isinstance(part, dict) else None
        if is_thought(part):
            yield from self._tell("reasoning", "" if string(part.get("data")) else thought_text(part))
            yield from self._signed(part)
        elif is_media(part):
            yield from self._media.tell(media(part))
        elif isinstance(part, str) or isinstance(obj(part).get("text"), str):
            yield from self._content(part if isinstance(part, str) else part["text"])
        elif kind == "reference":
            yield from self._cite([part])
        elif kind == "refusal" and string(part.get("refusal")):
            yield Notice("refusal", part["refusal"])
        else:  # an object instead of text (Cloudflare's structured answers), or a kind that is not known yet
            yield Notice("unknown", data={"content": part})

    def _think(self, delta: dict[str, Any]) -> Iterator[Event]:
        thoughts = (thought_text(delta[name]) for name in _THOUGHTS if delta.get(name))
        yield from self._tell("reasoning", next(filter(None, thoughts), ""))
        for block in (block for name in _DETAILS for block in items(delta.get(name))):
            if not self._thought and (
                text := thought_text(block)
            ):  # else it repeats what has a field of its own
                yield Notice("unknown", text, {"reasoning_details": block})
            yield from self._signed(block)
        if string(delta.get("reasoning_opaque")):
            yield ReasoningDelta(signature=delta["reasoning_opaque"])

    def _signed(self, block: dict[str, Any]) -> Iterator[Event]:
        """What must go back with a thought: its signature, or all of one that is withheld."""
        if string(block.get("data")):
            yield ReasoningDelta(redacted=json.dumps(block), id=label(block.get("id")))
        elif signed := thought_signature(block):
            yield ReasoningDelta(signature=signed, id=label(block.get("id")))

    def _odd(self, delta: dict[str, Any], whole: bool) -> Iterator[Event]:
        if string(delta.get("refusal")):
            yield Notice("refusal", delta["refusal"])
        call = delta.get("function_call")
        if isinstance(call, dict) and (call.get("name") or call.get("arguments")):
            yield from self._tools.read([{"index": "function_call", "function": call}])
        elif (
            isinstance(call, dict) and whole
        ):  # a whole message names each call it has, so this is one, if a nameless one
            slot = self._tools.begin("function_call")
            slot.told = True
            yield ToolCallDelta(slot.index)
        yield from self._cite(delta.get("annotations"))
        for tool in items(delta.get("executed_tools")):
            yield Notice("server_tool", string(tool.get("type")), tool)
        for picture in items(delta.get("images")):
            yield from self._media.tell(media(picture))
        if isinstance(delta.get("audio"), dict):
            yield from self._sound(delta["audio"])
        signature = string(google(delta).get("thought_signature"))
        if signature:
            yield TextDelta("", signature)

    def _sound(self, audio: dict[str, Any]) -> Iterator[Event]:
        """A piece of sound, and what is said in it."""
        self._sounded = True
        if string(audio.get("transcript")):
            yield Notice(
                "unknown", audio["transcript"], {"audio": {k: v for k, v in audio.items() if k != "data"}}
            )
        yield from self._media.sound(string(audio.get("data")))

    def _cite(self, sources: Any) -> Iterator[Event]:
        for source in sources if isinstance(sources, list) else ():
            if source and self._uncited(source):
                yield citation(source)


DIALECT = Dialect("openai_chat", encode, ChatDecoder, http_error)
