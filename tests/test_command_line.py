"""`python -m nbllm` as a terminal and a pipe use it."""

import os
import signal
import subprocess
import sys

import pytest

from nbllm.__main__ import main, split_options
from nbllm.core.errors import ConfigError


def asked(*words, typed=None, **env):
    """A real process; without `typed` nothing comes through a pipe."""
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "nbllm", *words],
        input=typed,
        stdin=subprocess.DEVNULL if typed is None else None,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **env},
    )


@pytest.mark.slow
def test_a_question_is_answered():
    ran = asked("-m", "sim/openai@echo=1", "temperature=0", "Say", "this.")
    assert (0, "Say this.\n", "") == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.slow
def test_what_comes_through_a_pipe_stands_below_the_question():
    ran = asked("-m", "sim/openai@echo=1", "Sum it up:", typed="line 1\nline 2\n")
    assert "Sum it up:\n\nline 1\nline 2\n" == ran.stdout
    assert "line 1\n" == asked("-m", "sim/openai@echo=1", typed="line 1\n").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "question is missing"),
        (["temprature=0", "hi"], 2, "temperature"),
        (["--frob", "3", "hi"], 2, "frob"),
        (["out=a", "hi"], 2, "for notebook cells"),
        (["each=df", "hi"], 2, "for notebook cells"),
        (["-m", "sim/a,sim/b", "hi"], 2, "Only one model"),
        (["-m", "nobody/x", "hi"], 2, "nobody"),
        (["-m"], 2, "-m needs a value"),
        (["--temperature"], 2, "needs a value"),
        (["hi", "-m", "sim/openai"], 2, "Put options first"),
        (["hi", "--max-tokens", "5"], 2, "Put options first"),
        (["-m", "openai", "hi"], 2, "is a line of a notebook"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_a_code(words, code, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert code == main(words)
    out, error = capsys.readouterr()
    assert "" == out
    assert said in error


@pytest.mark.parametrize("word", ["-h", "--help", "--version"])
def test_help_asks_nobody(word, capsys):
    """As every command does it."""
    assert 0 == main([word])
    assert ("0." if word == "--version" else "claude/sonnet") in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_may_stand_first():
    """As in a line of a notebook; another word with a slash is a word."""
    assert "hi there\n" == asked("sim/openai@echo=1", "hi", "there").stdout
    assert "a/b testing\n" == asked("-m", "sim/openai@echo=1", "a/b", "testing").stdout


@pytest.mark.slow
def test_what_a_locale_has_no_letter_for_is_replaced():
    """On the way in and out; the question's words are read as UTF-8, which terminals send."""
    words, env = ("-m", "sim/openai@echo=1", "Wärum é"), {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "nbllm", *words, "€"],
        input=b"caf\xe9",
        capture_output=True,
        timeout=300,
        check=False,
        env={**os.environ, **env, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert (0, "Wärum é ?\n\ncafé\n".encode("latin-1")) == (ran.returncode, ran.stdout), ran.stderr
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    ran = subprocess.run(
        [sys.executable, "-m", "nbllm", *words[:2], "See:"],
        input=b"caf\xe9",
        capture_output=True,
        timeout=300,
        check=False,
        env=env,
    )
    assert (0, "See:\n\ncaf\ufffd\n".encode()) == (ran.returncode, ran.stdout), ran.stderr


@pytest.mark.slow
def test_a_process_ends_with_that_code():
    ran = asked("-m", "sim/openai@status=401", "hi")
    assert (1, "") == (ran.returncode, ran.stdout)
    assert "401" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_cut_answer_is_kept():
    ran = asked("-m", "sim/openai@cut=3,echo=1", "retries=0", "one two three four five six seven")
    assert 1 == ran.returncode
    assert ran.stdout.startswith("one")
    assert ran.stderr


@pytest.mark.parametrize(
    ("words", "models", "found", "rest"),
    [
        (["-m", "a/b", "-t", "0", "x y"], ("a/b",), {"temperature": 0.0}, ["x y"]),
        (["--max-tokens=5", "x"], (), {"max_tokens": 5}, ["x"]),
        (['system=Be "kind" & brief', "x"], (), {"system": 'Be "kind" & brief'}, ["x"]),
        (["stop=\\", "x"], (), {"stop": ["\\"]}, ["x"]),
        (["a=1", "is", "b=2"], (), {}, ["a=1", "is", "b=2"]),
        (["--", "-t", "0"], (), {}, ["-t", "0"]),
        (["x", "temperature=0"], (), {}, ["x", "temperature=0"]),
        (['schema={"type": "object"}', "x"], (), {"schema": '{"type": "object"}'}, ["x"]),
    ],
)
def test_options_come_first(words, models, found, rest):
    line, left = split_options(words)
    assert (models, found, rest) == (line.models, dict(line.options), left)


def test_what_goes_to_the_provider_as_it_is():
    assert {"top_k": 3} == split_options(["x.top_k=3", "hi"])[0].extra
    with pytest.raises(ConfigError, match="given twice"):
        split_options(["seed=1", "seed=2", "hi"])


@pytest.mark.slow
def test_ctrl_c_ends_it_with_what_came():
    with subprocess.Popen(
        [sys.executable, "-m", "nbllm", "-m", "sim/openai@tokens=100000,gap=0.05", "go on"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        first = running.stdout.read(4)
        running.send_signal(signal.SIGINT)
        rest, error = running.communicate(timeout=300)
    assert (130, "") == (running.returncode, error)
    assert first + rest
