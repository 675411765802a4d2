"""Commands as providers: real processes that behave well and badly, stopped, and looked for afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import nbllm
from nbllm import Client
from nbllm.agents import reaper
from nbllm.core import errors
from nbllm.core.calls import ProcessCall, Trace
from nbllm.routing.registry import load

from .processes import alive, comes_to, gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and /bin/sh"),
]


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


def test_a_command_answers_line_by_line(cli):
    """Its standard output is the answer; the prompt came through standard input; no time to a token before
    the output began."""
    client = cli("import sys\nprint('You said:', sys.stdin.read().strip())\nprint('Bye.')")
    answer = client.complete("hello", model="cli/it")
    assert ("You said: hello\nBye.\n", "stop") == (answer.text, answer.finish_reason)
    assert answer.timing.ttft is not None


def test_lines_of_any_length_and_a_last_one_without_its_end(cli):
    """Two megabytes in a line, then a piece."""
    answer = cli("import sys\nsys.stdin.read()\nprint('x' * 2_000_000)\nsys.stdout.write('end')").complete(
        "go", model="cli/it"
    )
    assert (2_000_004, "end") == (len(answer.text), answer.text[-3:])


def test_a_flood_on_standard_error_is_drained_and_its_end_is_told(cli):
    """Ten megabytes do not block it; a failure shows the last words, without colours."""
    client = cli(
        "import sys\nsys.stdin.read()\nfor _ in range(1000): sys.stderr.write('y' * "
        "10_000)\nsys.stderr.write('\\x1b[31mboom\\x1b[0m')\nsys.exit(3)"
    )
    with pytest.raises(errors.ProviderError, match="boom") as caught:
        client.complete("go", model="cli/it", retries=0)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "kind"), [("", errors.ProviderError), ("rate limit exceeded", errors.RateLimited)]
)
def test_one_that_prints_nothing_has_not_answered(cli, words, kind):
    """Whatever its exit code; what it says on standard error is the reason."""
    client = cli(f"import sys\nsys.stdin.read()\nsys.stderr.write({words!r})")
    with pytest.raises(kind, match=words or "it printed nothing"):
        client.complete("go", model="cli/it", retries=0)


def test_what_a_command_leaves_behind_does_not_hold_up_its_answer(cli, tmp_path):
    """An updater in the background has the same standard output and error; it is ended with the rest."""
    marker = f"nbllm-marker-{time.monotonic_ns()}"
    client = cli(
        f"""
        import subprocess, sys
        sys.stdin.read()
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {marker!r}])
        print("x" * 500_000)
        print("Hello")
        """
    )
    answer = client.complete("go", model="cli/it", retries=0, timeout={"idle": 300})
    assert ("Hello", 500_007) == (answer.text.split()[-1], len(answer.text))
    assert gone(marker)


def test_stop_ends_the_whole_group(cli, tmp_path):
    """A child that ignores signals, with a grandchild: both are gone, the partial answer is kept."""
    marker = f"nbllm-marker-{time.monotonic_ns()}"
    client = cli(f"""
        import signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)", "{marker}"])
        print("began", flush=True)
        time.sleep(600)
    """)  # noqa: E501
    stream = client.stream("go", model="cli/it")
    while "began" not in stream.partial().text:
        assert stream.wait(len(stream.log), 60)
    assert comes_to(1, lambda: alive(marker)[:1])
    stream.cancel()
    assert stream.wait_end(30)
    assert "began\n" == stream.partial().text
    assert gone(marker)


def test_it_sees_what_it_may_see_and_no_more(cli, monkeypatch):
    """PATH and HOME, what its row names, no key of others; an empty folder of its own that is gone
    afterwards."""
    monkeypatch.setenv("ANOTHER_SECRET_TOKEN", "sk-canary")
    monkeypatch.setenv("IT_WANTS", "this")
    source = (
        "import os, sys, json\nsys.stdin.read()\nprint(json.dumps([dict(os.environ), os.getcwd(), "
        "os.listdir('.')]))"
    )
    seen, place, listed = json.loads(cli(source, passes=["IT_WANTS"]).complete("go", model="cli/it").text)
    assert ("this", [], False) == (seen["IT_WANTS"], listed, os.path.exists(place))
    assert "sk-canary" not in str(seen)
    assert {"PATH", "HOME", "TERM", "NO_COLOR"} <= set(seen)


def test_a_working_directory_is_used_where_it_was_named(cli, tmp_path):
    """x.cwd, which stays."""
    (tmp_path / "here").mkdir()
    answer = cli("import os, sys\nsys.stdin.read()\nprint(os.getcwd())").complete(
        "go", model="cli/it", extra={"cwd": str(tmp_path / "here")}
    )
    assert str(tmp_path / "here") == answer.text.strip()
    assert (tmp_path / "here").exists()


def test_one_that_says_nothing_is_timed_out_and_gone(cli):
    """The first-token limit, by name."""
    with pytest.raises(errors.Timeout) as caught:
        cli("import time\ntime.sleep(600)").complete("go", model="cli/it", timeout={"first": 0.5}, retries=0)
    assert "first" == caught.value.which


LAST_WORDS = {  # by dialect, the lines of an answer whose last says that it has ended
    "cli_opencode": [
        {"type": "step_start", "sessionID": "s", "part": {}},
        {"type": "text", "part": {"text": "Hello"}},
        {"type": "step_finish", "part": {"reason": "stop", "tokens": {"input": 1, "output": 2}}},
    ],
    "cli_claude": [
        {"type": "system", "subtype": "init", "session_id": "s", "model": "c"},
        {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "Hello"}]}},
        {"type": "result", "subtype": "success", "result": "Hello", "stop_reason": "end_turn"},
    ],
    "cli_codex": [
        {"type": "thread.started", "thread_id": "t"},
        {"type": "item.completed", "item": {"type": "agent_message", "text": "Hello"}},
        {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 2}},
    ],
}


@pytest.mark.parametrize("dialect", LAST_WORDS)
def test_one_that_does_not_exit_after_its_answer_has_answered(cli, dialect):
    """A server of tools that it left running, as a rule: the answer is whole, and the command is ended."""
    source = f"import json, time\nfor v in {LAST_WORDS[dialect]!r}: print(json.dumps(v))\ntime.sleep(600)"
    answer = cli(source, dialect=dialect).complete("go", model="cli/it/m", timeout={"idle": 60}, retries=0)
    assert ("Hello", "stop") == (answer.text, answer.finish_reason)


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
    registry.register(
        "cli/it",
        {
            "command": [sys.executable, "-c", "import sys; sys.stdin.read(); print(sys.argv[1])", "{model}"],
            "label": "It",
        },
    )
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


# --- after a kill ---

STUBBORN = """
    import json, os, signal, subprocess, sys, time
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    sleep = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15, 1)]; time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", sleep, "{marker}"])
    subprocess.Popen([sys.executable, "-c", sleep, "{marker}"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    {says}
    while True:
        time.sleep(1)
"""  # noqa: E501
ONE_SHOT = 'print("began", flush=True)'
KEPT = """
    for line in sys.stdin:
        m = json.loads(line)
        result = {"session/new": dict(sessionId="s"), "session/prompt": dict(stopReason="end_turn")}.get(m.get("method"), dict(authMethods=[]))
        if m.get("method") == "session/prompt":
            print(json.dumps(dict(method="session/update", params=dict(sessionId="s", update=dict(sessionUpdate="agent_message_chunk", content=dict(text="began"))))), flush=True)
        print(json.dumps(dict(jsonrpc="2.0", id=m["id"], result=result)), flush=True)
"""  # noqa: E501
SERVER = """
    import http.server
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(500); self.end_headers()
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    print(f"opencode server listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
"""
KERNEL = """
import contextlib, os, sys, time
from nbllm import Client, errors
from nbllm.routing.registry import load
registry = load(env=dict(os.environ))
registry.register("cli/it", {{"command": [sys.executable, "-u", {script!r}], "dialect": {dialect!r}}})
client = Client(registry)
stream = client.stream("hi", {model!r}, keep={keep}, extra={extra}, retries=0)
with contextlib.suppress(errors.NbllmError):
    while "began" not in stream.partial().text and not stream.done:
        stream.wait(len(stream.log), 20)
if {fork} and os.fork() == 0:
    time.sleep(600)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("kind", ["one-shot", "kept", "server"])
def test_a_killed_kernel_leaves_nothing_running(tmp_path, kind, fork):
    """A command that heeds neither the end of its input nor a signal, its child and one that left its group;
    and no folder of theirs. Also where a forked child of the kernel lives on."""
    marker, server = f"nbllm-marker-{time.monotonic_ns()}", kind == "server"
    says, dialect = {
        "one-shot": (ONE_SHOT, "cli_text"),
        "kept": (KEPT, "cli_copilot"),
        "server": (SERVER, "cli_text"),
    }[kind]
    script = tmp_path / marker
    script.write_text(textwrap.dedent(STUBBORN).format(marker=marker, says=textwrap.dedent(says).strip()))
    (tmp_path / "opencode").write_text(f"#!/bin/sh\nexec {sys.executable} -u {script}\n")
    (tmp_path / "opencode").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    code = KERNEL.format(
        script=str(script),
        dialect=dialect,
        model="opencode/a/b" if server else "cli/it",
        keep=kind == "kept",
        extra={"start": True} if server else {},
        fork=fork,
    ).replace(marker, "' + os.environ['MARKER'] + '")
    env = {
        **os.environ,
        "MARKER": marker,
        "TMPDIR": str(tmp_path / "tmp"),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "OPENCODE_SERVER_URL": "http://127.0.0.1:9",
    }
    kernel = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    try:
        assert "up" == kernel.stdout.readline().strip()
        assert comes_to(3, lambda: alive(marker)), "the command and both children"
        os.kill(kernel.pid, signal.SIGKILL)
        assert gone(marker)
        assert comes_to(0, lambda: list((tmp_path / "tmp").glob("nbllm-*")))
    finally:
        with contextlib.suppress(OSError):
            os.killpg(kernel.pid, signal.SIGKILL)
        for pid in alive(marker):
            os.kill(pid, signal.SIGKILL)
        kernel.wait()
        kernel.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="a parent's number says nothing elsewhere")
@pytest.mark.parametrize("held", [True, False])
def test_a_kernel_killed_before_its_watcher_began_leaves_nothing_running(tmp_path, held):
    """What was written to the watcher's input is read before it acts, also where a forked child of the kernel
    holds that input open."""
    marker = f"nbllm-marker-{time.monotonic_ns()}"
    command = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", marker], start_new_session=True
    )
    reading, writing = os.pipe()
    (tmp_path / "home").mkdir()
    os.write(writing, b"".join(b"0 /nowhere/%d\n" % n for n in range(3_000)))
    os.write(writing, f"{command.pid} {tmp_path / 'home'}\n".encode())
    if not held:
        os.close(writing)
    nobody = "1" if os.getpid() != 1 else "2"
    watcher = subprocess.Popen([sys.executable, "-I", "-S", reaper.__file__, nobody], stdin=reading)
    try:
        assert 0 == watcher.wait(30)
        assert command.wait(30)
        assert [] == list(tmp_path.iterdir())
    finally:
        command.kill()
        os.close(reading)
        if held:
            os.close(writing)


def test_closing_leaves_no_process_that_watches(cli):
    """It is started with the first command, and ends with the client."""

    def watching():
        return [
            pid
            for pid in alive("reaper.py")
            if f"\0{os.getpid()}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    client = cli("print('ok')")
    before = len(watching())
    client.complete("go", model="cli/it")
    client.complete("go", model="cli/it")
    assert comes_to(before + 1, watching)
    client.close()
    assert comes_to(before, watching)


@pytest.mark.parametrize(
    "name", ["queue", "subprocess", "signal", "threading", "sitecustomize", "usercustomize"]
)
def test_what_we_start_as_python_runs_nothing_of_the_working_directory(tmp_path, name):
    """A repository's queue.py is none of ours."""
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w').close()\n")
    code = (
        "import sys; sys.path.remove(''); from nbllm import Client\nfrom nbllm.routing.registry import "
        "load\nr = load()\n"
        "r.register('cli/it', {'command': ['cat']})\nprint(Client(r).complete('hi', 'cli/it').text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=True
    )
    assert "hi" == done.stdout.strip()
    assert not (tmp_path / "PWNED").exists()


def test_files_with_prompts_are_this_users_alone(tmp_path):
    """The folder, its sub-folder, the file; whatever the umask says."""
    before = os.umask(0)
    try:
        script = (
            "import os, sys; sys.stdin.read(); d = os.environ['D']; print([oct(os.stat(p).st_mode & "
            "0o777) for p in (os.path.dirname(d), d, d + '/system.md')])"
        )
        call = ProcessCall(
            (sys.executable, "-c", script), env={"D": "{tmp}"}, inputs={"system.md": "be brief \ud83d"}
        )
        client = Client(load(), ledger=None)
        assert ["['0o700', '0o700', '0o600']"] == client.run(_output(client, call))
        client.close()
    finally:
        os.umask(before)


async def _output(client, call):
    async with client.pool.transports.processes.open(call, Trace()) as reply:
        return [frame.data async for batch in reply.frames() for frame in batch if not frame.name]


# --- what a command may print ---


def test_a_line_without_an_end_is_bounded_and_what_came_before_it_is_kept(cli):
    """A hundred megabytes in one line: our error, at once, with the partial answer."""
    client = cli(
        "import sys\nsys.stdin.read()\nprint('before', flush=True)\nfor _ in range(100): "
        "sys.stdout.write('x' * 2**20)\nsys.stdout.flush()\nimport time; time.sleep(60)"
    )
    with pytest.raises(errors.ProtocolError, match="larger than 16 MiB") as caught:
        client.complete("go", model="cli/it", retries=0)
    assert "before\n" == caught.value.partial.text
    assert caught.value.hint


def test_empty_lines_are_part_of_an_answer(cli):
    """Paragraphs of a command's own text stay apart."""
    assert (
        "one\n\n\ntwo\n  \nthree\n"
        == cli("import sys\nsys.stdin.read()\nprint('one\\n\\n\\ntwo\\n  \\nthree')")
        .complete("go", model="cli/it")
        .text
    )


def test_bytes_that_are_no_text_are_shown_as_such(cli):
    """Binary output: no error of Python's, nothing lost around it."""
    text = (
        cli(
            "import sys\nsys.stdin.read()\nsys.stdout.buffer.write(b'a\\n\\x00\\xff\\xfe\\n' + "
            "bytes(range(128, 256)) + b'\\nb\\n')"
        )
        .complete("go", model="cli/it")
        .text
    )
    assert text.startswith("a\n\0\ufffd\ufffd\n")
    assert text.endswith("\nb\n")


@pytest.mark.parametrize("dialect", ["cli_claude", "cli_gemini", "cli_codex", "cli_copilot", "cli_opencode"])
def test_a_command_that_prints_rubbish_is_cut_and_no_more(cli, dialect):
    """Empty lines, binary ones, JSON of no meaning, a long one: an error of ours."""
    client = cli(
        "import sys\nsys.stdin.read()\no = sys.stdout.buffer\nfor b in (b'', b'\\0', b'\\xff' * 1000, "
        "b'{', b'{}', b'[]', b'null', b'{\"type\": 7}', b'{' * 10**6): o.write(b + b'\\n')",
        dialect=dialect,
    )
    with pytest.raises(errors.NbllmError) as caught:
        client.complete("go", model="cli/it", retries=0)
    assert caught.value.hint
