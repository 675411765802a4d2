"""Lines of commands that are not clean, and what may not vanish: the answer, tools and their results, the
reason of a failure, the environment of clouds."""

import json
import random
import sys
import textwrap
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm import Client
from nbllm.agents.base import agent_error, enabled_passthrough, timeout_error
from nbllm.agents.json_lines import ObjectReader, parse_object
from nbllm.agents.protocols import AcpProtocol, CodexProtocol
from nbllm.client.policy import Retries, wait_before_retry
from nbllm.core import errors
from nbllm.core.calls import Frame, SessionTurn
from nbllm.core.events import Fold, Notice, Restarted, UsageReport
from nbllm.core.messages import Message, Request
from nbllm.routing.dialects import DIALECTS
from nbllm.routing.registry import load

from .test_cli_dialects import ROWS, begin, decoded, delta, exit_frame, line, recorded

WHOLE = "Hello cruel world, this is the answer."
INIT = line(type="system", subtype="init", session_id="s", model="c")
DONE = line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
LIMIT = line(type="rate_limit_event", rate_limit_info={"status": "allowed"})


def said(text, id="1", **more):
    return line(
        type="assistant",
        message={"id": id, "model": "c", "content": [{"type": "text", "text": text}], "usage": {"a": {}}},
        **more,
    )


def result(text, **more):
    return line(type="result", subtype="success", is_error=False, result=text, stop_reason="end_turn", **more)


# --- objects in lines ---


def read(lines):
    reader, found, words = ObjectReader(), [], []
    for each in lines:
        more, other = reader.read(each)
        found, words = found + more, words + other
    return found, words + reader.take_unfinished()


A, B = {"type": "a", "text": 'He said "{" and {"x": 1}', "deep": [{"type": "t"}]}, {"type": "b", "n": [1, {}]}
TA, TB = json.dumps(A), json.dumps(B)


@pytest.mark.parametrize("cut", range(1, len(TA)))
def test_an_object_torn_anywhere_by_another_is_read(cut):
    """By one with its line end, by one on lines of its own, by one within the line, by a line end alone."""
    one, two = TA[:cut], TA[cut:]
    for lines in ([one + TB, two], [one, TB, two], [one + TB + two], [one, two], [one, "banner", two]):
        found, words = read(lines)
        if "}{" in lines[0] and TA[cut - 1] == "}":
            continue  # in a list, either of the two may be the stranger
        assert A in found, lines
        assert len(lines) == 2 or B in found or "banner" in lines
        assert [] == words


@pytest.mark.parametrize(
    ("lines", "found", "words"),
    [
        ([TA + TB], [A, B], []),
        ([f"\ufeff{TA}\r"], [A], []),
        ([f"\x1b[?25l{TA}", f"\x1b]0;title\x07{TB}\x1b[0m"], [A, B], []),
        ([f"data: {TA}"], [A], ["data:"]),
        ([f"{TA} (3 ms)"], [A], ["(3 ms)"]),
        ([f"[12:00] {TA} and {TB}."], [A, B], ["[12:00]", "and", "."]),
        (["Update available!", TA], [A], ["Update available!"]),
        ([TA[:20], *["x"] * 9, TB], [B], [TA[:20]]),
        ([TA[:20]], [], [TA[:20]]),
        (["", "\0", "[]", "null"], [], ["[]", "null"]),
    ],
)
def test_what_stands_beside_an_object_is_told_apart(lines, found, words):
    """Codes, prefixes, remarks; what never becomes an object is told."""
    assert (found, words) == read(lines)


VALUES = st.dictionaries(st.text(max_size=3), st.text(max_size=9), min_size=1, max_size=3)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_clean_lines_are_read_as_they_are(values):
    """Whatever they hold, also right after each other."""
    lines = [json.dumps(v) for v in values]
    assert (values, []) == read(lines)
    assert (values, []) == read(["".join(lines)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['{"a":' * 200_000, "{" * 1_000_000, '{"' * 500_000, "{}" * 400_000, '{"a":1,' * 200_000]
)
def test_rubbish_costs_its_size_and_no_more(text):
    """A million characters, in one line and in many."""
    read([text, text[: len(text) // 2]])
    read([text[i : i + 1000] for i in range(0, 300_000, 1000)])


# --- the answer ---


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_of_which_lines_were_lost_is_whole(seed):
    """Any of the deltas' lines lost: what the CLI itself says that it said is what is shown."""
    rng = random.Random(seed)
    pieces = [WHOLE[i : i + 5] for i in range(0, len(WHOLE), 5)]
    left = [p for p in pieces if rng.random() < 0.6]
    for told in ([said(WHOLE)], [], [said(WHOLE), said(WHOLE)]):
        answer, events = decoded("claude", [INIT, begin(), *map(delta, left), *told, DONE, result(WHOLE)])
        assert WHOLE == answer.text
        assert "stop" == answer.finish_reason
        if left != pieces:
            assert [] == left or any(isinstance(e, Notice) and e.kind == "warning" for e in events)


def test_a_message_before_stays_where_the_last_one_is_mended():
    """Tools between, several parts in one message, an answer in the result alone."""
    used = line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
    lines = [begin("1"), delta("Let me see. "), used, begin("2"), delta("Hello "), delta("world"), DONE]
    assert f"Let me see. {WHOLE}" == decoded("claude", [*lines, result(WHOLE.replace("cruel ", "cruel "))])[
        0
    ].text.replace("Hello world", WHOLE)
    assert "Let me see. Hello cruel world" == decoded("claude", [*lines, result("Hello cruel world")])[0].text
    assert "Only here." == decoded("claude", [INIT, result("Only here.")])[0].text
    text = decoded("claude", [*lines, result("Something else.")])[0].text
    assert "Let me see. Hello world\n\nSomething else." == text


@pytest.mark.parametrize("cut", [10, 60, 90])
def test_a_whole_message_torn_by_a_notice_is_shown(cut):
    """The public report: a limit's event written into the middle of the assistant's line."""
    torn = said(WHOLE)
    lines = [INIT, torn[:cut] + LIMIT, torn[cut:], result(WHOLE)]
    assert WHOLE == decoded("claude", lines)[0].text


def test_a_sub_agent_is_no_part_of_the_answer():
    """Neither its words nor its messages; its tools are told."""
    sub = {"parent_tool_use_id": "t1"}
    inner = json.loads(begin("sub")) | sub
    words = json.loads(delta("INNER")) | sub
    tool = {"type": "tool_use", "id": "u1", "name": "Read", "input": {"path": "x"}}
    uses = line(type="assistant", message={"id": "sub", "content": [tool]}, **sub)
    lines = [begin(), delta("Hel"), line(**inner), line(**words), said("INNER", "sub", **sub), uses]
    answer, events = decoded("claude", [*lines, delta("lo"), DONE, result("Hello")])
    assert "Hello" == answer.text
    assert not any(isinstance(e, Restarted) for e in events)
    notices = [e.data for e in events if isinstance(e, Notice) and e.kind == "server_tool"]
    assert {"parent": "t1", "text": "INNER"} in notices
    assert any(n.get("name") == "Read" and n["arguments"] == {"path": "x"} for n in notices)


def test_another_thread_of_codex_is_no_part_of_the_answer():
    """A sub-agent's items, usage and end carry its thread's id."""
    talk = CodexProtocol(ROWS["cli/codex"], "m", "", "/")
    talk.session = "mine"
    decoder, fold = talk.decoder(), Fold()
    for thread, method, more in [
        ("mine", "item/agentMessage/delta", {"itemId": "1", "delta": "Hel"}),
        ("sub", "item/agentMessage/delta", {"itemId": "9", "delta": "INNER"}),
        ("sub", "turn/completed", {"turn": {"status": "completed"}}),
        ("mine", "item/agentMessage/delta", {"itemId": "1", "delta": "lo"}),
        ("mine", "item/completed", {"item": {"type": "agentMessage", "id": "1", "text": "Hello"}}),
        ("mine", "turn/completed", {"turn": {"status": "completed"}}),
    ]:
        for event in decoder.feed(Frame(line(method=method, params={"threadId": thread, **more}))):
            fold.add(event)
    assert decoder.done
    assert "Hello" == fold.response().text


def test_copilot_keeps_all_finished_turns():
    """Each that was finished, with a message or without; one that failed is void."""

    def turn(id, text, outcome, *, message=False):
        yield line(type="assistant.message_start", data={"messageId": id})
        yield line(type="assistant.message_delta", data={"messageId": id, "deltaContent": text})
        yield line(type="model.call_finished", data={"outcome": outcome})
        if message:
            yield line(type="assistant.message", data={"messageId": id, "content": text})

    lines = [
        *turn("a", "One ", "success"),
        *turn("b", "Bro", "error"),
        *turn("c", "two ", "success"),
        *turn("d", "three", "success", message=True),
        line(type="result", sessionId="s", exitCode=0),
    ]
    assert "One two three" == decoded("copilot", lines)[0].text


# --- tools ---


@pytest.mark.parametrize(
    ("name", "tool", "arguments", "result", "outcome"),
    [
        (
            "claude-latest-tool",
            "Bash",
            {"command": "echo tool-ran", "description": "say hi"},
            "tool-ran",
            "ran",
        ),
        (
            "claude-latest-toolfail",
            "Bash",
            {"command": "false", "description": "say hi"},
            "Exit code 1",
            "failed",
        ),
        (
            "claude-latest-tool-denied",
            "Bash",
            {"command": "touch made-by-tool", "description": "say hi"},
            "needs approval",
            "refused",
        ),
        (
            "gemini-tool",
            "run_shell_command",
            {"command": "echo tool-ran", "description": "say hi"},
            "tool-ran",
            "ran",
        ),
        ("gemini-tool-denied", "update_topic", {}, "must have required property", "failed"),
        ("codex-tool", "command_execution", {"command": "/bin/bash -lc 'echo tool-ran'"}, "tool-ran", "ran"),
        (
            "codex-toolwrite",
            "command_execution",
            {"command": "/bin/bash -lc 'touch made-by-tool'"},
            "Read-only",
            "failed",
        ),
        ("codex-mcp", "list_mcp_resources", {}, '{"resources":[]}', "ran"),
        (
            "copilot-toolwrite",
            "bash",
            {"command": "touch made-by-tool", "description": "say hi"},
            "Permission denied",
            "refused",
        ),
        (
            "opencode-toolwrite",
            "bash",
            {"command": "touch made-by-tool", "description": "say hi"},
            "(no output)",
            "ran",
        ),
    ],
)
def test_a_recorded_tool_is_told_whole(name, tool, arguments, result, outcome):
    """Its name and arguments when it begins, its result or why it was refused at its end, each once."""
    _, events = recorded(name)
    told = [e.data for e in events if isinstance(e, Notice) and e.kind == "server_tool"]
    begun, ended = told
    assert (tool, arguments) == (begun["name"], begun["arguments"])
    assert (begun["id"], tool, arguments) == (ended["id"], ended["name"], ended["arguments"])
    assert outcome == ended["outcome"]
    assert result in str(ended["result"])
    warned = [e.text for e in events if isinstance(e, Notice) and e.kind == "warning" and tool in e.text]
    assert len(warned) == (outcome == "refused")


def test_a_tool_of_the_agent_client_protocol_is_told_whole():
    """From its updates, each of which holds what is new; a refused one as refused."""
    talk = AcpProtocol(ROWS["cli/gemini"], "m", "", "/")
    talk.session = "s"
    decoder, told = talk.decoder(), []
    ask = {
        "sessionId": "s",
        "toolCall": {"toolCallId": "2"},
        "options": [{"optionId": "n", "kind": "reject_once"}],
    }
    talk.handle_line(line(id=5, method="session/request_permission", params=ask))
    for update in [
        {"sessionUpdate": "tool_call", "toolCallId": "1", "title": "read", "status": "pending"},
        {"sessionUpdate": "tool_call_update", "toolCallId": "1", "rawInput": {"path": "x"}},
        {
            "sessionUpdate": "tool_call_update",
            "toolCallId": "1",
            "status": "completed",
            "content": [{"type": "content", "content": {"type": "text", "text": "inside"}}],
        },
        {"sessionUpdate": "tool_call", "toolCallId": "2", "title": "rm", "rawInput": {}, "status": "failed"},
    ]:
        frame = Frame(line(method="session/update", params={"sessionId": "s", "update": update}))
        told += [e.data for e in decoder.feed(frame) if isinstance(e, Notice) and e.kind == "server_tool"]
    assert [("read", None), ("read", "ran"), ("rm", None), ("rm", "refused")] == [
        (t["name"], t.get("outcome")) for t in told
    ]
    assert ({"path": "x"}, "inside") == (told[1]["arguments"], told[1]["result"])


# --- what is not known ---


@pytest.mark.parametrize(
    ("cli", "lines", "files"),
    [
        (
            "claude",
            [said("x"), result("x", total_cost_usd=0, usage={"input_tokens": 0, "output_tokens": 0})],
            {},
        ),
        (
            "gemini",
            [line(type="result", status="success", stats={"input_tokens": 0, "output_tokens": 0})],
            {},
        ),
        ("codex", [line(type="turn.completed", usage={"input_tokens": 0, "output_tokens": 0})], {}),
        (
            "copilot",
            [line(type="result", exitCode=0)],
            {"usage.json": line(modelMetrics={"a": {"usage": {"inputTokens": 0, "outputTokens": 0}}})},
        ),
        (
            "opencode",
            [
                line(
                    type="step_finish",
                    part={"reason": "stop", "cost": 0, "tokens": {"input": 0, "output": 0}},
                )
            ],
            {},
        ),
    ],
)
def test_zero_is_not_written_for_unknown(cli, lines, files):
    """No request has no input, and no model is known to be free."""
    _, events = decoded(cli, lines, 0, **files)
    (usage,) = (e.usage for e in events if isinstance(e, UsageReport))
    assert (None, None) == (usage.input_tokens, usage.output_tokens)
    assert not usage.raw.get("cost")


@pytest.mark.parametrize(
    ("reason", "word"),
    [("stop", "stop"), ("length", "length"), ("content-filter", "content_filter"), ("tool-calls", "other")],
)
def test_opencode_ends_as_it_says(reason, word):
    """A refusal is no cut."""
    assert word == decoded("opencode", [line(type="step_finish", part={"reason": reason})])[0].finish_reason


@pytest.mark.parametrize("session", [None, "", {}, [], False])
@pytest.mark.parametrize(
    ("talk", "method", "result"),
    [(AcpProtocol, "session/new", "sessionId"), (CodexProtocol, "thread/start", "thread")],
)
def test_a_session_without_a_name_is_an_error(talk, method, result, session):
    """It is not called None, and no prompt is sent to it."""
    talk = talk(ROWS["cli/gemini"], "m", "", "/")
    (first,) = talk.start_turn(SessionTurn((), ("user", "x"), "x", "x"), "")
    asked = talk.handle_line(line(id=json.loads(first)["id"], result={}))
    asked = [json.loads(a) for a in asked if method in a]
    with pytest.raises(errors.ProtocolError, match="session without an id"):
        talk.handle_line(line(id=asked[0]["id"], result={result: session} if session is not None else {}))


# --- failures ---


@pytest.mark.parametrize(
    ("cli", "rc", "stderr", "named"),
    [
        ("claude", 1, "error: unknown option '--nope-flag'\n", "--nope-flag"),
        ("codex", 2, "error: unexpected argument '--nope' found\n\nUsage: codex exec\n", "--nope"),
        (
            "copilot",
            1,
            "error: option '--log-level <l>' argument 'none' is invalid. Allowed choices are a.",
            "none",
        ),
        (
            "gemini",
            1,
            "Usage: gemini [options]\n\nOptions:\n -m\n\nUnknown arguments: admin-policy\n",
            "admin-policy",
        ),
        ("opencode", 1, "opencode run [message..]\n\nOptions:\n  -h, --help  show help\n", "opencode run"),
    ],
)
def test_refused_arguments_are_said_and_not_tried_again(cli, rc, stderr, named):
    """A BadRequest, which no retry asks again."""
    with pytest.raises(errors.BadRequest, match=named) as caught:
        decoded(cli, [], rc, stderr)
    assert caught.value.hint


def script(tmp_path, body, dialect):
    path = tmp_path / "command.py"
    path.write_text(textwrap.dedent(body))
    registry = load()
    row = {"command": [sys.executable, "-u", str(path)], "label": "It", "dialect": dialect}
    registry.register("cli/it", row)
    return Client(registry, ledger=None)


@pytest.mark.slow
def test_a_command_that_refuses_its_arguments_is_started_once(tmp_path):
    """However many retries there are."""
    client = script(
        tmp_path,
        f"""
        import sys
        open({str(tmp_path / "starts")!r}, "a").write("x")
        sys.exit("error: unknown option '--output-format'")
        """,
        "cli_claude",
    )
    with pytest.raises(errors.BadRequest, match="--output-format"):
        client.complete("go", model="cli/it", retries=3)
    client.close()
    assert "x" == (tmp_path / "starts").read_text()


STDERR = [
    (
        "Attempt 4 failed with status 429. Retrying with backoff... _ApiError: x\n    at f (x.js:512:24)",
        "RateLimited",
    ),
    ("Attempt 1 failed with status 500. Retrying with backoff...\n    at f (a.js:1:2)", "ServerError"),
    ("waiting for a lock", "Timeout"),
    ("", "Timeout"),
]


@pytest.mark.parametrize("which", ["first", "idle", "total"])
@pytest.mark.parametrize(("stderr", "kind"), STDERR)
def test_a_time_limit_carries_the_reason_on_standard_error(which, stderr, kind):
    """And is the error that the reason is; not asked again, since the command itself asked all the time."""
    limit = errors.Timeout(f"Nothing within 2 s ({which} timeout).", which=which, seconds=2.0, hint="Wait.")
    error = timeout_error(limit, stderr, ROWS["cli/gemini"])
    assert kind == type(error).__name__
    assert f"{which} timeout" in str(error)
    assert stderr.partition("\n")[0] in str(error)
    assert error.hint
    assert wait_before_retry(error, 1, False, Retries(), 0.5) is None


@pytest.mark.slow
def test_a_time_limit_of_a_real_command_carries_its_reason(tmp_path):
    """Standard error is looked at when the time is over."""
    token = line(type="message", role="assistant", content="Hel", delta=True)
    body = f"import sys, time\nprint({STDERR[0][0]!r}, file=sys.stderr)\nprint({token!r})\ntime.sleep(600)"
    client = script(tmp_path, body, "cli_gemini")
    with pytest.raises(errors.RateLimited, match="idle timeout") as caught:
        client.complete("go", model="cli/it", timeout={"idle": 0.5}, retries=2)
    client.close()
    assert "Hel" == caught.value.partial.text


@pytest.mark.slow
def test_colours_of_an_own_command_are_taken_off(tmp_path):
    """They are for a terminal."""
    client = script(tmp_path, 'print("\\x1b[31mHello\\x1b[0m \\x1b]0;t\\x07you")', "cli_text")
    assert "Hello you\n" == client.complete("go", model="cli/it").text
    client.close()


# --- the environment of clouds ---


@pytest.mark.parametrize(
    ("row", "env", "there", "away"),
    [
        ("cli/claude", {}, {"ANTHROPIC_BASE_URL"}, {"AWS_REGION", "CLOUD_ML_REGION", "AZURE_CLIENT_ID"}),
        ("cli/claude", {"CLAUDE_CODE_USE_BEDROCK": "1"}, {"AWS_REGION", "AWS_PROFILE"}, {"CLOUD_ML_REGION"}),
        ("cli/claude", {"CLAUDE_CODE_USE_BEDROCK": "0"}, set(), {"AWS_REGION"}),
        (
            "cli/claude",
            {"CLAUDE_CODE_USE_VERTEX": "true"},
            {"CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_APPLICATION_CREDENTIALS"},
            {"AWS_SECRET_ACCESS_KEY"},
        ),
        ("cli/gemini", {}, {"GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"}, {"AWS_REGION"}),
    ],
)
def test_what_a_cloud_needs_goes_along_with_its_switch(row, env, there, away):
    """To the command that the user chose; a key of a cloud that is off goes nowhere."""
    seen = set(enabled_passthrough(ROWS[row].passthrough_env, env))
    assert there <= seen
    assert not away & seen


def test_a_row_that_leaves_the_switch_out_gets_no_key_of_a_cloud_either():
    """A project's row for claude may name what nbllm's own passes; it goes by the same switch."""
    row = replace(ROWS["cli/claude"], passthrough_env=("AWS_SECRET_ACCESS_KEY",))
    call = DIALECTS[row.dialect].encode(Request("", (Message("user", "x"),)), row, None)
    assert "AWS_SECRET_ACCESS_KEY" not in enabled_passthrough(call.passthrough_env, {})
    assert "AWS_SECRET_ACCESS_KEY" in enabled_passthrough(
        call.passthrough_env, {"CLAUDE_CODE_USE_BEDROCK": "1"}
    )


@pytest.mark.parametrize(
    ("model", "there", "away"),
    [
        ("amazon-bedrock/claude", "AWS_SECRET_ACCESS_KEY", "GOOGLE_CLOUD_PROJECT"),
        ("google-vertex/gemini", "GOOGLE_CLOUD_PROJECT", "AWS_SECRET_ACCESS_KEY"),
        ("openrouter/x", "OPENCODE_CONFIG", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_opencode_sees_the_cloud_of_its_model(model, there, away):
    """By the provider in the model's name."""
    row = ROWS["cli/opencode"]
    call = DIALECTS[row.dialect].encode(Request(model, (Message("user", "x"),)), row, None)
    assert there in call.passthrough_env
    assert away not in call.passthrough_env


def test_bytes_and_other_things_are_no_objects():
    """What is asked of pages of servers too."""
    assert [{"a": 1}, {}, {}, {}, {}] == [
        parse_object(x) for x in (b'{"a": 1}', b"\xff", None, "[1]", "{} {}")
    ]


def test_banners_are_kept_and_limited():
    """The first twenty lines that are no JSON."""
    _, events = decoded("claude", [*(f"banner {n}" for n in range(50)), said("x"), result("x")])
    assert 20 == sum(isinstance(e, Notice) and e.kind == "unknown" for e in events)


def test_an_error_in_words_on_standard_output_is_told():
    """Where standard error is silent."""
    with pytest.raises(errors.AuthenticationError, match="not logged in"):
        decoded("codex", ["Error: you are not logged in. Run codex login."], 1)
    assert exit_frame()


# --- errors in any shape ---

INNER = {"error": {"type": "rate_limit_error", "code": 429, "message": "slow down"}}
SHAPES = {  # what stands where an error is told: the kind it is, and words that are shown
    "a text": ("Model not found: x/y", errors.NotFound, "Model not found: x/y"),
    "a message": ({"message": "Model not found: x/y"}, errors.NotFound, "x/y"),
    "data": (
        {"name": "UnknownError", "data": {"message": "slow", "statusCode": 429}},
        errors.RateLimited,
        "slow",
    ),
    "data in words": ({"message": "failed", "data": "overloaded"}, errors.Overloaded, "failed: overloaded"),
    "details": (
        {"message": "no", "data": {"details": "Invalid API key"}},
        errors.AuthenticationError,
        "no: ",
    ),
    "a name": ({"name": "ProviderModelNotFoundError", "data": {"modelID": "y"}}, errors.NotFound, "Provider"),
    "no key": ({"name": "ProviderAuthError", "data": {"message": "x"}}, errors.AuthenticationError, "x"),
    "JSON": (json.dumps(INNER), errors.RateLimited, "error 429: slow down"),
    "JSON in words": ({"message": f"API Error: {json.dumps(INNER)}"}, errors.RateLimited, "slow down"),
    "JSON in a list": ({"message": f"[API Error: [{json.dumps(INNER)}]]"}, errors.RateLimited, "slow down"),
    "nothing": ({}, errors.ProviderError, "failed without a message"),
    "null": (None, errors.ProviderError, "failed without a message"),
    "odd": ({"message": ["a"], "data": 5}, errors.ProviderError, "5"),
}
TOLD = {
    "gemini": lambda error: [line(type="result", status="error", error=error)],
    "codex": lambda error: [line(type="turn.failed", error=error)],
    "opencode": lambda error: [line(type="error", error=error)],
}


@pytest.mark.parametrize("cli", TOLD)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_is_told_whatever_its_shape(cli, shape):
    """A text, an object, what a provider answered within it."""
    error, kind, words = SHAPES[shape]
    with pytest.raises(errors.ProviderError) as caught:
        decoded(cli, TOLD[cli](error), 1)
    assert kind is type(caught.value)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("words", "kind", "hint"),
    [
        ("[API Error: You have exhausted your capacity on this model. Your quota will reset after 2h13m5s.]",
         errors.RateLimited, "Try again in 3 hours"),
        ("You've hit your weekly limit \u00b7 resets Nov 30", errors.RateLimited, "when the limit is reset"),
        ("5-hour limit reached \u2219 resets 3pm", errors.RateLimited, "when the limit is reset"),
        ("Please set an Auth method in your settings.json", errors.AuthenticationError, "Log in"),
        ("specify GEMINI_API_KEY or GOOGLE_GENAI_USE_GCA", errors.AuthenticationError, "Log in"),
        ("quota exhausted", errors.RateLimited, "Wait a little"),
    ],
)  # fmt: skip
def test_limits_and_logins_of_commands_are_known(words, kind, hint):
    """By the words that they really say."""
    error = agent_error(None, words, ROWS["cli/gemini"])
    assert kind is type(error)
    assert hint in error.hint


def test_what_older_and_newer_versions_write_is_read():
    """Another name of a field, a list of parts, a number as a text."""
    old = line(type="item.completed", item={"item_type": "assistant_message", "text": "Hello"})
    done = line(type="turn.completed", usage={"input_tokens": 1, "output_tokens": 1})
    parts = line(type="message", role="assistant", content=[{"text": "Hello"}], delta=True)
    over = line(type="result", status="success", stats={})
    message = line(type="assistant.message", data={"messageId": "m", "content": "Hello"})
    for cli, lines in (
        ("codex", [old, done]),
        ("gemini", [parts, over]),
        ("copilot", [message, line(type="result", exitCode="0")]),
    ):
        assert "Hello" == decoded(cli, lines)[0].text
