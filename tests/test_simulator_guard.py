"""The simulator against pages of other origins, DNS rebinding, malformed requests and numbers that are too
large."""

import http.client
import itertools
import json
import random
import socket
import threading
import time

import pytest

from nbllm import simulator
from nbllm.simulator import schema
from nbllm.simulator.options import BadOption, mask_key, options_for, options_from, parse, split_model
from nbllm.simulator.options import Options as Defaults
from nbllm.simulator.text import answer_tokens, count_tokens, tokens_to_length

from .growth import growth

CHAT = "/v1/chat/completions"
PATHS = ["/__sim/records", "/__sim/health", "/", "/v1/models", "/api/tags"]


@pytest.fixture(scope="module")
def server():
    with simulator.serve(ttft=0.0, gap=0.0) as made:
        yield made


def ask(server, method, path, headers=None, body=b"", *, timeout=60):
    """(status, headers, body) of one request with exactly these headers; {port} in a value is the
    server's."""
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        c.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {
            "Host": f"127.0.0.1:{server.port}",
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            c.putheader(name, value.replace("{port}", str(server.port)))
        c.endheaders(body)
        r = c.getresponse()
        return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
    finally:
        c.close()


def body(model="sim", **more):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **more}).encode()


# --- who may ask ---


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost.evil.example:{port}",
        "127.0.0.1.nip.io:{port}",
        "127.0.0.1:1",
        "localhost:1",
        "[::1]:1",
        "192.168.1.7:{port}",
        "10.0.0.1:{port}",
        "0.0.0.0:{port}",
        "127.0.0.1:{port}@evil.example",
        "evil.example#127.0.0.1:{port}",
        "127.0.0.1:{port}.evil.example",
        "169.254.169.254:{port}",
        "user@127.0.0.1:{port}",
        "metadata:{port}",
        "127.0.0.1",
        "2130706433:{port}",
        "0x7f.1:{port}",
    ],
)
@pytest.mark.parametrize("path", [*PATHS, CHAT])
def test_another_name_is_refused(server, host, path):
    """A name that leads here is not ours; an address of ours with another port neither. Nothing is recorded,
    nothing reset."""
    before = len(server.records)
    status, headers, page = ask(
        server, "POST" if path == CHAT else "GET", path, {"Host": host}, body() if path == CHAT else b""
    )
    assert status in (400, 403, 421), page
    assert b"hello" not in page
    assert "access-control-allow-origin" not in headers
    assert before == len(server.records)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}", "127.1.2.3:{port}"]
)
def test_its_own_names_are_answered(server, host):
    """And nothing else than before."""
    assert 200 == ask(server, "GET", "/__sim/health", {"Host": host})[0]
    assert 200 == ask(server, "POST", CHAT, {"Host": host}, body())[0]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://evil.example:{port}",
        "null",
        "http://localhost:1",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "file://",
        "http://127.0.0.1:{port}.evil.example",
        "chrome-extension://abc",
        "",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/__sim/records"),
        ("POST", "/__sim/reset"),
        ("POST", CHAT),
        ("OPTIONS", CHAT),
        ("GET", "/v1/models"),
    ],
)
def test_a_page_of_another_origin_is_refused(server, origin, method, path):
    """Reading or writing; there is no preflight that succeeds."""
    status, headers, _ = ask(server, method, path, {"Origin": origin}, body() if path == CHAT else b"")
    assert 403 == status
    assert not any(name.startswith("access-control") for name in headers)


def test_a_page_of_its_own_is_answered(server):
    """Its own origin, as a browser sends it."""
    assert (
        200
        == ask(
            server,
            "GET",
            "/__sim/health",
            {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
        )[0]
    )
    assert 403 == ask(server, "GET", "/__sim/records", {"Sec-Fetch-Site": "cross-site"})[0]


def test_a_simulator_for_other_machines_answers_to_addresses():
    """Where it was bound to all addresses on purpose: those cannot be rebound, names can."""
    with simulator.serve(host="0.0.0.0") as server:
        for host, wanted in (
            ("192.168.1.7:{port}", 200),
            ("127.0.0.1:{port}", 200),
            (f"{socket.gethostname()}:{{port}}", 200),
            ("evil.example:{port}", 421),
        ):
            assert wanted == ask(server, "GET", "/__sim/health", {"Host": host})[0]


# --- what may be asked ---

TOO_MUCH = [
    "tokens=1e9",
    "tokens=1000000000",
    "tokens=1000001",
    "tokens=-1",
    "tokens=nan",
    "tokens=inf",
    "tokens=" + "9" * 5_000,
    "reasoning=1000000000",
    "tools=1000000",
    "ping=1000000000",
    "ttft=nan",
    "ttft=inf",
    "ttft=-1",
    "gap=1e300",
    "ttft=1e9",
    "headers=1e30",
    "stall_for=inf",
    "status=99999",
    "status=-1",
    "status=100",
    "status=204",
    "retry_after=nan",
    "fail_rate=-inf",
    "cold=1e100",
    "idle=1e300",
    "cut=-5",
    "burst=0",
    "chunks_per_write=0",
    "seed=1e400",
    "tokens_per_chunk=99999999999",
    "gap=" + "9" * 400,
    "x" * 10_000 + "=1",
]


@pytest.mark.parametrize("words", TOO_MUCH)
def test_numbers_out_of_measure_are_refused(server, words):
    """In a name, in a header, in Python; the server goes on."""
    assert 400 == ask(server, "POST", CHAT, body=body(f"sim@{words}"))[0]
    assert 400 == ask(server, "POST", CHAT, {"x-nbllm-sim": words}, body())[0]
    with pytest.raises(BadOption) as caught:
        options_from(parse(words))
    assert len(str(caught.value)) < 1_200
    assert 200 == ask(server, "GET", "/__sim/health")[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, [], {}, "x", object()])
@pytest.mark.parametrize("name", ["tokens", "ttft", "tools", "seed"])
def test_such_values_from_python_are_bad_options(name, value):
    """Not an error of Python's."""
    with pytest.raises(BadOption):
        simulator.serve(**{name: value})


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("tokens=1000000", marks=pytest.mark.slow),
        pytest.param("tokens=1000000,gap=10000000", marks=pytest.mark.slow),
        "ttft=10000000",
        "stall=0,stall_for=10000000",
        "headers=10000000",
        "cold=10000000,idle=1000000000",
    ],
)
def test_closing_does_not_hang(words):
    """In the middle of the longest answer there is."""
    server = simulator.serve()
    c = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    data = body(f"sim@{words}", stream=True)
    c.sendall(
        f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-length: "
        f"{len(data)}\r\n\r\n".encode()
        + data
    )
    deadline = time.monotonic() + 30
    while not server.records and time.monotonic() < deadline:
        time.sleep(0.01)
    done = threading.Thread(target=server.close, daemon=True)
    done.start()
    done.join(30)
    assert not done.is_alive()
    assert not server.serving
    assert 1 == len(server.records)
    c.close()


SCHEMAS = {
    "many items": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "items of items": {
        "type": "array",
        "minItems": 1000,
        "items": {"type": "array", "minItems": 1000, "items": {"type": "string"}},
    },
    "a long text": {"type": "string", "minLength": 10**9},
    "itself": {
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
    },
    "a pyramid": {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{i}": {
                "type": "object",
                "required": ["a", "b"],
                "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}},
            }
            for i in range(40)
        },
    },
    "a pyramid of allOf": {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)},
    },
    "many choices": {"enum": [f"choice {i}" for i in range(20_000)]},
    "wide": {
        "type": "object",
        "required": [f"p{i}" for i in range(20_000)],
        "properties": {f"p{i}": {"type": "integer", "minimum": 10**6} for i in range(20_000)},
    },
}
WRONG_SCHEMAS = [
    {"type": "array", "minItems": "x"},
    {"type": "array", "minItems": []},
    {"type": "string", "minLength": {}},
    {"type": "object", "properties": []},
    {"type": "object", "required": 7},
    {"enum": {"a": 1}},
    {"enum": 7},
    {"type": "integer", "minimum": "x"},
    {"type": "integer", "multipleOf": 0},
    {"type": "number", "multipleOf": 5e-324},
    {"allOf": 7},
    {"type": []},
    {"type": {}},
    {"$ref": []},
    {"anyOf": {"a": 1}},
    {"type": "number", "minimum": float("inf")},
    {"type": "string", "format": []},
]


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in ("many choices", "wide") else k for k in SCHEMAS]
)
def test_a_schema_that_stands_for_too_much_is_cut(server, kind):
    """As an answer's schema and as a tool's arguments."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[kind]}}
    for more in (
        {"response_format": form},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMAS[kind]}}]},
    ):
        status, _, page = ask(
            server,
            "POST",
            CHAT,
            body=body(messages=[{"role": "user", "content": "7 " * 50_000}], **more),
            timeout=30,
        )
        assert 200 == status
        assert len(page) < 10_000_000


@pytest.mark.parametrize("wrong", WRONG_SCHEMAS, ids=range(len(WRONG_SCHEMAS)))
def test_a_schema_of_wrong_types_is_answered(server, wrong):
    """By an answer or by 400."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": wrong}}
    assert ask(server, "POST", CHAT, body=body(response_format=form))[0] in (200, 400)


GOOD = {
    CHAT: {
        "model": "sim",
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
    },
    "/v1/responses": {
        "model": "sim",
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "instructions": "x",
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}},
        "stream": True,
        "max_output_tokens": 9,
        "include": ["x"],
    },
    "/v1/messages": {
        "model": "sim",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        "system": "x",
        "thinking": {"type": "enabled"},
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"],
        "stream": True,
    },
    "/v1beta/models/sim:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 9, "thinkingConfig": {}, "stopSequences": ["x"]},
        "systemInstruction": {"parts": [{"text": "x"}]},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    },
    "/api/chat": {
        "model": "sim",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"num_predict": 9, "stop": ["x"]},
        "keep_alive": "5m",
        "format": "json",
        "think": True,
        "tools": [],
    },
    "/api/generate": {"model": "sim", "prompt": "hi", "system": "x", "keep_alive": 0},
    "/api/show": {"model": "sim"},
    "/v1/messages/count_tokens": {"model": "sim", "messages": [{"role": "user", "content": "hi"}]},
}
VALUES = [
    None,
    True,
    -1,
    10**400,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud83d",
    "1.2.3s",
    [],
    [[]],
    ["x", {}],
    {},
    {"x": None},
]


def varied(value):
    """`value` with each of its parts replaced by what it should not be."""
    yield from VALUES
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        for other in varied(inner):
            yield (
                {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]
            )


@pytest.mark.parametrize("path", GOOD)
def test_a_request_of_wrong_types_is_answered(server, path):
    """By an answer or by an error of its format, never by a broken connection or a failure of ours."""
    every = list(varied(GOOD[path]))
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for value in random.Random(7).sample(every, min(len(every), 250)):
        c.request("POST", path, json.dumps(value), {"anthropic-version": "2023-06-01"})
        r = c.getresponse()
        page = r.read()
        assert r.status in (200, 400, 404), (value, page)
        if r.getheader("connection") == "close":
            c.close()
    c.close()
    assert 200 == ask(server, "GET", "/__sim/records")[0]
    ask(server, "POST", "/__sim/reset")


@pytest.mark.parametrize(
    "junk",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"",
        b"\xff",
        b"null",
        b'{"model":"\\ud800","messages":[{"role":"user","content":"\\udc00"}]}',
        b"1" * 5_000,
        b'{"model":"sim","messages":[{"role":"user","content":' + b"[" * 900 + b"]" * 900 + b"}]}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/api/chat", "/v1beta/models/sim:generateContent"])
def test_a_body_of_depth_or_halves_is_answered(server, junk, path):
    """And the records can be read afterwards."""
    assert ask(server, "POST", path, body=junk)[0] in (200, 400)
    assert 200 == ask(server, "GET", "/__sim/records")[0]


@pytest.mark.parametrize(
    "path", ["/" + "a" * 100_000, "/v1beta/" + "models/" * 20_000 + "x", "/v1/models/" + "x" * 20_000]
)
def test_a_long_path_is_refused(server, path):
    """With a status of its own."""
    assert 414 == ask(server, "GET", path)[0]


# --- growth ---


@pytest.mark.slow
@pytest.mark.parametrize("unit", [" ", "a", "1", "1.", "A b ", "\n", "'", "$", "1 ", "Aa "])
def test_words_cost_their_length(unit):
    """Counting, answering, repeating, and what a schema takes of a prompt."""

    def parse(prompt):
        count_tokens(prompt)
        answer_tokens(prompt)
        tokens_to_length(prompt)
        schema.json_text(
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}, prompt
        )

    growth(parse, lambda n: (unit * n)[:n], 5_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["/models/", "/models", "/api/", ":", "/", "a", "models/x:generateContent", "\n", "/messages"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_cost_their_length(unit, method):
    """Whoever answers there."""
    from nbllm.simulator import routes
    from nbllm.simulator.protocols import ApiError, HttpRequest, gemini

    def parse(path):
        request = HttpRequest(method, path, {}, {}, b'{"contents": [{}]}')
        routes.find_format(request)
        for function in (lambda: routes.metadata_body(request, {}), lambda: gemini.parse_request(request)):
            try:
                function()
            except (ApiError, AttributeError):
                continue

    growth(parse, lambda n: "/" + unit * n + "\nx", 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a=1,", "@", "auth=", "tokens=1;", ",", "=", "a@b=", "%41"])
def test_option_words_cost_their_length(unit):
    """In a name and in a header."""

    def parse(words):
        split_model(words), mask_key(words)
        for function in (lambda: parse_words(words), lambda: options_for(Defaults(), f"sim@{words}", words)):
            try:
                function()
            except BadOption:
                continue

    parse_words = globals()["parse"]
    growth(parse, lambda n: unit * n, 2_000)


def test_many_names_are_not_kept_for_ever():
    """Loaded models are remembered up to a number."""
    from nbllm.simulator.model_loading import LoadedModels

    loads = LoadedModels()
    for i, now in zip(range(30_000), itertools.count()):
        loads.seconds_to_load(f"m{i}", 0.0, 1e9, float(now))
    assert len(loads.loaded(30_000.0)) <= 10_000
