"""What rate-limit headers mean, provider by provider: tables of what was really sent, and what must never be
misread."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core import errors
from nbllm.core.calls import ProviderSpec, Quirks
from nbllm.dialects._errors import http_error
from nbllm.dialects._limits import DAY, MINUTE, MONTH, SECOND, parse_duration, parse_limits
from nbllm.routing import registry

NOW = datetime(2025, 4, 17, 14, 40, 50, tzinfo=UTC).timestamp()
DATE = "Thu, 17 Apr 2025 14:40:50 GMT"


def told(headers, quirks=None, now=NOW):
    return {
        (limit.kind, limit.window): (limit.limit, limit.remaining, limit.reset)
        for limit in parse_limits(headers, now, quirks)
    }


def x(**values):
    """Headers x-ratelimit-...; `limit_requests` is x-ratelimit-limit-requests."""
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in values.items()}


OPENAI = x(
    limit_requests="500",
    remaining_requests="499",
    reset_requests="120ms",
    limit_tokens="30000",
    remaining_tokens="29000",
    reset_tokens="2s",
    limit_input_images="50000",
    remaining_input_images="49999",
    reset_input_images="1ms",
)
ANTHROPIC = {
    "date": DATE,
    "anthropic-ratelimit-input-tokens-limit": "100000",
    "anthropic-ratelimit-input-tokens-remaining": "100000",
    "anthropic-ratelimit-input-tokens-reset": "2025-04-17T14:40:50Z",
    "anthropic-ratelimit-output-tokens-limit": "20000",
    "anthropic-ratelimit-output-tokens-remaining": "16000",
    "anthropic-ratelimit-output-tokens-reset": "2025-04-17T14:41:10Z",
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2025-04-17T14:40:56Z",
}
GROQ = x(
    limit_requests="14400",
    remaining_requests="14370",
    reset_requests="2m59.56s",
    limit_tokens="18000",
    remaining_tokens="17997",
    reset_tokens="7.66ms",
)
CEREBRAS = x(
    limit_requests_day="216000",
    remaining_requests_day="215967",
    reset_requests_day="23673.933695316315",
    limit_tokens_minute="160000",
    remaining_tokens_minute="159327",
    reset_tokens_minute="33.9336953163147",
)
MISTRAL = x(
    limit_req_minute="60",
    remaining_req_minute="55",
    limit_tokens_minute="500000",
    remaining_tokens_minute="499708",
    limit_tokens_month="1000000000",
    remaining_tokens_month="999971051",
    tokens_query_cost="190",
)
TOGETHER = x(limit="100", remaining="199", reset="2", limit_tokens="16666", remaining_tokens="15971")
AZURE = x(
    limit_requests="50",
    remaining_requests="49",
    reset_requests="1200",
    renewalperiod_requests="60",
    limit_tokens="50000",
    remaining_tokens="49884",
    reset_tokens="139",
    renewalperiod_tokens="60",
    abusepenalty_active="False",
    key="gpt-5.2",
)
XAI = x(
    limit_requests="900",
    remaining_requests="888",
    limit_tokens="18446744073709551615",
    remaining_tokens="18446744073709549523",
)
FIREWORKS = x(
    limit_requests="60",
    remaining_requests="59",
    limit_tokens_prompt="60000",
    remaining_tokens_prompt="59954",
    limit_tokens_generated="6000",
    remaining_tokens_generated="5469",
    over_limit="no",
)
OPENROUTER = x(limit="20", remaining="0", reset=str(int((NOW + 30) * 1000)))

MEANT = {
    "openai": (
        OPENAI,
        {
            ("requests", MINUTE): (500, 499, 0.12),
            ("tokens", MINUTE): (30000, 29000, 2.0),
            ("images", MINUTE): (50000, 49999, 0.001),
        },
    ),
    "claude": (
        ANTHROPIC,
        {
            ("input", MINUTE): (100000, 100000, 0.0),
            ("output", MINUTE): (20000, 16000, 20.0),
            ("requests", MINUTE): (1000, 999, 6.0),
        },
    ),
    "groq": (
        GROQ,
        {("requests", DAY): (14400, 14370, 179.56), ("tokens", MINUTE): (18000, 17997, 0.00766)},
    ),
    "cerebras": (
        CEREBRAS,
        {
            ("requests", DAY): (216000, 215967, 23673.933695316315),
            ("tokens", MINUTE): (160000, 159327, 33.9336953163147),
        },
    ),
    "mistral": (
        MISTRAL,
        {
            ("requests", MINUTE): (60, 55, None),
            ("tokens", MINUTE): (500000, 499708, None),
            ("tokens", MONTH): (1e9, 999971051, None),
        },
    ),
    "together": (
        TOGETHER,
        {("requests", SECOND): (100, 199, 2.0), ("tokens", SECOND): (16666, 15971, None)},
    ),
    "huggingface": (
        TOGETHER,
        {("requests", SECOND): (100, 199, 2.0), ("tokens", SECOND): (16666, 15971, None)},
    ),
    "azure": (
        AZURE,
        {("requests", MINUTE): (50, 49, 1.2), ("tokens", MINUTE): (50000, 49884, 0.139)},
    ),
    "xai": (XAI, {("requests", MINUTE): (900, 888, None)}),
    "fireworks": (
        FIREWORKS,
        {
            ("requests", MINUTE): (60, 59, None),
            ("input", MINUTE): (60000, 59954, None),
            ("output", MINUTE): (6000, 5469, None),
        },
    ),
    "openrouter": (OPENROUTER, {("requests", MINUTE): (20, 0, 30.0)}),
}


@pytest.mark.parametrize("provider", MEANT)
def test_what_each_provider_means(provider):
    """The kinds, windows and units of real answers, with the quirks of the row they came from."""
    headers, meant = MEANT[provider]
    rows = registry.load({}).rows
    quirks = next(r.quirks for r in rows.values() if provider in (r.name, *r.prefixes))
    assert meant.keys() == told(headers, quirks).keys()
    for name, values in told(headers, quirks).items():
        assert pytest.approx(meant[name], abs=1e-3) == values


@pytest.mark.parametrize(
    ("headers", "meant"),
    [
        ({}, {}),
        (x(reset_requests="12s"), {}),  # how long, but of what?
        (x(limit='10, 10;w=1;name="a"', remaining="9", reset="1"), {("requests", SECOND): (10, 9, 1.0)}),
        (
            x(limit_requests="60, 60", remaining_requests="59, 59", reset_requests="1s, 1s"),
            {("requests", MINUTE): (60, 59, 1.0)},
        ),
        (
            {"ratelimit-limit": "100, 100;w=3600", "ratelimit-remaining": "50", "ratelimit-reset": "30"},
            {("requests", 3_600.0): (100, 50, 30.0)},
        ),
        (x(limit_requests="-1", remaining_requests="nan"), {}),
        (x(limit_requests="inf", remaining_requests="5"), {("requests", MINUTE): (None, 5, None)}),
        (
            x(remaining_requests="119", remaining_tokens="119984"),
            {("requests", 60): (None, 119, None), ("tokens", 60): (None, 119984, None)},
        ),
        (x(limit_minute="400", remaining_minute="399"), {("requests", 60): (400, 399, None)}),
        (x(limit_requests="10", reset_requests="soon"), {("requests", 60): (10, None, None)}),
        (x(limit="10", reset=str(int(NOW + 5))), {("requests", 60): (10, None, 5.0)}),
        (
            x(limit_requests="10", reset_requests="1" * 400),
            {("requests", 60): (10, None, pytest.approx(1e61, rel=1))},
        ),
        (x(limit_wishes="3", remaining_wishes="0"), {}),
        ({**ANTHROPIC, "date": "never"}, told(ANTHROPIC)),
    ],
)
def test_odd_headers(headers, meant):
    """What is no number, no limit or unknown is left out; a Date that is none, too."""
    assert meant == told(headers)


def test_the_answers_own_date_is_the_clock():
    """A machine whose clock is an hour fast reads the same resets."""
    assert told(ANTHROPIC) == told(ANTHROPIC, now=NOW + 3600)


@given(
    st.dictionaries(
        st.sampled_from(sorted({*OPENAI, *ANTHROPIC, *CEREBRAS, *MISTRAL, *TOGETHER, *AZURE, *FIREWORKS})),
        st.one_of(st.text(max_size=80), st.integers().map(str), st.floats().map(str)),
    ),
    st.floats(0, 1e11),
)
def test_whatever_the_values(headers, now):
    """Never an exception, never a negative number, at most one limit of a kind and name."""
    for limit in parse_limits(headers, now, Quirks(limits=("requests/day",))):
        for value in (limit.limit, limit.remaining, limit.reset):
            assert value is None or 0 <= value < float("inf")
        assert limit.window > 0
        assert limit.per in ("second", "minute", "hour", "day", "month")


@pytest.mark.parametrize(
    ("span", "text"),
    [(360.0, "6m0s"), (0.12, "120ms"), (1.5, "1.5"), (90061.5, "1d1h1m1.5s"), (None, ""), (None, "5 s ago")],
)
def test_spans(span, text):
    """Go's words for a time, and bare seconds."""
    assert span == parse_duration(text)


# --- refusals -----------------------------------------------------------------------------------------------


def google(quota_id, value, delay):
    said = "You exceeded your current quota, please check your plan and billing details."
    return {
        "error": {
            "code": 429,
            "message": said,
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {"quotaMetric": "x/requests", "quotaId": quota_id, "quotaValue": value},
                    ],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
            ],
        }
    }


def openai(message, kind="requests"):
    return {"error": {"message": message, "type": kind, "code": "rate_limit_exceeded"}}


GROQ_DAY = "Rate limit reached on tokens per day (TPD): Limit 100000, Used 99999. Try again in 4m12s."
ROUTER = {
    "error": {
        "message": "Rate limit exceeded: free-models-per-day",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "50",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int((NOW + 9000) * 1000)),
            }
        },
    }
}
REFUSED = {
    "gemini, minute": (
        google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "10", "36.4s"),
        {},
        "minute",
        None,
        36.4,
    ),
    "gemini, day": (
        google("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "250", "22s"),
        {},
        "day",
        ...,
        22.0,
    ),
    "groq, day": (openai(GROQ_DAY, "tokens"), {"retry-after": "252"}, "day", 252, 252.0),
    "groq, headers": (
        openai("slow down"),
        {**GROQ, "x-ratelimit-remaining-requests": "0"},
        "minute",
        None,
        None,
    ),
    "openai, minute": (
        openai("Rate limit reached on requests per min (RPM): Limit 3"),
        {"retry-after": "20"},
        "minute",
        None,
        20.0,
    ),
    "openai, day": (
        openai("Rate limit reached on requests per day (RPD): Limit 200"),
        {"retry-after-ms": "8640"},
        "day",
        8.64,
        8.64,
    ),
    "cerebras, day": (
        openai("too many"),
        {**CEREBRAS, "x-ratelimit-remaining-requests-day": "0"},
        "day",
        23673.93,
        None,
    ),
    "mistral, month": (
        openai("too many"),
        {**MISTRAL, "x-ratelimit-remaining-tokens-month": "0"},
        "month",
        None,
        None,
    ),
    "openrouter, day": (ROUTER, {}, "day", ..., None),
    "a reset of hours": (
        openai("models-per-day"),
        x(limit="50", remaining="0", reset="7200"),
        "day",
        7200,
        None,
    ),
    "a reset of a minute": (
        openai("models-per-day"),
        x(limit="50", remaining="0", reset="30"),
        "day",
        None,
        None,
    ),
    "github, minute": (
        {"error": {"message": "x"}},
        x(type="UserByModelByMinute", timeremaining="44"),
        "minute",
        None,
        44.0,
    ),
    "github, day": (
        {"error": {"message": "x"}},
        x(type="UserByModelByDay", timeremaining="4400"),
        "day",
        4400,
        4400.0,
    ),
    "azure, 1.2 s": (openai("x"), {**AZURE, "x-ratelimit-remaining-requests": "0"}, "minute", None, None),
    "nothing told": (openai("x"), {}, None, None, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_which_limit_refused(name):
    """A limit of hours or days is told as one, with the hour at which it goes on; Google's short retryDelay
    beside a daily limit is not obeyed."""
    body, headers, per, until, wait = REFUSED[name]
    error = http_error(429, headers, json.dumps(body).encode(), ProviderSpec("p", "openai_chat", "http://h"))
    now = datetime.now(UTC).timestamp()
    assert (errors.RateLimited, per, wait) == (
        type(error),
        per if error.per == per else error.per,
        error.retry_after,
    )
    assert error.is_lasting == (per in ("day", "month"))
    if until is None:
        assert error.until is None
    elif until is not ...:
        assert pytest.approx(now + until, abs=30) == error.until
    if error.until is not None:
        assert "try again after" in error.hint


def test_gemini_goes_on_at_midnight_in_california():
    """Of the next day, at most a day from now, and not after the 22 s that the answer names."""
    body = json.dumps(google("GenerateRequestsPerDayPerProjectPerModel", "250", "22s")).encode()
    error = http_error(429, {}, body, ProviderSpec("p", "gemini", "http://h"))
    now = datetime.now(UTC).timestamp()
    assert now - 30 < error.until <= now + DAY
    assert 8 == datetime.fromtimestamp(error.until, UTC).hour
    assert [("requests", 250.0, 0.0, DAY)] == [
        (limit.kind, limit.limit, limit.remaining, limit.window) for limit in error.limits
    ]


def test_a_months_budget_at_anthropic():
    """Its words name the day; asking again does not help before it."""
    said = (
        "You have reached your specified API usage limits. You will regain access on 2026-01-01 at 00:00 UTC."
    )
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": said}}).encode()
    error = http_error(400, {}, body, ProviderSpec("p", "anthropic", "http://h"))
    assert (errors.QuotaExceeded, "month") == (type(error), error.per)
    assert datetime(2026, 1, 1, tzinfo=UTC).timestamp() == error.until


@pytest.mark.parametrize(
    ("wait", "headers"),
    [
        (1.2, {**AZURE, "x-ratelimit-remaining-requests": "0"}),
        (33.934, {**CEREBRAS, "x-ratelimit-remaining-tokens-minute": "0"}),
        (None, {**AZURE, "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"}),
        (None, OPENAI),
        (90.0, {**OPENAI, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}),
        (None, x(remaining_requests="0")),
        (6.0, {**ANTHROPIC, "anthropic-ratelimit-requests-remaining": "0"}),
    ],
)
def test_when_a_used_up_limit_is_full_again(wait, headers):
    """In its own unit; a limit that has something left makes nobody wait."""
    error = http_error(429, headers, b"", ProviderSpec("p", "openai_chat", "http://h"))
    assert pytest.approx(wait, abs=1e-3) == error.reset_after


def test_a_free_tier_without_any_quota_is_no_rate_limit():
    """Google's limit of 0: no wait helps."""
    body = json.dumps(google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "0", "36s")).encode()
    assert isinstance(
        http_error(429, {}, body, ProviderSpec("p", "gemini", "http://h")), errors.QuotaExceeded
    )
