"""From what a person may pass as a prompt to the messages, tools and schema of a Request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from .errors import ConfigError
from .messages import Document, Image, Message, Part, Reasoning, Role, Text, Tool, ToolCall, ToolResult

Prompt = str | Message | Part | Sequence["Message | Mapping[str, Any] | Part | str"]

_PARTS = (Text, Image, Document, Reasoning, ToolCall, ToolResult)


def messages(prompt: Prompt, system: str | None = None) -> tuple[Message, ...]:
    """The conversation in `prompt`: a string or parts are one user turn; messages may be Message objects or
    {"role": ..., "content": ...} mappings. `system` goes in front. Raises ConfigError for anything else, or
    nothing."""
    turns = _turns(prompt)
    if not any(m.parts for m in turns):
        raise ConfigError("The prompt is empty.", hint="Write what the model should answer.")
    return (Message("system", system), *turns) if system else turns


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, Message):
        return (prompt,)
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


def _turn(given: Any) -> Message:
    if isinstance(given, Message):
        return given
    if isinstance(given, Mapping) and given.get("role") in get_args(Role):
        return Message(given["role"], tuple(_parts(given.get("content", ""))))
    roles = ", ".join(get_args(Role))
    raise ConfigError(
        f"Not a message: {str(given)[:80]!r}.",
        hint=f'A message is {{"role": one of {roles}, "content": text}}.',
    )


def _parts(content: Any) -> Iterable[Part]:
    if isinstance(content, (str, *_PARTS)):
        content = [content]
    for piece in content:
        if isinstance(piece, str):
            yield Text(piece)
        elif isinstance(piece, _PARTS):
            yield piece
        elif isinstance(piece, Mapping) and piece.get("type") == "text":
            yield Text(str(piece.get("text", "")))
        elif isinstance(piece, Mapping) and piece.get("type") == "image_url":
            url = piece["image_url"]
            yield Image(url=str(url["url"] if isinstance(url, Mapping) else url))
        else:
            raise ConfigError(
                f"Not a part of a message: {str(piece)[:80]!r}.",
                hint="Use text, or nbllm.Image, nbllm.Document and so on.",
            )


def tools(given: Iterable[Tool | Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Tools from Tool objects or mappings, OpenAI's {"type": "function", "function": {...}} included."""
    return tuple(t if isinstance(t, Tool) else _tool(t) for t in given)


def _tool(given: Mapping[str, Any]) -> Tool:
    inner = given.get("function", given)
    if not isinstance(inner, Mapping) or "name" not in inner:
        raise ConfigError(
            f"Not a tool: {str(given)[:80]!r}.",
            hint="A tool has name, description and parameters (a JSON schema).",
        )
    schema = inner.get("parameters") or inner.get("input_schema") or {"type": "object", "properties": {}}
    return Tool(str(inner["name"]), str(inner.get("description", "")), schema, inner.get("strict"))


def schema(given: Any) -> Mapping[str, Any] | None:
    """The JSON schema in `given`: a mapping, or a pydantic model (or anything with model_json_schema)."""
    if given is None or isinstance(given, Mapping):
        return given
    if hasattr(given, "model_json_schema"):
        made: Mapping[str, Any] = given.model_json_schema()
        return made
    raise ConfigError(
        f"Not a schema: {type(given).__name__}.", hint="Pass a JSON schema as a dict, or a pydantic model."
    )
