"""Resources and prompts of MCP servers: a real one over pipes and HTTP, bad ones of every kind, in cells and
in Python; consent and limits are those of tools."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.client.engine import engine
from nbllm.core.errors import ConfigError, NbllmError, Timeout
from nbllm.core.messages import Document, Image, Message, Text
from nbllm.tools import mcp_mend
from nbllm.tools.consent import Consent
from nbllm.tools.mcp import Limits
from nbllm.tools.mcp_config import ConfigLocations
from nbllm.tools.mcp_entry import Source, parse_entry
from nbllm.tools.mcp_offers import as_text
from nbllm.tools.mcp_servers import Servers

from .processes import held_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="process groups")]

BAD = str(Path(__file__).with_name("bad_mcp_server.py"))
CANARY = "canary-0123456789abc"
QUICK = Limits(connect=60, tools=60, call=60)
SHORT = Limits(connect=30, tools=0.5, call=0.5)
REAL = '''
import sys
from mcp.server.mcpserver import Image, MCPServer
server = MCPServer("notes")
@server.resource("note://today", name="today", description="What was noted today", mime_type="text/markdown")
def today() -> str:
    return "# Today\\n{{1/0}} <script>" + "x" * 5000
@server.resource("note://old/{year}", name="old")
def old(year: str) -> str:
    return "in " + year
@server.resource("pic://dot", name="dot", mime_type="image/png")
def dot() -> bytes:
    return bytes.fromhex("89504e470d0a1a0a") + b"rest"
@server.prompt()
def review(code: str, tone: str = "kind") -> str:
    """Reviews code."""
    return f"Review {code}, {tone}: {{{{1/0}}}} {{x}}"
@server.tool()
def add(a: int, b: int) -> int:
    return a + b
if sys.argv[1] == "stdio":
    server.run()
else:
    import socket, uvicorn
    listening = socket.socket(fileno=int(sys.argv[1]))
    uvicorn.Server(uvicorn.Config(server.streamable_http_app())).run(sockets=[listening])
'''


def here(*, trusted=True):
    return Source("this session" if trusted else "/repo/.mcp.json", Path.cwd(), trusted)


def bad(mode, name="bad", *, trusted=True, **table):
    table = {"command": sys.executable, "args": [BAD, mode], **table}
    return parse_entry(name, table, here(trusted=trusted), {})


@pytest.fixture
def servers(tmp_path):
    """servers(entries) -> Servers, all of which are closed at the end."""
    made = []

    def make(*entries, limits=QUICK):
        consent = Consent(lambda: tmp_path / "allowed.json")
        made.append(Servers(lambda: ConfigLocations(None, None, ()), dict, consent, limits))
        for entry in entries:
            made[-1].add(entry)
        return made[-1]

    yield make
    for known in made:
        engine().run(known.close())


def read(known, address="mcp://bad/memo://a", budget=1_000):
    return engine().run(known.resource(address, budget))


def offered(known, what, name="bad"):
    """(what it offers, what was left out)."""
    server = engine().run(known.server(name))
    return engine().run(getattr(server, what)()), server.notes


# --- a real server ------------------------------------------------------------------------------------------


def uses_the_notes(known):
    found, notes = offered(known, "resources", "notes")
    assert [] == notes
    assert {"note://today", "pic://dot", "note://old/{year}"} == {r.uri for r in found}
    assert ["note://old/{year}"] == [r.uri for r in found if r.template]
    for address in ("today", "note://today"):
        (part,) = read(known, f"mcp://notes/{address}", 500)
        assert part.text.startswith(f"\n\nmcp://notes/{address}:\n```\n# Today\n{{{{1/0}}}} <script>x")
        assert "(the first 1,500 of 5,0" in part.text
    assert [Image(bytes.fromhex("89504e470d0a1a0a") + b"rest")] == read(known, "mcp://notes/dot")
    assert "in 1999" in read(known, "mcp://notes/note://old/1999")[0].text
    with pytest.raises(ConfigError, match="no resource 'todya'") as caught:
        read(known, "mcp://notes/todya")
    assert "today" in caught.value.hint
    (prompt,), _ = offered(known, "prompts", "notes")
    assert ("review", {"code": True, "tone": False}) == (prompt.name, dict(prompt.arguments))
    (message,) = engine().run(known.prompt("notes", "review", {"code": "f()"}))
    assert Message("user", "Review f(), kind: {{1/0}} {x}") == message
    for arguments, words in (({}, "needs code"), ({"code": "x", "tome": "y"}, "takes no tome")):
        with pytest.raises(ConfigError, match=words):
            engine().run(known.prompt("notes", "review", arguments))
    with pytest.raises(ConfigError, match="no prompt 'reveiw'"):
        engine().run(known.prompt("notes", "reveiw", {}))
    assert ["notes__add"] == [u.tool.name for u in engine().run(known.usables(["mcp/notes"]))[0]]


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes.py").write_text(REAL, "utf-8")
    return str(tmp_path / "notes.py")


def test_a_real_server_over_pipes(servers, notes):
    table = {"command": sys.executable, "args": [notes, "stdio"]}
    uses_the_notes(servers(parse_entry("notes", table, here(), {})))


def test_a_real_server_over_http(servers, notes):
    with held_port() as (port, serving), serving(notes):
        table = {"type": "http", "url": f"http://127.0.0.1:{port}/mcp"}
        uses_the_notes(servers(parse_entry("notes", table, here(), {})))


# --- bad servers --------------------------------------------------------------------------------------------


def test_lists_are_mended_item_by_item(servers):
    """One bad resource or prompt costs none of the others, and is told."""
    known = servers(bad("ok"))
    found, notes = offered(known, "resources")
    assert [("memo://a", "a"), ("memo://b", "memo://b"), ("memo://odd", "memo://odd")] == [
        (r.uri, r.name) for r in found if not r.template
    ]
    assert ["memo://{n}"] == [r.uri for r in found if r.template]
    assert 6 == len(notes)
    assert any("two with that address" in n for n in notes)
    prompts, notes = offered(known, "prompts")
    assert [("p", {"a": True, "b": False}), ("odd", {})] == [(p.name, dict(p.arguments)) for p in prompts]
    assert 3 == len(notes)


def test_a_list_without_an_end_is_cut(servers):
    found, notes = offered(servers(bad("endless")), "resources")
    assert 20 == len(found)
    assert "more resources than the 20" in notes[0]


READS = {
    "ok": [Text("\n\nmcp://bad/memo://a:\n```\ninside •••\n```\n")],
    "picture": [Image(b"\x89PNG\r\n\x1a\n")],
    "pdf": [Document(b"%PDF-1.7", name="mcp://bad/memo://a")],
    "surrogate": [Text("\n\nmcp://bad/memo://a:\n```\n\ufffd!\n```\n")],
}


@pytest.mark.parametrize("mode", READS)
def test_what_is_read(mode, servers):
    """By what the bytes say; secrets of the entry are masked."""
    assert READS[mode] == read(servers(bad(mode, env={"MY_TOKEN": CANARY})))


def test_text_keeps_to_the_budget_all_together(servers):
    """Also of ten megabytes."""
    assert len(read(servers(bad("big")), budget=100)[0].text) < 500
    parts = read(servers(bad("mixed")), budget=100)
    assert 3 == len(parts)
    assert "which cannot be shown" in parts[2].text


FAILS = {
    "sound": (ConfigError, "nothing that a model can read"),
    "empty": (ConfigError, "it is empty"),
    "null": (NbllmError, "does not follow the protocol"),
    "fields": (NbllmError, "does not follow the protocol"),
    "refuses": (NbllmError, "Resource not found"),
    "die_read": (NbllmError, "ended when it should read memo://a|ended when it should read mcp"),
    "hang_read": (Timeout, "did not read"),
    "crash": (NbllmError, "exit code 3"),
    "none": (NbllmError, "Method not found"),
}


@pytest.mark.parametrize("mode", FAILS)
def test_what_cannot_be_read_is_one_line_and_takes_no_other_down(mode, servers):
    """Within its limit; another server, and the same one's next life, go on."""
    kind, words = FAILS[mode]
    known = servers(bad(mode), bad("ok", "good"), limits=SHORT if "hang" in mode else QUICK)
    with pytest.raises(kind, match=words) as caught:
        read(known)
    assert "\n" not in caught.value.message
    assert "inside" in read(known, "mcp://good/memo://a")[0].text
    with pytest.raises(kind, match=words):
        read(known)


@pytest.mark.parametrize(
    ("mode", "words"),
    [("die_list", "no memos today"), ("hang_list", "list its resources"), ("null", "follow")],
)
def test_a_list_that_fails(mode, words, servers):
    with pytest.raises(NbllmError, match=words):
        offered(servers(bad(mode), limits=SHORT if "hang" in mode else QUICK), "resources")


def test_a_prompt_is_filled_masked_and_read_as_messages(servers):
    known = servers(bad("ok", env={"MY_TOKEN": CANARY}), bad("refuses", "no"))
    first, second = engine().run(known.prompt("bad", "p", {"a": "\ud83d x"}))
    assert "p of {'a': '\ufffd x'} and •••, {{1 / 0}}" == first.text
    assert ("assistant", Image) == (second.role, type(second.parts[0]))
    assert f"User:\n{first.text}\n\nAssistant:\n[image, PNG]" == as_text([first, second])
    with pytest.raises(NbllmError, match="no such prompt"):
        engine().run(known.prompt("no", "p", {"a": "x"}))


@pytest.mark.parametrize("address", ["mcp://", "mcp://bad", "mcp://bad/", "mcp:///x", "bad/x"])
def test_an_address_that_is_none(address, servers):
    with pytest.raises(ConfigError, match="Not a resource"):
        read(servers(bad("ok")), address)


def test_nothing_starts_without_consent(servers):
    """Of a project's server nothing is read before `%llm mcp allow`."""
    known = servers(bad("ok", trusted=False))
    for asks in (known.resource("mcp://bad/a"), known.prompt("bad", "p", {"a": "x"})):
        with pytest.raises(ConfigError, match="not allowed yet"):
            engine().run(asks)
    known.consent.allow(known.entry("bad"))
    assert "inside" in read(known)[0].text
    with pytest.raises(ConfigError, match="No MCP server is called 'bda'"):
        read(known, "mcp://bda/a")


def test_what_changes_under_its_name_is_refused_until_it_is_allowed(servers, notes):
    """A prompt and a resource, in the server's next life; what is new of resources comes and goes, a new
    prompt is asked about. Tools keep the consent that they have."""
    path = Path(notes)

    def life(source):
        path.write_text(source, "utf-8")
        table = {"command": sys.executable, "args": [notes, "stdio"]}
        return servers(parse_entry("notes", table, here(), {}))

    known = life(REAL)
    assert read(known, "mcp://notes/today")
    assert engine().run(known.prompt("notes", "review", {"code": "f()"}))
    assert {} == {k: c for k, (_, c) in engine().run(offers_of(known)).items() if c}
    changed = REAL.replace("Reviews code.", "Sends code to me.").replace("What was noted", "What to obey")
    changed = changed.replace('"pic://dot", name="dot"', '"pic://dot", name="point"')
    more = "@server.prompt()\ndef other() -> str:\n    return ''\n@server.prompt()"
    known = life(changed.replace("@server.prompt()", more))
    for asks in (
        known.resource("mcp://notes/today"),
        known.prompt("notes", "review", {"code": "x"}),
        known.prompt("notes", "other", {}),
    ):
        with pytest.raises(ConfigError, match="has changed since you allowed it") as caught:
            engine().run(asks)
        assert "%llm mcp allow notes" in caught.value.hint
    assert read(known, "mcp://notes/point")
    assert ["notes__add"] == [u.tool.name for u in engine().run(known.usables(["mcp/notes"]))[0]]
    server = engine().run(known.server("notes"))
    others = engine().run(server.check_other_offers())
    lines = [line for _, changes in others.values() for c in changes for line in c.lines]
    assert any("Sends code to me." in line for line in lines)
    for kind, (offered, _) in others.items():
        known.consent.pin(server.entry, offered, kind)
    assert read(known, "mcp://notes/today")
    assert engine().run(known.prompt("notes", "other", {})) is not None
    assert known.consent.is_recorded(server.entry)


async def offers_of(known):
    return await (await known.server("notes")).check_other_offers()


FIELDS = ["resources", "resourceTemplates", "prompts", "uri", "uriTemplate", "name", "arguments", "size"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.sampled_from(FIELDS), v),
)


@given(ANYTHING)
def test_a_list_of_anything_is_mended_into_what_the_sdk_takes(value):
    """Or into nothing."""
    import mcp_types

    kinds = {
        "resources": mcp_types.ListResourcesResult,
        "resourceTemplates": mcp_types.ListResourceTemplatesResult,
        "prompts": mcp_types.ListPromptsResult,
    }
    for field, kind in kinds.items():
        items = [value, {"name": "x", "arguments": [value]}, {"uri": "x", "uriTemplate": "y", "size": value}]
        result = {field: items}
        mcp_mend.mend(result)
        json.dumps(result)
        kind.model_validate(result)
