"""Every pair of a cell's options: both take effect, or one is rejected with its column. None is ignored
silently."""

import itertools

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
A, B = "sim/openai@ttft=0.01,gap=0.001", "sim/anthropic@ttft=0.01,gap=0.001"
WAIT = "import threading\n[t.join() for t in threading.enumerate() if t.name == 'nbllm-background']"

# An option as it stands on the line, and what shows that it was honoured: an expression over `answers` (the
# responses), `value` (what the variable or the function gave), `text` and `html` (what the cell shows),
# `said` (what was sent last).
PARTS = {
    "several": (f"{A},{B}", "len(answers) >= 2"),
    "runs": ("runs=2", "len(answers) % 2 == 0"),
    "sweep": ("temperature=0,0.7", "{a.request.temperature for a in answers} == {0.0, 0.7}"),
    "chat": (
        "chat=talk",
        "sum(m.role != 'system' for m in answers[0].request.messages) == 3 and len(chat('talk').turns) == 2",
    ),
    "schema": ('schema="name, age int"', "all(set(json.loads(a.text)) == {'name', 'age'} for a in answers)"),
    "as": ('schema="name, age int" as=df', "all(list(v.columns) == ['name', 'age'] for v in frames)"),
    "code": ("format=code", "bool(below)"),
    "json": (  # as=df shows the frame instead
        "format=json",
        "'data-lang' in html or 'json' in html or '>name</th>' in html",
    ),
    "def": ("def=made", "callable(user_ns['made'])"),
    "save": ("save=frag", "'say {x}' in fragments['frag']"),
    "use": ("use=tone", "all('Be kind.' in a.request.messages[-1].text for a in answers)"),
    "bg": ("bg=true", "in_background"),
    "out": ("out=v", "'v' in user_ns"),
    "dry": ("dry_run=true", "'Nothing was sent' in text and not answers"),
    "quiet": ("quiet=true", "text.strip() == ''"),
    "plain": ("render=plain", "html == ''"),
    "asserts": (
        'asserts="not contains: %%"',
        "all(a.passed and a.checks == {'not_contains': 1.0} for a in answers)",
    ),
    "system": ('system="Be brief."', "all(a.request.messages[0].role == 'system' for a in answers)"),
}
CHECK = """
import json as json_
from nbllm.notebook.session import current_session
_s = current_session()
def _checked(conditions, text, html, below, in_background, function):
    result = user_ns.get("_llm")
    function_value = None
    if function:
        result = function_value = user_ns["made"]("rain")
    if result is None: answers = []
    elif type(result).__name__ == "Comparison": answers = result.responses
    elif type(result).__name__ == "Response": answers = [result]
    else: answers = []
    frames = []
    if type(function_value).__name__ == "DataFrame":
        frames, answers = [function_value], [None]
    elif result is not None:
        frames = result.values if hasattr(result, "values") and type(result).__name__ == "Comparison" else [o.value for o in _s.outcomes]
    names = dict(user_ns=user_ns, answers=answers, frames=frames, text=text, html=html, below=below, in_background=in_background,
                 fragments=_s.fragments, chat=_s.chats.get, json=json_)
    return [c for c in conditions if not eval(c, names)]
user_ns = get_ipython().user_ns
at_end = [""]  # what _llm was when the last %%llm cell gave the prompt back
def _note(result):
    if str(result.info.raw_cell).startswith("%%llm"):
        at_end[0] = type(user_ns.get("_llm")).__name__
get_ipython().events.register("post_run_cell", _note)
"""  # noqa: E501
# Pairs that make sense and cannot be told from what is left behind: an effect that the other takes away on
# purpose.
SILENT = {
    frozenset(p)
    for p in (
        ("dry", "chat"),
        ("dry", "schema"),
        ("dry", "as"),
        ("dry", "runs"),
        ("dry", "sweep"),
        ("dry", "several"),
        ("dry", "use"),
        ("dry", "system"),
        ("dry", "out"),
        ("dry", "asserts"),
        ("dry", "bg"),
        ("dry", "code"),
        ("dry", "json"),
        ("dry", "quiet"),
        ("dry", "plain"),
        ("quiet", "json"),
        ("plain", "json"),
    )
}


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        assert kernel.run(CHECK).ok
        yield kernel


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PARTS, 2)), ids=lambda name: name)
def test_both_are_honoured_or_one_is_refused_with_its_column(kernel, one, other):
    """The cell fails with a column and what to do, and nothing was sent; or what both promise is there."""
    words = [PARTS[n][0] for n in (one, other)]
    if "schema=" in words[0] and "schema=" in words[1]:
        words.pop(0)
    model = [] if "several" in (one, other) else [A]
    kernel.run(
        "_s.chats.__init__(); user_ns.pop('_llm', None); user_ns.pop('v', None); user_ns.pop('made', "
        "None); _s.fragments.clear(); _s.offered_code.clear(); x = 'rain'"
    )
    kernel.run("%%llm save=tone\nBe kind.\n")
    if "chat" in (one, other):
        kernel.run(f"%%llm {A} chat=talk\nhello", cell="first")
        kernel.run("user_ns.pop('_llm')")
    line = " ".join([*model, *words])
    if "bg" in (one, other):
        line = line.replace("ttft=0.01", "ttft=0.3")  # it is still under way when its cell has ended
    ran = kernel.run(f"%%llm {line}\nsay {{x}}", cell="second")
    if not ran.ok:
        assert "Column" in ran.error["evalue"], ran.error
        assert False is kernel.value("'_llm' in user_ns"), "nothing was sent"
        return
    if frozenset((one, other)) in SILENT:
        return
    in_background = kernel.value("at_end[0]") in ("Stream", "Run")
    kernel.run(WAIT)
    below = any(p.get("source") == "set_next_input" for p in ran.reply["content"].get("payload", []))
    conditions = [PARTS[n][1] for n in (one, other)]
    function = "def" in (one, other)
    call = f"_checked({conditions!r}, {ran.text!r}, {ran.html!r}, {below}, {in_background}, {function})"
    assert [] == kernel.value(call)


def test_a_default_gives_way_to_what_the_cell_says(kernel):
    """A default that the cell's own words rule out is no error."""
    kernel.run("%llm use quiet=false render=plain")
    assert kernel.run(f"%%llm {A} quiet=true\nhello").ok
    kernel.run("%llm use reset")
    kernel.run("%llm use format=code")
    assert kernel.run(f"%%llm {A},{B}\nhello").ok
    kernel.run("%llm use reset")
