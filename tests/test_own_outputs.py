"""An answer replaces its own displays and nothing else in its cell, with and without a front end; in real
kernels."""

import re

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
RUN = "run = get_ipython().run_cell_magic"
LONG = "sim/openai@tokens=400,gap=0.0005,ttft=0.01"  # long enough for displays that are frozen
ONE, TWO = "sim/openai@echo=1", "sim/anthropic@echo=1"


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        assert kernel.run(RUN).ok
        yield kernel


@pytest.fixture(scope="module")
def headless():
    with Kernel(front_end=False) as kernel:
        assert kernel.run(RUN).ok
        yield kernel


def shown(ran):
    """Kind and words of each output, what was printed without a break as one; figures differ from run to
    run."""
    found = []
    for o in ran.outputs:
        words = re.sub(
            r"^\|.*\n?|[\d.,]+ (?:[mμn]?s|min)\b.*|127.0.0.1:\d+",
            "",
            o.get("text") or o.get("ename") or o["data"]["text/plain"],
            flags=re.MULTILINE,
        )
        before = found.pop()[1] if found and found[-1][0] == o["kind"] == "stream" else ""
        found.append((o["kind"], before + words))
    return found


CELLS = {
    "a print before": (f"print('before')\nrun('llm', {ONE!r}, 'hi')", ["before", "hi"]),
    "a print before a long answer": (
        f"print('before')\nrun('llm', {LONG!r}, 'At length.')",
        ["before", "This is a simulated"],
    ),
    "prints around answers": (
        f"for c in 'abc':\n    print(f'before {{c}}')\n    run('llm', {ONE!r}, f'answer {{c}}')\n    "
        f"print(f'after {{c}}')",
        ["before a", "answer a", "after a\nbefore b", "answer b", "after b\nbefore c", "answer c", "after c"],
    ),
    "two lines": (f"a = %llm ask -m {ONE} one\nb = %llm ask -m {TWO} two", ["one", "two"]),
    "two lines, the second fails": (
        f"a = %llm ask -m {ONE} one\nb = %llm ask -m sim/openai@status=401 two",
        ["one", "⚠ AuthenticationError", "AuthenticationError"],
    ),
    "a display before": (
        f"from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))\nrun('llm', {LONG!r}, 'At "
        f"length.')",
        ["HTML", "This is a simulated"],
    ),
    "columns after a print": (
        f"print('before')\nrun('llm', '{ONE},{TWO}', 'hi')\nprint('after')",
        ["before", "## sim", "after"],
    ),
    "columns after an answer": (
        f"run('llm', {ONE!r}, 'first')\nrun('llm', '{ONE},{TWO}', 'second')",
        ["first", "## sim"],
    ),
    "an answer and its repeat": (f"run('llm', {ONE!r}, 'hi')\nx = %llm again", ["hi", "hi"]),
    "an error that is caught": (
        "print('before')\ntry:\n    run('llm', 'sim/openai@status=401', 'hi')\nexcept Exception:\n    "
        "print('caught')",
        ["before", "⚠ AuthenticationError", "caught"],
    ),
    "a frame": (
        "print('before')\nrun('llm', 'sim/openai schema=\"[name, n int]\" as=df', 'hi')\nprint('after')",
        ["before", "name", "after"],
    ),
    "a conversation": (
        f"run('llm', '{ONE} chat=own', 'hi')\nrun('llm', '{ONE} chat=own', 'there')",
        ["hi", "there"],
    ),
    "a note of ours": (
        f"%%llm {ONE}\n`{{{{missing_name}}}}` hi",
        ["`{{missing_name}}` hi"],
    ),
    "an expression that prints": (f"%%llm {ONE}\n{{{{print('printed') or 5}}}} hi", ["printed", "5 hi"]),
    "an answer cut": (
        "print('before')\nrun('llm', 'sim/openai@cut=30 retries=0', 'hi')",
        ["before", "This is a simulated", "StreamCut"],
    ),
    "a value of the cell": (
        f"print('before')\na = run('llm', {ONE!r}, 'hi')\nb = run('llm', {ONE!r}, 'there')\na",
        ["before", "hi", "there"],
    ),
    "the user's own clearing": (
        f"from IPython.display import clear_output\nprint('before')\nclear_output()\nrun('llm', {ONE!r}, "
        f"'hi')\nprint('after')",
        ["hi", "after"],
    ),
    "clearing when the answer comes": (
        f"from IPython.display import clear_output\nprint('before')\nclear_output(wait=True)\nrun('llm', "
        f"{ONE!r}, 'hi')\nprint('after')",
        ["hi", "after"],
    ),
    "%%time": (f"%%time\nrun('llm', {ONE!r}, 'hi')", ["hi", "CPU times"]),
}


@pytest.mark.parametrize("cell", CELLS)
def test_all_that_a_cell_shows_stays(kernel, headless, cell):
    """In its order, one output for each answer, no display that was used on the way; as where nobody
    watches."""
    code, expected = CELLS[cell]
    outputs = shown(kernel.run(code))
    assert len(expected) == len(outputs), outputs
    assert all(
        text.strip().startswith(want.strip()) or want in text
        for (_, text), want in zip(outputs, expected, strict=True)
    ), outputs
    assert outputs == shown(headless.run(code))


def test_it_is_drawn_while_it_comes_beside_other_outputs(kernel):
    """Updates of its own display, within the budget of any answer."""
    for gap in (0.005, 0.02, 0.05):  # a busy machine draws less of a quick answer
        ran = kernel.run(f"print('before')\nrun('llm', 'sim/openai@tokens=300,gap={gap}', 'At length.')")
        kinds = [m["msg_type"] for m in ran.messages]
        if kinds.count("update_display_data") > 5:
            break
    assert kinds.count("update_display_data") > 5
    assert 0 == kinds.count("clear_output")
    assert 1 == kinds.count("display_data")
    assert {"text/html", "text/plain"} == set(ran.outputs[1]["data"])
    assert "simulated" in str(ran.outputs[1]["metadata"]["nbllm"])


def test_an_answer_in_an_output_widget(kernel):
    """Where no update comes through, it is shown once, when it is there; what the widget held stays."""
    ran = kernel.run(
        f"import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('before')\n    a = run('llm', "
        f"{LONG!r}, 'At length.')\n    print('after')\nprint('outside')"
    )
    assert ran.ok, ran.error
    words = [o.get("text") or o["data"]["text/plain"] for o in ran.captured]
    assert ["before\n", "after\n"] == [words[0], words[2]]
    assert "to first token" in words[1]
    assert "outside\n" == ran.text
    ran = kernel.run(
        f"with out:\n    run('llm', '{ONE},{TWO}', 'columns')\n    run('llm', '{ONE} bg=true', 'background')"
    )
    assert ["## sim/openai@echo=1", "background"] == [
        o["data"]["text/plain"].splitlines()[0] for o in ran.captured
    ]
    ran = kernel.run(f"run('llm', {ONE!r}, 'hi')")
    assert 1 == len(ran.outputs), "the widget is left"


def test_a_background_answer_leaves_its_cell_alone(kernel):
    """Two of them and a print between, in one cell."""
    wait = "import threading\n[t.join() for t in threading.enumerate() if t.name == 'nbllm-background']"
    ran = kernel.run(
        f"print('a')\nrun('llm', '{ONE} bg=true out=p', 'one')\nprint('b')\nrun('llm', '{TWO} bg=true "
        f"out=q', 'two')\nprint('c')\n{wait}\nprint('d')"
    )
    assert ran.ok, ran.error
    ran.messages += [m for m in kernel.others if m["msg_type"] == "update_display_data"]
    assert ["a", "one", "b", "two", "c\nd"] == [
        text.strip()
        .removeprefix("## sim/openai@echo=1")
        .removeprefix("## sim/anthropic@echo=1")
        .strip()
        .split("\n\n")[0]
        for _, text in shown(ran)
    ]
    assert ["one", "two"] == kernel.value("[p.text, q.text]")


def test_a_cell_that_is_one_answer_is_as_before(kernel):
    """One output, frozen on the way."""
    ran = kernel.run(f"%%llm {LONG}\nAt length.")
    kinds = [m["msg_type"] for m in ran.messages]
    assert 1 == kinds.count("clear_output")
    assert ["display_data"] == [o["kind"] for o in ran.outputs]
    again = kernel.run(f"\n%%llm {LONG}\nAt length.")
    assert ["display_data"] == [o["kind"] for o in again.outputs]


NOISE = """
import sys, threading
done = threading.Event()
def say(where):  # as a progress bar does, or a library that logs
    for i in range(40):
        print(f'noise {i}', file=where, flush=True)
        done.wait(0.02)
def begin(*_):
    print('from a hook')
    thread.start()
"""


@pytest.mark.parametrize("where", ["sys.stdout", "sys.stderr"])
@pytest.mark.parametrize(
    "line", [LONG.replace("0.0005", "0.003"), LONG.replace("0.0005", "0.003") + ",sim/anthropic@echo=1", ONE]
)
def test_what_others_print_stays(kernel, line, where):
    """A hook before the cell, and a thread while the answer comes: whatever was sent for this cell is still
    there."""
    assert kernel.run(NOISE).ok
    kernel.run(
        f"thread = threading.Thread(target=say, "
        f"args=({where},))\nget_ipython().events.register('pre_run_cell', begin)"
    )
    ran = kernel.run(f"%%llm {line}\nAt length.")
    kernel.run("done.set()\nthread.join()\nget_ipython().events.unregister('pre_run_cell', begin)")
    assert "from a hook" in ran.text
    sent = "".join(m["content"]["text"] for m in ran.messages if m["msg_type"] == "stream")
    assert "noise 1" in sent
    assert sent == "".join(o["text"] for o in ran.outputs if o["kind"] == "stream")
    answers = [
        o["data"]["text/plain"] for o in ran.outputs if o["kind"] != "stream" and o["data"]["text/plain"]
    ]
    assert 1 == len(answers), answers
    assert "to first token" in answers[0]


def test_what_is_printed_when_blocks_are_frozen_already_stays(kernel):
    """The first display becomes the final form, what was frozen after it is empty."""
    kernel.run(
        NOISE + "\nheard = threading.Event()\ndef late():\n    heard.wait(30)\n    print('late words', "
        "flush=True)\nthread = threading.Thread(target=late)"
    )
    kernel.run(
        "begin = lambda *_: thread.is_alive() or thread.ident or thread.start()\n"
        "get_ipython().events.register('pre_run_cell', begin)"
    )
    kernel.run(
        "def frozen(message):\n    shown.add(message['content'].get('transient', {}).get('display_id'))\n  "
        "  if len(shown) > 1:\n        heard.set()\n    return message\n"
        "shown = set()\nget_ipython().display_pub.register_hook(frozen)"
    )
    ran = kernel.run("%%llm sim/openai@tokens=500,gap=0.006\nAt length.")
    kernel.run("get_ipython().display_pub.unregister_hook(frozen)")
    kernel.run("get_ipython().events.unregister('pre_run_cell', begin)")
    assert "late words" in "".join(o["text"] for o in ran.outputs if o["kind"] == "stream")
    answers = [o["data"]["text/plain"] for o in ran.outputs if o["kind"] != "stream"]
    assert "to first token" in answers[0]
    assert len(answers) > 1
    assert {""} == set(answers[1:])
