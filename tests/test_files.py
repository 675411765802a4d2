"""Files of a project may contain anything, and our files are written by several kernels at once: nothing
hangs or is lost."""

import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import tomllib

import pytest

from nbllm.client import catalog
from nbllm.core.errors import ConfigError
from nbllm.routing import files, keys, registry, toml_edit
from nbllm.routing.config import Places

POSIX = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and permissions are POSIX's")


def odd(kind, path):
    """Makes `path` something that no person wrote."""
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "tty":
        path.symlink_to("/dev/tty")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nothing":
        path.symlink_to("nowhere")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)  # takes no room on the disk
    elif kind == "large":
        path.write_text("A=1\n" * (files.MAX_SMALL // 4 + 1))
    else:
        path.write_bytes(b"\xff\xfe\0")


KINDS = ["device", "tty", "pipe", "link to a pipe", "folder", "loop", "nothing", "huge", "large", "bytes"]


@POSIX
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_small_files_are_read(tmp_path, kind):
    """Whatever lies there is told from a file at once, and not read."""
    path = tmp_path / "file"
    odd(kind, path)
    with pytest.raises((OSError, UnicodeDecodeError)):
        files.read_small_file(path)


@POSIX
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".env", "pyproject.toml", "auth.json", "extra.toml", "user.toml"])
def test_what_is_no_file_of_a_person_s_is_passed_over(tmp_path, kind, name):
    """By everything that reads one: the rest goes on, and a configuration file that cannot be read is
    told."""
    odd(kind, tmp_path / name)
    r = registry.load(
        {"OPENAI_API_KEY": "k"},
        Places(
            tmp_path / "user.toml" if name == "user.toml" else None,
            tmp_path,
            tmp_path / "extra.toml" if name == "extra.toml" else None,
        ),
    )
    r.stores = keys.KeyStores(r.env, lambda: (tmp_path,), auth=tmp_path / "auth.json")
    assert "OPENAI_API_KEY" == r.own_key(r.rows["openai"]).source
    assert r.own_key(r.rows["groq"]) is None
    assert all("cannot be read" in p.message and name in p.source for p in r.problems)
    assert bool(r.problems) or name in (".env", "auth.json") or not (tmp_path / name).is_file()


def test_a_link_to_a_file_is_a_file(tmp_path):
    """People keep one .env for several projects."""
    (tmp_path / "mine").write_text("\ufeffGROQ_API_KEY=k\n", "utf-8")
    (tmp_path / ".env").symlink_to("mine")
    assert {"GROQ_API_KEY": "k"} == keys.read_dotenv(tmp_path / ".env")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_file_may_be_as_windows_writes_it(tmp_path, encoding):
    """PowerShell's `>` writes UTF-16 with its mark; a comment in another encoding costs no key."""
    (tmp_path / ".env").write_bytes("# caf\u00e9\r\nGROQ_API_KEY=k\r\n".encode(encoding))
    assert {"GROQ_API_KEY": "k"} == keys.read_dotenv(tmp_path / ".env")


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 100_000 + " = 1",
        'a = { b = { "c"' + '."c"' * 100_000 + " = 1 } }",
        "[a" + ".a" * 100_000 + "]",
        "[['a'" + ".'a'" * 50_000 + "]]",
        "a = " + "[" * 100_000,
        "a = " + "{ a = " * 50_000,
        "a = " + "1" * 100_000,
        "a = 1" + "_1" * 100_000,
        "a = 1e" + "9" * 5_000,
        'a = "' + "\\u0041" * 50_000 + '"',
    ],
)
def test_a_project_s_file_cannot_hold_up_or_break_the_load(tmp_path, text):
    """Dotted names without end take tomllib minutes, deep nesting and huge numbers are errors of Python's:
    all are told, or harmless."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.nbllm]\n{text}\n")
    assert "openai" in registry.load({}, Places(start=tmp_path)).rows


@pytest.mark.parametrize(
    "text",
    [
        "A=x" + " " * 500_000 + "y",
        "A=x" + "\t" * 500_000 + "#y",
        "A='" + "x" * 500_000,
        "A" * 500_000,
        "A=\\" * 100_000,
        "A=x\u2003" + "\u2003" * 150_000 + "y",
    ],
)
def test_a_dotenv_file_cannot_hold_up(tmp_path, text):
    """python-dotenv takes the square of some lines."""
    (tmp_path / ".env").write_text(text, "utf-8")
    assert "B" not in keys.read_dotenv(tmp_path / ".env")


def test_a_dotenv_file_is_read_again_where_it_has_changed(tmp_path):
    """Once for all providers, since parsing a long one takes its time; what changes counts at once."""
    path, stores = tmp_path / ".env", keys.KeyStores({}, lambda: (tmp_path,))
    row = registry.load({}).rows["groq"]
    assert keys.find(row, stores) is None
    for text in ("GROQ_API_KEY=a\n", "GROQ_API_KEY=gsk-longer\n", "# none\n"):
        path.write_text(text, "utf-8")
        found = keys.find(row, stores)
        assert (found.reveal() if found else "") == text.partition("=")[2].strip()
        assert stores.dotenv(path) is stores.dotenv(path)
    path.unlink()
    assert keys.find(row, stores) is None
    assert "gsk-longer" not in repr(stores)


def test_names_with_dots_are_well(tmp_path):
    """As people write them: model names, addresses, prose."""
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.nbllm.alias]\n"a.b" = "openai/gpt-5.4-mini"\n[tool.x]\ny = "{"a. " * 500}"\nz.z.z.z = 1.5\n'
    )
    r = registry.load({}, Places(start=tmp_path))
    assert ([], "openai/gpt-5.4-mini") == (r.problems, r.aliases["a.b"])


# --- writing ---


@pytest.mark.slow
def test_four_kernels_that_write_at_once_lose_nothing(tmp_path):
    """160 aliases from 4 processes, while a fifth gives consents; nothing is left behind, and the file is the
    user's alone."""
    path = tmp_path / "config" / "providers.toml"
    code = """
        import sys
        from pathlib import Path
        from nbllm.routing.toml_edit import change_entry, set_entry
        path, who = Path(sys.argv[1]), sys.argv[2]
        sys.stdin.readline()
        for i in range(40):
            if who == "4":
                change_entry(path, "allow", "https://h", lambda before: sorted({*(before or ()), f"V{i}"}))
            else:
                set_entry(path, "alias", f"a{who}x{i}", "gemini/flash")
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path), str(n)], stdin=subprocess.PIPE, text=True
        )
        for n in range(5)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [0] * 5 == [child.wait(60) for child in children]
    for child in children:
        child.stdin.close()
    found = tomllib.loads(path.read_text("utf-8"))
    assert {f"a{n}x{i}" for n in range(4) for i in range(40)} == set(found["alias"])
    assert {f"V{i}" for i in range(40)} == set(found["allow"]["https://h"])
    assert [path] == list(path.parent.iterdir())
    if os.name == "posix":
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_threads_that_write_at_once_lose_nothing(tmp_path):
    """Nor raise: each has a temporary file of its own."""
    path, wrong = tmp_path / "providers.toml", []

    def work(who):
        try:
            for i in range(30):
                toml_edit.set_entry(path, "alias", f"t{who}x{i}", "gemini/flash")
        except (OSError, ConfigError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert [] == wrong
    assert 120 == len(tomllib.loads(path.read_text("utf-8"))["alias"])
    assert [path] == list(tmp_path.iterdir())


@POSIX
def test_a_file_keeps_its_permissions_and_its_link(tmp_path):
    """A new one is the user's alone; what the user has set stays."""
    real = tmp_path / "dotfiles" / "providers.toml"
    real.parent.mkdir()
    real.write_text("")
    real.chmod(0o640)
    link = tmp_path / "providers.toml"
    link.symlink_to(real)
    toml_edit.set_entry(link, "alias", "fast", "gemini/flash")
    assert link.is_symlink()
    assert 0o640 == stat.S_IMODE(real.stat().st_mode)
    assert [real] == list(real.parent.iterdir())
    files.write_atomic(tmp_path / "cache" / "models.json", "[]")
    assert 0o600 == stat.S_IMODE((tmp_path / "cache" / "models.json").stat().st_mode)


@pytest.mark.parametrize("kind", ["folder", "bytes", "inside a file"])
def test_a_file_that_cannot_be_written_is_told(tmp_path, kind):
    """In our words, with what to do; what stood there stands."""
    path = tmp_path / "f" / "providers.toml"
    if kind == "inside a file":
        path.parent.write_text("x")
    else:
        path.parent.mkdir()
        odd(kind, path)
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        toml_edit.set_entry(path, "alias", "fast", "gemini/flash")
    assert caught.value.hint


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    """As a full disk would: the temporary file is gone."""
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        files.write_atomic(path, "new \ud800")
    assert ("old", [path]) == (path.read_text(), list(tmp_path.iterdir()))


def test_a_cache_s_list_that_is_no_list_is_asked_again(tmp_path):
    """Deep nesting, other types, bytes."""
    for text in ("[" * 100_000, json.dumps([{"a": 1}]), "\0", "{}"):
        (tmp_path / "c.json").write_text(text)
        assert catalog._read_cached(tmp_path / "c.json") is None
