"""llama.cpp with a tiny generated model, alone and behind the LiteLLM gateway: real inference, real
quirks."""

import pytest

import nbllm
from nbllm import Message, Tool, ToolResult
from nbllm.core import errors

from .conftest import KEY

SAYS = (
    "Hello from a tiny model. It counts: one two three four five six seven eight nine ten, then says é🙂 "
    "and stops!"
)
TIME = Tool(
    "get_time",
    "The time.",
    {"type": "object", "properties": {"tz": {"type": "string", "enum": ["UTC", "CET"]}}, "required": ["tz"]},
)
ANTHROPIC = {"max_tokens": 300}
DIRECT = [
    ("openai_chat", "openai/tiny", "/v1"),
    ("openai_responses", "responses/tiny", "/v1"),
    ("anthropic", "anthropic/tiny", ""),
]
GATEWAY = [
    ("openai_chat", "openai/llama", "/v1"),
    ("openai_responses", "responses/llama", "/v1"),
    ("anthropic", "anthropic/llama", ""),
    ("gemini", "gemini/llama", "/v1beta"),
]


@pytest.mark.parametrize(("dialect", "name", "path"), DIRECT, ids=lambda v: v if "_" in str(v) else "")
def test_it_streams_text(llama, dialect, name, path):
    """Every format gives the same sentence, token by token, with usage."""
    stream = nbllm.stream(
        "hello", model=name, base_url=llama + path, api_key=KEY, temperature=0, max_tokens=300
    )
    pieces = list(stream.text_stream)
    response = stream.response()
    assert SAYS == response.text.strip()
    assert len(pieces) > 10
    assert "stop" == response.finish_reason
    assert response.usage.output_tokens > 10


@pytest.mark.parametrize(("dialect", "name", "path"), DIRECT, ids=lambda v: v if "_" in str(v) else "")
def test_it_calls_tools_in_small_pieces(llama, dialect, name, path):
    """Arguments come a character at a time and make a valid call; the result is taken back."""
    extra = {"parallel_tool_calls": False} if dialect != "anthropic" else {}
    response = nbllm.complete(
        "what time is it",
        model=name,
        base_url=llama + path,
        api_key=KEY,
        temperature=0,
        max_tokens=300,
        tools=[TIME],
        tool_choice="required",
        extra=extra,
    )
    assert ["get_time"] == [c.name for c in response.tool_calls]
    assert response.tool_calls[0].arguments["tz"] in ("UTC", "CET")
    result = Message("tool", ToolResult(response.tool_calls[0].id, "12:00", name="get_time"))
    again = nbllm.complete(
        [Message("user", "what time is it"), response.message, result],
        model=name,
        base_url=llama + path,
        api_key=KEY,
        temperature=0,
        max_tokens=300,
        tools=[TIME],
    )
    assert again.text or again.tool_calls


def test_structured_output(llama):
    """A JSON schema is followed by the grammar of the server."""
    import json

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    response = nbllm.complete(
        "give me a number",
        model="openai/tiny",
        base_url=llama + "/v1",
        api_key=KEY,
        temperature=0,
        max_tokens=200,
        schema=schema,
    )
    assert isinstance(json.loads(response.text)["n"], int)


@pytest.mark.parametrize(
    ("status", "kind", "options"),
    [
        (401, errors.AuthenticationError, {"api_key": "wrong-key-000"}),
        (400, errors.ContextLengthExceeded, {"prompt": "word " * 4000}),
    ],
)
def test_its_errors_are_typed(llama, status, kind, options):
    """401 and the context error."""
    options = {"prompt": "hello", "api_key": KEY, **options}
    with pytest.raises(kind) as caught:
        nbllm.complete(model="openai/tiny", base_url=llama + "/v1", retries=0, **options)
    assert status == caught.value.status


def test_a_long_answer_can_be_stopped(llama):
    """cancel() in mid-stream keeps what came, and the next call works."""
    stream = nbllm.stream(
        "hello",
        model="openai/tiny",
        base_url=llama + "/v1",
        api_key=KEY,
        max_tokens=2000,
        extra={"ignore_eos": True},
    )
    for _ in stream.text_stream:
        break
    stream.cancel()
    response = stream.response(10)
    assert "cancelled" == response.finish_reason
    assert response.text
    assert nbllm.complete(
        "hello", model="openai/tiny", base_url=llama + "/v1", api_key=KEY, max_tokens=5
    ).text


def test_its_models_are_listed(llama, monkeypatch):
    """The model list comes from the server itself."""
    monkeypatch.setenv("OPENAI_BASE_URL", llama + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ["openai/tiny"] == list(nbllm.models("openai/").name)


@pytest.mark.parametrize(("dialect", "name", "path"), GATEWAY, ids=lambda v: v if "_" in str(v) else "")
def test_the_gateway_streams_it_in_four_formats(litellm, dialect, name, path):
    """The same sentence through LiteLLM's own writing of each format."""
    stream = nbllm.stream(
        "hello", model=name, base_url=litellm + path, api_key=KEY, temperature=0, max_tokens=300
    )
    assert SAYS == stream.response().text.strip()


@pytest.mark.parametrize(
    ("dialect", "name", "path"),
    [(d, n.replace("llama", "cust-tools"), p) for d, n, p in GATEWAY[:3]],
    ids=lambda v: v if "_" in str(v) else "",
)
def test_the_gateway_passes_tool_calls(litellm, dialect, name, path):
    """A call and its result, both ways."""
    response = nbllm.complete(
        "what time", model=name, base_url=litellm + path, api_key=KEY, max_tokens=100, tools=[TIME]
    )
    assert [("get_time", {"tz": "UTC"})] == [(c.name, c.arguments) for c in response.tool_calls]
    result = Message("tool", ToolResult(response.tool_calls[0].id, "12:00", name="get_time"))
    again = nbllm.complete(
        [Message("user", "what time"), response.message, result],
        model=name,
        base_url=litellm + path,
        api_key=KEY,
        max_tokens=100,
        tools=[TIME],
    )
    assert "It is noon." == again.text


@pytest.mark.parametrize(
    ("dialect", "name", "path"),
    [(d, n.replace("llama", "cust-midfail"), p) for d, n, p in GATEWAY[:3]],
    ids=lambda v: v if "_" in str(v) else "",
)
def test_a_failure_in_mid_stream_keeps_the_text(litellm, dialect, name, path):
    """The gateway's error inside the stream is ours, with what had come."""
    with pytest.raises(errors.NbllmError) as caught:
        nbllm.complete("hello", model=name, base_url=litellm + path, api_key=KEY, max_tokens=100, retries=0)
    assert caught.value.partial.text.startswith("Hello") or caught.value.partial.text == ""
