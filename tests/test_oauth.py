"""Logging in by OAuth 2 against a real server on loopback: device code, PKCE, renewal once, and no token ever
seen."""

import json
import logging
import re
import threading
import time
import urllib.request

import pytest

from nbllm import Client
from nbllm.core import errors
from nbllm.core.calls import OAuth
from nbllm.routing import keys, oauth, registry
from nbllm.routing.config import Places, load

from .oauth_server import Client as TestClient
from .oauth_server import Server
from .test_keys import Ring

CANARY = re.compile(r"[ar]t-canary-\w+")


@pytest.fixture(autouse=True)
def few_certificates(one_authority, monkeypatch):
    """Nothing here is encrypted."""
    monkeypatch.setenv("SSL_CERT_FILE", one_authority)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def acme(server, caplog):
    """acme(way) -> (registry with the row, its place, what was told). At the end no token was logged or
    told."""
    caplog.set_level(logging.DEBUG)
    told = []

    def make(*ways, ring=None):
        r = registry.load({})
        r.stores = keys.KeyStores(r.env, keyring=lambda: ring)
        urls = {
            "device": ("device_url", f"{server.url}/device"),
            "browser": ("authorize_url", f"{server.url}/authorize"),
        }
        r.register(
            "acme",
            {
                "base_url": f"{server.url}/v1",
                "oauth": {
                    "client_id": TestClient.client_id,
                    "token_url": f"{server.url}/token",
                    "scopes": ["chat"],
                    **dict(urls[w] for w in ways),
                },
            },
        )
        return r, keys.origin(server.url), told

    yield make
    assert not CANARY.search("\n".join(told) + caplog.text)


def log_in(r, place, told):
    return oauth.login(r.rows["acme"], place, r.stores, told.append, timeout=15)


def expire(r, place):
    """The token in the store has ended."""
    r.stores.cache["nbllm login", place] = json.dumps(
        {**json.loads(r.stores.cache["nbllm login", place]), "ends": time.time() - 5}
    )


@pytest.mark.slow
def test_a_device_code(acme, server):
    """The person is told where to go and what to enter; pending and slow answers are waited out; the token
    opens the provider."""
    server.state.approve_after = 3
    ring = Ring()
    r, place, told = acme("device", ring=ring)
    assert log_in(r, place, told)
    (device,) = server.state.devices.values()
    assert device.user_code in told[0]
    assert "https://provider.example/device" in told[0]
    assert 3 <= device.asked
    client = Client(r, ledger=None)
    assert "pong" == client.complete("ping", "acme/m").text
    client.close()
    assert server.state.asked == [f"Bearer {server.state.given[0].access_token}"]
    assert [("nbllm login", place)] == list(ring.entries), "it lies in the keyring, under its own address"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"deny": True}, "access denied|access_denied"),
        ({"approve_after": -1, "lifetime": 0.3}, "in time|expired"),
    ],
)
def test_a_device_code_that_comes_to_nothing(acme, server, state, words):
    """Denied, or never entered."""
    for name, value in state.items():
        setattr(server.state, name, value)
    r, place, told = acme("device")
    with pytest.raises(errors.ConfigError, match=words):
        log_in(r, place, told)
    assert r.own_key(r.rows["acme"]) is None


def test_slow_down_is_heeded(acme, server, monkeypatch):
    """Five seconds more between two questions, as the standard says; the wait is not sat out here."""
    server.state.slow = 1
    pauses = []
    real = threading.Event.wait

    def wait(event, seconds=None):
        if seconds and seconds > 1:
            pauses.append(seconds)
            return False
        return real(event, seconds)

    monkeypatch.setattr(threading.Event, "wait", wait)
    r, place, told = acme("device")
    log_in(r, place, told)
    assert {5.05} == {p for p in pauses if p < 6}


def browser(told, change=lambda url: url):
    """The person's browser: opens the address that was told, follows it back to the listener."""

    def go():
        while not told:
            time.sleep(0.01)
        url = change(re.search(r"http\S+", told[0])[0])
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as page:
            page.read()

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def test_the_browser_with_pkce(acme, server):
    """S256; the redirect comes to this machine; the code is worth nothing without the verifier."""
    r, place, told = acme("browser")
    person = browser(told)
    assert log_in(r, place, told) is False, "no keyring: for this session"
    person.join(30)
    assert "code_challenge_method=S256" in told[0]
    assert "code_verifier" not in told[0]
    assert server.state.given[0].access_token == r.own_key(r.rows["acme"]).reveal()


def test_another_login_s_answer_is_turned_away(acme, server):
    """A visitor without our state is refused, and the wait goes on for the right one."""
    r, place, told = acme("browser")
    seen = []

    def wrong_first():
        while not told:
            time.sleep(0.01)
        listener = re.search(r"redirect_uri=([^&\s]+)", told[0])[1].replace("%3A", ":").replace("%2F", "/")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{listener}?code=stolen&state=other", timeout=30
            )
        seen.append(caught.value.code)
        browser(told).join(30)

    person = threading.Thread(target=wrong_first)
    person.start()
    log_in(r, place, told)
    person.join(30)
    assert [400] == seen
    assert r.own_key(r.rows["acme"]) is not None


def test_a_denied_browser_login_says_so(acme, server):
    """The person pressed no."""
    server.state.deny = True
    r, place, told = acme("browser")
    person = browser(told)
    with pytest.raises(errors.ConfigError, match="access_denied"):
        log_in(r, place, told)
    person.join(30)


@pytest.mark.slow
def test_twenty_calls_renew_once(acme, server):
    """All wait for one renewal and send the new token; the old refresh token is void, the new one is kept."""
    ring = Ring()
    r, place, told = acme("device", ring=ring)
    log_in(r, place, told)
    old = server.state.given[0]
    expire(r, place)
    client = Client(r, ledger=None)
    answers, start = [], threading.Barrier(20)

    def call():
        start.wait()
        answers.append(client.complete("ping", "acme/m").text)

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    client.close()
    assert ["pong"] * 20 == answers
    assert (1, True) == (server.state.renewals, old.revoked)
    assert {f"Bearer {server.state.given[1].access_token}"} == set(server.state.asked)
    expire(r, place)
    assert [] == server.state.given[2:]
    renewed = r.own_key(r.rows["acme"]).reveal()
    assert renewed == server.state.given[2].access_token, "rotation goes on"


@pytest.mark.slow
def test_a_login_that_was_taken_back_says_log_in_again(acme, server):
    """Not a bare 401, and no token in the words."""
    r, place, told = acme("device")
    log_in(r, place, told)
    server.state.given[0].revoked = True
    expire(r, place)
    with pytest.raises(errors.AuthenticationError, match="%llm key login acme") as caught:
        Client(r, ledger=None).complete("ping", "acme/m")
    assert not CANARY.search(
        f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"
    )
    assert None is dict(keys.list_sources(r.rows["acme"], r.stores, r.address(r.rows["acme"])))["login"]


@pytest.mark.slow
def test_a_login_that_has_ended_spoils_no_list_and_no_choice(acme, server):
    """auto goes on to the next provider, and the table of providers is still there."""
    from nbllm.client.catalog import provider_states

    r, place, told = acme("device")
    log_in(r, place, told)
    server.state.given[0].revoked = True
    expire(r, place)
    client = Client(r, ledger=None)
    assert "acme" != client.resolve("auto").provider.name
    assert [False] == [s.ready for s in provider_states(client, connect=False) if s.name == "acme"]
    client.close()


@pytest.mark.slow
def test_a_token_of_another_kernel_is_taken_over(acme, server):
    """It renewed before us, so ours is void: the keyring has the new one."""
    ring = Ring()
    r, place, told = acme("device", ring=ring)
    log_in(r, place, told)
    other, _, _ = acme("device", ring=ring)
    expire(r, place)
    other.stores.cache["nbllm login", place] = r.stores.cache["nbllm login", place]
    renewed = other.own_key(other.rows["acme"]).reveal()
    assert renewed == r.own_key(r.rows["acme"]).reveal()
    assert 1 == server.state.renewals


@pytest.mark.slow
def test_a_token_goes_to_its_own_address_alone(acme, server):
    """Not to another base_url, nor to a row that names another place to renew it."""
    r, place, told = acme("device", ring=Ring())
    log_in(r, place, told)
    assert r.key_for(r.resolve("acme/m", "https://elsewhere.example/v1"), None) is None
    r.register(
        "acme",
        {
            "oauth": {
                "client_id": TestClient.client_id,
                "token_url": "https://evil.example/token",
                "device_url": "https://evil.example/device",
            }
        },
    )
    expire(r, place)
    assert r.own_key(r.rows["acme"]) is None
    assert 0 == server.state.renewals


@pytest.mark.slow
def test_logging_out_forgets(acme, server):
    """In memory and in the keyring."""
    ring = Ring()
    r, place, told = acme("device", ring=ring)
    log_in(r, place, told)
    assert oauth.logout(place, r.stores)
    assert {} == ring.entries
    assert r.own_key(r.rows["acme"]) is None
    assert not oauth.logout(place, r.stores)
    with pytest.raises(errors.ConfigError, match="%llm key login acme"):
        Client(r, ledger=None).complete("ping", "acme/m")


@pytest.mark.slow
def test_no_token_in_any_repr(acme, server):
    """Of the token, the registry, its stores."""
    r, place, told = acme("device", ring=Ring())
    log_in(r, place, told)
    token = oauth.Token.from_json(r.stores.cache["nbllm login", place])
    assert CANARY.search(token.access.reveal())
    assert not CANARY.search(f"{token!r} {r!r} {r.stores!r} {r.own_key(r.rows['acme'])!r}")


def test_a_row_says_how_to_log_in(tmp_path):
    """Four lines of TOML; what is wrong is told with its line."""
    (tmp_path / "p.toml").write_text(
        '[provider.acme]\nbase_url = "https://acme.example/v1"\noauth = { client_id = "c", token_url = '
        '"https://acme.example/token", device_url = "https://acme.example/device" }\n'
        '[provider.bad]\nbase_url = "https://bad.example/v1"\noauth = { client_id = "c", token_url = '
        '"http://bad.example/token", device_url = "https://bad.example/d" }\n'
    )
    config = load(Places(extra=tmp_path / "p.toml"))
    assert (
        OAuth("c", "https://acme.example/token", "https://acme.example/device") == config.rows["acme"].oauth
    )
    assert ["https address in token_url" in str(p) and ", line 6" in str(p) for p in config.problems] == [
        True
    ]


def test_a_row_without_a_login_says_so():
    """And how its key is given."""
    r = registry.load({})
    with pytest.raises(errors.ConfigError, match="%llm key set openai"):
        oauth.login(r.rows["openai"], "https://api.openai.com", r.stores, print)
