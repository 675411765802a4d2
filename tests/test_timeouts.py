"""What keeps a call alive and what ends it: keep-alives without tokens, and silence after the end of an
answer. All cases of a test wait at the same time."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import nbllm
from nbllm.client.policy import Timeouts
from nbllm.core import errors
from nbllm.core.calls import Endpoint
from nbllm.routing.dialects import DIALECTS

from .test_transport import CHUNKED, chunk, server
from .test_wire_faults import SAID, events

NEVER = threading.Event()


class Pause:
    """Some seconds of silence, in the steps of a server."""

    def __init__(self, seconds):
        self.seconds = seconds

    def wait(self, _longest):
        threading.Event().wait(self.seconds)


def typed(kind, **more):
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **more}).encode())


# By dialect, what says no more than that the server lives.
SIGNS = {
    "openai_chat": [b": OPENROUTER PROCESSING\n\n", b": keep-alive\n\n", b"\n", b'data: {"choices": []}\n\n'],
    "openai_responses": [
        typed("response.in_progress", response={"id": "r", "status": "in_progress"}),
        typed("response.queued", response={"id": "r", "status": "queued"}),
        b": ping\n\n",
    ],
    "anthropic": [typed("ping"), b"event: ping\ndata: {}\n\n", b":\n\n"],
    "gemini": [b": x\r\n\r\n", b'data: {"usageMetadata": {"promptTokenCount": 1}}\r\n\r\n'],
    "ollama": [b"\n", b'{"message": {"content": ""}, "done": false}\n'],
    "cohere": [typed("content-start", delta={}), b": x\n\n"],
}
EACH = [(dialect, sign) for dialect, signs in SIGNS.items() for sign in signs]


def called(steps, dialect="openai_chat", **limits):
    """(error, answer) of a call to a server that plays these steps, after its head."""
    with server([None, CHUNKED, *[chunk(s) if isinstance(s, bytes) else s for s in steps]]) as (url, _):
        base = url if dialect.startswith("openai") else url.removesuffix("/v1")
        stream = nbllm.stream("hi", "m", base_url=base, dialect=dialect, retries=0, timeout=limits)
        try:
            return None, stream.response(30)
        except errors.NbllmError as error:
            return error, stream.partial()


def together(cases):
    """What each of several calls comes to, all at the same time: {name: (error, answer)}."""
    with ThreadPoolExecutor(len(cases)) as pool:
        waiting = {name: pool.submit(called, *args, **limits) for name, (args, limits) in cases.items()}
    return {name: future.result() for name, future in waiting.items()}


@pytest.mark.slow
def test_signs_of_life_keep_a_call_alive():
    """For longer than its limit without them, before the first token and between two. A busy machine may keep
    a sign back for as long: such a case is tried again."""
    cases = {}
    for dialect, sign in EACH:
        first, *rest = events(dialect)
        alive = [step for _ in range(8) for step in (sign, Pause(0.25))]
        for place, steps in enumerate(([*alive, first, *rest], [first, *alive, *rest])):
            cases[dialect, sign, place] = ([*steps, b""], dialect), {"first": 1.5, "idle": 1.5}
    for _ in range(6):
        found = {n: (e, a.text, a.finish_reason) for n, (e, a) in together(cases).items()}
        cases = {name: cases[name] for name in found if found[name] != (None, "Hello", "stop")}
        if not cases:
            break
    assert not cases, found


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [False, True], ids=["none", "one"])
def test_signs_of_life_alone_have_a_limit_of_their_own(tokens):
    """It is named, with what allows more; what came is kept."""
    steps = [events("openai_chat")[0]] * tokens + [b": ping\n\n", Pause(0.05)] * 200
    error, answer = called(steps, first=20, idle=20, silent=0.7)
    assert isinstance(error, errors.Timeout)
    assert ("silent", 0.7) == (error.which, error.seconds)
    assert "Only keep-alives came, and no token" in error.message
    assert "timeout.silent=1.4" in error.hint
    assert "Hello" * tokens == answer.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "which"), [({"first": 0.4}, "first"), ({"first": 0.4, "silent": 0.1}, "first")]
)
def test_without_a_sign_the_usual_limit_is_named(limits, which):
    """Nothing came at all."""
    error, _ = called([NEVER], **limits)
    assert which == error.which


@pytest.mark.slow
def test_no_limit_is_none():
    """first=None waits however long nothing comes, silent=None however long signs come."""
    assert float("inf") == Timeouts(silent=None).silent_limit(5)
    assert (900, 3600, 5) == (
        Timeouts().silent_limit(60),
        Timeouts().silent_limit(3600),
        Timeouts(silent=5).silent_limit(60),
    )
    error, answer = called(
        [b": x\n\n", Pause(0.3), *events("openai_chat"), b"data: [DONE]\n\n"],
        first=None,
        idle=None,
        silent=0.1,
    )
    assert (None, "Hello") == (error, answer.text)


# By dialect, the reason of an end without the protocol's end mark, where it has both.
ENDS = {
    "openai_chat": [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}],
    "anthropic": [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    ],
    "gemini": [{"candidates": [{"finishReason": "STOP"}]}],
}


AFTER = {"silence": [NEVER], "pings": [b": ping\n\n", Pause(0.2)] * 60, "a cut": [b'data: {"cho', NEVER]}


@pytest.mark.slow
def test_silence_after_an_answer_told_its_end_is_no_failure():
    """The connection stays open, with or without signs of life: the answer is whole."""
    cases = {}
    for dialect, ends in ENDS.items():
        said = [events(dialect)[0], *(b"data: %s\n\n" % json.dumps(value).encode() for value in ends)]
        cases |= {
            (dialect, after): (([*said, *steps], dialect), {"idle": 0.5}) for after, steps in AFTER.items()
        }
    for name, (error, answer) in together(cases).items():
        assert (None, "Hello", "stop") == (error, answer.text, answer.finish_reason), name


@pytest.mark.slow
def test_silence_before_the_end_is_one():
    """However much has come."""
    cases = {d: (([events(d)[0], NEVER], d), {"idle": 0.4}) for d in SAID}
    for name, (error, answer) in together(cases).items():
        assert ("idle", "Hello") == (error.which, answer.text), name


@pytest.mark.slow
def test_what_follows_the_end_at_once_still_counts():
    """Usage and an end mark, a moment after the reason."""
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    error, answer = called([*events("openai_chat"), Pause(0.3), usage, b"data: [DONE]\n\n"], idle=20)
    assert (None, 2) == (error, answer.usage.output_tokens)


@pytest.mark.parametrize("dialect", ENDS)
def test_decoders_know_that_the_end_was_told(dialect):
    """Not before."""
    decoder = DIALECTS[dialect].decoder(Endpoint("x", dialect, "http://127.0.0.1"))
    assert not decoder.ended
