"""Sends rows from other threads, processes and machines: `executor=` takes any concurrent.futures.Executor,
and a client of dask.distributed.

Theory. Only the last step of the pipeline runs on a worker: it gets the request, and the names by which it
finds provider and key in its own configuration. All decisions (limits, budgets, retries, failover, cached
answers, the file of the run) stay here, where one gate sees all rows. A key is never pickled. An executor
gets no more rows at once than the width of the run, so a worker that dies takes few rows with it; a result is
released as soon as it is recorded.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import pickle
import platform
import re
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
_MAX_QUEUED = 32  # at most so many rows are queued at the workers, in addition to the running ones
_LIMIT_HEADERS = re.compile(r"rate-?limit|retry-after")  # names of headers that the gate reads
_OTHER_HEADERS = ("date", "x-nbllm-simulated")


class WorkerLost(errors.TransportError):
    """A worker, or the connection to it, was lost before its answer came. is_lasting: there are no other
    workers. retryable: another worker may be tried."""

    is_lasting, retryable = False, True


class WorkerRefused(errors.ConfigError):
    """A worker cannot send requests: it has no key, or another version of nbllm. This concerns every row."""

    is_lasting = True


class ExecutorError(errors.ConfigError):
    """Something that is not an executor, or that an executor cannot send."""


class RemoteRoute(NamedTuple):
    """The route of a row as names that a worker resolves. name: of the model; expected_origin and
    expected_dialect: where it leads in the notebook, which the worker checks."""

    name: str
    base_url: str | None
    dialect: str | None
    expected_origin: str
    expected_dialect: str

    @classmethod
    def of(cls, route: Route, base_url: str | None) -> RemoteRoute:
        """base_url: that of the run. Raises ConfigError where it contains a password."""
        row = route.provider
        if base_url is not None and display_url(base_url) != base_url:
            raise ExecutorError(
                "base_url contains a password, which would be sent with every row.",
                hint="Give the workers a row in their providers.toml, or a key in their environment.",
            )
        expected = (origin(row.base_url), row.dialect)
        if route.simulated or base_url is not None:
            name = route.model if route.simulated else route.name
            return cls(name, row.base_url, row.dialect, *expected)
        return cls(f"{row.name}/{route.model}", None, None, *expected)


class Reply(NamedTuple):
    """The result of a worker: events, status and some headers, and the error that ended them as (name of its
    type, arguments, attributes)."""

    events: list[Event]
    status: int | None
    headers: dict[str, str]
    error: tuple[str, tuple[Any, ...], dict[str, Any]] | None


# --- in the notebook ----------------------------------------------------------------------------------------


def resolve_executor(value: Any) -> Executor:
    """The value itself if it is an executor, or the executor of a client of dask.distributed. Raises
    ConfigError for anything else."""
    if not isinstance(value, Executor) and hasattr(value, "get_executor"):
        value = value.get_executor(pure=False, retries=0)
    if not isinstance(value, Executor):
        raise ExecutorError(
            f"executor= takes a concurrent.futures.Executor, not {type(value).__name__}.",
            hint="For example ThreadPoolExecutor(8), or dask.distributed.Client(...).",
        )
    client = getattr(value, "_client", None)
    if client is not None and not (client.nthreads() or getattr(client.cluster, "_adaptive", None)):
        raise ExecutorError(
            "The cluster has no workers: the rows would wait forever.",
            hint="client.wait_for_workers(1) waits for one. Stop in a notebook also ends the workers of a "
            "LocalCluster that the notebook started: create a new one.",
        )
    return value


def width_of(executor: Executor) -> int | None:
    """The number of rows that keeps all workers busy; None where it is unknown."""
    client = getattr(executor, "_client", None)
    slots = sum(client.nthreads().values()) if client is not None else getattr(executor, "_max_workers", None)
    return slots + min(slots, _MAX_QUEUED) if isinstance(slots, int) and slots > 0 else None


class _WorkerKeys(Registry):
    """A registry that needs no keys: the workers have their own."""

    def key_for(self, route: Route, explicit: str | Secret | None) -> Secret | None:
        """The local key, which identifies the rate limits, or a placeholder for the workers'. Never sent."""
        if explicit is not None:
            raise ExecutorError(
                "api_key= cannot be used with executor=: a key never leaves this process.",
                hint="Set the key in the environment of the workers, or in their providers.toml.",
            )
        key = super().key_for(route, None)
        return key or (None if route.provider.local else Secret("key", "the worker"))


def client_for(client: Client, executor: Executor, base_url: str | None) -> Client:
    """A client that sends by the executor, and shares everything else with `client`."""
    remote = copy.copy(client)
    registry = client.registry
    names = [name for name in registry.__struct_fields__ if name[0] != "_"]
    remote.registry = _WorkerKeys(**{name: getattr(registry, name) for name in names})
    remote.sender = make_sender(executor, base_url)
    return remote


def check(client: Client, attempt: Attempt, base_url: str | None) -> None:
    """Raises ConfigError for a call that cannot run on a worker, such as one to a command-line agent."""
    if client.sender is not None:
        if not attempt.call.rate_limited:
            raise ExecutorError(
                f"{attempt.provider_label} is a command on this machine, and cannot be used with executor=.",
                hint="Leave executor= out.",
            )
        _pickle_attempt(attempt, base_url)


def _pickle_attempt(attempt: Attempt, base_url: str | None) -> bytes:
    try:
        return pickle.dumps((attempt.request, RemoteRoute.of(attempt.route, base_url), attempt.timeouts))
    except errors.NbllmError:
        raise
    except Exception as exc:  # noqa: BLE001 - pickling an object may raise anything
        raise ExecutorError(
            f"What would be sent to a worker cannot be pickled: {errors.error_line(exc)}",
            hint="Give plain values, or leave executor= out.",
        ) from None


def make_sender(executor: Executor, base_url: str | None) -> Handler:
    """The lowest handler: has a worker send an attempt. A row whose worker was lost is submitted once
    more."""

    async def send(attempt: Attempt, sink: Sink) -> None:
        trace = sink.begin(attempt)
        trace.non_streaming = True  # the times of its tokens are unknown here
        packed = _pickle_attempt(attempt, base_url)
        try:
            try:
                reply = await _submit(executor, packed)
            except WorkerLost as lost:
                if lost.is_lasting or not lost.retryable:
                    raise
                reply = await _submit(executor, packed)
            trace.status, trace.headers = reply.status, reply.headers
            for event in reply.events:
                sink.publish(event)
            if reply.error is not None:
                raise _to_error(*reply.error)
        except errors.NbllmError as error:
            trace.error = error.scrub_secrets(attempt.guard.secrets).with_traceback(None)
            raise error from None

    return send


async def _submit(executor: Executor, packed: bytes) -> Reply:
    """A worker's reply. Raises WorkerLost."""
    try:
        future = executor.submit(run_on_worker, uuid4().hex, _VERSION, packed)
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise WorkerLost("The executor cancelled the row.") from None
    except Exception as exc:  # noqa: BLE001 - executors raise many kinds
        raise _worker_lost(exc) from None


def _worker_lost(exc: Exception) -> WorkerLost:
    """The error of a row whose executor raised `exc`."""
    is_missing = isinstance(exc, (ImportError, AttributeError, pickle.UnpicklingError))
    hint = "Install the same nbllm on every worker." if is_missing else ""
    is_killed = type(exc).__name__ == "KilledWorker"  # several workers died while running this row
    is_gone = isinstance(exc, (BrokenExecutor, RuntimeError)) and not is_killed
    lost = WorkerLost(
        f"A worker was lost: {errors.error_line(exc)}",
        hint=hint or ("Create a new executor; all answers so far are stored." if is_gone else ""),
    )
    lost.is_lasting, lost.retryable = is_gone or is_missing, not is_killed
    return lost


def _to_error(name: str, args: tuple[Any, ...], state: dict[str, Any]) -> errors.NbllmError:
    kind = WorkerRefused if name == WorkerRefused.__name__ else getattr(errors, name, errors.NbllmError)
    error: errors.NbllmError = kind.__new__(kind, *args)
    error.__dict__.update({"partial": None, "body": None, **state})
    return error


# --- on a worker --------------------------------------------------------------------------------------------


def run_on_worker(name: str, version: str, packed: bytes) -> Reply:
    """Sends a request on a worker. name: of the task, unique even where notebooks share their workers. Raises
    nothing: errors are in the reply, since not all of them can be pickled."""
    try:
        return _send_on_worker(version, packed)
    except errors.NbllmError as error:
        return Reply([], None, {}, _error_state(_worker_refused(error)))


def _send_on_worker(version: str, packed: bytes) -> Reply:
    if version != _VERSION:
        raise errors.ConfigError(
            f"This worker has nbllm {_VERSION}, the notebook has {version}.", hint="Install the same version."
        )
    request, target, timeouts = pickle.loads(packed)  # noqa: S301 - from the notebook that this worker obeys
    client = _client(os.getpid())
    route = client.resolve(target.name, target.base_url, target.dialect)
    route.check()
    row = route.provider
    if (origin(row.base_url), row.dialect) != (target.expected_origin, target.expected_dialect):
        raise errors.ConfigError(
            f"{target.name} leads to {origin(row.base_url)} on this worker, "
            f"but to {target.expected_origin} in the notebook.",
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
    headers = {n: v for n, v in trace.headers.items() if n in _OTHER_HEADERS or _LIMIT_HEADERS.search(n)}
    events = [event for _, event in stream.log]
    return Reply(events, trace.status, headers, None if error is None else _error_state(error))


@functools.cache
def _client(pid: int) -> Client:
    """The client of a worker process, without limits: the notebook enforces them."""
    return Client(ledger=None, paced=False)


def _worker_refused(error: errors.NbllmError) -> errors.NbllmError:
    """An error of this worker's configuration, with the worker's name."""
    message = f"{error.message.rstrip('.')} (on the worker {platform.node()}, process {os.getpid()})."
    return WorkerRefused(message, hint=error.hint)


def _error_state(error: errors.NbllmError) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    state = {name: value for name, value in vars(error).items() if name not in ("partial", "body")}
    return type(error).__name__, error.args, state
