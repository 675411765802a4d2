"""What a project's file may do without asking, and everything that needs the user's consent: secrets by any
name, prompts by any path."""

import json
import tomllib

import pytest

from nbllm import Client
from nbllm.core import errors
from nbllm.core.messages import Message, Request
from nbllm.routing import keys, registry
from nbllm.routing.config import Places
from nbllm.routing.dialects import DIALECTS

from .listeners import Listener
from .test_config import project, write

ENV = {
    "OPENAI_API_KEY": "sk-canary-0123456789abcdef",
    "AWS_SECRET_ACCESS_KEY": "aws-canary-0123456789abcdef",
    "DEEPSEEK_API_KEY": "ds-canary-0123456789abcdef",
    "HOME": "/home/canary-user",
    "GITHUB_TOKEN": "ghp-canary-0123456789abcdef",
}
USER = (
    '[provider.gate]\nbase_url = "https://gate.example/ACCOUNT/v1"\nkey_env = "GATE_API_KEY"\nprefixes '
    '= ["door"]\n[alias]\nfast = "gemini/flash"\nhome = "ollama/llama3.2"\n'
)


@pytest.fixture
def load(tmp_path):
    def loaded(text, user=USER, env=ENV, allow=""):
        places = Places(
            write(tmp_path / "home" / "providers.toml", user + allow),
            write(tmp_path / "repo" / "pyproject.toml", project(text)).parent,
        )
        return registry.load(env, places)

    return loaded


def sent(r, name):
    """(key, headers, query, address) that a call to `name` would carry; the words of the error where it is
    refused."""
    try:
        route = r.resolve(name)
        key = r.key_for(route, None)
    except errors.ConfigError as error:
        return str(error)
    row = route.provider
    return (
        f"{key.reveal() if key else ''} {dict(row.headers)} {dict(row.query)} {row.base_url} "
        f"{row.passthrough_env} {[ENV.get(p) for p in row.passthrough_env if p not in row.pending_consent]}"
    )


HOSTS = ["https://acme.example/v1", "http://127.0.0.1:9/v1", "http://localhost:9", "http://[::1]:9/v1"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "entry",
    [
        'key_env = "{v}"',
        'key_env = ["ACME_API_KEY", "{v}"]',
        'headers = {{ X = "${{{v}}}" }}',
        'headers = {{ X = "Bearer ${{{v}:-none}}" }}',
        'query = {{ k = "a${{{v}}}b" }}',
        'passes = ["{v}"]',
        'base_url_env = ["{v}"]',
    ],
)
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HOME", "GITHUB_TOKEN"])
def test_no_variable_of_the_user_s_is_spent(load, host, entry, name):
    """In whichever entry, to whichever host: this machine as well, where nobody else knows the variable
    either."""
    r = load(f'[provider.acme]\nbase_url = "{host}"\nlocal = true\n{entry.format(v=name)}\n')
    assert [] == r.problems
    assert name in r.rows["acme"].pending_consent
    assert ENV[name] not in sent(r, "acme/m")


@pytest.mark.parametrize("host", HOSTS[1:])
def test_its_own_key_may_go_to_this_machine(load, host):
    """NAME_API_KEY is named after the provider; no other name is."""
    env = {"ACME_API_KEY": "k", "ACME_TOKEN": "t", "AC_ME_API_KEY": "z"}
    assert "k {" in sent(
        load(f'[provider.acme]\nbase_url = "{host}"\nkey_env = "ACME_API_KEY"\n', env=env), "acme/m"
    )
    assert "z {" in sent(
        load(f'[provider.ac-me]\nbase_url = "{host}"\nkey_env = "AC_ME_API_KEY"\n', env=env), "ac-me/m"
    )
    assert (
        " {"
        == sent(
            load(f'[provider.acme]\nbase_url = "{host}"\nkey_env = "ACME_TOKEN"\nlocal = true\n', env=env),
            "acme/m",
        )[:2]
    )
    assert (
        " {"
        == sent(
            load(
                f'[provider.gate2]\nbase_url = "{host}"\nkey_env = "GATE_API_KEY"\nlocal = true\n',
                env={"GATE_API_KEY": "k"},
            ),
            "gate2/m",
        )[:2]
    )


@pytest.mark.parametrize(
    "text",
    [
        '[provider.acme]\ncommand = ["sh", "-c", "id"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\ncommand = ["sh"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\ndialect = "cli_claude"\n',
        '[provider.acme]\nbase_url = "http://127.0.0.1:9"\ndialect = "opencode_server"\n',
        '[provider.acme]\nbase_url = "https://acme.example"\noauth = { client_id = "c", token_url = '
        '"https://acme.example/t", device_url = "https://acme.example/d" }\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nbare = ["*"]\n',
        '[provider.acme]\nbase_url = "http://127.0.0.1:9"\nbare = ["?*"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nbare = ["[a-z]*"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nbare = ["gpt-5*"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nbare = ["c*"]\n',
        '[provider.acme]\nbase_url = "http://127.0.0.1:9"\nprefixes = ["claude"]\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nprefixes = ["new", "door"]\n',
        '[provider.claude]\nbase_url = "http://127.0.0.1:9"\n',
        '[provider.accounts]\nbase_url = "https://acme.example"\n',
        '[provider.acme]\nbase_url = "https://acme.example"\nprefixes = ["accounts"]\n',
        '[provider.gpt-4o]\nbase_url = "https://acme.example"\n',
        '[provider.door]\nbase_url = "https://acme.example"\n',
        '[provider."cli/claude"]\npasses = ["AWS_SECRET_ACCESS_KEY"]\n',
        '[provider."cli/gemini"]\ndialect = "cli_text"\n',
        '[provider."cli/claude"]\ncommand = ["./claude"]\n',
        '[provider."cli/codex"]\ndefault_model = "--yolo"\n',
        '[provider."cli/codex"]\nlabel = "Mine"\n',
        '[provider.opencode]\npasses = ["AWS_SECRET_ACCESS_KEY"]\n',
        '[provider.openai]\nprefixes = ["kimi", "claude"]\n',
        '[provider.openai]\nbare = ["*"]\n',
        '[provider.openai]\nbare = ["gpt-*", "chatgpt-*", "o[0-9]*", "cl*"]\n',
        "[provider.openai]\nbare = []\n",
        "[provider.anthropic]\nprefixes = []\n",
        '[provider.ollama]\nheaders = { X = "y" }\n',
        '[provider.litellm]\nquery = { api_base = "https://evil.example" }\n',
        '[provider.openai]\nmodels = "/other"\n',
        '[provider.openai]\ndialect = "ollama"\n',
        '[provider.openai]\ndialect = "cli_text"\n',
        '[provider.openai]\nkey_header = "cookie"\n',
        "[provider.openai]\nlocal = true\n",
        '[provider.openai]\nrefused = "Type your key at https://evil.example"\n',
        '[provider.openai]\nkey_url = "https://evil.example/keys"\n',
        '[provider.openai]\noauth = { client_id = "c", token_url = "https://acme.example/t", device_url = '
        '"https://acme.example/d" }\n',
        '[provider.gate]\nbase_url = "https://gate.example/OTHER/v1"\n',
        '[provider.openai]\nbase_url = "http://127.0.0.1:9/v1"\nbare = ["*"]\n',
    ],
)
def test_what_may_lead_elsewhere_or_run_waits(load, text):
    """The row is not asked in any way; a consent says what it is for, and a changed value asks again."""
    r = load(text)
    name = text.partition("provider.")[2].partition("]")[0].strip('"')
    row = r.rows[name]
    assert row.pending_consent, text
    assert [] == r.problems
    with pytest.raises(errors.ConfigError, match=rf"(?s)changes where or how.*%llm key allow {name}"):
        r.resolve(f"{name}/m")
    allow = '[allow]\n"{}" = ' + json.dumps(list(row.pending_consent)) + "\n"
    assert () == load(text, allow=allow.replace("{}", keys.origin(row.base_url))).rows[name].pending_consent
    assert load(text, allow=allow.replace("{}", "https://other.example")).rows[name].pending_consent


@pytest.mark.parametrize(
    "text",
    [
        '[provider.openai]\nlabel = "Ours"\ndefault_model = "gpt-5.4-nano"\nmodel."gpt-5.4-nano" = { '
        'context = 9 }\nprice = "openai"\n',
        '[provider.openai]\nbase_url = "https://api.openai.com/v2"\n',
        '[provider.openai]\nbase_url = "http://127.0.0.1:9/v1"\n',
        '[provider.openai]\nbare = ["gpt-*", "chatgpt-*", "o[0-9]*", "text-embedding-*"]\nmodels = '
        '"/models"\nlocal = false\n',
        "[provider.openai]\nquirks = { stream_usage = false }\nverified = []\n"
        'prefixes = ["openai-chat", "oai"]\n',
        '[provider.acme]\nbase_url = "https://acme.example/v1"\nlabel = "Acme"\nmodels = "/m"\nprefixes = '
        '["ac"]\nbare = ["acme-*"]\nlocal = true\nquery = { a = "b" }\nheaders = { X = "y" }\n',
        '[provider.acme]\nbase_url = "https://acme.example/v1"\ndialect = "anthropic"\ndefault_model = '
        '"m"\nkey_header = "x-api-key"\n',
        '[provider.gate]\nlabel = "Gate"\n',
    ],
)
def test_what_a_project_may_do_freely(load, text):
    """Describe a provider of its own; change how a known one is called and counted."""
    r = load(text)
    name = text.partition("provider.")[2].partition("]")[0]
    assert ((), []) == (r.rows[name].pending_consent, r.problems)


@pytest.mark.parametrize("name", ["cli/claude", "cli/codex", "cli/copilot", "opencode"])
def test_what_is_held_is_not_passed_to_a_command(load, name):
    """The variable that waits is not in what would run; those that nbllm's own row passes are."""
    r = load(f'[provider."{name}"]\npasses = ["OTHER_SECRET_ACCESS_KEY", "CODEX_HOME"]\n')
    row = r.rows[name]
    call = DIALECTS[row.dialect].encode(
        Request("", (Message("user", "x"),), extra={"start": True} if name == "opencode" else {}), row, None
    )
    passthrough_env = (call.start if name == "opencode" else call).passthrough_env
    assert "OTHER_SECRET_ACCESS_KEY" not in passthrough_env
    assert ("CODEX_HOME" in passthrough_env) == (name == "cli/codex")


# --- prompts are secrets too ---

MOVES = [
    ("ollama/llama3.2", "deepseek/deepseek-chat"),
    ("openai/mini", "groq/x"),
    ("gpt-4o", "deepseek/x"),
    ("claude/opus", "openrouter/x"),
    ("fast", "deepseek/x"),
    ("home", "deepseek/x"),
    ("sim/openai", "deepseek/x"),
    ("sim/claude/fast", "openai/x"),
    ("gate/x", "openai/x"),
    ("door/x", "openai/x"),
    ("Ollama/llama3.2", "deepseek/x"),
    ("ollama:llama3.2", "deepseek/x"),
    ("accounts/fireworks/models/x", "openai/x"),
    ("openai/mini", "acme/x"),
    ("cli/claude/opus", "anthropic/x"),
    ("lm-studio/x", "openai/x"),
]


@pytest.mark.parametrize(("name", "model"), MOVES)
@pytest.mark.parametrize("hop", [False, True])
def test_an_alias_of_a_project_moves_no_name_that_works_today(load, name, model, hop):
    """To a provider of its own or to another that the user knows, in one step or in two; the same line in the
    user's file does."""
    alias = f'"{name}" = "{model}"\n' if not hop else f'zz = "{model}"\n"{name}" = "zz"\n'
    text = f'[provider.acme]\nbase_url = "https://acme.example"\nlocal = true\n[alias]\n{alias}'
    r, plain = load(text), load("")
    (problem,) = r.problems
    assert f"%llm alias {name} {'zz' if hop else model} --save" in problem.message
    r.problems.clear()
    r.simulator = plain.simulator = lambda dialect: "http://127.0.0.1:9"
    assert plain.resolve(name).provider.name == r.resolve(name).provider.name
    others = "".join(f"{line}\n" for line in USER.splitlines() if not line.startswith(f"{name} ="))
    assert [] == load("", user=f'{others}"{name}" = "{model}"\n').problems


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cheap", "deepseek/x"),
        ("openai/mini", "openai/gpt-x"),
        ("responses/mini", "openai/x"),
        ("fast", "gemini/pro"),
        ("home", "ollama/other"),
    ],
)
def test_an_alias_of_a_project_that_is_new_or_stays(load, name, model):
    """New names lead anywhere, since somebody has to write them; known ones to another model of the same
    provider."""
    assert [] == load(f'[alias]\n"{name}" = "{model}"\n').problems


def test_a_key_beside_the_notebook_serves_what_the_user_names(tmp_path):
    """Asked by name it is used, and its source says which file; `auto` prefers any key of the user's own, and
    a local server."""
    write(tmp_path / ".env", "DEEPSEEK_API_KEY=theirs\n")
    with Listener() as ollama:
        for env, chosen in (
            ({}, "deepseek"),
            ({"OLLAMA_HOST": ollama.url}, "ollama"),
            ({"XAI_API_KEY": "mine", "OLLAMA_HOST": ollama.url}, "xai"),
        ):
            r = registry.load({"OLLAMA_HOST": "127.0.0.1:9", **env})
            r.stores = keys.KeyStores(r.env, lambda: (tmp_path,))
            assert "theirs" == r.key_for(r.resolve("deepseek/x"), None).reveal()
            client = Client(r, ledger=None)
            route = client.resolve("auto")
            client.close()
            assert chosen == route.provider.name
            assert (chosen == "deepseek") == (
                f"DEEPSEEK_API_KEY in {tmp_path / '.env'}" in route.why and "may read" in route.why
            )


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("deepseek/x", False),
        ("ds", False),
        ("deepseek-chat", False),
        ("groq/x", True),
        ("ollama/x", True),
        ("sim/openai", True),
    ],
)
def test_a_project_s_default_model_is_not_asked_with_its_own_key(tmp_path, monkeypatch, model, kept):
    """A cell that names no model would be read by whoever has that account; with a key of the user's it is
    another matter."""
    write(tmp_path / ".env", "DEEPSEEK_API_KEY=theirs\n")
    write(
        tmp_path / "pyproject.toml",
        f'[tool.nbllm.alias]\nds = "deepseek/x"\n[tool.nbllm.use]\nmodel = "{model}"\n',
    )
    monkeypatch.chdir(tmp_path)
    r = registry.load()
    assert kept == ("model" in r.defaults)
    assert kept == (
        not any(
            "which may be somebody else's" in p.message and f"%llm use {model}" in p.message
            for p in r.problems
        )
    )
    monkeypatch.setenv("DEEPSEEK_API_KEY", "mine")
    assert "model" in registry.load().defaults


def test_the_user_s_own_default_model_may_use_any_key(tmp_path, monkeypatch):
    """It is their word."""
    write(tmp_path / ".env", "DEEPSEEK_API_KEY=theirs\n")
    mine = write(tmp_path / "mine.toml", '[use]\nmodel = "deepseek/x"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBLLM_CONFIG", str(mine))
    assert {"model": "deepseek/x"} == registry.load().defaults


def test_a_consent_is_for_a_value(load, tmp_path):
    """It is written with the value, and another value asks again; what is long stands there with its hash."""
    path = tmp_path / "home" / "providers.toml"
    texts = [
        f'[provider.acme]\ncommand = ["tool", "{word}"]\n' for word in ("a", "b", "x" * 500, "x" * 499 + "y")
    ]
    for text in texts:
        r = load(text, user=path.read_text("utf-8") if path.exists() else "")
        assert r.rows["acme"].pending_consent
        r.allow(r.rows["acme"], path)
        assert () == load(text, user=path.read_text("utf-8")).rows["acme"].pending_consent
    (names,) = tomllib.loads(path.read_text("utf-8"))["allow"].values()
    assert 'acme: command = ["tool", "a"]' in names
    assert 4 == len(names)
    assert all(len(n) < 150 for n in names)


def test_an_address_given_in_python_sets_free_what_is_named_with_it(load):
    """Not the variables that a project's row of the same name holds back."""
    r = load(
        '[provider.acme]\nbase_url = "https://acme.example/v1"\nkey_env = '
        '["AWS_SECRET_ACCESS_KEY"]\nheaders = { X = "${GITHUB_TOKEN}" }\n'
    )
    r.register("acme", {"base_url": "https://acme.example/v1", "label": "Mine", "local": True})
    assert {"AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"} == set(r.rows["acme"].pending_consent)
    r.register(
        "acme", {"base_url": "https://acme.example/v1", "key_env": "AWS_SECRET_ACCESS_KEY", "headers": {}}
    )
    assert ENV["AWS_SECRET_ACCESS_KEY"] in sent(r, "acme/m")


@pytest.mark.parametrize(
    "entry",
    [
        "label",
        "key_url",
        "refused",
        "default_model",
        "price",
        "key_env",
        "prefixes",
        "passes",
        "headers",
        "query",
        "base_url",
        "models",
    ],
)
@pytest.mark.parametrize("odd", ["\\u001b]52;c;aGk=\\u0007", "a\\nb", "a\\u202eb", "a\\u200bb", "\\u0000"])
def test_what_a_terminal_would_obey_is_no_entry(load, entry, odd):
    """Configuration is printed; it holds no escapes, line breaks, or letters that nobody sees."""
    value = (
        f'{{ X = "{odd}" }}'
        if entry in ("headers", "query")
        else f'"https://h/{odd}"'
        if entry == "base_url"
        else f'"/{odd}"'
    )
    base = "" if entry == "base_url" else 'base_url = "https://h"\n'
    r = load(f'[provider.acme]\n{base}{entry} = {value}\n[alias]\nx = "{odd}"\n')
    assert "acme" not in r.rows
    assert ["x"] == [n for n in ("x",) if n not in r.aliases]
    assert 2 == len(r.problems)
    assert all(str(p).isprintable() for p in r.problems)


@pytest.mark.parametrize("name", ["foo/x", "foo", "api/foo/x", "api/foo"])
@pytest.mark.parametrize("entry", ["[provider.foo]\n", '[provider.bar]\nprefixes = ["foo"]\n'])
def test_an_explicit_name_of_todays_waits_too(load, entry, name):
    """A row called api answered api/foo/x: a project's provider foo does so after consent alone."""
    text = f'{entry}base_url = "https://evil.example"\n'
    r = load(text, user=f'{USER}[provider.api]\nbase_url = "https://mine.example"\n')
    with (
        pytest.warns(UserWarning, match="explicit form"),
        pytest.raises(errors.ConfigError, match="key allow"),
    ):
        r.resolve(name).check()


def test_a_project_leads_no_explicit_name_elsewhere(load):
    """Neither by an alias nor by a row of that very name; a row that moved waits under both names."""
    text = (
        '[alias]\n"api/gate/x" = "evil/x"\n[provider."api/gate"]\nbase_url = "https://evil.example"\n'
        '[provider.evil]\nbase_url = "https://evil.example"\n'
    )
    with pytest.warns(UserWarning, match="a provider's name already"):
        assert "gate" == load(text).resolve("api/gate/x").provider.name
    moved = load('[provider.openai]\nbase_url = "https://evil.example"\n')
    assert sent(moved, "openai/x") == sent(moved, "api/openai/x")
    assert "key allow" in sent(moved, "api/openai/x")
