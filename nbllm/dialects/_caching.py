"""Prompt caching: the fields that ask a provider to reuse the beginning of a prompt in later requests.

Anthropic caches what comes before a breakpoint and takes four of them: on the last tool, on the system text,
and on the last two user turns, so that the next step finds the breakpoint that this one has set. OpenAI
caches by itself; a key routes requests of one conversation to the machine that has the cache. Gemini caches
what is sent to it for that purpose under a name (see _contexts). Nothing here may differ between two steps of
one conversation, except the breakpoints of turns, which are not compared.
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
_MARKED_TURNS = 2  # of the user that get a breakpoint
_MAX_DEPTH = 8  # of a breakpoint in `extra`: messages, a turn, content, a block, its content, a block


def check_supported(request: Request, provider: Endpoint) -> None:
    """Raises ConfigError for cache="1h" if the provider has no such option."""
    if request.cache == "1h" and provider.dialect not in _HOUR_DIALECTS and not provider.takes_cache_key:
        raise ConfigError(
            f"{provider.label or provider.name} has no cache=1h.",
            hint="Anthropic, Gemini and OpenAI (at its own address) have it. Use cache=auto, or leave it "
            "out. For a server that takes OpenAI's prompt_cache_key, set quirks = { cache_key = true } in "
            "its row.",
        )


def openai_cache_fields(request: Request, provider: Endpoint) -> dict[str, Any]:
    """OpenAI's fields for prompt caching. The key is a hash of what is constant in a conversation: the system
    text and the names of the tools."""
    if request.cache is None or not provider.takes_cache_key:
        return {}
    constant = json.dumps([request.system, *(t.name for t in request.tools)])
    key = sha256(constant.encode("ascii")).hexdigest()[:16]
    retention = {"prompt_cache_retention": "24h"} if request.cache == "1h" else {}
    return {"prompt_cache_key": f"nbllm-{key}", **retention}


def with_breakpoints(body: dict[str, Any], request: Request) -> dict[str, Any]:
    """The body for Anthropic with its breakpoints. Those with a longer lifetime must come first, so "1h"
    applies to tools and system, not to turns. None are added if `extra` has some: a fifth is refused."""
    if request.cache is None or _has_breakpoint(request.extra):
        return body
    short = {_CACHE_CONTROL: {"type": "ephemeral"}}
    long = {_CACHE_CONTROL: {"type": "ephemeral", "ttl": "1h"}} if request.cache == "1h" else short
    out = dict(body)
    if tools := body.get("tools"):
        out["tools"] = [*tools[:-1], {**tools[-1], **long}]
    if body.get("system", "").strip():  # a blank text cannot have a breakpoint
        out["system"] = [{"type": "text", "text": body["system"], **long}]
    turns = list(body.get("messages", ()))
    for at in [i for i, turn in enumerate(turns) if turn["role"] == "user"][-_MARKED_TURNS:]:
        *rest, last = turns[at]["content"]
        turns[at] = {**turns[at], "content": [*rest, {**last, **short}]}
    return {**out, "messages": turns} if turns else out


def _has_breakpoint(value: Any, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH or not isinstance(value, (Mapping, list, tuple)):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return (isinstance(value, Mapping) and _CACHE_CONTROL in value) or any(
        _has_breakpoint(v, depth + 1) for v in inner
    )
