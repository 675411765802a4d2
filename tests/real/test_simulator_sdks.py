"""The official SDKs accept what the simulator sends: streams, tools, thinking, usage, and their own error
classes.

Needs openai, anthropic, google-genai and ollama; where they are missing, every test fails and says how to get
them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json

import pytest

from nbllm.simulator import serve

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("default")]
ASKED = "Why is the sky blue?"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
}
WEATHER = "What will the weather be in Oslo over 3 days?"
ARGUMENTS = {"city": "Oslo", "days": 3}


def sdk(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.fail(
            f"CANNOT RUN: {error}. Run: pip install openai anthropic google-genai ollama", pytrace=False
        )


@pytest.fixture(scope="module")
def server():
    with serve(ttft=0.01, gap=0.0005) as running:
        yield running


@pytest.fixture
def openai(server):
    with sdk("openai").OpenAI(
        base_url=server.base_url("openai_chat"), api_key="sk-test", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def anthropic(server):
    with sdk("anthropic").Anthropic(
        base_url=server.base_url("anthropic"), api_key="sk-test", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def gemini(server):
    sdk("google.genai")
    from google import genai
    from google.genai import types

    return genai.Client(
        api_key="sk-test", http_options=types.HttpOptions(base_url=server.url, api_version="v1beta")
    )


@pytest.fixture
def ollama(server):
    return sdk("ollama").Client(host=server.base_url("ollama"))


def wire_errors():
    """The transport's own error, of whichever HTTP library the SDKs are built on."""
    return tuple(
        importlib.import_module(name).TransportError
        for name in ("httpx", "httpx2")
        if importlib.util.find_spec(name)
    )


def truth(server, id=None):
    """The record of the last request: its id, visible text, thinking and counts."""
    record = server.settled()[-1]
    assert id in (None, record.id)
    return record


def said(record, kind="content"):
    return "".join(c.text for c in record.chunks if c.kind == kind)


# ---- OpenAI ----


def test_openai_chat_streams(server, openai):
    """Text, thinking beside it, one usage chunk."""
    chunks = list(
        openai.chat.completions.create(
            model="sim@reasoning=7",
            messages=[{"role": "user", "content": ASKED}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    record = truth(server, chunks[0].id)
    assert said(record) == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said(record, "reasoning") == "".join(
        getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks if c.choices
    )
    usage = [c.usage for c in chunks if c.usage]
    assert [(record.input_tokens, record.output_tokens, 7)] == [
        (u.prompt_tokens, u.completion_tokens, u.completion_tokens_details.reasoning_tokens) for u in usage
    ]
    assert "stop" == [c.choices[0].finish_reason for c in chunks if c.choices][-1]


def test_openai_chat_helper_takes_tools(openai):
    """The SDK's own accumulator gets two calls whose arguments fit the schema."""
    tools = [{"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}]
    with openai.chat.completions.stream(
        model="sim@tools=2", messages=[{"role": "user", "content": WEATHER}], tools=tools
    ) as stream:
        stream.until_done()
        choice = stream.get_final_completion().choices[0]
    assert "tool_calls" == choice.finish_reason
    assert [("forecast", ARGUMENTS)] == [
        (c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls
    ][:1]
    assert 2 == len({c.id for c in choice.message.tool_calls})


def test_openai_chat_whole_and_lists(server, openai):
    """The unstreamed answer, the list of models, one model."""
    answer = openai.chat.completions.create(
        model="sim@tokens=9", messages=[{"role": "user", "content": ASKED}]
    )
    assert (truth(server, answer.id).output_tokens, 9) == (9, answer.usage.completion_tokens)
    assert "sim" in [m.id for m in openai.models.list()]
    assert "sim-fast" == openai.models.retrieve("sim-fast").id


def test_openai_parses_structured_output(openai):
    """Pydantic classes are filled, streamed or not."""
    from pydantic import BaseModel

    class Trip(BaseModel):
        city: str
        days: int
        stops: list[str]

    given = {"messages": [{"role": "user", "content": WEATHER}], "model": "sim", "response_format": Trip}
    parsed = openai.chat.completions.parse(**given).choices[0].message.parsed
    assert ("Oslo", 3) == (parsed.city, parsed.days)
    with openai.chat.completions.stream(**given) as stream:
        stream.until_done()
        assert parsed == stream.get_final_completion().choices[0].message.parsed
    assert parsed == openai.responses.parse(model="sim", input=WEATHER, text_format=Trip).output_parsed


def test_openai_responses_stream(server, openai):
    """Every event is understood, numbers count up, the final response has text, summary and usage."""
    with openai.responses.stream(model="sim@reasoning=5", input=ASKED) as stream:
        events = list(stream)
        final = stream.get_final_response()
    record = truth(server, final.id)
    assert list(range(len(events))) == [e.sequence_number for e in events]
    assert said(record) == final.output_text
    assert said(record, "reasoning") == final.output[0].summary[0].text
    assert (record.output_tokens, 5) == (
        final.usage.output_tokens,
        final.usage.output_tokens_details.reasoning_tokens,
    )
    assert "completed" == final.status


def test_openai_responses_call_and_answer(openai):
    """A function call, then a turn with its output is answered in text; a limit makes the response
    incomplete."""
    tools = [{"type": "function", "name": "forecast", "parameters": PARAMETERS, "strict": False}]
    with openai.responses.stream(model="sim", input=WEATHER, tools=tools) as stream:
        list(stream)
        call = stream.get_final_response().output[0]
    assert ("function_call", "forecast", ARGUMENTS) == (call.type, call.name, json.loads(call.arguments))
    turns = [
        {"role": "user", "content": WEATHER},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"},
    ]
    after = openai.responses.create(model="sim", input=turns, tools=tools)
    assert "12 degrees" in after.output_text
    assert (
        "max_output_tokens"
        == openai.responses.create(model="sim", input=ASKED, max_output_tokens=4).incomplete_details.reason
    )


# ---- Anthropic ----


def test_anthropic_streams_thinking_and_text(server, anthropic):
    """Thinking with its signature, then text, and Anthropic's way to count cached input."""
    with anthropic.messages.stream(
        model="sim@cached=4",
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[{"role": "user", "content": ASKED}],
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    record = truth(server, final.id)
    assert (said(record), said(record, "reasoning")) == (text, final.content[0].thinking)
    assert final.content[0].signature
    assert (record.input_tokens, 4) == (
        final.usage.input_tokens + final.usage.cache_read_input_tokens,
        final.usage.cache_read_input_tokens,
    )
    assert (record.output_tokens, "end_turn") == (final.usage.output_tokens, final.stop_reason)


def test_anthropic_tool_use(server, anthropic):
    """Thinking, then tool_use; the turn with its result is answered in text."""
    tools = [{"name": "forecast", "input_schema": PARAMETERS}]
    asked = {"role": "user", "content": WEATHER}
    with anthropic.messages.stream(
        model="sim@reasoning=4", max_tokens=900, tools=tools, messages=[asked]
    ) as stream:
        final = stream.get_final_message()
    assert ["thinking", "tool_use"] == [b.type for b in final.content]
    assert (ARGUMENTS, "tool_use") == (final.content[1].input, final.stop_reason)
    result = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": final.content[1].id, "content": "12 degrees"}],
    }
    after = anthropic.messages.create(
        model="sim",
        max_tokens=900,
        tools=tools,
        messages=[asked, {"role": "assistant", "content": final.model_dump()["content"]}, result],
    )
    assert "12 degrees" in after.content[0].text


def test_anthropic_counts_and_lists(server, anthropic):
    """count_tokens agrees with the usage of the answer."""
    given = {"model": "sim", "messages": [{"role": "user", "content": ASKED}]}
    assert (
        anthropic.messages.count_tokens(**given).input_tokens
        == anthropic.messages.create(**given, max_tokens=5).usage.input_tokens
    )
    assert "sim" in [m.id for m in anthropic.models.list()]


# ---- Gemini ----


def test_gemini_streams_thoughts(server, gemini):
    """Thoughts are parts of their own and are counted apart."""
    from google.genai import types

    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    chunks = list(gemini.models.generate_content_stream(model="sim@tokens=20", contents=ASKED, config=config))
    parts = [p for c in chunks for p in c.candidates[0].content.parts]
    record, usage = truth(server, chunks[0].response_id), chunks[-1].usage_metadata
    assert said(record) == "".join(p.text for p in parts if not p.thought)
    assert said(record, "reasoning") == "".join(p.text for p in parts if p.thought)
    assert (record.reasoning_tokens, 20) == (usage.thoughts_token_count, usage.candidates_token_count)
    assert "STOP" == chunks[-1].candidates[0].finish_reason.value


def test_gemini_calls_a_function(gemini):
    """A functionCall with its id; the answer to its response is text."""
    from google.genai import types

    declared = types.FunctionDeclaration(
        name="forecast",
        parameters={
            "type": "OBJECT",
            "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}},
            "required": ["city", "days"],
        },
    )
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    calls = [
        f
        for c in gemini.models.generate_content_stream(model="sim@tools=2", contents=WEATHER, config=config)
        for f in c.function_calls or ()
    ]
    assert ["forecast", "forecast"] == [f.name for f in calls]
    assert ARGUMENTS == calls[0].args
    turns = [
        types.Content(role="user", parts=[types.Part(text=WEATHER)]),
        types.Content(role="model", parts=[types.Part(function_call=calls[0])]),
        types.Content(
            role="user",
            parts=[types.Part.from_function_response(name="forecast", response={"result": "12 degrees"})],
        ),
    ]
    assert "12 degrees" in gemini.models.generate_content(model="sim", contents=turns, config=config).text


def test_gemini_counts_lists_and_structures(gemini):
    """countTokens, the list of models, a schema that is followed."""
    from google.genai import types
    from pydantic import BaseModel

    class Trip(BaseModel):
        city: str
        days: int

    assert gemini.models.count_tokens(model="sim", contents=ASKED).total_tokens > 5
    assert "models/sim" in [m.name for m in gemini.models.list()]
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Trip)
    assert (
        Trip(**ARGUMENTS)
        == gemini.models.generate_content(model="sim", contents=WEATHER, config=config).parsed
    )


# ---- Ollama ----


def test_ollama_streams(server, ollama):
    """Thinking and text; durations that add up; a cold start that load_duration tells."""
    server.reset()
    lines = list(
        ollama.chat(
            model="sim@cold=0.1", messages=[{"role": "user", "content": ASKED}], stream=True, think=True
        )
    )
    record, last = truth(server), lines[-1]
    assert said(record) == "".join(p.message.content or "" for p in lines)
    assert said(record, "reasoning") == "".join(p.message.thinking or "" for p in lines)
    assert (record.input_tokens, record.output_tokens) == (last.prompt_eval_count, last.eval_count)
    assert last.load_duration >= 0.1e9
    assert last.total_duration == last.load_duration + last.prompt_eval_duration + last.eval_duration
    warm = ollama.chat(model="sim@cold=0.1", messages=[{"role": "user", "content": ASKED}])
    assert warm.load_duration < 0.1e9


def test_ollama_lists_shows_and_unloads(server, ollama):
    """list, show, ps; keep_alive 0 unloads, after which ps is empty."""
    server.reset()
    assert "sim:latest" in [m.model for m in ollama.list().models]
    assert "tools" in ollama.show("sim").capabilities
    assert [] == ollama.ps().models
    assert "load" == ollama.generate(model="sim", prompt="").done_reason
    assert ["sim:latest"] == [m.model for m in ollama.ps().models]
    assert "unload" == ollama.generate(model="sim", prompt="", keep_alive=0).done_reason
    assert [] == ollama.ps().models


def test_ollama_tools_and_generate(ollama):
    """A call with its arguments as an object; generate's own field; a schema that is followed."""
    tools = [{"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}]
    calls = [
        c
        for p in ollama.chat(
            model="sim", messages=[{"role": "user", "content": WEATHER}], tools=tools, stream=True
        )
        for c in p.message.tool_calls or ()
    ]
    assert [("forecast", ARGUMENTS)] == [(c.function.name, c.function.arguments) for c in calls]
    assert "Rayleigh" in "".join(p.response for p in ollama.generate(model="sim", prompt=ASKED, stream=True))
    assert ARGUMENTS == json.loads(
        ollama.chat(
            model="sim", messages=[{"role": "user", "content": WEATHER}], format=PARAMETERS
        ).message.content
    )


# ---- errors: each SDK raises its own ----

STATUS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
}


@pytest.mark.parametrize("status", STATUS)
@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_errors_have_their_class(name, status, openai, anthropic):
    """The class, the provider's words and the request's id; Retry-After is readable."""
    ask = openai.chat.completions if name == "openai" else anthropic.messages
    with pytest.raises(getattr(sdk(name), STATUS[status])) as caught:
        ask.create(
            model=f"sim@status={status},retry_after=3",
            max_tokens=9,
            messages=[{"role": "user", "content": ASKED}],
            stream=True,
        )
    assert status == caught.value.status_code
    assert "3" == caught.value.response.headers["retry-after"]
    assert caught.value.request_id


def test_openai_responses_errors(openai):
    """Before the stream and inside it."""
    with pytest.raises(sdk("openai").RateLimitError):
        openai.responses.create(model="sim@status=429", input=ASKED)
    events = list(openai.responses.create(model="sim@error=2", input=ASKED, stream=True))
    assert ["error", "response.failed"] == [e.type for e in events[-2:]]
    assert list(range(len(events))) == [e.sequence_number for e in events]
    assert ("failed", "server_error") == (events[-1].response.status, events[-1].response.error.code)


@pytest.mark.parametrize("option", ["error=3", "cut=3", "cut=3,how=close"])
def test_broken_streams_raise(option, openai, anthropic, ollama):
    """An error inside the stream and a cut both surface."""
    messages = [{"role": "user", "content": ASKED}]
    with pytest.raises((sdk("openai").APIError, *wire_errors())):
        list(openai.chat.completions.create(model=f"sim@{option}", messages=messages, stream=True))
    with (
        pytest.raises((sdk("anthropic").APIError, *wire_errors())),
        anthropic.messages.stream(model=f"sim@{option}", max_tokens=99, messages=messages) as stream,
    ):
        stream.until_done()
    with pytest.raises((sdk("ollama").ResponseError, *wire_errors())):
        list(ollama.chat(model=f"sim@{option}", messages=messages, stream=True))


def test_gemini_and_ollama_errors(gemini, ollama):
    """google-genai's ClientError and ServerError, ollama's ResponseError."""
    errors = sdk("google.genai.errors")
    with pytest.raises(errors.ClientError) as caught:
        list(gemini.models.generate_content_stream(model="sim@status=429,retry_after=2", contents=ASKED))
    assert (429, "RESOURCE_EXHAUSTED") == (caught.value.code, caught.value.status)
    with pytest.raises(errors.ServerError):
        gemini.models.generate_content(model="sim@status=503", contents=ASKED)
    with pytest.raises(sdk("ollama").ResponseError) as refused:
        ollama.chat(model="sim@status=404", messages=[{"role": "user", "content": ASKED}])
    assert 404 == refused.value.status_code


def test_a_wrong_key_is_an_authentication_error():
    """Each SDK says so in its own way; Gemini's is a 400 that names API_KEY_INVALID. A right key is let
    in."""
    messages = [{"role": "user", "content": ASKED}]
    with serve(auth="sk-right", ttft=0, gap=0) as server:
        for key, fails in (("sk-wrong", True), ("sk-right", False)):
            chat = sdk("openai").OpenAI(base_url=server.base_url("openai_chat"), api_key=key, max_retries=0)
            claude = sdk("anthropic").Anthropic(base_url=server.url, api_key=key, max_retries=0)
            for error, call in (
                (
                    sdk("openai").AuthenticationError,
                    lambda c=chat: c.chat.completions.create(model="sim", messages=messages),
                ),
                (sdk("openai").AuthenticationError, lambda c=chat: c.models.list()),
                (
                    sdk("anthropic").AuthenticationError,
                    lambda c=claude: c.messages.create(model="sim", max_tokens=9, messages=messages),
                ),
            ):
                if fails:
                    with pytest.raises(error):
                        call()
                else:
                    call()
            chat.close()
            claude.close()
        assert not any("sk-" in json.dumps(r.as_dict()) for r in server.records)
