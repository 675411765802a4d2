"""Wrong types, missing keys and cut lines in whatever a command or OpenCode's server may say: our errors and
no others; time that grows with the bytes and no faster."""

import contextlib
import itertools
import json
import random
from pathlib import Path

import pytest

from nbllm.agents.base import agent_error
from nbllm.agents.protocols import AcpProtocol, ClaudeProtocol, CodexProtocol
from nbllm.core import errors
from nbllm.core.calls import Frame, SessionTurn
from nbllm.core.events import TextDelta
from nbllm.routing.dialects import DIALECTS

from .growth import growth
from .test_cli_dialects import RECORDED, ROWS, begin, delta, exit_frame, line

WRONG = [
    None,
    True,
    0,
    -1,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud83d",
    [],
    [[]],
    ["x", {}],
    {},
    {"x": None},
]
CLIS = ["claude", "gemini", "codex", "copilot", "opencode"]
OWN = {  # a line of each kind, where the recordings are not at hand
    "claude": [
        line(type="system", subtype="init", session_id="s", model="m"),
        begin(),
        delta("x"),
        line(type="system", subtype="permission_denied"),
        line(
            type="system",
            subtype="api_retry",
            attempt=1,
            max_retries=3,
            error_status=500,
            error="server_error",
        ),
        line(
            type="stream_event",
            event={
                "type": "content_block_start",
                "content_block": {"type": "tool_use", "name": "Bash", "id": "t"},
            },
        ),
        line(type="stream_event", event={"type": "x", "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        line(
            type="stream_event", event={"type": "x", "delta": {"type": "signature_delta", "signature": "s"}}
        ),
        line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        line(
            type="assistant",
            message={"id": "2", "model": "m", "content": [{"type": "text", "text": "x"}]},
            error=None,
        ),
        line(type="result", subtype="x", is_error=True, api_error_status=429, result="", errors=["x"]),
        line(
            type="result",
            subtype="success",
            is_error=False,
            stop_reason="end_turn",
            terminal_reason="x",
            total_cost_usd=0.1,
            duration_ms=3,
            usage={
                "input_tokens": 5,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 2,
                "output_tokens": 7,
            },
        ),
    ],
    "gemini": [
        line(type="init", session_id="s", model="m"),
        line(type="message", role="assistant", content="x", timestamp="2026-11-01T00:00:00Z"),
        line(type="tool_use", tool_name="x"),
        line(type="error", message="Loop detected"),
        line(type="result", status="success", stats={"input_tokens": 1, "output_tokens": 2, "cached": 0}),
        line(
            type="result",
            status="error",
            error={"message": '[API Error: {"error":{"code":500,"message":"x"}}]'},
        ),
    ],
    "codex": [
        line(type="thread.started", thread_id="t"),
        line(type="item.completed", item={"type": "agent_message", "text": "x"}),
        line(type="item.completed", item={"type": "reasoning", "text": "x"}),
        line(type="item.started", item={"type": "mcp_tool_call"}),
        line(type="item.completed", item={"type": "error", "message": "x"}),
        line(type="error", message="unexpected status 500"),
        line(type="turn.failed", error={"message": "unexpected status 429"}),
        line(
            type="turn.completed",
            usage={
                "input_tokens": 1,
                "cached_input_tokens": 0,
                "output_tokens": 2,
                "reasoning_output_tokens": 1,
            },
        ),
    ],
    "copilot": [
        line(type="model.call_start", data={"model": "m"}),
        line(type="assistant.message_start", data={"messageId": "1"}),
        line(type="assistant.message_delta", data={"messageId": "1", "deltaContent": "x"}),
        line(type="assistant.reasoning_delta", data={"deltaContent": "x"}),
        line(type="assistant.message", data={"messageId": "2", "content": "x"}),
        line(type="assistant.turn_retry", data={"reason": "x"}),
        line(type="tool.execution_start", data={"toolName": "x"}),
        line(type="model.call_failure", data={"statusCode": 500, "errorMessage": "x"}),
        line(type="session.error", data={"statusCode": 429, "message": "x"}),
        line(type="abort"),
        line(type="result", sessionId="s", exitCode=0),
    ],
    "opencode": [
        line(type="step_start", sessionID="s", part={}),
        line(type="text", part={"text": "x"}),
        line(type="reasoning", part={"text": "x"}),
        line(type="tool_use", part={"tool": "x"}),
        line(type="error", error={"name": "x", "data": {"message": "m", "statusCode": 500}}),
        line(
            type="step_finish",
            part={
                "reason": "stop",
                "cost": 0.1,
                "tokens": {"input": 1, "output": 2, "reasoning": 0, "cache": {"read": 0, "write": 0}},
            },
        ),
    ],
}
ACP = [
    {"method": "session/update", "params": {"sessionId": "s", "update": update}}
    for update in (
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "x"}, "messageId": "m"},
        {"sessionUpdate": "agent_thought_chunk", "content": {"text": "x"}},
        {"sessionUpdate": "tool_call", "title": "x", "kind": "y"},
        {"sessionUpdate": "usage_update", "cost": {"amount": 0.1}},
    )
] + [
    {"id": 1, "result": {"authMethods": [{"id": "gemini-api-key"}]}},
    {"id": 2, "result": {"sessionId": "s"}},
    {
        "id": 3,
        "result": {
            "stopReason": "end_turn",
            "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
        },
    },
    {
        "id": 3,
        "result": {
            "stopReason": "x",
            "_meta": {"quota": {"token_count": {"input_tokens": 1, "output_tokens": 2}}},
        },
    },
    {"id": 1, "error": {"message": "x", "data": {"message": "y"}}},
    {"id": 1, "error": {"message": "x", "data": "y"}},
    {
        "id": 9,
        "method": "session/request_permission",
        "params": {"options": [{"optionId": "n", "kind": "reject_once"}]},
    },
    {"id": 9, "method": "fs/read_text_file"},
]
CODEX = [
    {"method": "thread/started", "params": {"thread": {"id": "t", "model": "m"}}},
    {"id": 2, "result": {"thread": {"id": "t"}}},
    {"id": 3, "result": {"turn": {"id": "u"}}},
    {"method": "item/agentMessage/delta", "params": {"itemId": "i", "delta": "x"}},
    {"method": "item/reasoning/textDelta", "params": {"delta": "x"}},
    {"method": "item/completed", "params": {"item": {"type": "agentMessage", "id": "j", "text": "x"}}},
    {"method": "item/started", "params": {"item": {"type": "x"}}},
    {
        "method": "thread/tokenUsage/updated",
        "params": {"tokenUsage": {"last": {"inputTokens": 1, "outputTokens": 2}}},
    },
    {"method": "error", "params": {"error": {"message": "x"}, "willRetry": True}},
    {"id": 2, "error": {"message": "x"}},
    {
        "method": "turn/completed",
        "params": {"threadId": "t", "turn": {"status": "failed", "error": {"message": "x"}}},
    },
    {"method": "turn/completed", "params": {"threadId": "t", "turn": {"status": "completed"}}},
]
KEPT = [
    {"type": "control_response"},
    {"type": "control_request", "request_id": "q", "request": {"subtype": "can_use_tool"}},
]
SERVER = [
    {"type": t, "properties": p}
    for t, p in (
        ("session.status", {"status": {"type": "retry", "message": "x"}}),
        ("session.error", {"error": {"name": "APIError", "data": {"message": "x", "statusCode": 500}}}),
        (
            "session.error",
            {"error": {"name": "ContextOverflowError", "data": {"message": "x", "statusCode": 400}}},
        ),
        ("session.idle", {}),
    )
]
TALKS = {
    "claude": lambda: ClaudeProtocol(ROWS["cli/claude"]),
    "codex": lambda: CodexProtocol(ROWS["cli/codex"], "m", "", "/work"),
    "gemini": lambda: AcpProtocol(ROWS["cli/gemini"], "m", "", "/work", login="gemini-api-key"),
    "copilot": lambda: AcpProtocol(ROWS["cli/copilot"], "m", "", "/work", cumulative=True),
    "opencode": lambda: AcpProtocol(ROWS["cli/opencode"], "m", "", "/work", agent="nbllm"),
}
RECORDINGS = {
    "claude": "claude-latest-streaminput",
    "codex": "codex-appserver",
    "gemini": "gemini-acp",
    "copilot": "copilot-acp",
    "opencode": "opencode-acp",
}
SPOKEN = {
    "claude": [json.dumps(v) for v in KEPT] + OWN["claude"],
    "codex": [json.dumps(v) for v in CODEX],
    **{cli: [json.dumps(v) for v in ACP] for cli in ("gemini", "copilot", "opencode")},
}


def varied(value, *at):
    """(what is wrong and where, `value` with one of its parts replaced by what it should not be, or left
    out), for each part."""
    yield from (((*at, i), wrong) for i, wrong in enumerate(WRONG))
    if isinstance(value, dict):
        for key in value:
            yield (*at, key, "gone"), {k: v for k, v in value.items() if k != key}
            yield from ((place, {**value, key: other}) for place, other in varied(value[key], *at, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for place, other in varied(item, *at, f"[{i}]"):
                yield place, [*value[:i], other, *value[i + 1 :]]


KINDS = ("type", "subtype", "method", "sessionUpdate", "status", "role")


def kinds(value):
    """The words by which lines are told apart."""
    if isinstance(value, dict):
        own = {(k, v) for k, v in value.items() if k in KINDS and isinstance(v, str)}
        return own.union(*map(kinds, value.values()))
    return set().union(*map(kinds, value)) if isinstance(value, list) else set()


def shape(value):
    """What two lines have in common that differ in their words alone."""
    if isinstance(value, dict):
        return tuple(
            sorted(
                (
                    k,
                    shape(v) if not isinstance(v, str) or k not in KINDS else v,
                )
                for k, v in value.items()
            )
        )
    return (
        (*sorted({shape(v) for v in value[:3]}, key=repr), "list")
        if isinstance(value, list)
        else type(value).__name__
    )


def distinct(lines, most=40):
    """One line of each shape; long lists and deep objects of no meaning to us (tools, models) are left
    out."""
    found = {}
    for text in lines:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and len(text) < 3_000:
            found.setdefault(shape(value), text)
    return list(found.values())[:most]


def recordings(cli):
    return [
        raw
        for path in sorted(RECORDED.glob(f"{cli}-*.jsonl"))
        for raw in path.read_text("utf-8", "replace").split("\n")
    ]


def spoken(cli):
    path = RECORDED / f"{RECORDINGS[cli]}.txt"
    return (
        [text.split(" ", 2)[2] for text in path.read_text("utf-8").splitlines() if text.startswith("< ")]
        if path.exists()
        else []
    )


def read(decoder, lines, last=None):
    """The events of lines. Any error but ours goes through."""
    events, failed = [], None
    try:
        for text in lines:
            events += decoder.feed(Frame(text))
        events += decoder.feed(last) if last else []
        events += decoder.close()
    except errors.NbllmError as error:
        failed = error
    assert failed is None or (failed.hint and str(failed))
    return events


def answered(talk, text):
    """What an AgentProtocol writes in answer to a line; of an error of ours, nothing."""
    with contextlib.suppress(errors.NbllmError):
        return [json.loads(said) for said in talk.handle_line(text)]
    return []


def mutations(lines):
    """(a line, the line with something wrong): the same at the same place of two lines of one kind once."""
    seen = set()
    for text in lines:
        value = json.loads(text)
        kind = frozenset(kinds(value))
        for place, other in varied(value):
            if (kind, place) not in seen:
                seen.add((kind, place))
                yield text, json.dumps(other)
        for cut in range(0, len(text), 7):
            yield text, text[:cut]


@pytest.mark.slow
@pytest.mark.parametrize("cli", CLIS)
def test_a_commands_lines_of_wrong_types_are_our_errors_or_none(cli):
    """Each value of each line by values of other types; each key left out; each line cut."""
    row = ROWS[f"cli/{cli}"]
    for good, bad in mutations(OWN[cli] + distinct(recordings(cli))):
        read(DIALECTS[row.dialect].decoder(row), [bad, good, bad], exit_frame(0, "", **{"usage.json": bad}))


@pytest.mark.slow
@pytest.mark.parametrize("cli", CLIS)
def test_whole_runs_of_wrong_types_too(cli):
    """Many lines wrong at once, in every state of a decoder."""
    row, dice = ROWS[f"cli/{cli}"], random.Random(10)
    lines = OWN[cli] + distinct(recordings(cli))
    every = {text: [json.dumps(v) for _, v in varied(json.loads(text))] for text in lines}
    for _ in range(60):
        run = [
            dice.choice(every[text]) if dice.random() < 0.3 else text for text in dice.choices(lines, k=12)
        ]
        read(DIALECTS[row.dialect].decoder(row), run, exit_frame())


@pytest.mark.parametrize("cli", [*CLIS, "text"])
def test_an_exit_of_wrong_types_is_our_error(cli):
    """Of a command, whatever its name."""
    row = ROWS.get(f"cli/{cli}") or ROWS["cli/claude"]
    for last in [*(json.dumps(v) for v in WRONG), "", "{", "x" * 100, "1" * 5_000, "[" * 100_000]:
        for data in (
            last,
            json.dumps({"rc": last, "stderr": last, "files": last}),
            json.dumps({"files": {"usage.json": last}}),
        ):
            read(DIALECTS["cli_text" if cli == "text" else row.dialect].decoder(row), [], Frame(data, "exit"))


@pytest.mark.slow
@pytest.mark.parametrize("cli", CLIS)
def test_a_kept_commands_lines_of_wrong_types_are_our_errors_or_none(cli):
    """Both for what we answer and for what is read of a turn."""
    for good, bad in mutations(SPOKEN[cli] + distinct(spoken(cli))):
        talk = TALKS[cli]()
        talk.start_turn(SessionTurn((("model", "m"),), ("user", "x"), "x", "x"), "")
        talk.session = "s"
        decoder = talk.decoder()
        for text in (bad, good, bad):
            assert all(isinstance(said, dict) for said in answered(talk, text))
        read(decoder, [bad, good, bad])


@pytest.mark.slow
def test_an_opencode_servers_events_of_wrong_types_are_our_errors_or_none():
    """Of a recorded turn, and of errors."""
    row = ROWS["opencode"]
    recorded = (Path(__file__).parent / "data" / "opencode-turn.jsonl").read_text().splitlines()
    for good, bad in mutations([json.dumps(v) for v in SERVER] + distinct(recorded)):
        read(DIALECTS[row.dialect].decoder(row), [bad, good, bad])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"type":' + "1" * 5_000 + "}",
        '{"type":"result","result":' + "[" * 100_000,
        "{" * 200_000,
        "\x00" * 100,
        "\ud800",
    ],
)
@pytest.mark.parametrize("cli", CLIS)
def test_depth_and_digits_are_no_errors_of_python(cli, text):
    """What Python's own reader refuses is no line of JSON."""
    row = ROWS[f"cli/{cli}"]
    read(DIALECTS[row.dialect].decoder(row), [text], exit_frame())
    TALKS[cli]().handle_line(text)


def test_halves_of_a_character_are_joined():
    """One character in two deltas; a half alone is no text that cannot be written."""
    row = ROWS["cli/claude"]
    said = "".join(
        e.text
        for e in read(
            DIALECTS[row.dialect].decoder(row), [begin(), delta("\ud83d"), delta("\ude00!"), delta("\ude00")]
        )
        if isinstance(e, TextDelta)
    )
    assert "\U0001f600!\ufffd" == said


def test_an_answer_that_begins_again_and_again_ends():
    """Each beginning tells again what was complete: a hundred of them are a fault."""
    row = ROWS["cli/claude"]
    done = line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
    decoder = DIALECTS[row.dialect].decoder(row)
    lines = [begin(), delta("x" * 1000), done, *[begin(), delta("y")] * 200]
    with pytest.raises(errors.ProtocolError, match="restarted its answer"):
        list(itertools.chain.from_iterable(decoder.feed(Frame(text)) for text in lines))


# --- growth ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[API Error: {",
        "}{",
        "{}",
        "model ",
        "status ",
        "unknown model invalid",
        "\n",
        "login ",
        "error code ",
    ],
)
def test_a_commands_error_costs_its_length(message):
    """gemini's is looked through for JSON; all for a status, a login, a model."""
    row = ROWS["cli/gemini"]

    def parse(words):
        agent_error(None, words, row)
        read(
            DIALECTS[row.dialect].decoder(row),
            [line(type="result", status="error", error={"message": words})],
        )

    growth(parse, lambda n: (message * n)[:n], 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("cli", CLIS)
def test_many_small_pieces_cost_their_number(cli):
    """An answer of a hundred thousand deltas."""
    row = ROWS[f"cli/{cli}"]
    pieces = {
        "claude": delta("word "),
        "gemini": line(type="message", role="assistant", content="word "),
        "codex": line(type="item.completed", item={"type": "agent_message", "text": "w"}),
        "copilot": line(type="assistant.message_delta", data={"messageId": "1", "deltaContent": "word "}),
        "opencode": line(type="text", part={"text": "word "}),
    }

    growth(lambda lines: read(DIALECTS[row.dialect].decoder(row), lines), lambda n: [pieces[cli]] * n, 2_000)
