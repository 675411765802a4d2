"""From names to providers: prefixes, bare names, aliases, addresses, keys and the nearest names."""

import pytest

from nbllm import Client, Message, Request, bench
from nbllm.agents.one_shot import CLIS
from nbllm.core.calls import Endpoint, Secret
from nbllm.core.errors import ConfigError
from nbllm.dialects import NAMES as SERVERS
from nbllm.routing import keys, registry
from nbllm.routing.dialects import DIALECTS


def make(**env):
    r = registry.load(env)
    r.simulator = lambda dialect: f"http://127.0.0.1:9/{dialect}"
    return r


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openai:gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("o3", "openai", "o3"),
        ("o4-mini", "openai", "o4-mini"),
        ("claude-opus-4-1", "anthropic", "claude-opus-4-1"),
        ("anthropic/claude-opus-4-1", "anthropic", "claude-opus-4-1"),
        ("claude/claude-opus-4-1", "anthropic", "claude-opus-4-1"),
        ("gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("gemini/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("ollama/llama3.2:1b", "ollama", "llama3.2:1b"),
        ("ollama:llama3.2:1b", "ollama", "llama3.2:1b"),
        ("ollama/hf.co/some/model", "ollama", "hf.co/some/model"),
        ("responses/gpt-5-mini", "openai_responses", "gpt-5-mini"),
        ("gemini/pro", "gemini", "gemini-pro-latest"),
        ("google/pro", "gemini", "gemini-pro-latest"),
        ("Gemini/Pro", "gemini", "gemini-pro-latest"),
        ("openai-chat:gpt-4o", "openai", "gpt-4o"),  # so do jupyter-ai, LangChain and LiteLLM call them
        ("google_genai:gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("together_ai/meta/llama", "together", "meta/llama"),
        ("ollama_chat/llama3.2:1b", "ollama", "llama3.2:1b"),
        ("openai", "openai", "gpt-5.4-mini"),
        ("  openai/x  ", "openai", "x"),
        ("api/openai/gpt-4o", "openai", "gpt-4o"),
        ("API/openai/gpt-4o", "openai", "gpt-4o"),
        ("api/openai:gpt-4o", "openai", "gpt-4o"),
        ("api/openai", "openai", "gpt-5.4-mini"),
        ("api/openai/", "openai", "gpt-5.4-mini"),
        ("api/google/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("api/openrouter/meta/llama:free", "openrouter", "meta/llama:free"),
        ("api/ollama/llama3.2:1b", "ollama", "llama3.2:1b"),
        ("sim/gemini", "sim/gemini", "sim-gemini"),
        ("sim/claude/fast", "sim/claude", "fast"),
        ("sim", "sim/openai", "sim-openai"),
        ("sim/openai@ttft=0.4", "sim/openai", "sim-openai@ttft=0.4"),
    ],
)
def test_a_name_leads_to_a_provider_and_a_model(name, provider, model):
    """provider/model, provider:model, bare names, aliases, a provider alone, the simulator."""
    route = make().resolve(name)
    assert (provider, model) == (route.provider.name, route.model)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gemni/pro", "gemini/pro"),
        ("opena/mini", "openai/mini"),
        ("claud/sonnet", "claude/sonnet"),
        ("llama3", "ollama/llama3"),
        ("gpt4o", "openai/gpt-4o"),
        ("gpt_4o", "openai/gpt-4o"),
        ("GPT-4o", "openai/gpt-4o"),
        ("claude3-opus", "anthropic/claude-3-opus"),
        ("gemini2.5", "gemini/gemini-2.5"),
        ("qwen2.5", "ollama/qwen2.5"),
        ("", "model="),
    ],
)
def test_an_unknown_name_answers_with_the_nearest(name, near):
    """The error says what may have been meant."""
    with pytest.raises(ConfigError, match=near):
        make().resolve(name)


@pytest.mark.parametrize("name", ["cli/claude", "cli/claude/opus", "cli/codex"])
def test_a_command_has_no_address_to_name(name):
    """What it is called is said instead."""
    with pytest.raises(ConfigError, match=f"is a command(?s:.*)Name it {name}"):
        make().resolve(f"api/{name}")


@pytest.mark.parametrize(
    "name", ["api/nobody/x", "api/gpt-4o", "api/", "api", "api/api/openai/x", "api/sim/openai"]
)
def test_an_explicit_name_wants_a_provider(name):
    """No pattern, no simulator and no second api/; with an address it is a model of the server there."""
    with pytest.raises(ConfigError, match="No provider is known"):
        make().resolve(name)
    assert name == make().resolve(name, base_url="http://127.0.0.1:9").model


def test_no_alias_takes_the_place_of_an_explicit_name():
    """Also one that was there before its provider; one may lead to it."""
    r = make()
    r.aliases |= {"api/openai/x": "gemini/pro", "mine": "api/openai/x"}
    assert ["openai"] * 2 == [r.resolve(n).provider.name for n in ("api/openai/x", "mine")]


def test_an_alias_may_lead_to_another_and_never_in_circles():
    """%llm alias fast gemini/flash, where gemini/flash is an alias itself."""
    r = make()
    r.aliases |= {"fast": "gemini/flash", "a": "b", "b": "a"}
    assert "gemini-flash-latest" == r.resolve("fast").model
    with pytest.raises(ConfigError):
        r.resolve("a")


def test_aliases_lead_to_rows_that_exist():
    """Every alias in providers.toml resolves."""
    r = make()
    assert [] == [a for a in r.aliases if not r.resolve(a).model]


@pytest.mark.parametrize(
    ("env", "model", "expected"),
    [
        ({}, "openai/x", "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://10.0.0.1/v1"}, "openai/x", "http://10.0.0.1/v1"),
        ({"ANTHROPIC_BASE_URL": "http://h"}, "claude-x", "http://h"),
        ({"GEMINI_BASE_URL": "http://h/v1beta"}, "gemini/x", "http://h/v1beta"),
        ({"OLLAMA_HOST": "box"}, "ollama/x", "http://box:11434"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "ollama/x", "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": ":5000"}, "ollama/x", "http://127.0.0.1:5000"),
        ({"OLLAMA_HOST": "https://box"}, "ollama/x", "https://box:443"),
        ({"OLLAMA_HOST": "http://box:1/path"}, "ollama/x", "http://box:1/path"),
        ({"NBLLM_SIMULATE": "1"}, "gemini/x", "http://127.0.0.1:9/gemini"),
        ({"NBLLM_SIMULATE": "0"}, "openai/x", "https://api.openai.com/v1"),
    ],
)
def test_the_address_in_force(env, model, expected):
    """The usual variables replace a row's address; simulation replaces them all."""
    assert expected == make(**env).resolve(model).provider.base_url


def test_base_url_and_dialect_send_any_name_anywhere():
    """A known name keeps its row; an unknown one is a model of the server at the address."""
    r = make()
    route = r.resolve("openai/x", "http://h/v1", "anthropic")
    assert ("openai", "http://h/v1", "anthropic", "x") == (
        route.provider.name,
        route.provider.base_url,
        route.provider.dialect,
        route.model,
    )
    route = r.resolve("some/thing", "http://h:8/v1")
    assert ("custom", "openai_chat", "some/thing", True) == (
        route.provider.name,
        route.provider.dialect,
        route.model,
        route.provider.local,
    )


@pytest.mark.parametrize(
    ("expected", "env", "base_url", "explicit"),
    [
        ("OPENAI_API_KEY", {"OPENAI_API_KEY": "k"}, None, None),
        (None, {"OPENAI_API_KEY": " "}, None, None),
        ("OPENAI_API_KEY", {"OPENAI_API_KEY": "k"}, "https://api.openai.com:443/v1", None),
        (None, {"OPENAI_API_KEY": "k"}, "http://api.openai.com/v1", None),
        (None, {"OPENAI_API_KEY": "k"}, "http://elsewhere/v1", None),
        ("argument", {"OPENAI_API_KEY": "k"}, "http://elsewhere/v1", "given"),
        ("OPENAI_API_KEY", {"OPENAI_API_KEY": "k"}, "https://api.openai.com/v2", None),
        ("OPENAI_API_KEY", {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://mine/v1"}, None, None),
        (
            None,
            {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://mine/v1"},
            "https://api.openai.com.evil.example/v1",
            None,
        ),
    ],
)
def test_a_key_goes_to_its_own_address_only(expected, env, base_url, explicit):
    """A base_url that leads elsewhere gets no key from the environment, only one given by name."""
    r = make(**env)
    key = r.key_for(r.resolve("openai/x", base_url), explicit)
    assert expected == (key.source if key else None)


def test_a_secret_shows_itself_nowhere():
    """repr, str, format and pickling keep the key."""
    import pickle

    secret = Secret("sk-canary-0123456789abcdef", "TEST")
    assert "canary" not in f"{secret} {secret!r} {[secret]} {secret.masked}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_a_key_given_by_hand_lasts_for_the_session():
    """remember and forget."""
    r = make()
    keys.set_session_key("openai", "k")
    try:
        assert "this session" == r.own_key(r.rows["openai"]).source
        assert "this session" == make().own_key(r.rows["openai"]).source  # every client's
    finally:
        assert keys.forget_session_key("openai")
    assert r.own_key(r.rows["openai"]) is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"dialect": "openai_chat", "base_ulr": "x"}, "base_url"),
        ({"base_url": "x"}, "https://host"),
        ({"dialect": "openai_chat"}, "base_url"),
        ({"base_url": "https://h", "dialect": "smtp"}, "openai_chat"),
        *(
            ({"base_url": "https://h", **table}, f"invalid '{next(iter(table))}'(?s:.*){words}")
            for table, words in (
                ({"label": "a\nb"}, "one line"),
                ({"label": 1}, "text in quotes"),
                ({"local": "true"}, "true or false"),
                ({"key_env": [1]}, "list of texts"),
                ({"key_env": ["A\x1b"]}, "list of texts"),
                ({"headers": {"x": 1}}, "table of texts"),
                ({"headers": {"x\x1b": "1"}}, "table of texts"),
                ({"headers": "x"}, "table of texts"),
                ({"quirks": {"stream_usage": "yes"}}, r"stream_usage \(true or false\)"),
                ({"quirks": {"cannot": "tools"}}, r"cannot \(list of texts\)"),
                ({"quirks": {"streem": True}}, "not 'streem'"),
                ({"quirks": [1]}, "quirks out of"),
                ({"model": {"m": 1}}, "tables by"),
                ({"model": {"m": {"context": -1}}}, "at least 0"),
                ({"model": {"m": {"context": float("nan")}}}, "at least 0"),
                ({"model": {"m": {"context": True}}}, "numbers"),
                ({"model": {"m": {"contxt": 1}}}, "not 'contxt'"),
                ({"oauth": {"client_id": "a", "token_url": "https://t"}}, "device_url or authorize_url"),
                ({"oauth": {"token_url": "https://t", "device_url": "https://t"}}, "client_id"),
                (
                    {"oauth": {"client_id": "a", "token_url": "http://t", "device_url": "https://t"}},
                    "https address in token_url",
                ),
            )
        ),
    ],
)
def test_a_wrong_row_says_what_is_wrong(table, words):
    """The entry is named, with the nearest known one."""
    with pytest.raises(ConfigError, match=words):
        registry.provider_row("mine", table)


def test_the_simulator_takes_no_other_address():
    """It would be left out in silence."""
    with pytest.raises(ConfigError, match="address of its own"):
        make().resolve("sim/openai/m", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("github", None, "retired"),
        ("mine", {"base_url": "https://${MINE_HOST}/v1", "default_model": "m"}, "needs MINE_HOST"),
        ("mine", {"base_url": "https://mine.example/v1", "key_env": ["MINE_KEY"]}, "no default model"),
        (
            "mine",
            {"base_url": "https://mine.example/v1", "default_model": "m", "headers": {"x-a": "${MINE_A}"}},
            "needs MINE_A",
        ),
    ],
)
def test_a_provider_that_is_not_ready_is_a_route_with_a_problem(name, table, words):
    """Named alone it has a route, so that choosing among all goes on; whatever would ask it says why, with a
    key and without, and with what to do next. Its dialect is its own."""
    found = make(MINE_KEY="k" * 20)
    if table:
        found.register(name, table)
    route = found.resolve(name)
    assert (found.rows[name].dialect, None) == (route.provider.dialect, found.key_for(route, None))
    client = Client(found, ledger=None)
    for ask in (
        route.check,
        lambda: client.stream("Hi", name),
        lambda: client.stream("Hi", name, api_key="other"),
        lambda: client.encode(client.request("Hi", "m"), route, None),
        lambda: bench.run(name, "Hi", client=client, progress=False),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            ask()
        assert caught.value is not route.problem
    assert (None, "auto") == ((auto := client.resolve("auto")).problem, auto.name)


def test_every_dialect_has_the_name_that_leads_to_it():
    """Their files load with the first call that speaks them; the names are there before."""
    assert list(DIALECTS) == [dialect.name for dialect in DIALECTS.values()]
    assert {*DIALECTS} == {*SERVERS, *(d.name for d in CLIS), "opencode_server", "a2a"}


@pytest.mark.parametrize("name", SERVERS)
def test_a_dialect_needs_an_endpoint_alone(name):
    """Not the row: no consent, no names, no prices. What is secret in it shows nowhere."""
    endpoint = Endpoint("p", name, "https://u:canary@h/v1", headers={"x": "canary"}, query={"q": "canary"})
    call = DIALECTS[name].encode(Request("m", (Message("user", "Hi"),)), endpoint, Secret("k"))
    assert call.url.startswith("https://u:canary@h/")
    DIALECTS[name].decoder(endpoint)
    assert 500 == DIALECTS[name].error(500, {}, b"", endpoint).status
    assert "canary" not in repr(endpoint)
    assert "canary" in endpoint.secrets


# ---- what is remembered ----


def _alias(found, env):
    found.aliases["openai/m"] = "gemini/pro"


_CHANGES = {
    "a variable that was not set": lambda found, env: env.update(OPENAI_BASE_URL="http://h.example/v2"),
    "a variable that had another value": lambda found, env: env.update(ANTHROPIC_BASE_URL="http://h.example"),
    "a variable that is gone": lambda found, env: env.pop("GATE"),
    "a row": lambda found, env: found.register("openai", {"base_url": "http://h.example/v3"}),
    "a row that is new": lambda found, env: found.register("m", {"base_url": "http://h.example/v3"}),
    "a row that is gone": lambda found, env: found.rows.pop("gemini"),
    "an alias": _alias,
    "simulation": lambda found, env: setattr(found, "simulate", True),
    "simulation by the environment": lambda found, env: env.update(NBLLM_SIMULATE="1"),
    "nothing": lambda found, env: None,
}


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize(
    "name", ["openai/m", "claude/m", "gemini/pro", "m", "gate/x", "gpt-4o", "https", "sim/claude", "openai"]
)
def test_what_is_remembered_of_a_name_never_outlives_what_it_was_found_by(name, change):
    """Asked twice, then after a change: as a registry answers that was never asked before."""

    def outcome(found):
        try:
            return found.resolve(name)
        except ConfigError as error:
            return str(error)

    def begun():
        env = {"ANTHROPIC_BASE_URL": "http://a.example", "GATE": "http://g.example", "OPENAI_API_KEY": "k"}
        found = make(**env)
        found.env = env
        found.register("gate", {"base_url": "${GATE}/v1", "headers": {"x-own": "${GATE}"}, "local": True})
        return found, env

    asked, env = begun()
    first, again = outcome(asked), outcome(asked)
    assert first == again
    _CHANGES[change](asked, env)
    fresh, its = begun()
    _CHANGES[change](fresh, its)
    assert outcome(fresh) == outcome(asked)


def test_no_address_with_a_secret_in_it_is_remembered():
    """A query or a user's name in base_url may be one."""
    found = make()
    for url in ("http://h.example/v1?key=se-cret", "http://me:se-cret@h.example/v1"):
        found.resolve("m", url)
        assert "se-cret" not in f"{list(found._routes.entries)}{found!r}"
