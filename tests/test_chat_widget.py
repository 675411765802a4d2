"""The chat panel, background cells and questions to the person, in real kernels: with a front end, without
one, in a terminal."""

import re

import pytest

from .kernels import Kernel

pytestmark = pytest.mark.kernel
WAIT = "import threading\n[t.join() for t in threading.enumerate() if t.name == 'nbllm-background']"
SIM = "sim/openai@gap=0.001,ttft=0.01"


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def headless():
    with Kernel(front_end=False) as kernel:
        yield kernel


def drawn(kernel, until="to first token|Error"):
    """What earlier cells drew, at least to a display whose text matches."""
    while not any(
        re.search(until, str(m["content"].get("data", {}).get("text/plain", ""))) for m in kernel.others
    ):
        kernel.others.append(kernel.client.get_iopub_msg(timeout=60))
    shown, kernel.others = (
        [
            m
            for m in kernel.others
            if m["msg_type"] in ("display_data", "update_display_data", "clear_output")
        ],
        [],
    )
    return shown


def test_without_a_front_end_the_panel_is_its_transcript(headless):
    """One static output; code asks and waits; the conversation is the same as chat=."""
    ran = headless.run(
        f"panel = nbllm.ChatWidget({SIM!r}, chat='eda', system='Be brief.')\nanswer = panel.ask('Why is "
        f"the sky blue?')\npanel"
    )
    assert ran.ok, ran.error
    assert 1 == len(ran.outputs)
    assert {"text/html", "text/plain"} == set(ran.outputs[0]["data"])
    assert ran.text.startswith("Conversation eda\n\nYou: Why is the sky blue?\n\nSunlight holds all colours.")
    ran = headless.run(f"%%llm {SIM} chat=eda\nAnd at night?")
    assert ran.ok
    assert 2 == headless.value("len(panel.chat.turns)")
    assert "And at night?" in headless.value("panel.transcript")


def test_a_question_is_asked_again_in_its_place(headless):
    """Retry keeps one turn; an empty question and one too early are errors that say so."""
    assert headless.run(f"p = nbllm.ChatWidget({SIM!r}, chat='again')\np.ask('One?')\np.retry()\np.wait()").ok
    assert [1, "One?"] == headless.value("[len(p.chat.turns), p.chat.turns[0].question.text]")
    assert "The message is empty" in str(headless.run("p.ask('  ')").error)
    assert "still answering" in str(
        headless.run(
            f"q = nbllm.ChatWidget({SIM.replace('0.01', '5')!r}, chat='slow')\n_ = "
            f"q.send('One?')\nq.send('Two?')"
        ).error
    )
    headless.run("q.stop(); q.wait()")


BAD = [
    "nowhere/at-all",
    "sim/openai@status=401",
    "sim/openai@cut=8",
    "sim/openai@error=5",
    "sim/openai@cut=0,how=rst",
]


@pytest.mark.parametrize("model", BAD)
def test_retry_keeps_the_old_turn_until_the_new_answer_is_there(headless, model):
    """A wrong name, a refusal, a cut: the turn stays in its place, the failure is shown, and another retry
    may replace it."""
    headless.run(
        f"p = nbllm.ChatWidget({SIM!r}, chat='old{BAD.index(model)}', retries=0)\np.ask('One?')\nold = "
        f"p.ask('Two?').text\np._model = {model!r}"
    )
    headless.run("try:\n    p.retry(); p.wait()\nexcept nbllm.NbllmError as e:\n    pass")
    assert [["One?", "Two?"], True] == headless.value(
        "[[t.question.text for t in p.chat.turns], p.chat.turns[-1].response.text == old]"
    )
    assert "Error" in headless.run("p").text or "⚠" in headless.run("p").text
    headless.run(f"p._model = {SIM.replace('openai', 'anthropic')!r}\np.retry(); p.wait()")
    assert [["One?", "Two?"], ["sim/openai", "sim/anthropic"]] == headless.value(
        "[[t.question.text for t in p.chat.turns], [t.response.provider for t in p.chat.turns]]"
    )
    assert 3 == headless.value("len(p.chat.turns[-1].response.request.messages)"), (
        "what was said before, and the question"
    )
    assert headless.run("p.ask('Three?')").ok
    assert 3 == headless.value("len(p.chat.turns)")


def test_retry_that_is_stopped_keeps_the_old_turn(headless):
    """What had come is shown and is the last answer."""
    headless.run(
        f"p = nbllm.ChatWidget({SIM!r}, chat='halted')\nold = p.ask('One?').text\np._model = "
        f"'sim/openai@tokens=4000,gap=0.005'"
    )
    headless.run("s = p.retry()\nwhile not s.partial().text:\n    s.wait(len(s.log))\np.stop(); p.wait()")
    assert [1, True] == headless.value("[len(p.chat.turns), p.chat.turns[0].response.text == old]")
    assert "Stopped by you" in headless.run("p").text
    assert "cancelled" == headless.value("get_ipython()._nbllm_session.last_response.finish_reason")


def test_a_first_question_that_fails_can_be_asked_again(headless):
    """With its words, whatever went wrong."""
    for i, model in enumerate(BAD[:2]):
        headless.run(f"p = nbllm.ChatWidget({SIM!r}, chat='first{i}', retries=0)\np._model = {model!r}")
        assert not headless.run("p.ask('Keep these words.')").ok
        assert "Keep these words." in headless.run("p").text
        headless.run(f"p._model = {SIM!r}\np.retry(); p.wait()")
        assert ["Keep these words."] == headless.value("[t.question.text for t in p.chat.turns]")


def test_a_panel_is_ready_again_whatever_fails(kernel):
    """Its thread ends, and says why: here the conversation cannot be written."""
    ran = kernel.run(f"p = nbllm.ChatWidget({SIM!r}, chat='broken')\np\np.chat.turns = ()\np.ask('One?')")
    assert "AnswerProcessingError" == ran.error["ename"], ran.error
    assert kernel.value("bool(__import__('sys').last_value.partial.text)")
    kernel.run("p.chat.turns = []")
    assert kernel.run("p.ask('Two?')").ok
    assert ["Two?"] == kernel.value("[t.question.text for t in p.chat.turns]")


def test_an_error_is_raised_shown_and_not_kept(headless):
    """The transcript has it, the conversation has not."""
    ran = headless.run("p = nbllm.ChatWidget('sim/openai@status=401', chat='bad')\np.ask('hello')")
    assert "AuthenticationError" in ran.error["ename"]
    assert 0 == headless.value("len(p.chat.turns)")
    assert "401" in headless.run("p").text


def test_open_shows_a_panel_and_names_are_checked(kernel):
    """In a front end: a place, the transcript, and no widget view among the outputs."""
    ran = kernel.run(f"%llm chat open eda {SIM}")
    assert ran.ok, ran.error
    assert 2 == len(ran.outputs)
    assert all("application/vnd.jupyter.widget-view+json" not in o["data"] for o in ran.outputs)
    assert "id='nbllm-" in ran.outputs[0]["data"]["text/html"]
    assert "no messages yet" in ran.text
    assert "No provider is known" in str(kernel.run("%llm chat open eda nowhere/m").error)
    assert "No conversation was named" in str(kernel.run("%llm chat open").error)


def test_a_background_cell_gives_the_prompt_back_and_ends_in_its_place(kernel):
    """The variable is a Stream, then the Response; what comes later updates the display of its own cell and
    no other."""
    kernel.run("p = panel = None")  # another test's panel may be drawn again
    kernel.others.clear()
    ran = kernel.run("%%llm sim/openai@gap=0.02,ttft=1.5 bg=true out=later\nWhy is the sky blue?")
    assert ran.ok, ran.error
    assert "Stream" == kernel.value("type(later).__name__")
    ident = ran.outputs[0]["transient"]["display_id"]
    assert "waiting for the first token" in ran.text
    done = kernel.run(f"{WAIT}\nprint('mine')")
    # ipykernel 6 names the cell that runs as the parent of what a thread shows; the display's id says where
    # it goes
    kernel.others += done.messages
    shown = drawn(kernel)
    assert "Response" == kernel.value("type(later).__name__")
    assert {"later", "_llm"} == set(
        kernel.value(
            "[n for n in ('later', '_llm') if type(get_ipython().user_ns[n]).__name__ == 'Response']"
        )
    )
    assert "mine\n" == done.text, "the other cell has no output but its own"
    assert {"update_display_data"} == {m["msg_type"] for m in shown}
    assert {ident} == {m["content"]["transient"]["display_id"] for m in shown}
    assert "colours" in shown[-1]["content"]["data"]["text/plain"]
    assert "to first token" in shown[-1]["content"]["data"]["text/plain"]


def test_a_background_answer_can_be_stopped_and_a_taken_name_is_left_alone(kernel):
    """%llm stop, or the stream's own cancel; a variable that was used for something else stays."""
    kernel.run("%%llm sim/openai@tokens=5000,gap=0.01 bg=true out=long\nA story.")
    assert "Stopped 1 answer" in kernel.run("%llm stop").text
    kernel.run(f"{WAIT}")
    assert "cancelled" == kernel.value("long.finish_reason")
    kernel.run("%%llm sim/openai@tokens=5000,gap=0.01 bg=true out=long\nA story.")
    kernel.run(f"stream, long = long, 5\nstream.cancel()\n{WAIT}")
    assert 5 == kernel.value("long")
    assert "Nothing runs in the background" in str(kernel.run("%llm stop").error)


def test_without_a_front_end_a_background_cell_waits(headless):
    """Nothing is lost: one final output, a Response."""
    ran = headless.run(f"%%llm {SIM} bg=true out=r\nWhy is the sky blue?")
    assert 1 == len(ran.outputs)
    assert "colours" in ran.text
    assert "Response" == headless.value("type(r).__name__")


def test_a_failed_background_answer_says_so_in_its_cell(kernel):
    """No cell is there to fail any more."""
    kernel.others.clear()
    kernel.others += kernel.run(
        "%%llm sim/openai@status=401,ttft=0.3 bg=true out=bad\nhello"
    ).messages  # it may fail before its cell ends
    kernel.run(f"{WAIT}")
    assert "AuthenticationError" in drawn(kernel)[-1]["content"]["data"]["text/plain"]


def test_nobody_to_ask_is_no(headless):
    """A policy, not an error."""
    ran = headless.run("ok = nbllm.approve('Delete everything?')")
    assert "taken as no" in ran.text
    assert False is headless.value("ok")


def test_a_question_is_asked_through_the_keyboard_where_no_click_comes(kernel):
    """This front end shows widgets to nobody: after a moment input() asks."""
    cell = kernel.start("ok = nbllm.approve('Go on?')")
    assert "Go on?" in kernel.client.get_stdin_msg(timeout=60)["content"]["prompt"]
    kernel.client.input("y")
    ran = kernel.collect(cell)
    assert ran.ok, ran.error
    assert True is kernel.value("ok")
    assert all("application/vnd.jupyter.widget-view+json" not in o.get("data", {}) for o in ran.outputs), (
        "no widget is left"
    )


def test_config_sets_defaults_and_says_what_does_not_fit(kernel):
    """%config NbLLM, %llm use and a cell's own words: the cell's win; a bad value changes nothing; None takes
    one away."""
    assert kernel.run(f"%config NbLLM.model = {SIM!r}\n%config NbLLM.max_tokens = 7").ok
    assert "max_tokens=7" in kernel.run("%llm use").text
    ran = kernel.run("%%llm out=r\nWhy is the sky blue?")
    assert ["length", 7] == kernel.value("[r.finish_reason, r.request.max_tokens]"), ran.error
    kernel.run("%%llm max_tokens=9 out=r\nWhy is the sky blue?")
    assert 9 == kernel.value("r.request.max_tokens")
    assert "whole number" in kernel.run("%config NbLLM.max_tokens = 'lots'").text
    assert "did you mean openai_chat?" in kernel.run("%config NbLLM.dialect = 'opnai_chat'").text
    assert "did you mean openai_chat?" in str(kernel.run("%llm use dialect=opnai_chat").error)
    assert "max_tokens=7" in (shown := kernel.run("%llm use").text)
    assert "dialect" not in shown
    kernel.run("%config NbLLM.max_tokens = None\n%config NbLLM.model = None")
    assert "max_tokens" not in kernel.run("%llm use").text
    assert (
        "NbLLM.max_tokens=<Any>\n    maximum length of the answer, in tokens"
        in kernel.run("%config NbLLM").text
    )
    assert kernel.run("%reload_ext nbllm").ok


def test_loading_again_loses_no_conversation(kernel):
    """%reload_ext: what is the user's stays, and the panels of before go on in the same conversation."""
    model = "sim/openai@ttft=0,gap=0"
    kernel.run(f"before = nbllm.ChatWidget({model!r}, chat='reloaded')\nbefore.ask('one')")
    assert kernel.run("%%llm save=tone\nBe kind.").ok
    assert kernel.run("%reload_ext nbllm").ok
    kernel.run(f"after = nbllm.ChatWidget({model!r}, chat='reloaded')\nafter.ask('two')")
    assert kernel.run(f"%%llm {model} use=tone chat=reloaded\nthree").ok
    assert [3, 3] == kernel.value("[len(before.chat.turns), len(after.chat.turns)]")
    assert "Be kind." in kernel.value("_llm.request.messages[-1].text")


def test_a_project_s_file_gives_defaults(tmp_path, monkeypatch):
    """[tool.nbllm.use]; what it must not choose, and what is no option, is told and left out."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.nbllm.use]\nmodel = "sim/openai"\nmax_tokens = 5\nbase_url = "https://evil.example/v1"\nwit '
        '= 3\nseed = "x"\n'
    )
    monkeypatch.chdir(tmp_path)
    with Kernel() as kernel:
        shown = kernel.run("%llm use").text
        assert "model=sim/openai" in shown
        assert "max_tokens=5" in shown
        assert "base_url" not in shown
        told = kernel.run("get_ipython().extension_manager.unload_extension('nbllm')\n%load_ext nbllm").text
        assert "'wit'" in told
        assert "'seed'" in told
        assert "a project cannot set 'base_url'" in str(
            kernel.value("[str(p) for p in nbllm.default_client().registry.problems]")
        )
        assert 5 == kernel.value("nbllm.default_client().registry.defaults['max_tokens']")


def test_a_retry_that_fails_keeps_the_old_turn(headless):
    """A name that leads nowhere, a refusal, a cut, a stop: the old answer stays until a new one is there."""
    assert headless.run(f"p = nbllm.ChatWidget({SIM!r}, chat='keep')\nfirst = p.ask('One?').text").ok
    for name in ("nowhere/at-all", "sim/openai@status=401", "sim/openai@cut=3"):
        headless.run(
            f"p._model = {name!r}\ntry:\n    p.retry(); p.wait()\nexcept nbllm.errors.NbllmError: pass"
        )
        assert [1, True] == headless.value("[len(p.chat.turns), p.chat.turns[0].response.text == first]")
    headless.run("p._model = 'sim/openai@tokens=5,text=New'\np._failed = None\np.retry(); p.wait()")
    assert [1, True] == headless.value("[len(p.chat.turns), p.chat.turns[0].response.text != first]")


def test_two_panels_of_one_conversation_share_it():
    """With the extension loaded or not."""
    with Kernel(front_end=False, prepare="import nbllm") as kernel:
        kernel.run(
            f"a, b = nbllm.ChatWidget({SIM!r}, chat='one'), nbllm.ChatWidget({SIM!r}, "
            f"chat='one')\na.ask('Hello?')"
        )
        assert [1, 1] == kernel.value("[len(a.chat.turns), len(b.chat.turns)]")
        assert kernel.run("%load_ext nbllm\nc = nbllm.ChatWidget(chat='one', model='sim/openai')").ok
        assert 1 == kernel.value("len(c.chat.turns)")


def test_voila_has_the_panel():
    """Its page, which runs widgets, comes when all cells have run, and nobody could type until then."""
    with Kernel(front_end=False, VOILA_PREHEAT="False") as kernel:
        ran = kernel.run(f"nbllm.ChatWidget({SIM!r}, chat='app')")
        place, transcript = (output["data"]["text/html"] for output in ran.outputs)
        assert re.fullmatch("<div id='nbllm-[0-9a-f]{32}'></div>", place)
        assert "-static'>" in transcript
        assert any(m["msg_type"] == "comm_open" for m in ran.messages)


@pytest.mark.parametrize(("said", "folded", "unfolded"), [(None, 1, 0), (True, 0, 1), (False, 0, 0)])
def test_a_panel_shows_reasoning_as_a_cell_does(headless, said, folded, unfolded):
    """Folded, unfolded or not at all, for the page and in what is saved; the conversation keeps it."""
    model = "sim/openai/m@ttft=0,gap=0,reasoning=6"
    ran = headless.run(
        f"p = nbllm.ChatWidget({model!r}, chat='thinks{said}', show_reasoning={said})\n_ = p.ask('Hi')\np"
    )
    html = ran.outputs[0]["data"]["text/html"]
    for shown in (html, headless.value("p._turns_for_page()[0]['answer']")):
        assert (folded, unfolded) == (shown.count("nbllm-think>"), shown.count("nbllm-think open>"))
    assert ("[reasoning]" in ran.text) == (said is not False)
    assert headless.value("bool(p.chat.turns[0].response.reasoning)")


def test_a_panel_says_what_show_reasoning_takes(headless):
    assert "Not true or false" in str(
        headless.run("nbllm.ChatWidget('sim/openai', show_reasoning='no')").error
    )
