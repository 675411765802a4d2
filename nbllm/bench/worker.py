"""The load-generating process: `python -m nbllm.bench.worker DIRECTORY`, with the secrets on the first line
of standard input.

It writes what it has recorded to standard output, one JSON object per line. A line "stop", or the end of
standard input (the notebook has ended), ends it. It never prints or stores a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..client.client import Client
from ..client.engine import engine
from ..core.errors import ConfigError, scrub
from . import children
from .driver import LoadGenerator
from .plan import Budget
from .recorder import Recorder
from .run_spec import Job, to_contestant
from .store import Store

_EXIT_DELAY = 10.0  # seconds to store results after the notebook process has ended
_SWITCH_INTERVAL = 2e-4  # seconds after which the recorder's thread yields to the event loop's


def main() -> int:
    """Runs a job. Returns the exit status."""
    directory = Path(sys.argv[1])
    secrets = json.loads(sys.stdin.readline())
    with Store(directory) as store:
        public = store.get("job")
        parent = Parent()
        counters = [functools.partial(parent.count_tokens, i) for i in range(len(secrets))]
        job = Job.of(public, map(to_contestant, public["arms"], secrets, counters))
        sys.setswitchinterval(_SWITCH_INTERVAL)
        _raise_file_limit()
        running_engine = engine()
        clock = getattr(running_engine.loop, "clock", None)
        if clock is not None:
            clock.alone = True
        client = Client(ledger=None, paced=False)
        for url in {
            contestant.route.provider.base_url
            for contestant in job.contestants
            if not contestant.route.provider.command
        }:
            with contextlib.suppress(Exception):  # its requests will report the error
                client.run(client.http.prepare(url))
        gc.collect()
        gc.freeze()  # objects loaded so far need no further collection
        gc.set_threshold(10_000, 50, 10_000)  # few pauses in measured times; answers have no cycles
        try:
            why, unsaved = running_engine.run(_run(store, job, client, parent))
        except Exception as exc:
            raise SystemExit(
                scrub(
                    _error_line(exc), [text for contestant in job.contestants for text in contestant.secrets]
                )
            ) from exc
        with contextlib.suppress(ConfigError):  # the disk is full; the message below still gets through
            store.put(ended=why or "complete")
    send({"ev": "end", "why": why, "unsaved": unsaved})
    return 0


def _raise_file_limit() -> None:
    """Raises the limit of open files: a thousand streams need a thousand sockets."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # there is no such limit on Windows
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _error_line(exc: BaseException) -> str:
    """One line about an exception, taken out of exception groups of tasks."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}".replace("\n", " ")


async def _run(store: Store, job: Job, client: Client, parent: Parent) -> tuple[str, list[dict[str, Any]]]:
    """(why the run ended early or "", the rows that could not be stored)."""
    recorder = Recorder(
        store,
        Budget.of(job.rules.budget),
        lambda rows: send(*map(_progress_message, rows)),
        job.rules.answers,
    )
    epoch = store.get("epoch")
    if epoch is None:
        store.put(epoch=(epoch := time.perf_counter()))
    load = LoadGenerator(job, client, recorder, epoch, store.finished_slots())
    loop = asyncio.get_running_loop()
    threading.Thread(target=_listen, args=(loop, load.stop, parent), name="nbllm-stop", daemon=True).start()
    try:
        return await load.run(), recorder.unsaved
    finally:
        recorder.close()


class Parent:
    """The parent process, which counts tokens where the user has a tokenizer."""

    def __init__(self) -> None:
        self.replies: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self.is_gone = False

    def count_tokens(self, contestant: int, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text; None if they cannot be counted."""
        if not self.is_gone:
            with contextlib.suppress(OSError):
                send({"ev": "count", "contestant": contestant, "texts": texts})
                return self.replies.get()
        return None


def _listen(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, parent: Parent) -> None:
    """Handles lines from the parent until "stop" or the end of standard input."""
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        parent.replies.put(json.loads(line))
    parent.is_gone = True
    parent.replies.put(None)
    loop.call_soon_threadsafe(stop.set)
    children.end_with_parent(_EXIT_DELAY)


_PROGRESS_COLUMNS = (
    "request_id",
    "name",
    "phase",
    "start_kind",
    "block",
    "status",
    "ok",
    "ttft_ms",
    "e2e_ms",
    "out_tok_s",
    "cost_usd",
    "in_tokens",
    "out_tokens",
    "quality",
    "error_msg",
)


def _progress_message(row: dict[str, Any]) -> dict[str, Any]:
    return {"ev": "row", **{name: row.get(name) for name in _PROGRESS_COLUMNS}}


def send(*messages: dict[str, Any]) -> None:
    """Writes messages to the parent."""
    sys.stdout.write("".join([json.dumps(message) + "\n" for message in messages]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
