"""A rule of every provider: each tool call has exactly one result, right after the turn that made the call.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

from .messages import Message, Part, Text, ToolCall, ToolResult, caption

NOT_RUN = "not run"


def complete_tool_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with exactly one result for every tool call: those of a turn together, right after it,
    in the order of its calls. A call without a result gets one that says it was not run; second results, and
    results without a call, are left out. Everything else stays, in its order."""
    out: list[Message] = []
    for i, message in enumerate(messages):
        rest = [p for p in message.parts if not isinstance(p, ToolResult)]
        if rest or not message.parts:
            out.append(
                Message(message.role, rest, message.pinned) if len(rest) < len(message.parts) else message
            )
        calls = [p for p in message.parts if isinstance(p, ToolCall)] if message.role == "assistant" else []
        if calls:
            following = takewhile(lambda m: m.role != "assistant", messages[i + 1 :])
            out.append(Message("tool", match_results(calls, (p for m in following for p in m.parts))))
    return tuple(out)


def describe_files(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with files in tool results replaced by their captions."""

    def with_captions(part: Part) -> Part:
        if not isinstance(part, ToolResult) or isinstance(part.content, str):
            return part
        content = [p if isinstance(p, Text) else Text(caption(p)) for p in part.content]
        return replace(part, content=tuple(content))

    return tuple(
        replace(m, parts=tuple(map(with_captions, m.parts))) if m.role == "tool" else m for m in messages
    )


def match_results(calls: Iterable[ToolCall], parts: Iterable[Part]) -> list[ToolResult]:
    """One result for each call: the next one in `parts` with its id, or one that says it was not run. Some
    servers give several calls the same id."""
    waiting: dict[str, list[ToolResult]] = {}
    for part in parts:
        if isinstance(part, ToolResult):
            waiting.setdefault(part.id, []).append(part)
    return [
        waiting[c.id].pop(0) if waiting.get(c.id) else ToolResult(c.id, NOT_RUN, is_error=True, name=c.name)
        for c in calls
    ]
