"""What the real CLIs printed (recorded), through the dialects."""

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nbllm import Client, Image, Message, Request, Text
from nbllm.agents.protocols import AcpProtocol, CodexProtocol
from nbllm.agents.protocols import encode_session_call as keep_talking
from nbllm.core import errors
from nbllm.core.calls import Frame, Secret
from nbllm.core.events import Fold, Notice, Restarted, TextDelta, UsageReport
from nbllm.routing.dialects import DIALECTS
from nbllm.routing.registry import load

RECORDED = Path(__file__).parent / "data" / "cli-transcripts"
ROWS = load(env={}).rows
HELLO = "Hello from the fake endpoint : alpha beta gamma delta . "


def line(**value):
    return json.dumps(value)


def exit_frame(rc=0, stderr="", **files):
    return Frame(json.dumps({"rc": rc, "stderr": stderr, "files": files}), "exit")


def decoded(cli, lines, rc=0, stderr="", **files):
    """(answer, events) of a run's lines, read as the client reads them."""
    row = ROWS[f"cli/{cli}"]
    decoder, fold, events = DIALECTS[row.dialect].decoder(row), Fold(), []
    for frame in [*(Frame(text) for text in lines), exit_frame(rc, stderr, **files)]:
        events += list(decoder.feed(frame))
        if decoder.done:
            break
    events += list(decoder.close())
    for event in events:
        fold.add(event)
    return fold.response(), events


def recorded(name):
    path = RECORDED / f"{name}.jsonl"
    meta = json.loads((RECORDED / f"{name}.meta.json").read_text())
    lines = [raw.decode("utf-8", "replace") for raw in path.read_bytes().split(b"\n") if raw.strip()]
    return decoded(name.partition("-")[0], lines, meta["rc"], meta["stderr"])


def delta(text, message="1"):
    return line(
        type="stream_event",
        event={"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}},
    )


def begin(message="1"):
    return line(type="stream_event", event={"type": "message_start", "message": {"id": message}})


RESULT = line(
    type="result",
    subtype="success",
    is_error=False,
    stop_reason="end_turn",
    total_cost_usd=0.01,
    usage={
        "input_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "output_tokens": 7,
    },
)


def test_claude_in_short():
    """Deltas, usage in our meaning, its own cost."""
    answer, _ = decoded(
        "claude",
        [
            line(type="system", subtype="init", session_id="s", model="claude-x"),
            begin(),
            delta("Hel"),
            delta("lo"),
            RESULT,
        ],
    )
    assert ("Hello", "stop", "claude-x", "s") == (answer.text, answer.finish_reason, answer.model, answer.id)
    assert (10, 7, 3, 0.01) == (
        answer.usage.input_tokens,
        answer.usage.output_tokens,
        answer.usage.cache_read_tokens,
        answer.usage.raw["cost"],
    )


@pytest.mark.parametrize(
    ("reason", "raw"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("length", "model_context_window_exceeded"),
        ("content_filter", "refusal"),
    ],
)
def test_why_claude_ended(reason, raw):
    """The model's own word for it, in ours."""
    ended = line(type="result", subtype="success", is_error=False, stop_reason=raw)
    answer, _ = decoded("claude", [begin(), delta("Hello"), ended])
    assert (reason, raw) == (answer.finish_reason, answer.finish_raw)


def test_what_a_cli_sends_again_replaces_what_it_had_sent():
    """A new message before the old one was complete; what was complete before stands."""
    done = line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
    answer, events = decoded(
        "claude",
        [begin("1"), delta("First. "), done, begin("2"), delta("Bro"), begin("3"), delta("Second."), RESULT],
    )
    assert "First. Second." == answer.text
    assert 1 == sum(isinstance(e, Restarted) for e in events)


@pytest.mark.parametrize(
    ("cli", "lines", "kind"),
    [
        (
            "claude",
            [
                line(
                    type="system",
                    subtype="api_retry",
                    attempt=1,
                    max_retries=10,
                    error_status=401,
                    error="authentication_failed",
                )
            ],
            errors.AuthenticationError,
        ),
        (
            "claude",
            [line(type="result", subtype="success", is_error=True, api_error_status=429, result="slow down")],
            errors.RateLimited,
        ),
        (
            "claude",
            [begin(), delta("Half"), line(type="result", subtype="error_max_budget_usd", is_error=False)],
            errors.ProviderError,
        ),
        (
            "codex",
            [line(type="turn.failed", error={"message": "unexpected status 404 Not Found: no model"})],
            errors.NotFound,
        ),
        (
            "gemini",
            [
                line(
                    type="result",
                    status="error",
                    error={"message": '[API Error: {"error":{"code":500,"message":"oops"}}]'},
                )
            ],
            errors.ServerError,
        ),
        (
            "copilot",
            [line(type="model.call_failure", data={"statusCode": 403, "errorMessage": "no"})],
            errors.AuthenticationError,
        ),
        (
            "opencode",
            [
                line(
                    type="error",
                    error={"name": "APIError", "data": {"message": "bad key", "statusCode": 401}},
                )
            ],
            errors.AuthenticationError,
        ),
    ],
)
def test_failures_are_typed_and_say_what_to_do(cli, lines, kind):
    """By the status in their words; the CLI is not waited for where asking again is hopeless."""
    with pytest.raises(kind) as caught:
        decoded(cli, lines, 1)
    assert caught.value.hint


@pytest.mark.parametrize("cli", ["claude", "gemini", "codex", "copilot", "opencode"])
def test_without_a_terminal_event_an_answer_is_cut(cli):
    """Whatever the exit code; the error holds the last words of standard error."""
    with pytest.raises(errors.StreamCut, match="boom"):
        decoded(cli, [], 0, "boom")
    with pytest.raises(errors.AuthenticationError):
        decoded(cli, [], 1, "You are not logged in. Run login.")


# --- recordings ---

TEXTS = [
    "claude-text",
    "claude-latest-text",
    "claude-latest-minimal",
    "claude-latest-bare",
    "gemini-text",
    "gemini-norelaunch",
    "codex-text",
    "copilot-text",
    "opencode-text",
    "claude-latest-badjson",
    "codex-badjson",
    "copilot-maxtok",
    "copilot-usagefile",
    "gemini-maxtok",
    "gemini-refuse",
    "gemini-think",
    "codex-stdinprompt",
    "copilot-stdinprompt",
    "gemini-stdinprompt",
    "opencode-stdinprompt",
    "claude-latest-midcuterr",
    "claude-latest-overload",
]


@pytest.mark.parametrize("name", TEXTS)
def test_a_recorded_answer(name):
    """Its text and its usage."""
    answer, _ = recorded(name)
    wanted = HELLO.partition(" :")[0] if name.endswith("stdinprompt") else HELLO.strip()
    wanted = f"{wanted} {wanted} {wanted}" if name == "copilot-maxtok" else wanted  # it went on twice
    assert (wanted, "stop") == (answer.text.strip(), answer.finish_reason)
    if not name.startswith("copilot"):
        assert answer.usage.output_tokens


@pytest.mark.parametrize(
    "name", ["claude-think", "claude-latest-think", "codex-think", "copilot-think", "opencode-think"]
)
def test_recorded_thinking(name):
    """Is reasoning and no text."""
    answer, _ = recorded(name)
    assert "think about it" in answer.reasoning
    assert HELLO.strip() == answer.text.strip()


@pytest.mark.parametrize(
    "name",
    [
        "claude-tool",
        "claude-latest-tool",
        "gemini-tool",
        "codex-tool",
        "opencode-tool",
        "opencode-toolwrite",
        "copilot-toolwrite",
        "codex-toolwrite",
        "claude-latest-tool-denied",
        "claude-latest-tool-dontask",
        "gemini-tool-denied",
        "claude-latest-tool-default-echo",
        "claude-latest-toolfail",
        "codex-mcp",
    ],
)
def test_recorded_tools_are_notices(name):
    """What the agent did by itself is told, and is no call for us to make."""
    answer, events = recorded(name)
    assert () == answer.tool_calls
    assert any(isinstance(e, Notice) and e.kind == "server_tool" for e in events)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("claude-401", errors.AuthenticationError),
        ("claude-latest-401", errors.AuthenticationError),
        ("claude-404", errors.NotFound),
        ("claude-latest-404", errors.NotFound),
        ("claude-latest-429", errors.RateLimited),
        ("claude-latest-500", errors.ServerError),
        ("gemini-401", errors.AuthenticationError),
        ("codex-401", errors.AuthenticationError),
        ("codex-429", errors.RateLimited),
        ("codex-500", errors.Overloaded),
        ("copilot-401", errors.AuthenticationError),
        ("copilot-404", errors.NotFound),
        ("copilot-429", errors.RateLimited),
        ("opencode-401", errors.AuthenticationError),
        ("opencode-404", errors.NotFound),
    ],
)
def test_recorded_failures(name, kind):
    """Each is the error it should be."""
    with pytest.raises(kind):
        recorded(name)


@pytest.mark.parametrize(
    "name",
    [
        "claude-latest-sigterm",
        "gemini-sigint-group",
        "codex-sigint",
        "opencode-sigint",
        "opencode-midcuterr",
        "gemini-sigterm-group",
        "codex-noprompt",
        "claude-latest-badflag",
        "codex-badflag",
        "copilot-badflag",
        "opencode-badflag",
        "gemini-noprompt",
        "opencode-noprompt",
        "codex-sigterm-group",
        "opencode-sigterm",
        "gemini-midcut",
        "codex-midcut",
        "copilot-midcut",
        "opencode-midcut",
        "gemini-dead",
        "claude-latest-dead",
        "opencode-500",
        "opencode-unknownmodel",
    ],
)
def test_recorded_cuts(name):
    """Ended by a signal, or without an end: cut short, whatever the exit code said."""
    with pytest.raises(errors.NbllmError) as caught:
        recorded(name)
    assert isinstance(caught.value, (errors.StreamCut, errors.ProviderError))


def test_recorded_limits():
    """Too many turns, an interrupt."""
    assert ("other", "max_turns") == (
        recorded("claude-latest-maxturns")[0].finish_reason,
        recorded("claude-latest-maxturns")[0].finish_raw,
    )
    assert "cancelled" == recorded("claude-latest-sigint")[0].finish_reason
    for name in ("copilot-sigint", "claude-sigint", "claude-latest-sigint-tool"):
        assert "cancelled" == recorded(name)[0].finish_reason


def test_recorded_colours_and_long_lines():
    """Text that holds escapes comes through; lines of hundreds of kilobytes are whole."""
    for cli in ("claude-latest", "codex", "copilot", "opencode"):
        assert len(recorded(f"{cli}-big")[0].text) > 10_000
        assert (
            "plain \x1b[31mred\x1b[0m café 😀 line1\nline2\r\nnul-free\u2028se"
            in recorded(f"{cli}-ansi")[0].text
        )


@pytest.mark.slow
def test_every_recording_ends_in_an_answer_or_an_error():
    """None of them crashes a decoder, cut at any line."""
    for path in sorted(RECORDED.glob("*.jsonl")):
        cli = path.name.partition("-")[0]
        lines = [raw.decode("utf-8", "replace") for raw in path.read_bytes().split(b"\n") if raw.strip()]
        for cut in {0, min(1, len(lines)), len(lines) // 2, max(0, len(lines) - 1), len(lines)}:
            for part in (
                lines[:cut],
                [*lines[:cut], lines[cut][: len(lines[cut]) // 2]] if cut < len(lines) else lines,
            ):
                try:
                    decoded(cli, part, 1, "")
                except errors.NbllmError:
                    continue


# --- what is sent ---


@pytest.mark.parametrize("cli", ["claude", "gemini", "codex", "copilot", "opencode"])
def test_neither_prompt_nor_key_is_a_word_of_the_command(cli):
    """Others see words; the prompt goes through standard input, the key through a variable."""
    row = ROWS[f"cli/{cli}"]
    call = DIALECTS[row.dialect].encode(
        Request("m", (Message("user", "-my secret question"),)), row, Secret("sk-canary")
    )
    assert not any("secret question" in word or "sk-canary" in word for word in call.argv)
    assert "-my secret question" in call.stdin
    assert ("sk-canary" in call.env.values()) == bool(row.key_env)
    assert "sk-canary" not in repr(call)


@pytest.mark.parametrize("cli", ["claude", "gemini", "codex", "copilot", "opencode"])
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("m", (Message("user", "x"),), temperature=0.5), "temperature"),
        (Request("m", (Message("user", "x"),), max_tokens=5), "max_tokens"),
        (Request("m", (Message("user", [Text("x"), Image(data=b"1")]),)), "image"),
        (Request("m", (Message("user", "x"),), extra={"colour": 1}), "colour"),
    ],
)
def test_what_a_cli_cannot_do_is_refused(cli, request_, words):
    """Nothing is silently left out."""
    row = ROWS[f"cli/{cli}"]
    with pytest.raises(errors.ConfigError, match=words):
        DIALECTS[row.dialect].encode(request_, row, None)


def test_a_conversation_becomes_a_transcript():
    """The last message is what is asked; the system prompt goes its own way."""
    row = ROWS["cli/claude"]
    said = (
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "Two."),
        Message("user", "Three?"),
    )
    call = DIALECTS[row.dialect].encode(Request("", said), row, None)
    assert call.stdin.index("One?") < call.stdin.index("Two.") < call.stdin.index("Three?")
    assert "Be brief." == call.inputs["system.md"]
    assert "{tmp}/system.md" == call.argv[call.argv.index("--system-prompt-file") + 1]
    assert "--model" not in call.argv


def test_the_safest_is_the_default():
    """No tools, no settings, a sandbox that only reads, everything denied."""
    made = {
        cli: DIALECTS[ROWS[f"cli/{cli}"].dialect].encode(
            Request("m", (Message("user", "x"),)), ROWS[f"cli/{cli}"], None
        )
        for cli in ("claude", "codex", "copilot", "opencode")
    }
    assert "" == made["claude"].argv[made["claude"].argv.index("--tools") + 1]
    assert "read-only" == made["codex"].argv[made["codex"].argv.index("-s") + 1]
    assert "--available-tools=none" in made["copilot"].argv
    assert {"*": "deny"} == json.loads(made["opencode"].env["OPENCODE_CONFIG_CONTENT"])["permission"]
    assert all(call.cwd is None for call in made.values())


def test_gemini_marks_no_retry_and_a_pause_with_the_same_first_words_tells():
    """Its deltas of the broken attempt are void."""

    def said(text, second):
        return line(
            type="message",
            role="assistant",
            content=text,
            delta=True,
            timestamp=f"2026-11-20T20:00:{second:06.3f}Z",
        )

    answer, events = decoded(
        "gemini",
        [
            said("Hel", 0),
            said("lo", 0.01),
            said("Hel", 2),
            said("lo", 2.01),
            said("!", 2.02),
            line(type="result", status="success", stats={}),
        ],
    )
    assert "Hello!" == answer.text
    assert 1 == sum(isinstance(e, Restarted) for e in events)
    assert isinstance(events[0], TextDelta)


# --- words that a command could take for its own ---

MODELS = [
    "--yolo",
    "-m",
    "-",
    "--",
    "a/--attach=http://127.0.0.1:1",
    "a/-x/b",
    "a/b/--c",
    "two words",
    " x",
    "x ",
    "tab\there",
    "new\nline",
    "nul\0",
    "esc\x1b[0m",
    "no\u00a0break",
    "rtl\u202emodel",
    "line\u2028end",
    "--dangerously-skip-permissions",
    "-c",
    "a//--b",
]
COMMANDS = ["claude", "gemini", "codex", "copilot", "opencode", "mine"]


def encoded(cli, model="m", keep=False, **extra):
    """The call that a command's row makes of a question."""
    registry = load(env={})
    registry.register("cli/mine", {"command": ["mine", "{model}"], "label": "Mine"})
    client = Client(registry, ledger=None)
    row = registry.rows[f"cli/{cli}"]
    request = Request(model, (Message("user", "hello"),), extra=extra)
    return client.encode(
        request, client.resolve(f"cli/{cli}/m"), Secret("sk-x") if row.key_env else None, keep=keep
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cli", COMMANDS)
def test_a_model_that_could_be_an_option_is_refused(cli, model):
    """Behind any slash, and whatever would not be one word of a command line."""
    for keep in (False, True) if cli != "mine" else (False,):
        with pytest.raises(errors.ConfigError, match="could read it as an option") as caught:
            encoded(cli, model, keep)
        assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["cli/opencode/--attach=http://127.0.0.1:1", "cli/gemini/--yolo", "cli/claude/a/-b", "opencode/a/-b"],
)
def test_such_a_name_is_refused_in_a_call_and_by_an_alias(name):
    """Before anything is run."""
    registry = load(env={"ANTHROPIC_API_KEY": "sk-x", "GEMINI_API_KEY": "sk-x"})
    registry.aliases["smart"] = name
    client = Client(registry, ledger=None)
    for asked in (name, "smart"):
        with pytest.raises(errors.ConfigError, match="could read it as an option"):
            client.stream("hello", asked)


@pytest.mark.parametrize(
    ("cli", "extra"),
    [
        ("claude", {"permission_mode": "--dangerously-skip-permissions"}),
        ("claude", {"allowed_tools": ["--mcp-config=x"]}),
        ("claude", {"max_turns": "-1 --x"}),
        ("gemini", {"permission_mode": "--yolo"}),
        ("codex", {"permission_mode": "-c"}),
        ("codex", {"allowed_tools": "a,--enable"}),
        ("copilot", {"allowed_tools": ["x\ny"]}),
        ("opencode", {"allowed_tools": ["-x"]}),
    ],
)
def test_an_option_s_value_that_could_be_an_option_is_refused(cli, extra):
    """As a model is; a tool may hold blanks: Bash(git log:*)."""
    with pytest.raises(errors.ConfigError, match="could read it as an option"):
        encoded(cli, **extra)
    assert encoded("claude", allowed_tools="Bash(git log:*)")


@pytest.mark.parametrize(
    "extra",
    [{"allowed_tools": 7}, {"cwd": 7}, {"max_turns": [1]}, {"permission_mode": {}}, {"allowed_tools": None}],
)
def test_an_option_of_a_wrong_type_is_no_python_error(extra):
    """It becomes a word, or is refused."""
    with contextlib.suppress(errors.NbllmError):
        assert all(isinstance(word, str) for word in encoded("claude", **extra).argv)


@pytest.mark.parametrize("inside", ["", "deep/er"])
@pytest.mark.parametrize(
    ("cli", "read"),
    [
        ("gemini", ".gemini/settings.json"),
        ("gemini", ".env"),
        ("copilot", ".github/hooks/a.json"),
        ("copilot", ".mcp.json"),
        ("opencode", "opencode.jsonc"),
        ("opencode", ".opencode/plugin/a.js"),
    ],
)
def test_a_strangers_folder_is_trusted_by_word_only(cli, read, inside, tmp_path, monkeypatch):
    """Also where what would be read stands above it; what stands in the home is the user's own."""
    folder = tmp_path / "work" / inside
    folder.mkdir(parents=True)
    assert str(folder) == encoded(cli, cwd=folder).cwd
    (tmp_path / "work" / read).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "work" / read).write_text("{}")
    for trust in ({}, {"trust": False}, {"trust": "false"}, {"trust": None}):
        with pytest.raises(errors.ConfigError, match=re.escape(f"would read {tmp_path / 'work'}")):
            encoded(cli, cwd=folder, **trust)
    assert str(folder) == encoded(cli, cwd=folder, trust=True).cwd
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    assert encoded(cli, cwd=folder)


@pytest.mark.parametrize("cwd", ["/no/such/folder", "\0", "x" * 5000, "~no such user/x"])
def test_a_folder_that_is_not_there_is_told(cwd):
    """Before anything is started."""
    for cli in ("claude", "gemini"):
        with pytest.raises(errors.ConfigError, match="is not a folder"):
            encoded(cli, cwd=cwd)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("cli", COMMANDS[:-1])
def test_a_command_sees_no_variable_that_waits_for_consent(cli, keep):
    """The others of its row it sees."""
    row = replace(
        ROWS[f"cli/{cli}"],
        passthrough_env=("AWS_SECRET_ACCESS_KEY", "CODEX_HOME"),
        pending_consent=("AWS_SECRET_ACCESS_KEY",),
    )
    request = Request("m", (Message("user", "hello"),))
    call = (
        keep_talking(request, row, None).process if keep else DIALECTS[row.dialect].encode(request, row, None)
    )
    assert ("CODEX_HOME",) == call.passthrough_env


def test_a_server_that_we_start_sees_none_either():
    """OpenCode's, with x.start=true."""
    row = replace(
        ROWS["opencode"],
        passthrough_env=("AWS_SECRET_ACCESS_KEY", "CODEX_HOME"),
        pending_consent=("AWS_SECRET_ACCESS_KEY",),
    )
    assert ("CODEX_HOME",) == DIALECTS[row.dialect].encode(
        Request("a/b", (Message("user", "hello"),), extra={"start": True}), row, None
    ).start.passthrough_env


# what each CLI tells of its usage where it told the output alone
OUTPUT_ALONE = {
    "claude": line(type="result", subtype="success", is_error=False, usage={"output_tokens": 7}),
    "gemini": line(type="result", status="success", stats={"output_tokens": 7}),
    "codex": line(type="turn.completed", usage={"output_tokens": 7}),
    "copilot": json.dumps(
        {"modelMetrics": {"a": {"usage": {"outputTokens": 3}}, "b": {"usage": {"outputTokens": 4}}}}
    ),
    "opencode": line(type="step_finish", part={"reason": "stop", "tokens": {"output": 7}}),
    "acp": line(id=1, result={"stopReason": "end_turn", "usage": {"outputTokens": 7}}),
    "acp-gemini": line(
        id=1, result={"stopReason": "end_turn", "_meta": {"quota": {"token_count": {"output_tokens": 7}}}}
    ),
    "app-server": line(
        method="thread/tokenUsage/updated", params={"tokenUsage": {"last": {"outputTokens": 7}}}
    ),
}
TALKS = {"acp": AcpProtocol, "acp-gemini": AcpProtocol, "app-server": CodexProtocol}


@pytest.mark.parametrize("name", OUTPUT_ALONE)
def test_usage_that_was_not_told_is_unknown_and_never_zero(name):
    """No count of input, cache, thinking or cost is made up where a CLI left it out."""
    if name in TALKS:
        decoder = TALKS[name](ROWS["cli/gemini"], "m", "", "/").decoder()
    else:
        row = ROWS[f"cli/{name}"]
        decoder = DIALECTS[row.dialect].decoder(row)
    files = {"usage.json": OUTPUT_ALONE[name]} if name == "copilot" else {}
    given = '{"type": "result", "exitCode": 0}' if files else OUTPUT_ALONE[name]
    events = list(decoder.feed(Frame(given)))
    if name not in TALKS:
        events += decoder.feed(exit_frame(0, "", **files))
    (usage,) = (e.usage for e in events if isinstance(e, UsageReport))
    assert (None, 7, None, None, None) == (
        usage.input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
    )
    assert "cost" not in usage.raw
