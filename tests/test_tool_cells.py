"""Tools in a notebook: rows, questions, Stop, chats, and what is refused with its column; in real kernels."""

import pytest

from nbllm.core.errors import ConfigError
from nbllm.notebook.tool_names import resolve_tools
from nbllm.simulator import script

from .kernels import Kernel
from .test_failures_after_answer import WAIT

pytestmark = pytest.mark.kernel

MODEL = "sim/openai/m@ttft=0,gap=0"
DEFINE = '''
called = []
def price(article: str) -> float:
    """The list price of an article."""
    called.append(article)
    print("looking it up")
    return 4.5
class Shop:
    def stock(self, article: str) -> int:
        """How many there are."""
        called.append(("stock", article))
        return 7
shop = Shop()
def slow(article: str) -> str:
    """Waits."""
    import time
    print("waiting")
    while True: time.sleep(0.01)
def clear(): called.clear()
from nbllm.notebook.session import current_session as _cs
_s_ = _cs()
'''


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        assert kernel.run(DEFINE).ok
        yield kernel


@pytest.fixture(scope="module")
def headless():
    with Kernel(front_end=False) as kernel:
        assert kernel.run(DEFINE).ok
        yield kernel


def test_a_cell_whose_model_calls_a_function(kernel):
    """A row with its exact arguments and result, both forms; what the function prints stays; the variable has
    all steps."""
    ran = kernel.run(f"clear()\n%llm ask -m {MODEL} approve=auto tools=price What does A-17 cost?")
    assert ran.ok, ran.error
    ran = kernel.run(f"%%llm {MODEL} tools=price approve=auto\nWhat does A-17 cost?")
    assert ran.ok, ran.error
    assert 'price(article="A-17") → 4.5' in ran.html.replace("&quot;", '"')
    assert '[tool call] price({"article": "A-17"})\n[result] 4.5' in ran.text
    assert "2 steps" in ran.text
    assert "looking it up" in ran.text
    assert [["A-17", "A-17"], 2, "stop"] == kernel.value("[called, len(_llm.steps), _llm.finish_reason]")


def test_methods_and_lists_by_name(kernel):
    kernel.run("clear(); both = [price, shop.stock]")
    ran = kernel.run(f"%%llm {MODEL},call=stock tools=both approve=auto\nHow many A-17?")
    assert ran.ok, ran.error
    assert [["stock", "A-17"]] == kernel.value("called")
    assert kernel.run(f"%%llm {MODEL} tools=shop.stock approve=auto\nHow many A-17?").ok


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tools=prise", "did you mean price"),
        ("tools=called", "Not a tool"),
        ("tools=shop.nothing", "No tool is called"),
        ("tools=price bg=true", ""),
        ("max_steps=3", ""),
        ("approve=auto", ""),
        ("approve=decide", ""),
        ("tools=price approve=atuo", "did you mean auto"),
        ("tools=price approve=shop.nothing", "No function is called"),
        ("tools=price approve=called", "Not a function: called is list"),
        ("tools=price approve=1", ""),
    ],
)
def test_what_cannot_be_honoured_is_refused(kernel, line, words):
    """With its column, before anything is sent."""
    kernel.run("clear(); _llm = None")
    ran = kernel.run(f"%%llm {MODEL} {line}\nWhat does A-17 cost?")
    assert not ran.ok
    assert ran.error["evalue"].startswith("Column ")
    assert words in ran.error["evalue"]
    assert [[], True] == kernel.value("[called, _llm is None]")


@pytest.mark.parametrize(
    ("name", "near"), [("db", "mcp/db"), ("weather", "http/weather"), ("travle", "remote/travel")]
)
def test_the_name_of_a_server_leads_to_it(name, near):
    """Without what stands before it, and misspelt."""
    with pytest.raises(ConfigError, match=f"did you mean {near}\\?"):
        resolve_tools([name], {}, lambda: ["mcp/db", "http/weather", "remote/travel"])


def test_a_cell_and_a_notebook_keep_to_their_budgets(kernel):
    """What does not fit is an error of a few lines, before anything is sent; the line shows what is left."""
    ran = kernel.run("%%llm sim/openai budget=tokens:5\nHello")
    assert not ran.ok
    assert "was not sent" in ran.error["evalue"]
    assert kernel.run("%%llm sim/openai budget=$0.01\nHello").ok
    assert kernel.run("%llm budget tokens:1100").ok
    assert kernel.run("%%llm sim/openai@tokens=10\nHello").ok
    assert not kernel.run("%%llm sim/openai max_tokens=5000\nHello").ok
    code = "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as said:\n    %llm budget"
    shown = kernel.run(code)
    assert shown.ok, shown.error
    assert "0 reserved" in kernel.value("said.getvalue()")
    assert kernel.run("%llm budget off").ok
    assert kernel.run("%%llm sim/openai@tokens=10 max_tokens=5000\nHello").ok


@pytest.mark.parametrize(("typed", "ran"), [("once", ["A-17"]), ("a", ["A-17"]), ("no", []), ("", [])])
def test_the_person_is_asked_through_the_keyboard(kernel, typed, ran):
    """Where the page shows no buttons; the whole call is on screen before."""
    kernel.run("clear()")
    message = kernel.start(f"%%llm {MODEL} tools=price\nWhat does A-17 cost?")
    asked = kernel.client.get_stdin_msg(timeout=60)
    assert "Run price (function price)?" in asked["content"]["prompt"]
    kernel.client.input(typed)
    done = kernel.collect(message)
    assert done.ok, done.error
    assert ran == kernel.value("called")
    assert ("not run (refused)" in done.text) == (not ran)


def test_where_nobody_can_answer_it_is_no(headless):
    """The model is told, and the person reads why."""
    ran = headless.run(f"%%llm {MODEL} tools=price\nWhat does A-17 cost?")
    assert ran.ok, ran.error
    assert [[], "refused"] == headless.value("[called, _llm.steps[0].results[0].outcome]")
    assert "nobody could answer" in ran.text
    assert headless.run(
        f"r = nbllm.complete('What does A-17 cost?', '{MODEL}', tools=[price])", timeout=60
    ).ok
    assert [] == headless.value("called")


def test_a_function_of_the_notebook_decides(kernel, headless):
    """By its name, where nobody is there to be asked too; in the background and as a default of the
    notebook."""
    define = "asked = []\ndef decide(question):\n    asked.append(question.call.arguments)\n    return {}"
    for one, answer, ran in ((kernel, True, ["A-17"]), (headless, "'once'", ["A-17"]), (kernel, False, [])):
        one.run(f"clear()\n{define.format(answer)}")
        done = one.run(f"%%llm {MODEL} tools=price approve=decide\nWhat does A-17 cost?")
        assert done.ok, done.error
        assert [[{"article": "A-17"}], ran] == one.value("[asked, called]")
    ran = kernel.run(f"%%llm {MODEL} tools=price approve=decide bg=true out=later\nWhat does A-17 cost?")
    assert ran.ok, ran.error
    assert kernel.run(WAIT).ok
    assert "refused" == kernel.value("later.steps[0].results[0].outcome")
    kernel.run("asked.clear()\nshop.decide = decide")
    kernel.run("%llm use approve=shop.decide")
    kernel.run(f"%%llm {MODEL} tools=price\nWhat does A-17 cost?")
    assert kernel.run("%llm use none").ok
    assert 1 == kernel.value("len(asked)")


def test_stop_breaks_off_a_function(kernel):
    """In its middle; the call is told as stopped, and the next cell works."""
    message = kernel.start(f"%%llm {MODEL} tools=slow approve=auto\nWait for A-17.")
    kernel.collect(message, until=lambda m: "waiting" in str(m["content"].get("text", "")))
    kernel.interrupt()
    ran = kernel.collect(message)
    assert "Stopped" in ran.error["ename"]
    assert ["cancelled", "stopped"] == kernel.value("[_llm.finish_reason, _llm.steps[-1].results[0].outcome]")
    assert "· stopped ·" in str(ran.messages)
    assert kernel.run(f"%%llm {MODEL} tools=price approve=auto\nWhat does A-17 cost?").ok


def test_a_conversation_goes_on_after_a_stop(kernel):
    """With the call that was broken off, and its result."""
    message = kernel.start(f"%%llm {MODEL} chat=stopped tools=slow approve=auto\nWait for A-17.", cell="a")
    kernel.collect(message, until=lambda m: "waiting" in str(m["content"].get("text", "")))
    kernel.interrupt()
    kernel.collect(message)
    ran = kernel.run(f"%%llm {MODEL} chat=stopped\nGo on.", cell="b")
    assert ran.ok, ran.error
    roles = kernel.value("[m.role for m in _llm.request.messages]")
    assert ["user", "assistant", "tool", "user"] == roles


def test_a_conversation_goes_on_after_a_stop_in_mid_sentence(kernel):
    """Of the turn that follows a call: what was said stays, and so does the call with its result."""
    steps = script(
        [{"calls": [{"name": "price", "arguments": {"article": "A-17"}}]}, {"text": "It costs " * 40}]
    )
    line = f"%%llm sim/openai/m@ttft=0,gap=0,stall=30,{steps} chat=halved tools=price approve=auto"
    message = kernel.start(f"{line}\nWhat does A-17 cost?", cell="a")
    kernel.collect(message, until=lambda m: "It costs" in str(m["content"].get("data", "")))
    kernel.interrupt()
    ran = kernel.collect(message)
    assert "Stopped" == ran.error["ename"]
    assert ["cancelled", True] == kernel.value("[_llm.finish_reason, _llm.text.startswith('It costs')]")
    ran = kernel.run(f"%%llm {MODEL} chat=halved tools=price approve=auto\nGo on.", cell="b")
    assert ran.ok, ran.error
    roles = kernel.value("[m.role for m in _llm.request.messages]")
    assert ["user", "assistant", "tool", "assistant", "user"] == roles


def test_a_conversation_keeps_calls_and_results(kernel):
    kernel.run(f"%%llm {MODEL} chat=shopping tools=price approve=auto\nWhat does A-17 cost?", cell="one")
    ran = kernel.run(f"%%llm {MODEL} chat=shopping\nAnd in one word?", cell="two")
    assert ran.ok, ran.error
    roles = kernel.value("[m.role for m in _llm.request.messages]")
    assert ["user", "assistant", "tool", "assistant", "user"] == roles


def test_several_models_with_tools(kernel):
    kernel.run("clear()")
    ran = kernel.run(
        f"%%llm {MODEL},sim/claude/m@ttft=0,gap=0 tools=price approve=auto\nWhat does A-17 cost?"
    )
    assert ran.ok, ran.error
    assert [["A-17", "A-17"], [2, 2]] == kernel.value("[called, [len(r.steps) for r in _llm.responses]]")
    assert 2 == ran.html.replace("&quot;", '"').count('price(article="A-17") → 4.5')


def test_in_the_background_and_as_a_function(kernel):
    kernel.run("clear()")
    kernel.run(f"%%llm {MODEL} tools=price approve=auto bg=true\nWhat does A-17 cost?")
    kernel.run("import threading\n[t.join() for t in threading.enumerate() if t.name == 'nbllm-background']")
    assert [["A-17"], 2] == kernel.value("[called, len(_llm.steps)]")
    kernel.run(f"%%llm {MODEL} tools=price approve=auto def=cost\nWhat does {{article}} cost?")
    kernel.run("r = cost('B-3')")
    assert ["A-17", "B-3"] == kernel.value("called")


def test_what_nbllm_brings(kernel, tmp_path):
    """Python in the notebook's own namespace, and the files of the folder."""
    kernel.run("answer = 41")
    call = f"%%llm {MODEL},call=python tools=python approve=auto\nRun it."
    ran = kernel.run(call)
    assert ran.ok, ran.error
    assert ["python"] == kernel.value("[c.name for c in _llm.steps[0].tool_calls]")
    (tmp_path / "notes.txt").write_text("hello", "utf-8")
    kernel.run(f"%cd -q {tmp_path}")
    ran = kernel.run(f"%%llm {MODEL},call=list_files tools=files approve=auto\nWhat is there?")
    assert ran.ok, ran.error
    assert "list_files" in ran.text


def test_a_long_conversation_says_that_it_was_shortened(kernel):
    """In one line, with the summary folded; its turns stay."""
    for i in range(5):
        ran = kernel.run(
            f"%%llm {MODEL},text=so%20it%20was chat=long compact=700\n{'word ' * 250}{i}", cell=f"c{i}"
        )
        assert ran.ok, ran.error
    assert "1 earlier turn summarised" in ran.text or "earlier turns summarised" in ran.text
    assert "<summary>" in ran.html
    assert 5 == kernel.value("len(_s_.chats.get('long').turns)")
    refused = kernel.run(f"%%llm {MODEL} compact=900\nhello")
    assert "Column" in refused.error["evalue"]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", None),
        ("tools=price approve=auto", "auto"),
        ("chat=kept", "auto"),
        ("chat=kept compact=off", "auto"),
        ("tools=price approve=auto cache=off", None),
        ("chat=kept cache=1h", "1h"),
        ("cache=auto", "auto"),
    ],
)
def test_what_goes_on_asks_for_its_prompt_to_be_kept(kernel, options, asked):
    """Chats and tools by themselves, a single question where it says so."""
    ran = kernel.run(f"%%llm {MODEL} {options}\nhello")
    assert ran.ok, ran.error
    assert asked == kernel.value("_llm.request.cache")


def test_a_dry_run_shows_the_tools(kernel):
    """As they would be told; nothing runs."""
    kernel.run("clear()")
    ran = kernel.run(f"%%llm {MODEL} tools=price,shop.stock dry_run=true\nWhat does A-17 cost?")
    assert ran.ok, ran.error
    assert "The list price of an article." in ran.text
    assert "stock" in ran.text
    assert [] == kernel.value("called")


def test_what_a_tool_changed_is_listed_and_taken_back(kernel, tmp_path):
    """Asked with the difference; `%llm undo` needs no more words; twice there is nothing left."""
    kernel.run(f"%cd -q {tmp_path}\nopen('a.txt', 'w').write('one\\ntwo\\n')")
    arguments = {"path": "a.txt", "text": "one\nthree\n"}
    steps = script([{"calls": [{"name": "write_file", "arguments": arguments}]}, {"text": "Done."}])
    ran = kernel.run(f"%%llm {MODEL},{steps} tools=files approve=auto\nWrite.")
    assert ran.ok, ran.error
    assert "Changed: a.txt" in ran.text
    assert "+three" in kernel.run("%llm undo list").text
    assert "Taken back: a.txt." in kernel.run("%llm undo").text
    assert "one\ntwo\n" == (tmp_path / "a.txt").read_text()
    refused = kernel.run("%llm undo")
    assert not refused.ok
    assert "no such change" in refused.error["evalue"]
    assert not kernel.run("%llm undo everything").ok


SHOWS = '''
from IPython.display import HTML, clear_output, display
def shows(article: str) -> str:
    """Shows a table."""
    display(HTML("<b>of the tool</b>"))
    return "shown"
def asks(article: str) -> str:
    """Asks a model in its turn."""
    get_ipython().run_line_magic("llm", "ask -m sim/openai/m@ttft=0,gap=0,text=within Hi")
    return "asked"
def clears(article: str) -> str:
    """Draws in the place of what was there, as plots of a training do."""
    clear_output(wait=True)
    display(HTML("<b>of the tool</b>"))
    return "cleared"
'''


@pytest.mark.parametrize(
    ("tool", "stays"), [("shows", "of the tool"), ("asks", "within"), ("clears", "of the tool")]
)
def test_what_a_tool_shows_stays_beside_the_answer(kernel, tool, stays):
    """And the answer is there, whatever the tool did to the cell's outputs."""
    assert kernel.run(SHOWS).ok
    ran = kernel.run(f"%%llm {MODEL} tools={tool} approve=auto\nWhat does A-17 cost?")
    assert ran.ok, ran.error
    assert stays in ran.html
    assert 1 == ran.text.count(f"[tool call] {tool}(")
    assert "2 steps" in ran.text


@pytest.mark.parametrize(("choice", "ran"), [("none", 0), ("required", 1), ("price", 1), ("stock", 1)])
def test_a_cell_says_whether_a_tool_has_to_be_called(kernel, choice, ran):
    """In the first turn; one that is not there is told."""
    cell = f"%%llm {MODEL} tools=price,shop.stock approve=auto tool_choice={choice}\nA-17"
    assert kernel.run(cell).ok
    assert ran == kernel.value("sum(len(s.results) for s in _llm.steps)")
    if choice in ("price", "stock"):
        assert [choice] == kernel.value("[e.result.name for s in _llm.steps for e in s.results]")
    wrong = kernel.run(cell.replace(f"tool_choice={choice}", "tool_choice=nope"))
    assert "is not a tool of the call" in wrong.error["evalue"]
