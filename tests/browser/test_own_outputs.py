"""What else a cell has shown stays when an answer comes, in JupyterLab, live and in the saved file."""

from __future__ import annotations

import pytest

from .test_lab import LOAD

pytestmark = pytest.mark.browser
RUN = "run = get_ipython().run_cell_magic"
ECHO = "openai/m@echo=1,gap=0.005"
LOOP = (
    f"for c in ('one', 'two', 'three'):\n    print(f'before {{c}}')\n    run('llm', '{ECHO}', f'answer "
    f"{{c}}')\n    print(f'after {{c}}')"
)
LINES = f"a = %llm ask -m {ECHO} first\nb = %llm ask -m claude/m@echo=1,gap=0.005 second"
LONG = (
    "print('it begins:')\nrun('llm', 'openai/m@tokens=300', 'Why is the sky blue? At "
    "length.')\nprint('it ended.')"
)
COLUMNS = f"print('before')\nrun('llm', '{ECHO},claude/m@echo=1', 'columns')\nprint('after')"
WIDGET = (
    f"import ipywidgets\nfrom IPython.display import display\nout = "
    f"ipywidgets.Output()\ndisplay(out)\nwith out:\n    print('before')\n"
    f"    run('llm', '{ECHO}', 'within')\n    print('between')\n    run('llm', '{ECHO},claude/m@echo=1', "
    f"'columns')\n    print('after')"
)
BACKGROUND = f"print('before')\nrun('llm', '{ECHO} bg=true', 'later')\nprint('after')"


def order(text, *words):
    """Whether the words stand there in this order, each of them."""
    places = [text.find(w) for w in words]
    return -1 not in places and places == sorted(places)


def texts(outputs):
    return ["".join(o["text"] if o["output_type"] == "stream" else o["data"]["text/plain"]) for o in outputs]


def test_what_else_a_cell_has_shown_stays(notebook):
    """Prints around answers in a loop, two lines, columns, a background answer; one static output for each
    answer in the file."""
    n = notebook(LOAD, RUN, LOOP, LINES, COLUMNS, BACKGROUND)
    n.run(0, 1, 2, 3, 4, 5)
    n.wait(r"() => /to\sfirst\stoken.*→/.test(nbllmTest.area(5).innerText)")
    assert order(
        n.text(2),
        "before one",
        "answer one",
        "after one",
        "before two",
        "answer two",
        "after two",
        "before three",
        "answer three",
        "after three",
    )
    assert order(n.text(3), "first", "second")
    assert order(n.text(4), "before", "columns", "after")
    assert order(n.text(5), "before", "later", "after")
    n.shot("own-outputs", height=900)
    content = n.save()
    assert [7, 2, 3, 3] == [len(content["cells"][i]["outputs"]) for i in (2, 3, 4, 5)]
    assert order(
        "".join(texts(content["cells"][2]["outputs"])),
        "before one",
        "answer one",
        "after one\nbefore two",
        "answer two",
        "after three",
    )
    answers = [
        o for i in (2, 3, 4, 5) for o in content["cells"][i]["outputs"] if o["output_type"] != "stream"
    ]
    assert all({"text/html", "text/plain"} == set(o["data"]) for o in answers)
    assert all("nbllm" in o["metadata"] for o in answers)


def test_a_long_answer_grows_below_a_print(notebook):
    """It is drawn while it comes, in one output of its own."""
    n = notebook(LOAD, RUN, LONG)
    n.run(0, 1)
    n.watch(2)
    n.start(2)
    n.wait("n => nbllmTest.grown() >= n", 8)
    assert "it begins:" in n.text(2)
    assert n.output(2).count() == 2
    n.wait_done(2)
    assert order(n.text(2), "it begins:", "Sunlight holds all colours", "to first token", "it ended.")
    assert n.output(2).count() == 3
    assert 0 == n.seen()["blank"]


def test_answers_in_an_output_widget(notebook):
    """They are shown there when they have come, beside what it held."""
    n = notebook(LOAD, RUN, WIDGET)
    n.run(0, 1, 2)
    n.wait("() => nbllmTest.area(2).innerText.includes('after')")
    assert order(n.text(2), "before", "within", "between", "columns", "after")
    assert "waiting for the first token" not in n.text(2)
