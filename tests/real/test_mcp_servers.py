"""The eight MCP servers that people have most: those of the protocol's authors, from npm and PyPI."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nbllm.client.engine import engine
from nbllm.core.errors import NbllmError
from nbllm.core.messages import Image
from nbllm.tools.consent import Consent
from nbllm.tools.mcp import Limits
from nbllm.tools.mcp_config import ConfigLocations
from nbllm.tools.mcp_entry import Source, parse_entry
from nbllm.tools.mcp_servers import Servers
from nbllm.tools.results import to_content

from .conftest import REAL, ROOT

PYTHON = REAL / "mcp" / "bin"
NODE = REAL / "node_modules" / "@modelcontextprotocol"

# By server: what starts it, the tools that it must have, and of some tools (arguments, words of the result).
SERVERS = {
    "everything": (
        ["node", f"{NODE}/server-everything/dist/index.js"],
        ["echo", "get-sum", "get-tiny-image"],
        [("echo", {"message": "a{b}"}, "Echo: a{b}"), ("get-sum", {"a": 2, "b": 3}, "5")],
    ),
    "filesystem": (
        ["node", f"{NODE}/server-filesystem/dist/index.js", "."],
        ["read_text_file", "list_directory"],
        [
            ("list_directory", {"path": "{here}"}, "[FILE] note.md"),
            ("read_text_file", {"path": "{here}/note.md"}, "Größe"),
        ],
    ),
    "memory": (
        ["node", f"{NODE}/server-memory/dist/index.js"],
        ["create_entities", "read_graph"],
        [
            (
                "create_entities",
                {"entities": [{"name": "A-17", "entityType": "article", "observations": ["blue"]}]},
                "A-17",
            ),
            ("read_graph", {}, "blue"),
        ],
    ),
    "sequential-thinking": (
        ["node", f"{NODE}/server-sequential-thinking/dist/index.js"],
        ["sequentialthinking"],
        [
            (
                "sequentialthinking",
                {"thought": "x", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
                "thoughtNumber",
            )
        ],
    ),
    "time": (
        [f"{PYTHON}/mcp-server-time", "--local-timezone", "Europe/Oslo"],
        ["get_current_time", "convert_time"],
        [("get_current_time", {"timezone": "Asia/Tokyo"}, "+09:00")],
    ),
    "git": (
        [f"{PYTHON}/mcp-server-git"],
        ["git_status", "git_log"],
        [("git_status", {"repo_path": "{here}"}, "note.md")],
    ),
    "fetch": ([f"{PYTHON}/mcp-server-fetch"], ["fetch"], []),
}


@pytest.fixture
def servers(tmp_path):
    """servers(name, command) starts one server in a folder with one file, which is a repository of git."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "note.md").write_text("Größe", "utf-8")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    consent = Consent(lambda: tmp_path / "allowed.json")
    places = ConfigLocations(tmp_path / "mcp.json", tmp_path, ())
    known = Servers(lambda: places, dict, consent, Limits(connect=120, tools=120, call=120))

    def start(name, command):
        if not (shutil.which(command[0]) and all(Path(w).exists() for w in command[1:] if w.endswith(".js"))):
            pytest.fail(f"{command} is not there: run {ROOT}/.ci/real.sh")
        # What a server keeps stays in this test's folder: `memory` writes beside its program otherwise, and
        # would know the next time what it was told the last time.
        env = {"HOME": str(tmp_path), "MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")}
        table = {"command": command[0], "args": command[1:], "cwd": str(folder), "env": env}
        known.add(parse_entry(name, table, Source("this session", folder, trusted=True), {}))
        return engine().run(known.usables([f"mcp/{name}"]))

    start.folder = str(folder)
    yield start
    engine().run(known.close())


def filled(value, folder):
    """Arguments with the folder in them."""
    if isinstance(value, dict):
        return {k: filled(v, folder) for k, v in value.items()}
    return value.replace("{here}", folder) if isinstance(value, str) else value


@pytest.mark.parametrize("name", SERVERS)
def test_its_tools_are_listed_and_called(name, servers):
    """Every tool has a schema that is taken, none is left out, and what is called answers."""
    command, tools, calls = SERVERS[name]
    usables, notes = servers(name, command)
    assert [] == notes
    by_name = {u.tool.name.rpartition("__")[2]: u for u in usables}
    assert {t.replace("-", "_") for t in tools} <= {t.replace("-", "_") for t in by_name}
    for tool, arguments, words in calls:
        usable = by_name[tool]
        given = usable.validate(filled(arguments, servers.folder))
        assert words in str(to_content(engine().run(usable.call(given))))


def test_what_a_server_keeps_is_kept_in_the_tests_folder(servers, tmp_path):
    command, _, calls = SERVERS["memory"]
    usables, _ = servers("memory", command)
    tool, arguments, words = calls[0]
    usable = next(u for u in usables if u.tool.name.endswith(tool))
    engine().run(usable.call(usable.validate(arguments)))
    assert words in (tmp_path / "memory.jsonl").read_text("utf-8")


def test_a_picture_is_a_picture(servers):
    usables, _ = servers("everything", SERVERS["everything"][0])
    usable = next(u for u in usables if u.tool.name.endswith("image"))
    assert any(isinstance(p, Image) for p in to_content(engine().run(usable.call(usable.validate({})))))


def test_wrong_arguments_are_one_line(servers):
    usables, _ = servers("time", SERVERS["time"][0])
    usable = next(u for u in usables if u.tool.name.endswith("get_current_time"))
    with pytest.raises(NbllmError) as caught:
        engine().run(usable.call(usable.validate({"timezone": "Nowhere/Else"})))
    assert "Nowhere/Else" in caught.value.message
    assert "\n" not in caught.value.message.strip()


def test_one_that_dies_at_its_start_says_why(servers):
    """mcp-server-sqlite does, with today's SDK: what it says on standard error is in the note."""
    usables, notes = servers("sqlite", [f"{PYTHON}/mcp-server-sqlite", "--db-path", "a.db"])
    assert [] == usables
    assert "AttributeError" in str(notes)
