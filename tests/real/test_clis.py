"""The real command-line programs, in a clean home, talking to the simulator on loopback with a key that is none."""

import os
import time
from pathlib import Path

import pytest

from nbllm import Client, errors, simulator
from nbllm.registry import load

from .conftest import REAL, need

BIN = REAL / "clis" / "node_modules" / ".bin"
CANARY = "sk-canary-cli-0123456789abcdef"


@pytest.fixture(scope="module")
def sim():
    with simulator.serve(ttft=0.05, gap=0.01) as server:
        yield server


@pytest.fixture
def ask(sim, tmp_path, monkeypatch):
    """ask(cli, model, prompt, **options) -> a Stream, with the CLI pointed at the simulator."""
    home = tmp_path / "home"
    (home / ".codex").mkdir(parents=True)
    (home / ".gemini").mkdir()
    (home / ".gemini" / "settings.json").write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": false}}')
    for name, value in {"HOME": home, "CODEX_HOME": home / ".codex", "ANTHROPIC_BASE_URL": sim.base_url("anthropic"),
                        "GOOGLE_GEMINI_BASE_URL": sim.url, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, str(value))
    registry = load()
    there = f'{{name="sim",base_url="{sim.base_url("openai_responses")}",env_key="CODEX_API_KEY",wire_api="responses",request_max_retries=1,stream_max_retries=1}}'
    registry.register("cli/codex", {"command": ["codex", "-c", 'model_provider="sim"', "-c", f"model_providers.sim={there}"]})
    client = Client(registry)

    def go(cli, prompt, **options):
        need(BIN / cli, f"the CLI {cli}")
        model = {"claude": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash", "codex": "gpt-5.2@tools=0"}[cli]  # codex keeps two tools that do nothing
        return client.stream(prompt, model=f"cli/{cli}/{options.pop('name', model)}", api_key=CANARY, **{"timeout": {"first": 60, "total": 90}, "retries": 0, **options})

    yield go
    client.close()


@pytest.mark.parametrize("cli", ["claude", "codex", "gemini"])
def test_it_answers_through_the_real_command(ask, sim, cli):
    """Text, usage, a session, a proper end; from the simulator's answer to that question."""
    stream = ask(cli, "Why is the sky blue? Begin with the word Light.")
    answer = stream.response()
    assert "stop" == answer.finish_reason
    assert "colours" in answer.text
    assert answer.usage.output_tokens > 10
    assert any(n.kind == "session" for n in answer.notices)
    assert (answer.timing.ttft is None) == (cli == "codex"), "codex gives whole messages: no time to a first token is claimed"


@pytest.mark.parametrize("cli", ["claude", "gemini"])
def test_text_comes_in_deltas(ask, cli):
    """More than a few, spread over time."""
    stream = ask(cli, "Why is the sky blue?")
    stream.response()
    pieces = [at for at, e in stream.log if getattr(e, "text", None) and type(e).__name__ == "TextDelta"]
    assert len(pieces) > 10
    assert pieces[-1] - pieces[0] > 0.1


@pytest.mark.parametrize("cli", ["claude", "codex", "gemini"])
def test_stop_ends_the_real_command(ask, cli):
    """Within a second and a half, and nothing of it goes on."""
    marker = f"question-{time.monotonic_ns()}"
    stream = ask(cli, f"Tell me more about {marker}.", name={"claude": "claude-sonnet-4-5@tokens=3000", "codex": "gpt-5.2@tokens=3000", "gemini": "gemini-2.5-flash"}[cli])
    until = time.monotonic() + 60
    while time.monotonic() < until and "spawned" not in stream.trace.marks:
        stream.wait(len(stream.log), 0.05)
    time.sleep(1.0)  # it is at work, somewhere: there is no event of it that all three give
    pressed = time.monotonic()
    stream.cancel()
    assert stream.wait_end(5)
    assert time.monotonic() - pressed < 1.5
    assert [] == [p for p in _processes() if str(BIN.parent.parent) in p]


def _processes():
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue


@pytest.mark.parametrize("cli", ["claude", "codex"])
def test_a_refused_key_is_an_authentication_error(ask, cli):
    """Not after a minute of the CLI's own retries."""
    began = time.monotonic()
    with pytest.raises(errors.AuthenticationError) as caught:
        ask(cli, "hello", name={"claude": "claude-sonnet-4-5@status=401", "codex": "gpt-5.2@status=401"}[cli]).response()
    assert time.monotonic() - began < 30
    assert CANARY not in str(caught.value)
