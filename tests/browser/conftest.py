"""JupyterLab in headless Chromium, with kernels that talk to the simulator in this process; what is missing
is an error."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from nbllm import simulator

from ..simulated import simulator_environment

CANARY = "sk-canary-8d1f6b2a4c7e9035"
CHROMIUM = os.environ.get("NBLLM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = Path(os.environ.get("NBLLM_SHOTS", ".cache/shots"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--no-proxy-server",
]
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "recordTiming": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/completer-extension:inline-completer": {"providers": {}},
}
WATCH = (Path(__file__).parent / "watch.js").read_text()
_numbers = count()


def cannot_run(why: str) -> None:
    """Fails, loudly: a browser test that does not run is not a test that passed."""
    pytest.fail(f"CANNOT RUN: {why}", pytrace=False)


@pytest.fixture(scope="session")
def sim() -> Iterator[Any]:
    """The provider, in this process: it knows what it sent and when it was hung up on."""
    with simulator.serve(ttft=0.05, gap=0.02) as server:
        yield server


class Lab:
    """A JupyterLab server of our own, in folders of our own, that calls nobody."""

    def __init__(self, folder: Path, sim: Any) -> None:
        if find_spec("jupyterlab") is None:
            cannot_run("jupyterlab is not installed (pip install 'nbllm[lab]').")
        self.root, self.token, self.port = folder / "notebooks", secrets.token_hex(16), _free_port()
        self.host, self._log = f"127.0.0.1:{self.port}", folder / "lab.log"
        self.root.mkdir()
        overrides = folder / "config" / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir(parents=True)
        overrides.write_text(json.dumps(SETTINGS))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command(), env=_environment(folder, sim), cwd=self.root, stdout=log, stderr=log
            )
        self._wait()

    def _command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--expose-app-in-browser",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.root}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
            *(["--ServerApp.allow_root=True"] if os.name == "posix" and os.getuid() == 0 else []),
        ]

    def _wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError):
                self.call("GET", "api/status")
                return
            time.sleep(0.1)  # the server has no event to wait for
        self.close()
        cannot_run(f"jupyter lab did not start:\n{self._log.read_text()[-3000:]}")

    def call(self, method: str, path: str) -> Any:
        """The answer of the server's REST interface."""
        request = urllib.request.Request(
            f"http://{self.host}/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=30
        ) as response:
            body = response.read()
        return json.loads(body) if body else None

    def stop_kernels(self) -> None:
        """Ends all sessions."""
        for session in self.call("GET", "api/sessions"):
            self.call("DELETE", f"api/sessions/{session['id']}")

    def write(self, *sources: str, name: str | None = None) -> Path:
        """A notebook of code cells."""
        import nbformat
        from nbformat.v4 import new_code_cell, new_notebook

        path = self.root / f"{name or f'test-{next(_numbers)}'}.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(
            new_notebook(cells=[new_code_cell(s) for s in sources], metadata={"kernelspec": kernel}), path
        )
        return path

    def close(self) -> None:
        """Ends the server, and its kernels with it."""
        if self._process.poll() is None:
            with suppress(OSError):
                self.stop_kernels()
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _environment(folder: Path, sim: Any) -> dict[str, str]:
    """Nothing of the person's own: no keys, addresses, settings or proxies."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SYSTEMROOT", "TMPDIR")
    }
    places = {
        "HOME": "home",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    for name in places.values():
        (folder / name).mkdir(exist_ok=True)
    return {
        **kept,
        **{k: str(folder / v) for k, v in places.items()},
        **simulator_environment(sim, CANARY),
        "PYTHONFAULTHANDLER": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, sim: Any) -> Iterator[Lab]:
    """One server for all tests."""
    server = Lab(tmp_path_factory.mktemp("lab"), sim)
    yield server
    server.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    if find_spec("playwright") is None:
        cannot_run("playwright is not installed (pip install playwright; its own browsers are not needed).")
    if not CHROMIUM or not Path(CHROMIUM).exists():
        cannot_run(
            f"no Chromium at {CHROMIUM or 'any place of PATH'}; install it or name it in NBLLM_CHROMIUM."
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Notebook:
    """A notebook open in a page of its own, which tells of dialogs and of requests to anybody but the
    server."""

    def __init__(self, browser: Any, lab: Lab, path: Path, *, width: int = 1200, height: int = 900) -> None:
        self.lab, self.path = lab, path
        self.dialogs: list[str] = []
        self.strangers: list[str] = []
        self._context = browser.new_context(viewport={"width": width, "height": height})
        self._context.add_init_script(WATCH)
        self._context.on("request", self._requested)
        self.page = self._context.new_page()
        self.page.on("dialog", self._asked)
        self.page.goto(f"http://{lab.host}/doc/tree/{path.name}?token={lab.token}")
        self.page.wait_for_function("() => window.nbllmTest?.ready()", timeout=60_000)
        self.js(
            "async () => { await jupyterapp.restored; await "
            "jupyterapp.shell.currentWidget.sessionContext.ready; }"
        )

    def _requested(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != self.lab.host:
            self.strangers.append(request.url)

    def _asked(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def js(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression or function in the page."""
        return self.page.evaluate(expression, argument)

    def wait(self, expression: str, argument: Any = None, timeout: float = 60) -> None:
        """Waits until the expression is true; looked at in every frame."""
        self.page.wait_for_function(expression, arg=argument, timeout=timeout * 1000)

    def command(self, name: str, **arguments: Any) -> None:
        """Runs a command of JupyterLab's to its end."""
        self.js(
            "async ([name, args]) => { await jupyterapp.commands.execute(name, args); }", [name, arguments]
        )

    def start(self, *cells: int) -> None:
        """Runs the cells with these indices as a person does, without waiting for their end."""
        self.js("cells => nbllmTest.run(cells)", list(cells))

    def start_all(self) -> None:
        """Run All, without waiting for its end, which the command itself would."""
        self.js("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")

    def run(self, *cells: int, timeout: float = 60) -> None:
        """Runs cells to their end."""
        self.start(*cells)
        self.wait_done(*cells, timeout=timeout)

    def wait_done(self, *cells: int, timeout: float = 60) -> None:
        """Waits until no cell of these runs or waits."""
        self.wait("cells => nbllmTest.done(cells)", list(cells), timeout)

    def output(self, cell: int) -> Any:
        """A locator of a cell's output area."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea-output")

    def text(self, cell: int) -> str:
        """What a cell's output area shows."""
        return str(self.js("cell => nbllmTest.area(cell)?.innerText ?? ''", cell)).replace("\u00a0", " ")

    def watch(self, cell: int, *, select: bool = False) -> None:
        """Begins to note what a cell's output area does, frame by frame and change by change; with `select` a
        finished paragraph is selected, as a person would who copies it."""
        self.js("([cell, select]) => nbllmTest.watch(cell, select)", [cell, select])

    def seen(self) -> dict[str, Any]:
        """What was noted."""
        return dict(self.js("() => nbllmTest.seen()"))

    def save(self) -> dict[str, Any]:
        """Saves; gives the file's content."""
        self.command("docmanager:save")
        return dict(json.loads(self.path.read_text()))

    def theme(self, name: str) -> None:
        """JupyterLab Light or JupyterLab Dark."""
        self.command("apputils:change-theme", theme=name)
        self.wait(
            "light => document.body.dataset.jpThemeLight === light", "false" if "Dark" in name else "true"
        )

    def shot(self, name: str, height: int | None = None) -> None:
        """A picture of the page as it is, or of its upper part."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        width = self.page.viewport_size["width"]
        self.page.screenshot(
            path=SHOTS / f"{name}.png",
            clip={"x": 0, "y": 0, "width": width, "height": height} if height else None,
        )

    def close(self) -> None:
        """Closes the page."""
        self._context.close()


@pytest.fixture
def notebook(browser: Any, lab: Lab) -> Iterator[Any]:
    """notebook(*sources or a path): opens a notebook. All are closed and their kernels ended after the
    test."""
    opened: list[Notebook] = []

    def make(*sources: Any, name: str | None = None, **options: Any) -> Notebook:
        path = sources[0] if isinstance(sources[0], Path) else lab.write(*sources, name=name)
        opened.append(Notebook(browser, lab, path, **options))
        return opened[-1]

    yield make
    for n in opened:
        n.close()
    lab.stop_kernels()
