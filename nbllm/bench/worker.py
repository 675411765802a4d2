"""The process that makes the load: `python -m nbllm.bench.worker DIRECTORY`, keys on the first line of
standard input.

It says on standard output, a JSON object a line, what has been recorded; a line "stop", or the end of
standard input (the notebook has gone), ends it. It never prints a key and writes none down.
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

_EXIT_DELAY = 10.0  # seconds in which what is known is written down, where nobody is left to wait for it
_SWITCH_INTERVAL = 2e-4  # seconds after which the recorder's thread gives way to the loop's


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
            with contextlib.suppress(Exception):  # its requests will say what is wrong
                client.run(client.http.prepare(url))
        gc.collect()
        gc.freeze()  # what is loaded by now is not looked at again
        gc.set_threshold(10_000, 50, 10_000)  # answers hold no circles; its pauses would be in their times
        try:
            why, unsaved = running_engine.run(_run(store, job, client, parent))
        except Exception as exc:
            raise SystemExit(
                scrub(
                    _error_line(exc), [text for contestant in job.contestants for text in contestant.secrets]
                )
            ) from exc
        with contextlib.suppress(ConfigError):  # the disk is full: the notebook is told all the same
            store.put(ended=why or "complete")
    send({"ev": "end", "why": why, "unsaved": unsaved})
    return 0


def _raise_file_limit() -> None:
    """Allows as many sockets as the system lets us: a thousand streams are a thousand of them."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _error_line(exc: BaseException) -> str:
    """One line about what went wrong, out of the groups that tasks raise."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}".replace("\n", " ")


async def _run(store: Store, job: Job, client: Client, parent: Parent) -> tuple[str, list[dict[str, Any]]]:
    """Why the run ended early, "" where it did not, and the rows that the disk did not take."""
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
    """Who started this process, and counts tokens for it where the user has a tokenizer."""

    def __init__(self) -> None:
        self.replies: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self.is_gone = False

    def count_tokens(self, contestant: int, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text; None where nobody can count them any more."""
        if not self.is_gone:
            with contextlib.suppress(OSError):
                send({"ev": "count", "contestant": contestant, "texts": texts})
                return self.replies.get()
        return None


def _listen(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, parent: Parent) -> None:
    """Waits for the word, or for the end of who could say it."""
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
    """Lines for the notebook."""
    sys.stdout.write("".join([json.dumps(message) + "\n" for message in messages]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
