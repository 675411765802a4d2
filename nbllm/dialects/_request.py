"""Request encoding that the dialects share: parts of messages, ids, headers, the HTTP call."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from ..core.calls import Endpoint, HttpCall, Secret
from ..core.errors import ConfigError, ProtocolError
from ..core.events import unique_id
from ..core.messages import Document, Image, Message, Part, Raw, Request, Text, Tool, ToolCall, ToolResult
from ._json import SurrogateJoiner

# Tokens of thinking for each effort word, for models that take a budget: Google's own equivalents.
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}

_TEXT_TYPES = (
    "text/",
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
)


def reasoning_budget(reasoning: str | int) -> int:
    """`reasoning` as a budget in tokens. Raises ConfigError for an unknown word or a negative number."""
    if isinstance(reasoning, str):
        if reasoning not in BUDGETS:
            raise ConfigError(
                f"reasoning={reasoning!r} is not a known effort.",
                hint=f"Use {', '.join(BUDGETS)}, or a number of tokens.",
            )
        return BUDGETS[reasoning]
    if isinstance(reasoning, bool) or reasoning < 0:
        raise ConfigError(
            f"reasoning={reasoning!r} is not a number of tokens.",
            hint=f"Use {', '.join(BUDGETS)}, or a number of tokens.",
        )
    return reasoning


# The largest budget in tokens for which an effort word is the nearest.
_NEAREST = ((0, "none"), (2_900, "low"), (14_000, "medium"))


def reasoning_effort(reasoning: str | int | None) -> str | None:
    """The effort word for `reasoning`; a budget in tokens becomes the nearest word. For protocols that take
    only words."""
    if reasoning is None or isinstance(reasoning, str):
        return reasoning
    tokens = reasoning_budget(reasoning)
    return next((word for limit, word in _NEAREST if tokens <= limit), "high")


def without_foreign_blocks(messages: Iterable[Message], dialect: str = "") -> list[Message]:
    """The messages without raw blocks of other dialects."""

    def is_foreign(part: Part) -> bool:
        return isinstance(part, Raw) and part.dialect != dialect

    return [
        Message(m.role, [p for p in m.parts if not is_foreign(p)]) if any(map(is_foreign, m.parts)) else m
        for m in messages
    ]


def with_unique_ids(messages: Sequence[Message], dialect: str = "") -> list[Message]:
    """The messages with tool call ids that are unique within the conversation, without raw blocks of other
    dialects. Two answers may contain the same generated id, and some servers send one id twice, or none. A
    new id is built from the call's position, so that it stays the same when the conversation grows. A result
    belongs to the last turn before it that has its id, and there to the first call without a result."""
    messages = without_foreign_blocks(messages, dialect)
    calls = [p for m in messages for p in m.parts if isinstance(p, ToolCall)]
    taken = {c.id for c in calls if not c.made_up}
    if len(taken) == len(calls) and "" not in taken:
        return messages
    free = taken - {""}  # ids that no earlier call has
    new_ids: dict[str, list[str]] = {}  # by original id, those of the calls in the last turn that has it

    def new_id(call: ToolCall, position: str) -> str:
        if call.made_up or call.id not in free:
            return unique_id(f"nbllm-{position}", taken)
        free.remove(call.id)
        return call.id

    def rename_part(part: Part, position: str, turn_ids: dict[str, list[str]]) -> Part:
        if isinstance(part, ToolCall):
            id = new_id(part, position)
            new_ids[part.id] = turn_ids.setdefault(part.id, [])
            new_ids[part.id].append(id)
            return replace(part, id=id, made_up=part.made_up or id != part.id)
        if not isinstance(part, ToolResult) or part.id not in new_ids:
            return part
        waiting = new_ids[part.id]
        return replace(part, id=waiting.pop(0) if len(waiting) > 1 else waiting[0])

    renamed = []
    for i, message in enumerate(messages):
        turn_ids: dict[str, list[str]] = {}
        parts = [rename_part(p, f"{i}-{k}", turn_ids) for k, p in enumerate(message.parts)]
        renamed.append(Message(message.role, parts))
    return renamed


def with_short_ids(messages: Iterable[Message], exactly: int = 0, longest: int = 40) -> Iterator[Message]:
    """The messages with tool call ids that a provider accepts: of at most `longest` characters, or of
    `exactly` so many letters and digits. Other ids are replaced by a hash, alike in calls and results."""

    def short_id(id: str) -> str:
        digest = hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()
        if exactly:
            return id if len(id) == exactly and id.isascii() and id.isalnum() else digest[:exactly]
        return id if len(id) <= longest else f"call_{digest[: longest - 5]}"

    for message in messages:
        if any(isinstance(p, (ToolCall, ToolResult)) and short_id(p.id) != p.id for p in message.parts):
            parts = [
                replace(p, id=short_id(p.id)) if isinstance(p, (ToolCall, ToolResult)) else p
                for p in message.parts
            ]
            yield Message(message.role, parts, message.pinned)
        else:
            yield message


def merge_turns(messages: Iterable[Message], names: Mapping[str, str]) -> Iterator[tuple[str, list[Part]]]:
    """The turns of the conversation, as (role, parts): neighbouring messages of one role are one turn, system
    messages are left out. `names` maps roles to those of the protocol."""
    role, parts = "", list[Part]()
    for message in messages:
        name = names.get(message.role)
        if name is None:
            continue
        if name != role:
            if parts:
                yield role, parts
            role, parts = name, []
        parts += message.parts
    if parts:
        yield role, parts


def checked_system_text(request: Request) -> str:
    """The text of all system messages. Raises ConfigError for parts that are not text."""
    for message in request.messages:
        if message.role == "system":
            text_only(message)
    return request.system


def text_only(message: Message) -> str:
    """The text of a message. Raises ConfigError for parts that are not text."""
    other = next((p for p in message.parts if not isinstance(p, Text)), None)
    if other is not None:
        raise ConfigError(
            f"A {type(other).__name__} cannot be part of a {message.role} message.",
            hint="Put it into a user message.",
        )
    return message.text


def misplaced_part(part: Part, role: str, label: str) -> ConfigError:
    """The error for a part that a message of `role` cannot contain."""
    return ConfigError(
        f"{label} takes no {type(part).__name__} in a {role} message.",
        hint="Put pictures, documents and results into user messages, calls and thinking into the model's.",
    )


def data_url(part: Image | Document) -> str:
    """The bytes of a picture or document as a data: URL."""
    return f"data:{part.media_type};base64,{base64_data(part)}"


def base64_data(part: Image | Document) -> str:
    """The bytes of a picture or document as base64."""
    if part.data is None:
        raise ConfigError(
            f"{part!r} has neither data nor a url.", hint="Give its bytes in data=, or an address in url=."
        )
    return base64.b64encode(part.data).decode()


def document_text(part: Document) -> str | None:
    """The text of a document of a text type, None for other documents."""
    return (
        part.data.decode("utf-8", "replace")
        if part.data is not None and part.media_type.startswith(_TEXT_TYPES)
        else None
    )


def document_as_text(part: Document, label: str) -> str:
    """A document as text, for providers that take no documents. Raises ConfigError for other types."""
    text = document_text(part)
    if text is None:
        raise ConfigError(
            f"{label} takes no documents but text ({part!r}).",
            hint="Pass its text, or pictures of its pages.",
        )
    return f"\n\n{part.name}:\n{text}\n\n" if part.name else f"\n\n{text}\n\n"


def argument_object(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object. Invalid JSON is wrapped as Anthropic's documentation suggests."""
    return {"INVALID_JSON": call.arguments_raw} if call.arguments is None else call.arguments


def raw_arguments(call: ToolCall) -> str:
    """The arguments of a call as the exact text that came, because caches and signatures depend on it; "{}"
    for text that is not a JSON object, at which servers with chat templates fail."""
    is_object = call.arguments is not None and call.arguments_raw.lstrip().startswith("{")
    return call.arguments_raw if is_object else dumps(call.arguments or {})


def result_parts(result: ToolResult) -> tuple[Text | Image | Document, ...]:
    """The parts of a tool's result."""
    return (Text(result.content),) if isinstance(result.content, str) else result.content


def result_text(result: ToolResult, text: str | None = None) -> str:
    """The text of a tool's result (or `text`), with "Error: " before it if the call failed: for protocols
    without a field for that."""
    if text is None:
        text = "".join(p.text for p in result_parts(result) if isinstance(p, Text))
    return f"Error: {text}" if result.is_error and not text.lower().startswith("error") else text


def describe_tool(tool: Tool, **more: Any) -> dict[str, Any]:
    """The JSON object for a tool: its name, its description and `more`, without None."""
    about = {"name": tool.name, "description": tool.description or None, **more}
    return {k: v for k, v in about.items() if v is not None}


def url_under(provider: Endpoint, root: str, path: str) -> str:
    """The URL of `path` below `root`, which base_url may contain already."""
    return provider.base_url.rstrip("/").removesuffix(root) + root + path


def bearer_header(key: Secret | None) -> dict[str, str]:
    """The Authorization header with a key as a bearer token; empty without a key."""
    return {"Authorization": f"Bearer {key.reveal()}"} if key is not None else {}


def google_key_header(key: Secret | None) -> dict[str, str]:
    """Google's header with a key; empty without a key."""
    return {"x-goog-api-key": key.reveal()} if key is not None else {}


def build_post(
    provider: Endpoint,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    extra: Mapping[str, Any],
    *nested: str,
) -> HttpCall:
    """The POST call, with the headers and query parameters of the provider's row. Options without a value are
    left out; `extra` overrides the body, and is merged with the objects in it whose names are `nested`."""
    merged = merge_extra(without_none(body), extra, nested)
    if query := urlencode(provider.query, quote_via=quote):
        url += f"{'&' if '?' in url else '?'}{query}"
    return HttpCall(url, {**headers, **provider.headers}, merged)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without None, empty lists and empty objects."""
    return {k: v for k, v in values.items() if v is not None and not (isinstance(v, (list, dict)) and not v)}


def merge_extra(body: Mapping[str, Any], extra: Mapping[str, Any], nested: Sequence[str]) -> dict[str, Any]:
    """`body` with the fields of `extra` over it; objects whose names are `nested` are merged instead."""
    out = {**body, **extra}
    for name in nested:
        if isinstance(body.get(name), Mapping) and isinstance(extra.get(name), Mapping):
            out[name] = {**body[name], **extra[name]}
    return out


def dumps(value: Any) -> str:
    """`value` as JSON text that can always be encoded as UTF-8. Raises ProtocolError for values that are
    nested too deeply."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    except RecursionError:
        raise ProtocolError(
            "The provider sent a value that is nested too deeply.", hint="Ask again."
        ) from None
    return text


def arguments_json(value: Any) -> str:
    """A call's arguments as JSON text: a string is taken as it is, null becomes ""."""
    return (
        SurrogateJoiner().join("", value) if isinstance(value, str) else "" if value is None else dumps(value)
    )
