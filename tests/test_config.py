"""Configuration: layers and their strength, variables in values, broken files, what a project may not do, and
saving."""

import sys
import textwrap
import tomllib
import warnings

import platformdirs
import pytest

from nbllm import Client
from nbllm.core.errors import ConfigError, ConnectFailed
from nbllm.routing import config, keys, registry, toml_edit
from nbllm.routing.config import Places

ACME = """
    [provider.acme]
    base_url = "https://llm.acme.example/v1"
    key_env = "ACME_API_KEY"
    dialect = "openai_chat"
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


@pytest.fixture
def load(tmp_path):
    """Loads a registry from the texts of the layers."""

    def loaded(user=None, project=None, extra=None, env=None, plugins=False):
        places = Places(
            write(tmp_path / "home" / "providers.toml", user)
            if user is not None
            else tmp_path / "home" / "providers.toml",
            write(tmp_path / "repo" / "pyproject.toml", project).parent if project is not None else None,
            write(tmp_path / "extra.toml", extra) if extra is not None else None,
            plugins,
        )
        return registry.load(env or {}, places)

    return loaded


def test_four_lines_make_a_provider(load):
    """A header, an address, a key's variable and a dialect; even the dialect has a default."""
    r = load(user=ACME, env={"ACME_API_KEY": "k"})
    route = r.resolve("acme/big")
    assert ("https://llm.acme.example/v1", "big", "openai_chat") == (
        route.provider.base_url,
        route.model,
        route.provider.dialect,
    )
    assert "ACME_API_KEY" == r.key_for(route, None).source
    assert [] == r.problems


def test_a_later_layer_beats_an_earlier_one_entry_by_entry(load):
    """nbllm's rows < the person's file < the project < NBLLM_CONFIG < register_provider."""
    layers = {"user": "user", "project": "project", "extra": "extra"}

    def texts(n):
        found = {}
        for name in list(layers)[:n]:
            under = "tool.nbllm." if name == "project" else ""
            found[name] = (
                f'[{under}provider.groq]\nlabel = "{name}"\n[{under}alias]\n"fast" = "groq/{name}"\n'
            )
        return found

    assert "Groq" == load().rows["groq"].label
    for n, name in enumerate(layers, 1):
        r = load(**texts(n))
        assert (name, name) == (r.rows["groq"].label, r.resolve("fast").model)
        assert "https://api.groq.com/openai/v1" == r.rows["groq"].base_url
        assert ("GROQ_API_KEY",) == r.rows["groq"].key_env
    r.register("groq", {"label": "registered"})
    assert "registered" == r.rows["groq"].label


def test_nbllm_config_is_looked_at_where_an_env_names_it(tmp_path):
    """A registry for an env of its own reads no file of this machine but that."""
    path = write(tmp_path / "mine.toml", ACME)
    assert "acme" in registry.load({"NBLLM_CONFIG": str(path)}).rows
    r = registry.load({"NBLLM_CONFIG": str(tmp_path / "absent.toml")})
    assert "absent.toml" in str(r.problems[0])


@pytest.mark.parametrize("xdg", ["/some/where", "", "some/where", None])
@pytest.mark.parametrize("home", ["/home/me", "me", None])
def test_the_person_s_file_stands_where_the_platform_says(xdg, home, monkeypatch):
    """XDG_CONFIG_HOME moves it on Linux."""
    for name, value in (("XDG_CONFIG_HOME", xdg), ("HOME", home)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    folder = platformdirs.user_config_path("nbllm", appauthor=False)
    assert folder / "providers.toml" == config.user_file()
    if sys.platform == "linux" and xdg == "/some/where":
        assert "/some/where/nbllm/providers.toml" == str(config.user_file())


@pytest.mark.parametrize(("mark", "found"), [(None, True), (".git", False), (".hg", False)])
def test_the_nearest_pyproject_is_sought_up_to_the_repository_s_root(tmp_path, mark, found):
    """A folder that is a repository's root is the last one looked at."""
    write(tmp_path / "pyproject.toml", "")
    inner = tmp_path / "repo" / "notebooks"
    inner.mkdir(parents=True)
    if mark:
        (tmp_path / "repo" / mark).mkdir()
    assert (tmp_path / "pyproject.toml" if found else None) == config.nearest_pyproject(inner)
    own = write(tmp_path / "repo" / "pyproject.toml", "")
    assert own == config.nearest_pyproject(inner)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[project]\ndependencies = ['nbllm']\nnot toml", False),
        ("[tool.black]\nnot toml", False),
        ("[tool.nbllm]\nnot toml", True),
        ("[tool]\nnbllm.use = {}\nnot toml", True),
    ],
)
def test_a_project_s_file_that_is_nobody_s_business_is_not_read(tmp_path, text, told):
    """What is wrong in it is told by those whom it concerns."""
    write(tmp_path / "pyproject.toml", text)
    assert told == bool(config.load(Places(start=tmp_path)).problems)


def test_variables_in_values_are_filled_in_when_the_row_is_used(load):
    """${NAME} and ${NAME:-other}, in addresses, headers and queries; one that is not set matters only
    then."""
    text = """
        [provider.corp]
        base_url = "${CORP_URL}/v1"
        headers = { X-Team = "${TEAM:-none}" }
        query = { v = "${CORP_V}" }
        local = true
    """
    r = load(user=text, env={"CORP_URL": "https://corp.example/", "CORP_V": "2"})
    row = r.resolve("corp/m").provider
    assert ("https://corp.example/v1", {"X-Team": "none"}, {"v": "2"}) == (
        row.base_url,
        row.headers,
        row.query,
    )
    unset = load(user=text, env={})
    assert "openai" == unset.resolve("openai/x").provider.name
    with pytest.raises(ConfigError, match=r"CORP_URL and CORP_V, which is not set"):
        unset.resolve("corp/m")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[provider.acme]\nbase_url = "https://h/v1"\nkey_env = [', 3, "TOML"),
        ("[provider.acme]\nbase_url = https://h\n", 2, "TOML"),
        ('# mine\n[provider.acme]\nbase_url = "https://h/v1"\nkye_env = "K"\n', 4, "key_env"),
        ('[provider.acme]\nbase_url = "h/v1"\n', 2, "https://host"),
        ('[provider.acme]\nbase_url = "https://sk-secret@h/v1"\n', 2, "without a key"),
        ('[provider.acme]\nbase_url = "https://h"\ndialect = "openai"\n', 3, "openai_chat"),
        ('[provider.acme]\nbase_url = "https://h"\nkey_env = 3\n', 3, "a list of texts"),
        ('[provider.acme]\nbase_url = "https://h"\nlocal = "yes"\n', 3, "true or false"),
        ('[provider.acme]\nbase_url = "https://h"\nheaders = ["X"]\n', 3, "a table of texts"),
        ('[provider.acme]\nbase_url = "https://h"\nkey_header = "X-Mine"\n', 3, "never shown"),
        ('[provider.acme]\nbase_url = "https://h"\nquirks = { seed = "x" }\n', 3, "stream_usage"),
        (
            '[provider.acme]\nbase_url = "https://h"\n[provider.acme.quirks]\nstream_usage = 1\n',
            3,
            "true or false",
        ),
        ('[provider.acme]\nbase_url = "https://h"\nmodel.big = { context = "long" }\n', 3, "numbers"),
        ('[provider.acme]\ndialect = "openai_chat"\n', 1, "base_url"),
        ('[provider]\nacme = "https://h"\n', 2, "[provider.acme]"),
        ('[provider."Acme Inc"]\nbase_url = "https://h"\n', 1, "lower-case letters"),
        ('[providers.acme]\nbase_url = "https://h"\n', 1, "expected provider, alias, allow"),
        ("[alias]\nfast = 3\n", 2, "in quotes"),
        ('[alias]\n"openai" = "groq/x"\n', 2, "already"),
    ],
)
def test_a_broken_file_says_the_line_and_what_was_expected(load, text, line, words):
    """File, line and words; nothing else breaks, in this file or in others."""
    more = "" if "TOML" in words else '\n[provider.fine]\nbase_url = "https://fine.example"\n'
    r = load(user=text + more, extra=ACME)
    (problem,) = r.problems
    assert line == problem.line, problem
    assert words in problem.message
    assert "providers.toml" in str(problem)
    assert "secret" not in str(problem)
    assert {"openai", "acme", *(["fine"] if more else [])} <= set(r.rows)


def test_what_is_wrong_is_told_once_when_a_name_is_used(load):
    """A warning at the first name; and an unknown name says that a part is ignored."""
    r = load(user="[provider.acme]\nbase_url = 3\n")
    with pytest.warns(UserWarning, match=r"providers\.toml, line 2.*base_url"):
        r.resolve("openai/x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r.resolve("openai/x")
        with pytest.raises(ConfigError, match=r"ignored: .*line 2"):
            r.resolve("acme/x")


def test_installed_packages_bring_rows_and_dialects(load, tmp_path, monkeypatch):
    """Entry points nbllm.providers and nbllm.dialects; one that fails breaks nothing."""
    write(
        tmp_path / "site" / "plug.py",
        """
        from dataclasses import replace
        from nbllm.dialects.openai_chat import DIALECT

        twin = replace(DIALECT, name="twin")

        ROWS = {"provider": {"plugged": {"base_url": "https://plug.example", "dialect": "twin"}}, "alias": {"p": "plugged/x"}}

        def rows():
            return ROWS
    """,  # noqa: E501
    )
    write(
        tmp_path / "site" / "plug-1.0.dist-info" / "METADATA",
        "Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n",
    )
    write(
        tmp_path / "site" / "plug-1.0.dist-info" / "entry_points.txt",
        "[nbllm.providers]\nplug = plug:rows\nbroken = plug:nothing\n[nbllm.dialects]\ntwin = plug:twin\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    r = load(plugins=True, user='[provider."plugin/plugged"]\nlabel = "Mine"\n')
    with pytest.warns(UserWarning, match="broken"):
        route = r.resolve("p")
    for same in (route, r.resolve("plugin/plugged/x"), r.resolve("api/plugin/plugged/x")):
        row = same.provider
        assert ("plugin/plugged", "twin", "Mine", "x") == (row.name, row.dialect, row.label, same.model)
    with pytest.raises(ConfigError):
        r.resolve("plugged/x")
    assert ["broken"] == [p.source.split()[2] for p in r.problems]
    with pytest.raises(ConnectFailed):
        Client(r, ledger=None).complete("Hi", "m", base_url="http://127.0.0.1:9", dialect="twin", retries=0)
    assert "twin" not in load().dialects, "a table that all share would keep it"


GREEDY = """
    ROWS = {
        "provider": {
            "acme": {"base_url": "https://evil.example", "prefixes": ["openai", "mine"], "bare": ["*"]},
            "openai": {"base_url": "https://evil.example"},
            "cli/claude": {"base_url": "https://evil.example"},
            "broken": {"base_url": 3},
            "table": 7,
        },
        "alias": {
            **dict.fromkeys(["openai", "claude", "mine", "cheap", "auto", "sim", "gpt-5", "x/y"], "acme/m"),
            "fresh": "acme/m",
            "number": 3,
        },
        "use": {"model": "acme/m"},
        "allow": {"https://evil.example": ["OPENAI_API_KEY"]},
        "ledger": "texts",
    }
"""
TODAY = ("openai/m", "claude", "mine/m", "cheap", "gpt-5", "cli/claude", "auto", "sim/openai", "o3")


def led(r, name):
    """(the row's name and address, or why there is none)."""
    try:
        route = r.resolve(name)
    except ConfigError as error:
        return type(error), error.message
    return route.provider.name, route.provider.base_url, route.model


def test_a_package_moves_no_name_that_works_today(load, tmp_path, monkeypatch):
    """Whatever it brings: rows are plugin/NAME, aliases take what means nothing, no other table counts."""
    user = """
        [provider.mine]
        base_url = "https://mine.example"
        [alias]
        cheap = "mine/small"
    """
    before, project = load(user=user), "[tool.nbllm.provider.shop]\nbase_url = 'https://shop.example'\n"
    write(tmp_path / "site" / "greedy.py", GREEDY)
    folder = tmp_path / "site" / "greedy-1.0.dist-info"
    write(folder / "METADATA", "Metadata-Version: 2.1\nName: greedy\nVersion: 1.0\n")
    write(folder / "entry_points.txt", "[nbllm.providers]\ngreedy = greedy:ROWS\ntwice = greedy:ROWS\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = load(user=user, plugins=True, project=project)
        assert [led(before, name) for name in TODAY] == [led(r, name) for name in TODAY]
        for name in ("plugin/acme/m", "fresh", "PLUGIN/acme/m"):
            assert ("plugin/acme", "https://evil.example", "m") == led(r, name)
        assert ("plugin/openai", "https://evil.example", "m") == led(r, "plugin/openai/m")
    assert {"plugin/acme", "plugin/openai", "shop"} == set(r.rows) - set(before.rows)
    assert ({"cheap": "mine/small", "fresh": "plugin/acme/m"}, {}) == (
        {n: m for n, m in r.aliases.items() if before.aliases.get(n) != m or n == "cheap"},
        r.defaults,
    )
    assert "disk" == r.ledger
    told = "\n".join(map(str, r.problems))
    for words in (
        "prefixes and bare are ignored",
        "belongs to another package",
        "cannot set 'allow'",
        "'x/y'",
        "plain name",
    ):
        assert words in told


def test_a_package_that_lies_in_the_working_folder_does_not_run(load, tmp_path, monkeypatch):
    """It came with a project, and the folder is on Python's path in every notebook."""
    folder = tmp_path / "repo"
    write(folder / "evil.py", "import pathlib; pathlib.Path(__file__).with_name('ran').touch(); ROWS = {}\n")
    write(folder / "evil-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    write(
        folder / "evil-1.0.dist-info" / "entry_points.txt",
        "[nbllm.providers]\nevil = evil:ROWS\n[nbllm.dialects]\nevil = evil:ROWS\n",
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    r = load(plugins=True, project="")
    assert not (folder / "ran").exists()
    assert ["evil", "evil"] == [p.source.split()[2] for p in r.problems if "not loaded" in p.message]


def test_a_file_invents_no_package(load):
    """The words before a row's name say where it comes from."""
    r = load(user='[provider."plugin/acme"]\nbase_url = "https://acme.example"\n')
    assert "no installed package brings 'plugin/acme'" in str(r.problems[0])
    assert "plugin/acme" not in r.rows


def test_explicit_names_of_rows_of_ones_own(load):
    """They win over a row called api, which is told of; what no provider is called stays that row's."""
    r = load(
        user='[provider.acme]\nbase_url = "https://acme.example"\n[provider.api]\nbase_url = "https://x.example"\n'
    )
    with pytest.warns(UserWarning, match="explicit form"):
        found = [r.resolve(n) for n in ("api/acme/big", "api/other/big", "api/api/acme/big")]
    assert [("acme", "big"), ("api", "other/big"), ("api", "acme/big")] == [
        (f.provider.name, f.model) for f in found
    ]
    assert 1 == len(r.problems)


def test_an_alias_that_is_an_explicit_name_is_refused(load):
    """Said once, with the file; the provider answers."""
    r = load(user='[alias]\n"api/openai/x" = "gemini/pro"\n', env={"OPENAI_API_KEY": "k"})
    with pytest.warns(UserWarning, match="a provider's name already"):
        assert "openai" == r.resolve("api/openai/x").provider.name


# --- trust --------------------------------------------------------------------------------------------------

ENV = {
    "OPENAI_API_KEY": "sk-canary-0123456789abcdef",
    "ACME_API_KEY": "sk-acme-0123456789abcdef",
    "GITHUB_TOKEN": "ghp-0123456789abcdef0123",
}


def project(text):
    return (
        textwrap.dedent(text)
        .replace("[provider", "[tool.nbllm.provider")
        .replace("[alias", "[tool.nbllm.alias")
        .replace("[allow", "[tool.nbllm.allow")
    )


def test_a_row_that_moves_leaves_its_keys_behind(load):
    """A person's own file too: the variables of a row were meant for its own host. One that is named is
    sent."""
    moved = '[provider.openai]\nbase_url = "https://gate.example/v1"\n'
    r = load(user=moved, env={**ENV, "OPENAI_BASE_URL": "https://other.example"})
    assert "https://gate.example/v1" == r.resolve("openai/x").provider.base_url
    assert r.key_for(r.resolve("openai/x"), None) is None
    named = load(user=moved + 'key_env = ["OPENAI_API_KEY"]\n', env=ENV)
    assert "OPENAI_API_KEY" == named.key_for(named.resolve("openai/x"), None).source


def test_a_row_that_stays_at_its_host_keeps_its_keys(load):
    """Another path, or another label, moves nothing; a project may do that too."""
    text = '[provider.openai]\nbase_url = "https://api.openai.com/v2"\n'
    for layer in ({"user": text}, {"project": project(text)}):
        r = load(**layer, env=ENV)
        assert "OPENAI_API_KEY" == r.key_for(r.resolve("openai/x"), None).source


@pytest.mark.parametrize(
    "text",
    [
        '[provider.openai]\nbase_url = "https://evil.example/v1"\n',
        '[provider.openai]\nbase_url = "https://evil.example/v1"\nkey_env = ["OPENAI_API_KEY"]\n',
        '[provider.openai]\nbase_url = "https://evil.example/v1"\nlocal = true\n',
        '[provider.openai]\nbase_url = "https://api.openai.com.evil.example/v1"\n',
        '[provider.openai]\nbase_url = "http://api.openai.com/v1"\n',
        '[provider.claude]\nbase_url = "https://evil.example/v1"\nlocal = true\n',
        '[provider.evil]\nbase_url = "https://evil.example/v1"\nprefixes = ["openai"]\nlocal = true\n',
        '[provider.openai]\nheaders = { X-Target = "https://evil.example" }\n',
        '[provider.openai]\nquery = { target = "https://evil.example" }\n',
    ],
)
def test_a_project_cannot_lead_a_known_name_elsewhere(load, text):
    """Neither the key nor the prompt goes there: the row is refused until the person allows it."""
    r = load(project=project(text), env=ENV)
    name = text.partition("provider.")[2].partition("]")[0]
    with pytest.raises(ConfigError, match=rf"(?s)pyproject\.toml changes .*%llm key allow {name}"):
        r.resolve(f"{name}/x")
    row = r.rows[name]
    assert r.own_key(row) is None or "https://api.openai.com/v1" == row.base_url


@pytest.mark.parametrize(
    "text",
    [
        '[provider.acme]\nbase_url = "https://evil.example/v1"\nkey_env = ["OPENAI_API_KEY"]\n',
        '[provider.acme]\nbase_url = "https://evil.example/v1"\nkey_env = ["GITHUB_TOKEN"]\n',
        '[provider.acme]\nbase_url = "https://evil.example/v1"\nkey_env = ["ACME_API_KEY"]\n',
        '[provider.acme]\nbase_url = "http://127.0.0.1:8/v1"\nkey_env = ["OPENAI_API_KEY"]\n',
        '[provider.acme]\nbase_url = "https://127.0.0.1.evil.example/v1"\nkey_env = ["ACME_API_KEY"]\n',
        '[provider.openai]\nbase_url = "http://127.0.0.1:8/v1"\n',
        '[provider.openai]\nkey_env = ["GITHUB_TOKEN"]\n',
    ],
)
def test_a_project_spends_no_key_of_the_person_s(load, text):
    """Not a well-known one, not another secret, not under a name that looks like its own."""
    r = load(project=project(text), env=ENV)
    name = text.partition("provider.")[2].partition("]")[0]
    assert r.key_for(r.resolve(f"{name}/x"), None) is None
    assert "argument" == r.key_for(r.resolve(f"{name}/x"), "given").source


@pytest.mark.parametrize(
    "text",
    [
        '[provider.acme]\nbase_url = "https://evil.example/${OPENAI_API_KEY}"\n',
        '[provider.acme]\nbase_url = "https://${GITHUB_TOKEN}.evil.example"\n',
        '[provider.acme]\nbase_url = "https://evil.example"\nheaders = { X = '
        '"${ACME_API_KEY:-x}${OPENAI_API_KEY}" }\n',
        '[provider.acme]\nbase_url = "https://evil.example"\nquery = { x = "${OPENAI_API_KEY}" }\n',
        '[provider.openai]\nheaders = { X = "${GITHUB_TOKEN}" }\n',
    ],
)
def test_a_project_reads_no_variable_of_the_person_s(load, text):
    """${...} is a way out for secrets as well."""
    r = load(project=project(text), env=ENV)
    with pytest.raises(ConfigError, match=r"may not use yet|changes where or how") as caught:
        r.resolve(f"{text.partition('provider.')[2].partition(']')[0]}/x")
    assert not any(value in str(caught.value) for value in ENV.values())


def test_a_project_s_address_variable_is_not_gone_by(load):
    """base_url_env could send a secret to a name server."""
    r = load(project=project('[provider.openai]\nbase_url_env = ["GITHUB_TOKEN"]\n'), env=ENV)
    assert "https://api.openai.com/v1" == r.address(r.rows["openai"])


def test_a_project_may_name_its_own_provider_here_and_elsewhere(load):
    """A new name with no secret in it works at once; its own variable goes to this machine."""
    r = load(
        project=project(
            '[provider.acme]\nbase_url = "http://localhost:8/v1"\nkey_env = "ACME_API_KEY"\n[alias]\nfast '
            '= "acme/x"\n'
        ),
        env=ENV,
    )
    assert "ACME_API_KEY" == r.key_for(r.resolve("fast"), None).source
    r = load(
        project=project('[provider.acme]\nbase_url = "https://acme.example/v1"\nlocal = true\n'), env=ENV
    )
    assert "https://acme.example/v1" == r.resolve("acme/x").provider.base_url
    assert r.key_for(r.resolve("acme/x"), None) is None


def test_consent_is_for_an_address_and_names(load):
    """`allow` in the person's file; a row that changes its address or its names asks again; a project cannot
    allow itself."""
    text = '[provider.acme]\nbase_url = "https://acme.example/v1"\nkey_env = "ACME_API_KEY"\n'
    allow = '[allow]\n"https://acme.example" = ["ACME_API_KEY", "openai"]\n'
    r = load(user=allow, project=project(text), env=ENV)
    assert "ACME_API_KEY" == r.key_for(r.resolve("acme/x"), None).source
    for changed in (
        text.replace("acme.example", "evil.example"),
        text.replace("ACME_API_KEY", "GITHUB_TOKEN"),
    ):
        r = load(user=allow, project=project(changed), env=ENV)
        assert r.key_for(r.resolve("acme/x"), None) is None
    r = load(user="", project=project(text + allow), env=ENV)
    assert r.key_for(r.resolve("acme/x"), None) is None
    r = load(
        user=allow, project=project('[provider.openai]\nbase_url = "https://acme.example/v1"\n'), env=ENV
    )
    assert "https://acme.example/v1" == r.resolve("openai/x").provider.base_url
    assert r.key_for(r.resolve("openai/x"), None) is None


@pytest.mark.parametrize("alias", ["openai/mini", "gpt-4o", "claude/opus"])
def test_a_project_s_alias_cannot_take_a_known_name_to_its_own_row(load, alias):
    """Nor to another provider that the user knows; it may make new names, and choose another model of the
    same provider."""
    text = (
        f'[provider.acme]\nbase_url = "https://acme.example/v1"\nlocal = true\n[alias]\n"{alias}" = '
        f'"acme/x"\n'
    )
    r = load(project=project(text))
    with pytest.warns(UserWarning, match="known name"):
        assert "acme" != r.resolve(alias).provider.name
    r = load(project=project(text.replace('"acme/x"', '"zz"') + 'zz = "acme/x"\n'))
    with pytest.warns(UserWarning, match="known name"):
        assert "acme" != r.resolve(alias).provider.name
    assert "acme" == r.resolve("zz").provider.name
    r = load(project=project(f'[alias]\n"{alias}" = "groq/x"\n'))
    with pytest.warns(UserWarning, match="known name"):
        assert "groq" != r.resolve(alias).provider.name
    same = load().resolve(alias).provider.name
    assert (same, "other") == (
        (
            route := load(project=project(f'[alias]\n"{alias}" = "{same}/other"\n')).resolve(alias)
        ).provider.name,
        route.model,
    )


def test_a_stronger_layer_gives_no_consent_by_the_way(load):
    """A new label does not set a project's address free; an address of the person's own does."""
    text = project('[provider.openai]\nbase_url = "https://evil.example/v1"\nkey_env = "OPENAI_API_KEY"\n')
    r = load(project=text, extra='[provider.openai]\nlabel = "Mine"\n', env=ENV)
    r.register("openai", {"label": "Mine too"})
    with pytest.raises(ConfigError, match="changes where"):
        r.resolve("openai/x")
    r.register("openai", {"base_url": "https://mine.example/v1", "key_env": "OPENAI_API_KEY"})
    assert "OPENAI_API_KEY" == r.key_for(r.resolve("openai/x"), None).source
    r = load(project=text, extra='[allow]\n"https://evil.example" = ["openai", "OPENAI_API_KEY"]\n', env=ENV)
    assert "OPENAI_API_KEY" == r.key_for(r.resolve("openai/x"), None).source


def test_a_held_row_stops_nobody_else(load):
    """Names alone are routed, so that choosing among all providers goes on."""
    r = load(project=project('[provider.openai]\nbase_url = "https://evil.example/v1"\n'), env=ENV)
    assert r.key_for(r.resolve("openai"), None) is None
    assert "anthropic" == r.resolve("claude/opus").provider.name


# --- saving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[alias]\nfast = "gemini/flash"\n'),
        ("# mine\n", '# mine\n\n[alias]\nfast = "gemini/flash"\n'),
        (
            '[alias]\nslow = "a/b"  # keep\n\n[provider.x]\nbase_url = "https://h"\n',
            '[alias]\nslow = "a/b"  # keep\nfast = "gemini/flash"\n\n[provider.x]\nbase_url = "https://h"\n',
        ),
        (
            '[alias]\nfast = "a/b"  # why\nslow = "c/d"',
            '[alias]\nfast = "gemini/flash"  # why\nslow = "c/d"',
        ),
        ("[alias]", '[alias]\nfast = "gemini/flash"\n'),
        ('alias = { a = "b" }\n', 'alias = { a = "b", fast = "gemini/flash"}\n'),
        ('alias.a = "b"\n', 'alias.a = "b"\nalias.fast = "gemini/flash"\n'),
        ('[alias]\nfast = """\na"""\n', '[alias]\nfast = "gemini/flash"\n'),
        ("[alias.x]\na = 1\n", '[alias]\nfast = "gemini/flash"\n\n[alias.x]\na = 1\n'),
    ],
)
def test_one_entry_is_set_and_every_other_line_stays(tmp_path, before, after):
    """Comments, order and other tables are the person's."""
    path = tmp_path / "new" / "providers.toml"
    if before:
        write(path, before)
    toml_edit.set_entry(path, "alias", "fast", "gemini/flash")
    assert after == path.read_text("utf-8")
    assert "gemini/flash" == tomllib.loads(after)["alias"]["fast"]
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    "before", ["[alias\n", "alias = 1\n", "[[alias]]\n", "a = " + "[" * 3_000 + "]" * 3_000]
)
def test_a_file_that_only_a_person_can_edit_is_left_alone(tmp_path, before):
    """The error shows the line to write."""
    path = write(tmp_path / "providers.toml", before)
    with pytest.raises(ConfigError, match=r'"fast" = "gemini/flash"'):
        toml_edit.set_entry(path, "alias", "fast", "gemini/flash")
    assert before == path.read_text("utf-8")


def test_two_addresses_that_wait_for_variables_are_not_the_same():
    """Nothing is known of their hosts."""
    assert not keys.same_host("${A}/v1", "${B}/v1")
    assert keys.same_host("https://H:443/v1", "https://h/v2")


@pytest.mark.parametrize(
    ("model", "refused"), [("mine/m", True), ("short", True), ("here/m", False), ("gemini/flash", False)]
)
def test_a_project_s_default_model_is_no_provider_of_its_own(tmp_path, model, refused):
    """A cell that names no model must not send its prompt to whoever wrote the project's file; this machine
    is no stranger."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.nbllm.provider.mine]\nbase_url = "https://mine.example/v1"\nlocal = '
        'true\n[tool.nbllm.provider.here]\nbase_url = "http://127.0.0.1:9/v1"\nlocal = true\n'
        f'[tool.nbllm.alias]\nshort = "mine/m"\n[tool.nbllm.use]\nmodel = "{model}"\n'
    )
    found = config.load(config.Places(start=tmp_path))
    assert refused == any(
        "would send your prompts to a provider of this project" in str(p) for p in found.problems
    )
    assert refused == ("model" not in found.defaults)
