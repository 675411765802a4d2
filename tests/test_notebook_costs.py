"""What a cell costs, in counts: looks instead of pieces, rules that an output needs, modules that loading
brings."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.client.client import Client
from nbllm.core.events import Notice, ReasoningDelta, TextDelta, ToolCallDelta
from nbllm.core.messages import Text
from nbllm.notebook.question import Question
from nbllm.notebook.run import Run, follow
from nbllm.notebook.view import hidden
from nbllm.notebook.view.markdown import plain_html, to_html
from nbllm.notebook.view.outcome import RunObserver
from nbllm.notebook.view.state import AnswerState, merge_events
from nbllm.notebook.view.static import reasoning_html, render_footer, render_note
from nbllm.notebook.view.styles import STYLE, container, style_of
from nbllm.routing.config_files import Places, may_be_configured

EVENTS = st.one_of(
    st.builds(TextDelta, st.sampled_from(["", "a", "one\n\n", "two "])),
    st.builds(ReasoningDelta, st.sampled_from(["", "hm "])),
    st.builds(
        ToolCallDelta,
        st.integers(0, 1),
        st.sampled_from([None, "id1", "id2"]),
        st.sampled_from([None, "search"]),
        st.sampled_from(["", "{", '"q"']),
    ),
    st.builds(Notice, st.just("retry"), st.just("again")),
)


def seen(log):
    """All that a screen takes from a state."""
    state = AnswerState("m", 0.0)
    for at, event, count in log:
        state.feed(event, at, count)
    return [(p.source, p.kind) for p in state.pieces], state.splitter.tail(), {
        name: getattr(state, name)
        for name in ("thought", "calls", "ids", "notice", "characters", "chunks", "first_token")
    }  # fmt: skip


@given(st.lists(EVENTS, max_size=30))
def test_gathered_events_come_to_the_same(events):
    """Pieces of one text as one event: the same state, the same number, the same first arrival."""
    log = [(float(i), event) for i, event in enumerate(events)]
    assert seen((at, e, 1) for at, e in log) == seen(merge_events(log))


class Counts(RunObserver):
    """Counts what a painter would hear."""

    def __init__(self):
        self.fed = self.ticks = 0

    def feed(self, column, event):
        self.fed += 1

    def tick(self, now):
        self.ticks += 1


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [10, 1000])
def test_what_has_come_is_taken_in_one_look(chunks):
    """A painter hears of a thousand pieces that are there already as of ten."""
    client = Client(ledger=None)
    stream = client.stream("x", f"sim/openai@tokens={chunks},ttft=0,gap=0")
    stream.response(30)
    run = Run.of(Question((Text("x"),), ("openai/m",), {}, {}), lambda q, c: stream).begin()
    counts = Counts()
    follow(run, counts)
    assert run.outcomes[0].response.text == stream.response().text
    assert counts.fed < 10
    assert counts.ticks == 0  # nothing was left to wait for


@pytest.mark.slow
def test_what_is_usual_hides_nothing():
    """The quick look at a text lets nothing through that the slow one would mark."""
    usual = [c for c in map(chr, range(sys.maxunicode + 1)) if hidden._COMMON.fullmatch(c)]
    assert [] == [c for c in usual if hidden._is_hidden(c)]
    assert 20_000 < len(usual)


SHOWN = {
    "prose": "Only **words**.",
    "heading": "# One\n\nwords",
    "list": "- [x] a\n- b",
    "table": "| a | b |\n|---|---|\n| 1 | 2 |",
    "code": "```python\nx = 1  # one\n```",
    "span": "a `b` c",
    "quote": "> words\n\n---\n\n[x](https://x.example)",
    "formula": "$$\nx^2\n$$",
    "details": "<details><summary>More</summary>\n\nwords\n\n</details>",
}


NAME = re.compile(r"(?<![\w-])[a-z][\w-]*")
CHOICE = re.compile(r":(is|not)\(((?:[^()]|\([^()]*\))*)\)")


def may_apply(selector, names):
    """Whether all names of a selector occur, and one of each of its choices."""
    choices = [set(NAME.findall(m[2])) for m in CHOICE.finditer(selector) if m[1] == "is"]
    rest = re.sub(r"\[[^]]*\]|::?[\w-]+(?:\([^)]*\))?", "", CHOICE.sub("", selector))
    return set(NAME.findall(rest)) <= names and all(choice & names for choice in choices)


def left_out(html, sheet):
    """The rules that could apply to `html` and are not in `sheet`."""
    names = {"div", "nbllm", *re.findall(r"<([a-z]\w*)", html), *re.findall(r"class=\"?([\w-]+)", html)}
    rules = {r for r in STYLE[7:-8].split("}") if r} - set(sheet[7:-8].split("}"))
    return [r for r in rules if may_apply(r.partition("{")[0], names)]


@pytest.mark.parametrize("kind", SHOWN)
def test_an_output_has_the_rules_it_needs(kind):
    """Each output holds every rule that could apply to it, and prose few of them."""
    html = to_html(SHOWN[kind])
    assert [] == left_out(html, style_of(html))
    assert bool(left_out(html, style_of(""))) == (kind != "prose")
    sided = container(html, style=True).replace(' style="text-align:left"', "")
    assert sided == container(html, style=False).replace(">", f">{style_of(html)}", 1)
    if kind == "prose":
        assert len(style_of(html + render_footer(render_note("x")).html)) < 850


@pytest.mark.parametrize(
    "html",
    [plain_html("x"), reasoning_html("x"), render_note("x").html, render_footer(render_note("x")).html],
    ids=["text", "thought", "note", "foot"],
)
def test_so_do_our_own_words(html):
    """Text as it is, thoughts and notes likewise."""
    assert [] == left_out(html, style_of(html))


# --- loading ---

SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
"""
LATER = {
    *("httpx", "httptools", "msgspec", "markdown_it", "pygments.lexers", "tomllib", "sqlite3", "ssl"),
    *("nbllm.client", "nbllm.dialects", "nbllm.http", "nbllm.agents", "nbllm.store", "nbllm.tools"),
    *("nbllm.core.events", "nbllm.routing.config", "nbllm.notebook.run", "nbllm.notebook.view.static"),
    *("pandas", "numpy", "matplotlib", "pydantic", "ipywidgets", "anywidget", "genai_prices", "mcp"),
}


def in_a_shell(code, folder, **env):
    """What `code` prints in an IPython of its own, whose working folder is `folder`."""
    return subprocess.run(
        [sys.executable, "-c", SHELL + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


@pytest.mark.slow
def test_loading_brings_what_a_line_needs_and_no_call(tmp_path):
    """%load_ext imports none of what the first call does; %config and the magics are there."""
    code = """
before = set(sys.modules)
shell.run_line_magic("load_ext", "nbllm")
print(json.dumps(sorted(set(sys.modules) - before)))
shell.run_line_magic("config", "NbLLM")
shell.run_line_magic("llm", "use temperature=0.5")
"""
    loaded, _, rest = in_a_shell(code, tmp_path).partition("\n")
    assert set() == set(json.loads(loaded)) & LATER
    assert "NbLLM.max_tokens" in rest
    assert "temperature=0.5" in rest


FILES = {
    "none": ("", False),
    "a name": ("[project]\nname = 'x'\ndependencies = ['nbllm']\n", False),
    "table": ("[tool.nbllm.use]\nmax_tokens = 5\nwrong = 1\n", True),
    "dotted": ("[tool]\nnbllm.use = {max_tokens = 5, wrong = 1}\n", True),
    "inline": ("tool = {nbllm = {use = {max_tokens = 5, wrong = 1}}}\n", True),
    "quoted": ("[tool.'nbllm'.use]\nmax_tokens = 5\nwrong = 1\n", True),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_project_s_file_is_read_when_it_may_say_something(tmp_path, kind):
    """However it is written; where it only names nbllm, nothing is read."""
    text, says = FILES[kind]
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    assert says == may_be_configured(Places(start=tmp_path))
    assert may_be_configured(Places(extra=tmp_path / "any.toml"))
    assert may_be_configured(Places(user=tmp_path / "pyproject.toml"))
    assert not may_be_configured(Places(user=tmp_path / "missing.toml"))


@pytest.mark.slow
def test_what_files_choose_is_there_when_it_is_loaded(tmp_path):
    """And what they cannot choose is told then."""
    (tmp_path / "pyproject.toml").write_text(FILES["table"][0], "utf-8")
    code = """
shell.run_line_magic("load_ext", "nbllm")
print("---")
shell.run_line_magic("llm", "use")
"""
    before, _, after = in_a_shell(code, tmp_path).partition("---")
    assert "ignores the default 'wrong'" in before
    assert "max_tokens=5" in after


@pytest.mark.slow
@pytest.mark.parametrize("first", ["load", "client"])
def test_the_shared_client_can_ask_its_user(tmp_path, first):
    """Whether it is made before or after the extension was loaded, by whatever; not once that is
    unloaded."""
    load, client = "shell.run_line_magic('load_ext', 'nbllm')", "client = nbllm.Chat(model='sim').client"
    code = f"""
import nbllm
{load if first == "load" else client}
{client if first == "load" else load}
print("asks", client.asker is not None)
shell.run_line_magic("unload_ext", "nbllm")
print("then", client.asker is not None)
"""
    told = in_a_shell(code, tmp_path)
    assert "asks True" in told
    assert "then False" in told


@pytest.mark.slow
def test_values_draw_themselves_in_a_shell_that_has_loaded_it(tmp_path):
    """A Response of Python's own way is drawn safely, once it is unloaded as any object."""
    code = """
shell.run_line_magic("load_ext", "nbllm")
shell.run_cell("import nbllm; r = nbllm.complete('x', 'sim/openai@text=Hello')")
shell.run_cell("r")
print("---")
shell.run_line_magic("unload_ext", "nbllm")
shell.run_cell("r")
"""
    drawn, _, bare = in_a_shell(code, tmp_path).partition("---")
    assert "Hello" in drawn
    assert "[simulated]" in drawn
    assert "Response(" not in drawn
    assert "[simulated]" not in bare
