"""What Gemini keeps of a prompt by name, for cache=1h: its beginning is sent once (cachedContents), and later
requests send its name and the rest.

What is kept is the system text, the tools and the turns before the last question; the rest begins with words
of the user, so that no call is parted from its result. A request that names what is kept may say nothing of
tools or system itself: one that forces or forbids calls is therefore sent whole.
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
from ..core.compaction import PICTURE
from ._json import items, obj, string
from ._request import dumps

HOUR = 3600.0  # seconds that it is kept
_HEAD_FIELDS = ("systemInstruction", "tools", "toolConfig")
_URL = re.compile(r"(?P<base>[^?#]*)/models/(?P<model>[^/?#]+):\w+\?alt=sse(?P<query>[^#]*)\Z", re.DOTALL)
_FILE_FIELDS = {"inlineData", "fileData"}
_MIN_TOKENS, _MIN_FLASH_TOKENS = 4_096, 1_024  # tokens, until the server says another number

Piece = tuple[int, str, Any]  # of a turn: its place, who said it, a part


class CacheablePrompt(msgspec.Struct, frozen=True):
    """A request as what may be kept of it (`head`, and the pieces of the turns before `question`) and the
    rest. marks: hashes of what stands before each piece; sizes: how many tokens, about."""

    call: HttpCall
    head: Mapping[str, Any]
    pieces: Sequence[Piece]
    question: int
    hashes: Sequence[str]
    sizes: Sequence[int]

    @property
    def size(self) -> int:
        """About how many tokens may be kept."""
        return self.sizes[self.question]

    def create_call(self) -> HttpCall:
        """The call that has the server keep it."""
        found = _URL.match(self.call.url)
        assert found is not None
        turns = _merge_turns(self.pieces[: self.question])
        body = {"model": "models/" + unquote(found["model"]), **self.head, "ttl": f"{HOUR:g}s"}
        query = found["query"].replace("&", "?", 1)
        where = f"{found['base']}/cachedContents{query}"
        return HttpCall(
            where, self.call.headers, body | ({"contents": turns} if turns else {}), guard=self.call.guard
        )

    def with_cache(self, name: str, upto: int) -> HttpCall:
        """The call for an answer, with the name of what is kept in place of the pieces before `upto`."""
        rest = {k: v for k, v in self.call.body.items() if k not in _HEAD_FIELDS}
        body = {**rest, "contents": _merge_turns(self.pieces[upto:]), "cachedContent": name}
        return HttpCall(self.call.url, self.call.headers, body, guard=self.call.guard)


def delete_call(created: HttpCall, name: str) -> HttpCall:
    """The call that has the server forget what `created` made."""
    return HttpCall(
        created.url.replace("/cachedContents", f"/{name}"), created.headers, {}, "DELETE", created.guard
    )


def cacheable_prompt(call: Any) -> CacheablePrompt | None:
    """What may be kept of a call; None where it names something itself, or says how tools must be called."""
    body = call.body
    if "cachedContent" in body or not _URL.match(call.url) or _restricts_calls(body):
        return None
    turns = enumerate(items(body.get("contents")))
    pieces = [(i, string(turn.get("role")), part) for i, turn in turns for part in items(turn.get("parts"))]
    results = {i for i, _, part in pieces if "functionResponse" in part}
    words = [k for k, (i, role, _) in enumerate(pieces) if role == "user" and i not in results]
    if not words:
        return None
    head = {k: body[k] for k in _HEAD_FIELDS if k in body}
    hashes, sizes, hashed, size = [], [], sha256(), 0
    for piece in ((-1, "", head), *pieces):
        text = dumps(piece)
        hashed.update(text.encode())
        size += PICTURE if _FILE_FIELDS & {*piece[2]} else len(text) // 4
        hashes.append(hashed.hexdigest())
        sizes.append(size)
    last = [k for k in words if pieces[k][0] == pieces[words[-1]][0]]  # the pieces of the last question
    return CacheablePrompt(
        call,
        head,
        pieces,
        next((k for k in reversed(last) if "text" in pieces[k][2]), last[0]),
        hashes,
        sizes,
    )


def _restricts_calls(body: Mapping[str, Any]) -> bool:
    mode = obj(obj(body.get("toolConfig")).get("functionCallingConfig")).get("mode")
    return mode not in (None, "AUTO", "VALIDATED")


def _merge_turns(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    return [
        {"role": role, "parts": [part for _, _, part in group]}
        for (_, role), group in groupby(pieces, key=lambda piece: piece[:2])
    ]


def min_tokens(model: str, refusal: str = "") -> int:
    """The fewest tokens that are kept of a model's prompts; as a refusal says, where it does."""
    said = re.search(r"min_total_token_count=(\d+)", refusal)
    return int(said[1][:9]) if said else _MIN_FLASH_TOKENS if "flash" in model else _MIN_TOKENS


def cache_notice(call: Any, model: str) -> str:
    """What a user should know before a request is sent that wants its prompt kept; "" for other servers."""
    if not isinstance(call, HttpCall) or ":streamGenerateContent" not in call.url:
        return ""
    prompt = cacheable_prompt(call)
    if prompt is None:
        return "Nothing would be cached: a request that names a context or forces a tool is sent in full."
    size, least = f"about {prompt.size:,} tokens", min_tokens(model)
    if prompt.size < least:
        return f"Nothing would be cached: {size} come before the question, and {least:,} are needed."
    return f"The provider would cache {size} for an hour, and bills the storage."
