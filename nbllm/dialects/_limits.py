"""Rate limits and waiting times, parsed from an answer's headers and error body. Pure.

Providers use the same header names with different meanings. Seen in recorded answers:

- `reset` is a duration ("6m0s", "120ms"), plain seconds (Cerebras), milliseconds (Azure and relatives, which
  also send x-ratelimit-renewalperiod-*), a time (Anthropic), or an epoch in s or ms (OpenRouter).
- A limit is per minute unless its name or the provider's row names another window: Groq counts requests per
  day, Together per second.
- 2^64-1 (xAI) means no limit.
- Gateways leave out the "x-" (an internet draft), give the window as a parameter (Envoy's "10, 10;w=1")
  or repeat the value of the server behind them ("60, 60").
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..core.calls import Quirks
from ._json import items, label, obj, string

SECOND, MINUTE, HOUR, DAY, MONTH = 1.0, 60.0, 3_600.0, 86_400.0, 30 * 86_400.0
_LONGEST = 64  # characters of a number, a duration or a time that are parsed
_NO_LIMIT = 2.0**53
_EPOCH, _EPOCH_MS = 1e9, 1e11  # a larger reset is a point in time, in seconds or in milliseconds


class Limit(msgspec.Struct, frozen=True):
    """One limit of an account. kind: requests, tokens (input and output), input, output or images. limit: how
    many in `window` seconds; remaining: how many are left; reset: seconds until the full limit is available
    again; each None where the provider does not report it. assumed: the window is a default, because the
    provider does not name it."""

    kind: str
    limit: float | None = None
    remaining: float | None = None
    window: float = MINUTE
    reset: float | None = None
    assumed: bool = False

    @property
    def per(self) -> str:
        """The window as a word: second, minute, hour, day or month."""
        return next((word for word, longest in _WINDOW_NAMES if self.window <= longest), "month")

    @property
    def spent(self) -> bool:
        """Whether it is used up. Azure also sends 0 left with a reset of 0 s, which means nothing."""
        return self.remaining == 0 and self.reset != 0


_WINDOW_NAMES = (("second", 5.0), ("minute", 10 * MINUTE), ("hour", 6 * HOUR), ("day", 2 * DAY))
WINDOWS = {"second": SECOND, "minute": MINUTE, "hour": HOUR, "day": DAY, "month": MONTH}
_KINDS = {
    "": "requests",
    "requests": "requests",
    "req": "requests",
    "tokens": "tokens",
    "input-tokens": "input",
    "tokens-prompt": "input",
    "output-tokens": "output",
    "tokens-generated": "output",
    "input-images": "images",
}
_HEADER_FIELDS = ("limit", "remaining", "reset", "renewalperiod")


def _header_table() -> dict[str, tuple[str, str, str, str]]:
    """Every header that is read: (field, name of the limit, kind, window as a word)."""
    table = {}
    for field, (suffix, kind), window in itertools.product(_HEADER_FIELDS, _KINDS.items(), ("", *WINDOWS)):
        name = "-".join(filter(None, (suffix, window)))
        for start in ("x-ratelimit", "ratelimit"):
            table["-".join(filter(None, (start, field, name)))] = (field, name, kind, window)
        if suffix and not window:
            table[f"anthropic-ratelimit-{suffix}-{field}"] = (field, f"anthropic {suffix}", kind, "")
    return table


_HEADERS = _header_table()


def parse_limits(headers: Mapping[str, str], now: float, quirks: Quirks | None = None) -> tuple[Limit, ...]:
    """The limits in an answer's headers (names in lower case). now: epoch seconds, used if the answer has no
    Date header. quirks: of the provider's row."""
    found: dict[str, dict[str, str]] = {}
    about: dict[str, tuple[str, str]] = {}
    for header, text in headers.items():
        if (known := _HEADERS.get(header)) is not None:
            field, name, kind, window = known
            found.setdefault(name, {})[field] = text
            about[name] = (kind, window)
    if not found:
        return ()
    base = parse_time(headers.get("date", "")) or now
    defaults = _default_windows(quirks or Quirks(), found)
    parsed = (_limit(*about[name], texts, base, defaults) for name, texts in found.items())
    return tuple(limit for limit in parsed if limit is not None)


def _default_windows(quirks: Quirks, found: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Window by kind, for limits whose headers do not name it. Together's answers, which also come through
    gateways, are recognised by their form: plain names, a reset of a few seconds, and tokens."""
    bare = parse_number(found.get("", {}).get("reset", ""))
    if "tokens" in found and bare is not None and bare <= 5:
        return {"requests": SECOND, "tokens": SECOND}
    pairs = (entry.split("/", 1) for entry in quirks.limits)
    return {kind: WINDOWS[unit] for kind, unit in pairs}


def _limit(
    kind: str, window_word: str, texts: Mapping[str, str], now: float, defaults: Mapping[str, float]
) -> Limit | None:
    total, left = (parse_number(_first_value(texts.get(name, ""))) for name in ("limit", "remaining"))
    if (total is None and left is None) or max(total or 0, left or 0) >= _NO_LIMIT:
        return None
    period = parse_number(texts.get("renewalperiod", "")) or None
    named = re.search(r"; ?w=(\d{1,9})", texts.get("limit", ""))
    window = WINDOWS.get(window_word) or period or (named and float(named[1])) or defaults.get(kind)
    value = texts.get("reset", "")
    parsed = (_parse_reset(text, now, ms="renewalperiod" in texts) for text in (value, _first_value(value)))
    reset = next((reset for reset in parsed if reset is not None), None)
    return Limit(kind, total, left, window or MINUTE, reset, window is None)


def _first_value(text: str) -> str:
    """The first value of a header that two proxies wrote, without its parameters."""
    return re.split(", |;", text, maxsplit=1)[0]


def _parse_reset(text: str, now: float, *, ms: bool) -> float | None:
    bare = parse_number(text)
    if bare is None:
        return _parse_wait(text, now)
    if bare >= _EPOCH:
        return max(0.0, bare / (1000 if bare >= _EPOCH_MS else 1) - now)
    return bare / 1000 if ms else bare


def parse_number(text: str) -> float | None:
    """A finite number that is not negative; None for anything else."""
    try:
        value = float(text[:_LONGEST])
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def parse_duration(text: str) -> float | None:
    """Seconds in a plain number or a duration such as "1m30s", "250ms", "6h0m0.5s"; None for anything
    else."""
    text = text.strip()[:_LONGEST]
    if (bare := parse_number(text)) is not None:
        return bare
    return _sum_durations(text) if re.fullmatch(f"(?i)(?:{_DURATION_PATTERN[4:]})+", text) else None


_UNIT_SECONDS = {
    **dict.fromkeys(("ms", "millis", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes", "分钟"), MINUTE),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时"), HOUR),
    **dict.fromkeys(("d", "day", "days", "天"), DAY),
    **dict.fromkeys(("week", "weeks"), 7 * DAY),
}
_DURATION_PATTERN = (
    rf"(?i)(\d{{1,9}}(?:\.\d{{1,9}})?|\b(?:an?|one)(?=\s))\s*({'|'.join(_UNIT_SECONDS)})(?![a-z])"
)


def _sum_durations(text: str) -> float | None:
    """The sum of the durations in a text, in seconds; None where it holds none."""
    found = re.findall(_DURATION_PATTERN, text)
    durations = [
        float(number if number[0].isdigit() else 1) * _UNIT_SECONDS[unit.lower()] for number, unit in found
    ]
    return sum(durations) if durations else None


def _parse_wait(text: str, now: float) -> float | None:
    """Seconds in a duration, or until a time; None for anything else."""
    if (duration := parse_duration(text)) is not None or (when := parse_time(text)) is None:
        return duration
    return max(0.0, when - now)


def parse_time(text: str) -> float | None:
    """Epoch seconds of an HTTP date or an ISO 8601 time."""
    from email.utils import parsedate_to_datetime  # imports calendars and sockets

    text = text[:_LONGEST]
    try:
        when = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_retry_after(headers: Mapping[str, str], value: Any, now: float) -> float | None:
    """Seconds that the provider asks us to wait; None where it names none that can be parsed.

    Read from retry-after-ms (OpenAI, Azure), Retry-After in seconds or as an HTTP date (RFC 9110 section
    10.2.3), llm_provider-retry-after (LiteLLM), x-ratelimit-timeremaining (GitHub), the reset headers of
    proxies, google.rpc.RetryInfo in the body (`value`), or other fields there. Some send epoch seconds.
    """
    if (ms := parse_duration(headers.get("retry-after-ms", ""))) is not None:
        return ms / 1000
    for name in _WAIT_HEADERS:
        text, base = headers.get(name, "").strip(" \"'"), parse_time(headers.get("date", "")) or now
        waits = (_parse_reset(part.strip(), base, ms=False) for part in (text, *text.split(",")))
        if (wait := next((wait for wait in waits if wait is not None), None)) is not None:
            return wait  # if two proxies wrote it, the first value counts
    for detail in google_details(value, "RetryInfo"):
        return parse_duration(string(detail.get("retryDelay")))
    return _wait_in_body(value)


_WAIT_HEADERS = (
    *("retry-after", "llm_provider-retry-after", "x-retry-after", "x-ratelimit-timeremaining"),
    *("x-ratelimit-reset-after", "ratelimit-reset"),
)
_WAIT_FIELDS = {
    **dict.fromkeys(("retry_after", "retryAfter", "retry_after_seconds", "resets_in_seconds"), 1.0),
    **dict.fromkeys(("retry_after_ms", "retryAfterMs", "retry_after_millis"), 0.001),
}


def _wait_in_body(value: Any) -> float | None:
    """Seconds to wait, from the fields of an error's body; None where no field names them."""
    inner = obj(obj(value).get("error"))
    objects = (inner, obj(inner.get("metadata")), obj(inner.get("details")), obj(value))
    waits = (
        (parse_duration(label(o.get(name)) or ""), unit)
        for o in objects
        for name, unit in _WAIT_FIELDS.items()
    )
    return next((wait * unit for wait, unit in waits if wait is not None), None)


_WAIT_PATTERN = (
    r"(?i)(?:(?:again|retry|retrying|reset\w*|wait\w*|available|back)\W+(?:[a-z]+ ){0,3}?"
    r"(?:(?:in|after|for|at least|about|another)\W+){1,2}|\bwait[ :~]+|请在\s*|请等待\s*)"
    r"((?:\s*(?:and|,)?\s*(?:\d[\d.]*|an?\b|one\b)\s*(?:[a-z]+|秒|分钟|小时|天)){1,4})"
)
_EPOCH_PATTERN = r"limit reached\|(\d{10})\b"


def wait_in_text(text: str, now: float) -> float | None:
    """Seconds to wait that a sentence names: "Please try again in 7m12s", "retry after 30 seconds", "in 3
    days 2 hours"; None where it names none."""
    if stamp := re.search(_EPOCH_PATTERN, text):
        return max(0.0, float(stamp[1]) - now)
    found = re.search(_WAIT_PATTERN, text)
    return _sum_durations(found[1]) if found else None


def duration_text(seconds: float) -> str:
    """A duration as text, rounded up: "45 seconds", "an hour", "3 days"."""
    for unit, size in (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", 1.0)):
        if seconds > size * 0.99:
            number = math.ceil(round(seconds / size, 2))
            return f"a{'n' * (unit == 'hour')} {unit}" if number == 1 else f"{number} {unit}s"
    return "a second"


def google_details(value: Any, kind: str) -> list[Mapping[str, Any]]:
    """Google's error details whose type ends in `kind`, from an error's body."""
    parts = value if isinstance(value, list) else [value]
    found = (detail for part in parts for detail in items(obj(obj(part).get("error")).get("details")))
    return [detail for detail in found if string(detail.get("@type")).endswith(kind)]


# --- which limit refused a request --------------------------------------------------------------------------

_WINDOW_PATTERNS = (  # compiled at the first refusal: at import they would slow down the start
    ("month", r"per[ _-]?month|monthly|specified API usage limits"),
    ("day", r"per[ _-]?day|by[ _-]?day|daily|\((?:rpd|tpd)\)"),
    ("hour", r"per[ _-]?hour|by[ _-]?hour|hourly"),
    ("minute", r"per[ _-]?min|by[ _-]?min|\((?:rpm|tpm)\)"),
    ("second", r"per[ _-]?sec|by[ _-]?sec"),
)
_RESUMES_PATTERN = r"regain access on (\d{4}-\d\d-\d\d)(?: at (\d\d:\d\d))? UTC"


class Refusal(msgspec.Struct, frozen=True):
    """The limit that refused a request. per: second, minute, hour, day or month (None for unknown); until:
    epoch seconds when requests are allowed again, for hours and longer only; limits: all that were
    reported."""

    per: str | None = None
    until: float | None = None
    limits: tuple[Limit, ...] = ()


def parse_refusal(
    headers: Mapping[str, str], value: Any, text: str, now: float, *, quirks: Quirks, wait: float | None
) -> Refusal:
    """The limit that refused a request, from its headers, its body and the message. wait: seconds that the
    provider named."""
    limits = (*parse_limits(headers, now, quirks), *_google_limits(value, wait))
    google = " ".join(string(v.get("quotaId")) for v in _quota_violations(value))
    message = google or f"{headers.get('x-ratelimit-type', '')} {text}"
    spent = sorted((limit for limit in limits if limit.spent), key=lambda limit: limit.window)
    per = _window_in_text(message) or (spent[-1].per if spent else None)
    if per not in ("hour", "day", "month"):
        return Refusal(per, None, limits)
    if resumes := re.search(_RESUMES_PATTERN, text):
        return Refusal(per, parse_time(f"{resumes[1]}T{resumes[2] or '00:00'}+00:00"), limits)
    if google and per == "day":  # its short retryDelay belongs to limits per minute
        return Refusal(per, _next_pacific_midnight(now), limits)
    resets = [x.reset for x in spent if x.reset and (x.per == per or (x.assumed and x.reset > 10 * MINUTE))]
    wait = wait if wait is not None else next(iter(resets), None)
    return Refusal(per, None if wait is None else now + wait, limits)


def _window_in_text(text: str) -> str | None:
    """The window that a text names: second, minute, hour, day or month; None for none."""
    return next((per for per, pattern in _WINDOW_PATTERNS if re.search(pattern, text, re.I)), None)


def _quota_violations(value: Any) -> list[Mapping[str, Any]]:
    found = google_details(value, "QuotaFailure")
    return [violation for find_error in found for violation in items(find_error.get("violations"))]


def _google_limits(value: Any, wait: float | None) -> list[Limit]:
    """Google's limits, which are reported only when a request is refused."""
    limits = []
    for violation in _quota_violations(value):
        if quota := parse_number(str(violation.get("quotaValue", ""))):
            kind = "input" if "token" in string(violation.get("quotaMetric")).lower() else "requests"
            window = WINDOWS[_window_in_text(string(violation.get("quotaId"))) or "minute"]
            limits.append(Limit(kind, quota, 0.0, window, wait))
    return limits


def _next_pacific_midnight(now: float) -> float:
    """The next midnight of Pacific Standard Time, when Google resets its counts: in summer one hour too late,
    which is safe."""
    return now + DAY - (now - 8 * HOUR) % DAY
