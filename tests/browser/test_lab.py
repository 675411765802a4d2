"""`%%llm` as a person meets it: JupyterLab in a browser, a kernel, and the simulator as the provider."""

from __future__ import annotations

import json
import time

import nbformat
import pytest

from ..payloads import PAYLOADS

pytestmark = pytest.mark.browser
LOAD = "%load_ext nbllm"
FORMATS = ("openai/m", "responses/m", "claude/m", "gemini/m", "ollama/m")
GROWN = "n => nbllmTest.grown() >= n"
TOLERANCE = 10  # of a busy machine; the bars are those of a quiet one, and the figures are recorded
FINAL_BAR, GAP_BAR, STOP_BAR = 0.3, 0.2, 0.4  # seconds
CLOCK = (
    f"{LOAD}\nimport time\nends = []\nget_ipython().events.register('post_run_cell', lambda result: "
    f"ends.append(time.time()))"
)
CONTROL = '<img src="http://evil.invalid/control.png" onerror="window.nbllmControl=1">'
RICH = r"""## Waves, briefly

A wave is described by $\psi(x,t) = A\,e^{i(kx-\omega t)}$; *amplitude*, **frequency** and ~~noise~~.
Prices are $5 and $10, `code` is inline.

1. First, with a [link](https://example.org).
2. Second
   - nested
   - [x] done

> A quotation, of some length, that goes on and on for long enough to be broken into two lines, as quotations do.

| Medium | Speed (m/s) | Remark |
|---|--:|:-:|
| Air | 343 | at 20 °C |
| Water | 1,482 | fresh |

$$
\frac{\partial^2 u}{\partial t^2} = c^2\,\nabla^2 u
$$

```python
import math

def omega(k: float, c: float = 343.0) -> float:
    "The angular frequency of a wave."
    return c * k  # dispersionless, 2 * math.pi / k
```

---

End.
"""  # noqa: E501


def ask(prompt, model="openai/m", options=""):
    return f"%%llm {model} {options}".rstrip() + f"\n{prompt}"


def growth(seen):
    """The sizes at which more was shown than ever before, while the kernel was busy."""
    grown, largest = [], 0
    for _, size, status in seen["sizes"]:
        if status == "busy" and size > largest:
            grown.append(size)
            largest = size
    return grown


def answers(content):
    """The outputs of each `%%llm` cell in a notebook's file, without errors."""
    cells = [
        c for c in content["cells"] if c["cell_type"] == "code" and "".join(c["source"]).startswith("%%llm")
    ]
    return [[o for o in c["outputs"] if o["output_type"] != "error"] for c in cells]


def is_static(outputs):
    """Whether a cell holds one answer, in HTML and text, and no widget."""
    return len(outputs) == 1 and set(outputs[0]["data"]) == {"text/html", "text/plain"}


def test_an_answer_appears_while_it_comes(notebook):
    """The text grows on screen while the kernel is busy, and in the end the cell holds exactly one output."""
    n = notebook(LOAD, ask("Why is the sky blue? At length.", "openai/m@tokens=150"))
    n.run(0)
    n.watch(1)
    n.start(1)
    n.wait(GROWN, 8)
    n.shot("streaming")
    n.wait_done(1)
    n.shot("final")
    assert len(growth(n.seen())) >= 5
    assert n.output(1).count() == 1
    assert "to first token" in n.text(1)


def test_stop(notebook, sim, record_property):
    """The toolbar's Stop closes the connection, keeps what came, says so in a line, and halts Run All; the
    next cell works."""
    n = notebook(
        LOAD,
        ask("Why is the sky blue? At length.", "openai/m@tokens=3000", "out=stopped"),
        "ran_after = True",
        ask("hello"),
        "print('ran_after' in globals(), len(stopped.text) > 40)",
    )
    n.watch(1)
    n.start_all()
    n.wait(GROWN, 6)
    record = sim.records[-1]
    pressed = time.monotonic_ns()
    n.page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
    n.wait_done(1)
    n.shot("stopped")
    closed = (next(r for r in sim.records if r.id == record.id).aborted_ns - pressed) / 1e9
    record_property("stop_seconds", closed)
    print(f"\nStop: connection closed {closed * 1000:.0f} ms after the click")
    assert closed <= STOP_BAR * TOLERANCE
    assert "Stopped by you" in n.text(1)
    assert "Sunlight holds all colours" in n.text(1)
    assert n.js("nbllmTest.errors(1)") == ["Stopped. The partial answer is in stopped."]
    n.run(3)
    assert "Hello!" in n.text(3)
    n.run(4)
    assert n.text(4).strip() == "False True"


def test_five_thousand_chunks(notebook, record_property):
    """The page stays alive under 5,000 chunks: it ends with the kernel, never stutters or blanks, and keeps a
    selection."""
    n = notebook(
        CLOCK, ask("Why is the sky blue? At length.", "openai/m@tokens=5000,gap=0.004"), "print(ends[-1])"
    )
    n.run(0)
    n.watch(1, select=True)
    n.run(1, timeout=120)
    n.wait("() => nbllmTest.seen().final !== null")
    seen = n.seen()
    n.run(2)
    figures = {
        "final_after_kernel_s": seen["final"] / 1000 - float(n.text(2)),
        "largest_frame_gap_s": seen["maxGap"] / 1000,
        "blank_frames": seen["blank"],
        "frames": seen["frames"],
        "frozen_blocks": seen["frozen"],
        "frames_without_selection": seen["lost"],
        "updates": len(growth(seen)),
    }
    for name, value in figures.items():
        record_property(name, value)
    print("\n5,000 chunks:", json.dumps({k: round(v, 3) for k, v in figures.items()}))
    assert figures["final_after_kernel_s"] <= FINAL_BAR * TOLERANCE
    assert figures["largest_frame_gap_s"] <= GAP_BAR * TOLERANCE
    assert figures["blank_frames"] == 0
    assert seen["selected"]
    assert figures["frames_without_selection"] == 0
    assert n.output(1).count() == 1


def unharmed(n):
    """Waits until the control has fired, which shows that the page runs what it is given, then looks for what
    else did."""
    n.wait("() => window.nbllmControl === 1")
    n.js("nbllmTest.hover()")
    n.wait("() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(true), 300)))")
    assert n.js("window.nbllmFired") is None
    assert n.dialogs == []
    assert [url for url in n.strangers if "control" not in url] == []
    assert any("control" in url for url in n.strangers)
    assert n.js("nbllmTest.unsafe()") == []
    assert "/doc/tree/" in n.page.url


def test_hostile_answers(notebook, lab):
    """No payload runs, loads or reaches out, neither live nor when the saved notebook is opened again, where
    a control does."""
    (lab.root / "payloads.json").write_text(json.dumps(list(PAYLOADS.values())))
    cells = [
        ask(f"{{{{payloads[{i}]}}}}", f"{FORMATS[i % 5]}@echo=1,gap=0.006,ttft=0.02")
        for i in range(len(PAYLOADS))
    ]
    control = f"from IPython.display import HTML\nHTML({CONTROL!r})"
    n = notebook(f"{LOAD}\nimport json\npayloads = json.load(open('payloads.json'))", *cells, control)
    n.start_all()
    n.wait_done(*range(len(cells) + 2), timeout=180)
    unharmed(n)
    assert n.js("nbllmTest.finals()") == len(cells)
    n.shot("hostile")
    assert all(map(is_static, answers(n.save())))
    n.close()
    lab.stop_kernels()
    again = notebook(n.path)
    assert again.js("nbllmTest.finals()") == len(cells)
    unharmed(again)


def test_formulas_and_money(notebook):
    """A formula is typeset, in the text and in a block; dollars that are money stay as they are."""
    n = notebook(
        LOAD,
        "text = r'The square $x^2$ costs $5 and $10.' + '\\n\\n$$\\ny^2\\n$$\\n'",
        ask("{{text}}", "openai/m@echo=1"),
    )
    n.run(0, 1, 2)
    n.wait("() => nbllmTest.area(2).querySelectorAll('mjx-container').length >= 2")
    assert n.output(2).locator("mjx-container").count() == 2
    assert "costs $5 and $10." in n.text(2)


def test_text_from_right_to_left_stands_at_its_side(notebook):
    """Where JupyterLab's own rules put paragraphs to the left."""
    text = "\u0633\u0644\u0627\u0645\n\n- \u0627\n\n- \u0628\n\nend"
    n = notebook(LOAD, f"text = {text!r}", ask("{{text}}", "openai/m@echo=1"))
    n.run(0, 1, 2)
    n.wait("() => nbllmTest.area(2).querySelectorAll('p').length == 4")
    side = "() => [...nbllmTest.area(2).querySelectorAll('p')].map(p => getComputedStyle(p).textAlign)"
    way = side.replace("textAlign", "direction")
    assert (["start"] * 4, ["rtl"] * 3 + ["ltr"]) == (n.js(side), n.js(way))


def test_reopened_without_running(notebook, lab):
    """A saved notebook shows its answers without a kernel's help, and its file holds one static output for
    each."""
    n = notebook(LOAD, *(ask(f"hello, number {i}", model) for i, model in enumerate(FORMATS)))
    n.start_all()
    n.wait_done(*range(6))
    content = n.save()
    assert len(answers(content)) == 5
    assert all(map(is_static, answers(content)))
    assert "widgets" not in content["metadata"]
    n.close()
    lab.stop_kernels()
    again = notebook(n.path)
    assert [again.output(i).count() for i in range(1, 6)] == [1] * 5
    assert all("Hello!" in again.text(i) for i in range(1, 6))
    assert "Error displaying widget" not in again.page.inner_text("body")
    assert again.strangers == []


def test_tab_completes_a_model(notebook):
    """`%%llm model=gemini/p` and Tab offer gemini/pro."""
    n = notebook(LOAD, "")
    n.run(0)
    n.page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".cm-content").click()
    n.page.keyboard.type("%%llm model=gemini/p")
    n.page.keyboard.press("Tab")
    n.wait("() => nbllmTest.offered().includes('gemini/pro')")
    n.shot("completion")


def test_run_all(notebook):
    """Run All answers five cells of five wire formats."""
    n = notebook(LOAD, *(ask("Why is the sky blue?", f"{model}@tokens=40,gap=0.01") for model in FORMATS))
    n.start_all()
    n.wait_done(*range(6))
    assert [n.output(i).count() for i in range(1, 6)] == [1] * 5
    assert all("Sunlight" in n.text(i) and "to first token" in n.text(i) for i in range(1, 6))
    n.shot("run-all")


def test_saved_in_mid_stream(notebook):
    """A notebook saved while an answer comes is a valid file that holds what had come, as text."""
    n = notebook(LOAD, ask("Why is the sky blue? At length.", "openai/m@tokens=400"))
    n.run(0)
    n.watch(1)
    n.start(1)
    n.wait(GROWN, 12)
    content = n.save()
    assert n.js("nbllmTest.status()") == "busy"
    nbformat.validate(nbformat.from_dict(content))
    (outputs,) = answers(content)
    assert all(set(o["data"]) == {"text/html", "text/plain"} for o in outputs)
    assert "Sunlight holds all colours" in "".join("".join(o["data"]["text/plain"]) for o in outputs)
    n.wait_done(1)
    assert is_static(answers(n.save())[0])


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures(notebook, lab, theme):
    """A rich answer, thinking and an error show in both themes; the pictures are for people to look at."""
    (lab.root / "rich.md").write_text(RICH)
    cells = [
        ask("{{rich}}", "openai/m@echo=1,gap=0.003"),
        ask("Why is the sky blue?", "claude/m", "reasoning=low"),
        ask("hello", "openai/m@status=401", "retries=0"),
    ]
    n = notebook(f"{LOAD}\nrich = open('rich.md').read()", *cells, height=1500)
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1, 2)
    n.run(3)
    n.wait("() => nbllmTest.area(1).querySelectorAll('mjx-container').length >= 2")
    n.js("nbllmTest.area(2).querySelector('summary').click()")
    n.shot(f"rich-{theme.lower()}")
    assert n.js("nbllmTest.finals()") == 2
    assert "AuthenticationError" in " ".join(n.js("nbllmTest.errors(3)"))


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures_for_the_readme(notebook, theme):
    """An answer that is there and one that comes, as the README shows them."""
    first, second = (
        ask("Why is the sky blue?", "claude/haiku"),
        ask("Why is the sky blue? Explain at length.", "gemini/pro", "temperature=0"),
    )
    n = notebook(LOAD, first, second, name=f"sky-{theme.lower()}")
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1)
    n.wait("() => nbllmTest.area(1).querySelector('mjx-container')")
    n.start(2)
    n.wait("() => nbllmTest.area(2).innerText.includes('streaming_time')")
    n.shot(f"readme-{theme.lower()}", height=840)
    n.wait_done(2)
    n.shot(f"readme-final-{theme.lower()}", height=840)
    assert n.js("nbllmTest.finals()") == 2
