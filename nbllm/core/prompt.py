"""From what a person may pass as a prompt to the messages and tools of a Request."""

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

Prompt = str | Message | Part | Mapping[str, Any] | Sequence["Message | Mapping[str, Any] | Part | str"]

_PARTS = (Text, Image, Document, Reasoning, ToolCall, ToolResult, Raw)


def parse_messages(prompt: Prompt, system: str | None = None) -> tuple[Message, ...]:
    """The conversation in `prompt`: a string or parts are one user turn; messages may be Message objects or
    {"role": ..., "content": ...} mappings. `system` goes in front. Raises ConfigError for anything else, or
    nothing."""
    turns = _turns(prompt)
    if not any(m.parts for m in turns):
        raise ConfigError("The prompt is empty.", hint="Write what the model should answer.")
    return (Message("system", system), *turns) if system else turns


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    prompt = _as_mapping(prompt)
    if isinstance(prompt, (Message, Mapping)):
        return (_turn(prompt),)
    if isinstance(prompt, (str, *_PARTS)):
        return (Message("user", prompt),) if prompt else ()
    if not isinstance(prompt, Iterable):
        raise ConfigError(
            f"A prompt is text, parts or messages, not {type(prompt).__name__}.", hint="Pass str(...) of it."
        )
    given: list[Any] = list(prompt)
    if all(isinstance(p, (str, *_PARTS)) for p in given):
        return (Message("user", given),) if given else ()
    return tuple(_turn(m) for m in given)


def _as_mapping(given: Any) -> Any:
    """What a provider's own SDK gave, as the mapping that it was; all else as it is."""
    if isinstance(given, type) or not hasattr(given, "model_dump"):
        return given
    return given.model_dump(exclude_none=True)


def _turn(given: Any) -> Message:
    given = _as_mapping(given)
    if isinstance(given, Message):
        return given
    if (
        isinstance(given, Mapping)
        and isinstance(told := given.get("role"), str)
        and (role := _ROLES.get(told, told)) in _KNOWN
    ):
        return Message(cast("Role", role), tuple(_said({**given, "role": role})))
    roles = ", ".join(get_args(Role))
    raise ConfigError(
        f"Not a message: {str(given)[:80]!r}.",
        hint=f'A message is {{"role": one of {roles}, "content": text}}.',
    )


def _said(given: Mapping[str, Any]) -> Iterator[Part]:
    """The parts of a message as OpenAI writes it: content, and the calls of tools or the result of one."""
    role = given["role"]
    known = {"role", "content", "annotations", *_FIELDS.get(role, ())}
    odd = next((k for k, v in given.items() if k not in known and not _is_empty(v)), None)
    if odd is not None:
        raise ConfigError(
            f"A message of the {role} has no {odd!r} here.", hint="Leave it out, or put it into the content."
        )
    parts = tuple(_parts(given.get("content")))
    if role == "tool" and not (parts and all(isinstance(p, ToolResult) for p in parts)):
        texts = "".join(p.text for p in parts if isinstance(p, Text))
        content: Any = texts if all(isinstance(p, Text) for p in parts) else parts
        yield ToolResult(_call_id(given), content, name=given.get("name"))
        return
    blocks = given.get("thinking_blocks")  # LiteLLM's: with their signatures, what the other field repeats
    said = (given.get(n) for n in _THOUGHTS if role == "assistant" and not blocks)
    yield from (*_parts(blocks), *(Reasoning(text) for text in said if isinstance(text, str)))
    yield from parts
    yield from _parts(given.get("refusal"))
    for call in given.get("tool_calls") or ():
        yield _call(call)
    if isinstance(old := given.get("function_call"), Mapping):  # before there were ids
        yield _call({"id": f"function-{old.get('name')}", "function": old})


_KNOWN = get_args(Role)
_ROLES = {"developer": "system", "function": "tool", "model": "assistant", "ai": "assistant", "human": "user"}
_THOUGHTS = ("reasoning_content", "reasoning")
_FIELDS = {
    "assistant": ("tool_calls", "refusal", "function_call", "thinking_blocks", *_THOUGHTS),
    "tool": ("tool_call_id", "name"),
}


def _call_id(given: Mapping[str, Any]) -> str:
    if not given.get("tool_call_id") and given.get("name"):
        return f"function-{given['name']}"
    if not given.get("tool_call_id"):
        raise ConfigError(
            "A result of a tool does not say which call it answers.",
            hint="Give the call's id as tool_call_id.",
        )
    return str(given["tool_call_id"])


def _call(given: Any) -> ToolCall:
    given = _as_mapping(given)
    function = given.get("function") if isinstance(given, Mapping) else None
    if isinstance(given, ToolCall):
        return given
    if not isinstance(function, Mapping) or not given.get("id") or not function.get("name"):
        raise ConfigError(
            f"Not a call of a tool: {str(given)[:80]!r}.",
            hint='A call is {"id": ..., "function": {"name": ..., "arguments": text}}.',
        )
    raw = function.get("arguments") or ""
    raw = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)
    return ToolCall(str(given["id"]), str(function["name"]), parse_arguments(raw), raw)


def _is_empty(given: Any) -> bool:
    """Of plain values only: tables and arrays have no truth of their own."""
    return given is None or (isinstance(given, str | bool | int | Sequence | Mapping) and not given)


def _parts(content: Any) -> Iterator[Part]:
    if content is None or (isinstance(content, str) and not content):
        return
    if isinstance(content, (str, Mapping, *_PARTS)) or not isinstance(content, Iterable):
        content = [content]
    for piece in map(_as_mapping, content):
        if isinstance(piece, str):
            yield Text(piece)
        elif isinstance(piece, _PARTS):
            yield piece
        elif isinstance(piece, Mapping) and (part := _piece(piece)) is not None:
            yield part
        else:
            raise ConfigError(
                f"Not a part of a message: {str(piece)[:80]!r}.",
                hint="Use text, or nbllm.Image, nbllm.Document and so on.",
            )


def _piece(piece: Mapping[str, Any]) -> Part | None:
    read = _PIECES.get(str(piece.get("type")))
    return read(piece) if read else None


def _picture(piece: Mapping[str, Any]) -> Part | None:
    url = piece.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    return Image(url=str(url)) if url else None


def _file(piece: Mapping[str, Any]) -> Part | None:
    made = Document(url=piece.get("file_data") or piece.get("file_url"), name=piece.get("filename"))
    return made if made.data or piece.get("file_url") else None


def _result(piece: Mapping[str, Any]) -> Part | None:
    inner = tuple(_parts(piece.get("content")))
    texts = [p.text for p in inner if isinstance(p, Text)]
    said: Any = "".join(texts) if len(texts) == len(inner) else inner
    id = piece.get("tool_use_id")
    return ToolResult(str(id), said, bool(piece.get("is_error"))) if id else None


def _sourced(piece: Mapping[str, Any]) -> Part | None:
    """A picture or a document in Anthropic's words: an address, base64, or a text."""
    source = piece.get("source")
    about = dict(source) if isinstance(source, Mapping) else {}
    make: Any = Image if piece["type"] == "image" else partial(Document, name=piece.get("title"))
    text, form = str(about.get("data", "")), about.get("type")
    data = text.encode() if form == "text" else unbase64(text) if form == "base64" else None
    if not about.get("url") and data is None:
        return None
    made: Part = make(data, about.get("url"), str(about.get("media_type") or make().media_type))
    return made


# Pieces of content as OpenAI's two APIs and Anthropic's write them; None for one that is not whole.
_PIECES: dict[str, Callable[[Mapping[str, Any]], Part | None]] = {
    **dict.fromkeys(
        ("text", "input_text", "output_text", "refusal"),
        lambda p: Text(str(p.get("text") or p.get("refusal") or "")),
    ),
    "image_url": _picture,
    "input_image": _picture,
    "file": lambda p: _file(p["file"]) if isinstance(p.get("file"), Mapping) else None,
    "input_file": _file,
    "image": _sourced,
    "document": _sourced,
    "tool_use": lambda p: _call({"id": p.get("id"), "function": {**p, "arguments": p.get("input")}}),
    "tool_result": _result,
    "thinking": lambda p: Reasoning(str(p.get("thinking") or ""), p.get("signature")),
    "redacted_thinking": lambda p: Reasoning(redacted=str(p.get("data") or "")),
}


def parse_tools(given: Tool | Mapping[str, Any] | Iterable[Tool | Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Tools from Tool objects or mappings, OpenAI's {"type": "function", "function": {...}} included; one may
    stand alone. Raises ConfigError for anything else."""
    if isinstance(given, (Tool, Mapping, str)) or not isinstance(given, Iterable):
        given = [given]
    return tuple(t if isinstance(t, Tool) else _tool(t) for t in given)


def _tool(given: Any) -> Tool:
    inner = given.get("function", given) if isinstance(given, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise ConfigError(
            f"Not a tool: {reprlib.repr(given)}.",
            hint="A tool is an nbllm.Tool, or a dict of name, description and parameters (a JSON schema).",
        )
    schema = inner.get("parameters") or inner.get("input_schema") or {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        raise ConfigError(
            f"The parameters of the tool {inner['name']!r} are no JSON schema.",
            hint='They look like {"type": "object", "properties": {...}}.',
        )
    return Tool(str(inner["name"]), str(inner.get("description") or ""), schema, inner.get("strict"))


def parse_cache(given: str | None) -> Cache | None:
    """What a Request says of keeping the prompt: "off" is nothing. Raises ConfigError for no word of ours."""
    if given in (None, "off", "true", "refresh"):  # true, refresh: not the provider's to know
        return None
    if given not in get_args(Cache):
        raise ConfigError(
            f"Not a way to keep prompts: cache={given!r}.",
            hint="Say auto, off or 1h; or true or refresh for answers that were given before.",
        )
    return cast("Cache", given)
