"""Turns a request into its answer: finds the route, the options in force and the API key, then raises the
requested failures or plans the reply.

A Service has no socket; the connection writes the Answer that it returns.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from . import batches, contexts, faults, limits, plan, routes, scripts, strict
from .model_loading import LoadedModels
from .normalized_request import NormalizedRequest
from .options import BadOption, Options, mask_key, options_for, split_model
from .plan import Reply, WireEvent
from .protocols import PARSE_ERRORS, ApiError, Format, HttpRequest, encode, gemini, ollama
from .records import RecordBuilder, RequestLog

Framing = Literal["chunked", "length", "close"]
HEADER = "x-nbllm-sim"
_JSON = "application/json; charset=utf-8"
_MAX_NAME = 2_000  # characters of a model's name that are recorded
_REASON_STATUS = {("quota", "anthropic"): 400, ("quota", ""): 429, ("context", ""): 400}


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where and when a request arrived. port: the client's port; first: whether it is the first request on
    its connection; *_ns: monotonic nanoseconds."""

    port: int
    first: bool
    connected_ns: int
    received_ns: int
    created: float  # wall clock, seconds


@dataclass(slots=True)
class Answer:
    """What to send: the head at `head_at` seconds after the request was read, then the events. record: None
    for requests about the simulator itself, which are not recorded."""

    status: int
    headers: list[tuple[str, str]]
    events: Iterator[WireEvent]
    framing: Framing = "length"
    head_at: float = 0.0
    record: RecordBuilder | None = None
    model: str = ""


@dataclass(slots=True)
class Service:
    """The state of one simulator."""

    defaults: Options
    log: RequestLog
    loads: LoadedModels = field(default_factory=LoadedModels)
    batches: batches.BatchStore = field(default_factory=batches.BatchStore)
    contexts: contexts.Contexts = field(default_factory=contexts.Contexts)
    failures: dict[tuple[str, int], int] = field(default_factory=dict)
    limits: limits.Limits = field(default_factory=limits.Limits)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    token: str = field(default_factory=lambda: secrets.token_hex(4))

    def reset(self) -> None:
        """Deletes records, counted failures, loaded models, batches, cached contents and quotas."""
        self.log.clear()
        self.loads, self.batches, self.contexts = LoadedModels(), batches.BatchStore(), contexts.Contexts()
        self.failures, self.limits = {}, limits.Limits()

    def answer(self, http_request: HttpRequest, arrival: Arrival) -> Answer:
        """Answers a request."""
        format = routes.find_format(http_request)
        number = next(self.numbers)
        if format is None:
            return self._metadata_answer(http_request, arrival)
        id = f"{format.ID}{self.token}-{number:06d}"
        record = self.log.add(
            {
                "id": id,
                "protocol": format.NAME,
                "model": "",
                "path": mask_key(http_request.path),
                "method": http_request.method,
                "stream": False,
                "connection": arrival.port,
                "first": arrival.first,
                "connected_ns": arrival.connected_ns,
                "received_ns": arrival.received_ns,
            }
        )
        options = self.defaults
        limit_headers: dict[str, str] = {}
        try:
            request, options = self._parse(format, http_request, arrival.created)
            record.update(model=request.model[:_MAX_NAME], stream=request.stream, prompt=request.prompt[:200])
            quota_key = next(filter(None, _request_keys(http_request)), ""), request.model
            limit_headers, exhausted = self.limits.take(
                options, quota_key, arrival.received_ns / 1e9, arrival.created
            )
            if exhausted is not None:
                raise ApiError(
                    429,
                    reason="limit",
                    retry_after=exhausted.seconds_until_next if options.limits == "gemini" else None,
                )
            self._raise_planned_failure(format, options, request, number)
            strict.check(format.NAME, request, options)
            answer = self._model_answer(format, request, options, record, arrival)
        except ApiError as error:
            answer = _error_answer(format, error, id)
            answer.head_at = options.headers
        answer.headers += limit_headers.items()
        answer.record = record
        record.update(status=answer.status)
        return answer

    def _parse(
        self, format: Format, http_request: HttpRequest, now: float
    ) -> tuple[NormalizedRequest, Options]:
        """Returns the parsed request and the options in force. A wrong API key is reported before a malformed
        request, as providers do."""
        problem: ApiError | None = None
        request = NormalizedRequest("")
        try:
            request = (
                self.contexts.parse_request(http_request, now)
                if format is gemini
                else format.parse_request(http_request)
            )
        except ApiError as error:
            problem = error
        except PARSE_ERRORS as error:
            problem = _malformed_request(error)
        options = _options_in_force(self.defaults, request.model, http_request)
        _check_key(format, options, http_request)
        if problem:
            raise problem
        return replace(request, model=mask_key(request.model)), options

    def _raise_planned_failure(
        self, format: Format, o: Options, request: NormalizedRequest, number: int
    ) -> None:
        """Raises the failure that the options request, if one is due."""
        if o.status is None and o.why is None and o.fail_times is None and not o.fail_rate:
            return
        key = (request.model, zlib.crc32(repr(request.turns).encode(errors="replace")))
        failed = self.failures.get(key, 0)
        if o.fail_times is not None and failed >= o.fail_times:
            return
        if o.fail_rate and random.Random(f"{o.seed} {number}").random() >= o.fail_rate:
            return
        self.failures[key] = failed + 1
        overloaded_status = 529 if format.NAME == "anthropic" else 503
        status = (
            _REASON_STATUS.get((o.why or "", format.NAME))
            or _REASON_STATUS.get((o.why or "", ""))
            or overloaded_status
        )
        raise ApiError(o.status or status, reason=o.why or "", retry_after=o.retry_after)

    def _model_answer(
        self, format: Format, request: NormalizedRequest, o: Options, record: RecordBuilder, arrival: Arrival
    ) -> Answer:
        name, id = split_model(request.model)[0], str(record.fields["id"])
        keep_alive = ollama.keep_alive_seconds(request.extra.get("keep_alive"))
        load_s = self.loads.seconds_to_load(
            name, o.cold, o.idle if keep_alive is None else keep_alive, arrival.received_ns / 1e9
        )
        record.update(cold_s=load_s)
        if request.extra.get("idle"):
            if keep_alive == 0:
                self.loads.unload(name)
            return _single_event_answer(
                200,
                ollama.load_body(request, arrival.created, load_s),
                _JSON,
                id,
                WireEvent("done", b"", load_s),
            )
        try:
            if (step := scripts.current_step(request, o)) is not None and step.status:
                raise ApiError(step.status, retry_after=o.retry_after)
            reply = plan.plan_reply(request, o, id, arrival.created, load_s)
        except PARSE_ERRORS as error:
            raise _malformed_request(error) from None
        record.update(
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            reasoning_tokens=reply.reasoning_tokens,
        )
        answer = _streaming_answer(format, reply) if request.stream else _full_answer(format, reply)
        answer.headers += format.headers(id, reply.start_at).items()
        answer.model = name
        return answer

    def _metadata_answer(self, http_request: HttpRequest, arrival: Arrival) -> Answer:
        """Answers requests that no model answers: lists, counts, files, batches."""
        handler = _SIMULATOR_ROUTES.get((http_request.method, http_request.path))
        if handler:
            return _single_event_answer(200, handler(self), _JSON, "", WireEvent("done", b"", 0.0))
        try:
            options = _options_in_force(self.defaults, "", http_request)
            _check_key(routes.guess_format(http_request), options, http_request)
            if batch_answer := self.batches.answer(http_request, options, arrival.created):
                kind = "application/octet-stream" if isinstance(batch_answer[0], str) else _JSON
                answer = _single_event_answer(200, batch_answer[0], kind, "", WireEvent("done", b"", 0.0))
                answer.headers += batch_answer[1].items()
                return answer
            body = self.contexts.answer(http_request, arrival.created)
            if body is None:
                body = routes.metadata_body(http_request, self.loads.loaded(arrival.received_ns / 1e9))
        except (ApiError, *PARSE_ERRORS) as error:
            problem = error if isinstance(error, ApiError) else _malformed_request(error)
            return _error_answer(routes.guess_format(http_request), problem, "")
        return _single_event_answer(
            200, body, "text/plain" if isinstance(body, str) else _JSON, "", WireEvent("done", b"", 0.0)
        )


def _options_in_force(defaults: Options, model: str, http_request: HttpRequest) -> Options:
    try:
        return options_for(defaults, model, http_request.headers.get(HEADER, ""))
    except BadOption as error:
        raise ApiError(400, str(error)) from None


def _malformed_request(error: Exception) -> ApiError:
    return ApiError(400, f"The request is not of this format: {type(error).__name__} {str(error)[:200]}")


def _request_keys(http_request: HttpRequest) -> Iterable[str]:
    yield http_request.headers.get("authorization", "").partition(" ")[2].strip()
    yield from (http_request.headers.get(name, "") for name in ("x-api-key", "x-goog-api-key", "api-key"))
    yield http_request.query.get("key", "")


def _check_key(format: Format, o: Options, http_request: HttpRequest) -> None:
    """Raises ApiError for a wrong or missing API key: Gemini has 400 and 403, the other formats have 401. The
    option auth=1 accepts any key."""
    keys = [key for key in _request_keys(http_request) if key]
    if o.auth is None or o.auth in keys or (o.auth == "1" and keys):
        return
    if format.NAME == "gemini":
        raise ApiError(400, reason="key") if keys else ApiError(403)
    raise ApiError(401)


def _head(content_type: str, id: str) -> list[tuple[str, str]]:
    id_header = [("x-request-id", id)] if id else []
    return [
        ("content-type", content_type),
        *id_header,
        ("x-nbllm-simulated", "1"),
        ("server", "nbllm-simulator"),
    ]


def _single_event_answer(status: int, body: Any, content_type: str, id: str, event: WireEvent) -> Answer:
    """An answer of one event: `event` with `body` as its data. The head is sent at the same time."""
    data = body.encode() if isinstance(body, str) else encode(body)
    return Answer(
        status,
        [*_head(content_type, id), ("content-length", str(len(data)))],
        iter([event._replace(data=data)]),
        head_at=event.at,
    )


def _error_answer(format: Format, error: ApiError, id: str) -> Answer:
    answer = _single_event_answer(
        error.status, format.error_body(error, id), _JSON, id, WireEvent("error", b"", 0.0)
    )
    answer.headers += format.headers(id, 0.0).items() if id else ()
    if error.retry_after is not None and format.NAME != "gemini":
        answer.headers.append(("retry-after", f"{error.retry_after:g}"))
    return answer


def _streaming_answer(format: Format, reply: Reply) -> Answer:
    events = faults.with_faults(format.stream(reply), reply, format.PING, format.error_events)
    o = reply.options
    head = [*_head(format.content_type(reply.request), reply.id), ("cache-control", "no-cache")]
    framing: Framing = "close" if o.close else "chunked"
    head.append(("connection", "close") if o.close else ("transfer-encoding", "chunked"))
    return Answer(200, head, events, framing, o.headers)


def _full_answer(format: Format, reply: Reply) -> Answer:
    """A non-streaming answer is sent when the stream would have ended. The option `cut` drops its second
    half."""
    o, at = reply.options, max(reply.complete_at(), reply.options.headers)
    text = "".join(b.text for b in reply.blocks)
    answer = _single_event_answer(
        200,
        format.full_body(reply),
        _JSON,
        reply.id,
        WireEvent("content", b"", at, False, text, reply.output_tokens),
    )
    if o.cut is not None:
        full = next(answer.events)
        answer.events = iter(
            [
                WireEvent("content", full.data[: len(full.data) // 2], at),
                WireEvent("error", b"", at, fault=o.how),
            ]
        )
    return answer


def _reset(service: Service) -> Any:
    service.reset()
    return {"ok": True}


def _health(service: Service) -> Any:
    """`now_ns` is read from the clock of the records; `defaults` do not contain the API key."""
    defaults = {name: getattr(service.defaults, name) for name in Options.__slots__}
    return {
        "ok": True,
        "clock": "monotonic_ns",
        "now_ns": time.monotonic_ns(),
        "defaults": {**defaults, "auth": bool(defaults["auth"])},
    }


# Requests about the simulator itself.
_SIMULATOR_ROUTES: dict[tuple[str, str], Callable[[Service], Any]] = {
    ("GET", "/__sim/records"): lambda service: [record.as_dict() for record in service.log.snapshot()],
    ("POST", "/__sim/reset"): _reset,
    ("GET", "/__sim/health"): _health,
    ("GET", "/health"): lambda service: {
        "status": "ok"
    },  # the path that vLLM, llama.cpp and load balancers use
}
