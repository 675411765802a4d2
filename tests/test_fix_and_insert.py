"""`%llm fix`, `%llm insert`, and {Err}, {In[...]}, {Out[...]}, in a real kernel."""

from urllib.parse import quote

import pytest

from nbllm.notebook.fix import _rendered_diff
from nbllm.tools.changes import diff_lines

from .growth import growth
from .kernels import Kernel

pytestmark = pytest.mark.kernel
ANSWER = quote("The name was misspelt.\n\n```python\ntotal = 1\nprint(total)\n```\n", safe="")


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


def payload(ran):
    return [p for p in ran.reply["content"].get("payload", []) if p["source"] == "set_next_input"]


def test_the_last_error_is_explained_and_mended_below(kernel):
    """The prompt holds cell and traceback; the answer, a diff, and the corrected cell that is not run."""
    kernel.run("total = 1\nprint(totl)")
    ran = kernel.run(f"%llm fix sim/openai@text={ANSWER}")
    assert ran.ok, ran.error
    assert "The name was misspelt." in ran.text
    assert "-print(totl)" in ran.text
    assert "+print(total)" in ran.text
    assert ["total = 1\nprint(total)"] == [p["text"] for p in payload(ran)]
    asked = kernel.value("_llm.request.messages[-1].text")
    assert "print(totl)" in asked
    assert "NameError" in asked


def test_without_a_failure_there_is_nothing_to_fix():
    """A fresh notebook."""
    with Kernel() as fresh:
        assert "No cell has failed" in "".join(fresh.run("%llm fix").error["traceback"])


def test_code_goes_into_the_next_cell_and_is_not_run(kernel):
    """The longest fence of the last answer; an answer without code says so."""
    kernel.run(f"%%llm sim/openai@text={ANSWER}\nx")
    ran = kernel.run("%llm insert")
    assert ["total = 1\nprint(total)"] == [p["text"] for p in payload(ran)]
    kernel.run("%%llm sim/openai@text=none\nx")
    assert "no code" in "".join(kernel.run("%llm insert").error["traceback"])


def test_cells_outputs_and_the_last_error_can_be_named(kernel):
    """{Out[n]}, {In[n]}, {Err}; a failed %%llm cell is no error of the notebook's."""
    kernel.run("6 * 7")
    n = kernel.value("max(Out)")
    kernel.run("1 / 0")
    kernel.run("%%llm sim/openai@status=401\nx")
    assert kernel.run("%%llm sim/openai@echo=1 out=b\n{{Err[-200:].upper()}}").ok
    assert kernel.run(f"%%llm sim/openai@echo=1 out=a\nOut: {{Out[{n}]}} In: {{In[{n}]}} Err: {{Err}}").ok
    text = kernel.value("a.text")
    assert "Out: 42 In: 6 * 7 Err: " in text
    assert "ZeroDivisionError" in text


def test_code_that_was_asked_for_goes_into_the_next_cell(kernel):
    """Unrun, beside being shown; once for one result; not where nobody watches; a failed answer puts nothing
    there."""
    cell = (
        "%%llm sim/openai@text=Here%20it%20is%3A%0A%60%60%60python%0Aprint(1)%0A%60%60%60 "
        "format=code\nPrint one."
    )
    ran = kernel.run(cell)
    assert ran.ok, ran.error
    assert "print(1)" in ran.text
    assert ["print(1)"] == [p["text"] for p in payload(ran)]
    assert [] == payload(kernel.run(cell)), "it stands there already"
    assert [] == payload(kernel.run("%%llm sim/openai@status=401 format=code retries=0\nPrint one."))
    with Kernel(front_end=False) as headless:
        assert [] == payload(headless.run(cell))


TROJAN = "x = 'ad\u202emin\u2066'  # \u200bkey\U000e0041\u00ad\nprint('👨‍👩‍👧 می‌خواهم')"
SEEN = "x = 'ad⟨U+202E⟩min⟨U+2066⟩'  # ⟨U+200B⟩key⟨U+E0041⟩⟨U+00AD⟩\nprint('👨‍👩‍👧 می‌خواهم')"


def asking(text):
    return f"sim/openai@text={quote(text, safe='')}"


def test_code_that_hides_something_is_put_below_with_marks(kernel):
    """By insert, format=code and fix, each with a warning that counts them; what is honest stays, and so do
    all words."""
    kernel.run(f"%%llm {asking(f'Here:{chr(10)}{chr(10)}```python{chr(10)}{TROJAN}{chr(10)}```')}\nx")
    inserted = kernel.run("%llm insert")
    assert [SEEN] == [p["text"] for p in payload(inserted)]
    assert "5 hidden characters" in inserted.text
    for source, more in ((TROJAN, ""), (f"```\n{TROJAN}\ny = 2\n```", "\ny = 2")):
        ran = kernel.run(f"%%llm {asking(source)} format=code\nPrint.")
        assert [SEEN + more] == [p["text"] for p in payload(ran)]
        assert "5 hidden characters" in ran.text
        assert "\u202e" not in ran.text
    kernel.run("print(totl)")
    fixed = kernel.run(f"%llm fix {asking(f'```python{chr(10)}{TROJAN}{chr(10)}```')}")
    assert [SEEN] == [p["text"] for p in payload(fixed)]
    assert "5 hidden characters" in fixed.text
    assert not set("\u202e\u2066\u200b\U000e0041\u00ad") & set(str(fixed.outputs))


def test_all_code_of_an_answer_that_was_asked_for_as_code_goes_below(kernel):
    """Every fence, as it is shown, indents kept."""
    ran = kernel.run(
        f"%%llm {asking('First:' + chr(10) + '```py' + chr(10) + 'def f():' + chr(10) + '    return 1' + chr(10) + '```' + chr(10) + 'Then:' + chr(10) + '```py' + chr(10) + 'f()' + chr(10) + '```')} format=code\nTwo."  # noqa: E501
    )
    assert ["def f():\n    return 1\n\nf()"] == [p["text"] for p in payload(ran)]
    ran = kernel.run(f"%%llm {asking('    a = 1' + chr(10) + '    b = 2')} format=code\nIndented.")
    assert ["    a = 1\n    b = 2"] == [p["text"] for p in payload(ran)]


LINES = [f"line {i}" for i in range(2_000)]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (["a", "b"], ["a", "c"], ["-b", "+c"]),
        (LINES, [*LINES[:1_000], "new", *LINES[1_001:]], ["-line 1000", "+new"]),
        (LINES, LINES, []),
        (LINES, [*LINES, "more"], ["+more"]),
        (LINES, LINES[1:], ["-line 0"]),
        (["x"] * 1_000, ["x"] * 1_001, ["+x"]),
        ([], LINES[:1], ["+line 0"]),
    ],
)
def test_a_diff_shows_what_changes(before, after, shown):
    """Of very long cells too."""
    assert shown == [
        line
        for line in diff_lines(before, after, "a", "b")
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: (["a", "b"] * n, ["b", "a"] * n),
        lambda n: (list(map(str, range(n))), list(map(str, range(n, 0, -1)))),
        lambda n: (["x"] * n, ["x"] * (n + 1)),
        lambda n: ([f"{i % 7}" for i in range(n)], [f"{i % 11}" for i in range(n)]),
    ],
)
def test_a_diff_costs_its_length(make):
    """Above what is compared line by line."""
    growth(lambda given: list(diff_lines(*given, "a", "b")), make, 2_000)


def test_a_diff_holds_code_that_holds_fences():
    """It is code as it is."""
    line = _rendered_diff("a\n```\nb", "a\n```\n**c**")
    assert "**c**" in line.html
    assert "<strong>" not in line.html
