"""The plan, the arrivals and the prompts: tables and properties."""

import itertools
import json
import random
import statistics
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from nbllm import Document, Image, Message, Reasoning, Text, Tool, ToolCall, ToolResult
from nbllm.bench import arrivals, plan, prompt_set, prompts, synthetic
from nbllm.core import errors

from .examples import examples

LOADS = {
    "closed": plan.LoadShape.of(),
    "four at a time": plan.LoadShape.of(concurrency=4),
    "sweep": plan.LoadShape.of(concurrency=[1, 8]),
    "poisson": plan.LoadShape.of(rate=5, per_turn=7),
    "constant": plan.LoadShape.of(rate=[1, 2], arrivals="constant", per_turn=3),
    "ramp": plan.LoadShape.of(rate=(1, 10), arrivals="ramp", per_turn=9),
    "replay": plan.LoadShape.of(arrivals=[3, 1, 2.5]),
}


@examples(60)
@given(
    contestants=some.integers(1, 4),
    n_prompts=some.integers(1, 5),
    blocks=some.integers(1, 6),
    load=some.sampled_from(sorted(LOADS)),
    seed=some.integers(0, 2**40),
    kinds=some.sampled_from([("warm",), ("cold_conn", "warm")]),
)
def test_a_plan_is_made_of_complete_random_blocks(contestants, n_prompts, blocks, load, seed, kinds):  # noqa: PLR0917
    """Every model and start once in a block, with the same prompts; every slot has its own number; the same
    seed, the same plan."""
    turns = plan.plan(contestants, n_prompts, blocks=blocks, loads=LOADS[load], start_kinds=kinds, seed=seed)
    assert turns == plan.plan(
        contestants, n_prompts, blocks=blocks, loads=LOADS[load], start_kinds=kinds, seed=seed
    )
    assert turns == msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(turns))), tuple[plan.Turn, ...])
    numbers = [slot.seq for turn in turns for slot in turn.slots]
    assert list(range(len(numbers))) == sorted(numbers)
    for block in {turn.block for turn in turns}:
        mine = [turn for turn in turns if turn.block == block]
        assert sorted((contestant, kind) for contestant in range(contestants) for kind in kinds) == sorted(
            (t.contestant, t.start_kind) for t in mine
        )
        assert list(range(len(mine))) == [t.order for t in mine]
        assert 1 == len({tuple(s.prompt for s in t.slots) for t in mine if t.start_kind == "warm"})
    assert blocks * len(LOADS[load]) == len({turn.block for turn in turns})


def test_the_order_within_blocks_is_random():
    """Over many blocks every model is first about as often."""
    turns = plan.plan(3, 1, blocks=600, loads=plan.LoadShape.of(), seed=1)
    first = [t.contestant for t in turns if t.order == 0]
    assert all(150 < first.count(contestant) < 250 for contestant in range(3))


@pytest.mark.parametrize(
    ("load", "phases"),
    [
        ({"concurrency": 2}, {"ramp": 2, None: 16, "drain": 2}),
        ({"concurrency": 2, "per_turn": 5}, {None: 5}),
        ({"rate": 4, "arrivals": "constant"}, {None: 40}),
        ({"rate": 1}, {None: 20}),
        ({"rate": 4, "per_turn": 6}, {None: 6}),
        ({"arrivals": [0, 1, 2, 3]}, {None: 1}),
    ],
)
def test_a_turn_is_long_enough_and_a_cooldown_is_at_its_end(load, phases):
    """More requests at the same load, which do not count; a turn's ramp and drain where it is steady; the
    last ones of recorded arrivals."""
    turns = plan.plan(1, 1, blocks=2, loads=plan.LoadShape.of(**load), seed=1, cooldown=3)
    found = Counter(s.phase for s in turns[0].slots)
    assert {**phases, "cooldown": 3} == found
    assert {"cooldown"} == {s.phase for s in turns[0].slots[-3:]}
    assert 2 == len(turns)


def test_a_turn_that_is_too_short_for_its_load_is_told():
    """Before anything is sent."""
    assert "a concurrency of 16" in plan.unsteady_warning(plan.LoadShape.of(concurrency=16, per_turn=32))
    assert "" == plan.unsteady_warning(plan.LoadShape.of(concurrency=[1, 16]))


@pytest.mark.parametrize("rate", [2.0, 20.0])
def test_poisson_arrivals_are_poisson(rate):
    """Index of dispersion of counts 0.8 to 1.25, gaps without memory, mean gap as asked; over turns of their
    own too."""
    for seed in range(8):
        times = arrivals.poisson(rate, 4000, random.Random(seed))
        gaps = [b - a for a, b in itertools.pairwise(times)]
        counts = [0] * int(times[-1] * rate / 5)
        for t in times:
            if t * rate / 5 < len(counts):
                counts[int(t * rate / 5)] += 1
        assert 0.8 < statistics.pvariance(counts) / statistics.fmean(counts) < 1.25
        assert abs(statistics.correlation(gaps[1:], gaps[:-1])) < 0.06
        assert pytest.approx(1 / rate, rel=0.06) == statistics.fmean(gaps)
    turns = plan.plan(4, 1, blocks=20, loads=plan.LoadShape.of(rate=rate, per_turn=20), seed=3)
    gaps = [b.at - a.at for t in turns for a, b in itertools.pairwise(t.slots)]
    assert len(set(gaps)) > 0.99 * len(gaps), "no two turns share their gaps"


def test_constant_ramp_and_replay():
    """Even gaps; a rate that rises evenly; recorded times, sorted and moved to 0."""
    even = arrivals.constant(4, 9)
    assert {0.25} == {round(b - a, 12) for a, b in itertools.pairwise(even)}
    rising = arrivals.ramp(1, 9, 100)
    assert pytest.approx(20.0, rel=0.02) == rising[-1] + 1 / 9
    assert rising[50] > rising[-1] / 2
    start = datetime(2026, 1, 1, tzinfo=UTC)
    recorded = pd.Series([start + timedelta(seconds=s) for s in (2, 0, 1.5)])
    assert (0.0, 1.5, 2.0) == arrivals.replay(recorded) == arrivals.replay([11, 9, 10.5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": []}, "sweep"),
        ({"rate": 0}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"rate": 3, "arrivals": "ramp"}, "two rates"),
        ({"arrivals": "poisson"}, "needs a rate"),
        ({"arrivals": ["soon"]}, "seconds or datetimes"),
        ({"arrivals": []}, "at least one"),
        ({"per_turn": 0}, "per_turn"),
        ({"rate": 2, "concurrency": 2}, "not both"),
    ],
)
def test_a_load_that_contradicts_itself(options, words):
    """One line with what to do."""
    with pytest.raises(errors.ConfigError, match=words):
        plan.LoadShape.of(**options)


@pytest.mark.parametrize(
    ("values", "over"),
    [
        ([], False),
        ([100.0] * 9, False),
        ([100.0] * 10, True),
        ([400, 300, 200, 150, 120, 110, 100, 100, 100, 100], False),
        ([400, 200, 100, 101, 99, 100, 102, 100, 101, 99, 100, 98], True),
        ([1.0, 9.0] * 15, True),
        ([1.0, 9.0] * 6, False),
    ],
)
def test_warm_up_ends_when_times_are_stable(values, over):
    """Or when there have been thirty."""
    assert over == plan.is_stable(values)


def test_a_budget_says_which_limit_is_used_up():
    """In words; a number is dollars."""
    assert "$0.5" in plan.Budget.of(0.5).exhausted_limit(0.5, 0, 0, 0)
    assert "100 tokens" in plan.Budget.of({"tokens": 100}).exhausted_limit(0, 120, 0, 0)
    assert plan.Budget.of({"seconds": 9}).exhausted_limit(1e9, 1e9, 8.9, 1e9) is None
    assert plan.Budget.of(None).exhausted_limit(1e9, 1e9, 1e9, 1e9) is None


# --- prompts ---

TALK = [
    Message("system", "Be brief."),
    Message(
        "user",
        [
            Text("See"),
            Image(data=b"\x89PNG\r\n", media_type="image/png"),
            Document(data=b"%PDF", name="a.pdf"),
        ],
    ),
    Message("assistant", [Reasoning("hm", signature="s"), ToolCall("1", "f", {"a": 1}, '{"a": 1}')]),
    Message("tool", [ToolResult("1", (Text("ok"),))]),
]


def test_a_set_of_prompts_from_whatever_people_have():
    """Text, a list, messages, dicts, a DataFrame; what each asks."""
    texts = [
        [m.text for turn in p.turns for m in turn]
        for given in (
            "One",
            ["One", "Two"],
            [TALK],
            [{"id": "x", "prompt": "One", "system": "Be brief."}],
            [{"turns": ["One", "Two"]}],
            pd.DataFrame({"prompt": ["One", "Two"], "max_tokens": [5, None]}),
            [{"role": "user", "content": "One"}],
        )
        for p in prompt_set(given)
    ]
    assert [
        ["One"],
        ["One"],
        ["Two"],
        ["Be brief.", "See", "", ""],
        ["Be brief.", "One"],
        ["One", "Two"],
        ["One"],
        ["Two"],
        ["One"],
    ] == texts
    options = [
        p.options for p in prompt_set(pd.DataFrame({"prompt": ["One", "Two"], "max_tokens": [5, None]}))
    ]
    assert [{"max_tokens": 5}, {}] == options
    assert 5 == len(prompt_set())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "One\n\nTwo\n"),
        ("a.csv", 'prompt,max_tokens\n"One",\nTwo,7\n'),
        ("a.jsonl", '{"prompt": "One"}\n"Two"\n'),
        ("a.json", '["One", {"prompt": "Two"}]'),
    ],
)
def test_a_set_of_prompts_from_a_file(tmp_path, name, content):
    """Two prompts in each form; a path may be text."""
    (tmp_path / name).write_text(content)
    for path in (tmp_path / name, str(tmp_path / name)):
        assert ["One", "Two"] == [p.turns[0][0].text for p in prompt_set(path)]


def test_pictures_come_first_and_know_what_they_are(tmp_path):
    """A path, bytes, an address."""
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (p,) = prompt_set(
        [{"prompt": "What is it?", "images": [tmp_path / "x.jpg", b"GIF89a", "https://example.org/x.png"]}]
    )
    assert ["image/jpeg", "image/gif", "image/png"] == [part.media_type for part in p.turns[0][0].parts[:3]]
    assert "What is it?" == p.turns[0][0].text


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ([], "no prompts"),
        ([{"prompt": "a", "messages": []}], "prompt and messages"),
        ([{"id": "x"}], "has no prompt"),
        ([{"promt": "a"}], "promt"),
        ([""], "empty"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "'a'"),
        (7, "int"),
        ("nowhere.jsonl", "cannot be read"),
        ([{"prompt": "a", "image": "no/such.png"}], "image"),
        ([{"turns": "a"}], "turns"),
        ([{"prompt": "fine"}, 5], "Prompt 1"),
    ],
)
def test_what_is_no_prompt_names_the_entry(given_, words):
    """Counted from 0, with what to do."""
    with pytest.raises(errors.ConfigError, match=words):
        prompt_set(given_)


def test_prompts_survive_the_way_to_a_worker():
    """All kinds of parts, bytes and tools."""
    made = prompt_set(
        [
            {
                "messages": TALK,
                "tools": [Tool("f", "does", {"type": "object"})],
                "temperature": 0,
                "extra": {"x": [1]},
            },
            {"turns": ["a", "b"]},
        ]
    )
    assert made == prompts.load(json.loads(json.dumps(prompts.dump(made))))


def test_options_survive_the_way_to_a_worker():
    """Tools in anybody's form, a class for a schema; what JSON has no word for is refused in ours."""

    class Person:
        @staticmethod
        def model_json_schema():
            return {"$ref": "#/$defs/P", "$defs": {"P": {"type": "object"}}}

    given_ = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "schema": Person,
        "stop": ["a"],
        "seed": None,
    }
    found = prompts.load_options(json.loads(json.dumps(prompts.dump_options(given_))))
    rooted = {"type": "object", "$defs": {"P": {"type": "object"}}}  # as a call sends it
    assert found == {**given_, "tools": (Tool("f"),), "schema": rooted}
    with pytest.raises(errors.ConfigError, match="no JSON form"):
        prompts.dump_options({"extra": {"x": object()}})


def test_prefixes_stand_at_the_very_beginning():
    """A unique one differs for every request and is the same again for the same seed; a shared one is the
    same for all."""
    said = tuple(TALK)
    unique = [prompts.add_prefix(said, "unique", 7, seq)[0].parts[0].text for seq in range(50)]
    assert 50 == len(set(unique))
    assert unique[3] == prompts.add_prefix(said, "unique", 7, 3)[0].parts[0].text
    assert 1 == len({prompts.add_prefix(said, "shared", 7, seq)[0].parts[0].text for seq in range(5)})
    assert said == prompts.add_prefix(said, None, 7, 0)
    with pytest.raises(errors.ConfigError, match="prefix"):
        prompts.add_prefix(said, "other", 7, 0)


def test_synthetic_prompts_have_the_length_that_was_asked_for():
    """Exactly or one word short with a tokenizer; all different; 100,000 tokens in no time."""

    def count(text):
        return len(text.replace(".", " .").replace(",", " ,").split())

    for n in (50, 1000):
        made = synthetic(n, 3, tokenizer=count)
        assert all(n - 1 <= count(p.turns[0][0].text) <= n for p in made)
        assert 3 == len({p.turns[0][0].text for p in made})
    (long,) = synthetic(100_000)
    assert 95_000 < len(long.turns[0][0].text.split()) < 105_000
    assert prompt_set(synthetic(100, 2))
    with pytest.raises(errors.ConfigError, match="is too short"):
        synthetic(5)
