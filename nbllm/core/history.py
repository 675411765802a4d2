"""The rule that every provider has for calls: each has exactly one result, right behind the turn that made
it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

from .messages import Message, Part, Text, ToolCall, ToolResult, caption

NOT_RUN = "not run"


def complete_tool_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with exactly one result for every call, all of a turn together right behind it, in the
    order of its calls. A call without a result gets one that says it was not run; a second result of a call,
    and one without a call, is left out. Everything else stays, in its order. A conversation that keeps the
    rule stays as it is."""
    out: list[Message] = []
    for i, message in enumerate(messages):
        kept = _without_results(message)
        if kept.parts or not message.parts:
            out.append(kept)
        calls = [p for p in message.parts if isinstance(p, ToolCall)] if message.role == "assistant" else []
        if calls:
            told = takewhile(lambda m: m.role != "assistant", messages[i + 1 :])
            out.append(Message("tool", match_results(calls, (p for m in told for p in m.parts))))
    return tuple(out)


def describe_files(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with the files in results of tools told in words."""

    def worded(part: Part) -> Part:
        if not isinstance(part, ToolResult) or isinstance(part.content, str):
            return part
        content = [p if isinstance(p, Text) else Text(caption(p)) for p in part.content]
        return replace(part, content=tuple(content))

    return tuple(replace(m, parts=tuple(map(worded, m.parts))) if m.role == "tool" else m for m in messages)


def match_results(calls: Iterable[ToolCall], found: Iterable[Part]) -> list[ToolResult]:
    """One result for each of the calls: the next of `found` that has its id, or one that says that it was not
    run. Some servers give one id to several calls."""
    waiting: dict[str, list[ToolResult]] = {}
    for part in found:
        if isinstance(part, ToolResult):
            waiting.setdefault(part.id, []).append(part)
    return [
        waiting[c.id].pop(0) if waiting.get(c.id) else ToolResult(c.id, NOT_RUN, is_error=True, name=c.name)
        for c in calls
    ]


def _without_results(message: Message) -> Message:
    if not any(isinstance(p, ToolResult) for p in message.parts):
        return message
    parts = [p for p in message.parts if not isinstance(p, ToolResult)]
    return Message(message.role, parts, message.pinned)
