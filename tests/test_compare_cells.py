"""Several answers side by side, in a real kernel."""

import re
from html.parser import HTMLParser

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
PAIR = ["sim/openai@text=Alpha%20speaks,ttft=0.05", "sim/anthropic@text=Beta%20speaks,ttft=0.1"]


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def headless():
    with Kernel(front_end=False) as kernel:
        yield kernel


def ask(kernel, line, prompt="Why?"):
    return kernel.run(f"%%llm {line}\n{prompt}")


def test_both_answers_stand_side_by_side_and_one_output_is_left(kernel):
    """One display in the end, each answer under its name, with its own figures; the variable is the
    comparison."""
    ran = ask(kernel, f"{','.join(PAIR)} out=cmp")
    assert ran.ok, ran.error
    assert 1 == len(ran.outputs)
    assert 2 == ran.html.count("<td class=nbllm-col ")
    assert ran.html.index("Alpha") < ran.html.index("Beta")
    assert 1 == ran.html.count("to first token") == ran.text.count("to first token")
    assert ["Alpha speaks", "Beta speaks"] == kernel.value("[r.text for r in cmp]")


class Plain(HTMLParser):
    """What is left of an output where styles, classes and ids are taken away: tables as lists of rows."""

    def __init__(self, source):
        super().__init__()
        self.tables, self.open, self.styled = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
            self.open.append(self.tables[-1])
        elif tag == "tr":
            self.open[-1].append([])
        elif tag in ("td", "th"):
            self.open[-1][-1].append("")
        self.styled = tag == "style"

    def handle_endtag(self, tag):
        self.styled = False
        if tag == "table":
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] and self.open[-1][-1] and not self.styled:
            self.open[-1][-1][-1] += data


@pytest.mark.parametrize(("number", "rows"), [(2, [2]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])])
def test_without_styles_the_columns_are_a_table(kernel, number, rows):
    """As GitHub and an untrusted notebook show it: at most four answers in a row, each under its name, and
    one table of figures with a row for each."""
    models = [f"sim/openai@text=Answer%20{i},ttft=0.01" for i in range(number)]
    ran = ask(kernel, ",".join(models))
    columns, figures = Plain(ran.html).tables
    assert rows == [len(row) for row in columns]
    cells = [cell for row in columns for cell in row]
    assert all(
        m in cell and f"Answer {i}" in cell for i, (m, cell) in enumerate(zip(models, cells, strict=True))
    )
    assert models == [row[0] for row in figures[1:]]
    assert ["", "to first token", "total"] == figures[0][:3]
    assert "cost" not in figures[0], "simulated answers have none"
    assert number + 2 == sum(line.startswith("|") for line in ran.text.splitlines())
    assert ran.html.count("<small>") == number + 1


def test_the_best_figures_are_marked_and_failures_are_none_of_them(kernel):
    """The quickest by far, of those that answered whole; a stopped or failed one is never the best."""
    slow, quick = "sim/openai@text=Slow,ttft=1.5", "sim/openai@tokens=40,ttft=0.01,gap=0.001"
    html = ask(kernel, f"{slow},sim/openai@status=401,{quick},sim/openai@cut=1,ttft=0").html
    _, figures = re.findall(r"(?s)<table.*?</table>", html)
    rows = re.findall(r"(?s)<tr>(.*?)</tr>", figures)[1:]
    assert [False, False, True, False] == ["<b>" in row for row in rows]


def test_the_frame_has_a_row_for_each(kernel):
    """Model, text, times, tokens; NA where nothing is known."""
    ask(kernel, f"{PAIR[0]},sim/openai@status=401 out=cmp")
    assert [PAIR[0], "sim/openai@status=401"] == kernel.value("cmp.labels")
    assert ["Alpha speaks", ""] == kernel.value("list(cmp.df['text'])")
    assert [False, True] == kernel.value("[bool(x) for x in cmp.df['ttft_s'].isna()]")
    assert [True, False] == kernel.value("[bool(x) for x in cmp.df['error'].isna()]")


def test_one_that_fails_shows_why_and_does_not_hurt_the_other(kernel):
    """The cell succeeds; the error stands in its column, with what to do."""
    ran = ask(kernel, f"sim/openai@status=401,{PAIR[1]}")
    assert ran.ok
    assert "Beta speaks" in ran.text
    assert "AuthenticationError" in ran.text


def test_a_name_that_leads_nowhere_is_a_failed_column_too(kernel):
    """What is wrong on this side must not keep the others from answering."""
    ran = ask(kernel, f"nowhere/at-all,{PAIR[0]}")
    assert ran.ok
    assert "Alpha speaks" in ran.text
    assert "nowhere/at-all" in ran.text


def test_all_failing_fails_the_cell(kernel):
    """Run All must stop."""
    ran = ask(kernel, "sim/openai@status=401,sim/gemini@status=401")
    assert not ran.ok
    assert "AuthenticationError" == ran.error["ename"]


def test_the_columns_grow_at_the_same_time(kernel):
    """A frame shows both answers unfinished."""
    pair = "sim/openai@tokens=60,gap=0.02,ttft=0.05,sim/gemini@tokens=60,gap=0.02,ttft=0.05"
    ran = ask(kernel, pair)
    frames = [
        m["content"]["data"]["text/plain"]
        for m in ran.messages
        if m["msg_type"] in ("update_display_data", "display_data")
    ]
    assert any(frame.count("to first token ·") == 2 for frame in frames[:-1])
    assert ran.ok


def test_stop_ends_all_and_keeps_what_came(kernel):
    """The Stop button in the middle: both partial answers are shown and kept, and the cell fails in one
    line."""
    parent = kernel.start(
        "%%llm sim/openai@tokens=2000,gap=0.02,sim/ollama@tokens=2000,gap=0.02 out=cut\nGo on."
    )
    seen = kernel.collect(
        parent,
        until=lambda m: (
            m["msg_type"] == "update_display_data"
            and m["content"]["data"]["text/plain"].count("to first token ·") == 2
        ),
    )
    kernel.interrupt()
    ran = kernel.collect(parent)
    assert seen.messages
    assert not ran.ok
    assert "Stopped. The partial answer is in cut." in "".join(ran.error["traceback"])
    assert [True, True] == kernel.value(
        "[0 < len(r.text) < 8000 and r.finish_reason == 'cancelled' for r in cut]"
    )


def test_runs_and_temperatures_make_columns(kernel):
    """Every model, at every temperature, so many times; labels tell them apart."""
    ran = ask(kernel, "sim/openai@tokens=3 runs=2 temperature=0,0.7 out=cmp")
    assert ran.ok, ran.error
    label = "sim/openai@tokens=3"
    assert [f"{label} t=0 #1", f"{label} t=0 #2", f"{label} t=0.7 #1", f"{label} t=0.7 #2"] == kernel.value(
        "cmp.labels"
    )
    assert [0.0, 0.0, 0.7, 0.7] == kernel.value("[r.request.temperature for r in cmp]")


def test_too_many_columns_are_refused(kernel):
    """With what to use instead."""
    ran = ask(kernel, "sim/openai runs=40")
    assert "bench" in "".join(ran.error["traceback"])


def test_again_elsewhere_adds_a_column(kernel):
    """After one answer, and after several."""
    ask(kernel, PAIR[0])
    ran = kernel.run(f"both = %llm again {PAIR[1]}")
    assert ran.ok, ran.error
    assert [PAIR[0], PAIR[1]] == kernel.value("both.labels")
    assert ran.text.index("Alpha") < ran.text.index("Beta")
    kernel.run("three = %llm again sim/gemini@tokens=2")
    assert 3 == kernel.value("len(three)")


def test_as_a_value_it_draws_itself(headless):
    """In another cell; and headless, a single output with the text of all."""
    ran = ask(headless, f"{','.join(PAIR)} out=cmp")
    assert 1 == len(ran.outputs)
    assert "Alpha speaks" in ran.text
    ran = headless.run("cmp")
    assert 2 == ran.html.count("<td class=nbllm-col ")
    assert "## " + PAIR[0] in ran.text


def test_what_a_model_writes_stays_in_its_column(kernel):
    """Markup that would close our boxes does not."""
    evil = "%3C%2Fdiv%3E%3C%2Fdiv%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    ran = ask(kernel, f"sim/openai@text={evil},{PAIR[1]}")
    assert "<script" not in ran.html
    assert ran.html.count("<div") == ran.html.count("</div>")


def test_the_log_has_a_row_for_each_call(kernel):
    """%llm log: the calls of this notebook in the columns of a benchmark."""
    kernel.run(
        "import nbllm; from nbllm.store.ledger import Ledger; nbllm.default_client().ledger = Ledger()"
    )
    ask(kernel, f"{PAIR[0]},sim/openai@status=401")
    ran = kernel.run("log = %llm log")
    assert ran.ok, ran.error
    assert [["auth", "ok"], 2] == kernel.value("[sorted(log['status']), len(log)]")
    kernel.run("log = %llm log n=1 all")
    assert [1, True] == kernel.value("[len(log), 'ns_tls0' in log]")


def test_an_output_says_where_it_comes_from(kernel):
    """In its metadata, which is saved: model asked and answered, parameters, the prompt's hash, usage,
    version, time; no key, no prompt."""
    ran = kernel.run("%%llm sim/openai@tokens=4 temperature=0\nA secret prompt.")
    (about,) = [o["metadata"]["nbllm"] for o in ran.outputs if "nbllm" in o.get("metadata", {})]
    assert ({"temperature": 0.0}, 4, True) == (
        about["params"],
        about["usage"]["output_tokens"],
        about["simulated"],
    )
    assert {"model", "answered", "prompt_sha", "nbllm", "time"} <= set(about)
    assert "secret" not in str(about)
    ran = ask(kernel, ",".join(PAIR))
    assert 2 == len(ran.outputs[0]["metadata"]["nbllm"])


def test_what_the_calls_came_to(kernel):
    """%llm cost: a line a model, and all of them."""
    kernel.run("from nbllm.store.ledger import Ledger; nbllm.default_client().ledger = Ledger()")
    ask(kernel, f"{PAIR[0]},sim/openai@status=401")
    ran = kernel.run("spent = %llm cost")
    assert ran.ok, ran.error
    assert [[PAIR[0], "sim/openai@status=401", "all"], 2, 1] == kernel.value(
        "[list(spent.index), int(spent.loc['all', 'calls']), int(spent.loc['all', 'failed'])]"
    )
