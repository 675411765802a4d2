"""Commands as providers: real processes that behave well and badly, stopped, and looked for afterwards."""

import contextlib
import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

import nbllm
from nbllm import Client, errors
from nbllm.registry import load

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups and /bin/sh")


@pytest.fixture
def cli(tmp_path):
    """cli(python source) -> a client whose `cli/it` runs it with the prompt on standard input."""
    clients = []

    def make(source, **row):
        script = tmp_path / "it.py"
        script.write_text(textwrap.dedent(source))
        registry = load()
        registry.register("cli/it", {"command": [sys.executable, "-u", str(script)], "label": "It", **row})
        clients.append(Client(registry))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def alive(marker):
    """Processes whose command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
    return found


def test_a_command_answers_line_by_line(cli):
    """Its standard output is the answer; the prompt came through standard input; no time to a token before the output began."""
    client = cli("import sys\nprint('You said:', sys.stdin.read().strip())\nprint('Bye.')")
    answer = client.complete("hello", model="cli/it")
    assert ("You said: hello\nBye.\n", "stop") == (answer.text, answer.finish_reason)
    assert answer.timing.ttft is not None


def test_lines_of_any_length_and_a_last_one_without_its_end(cli):
    """Two megabytes in a line, then a piece."""
    answer = cli("import sys\nsys.stdin.read()\nprint('x' * 2_000_000)\nsys.stdout.write('end')").complete("go", model="cli/it")
    assert (2_000_004, "end") == (len(answer.text), answer.text[-3:])


def test_a_flood_on_standard_error_is_drained_and_its_end_is_told(cli):
    """Ten megabytes do not block it; a failure shows the last words, without colours."""
    client = cli("import sys\nsys.stdin.read()\nfor _ in range(1000): sys.stderr.write('y' * 10_000)\nsys.stderr.write('\\x1b[31mboom\\x1b[0m')\nsys.exit(3)")
    with pytest.raises(errors.ProviderError, match="boom") as caught:
        client.complete("go", model="cli/it", retries=0)
    assert "\x1b" not in str(caught.value)


def test_stop_ends_the_whole_group_within_a_second(cli, tmp_path):
    """A child that ignores signals, with a grandchild: both are gone, the partial answer is kept."""
    marker = f"nbllm-marker-{time.monotonic_ns()}"
    client = cli(f"""
        import signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)", "{marker}"])
        print("began", flush=True)
        time.sleep(600)
    """)
    stream = client.stream("go", model="cli/it")
    while "began" not in stream.partial().text:
        assert stream.wait(len(stream.log), 10)
    until = time.monotonic() + 5
    while not alive(marker) and time.monotonic() < until:
        time.sleep(0.01)  # its words are there a moment after its start
    assert alive(marker)
    pressed = time.monotonic()
    stream.cancel()
    assert stream.wait_end(5)
    assert time.monotonic() - pressed < 1.5
    assert "began\n" == stream.partial().text
    until = time.monotonic() + 5
    while alive(marker) and time.monotonic() < until:
        time.sleep(0.01)
    assert [] == alive(marker)


def test_it_sees_what_it_may_see_and_no_more(cli, monkeypatch):
    """PATH and HOME, what its row names, no key of others; an empty folder of its own that is gone afterwards."""
    monkeypatch.setenv("ANOTHER_SECRET_TOKEN", "sk-canary")
    monkeypatch.setenv("IT_WANTS", "this")
    source = "import os, sys, json\nsys.stdin.read()\nprint(json.dumps([dict(os.environ), os.getcwd(), os.listdir('.')]))"
    seen, place, listed = json.loads(cli(source, passes=["IT_WANTS"]).complete("go", model="cli/it").text)
    assert ("this", [], False) == (seen["IT_WANTS"], listed, os.path.exists(place))
    assert "sk-canary" not in str(seen)
    assert {"PATH", "HOME", "TERM", "NO_COLOR"} <= set(seen)


def test_a_working_directory_is_used_where_it_was_named(cli, tmp_path):
    """x.cwd, which stays."""
    (tmp_path / "here").mkdir()
    answer = cli("import os, sys\nsys.stdin.read()\nprint(os.getcwd())").complete("go", model="cli/it", extra={"cwd": str(tmp_path / "here")})
    assert str(tmp_path / "here") == answer.text.strip()
    assert (tmp_path / "here").exists()


def test_one_that_says_nothing_is_timed_out_and_gone(cli):
    """The first-token limit, by name."""
    with pytest.raises(errors.Timeout) as caught:
        cli("import time\ntime.sleep(600)").complete("go", model="cli/it", timeout={"first": 0.5}, retries=0)
    assert "first" == caught.value.which


def test_one_that_does_not_read_its_input_is_fine(cli):
    """A large prompt to a program that never looks."""
    assert "ok\n" == cli("print('ok')").complete("x" * 1_000_000, model="cli/it").text


def test_a_command_that_is_not_there_says_how_to_get_it():
    """Before anything is run."""
    registry = load()
    registry.register("cli/gone", {"command": ["no-such-command-anywhere"], "label": "Gone"})
    client = Client(registry)
    with pytest.raises(errors.ConfigError, match="not installed"):
        client.complete("go", model="cli/gone")
    client.close()


def test_a_model_after_the_second_slash_is_a_word_of_its_command(tmp_path):
    """cli/it/large: {model} in the row's command."""
    registry = load()
    registry.register("cli/it", {"command": [sys.executable, "-c", "import sys; sys.stdin.read(); print(sys.argv[1])", "{model}"], "label": "It"})
    client = Client(registry)
    assert "large\n" == client.complete("go", model="cli/it/large").text
    client.close()


def test_a_benchmark_measures_a_command_too(tmp_path, monkeypatch):
    """spawned, first output and exit have their columns; arrivals are stamped at the pipe."""
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path))
    nbllm.register_provider("cli/echo", command=["cat"], label="cat")
    df = nbllm.bench.run("cli/echo", "hello", blocks=3, warmup=1, progress=False)
    df = df[df["phase"] == "measure"]
    assert df["ok"].all(), df["error_msg"].tolist()
    assert ({"cli"}, {"pipe"}) == (set(df["transport"]), set(df["stamp"]))
    assert (df["ns_spawn"] < df["ns_stdout1"]).all()
    assert (df["ns_stdout1"] <= df["ns_init"]).all()
    assert df["ns_exit"].notna().all()


def test_simulated_it_runs_no_command(monkeypatch):
    """NBLLM_SIMULATE=1: a notebook with cli/ models runs where no CLI is installed."""
    monkeypatch.setenv("NBLLM_SIMULATE", "1")
    client = Client(load())
    answer = client.complete("Why is the sky blue?", model="cli/claude/opus")
    client.close()
    assert (True, True) == (answer.simulated, bool(answer.text))
