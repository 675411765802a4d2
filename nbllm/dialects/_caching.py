"""What asks a provider to keep the beginning of a prompt for the next request that begins like it.

Anthropic keeps what stands before a mark, of which it takes four: on the last tool, on the system text, and
on the last two turns of the user, so that the next step finds the mark that this one has set. OpenAI keeps by
itself; a key brings requests of one conversation to the machine that has it. Gemini keeps what it is sent for
that, and is then told its name (see _contexts). Nothing here may differ between two steps of one
conversation, but for the turns' marks, which are no part of what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from ..core.calls import Endpoint
from ..core.errors import ConfigError
from ..core.messages import Request

_HOUR_DIALECTS = ("anthropic", "gemini")
_CACHE_CONTROL = "cache_control"
_MARKED_TURNS = 2  # of the user's that are marked
_MAX_DEPTH = 8  # a mark stands no deeper: messages, a turn, content, a block, its content, a block


def check_supported(request: Request, provider: Endpoint) -> None:
    """Raises ConfigError for cache="1h" where the provider has no word for it."""
    if request.cache == "1h" and provider.dialect not in _HOUR_DIALECTS and not provider.takes_cache_key:
        raise ConfigError(
            f"{provider.label or provider.name} has no cache=1h.",
            hint="Anthropic, Gemini and OpenAI at its own address have. Say cache=auto, or leave it out; a "
            "server that takes OpenAI's prompt_cache_key says so in its row: quirks = { cache_key = true }.",
        )


def openai_cache_fields(request: Request, provider: Endpoint) -> dict[str, Any]:
    """The fields of OpenAI's for it; the key is made of what stays in a conversation."""
    if request.cache is None or not provider.takes_cache_key:
        return {}
    stays = json.dumps([request.system, *(t.name for t in request.tools)])
    key = sha256(stays.encode("ascii")).hexdigest()[:16]
    kept = {"prompt_cache_retention": "24h"} if request.cache == "1h" else {}
    return {"prompt_cache_key": f"nbllm-{key}", **kept}


def with_breakpoints(body: dict[str, Any], request: Request) -> dict[str, Any]:
    """The body for Anthropic with its marks. What is kept longer must stand first, so "1h" holds for tools
    and system, not for turns. Who sets marks in `extra` sets them all: a fifth is refused."""
    if request.cache is None or _has_breakpoint(request.extra):
        return body
    brief = {_CACHE_CONTROL: {"type": "ephemeral"}}
    lasting = {_CACHE_CONTROL: {"type": "ephemeral", "ttl": "1h"}} if request.cache == "1h" else brief
    out = dict(body)
    if tools := body.get("tools"):
        out["tools"] = [*tools[:-1], {**tools[-1], **lasting}]
    if body.get("system", "").strip():  # a blank text cannot be marked
        out["system"] = [{"type": "text", "text": body["system"], **lasting}]
    turns = list(body.get("messages", ()))
    for at in [i for i, turn in enumerate(turns) if turn["role"] == "user"][-_MARKED_TURNS:]:
        *rest, last = turns[at]["content"]
        turns[at] = {**turns[at], "content": [*rest, {**last, **brief}]}
    return {**out, "messages": turns} if turns else out


def _has_breakpoint(value: Any, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH or not isinstance(value, (Mapping, list, tuple)):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return (isinstance(value, Mapping) and _CACHE_CONTROL in value) or any(
        _has_breakpoint(v, depth + 1) for v in inner
    )
