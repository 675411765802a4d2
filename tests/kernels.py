"""A real IPython kernel in a process of its own, driven over ZMQ as a front end does it."""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import zmq
from jupyter_client.manager import KernelManager

PREPARE = "%load_ext nbllm\nimport nbllm\nfrom nbllm.simulator import shared"


@dataclass
class Ran:
    """What one cell did: its messages on iopub, its outputs as a saved notebook would hold them, its
    reply."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs that a front end ends up with: updates replace, clear_output clears, an Output widget
        takes what is its own."""
        return self._areas()[0]

    @property
    def captured(self) -> list[dict[str, Any]]:
        """What an Output widget of ipywidgets ends up with. JupyterLab's knows no updates of displays, so
        neither does this."""
        return self._areas()[1]

    def _areas(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(the cell's outputs, a widget's): the widget has them while its msg_id is the cell's."""
        areas: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        clear, inside = [False, False], 0
        for m in self.messages:
            kind, content = m["msg_type"], m["content"]
            if kind == "comm_msg" and "msg_id" in content["data"].get("state", {}):
                inside = int(bool(content["data"]["state"]["msg_id"]))
            out = areas[inside]
            if kind == "clear_output":
                clear[inside] = content["wait"]
                out[:] = out if content["wait"] else []
            elif kind == "update_display_data":
                for o in areas[0]:
                    if o.get("transient", {}).get("display_id") == content["transient"]["display_id"]:
                        o.update(data=content["data"], metadata=content["metadata"])
            elif kind in ("display_data", "execute_result", "stream", "error"):
                out[:] = [] if clear[inside] else out
                clear[inside] = False
                out.append({"kind": kind, **content})
        return areas

    @property
    def text(self) -> str:
        """The text/plain of all outputs, and what was printed."""
        return "\n".join(
            o["text"] if o["kind"] == "stream" else o["data"].get("text/plain", "")
            for o in self.outputs
            if o["kind"] != "error"
        )

    @property
    def html(self) -> str:
        """The text/html of all outputs."""
        return "\n".join(o["data"].get("text/html", "") for o in self.outputs if "data" in o)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error output, where the cell failed."""
        return next((o for o in self.outputs if o["kind"] == "error"), None)

    @property
    def ok(self) -> bool:
        return self.reply["content"]["status"] == "ok"


class Kernel:
    """A kernel with nbllm loaded. front_end=True answers as JupyterLab does (stdin is possible), False as
    nbclient."""

    def __init__(self, *, front_end: bool = True, prepare: str = PREPARE, **env: str) -> None:
        self.front_end = front_end
        self.others: list[dict[str, Any]] = []  # messages of cells that have ended
        clean = {k: v for k, v in os.environ.items() if not k.endswith(("_API_KEY", "_BASE_URL"))}
        self._begin({**clean, "PYTHONFAULTHANDLER": "1", **env})
        if prepare:
            ran = self.run(prepare)
            assert ran.ok, ran.error

    def _begin(self, env: dict[str, str], attempts: int = 5) -> None:
        """Starts it. Its ports are chosen before it has them, so that another test's kernel may have taken
        one by then: it dies at once, and is started again with others."""
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env=env)
        self.client = self._manager.blocking_client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=180)
        except RuntimeError:
            self.close()
            if attempts == 1:
                raise
            self._begin(env, attempts - 1)

    def start(self, code: str, *, cell: str = "") -> str:
        """Sends a cell, with its id where a front end would tell one; gives its message id."""
        if not cell:
            return self.client.execute(code, allow_stdin=self.front_end)
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": self.front_end,
            "stop_on_error": True,
        }
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def collect(self, parent: str, until: Any = None, timeout: float = 180) -> Ran:
        """The messages of a cell up to its end, or up to the first message for which `until` is true."""
        ran, end = Ran(), time.monotonic() + timeout
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.01, end - time.monotonic()))
            if message["parent_header"].get("msg_id") != parent:
                self.others.append(message)
                continue
            ran.messages.append(message)
            if until is not None and until(message):
                return ran
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        ran.reply = self._reply(parent, end)
        return ran

    def _reply(self, parent: str, end: float) -> dict[str, Any]:
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.01, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == parent:
                return reply

    def run(self, code: str, timeout: float = 180, *, cell: str = "") -> Ran:
        """Runs a cell to its end."""
        return self.collect(self.start(code, cell=cell), timeout=timeout)

    def value(self, expression: str) -> Any:
        """A JSON value from the kernel."""
        ran = self.run(f"import json as _json\nprint(_json.dumps({expression}))")
        import json

        assert ran.ok, ran.error
        return json.loads(ran.text)

    def interrupt(self) -> None:
        """What the Stop button does."""
        self._manager.interrupt_kernel()

    @property
    def iopub_port(self) -> int:
        return int(self._manager.iopub_port)

    def close(self) -> None:
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Wire:
    """Counts the messages and bytes that a kernel publishes, at a raw socket beside the client's."""

    def __init__(self, kernel: Kernel) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.connect(f"tcp://127.0.0.1:{kernel.iopub_port}")
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._queue: queue.Queue[tuple[str, int]] = queue.Queue()
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        import json

        while not self._ended.is_set():
            if self._socket.poll(50):
                frames = self._socket.recv_multipart()
                at = frames.index(b"<IDS|MSG>")
                self._queue.put((json.loads(frames[at + 2])["msg_type"], sum(map(len, frames))))
        self._socket.close(0)
        self._context.term()

    def taken(self) -> list[tuple[str, int]]:
        """(type, bytes) of the messages since the last call."""
        out = []
        while not self._queue.empty():
            out.append(self._queue.get())
        return out

    def close(self) -> None:
        self._ended.set()
