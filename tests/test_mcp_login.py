"""Logins of MCP servers by OAuth, with a real server: begun by the user alone, kept in the keyring, renewed
unseen, and sent to that server only."""

import asyncio
import contextlib
import json
import re
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbllm.client.engine import engine
from nbllm.core.errors import ConfigError, ConnectFailed, NbllmError
from nbllm.routing.key_stores import KeyStores
from nbllm.routing.oauth import RedirectListener as Browser
from nbllm.tools.consent import Consent
from nbllm.tools.mcp import Limits
from nbllm.tools.mcp_config import ConfigLocations
from nbllm.tools.mcp_entry import ClientRegistration, Source, parse_entry
from nbllm.tools.mcp_login import Login, check_url
from nbllm.tools.mcp_servers import Servers

from .kernels import Kernel
from .listeners import Listener
from .processes import held_port

SERVER = str(Path(__file__).with_name("mcp_login_server.py"))


class Ring:
    """A keyring in memory."""

    def __init__(self):
        self.kept = {}

    def get_password(self, service, name):
        return self.kept.get((service, name))

    def set_password(self, service, name, text):
        self.kept[service, name] = text

    def delete_password(self, service, name):
        del self.kept[service, name]


@contextlib.contextmanager
def running(seconds):
    with held_port() as (port, serving), serving(SERVER, seconds):
        url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(f"{url}/seen", timeout=60).close()
        yield url


@pytest.fixture(scope="module")
def url():
    with running(3600) as url:
        yield url


def seen(url, path="seen"):
    with urllib.request.urlopen(f"{url}/{path}", timeout=30) as page:
        return json.load(page)


@pytest.fixture
def servers(tmp_path):
    """servers(url, ring) -> Servers of a kernel that has just started."""
    made = []

    def make(url, ring=None, **table):
        consent, stores = Consent(lambda: tmp_path / "allowed.json"), KeyStores({}, keyring=lambda: ring)
        limits = Limits(connect=30, tools=30, call=30)
        known = Servers(lambda: ConfigLocations(None, None, ()), dict, consent, limits, lambda: stores)
        source = Source("this session", Path.cwd(), trusted=True)
        known.add(
            parse_entry("locked", {"url": f"{url}/mcp", **table}, source, {"SECRET": "canary-client-secret"})
        )
        made.append(known)
        return known

    yield make
    for known in made:
        engine().run(known.close())


def log_in(known):
    """As somebody does who opens the page at once."""
    with Browser() as browser:

        async def ask(address):
            browser.state = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))["state"]
            opened = threading.Thread(target=lambda: urllib.request.urlopen(address, timeout=30).close())
            opened.start()
            return await asyncio.to_thread(browser.wait, 30.0)

        entry = known.usable_entry("locked")
        return engine().run(known.log_in(entry, browser.address, ask))


def used(known):
    """(what a tool gives, "") or ("", why it is left out)."""
    usables, notes = engine().run(known.usables(["mcp/locked"]))
    return (engine().run(usables[0].call({"a": 1, "b": 2})), "") if usables else ("", " ".join(notes))


@pytest.mark.slow
def test_nothing_logs_in_unasked(servers, url):
    """A server that wants a login is left out, with what to do; no client is registered."""
    before = seen(url)
    result, note = used(servers(url))
    assert "" == result
    assert "401" in note
    assert "%llm mcp login locked" in note
    assert before == seen(url)


@pytest.mark.slow
def test_a_login_is_kept_and_serves_the_next_kernel(servers, url):
    """In the keyring, under the server's address; another address gets nothing of it."""
    ring = Ring()
    assert log_in(servers(url, ring))
    ((service, where),) = ring.kept
    assert ("nbllm mcp login", f"{url}/mcp") == (service, where)
    before = seen(url)
    assert ("3", "") == used(servers(url, ring))
    assert before == seen(url)
    with Listener((401, b"{}")) as other:
        used(servers(other.url, ring))
        assert "canary" not in other.text
    known = servers(url, ring)
    assert known.login(known.entry("locked")).forget()
    assert {} == ring.kept
    assert "%llm mcp login" in used(servers(url, ring))[1]


@pytest.mark.slow
def test_without_a_keyring_it_serves_this_session(servers, url):
    known = servers(url)
    assert not log_in(known)
    assert ("3", "") == used(known)
    assert "401" in used(servers(url))[1]


@pytest.mark.slow
def test_a_token_that_has_ended_is_renewed_unseen(servers):
    """Also after a restart, where the login was kept; and where that cannot be, the user is told to log
    in."""
    with running(3600) as url:
        ring = Ring()
        log_in(servers(url, ring))
        ((where, text),) = ring.kept.items()
        ring.kept[where] = json.dumps({**json.loads(text), "ends": 1})
        before = seen(url)
        assert ("3", "") == used(servers(url, ring))
        after = seen(url)
        assert before["renewals"] + 1 == after["renewals"]
        assert (before["logins"], before["clients"]) == (after["logins"], after["clients"])
        seen(url, "revoke")
        result, note = used(servers(url, ring))
        assert "" == result
        assert "%llm mcp login locked" in note
        assert "canary" not in note
        assert after["logins"] == seen(url)["logins"]


@pytest.mark.slow
def test_a_login_that_nobody_finishes(servers, url):
    """A refusal, or nobody: one line, and nothing is kept."""
    ring = Ring()
    known = servers(url, ring)
    for answer in ({}, {"error": "access_denied"}, {"code": "x", "state": "another"}):

        async def ask(_address, answer=answer):
            return answer

        with pytest.raises(NbllmError) as caught:
            engine().run(known.log_in(known.usable_entry("locked"), "http://127.0.0.1:1/callback", ask))
        assert "canary" not in str(caught.value)
    assert {} == ring.kept


WRONG = [
    ({"command": "x"}, "is a command"),
    ({"url": "http://a.example/mcp"}, "unencrypted"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "words"), WRONG)
def test_what_has_no_login(table, words, servers, url):
    known = servers(url)
    entry = parse_entry("other", table, Source("this session", Path.cwd(), trusted=True), {})
    with pytest.raises(ConfigError, match=words):
        engine().run(known.log_in(entry, "", None))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": 3}', '{"tokens": {"access_token": 5}}'])
def test_a_broken_entry_of_the_keyring_is_none(text, servers, url):
    ring = Ring()
    ring.kept["nbllm mcp login", f"{url}/mcp"] = text
    result, note = used(servers(url, ring))
    assert "" == result
    assert "locked" in note


BY_HAND = {"oauth": {"clientId": "by-hand", "clientSecret": "${SECRET}", "scopes": ["read", "write"]}}


@pytest.mark.slow
def test_a_client_that_was_registered_by_hand(servers):
    """It logs in as that client, registers none, and renews after a restart; its secret is kept nowhere."""
    with running(3600) as url:
        ring = Ring()
        assert log_in(servers(url, ring, **BY_HAND))
        ((where, text),) = ring.kept.items()
        assert "canary-client-secret" not in text
        ring.kept[where] = json.dumps({**json.loads(text), "ends": 1})
        assert ("3", "") == used(servers(url, ring, **BY_HAND))
        assert {"clients": 0, "logins": 1, "renewals": 1} == seen(url)


@pytest.mark.parametrize(
    ("takes", "method"),
    [
        (None, "client_secret_basic"),
        (["client_secret_post", "client_secret_basic"], "client_secret_basic"),
        (["client_secret_post"], "client_secret_post"),
    ],
)
def test_how_the_secret_is_shown_and_where(takes, method):
    """As the server takes it, and only where the user logs in."""
    told = SimpleNamespace(token_endpoint="https://a.example/t", token_endpoint_auth_methods_supported=takes)
    login = Login("x", "https://mcp.example", KeyStores({}), registered=ClientRegistration("id", "canary"))
    login._context = SimpleNamespace(oauth_metadata=told, client_info=SimpleNamespace())
    login._check("https://a.example/login?x=1")
    assert method == login._context.client_info.token_endpoint_auth_method
    with pytest.raises(ConfigError, match="another host than the one where you log in"):
        login._check("https://b.example/login")


@pytest.mark.parametrize(
    ("issuer", "tokens", "right"),
    [
        ("https://own.example", "https://tokens.example/t", True),  # it says so itself
        ("https://ids.example/pool", "https://own.example/t", True),
        (
            "https://mcp.example",
            "https://mcp.example/t",
            False,
        ),  # another's page, and what it brings to itself
        ("https://mcp.example", "https://own.example.evil.example/t", False),
        ("https://own.example:444", "http://own.example/t", False),
    ],
)
def test_what_a_login_brings_goes_to_no_third_place(issuer, tokens, right):
    """A server that has the user log in at another's page cannot have what that page brings."""
    login = Login("x", "https://mcp.example/mcp", KeyStores({}))
    login._context = SimpleNamespace(oauth_metadata=SimpleNamespace(token_endpoint=tokens, issuer=issuer))
    with contextlib.nullcontext() if right else pytest.raises(ConfigError, match="the code of a login"):
        login._check("https://own.example/login?x=1")


@pytest.mark.slow
def test_where_a_login_is_renewed_is_what_it_was(servers):
    """A server that tells of another place afterwards, and refuses what it gave, gets nothing sent there."""
    with running(3600) as url, Listener((404, b"{}")) as other:
        ring = Ring()
        log_in(servers(url, ring))
        ((where, text),) = ring.kept.items()
        login = Login("x", where[1], KeyStores({}, keyring=lambda: ring))
        assert login.load()
        context = login.auth().context
        elsewhere = json.loads(json.dumps(json.loads(text)["server"]).replace(url, other.url))

        async def renewed_at():
            context.current_tokens = await login.get_tokens()
            was = context.oauth_metadata
            context.oauth_metadata = type(was).model_validate(elsewhere)
            with pytest.raises(NbllmError, match="has ended"):
                await login._open_browser(f"{other.url}/authorize")
            return was, context.oauth_metadata

        was, now = engine().run(renewed_at())
        assert str(was.token_endpoint) == str(now.token_endpoint)
        assert url in str(now.token_endpoint)


@pytest.mark.slow
def test_a_wrong_secret_is_told_without_it(servers, url):
    known = servers(url, Ring(), auth={"CLIENT_ID": "by-hand", "CLIENT_SECRET": "canary-wrong-secret"})
    with pytest.raises(NbllmError) as caught:
        log_in(known)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"oauth": {"clientId": "a", "clientSecret": "${NOT_SET}"}}, "NOT_SET is not set"),
        ({"oauth": {"authServerMetadataUrl": "https://x.example"}}, "authServerMetadataUrl of its login"),
        ({"oauth": {"callbackPort": 70_000}}, "the port of its login"),
        ({"oauth": {"callbackPort": "8080"}}, "the port of its login"),
        ({"oauth": "yes"}, "oauth has a value of the wrong type"),
        ({"auth": {"CLIENT_ID": "a"}, "url": "http://a.example/mcp"}, "unencrypted"),
    ],
)
def test_a_login_that_cannot_be_as_it_is_written(table, words):
    """Told in the list of servers, by name."""
    source = Source("f", Path.cwd())
    assert words in parse_entry("x", {"url": "https://a.example/mcp", **table}, source, {}).problem


def test_a_login_is_part_of_what_consent_is_given_to():
    """Another client, or another variable, asks again; an entry without one keeps the consent that it has."""
    source, env = Source("f", Path.cwd()), {"A": "1", "B": "2"}

    def key(**table):
        return parse_entry("x", {"url": "https://a.example/mcp", **table}, source, env)

    plain, one = key(), key(oauth={"clientId": "a", "clientSecret": "${A}"})
    other = key(oauth={"clientId": "a", "clientSecret": "${B}"})
    assert 3 == len({plain.key, one.key, other.key})
    assert ("A",) == one.names
    assert "1" in one.secrets
    assert "clientId" not in repr(one)
    assert "login" not in plain.written


def test_a_port_of_its_own_for_the_browser():
    """Under the name that such clients are registered with; one that is taken is an error."""
    with Browser() as free:
        port = int(free.address.rsplit(":", 1)[1].partition("/")[0])
        with pytest.raises(ConfigError, match=f"Port {port} .* cannot be used"):
            Browser(port=port)
    with Browser(port=port) as listener:
        assert f"http://localhost:{port}/callback" == listener.address


@pytest.mark.parametrize(
    ("own", "place", "right"),
    [
        ("https://93.184.216.34/mcp", "https://93.184.216.34/token", True),
        ("https://93.184.216.34/mcp", "https://1.1.1.1/token", True),
        ("https://93.184.216.34/mcp", "http://1.1.1.1/token", False),
        ("https://93.184.216.34/mcp", "https://93.184.216.34:8443/token", True),
        ("https://93.184.216.34/mcp", "https://10.0.0.1/token", False),
        ("https://93.184.216.34/mcp", "https://169.254.169.254/latest", False),
        ("https://93.184.216.34/mcp", "https://localhost/token", False),
        ("https://93.184.216.34/mcp", "https://[::ffff:127.0.0.1]/token", False),
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:9000/token", True),
        ("https://10.0.0.1/mcp", "https://192.168.0.1/token", True),
        ("http://localhost:8000/mcp", "https://10.0.0.1/token", True),
    ],
)
def test_where_a_login_may_be_looked_for(own, place, right):
    """A server of the internet leads into no private network; one that is there may."""
    with (
        contextlib.nullcontext()
        if right
        else pytest.raises(ConnectFailed, match="not an https address on the internet")
    ):
        engine().run(check_url("mcp/x", own, place))


def test_a_server_of_the_internet_leads_no_login_home(servers, monkeypatch):
    """Neither with what it says of itself nor with its login server: nothing is asked there."""
    url = "http://93.184.216.34"
    token = {"access_token": "canary-access", "token_type": "Bearer", "refresh_token": "canary-refresh"}
    ring = Ring()
    ring.kept["nbllm mcp login", f"{url}/mcp"] = json.dumps({"tokens": token})
    with Listener((200, b"{}")) as home, Listener((401, b"{}")) as proxy:
        proxy.more["www-authenticate"] = f'Bearer resource_metadata="{home.url}/about"'
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        result, note = used(servers(url, ring))
        assert "POST http://93.184.216.34/mcp" in proxy.text
        assert ("", []) == (result, home.seen)
        assert "not an https address on the internet" in note
        assert "canary" not in note


@pytest.mark.kernel
def test_in_a_kernel(url, tmp_path):
    """Where nobody watches it is refused; else an address is shown, and the browser's answer ends it."""
    setting = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    prepare = f"import os; os.environ.update({setting!r})"
    with Kernel(front_end=False) as kernel:
        kernel.run(prepare)
        kernel.run(f"%llm mcp add locked {url}/mcp")
        assert "No user can log in here" in "".join(kernel.run("%llm mcp login locked").error["traceback"])
        assert "you were not logged in" in kernel.run("%llm mcp logout locked").text
    with Kernel() as kernel:
        kernel.run(prepare)
        kernel.run(f"%llm mcp add locked {url}/mcp")
        started, address = kernel.start("%llm mcp login locked"), None
        while address is None:
            told = kernel.client.get_iopub_msg(timeout=60)["content"].get("text", "")
            address = re.search(r"Open (http\S+) in a browser", told)
        urllib.request.urlopen(address[1], timeout=30).close()
        ran = kernel.collect(started)
        assert ran.ok, ran.error
        assert "mcp/locked: you are logged in" in ran.text
        assert "canary" not in ran.text
        assert "locked__add" in kernel.run("%llm mcp tools locked").text
