"""mode=query and mode=execute of command-line agents: what each may do, and how the user is asked."""

import json
import os
import sys
import textwrap
from types import SimpleNamespace

import pytest

from nbllm import Client, Message, Request
from nbllm.agents.protocols import AcpProtocol, ClaudeProtocol, CodexProtocol, encode_execute_call
from nbllm.core import errors
from nbllm.core.calls import Frame, SessionTurn
from nbllm.core.events import Notice
from nbllm.notebook.cell import _check_supported
from nbllm.notebook.syntax.parser import parse
from nbllm.routing.dialects import DIALECTS
from nbllm.routing.registry import load

from .test_cli_dialects import ROWS, line

FIVE = ("claude", "gemini", "codex", "copilot", "opencode")
HELLO = (Message("user", "hello"),)


def made(cli, mode, keep=False, **extra):
    client = Client(load(env={}), ledger=None)
    request = Request("a/b" if cli == "opencode" else "m", HELLO, extra=extra)
    return client.encode(request, client.resolve(f"cli/{cli}/m"), None, keep=keep, mode=mode)


# --- what each may do ---


@pytest.mark.parametrize("cli", FIVE)
def test_query_is_what_is_done_where_nothing_is_said(cli):
    """The same command, in both of its ways."""
    assert made(cli, None) == made(cli, "query")
    assert made(cli, None, keep=True).process == made(cli, "query", keep=True).process


def test_execute_keeps_what_is_safe_and_asks_for_the_rest():
    """Settings and servers of others stay out; the user is asked before something changes."""
    claude = made("claude", "execute").process.argv
    assert "default" == claude[claude.index("--tools") + 1] == claude[claude.index("--permission-mode") + 1]
    assert "stdio" == claude[claude.index("--permission-prompt-tool") + 1]
    assert "" == claude[claude.index("--setting-sources") + 1]
    assert "--strict-mcp-config" in claude
    assert not [w for w in claude if "skip-permissions" in w or w.startswith("--allowedTools")]
    gemini = made("gemini", "execute").process.argv
    assert "default" == gemini[gemini.index("--approval-mode") + 1]
    assert "--admin-policy" not in gemini
    codex = made("codex", "execute")
    assert 'sandbox_mode="workspace-write"' in codex.process.argv
    assert "shell_tool" not in codex.process.argv
    talk = codex.make_protocol("/work")
    (opening,) = talk.start_turn(SessionTurn((), ("user", "x"), "x", "x"), "")
    start = json.loads(talk.handle_line(line(id=json.loads(opening)["id"], result={}))[1])["params"]
    assert ("untrusted", "workspace-write") == (start["approvalPolicy"], start["sandbox"])
    copilot = made("copilot", "execute").process.argv
    assert not [w for w in copilot if w.startswith(("--available-tools", "--allow"))]
    config = json.loads(made("opencode", "execute").process.env["OPENCODE_CONFIG_CONTENT"])
    assert ("ask", "allow") == (config["permission"]["*"], config["permission"]["read"])
    assert {"allow", "ask"} == set(config["permission"].values())
    agent = config["agent"]["nbllm"]
    assert config["permission"] == agent["permission"]
    assert "tools" not in agent  # one that is turned on there would run unasked


@pytest.mark.parametrize("cli", FIVE)
@pytest.mark.parametrize("extra", [{"allowed_tools": "Bash"}, {"permission_mode": "bypassPermissions"}])
def test_execute_takes_no_other_word_on_permissions(cli, extra):
    """What a tool may do is said once."""
    with pytest.raises(errors.ConfigError, match=r"no option '(allowed_tools|permission_mode)'"):
        made(cli, "execute", **extra)


@pytest.mark.parametrize("mode", ["query", "execute"])
@pytest.mark.parametrize("model", ["openai/gpt-x", "opencode/a/b", "cli/mine"])
def test_elsewhere_a_mode_is_refused(mode, model):
    """By name; nothing is ignored."""
    registry = load(env={"OPENAI_API_KEY": "sk-x"})
    registry.register("cli/mine", {"command": ["cat"], "label": "Mine"})
    client = Client(registry, ledger=None)
    with pytest.raises(errors.ConfigError, match=f"mode={mode} is only for command-line agents"):
        client.complete("hi", model, mode=mode)
    with pytest.raises(errors.ConfigError, match="mode cannot be 'batch' here"):
        client.complete("hi", model, mode="batch")
    client.close()


# --- how they ask ---

CLAUDE_ASKS = line(
    type="control_request",
    request_id="r-1",
    request={
        "subtype": "can_use_tool",
        "tool_name": "Bash",
        "input": {"command": "rm x"},
        "tool_use_id": "t",
    },
)
COMMAND = {"threadId": "s", "turnId": "u", "itemId": "t", "command": "rm x", "cwd": "/w", "reason": None}
CODEX_ASKS = line(id=7, method="item/commandExecution/requestApproval", params=COMMAND)
OPTIONS = [
    {"optionId": "always", "kind": "allow_always", "name": "Always"},
    {"optionId": "once", "kind": "allow_once", "name": "Once"},
    {"optionId": "never", "kind": "reject_once", "name": "No"},
]
CALL = {"toolCallId": "t", "title": "rm x", "rawInput": {"command": "rm x"}}
ACP_ASKS = line(
    id=9, method="session/request_permission", params={"sessionId": "s", "toolCall": CALL, "options": OPTIONS}
)


def claude_word(yes):
    answer = {"behavior": "allow", "updatedInput": {"command": "rm x"}} if yes else {"behavior": "deny"}
    return {
        "type": "control_response",
        "response": {"subtype": "success", "request_id": "r-1", "response": answer},
    }


def codex_word(yes):
    return {"jsonrpc": "2.0", "id": 7, "result": {"decision": "accept" if yes else "decline"}}


def acp_word(yes):
    outcome = {"outcome": "selected", "optionId": "once" if yes else "never"}
    return {"jsonrpc": "2.0", "id": 9, "result": {"outcome": outcome}}


def talk(kind, asks):
    row = ROWS["cli/gemini"]
    return (
        ClaudeProtocol(row, asks_permission=asks)
        if kind is ClaudeProtocol
        else kind(row, "m", "", "/", asks_permission=asks)
    )


ASKING = [
    (ClaudeProtocol, CLAUDE_ASKS, "Bash", {"command": "rm x"}, claude_word),
    (CodexProtocol, CODEX_ASKS, "commandExecution", {"command": "rm x", "cwd": "/w"}, codex_word),
    (AcpProtocol, ACP_ASKS, "rm x", {"rawInput": {"command": "rm x"}}, acp_word),
]


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("case", ASKING)
def test_a_question_is_taken_with_all_it_shows_and_answered_in_its_own_words(case, yes):
    """Once, and never for good; with the arguments that were shown."""
    kind, asks, name, arguments, word = case
    one = talk(kind, asks=True)
    assert [] == one.handle_line(asks)
    (asked,) = one.pending_permissions
    assert (name, "t", arguments) == (asked.name, asked.id, asked.arguments)
    (told,) = map(json.loads, one.answer_permission(asked, yes))
    told.get("response", {}).get("response", {}).pop("message", None)
    assert word(yes) == told


@pytest.mark.parametrize(("kind", "asks", "word"), [(k, a, w) for k, a, _, _, w in ASKING])
def test_where_nothing_may_be_asked_it_is_no_at_once(kind, asks, word):
    """mode=query: told in the protocol's own words."""
    one = talk(kind, asks=False)
    (told,) = map(json.loads, one.handle_line(asks))
    told.get("response", {}).get("response", {}).pop("message", None)
    assert word(False) == told
    assert [] == one.pending_permissions


def test_a_change_of_files_is_shown_whole():
    """Codex asks by the item, whose changes came before."""
    one = talk(CodexProtocol, asks=True)
    changes = [{"path": "/w/a", "kind": {"type": "add"}, "diff": "+1"}]
    one.handle_line(
        line(method="item/started", params={"item": {"type": "fileChange", "id": "t", "changes": changes}})
    )
    one.handle_line(
        line(id=1, method="item/fileChange/requestApproval", params={"itemId": "t", "turnId": "u"})
    )
    assert {"changes": changes} == one.pending_permissions[0].arguments


@pytest.mark.parametrize(
    "options", [[], [{"optionId": "a", "kind": "allow_always"}], "no list", [{"kind": "allow_once"}]]
)
def test_without_a_word_for_once_it_is_no(options):
    """A permission for good is none of ours to give."""
    one = talk(AcpProtocol, asks=True)
    params = {"sessionId": "s", "toolCall": CALL, "options": options}
    one.handle_line(line(id=9, method="session/request_permission", params=params))
    (told,) = map(json.loads, one.answer_permission(one.pending_permissions[0], True))
    assert {"outcome": {"outcome": "cancelled"}} == told["result"]


def test_what_is_no_permission_is_refused_also_while_executing():
    """Files, terminals, more rights, hooks."""
    for method in ("fs/write_text_file", "terminal/create", "item/permissions/requestApproval"):
        for kind in (AcpProtocol, CodexProtocol):
            (told,) = map(json.loads, talk(kind, asks=True).handle_line(line(id=1, method=method, params={})))
            assert -32601 == told["error"]["code"]
    (told,) = talk(ClaudeProtocol, asks=True).handle_line(
        line(type="control_request", request_id="h", request={"subtype": "hook_callback"})
    )
    assert "deny" == json.loads(told)["response"]["response"]["behavior"]


# --- a whole call, with a command that asks twice ---

AGENT = """
    import json, os, sys
    def say(**m): print(json.dumps({"jsonrpc": "2.0", **m}), flush=True)
    def update(**u): say(method="session/update", params={"sessionId": "s", "update": u})
    for raw in sys.stdin:
        m = json.loads(raw)
        method = m.get("method")
        if method == "initialize": say(id=m["id"], result={"authMethods": []})
        elif method == "session/new": say(id=m["id"], result={"sessionId": "s"})
        elif method == "session/prompt":
            words = []
            for number in (1, 2):
                call = {"toolCallId": str(number), "title": "rm", "rawInput": {"n": number}}
                update(sessionUpdate="tool_call", status="pending", **call)
                say(id=100 + number, method="session/request_permission", params={"sessionId": "s",
                    "toolCall": call, "options": [{"optionId": "y", "kind": "allow_once"},
                                                  {"optionId": "n", "kind": "reject_once"}]})
                chosen = json.loads(sys.stdin.readline())["result"]["outcome"].get("optionId")
                words.append(chosen)
                update(sessionUpdate="tool_call_update", toolCallId=str(number),
                       status="completed" if chosen == "y" else "failed")
            text = f"{words[0]}{words[1]} {os.getpid()}"
            update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": text})
            say(id=m["id"], result={"stopReason": "end_turn"})
"""


@pytest.fixture
def client(tmp_path):
    script = tmp_path / "agent.py"
    script.write_text(textwrap.dedent(AGENT))
    registry = load(env=dict(os.environ))
    command = [sys.executable, "-u", str(script)]
    registry.register("cli/it", {"command": command, "label": "It", "dialect": "cli_copilot"})
    client = Client(registry, ledger=None)
    yield client
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("approve", "said", "questions"),
    [
        ("auto", "yy", 0),
        ("never", "nn", 0),
        (lambda q: "no", "nn", 2),
        (lambda q: "once", "yy", 2),
        (lambda q: "always", "yy", 1),
        (lambda q: None, "nn", 2),
        (lambda q: q.call.arguments == {"rawInput": {"n": 1}}, "yn", 2),
        (lambda q: 1 / 0, "nn", 2),
    ],
)
def test_the_user_is_asked_as_before_any_tool(client, approve, said, questions):
    """Once, always in this answer, no; nobody there is no; each is told what came of it."""
    asked = []

    def asker(question):
        asked.append(question)
        return approve(question)

    given = asker if callable(approve) else approve
    answer = client.complete("go", model="cli/it", mode="execute", approve=given, timeout={"idle": 60})
    assert said == answer.text[:2]
    assert questions == len(asked)
    assert all("It" == q.tool.source and "rm" == q.call.name for q in asked)
    ends = [n.data["outcome"] for n in answer.notices if n.kind == "server_tool" and "outcome" in n.data]
    assert ["ran" if c == "y" else "refused" for c in said] == ends


@pytest.mark.slow
def test_a_client_s_own_way_to_ask_is_used_and_ask_is_the_default(client):
    """The notebook's buttons are the client's asker; where nobody is there it is no, and that is told."""
    client.asker = lambda q: "once"
    assert "yy" == client.complete("go", model="cli/it", mode="execute").text[:2]
    client.asker = lambda q: None
    answer = client.complete("go", model="cli/it", mode="execute")
    assert "nn" == answer.text[:2]
    assert any("nobody could answer" in n.text for n in answer.notices if n.kind == "tools")


@pytest.mark.slow
def test_a_person_who_thinks_is_no_silent_command(client):
    """Signs of life come while the user is asked, so that no limit of the command's runs out."""
    waited = []

    def slow(question):
        stream = waited[0]
        seen = len(stream.traces[0].arrivals)
        while len(stream.traces[0].arrivals) < seen + 2:
            stream.wait(len(stream.log), 0.1)
        return "once"

    stream = client.stream("go", model="cli/it", mode="execute", approve=slow)
    waited.append(stream)
    assert "yy" == stream.response().text[:2]


@pytest.mark.slow
def test_each_answer_has_a_process_of_its_own_and_keep_one_for_all(client):
    """keep=false ends the process after one turn."""
    how = {"model": "cli/it", "mode": "execute", "approve": "auto"}
    one, two = (client.complete("go", **how).text.split()[1] for _ in range(2))
    assert one != two
    three, four = (client.complete("go", keep=True, **how).text.split()[1] for _ in range(2))
    assert three == four


def test_a_refusal_of_which_the_agent_says_no_more_is_told():
    """Gemini ends its turn there."""
    one = talk(AcpProtocol, asks=True)
    decoder = one.decoder()
    one.handle_line(ACP_ASKS)
    one.answer_permission(one.pending_permissions[0], False)
    events = list(decoder.feed(Frame(line(id=3, result={"stopReason": "cancelled"}))))
    (told,) = [e.data for e in events if isinstance(e, Notice) and e.kind == "server_tool"]
    assert ("rm x", "refused", {"rawInput": {"command": "rm x"}}) == (
        told["name"],
        told["outcome"],
        told["arguments"],
    )


def test_an_approve_that_is_none_is_refused(client):
    """Before anything is run."""
    with pytest.raises(errors.ConfigError, match="Not a value of approve"):
        client.complete("go", model="cli/it", mode="execute", approve="perhaps")
    with pytest.raises(errors.ConfigError, match="approve= is for tools"):
        client.complete("go", model="cli/it", mode="query", approve="auto")


def test_a_request_is_encoded_as_the_five_say():
    """execute is refused where there is no such protocol."""
    with pytest.raises(errors.ConfigError, match="is not one"):
        encode_execute_call(Request("m", HELLO), ROWS["openai"], None)
    assert "cli_claude" in DIALECTS


@pytest.mark.parametrize(
    ("words", "column"),
    [
        ("openai/gpt-x mode=execute", 14),
        ("cli/claude,openai/gpt-x mode=query", 25),
        ("cli/claude mode=query", 0),
    ],
)
def test_a_cell_refuses_a_mode_at_its_column(words, column):
    """For the first of its models that is no agent."""
    client = Client(load(env={"OPENAI_API_KEY": "sk-x"}), ledger=None)
    cell = parse(words, client.registry.dialects)
    session = SimpleNamespace(client=client)
    if not column:
        _check_supported(session, cell, dict(cell.options))
        return
    with pytest.raises(errors.ConfigError, match=f"^Column {column}: mode="):
        _check_supported(session, cell, dict(cell.options))
