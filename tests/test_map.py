"""nbllm.map: what is sent for each row, what is returned, and that nothing is lost."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from urllib.parse import quote

import pandas as pd
import pytest

import nbllm
from nbllm import simulator
from nbllm.core.errors import AuthenticationError, ConfigError
from nbllm.core.template import RowTemplate
from nbllm.rows.estimate import Estimate
from nbllm.store import runs as files
from nbllm.store.budgets import Budget

from .listeners import Listener
from .processes import comes_to

SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"type": "string"},
        "stars": {"type": "integer"},
        "sure": {"type": ["number", "null"]},
        "spam": {"type": "boolean"},
        "topics": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["mood", "stars", "sure", "spam", "topics"],
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs are kept in the test's own directory."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def server():
    with simulator.serve(ttft=0.0, gap=0.0, echo=True) as server:
        yield server


def asked(server):
    return Counter(record.prompt for record in server.records)


def texts(n, **more):
    return pd.DataFrame({"text": [f"row {i}" for i in range(n)], **more})


def mapped(server, df, template="{text}", model="m", **options):
    return nbllm.map(df, template, model=model, base_url=server.base_url("openai_chat"), **options)


@pytest.mark.slow
def test_index_order_and_columns_are_kept(server):
    """The frame given is not changed; the answers stand beside the rows that they belong to."""
    df = texts(100, other=range(100)).sample(frac=1, random_state=3)
    df.index = [i // 2 for i in range(100)]  # not even unique
    before = df.copy()
    out = mapped(server, df, "Say: {text}")
    pd.testing.assert_frame_equal(before, df)
    assert ["text", "other", "answer", "llm_status", "llm_error", "llm_cost"] == list(out.columns)
    assert list(df.index) == list(out.index)
    assert [f"Say: {t}" for t in df["text"]] == [a.strip() for a in out["answer"]]
    assert {"ok"} == set(out["llm_status"])


def test_equal_rows_are_asked_once(server):
    """Unless that is not wanted; each has its answer."""
    df = pd.DataFrame({"text": ["a", "b", "a", "a"]})
    assert ["a", "b", "a", "a"] == [a.strip() for a in mapped(server, df)["answer"]]
    assert {"a": 1, "b": 1} == asked(server)
    mapped(server, df, dedupe=False)
    assert {"a": 4, "b": 2} == asked(server)


def test_only_what_changed_is_asked_again(server):
    """Of a run with a name: new rows and changed rows; other options are other questions."""
    df = texts(5)
    mapped(server, df, run="r")
    df.loc[2, "text"] = "new"
    out = mapped(server, pd.concat([df, texts(6).tail(1)]), run="r")
    assert {"ok"} == set(out["llm_status"])
    assert {**{f"row {i}": 1 for i in range(6)}, "new": 1} == asked(server)
    mapped(server, df, run="r", temperature=0.5)
    assert 2 == asked(server)["new"]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("No column.", "uses no column"),
        ("{{text}} and { text }", "uses no column"),
        ("Say\n  {txt}", "Line 2, column 3 of the prompt: the table has no column 'txt'"),
        ("{twice}", "several columns called twice"),
        ("{zebra}", "no column 'zebra'"),
        (7, "A template is text"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(server, template, told):
    """Before anything is sent."""
    df = pd.DataFrame([["a", 1, 2]], columns=["text", "twice", "twice"])
    with pytest.raises(ConfigError, match=told):
        mapped(server, df, template)
    assert [] == list(server.records)


class Picture:
    """Shows as one."""

    def _repr_png_(self):
        return b"\x89PNG\r\n\x1a\n" + bytes(64)

    def __repr__(self):
        return "<a picture>"


class Mute:
    """Has no text."""

    def __str__(self):
        raise RuntimeError("none")


@pytest.mark.parametrize(
    ("template", "value", "told"),
    [
        ("Say {text:.2f}", "word", "{text:.2f} does not accept 'word'"),
        ("Say {text:%Y}", 7.5, "{text:%Y} does not accept 7.5"),
        ("Say {text.year}", "word", "no attribute 'year'"),
        ("Say {text[0]}", [], "list index out of range"),
        ("Say {text}", Mute(), "failed to become text"),
        ("Say {text}", Picture(), "{text} does not accept <a picture>"),
        ("Say {text.strip}", " x ", "{text.strip} does not accept ' x '"),
    ],
)
def test_a_value_that_does_not_fit_its_place_is_told_with_its_row(server, template, value, told):
    """Before anything is sent, and never by sending braces."""
    good = {
        "Say {text:.2f}": 1.5,
        "Say {text.strip}": type("Held", (), {"strip": "x"})(),
        "Say {text:%Y}": pd.Timestamp("2024-01-01"),
        "Say {text[0]}": ["x"],
    }
    first = good.get(template, pd.Timestamp("2024-01-01"))
    with pytest.raises(ConfigError) as caught:
        mapped(server, pd.DataFrame({"text": pd.Series([first, value], dtype=object)}), template)
    assert caught.value.message.startswith("Row 2: Line 1, column 5 of the prompt: ")
    assert told in caught.value.message
    assert "fill=" not in caught.value.hint
    assert [] == list(server.records)


def test_a_wrong_name_is_told_the_nearest():
    with pytest.raises(ConfigError) as caught:
        nbllm.map(texts(1), "{txt}", model="sim/openai")
    assert "Did you mean {text}?" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schema": {"type": "strange"}}, "schema is not valid"),
        ({"schema": 7}, "Not a schema"),
        ({"tools": [len]}, "tools= cannot be used"),
        ({"compact": "auto"}, "compact= cannot be used"),
        ({"temprature": 1}, "Did you mean temperature"),
        ({"into": "text"}, "would replace the column text"),
        ({"into": "llm_cost"}, "would replace the column llm_cost"),
        ({"into": 5}, "into= is the name of a column, not 5"),
        ({"into": ""}, "into= is the name of a column"),
        ({"run": ""}, "cannot be called ''"),
        ({"width": True}, "width cannot be True"),
        ({"width": 0}, "width cannot be 0"),
        ({"confirm": "no"}, "confirm cannot be"),
        ({"errors": "drop"}, "errors cannot be"),
        ({"run": "../up"}, "cannot be called"),
        ({"budget": -1}, "Not a budget"),
        ({"budget": {"euro": 1}}, "Not a budget"),
        ({"budget": 1}, "price of .* is not known"),
        ({"budget": Budget(usd=1)}, "client.budget"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(server, options, told):
    with pytest.raises(ConfigError) as caught:
        mapped(server, texts(3), **options)
    assert re.search(told, str(caught.value))
    assert [] == list(server.records)


def test_places_follow_the_rules_of_cells():
    """Formats, attributes and indexes; other languages' braces stay, and two braces are never evaluated."""
    template = RowTemplate.of('{a} {b:.2f} {c[0]} {{a}} ${a} `{a}` {"a": 1} {a!r}')
    assert ("a", "b", "c") == template.columns
    row = {"a": "{b}", "b": 1 / 3, "c": ["x"]}
    assert "{b} 0.33 x {{a}} ${a} `{a}` {\"a\": 1} '{b}'" == template.fill(row)


ODD = [
    *(
        "my text",
        "first-name",
        "ok?",
        "0",
        "a.b",
        "a{b}",
        "a[0]",
        "a:b",
        "a!r",
        "größte Zahl",
        "$",
        "x|y (z)",
    ),
    *(0, 2020, 1.5, ("q", "text"), pd.Timestamp("2024-01-01")),
]


@pytest.mark.parametrize("column", ODD, ids=str)
def test_a_column_of_any_name_is_taken(server, column):
    """As it stands between braces, in a resumed run too; what is no column's name stays as it is."""
    df = pd.DataFrame([["x", "y"]], columns=pd.Index(["text", column], tupleize_cols=False))
    template = f"{{text}} and {{{column}}}, {{{column}!r}} {{no name}}"
    out = mapped(server, df, template, run="odd")
    assert ["x and y, 'y' {no name}"] == [a.strip() for a in out["answer"]]
    nbllm.rows.resume("odd", df, base_url=server.base_url("openai_chat"))
    assert 1 == len(server.records)


def test_columns_of_several_levels(server):
    df = pd.DataFrame([["a", "b"]], columns=pd.MultiIndex.from_tuples([("q", "text"), ("q", "other")]))
    out = mapped(server, df, "{('q', 'text')}")
    assert [("a", "ok")] == list(zip(out["answer"].str.strip(), out["llm_status"], strict=True))


class Lazy:
    """As dask's frames: like one of pandas, and no rows to be had."""

    iloc = columns = ["text"]

    def compute(self):
        return texts(1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (["a"], "pandas.DataFrame"),
        ({"text": ["a"]}, "pandas.DataFrame"),
        (pd.Series(["a"]), "to_frame"),
        (Lazy(), "compute"),
        (None, "nbllm.map"),
    ],
)
def test_what_is_no_table_is_refused_with_how_to_make_one(data, told):
    with pytest.raises(ConfigError, match="Rows come from a pandas DataFrame") as caught:
        nbllm.map(data, "{text}", model="sim/openai")
    assert told in caught.value.hint


@pytest.mark.parametrize("column", ["answer", "llm_status"])
def test_a_column_that_is_there_twice_gets_no_answers(server, column):
    """Nobody could say whose they are: one row's stood in another's."""
    df = pd.DataFrame([["a", "b", "c"], ["d", "e", "f"]], columns=["text", column, column])
    with pytest.raises(ConfigError, match=f"several columns called {column}"):
        mapped(server, df)
    assert [] == list(server.records)


def test_columns_have_the_types_of_the_schema(server):
    """Nullable dtypes, lists as they are; a prefix from into=."""
    out = nbllm.map(texts(3), "{text}", model="sim/openai@ttft=0,gap=0", schema=SCHEMA)
    assert {"mood": "string", "stars": "Int64", "sure": "Float64", "spam": "boolean", "topics": "object"} == {
        name: str(out[name].dtype) for name in SCHEMA["properties"]
    }
    assert {"ok"} == set(out["llm_status"])
    assert isinstance(out["topics"][0], list)
    out = nbllm.map(texts(1), "{text}", model="sim/openai@ttft=0,gap=0", schema=SCHEMA, into="x")
    assert ["x_mood", "x_stars"] == list(out.columns)[1:3]


def test_failures_are_kept_with_their_reason(server):
    """The others go on; they can be seen, and asked again."""
    df = pd.DataFrame({"text": ["good", None, "fine"]})
    out = mapped(server, df, run="r")
    assert ["ok", "failed", "ok"] == list(out["llm_status"])
    assert "MissingValue" in out["llm_error"][1]
    assert [1] == list(nbllm.rows.errors(out).index)
    bad = nbllm.map(texts(4), "{text}", model="sim/openai@status=500", retries=0, run="bad")
    assert {"failed"} == set(bad["llm_status"])
    assert bad["llm_error"].str.startswith("ServerError: ").all()
    assert bad["answer"].isna().all()
    with pytest.raises(ConfigError, match="has no answers"):
        nbllm.rows.errors(df)


def test_failed_rows_can_be_asked_again(server):
    """Only those; also where the frame was sorted or filtered since."""
    model = "m@status=400,fail_times=1"
    out = mapped(server, texts(6), model=model, retries=0)
    assert {"failed"} == set(out["llm_status"])
    again = nbllm.rows.retry(out.sort_index(ascending=False))
    assert {"ok"} == set(again["llm_status"])
    assert [5, 4, 3, 2, 1, 0] == list(again.index)
    assert again["llm_error"].isna().all()
    assert list(again["text"]) == [a.strip() for a in again["answer"]]
    nbllm.rows.retry(again)
    assert {2} == set(asked(server).values())
    with pytest.raises(ConfigError, match="does not know its run"):
        nbllm.rows.retry(texts(1))


def test_the_first_failure_may_be_raised(server):
    with pytest.raises(nbllm.NbllmError):
        mapped(server, texts(50), model="m@status=400", retries=0, errors="raise", width=2)
    assert len(server.records) <= 4


def test_an_error_of_every_row_ends_the_run(server, capsys):
    """A wrong key: its rows stay to be asked, and the reason is told."""
    out = mapped(server, texts(50), model="m@auth=right", api_key="wrong", width=2, run="r")
    assert set(out["llm_status"]) <= {"pending", "stopped"}
    assert len(server.records) <= 4
    assert "AuthenticationError" in capsys.readouterr().err
    assert AuthenticationError.__name__ in nbllm.rows.runs()["ended"][0]
    assert b"wrong-key-canary" not in files.run_path("r").read_bytes()


def test_a_limit_of_the_day_ends_the_run_with_its_hour(capsys):
    """Its rows stay to be asked; the frame, the list of runs and what is shown say when it can go on."""
    words = {"error": {"message": "Limit reached on requests per day (RPD). Try again in 2h5m.", "code": "x"}}
    with Listener((429, json.dumps(words).encode())) as server:
        out = nbllm.map(texts(20), "{text}", model="m", base_url=f"{server.url}/v1", width=2, run="day")
    assert set(out["llm_status"]) <= {"pending", "stopped"}
    assert len(server.seen) <= 4
    for told in (out.attrs["nbllm_ended"], nbllm.rows.runs()["ended"][0], capsys.readouterr().err):
        assert re.search(r"limit per day is used up: try again after \d\d:\d\d \(\d\d \w+\)", told)


def test_a_run_is_listed_and_goes_on_by_its_name(server):
    """Also without the table: the prompts stand in its place."""
    mapped(server, texts(3), run="first", into="said")
    listed = nbllm.rows.runs()
    assert ["first", 3, 3, 0, 0] == listed.loc[0, ["run", "rows", "ok", "failed", "left"]].tolist()
    out = nbllm.rows.resume("first")
    assert ["row 0", "row 1", "row 2"] == list(out["prompt"]) == [a.strip() for a in out["said"]]
    assert 3 == len(server.records)
    with pytest.raises(ConfigError, match="no run called"):
        nbllm.rows.resume("second")


def test_a_key_is_never_kept(server, home):
    mapped(server, texts(2), api_key="sk-canary-0123456789abcdef", run="r")
    for path in home.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes()


def test_one_process_has_a_run(server):
    with files.RunFile("r"), pytest.raises(ConfigError, match="open in another process"):
        mapped(server, texts(1), run="r")
    assert {"ok"} == set(mapped(server, texts(1), run="r")["llm_status"])


def test_a_budget_of_the_notebook_ends_the_run(server):
    """The rows that it does not allow are left, and are no failures."""
    client = nbllm.Client()
    client.budget = Budget.of({"tokens": 400})
    out = mapped(server, texts(50), model="m@echo=off,tokens=98", max_tokens=100, width=1, client=client)
    assert "failed" not in set(out["llm_status"])
    assert len(server.records) <= 4
    assert "BudgetExceeded" in out.attrs["nbllm_ended"]


def test_halves_of_characters_break_nothing(server):
    """They have no form in UTF-8: a question mark stands for each."""
    out = mapped(server, pd.DataFrame({"text": ["a \ud800 b", "fine"]}, dtype=object))
    assert ["a ? b", "fine"] == [a.strip() for a in out["answer"]]


def test_an_answer_that_is_nested_too_deeply_fails_its_row_alone(server):
    deep = quote('{"a": ' + "[" * 600 + "]" * 600 + "}")
    model = f"m@echo=off,structured=false,text={deep}"
    out = mapped(server, texts(2), model=model, schema={"type": "object"})
    assert set(out["llm_status"]) <= {"failed", "ok"}
    assert 2 == len(server.records)


def test_a_budget_holds_also_at_full_width(server):
    """No row begins that would pass it; the others are left."""
    df = texts(64)
    limits = {"max_tokens": 100, "budget": {"tokens": 1_050}}
    out = mapped(server, df, model="m@echo=off,tokens=98", confirm="yes", width=64, **limits)
    assert len(server.records) == (out["llm_status"] == "ok").sum()
    assert 8 <= len(server.records) <= 10
    assert {"ok", "pending"} == set(out["llm_status"])
    with pytest.raises(ConfigError, match="more than its budget"):
        mapped(server, df, **limits)


@pytest.mark.slow
def test_a_budget_is_of_the_whole_run(server):
    """What was spent before is gone of it, also when a run goes on; a larger one goes on further."""
    model, options = "m@echo=off,tokens=98", {"max_tokens": 100, "confirm": "yes", "run": "r"}
    mapped(server, texts(64), model=model, budget={"tokens": 1_050}, **options)
    done = len(server.records)
    out = nbllm.rows.resume("r", confirm="yes")
    assert done == len(server.records)
    assert "the budget of 1,050 tokens is used up" == out.attrs["nbllm_ended"]
    nbllm.rows.resume("r", confirm="yes", budget={"tokens": 2_100})
    assert done < len(server.records) <= 2 * done + 2


def test_another_model_answers_where_one_fails():
    """And answers that are known are not asked for again."""
    model = "sim/openai@status=500|sim/anthropic@ttft=0,gap=0,tokens=3"
    out = nbllm.map(texts(5), "{text}", model=model, retries=0)
    assert {"ok"} == set(out["llm_status"])
    assert out["answer"].notna().all()


def test_the_cache_of_answers_is_used(server):
    """In another run, too."""
    mapped(server, texts(4), cache=True)
    out = mapped(server, texts(4), cache=True)
    assert {"ok"} == set(out["llm_status"])
    assert {1} == set(asked(server).values())


@pytest.mark.parametrize(("answer", "status"), [(True, "ok"), (False, "pending")])
def test_an_estimate_can_be_declined(server, answer, status):
    """A function is given it; with a no nothing is sent."""
    seen = []
    out = mapped(server, texts(5), confirm=lambda estimate: seen.append(estimate) or answer)
    assert {status} == set(out["llm_status"])
    assert isinstance(seen[0], Estimate)
    assert (5, 5) == (seen[0].rows, seen[0].questions)


def test_an_empty_table_gives_an_empty_frame(server):
    out = mapped(server, texts(0), schema=SCHEMA)
    assert (0, "Int64") == (len(out), str(out["stars"].dtype))


CHILD = """
import sys, pandas as pd, nbllm
df = pd.DataFrame({"text": [f"row {i}" for i in range(300)]})
out = nbllm.map(df, "{text}", model="m", base_url=sys.argv[1], run="killed", width=8)
print((out["llm_status"] == "ok").sum(), len(set(out["answer"])))
"""


def child(server, code=CHILD):
    return subprocess.Popen(
        [sys.executable, "-c", code, server.base_url("openai_chat")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_nothing_is_lost_by_a_kill(home):
    """At random moments: an answer that was kept is not asked again, and of the others no more than were on
    their way."""
    dice, kills, width = random.Random(5), 4, 8
    with simulator.serve(ttft=0.005, gap=0.0, tokens=2) as server:
        for _ in range(kills):
            before, kept = asked(server), answered()
            running = child(server)
            wanted = before.total() + dice.randrange(8, 60)
            assert comes_to(True, lambda n=wanted: [None] * (len(server.records) >= n))
            os.kill(running.pid, signal.SIGKILL)
            running.communicate()
            again = asked(server) - before
            assert not kept & set(again)
            assert width >= sum(again[prompt] for prompt in before)
        kept, before = answered(), asked(server)
        out, err = child(server).communicate(timeout=300)
        assert "300" == out.split()[0], err
        again = asked(server) - before
        assert {f"row {i}" for i in range(300)} - kept == set(again)
        assert width >= sum(again[prompt] for prompt in before)


FULL = """
import resource, signal, sys, pandas as pd, nbllm
df = pd.DataFrame({"text": [f"row {i} " + 400 * "x" for i in range(400)]})
url = sys.argv[1]
if len(sys.argv) > 2:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
out = nbllm.map(df, "{text}", model="m", base_url=url, run="full", confirm="yes")
ok = out[out["llm_status"] == "ok"]
assert (ok["answer"].str.strip() == ok["text"]).all()
print(len(ok), out.attrs["nbllm_ended"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_disk_that_gets_full_costs_no_answer(server):
    """The run ends, what was paid for is in the frame, and with room it goes on."""
    out, err = child(server, FULL.replace("> 2", "> 1")).communicate(timeout=300)
    many, _, ended = out.partition(" ")
    assert 0 < int(many) < 400, err
    assert "cannot be written" in ended
    assert int(many) == len(server.records)
    out, err = child(server, FULL).communicate(timeout=300)
    assert "400" == out.strip(), err


@pytest.mark.parametrize("damage", [lambda b: b"x" * 5_000, lambda b: b[: len(b) // 2]], ids=["other", "cut"])
def test_a_damaged_file_is_told_as_such(server, damage):
    """Room is not what it lacks."""
    mapped(server, texts(50), run="damaged")
    path = files.run_path("damaged")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match="cannot be written or read") as caught:
        mapped(server, texts(50), run="damaged")
    assert "damaged: move it away" in caught.value.hint


def answered():
    """The prompts of the killed run that are ok, as they lie on disk."""
    if not files.run_path("killed").exists():
        return set()
    with files.RunFile("killed") as file:
        ids = [row.id for _, row in file.results() if row.state == "ok"]
        return set(file.prompts(ids).values())


def test_a_place_that_cannot_be_written_is_named(server, home, monkeypatch):
    """Before anything is sent."""
    (home / "file").write_text("x")
    monkeypatch.setenv("NBLLM_HOME", str(home / "file"))
    with pytest.raises(ConfigError, match="cannot be written or read") as caught:
        mapped(server, texts(2))
    assert str(home / "file") in str(caught.value)
    assert [] == list(server.records)


@pytest.mark.slow
def test_stop_gives_the_frame_with_what_was_finished(home):
    """An interrupt ends the run, not the caller; the run goes on later."""
    with simulator.serve(ttft=0.2, gap=0.0, tokens=2) as server:
        running = child(server)
        assert comes_to(True, lambda: [None] * (len(server.records) >= 17))
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=300)
    assert 0 < int(out.split()[0]) < 300, err
    assert "nbllm.rows.resume('killed') goes on" in err
    assert 300 == nbllm.rows.runs().loc[0, ["ok", "left"]].sum()
