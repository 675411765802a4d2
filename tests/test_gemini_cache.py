"""Gemini's cached contents for cache=1h: created once, used afterwards, reported, and never at the expense of
an answer."""

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm import simulator
from nbllm.client.client import Client
from nbllm.core.calls import HttpCall
from nbllm.core.errors import AuthenticationError, ConfigError
from nbllm.core.messages import Document, Image, Message, Request, Text, Tool, ToolCall, ToolResult
from nbllm.dialects._contexts import cache_notice, cacheable_prompt, min_tokens
from nbllm.notebook.view.static import answer_footer

from .examples import examples
from .listeners import Listener
from .test_prompt_caching import body as body_of
from .test_prompt_caching import conversation, said

LONG = "The house rules, which stand before every question. " * 200  # some 2,600 tokens
SHORT = "Be brief."
KEY = {"api_key": "canary-key-of-the-user"}


def price(article: str) -> float:
    """What it costs."""
    return 4.5


@pytest.fixture
def server():
    with simulator.serve(port=0, ttft=0, gap=0, tokens=5) as made:
        yield made


@pytest.fixture
def client():
    made = Client()
    yield made
    made.close()


def asked(client, server, prompt="And?", model="sim-flash", **options):
    where = {"base_url": server.url, "dialect": "gemini", **KEY}
    return client.stream(prompt, model, **{"cache": "1h", "system": LONG} | where | options)


def bodies(stream):
    """What was sent for an answer, each attempt of each turn."""
    stream.response()
    return [t.attempts[-1].call.body for t in stream.turns or [stream]]


def notices(response):
    return [n.text for n in response.notices if n.kind == "context"]


def get(server, path, method="GET", payload=None):
    """(status, JSON) of a question that nbllm does not ask."""
    data = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(
        f"{server.url}/v1beta{path}", data, {"x-goog-api-key": "k"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def kept(server):
    return get(server, "/cachedContents")[1]["cachedContents"]


# --- the user's side ----------------------------------------------------------------------------------------


def test_a_long_beginning_is_kept_once_and_named_afterwards(client, server):
    """The first answer says so; the counts show what came from there, in the footer and the log too."""
    first, second = (asked(client, server, q).response() for q in ("One?", "Two?"))
    (context,) = kept(server)
    tokens = context["usageMetadata"]["totalTokenCount"]
    assert f"caches {tokens:,} tokens of the prompt for an hour, and bills their storage" in notices(first)[0]
    assert [] == notices(second)
    assert tokens == first.usage.cache_read_tokens == second.usage.cache_read_tokens
    assert "bills their storage" in answer_footer(first).text
    assert f"({tokens:,} cached)" in answer_footer(second).text
    assert tokens == client.ledger.rows()[-1]["in_cached"]


PRICES = {"input": 2.0, "output": 8.0, "cache_read": 0.5}  # US dollars for a million tokens


@pytest.mark.parametrize(("prices", "costs"), [(PRICES, (0.0108, 0.0068)), ({}, (None, None))])
def test_what_is_kept_costs_its_tokens_once(client, prices, costs):
    """As input, in the answer that had it kept; that storage comes on top is said. Without a price no cost is
    made up."""
    made = b'{"name": "cachedContents/a", "usageMetadata": {"totalTokenCount": 2000}}'
    counts = {"promptTokenCount": 2400, "cachedContentTokenCount": 2000, "candidatesTokenCount": 625}
    said = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
    answer = json.dumps({"candidates": [said], "usageMetadata": counts}).encode()
    with Listener([(200, made), (200, answer), (200, answer), (200, b"{}")]) as server:
        row = {"base_url": server.url, "dialect": "gemini", "key_env": ["G_KEY"], "model": {"flash": prices}}
        client.registry.register("priced", row)
        first, second = (
            client.complete(q, "priced/flash", cache="1h", system=LONG, **KEY) for q in ("One?", "Two?")
        )
    assert costs == (first.cost, second.cost)
    assert costs[0] == client.ledger.rows()[-2]["cost_usd"]
    assert "bills their storage, which is not in the cost" in answer_footer(first).text


def test_a_request_that_names_it_says_the_rest_alone(client, server):
    """Neither system nor tools stand in it, which the server would refuse."""
    (body,) = bodies(asked(client, server, tools=[Tool("stock", "How many there are.")]))
    assert {"contents", "cachedContent", "generationConfig"} >= {*body}
    assert [{"role": "user", "parts": [{"text": "And?"}]}] == body["contents"]


def test_a_short_one_is_never_kept(client, server):
    """Nor one that is long in its question alone, which differs each time."""
    for system, prompt in ((SHORT, "And?"), (SHORT, LONG)):
        response = asked(client, server, prompt, system=system).response()
        assert [] == notices(response)
    assert [] == kept(server)


@pytest.mark.parametrize("cache", ["auto", "off", None])
def test_nothing_is_kept_unasked(client, server, cache):
    assert asked(client, server, cache=cache).response().text
    assert [] == kept(server)


def test_steps_of_a_loop_name_it(client, server):
    """Each, until the last one, which must forbid calls, and so is sent whole."""
    stream = asked(client, server, model="sim-flash@tools=1", tools=[price], approve="auto", max_steps=3)
    first, *others = bodies(stream)
    assert first["cachedContent"]
    assert all(b.get("cachedContent") == first["cachedContent"] for b in others if "toolConfig" not in b)
    assert 1 == len(kept(server))


@pytest.mark.parametrize("choice", ["none", "required", "price"])
def test_a_forced_choice_is_sent_whole(client, server, choice):
    """What is kept may be called with neither."""
    tool = Tool("price", "What it costs.", {"type": "object", "properties": {}})
    (body,) = bodies(asked(client, server, tools=[tool], tool_choice=choice))
    assert "cachedContent" not in body
    assert [] == kept(server)


def test_a_conversation_that_doubled_is_kept_anew(client, server):
    """What grew since is kept with it, so that most of each question is always there."""
    chat = nbllm.Chat(
        "sim-flash", client=client, system=LONG, cache="1h", base_url=server.url, dialect="gemini", **KEY
    )
    said = [bodies(chat.stream(q)) for q in ("One?", "Two?", f"Three? {LONG} {LONG}", "Four?", "Five?")]
    names = [b[-1]["cachedContent"] for b in said]
    assert [names[0]] * 3 + [names[3]] * 2 == names != [names[0]] * 5
    assert 2 == len(kept(server))
    assert [{"role": "user", "parts": [{"text": "Four?"}]}] == said[3][0]["contents"]


def test_equal_prompts_at_once_are_kept_once(client, server):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: asked(client, server, f"Number {i}?").response(), range(8)))
    assert 1 == len(kept(server)) == sum(map(len, map(notices, found)))
    assert all(r.usage.cache_read_tokens for r in found)


def test_what_is_gone_is_sent_whole_and_kept_anew(client, server):
    """The answer comes all the same, and says what was wrong."""
    asked(client, server).response()
    server.reset()
    second = asked(client, server)
    response = second.response()
    assert [
        "The prompt cached by" in n and "is gone; all of it was sent" in n for n in notices(response)
    ] == [True]
    assert "systemInstruction" in second.attempts[-1].call.body
    assert (2, "stop") == (response.timing.attempts, response.finish_reason)
    assert "caches" in notices(asked(client, server).response())[0]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "CachedContent not found (or permission denied)"),
        (404, "Requested entity was not found."),
        (400, "Cached content cachedContents/a is expired"),
    ],
)
def test_every_word_for_gone_is_understood(client, status, words):
    error = json.dumps({"error": {"code": status, "message": words, "status": "X"}}).encode()
    answer = b'{"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}'
    with Listener([(200, b'{"name": "cachedContents/a"}'), (status, error), (200, answer)]) as server:
        response = asked(client, server).response()
    assert "Hi" == response.text
    assert "gone" in notices(response)[-1]


def test_a_refusal_costs_no_answer_and_is_not_asked_for_again(client):
    """What the server will not keep is sent whole, with its words."""
    error = b'{"error": {"code": 400, "message": "Model does not support caching canary-key-of-the-user"}}'
    answer = b'{"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}'
    with Listener([(400, error), (200, answer), (200, answer)]) as server:
        first, second = (asked(client, server).response() for _ in range(2))
    assert "did not cache the prompt (" in notices(first)[0]
    assert "does not support caching" in notices(first)[0]
    assert KEY["api_key"] not in str(first.notices)
    assert ("Hi", [], "Hi") == (second.text, notices(second), first.text)


@pytest.mark.parametrize("failure", [(500, b"{}"), (503, b"busy"), (200, b"no JSON")])
def test_a_server_that_fails_is_left_alone(client, failure):
    """A server that cannot keep anything now holds up one step: it is asked once in some minutes."""
    answer = b'{"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}'
    with Listener([failure, (200, answer), (200, answer)]) as server:
        found = [asked(client, server, system=LONG * n).response() for n in (1, 3)]
    assert [("Hi", 1), ("Hi", 0)] == [(r.text, len(notices(r))) for r in found]


def test_the_servers_own_minimum_is_learned(client, server):
    """A model that keeps from 4,096 tokens on is not asked again for less."""
    found = [asked(client, server, q, model="sim-pro-flash").response() for q in ("One?", "Two?")]
    assert "min_total_token_count=4096" in notices(found[0])[0]
    longer = asked(client, server, system=LONG + SHORT, model="sim-pro-flash").response()
    assert ([], []) == (notices(found[1]), notices(longer))
    assert "caches" in notices(asked(client, server, system=LONG * 4, model="sim-pro-flash").response())[0]


def test_an_odd_answer_names_nothing(client):
    answer = b'{"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}'
    for odd in (b"{}", b"[]", b'{"name": 7}', b'{"name": "../models/x"}', b"no JSON"):
        with Listener([(200, odd), (200, answer)]) as server:
            response = asked(client, server).response()
        assert ("Hi", 1) == (response.text, len(notices(response)))


def test_a_wrong_key_is_told_as_such(client):
    with simulator.serve(port=0, auth="right") as server, pytest.raises(AuthenticationError):
        asked(client, server).response()


def test_at_the_end_it_is_deleted(server):
    """Storage is billed as long as it stands."""
    client = Client()
    asked(client, server).response()
    assert 1 == len(kept(server))
    client.close()
    assert [] == kept(server)


def test_a_batch_refuses_it(server, tmp_path):
    import pandas as pd

    with pytest.raises(ConfigError, match="cache= cannot be used with mode=batch"):
        nbllm.map(pd.DataFrame({"a": [1]}), "{a}", model="sim/gemini/m", mode="batch", cache="1h", wait=False)


def test_a_stop_leaves_nothing_unknown(client):
    """What is on its way when the user stops is known when it is there, and so deleted."""
    gone, deleted = threading.Event(), threading.Event()

    with simulator.serve(port=0, ttft=0, gap=0) as server:
        stream = asked(client, server)
        stream.cancel()
        gone.set()
        client.run(_settled(client))
        names = [c["name"] for c in kept(server)]
        assert names == [c.name for c in client._pool.contexts.active]
        client.close()
        deleted.set()
        assert [] == kept(server)


async def _settled(client):
    for task in list(client._pool.contexts._creating.values()):
        await task


# --- what is kept, as pure values ---------------------------------------------------------------------------

URL = "https://acme.test/v1beta/models/m-flash:streamGenerateContent?alt=sse"
CALLED = ToolCall("c", "price", {}, "{}")


def prompt(*messages, tools=(), **more):
    request = Request("m-flash", messages, tools, **more)
    return cacheable_prompt(HttpCall(URL, {}, body_of(request, "gemini")))


def texts(turns):
    return [(t["role"], [next(iter(p.values())) for p in t["parts"]]) for t in turns]


@pytest.mark.parametrize(
    ("messages", "rest"),
    [
        ([Message("user", "A")], [("user", ["A"])]),
        ([Message("user", [Text("Read"), Text("B")])], [("user", ["B"])]),
        ([Message("user", "A"), Message("assistant", "B"), Message("user", "C")], [("user", ["C"])]),
    ],
)
def test_what_is_asked_is_the_last_words(messages, rest):
    assert rest == texts(prompt(*messages).with_cache("n", prompt(*messages).question).body["contents"])


def test_no_call_is_parted_from_its_result():
    """All that follows the last question is sent with it."""
    found = prompt(
        Message("user", [Document(b"%PDF-1.4", media_type="application/pdf"), Text("What is it?")]),
        Message("assistant", [CALLED]),
        Message("tool", [ToolResult("c", (Text("this"), Image(b"\x89PNG\r\n\x1a\n")), name="price")]),
        Message("user", "Go on."),
    )
    rest = found.with_cache("n", found.question).body["contents"]
    assert ["user", "model", "user"] == [t["role"] for t in rest]
    assert {"text": "What is it?"} == rest[0]["parts"][0]
    assert [{"role": "user"}] == [{"role": t["role"]} for t in found.create_call().body["contents"]]
    assert found.size > 900


@examples(25)
@given(said, st.booleans())
def test_both_parts_are_the_whole(turns, made_up):
    """What is kept and what is sent hold every part once, in its order; and what was kept is the beginning of
    all later questions."""
    before = None
    for history in conversation(turns, made_up=made_up):
        whole = body_of(Request("m-flash", history, (Tool("price"),)), "gemini")
        found = cacheable_prompt(HttpCall(URL, {}, whole))
        kept, rest = found.create_call().body, found.with_cache("n", found.question).body
        both = [p for t in (*kept.get("contents", ()), *rest["contents"]) for p in t["parts"]]
        assert [p for t in whole["contents"] for p in t["parts"]] == both
        assert {"systemInstruction", "tools"} == {"systemInstruction", "tools"} & {*kept} - {*rest}
        assert ("user", False) == (
            rest["contents"][0]["role"],
            "functionResponse" in str(rest["contents"][0]),
        )
        if before is not None:
            assert before.hashes[before.question] == found.hashes[before.question]
        before = found


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("system", "Be loud."), Message("user", "A"), Message("user", "C"))},
        {"messages": (Message("system", SHORT), Message("user", "B"), Message("user", "C"))},
        {"tools": (Tool("stock"),)},
        {"tools": (Tool("price", "Other words."),)},
    ],
)
def test_another_beginning_is_another(change):
    one = Request(
        "m", (Message("system", SHORT), Message("user", "A"), Message("user", "C")), (Tool("price"),)
    )
    marks = [prompt(*r.messages, tools=r.tools).hashes for r in (one, replace(one, **change))]
    assert marks[0][1] != marks[1][1]


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        (URL, {"cachedContent": "cachedContents/mine"}),
        (URL, {"contents": []}),
        (URL, {"contents": [{"role": "model", "parts": [{"text": "x"}]}]}),
        (URL, {"contents": "odd"}),
        (URL.replace("/models/", "/tunedModels/"), {}),
    ],
)
def test_where_nothing_can_be_kept(url, extra):
    """Somebody's own context, nothing asked, a tuned model."""
    call = HttpCall(url, {}, body_of(Request("m", (Message("user", LONG),), extra=extra), "gemini"))
    assert cacheable_prompt(call) is None
    assert "sent in full" in cache_notice(call, "m")


def test_addresses_keep_their_query():
    whole = body_of(Request("m", (Message("user", "A"),)), "gemini")
    made = cacheable_prompt(HttpCall(URL + "&v=1&w=2", {"h": "1"}, whole)).create_call()
    assert ("https://acme.test/v1beta/cachedContents?v=1&w=2", {"h": "1"}) == (made.url, made.headers)
    assert "models/m-flash" == made.body["model"]


@pytest.mark.parametrize(
    ("model", "refusal", "tokens"),
    [
        ("gemini-flash-latest", "", 1_024),
        ("gemini-pro-latest", "", 4_096),
        ("gemini-flash-latest", "too small. total_token_count=1, min_total_token_count=2048", 2_048),
        ("gemini-flash-latest", "min_total_token_count=" + "9" * 5_000, 999_999_999),
    ],
)
def test_the_fewest_tokens_that_are_kept(model, refusal, tokens):
    assert tokens == min_tokens(model, refusal)


# --- the simulator ------------------------------------------------------------------------------------------

MODEL = {"model": "models/sim", "systemInstruction": {"parts": [{"text": LONG}]}}
ASKED = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_the_simulator_keeps_reads_and_deletes(server):
    _, made = get(server, "/cachedContents", "POST", {**MODEL, "ttl": "120s"})
    assert {"name", "model", "createTime", "expireTime", "usageMetadata"} <= {*made}
    assert (200, made) == get(server, f"/{made['name']}")
    status, answer = get(
        server, "/models/sim:generateContent", "POST", {**ASKED, "cachedContent": made["name"]}
    )
    assert (200, made["usageMetadata"]["totalTokenCount"]) == (
        status,
        answer["usageMetadata"]["cachedContentTokenCount"],
    )
    assert (200, {}) == get(server, f"/{made['name']}", "DELETE")
    assert 403 == get(server, f"/{made['name']}")[0]


@pytest.mark.parametrize(
    ("path", "payload", "status", "words"),
    [
        ("/cachedContents", {"model": "models/sim"}, 400, "too small. total_token_count="),
        ("/cachedContents", {"contents": []}, 400, "model is not specified"),
        ("/cachedContents", {**MODEL, "ttl": "soon"}, 400, "format"),
        ("/cachedContents", {**MODEL, "ttl": "-1s"}, 200, ""),
        ("/models/sim:generateContent", {**ASKED, "cachedContent": "cachedContents/x"}, 403, "not found (or"),
        (
            "/models/sim:generateContent",
            {**ASKED, **MODEL, "cached_content": "{name}"},
            400,
            "can not be used",
        ),
        ("/models/other:generateContent", {**ASKED, "cachedContent": "{name}"}, 400, "has to be the same"),
        ("/models/sim:generateContent", {"cachedContent": "{name}"}, 400, "contents is not specified"),
    ],
)
def test_the_simulator_refuses_what_gemini_refuses(server, path, payload, status, words):
    name = get(server, "/cachedContents", "POST", MODEL)[1]["name"]
    sent = {k: name if v == "{name}" else v for k, v in payload.items()}
    found, answer = get(server, path, "POST", sent)
    assert status == found
    assert words in str(answer)


def test_what_has_run_out_is_unknown(server):
    name = get(server, "/cachedContents", "POST", {**MODEL, "ttl": "0s"})[1]["name"]
    assert 403 == get(server, f"/{name}")[0] == get(server, f"/{name}", "DELETE")[0]
    assert [] == kept(server)
