"""Calls that are written down beside a notebook, and a notebook that runs from them: without keys, without a
socket, whatever somebody put into the file."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nbllm import Client, simulator
from nbllm.client.policy import Retries
from nbllm.core import errors
from nbllm.core.messages import Image, Message, Text
from nbllm.notebook.commands import COMMANDS
from nbllm.routing import registry
from nbllm.store.recordings import Recording, Tape, recording_path

CANARY = "sk-canary-0123456789abcdef"
LONG = 30.0


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.001, gap=0.001) as server:
        yield server


@pytest.fixture
def make(sim):
    made = []

    def one(**env):
        made.append(Client(registry.load(env), retries=Retries(0)))
        return made[-1]

    yield one
    for client in made:
        client.close()


@pytest.fixture
def live(sim, make):
    return make(
        OPENAI_BASE_URL=sim.base_url("openai_chat"),
        ANTHROPIC_BASE_URL=sim.base_url("anthropic"),
        OPENAI_API_KEY=CANARY,
        ANTHROPIC_API_KEY=CANARY,
    )


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nb.llm.jsonl"


def prompt():
    picture = Image(data=b"\x89PNG\r\n\x1a\n" + b"0" * 32, media_type="image/png")
    return [Message("user", (Text("See"), picture))]


def test_an_answer_of_the_second_model_is_told_as_its_own(live, make, file):
    """Where the first failed as it was recorded: by name, model and row, then and again."""
    names = "openai/m@status=503|anthropic/n"
    with live.tapes.record(file):
        first = live.complete("Hi", names)
    bare = make()
    with bare.tapes.replay(file):
        again = bare.complete("Hi", names)
    assert ("anthropic", "n", first.text) == (again.provider, again.model, again.text)
    assert first.provider == again.provider
    assert ["anthropic"] == [row["provider"] for row in bare.ledger.rows()]


@pytest.mark.slow
def test_it_runs_again_without_keys_and_sockets(live, make, sim, file):
    """Text, counts and the order of repeats; the provider has no key and another address now."""
    with live.tapes.record(file):
        first = [live.complete("Hi", m, temperature=0.5) for m in ("openai/m", "anthropic/m", "openai/m")]
        seen = live.complete(prompt(), "openai/m")
    before = len(sim.records)
    bare = make(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    with bare.tapes.replay(file) as tape:
        again = [bare.complete("Hi", m, temperature=0.5) for m in ("openai/m", "anthropic/m", "openai/m")]
        assert bare.complete(prompt(), "openai/m").parts == seen.parts
        assert bare.complete("Hi", "auto", temperature=0.5).text
        assert tape.calls == 4
    assert [a.parts for a in again] == [f.parts for f in first]
    assert [a.usage for a in again] == [f.usage for f in first]
    assert [a.id for a in again] == [f.id for f in first]
    assert all(a.cost == 0.0 and a.cached and a.simulated for a in again)
    assert len(sim.records) == before
    with pytest.raises(errors.ConfigError, match="No key"):
        bare.complete("Hi", "anthropic/m")


def test_tools_run_again(live, make, file):
    """Each turn of the model is a line; the tool itself runs."""
    ran = []

    def price(item: str) -> int:
        """The price of an item."""
        ran.append(item)
        return 4

    told = {"tools": [price], "approve": "auto"}
    with live.tapes.record(file):
        first = live.complete("Price?", "openai/m", **told)
    bare = make()
    with bare.tapes.replay(file):
        second = bare.complete("Price?", "openai/m", **told)
    assert first.text == second.text
    assert len(ran) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"prompt": "Hi!"}, "messages[0].parts[0].text"),
        ({"system": "S"}, "messages[0]"),
        ({"model": "anthropic/m"}, "provider"),
        ({"extra": {"user": "u"}}, "extra.user"),
    ],
)
def test_a_miss_names_the_nearest_and_the_difference(live, make, file, more, path):
    with live.tapes.record(file):
        live.complete("Something else entirely, far away", "openai/other", temperature=0.1, seed=4)
        live.complete("Hi", "openai/m", temperature=0.5)
    asked = {"prompt": "Hi", "model": "openai/m", "temperature": 0.5, **more}
    bare = make()
    with bare.tapes.replay(file), pytest.raises(errors.ConfigError) as caught:
        bare.complete(**asked)
    assert "most similar is call 2: at " + path in caught.value.message
    assert "Nothing was sent" in caught.value.hint


@pytest.mark.slow
def test_no_key_is_in_it(sim, make, file, tmp_path):
    """Whichever option holds it."""
    config = tmp_path / "providers.toml"
    url = sim.base_url("openai_chat")
    private = url.replace("//", f"//user:{CANARY}@")
    config.write_text(
        f'[provider.mine]\nbase_url = "{url}"\ndialect = "openai_chat"\nkey_env = "MINE"\n'
        f'headers = {{ x-own = "${{OWN}}" }}\nquery = {{ q = "${{OWN}}" }}\n'
    )
    client = make(NBLLM_CONFIG=str(config), MINE=CANARY, OWN=CANARY, OPENAI_BASE_URL=private)
    with client.tapes.record(file) as to:
        client.complete("Hi", "mine/m")
        client.complete("Hi", "mine/m", api_key=CANARY)
        for told in ({}, {"base_url": private}):
            client.complete("Hi", "openai/m", api_key=CANARY, **told)
        client.complete(f"Say {CANARY}", "mine/m", extra={"metadata": {"api_key": CANARY, "x": CANARY}})
        client.complete("Hi", "mine/m", extra={"nested": [{"Authorization": "Bearer unknown-words"}]})
        assert not to.problem or "holds a key" in to.problem
    text = file.read_text()
    assert CANARY not in text
    assert "unknown-words" not in text
    assert len(text.splitlines()) >= 4


@pytest.mark.slow
def test_the_recorded_pace(live, make, file):
    """Every event comes no sooner than it did."""
    with live.tapes.record(file):
        live.complete("Hi", "openai/sim@ttft=0.15,tokens=3")
    times = [at for at, _ in json.loads(file.read_text().splitlines()[1])["events"]]
    bare = make()
    with bare.tapes.replay(file, "recorded"):
        stream = bare.stream("Hi", "openai/sim@ttft=0.15,tokens=3")
        stream.response(LONG)
    came = [at - stream.called_at for at, e in stream.log if getattr(e, "kind", "") != "cached"]
    assert all(c >= t - 0.001 for c, t in zip(came, times, strict=True))
    with pytest.raises(errors.ConfigError, match="pace"):
        Tape(file, "fast")


FAILING = [
    ("openai/sim@status=400", errors.BadRequest),
    ("openai/sim@status=500", errors.ServerError),
    ("openai/e1@status=503|anthropic/e2@status=401", errors.AuthenticationError),
    ("openai/e3@cut=2|anthropic/n", errors.StreamCut),
    ("openai/e4@ttft=9", errors.Timeout),
]


@pytest.mark.slow
@pytest.mark.parametrize(("names", "kind"), FAILING)
def test_a_call_that_failed_fails_again(live, make, file, names, kind):
    """With the same error, and what had come; without a key, whatever the provider says."""
    with live.tapes.record(file), pytest.raises(kind) as first:
        live.complete("Hi", names, timeout={"first": 1.0})
    bare = make()
    with bare.tapes.replay(file), pytest.raises(kind) as again:
        bare.complete("Hi", names)
    assert (first.value.message, first.value.hint) == (again.value.message, again.value.hint)
    assert first.value.partial.text == again.value.partial.text
    notices = [[n.text for n in e.value.partial.notices if n.kind == "failover"] for e in (first, again)]
    assert notices[0] == notices[1]
    assert getattr(first.value, "status", None) == getattr(again.value, "status", None)
    assert CANARY not in file.read_text()


@pytest.mark.slow
def test_a_cell_that_failed_over_is_played_as_it_was(live, make, file):
    """Who answered, and why the first did not; one of them that is asked alone is another call."""
    bad, pair = "openai/bad@status=500", "openai/bad@status=500|anthropic/n"
    with live.tapes.record(file):
        with pytest.raises(errors.ServerError):
            live.complete("Hi", bad)
        first = [live.complete("Hi", pair) for _ in range(2)]
        alone = live.complete("Hi", "anthropic/n", temperature=0.5)
    bare = make()
    with bare.tapes.replay(file):
        with pytest.raises(errors.ServerError):
            bare.complete("Hi", bad)
        again = [bare.complete("Hi", pair) for _ in range(6)]  # as often as would open a breaker
        assert alone.text == bare.complete("Hi", "anthropic/n", temperature=0.5).text
    told = {n.text for a in again for n in a.notices if n.kind == "failover"}
    assert told == {n.text for n in first[0].notices if n.kind == "failover"}
    assert [(a.provider, a.model) for a in first] == [(a.provider, a.model) for a in again[:2]]
    assert len([r for r in bare.ledger.rows() if r["provider"] == "anthropic"]) == 7


def test_models_in_turn_are_not_one_of_them(live, make, file):
    """Nor the other way round, and the error says so; their order may be another, as cheap(a|b) has it."""
    with live.tapes.record(file):
        text = live.complete("Hi", "openai/m|anthropic/n").text
    bare = make()
    with bare.tapes.replay(file):
        with pytest.raises(errors.ConfigError, match=r"others\[0\] it has 'anthropic/n', this one nothing"):
            bare.complete("Hi", "openai/m")
        again = bare.complete("Hi", "anthropic/n|openai/m")
    assert (text, "openai") == (again.text, again.provider)


def test_an_error_that_an_answer_followed_is_not_played(sim, live, make, file):
    """A cell that was run once more, when the provider was there again."""
    gone = make(OPENAI_BASE_URL="http://127.0.0.1:9/v1", OPENAI_API_KEY=CANARY)
    with gone.tapes.record(file) as to, pytest.raises(errors.ConnectFailed):
        gone.complete("Hi", "openai/m")
    live.tapes.target = to
    text = live.complete("Hi", "openai/m").text
    live.tapes.target = None
    bare = make()
    with bare.tapes.replay(file) as tape:
        assert text == bare.complete("Hi", "openai/m").text
        assert 1 == tape.calls


@pytest.mark.slow
def test_a_recording_is_there_with_its_first_call(live, make, file):
    """Until then the one before is what it was."""
    with live.tapes.record(file):
        pass
    assert not file.exists()
    with live.tapes.record(file):
        live.complete("Hi", "openai/m")
    whole = file.read_text()
    for _ in range(2):
        with live.tapes.record(file):
            assert whole == file.read_text()
    with live.tapes.record(file):
        live.complete("Ho", "openai/m")
    assert whole == file.with_name(file.name + ".old").read_text()
    with pytest.raises(errors.ConfigError, match="cannot be written"):
        Recording(file.parent / "nowhere" / "a.llm.jsonl")


@pytest.mark.parametrize("error", [{}, 7, [], {"error": "os", "message": 3, "hint": [], "status": "x"}])
def test_an_odd_error_is_one_all_the_same(live, make, file, error):
    """Its words can be read, whoever wrote the file."""
    with live.tapes.record(file), pytest.raises(errors.BadRequest):
        live.complete("Hi", "openai/sim@status=400")
    head, line = file.read_text().splitlines()
    file.write_text(f"{head}\n{json.dumps({**json.loads(line), 'error': error})}\n")
    bare = make()
    with bare.tapes.replay(file), pytest.raises(errors.NbllmError) as caught:
        bare.complete("Hi", "openai/sim@status=400")
    assert isinstance(str(caught.value), str)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("not json\n", "not JSON"),
        ("not json", "not JSON"),
        ('{"cells": []}', "other than a recording"),
        ('{"cells": []}\n', "other than a recording"),
        ("[" * 100_000 + "\n", "not JSON"),
        ('{"nbllm": 99, "recording": 1}\n', "later nbllm"),
        ('{"nbllm": 1, "recording": 1}\n{"hash": 1}\n', "missing fields"),
        ('{"nbllm": 1, "recording": 1}\n[]\n', "other than a recording"),
    ],
)
def test_what_is_no_recording(file, text, match):
    """Nor is it put aside for a new one."""
    file.write_text(text)
    for use in (Tape, Recording):
        with pytest.raises(errors.NbllmError, match=match):
            use(file)
    assert file.read_text() == text


@pytest.mark.parametrize(("left", "calls"), [(-1, 1), (-2, 0), (20, 0), (3, 0)])
def test_a_last_line_without_its_end_is_one(live, make, file, left, calls):
    """Editors take it away; what a kill left of a line is none."""
    with live.tapes.record(file):
        live.complete("Hi", "openai/m")
    file.write_bytes(file.read_bytes()[:left])
    with make().tapes.replay(file) as tape:
        assert tape.calls == calls


def test_a_difference_of_kind_is_told_as_one(live, make, file):
    """A list of nothing is not nothing."""
    with live.tapes.record(file):
        live.complete("Hi", "openai/m", extra={"a": [1]})
    bare = make()
    with bare.tapes.replay(file), pytest.raises(errors.ConfigError, match=r"extra\.a it has other values"):
        bare.complete("Hi", "openai/m", extra={"a": []})


@pytest.mark.parametrize(
    "events",
    [
        [],
        [[0, {"type": "TextDelta", "text": "x"}]],
        [["x", {"type": "Finished", "reason": "stop"}]],
        [[1e999, {"type": "Finished", "reason": "stop"}]],
        [[True, {"type": "Finished", "reason": "stop"}]],
        [{"type": "Finished"}],
        [7],
        [[0, {"type": "os.system"}]],
        [[0, {"type": "StepEnded"}], [0, {"type": "Finished", "reason": "stop"}]],
    ],
)
def test_what_nbllm_did_not_write_is_no_answer(live, make, file, events):
    with live.tapes.record(file):
        live.complete("Hi", "openai/m")
    head, line = file.read_text().splitlines()
    file.write_text(f"{head}\n{json.dumps({**json.loads(line), 'events': events})}\n")
    bare = make()
    with bare.tapes.replay(file), pytest.raises(errors.ConfigError, match=r"holds an (incomplete )?answer"):
        bare.complete("Hi", "openai/m")


_WRITER = """
import sys
from pathlib import Path
from nbllm.core.events import Finished, TextDelta
from nbllm.core.messages import Message, Request, Text
from nbllm.store.recordings import Recording, to_recorded_request
to = Recording(Path(sys.argv[1]))
for i in range(10**9):
    about = to_recorded_request(Request("m", (Message("user", (Text(f"{i}"),)),)), "p", ())
    to.add(about, [(0.0, TextDelta("x" * 5000)), (0.1, Finished("stop"))], (), False)
    print(i, flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_what_was_written(file):
    """And a half of a last line at most, which is none."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(40):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert Tape(file).calls >= 40
    with file.open("ab") as end:
        end.write(b'{"hash": "half')
    assert Tape(file).calls >= 40


def test_the_environment_says_so(live, make, file, monkeypatch):
    """NBLLM_RECORD and NBLLM_REPLAY: a file, or 1 for the one of this folder."""
    recorder = make(**live.registry.env, NBLLM_RECORD=str(file))
    text = recorder.complete("Hi", "openai/m").text
    monkeypatch.chdir(file.parent)
    for said in (str(file), "1"):
        assert make(NBLLM_REPLAY=said).complete("Hi", "openai/m").text == text
    (file.parent / "b.llm.jsonl").write_text("")
    with pytest.raises(errors.ConfigError, match="which recording"):
        make(NBLLM_REPLAY="1").complete("Hi", "openai/m")
    monkeypatch.setenv("JPY_SESSION_NAME", "work/nb.ipynb")
    assert str(recording_path()) == "nb.llm.jsonl"
    assert str(recording_path("/x/other.ipynb")) == "/x/other.llm.jsonl"


def test_the_lines(live, make, file):
    """%llm record and %llm replay."""
    session = SimpleNamespace(client=live, vscode_path="")
    assert str(file) in COMMANDS["record"](session, str(file))
    live.complete("Hi", "openai/m")
    assert COMMANDS["record"](session, "off").startswith("Calls are not recorded")
    bare = SimpleNamespace(client=make(), vscode_path=str(file).replace(".llm.jsonl", ".ipynb"))
    assert "(1 call)" in COMMANDS["replay"](bare, "pace=recorded")
    assert bare.client.complete("Hi", "openai/m").cached
    COMMANDS["replay"](bare, "off")
    assert bare.client.tapes.get_source() is None


def test_a_recording_is_found_by_the_name_that_was_said(live, make, file, monkeypatch):
    """With its ending or without, in quotes; `on` is the notebook's, `stop` ends it; no file is called so."""
    monkeypatch.chdir(file.parent)
    session = SimpleNamespace(client=live, vscode_path="")
    for name in ("demo", '"demo.llm.jsonl"'):
        assert "demo.llm.jsonl from" in COMMANDS["record"](session, name)
    live.complete("Hi", "openai/m")
    assert COMMANDS["record"](session, "stop").startswith("Calls are not recorded")
    other = SimpleNamespace(client=make(), vscode_path="")
    for name in ("demo", "'demo.llm.jsonl' pace=now"):
        assert "(1 call)" in COMMANDS["replay"](other, name)
    assert COMMANDS["replay"](other, "stop").startswith("Replay is off")
    assert "calls.llm.jsonl from" in COMMANDS["record"](session, "on")
    COMMANDS["record"](session, "off")
    assert {"demo.llm.jsonl", "calls.llm.jsonl"} >= {p.name for p in file.parent.glob("*jsonl")} - {file.name}
    assert not {"on", "stop", "demo"} & {p.name for p in file.parent.iterdir()}
