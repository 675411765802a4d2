"""Long-lived command-line agents: both directions of recorded conversations through their protocols, and real
processes, well-behaved and not."""

import json
import os
import sys
import textwrap
from pathlib import Path

import pytest

from nbllm import Client, Image, Message
from nbllm.agents.protocols import AcpProtocol, ClaudeProtocol, CodexProtocol
from nbllm.core import errors
from nbllm.core.calls import Frame, Secret, SessionTurn
from nbllm.core.events import Fold, Notice, ReasoningDelta, Restarted, TextDelta, UsageReport
from nbllm.routing.dialects import DIALECTS
from nbllm.routing.registry import load

from .processes import alive, comes_to, gone
from .test_cli_dialects import RECORDED, ROWS
from .test_providers_table import PARTS

HELLO = "Hello from the fake endpoint : alpha beta gamma delta . "


def turn(text):
    return SessionTurn((("model", "m"),), ("user", text), text, text)


def transcript(name):
    lines = [
        line.split(" ", 2)
        for line in (RECORDED / f"{name}.txt").read_text("utf-8").splitlines()
        if line[:2] in ("> ", "< ")
    ]
    return [(who, text) for who, _, text in lines]


def replayed(talk, said, name):
    """(answers, what we wrote that was not what the recording's client wrote): the turns of a recording,
    played through a Talk."""
    answers, wrong, session = [], [], ""
    written, decoder, events = [], None, []
    prompts = iter(said)

    def begin():
        nonlocal decoder, events
        prompt = next(prompts, None)
        if prompt is not None:
            written.extend(talk.start_turn(turn(prompt), session))
            decoder, events = talk.decoder(), []

    begin()
    for who, text in transcript(name):
        if who == ">":
            value = json.loads(text)
            if (
                value.get("method") in ("session/cancel", "turn/interrupt")
                or value.get("request", {}).get("subtype") == "interrupt"
            ):
                written.extend(talk.interrupt())
            ours = json.loads(written.pop(0)) if written else None
            wrong += [] if _meant(ours) == _meant(value) else [(ours, value)]
            continue
        written.extend(talk.handle_line(text))
        if decoder is not None and not decoder.done:
            events += list(decoder.feed(Frame(text)))
        if not talk.busy and decoder is not None:
            events += list(decoder.close()) if decoder.done else []
            fold = Fold()
            for event in events:
                fold.add(event)
            answers.append((fold.response(), events))
            session, decoder = talk.session, None
            begin()
    return answers, wrong


def _meant(value):
    """What a line of ours says, apart from how it numbers and names itself."""
    if value is None:
        return None
    params = value.get("params", value.get("message", {}))
    return (
        value.get("method", value.get("type")),
        params.get("prompt", params.get("input", params.get("content"))),
        (value.get("request") or {}).get("subtype"),
    )


PROMPTS = [f"Say hello {n}." for n in ("one", "two", "three", "four", "five")]
TALKS = {
    "claude-latest-streaminput": lambda: ClaudeProtocol(ROWS["cli/claude"]),
    "codex-appserver": lambda: CodexProtocol(ROWS["cli/codex"], "gpt-5.2", "", "/work"),
    "gemini-acp": lambda: AcpProtocol(
        ROWS["cli/gemini"], "gemini-2.5-flash", "", "/work", login="gemini-api-key"
    ),
    "copilot-acp": lambda: AcpProtocol(ROWS["cli/copilot"], "m", "", "/work", cumulative=True),
    "opencode-acp": lambda: AcpProtocol(ROWS["cli/opencode"], "fake/m1", "", "/work"),
}


@pytest.mark.parametrize("name", TALKS)
def test_a_recorded_conversation_is_spoken_as_it_was(name):
    """We write what the recording's client wrote, in its order; three whole answers, then one that was
    interrupted."""
    answers, wrong = replayed(TALKS[name](), PROMPTS, name)
    assert [] == wrong
    whole = [a for a, _ in answers[:3]]
    assert all(a.text.startswith(HELLO * 2) and a.finish_reason == "stop" for a in whole)
    assert [11, 11, 11] == [a.usage.input_tokens - (3 if name.startswith("claude") else 0) for a in whole], (
        "the turn's own tokens, cached ones counted in"
    )
    assert [7, 7, 7] == [a.usage.output_tokens for a in whole]
    assert all(len([e for e in events if isinstance(e, TextDelta)]) > 20 for _, events in answers[:3]), (
        "real deltas"
    )
    assert "cancelled" == answers[3][0].finish_reason
    assert len(answers[3][0].text) < 40


@pytest.mark.parametrize(
    ("name", "costs"), [("claude-latest-streaminput", [0.0001389] * 3), ("opencode-acp", [0.000022] * 3)]
)
def test_a_turn_costs_its_own_dollars(name, costs):
    """These commands tell the sum since they began."""
    answers, _ = replayed(TALKS[name](), PROMPTS, name)
    assert costs == pytest.approx([a.usage.raw["cost"] for a, _ in answers[:3]])


def acp(update):
    return json.dumps(
        {"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "s", "update": update}}
    )


def chunk(text, message=None, kind="agent_message_chunk"):
    return acp(
        {
            "sessionUpdate": kind,
            "content": {"type": "text", "text": text},
            **({"messageId": message} if message else {}),
        }
    )


def acp_turn(*lines, talk=None):
    talk = talk or AcpProtocol(ROWS["cli/copilot"], "m", "", "/work")
    talk.session = "s"
    decoder, events = talk.decoder(), []
    for line in lines:
        events += list(decoder.feed(Frame(line)))
    return events


def test_what_is_sent_again_under_a_new_name_replaces_what_was_sent():
    """A new message without a tool between is the same answer again; after a tool it goes on."""
    events = acp_turn(chunk("Hel", "a"), chunk("Hello", "b"))
    assert ["Hel", Restarted, "Hello"] == [getattr(e, "text", type(e)) for e in events]
    events = acp_turn(
        chunk("I look. ", "a"), acp({"sessionUpdate": "tool_call", "title": "ls"}), chunk("Done.", "b")
    )
    assert not any(isinstance(e, Restarted) for e in events)


def test_thinking_tools_and_banners_are_no_text():
    """They are reasoning, notices, and again notices."""
    events = acp_turn(
        chunk('Info: Unknown tool name in the tool allowlist: "none"'),
        chunk("hm", kind="agent_thought_chunk"),
        chunk("Hi"),
    )
    assert ["Hi"] == [e.text for e in events if isinstance(e, TextDelta)]
    assert ["hm"] == [e.text for e in events if isinstance(e, ReasoningDelta)]
    assert ["warning"] == [e.kind for e in events if isinstance(e, Notice)]


RETRYING = "Info: Request failed due to a transient API error. Retrying..."
FAILURES = [
    (
        [
            RETRYING,
            RETRYING,
            "Error: Authentication failed with provider at http://127.0.0.1:1/v1 (HTTP 401).",
        ],
        errors.AuthenticationError,
    ),
    (["Error: Model 'm' not found on provider at http://127.0.0.1:1/v1 (HTTP 404)."], errors.NotFound),
    (
        [
            *5 * [RETRYING],
            "Error: Failed to get response from the AI model; Last error: 500 The server had an error",
        ],
        errors.ServerError,
    ),
]


@pytest.mark.parametrize("counted", [{}, {"usage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}}])
@pytest.mark.parametrize(("said", "kind"), FAILURES)
def test_a_failure_that_copilot_tells_as_an_answer_is_an_error(said, kind, counted):
    """As it came from copilot 1.0.102: as the words of its model, with a good end. What it tries again is
    told."""
    talk = AcpProtocol(ROWS["cli/copilot"], "m", "", "/work", cumulative=True)
    events = acp_turn(*map(chunk, said), talk=talk)
    assert (len(said) - 1) * ["retry"] == [e.kind for e in events if isinstance(e, Notice)]
    end = json.dumps({"jsonrpc": "2.0", "id": 3, "result": {"stopReason": "end_turn", **counted}})
    with pytest.raises(kind):
        acp_turn(*map(chunk, said), end, talk=talk)


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (500, "The model is not found for API version v1beta, or is not supported.", errors.NotFound),
        (500, "An internal error has occurred.", errors.ServerError),
        (429, "It did not work.", errors.RateLimited),
        (401, "It did not work.", errors.AuthenticationError),
        (-32603, "It did not work.", errors.ProviderError),
    ],
)
def test_an_error_is_what_its_words_say_before_its_code(code, message, kind):
    """Of an agent's answer to a prompt: gemini's code is 500 for a model that is not there."""
    talk = AcpProtocol(ROWS["cli/gemini"], "m", "", "/work")
    line = json.dumps({"jsonrpc": "2.0", "id": 3, "error": {"code": code, "message": message}})
    with pytest.raises(errors.ProviderError) as caught:
        acp_turn(line, talk=talk)
    assert kind is type(caught.value)


@pytest.mark.parametrize("counts", [{"input_tokens": 0, "output_tokens": 0}, {"output_tokens": 0}])
@pytest.mark.parametrize("words", [[], ["Sunlight holds", "Sunlight holds"]])
def test_an_answer_of_gemini_for_which_nothing_was_counted_broke_off(counts, words):
    """As it came from gemini 0.61.0, where a stream had no end or an error in it: four tries, what each had
    said, and a good end."""

    def told(reason, counts):
        result = {"stopReason": reason, "_meta": {"quota": {"token_count": counts, "model_usage": []}}}
        talk = AcpProtocol(ROWS["cli/gemini"], "m", "", "/work")
        return acp_turn(*map(chunk, words), json.dumps({"id": 3, "result": result}), talk=talk)

    with pytest.raises(errors.ProviderError, match="broke off"):
        told("end_turn", counts)
    assert words == [e.text for e in told("cancelled", counts) if isinstance(e, TextDelta)]
    assert words == [e.text for e in told("end_turn", {"input_tokens": 5}) if isinstance(e, TextDelta)]


@pytest.mark.parametrize(("amount", "raw"), [(0.0, {}), (0.25, {"cost": 0.25})])
def test_a_cost_of_nothing_is_not_known(amount, raw):
    """OpenCode writes it for a model whose price it does not know."""
    talk = AcpProtocol(ROWS["cli/opencode"], "m", "", "/work")
    cost = acp({"sessionUpdate": "usage_update", "cost": {"amount": amount, "currency": "USD"}})
    usage = {"inputTokens": 9, "outputTokens": 3}
    end = json.dumps({"jsonrpc": "2.0", "id": 3, "result": {"stopReason": "end_turn", "usage": usage}})
    events = acp_turn(chunk("Hi"), cost, end, talk=talk)
    assert [usage | raw] == [e.usage.raw for e in events if isinstance(e, UsageReport)]


@pytest.mark.parametrize("cli", ["copilot", "gemini"])
def test_an_answer_may_begin_as_a_failure_does(cli):
    """Where tokens were counted, or nobody tells failures so."""
    talk = AcpProtocol(ROWS[f"cli/{cli}"], "m", "", "/work")
    usage = {"inputTokens": 9, "outputTokens": 3} if cli == "copilot" else {}
    end = json.dumps({"jsonrpc": "2.0", "id": 3, "result": {"stopReason": "end_turn", "usage": usage}})
    assert "Error: 5" in [getattr(e, "text", "") for e in acp_turn(chunk("Error: 5"), end, talk=talk)]


def test_another_sessions_lines_are_not_this_turns():
    """One command holds several conversations."""
    other = json.dumps(
        {
            "method": "session/update",
            "params": {
                "sessionId": "other",
                "update": {"sessionUpdate": "agent_message_chunk", "content": {"text": "no"}},
            },
        }
    )
    assert ["yes"] == [e.text for e in acp_turn(other, chunk("yes"))]


def test_whatever_a_command_asks_for_is_refused():
    """A permission by its own word for no, a file and a terminal as unknown, claude's tool as denied."""
    talk = AcpProtocol(ROWS["cli/gemini"], "m", "", "/work")
    ask = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "session/request_permission",
        "params": {
            "options": [{"optionId": "y", "kind": "allow_once"}, {"optionId": "n", "kind": "reject_once"}]
        },
    }
    assert [{"jsonrpc": "2.0", "id": 7, "result": {"outcome": {"outcome": "selected", "optionId": "n"}}}] == [
        json.loads(t) for t in talk.handle_line(json.dumps(ask))
    ]
    (told,) = talk.handle_line(
        json.dumps(
            {"jsonrpc": "2.0", "id": 8, "method": "fs/read_text_file", "params": {"path": "/etc/passwd"}}
        )
    )
    assert -32601 == json.loads(told)["error"]["code"]
    (told,) = ClaudeProtocol(ROWS["cli/claude"]).handle_line(
        json.dumps(
            {
                "type": "control_request",
                "request_id": "q",
                "request": {"subtype": "can_use_tool", "tool_name": "Bash"},
            }
        )
    )
    assert "deny" == json.loads(told)["response"]["response"]["behavior"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            {
                "method": "error",
                "params": {"error": {"message": "unexpected status 401 Unauthorized"}, "willRetry": True},
            },
            errors.AuthenticationError,
        ),
        (
            {"method": "error", "params": {"error": {"message": "stream disconnected"}, "willRetry": False}},
            errors.ProviderError,
        ),
        (
            {
                "method": "turn/completed",
                "params": {"turn": {"status": "failed", "error": {"message": "unexpected status 429"}}},
            },
            errors.RateLimited,
        ),
        ({"id": 2, "error": {"code": -32600, "message": "model not found"}}, errors.NotFound),
    ],
)
def test_codex_errors_are_typed(line, kind):
    """By the status in their words; a hopeless one is not waited for."""
    with pytest.raises(kind):
        list(CodexProtocol(ROWS["cli/codex"], "m", "", "/w").decoder().feed(Frame(json.dumps(line))))


@pytest.mark.parametrize("cli", ["claude", "codex", "gemini", "copilot", "opencode"])
def test_no_key_stands_in_a_kept_commands_words(cli):
    """It goes through the environment; the system prompt through a file, or the conversation itself."""
    row = ROWS[f"cli/{cli}"]
    client = Client(load(env={}), ledger=None)
    route = client.resolve(f"cli/{cli}/some/model")
    request = client.request("hello", "some/model", system="be brief")
    call = client.encode(request, route, Secret("sk-canary-0123456789abcdef"), keep=True)
    assert "canary" not in repr(call)
    assert not any("canary" in word for word in call.process.argv)
    assert (row.key_env == ()) or "sk-canary-0123456789abcdef" in call.process.env.values()
    assert "be brief" not in " ".join(call.process.argv)


def test_a_provider_without_such_a_mode_says_so():
    """And which have one."""
    with pytest.raises(errors.ConfigError, match="no long-lived mode"):
        Client(load(env={}), ledger=None).stream("hi", "openai/mini", api_key="sk-x", keep=True)


@pytest.mark.parametrize("name", [*(n for n in ROWS if n.startswith("cli/")), "opencode"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_what_an_agent_cannot_say_is_refused_in_words(name, keep, part):
    """Tools, schemas, limits and the rest of a request: these take a prompt and no more. Nothing is lost in
    silence."""
    client = Client(load(env={}), ledger=None)
    options, _ = PARTS[part]
    with pytest.raises(errors.ConfigError) as caught:
        client.stream("hello", f"{name}/a/b", keep=keep, **options)
    assert any(word in str(caught.value) for word in (part, *options))
    assert caught.value.hint


@pytest.mark.parametrize("name", [*(n for n in ROWS if n.startswith("cli/")), "opencode"])
def test_an_agent_takes_no_picture(name):
    """And says so."""
    with pytest.raises(errors.ConfigError, match="text only, no image"):
        Client(load(env={}), ledger=None).stream([Message("user", [Image(b"PIXELS")])], f"{name}/a/b")


# --- OpenCode's server, as it was seen ---


def test_a_recorded_turn_of_opencodes_server():
    """Deltas of the answer, not the words of the question; usage; the model; an end by session.idle."""
    row = ROWS["opencode"]
    decoder, events = DIALECTS[row.dialect].decoder(row), []
    for line in (Path(__file__).parent / "data" / "opencode-turn.jsonl").read_text().splitlines():
        events += list(decoder.feed(Frame(line)))
        if decoder.done:
            break
    events += list(decoder.close())
    fold = Fold()
    for event in events:
        fold.add(event)
    answer = fold.response()
    assert answer.text.startswith("Sunlight holds all colours. On its way through the air")
    assert "sky blue?" not in answer.text
    assert ("stop", 2640, 72, "loop/gpt-4o-mini") == (
        answer.finish_reason,
        answer.usage.input_tokens,
        answer.usage.output_tokens,
        fold.model,
    )
    assert 72 == len([e for e in events if isinstance(e, TextDelta)])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"name": "UnknownError", "data": {"message": "Model not found: nope/x"}}, errors.NotFound),
        ({"name": "ContextOverflowError", "data": {"message": "too long"}}, errors.ContextLengthExceeded),
        ({"name": "APIError", "data": {"message": "no", "statusCode": 401}}, errors.AuthenticationError),
    ],
)
def test_opencodes_errors_are_typed(error, kind):
    """By name or by status."""
    row = ROWS["opencode"]
    with pytest.raises(kind):
        list(
            DIALECTS[row.dialect]
            .decoder(row)
            .feed(Frame(json.dumps({"type": "session.error", "properties": {"error": error}})))
        )


def test_no_opencode_server_is_an_error_that_says_what_to_do():
    """Nothing is started that was not asked for."""
    client = Client(load(env={"OPENCODE_SERVER_URL": "http://127.0.0.1:9"}), ledger=None)
    with pytest.raises(errors.ConnectFailed, match="opencode serve"):
        client.complete("hi", "opencode/a/b", retries=0)
    client.close()


# --- real processes ---

AGENT = """
    import json, os, sys, time
    {head}
    def say(**value):
        print(json.dumps(dict(jsonrpc="2.0", **value)), flush=True)
    def update(session, text):
        say(method="session/update", params=dict(sessionId=session, update=dict(sessionUpdate="agent_message_chunk", content=dict(type="text", text=text))))
    n = 0
    heard = {{}}
    for line in sys.stdin:
        m = json.loads(line)
        if m.get("method") == "initialize":
            say(id=m["id"], result=dict(authMethods=[]))
        elif m.get("method") == "session/new":
            n += 1
            say(id=m["id"], result=dict(sessionId=f"s{{n}}"))
        elif m.get("method") == "session/prompt":
            s, text = m["params"]["sessionId"], m["params"]["prompt"][0]["text"]
            heard.setdefault(s, []).append(text)
            {body}
            update(s, f"pid {{os.getpid()}} session {{s}} heard {{len(heard[s])}}: {{text[:40]}}")
            say(id=m["id"], result=dict(stopReason="end_turn", usage=dict(inputTokens=1, outputTokens=2, totalTokens=3)))
"""  # noqa: E501


@pytest.fixture
def agent(tmp_path):
    """agent(body, head) -> a client whose `cli/it` is a command that speaks the Agent Client Protocol."""
    clients = []

    def make(body="pass", head=""):
        script = tmp_path / "it.py"
        script.write_text(textwrap.dedent(AGENT).format(head=head, body=body))
        registry = load(env=dict(os.environ))
        registry.register(
            "cli/it",
            {"command": [sys.executable, "-u", str(script)], "label": "It", "dialect": "cli_copilot"},
        )
        clients.append(Client(registry))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def ask(client, *said, **options):
    """A conversation's next answer: user, assistant, user ... by turns."""
    messages = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(said)]
    return client.complete(messages, "cli/it", retries=0, keep=True, **options)


@pytest.mark.slow
def test_a_conversation_goes_on_in_the_process_and_session_that_heard_it(agent):
    """The second turn says only what is new; a question of its own begins a new session of the same
    process."""
    client = agent()
    one = ask(client, "first").text
    two = ask(client, "first", one, "second").text
    assert two == one.replace("heard 1: first", "heard 2: second")
    other = ask(client, "other").text
    assert (one.split()[1], "s2", "1:") == (other.split()[1], other.split()[3], other.split()[5])
    changed = ask(client, "first", "an answer that was never given", "third").text
    assert "session s3 heard 1: The conversation so far" in changed, "what it did not hear is told again"


@pytest.mark.slow
def test_another_model_or_system_prompt_is_another_command(agent):
    """A command begins its conversations with what it was started for; a new one must not speak for the
    old."""
    client = agent()
    first = ask(client, "one", system="You are A.").text
    second = ask(client, "one", system="You are B.").text
    again = ask(client, "two", system="You are A.").text
    assert first.split()[1] != second.split()[1]
    assert first.split()[1] == again.split()[1]


def test_a_kept_codex_is_told_apart_by_what_it_may_do():
    """Its sandbox is the thread's, so it must be the process's too."""
    client = Client(load(env={}), ledger=None)
    route = client.resolve("cli/codex/m")
    calls = [
        client.encode(client.request("x", "m", extra=extra), route, None, keep=True)
        for extra in ({}, {"permission_mode": "workspace-write"})
    ]
    assert calls[0].process != calls[1].process


@pytest.mark.slow
def test_a_running_command_is_asked_one_thing_at_a_time(agent):
    """Two at once are two processes; later ones find them idle."""
    client = agent("time.sleep(0.3) if text == 'slow' else None")
    slow = client.stream("slow", "cli/it", keep=True)
    quick = ask(client, "quick").text
    assert slow.response().text.split()[1] != quick.split()[1]
    assert ask(client, "again").text.split()[1] in (slow.response().text.split()[1], quick.split()[1])


@pytest.mark.slow
def test_stop_interrupts_the_turn_and_keeps_the_process(agent):
    """A cancel that is answered; the next turn of the conversation finds it, and knows the part that came."""
    body = """
            if text == "long":
                update(s, f"pid {os.getpid()} ")
                cancel = json.loads(sys.stdin.readline())
                assert cancel["method"] == "session/cancel"
                say(id=m["id"], result=dict(stopReason="cancelled"))
                continue"""
    client = agent(body.strip())
    stream = client.stream("long", "cli/it", keep=True)
    while not stream.partial().text:
        stream.wait(len(stream.log), 5)
    stream.cancel()
    assert stream.wait_end(30)
    part = stream.partial()
    assert ("cancelled", True) == (part.finish_reason, part.text.startswith("pid "))
    after = ask(client, "long", part.text, "and now?").text
    assert (part.text.split()[1], "2:") == (after.split()[1], after.split()[5])


@pytest.mark.slow
def test_one_that_does_not_stop_is_ended(agent):
    """Long before it would end by itself, and the next question starts another."""
    client = agent("update(s, f'pid {os.getpid()} '); time.sleep(60)")
    stream = client.stream("long", "cli/it", keep=True)
    while not stream.partial().text:
        stream.wait(len(stream.log), 5)
    pid = int(stream.partial().text.split()[1])
    stream.cancel()
    assert stream.wait_end(30)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_one_that_ends_in_the_middle_cuts_the_answer_and_tells_its_last_words(agent):
    """The part that came is kept; the next question starts another process."""
    client = agent("update(s, 'half'); sys.stderr.write('out of cheese'); sys.exit(3)")
    with pytest.raises(errors.StreamCut, match="out of cheese") as caught:
        ask(client, "go")
    assert "half" == caught.value.partial.text


@pytest.mark.slow
def test_an_error_is_an_error_and_the_process_stays(agent):
    """What failed is not remembered as heard."""
    client = agent(
        """
            if text == "bad":
                say(id=m["id"], error=dict(code=-32000, message="Authentication required"))
                continue""".strip()
    )
    first = ask(client, "fine").text
    with pytest.raises(errors.AuthenticationError):
        ask(client, "bad")
    assert first.split()[1] == ask(client, "fine again").text.split()[1]


@pytest.mark.slow
def test_words_that_make_no_sense_end_the_turn(agent):
    """A list where an object belongs: an error at once, not a turn that waits."""
    client = agent(
        "pass",
        head="print(json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': {'authMethods': 7}}), flush=True)",
    )
    with pytest.raises(errors.ProtocolError, match="invalid message"):
        ask(client, "go", timeout={"first": 60})


@pytest.mark.slow
def test_long_lines_pass(agent):
    """Two megabytes in one."""
    client = agent("update(s, 'x' * 2_000_000)")
    assert ask(client, "go").text.startswith("x" * 2_000_000)


@pytest.mark.slow
def test_a_line_without_an_end_is_bounded_in_a_kept_command_too(agent):
    """Empty lines and binary ones are passed over; twenty megabytes without an end are our error, with what
    came before."""
    client = agent(
        "update(s, 'before'); sys.stdout.buffer.write(b'\\n\\0\\n' + b'\\xff' * 100 + b'\\n' + b'x' * 20 * "
        "2**20); sys.stdout.flush(); time.sleep(60)"
    )
    with pytest.raises(errors.ProtocolError, match="larger than 16 MiB") as caught:
        ask(client, "go", timeout={"first": 60})
    assert "before" == caught.value.partial.text


@pytest.mark.parametrize("cli", ["gemini", "copilot", "opencode"])
def test_a_session_without_a_name_is_our_error(cli):
    """No prompt is said into it."""
    talk = AcpProtocol(ROWS[f"cli/{cli}"], "m", "", "/work")
    talk.start_turn(turn("x"), "")
    talk.handle_line(json.dumps({"id": 1, "result": {}}))
    with pytest.raises(errors.ProtocolError, match="without an id"):
        talk.handle_line(json.dumps({"id": 2, "result": {"sessionId": None}}))


@pytest.mark.slow
def test_closing_the_client_ends_every_process(agent, tmp_path):
    """By closing their input: a well-behaved one ends by itself."""
    client = agent()
    ask(client, "one")
    assert alive(str(tmp_path / "it.py"))
    client.close()
    assert gone(str(tmp_path / "it.py"))
    assert ask(client, "one").text, "and the client can be used again"


@pytest.mark.slow
def test_few_stay(agent, tmp_path):
    """Six at once are six processes, of which four stay."""
    client = agent("time.sleep(0.5)")
    for stream in [client.stream(str(i), "cli/it", keep=True) for i in range(6)]:
        stream.response()
    assert comes_to(4, lambda: alive(str(tmp_path / "it.py")))


@pytest.mark.slow
def test_the_interpreter_ends_them_with_itself(tmp_path):
    """A script that does not close its client leaves nothing running."""
    import subprocess

    (tmp_path / "it.py").write_text(textwrap.dedent(AGENT).format(head="", body="pass"))
    script = f"""
import sys
from nbllm import Client
from nbllm.routing.registry import load
registry = load()
registry.register("cli/it", {{"command": [sys.executable, "-u", {str(tmp_path / "it.py")!r}], "dialect": "cli_copilot"}})
print(Client(registry).complete("hi", "cli/it", keep=True).text)
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert "heard 1: hi" in done.stdout
    assert gone(str(tmp_path / "it.py"))


@pytest.mark.slow
def test_a_benchmark_measures_a_command_that_stays(agent):
    """keep=True: the process is started once, each request after it is a new session in it, and the rows say
    so."""
    import nbllm

    client = agent()
    df = nbllm.bench.run(
        [{"model": "cli/it", "keep": True, "name": "kept"}],
        "hello",
        blocks=4,
        warmup=1,
        client=client,
        progress=False,
    )
    measured = df[df["phase"] == "measure"]
    assert (4, True, True) == (len(measured), bool(measured["ok"].all()), bool(measured["conn_reused"].all()))
