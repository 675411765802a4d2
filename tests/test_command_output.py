"""The first screen of each command: models, providers, ping, the log, help, a dry run, prompts,
completions."""

import json
import os
import pickle
import re
import subprocess
import sys

import pytest

from nbllm import Client, simulator
from nbllm.notebook import overview
from nbllm.notebook.view.tables import render_table
from nbllm.routing import registry
from nbllm.simulator import text

from .kernels import Kernel

SCREEN = 40  # lines


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


def shown(ran):
    """What a cell showed as HTML and as text."""
    assert ran.ok, ran.error
    return ran.html, ran.text


@pytest.mark.slow
def test_models_from_zero(kernel):
    """Without a key: names, prices, contexts, and what each provider needs."""
    html, text = shown(kernel.run("%llm models"))
    for words in (
        "openai/mini",
        "claude/sonnet",
        "set OPENAI_API_KEY",
        "sim/openai",
        "%llm key",
        "4.50",
        "400k",
    ):
        assert words in text
        assert words in html
    assert len(text.splitlines()) <= SCREEN
    assert kernel.run("m = %llm models\nm = m.set_index('name')").ok
    assert [True, False] == kernel.value(
        "[bool(m.loc[name, 'ready']) for name in ('sim/openai', 'openai/mini')]"
    )
    assert "0.75" in kernel.value("str(m.loc['openai/mini', 'input_price'])")
    assert not kernel.run("%llm models a b").ok


def test_models_of_a_server_and_of_ready_providers():
    """A ready provider stands first; a server on this machine shows the beginning of its own list."""
    with simulator.serve(ttft=0.0, gap=0.0) as server:
        places = {"OLLAMA_HOST": server.base_url("ollama"), "OPENAI_BASE_URL": server.base_url("openai_chat")}
        client = Client(registry=registry.load(env={**places, "OPENAI_API_KEY": "k" * 8}))
        frame = overview.models_overview(client)
    ready = frame[frame["ready"]]
    assert list(frame["name"][: len(ready) - 1]) == list(ready["name"][:-1])
    assert "openai/mini" in set(ready["name"])
    assert any(name.startswith("ollama/") for name in ready["name"])


@pytest.mark.slow
def test_providers_first_say_what_is_missing(kernel):
    """Grouped by what they need, in one screen; one by name in all its columns."""
    html, text = shown(kernel.run("%llm providers"))
    assert len(text.splitlines()) <= SCREEN
    for words in ("openai", "OPENAI_API_KEY", "Need their server", "built-in simulator"):
        assert words in text
        assert words in html
    assert "https://platform.openai.com/api-keys" in kernel.run("%llm providers openai").text
    assert "base_url" in kernel.run("%llm providers all").html
    assert "Did you mean openai?" in "".join(kernel.run("%llm providers opnai").error["traceback"])
    assert "OPENAI_API_KEY" in kernel.run("%llm key").text


@pytest.mark.slow
def test_ping_tells_the_whole_error_and_does_not_pretend(kernel):
    _, text = shown(kernel.run("%llm ping openai/mini sim auto"))
    assert "OPENAI_API_KEY is not set (a key comes from https://platform.openai.com/api-keys)" in text
    assert 2 == text.count("simulated |")


@pytest.mark.slow
def test_a_log_shows_what_is_looked_for_and_holds_all(kernel):
    """A few columns on screen, all in the value, which is an ordinary frame as soon as it is worked with."""
    kernel.run("import nbllm; from nbllm.store.ledger import Ledger; c = nbllm.default_client()")
    kernel.run("c.ledger = Ledger()")
    assert "No calls in this notebook yet" in kernel.run("%llm log").text
    kernel.run("%%llm sim/openai@tokens=7\nhi")
    html, text = shown(kernel.run("%llm log"))
    for words in ("first token", "cost", "sim/openai", "ok, simulated"):
        assert words in text
        assert words in html
    kernel.run("log = %llm log\nimport pickle, pandas as pd")
    assert [True, 7, True] == kernel.value(
        "[isinstance(log, pd.DataFrame), int(log['out_tokens'].iloc[0]), len(log.columns) > 40]"
    )
    assert ["DataFrame"] * 2 == kernel.value(
        "[type(log.head(1)).__name__, type(pickle.loads(pickle.dumps(log))).__name__]"
    )
    assert "mine" in kernel.run("log['mine'] = 'mine'\nlog[['mine']]").text
    assert "mine" in kernel.run("log.T.T.iloc[:, -1:]").text


@pytest.mark.slow
def test_help_in_one_screen(kernel):
    """The answer first, the rest by name; a word that is an option and a line is told as both."""
    for line in ("%llm", "%llm help"):
        assert len(kernel.run(line).text.splitlines()) <= 25
    told = kernel.run("%llm help chat").text
    assert "%llm chat:" in told
    assert "chat= (-c)" in told
    assert "df, object" in kernel.run("%llm help options").text
    assert "%llm bench:" in kernel.run("%llm help bench").text
    assert max(map(len, kernel.run("%llm help lines").text.splitlines())) <= 100
    assert not kernel.run("%llm help nothing").ok


@pytest.mark.slow
def test_a_dry_run_can_be_read(kernel):
    """The messages as text first, the request folded below them."""
    ran = kernel.run("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]})\nq = 'first\\nsecond'")
    ran = kernel.run("%%llm sim,sim/claude system=brief -n\n{q}\n{df}")
    html, text = shown(ran)
    assert text.index("first\nsecond") < text.index('"messages"')
    assert html.index("first\nsecond") < html.index("<details") < html.index("messages")
    assert html.index("brief") < html.index("first\nsecond")
    assert 1 == len(ran.outputs)


@pytest.mark.slow
def test_words_alone_show_a_state(kernel):
    assert "off" in kernel.run("%llm simulate").text
    assert not kernel.value("nbllm.default_client().registry.simulating")
    assert "on" in kernel.run("%llm simulate on").text
    assert "Simulation is on" in kernel.run("%llm simulate").text
    assert "Simulation is on" in kernel.run("%llm models").text
    assert kernel.run("%llm simulate off").ok


@pytest.mark.slow
def test_one_bad_prompt_file_is_told_beside_the_others(kernel, tmp_path):
    """It does not hide them."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    (tmp_path / "pyproject.toml").write_text("", "utf-8")
    (folder / "good.md").write_text("Say {x}.", "utf-8")
    (folder / "bad.md").write_bytes(b"\xff\xfe\x00")
    (folder / "odd.md").write_text("---\nno line\n---\nx", "utf-8")
    (folder / "far.md").symlink_to(tmp_path / "pyproject.toml")
    kernel.run(f"import os; before = os.getcwd(); os.chdir({str(tmp_path)!r})")
    _, text = shown(kernel.run("%llm prompt list"))
    kernel.run("os.chdir(before)")
    assert "good" in text
    for name in ("bad.md", "odd.md", "far.md"):
        assert f"Left out: prompts/{name}" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "first", "among", "never"),
    [
        ("%%llm ", "openai/", ["temperature="], []),
        ("%llm chat ", "list", ["show", "undo"], ["temperature=", "openai/mini"]),
        ("%llm key ", "set", ["openai", "groq"], ["temperature="]),
        ("%llm key set op", "openai", [], ["set"]),
        ("%llm use ", "openai/", ["claude/haiku", "temperature="], ["set"]),
        ("%llm use gemini/flash te", "temperature=", [], []),
        ("%llm models ", "all", ["openai/"], ["temperature="]),
        ("%llm ping ", "openai/", ["sim/openai"], ["temperature="]),
        ("%llm ping sim/openai cl", "claude/", [], ["temperature="]),
        ("%llm help te", "temperature", [], ["openai/mini"]),
        ("%llm simulate ", "on", ["off"], ["openai/mini"]),
        ("%llm again ", "openai/", ["temperature="], []),
    ],
)
def test_tab_offers_models_first_and_the_right_words(kernel, line, first, among, never):
    kernel.run("import json; from nbllm.notebook.completion import candidates")
    kernel.run("from nbllm.notebook.session import current_session")
    found = [
        w
        for w, _ in json.loads(
            kernel.value(f"json.dumps(candidates(current_session(), {line!r}, {len(line)}, 0)[1])")
        )
    ]
    assert found[0].startswith(first)
    assert set(among) <= set(found)
    assert not set(never) & set(found)


@pytest.mark.slow
def test_tab_keeps_that_order(kernel):
    """IPython sorts what is not said to be in order."""
    kernel.run(
        "from IPython.core.completer import provisionalcompleter\nwith provisionalcompleter():\n"
        "    found = [c.text for c in get_ipython().Completer.completions('%%llm ', 6)]"
    )
    found = kernel.value("found")
    assert found.index("openai/mini") < found.index("gemini/flash") < found.index("as=")


def test_a_table_of_odd_words_stays_a_table():
    """Whatever stands in its cells: no tag, no line, no bar of theirs is one."""
    made = render_table(["a", "b"], [["<b>x", "1\n|2"], ["", "\u202ez"]], numeric=["b"], best=[(0, 1)])
    assert "&lt;b&gt;x" in made.html
    assert "<td align=right><b>1 |2</b></td>" in made.html
    assert 4 == len(made.text.splitlines())
    assert "**1 \\|2**" in made.text
    assert "\u202e" not in made.html + made.text
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.slow
def test_auto_without_a_key_says_how_to_get_one_and_fix_does_not_pretend(kernel):
    """In the answer's own place; what would explain an error with made-up words is refused."""
    ran = kernel.run("%%llm auto\nhello")
    assert 1 == len(ran.outputs)
    assert "%llm key openai" in ran.text
    assert not kernel.run("1 / 0").ok
    assert "No model is ready" in "".join(kernel.run("%llm fix").error["traceback"])
    assert kernel.run("%llm fix sim/openai").ok
    kernel.run("%llm simulate on")
    assert kernel.run("%llm fix").ok
    kernel.run("%llm simulate off")


@pytest.mark.slow
def test_auto_says_that_simulation_is_on(kernel):
    """And nothing of keys, which it has not looked for."""
    assert kernel.run("%llm simulate on").ok
    text = kernel.run("%%llm auto\nhi").text
    assert kernel.run("%llm simulate off").ok
    assert "simulation is on" in text
    assert "no key" not in text


@pytest.mark.slow
def test_a_terminal_has_an_out_where_there_is_a_value(tmp_path):
    """And none where an answer has drawn itself."""
    code = "%load_ext nbllm\n%llm ask -m sim/openai@echo=1 hello there\n40 + 2\n%reload_ext nbllm\n50 + 2\n"
    ran = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=nocolor", "--simple-prompt", "--no-banner"],
        input=code,
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "hello there" in ran.stdout
    assert ["42", "52"] == re.findall(r"Out\[\d+\]: (.*)", ran.stdout)


@pytest.mark.parametrize(
    "prompt", ["Why is the sky blue?", "Write a haiku about the sea.", "Name three risks."]
)
def test_simulated_models_differ(prompt):
    """Four families, at least three answers, and each the same every time."""
    models = ("gpt-5.4-mini", "claude-sonnet-5-5", "gemini-flash-latest", "llama3.2")
    said = ["".join(text.answer_tokens(prompt, model=m)) for m in models]
    assert len(set(said)) >= 3
    assert said == ["".join(text.answer_tokens(prompt, model=m)) for m in models]
    assert 6 <= len(
        {"".join(text.answer_tokens(f"{prompt} {i}", model="m")).partition("`. ")[2] for i in range(60)}
    ) or ("simulated" not in said[0])
