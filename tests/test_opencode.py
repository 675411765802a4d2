"""OpenCode's server over HTTP: who answers is asked first, and the password and the prompt go to nobody
else."""

import base64
import contextlib
import http.server
import json
import queue
import threading

import pytest

from nbllm import Client
from nbllm.client.catalog import health, list_models
from nbllm.core import errors
from nbllm.routing.registry import load

PASSWORD = "canary-password-0123456789"
BASIC = "Basic " + base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
SECRET = (PASSWORD, BASIC.partition(" ")[2])
CHALLENGE = {"www-authenticate": 'Basic realm="Secure Area"'}


class Server(http.server.ThreadingHTTPServer):
    """Listens at a port and keeps what was asked: "METHOD path", the authorization, the body. `page(path,
    authorization)` is (status, headers, JSON or bytes)."""

    daemon_threads = True

    def __init__(self, page, port=0):
        self.page, self.asked, self.events = page, [], queue.Queue()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *exc):
        self.shutdown()
        super().__exit__(*exc)

    @property
    def got(self):
        """All that was ever sent here, as one text."""
        return "\n".join(map(str, self.asked))


class Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        path = self.path.partition("?")[0]
        self.server.asked.append((f"{self.command} {path}", self.headers.get("authorization"), body))
        status, headers, page = self.server.page(path, self.headers.get("authorization"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if page == "events":
            return self._stream()
        data = page if isinstance(page, bytes) else json.dumps(page).encode()
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        if path.endswith("prompt_async"):
            for event in TURN:
                self.server.events.put(event)
        return None

    def _stream(self):
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        with contextlib.suppress(OSError):
            self._write({"type": "server.connected", "properties": {}})
            for event in iter(lambda: self.server.events.get(timeout=60), None):
                self._write(event)

    def _write(self, event):
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *args):
        pass


TURN = [
    {
        "type": "message.updated",
        "properties": {
            "info": {"id": "m", "role": "assistant", "sessionID": "ses 1", "providerID": "a", "modelID": "b"}
        },
    },
    {
        "type": "message.part.delta",
        "properties": {
            "sessionID": "ses 1",
            "messageID": "m",
            "partID": "p",
            "field": "text",
            "delta": "Hello",
        },
    },
    {"type": "session.idle", "properties": {"sessionID": "ses 1"}},
    None,
]


def opencode(password=None):
    """What OpenCode's server answers, with Basic authentication where a password is given."""

    def page(path, given):
        if password and given != "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode():
            return 401, CHALLENGE, b""
        if path == "/session":
            return 200, {}, {"id": "ses 1"}
        if path == "/event":
            return 200, {}, "events"
        if path == "/config/providers":
            return 200, {}, {"providers": [{"id": "a", "models": {"b": {}}}]}
        return 200, {}, {"healthy": True, "version": "1.18.33"} if path == "/global/health" else {}

    return page


def anything(path, given):
    return 200, {"content-type": "text/html"}, b"<html>It works!</html>"


OTHERS = {
    "a web page": anything,
    "JSON of another kind": lambda path, given: (200, {}, {"status": "ok", "id": "ses_1"}),
    "healthy, but as a text": lambda path, given: (200, {}, {"healthy": "true"}),
    "a list": lambda path, given: (200, {}, [{"healthy": True}]),
    "an error": lambda path, given: (500, {}, {"healthy": True}),
    "a redirect": lambda path, given: (302, {"location": "http://127.0.0.1:9/"}, b""),
    "no such page": lambda path, given: (404, {}, {}),
    "deep": lambda path, given: (200, {}, b"[" * 60_000),
}
LOCKED = {
    "another realm": lambda path, given: (401, {"www-authenticate": 'Basic realm="Traefik"'}, b""),
    "a bearer": lambda path, given: (401, {"www-authenticate": "Bearer"}, b""),
    "no challenge": lambda path, given: (401, {}, {"error": "Unauthorized"}),
}


@pytest.fixture
def client():
    """client(**environment) -> a Client that has OpenCode's password."""
    made = []

    def make(**env):
        made.append(Client(load(env={"OPENCODE_SERVER_PASSWORD": PASSWORD, **env}), ledger=None))
        return made[-1]

    yield make
    for one in made:
        one.close()


@contextlib.contextmanager
def at(port, page):
    """A server at one of OpenCode's ports. Where another program of this machine has it, there is nothing to
    test."""
    try:
        server = Server(page, port)
    except OSError:
        pytest.skip(f"port {port} is taken")
    with server:
        yield server


def ask(client, **options):
    return client.complete("SECRET PROMPT", "opencode/a/b", retries=0, timeout={"first": 60}, **options)


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_an_address_that_was_named_gets_its_password(client, password):
    """The first question has none; the rest of the turn has it."""
    with Server(opencode(password)) as server:
        assert "Hello" == ask(client(OPENCODE_SERVER_URL=server.url)).text
    assert ("GET /global/health", None, "") == server.asked[0]
    assert {BASIC} == {given for _, given, _ in server.asked[1:]}
    assert "POST /session/ses%201/prompt_async" in server.got


@pytest.mark.parametrize("kind", OTHERS)
def test_somebody_else_at_an_address_that_was_named_gets_nothing(client, kind):
    """Neither the password nor the prompt, and the error says where nothing was sent."""
    with Server(OTHERS[kind]) as server:
        for question in (
            ask,
            lambda c: list_models(c, "opencode/"),
            lambda c: ask(c, base_url=server.url, api_key=PASSWORD),
        ):
            with pytest.raises(errors.ConnectFailed) as caught:
                question(client(OPENCODE_SERVER_URL=server.url))
            assert "Something else answers" in str(caught.value)
            assert server.url in str(caught.value)
            assert "4096" not in str(caught.value)
            assert "Sent to" not in str(caught.value)
    assert {("GET /global/health", None, "")} == set(server.asked)


@pytest.mark.parametrize("kind", [*OTHERS, *LOCKED, "a real one with a password"])
def test_the_password_is_not_for_the_other_port(client, kind):
    """Nothing on 4096, whatever else on 8787: RStudio's and wrangler's port."""
    with at(4096, anything):
        pass  # it is free
    with at(8787, {**OTHERS, **LOCKED, "a real one with a password": opencode(PASSWORD)}[kind]) as server:
        for question in (ask, lambda c: list_models(c, "opencode/")):
            with pytest.raises(errors.ConnectFailed) as caught:
                question(client())
        health(client(), "opencode")
    assert not any(secret in server.got for secret in (*SECRET, "SECRET PROMPT"))
    assert {("GET /global/health", None, "")} >= set(server.asked)
    assert "Sent to" not in str(caught.value)


def test_an_open_server_on_the_other_port_is_used_without_the_password(client):
    """It was given for 4096. The error of a turn says which address was asked."""

    def page(path, given):
        return (500, {}, {"name": "UnknownError"}) if path == "/session" else opencode()(path, given)

    with at(4096, anything):
        pass
    with at(8787, page) as server:
        with pytest.raises(errors.ProviderError) as caught:
            ask(client())
        assert f"Sent to {server.url} with no key" in str(caught.value)
    assert not any(secret in server.got for secret in SECRET)
    with at(8787, opencode()) as server:
        assert "Hello" == ask(client()).text
    assert {None} == {given for _, given, _ in server.asked}


@pytest.mark.parametrize("kind", [*OTHERS, *LOCKED])
def test_somebody_else_on_its_own_port_gets_nothing(client, kind):
    """A default is no word of the user's: who asks for a password must do so as OpenCode does."""
    with at(4096, {**OTHERS, **LOCKED}[kind]) as server:
        for question in (ask, lambda c: list_models(c, "opencode/")):
            with pytest.raises(
                errors.ConnectFailed, match=r"Something else answers at http://127\.0\.0\.1:4096"
            ):
                question(client())
        health(client(), "opencode")
    assert {("GET /global/health", None, "")} == set(server.asked)


def test_its_own_server_on_its_own_port_gets_the_password(client):
    """With a password it asks for it before all else."""
    with at(4096, opencode(PASSWORD)) as server:
        assert "Hello" == ask(client()).text
        assert ["a/b"] == [m.id for m in list_models(client(), "opencode/")]
    assert ("GET /global/health", None, "") == server.asked[0]


@pytest.mark.parametrize("ident", [None, [], "", {}, True])
def test_a_session_without_a_name_is_our_error(client, ident):
    """And no prompt goes anywhere."""

    def page(path, given):
        return (200, {}, {"id": ident}) if path == "/session" else opencode()(path, given)

    with Server(page) as server, pytest.raises(errors.ProtocolError, match="without an id"):
        ask(client(OPENCODE_SERVER_URL=server.url))
    assert "SECRET PROMPT" not in server.got


def test_a_session_s_name_stays_in_its_path(client):
    """A name of slashes and dots leads nowhere else."""

    def page(path, given):
        return (200, {}, {"id": "../../admin?x=1"}) if path == "/session" else opencode()(path, given)

    with Server(page) as server, contextlib.suppress(errors.NbllmError):
        client(OPENCODE_SERVER_URL=server.url).complete("x", "opencode/a/b", retries=0, timeout={"first": 1})
    assert any("/session/..%2F..%2Fadmin%3Fx%3D1/prompt_async" in what for what, _, _ in server.asked)
