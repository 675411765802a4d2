"""Provider errors, built from an answer's status, headers and body: JSON, HTML or plain text."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..core import errors
from ..core.calls import Endpoint
from ..core.errors import ProtocolError, ProviderError
from . import _limits
from ._error_kinds import classify, error_codes
from ._json import items, label, load_json, obj

MESSAGE_LIMIT = 600  # characters of a provider's message that we show; the whole body stays in `.body`
_READ_LIMIT = 20_000  # characters of an error that are classified


_HINTS: dict[type[ProviderError], str] = {
    errors.AuthenticationError: "Check the key: `%llm key {name}` shows where it was found.",
    errors.PermissionDenied: "Check that this key may use this model.",
    errors.NotFound: "Check the model's name (`%llm models {name}`) and base_url.",
    errors.RateLimited: "Wait a little, ask for fewer tokens, or choose another model.",
    errors.QuotaExceeded: "Add credit to the account, or choose another model.",
    errors.Overloaded: "Try again in a moment, or choose another model.",
    errors.ServerError: "The fault is the provider's: try again in a moment.",
    errors.ContextLengthExceeded: "Shorten the prompt or choose a model with a larger context.",
    errors.ContentFiltered: "Change the prompt: the provider's filter stopped it.",
    errors.BadRequest: "Check the options of this call.",
}


def error_hint(kind: type[ProviderError], name: str, wait: float | None = None) -> str:
    """The hint for an error: what to do next. wait: seconds that the provider named."""
    if wait and kind in (errors.RateLimited, errors.Overloaded, errors.QuotaExceeded):
        return f"Try again in {_limits.duration_text(wait)}, or choose another model."
    return _HINTS.get(kind, "").format(name=name)


def _message_type_code(value: Any) -> tuple[str, str | None, str | int | None]:
    """(message, type, code) of an error object of any shape."""
    outer, inner = obj(_first_object(value)), _error_object(value)
    if isinstance(outer.get("error"), str):
        return outer["error"], label(outer.get("type")), label(outer.get("code"))
    text = _message(inner)
    raw = obj(inner.get("metadata")).get("raw")  # OpenRouter: the error of the provider behind it
    if raw:
        text = f"{text} ({raw if isinstance(raw, str) else json.dumps(raw)})"
    return text, label(inner.get("type")) or label(inner.get("status")), label(inner.get("code"))


def _first_object(value: Any) -> Any:
    """The first object of a list (an empty one for none); any other value as it is."""
    return next(items(value), {}) if isinstance(value, list) else value


def _error_object(value: Any) -> dict[str, Any]:
    """The innermost object of an error's body, which holds its message and code."""
    outer = obj(_first_object(value))
    return obj(_first_object(outer.get("error", outer))) or outer


def _message(inner: Mapping[str, Any], depth: int = 8) -> str:
    """The message in an error object, at most `depth` levels down."""
    for name in _MESSAGE_FIELDS:
        value = inner.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict) and depth and (text := _message(value, depth - 1)):
            return text
        if isinstance(value, list) and value:
            return "; ".join(
                v
                if isinstance(v, str)
                else _field_path(v) + ((_message(v, depth - 1) if depth else "") or json.dumps(v))
                for v in value[:_MAX_ERRORS]
                if isinstance(v, (str, dict))
            )
    return ""


def _field_path(item: Mapping[str, Any]) -> str:
    """FastAPI's `loc`, the path of the invalid field, as a prefix for its message; "" for none."""
    path = item.get("loc")
    names = [str(p) for p in (path if isinstance(path, list) else ()) if p != "body" and label(p)]
    return f"{'.'.join(names)}: " if names else ""


_MESSAGE_FIELDS = (
    "message",
    "detail",
    "details",
    "msg",
    "error_description",
    "errors",
    "title",
    "error_msg",
    "error_message",
    "errorMessage",
)
_MAX_ERRORS = 20  # errors of a list that are shown
_TAG = r"(?i)<(?:(/?)(script|style)\b)?[^<>]*>"


def page_text(page: str) -> str:
    """The text of an HTML page, without tags, scripts and styles; plain text as it is. Takes time linear in
    its length."""
    from html import unescape  # imports a large table

    texts, at, hidden = [], 0, False
    for tag in re.finditer(_TAG, page):
        texts += [] if hidden else [page[at : tag.start()]]
        at, hidden = tag.end(), not tag[1] if tag[2] else hidden
    text = " ".join([*texts, "" if hidden else page[at:]])
    with contextlib.suppress(ValueError):  # an entity of 5,000 digits
        text = unescape(text)
    return " ".join(text.split())


def provider_error(
    provider: Endpoint, value: Any, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> ProviderError:
    """The error for `value`: a JSON value, or the text of a page that is not JSON. headers: names in lower
    case."""
    headers = headers or {}
    if isinstance(value, str):
        text, kind, code = value.strip(), None, None
        if text.startswith("<"):  # its text may be only a title, so the beginning of the page is shown too
            text = f"{page_text(text[:_READ_LIMIT])}\n{text[:100]}"
    else:
        text, kind, code = _message_type_code(value)
        if not text and value:
            text = json.dumps(value)[:MESSAGE_LIMIT]
    text = text[:_READ_LIMIT]
    if status is not None and 300 <= status < 400:
        text = f"it redirects to {headers.get('location', 'another address')}, which is not followed"
    now = datetime.now(UTC).timestamp()
    headers = {**headers, **_upstream_headers(value)}
    wait = _limits.parse_retry_after(headers, value, now)
    wait = wait if wait is not None else _limits.wait_in_text(text, now)
    refusal = _limits.parse_refusal(headers, value, text, now, quirks=provider.quirks, wait=wait)
    codes = [*error_codes(_error_object(value)), *filter(None, (kind, str(code or "")))]
    cls = classify(status, text, codes)
    if cls is errors.QuotaExceeded and any(limit.spent for limit in refusal.limits):
        cls = errors.RateLimited  # Google's message mentions plans and billing for every limit
    shown = text[:MESSAGE_LIMIT] + ("…" if len(text) > MESSAGE_LIMIT else "")
    source = f"HTTP {status}" if status is not None else "an error in its answer"
    error = cls(
        f"{provider.label or provider.name} answered {source}: {shown or 'no message'}",
        status=status,
        type=kind,
        code=code,
        retry_after=wait,
        request_id=next(
            (headers[h] for h in ("x-request-id", "request-id", "x-goog-request-id") if h in headers),
            None,
        ),
        body=value if len(str(value)) < _READ_LIMIT else shown,
        hint=error_hint(cls, provider.name, wait),
    )
    _add_limits(error, refusal)
    return error


def _upstream_headers(value: Any) -> dict[str, str]:
    """The headers of the provider behind OpenRouter, which are in the error's body; names in lower case."""
    inner = obj(obj(obj(obj(value).get("error")).get("metadata")).get("headers"))
    return {k.lower(): v for k, v in inner.items() if isinstance(v, str)}


def _add_limits(error: ProviderError, refusal: _limits.Refusal) -> None:
    """Sets the error's attributes on limits, and the hint of a limit of an hour or longer."""
    error.limits = refusal.limits
    resets = (x.reset for x in refusal.limits if x.spent and x.reset is not None)
    error.reset_after = max(resets, default=None)
    if not isinstance(error, (errors.RateLimited, errors.QuotaExceeded)):
        return
    error.per, error.until = refusal.per, refusal.until
    if refusal.until is not None and isinstance(error, errors.RateLimited):
        again = datetime.fromtimestamp(min(refusal.until, _LATEST_TIME)).astimezone()
        error.hint = (
            f"The limit per {refusal.per} is used up: try again after {again:%H:%M} ({again:%d %B}), or "
            "choose another model."
        )


_LATEST_TIME = 4e9  # epoch seconds of the year 2096


def http_error(status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint) -> ProviderError:
    """The error for an HTTP answer whose body may be JSON of any shape, an event stream, HTML, plain text,
    empty, or cut off."""
    text = body.decode("utf-8", "replace").strip()
    if text.startswith(("data:", "event:")):
        lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        text = next((line for line in lines if line.startswith(("{", "["))), text)
    value: Any = text
    if text[:1] in ("{", "["):
        with contextlib.suppress(ProtocolError):
            value = load_json(text)
    return provider_error(provider, value, status=status, headers={k.lower(): v for k, v in headers.items()})
