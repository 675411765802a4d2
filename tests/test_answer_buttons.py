"""The buttons below an answer, in a real kernel: messages of the page, whatever they contain."""

import json

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel

# Presses, and waits for the end of what that begins.
PRESS = """
from nbllm.notebook.session import current_session
import threading
_s = current_session()
def press(type, **more):
    _s.actions._on_message(None, {"type": type, **more}, [])
    for thread in threading.enumerate():
        if thread.name == "nbllm-again":
            thread.join(30)
def last():
    return list(_s.actions.slots)[-1]
def told():
    return _s.actions._build_offer(last(), _s.actions.slots[last()])
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(NBLLM_HOME=str(tmp_path_factory.mktemp("home"))) as kernel:
        assert kernel.run(PRESS).ok
        yield kernel


def asked(kernel, cell="%%llm sim/openai@echo=1 out=a\nfirst words"):
    ran = kernel.run(cell)
    assert ran.ok, ran.error
    return kernel.value("last()")


def test_the_saved_cell_has_an_empty_place(kernel):
    ran = kernel.run("%%llm sim/openai@echo=1\nx")
    assert f"<div class=nbllm-acts id={kernel.value('last()')}></div>" in ran.html


def test_an_edited_question_is_asked_and_both_answers_stay(kernel):
    """In the variables too; an answer that the user has put elsewhere meanwhile is left alone."""
    place = asked(kernel)
    kernel.run(f"press('ask', place={place!r}, text='other words')")
    assert ["other words", "other words"] == kernel.value("[a.text, _llm.text]")
    assert [2, 2, "other words"] == kernel.value("[told()[n] for n in ('number', 'count', 'prompt')]")
    ran = kernel.run(f"press('show', place={place!r}, number=1)")
    assert "first words" in "".join(
        m["content"]["data"]["text/html"] for m in ran.messages if m["msg_type"] == "update_display_data"
    )
    assert "first words" == kernel.value("told()['source']")
    kernel.run(f"a = 'mine'; press('ask', place={place!r})")
    assert ["mine", "first words"] == kernel.value("[a, _llm.text]")
    assert [3, 3] == kernel.value("[told()['number'], told()['count']]")


def test_an_answer_that_fails_leaves_the_one_before(kernel):
    place = asked(kernel)
    kernel.run("_s.last_question, question = None, _s.actions.slots[last()].answers[0][0]")
    kernel.run("import dataclasses; worse = dataclasses.replace(question, models=('sim/openai@status=400',))")
    kernel.run("_s.actions.slots[last()].answers[0] = (worse, _s.actions.slots[last()].answers[0][1])")
    ran = kernel.run(f"press('ask', place={place!r}, text='y')")
    assert [1, 1] == kernel.value("[told()['number'], told()['count']]")
    assert "The previous answer is still shown." in json.dumps([m["content"] for m in ran.messages])


def test_what_is_kept_is_found_and_taken_back(kernel):
    place = asked(kernel)
    kernel.run(f"press('keep', place={place!r}, keep=True)")
    kernel.run("table = %llm kept")
    assert [["first words", "first words", "sim/openai"]] == kernel.value(
        "table[['prompt', 'answer', 'provider']].values.tolist()"
    )
    assert kernel.value("told()['kept']")
    kernel.run(f"press('keep', place={place!r}, keep=False)")
    kernel.run("table = %llm kept")
    assert 0 == kernel.value("len(table)")


def test_what_is_kept_is_preferred_to_what_stood_beside_it(kernel):
    """Other models' answers to the same words, below other cells and in a comparison; not to other words."""
    for model in ("openai@echo=1", "anthropic@echo=1", "gemini@echo=1"):
        place = asked(kernel, f"%%llm sim/{model}\nthe same words")
    asked(kernel, "%%llm sim/ollama@echo=1\nquite others")
    kernel.run(f"press('keep', place={place!r}, keep=True)")
    kernel.run("%%llm sim/openai@echo=1,sim/gemini@echo=1\na comparison")
    ran = kernel.run("%llm kept add sim/openai@echo=1")
    assert ran.ok, ran.error
    kernel.run("rows = nbllm.bench.preferences()[['prompt', 'a', 'b', 'winner']].values.tolist()")
    found = kernel.value("[[word.partition('@')[0] for word in row] for row in rows]")
    assert [
        ["the same words", "sim/gemini/sim-gemini", "sim/anthropic/sim-anthropic", "sim/gemini/sim-gemini"],
        ["the same words", "sim/gemini/sim-gemini", "sim/openai/sim-openai", "sim/gemini/sim-gemini"],
        ["a comparison", "sim/openai/sim-openai", "sim/gemini/sim-gemini", "sim/openai/sim-openai"],
    ] == found
    assert 3 == kernel.value("len(nbllm.bench.win_rates(nbllm.bench.preferences()))")
    assert "The last comparison has no answer of 'x'" in kernel.run("%llm kept add x").error["evalue"]
    kernel.run(
        "from nbllm.store import preferences\n"
        "for row in preferences.marked_answers(): preferences.unmark(row['id'])"
    )


@pytest.mark.parametrize("cell", ["%%llm sim/openai chat=c\nx", "%%llm sim/openai tools=f approve=auto\nx"])
def test_what_cannot_be_asked_again_offers_no_such_button(kernel, cell):
    kernel.run("def f(x: int) -> int:\n    'Doubles.'\n    return 2 * x")
    place = asked(kernel, cell)
    assert not kernel.value("told()['again']")
    kernel.run(f"press('ask', place={place!r}, text='y')")
    assert 1 == kernel.value("told()['count']")


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "ask"},
        {"type": "ask", "place": 7},
        {"type": "burn", "place": "PLACE"},
        {"type": "show", "place": "PLACE", "number": "x"},
        {"type": "show", "place": "PLACE", "number": 10**9},
        {"type": "show", "place": "PLACE"},
        {"type": "keep", "place": "PLACE"},
        {"type": ["ask"], "place": {"a": 1}},
    ],
)
def test_a_message_that_makes_no_sense_does_nothing(kernel, message):
    place = asked(kernel)
    told = json.dumps(message).replace("PLACE", place)
    ran = kernel.run(f"import json; _s.actions._on_message(None, json.loads({told!r}), [])")
    assert ran.ok
    assert [1, 1, False] == kernel.value("[told()[n] for n in ('number', 'count', 'kept')]")


def test_no_more_answers_are_held_than_have_buttons(kernel):
    """The last fifty."""
    asked(kernel)
    kernel.run(
        "import dataclasses\nrun = _s.actions.slots[last()].run\n"
        "for i in range(60): _s.actions.offer(dataclasses.replace(run, actions_id=f'p{i}'), None)"
    )
    assert [f"p{i}" for i in range(10, 60)] == kernel.value("list(_s.actions.slots)")
