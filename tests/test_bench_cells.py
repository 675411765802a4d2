"""Benchmarks from a cell, in a real kernel: the magics, the dashboard, Stop."""

import pytest

from nbllm.errors import ConfigError

from .kernels import Kernel

pytestmark = pytest.mark.kernel
PAIR = "sim/openai@ttft=0.02,gap=0.001,tokens=4,sim/anthropic@ttft=0.04,gap=0.001,tokens=4"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(NBLLM_RUNS=str(tmp_path_factory.mktemp("runs"))) as kernel:
        yield kernel


def frames(ran):
    """The dashboard's frames, as text."""
    return [
        m["content"]["data"]["text/plain"]
        for m in ran.messages
        if m["msg_type"] in ("display_data", "update_display_data")
        and m["content"]["data"]["text/plain"].find(" requests") > 0
    ]


def test_a_line_runs_a_benchmark_and_tells_it_in_short(kernel):
    """The frame in `out`, a table with medians and intervals as the cell's value, the dashboard static at its
    end."""
    ran = kernel.run(f"%llm bench {PAIR} blocks=8 warmup=1 bench.seed=3 out=df")
    assert ran.ok, ran.error
    assert 16 == kernel.value("int((df.phase == 'measure').sum())")
    assert "16 of 16 requests" in ran.text
    told = kernel.value("[c for c in _.columns if c != 'contaminated']")
    assert ["answers", "failed", "ttft ms", "total ms", "tokens/s", "cost $"] == told
    assert 1 == ran.html.count("<table"), "the display leaves the table to the value"
    assert "application/vnd.jupyter.widget" not in str([m["content"] for m in ran.messages])


def test_a_warning_is_its_words(kernel):
    """No file and line of ours beside them."""
    ran = kernel.run(f"%llm bench {PAIR} blocks=2 warmup=0")
    assert ran.ok, ran.error
    assert "At least 6 blocks" in ran.text
    assert "Warning" not in ran.text


def test_the_prompts_may_stand_in_the_cell(kernel):
    """Divided by lines of dashes; the name before << takes the frame."""
    ran = kernel.run(
        f"%%llm_bench mine << {PAIR} blocks=2 warmup=0\nFirst prompt,\nin two lines.\n---\nSecond prompt."
    )
    assert ran.ok, ran.error
    assert [["p0", "p1"], 4] == kernel.value("[sorted(mine.prompt_id.unique()), len(mine)]")


def test_the_prompts_of_a_cell_are_filled(kernel):
    """As those of %%llm: values, expressions, pictures; what is not is told, and fill=off fills none."""
    kernel.run("who = 'Ada'; png = b'\\x89PNG\\r\\n\\x1a\\n' + bytes(40)")
    ran = kernel.run(
        "%%llm_bench df << sim/openai@ttft=0,gap=0,echo=1 blocks=3 warmup=0\n"
        "Greet {who}, {{1 + 1}} times.\n---\nNo {whu}, {ok: 1}.\n---\nSee {png}."
    )
    assert ran.ok, ran.error
    said = kernel.value("sorted(nbllm.bench.answers(df).answer)")
    assert ["Greet Ada, 2 times.", "No {whu}, {ok: 1}."] == said[:2]
    assert "not filled: {whu}" in ran.text
    ran = kernel.run(
        "%%llm_bench df << sim/openai@ttft=0,gap=0,echo=1 blocks=1 warmup=0 fill=off\nGreet {who}."
    )
    assert ran.ok, ran.error
    assert ["Greet {who}."] == kernel.value("list(nbllm.bench.answers(df).answer)")


def test_the_dashboard_grows_while_it_runs(kernel):
    """Frames in between, with what is left; the last one says what it took."""
    ran = kernel.run(
        "df = nbllm.bench.run(['sim/openai@ttft=0.1,gap=0.001,tokens=3'], 'Go.', blocks=12, warmup=0)"
    )
    seen = frames(ran)
    assert len(seen) >= 4
    assert any(" left" in frame and "■" in frame for frame in seen[:-1])
    assert "12 of 12 requests" in seen[-1]
    assert "■" not in seen[-1]
    assert 1 == len([o for o in ran.outputs if "data" in o])


def test_stop_keeps_the_finished_rows_and_says_how_to_go_on(kernel):
    """The cell succeeds with the rows that are there; resume gives the rest."""
    parent = kernel.start(
        "df = nbllm.bench.run(['sim/openai@ttft=0.1,gap=0.001,tokens=3'], 'Go.', blocks=200, warmup=0)"
    )
    kernel.collect(
        parent,
        until=lambda m: (
            m["msg_type"] == "update_display_data"
            and not m["content"]["data"]["text/plain"].startswith(("0 of", "1 of"))
        ),
    )
    kernel.interrupt()
    ran = kernel.collect(parent)
    assert ran.ok, ran.error
    assert (
        "Ended early: stopped" in ran.messages[-2]["content"]["data"]["text/plain"]
        or "Ended early: stopped" in frames(ran)[-1]
    )
    assert 0 < kernel.value("len(df)") < 200


def test_prompts_of_a_misspelt_variable_are_none(kernel):
    """A name is no prompt: nothing is asked."""
    kernel.run("questions = ['One.']")
    ran = kernel.run(f"%llm bench {PAIR} prompts=qestions blocks=1 warmup=0 out=none_of_it")
    assert not ran.ok
    assert "No variable is called 'qestions'" in ran.text + str(ran.error)
    assert "Did you mean questions?" in ran.text + str(ran.error)
    assert kernel.value("'none_of_it' not in globals()")


def test_out_of_budget_while_it_warms_up_is_one_line(kernel):
    """The rows are in the frame, and no table of nothing is shown."""
    ran = kernel.run(f"%llm bench {PAIR} budget=requests:2 blocks=2 out=few")
    assert ran.ok, ran.error
    rows = kernel.value("len(few)")
    assert f"{rows} rows are stored; nbllm.bench.resume(" in ran.text
    assert (False, "<table" in ran.html) == (kernel.value("bool((few.phase == 'measure').any())"), False)


@pytest.mark.parametrize(
    "moment",
    [
        lambda m: m["msg_type"] == "display_data",
        lambda m: m["msg_type"] == "update_display_data",
        lambda m: "to warm up" in str(m["content"]),
    ],
    ids=["shown", "drawn", "warming up"],
)
def test_stopped_at_any_moment_a_line_says_what_is_kept(kernel, moment):
    """No traceback, and whatever was measured is in the frame."""
    slow = "sim/openai@ttft=0.1,gap=0.001,tokens=3"
    kernel.run("stopped = None")
    parent = kernel.start(f"%llm bench {slow} blocks=200 out=stopped")
    kernel.collect(parent, until=moment)
    kernel.interrupt()
    ran = kernel.collect(parent)
    assert ran.ok, ran.error
    assert f"Ended early: stopped. {kernel.value('len(stopped)'):,} row" in frames(ran)[-1]


def test_what_a_provider_says_in_its_errors_is_shown_as_text(kernel):
    """The dashboard's last failure is escaped."""
    ran = kernel.run(
        "df = nbllm.bench.run([{'model': 'sim/openai@status=400', 'name': '<img src=x "
        "onerror=alert(1)>'}], 'Go.', blocks=1, warmup=0)"
    )
    assert ran.ok, ran.error
    assert "<img" not in ran.html
    assert "1 failed" in ran.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "No model"),
        (f"{PAIR} blocks=many", "blocks cannot be"),
        (f"{PAIR} blocks=2 blocks=3", "given twice"),
        (f"{PAIR} blocks=2 format=json", f"Column {len(PAIR) + 11}: format is not an option of a benchmark"),
        (f"{PAIR} cold=nope", "'nope' is not a start kind"),
        (f"{PAIR} batch=x", "batch cannot be 'x'"),
        (f"{PAIR} batch=0", "batch=0 is not valid"),
        ("sim/anthropic batch=2", "has no embeddings"),
        (f"{PAIR} batch=2 max_tokens=5", "max_tokens"),
        (f"{PAIR} concurrency=0", "concurrency"),
        (f"{PAIR} n=5", f"Column {len(PAIR) + 2}: n is not an option of a benchmark"),
        (f"{PAIR} --qps 5", "Did you mean rate?"),
    ],
)
def test_what_cannot_be_run_says_so(kernel, line, words):
    """One line with its column, or with what there is."""
    ran = kernel.run(f"%llm bench {line}")
    assert not ran.ok
    assert words in "".join(ran.error["traceback"])


def test_embeddings_are_measured_from_a_cell(kernel):
    """Each number of texts is a model of its own, compared within its blocks, in the table of the cell."""
    line = "vectors << sim/openai,sim/ollama batch=1,2 blocks=3 warmup=0"
    ran = kernel.run(f"%%llm_bench {line}\nFirst text.\n---\nSecond text.")
    assert ran.ok, ran.error
    told = kernel.value("dict(zip(vectors.name, vectors.texts.astype(int)))")
    assert {f"sim/{name} x{n}": n for name in ("openai", "ollama") for n in (1, 2)} == told
    assert [12, 0] == kernel.value("[len(vectors), int(vectors.out_tokens.sum())]")
    assert kernel.value("bool(vectors.e2e_ms.notna().all())")
    assert {"tokens in/s", "texts/s"} <= set(kernel.value("list(_.columns)"))
    ran = kernel.run("df = nbllm.bench.run('sim/openai', ['One.', 'Two.'], batch=2, blocks=3, warmup=0)")
    clean = kernel.value("int((df.quality != 'contaminated').sum())")  # a busy machine disturbs some
    assert f"sim/openai: {clean or 'no'} answer" in frames(ran)[-1]
    assert ("median time to all vectors" in frames(ran)[-1]) == (clean > 0)
    assert ["e2e_ms"] == kernel.value("[nbllm.bench.compare(vectors, metrics='e2e_ms').metric.unique()[0]]")


def test_a_line_may_score_and_assert_by_functions_of_the_notebook(kernel):
    """By their names, as in a cell; a value may stand apart from its option."""
    kernel.run("def brief(answer, more): return len(answer) < 10_000")
    line = "sim/openai@ttft=0.001,tokens=3 --blocks 2 --warmup 0 timeout=30 retries=1"
    ran = kernel.run(f"%llm bench {line} score=brief asserts=brief asserts='contains: zzz' out=judged")
    assert ran.ok, ran.error
    assert [[1.0], [1.0], [0.0]] == kernel.value(
        "[sorted(judged[c].unique()) for c in ('score', 'check_brief', 'check_contains')]"
    )


def test_numbers_and_lists_are_read_as_they_are_written():
    """Sweeps, budgets, rungs."""
    from nbllm.notebook.bench_magics import split_options

    options, rest = split_options(
        "a/b,c/d --blocks=3 concurrency=1,4 budget=usd:0.5,seconds:60 cold=cold_conn,warm rate=2.5 "
        'idle=0,30 temperature=0 prompts="my prompts.txt"'
    )
    assert {
        "blocks": 3,
        "concurrency": [1, 4],
        "budget": {"usd": 0.5, "seconds": 60.0},
        "cold": ["cold_conn", "warm"],
        "rate": 2.5,
        "idle": [0.0, 30.0],
        "prompts": "my prompts.txt",
    } == options
    assert ["a/b,c/d", "temperature=0"] == rest.split()


def test_what_stands_in_the_quotes_of_a_call_s_option_is_its_own():
    """Not an option of the run; dashes inside a name are underscores."""
    from nbllm.notebook.bench_magics import split_options

    line = 'a/b system="Use blocks=3, n=4." --stop \'rate=5 x\' x.a={"b": "idle=1 "} --max-errors 7 --keep'
    options, rest = split_options(line)
    assert {"max_errors": 7} == options
    assert line.partition(" --max")[0] == rest.partition("   ")[0]


def test_a_call_s_option_and_the_run_s_have_names_of_their_own(kernel):
    """seed= is sent, bench.seed= orders the run; every option of a run has such a name."""
    from nbllm.core.options import OPTIONS
    from nbllm.notebook.bench_magics import split_options

    options, rest = split_options("a/b seed=7 --bench.seed=3 bench.budget=0.5 bench.blocks=2")
    assert ({"seed": 3, "budget": 0.5, "blocks": 2}, "a/b seed=7") == (options, " ".join(rest.split()))
    assert {"asserts": ["contains: Paris", "json"]} == split_options(
        'asserts="contains: Paris" asserts=json'
    )[0]
    with pytest.raises(ConfigError, match="blocks is given twice"):
        split_options("a/b blocks=2 bench.blocks=3")
    clash = {o.name for o in OPTIONS if o.scope == "call"}
    for option in (o for o in OPTIONS if o.scope == "bench"):
        plain = option.name.removeprefix("bench.")
        assert [plain] * (plain in clash) == [w[:-2] for w in split_options(f"{plain}=1")[1].split()]
    line = "sim/openai@ttft=0.01,tokens=3 blocks=1 warmup=0 seed=7 bench.seed=3 out=seeded"
    ran = kernel.run(f"d = %llm bench {line}\nprint(list(seeded.params.unique()))")
    assert ran.ok, ran.error
    assert '"seed": 7' in ran.text
    assert "seed= is the call's" in kernel.run("%llm help bench").text
    assert "that each call sends" in kernel.run("%llm help bench.seed").text
