"""A key is sent only to its own origin: the origin of the address that is really used decides, as seen by
recording servers."""

import json
import ssl
from contextlib import suppress
from dataclasses import replace

import pytest
import trustme

from nbllm import Client
from nbllm.bench.driver import LoadGenerator
from nbllm.bench.run_spec import Contestant
from nbllm.client import catalog, tokens
from nbllm.core import errors
from nbllm.core.calls import Guard, HttpCall, ProviderSpec, Secret, origin
from nbllm.http.prepared_request import PreparedRequest
from nbllm.routing import keys, registry
from nbllm.routing.config import Places

from .listeners import Listener

KEY = "sk-canary-0123456789abcdef"
OTHER = "tok-canary-fedcba9876543210"


@pytest.fixture
def here():
    with Listener() as running:
        yield running


@pytest.fixture
def elsewhere():
    with Listener() as running:
        yield running


@pytest.fixture
def client():
    made = []

    def make(env=None, **rows):
        r = registry.load(env or {})
        for name, row in rows.items():
            r.rows[name] = row
        made.append(Client(r, ledger=None))
        return made[-1]

    yield make
    for c in made:
        c.close()


# --- what an origin is ---


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://H.example:443/v1?q#f", "https://h.example"),
        ("http://h:80", "http://h"),
        ("http://h:8/", "http://h:8"),
        ("https://u:p@h/v1", "https://h"),
        ("https://fa\u00df.example", "https://xn--fa-hia.example"),
        ("https://xn--fa-hia.example", "https://xn--fa-hia.example"),
        ("https://b\u00fccher.example:8443/x", "https://xn--bcher-kva.example:8443"),
        ("https://api.openai.com@evil.example/v1", "https://evil.example"),
        ("https://api.openai.com.evil.example", "https://api.openai.com.evil.example"),
        ("https://h.example.", "https://h.example."),
        ("cli://claude", "cli://claude"),
    ],
)
def test_the_origin_of_an_address(url, expected):
    """Scheme, host as IDNA 2008 writes it (not 2003, which makes another owner's name of some), and port."""
    assert expected == origin(url)


@pytest.mark.parametrize(
    "url",
    ["https://u:p@h:99999/v1", "https://u:p@[::1/v1", "https://u:p@h:x/", "https://u:p@", "${A}/v1", ""],
)
def test_an_address_that_cannot_be_read_is_only_itself(url):
    """And shows no password."""
    assert "p@" not in origin(url)
    assert origin(url) not in ("https://h", "https://")


@pytest.mark.parametrize(
    ("base", "url", "goes"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/models", True),
        ("https://api.openai.com/v1", "HTTPS://API.OpenAI.com:443/v2", True),
        ("https://fa\u00df.example", "https://xn--fa-hia.example/x", True),
        ("https://fa\u00df.example", "https://fass.example/x", False),
        ("https://api.openai.com/v1", "https://api.openai.com@evil.example/v1", False),
        ("https://api.openai.com/v1", "https://api.openai.com.evil.example/v1", False),
        ("https://api.openai.com/v1", "https://api.openai.com:8443/v1", False),
        ("https://api.openai.com/v1", "http://api.openai.com/v1", False),
        ("https://api.openai.com/v1", "https://api.openai.com\\@evil.example/v1", False),
        ("https://api.openai.com/v1", "https://evil.example/api.openai.com", False),
        ("https://api.openai.com/v1", "https://evil.example?https://api.openai.com/v1", False),
        ("https://api.openai.com/v1", "https://evil.example#@api.openai.com/v1", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:80000/", False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8001/", False),
        ("http://127.0.0.1:8000", "http://localhost:8000/", False),
    ],
)
def test_a_call_with_a_key_is_sent_to_its_origin_alone(base, url, goes):
    """Checked where the call becomes bytes, with the address as it will be sent; nothing else is asked."""
    row, key = ProviderSpec("acme", "openai_chat", base), Secret(KEY, "TEST", origin(base))
    call = HttpCall(url, {"authorization": f"Bearer {KEY}"}, {}, guard=Guard.for_provider(row, key))
    if goes:
        assert KEY.encode() in PreparedRequest(call).wire
    else:
        with pytest.raises(errors.ConfigError) as caught:
            PreparedRequest(call)
        assert KEY not in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8@127.0.0.1:9/",
        "http://127.0.0.1:9\\@127.0.0.1:8/",
        "http://127.0.0.1:9#@127.0.0.1:8/",
        "http://127.0.0.1:9?@127.0.0.1:8/",
        "http://127.1:8/",
        "http://2130706433:8/",
        "http://0x7f.1:8/",
        "http://127.0.0.1:08/",
        "http://127.0.0.1.:8/",
        "http://[::ffff:127.0.0.1]:8/",
        "http://127.0.0.1%2e:8/",
        "http://LOCALHOST:8/",
        "http:/\\127.0.0.1:8/",
        "http:127.0.0.1:8/",
        "//127.0.0.1:8/",
        "http://\uff11\uff12\uff17.0.0.1:8/",
        "http://127\u30020.0.1:8/",
        "http://\u2460.example/",
        "http://a\u00adb.example/",
        "http://fa\u00df.example/",
        "http://\u212aelvin.example/",
        "http://xn--fa-hia.example/",
        "http://ex\u200dample.org/",
        "http://h:8:9/",
        "http://h:\u0668/",
        "http://h/\t",
        " http://h/",
    ],
)
def test_where_the_connection_goes_and_what_it_is_told_are_one_place(url):
    """Two readers of an address may not differ: what one of them reads otherwise is refused."""
    row = ProviderSpec("acme", "openai_chat", url)
    with suppress(errors.ConfigError):
        letter = PreparedRequest(
            HttpCall(url, {}, {}, guard=Guard.for_provider(row, Secret(KEY).bound_to(url)))
        )
        assert str(letter.address) == origin(str(letter.request.url)) == origin(url)


def test_a_key_that_belongs_nowhere_goes_nowhere():
    """A call that says it holds one, but not whose."""
    call = HttpCall(
        "https://h/v1",
        {},
        {},
        guard=Guard.for_provider(ProviderSpec("a", "openai_chat", "https://h"), Secret(KEY)),
    )
    with pytest.raises(errors.ConfigError):
        PreparedRequest(call)


def test_a_key_of_another_origin_is_not_sent_to_the_row_s(client, here):
    """Whatever led to it: the key itself says where it may go. One that says nothing was given for this
    call."""
    c = client(acme=ProviderSpec("acme", "openai_chat", f"{here.url}/v1"))
    route = c.resolve("acme/m")
    request = c.request("hello", "m")
    with pytest.raises(errors.ConfigError, match=r"api\.openai\.com"):
        c.send(request, route, key=Secret(KEY, "TEST", "https://api.openai.com"))
    assert [] == here.seen
    with pytest.raises(errors.NbllmError):
        c.send(request, route, key=Secret(KEY)).response()
    assert KEY in here.text


# --- paths that are no paths ---

PATHS = [
    "@127.0.0.1:{port}/v1/models",
    ".evil.example:{port}/models",
    ":80@127.0.0.1:{port}/m",
    "//127.0.0.1:{port}/m",
    "\\@127.0.0.1:{port}/m",
    "?@127.0.0.1:{port}",
    "#@127.0.0.1:{port}",
    "x",
    "/../../m",
    "/a b",
    "/a\tb",
    "/a\nb",
    "/\\127.0.0.1:{port}",
    "/a/..",
    "/%2e%2E/m",
    "/\u200bm",
    "/${OPENAI_API_KEY}",
    "http://127.0.0.1:{port}/m",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_list_s_path_is_a_path(path):
    """It begins with one slash and leads nowhere else; anything else is refused where it is read."""
    with pytest.raises(errors.ConfigError, match="'models'"):
        registry.provider_row("acme", {"base_url": "https://h", "models": path.replace("{port}", "9")})


@pytest.mark.parametrize(
    "path",
    ["", "/models", "/v1/models?limit=1000", "/v1/models?endpoint=chat&page_size=1000", "/a@b", "/caf\u00e9"],
)
def test_paths_that_are_good(path):
    """As nbllm's own rows have them."""
    assert path == registry.provider_row("acme", {"base_url": "https://h", "models": path}).models


@pytest.mark.parametrize("path", PATHS[:7])
@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic", "gemini"])
def test_no_list_takes_a_key_elsewhere(client, here, elsewhere, path, dialect):
    """A row that came by another way with such a path: lists, health and a benchmark's warming request go to
    the row's server or nowhere. Each carries the key as its dialect does."""
    row = ProviderSpec(
        "acme",
        dialect,
        here.url,
        ("ACME_API_KEY",),
        models=path.replace("{port}", str(elsewhere.server_port)),
    )
    c = client({"ACME_API_KEY": KEY}, acme=row)
    for ask in (
        lambda: catalog.list_models(c, "acme/"),
        lambda: catalog.health(c, "acme"),
        lambda: touched(c, "acme/m"),
    ):
        with suppress(errors.NbllmError):
            ask()
    assert [] == elsewhere.seen


def touched(client, model):
    route = client.resolve(model)
    client.run(
        LoadGenerator(None, client, None, 0.0, set())._warm_connection(
            Contestant("a", route, key=client.registry.key_for(route, None)), 5.0
        )
    )


def test_a_warming_request_carries_the_key_as_its_dialect_does(client, here):
    """To the row's own list; no bearer for those that know none."""
    touched(
        client(
            {"ACME_API_KEY": KEY},
            acme=ProviderSpec("acme", "anthropic", here.url, ("ACME_API_KEY",), models="/v1/models"),
        ),
        "acme/m",
    )
    ((line, headers, _),) = here.seen
    assert line.startswith("GET /v1/models ")
    assert f"x-api-key: {KEY}" in headers
    assert "bearer" not in headers.lower()


def test_a_warming_request_takes_no_password_to_whoever_listens(client, here):
    """An OpenCode server is asked who it is first, which the request for a list does too."""
    row = replace(registry.load({}).rows["opencode"], base_url=here.url)
    c = client({"OPENCODE_SERVER_PASSWORD": KEY}, opencode=row)
    touched(c, "opencode/a/b")
    with pytest.raises(errors.ConnectFailed):
        catalog.list_models(c, "opencode/")
    assert "authorization" not in here.text.lower()


@pytest.mark.parametrize("model", ["", ".", ".."])
def test_a_model_that_is_no_name_is_not_put_into_an_address(client, model):
    """Dots are steps upward in a path; all else is quoted."""
    c = client({"AZURE_OPENAI_ENDPOINT": "https://acme.openai.azure.com", "AZURE_OPENAI_API_KEY": KEY})
    with pytest.raises(errors.ConfigError):
        c.resolve(f"azure/{model}")
    assert (
        "/deployments/..%2F%40evil%3Fx%23y/"
        in c.encode(c.request("x", "m"), c.resolve("azure/../@evil?x#y"), Secret(KEY)).url
    )


def test_over_tls_too(client, monkeypatch, tmp_path):
    """The server that a glued address would reach has a certificate for its name, and still sees nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Listener(context=context) as theirs, Listener(context=context) as ours:
        row = ProviderSpec(
            "acme",
            "anthropic",
            f"https://localhost:{ours.server_port}",
            ("ACME_API_KEY",),
            models=f"@localhost:{theirs.server_port}/v1/models",
        )
        c = client({"ACME_API_KEY": KEY}, acme=row)
        catalog.list_models(c, "acme/", fresh=True)
        touched(c, "acme/m")
        assert [] == theirs.seen
        c.registry.rows["acme"] = replace(row, models="/v1/models")
        catalog.list_models(c, "acme/", fresh=True)
        assert "GET /v1/models HTTP/1.1" in ours.text
        assert KEY in ours.text


def test_counting_tokens_keeps_to_the_address(client, here):
    """A count is asked of the same server, with the same key."""
    here.answer = (200, b'{"input_tokens": 7}')
    c = client({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": here.url})
    assert 7 == tokens.estimate_tokens(c, "hello", "claude/m").tokens
    assert KEY in here.text


# --- what is typed, found and stored ---


def test_a_key_typed_for_an_address_stays_there(client, here, elsewhere):
    """The provider's name is not the address: a row that moves later gets none."""
    c = client(acme=ProviderSpec("acme", "openai_chat", f"{here.url}/v1"))
    keys.set_session_key("acme", KEY, f"{here.url}/v1")
    try:
        assert KEY == c.registry.key_for(c.resolve("acme/m"), None).reveal()
        c.registry.rows["acme"] = ProviderSpec("acme", "openai_chat", f"{elsewhere.url}/v1")
        assert c.registry.key_for(c.resolve("acme/m"), None) is None
    finally:
        keys.forget_session_key("acme")


def test_a_provider_that_is_no_row_brings_no_variable_along(client):
    """What a run's file describes, say: its variables are not looked up."""
    c = client({"OPENAI_API_KEY": KEY})
    route = registry.Route(
        "x/m", ProviderSpec("x", "openai_chat", "http://127.0.0.1:9", ("OPENAI_API_KEY",), local=True), "m"
    )
    assert c.registry.key_for(route, None) is None
    assert KEY == c.registry.key_for(route, KEY).reveal()


def test_headers_and_query_of_a_row_stay_at_its_address(client, here, elsewhere):
    """A base_url in a cell takes neither along, nor a variable's value; what stands in a row for one that is
    not set does."""
    row = registry.provider_row(
        "acme",
        {
            "base_url": f"{here.url}/v1",
            "headers": {"X-Token": "${TOK}", "X-Plain": OTHER},
            "local": True,
            "query": {"token": "${TOK}", "v": "${VERSION:-2024}", "w": OTHER},
        },
    )
    c = client({"TOK": KEY, "VERSION": KEY}, acme=row)
    for url, server in ((None, here), (f"{elsewhere.url}/v1", elsewhere)):
        with pytest.raises(errors.NbllmError):
            c.complete("hello", "acme/m", base_url=url, retries=0)
        assert server.seen
    assert KEY in here.text
    assert OTHER in here.text
    assert KEY not in elsewhere.text
    assert OTHER not in elsewhere.text
    assert "v=2024" in elsewhere.text


@pytest.mark.parametrize(
    "entry",
    [
        'opencode = "anthropic"',
        'opencode = "openai"\nlocal = true',
        'opencode = "openai"\ndialect = "anthropic"',
    ],
)
@pytest.mark.parametrize("name", ["acme", "openai", "anthropic"])
@pytest.mark.parametrize("layer", ["project", "user"])
def test_opencode_s_keys_stay_at_the_addresses_that_ship_with_nbllm(tmp_path, here, name, entry, layer):
    """Neither a project's row nor the user's own takes one to another host; the stored key of one provider is
    not sent to another."""
    (tmp_path / "auth.json").write_text(
        json.dumps({"anthropic": {"type": "api", "key": KEY}, "openai": {"type": "api", "key": KEY}})
    )
    under = "tool.nbllm." if layer == "project" else ""
    text = f'[{under}provider.{name}]\nbase_url = "{here.url}/v1"\n{entry}\n'
    path = tmp_path / ("pyproject.toml" if layer == "project" else "user.toml")
    path.write_text(text)
    r = registry.load({}, Places(start=tmp_path) if layer == "project" else Places(user=path))
    r.stores = keys.KeyStores(r.env, auth=tmp_path / "auth.json")
    c = Client(r, ledger=None)
    with pytest.raises(errors.NbllmError):
        c.complete("hello", f"{name}/m", retries=0)
    for ask in (lambda: catalog.list_models(c, f"{name}/"), lambda: catalog.health(c, name)):
        with suppress(errors.NbllmError):
            ask()
    c.close()
    assert KEY not in here.text
    assert layer == "user" or r.rows[name].pending_consent
    assert registry.load({}).rows["openai"].builtin_origin == "https://api.openai.com"


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"label": "Mine"}, KEY),
        ({"base_url": "https://api.openai.com/v2"}, KEY),
        ({"opencode": "anthropic"}, None),
        ({"base_url": "https://evil.example"}, None),
    ],
)
def test_a_change_of_nbllm_s_own_row_keeps_or_loses_opencode_s_key(tmp_path, table, found):
    """It stays with its name at its host."""
    (tmp_path / "auth.json").write_text(
        json.dumps({"anthropic": {"type": "api", "key": OTHER}, "openai": {"type": "api", "key": KEY}})
    )
    r = registry.load({})
    r.stores = keys.KeyStores(r.env, auth=tmp_path / "auth.json")
    r.register("openai", table)
    key = r.own_key(r.rows["openai"])
    assert found == (key and key.reveal())


def test_a_project_cannot_have_a_list_s_path_changed(tmp_path):
    """Neither as a glued host nor as another path of the provider's: that waits."""
    for path, held in (
        ("@evil.example/v1/models", ()),
        ("/elsewhere", ('anthropic: models = "/elsewhere"',)),
    ):
        (tmp_path / "pyproject.toml").write_text(f'[tool.nbllm.provider.anthropic]\nmodels = "{path}"\n')
        r = registry.load({}, Places(start=tmp_path))
        assert held == r.rows["anthropic"].pending_consent
        assert bool(held) != bool(r.problems)


def test_a_redirect_is_not_followed(client, here, elsewhere):
    """Whoever answers cannot send the key on."""
    here.answer, here.more = (307, b""), {"location": elsewhere.url}
    c = client(
        {"ACME_API_KEY": KEY},
        acme=ProviderSpec("acme", "openai_chat", here.url, ("ACME_API_KEY",), models="/models"),
    )
    with pytest.raises(errors.NbllmError):
        catalog.list_models(c, "acme/")
    assert [] == elsewhere.seen
