"""A notebook whose cells are read and changed through jupyter-mcp-server, in front of the real Jupyter server
that runs the kernel."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from nbformat.v4 import new_code_cell, new_notebook

from .conftest import free_port

ANSWER = """
from nbllm.simulator import script
from nbllm.notebook.tool_use import call_bundle
seen = []
def yes(question):
    seen.append(call_bundle(question)["text/plain"])
    return True
steps = script([
    {"calls": [
        {"name": "jupyter__overwrite_cell_source", "arguments": {"cell_index": 0, "cell_source": "x = 2"}},
        {"name": "jupyter__insert_cell",
         "arguments": {"cell_index": -1, "cell_type": "markdown", "cell_source": "# New"}},
        {"name": "jupyter__delete_cell", "arguments": {"cell_indices": [1]}},
    ]},
    {"text": "Done."},
])
found = nbllm.complete("Go.", f"sim/openai/m@{steps}", tools=["mcp/jupyter"], approve=yes)
print(*seen, *(n.text for n in found.notices), sep="\\n")
print(*(e.outcome for s in found.steps for e in s.results))
"""
READ = """
use("read_notebook", notebook_name="default", response_format="detailed")
"""
CALL = """
client = nbllm.default_client()
def use(tool, **arguments):
    usables, _ = client.run(client.mcp.usables([f"mcp/jupyter/{tool}"]))
    print(client.run(usables[0].call(arguments)))
use("insert_cell", cell_index=1, cell_type="code", cell_source="y = x + 1")
use("edit_cell_source", cell_index=1, old_string="+ 1", new_string="+ 41")
use("read_notebook", notebook_name="default", response_format="detailed")
"""


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    if find_spec("jupyter_mcp_server") is None:
        pytest.fail(
            "CANNOT RUN: jupyter-mcp-server is missing (pip install 'nbllm[jupyter]').", pytrace=False
        )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell("x = 1")]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "n.ipynb")
    port, token = free_port(), secrets.token_hex(16)
    folders = {n: tmp_path / n.lower() for n in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    for folder in folders.values():
        folder.mkdir()
    env = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    words = ["--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    words += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"]
    words += ["--ServerApp.allow_root=True"] if os.name == "posix" and os.getuid() == 0 else []
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words], env=env, cwd=tmp_path, stdout=log, stderr=log
        )

    def call(method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"token {token}", "content-type": "application/json"}
        url = f"http://127.0.0.1:{port}/api/{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as page:
            return json.loads(page.read() or b"null")

    try:
        for _ in range(900):
            with suppress(OSError):
                call("GET", "status")
                break
            Event().wait(0.1)  # the server has no event to wait for
        yield call, folders["JUPYTER_RUNTIME_DIR"], token
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(tmp_path / "home", ignore_errors=True)


def ran(client: BlockingKernelClient, code: str, *, watched: bool = True) -> str:
    """All that a cell printed, and its error."""
    out: list[str] = []
    client.execute_interactive(
        code,
        timeout=120,
        allow_stdin=watched,
        stdin_hook=lambda _: client.input("n"),
        output_hook=lambda m: out.append(json.dumps(m["content"], ensure_ascii=False)),
    )
    return "\n".join(out)


def test_a_notebook_is_changed_through_its_own_server(lab: Any) -> None:
    """`%llm mcp add jupyter` finds server, token and file by itself; the token is shown nowhere."""
    call, runtime, token = lab
    kernel = {"name": "python3"}
    session = call(
        "POST", "sessions", {"path": "n.ipynb", "name": "n.ipynb", "type": "notebook", "kernel": kernel}
    )
    for _ in range(600):
        if call("GET", f"kernels/{session['kernel']['id']}")["execution_state"] == "idle":
            break
        Event().wait(0.1)
    client = BlockingKernelClient(connection_file=str(runtime / f"kernel-{session['kernel']['id']}.json"))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    assert "error" not in ran(client, "%load_ext nbllm\nimport nbllm").lower()
    told = ran(client, "%llm mcp add jupyter")
    assert "--document-id n.ipynb" in told
    found = ran(client, "%llm mcp tools jupyter")
    assert "jupyter__insert_cell" in found, found[:900] + ran(client, "%llm mcp log jupyter")[-2500:]
    refused = ran(client, "%%llm sim/openai tools=mcp/jupyter approve=auto\nx", watched=False)
    assert "no user can approve that here" in refused
    changed = ran(client, CALL)
    assert "y = x + 41" in changed
    answered = ran(client, ANSWER)
    assert all(words in answered for words in ("-x = 1", "+x = 2", "+# New", "-y = x + 41", "ran ran ran"))
    assert "Changed: cell 0, new cell at the end, cell 1" in answered
    assert "y = x + 41" not in ran(client, READ)
    assert "Taken back: cell 1, new cell at the end, cell 0" in ran(client, "%llm undo")
    again = ran(client, READ)
    assert all(words in again for words in ("x = 1", "y = x + 41"))
    assert "# New" not in again
    assert token not in told + found + refused + changed + answered
    client.stop_channels()
