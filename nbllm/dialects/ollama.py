"""Ollama's own protocol: one JSON object in each line; the one with `done` ends the answer and has the usage.

Lines of /api/chat have a `message`, those of /api/generate a `response`; both are read. Each tool call comes
in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ..core.calls import Dialect, Endpoint, HttpCall, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    FinishReason,
    Item,
    Notice,
    ReasoningText,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from ..core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from ._decoder import BaseDecoder
from ._errors import http_error
from ._fast_path import ERROR_FIELDS, ERROR_TEXT_FIELDS, FastReader, define_struct
from ._json import count, items, label, obj, string
from ._media import media, move_media_to_user
from ._request import (
    argument_object,
    arguments_json,
    base64_data,
    bearer_header,
    build_post,
    describe_tool,
    document_as_text,
    misplaced_part,
    reasoning_budget,
    reasoning_effort,
    result_parts,
    result_text,
    text_only,
    url_under,
    without_none,
)


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The streaming call for `request`: POST /api/chat.

    gpt-oss models get the effort word; all others only have thinking on or off. A budget in tokens becomes
    the nearest word. `options` in `extra` is merged with ours. Documents are sent as text, pictures as bytes.
    Raises ConfigError for a tool_choice other than auto and none, for strict tools, and for pictures with a
    URL.
    """
    if request.tool_choice not in (None, "auto", "none"):
        raise ConfigError(
            f"Ollama cannot be forced to call a tool (tool_choice={request.tool_choice!r}).",
            hint="Leave tool_choice out, or use dialect='openai_chat' with base_url=.../v1.",
        )
    body = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True,
        "tools": [_tool(t) for t in request.tools] if request.tool_choice != "none" else None,
        "format": request.schema,
        "think": _think_option(request),
        "options": without_none(
            {
                "num_predict": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "stop": list(request.stop),
            }
        ),
    }
    return build_post(
        provider, url_under(provider, "/api", "/chat"), bearer_header(key), body, request.extra, "options"
    )


# --- request ------------------------------------------------------------------------------------------------


def _think_option(request: Request) -> bool | str | None:
    if request.reasoning is None:
        return None
    if not reasoning_budget(request.reasoning):
        return False
    word = reasoning_effort(request.reasoning)
    return ("low" if word == "minimal" else word) if "gpt-oss" in request.model else True


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.strict:
        raise ConfigError(f"Ollama has no strict tools ({tool.name}).", hint="Leave strict out.")
    return {"type": "function", "function": describe_tool(tool, parameters=tool.parameters)}


def _messages(request: Request) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools, by the ids of their calls
    for message in move_media_to_user(request.messages):
        if message.role == "system":
            out.append({"role": "system", "content": text_only(message)})
            continue
        names |= {p.id: p.name for p in message.parts if isinstance(p, ToolCall)}
        out += [_result(p, p.name or names.get(p.id)) for p in message.parts if isinstance(p, ToolResult)]
        rest = [p for p in message.parts if not isinstance(p, ToolResult)]
        if rest:
            out.append(_assistant(message) if message.role == "assistant" else _user(rest))
    return out


def _user(parts: list[Any]) -> dict[str, Any]:
    texts = [_text(p) for p in parts if not isinstance(p, Image)]
    return without_none(
        {
            "role": "user",
            "content": "".join(texts),
            "images": [_image(p) for p in parts if isinstance(p, Image)],
        }
    )


def _assistant(message: Message) -> dict[str, Any]:
    misplaced = next((p for p in message.parts if isinstance(p, (Image, Document, ToolResult))), None)
    if misplaced is not None:
        raise misplaced_part(misplaced, "assistant", "Ollama")
    calls = [
        {"id": p.id, "function": {"name": p.name, "arguments": argument_object(p)}}
        for p in message.parts
        if isinstance(p, ToolCall)
    ]
    thought = "".join(p.text for p in message.parts if isinstance(p, Reasoning))
    return without_none(
        {"role": "assistant", "content": message.text, "thinking": thought or None, "tool_calls": calls}
    )


def _result(result: ToolResult, name: str | None) -> dict[str, Any]:
    text = result_text(result, "".join(_text(p) for p in result_parts(result) if not isinstance(p, Image)))
    images = [_image(p) for p in result_parts(result) if isinstance(p, Image)]
    return without_none(
        {"role": "tool", "content": text, "tool_name": name, "tool_call_id": result.id, "images": images}
    )


def _text(part: Any) -> str:
    if isinstance(part, Text):
        return part.text
    if not isinstance(part, Document):
        raise misplaced_part(part, "user", "Ollama")
    return document_as_text(part, "Ollama")


def _image(part: Image) -> str:
    if part.data is None:
        raise ConfigError(
            f"Ollama takes a picture's bytes, not its url ({part!r}).", hint="Load it and pass data=."
        )
    return base64_data(part)


# --- answer -------------------------------------------------------------------------------------------------

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "load": "stop",
    "unload": "stop",
    "tool_calls": "tool_calls",
    "error": "error",
    "content_filter": "content_filter",
    "abort": "cancelled",
    "cancelled": "cancelled",
}
_THOUGHTS = ("thinking", "reasoning_content", "reasoning")  # the last two are sent by compatible servers
_TIMES = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")  # nanoseconds


_Message = define_struct(
    "Message", ("image", "images", "tool_calls"), content=str, **dict.fromkeys(_THOUGHTS, str)
)
_Line = define_struct(
    "Line",
    (*ERROR_FIELDS, *ERROR_TEXT_FIELDS, "object", "type", "done_reason"),
    model=str,
    message=_Message,
    done=Literal[False],
)


class LineDecoder(BaseDecoder):
    """Reads the lines of one answer."""

    format = "ollama"
    reasons = _REASONS

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._fast_reader = FastReader(_Line, self._fast_item)

    def _fast_item(self, line: Any) -> Item | None:
        message = line.message
        if message is None or line.model != self._started.model:
            return None
        thought = message.thinking or message.reasoning_content or message.reasoning
        if not thought:
            return message.content or None
        return None if message.content else ReasoningText(thought)

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._recognized = self._recognized or not {"message", "response", "done", "done_reason"}.isdisjoint(
            value
        )
        yield from self._emit_started(None, value.get("model"))
        message = value.get("message")
        yield from self._emit_message(
            message if isinstance(message, dict) else {**value, "content": value.get("response")}
        )
        reason = label(value.get("done_reason"))
        if value.get("done") is True or reason:
            self.done, self._reason = True, reason
            yield from self._emit_usage(value)

    def _emit_message(self, message: dict[str, Any]) -> Iterator[Event]:
        thought = next((text for name in _THOUGHTS if (text := string(message.get(name)))), "")
        yield from self._emit_text("thinking", thought)
        yield from self._emit_text("text", string(message.get("content")))
        pictures = message.get("images")
        for picture in filter(
            None, map(string, [message.get("image"), *(pictures if isinstance(pictures, list) else ())])
        ):
            yield from self._media.emit(media({"data": picture}))
        for call in items(message.get("tool_calls")):
            function = obj(call.get("function")) or call
            if not (function.get("name") or function.get("arguments")):
                yield Notice("unknown", "a call without a name", call)
                continue
            index, self._call_count = self._call_count, self._call_count + 1
            yield ToolCallDelta(
                index,
                label(call.get("id")),
                label(function.get("name")),
                arguments_json(function.get("arguments")),
            )

    def _emit_usage(self, value: dict[str, Any]) -> Iterator[Event]:
        read, written = count(value.get("prompt_eval_count")), count(value.get("eval_count"))
        if read is not None or written is not None:
            yield UsageReport(
                Usage(read, written, raw={k: v for k, v in value.items() if k.endswith("_count")})
            )
        times = {k: t for k in _TIMES if (t := count(value.get(k))) is not None}
        if any(times.values()):
            counts = {"prompt_eval_count": read, "eval_count": written}
            text = ", ".join(f"{k} {t / 1e6:.1f} ms" for k, t in times.items())
            yield Notice("timing", text, times | {k: n for k, n in counts.items() if n is not None})


def unload_calls(base: str, model: str) -> tuple[HttpCall, HttpCall]:
    """The calls that unload a model from the memory of the server at `base`, and that list the models in
    it."""
    body = {"model": model, "keep_alive": 0}
    return HttpCall(f"{base}/api/generate", {}, body), HttpCall(f"{base}/api/ps", {}, {}, "GET")


DIALECT = Dialect("ollama", encode, LineDecoder, http_error, unloading=unload_calls)
