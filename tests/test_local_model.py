"""A model in a file, llamacpp/PATH.gguf: which names mean one, and what is said where it cannot be asked. The
real thing is in tests/real/test_local_model.py."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import nbllm
from nbllm.agents.local_server import CONTEXT, _exit_reason, local_call
from nbllm.agents.model_files import list_model_files, memory_size, model_path
from nbllm.client import auto
from nbllm.client.catalog import health, list_models, provider_states
from nbllm.client.unloading import unload_models
from nbllm.core.calls import HttpCall, ProviderSpec, Trace
from nbllm.core.errors import ConfigError
from nbllm.notebook import completion
from nbllm.notebook.commands import COMMANDS
from nbllm.routing.config_files import Places
from nbllm.routing.registry import load

CALL = HttpCall("http://127.0.0.1:8080/v1/chat/completions", {}, {"model": "x", "messages": []})
LLAMA = ProviderSpec("llamacpp", "openai_chat", "http://127.0.0.1:8080/v1")


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
    path = model_path(LLAMA, name)
    assert there == (path is not None)
    assert path is None or path.is_absolute()


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
        ("page.gguf", {}, "page.gguf is not a GGUF file"),
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


@pytest.mark.skipif(memory_size() is None, reason="the system does not tell how much memory it has")
def test_a_model_that_no_memory_holds_is_refused(folder):
    """Before it makes the machine stand still."""
    path = folder / "huge.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF")
        os.truncate(path, (memory_size() or 0) + 2**30)  # takes no place on the disk
    with pytest.raises(ConfigError, match="GiB of memory"):
        nbllm.complete("Hi", f"llamacpp/{path}")


@pytest.mark.slow
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
    assert expected == _exit_reason(code, stderr)


def test_the_program_needs_nothing_of_ours():
    """It is run as a file, before anything else is there."""
    text = (Path(nbllm.__file__).parent / "agents" / "local_program.py").read_text("utf-8")
    assert "nbllm" not in text.replace("nbllm's", "")


# --- names of files in folders ------------------------------------------------------------------------------

TALKS = b"GGUF\3\0\0\0tokenizer.chat_template\x08hello"
EMBEDS = TALKS + b"bert.pooling_type"


@pytest.fixture
def models(tmp_path):
    """A folder as people have them: LM Studio's, parts, pictures' halves, and what is no model."""
    files = {
        "qwen3-4b-q4.gguf": TALKS,
        "lm/unsloth/gemma/gemma-3-1b.gguf": b"GGUF base",
        "lm/bartowski/gemma/Gemma-3-1B.gguf": b"GGUF other",
        "hub/models--x--y/snapshots/abc/big-00001-of-00003.gguf": b"GGUF",
        "hub/models--x--y/snapshots/abc/big-00002-of-00003.gguf": b"GGUF",
        "lm/unsloth/gemma/mmproj-gemma.gguf": b"GGUF",
        "a/b/c/d/e/f/deep.gguf": b"GGUF",
        "notes.txt": b"hello",
        "embed.gguf": EMBEDS,
        "page.gguf": b"<html>",
    }
    for at, (name, data) in enumerate(files.items()):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9 + at, 1e9 + at))
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models")
    (tmp_path / "models" / "same.gguf").symlink_to(tmp_path / "models" / "qwen3-4b-q4.gguf")
    return tmp_path / "models"


def registry(folder, places=None, **more):
    return load({"NBLLM_MODELS": str(folder), **more} if folder else more, places)


def test_every_model_has_the_shortest_name_that_means_it_alone(models):
    """One file is one model, however often it is linked."""
    row = registry(models).resolve("local/qwen3-4b-q4").provider
    assert [
        "local/bartowski/gemma/Gemma-3-1B",
        "local/big",
        "local/embed",
        "local/page",
        "local/qwen3-4b-q4",
        "local/unsloth/gemma/gemma-3-1b",
    ] == list(list_model_files(row))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("qwen3-4b-q4", "qwen3-4b-q4.gguf"),
        ("QWEN3-4b-Q4.GGUF", "qwen3-4b-q4.gguf"),
        ("same", "qwen3-4b-q4.gguf"),
        ("unsloth/gemma/gemma-3-1b", "lm/unsloth/gemma/gemma-3-1b.gguf"),
        ("big", "hub/models--x--y/snapshots/abc/big-00001-of-00003.gguf"),
    ],
)
def test_a_name_means_a_file(name, file, models):
    """In any case, with its ending or without; of several parts the first."""
    route = registry(models).resolve(f"local/{name}")
    assert (models / file).resolve() == model_path(route.provider, route.model).resolve()


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("qwen3-4b-q8", "No model file is called 'qwen3-4b-q8'", "Did you mean local/qwen3-4b-q4?"),
        ("qwen", "No model file is called", "Did you mean local/qwen3-4b-q4?"),
        ("zzz", "No model file is called", "`%llm models local` lists the files in"),
        (
            "gemma-3-1b",
            "local/gemma-3-1b means 2 files",
            "Name one: local/bartowski/gemma/Gemma-3-1B or local/unsloth/gemma/gemma-3-1b.",
        ),
        ("../models/embed", "No model file is called", "Did you mean local/embed?"),
        ("deep", "No model file is called", ""),
    ],
)
def test_what_a_name_does_not_mean(name, message, hint, models):
    """The nearest names, and of several all."""
    with pytest.raises(ConfigError) as caught:
        registry(models).resolve(f"local/{name}")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_two_folders_may_hold_the_same_place(tmp_path):
    """Then a path tells them apart."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.gguf").write_bytes(b"GGUF")
    found = registry(f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    with pytest.raises(ConfigError) as caught:
        found.resolve("local/m")
    assert f"llamacpp/{tmp_path / 'one' / 'm.gguf'} or llamacpp/{tmp_path / 'two'}" in caught.value.hint


def test_alone_it_is_the_newest_that_one_can_talk_to(models, monkeypatch):
    """No page, no model of embeddings, no base model; `auto` takes it where there is no key, and without one
    the simulator."""
    assert "qwen3-4b-q4" == registry(models).resolve("local").model
    chosen = auto.choose(registry(models), lambda _url: False)
    assert ("auto", "local", "qwen3-4b-q4") == (chosen.name, chosen.provider.name, chosen.model)
    assert "newest model file here" in chosen.why
    assert "ollama" == auto.choose(registry(models), lambda _url: True).provider.name
    keyed = auto.choose(registry(models, OPENAI_API_KEY="sk-1"), lambda _url: False)
    assert "openai" == keyed.provider.name
    (models / "qwen3-4b-q4.gguf").unlink()
    assert auto.choose(registry(models), lambda _url: False).simulated
    with pytest.raises(ConfigError, match="no default model"):
        registry(models).resolve("local").check()


def test_where_everything_is_simulated_no_folder_is_read(models):
    """Whatever the name."""
    for name in ("local/none", "local"):
        assert registry(models, NBLLM_SIMULATE="1").resolve(name).simulated


USER = '[provider.local]\nfolders = ["mine"]\n'
PROJECT = '[tool.nbllm.provider.NAME]\nfolders = ["theirs"]\n'


def placed(tmp_path, user="", project=""):
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "providers.toml").write_text(user)
    for name in ("home/mine", "project/theirs"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "m.gguf").write_bytes(TALKS)
    (tmp_path / "project" / "pyproject.toml").write_text(project)
    return registry(None, Places(tmp_path / "home" / "providers.toml", tmp_path / "project"))


def test_the_users_file_names_folders(tmp_path):
    """Beside itself, from home, or by a whole path."""
    route = placed(tmp_path, USER).resolve("local/m")
    assert tmp_path / "home" / "mine" / "m.gguf" == model_path(route.provider, route.model)
    route = placed(tmp_path, f'[provider.big]\nfolders = ["{tmp_path}/project/theirs"]\n').resolve("big/m")
    assert tmp_path / "project" / "theirs" / "m.gguf" == model_path(route.provider, route.model)


def test_a_projects_folder_waits_for_consent(tmp_path):
    """Under a name that is known and under a new one; `auto` and lists leave it out, and consent is for that
    folder alone."""
    for name in ("local", "acme"):
        text = PROJECT.replace("NAME", name)
        found = placed(tmp_path, USER, text)
        for asked in (f"{name}/m", name):
            with pytest.raises(ConfigError, match=r"pyproject\.toml changes where or how") as caught:
                found.resolve(asked).check()
            assert f"%llm key allow {name}" in caught.value.hint
        assert () == found.with_model_folders(found.rows[name]).folders
        assert name != auto.choose(found, lambda _url: False).provider.name
        consent = f'[allow]\n"http://127.0.0.1" = [{json.dumps(found.rows[name].pending_consent[0])}]\n'
        route = placed(tmp_path, consent + USER, text).resolve(f"{name}/m")
        assert tmp_path / "project" / "theirs" / "m.gguf" == model_path(route.provider, route.model)
        with pytest.raises(ConfigError, match="changes where or how"):
            placed(tmp_path, consent + USER, text.replace("theirs", "../project")).resolve(
                f"{name}/m"
            ).check()


def test_a_project_chooses_no_file_as_the_model_of_cells(tmp_path):
    """Straight, or through an alias of its own."""
    for text in (
        '[tool.nbllm.use]\nmodel = "llamacpp/theirs/m.gguf"\n',
        '[tool.nbllm.alias]\nfast = "llamacpp/./m.GGUF"\n[tool.nbllm.use]\nmodel = "fast"\n',
    ):
        found = placed(tmp_path, "", text)
        assert {} == found.defaults
        assert "model file of this project" in str(found.problems[-1])


def test_a_server_of_the_users_own_called_local_is_a_server(tmp_path):
    """As people may have written it before."""
    found = placed(tmp_path, '[provider.local]\nbase_url = "http://localhost:8000/v1"\n')
    assert "http://localhost:8000/v1" == found.resolve("local/anything").provider.base_url
    assert not auto.choose(found, lambda _url: False).provider.folders


def test_lists_tell_the_files(models, monkeypatch):
    """`%llm models local`, providers and health; nothing is asked of an address."""
    client = nbllm.Client(registry(models))
    assert "local/big" in [m.name for m in list_models(client, "local")]
    assert ["local/embed"] == [m.name for m in list_models(client, "local/emb")]
    (state,) = [s for s in provider_states(client) if s.name == "local"]
    assert ("local", True) == (state.mode, state.ready)
    assert health(client, "local").reachable
    session = SimpleNamespace(client=client)
    assert ("local/big", "model file") in completion.model_candidates(session, "local/")
    assert "No model of a file is loaded." == COMMANDS["unload"](session, "")
    with pytest.raises(ConfigError, match="No model file is called"):
        COMMANDS["unload"](session, "local/none")
    client.close()
    empty = nbllm.Client(registry(models / "lm" / "none"))
    (state,) = [s for s in provider_states(empty, connect=False) if s.name == "local"]
    assert (False, True) == (state.ready, "no .gguf file in" in state.note)
    assert [] == list_models(empty, "local")
    empty.close()


# --- unloading ----------------------------------------------------------------------------------------------


def test_a_model_of_ollama_is_unloaded_by_the_same_word():
    """And its server's list says that it is gone."""
    with nbllm.simulator.serve() as server:
        client = nbllm.Client(load({"OLLAMA_HOST": server.base_url("ollama")}))
        client.complete("Hi", "ollama/m", max_tokens=2)
        assert ["m:latest"] == [m["model"] for m in client.run(_loaded(client))]
        assert "Unloaded: ollama/m." == COMMANDS["unload"](SimpleNamespace(client=client), "ollama/m")
        assert [] == client.run(_loaded(client))
        assert [] == unload_models(client)
        client.close()


async def _loaded(client):
    call = HttpCall(f"{client.registry.resolve('ollama/m').provider.base_url}/api/ps", {}, {}, "GET")
    async with client.http.open(call, Trace(), 10.0) as reply:
        return json.loads(await reply.body())["models"]


@pytest.mark.parametrize("name", ["openai/gpt-x", "llamacpp/served", "cli/claude/opus"])
def test_what_cannot_be_told_to_unload_says_so(name):
    """With what can."""
    client = nbllm.Client(load({"OPENAI_API_KEY": "sk-1"}))
    with pytest.raises(ConfigError, match="cannot unload a model") as caught:
        unload_models(client, name)
    assert "local/NAME" in caught.value.hint
    client.close()
