"""Quality beside speed: assertions, the grid of passes, a judge in both orders, win rates."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

import nbllm
from nbllm.bench.judging import _WINNER_WORD, _parse_winner, win_shares
from nbllm.bench.prompts import prompt_set
from nbllm.bench.quality import Quality
from nbllm.client.client import Client
from nbllm.core import errors
from nbllm.core.assertions import as_check, build_checks, name_assertions
from nbllm.simulator.scripts import script
from nbllm.store import preferences

NEAR = pytest.approx


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    """Runs without a directory are kept in the test's own."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


def says(text, name, **more):
    return {
        "model": f"sim/openai/m@{script([{'text': text, 'repeat': True}])},ttft=0.001",
        "name": name,
        **more,
    }


ROW = {"e2e_ms": 150.0, "cost_usd": 0.002}


@pytest.mark.parametrize(
    ("one", "answer", "good"),
    [
        ("contains: Paris", "It is Paris.", True),
        ("contains: Paris", "It is paris.", False),
        ("not contains: sorry", "It is Paris.", True),
        ("not contains: sorry", "I am sorry.", False),
        ("contains: a: b", "so a: b", True),
        ("contains: {city}", "It is Rome.", True),
        ("contains: {nobody}", "It is {nobody}.", True),
        (r"regex: ^\d{4}$", "2026", True),
        (r"regex: ^\d{4}$", "26", False),
        ("regex: ^{odd}$", "a.b", True),
        ("regex: ^{odd}$", "axb", False),
        ("json", '{"a": 1}', True),
        ("json", '```json\n{"a": 1}\n```', True),
        ("json", "Here: {}", False),
        ("json", "[" * 100_000, False),
        ({"json": {"type": "object", "required": ["a"]}}, '{"a": 1}', True),
        ({"json": {"type": "object", "required": ["a"]}}, '{"b": 1}', False),
        ("latency: 200ms", "x", True),
        ("latency: 0.1s", "x", False),
        ("latency: 2", "x", True),
        ("cost: $0.01", "x", True),
        ("cost: 0.001", "x", False),
        (lambda answer, more: more["city"] in answer, "Rome", True),
        (lambda answer, more: {"score": 0.0}, "Rome", False),
    ],
)
def test_what_an_answer_must_be(one, answer, good):
    """Each kind, its opposite, and columns in it."""
    [check] = build_checks(name_assertions([one])).values()
    assert float(good) == check(answer, {"city": "Rome", "odd": "a.b"}, ROW)


def test_what_is_not_known_is_not_decided():
    """A cost without a price."""
    [check] = build_checks(name_assertions("cost: 1")).values()
    assert check("x", {}, {"cost_usd": None}) is None
    assert check("x", {}, {"cost_usd": float("nan")}) is None


def test_names_tell_checks_apart():
    """By kind and number, or by the names that were given."""
    assert ["contains", "contains#2", "json"] == list(name_assertions(["contains: a", "contains: b", "json"]))
    assert ["short", "right"] == list(name_assertions({"short": "regex: ^.{1,9}$", "right": "contains: 4"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["contians: x"], "Unknown assertion"),
        (["contains:"], "needs a text"),
        (["regex: ("], "Not a pattern"),
        (["latency: soon"], "limit for latency"),
        (["cost: -1"], "limit for cost"),
        ([5], "Not an assertion"),
        ([{"json": 5}], "takes a schema"),
    ],
)
def test_what_is_no_assertion_is_told_before_anything_is_sent(given, words):
    """And answers that are not kept."""
    with pytest.raises(errors.ConfigError, match=words):
        Quality.of(given, None, None).check(True, prompt_set("x"))
    with pytest.raises(errors.ConfigError, match="need the answers"):
        Quality.of(["json"], None, None).check(False, ())


class Levenshtein:
    """As autoevals' scorers are: called with keywords, the result an object with a score."""

    def eval_async(self): ...

    def __call__(self, output, expected=None, **more):
        assert more == {"input": "Q"}
        return type("Score", (), {"score": None if expected is None else float(output == expected)})()


@pytest.mark.parametrize("given", [Levenshtein, Levenshtein()])
def test_autoevals_scorers_are_given_what_they_expect(given):
    """A class or an object; what it cannot score is not known."""
    check = as_check(given)
    assert (1.0, 0.0, None) == tuple(
        check("x", m, {"asked": "Q"}) for m in ({"expected": "x"}, {"answer": "y"}, {})
    )


@pytest.mark.slow
def test_a_run_has_its_checks_and_a_grid():
    """Kept with the run; a failure passes none; a check that fails by itself loses nothing."""
    table = pd.DataFrame(
        {"prompt": ["Capital of France?", "Of Italy?"], "city": ["Paris", "Rome"], "id": ["fr", "it"]}
    )
    models = [says("It is Paris.", "a"), {"model": "sim/openai@status=503", "name": "down"}]
    how = {"blocks": 2, "warmup": 0, "progress": False}
    df = nbllm.bench.run(models, table, asserts=["contains: {city}", "latency: 1m"], **how)
    found = df.set_index(["name", "prompt_id"])[["check_contains", "check_latency", "passed"]]
    assert (1.0, 1.0, True) == tuple(found.loc[("a", "fr")])
    assert (0.0, 1.0, False) == tuple(found.loc[("a", "it")])
    assert (0.0, 0.0, False) == tuple(found.loc[("down", "it")])
    pd.testing.assert_frame_equal(df, nbllm.bench.load(df["run_id"].iloc[0]))
    told = nbllm.bench.grid(df)
    assert [("1/1", "0/1"), ("0/1", "0/1")] == [tuple(told.loc[i, ["a", "down"]]) for i in ("fr", "it")]
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        df = nbllm.bench.run(models[:1], table, asserts=[lambda answer, more: 1 / 0], **how)
    assert df["passed"].isna().all()
    with pytest.raises(errors.ConfigError, match="The frame has no assertions"):
        nbllm.bench.grid(df.drop(columns="passed"))


@pytest.mark.slow
def test_templates_by_cases_are_a_table_of_prompts():
    """Every template with every row, and a grid of both."""
    table = nbllm.bench.cases({"short": "{q}?", "long": "Please: {q}?"}, pd.DataFrame({"q": ["1+1", "2+2"]}))
    assert ["1+1?", "Please: 1+1?", "2+2?", "Please: 2+2?"] == list(table["prompt"])
    df = nbllm.bench.run([says("2", "a")], table, blocks=4, warmup=0, progress=False, asserts=["contains: 2"])
    told = nbllm.bench.grid(df, rows="case", columns=["name", "template"])
    assert (["0", "1"], [("a", "short"), ("a", "long")]) == (list(told.index), list(told.columns))
    with pytest.raises(errors.ConfigError, match="no column 'p'"):
        nbllm.bench.cases(["{p}"], table)


# --- judges ---


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("FIRST", "a"),
        ("The second is right.\nSECOND", "b"),
        ("First seems right, but: TIE.", "tie"),
        ("Neither.", None),
        ("", None),
    ],
)
def test_a_judges_last_word_counts(text, winner):
    """Whatever it thought before."""
    assert winner == _parse_winner(text, "a", "b")


def judges(word):
    return f"sim/openai/judge@{script([{'text': word, 'repeat': True}])}"


@pytest.fixture
def answered():
    """Three models: one right, one wrong, one that fails."""
    models = [
        says("Right.", "good"),
        says("Wrong.", "bad"),
        {"model": "sim/openai@status=503", "name": "down"},
    ]
    return nbllm.bench.run(models, ["One?", "Two?"], blocks=2, warmup=0, progress=False)


@pytest.mark.slow
def test_a_judge_who_prefers_the_first_place_says_nothing(answered):
    """Both orders disagree: a tie; who failed loses without being asked about."""
    found = nbllm.bench.judge(answered, "Which is right?", judges("FIRST"), client=Client(ledger=None))
    by = found.set_index(["a", "b"])
    assert {"tie"} == set(by.loc[("good", "bad"), "winner"])
    assert {"good"} == set(by.loc[("good", "down"), "winner"])
    told = found.attrs["judge"]
    assert (4, 0.0) == (told["asked"], told["agreement"])
    assert {0.75, 0.0} == set(win_shares(found).values()), "two won one and tied one, the third lost both"


@pytest.mark.slow
def test_a_judge_who_reads_decides_and_its_score_is_kept():
    """score="judge: ..." with its model; the share of comparisons won is the score."""
    models = [says("Right.", "good"), says("Wrong.", "bad")]
    steps = [{"when": "Right.\n</first", "text": "FIRST"}, {"when": "Right.\n</second", "text": "SECOND"}]
    df = nbllm.bench.run(
        models,
        "One?",
        blocks=2,
        warmup=0,
        progress=False,
        score="judge: which is right?",
        judge=f"sim/openai/judge@{script(steps)}",
        client=Client(ledger=None),
    )
    assert {("good", 1.0), ("bad", 0.0)} == set(zip(df["name"], df["score"], strict=True))
    assert (1.0, 4) == (df.attrs["judge"]["agreement"], df.attrs["judge"]["asked"])
    assert list(df["score"]) == list(nbllm.bench.load(df["run_id"].iloc[0])["score"])


@pytest.mark.parametrize(
    "options",
    [{"score": "judge: which?"}, {"judge": "sim/openai"}, {"score": "judge:", "judge": "sim/openai"}],
)
def test_a_judge_needs_a_question_and_a_model(options):
    """Before anything is sent."""
    with pytest.raises(errors.ConfigError, match="A judge needs"):
        nbllm.bench.run([says("x", "a"), says("y", "b")], "Go.", progress=False, **options)


@pytest.mark.slow
def test_a_judge_that_cannot_be_asked_loses_no_answer():
    """A warning, and the frame."""
    models = [says("Right.", "good"), says("Wrong.", "bad")]
    with pytest.warns(UserWarning, match="The judge failed"):
        df = nbllm.bench.run(
            models,
            "One?",
            blocks=1,
            warmup=0,
            progress=False,
            score="judge: which?",
            judge="sim/openai@status=401",
            client=Client(ledger=None),
        )
    assert 2 == len(df)


# --- a run that goes on ---


def short(answer, more):
    return len(answer) < 9


def begun(n, **quality):
    """A run of two models that has ended after n of four requests."""
    models = [says("Right.", "good"), says("Wrong. Quite wrong.", "bad")]
    table = pd.DataFrame({"prompt": ["One?"], "expected": ["right"]})
    how = {"blocks": 2, "warmup": 0, "progress": False, "seed": 1, "client": Client(ledger=None)}
    df = nbllm.bench.run(models, table, budget={"requests": n}, **how, **quality)
    assert n == len(df)
    return df["run_id"].iloc[0]


def resumed(run, **more):
    return nbllm.bench.resume(run, budget={"requests": 9}, progress=False, client=Client(ledger=None), **more)


@pytest.mark.slow
def test_a_resumed_run_is_checked_and_scored_as_a_whole():
    """Also what came before; a function is asked for by its name before anything is sent."""
    run = begun(2, asserts=["contains: Right", short, "latency: 1m"], score="expected")
    with pytest.raises(errors.ConfigError, match="checked by 'short'") as error:
        resumed(run)
    assert "asserts={'short': short}" in error.value.hint
    assert 2 == len(nbllm.bench.load(run))
    df = resumed(run, asserts={"short": short}).set_index("name")
    assert 4 == len(df)
    columns = ["check_contains", "check_short", "check_latency", "passed", "score"]
    assert {(1.0, 1.0, 1.0, True, 1.0)} == set(df.loc["good", columns].itertuples(index=False, name=None))
    assert {(0.0, 0.0, 1.0, False, 0.0)} == set(df.loc["bad", columns].itertuples(index=False, name=None))
    pd.testing.assert_frame_equal(df.reset_index()[columns], nbllm.bench.load(run)[columns])


@pytest.mark.slow
def test_a_resumed_run_is_judged_where_it_was_not():
    """A block that a judge has seen is not paid for again; a question given anew sees all."""
    steps = [{"when": "Right.\n</first", "text": "FIRST"}, {"when": "Right.\n</second", "text": "SECOND"}]
    judge = {"score": "judge: which is right?", "judge": f"sim/openai/judge@{script(steps)}"}
    run = begun(2, **judge)
    df = resumed(run)
    assert 2 == df.attrs["judge"]["asked"]
    assert {("good", 1.0), ("bad", 0.0)} == set(zip(df["name"], df["score"], strict=True))
    again = resumed(run, **judge)
    assert (4, list(df["score"])) == (again.attrs["judge"]["asked"], list(again["score"]))


class Odd:
    def __call__(self, answer, more):
        return 1


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        ({"score": short}, {}, "scored by short"),
        ({"score": Odd()}, {}, "scored by Odd"),
        ({"asserts": [short, Odd()]}, {"asserts": [Odd()]}, "checked by 'short'"),
        ({"asserts": {"json": short}}, {}, "checked by 'json'"),
        ({"asserts": ["json", {"json": {"type": "object"}}, "not cost: 1"], "score": "x"}, {}, None),
        ({"asserts": [short], "score": short}, {"asserts": short, "score": "x"}, None),
    ],
)
def test_what_a_file_cannot_hold_is_asked_for(wanted, given, words):
    """Everything else comes back as it went."""
    no = {"asserts": None, "score": None, "judge": None}
    public = json.loads(json.dumps(Quality.of(**{**no, **wanted}).public()))
    if words:
        with pytest.raises(errors.ConfigError, match=words):
            Quality.resumed(public, **{**no, **given})
    else:
        found = Quality.resumed(public, **{**no, **given})
        assert name_assertions(given.get("asserts", wanted["asserts"])) == found.asserts
        assert "x" == found.score


# --- win rates ---


def meetings(strength, n, rng, ties=0.0):
    rows = []
    for prompt in range(n):
        for a, b in itertools.combinations(strength, 2):
            p = 1 / (1 + np.exp(strength[b] - strength[a]))
            winner = "tie" if rng.random() < ties else a if rng.random() < p else b
            rows.append({"prompt_id": f"p{prompt}", "a": a, "b": b, "winner": winner})
    return pd.DataFrame(rows)


def test_win_rates_are_those_of_the_model_they_come_from():
    """Within their intervals, the strongest first; whoever stands first in a row."""
    strength = {"x": 1.0, "y": 0.0, "z": -1.0}
    found = nbllm.bench.win_rates(meetings(strength, 400, np.random.default_rng(1)))
    assert ["x", "y", "z"] == list(found["name"])
    for row in found.to_dict("records"):
        others = [v for k, v in strength.items() if k != row["name"]]
        truth = np.mean([1 / (1 + np.exp(o - strength[row["name"]])) for o in others])
        assert row["ci_lo"] < truth < row["ci_hi"]
        assert 800 == row["n"] == row["wins"] + row["ties"] + row["losses"]
    assert list(strength.values()) == NEAR(list(found["strength"]), abs=0.25)


@pytest.mark.slow
def test_intervals_of_win_rates_cover():
    """Equal models, 30 prompts: some 95 of 100 hold a half; copies are no more prompts."""
    rng = np.random.default_rng(2)
    held = []
    for _ in range(60):
        few = meetings({"x": 0.0, "y": 0.0}, 30, rng, ties=0.2)
        many = pd.concat([few] * 5, ignore_index=True)
        held.append(
            [r["ci_lo"] < 0.5 < r["ci_hi"] for r in (nbllm.bench.win_rates(f).iloc[0] for f in (few, many))]
        )
    once, again = np.mean(held, axis=0)
    assert once >= 0.88
    assert again >= 0.88


@pytest.mark.parametrize("winners", [["x"] * 8, ["tie"] * 8, ["x"], []])
def test_one_sided_and_few_comparisons_are_finite(winners):
    """Who always wins is strong, not infinitely so."""
    df = pd.DataFrame(
        {"a": "x", "b": "y", "winner": winners}, columns=["a", "b", "winner"], index=range(len(winners))
    )
    found = nbllm.bench.win_rates(df)
    assert np.isfinite(found[["win_rate", "ci_lo", "ci_hi", "strength"]].to_numpy(float)).all()
    if winners == ["x"] * 8:
        assert 0.5 < found["ci_lo"].iloc[0] < found["win_rate"].iloc[0] < 1
    if winners == ["tie"] * 8:
        assert NEAR(0.5) == found["win_rate"].iloc[0]


def test_what_was_kept_is_a_comparison(tmp_path, monkeypatch):
    """Before the others, and as good as what was kept too; an old mark, without others, says nothing."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    about = {"provider": "p", "simulated": False, "answer": "x"}
    for number, (model, prompt, over) in enumerate(
        [("x", "One?", ["p/y", "p/z"]), ("y", "One?", ["p/z"]), ("x", "Two?", None), ("z", "Three?", ["p/x"])]
    ):
        more = {} if over is None else {"over": over}
        preferences.mark(str(number), {**about, "model": model, "prompt": prompt, **more})
    found = nbllm.bench.preferences()
    assert {
        ("One?", "p/x", "p/y", "tie"),
        ("One?", "p/x", "p/z", "p/x"),
        ("One?", "p/y", "p/z", "p/y"),
        ("Three?", "p/z", "p/x", "p/z"),
    } == set(found[["prompt", "a", "b", "winner"]].itertuples(index=False, name=None))
    assert 2 == found["prompt_id"].nunique()
    assert {"p/x", "p/y", "p/z"} == set(nbllm.bench.win_rates(found)["name"])


def test_what_is_no_comparison_says_so():
    """A missing column, a third name."""
    with pytest.raises(errors.ConfigError, match="'winner'"):
        nbllm.bench.win_rates(pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(errors.ConfigError, match="is neither a nor b"):
        nbllm.bench.win_rates(pd.DataFrame({"a": ["x"], "b": ["y"], "winner": ["z"]}))
    assert _WINNER_WORD.search(json.dumps("firstly")) is None


def test_a_grid_has_the_models_in_the_given_order():
    """Whoever came first in the random order of a block."""
    names = ["c", "a", "b"]
    rows = [
        {
            "name": n,
            "prompt_id": p,
            "status": "ok",
            "passed": True,
            "phase": "measure",
            "request_id": f"{n}{p}",
        }
        for n in ("b", "a", "c")
        for p in ("p2", "p10")
    ]
    df = pd.DataFrame(rows)
    df.attrs["nbllm"] = {"models": names}
    told = nbllm.bench.grid(df)
    assert (names, ["p2", "p10"]) == (list(told.columns), list(told.index))
    for rows_, columns in (("name", "name"), ([], "name"), (5, "name"), ("name", [])):
        with pytest.raises(errors.ConfigError):
            nbllm.bench.grid(df, rows=rows_, columns=columns)


def test_columns_with_odd_names_are_filled():
    """Blanks, numbers; what is no template or no table is told."""
    table = pd.DataFrame({"the question": ["1+1"], 0: [7]})
    made = nbllm.bench.cases(["{the question} {0} {"], table)
    assert ["1+1 7 {"] == list(made["prompt"])
    assert {"check": 1.0} == {
        n: f("It is 2.", {"the answer": "2"}, {})
        for n, f in build_checks({"check": "contains: {the answer}"}, [{"the answer": "2"}]).items()
    }
    for templates, given in (("{0}", table), ([5], table), (["{0}"], {"0": [7]})):
        with pytest.raises(errors.ConfigError):
            nbllm.bench.cases(templates, given)


async def later(answer, more):
    """A score that nobody would wait for."""
    return 1.0


class Wanting:
    """A scorer that is not made without more."""

    def __init__(self, more):
        """As autoevals' with a client."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": later}, "async"),
        ({"asserts": later}, "async"),
        ({"score": Wanting}, "failed"),
        ({"asserts": Wanting}, "failed"),
        ({"score": "blank"}, "Not every prompt"),
        ({"asserts": "contains: {some}"}, "Not every prompt has a 'some'"),
    ],
)
def test_what_could_not_score_is_told_before_anything_is_sent(options, words, tmp_path):
    """And no run is begun."""
    table = pd.DataFrame({"prompt": ["a", "b"], "blank": ["x", " "], "some": ["x", None]})
    with pytest.raises(errors.ConfigError, match=words):
        nbllm.bench.run([says("x", "a")], table, blocks=1, progress=False, **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_a_judge_says_that_cannot_be_read_is_told():
    """It was asked and paid all the same."""
    how = {"blocks": 2, "warmup": 0, "progress": False}
    df = nbllm.bench.run([says("x", "a"), says("y", "b")], ["Why?"], **how)
    with pytest.warns(UserWarning, match="4 of 4 answers of the judge .*'bananas'"):
        judged = nbllm.bench.judge(df, "Which?", says("bananas", "j")["model"])
    assert (4, True) == (judged.attrs["judge"]["asked"], judged["winner"].isna().all())
    for question in ("", " ", None):
        with pytest.raises(errors.ConfigError, match="question"):
            nbllm.bench.judge(df, question, says("TIE", "j")["model"])


def test_comparisons_without_a_prompt_are_counted():
    """Rows of the user's own, where some name one."""
    rows = pd.DataFrame({"a": ["x"] * 3, "b": ["y"] * 3, "winner": ["x"] * 3, "prompt_id": [None, "1", None]})
    assert [3, 3] == list(nbllm.bench.win_rates(rows)["n"])
