"""Answers that are given twice: what makes two calls equal, what is kept, who shares a call, and a file that
may be anybody's."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nbllm import Client, simulator
from nbllm.bench import run as bench_run
from nbllm.client.answers import AnswerCache
from nbllm.client.engine import engine
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.calls import Guard, HiddenTexts, HttpCall
from nbllm.core.events import (
    Finished,
    Notice,
    ReasoningDelta,
    Restarted,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from nbllm.core.messages import Image, Message, Text
from nbllm.notebook.commands import COMMANDS
from nbllm.notebook.view.static import answer_footer
from nbllm.routing import registry
from nbllm.store.answers import AnswerStore, CachedAnswer, cache_key, cacheable_events, contains_secret

KEY = "sk-canary-0123456789abcdef"
LONG = 30.0
EVENTS = (
    Started("id", "m"),
    ReasoningDelta("hm", signature="sig"),
    TextDelta("Hello"),
    ToolCallDelta(0, "c1", "f", '{"a": 1}', signature="s2"),
    UsageReport(Usage(3, 4), final=True),
    Finished("tool_calls"),
)


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.001, gap=0.001) as server:
        yield server


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    kept = engine().singleton(AnswerCache)
    kept.answers._problem, kept.answers._is_reported = "", False
    return tmp_path


@pytest.fixture
def client(sim, home):
    env = {
        "OPENAI_BASE_URL": sim.base_url("openai_chat"),
        "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_API_KEY": KEY,
    }
    made = Client(registry.load(env), retries=Retries(0))
    yield made
    made.close()


def asked(sim):
    return len(sim.records)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"])
def test_an_equal_call_is_answered_at_once(client, sim, model):
    """Text, reasons, counts and ids come back; it costs nothing, and what it would have cost is told."""
    before = asked(sim)
    first = client.complete("Twice?", model, cache=True, temperature=0.5)
    second = client.complete("Twice?", model, cache="true", temperature=0.5)
    assert asked(sim) == before + 1
    assert (first.cached, second.cached) == (False, True)
    assert (first.parts, first.usage, first.id) == (second.parts, second.usage, second.id)
    assert second.cost == 0.0
    assert second.timing.ttft is None
    assert second.timing.total is None
    assert second.simulated
    text = answer_footer(second).text
    assert "cached 0 s ago" in text
    assert "to first token" not in text
    rows = client.ledger.rows()
    assert [row["cached"] for row in rows[-2:]] == [False, True]
    assert rows[-1].get("ttft_ms") is None
    assert rows[-1]["cost_usd"] == 0.0
    third = client.complete("Twice?", model, cache="refresh", temperature=0.5)
    assert not third.cached
    assert asked(sim) == before + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"temperature": 0.1}, {"system": "S"}, {"sample": 1}, {"extra": {"user": "u"}}, {"seed": 3}]
)
def test_what_tells_calls_apart(client, more):
    """A parameter, a text, what goes to the provider as it is, and the sample."""
    client.complete(f"Apart {more}", "openai/m", cache=True)
    assert not client.complete(f"Apart {more}", "openai/m", cache=True, **more).cached
    assert client.complete(f"Apart {more}", "openai/m", cache=True, **more).cached


@pytest.mark.slow
def test_what_does_not_tell_calls_apart(client):
    """The key, time limits, retries; a picture counts by its bytes."""
    picture = Image(data=b"\x89PNG\r\n\x1a\n" + b"0" * 32, media_type="image/png")
    prompt = [Message("user", (Text("See"), picture))]
    client.complete(prompt, "openai/m", cache=True)
    assert client.complete(
        prompt, "openai/m", cache=True, api_key="other-key-00001", timeout=40, retries=2
    ).cached
    other = [Message("user", (Text("See"), replace(picture, data=picture.data + b"1")))]
    assert not client.complete(other, "openai/m", cache=True).cached


@pytest.mark.parametrize(
    "options", [({"temperature": 0}, {"temperature": 0.0}), ({"top_p": 1.0}, {"top_p": 1})]
)
@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic", "gemini", "ollama"])
def test_equal_numbers_are_equal(client, sim, options, dialect):
    """However they are written, and wherever a format puts them; what is sent is as it was said."""
    to = {"base_url": sim.base_url(dialect), "dialect": dialect, "api_key": KEY}
    first, second = (client.complete("Hi", "m", cache=True, **to, **more) for more in options)
    said = [list(map(repr, more.values())) for more in options]
    sent = [
        [repr(getattr(r.request, n)) for n in more] for r, more in zip((first, second), options, strict=True)
    ]
    assert said == sent
    assert (False, True) == (first.cached, second.cached)


def test_a_key_is_no_part_of_the_key():
    """Nor what stands before an @, nor a secret in the query."""

    def call(secret):
        guard = Guard((), HiddenTexts((secret, f"u:{secret}", "u")))
        url = f"https://u:{secret}@a.test/v1?api={secret}&version=2"
        return HttpCall(url, {"authorization": secret}, {"m": 1, "stream": True}, guard=guard)

    assert cache_key(call("secret-one-1"), "d") == cache_key(call("secret-two-22"), "d")
    assert cache_key(call("secret-one-1"), "d") != cache_key(call("secret-one-1"), "e")


@pytest.mark.parametrize(
    "ending",
    ["content_filter", "error", "cancelled", "other"],
)
def test_only_whole_answers_are_worth_keeping(ending):
    """What was made void, and what belongs to one sending, goes."""
    assert cacheable_events((*EVENTS[:-1], Finished(ending)), ()) == ()
    assert cacheable_events(EVENTS[:-1], ()) == () == cacheable_events((), ())
    assert cacheable_events((TextDelta("x"), Restarted("why"), Notice("retry", "r"), *EVENTS), ()) == EVENTS


def test_an_answer_that_holds_a_key_is_not_kept():
    """Be it in pieces."""
    pieces = (TextDelta(KEY[:9]), TextDelta(KEY[9:]), Finished("stop"))
    assert contains_secret(pieces, (KEY,))
    assert cacheable_events(pieces, (KEY,)) == ()
    assert not contains_secret(pieces, ("another-key",))


def test_errors_and_what_was_stopped_are_not_kept(client, sim):
    for _ in range(2):
        with pytest.raises(errors.ProviderError):
            client.complete("Err", "openai/sim@status=400", cache=True)
        cut = client.stream("Cut", "openai/sim@ttft=60", cache=True)
        cut.cancel()
        cut.wait_end(LONG)
        assert cut.log[-1][1].reason == "cancelled"
    assert engine().singleton(AnswerCache).answers.statistics()["answers"] == 0


@pytest.mark.slow
def test_equal_calls_are_one(client, sim):
    """64 at once: one request, 64 answers, of which one is paid for."""
    before = asked(sim)
    streams = [client.stream("Many", "openai/sim@ttft=0.3", cache=True) for _ in range(64)]
    answers = [stream.response(LONG) for stream in streams]
    assert asked(sim) == before + 1
    assert len({a.text for a in answers}) == 1
    assert sum(not a.cached for a in answers) == 1
    assert not engine().singleton(AnswerCache).flights


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [[0], [0, 1, 2], [3]])
def test_who_stops_leaves_the_others_their_answer(client, sim, stopped):
    before = asked(sim)
    told = {"user": f"{stopped}"}
    streams = [client.stream("Stop", "openai/sim@ttft=1.5", cache=True, extra=told) for _ in range(4)]
    for i in stopped:
        streams[i].cancel()
        streams[i].wait_end(LONG)
    left = [s.response(LONG) for i, s in enumerate(streams) if i not in stopped]
    assert asked(sim) == before + 1
    assert all(a.text for a in left)
    assert sum(not a.cached for a in left) == 1
    assert client.complete("Stop", "openai/sim@ttft=1.5", cache=True, extra=told).cached


@pytest.mark.slow
@pytest.mark.parametrize("shorter", [{"first": 0.2}, {"idle": 0.2}, {"total": 0.2}])
def test_nobody_waits_less_long_than_he_may(client, sim, shorter):
    """A limit of one call ends no other that has more time."""
    model = "openai/sim@ttft=0.01,stall=1,stall_for=2" if "idle" in shorter else "openai/sim@ttft=2"
    limits = (shorter, dict.fromkeys(shorter, LONG))
    hasty, patient = (client.stream(f"{shorter}", model, cache=True, retries=0, timeout=t) for t in limits)
    with pytest.raises(errors.Timeout):
        hasty.response(LONG)
    assert patient.response(LONG).finish_reason == "stop"


@pytest.mark.slow
def test_a_failure_is_everybodys(client, sim):
    streams = [client.stream("Fail", "openai/sim@status=400,headers=1.5", cache=True) for _ in range(3)]
    found = []
    for stream in streams:
        with pytest.raises(errors.ProviderError) as caught:
            stream.response(LONG)
        found.append(caught.value)
    assert len({id(e) for e in found}) == 3
    assert len({e.message for e in found}) == 1


def test_tools_use_the_cache_for_each_turn(client, sim):
    """Each turn is a call of its own."""

    def price(item: str) -> int:
        """The price of an item."""
        return 4

    told = {"tools": [price], "approve": "auto", "cache": True}
    first = client.complete("Price?", "openai/m", **told)
    before = asked(sim)
    second = client.complete("Price?", "openai/m", **told)
    assert asked(sim) == before
    assert first.text == second.text
    assert first.before
    assert second.cached
    assert second.cost == 0


@pytest.mark.parametrize("own", [True, "true", "refresh"])
def test_where_it_cannot_be_honoured(client, own):
    with pytest.raises(errors.ConfigError, match="commands"):
        client.stream("x", "cli/claude", cache=own)
    with pytest.raises(errors.ConfigError, match="benchmark"):
        bench_run([{"model": "sim/openai", "cache": own}], prompts=["x"], client=client)


# --- the file ---


@pytest.fixture
def store(tmp_path):
    return AnswerStore(tmp_path)


def test_it_is_the_users_alone(store):
    store.put("k", CachedAnswer(EVENTS, 5.0, True))
    assert store.get("k") == CachedAnswer(EVENTS, 5.0, True)
    assert store.path.stat().st_mode & 0o077 == 0 == store.path.parent.stat().st_mode & 0o077
    assert store.statistics() | {"path": ""} == {
        "path": "",
        "answers": 1,
        "bytes": store.statistics()["bytes"],
        "limit": 10**9,
        "hits": 1,
        "misses": 0,
    }
    assert store.clear() == 1
    assert store.get("k") is None
    assert not store.take_problem()


def test_what_was_used_least_goes_first(tmp_path):
    size = AnswerStore(tmp_path / "one")
    size.put("k", CachedAnswer(EVENTS, 1.0))
    store = AnswerStore(tmp_path, limit=size.statistics()["bytes"] * 10)
    for i in range(40):
        store.put(f"k{i}", CachedAnswer(EVENTS, 1.0))
    assert store.statistics()["bytes"] <= store.limit
    assert store.get("k39") is not None
    assert store.get("k0") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(b"no database" * 500),
        lambda p: p.write_bytes(p.read_bytes()[:3000] + os.urandom(3000)),
        lambda p: sqlite3.connect(p).execute("drop table answers"),
        lambda p: sqlite3.connect(p).execute("pragma user_version=99"),
        lambda p: (p.rename(p.with_name("x")), p.symlink_to(p.with_name("x"))),
    ],
)
def test_a_spoilt_file_breaks_no_call(client, sim, home, spoil):
    """It is told once; clear begins anew."""
    client.complete("Spoilt", "openai/m", cache=True)
    answers = engine().singleton(AnswerCache).answers
    spoil(answers.path)
    first, second = (client.complete("Spoilt", "openai/m", cache=True) for _ in range(2))
    assert first.text
    assert second.text
    assert not first.cached
    told = [n for r in (first, second) for n in r.notices if n.kind == "warning"]
    assert len(told) == 1
    assert "%llm cache clear" in told[0].text
    answers.clear()
    client.complete("Spoilt", "openai/m", cache=True)
    assert client.complete("Spoilt", "openai/m", cache=True).cached


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        zlib.compress(b"[]"),
        zlib.compress(b'{"nbllm": 1, "at": 1, "events": []}'),
        zlib.compress(b'{"nbllm": 9, "at": 1, "events": []}'),
        zlib.compress(b'{"nbllm": 1, "at": 1, "events": [{"type": "Finished", "reason": "error"}]}'),
        zlib.compress(b'{"nbllm": 1, "at": 1, "events": [{"type": "os.system"}]}'),
        zlib.compress(b"[" * 100_000),
    ],
)
def test_what_nbllm_did_not_write_is_no_answer(store, data):
    store.put("k", CachedAnswer(EVENTS, 1.0))
    with sqlite3.connect(store.path) as db:
        db.execute("update answers set data = ?", (data,))
    db.close()
    assert store.get("k") is None
    assert store.take_problem()


_WRITER = """
import sys
from pathlib import Path
from nbllm.core.events import Finished, TextDelta
from nbllm.store.answers import AnswerStore, CachedAnswer
store, name = AnswerStore(Path(sys.argv[1])), sys.argv[2]
i = 0
while True:
    store.put(f"{name}-{i}", CachedAnswer((TextDelta(name * 200), Finished("stop")), float(i)))
    if problem := store.take_problem():
        print("problem", problem, flush=True)
    print(i, flush=True)
    i += 1
"""


@pytest.mark.slow
def test_two_processes_write_and_one_is_killed(tmp_path):
    """What was written is there, and the other goes on."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    ends = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    lines = {"a": [], "b": []}

    def read(name, process, many):
        for _ in range(many):
            lines[name].append(process.stdout.readline().strip())

    try:
        threads = [threading.Thread(target=read, args=(n, p, 30)) for n, p in zip("ab", ends, strict=True)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(LONG)
        ends[0].send_signal(signal.SIGKILL)
        read("b", ends[1], 30)
    finally:
        for process in ends:
            process.kill()
            process.communicate()
    assert all(line.isdecimal() for of in lines.values() for line in of), lines
    store = AnswerStore(tmp_path)
    for name, of in lines.items():
        assert all(store.get(f"{name}-{i}").at == int(i) for i in of)
    with sqlite3.connect(store.path) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()


def test_the_line_tells_and_clears(client):
    """%llm cache."""
    session = SimpleNamespace(client=client)
    for _ in range(2):
        client.complete("Line", "openai/m", cache=True)
    assert COMMANDS["cache"](session, "").startswith("1 answer of 0.0 MB (at most 1,000 MB) in ")
    assert COMMANDS["cache"](session, "clear") == "Deleted: 1 answer."
    with pytest.raises(errors.ConfigError, match="cache clear"):
        COMMANDS["cache"](session, "x")
