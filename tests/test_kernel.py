"""`%%llm` in a real kernel, against the simulator in this process, which knows what it sent and when it was
hung up on."""

import html
import random
import re
import subprocess
import sys
import time

import pytest

from nbllm import simulator

from .kernels import Kernel, Wire
from .processes import LONG, comes_to
from .simulated import simulator_environment

pytestmark = pytest.mark.kernel
CANARY = "sk-canary-5f3a9c1e7b2d4f6a8c0e"
FORMATS = {
    "openai/m": "OPENAI",
    "responses/m": "OPENAI",
    "claude/m": "ANTHROPIC",
    "gemini/m": "GEMINI",
    "ollama/m": "OLLAMA",
}


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.02, gap=0.002) as server:
        yield server


@pytest.fixture(scope="module")
def kernel(sim):
    with Kernel(**simulator_environment(sim, CANARY)) as k:
        yield k


@pytest.fixture(scope="module")
def headless(sim):
    with Kernel(front_end=False, **simulator_environment(sim, CANARY)) as k:
        yield k


def ask(prompt, model="openai/m", options=""):
    return f"%%llm {model} {options}\n{prompt}"


@pytest.mark.parametrize("model", FORMATS)
def test_every_format_streams_and_leaves_one_static_output(kernel, sim, model):
    """Updates come while the answer does; at the end there is one output, safe HTML with its text twin."""
    for gap in (0.01, 0.03, 0.1):  # a busy machine draws less of a quick answer
        ran = kernel.run(ask("Why is the sky blue?", f"{model}@tokens=60,gap={gap}", "out=answer"))
        assert ran.ok, ran.error
        if (drawn := [m["msg_type"] for m in ran.messages].count("update_display_data")) > 2:
            break
    assert drawn > 2
    assert ["display_data"] == [o["kind"] for o in ran.outputs]
    assert {"text/html", "text/plain"} == set(ran.outputs[0]["data"])
    assert sim.records[-1].status == 200
    text = kernel.value("answer.text")
    assert text.strip().splitlines()[0] in ran.text
    assert kernel.value("[answer.finish_reason, answer is _llm, answer.usage.output_tokens]") == [
        "stop",
        True,
        sim.records[-1].output_tokens,
    ]


def test_headless_only_the_final_output_is_sent(headless):
    """Where nobody watches (nbclient, papermill, nbval) there is one display_data and nothing else."""
    ran = headless.run(ask("hello"))
    assert ["display_data"] == [
        m["msg_type"] for m in ran.messages if m["msg_type"] not in ("status", "execute_input")
    ]


def test_names_and_fill(kernel, sim):
    """NAME <<, >> NAME, out=, {name}; the footer tells what was filled."""
    kernel.run("n = 3")
    ran = kernel.run("%%llm one << openai/m@echo=1\nSay {n} {{n + 1}} words, not {m}.")
    assert "Say 3 4 words, not {m}." == kernel.value("one.text")
    assert "filled n, n + 1" in ran.text
    kernel.run("%%llm openai/m >> two\nhello")
    assert kernel.value("two is _llm")


def test_it_is_the_cells_value_without_being_shown_twice(kernel):
    """Out and _ hold the response; the cell shows it once; another cell draws it again."""
    ran = kernel.run(ask("hello"))
    assert "execute_result" not in [m["msg_type"] for m in ran.messages]
    again = kernel.run("_llm")
    drawn = ran.outputs[0]["data"]["text/html"]
    place = re.compile("<div class=nbllm-acts id=nbllm-[0-9a-f]{32}></div>")  # the buttons are its cell's
    assert 1 == len(place.findall(drawn))
    assert place.sub("", drawn) == again.outputs[0]["data"]["text/html"]


def test_a_thousand_chunks_take_few_messages(sim):
    """At most 100 messages and 0.4 MB to the front end for an answer of 1,000 chunks."""
    with Kernel(**simulator_environment(sim, CANARY)) as k:
        wire = Wire(k)
        try:
            k.run("1")  # the socket is connected by now
            k.run(ask("x", "openai/m@tokens=20,gap=0.001"))
            wire.taken()
            ran = k.run(ask("x", "openai/m@tokens=1000,gap=0.002"))
            assert ran.ok
            k.run("1")
            taken = wire.taken()
        finally:
            wire.close()
    assert len([t for t, _ in taken if t in ("display_data", "update_display_data", "clear_output")]) <= 100
    assert sum(size for _, size in taken) <= 400_000


@pytest.mark.parametrize(
    ("model", "until"),
    [
        ("openai/m@tokens=2000,gap=0.01", "update_display_data"),
        ("claude/m@ttft=300", "display_data"),
        ("ollama/m@headers=300", "display_data"),
    ],
)
def test_stop_closes_the_socket_and_keeps_what_came(kernel, sim, model, until):
    """In mid-answer, before the first token, before the headers: closed at once (the browser's tests say how
    soon), one short error, the next call works."""
    seen, before = 0, len(sim.records)

    def shown(message):
        nonlocal seen
        seen += message["msg_type"] == until
        return seen >= (5 if until.startswith("update") else 1)

    parent = kernel.start(ask("x", model, "out=stopped"))
    kernel.collect(parent, shown)
    assert comes_to(before + 1, lambda: sim.records)  # what waits is drawn before the request is out
    kernel.interrupt()
    ran = kernel.collect(parent)
    assert not ran.ok
    assert "Stopped" == ran.error["ename"]
    assert len(str(ran.error["traceback"])) < 300
    assert kernel.value("stopped.finish_reason") == "cancelled"
    record = sim.settled(LONG)[-1]  # minutes before it would have ended
    assert record.aborted_ns is not None, "the server saw the connection close"
    text = kernel.value("stopped.text")
    assert text in "".join(c.text for c in record.chunks if c.kind == "content")
    if until.startswith("update"):
        assert text.strip()[:40] in ran.text
    assert kernel.run(ask("hello")).ok


def test_stop_halts_the_cells_that_wait(kernel):
    """Run All: what was queued behind a stopped cell does not run, and answers."""
    first = kernel.start(ask("x", "openai/m@tokens=2000,gap=0.01"))
    second = kernel.start("ran_after_stop = True")
    kernel.collect(first, lambda m: m["msg_type"] == "update_display_data")
    kernel.interrupt()
    kernel.collect(first)
    assert "aborted" == kernel._reply(second, time.monotonic() + LONG)["content"]["status"]
    assert kernel.value("'ran_after_stop' in globals()") is False


def test_run_all_answers_every_cell(kernel):
    """Cells queued behind each other are all answered."""
    cells = [
        kernel.start(ask(f"cell {i}", f"{model}@tokens=20", f"out=cell_{i}"))
        for i, model in enumerate(FORMATS)
    ]
    assert all(kernel.collect(c).ok for c in cells)
    assert kernel.value("all(globals()[f'cell_{i}'].text for i in range(5))")


STOPS_AT_IMPORTS = """
import sys
from IPython.core.interactiveshell import InteractiveShell

class Interrupted:
    def __init__(self):
        self.seen = set()
    def find_spec(self, name, path=None, target=None):
        if name.startswith("nbllm.") and name not in self.seen:
            self.seen.add(name)
            raise KeyboardInterrupt

shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "nbllm")
shell.showtraceback = lambda *args, **kwargs: None
sys.meta_path.insert(0, stop := Interrupted())
for cell in CELLS:
    for _ in range(500):
        ended = shell.run_cell(cell)
        if ended.error_in_exec is None:
            break
        assert type(ended.error_in_exec).__name__ == "Stopped", (ended.error_in_exec, sorted(stop.seen))
    else:
        raise AssertionError("it never ended")
print(len(stop.seen), shell.user_ns["a"].text)
"""


@pytest.mark.parametrize(
    "cell",
    [
        "%%llm sim/openai@echo=1 out=b\nhello",
        "b = %llm ask -m sim/openai hello",
        "%%llm_bench b << sim/openai blocks=1\nhello",
    ],
)
def test_stop_while_a_part_is_loaded(cell):
    """At whichever import the interrupt comes, the cell ends as stopped cells do, and runs when it is run
    again."""
    cells = [cell, "%%llm sim/openai@echo=1 out=a\nhello"]
    program = STOPS_AT_IMPORTS.replace("CELLS", repr(cells))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == ran.returncode, ran.stderr[-3000:]
    seen, text = ran.stdout.splitlines()[-1].split()
    assert int(seen) > 40
    assert "hello" == text


def test_sixty_stops_at_random_moments(kernel, sim):
    """No open socket, no lost text, a working kernel. On a busy machine Stop may come before the cell's code:
    then the interrupt is IPython's own, and nothing of ours is in it."""
    rng, stopped = random.Random(7), 0
    for i in range(60):
        parent = kernel.start(ask(f"storm {i}", "openai/m@tokens=3000,gap=0.002,ttft=0.05", "out=stormed"))
        kernel.collect(parent, lambda m: m["msg_type"] == "execute_input")
        until = time.monotonic() + rng.uniform(0.02, 0.35)
        while time.monotonic() < until:
            try:
                kernel.client.get_iopub_msg(timeout=max(0.001, until - time.monotonic()))
            except Exception:  # noqa: BLE001 - nothing came, which is what is waited for
                break
        kernel.interrupt()
        ran = kernel.collect(parent, timeout=60)
        stopped += ran.error["ename"] == "Stopped"
        before = ran.error["ename"] == "KeyboardInterrupt" and "nbllm" not in str(ran.error["traceback"])
        assert before or ran.error["ename"] == "Stopped", ran.error
    assert stopped > 30
    assert kernel.run(ask("hello")).ok
    assert not [r for r in sim.settled(LONG) if r.end_ns is None and r.aborted_ns is None]
    assert kernel.value("stormed.finish_reason") == "cancelled"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("status=401", "AuthenticationError"),
        ("status=429,retry_after=0", "RateLimited"),
        ("status=500", "ServerError"),
        ("cut=5", "StreamCut"),
        ("error=5", "Error"),
    ],
)
def test_a_failed_call_fails_the_cell_in_a_few_lines(kernel, options, words):
    """What, the provider's own words, what to do; never a traceback of ours, never the key."""
    ran = kernel.run(ask("x", f"openai/m@{options}", "retries=0 out=failed"))
    assert not ran.ok
    assert words in ran.error["ename"]
    assert len(ran.error["traceback"]) <= 5
    assert CANARY not in str(ran.messages) + str(ran.reply)
    if options in ("cut=5", "error=5"):
        assert kernel.value("failed.text")


def test_retries_are_seen_and_work(kernel):
    """A call that fails twice and then works is an answer; its footer tells the attempts."""
    ran = kernel.run(ask("flaky once", "openai/m@status=503,fail_times=2,retry_after=0"))
    assert ran.ok, ran.error
    assert "3 attempts" in ran.text


def test_a_wrong_option_names_column_and_neighbour(kernel):
    """One line and what was meant."""
    ran = kernel.run("%%llm openai/m temprature=0\nx")
    assert "Column 10" in ran.error["evalue"]
    assert "temperature" in ran.error["evalue"]


@pytest.mark.parametrize(
    ("form", "expected"), [("text", "<script>"), ("html", "<script>"), ("md", "<script>")]
)
def test_what_the_model_wrote_is_text(kernel, form, expected):
    """HTML in an answer reaches the front end escaped in every format."""
    ran = kernel.run(
        ask("<script>alert(1)</script><img src=x onerror=alert(2)>", "openai/m@echo=1", f"format={form}")
    )
    assert expected not in ran.html
    assert expected in html.unescape(re.sub("<[^>]*>", "", ran.html))
    assert "<img" not in ran.html


def test_structured_and_formats(kernel):
    """schema= in its short form gives JSON that json can read."""
    kernel.run('%%llm city << openai/m schema="name, population int" format=json\nOslo')
    assert {"name", "population"} == set(kernel.value("__import__('json').loads(city.text)"))


def test_lines(kernel):
    """use, ping, alias, key, last, again, help, models, providers answer."""
    assert "temperature=0.0" in kernel.run("%llm use openai/m temperature=0").text
    assert kernel.run("%%llm\nhello").ok
    assert "openai/m" in kernel.run("%llm alias quick openai/m").text
    assert kernel.run("%%llm quick\nhello").ok
    assert "OPENAI_API_KEY" in kernel.run("%llm key openai").text
    assert "first token" in kernel.run("%llm ping openai/m claude/m").text
    assert kernel.run("%llm again claude/m").ok
    assert kernel.run("%llm last").html
    assert "temperature" in kernel.run("%llm help").text
    assert "gemini" in kernel.run("%llm providers").text
    assert kernel.run("%llm models openai/").ok
    assert "pong" in kernel.run("x = %llm ask -m openai/m@echo=1 pong").text
    assert "pong" == kernel.value("x.text")
    for word in ("none", "off", "reset"):
        assert "temperature=1.0  (%llm use none: drop them)" in kernel.run("%llm use temperature=1").text
        assert "No defaults" in kernel.run(f"%llm use {word}").text
        assert "none (model=auto)" in kernel.run("%llm use").text
    assert not kernel.run("%llm pong").ok


def test_a_question_may_end_in_a_question_mark(kernel):
    """IPython's own reading of a last `?` does not swallow a question; %llm? is still its help."""
    assert kernel.run("why = %llm ask -m openai/m@echo=1 why is the sky blue?").ok
    assert "why is the sky blue?" == kernel.value("why.text")
    assert kernel.run("%llm ask -m openai/m@echo=1 really??").ok
    assert "really??" == kernel.value("_llm.text")
    assert "Ask a language model" in str(kernel.run("%llm?").reply["content"]["payload"])


def test_auto_says_in_the_cell_what_it_chose(kernel):
    """The line of figures names the choice and its reason."""
    assert "auto chose openai" in kernel.run(ask("hello", "auto")).text


def test_dry_run_and_quiet(kernel, sim):
    """dry_run sends nothing and masks the key; quiet shows nothing."""
    before = len(sim.records)
    ran = kernel.run(ask("hello", "openai/m", "-n"))
    assert before == len(sim.records)
    assert "•••" in ran.text
    assert '"content": "hello"' in ran.text
    assert [] == kernel.run(ask("hello", "openai/m", "-q")).outputs


def test_tab_completes_models_options_and_names(kernel):
    """Models with a hint whether a key is there, options, values, subcommands, variables in braces."""

    def offered(code):
        reply = kernel.client.complete(code, len(code), reply=True, timeout=60)["content"]
        return {
            m: t["type"]
            for m, t in zip(reply["matches"], reply["metadata"]["_jupyter_types_experimental"], strict=True)
        }

    kernel.run("my_name = 1")
    assert "model,\u00a0key\u00a0found" == offered("%%llm model=gemini/p")["gemini/pro"]
    assert "gemini/pro" in offered("%%llm gemini/")
    assert "temperature=" in offered("%%llm gemini/pro temp")
    assert {"json"} == set(offered("%%llm format=js"))
    assert "providers" in offered("%llm prov")
    assert "my_name" in offered("%%llm gemini/pro\nSay {my_")


def test_other_magics_and_nested_loops(kernel):
    """%%time and %%capture work around a cell; await and nested loops of the person's own do too."""
    assert kernel.run("%%time\n%llm ask -m openai/m hello").ok
    assert kernel.run("%%capture caught\n%llm ask -m openai/m hello").ok
    assert "Hello" in kernel.run("caught.show()").text
    assert kernel.run("import nbllm\nawaited = (await nbllm.stream('hello', model='openai/m')).text").ok
    assert kernel.run("blocking = nbllm.complete('hello', model='openai/m').text").ok
    assert kernel.value("awaited == blocking != ''")


def test_loading_brings_nothing_heavy(sim):
    """%load_ext nbllm imports no pandas, pydantic, ipywidgets and the like."""
    with Kernel(prepare="", **simulator_environment(sim, CANARY)) as k:
        k.run("import sys\nbefore = set(sys.modules)")
        k.run("%load_ext nbllm")
        heavy = k.value(
            "sorted({m.partition('.')[0] for m in set(sys.modules) - before} & {'pandas', 'matplotlib', "
            "'pydantic', 'ipywidgets', 'numpy', 'genai_prices', 'mcp'})"
        )
        assert [] == heavy
        k.run("%unload_ext nbllm")
        assert not k.run("%llm help").ok


def test_nest_on_is_asked_for(sim):
    """%llm nest on lets asyncio.run work in a cell, says what it costs, and %%llm goes on working."""
    with Kernel(**simulator_environment(sim, CANARY)) as k:
        assert not k.run("import asyncio\nasyncio.run(asyncio.sleep(0))").ok
        ran = k.run("%llm nest on")
        assert "price" in ran.text, ran.error
        assert k.run("asyncio.run(asyncio.sleep(0))").ok
        assert k.run(ask("hello")).ok


def test_a_key_can_be_typed_hidden(sim):
    """%llm key asks where there is none, without showing it; the next call uses it; unset forgets it."""
    with Kernel(OPENAI_BASE_URL=sim.base_url("openai_chat")) as k:
        assert "OPENAI_API_KEY is not set" in k.run(ask("hello")).error["evalue"]
        parent = k.start("%llm key openai")
        asked = k.client.get_stdin_msg(timeout=60)
        assert asked["content"]["password"] is True
        k.client.input(CANARY)
        typed = k.collect(parent)
        assert typed.ok, typed.error
        answered = k.run(ask("hello", "openai/m@auth=1"))
        assert answered.ok, answered.error
        where = k.run("%llm key where openai")
        assert "this session" in where.text
        assert "canary" not in str(typed.messages) + str(answered.messages) + str(where.messages)
        k.run("%llm key unset openai")
        assert not k.run(ask("hello")).ok


def test_nobody_is_asked_where_nobody_can_answer(sim):
    """A headless run says which variable to set."""
    with Kernel(front_end=False, OPENAI_BASE_URL=sim.base_url("openai_chat")) as k:
        assert "OPENAI_API_KEY" in k.run("%llm key openai").error["evalue"]


def test_attachments_reach_the_provider(kernel, sim, tmp_path):
    """Files by type and variables go with the prompt."""
    (tmp_path / "note.txt").write_text("remember the milk")
    ran = kernel.run(ask("hello", "openai/m", f"-a {tmp_path / 'note.txt'} -n"))
    assert "remember the milk" in ran.text
    kernel.run("picture = bytes.fromhex('89504e470d0a1a0a')")
    assert "data:image/png;base64" in kernel.run(ask("hello", "openai/m", "-a picture -n")).text
    assert "inlineData" in kernel.run(ask("hello", "gemini/m", "-a picture -n")).text
    assert "not a file" in kernel.run(ask("hello", "openai/m", "-a nothing.here")).error["evalue"]


def test_no_key_shows_anywhere(sim):
    """Errors, tracebacks in their most talkative mode, logs and outputs hold no key, even where the provider
    echoes it."""
    with Kernel(
        prepare="%load_ext nbllm\n%xmode Verbose\nimport logging\nlogging.basicConfig(level=logging.DEBUG)",
        **simulator_environment(sim, CANARY),
    ) as k:
        cells = [
            ask("hello"),
            ask("x", "openai/m@status=401", "retries=0"),
            ask("x", "gemini/m@status=400", "retries=0"),
            ask("x", "claude/m@cut=2", "retries=0"),
            ask("hello", "openai/m", "-n"),
            "%llm providers",
            "%llm key openai",
            "_llm",
            "import nbllm\nvars(nbllm.default_client())",
            "nbllm.complete('x', model='openai/m@status=401', retries=0)",
            "nbllm.complete('x', model='openai/m@status=500', retries=0, "
            "api_key=__import__('os').environ['OPENAI_API_KEY'])",
            "s = nbllm.stream('x', model='claude/m')\ns, s.response(), s.trace, s.log, vars(s)",
            "nbllm.complete('x', model='openai/m', temperature='hot', top_p={1})",
            "nbllm.default_client().registry.key_for(nbllm.default_client().resolve('openai/m'), None)",
            "%llm nope",
            "%%llm openai/m key=OPENAI_API_KEY\n{{1/0}}",
        ]
        out = "".join(str(k.run(c).messages) for c in cells)
    assert "canary" not in out
