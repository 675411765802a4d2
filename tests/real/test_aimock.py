"""A hand-written third-party server that speaks all five wire formats."""

import pytest

import nbllm
from nbllm import Message, Tool, ToolResult
from nbllm.core import errors

from .conftest import KEY

# dialect -> (a name that routes to it, the path of its base_url)
FORMATS = {
    "openai_chat": ("openai/deepseek-reasoner", "/v1"),
    "openai_responses": ("responses/o3", "/v1"),
    "anthropic": ("claude-sonnet-4-5", ""),
    "gemini": ("gemini-2.5-pro", "/v1beta"),
    "ollama": ("ollama/llama3.2", ""),
}
TIME = Tool("get_time", "The time.", {"type": "object", "properties": {"tz": {"type": "string"}}})
ADD = Tool(
    "add", "The sum.", {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
)


@pytest.fixture(params=list(FORMATS))
def ask(request, aimock, aimock_open):
    """stream() with the address and key of one format."""
    name, path = FORMATS[request.param]
    base = aimock_open if request.param == "ollama" else aimock

    def go(prompt, **options):
        options.setdefault("api_key", KEY)
        options.setdefault("retries", 0)
        return nbllm.stream(prompt, model=name, base_url=base + path, **options)

    go.dialect = request.param
    return go


def test_text_streams(ask):
    """The answer comes in several pieces and whole."""
    stream = ask("hello")
    pieces = list(stream.text_stream)
    response = stream.response()
    assert "Hello from aimock, nice to meet you." == response.text == "".join(pieces)
    assert len(pieces) > 3
    assert "stop" == response.finish_reason
    assert response.timing.ttft <= response.timing.total


def test_one_character_pieces_keep_emoji_whole(ask):
    """Halves of surrogate pairs in two chunks become one character."""
    assert "é✓🙂 日本 done" == ask("unicode").response().text


def test_reasoning_is_kept_apart(ask):
    """Thinking comes before the answer and is not part of it."""
    response = ask("think-first").response()
    assert ("The answer is 42.", "Let me think about it for a while.") == (response.text, response.reasoning)


def test_a_tool_call_and_its_result(ask):
    """The call comes whole, and the conversation with its result is answered."""
    response = ask("what time", tools=[TIME]).response()
    assert [("get_time", {"tz": "UTC"})] == [(c.name, c.arguments) for c in response.tool_calls]
    assert "tool_calls" == response.finish_reason
    result = ToolResult(response.tool_calls[0].id, "12:00", name="get_time")
    again = ask([Message("user", "what time"), response.message, Message("tool", result)], tools=[TIME])
    assert "It is noon in UTC." == again.response().text


def test_parallel_tool_calls_and_their_results(ask):
    """Two calls beside text, both fed back."""
    response = ask("two tools", tools=[TIME, ADD]).response()
    assert [("get_time", {"tz": "UTC"}), ("add", {"a": 2, "b": 3})] == [
        (c.name, c.arguments) for c in response.tool_calls
    ]
    results = [ToolResult(c.id, "x", name=c.name) for c in response.tool_calls]
    again = ask([Message("user", "two tools"), response.message, Message("tool", results)], tools=[TIME, ADD])
    assert "Both done." == again.response().text


def test_the_token_limit_is_told(ask):
    """finish_reason length; aimock's Responses format says "incomplete" without saying why, its Ollama format
    always stop."""
    expected = {"openai_responses": "other", "ollama": "stop"}.get(ask.dialect, "length")
    assert expected == ask("max-out").response().finish_reason


@pytest.mark.parametrize(
    ("prompt", "kind", "words"),
    [
        ("err-429", errors.RateLimited, "slow down"),
        ("err-500", errors.ServerError, "boom"),
        ("err-529", errors.Overloaded, "Overloaded"),
        ("err-ctx", errors.ContextLengthExceeded, "maximum context length"),
    ],
)
def test_errors_are_told_in_the_providers_words(ask, prompt, kind, words):
    """Status and message become our typed error."""
    with pytest.raises(kind, match=words):
        ask(prompt).response()


def test_a_wrong_key(ask):
    """401 is an AuthenticationError that does not show the key."""
    if ask.dialect == "ollama":
        return  # Ollama checks no keys
    with pytest.raises(errors.AuthenticationError) as caught:
        ask("hello", api_key="sk-canary-wrong-key-000").response()
    assert "canary" not in str(caught.value)


def test_a_refused_request_is_asked_again(ask):
    """429, then the answer; the wait is told."""
    response = ask("retry-me " + ask.dialect, retries=2).response()
    assert response.text.startswith("second try") or response.text
    if response.timing.attempts > 1:
        assert ["wait"] == [n.kind for n in response.notices], "the gate's: it costs no attempt"


def test_a_cut_answer_is_kept(ask):
    """The server hangs up in the middle: StreamCut with what had come."""
    with pytest.raises(errors.StreamCut) as caught:
        ask("hang-up").response()
    assert "this connection is closed by the server after two hundred milliseconds".startswith(
        caught.value.partial.text
    )
