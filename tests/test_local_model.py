"""A model in a file, llamacpp/PATH.gguf: which names mean one, and what is said where it cannot be asked. The
real thing is in tests/real/test_local_model.py."""

import os
from pathlib import Path

import pytest

import nbllm
from nbllm.agents.local_server import CONTEXT, _memory, _why, local_call, model_file
from nbllm.core.calls import HttpCall
from nbllm.core.errors import ConfigError

CALL = HttpCall("http://127.0.0.1:8080/v1/chat/completions", {}, {"model": "x", "messages": []})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "small.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    (tmp_path / "page.gguf").write_text("<html>")
    (tmp_path / "folder.gguf").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("small.gguf", True),
        ("./small.gguf", True),
        ("~/small.gguf", True),
        ("~/small.GGUF", True),
        ("models/none.gguf", True),
        ("none.gguf", False),  # a server's own name
        ("default", False),
        ("org/model", False),
    ],
)
def test_which_names_are_files(name, there, folder):
    """A path, or a file that is here; anything else is a name of a server's."""
    assert there == (model_file(name) is not None)
    assert model_file(name) is None or model_file(name).is_absolute()


def test_a_call_of_a_file(folder):
    """The server is told the file's own name; its room is no part of the body."""
    call = local_call(folder / "small.gguf", CALL)
    assert (str(folder / "small.gguf"), CONTEXT) == call.key
    assert {"model": "small", "messages": []} == call.http.body
    larger = local_call(folder / "small.gguf", HttpCall("", {}, {"n_ctx": 99}))
    assert (99, {"model": "small"}) == (larger.context, larger.http.body)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("models/none.gguf", {}, "cannot be read (No such file"),
        ("./folder.gguf", {}, "cannot be read"),
        ("page.gguf", {}, "page.gguf is no GGUF file"),
        ("small.gguf", {"extra": {"n_ctx": 0}}, "n_ctx=0"),
        ("small.gguf", {"extra": {"n_ctx": True}}, "n_ctx=True"),
        ("small.gguf", {"extra": {"n_ctx": "8k"}}, "n_ctx='8k'"),
    ],
)
def test_what_cannot_be_a_model_is_said_before_anything_starts(name, options, words, folder):
    """With what to do."""
    with pytest.raises(ConfigError) as caught:
        nbllm.complete("Hi", f"llamacpp/{name}", **options)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.skipif(_memory() is None, reason="the system does not tell how much memory it has")
def test_a_model_that_no_memory_holds_is_refused(folder):
    """Before it makes the machine stand still."""
    path = folder / "huge.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF")
        os.truncate(path, (_memory() or 0) + 2**30)  # takes no place on the disk
    with pytest.raises(ConfigError, match="GiB of memory"):
        nbllm.complete("Hi", f"llamacpp/{path}")


def test_where_the_simulator_answers_no_file_is_read(folder):
    """NBLLM_SIMULATE=1 and the like."""
    client = nbllm.Client()
    client.registry.simulate = True
    assert client.complete("Hi", "llamacpp/models/none.gguf").simulated
    client.close()


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (
            1,
            "0.00.1 I srv: x\n0.00.2 E llama_model_load: tensor data is not within the file bounds\n",
            "(llama_model_load: tensor data is not within the file bounds)",
        ),
        (
            1,
            "0.00.2 E srv    load_model: failed to load model\n0.1 E b",
            "(load_model: failed to load model)",
        ),
        (-9, "", "(signal 9 ended it)"),
        (3, "Traceback", "(exit 3)"),
    ],
)
def test_why_it_was_not_loaded(code, stderr, expected):
    """The first error that llama.cpp tells, else how it ended."""
    assert expected == _why(code, stderr)


def test_the_program_needs_nothing_of_ours():
    """It is run as a file, before anything else is there."""
    text = (Path(nbllm.__file__).parent / "agents" / "local_program.py").read_text("utf-8")
    assert "nbllm" not in text.replace("nbllm's", "")
