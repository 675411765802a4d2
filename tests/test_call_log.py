"""Calls on disk: no record is lost, doubled or unexpected, and a failing disk does not lose an answer."""

import json
import math
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from nbllm import Client, errors
from nbllm.notebook.calls import cost, log
from nbllm.notebook.completion import candidates
from nbllm.routing import registry
from nbllm.routing.config import Places
from nbllm.store.database import Database, on_network
from nbllm.store.history import _FORMAT, _INSERT, _TABLES, LedgerFile, ledger_file, merge_files, read_calls
from nbllm.store.ledger import Ledger

from .listeners import Listener
from .processes import comes_to

WHOLE = ("calls.sqlite", "calls.sqlite-wal", "calls.sqlite-shm")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and permissions of POSIX")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty home, for this process and those that it starts."""
    ledger_file().close()
    home = tmp_path / "home"
    monkeypatch.setenv("NBLLM_HOME", str(home))
    yield home
    ledger_file().close()


@pytest.fixture
def client():
    """A client that notes on disk."""
    made = Client(registry.load({}))
    yield made
    made.close()


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def files(place):
    return sorted(path.name for path in (place / "ledger").iterdir() if path.suffix == ".sqlite")


# --- kills ---

WRITER = """
from nbllm.store.history import ledger_file
own, n = ledger_file(), 0
while True:
    own.append([(1e9 + n, own.kernel, str(n), 1, "{}")])
    own.flush()
    print(own.kernel, n, flush=True)
    n += 1
"""
FOLDER = """
import sys
from pathlib import Path
from nbllm.store.history import merge_files, read_calls
print("begun", flush=True)
while True:
    merge_files(Path(sys.argv[1]))
    read_calls()
"""


@pytest.mark.slow
@POSIX
def test_a_kill_loses_and_doubles_nothing(place):
    """Writers and those that fold are killed at any moment: what was told to be written is there once."""
    folder, told = place / "ledger", {}
    for _ in range(2):
        writers = [python(WRITER) for _ in range(3)]
        for writer in writers:
            said = [writer.stdout.readline().split() for _ in range(40)]
            writer.send_signal(signal.SIGKILL)
            said += [line.split() for line in writer.stdout.read().splitlines()]
            told[said[0][0]] = max(int(words[1]) for words in said if len(words) == 2)
        folders = [python(FOLDER, folder) for _ in range(2)]
        for folding in folders:
            folding.stdout.readline()
            folding.send_signal(signal.SIGKILL)
        for process in (*writers, *folders):
            process.wait()
            process.stdout.close()
        assert_whole(read_calls(), told)
    merge_files(folder)
    assert set() == {path.name for path in folder.iterdir()} - {*WHOLE, "fold.lock"}
    assert_whole(read_calls(), told)


@pytest.mark.slow
@POSIX
def test_eight_kernels_write_at_once_and_four_are_killed(place):
    """The others go on as before; each row that was told to be written is there, and every file is sound."""
    writers, told = [python(WRITER) for _ in range(8)], {}
    for number in range(60):
        for writer in writers:
            if (line := writer.stdout.readline().split()) and len(line) == 2:
                told[line[0]] = int(line[1])
        if number in (10, 20, 30, 40):
            writers[number // 10].kill()
    for writer in writers:
        writer.kill()
        told |= {w[0]: int(w[1]) for line in writer.stdout if len(w := line.split()) == 2}
        writer.wait()
        writer.stdout.close()
    assert 8 == len(told)
    for path in (place / "ledger").glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as db:
            assert [("ok",)] == db.execute("pragma integrity_check").fetchall()
    assert_whole(read_calls(), told)
    merge_files(place / "ledger")
    assert_whole(read_calls(), told)


def assert_whole(found, told):
    rows, problems = found
    assert [] == problems
    for kernel, last in told.items():
        numbers = sorted(int(key[2]) for key in rows if key[1] == kernel)
        assert list(range(len(numbers))) == numbers
        assert last + 1 <= len(numbers) <= last + 2, "the last one may have been written, and not yet told"


@pytest.mark.slow
@POSIX
def test_a_living_kernel_s_file_is_left_to_it(place):
    """While it is read, and folded by others."""
    with python(WRITER) as writer:
        kernel, _ = writer.stdout.readline().split()
        merge_files(place / "ledger")
        assert [f"{kernel}.sqlite"] == files(place)
        assert kernel in {key[1] for key in read_calls()[0]}
        writer.kill()


@POSIX
def test_a_kernel_that_was_killed_before_it_wrote_is_tidied_away(place):
    """Whatever of its files there is."""
    ledger_file().append([(1.0, "other", "1", 1, "{}")])
    ledger_file().flush()
    for name in ("a.lock", "b.lock", "b.sqlite", "c.sqlite-shm", "d.sqlite", "d.sqlite-wal"):
        (place / "ledger" / name).touch()
    assert [] == read_calls()[1]
    ledger_file().close()
    assert set() == {path.name for path in (place / "ledger").iterdir()} - {*WHOLE, "fold.lock"}


@POSIX
@pytest.mark.parametrize("name", ["calls", "other"])
def test_a_file_whose_writer_was_killed_before_it_had_a_wal_is_read(place, name):
    """Until then its journal is for rolling back, which a connection that may only read refuses to do."""
    ledger_file().append([(1.0, "kernel", "1", 1, "{}")])
    ledger_file().flush()
    folder = place / "ledger"
    torn(folder / f"{name}.sqlite")
    assert ({(1.0, "kernel", "1", 1), (2.0, "torn", "1", 1)}, []) == (set(read_calls()[0]), read_calls()[1])
    ledger_file().close()
    assert ["calls.sqlite"] == files(place)
    assert ({(1.0, "kernel", "1", 1), (2.0, "torn", "1", 1)}, []) == (set(read_calls()[0]), read_calls()[1])


def torn(path):
    """Puts a file there as a kill in a transaction leaves it: one row, and half of many more."""
    whole = path.with_suffix(".whole")
    Database(whole, _TABLES, _FORMAT).close()
    with closing(sqlite3.connect(whole, isolation_level=None)) as db:
        db.execute("pragma journal_mode=delete")
        db.execute(_INSERT, (2.0, "torn", "1", 1, "{}"))
        db.execute("pragma cache_size=1")
        db.execute("begin immediate")
        db.executemany(_INSERT, ((3.0, "torn", str(n), 1, "{}" * 99) for n in range(999)))
        for part in ("", "-journal"):
            shutil.copy(f"{whole}{part}", f"{path}{part}")
        db.execute("rollback")
    whole.unlink()


# --- what is there ---


@pytest.mark.slow
def test_a_call_is_on_disk_when_its_process_ends(place):
    """Nobody closed or flushed anything; the next one reads it."""
    code = "import nbllm; nbllm.complete('hello', 'sim/openai')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    rows, problems = read_calls()
    assert [[], ["sim/openai"]] == [problems, [row["provider"] for row in rows.values()]]


@pytest.mark.slow
def test_a_call_that_the_end_cuts_off_is_noted(place):
    """It was sent, and cost something."""
    code = "import nbllm; s = nbllm.stream('hello', 'sim/openai@gap=30,tokens=9'); next(iter(s.text_stream))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert ["cancelled"] == [row["status"] for row in read_calls()[0].values()]


BEGUN = """
import sys, nbllm
from nbllm.store.history import ledger_file, read_calls
stream = nbllm.stream('a secret', 'sim/openai@gap=30,tokens=9', label='mine')
next(iter(stream.text_stream))
ledger_file().flush()
assert {} == read_calls()[0], "it goes on"
print(ledger_file().kernel, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@POSIX
def test_a_call_of_a_killed_kernel_is_interrupted(place):
    """It was on its way; others see nothing of it while its kernel lives, and once what it was afterwards,
    also where it is folded."""
    with subprocess.Popen(
        [sys.executable, "-c", BEGUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        kernel = process.stdout.readline().strip()
        assert ({}, []) == read_calls()
        process.kill()
    for _ in range(2):
        rows, problems = read_calls()
        assert [] == problems
        assert [kernel] == [key[1] for key in rows]
        (row,) = rows.values()
        assert ("interrupted", False) == (row["status"], row["ok"])
        assert ("sim/openai", "mine") == (row["provider"], row["label"])
        assert "secret" not in str(row)
        merge_files(place / "ledger")
    assert ["calls.sqlite"] == files(place)


@pytest.mark.slow
def test_a_call_that_ends_is_written_over_its_beginning(place, client):
    """One row, whenever the book was written."""
    stream = client.stream("hello", "sim/openai@gap=0.4,tokens=5")
    next(iter(stream))
    for _ in range(3):
        ledger_file().flush()
    assert {} == read_calls()[0]
    stream.response()
    client.ledger.flush()
    assert ["ok"] == [row["status"] for row in read_calls()[0].values()]
    assert ["ok"] == [row["status"] for row in client.ledger.history()[0]]


@pytest.mark.slow
def test_the_last_day_is_read_now_and_then(place, client):
    """Own calls are there at once, all of them once; older ones are not."""
    past(0, 3)
    for number in (1, 2, 3):
        client.complete("hello", "sim/openai")
        names = [row["name"] for row in client.ledger.last_day()]
        assert ["openai/mini", *["sim/openai"] * number] == names


@pytest.mark.slow
@POSIX
def test_only_the_user_may_read(place, client):
    """Every file and the folder, from the first moment; a folder that was open is closed."""
    (place / "ledger").mkdir(parents=True, mode=0o755)
    client.complete("hello", "sim/openai")
    client.ledger.flush()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (place / "ledger").iterdir()}
    assert ({0o600}, 0o700) == (modes, stat.S_IMODE((place / "ledger").stat().st_mode))


WORDS = ("prompt-canary", "system-canary", "stop-canary", "extra-canary", "answer-canary", "error-canary")


def asked(client, answer):
    with Listener((200, answer)) as server, suppress(errors.NbllmError):
        client.complete(
            "prompt-canary",
            "m",
            system="system-canary",
            stop="stop-canary",
            temperature=0.5,
            extra={"user": "extra-canary"},
            base_url=server.url,
            retries=0,
        )
    client.ledger.flush()


ANSWER = b'{"choices": [{"message": {"content": "answer-canary"}, "finish_reason": "stop"}], "model": "m"}'
REFUSED = b'{"error": {"message": "error-canary: prompt-canary is not allowed", "code": 400}}'


@pytest.mark.parametrize("answer", [ANSWER, REFUSED])
def test_numbers_alone_are_on_disk(place, client, answer):
    """No text of the user's, the model's or an error's; in memory the error stays as it is."""
    asked(client, answer)
    data = b"".join(path.read_bytes() for path in (place / "ledger").iterdir())
    assert [] == [word for word in WORDS if word.encode() in data]
    (row,) = read_calls()[0].values()
    assert {"temperature": 0.5} == json.loads(row["params"])
    assert row["bytes_in"] == len(answer)


def test_texts_where_they_are_asked_for(place, client):
    """In a column each."""
    client.ledger.mode = "texts"
    asked(client, ANSWER)
    (row,) = read_calls()[0].values()
    said = [
        {"role": "system", "text": "system-canary"},
        {"role": "user", "text": "prompt-canary"},
    ]
    assert [said, "answer-canary"] == [json.loads(row["prompt"]), row["answer"]]
    df = log(SimpleNamespace(client=client), "today")
    assert ["answer-canary"] == list(df["answer"])


@pytest.mark.slow
def test_memory_alone(place, client):
    """No file is made."""
    client.ledger.mode = "memory"
    client.complete("hello", "sim/openai")
    assert 1 == len(client.ledger.history()[0])
    assert not place.exists()


FORK = """
import os, sys, nbllm
ask = lambda: nbllm.complete("hello", "m", base_url=sys.argv[1])
ask()
child = os.fork()
ask()
if child:
    os.waitpid(child, 0)
print(len(nbllm.default_client().ledger.history()[0]))
sys.exit()
"""


@pytest.mark.slow
@POSIX
def test_a_fork_writes_a_file_of_its_own(place):
    """What the parent has written or not is the parent's to write; the child ends its own way."""
    with Listener((200, ANSWER)) as server:
        ran = subprocess.run(
            [sys.executable, "-c", FORK, server.url], capture_output=True, text=True, timeout=300, check=True
        )
    assert "3" == ran.stdout.split()[-1], ran.stderr
    assert 3 == len(read_calls()[0])


# --- what a disk may do ---


def spoil(place, how):
    """Makes the place one where nothing can be written."""
    if how == "a file":
        place.write_text("x")
    elif how == "a link":
        place.mkdir()
        (place / "ledger").symlink_to(place.parent)
    else:
        place.mkdir()
        (place / "ledger").write_text("x")


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("how", ["a file", "a link", "no folder"])
def test_no_disk_costs_an_answer(place, client, how):
    """The calls are in memory, and their user is told once."""
    spoil(place, how)
    answers = []
    for _ in range(3):
        answers.append(client.complete("hello", "sim/openai"))
        client.ledger.flush()
    told = [[n.text for n in a.notices if n.kind == "warning"] for a in answers]
    assert [0, 1, 0] == list(map(len, told))
    assert "in memory only" in told[1][0]
    rows, problems = client.ledger.history()
    assert 3 == len(rows)
    assert any("in memory only" in problem for problem in problems)


FULL = """
import resource, signal, nbllm
client = nbllm.default_client()
for n in range(30):
    if n == 10:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    client.complete("hello", "sim/openai")
    client.ledger.flush()
rows, problems = client.ledger.history()
print(len(rows), len(problems))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a file's size")
def test_a_disk_that_gets_full_costs_no_answer(place):
    """What was written stays, the rest is in memory."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL], capture_output=True, text=True, timeout=300, check=False
    )
    assert "30 1" == ran.stdout.strip(), ran.stderr
    assert 10 <= len(read_calls()[0]) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calls.sqlite", "other.sqlite"])
@pytest.mark.parametrize("what", ["garbage", "newer"])
def test_a_file_that_cannot_be_read_costs_only_itself(place, client, name, what):
    """It is named, stays as it is, and everything else is read."""
    client.complete("hello", "sim/openai")
    client.ledger.flush()
    path = place / "ledger" / name
    if what == "newer":
        with closing(sqlite3.connect(path)) as db:
            db.executescript(
                "create table calls (other); insert into calls values (1); pragma user_version=99"
            )
    else:
        path.write_bytes(b"garbage " * 1000)
    before = path.read_bytes()
    for _ in range(2):
        rows, (problem,) = read_calls()
        assert 1 == len(rows)
        assert name in problem
        assert ("newer nbllm" in problem) == (what == "newer")
        ledger_file().close()
    assert before == path.read_bytes()


def test_a_newer_file_is_not_written(tmp_path):
    """Its meaning is not known; the message says what to do."""
    Database(tmp_path / "x", ("create table t (a)",), 3).close()
    with pytest.raises(errors.ConfigError, match="newer nbllm") as caught:
        Database(tmp_path / "x", ("create table t (a)",), 2)
    assert "Update nbllm" in caught.value.hint


MOUNTS = r"""
22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 0:41 / /home/me/local rw - ext4 /dev/vdb rw
32 22 0:42 / /mnt/with\040space rw - fuse.sshfs me@host: rw
33 22 0:43 / /mnt/9 rw master:1 propagate_from:2 - 9p share rw
odd line
"""


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/home/me/x", True),
        ("/home", True),
        ("/homes/x", False),
        ("/home/me/local/x", False),
        ("/mnt/with space/x", True),
        ("/mnt/9", True),
        ("/x", False),
    ],
)
@POSIX
def test_a_network_is_known_by_its_mount(path, remote):
    """By the type of the nearest mount above."""
    assert remote == on_network(path, MOUNTS)


# --- asking ---


def day(n):
    return (datetime.now() - timedelta(days=n)).astimezone()


def past(*days, **about):
    """Calls of another kernel, one a day that many days ago; odd ones have no price."""
    other = LedgerFile()
    for n in days:
        row = {
            "t_wall": day(n).isoformat(),
            "run_id": "other",
            "request_id": f"1.{n}",
            "attempt": 1,
            "provider": "openai",
            "name": "openai/mini",
            "ok": True,
            "in_tokens": 10,
            "cost_usd": None if n % 2 else 0.5,
            **about,
        }
        other.append([(day(n).timestamp(), "other", f"1.{n}", 1, json.dumps(row))])
    other.close()
    assert not other.problem


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", []),
        ("today", [0]),
        ("yesterday", [1]),
        ("7d", [5, 2, 1, 0]),
        ("30h", [1, 0]),
        ("2w", [10, 5, 2, 1, 0]),
        ("ever", [400, 10, 5, 2, 1, 0]),
        ("since=3d", [2, 1, 0]),
        ("since=yesterday", [1, 0]),
        ("since=DAY", [5, 2, 1, 0]),
        ("ever n=2", [1, 0]),
    ],
)
def test_the_log_knows_other_days(place, client, words, found):
    """Of all kernels, in the order of their calls; without a word, of this one."""
    past(0, 1, 2, 5, 10, 400)
    df = log(SimpleNamespace(client=client), words.replace("DAY", str(day(6).date())))
    assert [f"1.{n}" for n in found] == list(df.get("request_id", ()))


@pytest.mark.slow
def test_what_days_came_to(place, client):
    """A line a day and model, and all; a price that is not known is never 0."""
    past(0, 1, 2)
    client.complete("hello", "sim/openai")
    df = cost(SimpleNamespace(client=client), "7d")
    today, yesterday = (str(day(n).date()) for n in (0, 1))
    assert (1, 1, True) == tuple(
        f(df.loc[(yesterday, "openai/mini"), n])
        for f, n in ((int, "calls"), (int, "unpriced"), (math.isnan, "cost_usd"))
    )
    assert [0.5, 1.0] == [df.loc[key, "cost_usd"] for key in ((today, "openai/mini"), ("all", "all"))]
    assert [4, 2] == [int(df.loc[("all", "all"), n]) for n in ("calls", "unpriced")]
    assert "sim/openai" == df.loc[(today, "sim/openai"), "provider"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("by=provider", ["provider"]),
        ("7d by=day", ["day"]),
        ("by=kernel,model", ["kernel", "model"]),
        ("7d by=provider,day", ["provider", "day"]),
        ("7d by=notebook", ["notebook"]),
    ],
)
def test_lines_of_costs_are_chosen(place, client, words, names):
    """Each line is a part of the last one, which is all."""
    past(0, 1, 2)
    client.complete("hello", "sim/openai")
    df = cost(SimpleNamespace(client=client), words)
    assert names == list(df.index.names)
    assert int(df["calls"].iloc[-1]) == int(df["calls"].iloc[:-1].sum()) > 0


def test_one_model_is_one_line_whatever_it_was_called(place, client):
    """By the name that was sent; a month's calls together."""
    for n, name in enumerate(("openai/mini", "openai/gpt-5-mini", "gpt-5-mini")):
        past(2 * n, name=name, model=name, request_model="gpt-5-mini")
    past(8, name="cli/claude", model="cli/claude", request_model="", provider="cli/claude")
    df = cost(SimpleNamespace(client=client), "ever by=model")
    assert {"openai/gpt-5-mini": 3, "cli/claude": 1, "all": 4} == df["calls"].to_dict()
    months = {f"{day(n):%Y-%m}" for n in (0, 2, 4, 8)}
    assert {*months, "all"} == set(cost(SimpleNamespace(client=client), "ever by=month").index)


@pytest.mark.slow
def test_who_answers_for_another_has_the_costs(place, client):
    """Each attempt is its own model's, in the log too."""
    client.complete("hello", "sim/openai/bad@status=500|sim/anthropic/good", retries=0)
    (first, last) = client.ledger.rows()
    assert ("bad@status=500", "good") == (first["request_model"], last["request_model"])
    df = cost(SimpleNamespace(client=client), "")
    assert ["sim/openai/bad@status=500", "sim/anthropic/good", "all"] == list(df.index)
    assert [1, 0, 0] == list(df["failed"])
    assert [1, 1, 1] == list(df["calls"])
    shown = log(SimpleNamespace(client=client), "")._repr_html_()
    assert "sim/anthropic/good" in shown


@pytest.mark.slow
def test_costs_by_notebook(place, client):
    """Its folder and name, in memory and on disk; calls of none stand apart."""
    past(0)
    client.ledger.notebook = "work/a.ipynb"
    client.complete("hello", "sim/openai")
    df = cost(SimpleNamespace(client=client), "7d by=notebook")
    assert {"work/a.ipynb": 1, "-": 1, "all": 2} == df["calls"].to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("days", "words", "bars", "title"),
    [
        ((0, 1, 2, 4), "7d plot", 3, "cost by day; 1 call has no known price"),
        ((0, 2), "ever by=provider plot=true", 1, "cost by provider"),
        ((1,), "7d plot", 0, None),
    ],
)
def test_costs_are_drawn(client, days, words, bars, title, place):  # noqa: PLR0917 - a table
    """A bar a day; what has no price is told, not drawn as 0."""
    past(*days)
    figure = cost(SimpleNamespace(client=client), words)
    (axes,) = figure.axes
    assert bars == len(axes.patches)
    assert title is None or axes.get_title(loc="left").endswith(title)
    assert pytest.approx(0.5 * len([n for n in days if n % 2 == 0])) == sum(
        p.get_height() for p in axes.patches
    )
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (log, "yesterdy"),
        (log, "n=x"),
        (log, "n=²"),
        (log, "today yesterday"),
        (log, "since=never"),
        (log, "since=" + "9" * 90),
        (cost, "n=2"),
        (cost, "all"),
        (cost, "by="),
        (cost, "7d by=colour"),
        (cost, "by=day,day"),
        (cost, "9999999d"),
    ],
)
def test_a_wrong_word_is_refused(client, command, words):
    """With those that there are."""
    with pytest.raises(errors.ConfigError) as caught:
        command(SimpleNamespace(client=client), words)
    assert caught.value.hint


def test_completion_offers_the_words():
    """After the subcommand."""
    for text, found in (
        ("%llm log y", ["yesterday"]),
        ("%llm cost 7d s", ["since="]),
        ("%llm log n", ["n="]),
    ):
        assert found == [word for word, _ in candidates(None, text, len(text), 0)[1]]


# --- the setting ---


def load(tmp_path, text, *, project=False):
    path = tmp_path / ("pyproject.toml" if project else "providers.toml")
    path.write_text(text)
    (tmp_path / ".git").mkdir()
    return registry.load({}, Places(start=tmp_path) if project else Places(user=path))


@pytest.mark.parametrize("kept", ["disk", "memory", "texts"])
def test_the_configuration_says_where(tmp_path, kept):
    """The user's own."""
    r = load(tmp_path, f'ledger = "{kept}"\n')
    assert ([], kept) == (r.problems, Client(r).ledger.mode)


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ('ledger = "paper"\n', False),
        ("ledger = 3\n", False),
        ("[ledger]\n", False),
        ('[tool.nbllm]\nledger = "texts"\n', True),
    ],
)
def test_a_wrong_word_and_a_project_change_nothing(tmp_path, text, project):
    """They are problems with their line; texts are kept where the user says so."""
    r = load(tmp_path, text, project=project)
    (problem,) = r.problems
    assert ("disk", 1 + project) == (r.ledger, problem.line)
    with pytest.raises(errors.ConfigError, match="paper"):
        Ledger("paper")


@pytest.mark.slow
def test_a_setting_of_the_notebook_changes_it(place):
    """%config NbLLM.ledger, from then on; None as the configuration says."""
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as I; shell = I.instance()\n"
        "import nbllm\n"
        "shell.run_line_magic('load_ext', 'nbllm')\n"
        "kept = lambda: nbllm.default_client().ledger.mode\n"
        "for value in ('memory', 'texts', None):\n"
        "    shell.run_line_magic('config', f'NbLLM.ledger = {value!r}'); print(kept())\n"
        "shell.run_line_magic('config', 'NbLLM.ledger = \"paper\"'); print(kept())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert ["memory", "texts", "disk", "disk"] == ran.stdout.split()[:3] + ran.stdout.split()[-1:], ran.stderr


@pytest.mark.slow
def test_who_ends_while_others_are_measured_is_measured_too():
    """None waits for the next call: it would be held until then, and never be put down after the last."""
    found, made = LedgerFile(), []

    def measure():
        made.append(1)
        if len(made) == 1:  # it has looked already at what ends now
            found.schedule(measure)

    found.schedule(measure)
    assert comes_to(2, lambda: made)
    found.close()


class _Noting(Ledger):
    """Keeps what it was given last."""

    def record_call(self, stream, call):
        self.given = stream, call
        return super().record_call(stream, call)


class _Following:
    """An ended call. While it is measured the next one ends, as under a steady load, until `stop` is set."""

    on_end = add_to_row = None

    def __init__(self, ledger, stream, call, stop):
        self._next, self._stream = (lambda: _Following(ledger, stream, call, stop)), stream
        self._stop = stop
        ledger.record_call(self, call)

    def __getattr__(self, name):
        if name == "attempts" and self._next is not None and not self._stop.is_set():
            following, self._next = self._next, None
            following()
        return getattr(self._stream, name)


@pytest.mark.slow
def test_a_steady_load_comes_to_the_disk(place, client):
    """Calls that end while others are measured wait for the next turn, so that what is measured is written
    and let go: a map of 100,000 rows held every one of them until its end, and a kill lost them all."""
    client.ledger = ledger = _Noting("disk")
    client.complete("hello", "sim/openai")
    ledger.flush()
    stop = threading.Event()
    _Following(ledger, *ledger.given, stop)
    ledger.flush()
    written = [row["status"] for row in read_calls()[0].values()].count("ok")
    stop.set()
    ledger.flush()  # no call ends after this test
    assert 2 <= written < 500
