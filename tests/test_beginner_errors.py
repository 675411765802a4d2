"""Errors that beginners meet first: misspelt models, questions on a magic's line, keys without a name, errors
of the Python functions in a notebook."""

import copy
import pickle

import pytest

import nbllm
from nbllm.core.errors import ConfigError
from nbllm.notebook.magics import transform_questions
from nbllm.routing import registry

from .kernels import Kernel


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gtp-4", "openai/gpt-4"),
        ("GTP-4o-mini", "openai/gpt-4o-mini"),
        ("gpt4-mini", None),
        ("cluade-sonnet-4", "anthropic/claude-sonnet-4"),
        ("gemni-2.5-flash", "gemini/gemini-2.5-flash"),
        ("depseek-v3:7b", None),
        ("chatgpt", "openai/gpt-5.4-mini"),
        ("Chat-GPT", "openai/gpt-5.4-mini"),
        ("sonet", "anthropic/sonnet"),
    ],
)
def test_a_typing_error_leads_to_the_right_provider(typed, meant):
    """Not to Ollama, which takes any name."""
    with pytest.raises(ConfigError) as caught:
        registry.load().resolve(typed)
    assert meant is None or f"Did you mean {meant}?" in caught.value.hint


@pytest.mark.parametrize("line", ["%llm What is 2+2?\n", "x = %llm why not?\n", "%nbllm is it so?\n"])
def test_a_question_on_a_line_is_no_help(line):
    """As `%llm ask ...?`; a subcommand alone is IPython's."""
    assert ".run_line_magic(" in transform_questions([line])[0]
    assert ["%llm?\n", "%llm models?\n"] == transform_questions(["%llm?\n", "%llm models?\n"])


@pytest.mark.slow
def test_in_a_kernel():
    """What one expects."""
    with Kernel() as kernel:
        assert kernel.run("%llm use sim/openai@echo=1").ok
        assert "What is 2+2?" in kernel.run("%llm What is 2+2?").text
        assert kernel.run("%llm -m sim/openai@echo=1 hello there").ok
        assert "hello there" == kernel.value("_llm.text")
        assert "sim/claude" in kernel.run("%llm models sim/").text
        for line in ("chat", "kept", "prompt", "mcp"):
            assert "Nothing to show." in (ran := kernel.run(f"found = %llm {line}\nfound")).text, ran
        assert [True, "DataFrame"] == kernel.value("[found.empty, type(found.copy()).__name__]")
        for word in ("--help", "?"):
            assert "%llm help NAME" in kernel.run(f"%llm {word}").text
        assert "help is a line" in "".join(kernel.run("%%llm --help").error["traceback"])
        assert "prompt is empty" in "".join(kernel.run("%llm sim/openai@echo=1").error["traceback"])
        assert "what's up?" in kernel.run("%llm what's up?").text
        assert "hello, you?" in kernel.run("%llm hello, you?").text
        assert kernel.run("%llm use off\n%llm ask sim/openai@echo=1 hi there").ok
        assert "hi there" == kernel.value("_llm.text")
        assert kernel.run("%llm use sim/openai@echo=1\n%llm ask 3/4 of it").ok
        assert "3/4 of it" == kernel.value("_llm.text")
        assert kernel.run('%llm sim/openai@echo=1 "hi there"').ok
        assert "hi there" == kernel.value("_llm.text")
        assert "openai" in kernel.run("%llm key").text
        assert "needs no key" in kernel.run("%llm key sim/openai").text
        assert "did you mean %llm models" in "".join(kernel.run("%llm modles gemini/").error["traceback"])
        for code in (
            "nbllm.complete('hi', model='openia/mini')",
            "import nbllm.bench\nnbllm.bench.run(['openia/mini'], 'hi')",
        ):
            lines = kernel.run(code).error["traceback"]
            assert 1 <= len(lines) <= 6, lines
            assert "Did you mean" in "".join(lines)


@pytest.mark.slow
def test_a_folder_that_is_gone_is_said_in_a_line(tmp_path):
    """No traceback of ours, whatever a line wants to read or write there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    with Kernel() as kernel:
        assert kernel.run(f"import os; os.chdir({str(gone)!r})\n%llm use sim/openai@echo=1").ok
        assert kernel.run("%%llm chat=eda\nhi").ok
        gone.rmdir()
        for line in ("record", "replay", "prompt list", f"chat export eda {gone}/x.md"):
            lines = kernel.run(f"%llm {line}").error["traceback"]
            assert len(lines) <= 3, lines
            assert "No such file" in "".join(lines)
        assert kernel.run("%%llm\nhi").ok


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("api_base", "base_url"),
        ("response_format", "schema"),
        ("max_retries", "retries"),
        ("stream", "nbllm.stream"),
    ],
)
def test_an_option_of_another_library_is_answered_with_ours(option, words):
    """In Python, too."""
    with pytest.raises(ConfigError, match=words):
        nbllm.complete("hi", model="sim/openai", **{option: "x"})


@pytest.mark.parametrize(
    ("name", "ours"),
    [("content", "text"), ("choices", "text"), ("stop_reason", "finish_reason"), ("ttft", "timing")],
)
def test_what_answers_of_other_libraries_have_is_answered_with_ours(name, ours):
    """And what is not there is not there, also for what asks for it."""
    answer = nbllm.Response()
    assert hasattr(answer, ours)
    assert not hasattr(answer, name)
    with pytest.raises(AttributeError, match=rf"see \.{ours}$"):
        getattr(answer, name)
    assert answer == copy.deepcopy(answer) == pickle.loads(pickle.dumps(answer)) == answer.response()


def test_a_name_that_is_nearly_there():
    """Of the package, and of its benchmarks."""
    for of, name, near in ((nbllm, "completion", "complete"), (nbllm.bench, "leaderbord", "leaderboard")):
        with pytest.raises(AttributeError, match=f"did you mean {near}"):
            getattr(of, name)
