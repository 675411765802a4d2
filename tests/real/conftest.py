"""Real third-party servers on loopback. They are installed by .ci/real.sh; a server that is not there fails
its tests loudly, with the command that installs it. Nothing here is skipped in silence.

NBLLM_REAL   folder with what .ci/real.sh installed (default: ~/.cache/nbllm-ci)
NBLLM_SHARED folder with the start scripts of the heavier servers (default: ../shared, beside the checkout)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("NBLLM_REAL") or Path.home() / ".cache" / "nbllm-ci").resolve()
SHARED = Path(os.environ.get("NBLLM_SHARED") or ROOT.parent / "shared").resolve() / "real"
KEY = "sk-test-000"
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    """Everything in this folder carries the marker `real`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def need(path: Path, what: str) -> Path:
    """`path`, or a loud failure that says how to get it."""
    if not path.exists():
        pytest.fail(f"CANNOT RUN: {what} is not installed ({path}). Run: bash .ci/real.sh", pytrace=False)
    return path


@contextlib.contextmanager
def serving(
    command: list[str], url: str, log: Path, *, seconds: float = 90, env: dict[str, str] | None = None
):
    """Runs a server until the block ends; waits until `url` answers with anything."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        end = time.monotonic() + seconds
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(
                    f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}", pytrace=False
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10)
    except urllib.error.HTTPError as error:
        return error.code != 503  # llama.cpp answers 503 while it loads
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def aimock(tmp_path_factory):
    """aimock, all five wire formats: its address."""
    cli = need(REAL / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js", "aimock")
    node = shutil.which("node") or pytest.fail("CANNOT RUN: node is not installed", pytrace=False)
    port = free_port()
    home = tmp_path_factory.mktemp("aimock")
    command = [
        node,
        str(cli),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-f",
        str(HERE / "aimock.json"),
        "--strict",
        "--validate-on-load",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "AIMOCK_API_KEYS": KEY}
    with serving(command, f"http://127.0.0.1:{port}/v1/models", home / "log", env=env):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def aimock_open(tmp_path_factory):
    """aimock without a key check, as Ollama has none."""
    cli = need(REAL / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js", "aimock")
    port, home = free_port(), tmp_path_factory.mktemp("aimock-open")
    command = [
        "node",
        str(cli),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-f",
        str(HERE / "aimock.json"),
        "--strict",
    ]
    with serving(
        command,
        f"http://127.0.0.1:{port}/v1/models",
        home / "log",
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    ):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """llama.cpp's own server with a tiny generated model: its address."""
    python, model = (
        need(REAL / "llama" / "bin" / "python", "xllamacpp"),
        need(REAL / "tiny.gguf", "the tiny model"),
    )
    port, home = free_port(), tmp_path_factory.mktemp("llama")
    command = [str(python), str(HERE / "llama_server.py"), str(model), str(port), KEY]
    with serving(
        command,
        f"http://127.0.0.1:{port}/health",
        home / "log",
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    ):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def litellm(llama, tmp_path_factory):
    """The LiteLLM gateway with llama.cpp behind its model `llama`: its address."""
    need(REAL / "litellm" / "bin" / "litellm", "LiteLLM")
    port, home = free_port(), tmp_path_factory.mktemp("litellm")
    command = ["sh", str(SHARED / "litellm" / "start.sh"), str(REAL / "litellm"), str(port), f"{llama}/v1"]
    with serving(command, f"http://127.0.0.1:{port}/health/liveliness", home / "log", seconds=120):
        yield f"http://127.0.0.1:{port}"
