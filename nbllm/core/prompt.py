"""Converts what the user may pass as a prompt or tools into the messages and tools of a Request."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

from .errors import ConfigError
from .events import parse_arguments
from .messages import (
    Cache,
    Document,
    Image,
    Message,
    Part,
    Raw,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    unbase64,
)
from .strict import submapping

Prompt = str | Message | Part | Mapping[str, Any] | Sequence["Message | Mapping[str, Any] | Part | str"]

_PARTS = (Text, Image, Document, Reasoning, ToolCall, ToolResult, Raw)


def parse_messages(prompt: Prompt, system: str | None = None) -> tuple[Message, ...]:
    """The messages in `prompt`: a string or parts are one user message; messages may be Message objects or
    {"role": ..., "content": ...} mappings. `system` is put first. Raises ConfigError for an empty prompt or
    anything else."""
    parsed = _parse_messages(prompt)
    if not any(m.parts for m in parsed):
        raise ConfigError("The prompt is empty.", hint="Write what the model should answer.")
    return (Message("system", system), *parsed) if system else parsed


def _parse_messages(prompt: Prompt) -> tuple[Message, ...]:
    prompt = _dump_model(prompt)
    if isinstance(prompt, (Message, Mapping)):
        return (_parse_message(prompt),)
    if isinstance(prompt, (str, *_PARTS)):
        return (Message("user", prompt),) if prompt else ()
    if not isinstance(prompt, Iterable):
        raise ConfigError(
            f"A prompt is text, parts or messages, not {type(prompt).__name__}.",
            hint="Convert it with str(...).",
        )
    items: list[Any] = list(prompt)
    if all(isinstance(p, (str, *_PARTS)) for p in items):
        return (Message("user", items),) if items else ()
    return tuple(_parse_message(m) for m in items)


def _dump_model(value: Any) -> Any:
    """A pydantic object of a provider's SDK as a mapping; anything else unchanged."""
    if isinstance(value, type) or not hasattr(value, "model_dump"):
        return value
    return value.model_dump(exclude_none=True)


def _parse_message(value: Any) -> Message:
    value = _dump_model(value)
    if isinstance(value, Message):
        return value
    if (
        isinstance(value, Mapping)
        and isinstance(name := value.get("role"), str)
        and (role := _ROLE_ALIASES.get(name, name)) in _ROLES
    ):
        return Message(cast("Role", role), tuple(_message_parts({**value, "role": role})))
    roles = ", ".join(get_args(Role))
    raise ConfigError(
        f"Not a message: {str(value)[:80]!r}.",
        hint=f'A message is {{"role": one of {roles}, "content": text}}.',
    )


def _message_parts(message: Mapping[str, Any]) -> Iterator[Part]:
    """The parts of a message in OpenAI's format: content, and tool calls or the result of one."""
    role = message["role"]
    known = {"role", "content", "annotations", *_FIELDS.get(role, ())}
    unknown = next((k for k, v in message.items() if k not in known and not _is_empty(v)), None)
    if unknown is not None:
        raise ConfigError(
            f"A message of the role {role} cannot have {unknown!r}.",
            hint="Leave it out, or put it into the content.",
        )
    parts = tuple(_parse_parts(message.get("content")))
    if role == "tool" and not (parts and all(isinstance(p, ToolResult) for p in parts)):
        texts = "".join(p.text for p in parts if isinstance(p, Text))
        content: Any = texts if all(isinstance(p, Text) for p in parts) else parts
        yield ToolResult(_call_id(message), content, name=message.get("name"))
        return
    blocks = message.get("thinking_blocks")  # LiteLLM's: the same reasoning as below, with signatures
    reasoning = (message.get(n) for n in _REASONING_FIELDS if role == "assistant" and not blocks)
    yield from (*_parse_parts(blocks), *(Reasoning(text) for text in reasoning if isinstance(text, str)))
    yield from parts
    yield from _parse_parts(message.get("refusal"))
    for call in message.get("tool_calls") or ():
        yield _parse_call(call)
    if isinstance(old := message.get("function_call"), Mapping):  # the older format, without ids
        yield _parse_call({"id": f"function-{old.get('name')}", "function": old})


_ROLES = get_args(Role)
_ROLE_ALIASES = {
    "developer": "system",
    "function": "tool",
    "model": "assistant",
    "ai": "assistant",
    "human": "user",
}
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_FIELDS = {
    "assistant": ("tool_calls", "refusal", "function_call", "thinking_blocks", *_REASONING_FIELDS),
    "tool": ("tool_call_id", "name"),
}


def _call_id(message: Mapping[str, Any]) -> str:
    if message.get("tool_call_id"):
        return str(message["tool_call_id"])
    if message.get("name"):
        return f"function-{message['name']}"
    raise ConfigError(
        "A tool result does not say which call it belongs to.", hint="Give the call's id as tool_call_id."
    )


def _parse_call(value: Any) -> ToolCall:
    value = _dump_model(value)
    function = value.get("function") if isinstance(value, Mapping) else None
    if isinstance(value, ToolCall):
        return value
    if not isinstance(function, Mapping) or not value.get("id") or not function.get("name"):
        raise ConfigError(
            f"Not a tool call: {str(value)[:80]!r}.",
            hint='A call is {"id": ..., "function": {"name": ..., "arguments": text}}.',
        )
    raw = function.get("arguments") or ""
    raw = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)
    return ToolCall(str(value["id"]), str(function["name"]), parse_arguments(raw), raw)


def _is_empty(value: Any) -> bool:
    """Checks the type first, because tables and arrays have no truth value."""
    return value is None or (isinstance(value, str | bool | int | Sequence | Mapping) and not value)


def _parse_parts(content: Any) -> Iterator[Part]:
    if content is None or (isinstance(content, str) and not content):
        return
    if isinstance(content, (str, Mapping, *_PARTS)) or not isinstance(content, Iterable):
        content = [content]
    for item in map(_dump_model, content):
        if isinstance(item, str):
            yield Text(item)
        elif isinstance(item, _PARTS):
            yield item
        elif isinstance(item, Mapping) and (part := _parse_part(item)) is not None:
            yield part
        else:
            raise ConfigError(
                f"Not a part of a message: {str(item)[:80]!r}.",
                hint="Use text, or nbllm.Image, nbllm.Document and so on.",
            )


def _parse_part(item: Mapping[str, Any]) -> Part | None:
    parser = _PARSERS.get(str(item.get("type")))
    return parser(item) if parser else None


def _parse_image(piece: Mapping[str, Any]) -> Part | None:
    url = piece.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    return Image(url=str(url)) if url else None


def _parse_file(piece: Mapping[str, Any]) -> Part | None:
    document = Document(url=piece.get("file_data") or piece.get("file_url"), name=piece.get("filename"))
    return document if document.data or piece.get("file_url") else None


def _parse_result(piece: Mapping[str, Any]) -> Part | None:
    inner = tuple(_parse_parts(piece.get("content")))
    texts = [p.text for p in inner if isinstance(p, Text)]
    content: Any = "".join(texts) if len(texts) == len(inner) else inner
    id = piece.get("tool_use_id")
    return ToolResult(str(id), content, bool(piece.get("is_error"))) if id else None


def _parse_source(piece: Mapping[str, Any]) -> Part | None:
    """An image or a document in Anthropic's format: a URL, base64, or text."""
    source = submapping(piece, "source")
    make: Any = Image if piece["type"] == "image" else partial(Document, name=piece.get("title"))
    text, form = str(source.get("data", "")), source.get("type")
    data = text.encode() if form == "text" else unbase64(text) if form == "base64" else None
    if not source.get("url") and data is None:
        return None
    part: Part = make(data, source.get("url"), str(source.get("media_type") or make().media_type))
    return part


# Parsers of content parts, by their type in OpenAI's two APIs and Anthropic's; they give None if incomplete.
_PARSERS: dict[str, Callable[[Mapping[str, Any]], Part | None]] = {
    **dict.fromkeys(
        ("text", "input_text", "output_text", "refusal"),
        lambda p: Text(str(p.get("text") or p.get("refusal") or "")),
    ),
    "image_url": _parse_image,
    "input_image": _parse_image,
    "file": lambda p: _parse_file(p["file"]) if isinstance(p.get("file"), Mapping) else None,
    "input_file": _parse_file,
    "image": _parse_source,
    "document": _parse_source,
    "tool_use": lambda p: _parse_call({"id": p.get("id"), "function": {**p, "arguments": p.get("input")}}),
    "tool_result": _parse_result,
    "thinking": lambda p: Reasoning(str(p.get("thinking") or ""), p.get("signature")),
    "redacted_thinking": lambda p: Reasoning(redacted=str(p.get("data") or "")),
}


def parse_tools(given: Tool | Mapping[str, Any] | Iterable[Tool | Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Tools from Tool objects or mappings, including OpenAI's {"type": "function", "function": {...}}; one or
    several. Raises ConfigError for anything else."""
    if isinstance(given, (Tool, Mapping, str)) or not isinstance(given, Iterable):
        given = [given]
    return tuple(t if isinstance(t, Tool) else _parse_tool(t) for t in given)


def _parse_tool(value: Any) -> Tool:
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise ConfigError(
            f"Not a tool: {reprlib.repr(value)}.",
            hint="A tool is an nbllm.Tool, or a dict of name, description and parameters (a JSON schema).",
        )
    schema = inner.get("parameters") or inner.get("input_schema") or {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise ConfigError(
            f"The parameters of the tool {inner['name']!r} are not a JSON schema.",
            hint='They look like {"type": "object", "properties": {...}}.',
        )
    return Tool(str(inner["name"]), str(inner.get("description") or ""), schema, inner.get("strict"))


def parse_cache(given: str | None) -> Cache | None:
    """The value of Request.cache for the option cache=; None for "off". Raises ConfigError for others."""
    if given in (None, "off", "true", "refresh"):  # true and refresh concern nbllm's own cache
        return None
    if given not in get_args(Cache):
        raise ConfigError(
            f"Not a valid value: cache={given!r}.",
            hint="Use auto, off or 1h for the provider's cache; true or refresh for cached answers.",
        )
    return cast("Cache", given)
