"""What Gemini keeps of a prompt by name (cachedContents): made, read, listed and deleted, and put before the
rest of a request that names it. The words of refusals are those of public reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from .normalized_request import Ask
from .protocols import Refused, Request, encode, gemini

_PATH = re.compile(r"(?>.*?/cachedContents)(?:/([^/:]+))?\Z", re.DOTALL)
_KEPT = ("systemInstruction", "tools", "toolConfig")  # of a request that names it, none
_MINIMUM, _PRO_MINIMUM, _TTL, _MOST = 1_024, 4_096, "3600s", 1_000
_UNKNOWN = "CachedContent not found (or permission denied)"
_BESIDE = (
    "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
    "tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
)
_OTHER = "Model used by GenerateContent request ({}) and CachedContent ({}) has to be the same."


@dataclass(frozen=True, slots=True)
class Context:
    """What is kept under a name, until a second of the wall clock."""

    name: str
    body: Mapping[str, Any]
    tokens: int
    made: float
    until: float

    @property
    def shown(self) -> dict[str, Any]:
        """As the server tells of it: not what it holds."""
        return {
            "name": self.name,
            "model": self.body["model"],
            "createTime": _time(self.made),
            "updateTime": _time(self.made),
            "expireTime": _time(self.until),
            "displayName": str(self.body.get("displayName", "")),
            "usageMetadata": {"totalTokenCount": self.tokens},
        }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Contexts:
    """Those of one simulator."""

    made: dict[str, Context] = field(default_factory=dict)
    count: int = 0

    def answer(self, request: Request, now: float) -> Any:
        """The body where the request is about what is kept, else None. Raises Refused."""
        if not (found := _PATH.fullmatch(request.path)):
            return None
        name = f"cachedContents/{found[1]}" if found[1] else ""
        if request.method == "POST" and not name:
            return self._make(request, now)
        if request.method == "GET" and not name:
            return {"cachedContents": [c.shown for c in self.made.values() if c.until > now]}
        if request.method == "GET":
            return self._of(name, now).shown
        if request.method == "DELETE":
            del self.made[self._of(name, now).name]
            return {}
        return None

    def ask(self, request: Request, now: float) -> Ask:
        """What a request for an answer asks, with what is kept before the rest of it. Raises Refused."""
        if b"cached" not in request.body:
            return gemini.ask(request)
        body = request.json()
        name = body.get("cachedContent", body.get("cached_content"))
        if name is None:
            return gemini.ask(request)
        kept = self._of(str(name), now)
        model = f"models/{request.path.rpartition(':')[0].partition('models/')[2]}"
        if any(body.get(k) or body.get(re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", k)) for k in _KEPT):
            raise Refused(400, _BESIDE)
        if model != kept.body["model"]:
            raise Refused(400, _OTHER.format(model, kept.body["model"]))
        gemini.ask(request)  # the rest asks something of its own
        before = {k: kept.body[k] for k in _KEPT if k in kept.body}
        contents = [*kept.body.get("contents", ()), *body["contents"]]
        ask = gemini.ask(replace(request, body=encode({**body, **before, "contents": contents})))
        return replace(ask, extra={**ask.extra, "cached": kept.tokens})

    def _of(self, name: str, now: float) -> Context:
        found = self.made.get(name)
        if found is None or found.until <= now:
            raise Refused(403, _UNKNOWN)
        return found

    def _make(self, request: Request, now: float) -> Any:
        body = request.json()
        model = str(body.get("model") or "")
        if not model.startswith("models/"):
            raise Refused(400, "* CreateCachedContentRequest.cached_content.model: model is not specified")
        said = body.get("contents") or [{"role": "user", "parts": [{"text": ""}]}]
        asked = replace(
            request, path=f"/v1beta/{model}:generateContent", body=encode({**body, "contents": said})
        )
        tokens, least = gemini.ask(asked).input_tokens, _PRO_MINIMUM if "pro" in model else _MINIMUM
        if tokens < least:
            told = f"total_token_count={tokens}, min_total_token_count={least}"
            raise Refused(400, f"Cached content is too small. {told}")
        self.count += 1
        until = now + float(str(body.get("ttl") or _TTL).removesuffix("s"))
        made = Context(f"cachedContents/sim{self.count}", body, tokens, now, until)
        self.made[made.name] = made
        if len(self.made) > _MOST:
            del self.made[next(iter(self.made))]
        return made.shown
