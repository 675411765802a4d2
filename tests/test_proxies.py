"""Proxies as the environment names them: each works, or is refused in words that name its variable. Loopback
needs none."""

import importlib.util

import pytest

import nbllm
from nbllm.core import errors
from nbllm.core.addresses import parse
from nbllm.http.proxies import proxy_for

from .test_transport import ANSWER, head, server

WHOLE = head(b"content-length: %d" % len(ANSWER)) + ANSWER
ACME = "http://api.acme.invalid/v1"
NO_SOCKS = pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is installed")


def ask(url=ACME):
    return nbllm.stream("hi", "m", base_url=url, retries=0, timeout=60)


@pytest.fixture
def proxy():
    """The place of a proxy that answers by itself, and the number of its connections."""
    with server([None, WHOLE], [None, WHOLE]) as (url, count):
        yield url.split("/")[2], count


@pytest.mark.parametrize(
    "env",
    [
        {"HTTP_PROXY": "http://{}"},
        {"http_proxy": "{}"},
        {"ALL_PROXY": "http://{}"},
        {"all_proxy": "http://{}"},
        {"HTTP_PROXY": "http://{}", "ALL_PROXY": "socks://{}"},
        {"HTTP_PROXY": "http://{}", "ALL_PROXY": "nonsense"},
        {"HTTP_PROXY": "http://user:pass@{}"},
        {"HTTP_PROXY": " http://{}/ "},
        {"HTTP_PROXY": "http://{}", "NO_PROXY": "localhost,127.0.0.1,::1,[::1]"},
        {"HTTP_PROXY": "http://{}", "NO_PROXY": "10.0.0.0/8, fe80::/10"},
        {
            "HTTP_PROXY": "http://{}",
            "NO_PROXY": "acme.example other.invalid,api.acme.invalid:8443,[,],10.0.0.0/99,:,::,*.x",
        },
        {"HTTP_PROXY": "http://{}", "HTTPS_PROXY": "http://proxy:abc"},
        {"HTTP_PROXY": "http://{}", "NO_PROXY": "cme.invalid"},
    ],
)
def test_a_proxy_that_can_be_used_is(env, proxy, monkeypatch):
    """Whatever else the environment names beside it."""
    place, count = proxy
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(place))
    assert ("Hello", 1) == (ask().response().text, len(count))


@pytest.mark.parametrize(
    ("env", "named"),
    [
        pytest.param({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY.*socksio", marks=NO_SOCKS),
        pytest.param({"all_proxy": "socks://127.0.0.1:1"}, "all_proxy.*socksio", marks=NO_SOCKS),
        pytest.param(
            {"HTTP_PROXY": "socks5h://name:secret-word@127.0.0.1:1"}, "HTTP_PROXY.*socksio", marks=NO_SOCKS
        ),
        ({"ALL_PROXY": "socks4://127.0.0.1:1"}, "ALL_PROXY.*socks4"),
        ({"HTTP_PROXY": "ftp://127.0.0.1:1"}, "HTTP_PROXY.*ftp"),
        ({"HTTP_PROXY": "http://proxy:abc"}, "HTTP_PROXY.*port 'abc'"),
        ({"HTTP_PROXY": "http://proxy:99999"}, "HTTP_PROXY.*port"),
        ({"HTTP_PROXY": "http://"}, "HTTP_PROXY.*no host"),
        ({"HTTP_PROXY": "http://a b:1"}, "HTTP_PROXY.*space"),
        ({"HTTP_PROXY": "://x"}, "HTTP_PROXY"),
        ({"HTTP_PROXY": f"http://{'a' * 64}:1"}, "HTTP_PROXY.*not a valid host name"),
        ({"HTTP_PROXY": "http://u:secret-word@@x:1"}, "HTTP_PROXY.*more than one"),
        ({"HTTP_PROXY": "http://[::1"}, "HTTP_PROXY.*brackets"),
        ({"ALL_PROXY": "http://name:secret-word@proxy:abc"}, "ALL_PROXY.*port"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(env, named, monkeypatch):
    """By its variable, with what to do, and without its password; loopback is reached all the same."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigError, match=f"(?s){named}.*NO_PROXY") as caught:
        ask()
    assert "secret-word" not in str(caught.value)
    with server([None, WHOLE]) as (url, _):
        assert "Hello" == ask(url).response().text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_loopback_goes_through_no_proxy(host, proxy, monkeypatch):
    """By none of its names."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy[0]}")
    with server([None, WHOLE]) as (url, _):
        assert "Hello" == ask(url.replace("127.0.0.1", host)).response().text
    assert 0 == len(proxy[1])


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://ten.example/", False),
        ("10.1.2.3/8", "http://10.9.9.9/", True),
        ("fe80::/10", "http://[fe80::1]/", True),
        ("[fe80::]/10", "http://[fe80::1]/", True),
        ("[2001:db8::1]", "http://[2001:db8:0::1]/", True),
        ("2001:db8::1", "http://[2001:db8::1]:80/", True),
        ("[2001:db8::1]:8080", "http://[2001:db8::1]/", False),
        ("acme.example", "http://acme.example/", True),
        ("acme.example", "http://api.acme.example/", True),
        (".acme.example", "http://api.acme.example/", True),
        ("*.acme.example", "http://api.acme.example/", True),
        ("acme.example", "http://notacme.example/", False),
        ("ACME.example", "http://acme.EXAMPLE/", True),
        ("acme.example:8080", "http://acme.example:8080/", True),
        ("acme.example:8080", "http://acme.example/", False),
        ("*", "http://x.example/", True),
        ("*", "http://10.0.0.1/", True),
        ("a.example b.example", "http://b.example/", True),
        ("", "http://x.example/", False),
        (",, ,", "http://x.example/", False),
        ("198.51.100.1", "http://198.51.100.1:8080/", True),
        ("198.51.100.1", "http://198.51.100.2/", False),
    ],
)
def test_no_proxy_names_hosts_addresses_and_networks(exceptions, url, direct, monkeypatch):
    """As people write it."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert direct == (proxy_for(parse(url)) is None)


def test_a_proxy_may_be_set_and_taken_away_in_a_cell(proxy, monkeypatch):
    """After a first failure; the next call sees it."""
    with pytest.raises(errors.ConnectFailed, match=r"acme\.invalid"):
        ask().response()
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy[0]}")
    assert "Hello" == ask().response().text
    monkeypatch.delenv("HTTP_PROXY")
    with pytest.raises(errors.ConnectFailed):
        ask().response()


def test_what_a_proxy_refuses_names_it(monkeypatch):
    """A log-in that it wants (plain, and for a tunnel), or that nobody is there."""
    for scheme, name in (("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY")):
        answer = head(b"content-length: 0", status=b"407 Proxy Authentication Required")
        with server(["head", answer]) as (url, _):
            monkeypatch.setenv(name, f"http://user:secret-word@{url.split('/')[2]}")
            with pytest.raises(errors.ConfigError, match=f"{name}.*password") as caught:
                ask(ACME.replace("http", scheme)).response()
        assert "secret-word" not in str(caught.value)
        with pytest.raises(errors.ConnectFailed, match=name):
            ask(ACME.replace("http", scheme)).response()
