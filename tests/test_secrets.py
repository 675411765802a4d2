"""One set of secrets: what a row or a call holds shows in no error, dry run, table, repr or file, in whatever
form it comes back."""

import base64
import json
import pickle
import sqlite3
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbllm
from nbllm import Client, Timeouts, bench
from nbllm.client import catalog
from nbllm.core import errors
from nbllm.core.calls import HttpCall, ProviderSpec
from nbllm.core.errors import scrub
from nbllm.core.messages import Message, Request
from nbllm.routing import keys, registry
from nbllm.routing.registry import provider_row
from nbllm.store import ledger

from .kernels import Kernel
from .listeners import Listener
from .test_transport import server as server_of

PACKAGE = f"{Path(nbllm.__file__).parent}/"
KEY = "sk-canary/0123+456=789&ab cdef"
CANARIES = {
    "key": KEY,
    "header": "hdr-canary-1",
    "plain": "hdr/canary+2",
    "query": "qry-canary&3",
    "word": "qry canary 4",
    "path": "pth-canary-5",
    "user": "usr-canary-6",
    "password": "pwd-canary-7",
}
SPENT = [s for name, s in CANARIES.items() if name not in ("user", "password")]
ENV = {"ACME_API_KEY": KEY, "HDR": CANARIES["header"], "QRY": CANARIES["query"], "PTH": CANARIES["path"]}


def hidden(text):
    """Whether none of the secrets stands in `text`, in any form."""
    found = [
        name
        for name, s in CANARIES.items()
        for form in (
            s,
            quote(s, safe=""),
            quote_plus(s),
            base64.b64encode(s.encode()).decode(),
            s.upper(),
            json.dumps(s)[1:-1],
        )
        if form in text
    ]
    assert [] == found, text
    return True


def echo(handler):
    """What a careless server says: all that came, as it came and otherwise."""
    came = f"{handler.requestline} {handler.headers} {KEY.upper()} {json.dumps(SPENT)}"
    packed = [base64.b64encode(f"{'x' * n}{s}".encode()).decode() for s in SPENT for n in range(3)]
    return json.dumps(
        {
            "error": {
                "message": f"wrong: {came}",
                "type": came[:200],
                "code": came,
                "detail": {"a": [came, *packed], came: 1},
            }
        }
    ).encode()


@pytest.fixture
def server():
    with Listener((400, echo)) as running:
        yield running


@pytest.fixture
def client(server):
    r = registry.load(ENV)
    r.register(
        "acme",
        {
            "base_url": server.url + "/${PTH}/v1",
            "key_env": "ACME_API_KEY",
            "headers": {"X-A": "Bearer ${HDR}", "X-B": CANARIES["plain"]},
            "query": {"token": "${QRY}", "q": CANARIES["word"]},
            "models": "/models",
        },
    )
    made = Client(r, ledger=ledger.Ledger())
    yield made
    made.close()


def spilt(error):
    """All texts of an error."""
    body = json.dumps({k: v for k, v in vars(error).items() if k != "partial"}, default=repr)
    return f"{error} {error!r} {error.args} {body} {''.join(traceback.format_exception(error))}"


def asked(ask):
    """What a question gives, or all that its error says."""
    try:
        return repr(ask())
    except errors.NbllmError as error:
        return spilt(error)


def test_they_arrive(client, server):
    """The server is sent all of them: that is what they are for."""
    with pytest.raises(errors.BadRequest):
        client.complete("hello", "acme/m", retries=0)
    for name in ("header", "plain", "path"):
        assert CANARIES[name] in server.text
    assert quote(CANARIES["word"]) in server.text


@pytest.mark.parametrize(
    "dialect", ["openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere"]
)
def test_an_error_that_echoes_the_request_shows_none(client, dialect):
    """Message, type, code, body, "Sent to ...", in every dialect."""
    with pytest.raises(errors.NbllmError) as caught:
        client.complete("hello", "acme/m", dialect=dialect, retries=0)
    assert hidden(spilt(caught.value))
    assert "Sent to http://127.0.0.1:" in str(caught.value)


def test_an_error_inside_a_stream_shows_none(client, server):
    """And a model's name that repeats the key."""
    server.answer, server.more = (
        (
            200,
            lambda h: (
                b'data: {"model": "m-%s", "choices": [{"delta": {"content": "x"}}]}\n\ndata: %s\n\n'
                % (KEY.encode(), echo(h))
            ),
        ),
        {"content-type": "text/event-stream"},
    )
    with pytest.raises(errors.NbllmError) as caught:
        client.complete("hello", "acme/m", retries=0)
    assert hidden(spilt(caught.value))
    assert KEY not in caught.value.partial.model


def test_a_key_given_back_as_a_name_or_in_headers_is_not_remembered(client, server):
    """As the answer's id, its model, the word for its end, an id of the request, a limit."""
    chunk = {"id": KEY, "model": KEY, "choices": [{"delta": {"content": "x"}, "finish_reason": KEY}]}
    server.answer = (200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
    server.more = {
        "x-request-id": KEY,
        "server-timing": f"a;desc={KEY}",
        f"x-goog-{KEY}": "1",
        "retry-after": KEY,
    }
    answer = client.complete("hello", "acme/m", retries=0)
    assert "x" == answer.text
    assert hidden(f"{answer.id} {answer.model} {answer.finish_raw} {answer.raw}")
    assert hidden(json.dumps(client.ledger.rows(), default=repr))


@pytest.mark.parametrize("page", [b"nonsense\r\n", b""])
def test_an_error_has_no_error_behind_it(page):
    """Its frames hold what was sent, and tools that show local variables look into it."""
    with server_of([None, page, "close"]) as (url, _), pytest.raises(errors.NbllmError) as caught:
        nbllm.stream("hello", "m", base_url=url, api_key=KEY, retries=0, timeout=60).response(60)
    assert caught.value.__context__ is None
    assert KEY.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: catalog.list_models(c, "acme/"),
        lambda c: catalog.health(c, "acme"),
        catalog.provider_states,
        lambda c: c.registry.resolve("acme/m"),
        lambda c: c.registry.rows,
        lambda c: c.encode(
            c.request("x", "m"), c.resolve("acme/m"), c.registry.key_for(c.resolve("acme/m"), None)
        ),
        lambda c: c.registry,
        lambda c: keys.list_sources(c.registry.rows["acme"], c.registry.stores, "https://h"),
    ],
)
def test_questions_tables_and_reprs_show_none(client, ask):
    """models(), health(), providers(), Route, ProviderSpec, HttpCall."""
    assert hidden(asked(lambda: ask(client)))


@pytest.mark.parametrize(
    "url",
    [
        "http://{u}:{p}@127.0.0.1:9/v1",
        "http://{u}:{p}@127.0.0.1:99999/v1",
        "http://{u}:{p}@ho st/v1",
        "http://{u}:{p}@[::1/v1",
        "{u}:{p}@h",
        "ftp://{u}:{p}@h/v1",
    ],
)
def test_what_stands_before_an_at_is_shown_nowhere(url):
    """In an address given by hand, or in a variable; whether it can be read or not, whether anybody answers
    there or not."""
    url = url.format(u=CANARIES["user"], p=CANARIES["password"])
    for env, base_url in (({"OPENAI_BASE_URL": url}, None), ({}, url)):
        client = Client(
            registry.load({"OPENAI_API_KEY": KEY, **env}),
            ledger=ledger.Ledger(),
            timeouts=Timeouts(first=5.0),
        )
        for model in ("openai/m", "unknown-model") if base_url else ("openai/m",):
            with pytest.raises(errors.NbllmError) as caught:
                client.complete("hello", model, base_url=base_url, retries=0)
            assert "//" not in url or hidden(spilt(caught.value))
            assert "//" not in url or hidden(repr(client.resolve(model, base_url)))
        if not base_url and "//" in url:
            assert hidden(repr(catalog.provider_states(client)))
            assert hidden(asked(lambda c=client: catalog.health(c, "openai")))
        client.close()


def test_rows_of_calls_hold_none(client):
    """What `%llm log` and a benchmark's file take from a call."""
    with pytest.raises(errors.BadRequest):
        client.complete("hello", "acme/m", retries=0)
    (row,) = client.ledger.rows()
    assert hidden(json.dumps(row, default=repr))
    assert row["route"].startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_a_benchmark_s_folder_holds_none(client, tmp_path):
    """Neither the plan nor the rows nor the log."""
    df = bench.run(
        ["acme/m"], ["hello"], blocks=1, warmup=0, directory=tmp_path / "run", client=client, progress=False
    )
    assert [False] == list(df["ok"])
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as db:
        dump = "\n".join(db.iterdump())
    db.close()
    assert hidden(
        dump + "".join(p.read_bytes().decode("utf-8", "replace") for p in (tmp_path / "run").iterdir())
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra": {"a": object()}},
        {"api_key": "line\r\nbreak-canary"},
        {"temperature": float("nan"), "tools": [{"name": "t", "parameters": {1j}}]},
    ],
)
def test_what_fails_before_it_is_sent_shows_none(client, wrong):
    """A request that cannot be written: neither its message nor what a traceback with local variables would
    show."""
    with pytest.raises((errors.NbllmError, TypeError)) as caught:
        client.complete("hello", "acme/m", retries=0, **wrong)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [f for f in frames.stack if f.filename.startswith(PACKAGE)]
    assert hidden("\n".join(f"{f.name}: {f.locals}" for f in ours))
    assert "break-canary" not in "\n".join(str(f.locals) for f in ours if f.name != "complete")


def test_a_variable_that_is_missing_shows_none_of_the_others(client):
    """The error is raised while the row's values are at hand."""
    client.registry.register("acme", {"headers": {"X-A": "${HDR}", "X-C": "${NOT_THERE}"}})
    with pytest.raises(errors.ConfigError, match="NOT_THERE") as caught:
        client.resolve("acme/m")
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert hidden(
        str(caught.value) + "\n".join(str(f.locals) for f in frames.stack if f.filename.startswith(PACKAGE))
    )


def test_what_nbllm_s_own_rows_say_is_no_secret():
    """Azure's version in the query is public; the user's own value for it is not."""
    env = {"AZURE_OPENAI_ENDPOINT": "https://acme.openai.azure.com", "AZURE_OPENAI_API_KEY": KEY}
    row = registry.load(env).resolve("azure/m").provider
    assert ((), "https://acme.openai.azure.com/openai/deployments/m") == (row.secrets, row.display_url)
    assert ("2030-01-01-canary",) == registry.load(
        {**env, "OPENAI_API_VERSION": "2030-01-01-canary"}
    ).resolve("azure/m").provider.secrets
    row = (
        registry.load({**env, "AZURE_OPENAI_ENDPOINT": "https://gw.example/pth-canary-5/"})
        .resolve("azure/m")
        .provider
    )
    assert "https://gw.example/•••/openai/deployments/m" == row.display_url


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("a sk-12345678 b", ["sk-12345678"], "a ••• b"),
        ("a SK-ABCDEFGH b", ["sk-abcdefgh"], "a ••• b"),
        ("cat", ["cat"], "cat"),
        ("a Team b", ["team"], "a Team b"),
        ("true null", ["true", "null"], "true null"),
        ("k=a%2Fb%2fc+d%20e", ["a/b/c d"], None),
        ("abcdefghij abcd", ["abcd", "abcdefghij"], "••• •••"),
        ("", ["abcd"], ""),
        ("Basic b3BlbmNvZGU6c2stY2FuYXJ5LTAxMjM0", ["sk-canary-01234"], None),
        ("x", [], "x"),
    ],
)
def test_masking(text, secrets, expected):
    """The longest first; short ones and plain words are left; percent signs and base64 are seen through."""
    found = scrub(text, secrets)
    assert expected == found if expected is not None else "•••" in found


def test_masking_looks_only_so_far_down():
    """A body of any depth costs no more than its length."""
    body = value = {}
    for _ in range(900):
        value["a"] = value = {}
    value["a"] = KEY
    error = errors.ProviderError("x", body=body).scrub_secrets([KEY])
    assert hidden(json.dumps(error.body))


@pytest.mark.parametrize("entry", ["headers", "query"])
def test_reprs_without_a_guard_show_no_values(entry):
    """A row and a call as they are made by hand."""
    row = ProviderSpec(
        "a", "openai_chat", "https://usr-canary-6:pwd-canary-7@h/v1", **{entry: {"X": "hdr-canary-1"}}
    )
    call = HttpCall(
        "https://usr-canary-6:pwd-canary-7@h/v1?token=qry-canary&3",
        {"X": "hdr-canary-1", "accept": "a"},
        {"model": KEY},
    )
    assert hidden(f"{row!r} {call!r} {row.display_url}")
    assert "ProviderSpec(name='a'" in repr(row)
    assert repr(provider_row("b", {"base_url": "https://h"})).startswith(
        "ProviderSpec(name='b', dialect='openai_chat', base_url='https://h'"
    )
    assert Request("m", (Message("user", "x"),)) is not None


@pytest.mark.kernel
def test_a_dry_run_shows_none(tmp_path):
    """The address, the headers and the query with their secrets masked; `providers` and errors in cells
    likewise."""
    (tmp_path / "mine.toml").write_text(
        '[provider.acme]\nbase_url = "http://127.0.0.1:9/${PTH}/v1"\nkey_env = "ACME_API_KEY"\nheaders = { '
        'X-A = "Bearer ${HDR}", X-B = "hdr/canary+2" }\n'
        'query = { token = "${QRY}", q = "qry canary 4" }\n'
    )
    with Kernel(NBLLM_CONFIG=str(tmp_path / "mine.toml"), **ENV) as kernel:
        ran = kernel.run("%%llm acme/m --dry-run\nHello true world")
        assert "Hello true world" in ran.text
        assert "http://127.0.0.1:9/•••/v1/chat/completions?token=•••&q=•••" in ran.text
        said = [
            ran,
            kernel.run("%llm providers"),
            kernel.run("%xmode Verbose\nnbllm.complete('x', 'acme/m', retries=0)"),
            kernel.run("%%llm acme/m retries=0\nHello"),
            kernel.run("nbllm.models('acme/')"),
            kernel.run("nbllm.default_client().resolve('acme/m')"),
            kernel.run("%llm key where acme"),
        ]
        assert hidden(str([r.messages for r in said]))


@given(st.text(min_size=1, max_size=40))
def test_no_form_of_a_secret_is_shorter_than_itself(secret):
    """So that a text which is shorter than a secret need not be looked through."""
    assert all(len(secret) <= len(form) for form in errors._forms(secret))
