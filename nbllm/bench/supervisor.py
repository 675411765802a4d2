"""Supervises a run: starts, follows and stops the worker process, and a simulator where one is needed."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import errors
from ..dialects.embeddings import EMBEDDINGS
from ..routing.registry import Route
from ..store.database import open_private
from . import children
from .counting import TokenCounter
from .progress import Progress, choose_display
from .run_spec import Job
from .store import Store, lock_run, translate_disk_errors

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
_POLL = 0.2  # seconds between two redraws while the worker is silent
_STOP_TIMEOUT = 10.0  # seconds for a stopped worker to store its results


def run_job(directory: Path, job: Job, progress: Progress | bool | None) -> pd.DataFrame:
    """Runs what is left of a job, and returns the complete frame of its run."""
    display, unsaved = choose_display(progress), Rows()
    with lock_run(directory):
        with Store(directory) as store:
            finished = store.finished_slots()
        n_left = sum(slot.id not in finished for turn in job.turns for slot in turn.slots)
        if n_left:
            with _worker(directory) as worker, _with_simulator(job) as ready:  # both processes start at once
                display.start(n_left, [a.name for a in ready.contestants], ready.run_id)
                _send_line(worker, json.dumps(ready.secret()))
                reason, unsaved = _follow_worker(
                    worker, display, [contestant.counter for contestant in ready.contestants]
                )
            if worker.returncode != 0 and reason != "stopped":
                raise _worker_error(directory)
    with Store(directory) as store:
        df = store.frame(unsaved)
    if n_left:
        display.end(reason, len(df))
    if unsaved:
        df.attrs["nbllm"]["ended"] = reason
        warnings.warn(
            f"{reason}. Rows that exist only in this frame: {len(unsaved)}. Write them elsewhere with "
            f"nbllm.bench.save.",
            stacklevel=3,
        )
    return df


@contextlib.contextmanager
def _worker(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The worker process, which loads its modules until it receives the secrets of the job."""
    with Store(directory) as store:
        store.put(ended="cut short")
    with translate_disk_errors(directory):
        log = open(directory / "worker.log", "w", encoding="utf-8", opener=open_private)  # noqa: SIM115
    with (
        log,
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            children.command("nbllm.bench.worker", str(directory)),
            env=children.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as worker,
    ):
        try:
            yield worker
        except BaseException:
            worker.kill()
            raise


def _worker_error(directory: Path) -> errors.NbllmError:
    """The error of a worker that ended by itself."""
    message = (directory / "worker.log").read_text("utf-8").strip().rpartition("\n")[2]
    return errors.NbllmError(
        f"The benchmark's worker process failed: {message[:300]}",
        hint=f"Finished rows are stored. Continue with bench.resume({str(directory)!r}), or load them "
        f"with bench.load({str(directory)!r}).",
    )


def _handle_message(
    message: dict[str, Any],
    worker: subprocess.Popen[str],
    display: Progress,
    counters: Sequence[TokenCounter | None],
) -> None:
    if message["ev"] == "count":
        _send_counts(worker, counters[message["contestant"]], message["texts"])
    else:
        display.row(message)
        display.draw()


def _send_counts(worker: subprocess.Popen[str], counter: TokenCounter | None, texts: Sequence[str]) -> None:
    """Sends the token counts of texts to the worker. Where the user's tokenizer fails, a warning says so and
    the counts are estimated (tok_source): the answers have been paid for."""
    counts = None
    try:
        counts = counter(texts) if counter else None
    except Exception as exc:  # noqa: BLE001 - a user's function
        warnings.warn(f"Some tokens could not be counted: {type(exc).__name__}: {exc}"[:300], stacklevel=2)
    finally:
        _send_line(worker, json.dumps(counts))


def _send_line(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended already; worker.log says why
        worker.stdin.write(line + "\n")
        worker.stdin.flush()


def _read_lines(worker: subprocess.Popen[str]) -> tuple[deque[str | None], queue.SimpleQueue[None]]:
    """The worker's output lines, ending with None, and a queue that signals each of them. A line stays until
    the caller removes it, since an interrupt may come in between."""
    lines: deque[str | None] = deque()
    wake_up: queue.SimpleQueue[None] = queue.SimpleQueue()

    def listen() -> None:
        assert worker.stdout is not None
        with contextlib.suppress(ValueError):  # the run is over, and its output closed
            for line in worker.stdout:
                lines.append(line)
                wake_up.put(None)
            lines.append(None)
            wake_up.put(None)

    threading.Thread(target=listen, name="nbllm-bench", daemon=True).start()
    return lines, wake_up


def _follow_worker(
    worker: subprocess.Popen[str], display: Progress, counters: Sequence[TokenCounter | None]
) -> tuple[str, Rows]:
    lines, wake_up = _read_lines(worker)
    stopped = False
    while True:
        try:
            if not lines:
                wake_up.get(timeout=_STOP_TIMEOUT if stopped else _POLL)
                continue
            line = lines[0]
            if line is None:
                worker.wait()
                return "stopped" if stopped else "", []
            message = json.loads(line)
            if message["ev"] == "end":
                return str(message["why"]), message["unsaved"]
            lines.popleft()
            _handle_message(message, worker, display, counters)
        except queue.Empty:
            if stopped:
                worker.kill()
                return "stopped", []
            display.draw()
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            _send_line(worker, "stop")


@contextlib.contextmanager
def _with_simulator(job: Job) -> Iterator[Job]:
    """The job with a simulator in a separate process, if a contestant is simulated."""
    if not any(contestant.route.simulated for contestant in job.contestants):
        yield job
        return
    with simulator() as addresses:
        yield replace(
            job,
            contestants=tuple(
                replace(a, route=_simulated_route(a.route, addresses)) if a.route.simulated else a
                for a in job.contestants
            ),
        )


def _simulated_route(route: Route, addresses: Mapping[str, str]) -> Route:
    dialect = route.provider.dialect
    dialect = next((name for name, vectors in EMBEDDINGS.items() if vectors.name == dialect), dialect)
    return replace(route, provider=replace(route.provider, base_url=addresses[dialect]))


@contextlib.contextmanager
def simulator(defaults: str = "") -> Iterator[dict[str, str]]:
    """A simulator in a separate process: its addresses by wire format, and its own under ""."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        children.command("nbllm.simulator", "--attached", "--defaults", defaults),
        env=children.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            addresses = {"": process.stdout.readline().strip()}
            while len(addresses) < 6:
                name, _, url = process.stdout.readline().strip().partition(" ")
                if not name:
                    raise errors.NbllmError(
                        "The simulator did not start.", hint="Try `python -m nbllm.simulator` to see why."
                    )
                addresses[name] = url.strip()
            yield addresses
        finally:
            process.kill()
