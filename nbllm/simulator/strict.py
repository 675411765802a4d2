"""What real providers refuse, in their own words: calls and results that do not belong together, arguments
that are no JSON object, names of tools, and more tokens than a model reads. Pure.

The words are those of the providers' answers in public reports of 2025 and 2026. Ollama takes any history.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from .normalized_request import Ask, Entry
from .options import Options
from .protocols import Refused
from .text import count

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OPENAI_TOOLS = {
    "name": "Invalid 'tools[{at}].function.name': string does not match pattern. Expected a string that "
    "matches the pattern '^[a-zA-Z0-9_-]+$'.",
    "twice": "Invalid 'tools': tool names must be unique, and '{name}' is given twice.",
    "choice": "Tool choice '{name}' not found in 'tools' parameter.",
    "context": "This model's maximum context length is {window} tokens. However, your messages resulted in "
    "{size} tokens. Please reduce the length of the messages.",
}
# By format and kind of fault; {ids} of the calls, {at} the place of the message or tool.
_WORDS: Mapping[str, Mapping[str, str]] = {
    "openai_chat": {
        "missing": "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: {ids}",
        "orphan": "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
        "with 'tool_calls'.",
        "arguments": "Invalid 'messages[{at}].tool_calls[0].function.arguments': expected the JSON of an "
        "object.",
        **_OPENAI_TOOLS,
    },
    "openai_responses": {
        "missing": "No tool output found for function call {ids}.",
        "orphan": "No tool call found for function call output with call_id {ids}.",
        "arguments": "Invalid 'input[{at}].arguments': expected the JSON of an object.",
        **_OPENAI_TOOLS,
    },
    "anthropic": {
        "missing": "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        "{ids}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        "orphan": "messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {ids}. "
        "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
        "arguments": "messages.{at}.content.0.tool_use.input: Input should be a valid dictionary",
        "name": "tools.{at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'",
        "twice": "tools: Tool names must be unique.",
        "choice": "Tool '{name}' not found in provided tools",
        "context": "prompt is too long: {size} tokens > {window} maximum",
    },
    "gemini": {
        "missing": "Please ensure that the number of function response parts is equal to the number of "
        "function call parts of the function call turn.",
        "orphan": "Please ensure that function response turn comes immediately after a function call turn.",
        "arguments": "Invalid value at 'contents[{at}].parts[0].function_call.args'",
        "name": "Invalid function name at tools[{at}]. Must start with a letter or an underscore, with a "
        "maximum length of 64.",
        "twice": "Duplicate function declaration found: {name}",
        "choice": "allowed_function_names should be a subset of the declared functions: {name}",
        "context": "The input token count ({size}) exceeds the maximum number of tokens allowed ({window}).",
    },
    "ollama": {"context": "input length exceeds maximum context length"},
}


def check(format: str, ask: Ask, options: Options) -> None:
    """Raises Refused for what the provider of this format would refuse."""
    words = _WORDS.get(format, {})
    texts = ask.extra.get("texts")  # each of which has a window of its own
    size = ask.input_tokens if texts is None else max(map(count, texts), default=0)
    if options.window is not None and size > options.window:
        told = words.get("context", "").format(size=size, window=options.window)
        raise Refused(400, told, why="context")
    if options.strict:
        kind, about = _history(ask.history, format) or _tools(ask) or ("", {})
        if kind in words:
            raise Refused(400, words[kind].format(**about))


class _Waiting:
    """Calls without a result yet, in their order; a result is looked up by id, or by name where ids are
    missing."""

    def __init__(self) -> None:
        self.calls: dict[int, Entry] = {}
        self._known: dict[str, deque[int]] = {}

    def add(self, number: int, call: Entry) -> None:
        self.calls[number] = call
        for key in (f"id {call.id}", f"name {call.name}"):
            self._known.setdefault(key, deque()).append(number)

    def take(self, result: Entry) -> Entry | None:
        """The call that a result answers, None where there is none."""
        for key in (f"id {result.id}" if result.id else "", f"name {result.name}" if not result.id else ""):
            numbers = self._known.get(key, deque())
            while numbers:
                if (found := self.calls.pop(numbers.popleft(), None)) is not None:
                    return found
        return None

    @property
    def first(self) -> Entry | None:
        """The call that has waited longest."""
        return next(iter(self.calls.values()), None)


def _history(history: tuple[Entry, ...], format: str) -> tuple[str, dict[str, Any]] | None:
    """The first fault: (kind, what the words tell of it)."""
    waiting = _Waiting()
    for number, entry in enumerate((*history, Entry("other", len(history), "user"))):
        first = waiting.first
        if first is not None and _too_late(first, entry, format):
            return "missing", {"at": first.at, "ids": ", ".join(c.id for c in waiting.calls.values())}
        if entry.kind == "result" and waiting.take(entry) is None:
            return "orphan", {"at": entry.at, "ids": entry.id}
        if entry.kind == "call":
            if entry.arguments is None:
                return "arguments", {"at": entry.at, "ids": entry.id}
            waiting.add(number, entry)
    return None


def _too_late(call: Entry, entry: Entry, format: str) -> bool:
    """Whether a call should have had its result before this. Responses has an item for each part, so that
    other items of the model's may stand between; Anthropic wants all results in the next message."""
    if entry.kind == "result":
        return format == "anthropic" and entry.at != call.at + 1
    return entry.role != "assistant" or (format != "openai_responses" and entry.at != call.at)


def _tools(ask: Ask) -> tuple[str, dict[str, Any]] | None:
    names: set[str] = set()
    for i, name in enumerate(t.name for t in ask.tools):
        if not _NAME.fullmatch(name):
            return "name", {"at": i, "name": name}
        if name in names:
            return "twice", {"at": i, "name": name}
        names.add(name)
    if ask.choice not in ("auto", "none", "required", *names):
        return "choice", {"name": ask.choice}
    return None
