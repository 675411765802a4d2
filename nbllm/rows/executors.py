"""Rows on other threads, processes and machines: `executor=` takes any concurrent.futures.Executor, and a
client of dask.distributed.

Theory. What is sent away is the last step alone (pipeline): the request, and the names by which the worker
finds provider and key in its own configuration. Everything that decides (limits, budgets, retries, another
model, what is known already, the file of the run) stays here, where one gate sees all rows. A key is never
pickled. An executor is handed no more rows at once than the run is wide, so that a worker that dies takes
few with it; a result is let go as soon as it is noted.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import pickle
import platform
import sys
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, NamedTuple
from uuid import uuid4

from ..client.attempt import Attempt, Handler, Sink
from ..client.client import Client
from ..client.policy import Retries
from ..core import errors
from ..core.calls import Secret, display_url, origin
from ..core.events import Event
from ..routing.registry import Registry, Route

_VERSION: str = sys.modules["nbllm"].__version__
_AHEAD = 32  # rows at most that wait at the workers, beside those that they are at
_TOLD = ("ratelimit", "rate-limit", "retry-after")  # headers that the gate reads
_TOLD_TOO = ("date", "x-nbllm-simulated")


class WorkerLost(errors.TransportError):
    """A worker, or the way to it, was lost before its answer came. is_lasting: there are no others.
    retryable: another may be tried."""

    is_lasting, retryable = False, True


class WorkerRefused(errors.ConfigError):
    """A worker cannot ask: it has no key, or another nbllm. It would say so of every row."""

    is_lasting = True


class Unfit(errors.ConfigError):
    """What cannot be sent by an executor, or is none."""


class Place(NamedTuple):
    """Where a worker sends a row, in names that it looks up. asked: a model's name; origin and spoken: where
    it leads here, and in which format."""

    asked: str
    base_url: str | None
    dialect: str | None
    origin: str
    spoken: str

    @classmethod
    def of(cls, route: Route, given: str | None) -> Place:
        """given: base_url of the run. Raises ConfigError where that holds a password."""
        row = route.provider
        if given is not None and display_url(given) != given:
            raise Unfit(
                "base_url holds a password, which would travel with every row.",
                hint="Give the workers a row in their providers.toml, or a key in their environment.",
            )
        there = (origin(row.base_url), row.dialect)
        if route.simulated or given is not None:
            own = route.model if route.simulated else route.name
            return cls(own, row.base_url, row.dialect, *there)
        return cls(f"{row.name}/{route.model}", None, None, *there)


class Reply(NamedTuple):
    """What a worker gives back: events, status and some headers, and the error that ended them, as its type's
    name, its arguments and its attributes."""

    events: list[Event]
    status: int | None
    headers: dict[str, str]
    error: tuple[str, tuple[Any, ...], dict[str, Any]] | None


# --- in the notebook ----------------------------------------------------------------------------------------


def of(given: Any) -> Executor:
    """The executor that was given, or that of a client of dask.distributed. Raises ConfigError for anything
    else."""
    if not isinstance(given, Executor) and hasattr(given, "get_executor"):
        given = given.get_executor(pure=False, retries=0)
    if not isinstance(given, Executor):
        raise Unfit(
            f"executor= takes a concurrent.futures.Executor, not {type(given).__name__}.",
            hint="For example ThreadPoolExecutor(8), or dask.distributed.Client(...).",
        )
    client = getattr(given, "_client", None)
    if client is not None and not (client.nthreads() or getattr(client.cluster, "_adaptive", None)):
        raise Unfit(
            "The cluster has no workers: the rows would wait for ever.",
            hint="client.wait_for_workers(1) waits for one. Stop in a notebook also ends the workers of a "
            "LocalCluster that the notebook started: make a new one.",
        )
    return given


def width_of(executor: Executor) -> int | None:
    """How many rows keep all its workers busy; None where it does not say."""
    client = getattr(executor, "_client", None)
    slots = sum(client.nthreads().values()) if client is not None else getattr(executor, "_max_workers", None)
    return slots + min(slots, _AHEAD) if isinstance(slots, int) and slots > 0 else None


class _OwnKeys(Registry):
    """A registry that does without keys: the workers have theirs."""

    def key_for(self, route: Route, explicit: str | Secret | None) -> Secret | None:
        """The key of here, by which limits are known, or what stands for the workers'. It is not sent."""
        if explicit is not None:
            raise Unfit(
                "api_key= cannot be used with executor=: a key never leaves this process.",
                hint="Set the key in the environment of the workers, or in their providers.toml.",
            )
        found = super().key_for(route, None)
        return found or (None if route.provider.local else Secret("key", "the worker"))


def client_for(client: Client, executor: Executor, base_url: str | None) -> Client:
    """A client that sends by the executor, and shares all else with `client`."""
    away = copy.copy(client)
    registry = client.registry
    given = [name for name in registry.__struct_fields__ if name[0] != "_"]
    away.registry = _OwnKeys(**{name: getattr(registry, name) for name in given})
    away.sender = sender(executor, base_url)
    return away


def check(client: Client, attempt: Attempt, base_url: str | None) -> None:
    """Raises ConfigError for what cannot be sent away. A command-line agent works where its files are."""
    if client.sender is not None:
        if not attempt.call.rate_limited:
            raise Unfit(
                f"{attempt.provider_label} is a command on this machine, and cannot be used with executor=.",
                hint="Leave executor= out.",
            )
        _packed(attempt, base_url)


def _packed(attempt: Attempt, base_url: str | None) -> bytes:
    try:
        return pickle.dumps((attempt.request, Place.of(attempt.route, base_url), attempt.timeouts))
    except errors.NbllmError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever an object does when it is pickled
        raise Unfit(
            f"What would be sent to a worker cannot be pickled: {errors.error_line(exc)}",
            hint="Give plain values, or leave executor= out.",
        ) from None


def sender(executor: Executor, base_url: str | None) -> Handler:
    """The handler at the bottom: has a worker send an attempt. A row whose worker was lost is handed in once
    more."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        trace = sink.begin(attempt)
        trace.non_streaming = True  # when its tokens came, nobody here saw
        packed = _packed(attempt, base_url)
        try:
            try:
                reply = await _handed_in(executor, packed)
            except WorkerLost as lost:
                if lost.is_lasting or not lost.retryable:
                    raise
                reply = await _handed_in(executor, packed)
            trace.status, trace.headers = reply.status, reply.headers
            for event in reply.events:
                sink.publish(event)
            if reply.error is not None:
                raise _unpacked(*reply.error)
        except errors.NbllmError as error:
            trace.error = error.scrub_secrets(attempt.guard.secrets).with_traceback(None)
            raise error from None

    return send


async def _handed_in(executor: Executor, packed: bytes) -> Reply:
    """A worker's reply. Raises WorkerLost."""
    try:
        future = executor.submit(answer, uuid4().hex, _VERSION, packed)
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise WorkerLost("The row was cancelled where it was handed in.") from None
    except Exception as exc:  # noqa: BLE001 - executors raise many kinds
        raise _lost(exc) from None


def _lost(exc: Exception) -> WorkerLost:
    """What an executor's own exception means for its row."""
    missing = isinstance(exc, (ImportError, AttributeError, pickle.UnpicklingError))
    hint = "Install the same nbllm on every worker." if missing else ""
    killed = type(exc).__name__ == "KilledWorker"  # several workers died of it
    gone = isinstance(exc, (BrokenExecutor, RuntimeError)) and not killed
    lost = WorkerLost(
        f"A worker was lost: {errors.error_line(exc)}",
        hint=hint or ("Make a new executor; what was answered is kept." if gone else ""),
    )
    lost.is_lasting, lost.retryable = gone or missing, not killed
    return lost


def _unpacked(name: str, args: tuple[Any, ...], state: dict[str, Any]) -> errors.NbllmError:
    kind = WorkerRefused if name == WorkerRefused.__name__ else getattr(errors, name, errors.NbllmError)
    made: errors.NbllmError = kind.__new__(kind, *args)
    made.__dict__.update({"partial": None, "body": None, **state})
    return made


# --- on a worker --------------------------------------------------------------------------------------------


def answer(name: str, version: str, packed: bytes) -> Reply:
    """Asks on a worker. name: of the task, so that no two are equal where notebooks share their
    workers. Raises nothing: errors are in the reply, since not all of them can be pickled."""
    try:
        return _asked(version, packed)
    except errors.NbllmError as error:
        return Reply([], None, {}, _kept(_refused(error)))


def _asked(version: str, packed: bytes) -> Reply:
    if version != _VERSION:
        raise errors.ConfigError(
            f"This worker has nbllm {_VERSION}, the notebook has {version}.", hint="Install the same."
        )
    request, place, timeouts = pickle.loads(packed)  # noqa: S301 - from the notebook that this worker obeys
    client = _client(os.getpid())
    route = client.resolve(place.asked, place.base_url, place.dialect)
    route.check()
    row = route.provider
    if (origin(row.base_url), row.dialect) != (place.origin, place.spoken):
        raise errors.ConfigError(
            f"{place.asked} leads to {origin(row.base_url)} on this worker, "
            f"to {place.origin} in the notebook.",
            hint="Give both the same providers.toml.",
        )
    key = client.registry.key_for(route, None)
    stream = client.send(request, route, key=key, timeouts=timeouts, retries=Retries(attempts=0))
    try:
        stream.response()
    except errors.NbllmError:
        if not stream.traces:  # nothing was sent
            raise
    trace, error = stream.trace, stream.error
    headers = {n: v for n, v in trace.headers.items() if n in _TOLD_TOO or any(w in n for w in _TOLD)}
    events = [event for _, event in stream.log]
    return Reply(events, trace.status, headers, None if error is None else _kept(error))


@functools.cache
def _client(pid: int) -> Client:
    """A worker process's own: without limits, which are the notebook's to keep."""
    return Client(ledger=None, paced=False)


def _refused(error: errors.NbllmError) -> errors.NbllmError:
    """An error of this worker's own, with its name."""
    words = f"{error.message.rstrip('.')} (on the worker {platform.node()}, process {os.getpid()})."
    return WorkerRefused(words, hint=error.hint)


def _kept(error: errors.NbllmError) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    state = {name: value for name, value in vars(error).items() if name not in ("partial", "body")}
    return type(error).__name__, error.args, state
