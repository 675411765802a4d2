"""%%llm each=df in a real kernel: columns for the table, a display, Stop, what is refused."""

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
FAST = "sim/openai@ttft=0.005,gap=0,tokens=3"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(NBLLM_HOME=str(tmp_path_factory.mktemp("home"))) as kernel:
        yield kernel


@pytest.fixture(autouse=True)
def table(kernel):
    assert kernel.run(
        "import pandas as pd; from concurrent.futures import ThreadPoolExecutor\n"
        "df = old = pd.DataFrame({'text': list('abcdef')}); pool = ThreadPoolExecutor(32)"
    ).ok


def test_the_table_gets_the_answers(kernel):
    """A new frame in the variable and in _llm; whoever holds the old one keeps it as it was."""
    ran = kernel.run(f"%%llm {FAST} each=df into=said\nSay {{text}}, and leave {{{{text}}}}.")
    assert ran.ok, ran.error
    assert [["text", "said", "llm_status", "llm_error", "llm_cost"], ["text"], True] == kernel.value(
        "[list(df.columns), list(old.columns), _llm is df]"
    )
    assert ["ok"] == kernel.value("sorted(set(df.llm_status))")
    assert "6 of 6 rows" in ran.text
    assert "application/vnd.jupyter.widget" not in str([m["content"] for m in ran.messages])


def test_a_schema_makes_columns_and_out_takes_the_frame(kernel):
    ran = kernel.run(f'%%llm made << {FAST} each=df schema="mood, stars int" run=r budget=2\nRate {{text}}')
    assert ran.ok, ran.error
    assert ["Int64", 6, False] == kernel.value(
        "[str(made.stars.dtype), int((made.llm_status == 'ok').sum()), 'mood' in df]"
    )
    assert kernel.run(f'%%llm made << {FAST} each=df schema="mood, stars int" run=r\nRate {{text}}').ok
    assert {"r": 6} == kernel.value("{r.run: r.ok for r in nbllm.rows.runs().itertuples() if r.run == 'r'}")


def test_rows_are_sent_by_an_executor(kernel):
    """That of the variable: the same columns, the same display."""
    kernel.run("used, submit = [], pool.submit\npool.submit = lambda *args: used.append(1) or submit(*args)")
    ran = kernel.run(f'%%llm {FAST} each=df executor=pool schema="mood, stars int" run=away\nRate {{text}}')
    assert ran.ok, ran.error
    assert [6, ["ok"], "Int64"] == kernel.value(
        "[len(used), sorted(set(df.llm_status)), str(df.stars.dtype)]"
    )
    assert "6 of 6 rows" in ran.text


@pytest.mark.parametrize("more", ["", "executor=pool"])
def test_stop_keeps_what_was_finished(kernel, more):
    """The cell fails in one line, the frame is there; also where others send, row by row."""
    kernel.run("df = pd.DataFrame({'text': [str(i) for i in range(600)]})")
    here = kernel.start(
        f"%%llm sim/openai@ttft=0.5,gap=0,tokens=2 each=df run=s{more[:4]} {more}\nSay {{text}}"
    )
    kernel.collect(here, until=lambda m: " a second" in str(m["content"]))
    kernel.interrupt()
    ran = kernel.collect(here)
    assert not ran.ok
    assert "Stopped" == ran.error["ename"]
    assert [True, True] == kernel.value("[0 < (df.llm_status == 'ok').sum() < 600, len(df) == 600]")


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_batch_fills_the_table(kernel, name):
    ran = kernel.run(f"%%llm sim/{name}@echo=1,batch_shuffle=1 each=df mode=batch into=said\nSay {{text}}")
    assert ran.ok, ran.error
    assert [True, ["ok"]] == kernel.value(
        "[all(s.strip() == f'Say {t}' for s, t in zip(df.said, df.text)), sorted(set(df.llm_status))]"
    )
    assert "6 of 6 rows" in ran.text


def test_a_batch_need_not_be_waited_for(kernel):
    """The prompt comes back with a job, the table stays; a new kernel finds the batch and its rows."""
    ran = kernel.run("%%llm job << sim/openai@echo=1 each=df mode=batch wait=false run=later\nSay {text}")
    assert ran.ok, ran.error
    assert "nbllm.rows.collect('later')" in ran.text
    assert True is kernel.value("df is old and _llm is job")
    assert kernel.run("there = %llm batches").ok
    assert [6] == kernel.value("list(there.query(\"run == 'later'\").rows)")
    assert kernel.run("made = %llm batches later df").ok
    assert [["ok"], [f"Say {c}" for c in "abcdef"]] == kernel.value(
        "[sorted(set(made.llm_status)), [a.strip() for a in made.answer]]"
    )
    for line in ("batches nobody", "batches later nobody", "batches later df more"):
        assert not kernel.run(f"%llm {line}").ok


def test_stop_ends_the_waiting_and_not_the_batch(kernel):
    here = kernel.start("%%llm sim/openai@batch_s=1000 each=df mode=batch run=slow\nSay {text}")
    kernel.collect(here, until=lambda m: "of 6 rows" in str(m["content"]))
    kernel.interrupt()
    ran = kernel.collect(here)
    assert not ran.ok
    assert "Stopped" == ran.error["ename"]
    assert ["pending"] == kernel.value("sorted(set(df.llm_status))")
    assert ["running"] == kernel.value("list(nbllm.rows.batches().query(\"run == 'slow'\").state)")
    assert "0 waiting" in kernel.run("print(get_ipython().run_line_magic('llm', 'batches cancel slow'))").text


@pytest.mark.parametrize(
    ("line", "body", "told"),
    [
        (f"{FAST} mode=batch", "{text}", "mode= is for the rows of a table"),
        (f"{FAST} wait=false", "{text}", "wait= is for rows in batches"),
        (f"{FAST} each=df wait=false", "{text}", "wait= is for rows in batches"),
        (f"{FAST} each=df mode=now wait=false", "{text}", "wait=False is for batches"),
        (f"{FAST} each=df mode=later", "{text}", "mode"),
        (f"{FAST} each=df mode=batch width=3", "{text}", "width= cannot be used with mode=batch"),
        (f"{FAST} each=df mode=batch budget=3", "{text}", "budget= cannot be used with mode=batch"),
        (f"{FAST} each=df mode=batch timeout=3", "{text}", "timeout= cannot be used with mode=batch"),
        ("sim/ollama each=df mode=batch", "{text}", "takes no batches"),
        (f"{FAST} each=nobody", "{text}", "there is no variable called nobody"),
        (f"{FAST} each=pd", "{text}", "pd is not a pandas DataFrame, but module"),
        (f"{FAST} each=df", "{txt}", "Did you mean {text}?"),
        (f"{FAST} each=df", "nothing", "uses no column"),
        (f"{FAST} each=df budget=0", "{text}", "budget is above 0"),
        (f"{FAST},{FAST} each=df", "{text}", "each cannot stand beside several models"),
        (f"{FAST} each=df runs=2", "{text}", "each cannot stand beside runs="),
        (f"{FAST} into=x", "{text}", "into= is for the rows of a table"),
        (f"{FAST} run=x", "{text}", "run= is for the rows of a table"),
        (f"{FAST} width=4", "{text}", "width= is for the rows of a table"),
        (f"{FAST} executor=pool", "{text}", "executor= is for the rows of a table"),
        (f"{FAST} each=df executor=nobody", "{text}", "there is no variable called nobody"),
        (f"{FAST} each=df executor=df", "{text}", ": executor= takes a concurrent.futures.Executor"),
        (f"{FAST} each=df executor={{pool}}", "{text}", "executor needs a variable's name"),
        (f"{FAST} each=df executor=pool mode=batch", "{text}", "mode=batch cannot stand beside executor="),
        (f"{FAST} each=df executor=pool key=pd", "{text}", "key cannot stand beside executor="),
        (f"{FAST} each=df executor=pool tools=len", "{text}", "tools cannot stand beside each="),
        ("cli/claude each=df executor=pool", "{text}", "cannot be used with executor="),
        ("m base_url=http://me:pw@127.0.0.1:1/v1 each=df executor=pool", "{text}", "contains a password"),
        *(
            (f"{FAST} each=df {word}", "{text}", f"{word.partition('=')[0]} cannot stand beside each=")
            for word in (
                *("chat=x", "bg=true", "tools=len", "def=f", "attach=old", "dry_run=true", "keep=true"),
                *("format=json", "render=plain", "fill=off"),
            )
        ),
    ],
)
def test_what_makes_no_sense_is_refused(kernel, line, body, told):
    """Before anything is sent; the table stays."""
    ran = kernel.run(f"%%llm {line}\n{body}")
    assert not ran.ok
    assert told in ran.error["evalue"], ran.error["evalue"]
    assert "executor" not in line or ran.error["evalue"].startswith("Column "), ran.error["evalue"]
    assert True is kernel.value("df is old")


def test_a_run_that_ends_early_fails_its_cell(kernel):
    """A key that is refused: with the reason, and how to go on."""
    ran = kernel.run("%%llm sim/openai@auth=right each=df run=early\nSay {text}")
    assert not ran.ok
    assert "ended early: AuthenticationError" in ran.error["evalue"]
    assert "resume('early')" in ran.error["evalue"]
    assert "llm_status" in kernel.value("list(df.columns)")


def test_a_cell_is_a_span_above_its_rows(kernel):
    """Where tracing is on: cell, rows, one call a row; and a plain cell above its call."""
    assert kernel.run(
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "kept, tracers = InMemorySpanExporter(), TracerProvider()\n"
        "tracers.add_span_processor(SimpleSpanProcessor(kept))\n"
        "nbllm.trace(tracer_provider=tracers)"
    ).ok
    assert kernel.run(f"%%llm {FAST} each=df run=traced\nSay {{text}}").ok
    assert kernel.run(f"%%llm {FAST} chat=talk\nhello").ok
    assert kernel.run("nbllm.trace(False); spans = kept.get_finished_spans()").ok
    assert kernel.run(
        "names = {s.context.span_id: s.name for s in spans}\n"
        "found = sorted((s.name.split()[0], names[s.parent.span_id] if s.parent else '') for s in spans)"
    ).ok
    # A conversation may take several turns
    agent = f"invoke_agent {FAST[4:].replace('openai', 'sim-openai')}"
    assert [
        *([["cell", ""]] * 2),
        ["chat", agent],
        *([["chat", "rows traced"]] * 6),
        ["invoke_agent", "cell"],
        ["rows", "cell"],
    ] == kernel.value("[list(f) for f in found]")
    assert ["talk"] == kernel.value("[a for s in spans if (a := s.attributes.get('nbllm.chat'))]")
