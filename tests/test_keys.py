"""Keys: the order of their sources, the address each is for, and that none is ever seen."""

import json
import os
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.calls import Secret
from nbllm.core.errors import ConfigError
from nbllm.routing import config, keys, registry, toml_edit

from .kernels import Kernel

CANARY = "sk-canary-0123456789abcdef"


class Ring:
    """A keyring in memory, with the functions of the keyring package."""

    def __init__(self, *, locked=False):
        self.entries, self.locked, self.asked = {}, locked, 0

    def get_password(self, service, user):
        self.asked += 1
        if self.locked:
            raise OSError("locked")
        return self.entries.get((service, user))

    def set_password(self, service, user, key):
        if self.locked:
            raise OSError(f"locked, and {key} is not kept")
        self.entries[service, user] = key

    def delete_password(self, service, user):
        del self.entries[service, user]


@pytest.fixture
def make(tmp_path):
    """A registry whose stores are all in a temporary folder or in memory."""

    def made(*, env=None, dotenv=None, ring=None, colab=None, auth=None):
        r = registry.load(env or {})
        if dotenv is not None:
            (tmp_path / ".env").write_text(dotenv, "utf-8")
        (tmp_path / "auth.json").write_text(json.dumps(auth or {}), "utf-8")
        r.stores = keys.KeyStores(
            r.env,
            lambda: (tmp_path,),
            lambda: ring,
            None if colab is None else lambda name: colab[name],
            tmp_path / "auth.json",
        )
        return r

    return made


def key(r, model="openai/x", base_url=None, explicit=None):
    return r.key_for(r.resolve(model, base_url), explicit)


def test_sources_are_asked_in_their_order(make):
    """Given, typed, environment, .env, keyring, Colab, OpenCode; each comes to its turn when those before it
    have none."""
    ring = Ring()
    ring.entries["nbllm", "https://api.openai.com"] = "ring"
    everything = {
        "env": {"OPENAI_API_KEY": "env"},
        "dotenv": "OPENAI_API_KEY=dot\n",
        "ring": ring,
        "colab": {"OPENAI_API_KEY": "colab"},
        "auth": {"openai": {"type": "api", "key": "code"}},
    }
    order = ("env", "dotenv", "ring", "colab", "auth")
    sources = ("OPENAI_API_KEY", "OPENAI_API_KEY in ", "the keyring", "OPENAI_API_KEY in Colab", "OpenCode")
    assert "argument" == key(make(**everything), explicit="given").source
    keys.set_session_key("openai", "typed")
    try:
        assert "this session" == key(make(**everything)).source
    finally:
        keys.forget_session_key("openai")
    for n, (value, source) in enumerate(zip(("env", "dot", "ring", "colab", "code"), sources, strict=True)):
        r = make(**{"dotenv": "", **{k: everything[k] for k in order[n:]}})
        found = key(r)
        assert (value, True) == (found.reveal(), found.source.startswith(source))
    assert key(make(dotenv="")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OPENAI_API_KEY=abc", "abc"),
        ("export OPENAI_API_KEY = abc ", "abc"),
        ('OPENAI_API_KEY="a#b c"', "a#b c"),
        ("OPENAI_API_KEY='a#b' # c", "a#b"),
        ("OPENAI_API_KEY=abc # mine", "abc"),
        ("\ufeffOPENAI_API_KEY=abc\r\n", "abc"),
        ("# OPENAI_API_KEY=no", None),
        ("OPENAI_API_KEY=", None),
        ("nonsense", None),
        ("A=1\nOPENAI_API_KEY=abc\nB", "abc"),
        ("OPENAI_API_KEY=$HOME", "$HOME"),
    ],
)
def test_a_dotenv_file(make, text, expected):
    """Plain lines, quotes, comments; nothing is filled in."""
    folder = make(dotenv=text).stores.folders()[0]
    assert (expected or "") == keys.read_dotenv(folder / ".env").get("OPENAI_API_KEY", "").strip()


def test_a_dotenv_file_gives_keys_and_no_addresses(make):
    """A file beside a notebook may have come with it: it must not lead a key of the environment elsewhere."""
    r = make(env={"OPENAI_API_KEY": "env"}, dotenv="OPENAI_BASE_URL=https://evil.example\n")
    assert "https://api.openai.com/v1" == r.resolve("openai/x").provider.base_url


@pytest.mark.parametrize(
    "source",
    [
        {"env": {"OPENAI_API_KEY": "k"}},
        {"dotenv": "OPENAI_API_KEY=k"},
        {"ring": True},
        {"colab": {"OPENAI_API_KEY": "k"}},
        {"auth": {"openai": {"type": "api", "key": "k"}}},
    ],
)
def test_a_key_goes_to_its_own_address_whatever_its_source(make, source):
    """A base_url that leads elsewhere gets none; the same host does."""
    if "ring" in source:
        source = {"ring": Ring()}
        source["ring"].entries["nbllm", "https://api.openai.com"] = "k"
    r = make(**{"dotenv": "", **source})
    assert key(r, base_url="https://evil.example/v1") is None
    assert key(r, base_url="http://api.openai.com/v1") is None
    assert "k" == key(r, base_url="https://api.openai.com/v2").reveal()


def test_kept_keys_do_not_follow_an_address_variable(make):
    """OPENAI_BASE_URL leads the variables' keys along, because both are the person's; not what is kept for
    api.openai.com."""
    ring = Ring()
    ring.entries["nbllm", "https://api.openai.com"] = "ring"
    r = make(
        env={"OPENAI_BASE_URL": "https://mine.example/v1"},
        dotenv="",
        ring=ring,
        auth={"openai": {"type": "api", "key": "code"}},
    )
    assert key(r) is None
    ring.entries["nbllm", "https://mine.example"] = "mine"
    assert (
        "mine" == key(make(env={"OPENAI_BASE_URL": "https://mine.example/v1"}, dotenv="", ring=ring)).reveal()
    )


@pytest.mark.parametrize(
    ("model", "entry", "found"),
    [
        ("openai/x", {"type": "oauth", "access": "at", "refresh": "rt", "expires": "later"}, "at"),
        ("openai/x", {"type": "oauth", "access": "at", "expires": "soon"}, None),
        ("openai/x", {"type": "oauth", "access": "at", "expires": "past"}, None),
        ("openai/x", {"type": "oauth", "access": "at", "expires": 0}, "at"),
        ("openai/x", {"type": "oauth", "access": "at"}, None),
        ("openai/x", {"type": "wellknown", "key": "CORP", "token": "t"}, None),
        ("openai/x", {"type": "api", "key": ""}, None),
        ("openai/x", "text", None),
        ("claude/x", {"type": "api", "key": "k"}, "k"),
        ("claude/x", {"type": "oauth", "access": "at", "expires": "later"}, None),
        ("gemini/x", {"type": "api", "key": "k"}, "k"),
        ("together/x", {"type": "api", "key": "k"}, "k"),
    ],
)
def test_opencode_s_store(make, model, entry, found):
    """api keys, and logins that have not expired, for dialects that can carry a token; the file is only
    read."""
    whens = {"later": (time.time() + 3600) * 1000, "soon": (time.time() + 30) * 1000, "past": 1000}
    if isinstance(entry, dict) and entry.get("expires") in whens:
        entry = {**entry, "expires": whens[entry["expires"]]}
    name = {"openai": "openai", "claude": "anthropic", "gemini": "google", "together": "togetherai"}[
        model.partition("/")[0]
    ]
    r = make(dotenv="", auth={name: entry})
    before = r.stores.auth.read_bytes()
    got = key(r, model)
    assert found == (got and got.reveal())
    assert before == r.stores.auth.read_bytes()


def test_opencode_s_store_lies_under_xdg_data_home(tmp_path):
    """As OpenCode's own, where an env names it; a broken file is none."""
    path = tmp_path / "opencode" / "auth.json"
    path.parent.mkdir()
    path.write_text('{"groq": {"type": "api", "key": "k"}}', "utf-8")
    r = registry.load({"XDG_DATA_HOME": str(tmp_path)})
    assert "OpenCode's auth.json" == r.own_key(r.rows["groq"]).source
    path.write_text("{", "utf-8")
    assert r.own_key(r.rows["groq"]) is None
    assert registry.load({}).stores.auth is None


def test_the_keyring_is_asked_once_and_never_while_typing(make):
    """It is another process, and may ask the person to unlock it."""
    ring = Ring()
    r = make(dotenv="", ring=ring)
    assert r.own_key(r.rows["openai"], quick=True) is None
    assert 0 == ring.asked
    assert [None] * 3 == [r.own_key(r.rows["openai"]) for _ in range(3)]
    assert 1 == ring.asked


def test_a_locked_keyring_is_one_without_the_key(make):
    """Reading goes on to the next source; keeping says what happened, without the key."""
    r = make(dotenv="", ring=Ring(locked=True), auth={"openai": {"type": "api", "key": "code"}})
    assert "OpenCode's auth.json" == key(r).source
    with pytest.raises(ConfigError, match="OSError") as caught:
        keys.store_in_keyring(CANARY, r.stores, "https://api.openai.com/v1")
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not keys.delete_from_keyring(r.stores, "https://api.openai.com/v1")


def test_a_key_is_kept_and_dropped(make):
    """Under its address: rows of one address share it, others do not find it."""
    ring = Ring()
    r = make(dotenv="", ring=ring)
    assert keys.store_in_keyring(CANARY, r.stores, r.address(r.rows["openai"]))
    assert {("nbllm", "https://api.openai.com"): CANARY} == ring.entries
    assert CANARY == key(r).reveal() == key(r, "responses/x").reveal()
    assert key(r, "groq/x") is None
    assert keys.delete_from_keyring(r.stores, r.address(r.rows["openai"]))
    assert not keys.delete_from_keyring(r.stores, r.address(r.rows["openai"]))
    assert key(r) is None
    assert not keys.store_in_keyring(CANARY, make(dotenv="").stores, "https://h")


def test_where_names_every_source_and_masks_every_key(make):
    """The whole list, in order."""
    r = make(env={"OPENAI_API_KEY": CANARY}, dotenv="")
    places = keys.list_sources(r.rows["openai"], r.stores, r.address(r.rows["openai"]))
    assert ["this session", "environment", ".env", "keyring", "login", "Colab", "OpenCode"] == [
        name for name, _ in places
    ]
    assert [("environment", "•••cdef")] == [(n, m) for n, m in places if m]
    assert CANARY not in repr(places)


def test_nothing_that_holds_keys_shows_them(make):
    """repr of registry, stores and routes; the keyring's answers as well."""
    ring = Ring()
    ring.entries["nbllm", "https://api.groq.com"] = CANARY
    r = make(
        env={"OPENAI_API_KEY": CANARY},
        dotenv=f"MISTRAL_API_KEY={CANARY}",
        ring=ring,
        auth={"xai": {"type": "api", "key": CANARY}},
    )
    found = [r.own_key(row) for row in r.rows.values()]
    assert {"OPENAI_API_KEY", "the keyring", "OpenCode's auth.json"} <= {k.source for k in found if k}
    assert CANARY not in repr((r, r.stores, found, r.resolve("openai/x"), Secret(CANARY)))


def test_consent_is_written_into_the_person_s_file(tmp_path):
    """`%llm key allow NAME`: the row may go on at once, and after the next start; what was allowed before
    stays."""
    project = tmp_path / "repo" / "pyproject.toml"
    project.parent.mkdir()
    project.write_text(
        '[tool.nbllm.provider.acme]\nbase_url = "https://acme.example/v1"\nkey_env = "ACME_API_KEY"\n',
        "utf-8",
    )
    user = tmp_path / "providers.toml"
    toml_edit.set_entry(user, "allow", "https://acme.example", ["OTHER"])
    places = config.Places(user, project.parent)
    env = {"ACME_API_KEY": "k"}
    r = registry.load(env, places)
    assert key(r, "acme/x") is None
    assert ("ACME_API_KEY",) == r.allow(r.rows["acme"], user)
    assert "k" == key(r, "acme/x").reveal()
    assert "k" == key(registry.load(env, places), "acme/x").reveal()
    assert {"https://acme.example": ["ACME_API_KEY", "OTHER"]} == tomllib.loads(user.read_text())["allow"]


def test_the_notebook_s_folder_is_looked_at_first(tmp_path, monkeypatch):
    """Jupyter names the notebook; its folder may not be the working directory."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (tmp_path,) == keys.KeyStores.of(os.environ).folders()
    monkeypatch.setenv("JPY_SESSION_NAME", "sub/book.ipynb")
    assert (Path(tmp_path, "sub"), tmp_path) == keys.KeyStores.of(os.environ).folders()


@pytest.mark.kernel
def test_the_lines_of_keys_aliases_and_providers(tmp_path):
    """set, where, unset, allow, --save and what is wrong in a file, as a person types them; the key shows
    nowhere."""
    (tmp_path / "keyring.py").write_text(
        "kept = {}\nget_password = lambda s, u: kept.get((s, u))\n"
        "def set_password(s, u, k): kept[s, u] = k\ndef delete_password(s, u): del kept[s, u]\n",
        "utf-8",
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.nbllm.provider.acme]\nbase_url = "https://acme.example/v1"\nkey_env = '
        '"ACME_API_KEY"\n[tool.nbllm.provider.bad]\nurl = 1\n',
        "utf-8",
    )
    user = tmp_path / "config" / "nbllm" / "providers.toml"
    with Kernel(XDG_CONFIG_HOME=str(tmp_path / "config"), ACME_API_KEY=CANARY, PYTHONWARNINGS="ignore") as k:
        k.run(
            f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, {str(tmp_path)!r}); "
            f"nbllm.default_client().registry = nbllm.routing.registry.load()"
        )
        said = [k.run("%llm providers")]
        assert "pyproject.toml, line 5" in said[0].text
        parent = k.start("%llm key set openai")
        k.client.get_stdin_msg(timeout=60)
        k.client.input(CANARY)
        said += [
            k.collect(parent),
            k.run("%llm key where openai"),
            k.run("%llm key unset openai"),
            k.run("%llm key allow acme"),
            k.run("%llm key acme"),
            k.run("%llm alias fast gemini/flash --save"),
        ]
        for ran, words in zip(
            said[1:],
            (
                "kept in the keyring, for https://api.openai.com",
                "keyring: •••cdef",
                "in the keyring was removed",
                "may use ACME_API_KEY at https://acme.example",
                "•••cdef from ACME_API_KEY",
                "fast now means gemini/",
            ),
            strict=True,
        ):
            assert ran.ok, ran.error
            assert words in ran.text
        assert CANARY not in str([r.messages for r in said]) + user.read_text("utf-8")
    assert {
        "alias": {"fast": "gemini/flash"},
        "allow": {"https://acme.example": ["ACME_API_KEY"]},
    } == tomllib.loads(user.read_text("utf-8"))


_BEGUN = (
    "",
    "bearer",
    "Bearer_",
    "your-",
    "YOUR_",
    "my",
    "insert_",
    "Enter-key",
    "sk-",
    "sk-proj-",
    "export_",
)
_PIECES = st.sampled_from(
    ["key", "KEY", "-", "_", "api", "a", "Z", "0", "=", ".", "...", ":", ";", " ", "ſ", "K"]
)


@given(st.sampled_from(_BEGUN), st.lists(_PIECES, max_size=12).map("".join))
def test_the_short_way_takes_no_key_that_the_long_way_would_change(begun, rest):
    """Each call looks at a key; most hold nothing that is copied along, or stands for one."""
    text = begun + rest
    if keys._PLAIN.fullmatch(text):
        assert text == keys._DECORATION.sub("", text)
        assert not keys._PLACEHOLDER.search(text)
        assert text.isascii()
        assert text.isprintable()
