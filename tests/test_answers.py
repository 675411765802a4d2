"""What an answer is made of, in every format: counts that are final or are not told, pictures, thoughts,
another format's words."""

import base64
import json
import re
import socket
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm import Client, simulator
from nbllm.bench.recorder import cost_and_tokens
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.calls import Frame, ProviderSpec
from nbllm.core.events import Finished, MediaDelta, Response, Started, TextDelta, Usage, UsageReport, fold
from nbllm.core.messages import (
    Document,
    Image,
    Message,
    Reasoning,
    Request,
    Text,
    ToolCall,
    caption,
    picture_size,
)
from nbllm.notebook.calls import cost
from nbllm.notebook.chats import Chat, Origin, Turn
from nbllm.notebook.comparison import Outcome
from nbllm.notebook.view.incremental import GrowingAnswer
from nbllm.notebook.view.live import LivePainter
from nbllm.notebook.view.state import AnswerState
from nbllm.notebook.view.static import answer_bundle, answer_footer
from nbllm.notebook.view.styles import style_of
from nbllm.routing import prices, registry
from nbllm.routing.dialects import DIALECTS
from nbllm.simulator import text
from nbllm.store.ledger import Ledger

from .examples import examples
from .test_frames import frames

FORMATS = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")
ROW = ProviderSpec("acme", "openai_chat", "https://acme.test", label="Acme")


@pytest.fixture
def serve():
    """Serves bytes as the answer to one request: `serve(*pieces, hold=True)` gives the address; the
    connection stays open while held."""
    ended, listeners = threading.Event(), []

    def start(*pieces, kind="text/event-stream", hold=False):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work():
            connection, _ = listener.accept()
            reader = connection.makefile("rb")
            size = 0
            while (line := reader.readline()) not in (b"\r\n", b""):
                size = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else size
            reader.read(size)
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
                + b"".join(pieces)
            )
            if hold:
                ended.wait(30)
            reader.close()
            connection.close()

        threading.Thread(target=work, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    ended.set()
    for listener in listeners:
        listener.close()


@pytest.fixture
def client():
    made = Client(registry.load({}), retries=Retries(attempts=0))
    made.ledger = made.ledger or Ledger()
    yield made
    made.close()


def sse(*values):
    return "".join(f"data: {v if isinstance(v, str) else json.dumps(v)}\n\n" for v in values).encode()


def lines(*values):
    return "".join(json.dumps(v) + "\n" for v in values).encode()


def events(dialect, *values, close=True):
    """The events of frames that hold `values`; without their end where `close` is off."""
    decoder = DIALECTS[dialect].decoder(ROW)
    found = [e for v in values for e in decoder.feed(Frame(v if isinstance(v, str) else json.dumps(v)))]
    return found + (list(decoder.close()) if close else [])


# --- counts ---

BEGUN = {
    "type": "message_start",
    "message": {"id": "m", "model": "c", "usage": {"input_tokens": 12, "output_tokens": 1}},
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
SAID = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "Hello there, reader."},
}
ENDED = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}}


def chunk(text, finish=None, **more):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}


def oai(into, out):
    return {"prompt_tokens": into, "completion_tokens": out}


def candidate(text, finish=None, out=None):
    counted = {
        "usageMetadata": {"promptTokenCount": 12, "thoughtsTokenCount": 2}
        | ({"candidatesTokenCount": out} if out else {})
    }
    return {
        "candidates": [
            {"content": {"parts": [{"text": text}]}} | ({"finishReason": finish} if finish else {})
        ]
    } | counted


# What came before the stop, and what is known of (input, output) then.
STOPPED = {
    "anthropic, message_start alone": ("anthropic", [BEGUN, BLOCK, SAID], (12, None)),
    "anthropic, large count at the start": (
        "anthropic",
        [{**BEGUN, "message": {"usage": {"input_tokens": 12, "output_tokens": 7}}}, BLOCK, SAID],
        (12, None),
    ),
    "anthropic, cumulative without a reason": (
        "anthropic",
        [BEGUN, BLOCK, SAID, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}}],
        (12, None),
    ),
    "anthropic, the reason came": ("anthropic", [BEGUN, BLOCK, SAID, ENDED], (12, 40)),
    "openai, usage in each chunk": (
        "openai_chat",
        [chunk("Hello ", usage=oai(12, 1)), chunk("there", usage=oai(12, 2))],
        (12, None),
    ),
    "openai, usage at the end": (
        "openai_chat",
        [chunk("Hello "), chunk("", "stop"), {"choices": [], "usage": oai(12, 2)}],
        (12, 2),
    ),
    "openai, usage with the reason": (
        "openai_chat",
        [chunk("Hello "), chunk("", "stop", usage=oai(12, 2))],
        (12, 2),
    ),
    "openai, usage after the text": (
        "openai_chat",
        [chunk("Hello "), {"choices": [], "usage": oai(12, 2)}],
        (12, 2),
    ),
    "openai, usage before any text": (
        "openai_chat",
        [{"choices": [], "usage": oai(12, 0)}, chunk("Hello ")],
        (12, None),
    ),
    "openai, usage apart and again": (
        "openai_chat",
        [chunk("Hello "), {"choices": [], "usage": oai(12, 2)}, chunk("there")],
        (12, None),
    ),
    "gemini, counts in each chunk": (
        "gemini",
        [candidate("Hello ", out=3), candidate("there", out=5)],
        (12, None),
    ),
    "gemini, the reason came": (
        "gemini",
        [candidate("Hello ", out=3), candidate("there", "STOP", 5)],
        (12, 7),
    ),
    "responses, before the end": (
        "openai_responses",
        [
            {"type": "response.created", "response": {"id": "r", "usage": oai(12, 0)}},
            {"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"},
        ],
        None,
    ),
    "ollama, before the end": ("ollama", [{"message": {"content": "Hello"}, "done": False}], None),
    "cohere, before the end": (
        "cohere",
        [{"type": "content-delta", "delta": {"message": {"content": {"text": "Hello"}}}}],
        None,
    ),
}


@pytest.mark.parametrize("end", [None, Finished("cancelled"), Finished("error")])
@pytest.mark.parametrize(("dialect", "values", "known"), STOPPED.values(), ids=STOPPED)
def test_an_answer_that_ended_early_has_no_count_that_is_not_final(dialect, values, known, end):
    """Stopped, failed or still on its way: the output counts only where the provider said all of it."""
    usage = fold(events(dialect, *values, close=False) + ([end] if end else [])).usage
    assert known == (usage and (usage.input_tokens, usage.output_tokens))


@pytest.mark.parametrize(
    ("dialect", "values", "known"),
    [
        ("anthropic", [BEGUN, BLOCK, SAID, ENDED, {"type": "message_stop"}], (12, 40)),
        ("anthropic", [BEGUN, BLOCK, SAID, {"type": "message_stop"}], (12, 1)),  # no other count ever came
        (
            "anthropic",
            [
                {
                    "type": "message",
                    "content": [{"type": "text", "text": "Hi"}],
                    "stop_reason": "end_turn",
                    "usage": {"input_tokens": 12, "output_tokens": 1},
                }
            ],
            (12, 1),
        ),
        (
            "openai_chat",
            [
                chunk("Hello ", usage=oai(12, 1)),
                chunk("there", usage=oai(12, 2)),
                chunk("", "stop"),
                "[DONE]",
            ],
            (12, 2),
        ),
        ("gemini", [candidate("Hello ", out=3), {"candidates": [{"finishReason": "STOP"}]}], (12, 5)),
    ],
)
def test_a_whole_answer_has_the_last_count(dialect, values, known):
    """At its proper end the last report is the last."""
    usage = fold(events(dialect, *values)).usage
    assert known == (usage.input_tokens, usage.output_tokens)


_reports = st.builds(
    UsageReport,
    st.builds(Usage, st.just(9), st.integers(1, 99), st.none() | st.integers(0, 9)),
    st.booleans(),
)
_ends = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "error", "cancelled", "other"])


@given(st.lists(_reports | st.builds(TextDelta, st.text(max_size=3)), max_size=6), st.none() | _ends)
def test_the_last_report_counts_where_it_is_final_or_the_answer_whole(found, reason):
    """For any reports and any end."""
    usage = fold([*found, *([Finished(reason)] if reason else [])]).usage
    last = next((e for e in reversed(found) if isinstance(e, UsageReport)), None)
    if last is None:
        assert usage is None
    else:
        after = found[len(found) - found[::-1].index(last) :]
        final = (
            last.final and not any(isinstance(e, TextDelta) and e.text for e in after)
        ) or reason not in (None, "error", "cancelled")
        assert (9, last.usage.output_tokens if final else None) == (usage.input_tokens, usage.output_tokens)


def test_a_stopped_answer_over_a_socket(serve, client):
    """Stop: no output tokens, no cost, an estimate in the row and in the line of figures, and one that the
    budget counts."""
    base = serve(sse(BEGUN, BLOCK, *[SAID] * 20), hold=True)
    stream = client.stream("hello", "claude-sonnet-4-5", base_url=base, dialect="anthropic", api_key="k")
    for event in stream:
        if isinstance(event, TextDelta) and stream.partial().text.count("reader") == 20:
            break
    stream.cancel()
    stream.wait_end(30)
    r = stream.partial()
    assert ("cancelled", 12, None, None) == (
        r.finish_reason,
        r.usage.input_tokens,
        r.usage.output_tokens,
        r.cost,
    )
    assert "12 → ≈ 100 tokens" in answer_footer(r).text.replace("\u00a0", " ")
    row = client.ledger.rows()[-1]
    assert (12, 100, "estimate", None) == (
        row["in_tokens"],
        row["out_tokens"],
        row["tok_source"],
        row.get("cost_usd"),
    )
    assert (pytest.approx((12 * 3 + 100 * 15) / 1e6), 112) == cost_and_tokens(
        {**row, "price_in": 3.0, "price_out": 15.0}
    )


def test_a_cut_answer_over_a_socket(serve, client):
    """The connection ends: the same."""
    base = serve(sse(BEGUN, BLOCK, SAID))
    with pytest.raises(errors.StreamCut) as caught:
        client.complete("hello", "claude-sonnet-4-5", base_url=base, dialect="anthropic", api_key="k")
    r = caught.value.partial
    assert (12, None, None) == (r.usage.input_tokens, r.usage.output_tokens, r.cost)


def test_a_price_needs_the_count():
    """Also where the provider itself said a sum on its way."""
    assert prices.cost(Usage(12, None, raw={"cost": 0.5}), "m", "openai") is None


def test_what_a_request_costs_the_budget():
    """Its cost; an estimate where it was cut; nothing where nothing came."""
    assert (0.25, 30) == cost_and_tokens({"cost_usd": 0.25, "in_tokens": 10, "out_tokens": 20})
    assert (0.0, 0) == cost_and_tokens({"bytes_out": 4_000, "status": "rate_limited"})
    assert (pytest.approx(0.003), 1_500) == cost_and_tokens(
        {"bytes_out": 4_000, "out_tokens": 500, "price_in": 2.0, "price_out": 2.0}
    )


def _live(report, text="x" * 1_240):
    shown = []

    class Port:
        def publish(self, data, **_):
            shown.append(data["text/plain"])

        def clear(self, *, wait):
            pass

    state, now = AnswerState("m", 0.0), [0.0]
    view = LivePainter(Port(), state, clock=lambda: now[0])
    view.start()
    for event in (Started("i", "m"), report, TextDelta(text)):
        state.feed(event, 1.0)
    now[0] = 5.0
    view.tick(now[0])
    column = GrowingAnswer(state)
    column.update()
    return shown[-1], "".join(
        line.text for line in (*column.finished, *column.open_lines(), column.status_line(5.0))
    )


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (UsageReport(Usage(12, None), final=False), "≈ 310 tokens"),
        (UsageReport(Usage(12, 3), final=False), "≈ 310 tokens"),
        (UsageReport(Usage(12, 400), final=False), "≈ 400 tokens"),
        (UsageReport(Usage(12, 320)), "· 320 tokens"),
    ],
)
def test_the_live_line_says_what_is_an_estimate(report, told):
    """One answer, and a column of several."""
    assert [True, True] == [told in text for text in _live(report)]


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (Response((Text("x" * 1_240),), "cancelled", usage=Usage(12)), "12 → ≈ 310 tokens"),
        (
            Response(
                (Reasoning("x" * 1_000), Text("x" * 232), ToolCall("1", "f", {}, "{}1234")), "cancelled"
            ),
            "≈ 309 tokens",
        ),
        (Response((Text("ok"),), None, usage=Usage(None, None)), "? → ≈ 1 token"),
        (Response((), "cancelled", usage=Usage(12)), "12 → ? tokens"),
        (Response(), "? tokens"),
        (Response((Text("x" * 40),), usage=Usage(12, 7)), "12 → 7 tokens"),
    ],
)
def test_the_line_of_figures_says_what_is_an_estimate(response, told):
    """Unknown is never 0 and never 1."""
    assert told in answer_footer(response).text.replace("\u00a0", " ").split(" · ")


def test_the_context_of_a_conversation_counts_a_stopped_answer():
    """What the next turn sends: the input, and about what came."""
    chat = Chat("c", [Turn(Origin("1"), None, Response((Text("x" * 400),), "cancelled", usage=Usage(12)))])
    assert 112 == chat.tokens


def test_the_cost_of_a_session_says_what_is_estimated(serve, client):
    """A stopped call has no price, and nobody counted its tokens."""
    base = serve(sse(BEGUN, BLOCK, SAID))
    with pytest.raises(errors.StreamCut):
        client.complete("hello", "claude-sonnet-4-5", base_url=base, dialect="anthropic", api_key="k")
    sums = cost(SimpleNamespace(client=client), "").loc["all"]
    assert (1, 1, 1, 12, 5) == tuple(
        int(sums[n]) for n in ("failed", "unpriced", "estimated", "in_tokens", "out_tokens")
    )


# --- formats ---

STREAMS = {
    "openai_chat": sse(chunk("Hello"), chunk("", "stop"), {"choices": [], "usage": oai(3, 2)}, "[DONE]"),
    "openai_responses": sse(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"},
        {"type": "response.completed", "response": {"status": "completed"}},
    ),
    "anthropic": sse(BEGUN, BLOCK, SAID, ENDED, {"type": "message_stop"}),
    "gemini": sse(candidate("Hello", "STOP", 2)),
    "ollama": lines(
        {"model": "m", "message": {"role": "assistant", "content": "Hello"}, "done": False},
        {"message": {"content": ""}, "done": True, "done_reason": "stop"},
    ),
    "cohere": sse(
        {"type": "message-start", "id": "c"},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "Hello"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ),
}
WHOLE = {
    "openai_chat": {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}],
    },
    "openai_responses": {
        "object": "response",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    },
    "anthropic": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
    },
    "gemini": {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]},
    "ollama": {"model": "m", "message": {"content": "Hello"}, "done": True, "done_reason": "stop"},
    "cohere": {
        "id": "c",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
    },
}
BODIES = {
    f"{name}, {way}": (name, body)
    for way, found in (("stream", STREAMS), ("whole", {n: json.dumps(v).encode() for n, v in WHOLE.items()}))
    for name, body in found.items()
}


def ask(serve, client, dialect, body, **options):
    return client.complete(
        "hi", "m", base_url=serve(body, **options), dialect=dialect, api_key="sk-canary-0123456789abcdef"
    )


@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize(("format", "body"), BODIES.values(), ids=BODIES)
def test_another_format_is_an_error_that_names_it(serve, client, dialect, format, body):
    """Every format at every address: an answer where they agree, else what came and what to do; never a clean
    empty answer."""
    if dialect == format:
        assert ("stop", True) == (
            (r := ask(serve, client, dialect, body)).finish_reason,
            r.text.startswith("Hello"),
        )
        return
    with pytest.raises(errors.ProtocolError, match=f"in the format of .*(?s:.*)dialect={format}"):
        ask(serve, client, dialect, body)


@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize(
    "wrap",
    [
        sse,
        lambda v: sse(v, "[DONE]"),
        lambda v: json.dumps(v).encode(),
        lambda v: b"event: message\n" + sse(v),
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        {"errorCode": "AUTH_17", "reason": "tenant is suspended"},
        {"reason": "tenant is suspended"},
        ["tenant is suspended"],
        "tenant is suspended",
        {"data": {"why": "tenant is suspended", "more": "x" * 100_000}},
    ],
)
def test_an_unknown_answer_shows_its_words(serve, client, dialect, wrap, value):
    """JSON of no format: an error with what came, within bounds."""
    with pytest.raises(errors.NbllmError, match="tenant is suspended") as caught:
        ask(serve, client, dialect, wrap(value))
    assert len(str(caught.value)) < 1_500


@pytest.mark.parametrize("dialect", FORMATS)
@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"", errors.ServerError, "empty answer"),
        (b"data: [DONE]\n\n", errors.ServerError, "empty answer"),
        (b": ping\n\n", errors.ServerError, "empty answer"),
        (
            b"<html><title>Sign in</title><body>Please sign in</body></html>",
            errors.ProtocolError,
            "Please sign in",
        ),
        (b"upstream connect error", errors.ProtocolError, "upstream connect error"),
        (
            json.dumps({"base_resp": {"status_code": 1004, "status_msg": "login fail: no key"}}).encode(),
            errors.AuthenticationError,
            "login fail: no key",
        ),
        (
            sse({"error_code": 110, "error_msg": "Access token invalid"}),
            errors.ProviderError,
            "Access token invalid",
        ),
    ],
)
def test_no_answer_is_an_error_with_the_servers_words(dialect, body, error, words):
    """Nothing, a page, plain text, errors of shapes of their own."""
    with pytest.raises(error, match=words):
        framed(dialect, body, 4096)


def test_the_words_hold_no_key(serve, client):
    """A server that echoes the key in JSON of its own: it is masked."""
    with pytest.raises(errors.ProtocolError, match="refused") as caught:
        ask(serve, client, "openai_chat", json.dumps({"why": "refused: sk-canary-0123456789abcdef"}).encode())
    assert "sk-canary-0123456789abcdef" not in str(caught.value)


def test_a_status_of_zero_is_no_error():
    """MiniMax tells in every chunk that all is well."""
    well = {"base_resp": {"status_code": 0, "status_msg": ""}}
    assert "Hello" == fold(events("openai_chat", chunk("Hello", **well), chunk("", "stop", **well))).text


CONTEXT = (
    b'error: {"code":400,"message":"the request exceeds the available context size. try increasing '
    b'it","type":"invalid_request_error"}\n\n'
)
FAILED = b'error: {"code":500,"message":"Context size has been exceeded.","type":"server_error"}\n\n'


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic", "openai_responses"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("cut", [1, 2, 5, 7, 4096])
def test_the_error_field_of_llama_cpp_is_an_error(dialect, end, cut):
    """At the beginning and after text, however it is cut; the words are the server's, and the text before it
    is kept."""
    for before, error in (
        (b"", CONTEXT),
        (
            STREAMS[dialect].partition(b"Hello")[0] + b'Hello"}}\n\n' if dialect == "anthropic" else b"",
            FAILED,
        ),
    ):
        body = (before + error + b"data: [DONE]\n\n").replace(b"\n", end.encode())
        with pytest.raises(errors.ContextLengthExceeded, match="ontext size"):
            framed(dialect, body, cut)


def test_the_error_field_keeps_what_came_before(serve, client):
    """A partial answer, and the error's words."""
    with pytest.raises(errors.ProviderError, match="has been exceeded") as caught:
        ask(serve, client, "openai_chat", sse(chunk("Half an ans")) + FAILED)
    assert "Half an ans" == caught.value.partial.text


@pytest.mark.parametrize("text", ["error: not a field", "\nerror: {not a field", "an error:\nerror: x"])
@pytest.mark.parametrize("cut", [1, 3, 4096])
def test_words_about_errors_are_words(text, cut):
    """Only a line of the stream that begins with the field is one."""
    body = sse(chunk(text), chunk("", "stop"), "[DONE]")
    assert text == fold(framed("openai_chat", body, cut)).text


def framed(dialect, body, cut):
    """The events of `body`, cut to pieces."""
    decoder = DIALECTS[dialect].decoder(ROW)
    found = [e for frame in frames(body, [cut]) for e in decoder.feed(frame)]
    return found + list(decoder.close())


# --- thoughts ---


def delta(**fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


SUMMARY = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Let me see."}]}
ANSWER = {"type": "text", "text": "42"}
THOUGHTS = {
    "databricks": [SUMMARY],
    "databricks, signed": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Let me see.", "signature": "S"}]}
    ],
    "summary as text": [{"type": "reasoning", "summary": "Let me see."}],
    "thinking, text": [{"type": "thinking", "text": "Let me see."}],
    "thinking, thinking": [{"type": "thinking", "thinking": "Let me see.", "signature": "S"}],
    "mistral": [
        {
            "type": "thinking",
            "thinking": [{"type": "text", "text": "Let me "}, {"type": "text", "text": "see."}],
        }
    ],
    "reasoning, text": [{"type": "reasoning", "text": "Let me see."}],
    "reasoning, reasoning": [{"type": "reasoning", "reasoning": "Let me see."}],
    "reasoning, content": [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Let me see."}]}
    ],
    "reasoning_content": [{"type": "reasoning_content", "reasoning_content": {"text": "Let me see."}}],
    "several": [{"type": "thinking", "text": "Let me "}, {"type": "thinking", "thinking": "see."}],
}


@pytest.mark.parametrize("parts", THOUGHTS.values(), ids=THOUGHTS)
def test_a_thought_among_the_parts_is_reasoning(parts):
    """Streamed part by part, all at once, a part as the content itself, and in a whole answer: never text,
    never lost, in order."""
    whole = {
        "object": "chat.completion",
        "choices": [{"message": {"content": [*parts, ANSWER]}, "finish_reason": "stop"}],
    }
    for values in (
        [*(delta(content=[p]) for p in parts), delta(content=[ANSWER]), chunk("", "stop")],
        [delta(content=[*parts, ANSWER]), chunk("", "stop")],
        [*(delta(content=p) for p in parts), delta(content="42"), chunk("", "stop")],
        [whole],
    ):
        r = fold(events("openai_chat", *values))
        assert ("Let me see.", "42", [Reasoning, Text]) == (r.reasoning, r.text, [type(p) for p in r.parts])


def test_thoughts_and_words_keep_their_order():
    """Thought, word, thought, word; a signature ends its thought."""
    r = fold(
        events(
            "openai_chat",
            delta(content=[SUMMARY]),
            delta(content="a"),
            delta(content=[{"type": "thinking", "thinking": "hm", "signature": "S"}]),
            delta(content=[{"type": "text", "text": "b"}]),
            chunk("", "stop"),
        )
    )
    assert (Reasoning("Let me see."), Text("a"), Reasoning("hm", "S"), Text("b")) == r.parts


@pytest.mark.parametrize(
    "deltas",
    [
        [
            {"reasoning": "Let me ", "reasoning_details": [{"type": "reasoning.text", "text": "Let me "}]},
            {"reasoning": "see.", "reasoning_details": [{"type": "reasoning.text", "text": "see."}]},
        ],
        [
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "D"}]},
            {
                "reasoning": "Let me see.",
                "reasoning_details": [{"type": "reasoning.text", "text": "Let me see."}],
            },
        ],
        [
            {"reasoning_content": "Let me see."},
            {"thinking_blocks": [{"type": "thinking", "thinking": "Let me see.", "signature": "S"}]},
        ],
        [{"reasoning": {"content": "Let me see."}}],
        [{"reasoning": [{"type": "text", "text": "Let me see."}]}],
    ],
)
def test_a_thought_in_details_counts_once(deltas):
    """Beside a field of its own it is the same again."""
    r = fold(events("openai_chat", *(delta(**d) for d in deltas), delta(content="42"), chunk("", "stop")))
    assert ("Let me see.", "42", ()) == (r.reasoning, r.text, r.notices)


@pytest.mark.parametrize("name", ["reasoning_details", "thinking_blocks"])
def test_a_thought_in_details_alone_is_kept_beside_the_answer(name):
    """With its signature; never in the text."""
    r = fold(
        events(
            "openai_chat",
            delta(**{name: [{"type": "thinking", "text": "Let me see.", "signature": "S"}]}),
            delta(content="42"),
            chunk("", "stop"),
        )
    )
    assert ("42", ["Let me see."], "S") == (r.text, [n.text for n in r.notices], r.parts[0].signature)
    assert "[reasoning]\nLet me see.\n[/reasoning]" in answer_bundle(r)["text/plain"]


@pytest.mark.parametrize(
    ("dialect", "values"),
    [
        (
            "openai_responses",
            [
                {
                    "object": "response",
                    "status": "completed",
                    "output": [
                        {
                            "type": "message",
                            "content": [{"type": "thinking", "thinking": "Let me see."}, ANSWER],
                        }
                    ],
                }
            ],
        ),
        (
            "openai_responses",
            [
                {
                    "object": "response",
                    "status": "completed",
                    "output": [SUMMARY, {"type": "message", "content": [ANSWER]}],
                }
            ],
        ),
        ("anthropic", [{"type": "message", "content": [SUMMARY, ANSWER], "stop_reason": "end_turn"}]),
        (
            "anthropic",
            [
                {
                    "type": "message",
                    "content": [{"type": "thinking", "thinking": "Let me see."}, ANSWER],
                    "stop_reason": "end_turn",
                }
            ],
        ),
        (
            "gemini",
            [
                {
                    "candidates": [
                        {
                            "content": {"parts": [{"text": "Let me see.", "thought": True}, {"text": "42"}]},
                            "finishReason": "STOP",
                        }
                    ]
                }
            ],
        ),
        (
            "cohere",
            [
                {
                    "finish_reason": "COMPLETE",
                    "message": {"content": [{"type": "thinking", "thinking": "Let me see."}, ANSWER]},
                }
            ],
        ),
    ],
)
def test_thoughts_of_the_other_formats(dialect, values):
    """The same everywhere."""
    r = fold(events(dialect, *values))
    assert ("Let me see.", "42", [Reasoning, Text]) == (r.reasoning, r.text, [type(p) for p in r.parts])


# --- pictures and files ---

JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF"
    + b"\0" * 9
    + b"\xff\xff\xc0\x00\x11\x08\x00\x30\x00\x40\x03"
    + b"\0" * 40
    + b"\xff\xd9"
)
WEBP, SVG, WAV = (
    b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 24,
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.nbllmFired=1'/>",
    b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40,
)
PNG, OTHER = text.png(64, 48, 0), text.png(30, 20, 1)
HUGE = PNG[:16] + (60_000).to_bytes(4) * 2 + PNG[24:]


def b64(data):
    return base64.b64encode(data).decode()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{b64(data)}"


STOP = chunk("", "stop")
INLINE = {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}}
CREATED = {"type": "response.created", "response": {"id": "r"}}
CALL = {
    "id": "ig_1",
    "type": "image_generation_call",
    "status": "completed",
    "output_format": "png",
    "result": b64(PNG),
}


def parts(*found, finish="STOP"):
    return {"candidates": [{"content": {"parts": list(found)}, "finishReason": finish}]}


def over(*output):
    return {"type": "response.completed", "response": {"status": "completed", "output": list(output)}}


def blocks(*content):
    return {"type": "message", "content": list(content), "stop_reason": "end_turn"}


# The dialect, and values that hold the picture PNG once, each in a shape that a provider sends.
SHAPES = {
    "gemini": ("gemini", [parts(INLINE)]),
    "gemini, snake case": ("gemini", [parts({"inline_data": {"mime_type": "image/png", "data": b64(PNG)}})]),
    "gemini, streamed": ("gemini", [parts(INLINE, finish=None), parts({"text": ""})]),
    "gemini, no type": ("gemini", [parts({"inlineData": {"data": b64(PNG)}})]),
    "gemini, wrong type": ("gemini", [parts({"inlineData": {"mimeType": "text/html", "data": b64(PNG)}})]),
    "gemini, drafts": (
        "gemini",
        [
            parts(
                {**INLINE, "inlineData": {"mimeType": "image/png", "data": b64(OTHER)}, "thought": True},
                finish=None,
            ),
            parts(INLINE),
        ],
    ),
    "openrouter": (
        "openai_chat",
        [delta(images=[{"type": "image_url", "image_url": {"url": data_url(PNG)}}]), STOP],
    ),
    "openrouter, repeated": (
        "openai_chat",
        [
            delta(images=[{"type": "image_url", "image_url": {"url": data_url(PNG)}}]),
            {
                "choices": [
                    {
                        "delta": {},
                        "message": {"images": [{"type": "image_url", "image_url": {"url": data_url(PNG)}}]},
                        "finish_reason": "stop",
                    }
                ]
            },
        ],
    ),
    "message.images": (
        "openai_chat",
        [
            {
                "object": "chat.completion",
                "choices": [
                    {
                        "message": {"content": "", "images": [{"image_url": {"url": data_url(PNG)}}]},
                        "finish_reason": "stop",
                    }
                ],
            }
        ],
    ),
    "image_url as text": (
        "openai_chat",
        [delta(images=[{"type": "image_url", "image_url": data_url(PNG)}]), STOP],
    ),
    "b64_json": ("openai_chat", [delta(images=[{"b64_json": b64(PNG)}]), STOP]),
    "part image_url": (
        "openai_chat",
        [delta(content=[{"type": "image_url", "image_url": {"url": data_url(PNG)}}]), STOP],
    ),
    "part output_image": (
        "openai_chat",
        [delta(content=[{"type": "output_image", "image_url": data_url(PNG)}]), STOP],
    ),
    "part image, source": (
        "openai_chat",
        [
            delta(
                content=[
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": b64(PNG)},
                    }
                ]
            ),
            STOP,
        ],
    ),
    "responses": (
        "openai_responses",
        [CREATED, {"type": "response.output_item.done", "output_index": 0, "item": CALL}, over(CALL)],
    ),
    "responses, whole": (
        "openai_responses",
        [{"object": "response", "status": "completed", "output": [CALL]}],
    ),
    "responses, end only": ("openai_responses", [CREATED, over(CALL)]),
    "responses, previews": (
        "openai_responses",
        [
            CREATED,
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {"id": "ig_1", "type": "image_generation_call"},
            },
            *(
                {
                    "type": "response.image_generation_call.partial_image",
                    "item_id": "ig_1",
                    "output_index": 0,
                    "partial_image_b64": b64(text.png(8, 8, i)),
                }
                for i in range(3)
            ),
            {"type": "response.output_item.done", "output_index": 0, "item": CALL},
            over(CALL),
        ],
    ),
    "responses, part": (
        "openai_responses",
        [
            CREATED,
            over({"type": "message", "content": [{"type": "output_image", "image_url": data_url(PNG)}]}),
        ],
    ),
    "anthropic": (
        "anthropic",
        [
            blocks(
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(PNG)}}
            )
        ],
    ),
    "ollama": (
        "ollama",
        [{"message": {"content": "", "images": [b64(PNG)]}, "done": True, "done_reason": "stop"}],
    ),
    "ollama, generate": (
        "ollama",
        [{"response": "", "image": b64(PNG), "done": True, "done_reason": "stop"}],
    ),
    "cohere": (
        "cohere",
        [
            {
                "finish_reason": "COMPLETE",
                "message": {"content": [{"type": "image_url", "image_url": {"url": data_url(PNG)}}]},
            }
        ],
    ),
    "base64, url-safe and bare": (
        "gemini",
        [
            parts(
                {
                    "inlineData": {
                        "mimeType": "image/png",
                        "data": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
                    }
                }
            )
        ],
    ),
}


@pytest.mark.parametrize(("dialect", "values"), SHAPES.values(), ids=SHAPES)
def test_a_generated_picture_is_a_part_of_the_answer(dialect, values):
    """In every shape: once, with its bytes and their type; a preview gives place to it; the answer is
    whole."""
    r = fold(events(dialect, *values))
    assert ([PNG], ["image/png"], "stop") == (
        [i.data for i in r.images],
        [i.media_type for i in r.images],
        r.finish_reason,
    )
    assert "[image, 64x48 PNG]" in repr(r)
    assert "iVBOR" not in repr((r.notices, [str(n.data) for n in r.notices]))


def test_pictures_stand_among_the_words():
    """In the order in which they came, and each of several."""
    r = fold(
        events(
            "gemini",
            parts({"text": "One:"}, INLINE, finish=None),
            parts({"text": "two:"}, {"inlineData": {"mimeType": "image/jpeg", "data": b64(JPEG)}}),
        )
    )
    assert [Text("One:"), Image(PNG), Text("two:"), Image(JPEG, media_type="image/jpeg")] == list(r.parts)
    final = [parts({**INLINE, "inlineData": {"mimeType": "image/png", "data": b64(OTHER)}}), parts(INLINE)]
    assert [OTHER, PNG] == [i.data for i in fold(events("gemini", *final)).images]


def test_a_draft_alone_is_kept():
    """A stop before the picture: what there is of it."""
    preview = {
        "type": "response.image_generation_call.partial_image",
        "item_id": "i",
        "output_index": 0,
        "partial_image_b64": b64(OTHER),
    }
    assert [OTHER] == [
        i.data
        for i in fold(
            [*events("openai_responses", CREATED, preview, close=False), Finished("cancelled")]
        ).images
    ]


@pytest.mark.parametrize(
    ("dialect", "values", "kind", "data"),
    [
        ("gemini", [parts({"inlineData": {"mimeType": "audio/wav", "data": b64(WAV)}})], "audio/wav", WAV),
        (
            "gemini",
            [parts({"fileData": {"mimeType": "video/mp4", "fileUri": "https://files.test/v"}})],
            "video/mp4",
            None,
        ),
        (
            "openai_chat",
            [
                {
                    "choices": [
                        {
                            "message": {
                                "content": None,
                                "audio": {"id": "a", "data": b64(WAV), "transcript": "Hello"},
                            },
                            "finish_reason": "stop",
                        }
                    ]
                }
            ],
            "audio/wav",
            WAV,
        ),
        (
            "openai_chat",
            [
                *(delta(audio={"id": "a", "data": b64(WAV)[i : i + 7]}) for i in range(0, len(b64(WAV)), 7)),
                delta(audio={"transcript": "Hello"}),
                STOP,
            ],
            "audio/wav",
            WAV,
        ),
        (
            "openai_chat",
            [delta(content=[{"type": "file", "file": {"file_data": b64(b"%PDF-1.7")}}]), STOP],
            "application/octet-stream",
            b"%PDF-1.7",
        ),
    ],
)
def test_other_files_are_kept_and_told(dialect, values, kind, data):
    """Sound, films, whatever: in the response and in the line of figures, and the words of a sound."""
    r = fold(events(dialect, *values))
    assert [(kind, data)] == [(f.media_type, f.data) for f in r.files]
    assert f"{caption(r.files[0])[1:-1]} in .files" in answer_footer(r).text.replace("\u00a0", " ")
    assert r.transcript in ("", "Hello")
    assert r.transcript in answer_bundle(r)["text/plain"]
    assert caption(r.files[0]) in answer_bundle(r)["text/plain"]


def test_what_cannot_be_read_is_told():
    """Bytes that are none: not lost without a word."""
    r = fold(
        events(
            "openai_chat",
            delta(images=[{"image_url": {"url": "data:image/png;base64,!!!"}}, {"b64_json": "???"}]),
            STOP,
        )
    )
    assert "a picture or file that cannot be read" in answer_footer(r).text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("picture", "source", "words"),
    [
        (Image(PNG), data_url(PNG), "[image, 64x48 PNG]"),
        (Image(JPEG), data_url(JPEG, "image/jpeg"), "[image, 64x48 JPEG]"),
        (Image(PNG, media_type="text/html"), data_url(PNG), "[image, 64x48 PNG]"),
        (Image(SVG, media_type="image/png"), None, "[image/png, 1 kB]"),
        (Image(SVG, media_type="image/svg+xml"), None, "[image/svg+xml, 1 kB]"),
        (Image(WEBP), None, "[image, WEBP]"),
        (Image(HUGE), None, "[image, 60000x60000 PNG]"),
        (Image(PNG + b"\0" * 20_000_000), None, "[image, 64x48 PNG]"),
        (Image(b"<script>1</script>"), None, "[image/png, 1 kB]"),
        (Image(url="https://evil.invalid/x.png"), None, "[image at https://evil.invalid/x.png]"),
        (Image(url="data:text/html,<b>"), None, "[image at data:text/html,<b>]"),
        (Image(SVG, media_type='image/"><script>'), None, '[image/"><script>, 1 kB]'),
        (Document(WAV, media_type="audio/wav"), None, "[audio/wav, 1 kB]"),
        (Image(PNG[:20]), None, "[image, PNG]"),
    ],
)
def test_only_png_and_jpeg_are_shown_and_nothing_is_loaded(picture, source, words):
    """By their bytes, within bounds; the rest is words. In a cell, in a column, and as text."""
    r = Response((Text("See:"), picture), "stop")
    for shown in (
        answer_bundle(r),
        {"text/html": (line := Outcome("m", r).render("md")).html, "text/plain": line.text},
    ):
        assert words in shown["text/plain"]
        html = shown["text/html"].replace(style_of(shown["text/html"]), "")
        assert re.findall(r'src="([^"]*)"', html) == ([source] if source else [])
        assert not re.search("<script|<svg", html)
        assert ("<img" in html) == bool(source)
    assert len(answer_bundle(r)["text/html"]) < 30_000_000


@pytest.mark.slow
def test_the_pictures_of_one_answer_have_a_bound_together():
    """Those beyond it are words, and all are kept."""
    r = Response(tuple(Image(PNG + bytes([i]) * 4_000_000) for i in range(8)), "stop")
    html = answer_bundle(r)["text/html"]
    assert len(html) < 30_000_000
    assert 3 <= html.count("<img") < 8
    assert html.count("[image, 64x48 PNG]") == 8 == len(r.images)


def test_a_picture_draws_itself():
    """As a cell's value."""
    assert (PNG, None, None, JPEG) == (
        Image(PNG)._repr_png_(),
        Image(PNG)._repr_jpeg_(),
        Image(JPEG)._repr_png_(),
        Image(JPEG)._repr_jpeg_(),
    )
    assert (None, None) == (Image(SVG)._repr_png_(), Image(url="https://x.test")._repr_png_())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" * 1000,
        b"\xff\xd8" + b"\xff" * 1000,
        b"\xff\xd8\xff\xe0\0\0" * 50,
        JPEG[:25],
        WEBP[:10],
    ],
)
def test_broken_pictures_have_no_size(data):
    """No bytes make an error, or cost more than their length."""
    assert picture_size(data) is None


@given(st.binary(max_size=200), st.sampled_from([b"", PNG[:20], JPEG[:25], b"RIFF1234WEBP"]))
def test_any_bytes_have_a_caption(data, head):
    """One line, whatever they are."""
    assert re.fullmatch(r"\[[^\n]*\]", caption(Image(head + data)))


def test_the_live_views_say_that_a_picture_came():
    """A word for it, until the final form has it."""
    shown, column = _live(MediaDelta(Image(PNG)), "Then this.")
    assert ["[image, 64x48 PNG]"] * 2 == re.findall(r"\[image[^]]*]", shown + column)
    assert "iVBOR" not in shown + column


# --- the next turn ---

ASKED, AGAIN = Message("user", "Draw a cat."), Message("user", "Make it red.")
DRAWN = Message("assistant", (Text("Here:"), Image(PNG, signature="sig")))


def sent(dialect, *messages, **row):
    return (
        DIALECTS[dialect]
        .encode(Request("m", messages), ProviderSpec("p", dialect, "http://h", local=True, **row), None)
        .body
    )


def test_google_gets_its_picture_back():
    """In the model's turn, with its signature."""
    assert [
        {"text": "Here:"},
        {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}, "thoughtSignature": "sig"},
    ] == sent("gemini", ASKED, DRAWN, AGAIN)["contents"][1]["parts"]


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic", "ollama", "cohere"])
def test_others_get_it_in_the_next_message_of_the_user(dialect):
    """Where the model's turn cannot hold it, a word stands in its place; nothing is said twice."""
    body = sent(dialect, ASKED, DRAWN, AGAIN)
    said = json.dumps(body)
    turns = body.get("messages") or body["input"]
    assert [1, 1] == [said.count(b64(PNG)), json.dumps(turns[-1]).count(b64(PNG))]
    assert "Make it red." in json.dumps(turns[-1])
    assert "[image, 64x48 PNG]" in json.dumps(turns[-2])
    assert ["user", "assistant", "user"] == [t["role"] for t in turns]


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "anthropic", "ollama", "cohere"])
def test_a_sound_is_left_out_with_a_word(dialect):
    """No provider but Google takes it back."""
    body = json.dumps(
        sent(dialect, ASKED, Message("assistant", Document(WAV, media_type="audio/wav")), AGAIN)
    )
    assert "[audio/wav, 1 kB]" in body
    assert b64(WAV) not in body


def test_what_is_left_out_is_told(serve, client):
    """In the line of figures of the answer."""
    history = [ASKED, Message("assistant", Document(WAV, media_type="audio/wav")), AGAIN]
    r = client.complete(
        history, "m", base_url=serve(STREAMS["openai_chat"]), dialect="openai_chat", api_key="k"
    )
    assert "[audio/wav, 1 kB] not sent back" in answer_footer(r).text.replace("\u00a0", " ")


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses", "gemini"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_simulator_draws(client, dialect, whole):
    """Pictures over a socket, streamed and whole; a conversation goes on after them in every format."""
    with simulator.serve(ttft=0.0, gap=0.0, images=2, reasoning=3) as server:
        base = server.base_url(dialect)
        asked = {"extra": {"stream": False}} if whole and dialect != "gemini" else {}
        r = client.complete(
            "Draw.", "m", base_url=base, dialect=dialect, api_key="k", reasoning="low", **asked
        )
        assert ["[image, 64x48 PNG]"] * 2 == [caption(i) for i in r.images]
        assert all((r.text, r.reasoning, r.images[0].data != r.images[1].data))
        for other in ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama"):
            assert (
                "stop"
                == client.complete(
                    [ASKED, r.message, AGAIN],
                    "m",
                    base_url=server.base_url(other),
                    dialect=other,
                    api_key="k",
                ).finish_reason
            )


def test_the_simulator_thinks_in_parts(client):
    """As Databricks does."""
    with simulator.serve(ttft=0.0, gap=0.0, thoughts="parts", reasoning=5) as server:
        for extra in ({}, {"stream": False}):
            r = client.complete(
                "Think.",
                "m",
                base_url=server.base_url("openai_chat"),
                dialect="openai_chat",
                api_key="k",
                extra=extra,
            )
            assert [Reasoning, Text] == [type(p) for p in r.parts]
            assert all((r.reasoning, r.text))


@pytest.mark.parametrize(("dialect", "values"), SHAPES.values(), ids=SHAPES)
@given(cut=st.integers(1, 3_000))
@examples(8)
def test_any_cutting_gives_the_same_answer(dialect, values, cut):
    """The network's packets mean nothing for pictures either."""
    body = lines(*values) if dialect == "ollama" else sse(*values)
    assert fold(framed(dialect, body, 1 << 20)) == fold(framed(dialect, body, cut))


@given(
    st.lists(
        st.builds(
            MediaDelta,
            st.sampled_from([Image(PNG), Image(JPEG), Document(WAV, media_type="audio/wav")]),
            st.none() | st.sampled_from("ab"),
            st.booleans(),
        )
        | st.builds(TextDelta, st.text(max_size=2)),
        max_size=8,
    )
)
def test_fold_is_pure(found):
    """The same events give equal answers, and those without a key are all there."""
    assert fold(found) == fold(list(found))
    keyed = {e.key for e in found if isinstance(e, MediaDelta) and e.key}
    assert len(keyed) + sum(isinstance(e, MediaDelta) and not e.key for e in found) == len(
        fold(found).images
    ) + len(fold(found).files)
