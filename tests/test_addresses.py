"""Where an address leads, and what is said of one that leads nowhere."""

import pytest

from nbllm.core.addresses import Address, parse
from nbllm.core.errors import ConfigError

from .growth import growth

GOOD = {
    "https://api.openai.com/v1": ("https", "api.openai.com", 443),
    "HTTPS://API.OpenAI.com:443/v1?x=@evil": ("https", "api.openai.com", 443),
    "http://127.0.0.1:8000": ("http", "127.0.0.1", 8000),
    "http://localhost:/v1": ("http", "localhost", 80),
    "http://[::1]:8000/v1": ("http", "::1", 8000),
    "http://[0:0:0:0:0:0:0:1]/": ("http", "::1", 80),
    "http://[fe80::1%25eth0]:1/": ("http", "fe80::1%eth0", 1),
    "http://user:pass@host_a.example/": ("http", "host_a.example", 80),
    "https://xn--fa-hia.example/": ("https", "xn--fa-hia.example", 443),
    "https://fa\u00df.example/": ("https", "xn--fa-hia.example", 443),
    "https://FA\u00df.example/": ("https", "xn--fa-hia.example", 443),
    "https://b\u00fccher.example:8443/": ("https", "xn--bcher-kva.example", 8443),
    "https://xn--bcher-kva.example/": ("https", "xn--bcher-kva.example", 443),
    "https://\u03b2\u03cc\u03bb\u03bf\u03c2.example/": ("https", "xn--nxasmm1c.example", 443),
    "https://example.com./": ("https", "example.com.", 443),
    f"https://{'a' * 63}.example/": ("https", "a" * 63 + ".example", 443),
}
BAD = {
    f"http://{'a' * 64}.example/": "is not a valid host name",
    "http://" + "a." * 130 + "b/": "is not a valid host name",
    f"http://{chr(0xFC) * 70}.example/": "IDNA",
    f"http://{chr(0xFC) * 70_000}.example/": "IDNA",
    "http://a..b/": "is empty",
    "http://.a/": "is empty",
    "http://a../": "is empty",
    "http://./": "is empty",
    "http:///v1": "no host",
    "http://user@/v1": "no host",
    "http://:80/": "no host",
    "http://h:99999/v1": "port",
    "http://h:65536/": "port",
    "http://h:0/": "port",
    "http://h:-1/": "port",
    "http://h:abc/": "port",
    "http://h:\u0663/": "port",
    "http://h:80a/": "port",
    f"http://h:{'9' * 5000}/": "port",
    "http://[::1]:x/": "port",
    "http://a b/": "space",
    "http://a\tb/": "space",
    "http://a/x\n": "line break",
    "http://a/\x00": "control",
    " http://a/": "space",
    "http://a\x7fb/": "control",
    "http://*.a/": "not a valid host name",
    "http://a%20b/": "not a valid host name",
    "http://{region}.example/": "not a valid host name",
    "http://-a.b/": "not a valid host name",
    "http://\u2603.example/": "IDNA",
    "http://\u00ad.example/": "IDNA",
    "http://a\u200bb.example/": "IDNA",
    "http://::1/": "brackets",
    "http://::1:8000/": "brackets",
    "http://[::1/": "brackets",
    "http://[x]/": "x",
    "http://[]/": "usable",
    "http://1.2.3/": "usable",
    "http://2130706433/": "usable",
    "http://0x7f.1/": "usable",
    "http://300.1.1.1/": "usable",
    "http://127.0.0.01/": "usable",
    "http://a@b@c/": "more than one",
    "https://api.openai.com\\@evil.example/": "more than one",
    "https://api.openai.com\\evil/": "more than one",
    "127.0.0.1:8000/v1": "begin with",
    "api.example.com/v1": "begin with",
    "ftp://a/": "begin with",
    "": "begin with",
    "//a/": "begin with",
    "http:/a/": "begin with",
    "ws://a/": "begin with",
}


@pytest.mark.parametrize(("url", "origin"), GOOD.items())
def test_an_address_has_one_meaning(url, origin):
    """The host is what is looked up; its default port is left out where it is written; it reads itself
    again."""
    address = parse(url)
    assert origin == address
    assert address == parse(str(address))
    assert str(address).endswith(("://" + address.host, f":{address.port}", "]"))


@pytest.mark.parametrize(("url", "words"), BAD.items(), ids=[u[:60] for u in BAD])
def test_what_is_no_address_is_said_in_words(url, words):
    """What is wrong, and how one looks."""
    with pytest.raises(ConfigError, match=words) as caught:
        parse(url)
    assert "looks like" in str(caught.value)


def test_a_password_in_an_address_is_not_shown():
    """Whatever is wrong with it."""
    for url in (
        "http://user:secret-word@host:x/",
        "ftp://user:secret-word@host/",
        "http://a:secret-word@b@c/",
    ):
        with pytest.raises(ConfigError) as caught:
            parse(url)
        assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "x.localhost",
        "[::1]",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_this_machine_is_known(host):
    """By every name and number it has of itself."""
    assert parse(f"http://{host}:1/").is_local


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "localhost.example", "notlocalhost", "[fe80::1]", "128.0.0.1", "169.254.169.254"]
)
def test_other_machines_are_not_this_one(host):
    assert not Address("http", host.strip("[]"), 1).is_local


@pytest.mark.slow
def test_no_address_costs_more_than_its_length():
    """Whatever it repeats."""
    for token in (
        "a",
        "a.",
        "@",
        ":",
        "[",
        "]",
        "%",
        "\\",
        "1",
        "1.",
        "\u00fc",
        "\u00fc.",
        "/",
        "//",
        "xn--",
        "-",
    ):
        growth(parse, lambda n, token=token: "http://" + token * n + "/", 1000)
        growth(parse, lambda n, token=token: token * n, 1000)
