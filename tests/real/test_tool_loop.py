"""The loop over tools against servers of others: aimock in all five formats, and llama.cpp, whose model makes
its calls itself. What goes wrong is closed, and the same conversation goes on."""

from typing import Literal

import pytest

import nbllm
from nbllm import Image, Reasoning
from nbllm.core.history import complete_tool_results

from .conftest import KEY
from .test_aimock import FORMATS
from .test_llamacpp import DIRECT

PNG = Image(b"\x89PNG\r\n\x1a\n" + bytes(64))


def outcomes(response):
    return [end.outcome for step in response.steps for end in step.results]


def get_time(tz: Literal["UTC", "CET"]) -> str:
    """The time."""
    return f"12:00 {tz}"


def add(a: float, b: float) -> float:
    """The sum."""
    return a + b


def no_clock(tz: str) -> str:
    """The time."""
    raise RuntimeError("the clock stands still")


def picture(tz: str):
    """The time, on a clock."""
    return PNG


def presses_stop(tz: str) -> str:
    """The time."""
    raise KeyboardInterrupt


def as_get_time(function):
    """The function under the name that the fixtures call."""
    function.__name__ = "get_time"
    return function


# --- aimock ---


@pytest.fixture(params=list(FORMATS))
def chat(request, aimock, aimock_open):
    """A conversation in one format."""
    name, path = FORMATS[request.param]
    base = aimock_open if request.param == "ollama" else aimock

    def begin(*tools, **options):
        options.setdefault("approve", "auto")
        return nbllm.Chat(
            name, base_url=base + path, api_key=KEY, retries=0, tools=tools, cache="off", **options
        )

    begin.dialect = request.param
    return begin


def goes_on(chat):
    """It keeps the rule of calls and results, and the next question is answered."""
    assert chat.messages == complete_tool_results(chat.messages)
    assert "Hello from aimock, nice to meet you." == chat("hello").text


@pytest.mark.parametrize(
    ("first", "approve", "expected"),
    [
        (get_time, "auto", ["ran", "ran"]),
        (no_clock, "auto", ["failed", "ran"]),
        (picture, "auto", ["ran", "ran"]),
        (get_time, "never", ["refused", "refused"]),
        (get_time, lambda question: question.number == 2, ["refused", "ran"]),
    ],
    ids=["both", "error", "picture", "never", "one"],
)
def test_two_calls_at_once(chat, first, approve, expected):
    """Beside text; whatever becomes of them, there is an answer."""
    talk = chat(as_get_time(first), add, approve=approve)
    answer = talk("two tools")
    assert ("Both done.", expected) == (answer.text, outcomes(answer)[:2])
    again = chat.dialect == "openai_chat" and first is picture  # aimock takes it for a new question
    assert again == (len(answer.steps) > 2)
    assert "Calling both." in answer.steps[0].text
    goes_on(talk)


def test_a_call_without_arguments_behind_a_thought(chat):
    """The thought goes back with the call, where the format has a place for it."""

    def now() -> str:
        """The time."""
        return "12:00"

    talk = chat(now)
    answer = talk("no arguments")
    assert ("It is noon.", ["ran"]) == (answer.text, outcomes(answer))
    assert any("a clock" in p.text for p in answer.steps[0].parts if isinstance(p, Reasoning))
    goes_on(talk)


def test_a_tool_that_has_to_be_called(chat):
    """In the first turn alone."""
    if chat.dialect == "ollama":
        with pytest.raises(nbllm.errors.ConfigError, match="cannot be forced to call"):
            chat(get_time)("what time", tool_choice="required")
        return
    talk = chat(get_time)
    assert ["ran"] == outcomes(talk("what time", tool_choice="get_time"))
    goes_on(talk)


def test_a_server_that_calls_beyond_the_limit(chat):
    """aimock calls whatever tool_choice says: the call is not run, and closed."""
    talk = chat(get_time)
    assert ["limit"] == outcomes(talk("what time", max_steps=1))
    goes_on(talk)


def test_stopped_in_a_function(chat):
    """The second call is not run."""
    talk = chat(as_get_time(presses_stop), add)
    with pytest.raises(KeyboardInterrupt):
        talk("two tools")
    assert ["stopped", "stopped"] == outcomes(talk.turns[0].response)
    goes_on(talk)


@pytest.mark.parametrize("prompt", ["slowly", "slow call"])
def test_stopped_while_it_writes(chat, prompt):
    """A text, and a call."""
    talk = chat(get_time)
    stream = talk.stream(prompt)
    next(iter(stream))
    stream.cancel()
    assert stream.wait_end(30)
    goes_on(talk)


# --- llama.cpp ---


@pytest.fixture(params=DIRECT, ids=lambda given: given[0])
def talk(request, llama):
    """A conversation with the tiny model, which calls one tool at a time."""
    dialect, name, path = request.param
    extra = {} if dialect == "anthropic" else {"parallel_tool_calls": False}

    def begin(*tools, **options):
        options.setdefault("approve", "auto")
        given = {"temperature": 0, "max_tokens": 300, "extra": extra, "cache": "off"}
        return nbllm.Chat(name, base_url=llama + path, api_key=KEY, tools=tools, **given, **options)

    return begin


@pytest.mark.parametrize(
    ("tool", "approve", "outcome", "told"),
    [
        (get_time, "auto", "ran", "12:00"),
        (no_clock, "auto", "failed", "the clock stands still"),
        (get_time, "never", "refused", "allows no such call"),
    ],
    ids=["ran", "failed", "refused"],
)
def test_a_model_calls_and_is_told(talk, tool, approve, outcome, told):
    """What became of its call, and the conversation goes on."""
    chat = talk(tool, approve=approve, max_steps=3)
    answer = chat("what time is it", tool_choice="required")
    assert outcome == outcomes(answer)[0]
    assert told in answer.steps[0].results[0].result.content
    assert chat.messages == complete_tool_results(chat.messages)
    assert chat("hello", tool_choice="none").text


def test_a_model_calls_what_has_no_arguments(talk):
    """Forced to it once."""

    def now() -> str:
        """The time."""
        return "12:00"

    chat = talk(now, max_steps=2)
    answer = chat("what time is it", tool_choice="required")
    assert [("now", {})] == [(c.name, c.arguments) for c in answer.steps[0].tool_calls]
    assert chat("hello", tool_choice="none").text


def test_a_model_is_stopped(talk):
    """While its function runs."""
    chat = talk(presses_stop)
    with pytest.raises(KeyboardInterrupt):
        chat("what time is it", tool_choice="required")
    assert ["stopped"] == outcomes(chat.turns[0].response)
    assert chat("hello", tool_choice="none").text
