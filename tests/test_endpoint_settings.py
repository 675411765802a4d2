"""Addresses, certificates and keys in the forms in which users have them: pasted with a path, with quotes, a
query or a password."""

import base64
import contextlib
import os
import socket
import ssl

import pytest
import trustme

import nbllm
from nbllm import Client
from nbllm.client import auto
from nbllm.core import errors
from nbllm.core.addresses import parse
from nbllm.http.proxies import proxy_for
from nbllm.routing import registry
from nbllm.routing.base_urls import parse_base_url, strip_quotes

from .listeners import Listener
from .test_transport import ANSWER, head, server

WHOLE = head(b"content-length: %d" % len(ANSWER)) + ANSWER
HERE = "http://127.0.0.1:8000"

# (dialect, what was pasted, path and query that are asked)
PASTED = [
    ("openai_chat", "/v1", "/v1/chat/completions"),
    ("openai_chat", "/v1/", "/v1/chat/completions"),
    ("openai_chat", "//v1//", "/v1/chat/completions"),
    ("openai_chat", "/v1/v1", "/v1/chat/completions"),
    ("openai_chat", "/v1,", "/v1/chat/completions"),
    ("openai_chat", "/v1;", "/v1/chat/completions"),
    ("openai_chat", "", "/chat/completions"),
    ("openai_chat", "/v1/chat/completions", "/v1/chat/completions"),
    ("openai_chat", "/v1/chat/completions/", "/v1/chat/completions"),
    ("openai_chat", "/v1/completions", "/v1/chat/completions"),
    ("openai_chat", "/v1/embeddings", "/v1/chat/completions"),
    ("openai_chat", "/v1/models", "/v1/chat/completions"),
    ("openai_chat", "/v1?tenant=a%20b", "/v1/chat/completions?tenant=a%20b"),
    ("openai_chat", "/v1#top", "/v1/chat/completions"),
    ("openai_chat", "/v1?a=1&b=#x", "/v1/chat/completions?a=1&b="),
    (
        "openai_chat",
        "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
    ),
    ("openai_chat", "/compatible-mode/v1", "/compatible-mode/v1/chat/completions"),
    ("openai_responses", "/v1/responses", "/v1/responses"),
    ("openai_responses", "/v1/chat/completions", "/v1/responses"),
    ("openai_responses", "/openai/v1?api-version=preview", "/openai/v1/responses?api-version=preview"),
    ("anthropic", "", "/v1/messages"),
    ("anthropic", "/v1", "/v1/messages"),
    ("anthropic", "/v1/messages", "/v1/messages"),
    ("anthropic", "/messages", "/v1/messages"),
    ("anthropic", "/anthropic/v1/messages?beta=true", "/anthropic/v1/messages?beta=true"),
    ("gemini", "/v1beta", "/v1beta/models/m:streamGenerateContent?alt=sse"),
    ("gemini", "/v1beta/models", "/v1beta/models/m:streamGenerateContent?alt=sse"),
    ("gemini", "/v1/models/m:generateContent", "/v1/models/m:streamGenerateContent?alt=sse"),
    (
        "gemini",
        "/v1beta/models/x:streamGenerateContent?alt=sse",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
    ),
    ("gemini", "/v1beta?key=k", "/v1beta/models/m:streamGenerateContent?alt=sse&key=k"),
    ("ollama", "/v1", "/api/chat"),
    ("ollama", "/api", "/api/chat"),
    ("ollama", "/api/generate", "/api/chat"),
    ("ollama", "/v1/chat/completions", "/api/chat"),
    ("ollama", "/ollama/api/tags", "/ollama/api/chat"),
    ("cohere", "/v2/chat", "/v2/chat"),
    ("cohere", "/v2", "/v2/chat"),
    ("cohere", "/v1", "/v2/chat"),
]
AROUND = ["{}", " {} ", "'{}'", '"{}"', "`{}`", "\u201c{}\u201d", "\u00a0{}\ufeff", "\n{}\r\n", "\"'{}'\""]


@pytest.mark.parametrize(("dialect", "pasted", "asked"), PASTED)
def test_what_was_pasted_leads_where_it_was_meant(dialect, pasted, asked):
    """Whole endpoints, queries, fragments, version paths, and what stands around them."""
    client = Client(registry.load({}))
    for around in AROUND:
        route = client.registry.resolve("m", base_url=around.format(HERE + pasted), dialect=dialect)
        assert HERE + asked == client.encode(client.request("hi", "m"), route, None).url


AZURE = "https://n.openai.azure.com"
# (variables, model, address)
NAMED = [
    ({"OPENAI_ENDPOINT": "https://x.example/v1/"}, "openai/m", "https://x.example/v1/chat/completions"),
    ({"OPENAI_BASE_URL": "'https://x.example/v1'"}, "openai/m", "https://x.example/v1/chat/completions"),
    ({"OPENAI_BASE_URL": '"" '}, "openai/m", "https://api.openai.com/v1/chat/completions"),
    ({"OPENAI_API_BASE": "https://x.example/v1/responses"}, "responses/m", "https://x.example/v1/responses"),
    ({"ANTHROPIC_ENDPOINT": "https://x.example"}, "anthropic/m", "https://x.example/v1/messages"),
    ({"OLLAMA_ENDPOINT": "http://x.example:1/v1"}, "ollama/m", "http://x.example:1/api/chat"),
    ({"OLLAMA_HOST": "::1"}, "ollama/m", "http://[::1]:11434/api/chat"),
    ({"OLLAMA_HOST": "fe80::1"}, "ollama/m", "http://[fe80::1]:11434/api/chat"),
    ({"OLLAMA_HOST": "[::1]"}, "ollama/m", "http://[::1]:11434/api/chat"),
    ({"OLLAMA_HOST": "[::]:1"}, "ollama/m", "http://[::1]:1/api/chat"),
    ({"OLLAMA_HOST": "0.0.0.0"}, "ollama/m", "http://127.0.0.1:11434/api/chat"),
    ({"OLLAMA_HOST": " 'host.example' "}, "ollama/m", "http://host.example:11434/api/chat"),
    ({"OLLAMA_HOST": '"http://host.example:11434"'}, "ollama/m", "http://host.example:11434/api/chat"),
]
# A scheme that is lacking, what is known to stand below a host, names that other tools have.
NAMED += [
    ({"OPENAI_BASE_URL": given}, "openai/m", f"{asked}/chat/completions")
    for given, asked in (
        ("api.openai.com/v1", "https://api.openai.com/v1"),
        ("https:/api.openai.com/v1", "https://api.openai.com/v1"),
        ("<https://x.example/v1>", "https://x.example/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("http://localhost:1234/", "http://localhost:1234/v1"),
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("10.0.0.7:8000/v1", "http://10.0.0.7:8000/v1"),
        ("8.8.8.8:8000/v1", "https://8.8.8.8:8000/v1"),
        ("gateway:8000/v1", "http://gateway:8000/v1"),
        ("host.docker.internal:8000/v1", "http://host.docker.internal:8000/v1"),
        ("[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://x.example", "https://x.example"),
    )
]
NAMED += [
    ({"VLLM_BASE_URL": "0.0.0.0:8000"}, "vllm/m", "http://127.0.0.1:8000/v1/chat/completions"),
    ({"HOSTED_VLLM_API_BASE": "http://gpu:8000"}, "vllm/m", "http://gpu:8000/v1/chat/completions"),
    ({"LM_STUDIO_API_BASE": "localhost:1234"}, "lmstudio/m", "http://localhost:1234/v1/chat/completions"),
    ({"OLLAMA_API_BASE": "http://x.example:1"}, "ollama/m", "http://x.example:1/api/chat"),
    ({"ANTHROPIC_API_BASE": "x.example"}, "anthropic/m", "https://x.example/v1/messages"),
    ({"AZURE_OPENAI_ENDPOINT": "n.openai.azure.com"}, "azure-responses/m", AZURE + "/openai/v1/responses"),
]
for tail in ("", "/", "/openai", "/openai/v1/", "/openai/deployments/x/chat/completions?api-version=1"):
    route = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    NAMED.append(({"AZURE_OPENAI_ENDPOINT": AZURE + tail}, "azure/gpt", AZURE + route))
    NAMED.append(
        ({"AZURE_OPENAI_ENDPOINT": AZURE + tail}, "azure-responses/gpt", f"{AZURE}/openai/v1/responses")
    )


@pytest.mark.parametrize(("env", "model", "address"), NAMED)
def test_what_a_variable_holds_leads_where_it_was_meant(env, model, address):
    """The usual names, and those of other tools."""
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY"), "k" * 20)
    client = Client(registry.load({**keys, **env}))
    route = client.registry.resolve(model)
    assert (
        address == client.encode(client.request("hi", "m"), route, client.registry.key_for(route, None)).url
    )


@pytest.mark.parametrize(("value", "seconds"), [("300", 300), ("'45'", 45), ("2m", 120)])
def test_ollamas_own_time_limit_is_kept(value, seconds):
    """For the time to a token; what a call names goes before it."""
    client = Client(registry.load({"OLLAMA_TIMEOUT_SECS": value}))
    request, route = client.request("hi", "m"), client.registry.resolve("ollama/m")
    assert seconds == client.attempt(request, route, key=None).timeouts.first
    given = nbllm.client.policy.Timeouts.of({"first": 7})
    assert 7 == client.attempt(request, route, key=None, timeouts=given).timeouts.first
    client.close()


def test_a_time_limit_that_is_none_names_its_variable():
    """It is not passed over."""
    client = Client(registry.load({"OLLAMA_TIMEOUT_SECS": "soon"}))
    with pytest.raises(errors.ConfigError, match="OLLAMA_TIMEOUT_SECS is not a number of seconds: 'soon'"):
        client.attempt(client.request("hi", "m"), client.registry.resolve("ollama/m"), key=None)
    client.close()


@pytest.mark.parametrize("text", ["", "'", "''", '"x', "x'", "//", "?", "#", "http://", "a" * 100_000])
def test_odd_texts_are_no_trouble(text):
    """Nothing foreign is raised, in linear time."""
    strip_quotes(text)
    parse_base_url(text, "ollama")


@pytest.mark.parametrize(("user", "told"), [("u:p", b"u:p"), ("u", b"u:"), ("u%40x:p%3A", b"u@x:p:")])
def test_a_password_in_an_address_is_sent_and_not_shown(user, told):
    """As Basic authorization, where no key goes along; in errors it is masked."""
    with Listener((401, b'{"error": {"message": "denied"}}')) as running:
        url = running.url.replace("//", f"//{user}@") + "/v1?key=hunter2-key"
        with pytest.raises(errors.AuthenticationError) as caught:
            nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response()
        assert f"Basic {base64.b64encode(told).decode()}" in running.text
        assert "key=hunter2-key" in running.text
        with pytest.raises(errors.AuthenticationError):
            nbllm.stream("hi", "m", base_url=url, api_key="k" * 20, retries=0, timeout=60).response()
        assert f"Bearer {'k' * 20}" in running.text
    assert "hunter2" not in str(caught.value)
    assert f"{user}@" not in str(caught.value)


# --- keys ---------------------------------------------------------------------------------------------------

KEY = "sk-" + "a" * 30
CLEANED = [KEY, f"{KEY}\n", f" {KEY}\r\n", f"'{KEY}'", f'"{KEY}"\r\n', f"\u201c{KEY}\u201d", f"Bearer {KEY}"]
CLEANED += [
    f"export OPENAI_API_KEY={KEY}",
    f'OPENAI_API_KEY="{KEY}"',
    f"$env:OPENAI_API_KEY = '{KEY}'",
    f"x-api-key: {KEY}",
    f"{KEY};",
    f'"{KEY}",',
    f"{KEY} # mine",
    f"bearer  {KEY}",
    f'"Bearer {KEY}"',
    f"Authorization: Bearer {KEY}",
    f"{KEY}\u200b",
    f"\ufeff{KEY}",
    f'"OPENAI_API_KEY": "{KEY}",',
    f"OPENAI_API_KEY: {KEY}",
    f"Token {KEY}",
    f"Api-Key {KEY}",
]


@pytest.mark.parametrize("given", CLEANED)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_what_was_copied_with_a_key_is_taken_off(given, way):
    """Blanks, line ends, quotes, marks that nobody sees, the word before it."""
    client = Client(registry.load({"OPENAI_API_KEY": given} if way == "environment" else {}))
    route = client.registry.resolve("openai/m")
    key = client.registry.key_for(route, given if way == "argument" else None)
    assert key is not None
    assert KEY == key.reveal()


@pytest.mark.parametrize("given", ["sk-proj-abcdefghij0123456789", "AIzaSyA-0123456789abcdefghij"])
def test_a_key_in_an_address_place_is_not_shown(given):
    """People paste one for the other."""
    with pytest.raises(errors.ConfigError, match="Not a usable address") as caught:
        nbllm.stream("hi", "m", base_url=given)
    assert given[8:] not in str(caught.value)


BROKEN = {
    "sk\u2014" + "a" * 30: r"U\+2014 \(em dash\)",
    "sk-\u200b" + "a" * 30: r"U\+200B \(zero width space\)",
    "\u0437\u0434\u0440\u0430\u0432\u0435\u0439": r"U\+0437 \(cyrillic",
    "sk-\u2026" + "a" * 9: "ellipsis",
    "sk-a\nb": "a line break",
    "sk-a\x00b": r"U\+0000",
    "\u2022\u2022\u2022\u2022abcd": "bullet",
    **dict.fromkeys(
        (
            "<your key>",
            "$MY_KEY",
            "${MY_KEY}",
            "%MY_KEY%",
            "YOUR_API_KEY",
            "your-openai-key-here",
            "********",
            "sk-****abcd",
            "os.environ/MY_KEY",
        ),
        "it is a placeholder",
    ),
    **dict.fromkeys(("sk-...wxyz", '{"key": "sk-abcdef"}', "op://vault/openai/key"), "it is a placeholder"),
}
KEYS = ("QUJDREVGR0g=", "A_B=", "none", "EMPTY", "sk-1234", "key", "a:b:c", "user=1;x=2", "AIza_-.~+/")


@pytest.mark.parametrize("given", KEYS)
def test_odd_keys_of_servers_are_sent_as_they_are(given):
    """Base64, words, and whatever a gateway invents."""
    client = Client(registry.load({"OPENAI_API_KEY": given}))
    assert given == client.registry.key_for(client.registry.resolve("openai/m"), None).reveal()


def test_what_stands_for_a_key_keeps_auto_from_no_other():
    """A template's line is passed over where another provider has a key, and told where none has."""
    own = registry.load({"OPENAI_API_KEY": "<your key>", "GROQ_API_KEY": KEY})
    assert "groq" == auto.choose(own, lambda _url: False).provider.name
    with pytest.raises(errors.ConfigError, match="The value of OPENAI_API_KEY cannot be a key"):
        auto.choose(registry.load({"OPENAI_API_KEY": "<your key>"}), lambda _url: False)


@pytest.mark.parametrize("given", BROKEN)
def test_what_cannot_be_a_key_is_said_as_that(given):
    """With what is wrong and where it came from; a list of all providers goes on."""
    client = Client(registry.load({"OPENAI_API_KEY": given}))
    route = client.registry.resolve("openai/m")
    with pytest.raises(errors.ConfigError, match=BROKEN[given]) as caught:
        client.registry.key_for(route, None)
    assert "OPENAI_API_KEY" in str(caught.value)
    assert given not in str(caught.value)
    with pytest.raises(errors.ConfigError, match="value of api_key cannot be a key.*" + BROKEN[given]):
        client.registry.key_for(route, given)
    assert client.registry.own_key(route.provider) is None


@pytest.mark.parametrize("given", ["", "   ", "''", '"" ', "Bearer ", "\ufeff"])
def test_an_empty_key_is_none(given):
    """No header without a key goes out."""
    client = Client(registry.load({"OPENAI_API_KEY": given}))
    route = client.registry.resolve("m", base_url=HERE + "/v1")
    assert client.registry.key_for(route, given) is None
    assert client.registry.key_for(client.registry.resolve("openai/m"), None) is None


def test_a_password_of_a_server_may_hold_any_letters():
    """OpenCode's is one."""
    client = Client(registry.load({"OPENCODE_SERVER_PASSWORD": "sch\u00f6n \u2014"}))
    assert "sch\u00f6n \u2014" == client.registry.own_key(client.registry.rows["opencode"]).reveal()


def test_headers_of_a_row_are_sent_as_utf8():
    """A title with letters of any language; a line break in one names the header."""
    with Listener(
        (200, b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}')
    ) as running:
        made = registry.load({})
        table = {"base_url": running.url, "headers": {"X-Title": "f\u00fcr"}, "local": True}
        made.register("acme", table)
        client = Client(made)
        assert "Hello" == client.complete("hi", "acme/m", timeout=60).text
        came = "für".encode().decode("latin-1")  # as the standard library reads headers, and writes them
        assert f"X-Title: =?utf-8?b?{base64.b64encode(came.encode()).decode()}?=" in running.text
        client.close()


# --- this machine, redirections and certificates ------------------------------------------------------------


def own_address():
    """An address of this machine beside loopback, as the system would use it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.7", 9))
        return probe.getsockname()[0]
    return "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "[::1]", "localhost", "a.localhost", "127.9.9.9", "own", "name"]
)
def test_this_machine_is_reached_without_a_proxy(host, monkeypatch):
    """Loopback, and its own addresses and name."""
    host = {"own": own_address(), "name": socket.gethostname().lower()}.get(host, host)
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.invalid:1")
    assert proxy_for(parse(f"http://{host}:8000")) is None
    assert proxy_for(parse("http://198.51.100.7:8000")) is not None


@pytest.mark.parametrize("status", [b"307 Temporary Redirect", b"308 Permanent Redirect"])
@pytest.mark.parametrize("to", [b"/v1/chat/completions/", b"chat/completions/", None])
def test_a_post_follows_within_its_server(status, to):
    """By path or whole address, with its body."""
    with server(["head", b""]) as (url, _):
        place = to or url.encode() + b"/x"
    with server(
        *[[None, head(b"content-length: 0", b"location: " + (to or b"/x"), status=status), None, WHOLE]]
    ) as (url, _):
        assert "Hello" == nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response().text
    assert place


@pytest.mark.parametrize(
    "to", [b"http://198.51.100.7/", b"https://127.0.0.1/", b"//other.invalid/x", b"http://[", b""]
)
def test_a_post_follows_nowhere_else(to):
    """Nor without end: the answer is told, with where it points."""
    answer = head(b"content-length: 0", b"location: " + to, status=b"307 Temporary Redirect")
    with server([None, answer]) as (url, count), pytest.raises(errors.NotFound, match="redirects to"):
        nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response()
    assert 1 == len(count)
    around = head(b"content-length: 0", b"location: /v1/x", status=b"308 Permanent Redirect")
    with server([None, around] * 9) as (url, _), pytest.raises(errors.NotFound, match="redirects to"):
        nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60).response()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A server's context for 127.0.0.1, and its authority's file."""
    made, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    made.cert_pem.write_to_path(path)
    return context, str(path)


FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.mark.slow
def test_an_authority_that_is_named_in_a_cell_counts_from_the_next_call_on(authority, monkeypatch):
    """Whichever of the variables names it; the error before says which ones there are."""
    for name in FILES:
        monkeypatch.delenv(name, raising=False)
    client = Client(registry.load({}))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        with server([None, WHOLE], [None, WHOLE], context=authority[0]) as (url, _):
            with pytest.raises(errors.ConnectFailed, match=r"SSL_CERT_FILE .or REQUESTS_CA_BUNDLE"):
                client.complete("hi", "m", base_url=url, retries=0, timeout=60)
            monkeypatch.setenv(name, authority[1])
            assert "Hello" == client.complete("hi", "m", base_url=url, retries=0, timeout=60).text
            monkeypatch.delenv(name)
    client.close()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_there_is_named(name, monkeypatch):
    """By its variable, as an error of ours."""
    for other in FILES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, os.devnull + "/not-there.pem")
    with pytest.raises(errors.ConfigError, match=name):
        nbllm.stream("hi", "m", base_url="https://127.0.0.1:9/v1", retries=0, timeout=60).response()


def test_other_faults_of_tls_have_hints_of_their_own(authority, monkeypatch):
    """A certificate for another host, and a server that speaks plain HTTP."""
    monkeypatch.setenv("SSL_CERT_FILE", authority[1])
    for steps, context, change, words in (
        (["head"], authority[0], ("127.0.0.1", "localhost"), "for another host"),
        (
            ["head", b"HTTP/1.1 400 Bad\r\n\r\n", "close"],
            None,
            ("http:", "https:"),
            "try an address with http://",
        ),
    ):
        with server(steps, context=context) as (url, _), pytest.raises(errors.ConnectFailed, match=words):
            nbllm.stream("hi", "m", base_url=url.replace(*change), retries=0, timeout=60).response()
