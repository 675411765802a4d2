"""Requests as others write them, and as each provider takes them: histories of OpenAI's and Anthropic's
clients, ids of calls from another provider, pictures by their bytes, parameters by model."""

import base64
import json
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

from nbllm import Client
from nbllm.agents.base import fit_system_prompt
from nbllm.client.catalog import _parse_models
from nbllm.core import errors
from nbllm.core.calls import Endpoint, Secret
from nbllm.core.events import fold
from nbllm.core.messages import Document, Image, Message, Reasoning, Text, ToolCall, ToolResult
from nbllm.core.prompt import parse_messages
from nbllm.dialects._request import with_short_ids
from nbllm.routing import registry
from nbllm.routing.dialects import DIALECTS

from .decoding import read

KEYS = ("MISTRAL_API_KEY", "OPENAI_API_KEY", "AZURE_AI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
ENV = {**dict.fromkeys(KEYS, "k" * 20), "AZURE_AI_ENDPOINT": "https://x.example"}


def encoded(prompt, model="m", *, env=ENV, dialect=None, **options):
    """The call that a prompt becomes."""
    client = Client(registry.load(env))
    route = client.registry.resolve(
        model, base_url="http://127.0.0.1:1/v1" if dialect else None, dialect=dialect
    )
    request = client.request(prompt, route.model, **options)
    return client.encode(request, route, client.registry.key_for(route, None))


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 30
WORDS = {"type": "text", "media_type": "text/plain", "data": "w"}
FILE = "data:application/pdf;base64,JVBERg=="
DATA = "data:image/png;base64," + base64.b64encode(PNG).decode()

# A turn as some client keeps it, and what it is.
TURNS = [
    ({"role": "user", "content": "q"}, ("user", [Text("q")])),
    ({"role": "user", "content": {"type": "text", "text": "q"}}, ("user", [Text("q")])),
    ({"role": "user", "content": [{"type": "input_text", "text": "q"}]}, ("user", [Text("q")])),
    ({"role": "developer", "content": "q"}, ("system", [Text("q")])),
    ({"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}, ("assistant", [Text("a")])),
    (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        ("assistant", [ToolCall("c1", "f", {"a": 1}, '{"a": 1}')]),
    ),
    ({"role": "assistant", "content": "", "tool_calls": None, "audio": None}, ("assistant", [])),
    ({"role": "tool", "tool_call_id": "c1", "content": "42"}, ("tool", [ToolResult("c1", "42")])),
    (
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        ("tool", [ToolResult("c1", "42")]),
    ),
    (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ("assistant", [ToolCall("function-f", "f", {}, "{}")]),
    ),
    (
        {"role": "function", "name": "f", "content": "42"},
        ("tool", [ToolResult("function-f", "42", name="f")]),
    ),
    (
        {"role": "assistant", "content": "a", "reasoning_content": "t"},
        ("assistant", [Reasoning("t"), Text("a")]),
    ),
    ({"role": "assistant", "content": None, "refusal": "no"}, ("assistant", [Text("no")])),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": DATA}}]},
        ("user", [Image(PNG)]),
    ),
    ({"role": "user", "content": [{"type": "input_image", "image_url": DATA}]}, ("user", [Image(PNG)])),
    (
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
        ("assistant", [ToolCall("t", "f", {"a": 1}, '{"a": 1}')]),
    ),
    (
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": "4", "is_error": True}],
        },
        ("user", [ToolResult("t", "4", is_error=True)]),
    ),
    (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}]},
        ("assistant", [Reasoning("t", "s")]),
    ),
    (
        {
            "role": "user",
            "content": [
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                }
            ],
        },
        ("user", [Document(b"%PDF")]),
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "document", "title": "n", "source": WORDS},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": FILE}},
                {"type": "input_file", "filename": "a.pdf", "file_data": FILE},
                {"type": "input_file", "file_url": "https://x.example/a.pdf"},
            ],
        },
        (
            "user",
            [
                Document(b"w", media_type="text/plain", name="n"),
                Document(b"%PDF", name="a.pdf"),
                Document(b"%PDF", name="a.pdf"),
                Document(url="https://x.example/a.pdf"),
            ],
        ),
    ),
    (
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "z"}]},
        ("assistant", [Reasoning(redacted="z")]),
    ),
    (
        {
            "role": "assistant",
            "content": "a",
            "reasoning_content": "t",
            "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
        },
        ("assistant", [Reasoning("t", "s"), Text("a")]),
    ),
]


@pytest.mark.parametrize(("given", "expected"), TURNS, ids=[json.dumps(g)[:70] for g, _ in TURNS])
def test_a_turn_of_another_client_is_carried_over_whole(given, expected):
    """Calls, results, thinking, pictures, in OpenAI's and Anthropic's words."""
    role, parts = expected
    assert (Message("user", "x"), Message(role, parts)) == parse_messages(
        [{"role": "user", "content": "x"}, given]
    )


class Spoken(pydantic.BaseModel):
    """A message as a provider's SDK gives it, whose fields are objects of its own."""

    role: str = "assistant"
    content: Any = None
    tool_calls: Any = None
    audio: Any = None


class Piece(pydantic.BaseModel):
    """One of its fields."""

    model_config = {"extra": "allow"}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (Spoken(content="a"), [Text("a")]),
        (Spoken(tool_calls=[Piece(**CALL)]), [ToolCall("c1", "f", {"a": 1}, '{"a": 1}')]),
        ({"role": "assistant", "content": [Piece(type="text", text="a", citations=None)]}, [Text("a")]),
        (
            {"role": "assistant", "tool_calls": [Piece(id="c", function=Piece(name="f", arguments=""))]},
            [ToolCall("c", "f", {}, "")],
        ),
    ],
    ids=str,
)
def test_what_an_sdk_gave_is_carried_over(given, parts):
    """As the answers of other clients are put into a history, whole or in parts."""
    assert (Message("user", "x"), Message("assistant", parts)) == parse_messages(
        [{"role": "user", "content": "x"}, given]
    )


def test_a_message_may_stand_alone():
    """Its keys are no prompt."""
    assert (Message("user", "hi"),) == parse_messages({"role": "user", "content": "hi"})
    assert (Message("assistant", "hi"),) == parse_messages(Spoken(content="hi"))


REFUSED = [
    {"role": "user", "content": 5},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
    {"role": "user", "content": [{"type": "input_file", "file_data": "no address"}]},
    {"role": "user", "content": True},
    {"role": "user", "content": [5]},
    {"role": "user", "content": {"type": "hologram"}},
    {"role": "user", "content": [{"type": ["text"]}]},
    {"role": "user", "content": [{"type": "file", "file": "f"}]},
    {"role": "user", "content": "x", "tool_calls": [CALL]},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]},
    {"role": "tool", "content": "42"},
    {"role": "narrator", "content": "x"},
    {"role": ["user"], "content": "x"},
    {"role": {}, "content": "x"},
    {"role": "user", "content": pd.NA},
    {"role": "user", "content": np.array([1, 2])},
    {"role": "user", "content": 0},
    {"role": "user", "content": "x", "name": pd.NA},
    {"role": "user", "content": "x", "name": np.array([1, 2])},
    {"content": "x"},
    ("user", "x"),
    7,
    {"role": "assistant", "content": "x", "audio": {"id": "a"}},
    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]},
]


@pytest.mark.parametrize("given", REFUSED, ids=str)
def test_what_cannot_be_carried_over_is_refused_by_name(given):
    """As a ConfigError; nothing is dropped in silence."""
    with pytest.raises(errors.ConfigError):
        parse_messages([{"role": "user", "content": "x"}, given])


def history(id):
    """A call and its result."""
    return [
        Message("user", "q"),
        Message("assistant", [ToolCall(id, "f", {"a": 1}, '{"a":1}')]),
        Message("tool", [ToolResult(id, "42")]),
    ]


IDS = [
    "toolu_01AbCdEfGhIjKlMnOpQrStUv",
    "chatcmpl-tool-" + "0" * 32,
    "x" * 86,
    "c1",
    "a b/c\u00e9",
    "functions.f:0",
]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize(
    ("model", "fits"),
    [
        (
            "openai/mistralai/Mixtral-8x7B",
            lambda text: len(text) == 9 and text.isascii() and text.isalnum(),
        ),
        ("mistral/m", lambda text: len(text) == 9 and text.isascii() and text.isalnum()),
        ("openai/m", lambda text: len(text) <= 40),
        ("openai_responses/m", lambda text: len(text) <= 64),
        ("anthropic/m", lambda text: len(text) <= 200 and not set(text) & set(" /.:\u00e9")),
    ],
)
def test_ids_of_another_provider_are_made_fit(id, model, fits):
    """In both places alike; one that fits stays."""
    body = json.dumps(dict(encoded(history(id), model).body), ensure_ascii=False)
    found = [
        v for k in ("id", "tool_call_id", "call_id", "tool_use_id") for v in found_values(json.loads(body), k)
    ]
    assert 2 == len(found)
    assert 1 == len(set(found))
    assert fits(found[0])
    if fits(id):
        assert id == found[0]


def found_values(value, name):
    """Every value under a name."""
    if isinstance(value, list):
        return [v for item in value for v in found_values(item, name)]
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [v for item in value.values() for v in found_values(item, name)]
    return []


def test_different_ids_stay_different():
    """Also where a provider takes nine letters."""
    calls = [ToolCall(f"toolu_{n:030}", "f", {}, "{}") for n in range(300)]
    ids = {p.id for m in with_short_ids([Message("assistant", calls)], 9) for p in m.parts}
    assert 300 == len(ids)


@pytest.mark.parametrize("key", ["google", "vertex"])
def test_a_signature_that_came_with_a_call_goes_back(key):
    """To an address of one's own, and to Gemini; not to others."""
    call = {"index": 0, **CALL, "extra_content": {key: {"thought_signature": "c2ln"}}}
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    row = Endpoint("x", "openai_chat", "http://127.0.0.1/v1")
    answer = fold(read(DIALECTS["openai_chat"], row, *chunks))
    turns = [Message("user", "q"), answer.message, Message("tool", [ToolResult("c1", "42")])]
    back = encoded(turns, dialect="openai_chat").body["messages"][1]["tool_calls"][0]
    assert "c2ln" == back["extra_content"][key]["thought_signature"]
    assert "extra_content" not in encoded(turns, "openai/m").body["messages"][1]["tool_calls"][0]
    assert "extra_content" not in encoded(turns, "mistral/m").body["messages"][1]["tool_calls"][0]


PICTURES = [
    (Image(b"\xff\xd8\xff" + b"\0" * 20), "image/jpeg"),
    (Image(b"\xff\xd8\xff" + b"\0" * 20, media_type="image/png"), "image/jpeg"),
    (Image(b"RIFF\0\0\0\0WEBP" + b"\0" * 9), "image/webp"),
    (Image(b"GIF89a" + b"\0" * 9, media_type="image/webp"), "image/gif"),
    (Image(b"unknown", media_type="image/jpg"), "image/jpeg"),
    (Image(b"unknown", media_type="IMAGE/PNG; charset=utf-8"), "image/png"),
    (Image(url="data:image/png;charset=utf-8;base64," + base64.b64encode(PNG).decode()), "image/png"),
    (Image(url="data:image/png;base64,iVBORw0KGgo"), "image/png"),
]


@pytest.mark.parametrize(("picture", "kind"), PICTURES)
def test_a_picture_is_what_its_bytes_are(picture, kind):
    """Whatever it was called."""
    block = encoded([picture, "what?"], "anthropic/m").body["messages"][0]["content"][0]
    assert kind == block["source"]["media_type"]


@pytest.mark.parametrize("kind", ["image/heic", "image/bmp", "image/tiff", "image/avif", "image/svg+xml"])
@pytest.mark.parametrize("model", ["anthropic/m", "openai/m", "openai_responses/m"])
def test_a_picture_that_nobody_takes_is_refused_here(kind, model):
    """With what to make of it."""
    with pytest.raises(errors.ConfigError, match=f"takes no {kind.replace('+', '.')} pictures") as caught:
        encoded([Image(b"x" * 30, media_type=kind), "what?"], model)
    assert "png, jpeg" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("azure-foundry/gpt-5-mini", "max_completion_tokens"),
        ("azure-foundry/o3", "max_completion_tokens"),
        ("azure-foundry/o4-mini", "max_completion_tokens"),
        ("azure-foundry/gpt-4o", "max_tokens"),
        ("azure-foundry/Phi-4", "max_tokens"),
        ("openai/gpt-4o", "max_completion_tokens"),
        ("mistral/open-mixtral", "max_tokens"),
        ("mistral/gpt-oss-20b", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_model_takes(model, field):
    """By its family, at any address."""
    assert 100 == encoded("hi", model, max_tokens=100).body[field]


def test_a_token_of_a_gateway_goes_as_a_bearer():
    """As Claude Code sends it; a key goes before it."""
    env = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "ANTHROPIC_AUTH_TOKEN": "t" * 20}
    assert f"Bearer {'t' * 20}" == encoded("hi", "anthropic/m", env=env).headers["Authorization"]
    both = encoded("hi", "anthropic/m", env={**env, "ANTHROPIC_API_KEY": "k" * 20}).headers
    assert ("k" * 20, None) == (both["x-api-key"], both.get("Authorization"))


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ({"data": None, "models": [{"name": "x"}]}, ["x"]),
        ({"data": [], "models": [{"id": "x"}]}, ["x"]),
        ({"data": [{"id": "x"}], "models": None}, ["x"]),
        ([{"id": "x"}], ["x"]),
        ({"models": [{"name": "models/x"}]}, ["x"]),
        ({"data": None}, []),
        ({}, []),
        (None, []),
    ],
)
def test_a_list_of_models_is_read_in_every_form(listed, names):
    """Under either name, either of which may be null."""
    assert names == [m.id for m in _parse_models("p", listed)]


def test_an_error_where_a_list_should_be_is_one():
    """With the server's words, though its status was 200."""
    with pytest.raises(errors.ProviderError, match="no key"):
        list(_parse_models("p", {"error": {"message": "no key"}}))


def test_a_long_system_prompt_is_no_word_of_a_command():
    """It stands before the prompt, and comes through standard input."""
    assert ("s", "p") == fit_system_prompt("s", "p")
    assert ("", f"{'s' * 200_000}\n\np") == fit_system_prompt("s" * 200_000, "p")


@pytest.mark.parametrize("cli", ["claude", "codex", "gemini", "copilot", "opencode"])
@pytest.mark.parametrize("letter", ["s", "\u8a9e", "\U0001f388", '"', "\0"])
@pytest.mark.parametrize("keep", [False, True])
def test_no_word_of_a_command_and_no_variable_is_too_long(cli, letter, keep):
    """Whatever the system prompt is made of: Linux takes 128 KiB of bytes. And it is in what is sent."""
    client = Client(registry.load({}))
    request = client.request("hello", "m", system=letter * 50_000)
    call = client.encode(request, client.resolve(f"cli/{cli}/m"), None, keep=keep)
    command, told = (call.process, call.turn.full_prompt) if keep else (call, call.stdin)
    sizes = [len(f"{name}={value}".encode()) for name, value in command.env.items()]
    assert max(*(len(word.encode()) for word in command.argv), *sizes, 0) < 131_000
    if letter == "\U0001f388" and cli in ("codex", "opencode") and not (keep and cli == "codex"):
        assert told.startswith(letter * 50_000)
    row = registry.load({}).rows["cli/codex"]
    client = Client(registry.load({}))
    request = client.request([Message("system", "s" * 200_000), Message("user", "p")], "m")
    for name in ("cli_codex", "cli_opencode"):
        made = DIALECTS[name].encode(request, row, Secret("k"))
        assert max(map(len, (*made.argv, *made.env.values()))) < 100_000
        assert "s" * 200_000 in made.stdin
