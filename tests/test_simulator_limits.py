"""The simulator's rate limits: each provider's own headers and errors; the rows of a table respect them."""

import json
import urllib.error
import urllib.request

import pandas as pd
import pytest

import nbllm
from nbllm import simulator
from nbllm.core.calls import Quirks
from nbllm.core.errors import RateLimited
from nbllm.dialects._limits import parse_limits
from nbllm.simulator.limits import STYLES, Limits, Quota
from nbllm.simulator.options import BadOption, options_from

LONG = {"rpm": 2, "per": 3600.0}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))


def post(server, model, key="k"):
    """(status, headers, body) of a chat."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{server.base_url('openai_chat')}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.mark.parametrize("fixed", [False, True], ids=["bucket", "window"])
def test_a_count_lets_so_many_in(fixed):
    """A window gives all back at once, a bucket one after another."""
    count = Quota(60, 60.0, fixed, 60.0, 0.0, 60.0)
    assert 60 == sum(count.take(0.0) for _ in range(100))
    assert pytest.approx(60.0 if fixed else 1.0) == count.seconds_until_next
    assert (not fixed) == count.take(1.0)
    assert (60 if fixed else 58) == sum(count.take(60.0) for _ in range(100)) + (0 if fixed else -1)


@pytest.mark.parametrize(
    ("style", "kind", "told"),
    [
        ("openai", "requests", {"x-ratelimit-reset-requests", "retry-after", "retry-after-ms"}),
        ("anthropic", "requests", {"anthropic-ratelimit-requests-reset", "retry-after"}),
        ("azure", "requests", {"x-ratelimit-renewalperiod-requests", "retry-after-ms"}),
        ("groq", "requests", {"retry-after"}),
        ("cerebras", "requests", {"x-ratelimit-remaining-requests-minute"}),
        ("mistral", "requests", {"x-ratelimit-remaining-req-minute"}),
        ("together", "requests", {"x-ratelimit-remaining", "x-ratelimit-limit-tokens"}),
        ("xai", "requests", {"x-ratelimit-remaining-requests"}),
        ("gemini", None, set()),
        ("none", None, set()),
    ],
)
def test_each_provider_in_its_own_words(style, kind, told):
    """As clients read them: what is left in an answer, and the third of two refused."""
    with simulator.serve(ttft=0.0, gap=0.0, tokens=2, limits=style, **LONG) as server:
        first, second, third = (post(server, "m") for _ in range(3))
        other = post(server, "m", key="another")
    assert [200, 200, 429, 200] == [answer[0] for answer in (first, second, third, other)]
    assert told <= set(third[1])
    assert set() == {name for name in first[1] if name.startswith("retry-after")}
    quirks = Quirks(limits=("requests/day",)) if style == "groq" else Quirks()
    found = {limit.kind: limit for limit in parse_limits(first[1], 0.0, quirks)}
    assert (kind in found) == (kind is not None)
    if kind is not None and style != "groq":
        assert (2.0, 1.0) == (found[kind].limit, found[kind].remaining)


def test_gemini_tells_the_wait_in_the_body():
    """RetryInfo, and the quota that was violated; no header."""
    with simulator.serve(ttft=0.0, gap=0.0, tokens=2, limits="gemini", rpm=1, per=3600.0) as server:
        options = {"base_url": server.base_url("gemini"), "dialect": "gemini", "retries": 0}
        nbllm.complete("hi", "m", **options)
        with pytest.raises(RateLimited) as caught:
            nbllm.complete("hi", "m", **options)
    assert caught.value.retry_after > 3000
    assert "minute" == caught.value.per


@pytest.mark.parametrize("given", [{"limits": "aws"}, {"rpm": 0}, {"per": 0}, {"rpm": "many"}])
def test_a_wrong_option_is_refused(given):
    with pytest.raises(BadOption):
        options_from(given)


def test_nothing_is_limited_unless_asked_for():
    assert ({}, None) == Limits().take(options_from({}), ("k", "m"), 0.0, 0.0)
    assert {"openai", "none"} <= set(STYLES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "refusals"), [("openai", 5), ("azure", 5), ("groq", 60), ("gemini", 60), ("none", 60)]
)
def test_rows_keep_to_a_limit(style, refusals):
    """Over sockets, in shorter windows: 90 rows against thirty a second. A busy machine sends some late, into
    the next window: then it is tried again."""
    dialect = "gemini" if style == "gemini" else "openai_chat"
    for _ in range(5):
        with simulator.serve(ttft=0.0, gap=0.0, tokens=2, limits=style, rpm=30, per=1.0) as server:
            df = pd.DataFrame({"text": [f"row {i}" for i in range(90)]})
            url = server.base_url(dialect)
            out = nbllm.map(df, "{text}", model="m", base_url=url, dialect=dialect, confirm="yes", width=16)
            statuses = [record.status for record in server.records]
        assert {"ok"} == set(out["llm_status"])
        if statuses.count(429) <= refusals:
            break
    assert statuses.count(429) <= refusals
