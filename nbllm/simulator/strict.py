"""Rejects what real providers reject, with their messages: tool calls and results that do not match,
arguments that are not a JSON object, invalid tool names, and prompts beyond the context window. Pure.

The messages are quoted from public reports of 2025 and 2026. Ollama accepts any history.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from .normalized_request import HistoryEntry, NormalizedRequest
from .options import Options
from .protocols import ApiError
from .text import count_tokens

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OPENAI_TOOLS = {
    "name": "Invalid 'tools[{at}].function.name': string does not match pattern. Expected a string that "
    "matches the pattern '^[a-zA-Z0-9_-]+$'.",
    "twice": "Invalid 'tools': tool names must be unique, and '{name}' is given twice.",
    "choice": "Tool choice '{name}' not found in 'tools' parameter.",
    "context": "This model's maximum context length is {window} tokens. However, your messages resulted in "
    "{size} tokens. Please reduce the length of the messages.",
}
# By format and kind of fault. {ids}: of the calls; {at}: index of the message or tool.
_MESSAGES: Mapping[str, Mapping[str, str]] = {
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


def check(format: str, request: NormalizedRequest, options: Options) -> None:
    """Raises ApiError for a request that the provider of this format would reject."""
    messages = _MESSAGES.get(format, {})
    texts = request.extra.get("texts")  # embeddings: the limit applies to each text
    size = request.input_tokens if texts is None else max(map(count_tokens, texts), default=0)
    if options.window is not None and size > options.window:
        message = messages.get("context", "").format(size=size, window=options.window)
        raise ApiError(400, message, reason="context")
    if options.strict:
        kind, fields = _history_fault(request.history, format) or _tools_fault(request) or ("", {})
        if kind in messages:
            raise ApiError(400, messages[kind].format(**fields))


class _PendingCalls:
    """Calls without a result yet, in order. A result is matched by id, or by name if it has no id."""

    def __init__(self) -> None:
        self.calls: dict[int, HistoryEntry] = {}
        self._numbers: dict[str, deque[int]] = {}

    def add(self, number: int, call: HistoryEntry) -> None:
        self.calls[number] = call
        for key in (f"id {call.id}", f"name {call.name}"):
            self._numbers.setdefault(key, deque()).append(number)

    def take(self, result: HistoryEntry) -> HistoryEntry | None:
        """Removes and returns the call that a result belongs to, None if there is none."""
        key = f"id {result.id}" if result.id else f"name {result.name}"
        numbers = self._numbers.get(key, deque())
        while numbers:
            if (found := self.calls.pop(numbers.popleft(), None)) is not None:
                return found
        return None


def _history_fault(history: tuple[HistoryEntry, ...], format: str) -> tuple[str, dict[str, Any]] | None:
    """The first fault of the history: its kind, and the fields of its message."""
    pending = _PendingCalls()
    for number, entry in enumerate((*history, HistoryEntry("other", len(history), "user"))):
        first = next(iter(pending.calls.values()), None)
        if first is not None and _too_late(first, entry, format):
            return "missing", {
                "at": first.message_index,
                "ids": ", ".join(c.id for c in pending.calls.values()),
            }
        if entry.kind == "result" and pending.take(entry) is None:
            return "orphan", {"at": entry.message_index, "ids": entry.id}
        if entry.kind == "call":
            if entry.arguments is None:
                return "arguments", {"at": entry.message_index, "ids": entry.id}
            pending.add(number, entry)
    return None


def _too_late(call: HistoryEntry, entry: HistoryEntry, format: str) -> bool:
    """Whether the result of `call` should have come before `entry`. Responses has one item per part, so other
    items of the model may come between; Anthropic requires all results in the next message."""
    if entry.kind == "result":
        return format == "anthropic" and entry.message_index != call.message_index + 1
    return entry.role != "assistant" or (
        format != "openai_responses" and entry.message_index != call.message_index
    )


def _tools_fault(request: NormalizedRequest) -> tuple[str, dict[str, Any]] | None:
    names: set[str] = set()
    for i, name in enumerate(t.name for t in request.tools):
        if not _NAME.fullmatch(name):
            return "name", {"at": i, "name": name}
        if name in names:
            return "twice", {"at": i, "name": name}
        names.add(name)
    if request.tool_choice not in ("auto", "none", "required", *names):
        return "choice", {"name": request.tool_choice}
    return None
