"""Several answers at once, and benchmarks, as a person sees them in JupyterLab."""

from __future__ import annotations

import pytest

from .test_lab import LOAD, answers, ask, is_static

pytestmark = pytest.mark.browser
THREE = "openai/m@tokens=150,gap=0.015;claude/m@tokens=120,gap=0.02;gemini/m@tokens=90,gap=0.03".replace(
    ";", ","
)
COLUMNS = "() => [...nbllmTest.area(1).querySelectorAll('.nbllm-col')].map(c => c.innerText.length)"
BENCH = (
    "import nbllm\ndf = nbllm.bench.run(['openai/m@ttft=0.15,gap=0.002,tokens=20', {'model': "
    "'claude/m@ttft=0.2,gap=0.002,tokens=20,fail_rate=0.2', 'name': 'flaky'}], 'Why?', blocks=%d, "
    "warmup=1, seed=4)"
)


def test_columns_are_live_at_the_same_time(notebook):
    """All columns grow while the kernel is busy; in the end one static output holds them all."""
    n = notebook(
        LOAD, ask("Why is the sky blue? At length.", THREE, "out=cmp"), "[len(r.text) > 100 for r in cmp]"
    )
    n.run(0)
    n.start(1)
    n.wait(
        "() => { const c = [...(nbllmTest.area(1)?.querySelectorAll('.nbllm-col') ?? [])]; return c.length "
        "=== 3 && c.every(x => x.innerText.length > 150); }"
    )
    assert n.js("nbllmTest.status()") == "busy"
    early = n.js(COLUMNS)
    n.shot("columns-live")
    n.wait_done(1)
    assert all(late > before for late, before in zip(n.js(COLUMNS), early, strict=True))
    assert n.output(1).count() == 1
    lefts = n.js(
        "() => [...nbllmTest.area(1).querySelectorAll('.nbllm-col')].map(c => c.getBoundingClientRect().left)"
    )
    assert lefts == sorted(set(lefts)), "they stand beside each other"
    n.run(2)
    assert n.text(2).strip().endswith("[True, True, True]")
    assert is_static(answers(n.save())[0])


# Frame by frame while the cell runs: how many formulas of the first column are typeset, and how many are not.
FORMULAS = """() => {
  const seen = (window.formulas = []);
  const look = () => {
    const column = nbllmTest.area(2)?.querySelector('.nbllm-col');
    if (column && nbllmTest.status() === 'busy') {
      const all = [...column.querySelectorAll('.nbllm-tex')];
      const set = all.filter(e => e.querySelector('mjx-container')).length;
      seen.push([set, all.length - set]);
    }
    requestAnimationFrame(look);
  };
  look();
}"""


def test_formulas_in_columns_are_typeset_while_they_grow(notebook):
    """Each once it is closed, and never source again while the columns are drawn anew."""
    text = (
        r"So $E = mc^2$, which cost \$5 and \$10." + "\n\n$$\na^2 + b^2\n$$\n\n" + "And so on, $x_1$. " * 30
    )
    models = "openai/m@echo=1,gap=0.02,claude/m@echo=1,gap=0.02"
    n = notebook(LOAD, f"text = {text!r}", ask("{{text}}", models))
    n.run(0, 1)
    n.js(FORMULAS)
    n.start(2)
    n.wait("() => formulas.some(([set]) => set > 4)")
    n.shot("columns-formulas", height=700)
    n.wait_done(2)
    counts = [done for done, _ in n.js("formulas")]
    assert counts == sorted(counts)
    n.wait("() => nbllmTest.area(2).querySelectorAll('mjx-container').length === 64")
    assert "$5 and $10" in n.text(2)


def test_stop_ends_every_column(notebook):
    """The toolbar's Stop: what came stays in all columns, each says so."""
    n = notebook(LOAD, ask("Why is the sky blue? At length.", "openai/m@tokens=3000,claude/m@tokens=3000"))
    n.run(0)
    n.start(1)
    n.wait(
        "() => { const c = [...(nbllmTest.area(1)?.querySelectorAll('.nbllm-col') ?? [])]; return c.length "
        "=== 2 && c.every(x => x.innerText.length > 150); }"
    )
    n.page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
    n.wait_done(1)
    assert n.text(1).count("Stopped by you") == 2


def test_a_benchmark_is_drawn_while_it_runs_and_stops_when_told(notebook):
    """The dashboard grows; Stop keeps the rows; the saved notebook holds it as plain HTML."""
    n = notebook(LOAD, BENCH % 400, "0 < len(df) < 800")
    n.run(0)
    n.start(1)
    n.wait(r"() => /^Benchmark (?!0 of)\d+ of 800 requests/m.test(nbllmTest.area(1)?.innerText ?? '')")
    first = n.text(1)
    n.wait("before => nbllmTest.area(1).innerText.replaceAll('\\u00a0', ' ') !== before", first)
    n.shot("bench-live")
    n.page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
    n.wait_done(1)
    assert "Ended early: stopped" in n.text(1)
    n.run(2)
    assert n.text(2).strip().endswith("True")
    assert is_static(n.save()["cells"][1]["outputs"])


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures_of_many(notebook, theme):
    """Columns and a benchmark with its plot, in both themes, for people to look at."""
    three = "openai/mini,claude/sonnet,gemini/flash"
    n = notebook(
        LOAD,
        ask("Why is the sky blue? Explain at length.", three, "out=cmp"),
        BENCH % 20 + "\nnbllm.bench.plot(df)",
        height=1100,
        name=f"compare-{theme.lower()}",
    )
    n.theme(f"JupyterLab {theme}")
    n.run(0)
    n.start(1)
    n.wait(
        "() => { const c = [...(nbllmTest.area(1)?.querySelectorAll('.nbllm-col') ?? [])]; return c.length "
        "=== 3 && c.every(x => x.innerText.length > 500); }"
    )
    n.shot(f"columns-{theme.lower()}", height=760)
    n.wait_done(1)
    n.run(2)
    n.wait("() => nbllmTest.area(2).querySelector('img')?.complete")
    n.js("nbllmTest.area(2).scrollIntoView()")
    n.shot(f"bench-{theme.lower()}")
    assert n.js("nbllmTest.area(2).querySelectorAll('img').length") == 1


def test_a_column_has_a_stop_of_its_own(notebook):
    """Its button stops that answer alone, while the cell runs; nothing of the buttons is left at the end."""
    n = notebook(
        LOAD,
        ask("Why is the sky blue? At length.", "openai/m@tokens=3000,claude/m@tokens=500", "out=cmp"),
        "[r.finish_reason for r in cmp]",
    )
    n.run(0)
    n.start(1)
    n.wait(
        "() => { const c = [...(nbllmTest.area(1)?.querySelectorAll('.nbllm-col') ?? [])]; return c.length "
        "=== 2 && c.every(x => x.innerText.length > 150); }"
    )
    button = n.page.get_by_role("button", name="Stop openai/m@tokens=3000")
    button.wait_for()
    tops = "() => [...nbllmTest.area(1).querySelectorAll('.nbllm-col p')].map(p => p.offsetTop)"
    before = n.js(tops)
    n.shot("columns-stop", height=700)
    box = button.bounding_box()
    assert n.js(
        "([x, y]) => document.elementFromPoint(x, y).closest('.nbllm-head').innerText.includes('openai/m')",
        [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
    ), "it stands in the head of its column"
    n.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    n.wait("() => document.querySelectorAll('.nbllm-stop').length === 1")
    n.wait_done(1)
    n.wait("() => document.querySelectorAll('.nbllm-stop').length === 0")
    assert before[0] == n.js(tops)[0], "nothing has moved"
    n.run(2)
    assert n.text(2).strip().endswith("['cancelled', 'stop']"), "the other goes on"
    assert n.output(1).count() == 1
    assert is_static(answers(n.save())[0])


def test_background_cells_stay_in_their_cells(notebook):
    """Two at once, and a third cell that prints meanwhile: each shows its own, and is static in the end."""
    cells = [
        ask(
            f"Repeat after me: {word}. Then go on at length.",
            "openai/m@tokens=120,gap=0.02",
            f"bg=true out={word}",
        )
        for word in ("alpha", "beta")
    ]
    n = notebook(LOAD, *cells, "print('between')", "type(alpha).__name__, type(beta).__name__")
    n.run(0, 1, 2, 3)
    assert "between" == n.text(3).strip(), "the prompt is back while they grow"
    n.wait("() => [1, 2].every(i => nbllmTest.area(i).innerText.length > 120)")
    assert n.output(1).count() == n.output(2).count() == 1
    n.wait(
        "() => [1, 2].every(i => /to first token/.test(nbllmTest.area(i).innerText.replaceAll('\\u00a0', ' "
        "')) && /tok.s/.test(nbllmTest.area(i).innerText))"
    )
    n.run(4)
    assert n.text(4).strip().endswith("('Response', 'Response')")
    assert "alpha" in n.text(1)
    assert "beta" not in n.text(1)
    assert "alpha" not in n.text(2)
    assert all(map(is_static, answers(n.save())))


def test_a_question_is_answered_by_a_button_while_the_cell_runs(notebook):
    """Approve and Reject; what was answered stays as text, and no widget."""
    n = notebook(
        LOAD,
        "import nbllm\nok = nbllm.approve('Run the query on the cluster?')",
        "no = nbllm.approve('Drop the table?')",
        "ok, no",
    )
    n.run(0)
    for cell, word in ((1, "Approve"), (2, "Reject")):
        n.start(cell)
        button = n.page.locator(f".jupyter-button:has-text('{word}')")
        button.wait_for()
        n.shot(f"approve-{cell}", height=500)
        button.click()
        n.wait_done(cell)
    n.run(3)
    assert n.text(3).strip().endswith("(True, False)")
    assert "Run the query on the cluster? — Approve" in n.text(1)
    content = n.save()
    assert all(is_static(content["cells"][i]["outputs"]) for i in (1, 2))


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures_of_values(notebook, theme):
    """A structured answer as a DataFrame, a variable in a prompt, a cell in the background, and a question:
    for people to look at."""
    make = (
        "import pandas as pd, nbllm\nsales = pd.DataFrame({'city': ['Oslo', 'Bergen'] * 40, 'units': "
        "range(80)})"
    )
    cells = [
        make,
        ask("Three cities in Norway.", "openai/mini", 'schema="[name, population int, coastal bool]" as=df'),
        ask("What stands out in {sales}?", "claude/sonnet"),
        ask("Tell me a long story.", "gemini/flash@tokens=400", "bg=true out=later"),
        "ok = nbllm.approve('Run the query on the cluster?')",
    ]
    n = notebook(LOAD, *cells, height=1000, name=f"values-{theme.lower()}")
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1, 2, 3, 4)
    n.start(5)
    n.page.locator(".jupyter-button:has-text('Approve')").wait_for()
    n.shot(f"values-{theme.lower()}", height=900)
    n.page.locator(".jupyter-button:has-text('Approve')").click()
    n.wait_done(5)


def test_where_no_click_would_come_no_button_is_shown(notebook, lab):
    """Comms on the main shell, as VS Code and Colab have them: no ■ in heads, and the question comes
    through the keyboard."""
    plugin = "@jupyterlab/apputils-extension:kernels-settings"
    first = notebook(LOAD)
    first.js(
        "async ([id, raw]) => { await jupyterapp.serviceManager.settings.save(id, raw); }",
        [plugin, '{"commsOverSubshells": "disabled"}'],
    )
    first.close()
    lab.stop_kernels()
    try:
        n = notebook(
            LOAD,
            ask("Why is the sky blue? At length.", "openai/m@tokens=120,claude/m@tokens=120"),
            "import nbllm\nok = nbllm.approve('Go on?')",
            "ok",
        )
        n.run(0)
        n.start(1)
        n.wait(
            "() => { const c = [...(nbllmTest.area(1)?.querySelectorAll('.nbllm-col') ?? [])]; return "
            "c.length === 2 && c.every(x => x.innerText.length > 250); }"
        )
        assert 0 == n.js("() => document.querySelectorAll('.nbllm-stop').length")
        n.wait_done(1)
        n.start(2)
        box = n.page.locator(".jp-Stdin-input")
        box.wait_for()
        assert 0 == n.js(
            "() => [...document.querySelectorAll('.jupyter-button')].filter(b => b.offsetParent !== "
            "null).length"
        )
        box.fill("y")
        box.press("Enter")
        n.wait_done(2)
        n.run(3)
        assert n.text(3).strip().endswith("True")
    finally:
        last = notebook(LOAD)
        last.js(
            "async ([id, raw]) => { await jupyterapp.serviceManager.settings.save(id, raw); }", [plugin, "{}"]
        )
