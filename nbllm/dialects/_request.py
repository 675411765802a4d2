"""What the dialects share of a request: its pieces, and the call that carries it."""

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

# Tokens of thinking that an effort word means where a model takes a budget: Google's own equivalents.
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}

_WORDY = (
    "text/",
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
)


def reasoning_budget(reasoning: str | int) -> int:
    """`reasoning` as a budget in tokens. Raises ConfigError for a word that is none of ours."""
    if isinstance(reasoning, str):
        if reasoning not in BUDGETS:
            raise ConfigError(
                f"reasoning={reasoning!r} is no effort.",
                hint=f"Say {', '.join(BUDGETS)}, or a number of tokens.",
            )
        return BUDGETS[reasoning]
    if isinstance(reasoning, bool) or reasoning < 0:
        raise ConfigError(
            f"reasoning={reasoning!r} is no budget.", hint="Give an effort word or a number of tokens."
        )
    return reasoning


# Budgets in tokens up to which an effort word is the nearest.
_NEAREST = ((0, "none"), (2_900, "low"), (14_000, "medium"))


def reasoning_effort(reasoning: str | int | None) -> str | None:
    """The effort word for `reasoning`; a budget in tokens becomes the nearest word, because words are all
    there is."""
    if reasoning is None or isinstance(reasoning, str):
        return reasoning
    tokens = reasoning_budget(reasoning)
    return next((word for most, word in _NEAREST if tokens <= most), "high")


def without_foreign_blocks(messages: Iterable[Message], dialect: str = "") -> list[Message]:
    """The messages without the blocks that only another wire format knows."""

    def theirs(part: Part) -> bool:
        return isinstance(part, Raw) and part.dialect != dialect

    return [
        Message(m.role, [p for p in m.parts if not theirs(p)]) if any(map(theirs, m.parts)) else m
        for m in messages
    ]


def with_unique_ids(messages: Sequence[Message], dialect: str = "") -> list[Message]:
    """The messages with the ids of their calls unique within the conversation: two answers may have made up
    the same, some servers give one twice, or none. An id that is made tells the call's place, so that it
    stays when the conversation grows. A result belongs to the last turn before it that has its id, and there
    to the first call that has none yet. Blocks of other wire formats are left out."""
    messages = without_foreign_blocks(messages, dialect)
    calls = [p for m in messages for p in m.parts if isinstance(p, ToolCall)]
    taken = {c.id for c in calls if not c.made_up}
    if len(taken) == len(calls) and "" not in taken:
        return messages
    free = taken - {""}  # ids that no call has been sent with yet
    open_: dict[str, list[str]] = {}  # of the calls of the last turn with an id, as they are sent

    def sent(call: ToolCall, place: str) -> str:
        if call.made_up or call.id not in free:
            return unique_id(f"nbllm-{place}", taken)
        free.remove(call.id)
        return call.id

    def renamed(part: Part, place: str, calls: dict[str, list[str]]) -> Part:
        if isinstance(part, ToolCall):
            open_[part.id] = calls.setdefault(part.id, [])
            open_[part.id].append(sent(part, place))
            id = open_[part.id][-1]
            return replace(part, id=id, made_up=part.made_up or id != part.id)
        if not isinstance(part, ToolResult) or part.id not in open_:
            return part
        waiting = open_[part.id]
        return replace(part, id=waiting.pop(0) if len(waiting) > 1 else waiting[0])

    found = []
    for i, message in enumerate(messages):
        calls_here: dict[str, list[str]] = {}
        parts = [renamed(p, f"{i}-{k}", calls_here) for k, p in enumerate(message.parts)]
        found.append(Message(message.role, parts))
    return found


def with_short_ids(messages: Iterable[Message], exactly: int = 0, most: int = 40) -> Iterator[Message]:
    """The messages with ids of calls as a provider takes them: at most so many characters, or `exactly` so
    many letters and digits. Of others one is made; calls and results agree."""

    def fitting(id: str) -> str:
        digest = hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()
        if exactly:
            return id if len(id) == exactly and id.isascii() and id.isalnum() else digest[:exactly]
        return id if len(id) <= most else f"call_{digest[: most - 5]}"

    for message in messages:
        if any(isinstance(p, (ToolCall, ToolResult)) and fitting(p.id) != p.id for p in message.parts):
            parts = [
                replace(p, id=fitting(p.id)) if isinstance(p, (ToolCall, ToolResult)) else p
                for p in message.parts
            ]
            yield Message(message.role, parts, message.pinned)
        else:
            yield message


def merge_turns(messages: Iterable[Message], names: Mapping[str, str]) -> Iterator[tuple[str, list[Part]]]:
    """The conversation without its system messages, neighbours of one role as one turn: (role, parts).
    `names` maps roles to those of the protocol."""
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
    """The text of all system messages. Raises ConfigError for anything else in them."""
    for message in request.messages:
        if message.role == "system":
            text_only(message)
    return request.system


def text_only(message: Message) -> str:
    """The text of a message that may hold nothing else."""
    odd = next((p for p in message.parts if not isinstance(p, Text)), None)
    if odd is not None:
        raise ConfigError(
            f"A {type(odd).__name__} cannot stand in a {message.role} message.",
            hint="Put it into a user message.",
        )
    return message.text


def misplaced_part(part: Part, role: str, label: str) -> ConfigError:
    """The error for a part that a turn of `role` cannot hold."""
    return ConfigError(
        f"{label} takes no {type(part).__name__} in a {role} message.",
        hint="Pictures, documents and results belong in user messages, calls and thinking in the model's.",
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
    """The words of a document that is text, None where it is not."""
    return (
        part.data.decode("utf-8", "replace")
        if part.data is not None and part.media_type.startswith(_WORDY)
        else None
    )


def document_as_text(part: Document, label: str) -> str:
    """A document for a provider that takes none but as a part of the prompt."""
    text = document_text(part)
    if text is None:
        raise ConfigError(
            f"{label} takes no documents but text ({part!r}).",
            hint="Pass its text, or pictures of its pages.",
        )
    return f"\n\n{part.name}:\n{text}\n\n" if part.name else f"\n\n{text}\n\n"


def argument_object(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object. What was not valid JSON is wrapped, in the way that Anthropic documents."""
    return {"INVALID_JSON": call.arguments_raw} if call.arguments is None else call.arguments


def raw_arguments(call: ToolCall) -> str:
    """The arguments of a call as they came, to the letter, because caches and signatures depend on it; {} for
    what is no JSON object: servers that write calls into a template fail at it."""
    whole = call.arguments is not None and call.arguments_raw.lstrip().startswith("{")
    return call.arguments_raw if whole else dumps(call.arguments or {})


def result_parts(result: ToolResult) -> tuple[Text | Image | Document, ...]:
    """The parts of a tool's result."""
    return (Text(result.content),) if isinstance(result.content, str) else result.content


def result_text(result: ToolResult, text: str | None = None) -> str:
    """The words of a tool's result, for protocols that have no mark for a failed call: the words say it."""
    if text is None:
        text = "".join(p.text for p in result_parts(result) if isinstance(p, Text))
    return f"Error: {text}" if result.is_error and not text.lower().startswith("error") else text


def describe_tool(tool: Tool, **more: Any) -> dict[str, Any]:
    """A tool by its name, its description, and `more`, as far as there is something to say."""
    about = {"name": tool.name, "description": tool.description or None, **more}
    return {k: v for k, v in about.items() if v is not None}


def url_under(provider: Endpoint, root: str, path: str) -> str:
    """An address below a root that base_url may hold already."""
    return provider.base_url.rstrip("/").removesuffix(root) + root + path


def bearer_header(key: Secret | None) -> dict[str, str]:
    """The header that carries a key as a token."""
    return {"Authorization": f"Bearer {key.reveal()}"} if key is not None else {}


def google_key_header(key: Secret | None) -> dict[str, str]:
    """The header that carries a key to Google."""
    return {"x-goog-api-key": key.reveal()} if key is not None else {}


def build_post(
    provider: Endpoint,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    extra: Mapping[str, Any],
    *nested: str,
) -> HttpCall:
    """The HTTP call. Options that were not asked for are left out; `extra` has the last word, and is merged
    with the objects of the body that are called one of `nested`."""
    whole = merge_extra(without_none(body), extra, nested)
    return HttpCall(add_query(url, provider), {**headers, **provider.headers}, whole)


def add_query(url: str, provider: Endpoint) -> str:
    """An address with the query that the row has for all its requests."""
    query = urlencode(provider.query, quote_via=quote)
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without what was not asked for: None, and lists and objects with nothing in them."""
    return {k: v for k, v in values.items() if v is not None and not (isinstance(v, (list, dict)) and not v)}


def merge_extra(body: Mapping[str, Any], extra: Mapping[str, Any], nested: Sequence[str]) -> dict[str, Any]:
    """`body` with `extra` over it; objects called one of `nested` are merged, so that ours are not erased."""
    out = {**body, **extra}
    for name in nested:
        if isinstance(body.get(name), Mapping) and isinstance(extra.get(name), Mapping):
            out[name] = {**body[name], **extra[name]}
    return out


def dumps(value: Any) -> str:
    """`value` as JSON text that can always be written as UTF-8."""
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
    """Arguments as JSON text: a string is that already, null is nothing."""
    return (
        SurrogateJoiner().join("", value) if isinstance(value, str) else "" if value is None else dumps(value)
    )
