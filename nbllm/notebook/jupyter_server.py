"""The JupyterLab that runs the notebook, as an MCP server: `%llm mcp add jupyter` starts jupyter-mcp-server
for it, so that a model can read and change the notebook's cells. The server's token is passed in that
command's environment only."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..routing.files import read_small_file
from .session import Session

COMMAND = "jupyter-mcp-server"


def server_entry(session: Session) -> dict[str, Any]:
    """The entry of the server. Raises ConfigError if the command, the server or the notebook's path is not
    known."""
    own_command = Path(sys.executable).with_name(COMMAND)
    command = str(own_command) if own_command.exists() else shutil.which(COMMAND)
    if command is None:
        raise ConfigError(f"{COMMAND} is not installed.", hint="Run `%pip install 'nbllm[jupyter]'`.")
    server = _running_server()
    root, file = Path(str(server.get("root_dir"))), session.notebook_file
    if not file or not Path(file).is_relative_to(root):
        raise ConfigError(
            "This notebook's file is not known to its Jupyter server.",
            hint=f"%llm mcp add jupyter -- {COMMAND} start --jupyter-url URL --document-id FILE",
        )
    document = Path(file).relative_to(root).as_posix()
    location = ["--jupyter-url", str(server["url"]).rstrip("/"), "--document-id", document]
    # otherwise it waits for the notebook's kernel, which is busy with the running cell
    location += ["--start-new-code-sandbox", "false"]
    return {"command": command, "args": ["start", *location], "env": {"JUPYTER_TOKEN": str(server["token"])}}


def _running_server() -> dict[str, Any]:
    """The file in which the Jupyter server of this kernel describes itself."""
    pid = os.environ.get("JPY_PARENT_PID", "")
    try:
        from jupyter_core.paths import jupyter_runtime_dir

        found = json.loads(read_small_file(Path(jupyter_runtime_dir()) / f"jpserver-{int(pid)}.json"))
        if isinstance(found, dict) and found.get("url") and found.get("token"):
            return found
    except (ImportError, OSError, ValueError):
        pass
    raise ConfigError(
        "No Jupyter server with a token runs this kernel.",
        hint=f"Set JUPYTER_TOKEN, and %llm mcp add --env JUPYTER_TOKEN jupyter -- {COMMAND} start ...",
    )
