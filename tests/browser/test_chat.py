"""The chat panel as a person uses it in JupyterLab: keys, streaming, Stop, files, a saved notebook, hostile
answers."""

from __future__ import annotations

import json

import pytest

from ..payloads import PAYLOADS
from .test_lab import CONTROL, LOAD, unharmed

pytestmark = pytest.mark.browser
OPEN = "import nbllm\npanel = nbllm.ChatWidget(model='openai/m', chat='eda')\npanel"
AREA = ".nbllm-chat textarea"
ANSWERS = (
    "() => [...document.querySelectorAll('.nbllm-turn')].map(t => t.querySelector('.nbllm-answer').innerText)"
)
LIVE = "() => document.querySelector('.nbllm-live:not([hidden])')?.innerText ?? ''"


@pytest.fixture
def panel(notebook):
    """panel(source) -> a notebook whose second cell shows the panel."""

    def make(source=OPEN, *more, **options):
        n = notebook(LOAD, source, *more, **options)
        n.run(0, 1)
        n.page.wait_for_selector(AREA)
        return n

    return make


def say(n, text):
    n.page.click(AREA)
    n.page.keyboard.type(text)
    n.page.keyboard.press("Enter")


def wait_turns(n, many):
    n.wait(
        "many => document.querySelectorAll('.nbllm-turn').length === many && "
        "document.querySelector('.nbllm-live').hidden",
        many,
    )


def test_enter_sends_the_answer_streams_and_the_conversation_goes_on(panel):
    """Shift+Enter is a new line; the answer grows; the notebook's own shortcuts stay out of it; a cell shares
    the conversation."""
    n = panel(OPEN, "%%llm openai/m chat=eda\nAnd in one word?", "%llm chat list")
    n.page.click(AREA)
    n.page.keyboard.type("Why is the sky blue?")
    n.page.keyboard.press("Shift+Enter")
    n.page.keyboard.type("dd x")
    n.page.keyboard.press("Enter")
    n.wait(
        "() => (document.querySelector('.nbllm-live .nbllm-answer')?.parentNode.innerText ?? '').length > 120"
    )
    early = n.js(LIVE)
    n.wait(
        "before => !document.querySelector('.nbllm-live').hidden && "
        "document.querySelector('.nbllm-live').innerText.length > before + 40",
        len(early),
    )
    wait_turns(n, 1)
    assert "Why is the sky blue?\ndd x" == n.js(
        "() => document.querySelector('.nbllm-turn .nbllm-you').innerText.trim()"
    )
    assert "" == n.js("() => document.querySelector('.nbllm-chat textarea').value")
    assert 4 == n.js("() => document.querySelectorAll('.jp-Notebook .jp-Cell').length"), "dd deleted no cell"
    say(n, "And at night?")
    wait_turns(n, 2)
    assert "2 turns" in n.js("() => document.querySelector('.nbllm-meter').innerText")
    n.run(2, 3)
    assert "3" in n.text(3)


def test_escape_and_the_button_stop_and_what_came_stays(panel, sim):
    """Within a moment; the provider sees its connection closed."""
    n = panel(OPEN.replace("openai/m", "openai/m@tokens=3000"))
    for press in (
        lambda: n.page.keyboard.press("Escape"),
        lambda: n.page.click(".nbllm-composer button:has-text('Stop')"),
    ):
        say(n, "Tell me a long story.")
        n.wait("() => (document.querySelector('.nbllm-live:not([hidden])')?.innerText ?? '').length > 200")
        press()
        n.wait("() => document.querySelector('.nbllm-live').hidden")
    answers = n.js(ANSWERS)
    assert [True, True] == ["Stopped by you" in a and len(a) > 100 for a in answers]


def test_it_answers_while_a_cell_runs(panel):
    """A busy kernel does not keep the panel from sending, streaming and stopping."""
    n = panel(
        OPEN.replace("openai/m", "openai/m@tokens=3000"),
        "import time\nfor _ in range(6000):\n    time.sleep(0.1)",
    )
    n.start(2)
    n.wait("() => nbllmTest.status() === 'busy'")
    say(n, "Tell me a long story.")
    n.wait("() => (document.querySelector('.nbllm-live:not([hidden])')?.innerText ?? '').length > 200")
    n.page.keyboard.press("Escape")
    n.wait("() => document.querySelector('.nbllm-live').hidden")
    assert not n.js("nbllmTest.done([2])"), "the cell still runs"
    n.page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
    n.wait_done(2)


def test_retry_copy_models_and_files(panel, tmp_path):
    """Retry takes the answer's place; another model may be picked; a file goes along."""
    n = panel(OPEN, "len(panel.chat.turns), panel.chat.turns[-1].response.provider")
    (tmp_path / "notes.txt").write_text("the blue file")
    n.page.set_input_files(".nbllm-chat input[type=file]", str(tmp_path / "notes.txt"))
    n.page.wait_for_selector(".nbllm-chip")
    say(n, "What is in it?")
    wait_turns(n, 1)
    assert "the blue file" in n.js("() => document.querySelector('.nbllm-turn .nbllm-you').innerText")
    n.page.fill(".nbllm-model", "claude/m")
    n.page.keyboard.press("Tab")
    n.page.click(".nbllm-turn button:has-text('Retry')")
    n.wait("() => !document.querySelector('.nbllm-live').hidden")
    wait_turns(n, 1)
    n.run(2)
    assert n.text(2).strip().endswith("(1, 'anthropic')")
    n.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    n.page.click(".nbllm-turn button:has-text('Copy')")
    n.page.wait_for_selector("button:has-text('Copied')")
    assert len(n.js("() => navigator.clipboard.readText()")) > 20


def test_enter_while_an_answer_streams_keeps_the_text(panel):
    """Also in the moment before the kernel has taken the first message, and where the kernel refuses it."""
    n = panel(
        OPEN.replace("openai/m", "openai/m@tokens=200"),
        "panel._is_busy = True",
        "panel._is_busy = False\npanel._set_traits(busy=False)",
    )
    n.page.click(AREA)
    n.page.keyboard.type("Why is the sky blue?")
    n.page.keyboard.press("Enter")
    n.page.keyboard.type("And at night?")
    n.page.keyboard.press("Enter")  # at once
    n.wait(
        "() => (document.querySelector('.nbllm-live .nbllm-answer')?.parentNode.innerText ?? '').length > 120"
    )
    n.page.keyboard.press("Enter")  # while it streams
    assert "And at night?" == n.js("() => document.querySelector('.nbllm-chat textarea').value")
    wait_turns(n, 1)
    assert "And at night?" == n.js("() => document.querySelector('.nbllm-chat textarea').value")
    n.run(2)  # the kernel answers somebody else, which this page does not know yet
    n.page.click(AREA)
    n.page.keyboard.press("Enter")
    n.wait("() => /still answering/.test(document.querySelector('.nbllm-chat > .nbllm-note').innerText)")
    assert "And at night?" == n.js("() => document.querySelector('.nbllm-chat textarea').value")
    n.run(3)
    n.page.click(AREA)
    n.page.keyboard.press("Enter")
    wait_turns(n, 2)
    assert "" == n.js("() => document.querySelector('.nbllm-chat textarea').value")
    assert n.js("() => document.querySelector('.nbllm-chat > .nbllm-note').hidden")


@pytest.mark.parametrize("model", ["nowhere/at-all", "openai/m@status=401"])
def test_retry_keeps_the_old_answer_until_the_new_one_is_there(panel, model):
    """A wrong name, a refused key: the turn stays, the failure stands below it, and the next retry replaces
    the turn."""
    n = panel(OPEN.replace("chat='eda'", "chat='eda', retries=0"))
    say(n, "Why is the sky blue?")
    wait_turns(n, 1)
    old = n.js(ANSWERS)[0]
    n.page.fill(".nbllm-model", model)
    n.page.keyboard.press("Tab")
    n.page.click(".nbllm-turn button:has-text('Retry')")
    wait_turns(n, 2)
    shown = n.js(ANSWERS)
    assert old == shown[0]
    assert "⚠" in shown[1]
    assert "Why is the sky blue?" in n.js(
        "() => [...document.querySelectorAll('.nbllm-you')].filter(e => "
        "e.closest('.nbllm-turn')).at(-1).innerText"
    )
    n.page.fill(".nbllm-model", "claude/another")
    n.page.keyboard.press("Tab")
    n.page.click(".nbllm-turn button:has-text('Retry')")
    wait_turns(n, 1)
    assert "another" in n.js(ANSWERS)[0], "the same words in the same time are chance"


def test_an_error_is_shown_in_the_panel_and_can_be_retried(panel):
    """It is not kept in the conversation; the next question is answered."""
    n = panel(OPEN.replace("openai/m", "openai/m@status=401"))
    say(n, "hello")
    n.wait("() => /401|key/i.test(document.querySelector('.nbllm-turn .nbllm-answer')?.innerText ?? '')")
    n.page.fill(".nbllm-model", "openai/m")
    n.page.keyboard.press("Tab")
    n.page.click(".nbllm-turn button:has-text('Retry')")
    n.wait(
        "() => document.querySelectorAll('.nbllm-turn').length === 1 && "
        "document.querySelector('.nbllm-turn .nbllm-answer').innerText.length > 60 && "
        "!/401/.test(document.querySelector('.nbllm-turn').innerText)"
    )


def test_a_saved_notebook_holds_the_transcript_and_no_widget(panel, notebook, lab):
    """Static HTML only; reopened with its kernel the panel is back, without one it reads as a
    conversation."""
    n = panel()
    say(n, "Why is the sky blue?")
    wait_turns(n, 1)
    assert n.page.locator(".nbllm-chat").count() == 1
    assert (
        n.js("() => getComputedStyle([...document.querySelectorAll('[class$=-static]')].at(-1)).display")
        == "none"
    ), "the transcript is hidden while the panel lives"
    content = n.save()
    outputs = content["cells"][1]["outputs"]
    assert [{"text/html", "text/plain"}] * 2 == [set(o["data"]) for o in outputs]
    assert "widgets" not in content["metadata"]
    assert "Why is the sky blue?" in "".join(outputs[1]["data"]["text/html"])
    n.close()
    back = notebook(n.path)
    back.wait(
        "() => document.querySelectorAll('.nbllm-chat .nbllm-turn').length === 1"
    )  # its kernel still runs: the panel is there again
    back.close()
    lab.stop_kernels()
    again = notebook(n.path)
    assert "Why is the sky blue?" in again.text(1)
    assert "Error" not in again.text(1)
    assert again.page.locator(".nbllm-chat").count() == 0


def test_a_view_where_that_is_asked_for(panel):
    """The same panel as an ordinary widget view, for front ends that make widgets only where one is shown."""
    n = panel(OPEN.replace("chat='eda'", "chat='eda', view=True"))
    say(n, "Why is the sky blue?")
    wait_turns(n, 1)
    assert 1 == n.js("() => document.querySelectorAll('.nbllm-chat').length")
    assert "Why is the sky blue?" in "".join(n.save()["cells"][1]["outputs"][1]["data"]["text/html"])


def test_nothing_that_a_model_wrote_runs_in_the_panel(panel, lab):
    """Every payload as a question and as its answer, live and in the transcript; a control does run."""
    (lab.root / "chat-payloads.json").write_text(json.dumps(list(PAYLOADS.values())))
    loop = (
        f"import json\nfor text in json.load(open('chat-payloads.json')):\n    "
        f"panel.ask(text)\npanel.close()\nfrom IPython.display import HTML\ndisplay(HTML({CONTROL!r}))"
    )
    n = panel(OPEN.replace("openai/m", "openai/m@echo=1,gap=0.001,ttft=0.01"), loop)
    n.run(2, timeout=120)
    n.wait("() => document.querySelectorAll('.nbllm-chat').length === 0")
    unharmed(n)


MATHS = """Energy: $E = mc^2$, and it costs $5 and then $10.

$$\\int_0^1 x^2 \\, dx = \\frac13$$

```python
def f(x: int) -> str:
    return "x" * x  # a comment
```

The end, with \\(a \\le b\\).
"""
LOOK = """where =>
[...document.querySelectorAll(where)].filter(e => e.innerText.includes('Energy')).map(e => ({
  formulas: e.querySelectorAll('mjx-container').length,
  dollars: e.innerText.includes('$5 and then $10'),
  spans: [...e.querySelectorAll('pre span')].map(s => [s.className, s.innerText, getComputedStyle(s).color]),
}))"""


def test_formulas_and_code_look_as_in_a_cell(panel):
    """In the panel while it answers and when it is done, in columns and in a cell: the same formulas are
    typeset, money is not, and code has the same colours."""
    (cell, columns) = (
        f"%%llm {models}\n{{{{answer}}}}"
        for models in ("openai/m@echo=1,gap=0.001", "openai/m@echo=1,gap=0.001,claude/m@echo=1,gap=0.001")
    )
    slow = OPEN.replace("openai/m", "openai/m@echo=1,gap=0.05")
    n = panel(
        f"answer = {MATHS!r}\n{slow}", cell, columns, "panel.send(answer + 'More words follow here. ' * 40)"
    )
    n.run(2, 3)
    n.wait("() => nbllmTest.area(3).querySelectorAll('mjx-container').length === 6")
    [whole] = n.js(LOOK, ".jp-Notebook .jp-Cell:nth-child(3) .nbllm")
    assert 3 == whole["formulas"]
    assert whole["dollars"]
    assert len({colour for _, _, colour in whole["spans"]}) > 2
    assert [whole] * 2 == n.js(LOOK, ".nbllm-col")
    n.run(4)
    n.wait("() => document.querySelectorAll('.nbllm-live:not([hidden]) mjx-container').length === 2")
    wait_turns(n, 1)
    n.wait("() => document.querySelectorAll('.nbllm-turn mjx-container').length === 3")
    assert [whole] == n.js(LOOK, ".nbllm-turn .nbllm-answer")
    n.shot("chat-formulas")
    n.run(1)  # the panel is drawn anew
    n.wait("() => document.querySelectorAll('.nbllm-turn mjx-container').length === 3")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures_of_the_panel(panel, theme):
    """For people to look at."""
    n = panel(OPEN.replace("openai/m", "openai/mini"), height=900, name=f"chat-{theme.lower()}")
    n.theme(f"JupyterLab {theme}")
    say(n, "Why is the sky blue?")
    wait_turns(n, 1)
    say(n, "Write a short Python example with a table of wavelengths.")
    n.wait("() => (document.querySelector('.nbllm-live:not([hidden])')?.innerText ?? '').length > 250")
    n.shot(f"chat-{theme.lower()}", height=700)
    wait_turns(n, 2)
    n.shot(f"chat-done-{theme.lower()}", height=700)
