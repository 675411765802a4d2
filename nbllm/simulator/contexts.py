"""Gemini's cached contents (cachedContents): created, read, listed and deleted, and prepended to a request
that names one. The error messages are quoted from public reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from .normalized_request import NormalizedRequest
from .protocols import ApiError, HttpRequest, encode, gemini

_PATH = re.compile(r"(?>.*?/cachedContents)(?:/([^/:]+))?\Z", re.DOTALL)
# A request that names a cached content may not have these fields.
_CACHED_FIELDS = ("systemInstruction", "tools", "toolConfig")
_MIN_TOKENS, _PRO_MIN_TOKENS, _DEFAULT_TTL, _MAX_CONTEXTS = 1_024, 4_096, "3600s", 1_000
_UNKNOWN = "CachedContent not found (or permission denied)"
_CONFLICTING_FIELDS = (
    "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
    "tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
)
_MODEL_MISMATCH = "Model used by GenerateContent request ({}) and CachedContent ({}) has to be the same."


@dataclass(frozen=True, slots=True)
class Context:
    """One cached content. created, expires: epoch seconds."""

    name: str
    body: Mapping[str, Any]
    tokens: int
    created: float
    expires: float

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata, as the server returns it."""
        return {
            "name": self.name,
            "model": self.body["model"],
            "createTime": _time(self.created),
            "updateTime": _time(self.created),
            "expireTime": _time(self.expires),
            "displayName": str(self.body.get("displayName", "")),
            "usageMetadata": {"totalTokenCount": self.tokens},
        }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Contexts:
    """The cached contents of one simulator."""

    contexts: dict[str, Context] = field(default_factory=dict)
    count: int = 0

    def answer(self, request: HttpRequest, now: float) -> Any:
        """The body for a request about cached contents, None for any other. Raises ApiError."""
        if not (found := _PATH.fullmatch(request.path)):
            return None
        name = f"cachedContents/{found[1]}" if found[1] else ""
        if request.method == "POST" and not name:
            return self._create(request, now)
        if request.method == "GET" and not name:
            return {"cachedContents": [c.metadata for c in self.contexts.values() if c.expires > now]}
        if request.method == "GET":
            return self._get(name, now).metadata
        if request.method == "DELETE":
            del self.contexts[self._get(name, now).name]
            return {}
        return None

    def parse_request(self, request: HttpRequest, now: float) -> NormalizedRequest:
        """Parses a request for an answer, with its cached content prepended. Raises ApiError."""
        body = request.json() if b"cached" in request.body else {}
        name = body.get("cachedContent", body.get("cached_content"))
        if name is None:
            return gemini.parse_request(request)
        cached = self._get(str(name), now)
        model = f"models/{request.path.rpartition(':')[0].partition('models/')[2]}"
        if any(
            body.get(k) or body.get(re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", k)) for k in _CACHED_FIELDS
        ):
            raise ApiError(400, _CONFLICTING_FIELDS)
        if model != cached.body["model"]:
            raise ApiError(400, _MODEL_MISMATCH.format(model, cached.body["model"]))
        gemini.parse_request(request)  # raises if the request without the cached content is invalid
        cached_fields = {k: cached.body[k] for k in _CACHED_FIELDS if k in cached.body}
        contents = [*cached.body.get("contents", ()), *body["contents"]]
        merged = gemini.parse_request(
            replace(request, body=encode({**body, **cached_fields, "contents": contents}))
        )
        return replace(merged, extra={**merged.extra, "cached": cached.tokens})

    def _get(self, name: str, now: float) -> Context:
        found = self.contexts.get(name)
        if found is None or found.expires <= now:
            raise ApiError(403, _UNKNOWN)
        return found

    def _create(self, request: HttpRequest, now: float) -> Any:
        body = request.json()
        model = str(body.get("model") or "")
        if not model.startswith("models/"):
            raise ApiError(400, "* CreateCachedContentRequest.cached_content.model: model is not specified")
        contents = body.get("contents") or [{"role": "user", "parts": [{"text": ""}]}]
        probe = replace(
            request, path=f"/v1beta/{model}:generateContent", body=encode({**body, "contents": contents})
        )
        tokens = gemini.parse_request(probe).input_tokens
        min_tokens = _PRO_MIN_TOKENS if "pro" in model else _MIN_TOKENS
        if tokens < min_tokens:
            counts = f"total_token_count={tokens}, min_total_token_count={min_tokens}"
            raise ApiError(400, f"Cached content is too small. {counts}")
        self.count += 1
        expires = now + float(str(body.get("ttl") or _DEFAULT_TTL).removesuffix("s"))
        created = Context(f"cachedContents/sim{self.count}", body, tokens, now, expires)
        self.contexts[created.name] = created
        if len(self.contexts) > _MAX_CONTEXTS:
            del self.contexts[next(iter(self.contexts))]
        return created.metadata
