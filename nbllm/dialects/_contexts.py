"""Gemini's explicit prompt cache, for cache=1h: the beginning of a prompt is sent once (cachedContents), and
later requests send the name of that context and the rest.

Cached are the system text, the tools and the turns before the last question. The rest begins with a text of
the user, so that no tool call is separated from its result. A request that names a context must not contain
tools or a system text: one that forces or forbids calls is therefore sent in full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import msgspec

from ..core.calls import HttpCall
from ..core.compaction import IMAGE_TOKENS
from ._json import items, obj, string
from ._request import dumps

HOUR = 3600.0  # seconds that a context is cached
_HEAD_FIELDS = ("systemInstruction", "tools", "toolConfig")
_URL = re.compile(r"(?P<base>[^?#]*)/models/(?P<model>[^/?#]+):\w+\?alt=sse(?P<query>[^#]*)\Z", re.DOTALL)
_FILE_FIELDS = {"inlineData", "fileData"}
_MIN_TOKENS, _MIN_FLASH_TOKENS = 4_096, 1_024  # used until the server names another number

Piece = tuple[int, str, Any]  # index of the turn, its role, one of its parts


class CacheablePrompt(msgspec.Struct, frozen=True):
    """A request, split into what can be cached (`head`, and the pieces of turns before index `question`) and
    the rest. hashes: of all that comes before each piece; sizes: estimated tokens of the same."""

    call: HttpCall
    head: Mapping[str, Any]
    pieces: Sequence[Piece]
    question: int
    hashes: Sequence[str]
    sizes: Sequence[int]

    @property
    def size(self) -> int:
        """Estimated number of tokens that can be cached."""
        return self.sizes[self.question]

    def create_call(self) -> HttpCall:
        """The call that creates the cached context."""
        found = _URL.match(self.call.url)
        assert found is not None
        turns = _merge_turns(self.pieces[: self.question])
        body = {"model": "models/" + unquote(found["model"]), **self.head, "ttl": f"{HOUR:g}s"}
        url = f"{found['base']}/cachedContents{found['query'].replace('&', '?', 1)}"
        return HttpCall(
            url, self.call.headers, body | ({"contents": turns} if turns else {}), guard=self.call.guard
        )

    def with_cache(self, name: str, upto: int) -> HttpCall:
        """The call for an answer, with the context's name in place of the pieces before index `upto`."""
        rest = {k: v for k, v in self.call.body.items() if k not in _HEAD_FIELDS}
        body = {**rest, "contents": _merge_turns(self.pieces[upto:]), "cachedContent": name}
        return HttpCall(self.call.url, self.call.headers, body, guard=self.call.guard)


def delete_call(created: HttpCall, name: str) -> HttpCall:
    """The call that deletes the context `name`, which `created` created."""
    return HttpCall(
        created.url.replace("/cachedContents", f"/{name}"), created.headers, {}, "DELETE", created.guard
    )


def cacheable_prompt(call: Any) -> CacheablePrompt | None:
    """The cacheable prompt of a call; None where it names a context itself, or restricts tool calls."""
    body = call.body
    mode = obj(obj(body.get("toolConfig")).get("functionCallingConfig")).get("mode")
    restricts_calls = mode not in (None, "AUTO", "VALIDATED")
    if "cachedContent" in body or not _URL.match(call.url) or restricts_calls:
        return None
    turns = enumerate(items(body.get("contents")))
    pieces = [(i, string(turn.get("role")), part) for i, turn in turns for part in items(turn.get("parts"))]
    results = {i for i, _, part in pieces if "functionResponse" in part}
    texts = [k for k, (i, role, _) in enumerate(pieces) if role == "user" and i not in results]
    if not texts:
        return None
    head = {k: body[k] for k in _HEAD_FIELDS if k in body}
    hashes, sizes, hashed, size = [], [], sha256(), 0
    for piece in ((-1, "", head), *pieces):
        text = dumps(piece)
        hashed.update(text.encode())
        size += IMAGE_TOKENS if _FILE_FIELDS & {*piece[2]} else len(text) // 4
        hashes.append(hashed.hexdigest())
        sizes.append(size)
    last = [k for k in texts if pieces[k][0] == pieces[texts[-1]][0]]  # the pieces of the last question
    return CacheablePrompt(
        call,
        head,
        pieces,
        next((k for k in reversed(last) if "text" in pieces[k][2]), last[0]),
        hashes,
        sizes,
    )


def _merge_turns(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    return [
        {"role": role, "parts": [part for _, _, part in group]}
        for (_, role), group in groupby(pieces, key=lambda piece: piece[:2])
    ]


def min_tokens(model: str, refusal: str = "") -> int:
    """The smallest number of tokens that can be cached for a model; `refusal` may name it."""
    found = re.search(r"min_total_token_count=(\d+)", refusal)
    return int(found[1][:9]) if found else _MIN_FLASH_TOKENS if "flash" in model else _MIN_TOKENS


def cache_notice(call: Any, model: str) -> str:
    """What would be cached of a request with cache=1h, as a notice to the user; "" for other servers."""
    if not isinstance(call, HttpCall) or ":streamGenerateContent" not in call.url:
        return ""
    prompt = cacheable_prompt(call)
    if prompt is None:
        return "Nothing would be cached: a request that names a context or forces a tool is sent in full."
    size, least = f"about {prompt.size:,} tokens", min_tokens(model)
    if prompt.size < least:
        return f"Nothing would be cached: {size} come before the question, and {least:,} are needed."
    return f"The provider would cache {size} for an hour, and bills the storage."
