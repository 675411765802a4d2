"""Conversations stored on disk (keep_chats = true): they are restored after a kernel's end, and lose no turn
to another kernel or a bad disk."""

import os
import signal
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core.errors import ConfigError
from nbllm.core.events import Response
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, ToolCall
from nbllm.notebook.chats import Chats, ChatStorage, Origin, Turn
from nbllm.routing import registry
from nbllm.routing.config import Places
from nbllm.store.chats import ChatStore

from .examples import examples
from .kernels import Kernel

KEY = "sk-canary-0123456789abcdef"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def turn(text, answer="ok", cell="", execution="1"):
    said = Response(parts=(Text(answer),), finish_reason="stop", model="m")
    return Turn(Origin(cell, execution), Message("user", text), said)


@pytest.fixture
def shelf(tmp_path):
    """shelf() -> Chats of a kernel that has just started; what it tells is in shelf.told."""

    def make(place="/n.ipynb", secrets=(), folder=tmp_path):
        return Chats(lambda: ChatStorage(ChatStore(folder), place, secrets, make.told.append))

    make.told = []
    return make


def texts(chats, name="eda"):
    return [t.question.text for t in chats.open(name).turns]


def test_a_conversation_comes_back_as_it_was(shelf):
    """Pictures, tools, reasoning, pins, cells: a cell that is run again replaces its own turn, also later."""
    call = ToolCall("1", "f", {"x": 1})
    rich = Turn(
        Origin("a", "1"),
        Message("user", [Text("see"), Image(PNG), Document(b"%PDF", name="d.pdf")]),
        Response(parts=(Reasoning("hm", "sig"), call, Text("it is 2 🙂"), Image(PNG)), model="m"),
    )
    first = shelf()
    first.open("eda").append(rich)
    first.open("eda").append(turn("two", cell="b"))
    first.pin("eda", "1")
    second = shelf()
    assert first.open("eda").turns == second.open("eda").turns
    assert second.open("eda").turns[0].question.pinned
    second.open("eda").append(turn("two again", cell="b", execution="7"))
    assert ["see", "two again"] == texts(shelf())


def test_what_changes_a_conversation_is_kept_too(shelf):
    """Undo, replace, fork, forget; turns before the middle keep their order."""
    first = shelf()
    chat = first.open("eda")
    for n, cell in enumerate("abcd"):
        chat.append(turn(f"{n}", cell=cell))
    chat.append(turn("1 anew", cell="b", execution="2"))
    assert ["0", "1 anew", "2", "3"] == texts(shelf())
    first.undo("eda")
    chat.replace(chat.turns[0], turn("zero"))
    assert ["zero", "1 anew", "2"] == texts(shelf())
    first.fork("eda", "other")
    first.undo("other")
    assert (["zero", "1 anew", "2"], ["zero", "1 anew"]) == (texts(shelf()), texts(shelf(), "other"))
    assert {"eda", "other"} == {c.name for c in shelf()}
    assert 3 == shelf().clear("eda")
    assert [] == texts(shelf())
    assert ["zero", "1 anew"] == texts(shelf(), "other")


def test_notebooks_have_their_own(shelf):
    shelf("/a.ipynb").open("eda").append(turn("in a"))
    shelf("/b_%.ipynb").open("eda").append(turn("in b"))
    assert (["in a"], ["in b"]) == (texts(shelf("/a.ipynb")), texts(shelf("/b_%.ipynb")))
    assert [] == list(shelf("/b__.ipynb"))


@pytest.mark.slow
def test_kernels_at_once_lose_nothing(shelf):
    """Each adds to what it knows; whoever comes later has all turns."""
    kernels = [shelf() for _ in range(6)]
    for kernel in kernels:
        kernel.open("eda")

    def writes(n):
        for k in range(5):
            kernels[n % 6].open("eda").append(turn(f"{n}.{k}"))

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(writes, range(12)))
    kernels[0].undo("eda")
    assert 59 == len(texts(shelf()))


def test_nothing_is_kept_unasked(tmp_path):
    chats = Chats()
    chats.open("eda").append(turn("secret"))
    assert [] == list(tmp_path.rglob("*"))
    assert ChatStore(tmp_path).list_chats() == []
    assert 0 == ChatStore(tmp_path).delete()


def test_no_key_and_no_other_eyes(shelf, tmp_path):
    """A key in a prompt or answer is masked; the file is its user's alone; what is forgotten is gone from
    it."""
    chats = shelf(secrets=(KEY,))
    chats.open("eda").append(turn(f"my key is {KEY}", f"{KEY} it is"))
    path = ChatStore(tmp_path).path
    assert KEY.encode() not in path.read_bytes()
    assert ["my key is •••"] == texts(shelf())
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    chats.open("eda").append(turn("a word that was said"))
    assert b"a word that was said" in path.read_bytes()
    shelf().clear("eda")
    assert b"a word that was said" not in path.read_bytes()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '{"nbllm": 99}', '{"nbllm": 1}', "[" * 100_000, '{"nbllm": 1, "asked": {}}']
)
def test_a_turn_that_cannot_be_read_costs_no_other(text, shelf, tmp_path):
    """It is told, and stays in the file."""
    shelf().open("eda").append(turn("one"))
    shelf().open("eda").append(turn("two"))
    with sqlite3.connect(ChatStore(tmp_path).path) as db:
        db.execute("insert into turns values ('/n.ipynb', 'eda', 'x', 1, 0, ?)", (text,))
    chats = shelf()
    assert ["one", "two"] == texts(chats)
    assert "1 of the 3 turns of eda cannot be read" in shelf.told[-1]
    chats.open("eda").append(turn("three"))
    with sqlite3.connect(ChatStore(tmp_path).path) as db:
        assert 4 == db.execute("select count(*) from turns").fetchone()[0]


@pytest.mark.parametrize("damage", ["bytes", "folder", "newer"])
def test_a_file_that_cannot_be_used_costs_no_turn(damage, shelf, tmp_path):
    """It is told, once; the conversation goes on in this kernel."""
    path = ChatStore(tmp_path).path
    shelf().open("eda").append(turn("before"))
    if damage == "newer":
        with sqlite3.connect(path) as db:
            db.execute("pragma user_version = 99")
    else:
        path.unlink()
        path.write_bytes(b"no database" * 200) if damage == "bytes" else path.mkdir()
    chats = shelf()
    chats.open("eda").append(turn("one"))
    chats.open("eda").append(turn("two"))
    assert ["one", "two"] == texts(chats)
    assert 2 >= len(shelf.told) >= 1
    assert str(path) in shelf.told[0]


@examples(60)
@given(st.lists(st.tuples(st.sampled_from("audpr"), st.integers(0, 3), st.booleans()), max_size=12))
def test_what_is_kept_is_what_there_is(tmp_path_factory, work):
    """After any work on it."""
    folder = tmp_path_factory.mktemp("kept")
    shelf = ChatStorage(ChatStore(folder), "/n.ipynb")
    chats = Chats(lambda: shelf)
    for n, (what, where, flag) in enumerate(work):
        chat = chats.open("eda")
        if what == "a":
            chat.append(turn(str(n), cell=f"c{where}", execution=str(n if flag else 0)))
        elif chat.turns and what == "u":
            chats.undo("eda")
        elif chat.turns and what == "p":
            chats.pin("eda", pinned=flag)
        elif chat.turns and what == "r":
            old = chat.turns[where % len(chat.turns)]
            chat.replace(old, replace(old, question=Message("user", f"r{n}")))
        elif what == "d" and flag and chat.turns:
            chats.clear("eda")
    assert chats.open("eda").turns == Chats(lambda: shelf).open("eda").turns


def test_only_the_user_says_so(tmp_path):
    """A project's file does not, and another value is a problem."""
    home, repo = tmp_path / "home" / "providers.toml", tmp_path / "repo"
    home.parent.mkdir()
    repo.mkdir()
    (repo / "pyproject.toml").write_text("[tool.nbllm]\nkeep_chats = true\n", "utf-8")
    found = registry.load({}, Places(home, repo, None))
    assert not found.keep_chats
    assert "a project cannot set 'keep_chats'" in str(found.problems)
    home.write_text('keep_chats = "yes"\n', "utf-8")
    assert "'keep_chats' is true or false" in str(registry.load({}, Places(home, None, None)).problems)
    home.write_text("keep_chats = true\n", "utf-8")
    found = registry.load({}, Places(home, None, None))
    assert found.keep_chats
    assert [] == found.problems


@pytest.fixture
def env(tmp_path):
    """The variables of kernels of one notebook, which keep their conversations."""
    config = tmp_path / "config" / "nbllm" / "providers.toml"
    config.parent.mkdir(parents=True)
    config.write_text("keep_chats = true\n", "utf-8")
    return {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "NBLLM_HOME": str(tmp_path / "state"),
        "JPY_SESSION_NAME": "/n.ipynb",
    }


@pytest.mark.kernel
def test_it_survives_a_kernel(tmp_path, env):
    """A cell with chat= goes on where another kernel was; the list and forgetting."""
    with Kernel(**env) as kernel:
        assert kernel.run("%%llm sim/openai chat=eda\nRemember the number 4711.").ok
    with Kernel(**env) as kernel:
        assert "eda" in kernel.run("%llm chat").text
        assert "4711" in kernel.run("%%llm sim/openai chat=eda dry_run=true\nWhich?").text
        assert kernel.run("%%llm sim/openai chat=eda\nWhich?").ok
        assert "n.ipynb" in kernel.run("%llm chat list --all").text
    with Kernel(**{**env, "JPY_SESSION_NAME": "/other.ipynb"}) as kernel:
        assert "4711" not in kernel.run("%%llm sim/openai chat=eda dry_run=true\nWhich?").text
        assert "Conversation eda was deleted" in kernel.run("%llm chat forget eda").text
        assert "2 turns of other notebooks" in kernel.run("%llm chat forget --all").text
        assert "4711" not in kernel.run("%llm chat list --all").text
    assert b"4711" not in (tmp_path / "state" / "chats" / "chats.sqlite").read_bytes()


PRICE = '''
def price(article: str) -> float:
    """The list price of an article."""
    return 4.5
def slow(article: str) -> str:
    """Waits."""
    import time
    print("slow has begun")
    while True: time.sleep(0.01)
'''


@pytest.mark.kernel
def test_tools_survive_a_kernel(env):
    """Calls, results and a call that was stopped, though the kernel was killed; the next turn goes on, with
    and without the tools, with another provider too."""
    model = "sim/openai/m@ttft=0,gap=0"
    with Kernel(**env) as kernel:
        kernel.run(PRICE)
        ran = kernel.run(f"%%llm {model} chat=eda tools=price approve=auto\nWhat does A-17 cost?", cell="a")
        assert ran.ok, ran.error
        started = kernel.start(f"%%llm {model} chat=eda tools=slow approve=auto\nWait.", cell="b")
        kernel.collect(started, until=lambda m: "slow has begun" in str(m["content"]))
        kernel.interrupt()
        kernel.collect(started)
        os.kill(kernel.value("__import__('os').getpid()"), signal.SIGKILL)
    with Kernel(**env) as kernel:
        for options, other in (
            ("", model),
            ("", "sim/claude/m@ttft=0,gap=0"),
            ("tools=price approve=auto", model),
        ):
            if options:
                kernel.run(PRICE)
            ran = kernel.run(f"%%llm {other} chat=eda {options}\nAnd in one word?", cell="c")
            assert ran.ok, ran.error
            messages = kernel.value("[[m.role, str(m)] for m in _llm.request.messages]")
            roles = [role for role, _ in messages]
            assert ["user", "assistant", "tool", "assistant", "user", "assistant", "tool"] == roles[:7]
            assert "4.5" in messages[2][1]
            assert "stopped by the user while it ran" in messages[6][1]


def test_a_conversation_takes_its_size_on_disk(shelf, tmp_path):
    """Not that of every question with all that went before it."""
    chat, messages = shelf().open("eda"), []
    for n in range(40):
        new = turn("x" * 1_000 + str(n))
        messages.append(new.question)
        said = replace(new.response, request=Request("m", tuple(messages)), raw={"all": "y" * 10_000})
        chat.append(replace(new, response=said))
    (kept,) = ChatStore(tmp_path).list_chats()
    assert (40, True) == (kept.turns, kept.bytes < 40 * 2_500)


def test_a_name_that_is_not_there(shelf):
    shelf().open("eda").append(turn("x"))
    with pytest.raises(ConfigError, match="No conversation") as caught:
        shelf().get("ead")
    assert "eda" in caught.value.hint
    assert "x" == shelf().get("eda").turns[0].question.text
