"""Logins at servers with unusual answers, and with strangers at the listener: our own errors, bounded waits,
clean messages."""

import contextlib
import http.server
import io
import json
import re
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from nbllm import Client
from nbllm.core import errors
from nbllm.routing import keys, oauth, registry

GIVEN = {"access_token": "at-canary-1", "refresh_token": "rt-canary-1", "expires_in": 3600}
DEVICE = {
    "device_code": "dc",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://provider.example/device",
    "interval": 0.005,
    "expires_in": 60,
}


@pytest.fixture(autouse=True)
def few_certificates(one_authority, monkeypatch):
    """Nothing here is encrypted."""
    monkeypatch.setenv("SSL_CERT_FILE", one_authority)


class Server(http.server.ThreadingHTTPServer):
    """Answers each path with what `pages` holds: JSON, or bytes as they are."""

    daemon_threads = True

    def __init__(self, **pages):
        self.pages, self.asked = pages, []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *exc):
        self.shutdown()
        super().__exit__(*exc)

    def handle_error(self, *args):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(self.path)
        page = self.server.pages[self.path.strip("/")]
        data = page if isinstance(page, bytes) else json.dumps(page).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def row(server, way):
    """(a registry whose `acme` logs in at the server, its place)"""
    r = registry.load({})
    r.stores = keys.KeyStores(r.env, keyring=lambda: None)
    urls = {
        "device": ("device_url", f"{server.url}/device"),
        "browser": ("authorize_url", f"{server.url}/authorize"),
    }
    r.register(
        "acme",
        {
            "base_url": f"{server.url}/v1",
            "oauth": {"client_id": "c", "token_url": f"{server.url}/token", **dict([urls[way]])},
        },
    )
    return r, keys.origin(server.url)


def log_in(server, way="device", tell=None, timeout=10.0):
    r, place = row(server, way)
    oauth.login(r.rows["acme"], place, r.stores, tell or (lambda words: None), timeout=timeout)
    return oauth.Token.from_json(r.stores.cache["nbllm login", place])


ODD = [
    -1,
    0,
    -1e9,
    "nan",
    "inf",
    "-inf",
    float("nan"),
    float("inf"),
    1e300,
    [5],
    {"s": 5},
    "five",
    "",
    True,
    False,
    None,
    10**400,
    "1e999",
]
BODIES = [
    b"x",
    b"",
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b"[" * 100_000,
    b'{"device_code":' * 1000,
    b"\xff\xfe",
    b" " * 10_000_000,
    b"{" + b'"a":1,' * 2_000_000 + b'"b":1}',
    b'{"error": ["x"]}',
    b'{"error": {"a": 1}}',
    b'{"error": "\\u001b[31m"}',
    b'{"error": "' + b"x" * 100_000 + b'"}',
    b'{"device_code": []}',
    b'{"device_code": ""}',
]


@pytest.mark.slow
@pytest.mark.parametrize("interval", ODD)
def test_an_odd_interval_floods_no_server_and_hangs_nobody(interval):
    """Nobody enters the code: few questions, and the user's patience is the end."""
    with Server(device={**DEVICE, "interval": interval}, token={"error": "authorization_pending"}) as server:
        with pytest.raises(errors.ConfigError, match="in time"):
            log_in(server, timeout=0.3)
        assert len(server.asked) <= 4


@pytest.mark.slow
def test_a_short_interval_is_not_kept_up():
    """Some quick questions, then one a second."""
    with Server(device={**DEVICE, "interval": 0.001}, token={"error": "authorization_pending"}) as server:
        with pytest.raises(errors.ConfigError, match="in time"):
            log_in(server, timeout=1.2)
        assert len(server.asked) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1e9, "1e9", 3600, 1e8])
def test_a_long_interval_does_not_outlast_the_users_patience(interval):
    """A thousand million seconds."""
    began = time.monotonic()
    with (
        Server(device={**DEVICE, "interval": interval}, token={"error": "authorization_pending"}) as server,
        pytest.raises(errors.ConfigError, match="in time"),
    ):
        log_in(server, timeout=0.5)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("span", ODD)
def test_an_odd_span_is_no_span(span):
    """Of a device code, of a token: the user's own patience, a token whose end is not known."""
    with Server(device={**DEVICE, "expires_in": span}, token={**GIVEN, "expires_in": span}) as server:
        token = log_in(server)
    assert ("at-canary-1", None, True) == (token.access.reveal(), token.expires, token.is_valid)


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("way", ["device", "token"])
def test_a_body_that_says_nothing_is_our_error(body, way):
    """For the device code and for the token; what it says is shown where it is a word, and cut."""
    with (
        Server(**{"device": DEVICE, "token": GIVEN, way: body}) as server,
        pytest.raises(errors.ConfigError, match="did not log you in") as caught,
    ):
        log_in(server)
    assert caught.value.hint
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert len(server.asked) <= 3


@pytest.mark.parametrize(
    "token", [None, "", 7, [], {}, "two words", "line\nend", "schl\u00fcssel", "\x1b[0m", "nul\0"]
)
def test_a_token_that_no_header_can_hold_is_refused(token):
    """And not shown."""
    with (
        Server(device=DEVICE, token={**GIVEN, "access_token": token}) as server,
        pytest.raises(errors.ConfigError, match="no usable token"),
    ):
        log_in(server)


def test_a_refresh_token_of_a_wrong_type_is_none():
    """The login holds without it."""
    with Server(device=DEVICE, token={**GIVEN, "refresh_token": ["x"]}) as server:
        assert log_in(server).refresh is None


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_renewal_that_comes_to_nothing_is_our_error(body):
    """With what to do, and without a token in it."""
    with Server(device=DEVICE, token=GIVEN) as server:
        r, place = row(server, "device")
        oauth.login(r.rows["acme"], place, r.stores, lambda words: None, timeout=10)
        r.stores.cache["nbllm login", place] = json.dumps(
            {**json.loads(r.stores.cache["nbllm login", place]), "ends": time.time() - 5}
        )
        server.pages["token"] = body
        with pytest.raises(errors.AuthenticationError, match="%llm key login acme") as caught:
            oauth.access_token(r.rows["acme"], place, r.stores)
    assert "canary" not in str(caught.value)


def test_nobody_at_the_address_is_our_error():
    """A refused connection, a server that closes without an answer."""
    with Server() as server:
        pass
    with pytest.raises(errors.ConfigError, match="did not log you in"):
        log_in(server)


@pytest.mark.parametrize(
    "kept",
    [
        "[]",
        "null",
        "7",
        "[" * 100_000,
        "{}",
        json.dumps({"access": 7, "refresh": None, "ends": None, "token_url": "", "client_id": ""}),
        *(
            json.dumps({"access": "a", "refresh": None, "ends": ends, "token_url": "", "client_id": ""})
            for ends in ("nan", [], float("nan"), 10**400)
        ),
        json.dumps({"access": "a\n", "refresh": None, "ends": None, "token_url": "", "client_id": ""}),
    ],
)
def test_what_is_no_token_in_the_keyring_is_none(kept):
    """Whoever wrote it."""
    assert oauth.Token.from_json(kept) is None


# --- the address that is shown ---


@pytest.mark.parametrize(
    "dirt",
    [
        "\x1b[31m",
        "\x1b]52;c;aGVsbG8=\x07",
        "\x1b]8;;https://evil.example\x1b\\",
        "\x9b31m",
        "\x9d52;c;aGVsbG8=\x9c",
        "\u202e",
        "\u2066",
        "\u200b",
        "\n",
        "\r",
        "\x00",
        "\x07",
        "\x1b",
        "\u2028",
        "\U000e0041",
        " ",
    ],
)
def test_the_address_and_the_code_are_shown_clean(dirt):
    """No escape sequence, no control, bidi or hidden character reaches the screen."""
    told = []
    device = {
        **DEVICE,
        "verification_uri": f"https://provider.example{dirt}/device{dirt}",
        "user_code": f"AB{dirt}CD",
    }
    with Server(device=device, token=GIVEN) as server:
        log_in(server, tell=told.append)
    assert ["Open https://provider.example/device and enter the code ABCD. Waiting ..."] == told


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "http://provider.example/device",
        "file:///etc/passwd",
        "data:text/html,x",
        "ftp://x/",
        "//provider.example",
        "provider.example",
        "https://",
        "",
        None,
        [],
        {},
        7,
        "http://[::1",
        "https://x/" + "a" * 100_000,
        "http://127.0.0.1.evil.example/",
        "http://localhost@evil.example/",
        "x-apple.systempreferences:x",
    ],
)
def test_an_address_that_no_browser_should_open_is_refused(address):
    """Where the server has no other."""
    told = []
    with Server(device={**DEVICE, "verification_uri": address}, token=GIVEN) as server:
        with pytest.raises(errors.ConfigError, match="no usable address"):
            log_in(server, tell=told.append)
        server.pages["device"] = {**DEVICE, "verification_uri_complete": address}
        log_in(server, tell=told.append)
    assert ["Open https://provider.example/device and enter the code ABCD-EFGH. Waiting ..."] == told


def test_a_loopback_address_may_be_shown():
    """A test server's own."""
    told = []
    with Server(device={**DEVICE, "verification_uri": "http://127.0.0.1:8000/device"}, token=GIVEN) as server:
        log_in(server, tell=told.append)
    assert "http://127.0.0.1:8000/device" in told[0]


def test_a_long_code_is_cut():
    """What is entered by hand is short."""
    told = []
    with Server(device={**DEVICE, "user_code": "A" * 100_000}, token=GIVEN) as server:
        log_in(server, tell=told.append)
    assert len(told[0]) < 400


# --- the listener ---


def raw(port, data, wait=30.0):
    """What the listener answers to bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as s:
        s.sendall(data)
        with contextlib.suppress(OSError):
            return b"".join(iter(lambda: s.recv(65536), b""))
    return b""


RIGHT, LISTENER = "/callback?code=x&state={state}", "127.0.0.1:{port}"


def request(target, *hosts, method="GET"):
    """A visit that sends one request with these Host headers."""
    text = "".join([f"{method} {target} HTTP/1.1\r\n", *(f"Host: {host}\r\n" for host in hosts), "\r\n"])
    return lambda port, state: raw(port, text.format(port=port, next_port=port + 1, state=state).encode())


def visited(visit, right=False):
    """Logs in by the browser; `visit(port, state)` is what happens at the listener before the real browser
    comes, unless it is it."""
    told, seen = [], []

    def person():
        while not told:
            time.sleep(0.01)
        query = parse_qs(urlsplit(re.search(r"http\S+", told[0])[0]).query)
        port, state = urlsplit(query["redirect_uri"][0]).port, query["state"][0]
        seen.append(visit(port, state))
        if not right:
            seen.append(
                raw(
                    port,
                    f"GET /callback?code=right&state={state} HTTP/1.1\r\nHost: "
                    f"127.0.0.1:{port}\r\n\r\n".encode(),
                )
            )

    thread = threading.Thread(target=person)
    thread.start()
    with Server(token=GIVEN) as server, contextlib.redirect_stderr(io.StringIO()) as stderr:
        token = log_in(server, "browser", told.append, timeout=60)
    thread.join(60)
    assert "" == stderr.getvalue()
    assert "at-canary-1" == token.access.reveal()
    assert seen[-1].startswith(b"HTTP/1.0 200")
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "visit",
    [
        request("/callback?code=x&state=\u00e9\u4e2d", LISTENER),
        request("/callback?code=x&state=%C3%A9%FF", LISTENER),
        request("/callback?code=x", LISTENER),
        request("/callback?code=x&state=other", LISTENER),
        request(f"/callback?{'a=1&' * 1000}state={{state}}", LISTENER),
        request("/other?code=x&state={state}", LISTENER),
        request(RIGHT, "evil.example:{port}"),
        request(RIGHT, "127.0.0.1"),
        request(RIGHT, "127.0.0.1:{next_port}"),
        request(RIGHT),
        request(RIGHT, LISTENER, "evil.example"),
        request("http://[::1/callback?state={state}", LISTENER),
    ],
    ids=range(12),
)
def test_a_visitor_who_is_not_the_browser_that_was_sent_is_turned_away(visit):
    """Another state, another name of this machine (a rebound one), another page: 400, and the right one is
    waited for."""
    assert visit is not None
    assert visited(visit).startswith(b"HTTP/1.0 400")


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "PUT", "CONNECT"])
def test_other_methods_bring_no_code(method):
    """A page's form is no redirect."""
    visited(request(RIGHT, LISTENER, method=method))


def test_a_silent_visitor_keeps_nobody_waiting():
    """Connections that say nothing, or half of a line, are open while the browser comes, and when the login
    ends."""
    held = []

    def visit(port, state):
        held.clear()
        for said in (b"", b"", b"GET /call", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=30))
            held[-1].sendall(said)

    for _ in range(5):  # each visitor has ten seconds, in which a busy machine may do nothing else
        visited(visit)
        waiting = [open_still(one) for one in held]
        for one in held:
            one.close()
        if any(waiting):
            break
    assert any(waiting), "the login's end did not wait for them"


def open_still(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except OSError as error:
        return isinstance(error, BlockingIOError)


@pytest.mark.slow
def test_localhost_is_this_machine_too():
    """By its other name."""
    visited(request("/callback?code=right&state={state}", "LOCALHOST:{port}"), right=True)


def test_a_login_that_failed_spoils_no_call_of_others():
    """The client goes on."""
    with Server(device=b"x", token=GIVEN) as server:
        r, place = row(server, "device")
        with pytest.raises(errors.ConfigError):
            oauth.login(r.rows["acme"], place, r.stores, print)
        with pytest.raises(errors.ConfigError, match="%llm key login acme"):
            Client(r, ledger=None).stream("x", "acme/m")
