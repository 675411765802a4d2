"""From a request to its answer: the route, the options in force, the key, the failures that were asked for,
the script.

A Service knows no socket; the connection plays the Answer it is given.
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
from .model_loading import Loads
from .normalized_request import Ask
from .options import BadOption, Options, chosen, masked, split
from .plan import Out, Reply
from .protocols import Format, Refused, Request, encode, gemini, ollama
from .records import Entry, Log

Framing = Literal["chunked", "length", "close"]
HEADER = "x-nbllm-sim"
ANY_KEY = "1"
_JSON = "application/json; charset=utf-8"
_NAME = 2_000  # characters of a model's name that are recorded
_ODD = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)  # what a value of a wrong type or size raises
_WHY_STATUS = {("quota", "anthropic"): 400, ("quota", ""): 429, ("context", ""): 400}


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where and when a request came: the client's port, whether it was the first there, monotonic
    nanoseconds."""

    port: int
    first: bool
    connected_ns: int
    received_ns: int
    created: float  # wall clock, seconds


@dataclass(slots=True)
class Answer:
    """What to send: the head at `head_at` seconds after the request was read, then the events. `entry` is
    None for questions about the simulator itself, which leave no record."""

    status: int
    headers: list[tuple[str, str]]
    outs: Iterator[Out]
    framing: Framing = "length"
    head_at: float = 0.0
    entry: Entry | None = None
    model: str = ""


@dataclass(slots=True)
class Service:
    """The state of one simulator."""

    defaults: Options
    log: Log
    loads: Loads = field(default_factory=Loads)
    batches: batches.Batches = field(default_factory=batches.Batches)
    contexts: contexts.Contexts = field(default_factory=contexts.Contexts)
    failures: dict[tuple[str, int], int] = field(default_factory=dict)
    limits: limits.Limits = field(default_factory=limits.Limits)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    token: str = field(default_factory=lambda: secrets.token_hex(4))

    def reset(self) -> None:
        """Forgets records, failures, loaded models, batches and what was kept of prompts."""
        self.log.clear()
        self.loads, self.batches, self.contexts = Loads(), batches.Batches(), contexts.Contexts()
        self.failures, self.limits = {}, limits.Limits()

    def answer(self, request: Request, came: Arrival) -> Answer:
        """The answer to `request`."""
        format = routes.answering(request)
        number = next(self.numbers)
        if format is None:
            return self._small(request, came)
        id = f"{format.ID}{self.token}-{number:06d}"
        entry = self.log.add(
            {
                "id": id,
                "protocol": format.NAME,
                "model": "",
                "path": masked(request.path),
                "method": request.method,
                "stream": False,
                "connection": came.port,
                "first": came.first,
                "connected_ns": came.connected_ns,
                "received_ns": came.received_ns,
            }
        )
        options = self.defaults
        told: dict[str, str] = {}
        try:
            ask, options = self._understood(format, request, came.created)
            entry.set(model=ask.model[:_NAME], stream=ask.stream, prompt=ask.prompt[:200])
            who = next(filter(None, _keys(request)), ""), ask.model
            told, spent = self.limits.take(options, who, came.received_ns / 1e9, came.created)
            if spent is not None:
                raise Refused(
                    429, why="limit", retry_after=spent.wait if options.limits == "gemini" else None
                )
            self._fail(format, options, ask, number)
            strict.check(format.NAME, ask, options)
            answer = self._spoken(format, ask, options, entry, came)
        except Refused as refused:
            answer = _refusal(format, refused, id)
            answer.head_at = options.headers
        answer.headers += told.items()
        answer.entry = entry
        entry.set(status=answer.status)
        return answer

    def _understood(self, format: Format, request: Request, now: float) -> tuple[Ask, Options]:
        """What is asked and the options in force. A wrong key is told before a wrong request, as providers
        do."""
        problem: Refused | None = None
        ask = Ask("")
        try:
            ask = self.contexts.ask(request, now) if format is gemini else format.ask(request)
        except Refused as refused:
            problem = refused
        except _ODD as error:
            problem = _odd(error)
        options = _options(self.defaults, ask.model, request)
        _check_key(format, options, request)
        if problem:
            raise problem
        return (replace(ask, model=masked(ask.model)) if "auth=" in ask.model else ask), options

    def _fail(self, format: Format, o: Options, ask: Ask, number: int) -> None:
        """Raises the failure that is due, if one is."""
        if o.status is None and o.why is None and o.fail_times is None and not o.fail_rate:
            return
        key = (ask.model, zlib.crc32(repr(ask.turns).encode(errors="replace")))
        failed = self.failures.get(key, 0)
        if o.fail_times is not None and failed >= o.fail_times:
            return
        if o.fail_rate and random.Random(f"{o.seed} {number}").random() >= o.fail_rate:
            return
        self.failures[key] = failed + 1
        usual = 529 if format.NAME == "anthropic" else 503
        named = _WHY_STATUS.get((o.why or "", format.NAME)) or _WHY_STATUS.get((o.why or "", "")) or usual
        raise Refused(o.status or named, why=o.why or "", retry_after=o.retry_after)

    def _spoken(self, format: Format, ask: Ask, o: Options, entry: Entry, came: Arrival) -> Answer:
        name, id = split(ask.model)[0], str(entry.fields["id"])
        keep = ollama.seconds(ask.extra.get("keep_alive"))
        load = self.loads.ask(name, o.cold, o.idle if keep is None else keep, came.received_ns / 1e9)
        entry.set(cold_s=load)
        if ask.extra.get("idle"):
            if keep == 0:
                self.loads.unload(name)
            return _one(200, ollama.silent(ask, came.created, load), _JSON, id, Out("done", b"", load))
        try:
            if (step := scripts.step(ask, o)) is not None and step.status:
                raise Refused(step.status, retry_after=o.retry_after)
            reply = plan.reply(ask, o, id, came.created, load)
        except _ODD as error:
            raise _odd(error) from None
        entry.set(input_tokens=reply.input, output_tokens=reply.output, reasoning_tokens=reply.reasoning)
        answer = _streamed(format, reply) if ask.stream else _whole(format, reply)
        answer.headers += format.headers(id, reply.start).items()
        answer.model = name
        return answer

    def _small(self, request: Request, came: Arrival) -> Answer:
        """Lists, counts and what else is answered at once."""
        own = _OWN.get((request.method, request.path))
        if own:
            return _one(200, own(self), _JSON, "", Out("done", b"", 0.0))
        try:
            options = _options(self.defaults, "", request)
            _check_key(routes.speaks(request), options, request)
            if found := self.batches.answer(request, options, came.created):
                kind = "application/octet-stream" if isinstance(found[0], str) else _JSON
                answer = _one(200, found[0], kind, "", Out("done", b"", 0.0))
                answer.headers += found[1].items()
                return answer
            body = self.contexts.answer(request, came.created)
            if body is None:
                body = routes.small(request, self.loads.loaded(came.received_ns / 1e9))
        except _ODD as error:
            return _refusal(routes.speaks(request), _odd(error), "")
        except Refused as refused:
            return _refusal(routes.speaks(request), refused, "")
        return _one(200, body, "text/plain" if isinstance(body, str) else _JSON, "", Out("done", b"", 0.0))


def _options(defaults: Options, model: str, request: Request) -> Options:
    try:
        return chosen(defaults, model, request.headers.get(HEADER, ""))
    except BadOption as error:
        raise Refused(400, str(error)) from None


def _odd(error: Exception) -> Refused:
    return Refused(400, f"The request is not of this format: {type(error).__name__} {str(error)[:200]}")


def _keys(request: Request) -> Iterable[str]:
    yield request.headers.get("authorization", "").partition(" ")[2].strip()
    yield from (request.headers.get(name, "") for name in ("x-api-key", "x-goog-api-key", "api-key"))
    yield request.query.get("key", "")


def _check_key(format: Format, o: Options, request: Request) -> None:
    """Gemini answers a wrong key with 400 and a missing one with 403, the others with 401."""
    given = [key for key in _keys(request) if key]
    if o.auth is None or o.auth in given or (o.auth == ANY_KEY and given):
        return
    if format.NAME == "gemini":
        raise Refused(400, why="key") if given else Refused(403)
    raise Refused(401)


def _head(media: str, id: str) -> list[tuple[str, str]]:
    named = [("x-request-id", id)] if id else []
    return [("content-type", media), *named, ("x-nbllm-simulated", "1"), ("server", "nbllm-simulator")]


def _one(status: int, body: Any, media: str, id: str, out: Out) -> Answer:
    """An answer of one event, `out` with the body in it, whose head comes with it."""
    data = body.encode() if isinstance(body, str) else encode(body)
    return Answer(
        status,
        [*_head(media, id), ("content-length", str(len(data)))],
        iter([out._replace(data=data)]),
        head_at=out.at,
    )


def _refusal(format: Format, refused: Refused, id: str) -> Answer:
    answer = _one(refused.status, format.error(refused, id), _JSON, id, Out("error", b"", 0.0))
    answer.headers += format.headers(id, 0.0).items() if id else ()
    if refused.retry_after is not None and format.NAME != "gemini":
        answer.headers.append(("retry-after", f"{refused.retry_after:g}"))
    return answer


def _streamed(format: Format, reply: Reply) -> Answer:
    outs = faults.woven(format.stream(reply), reply, format.PING, format.broken)
    o = reply.options
    head = [*_head(format.media(reply.ask), reply.id), ("cache-control", "no-cache")]
    framing: Framing = "close" if o.close else "chunked"
    head.append(("connection", "close") if o.close else ("transfer-encoding", "chunked"))
    return Answer(200, head, outs, framing, o.headers)


def _whole(format: Format, reply: Reply) -> Answer:
    """An answer in one piece comes when the stream would have ended. A cut leaves half of it."""
    o, at = reply.options, max(reply.whole_at(), reply.options.headers)
    text = "".join(b.text for b in reply.blocks)
    answer = _one(
        200, format.whole(reply), _JSON, reply.id, Out("content", b"", at, False, text, reply.output)
    )
    if o.cut is not None:
        full = next(answer.outs)
        answer.outs = iter(
            [Out("content", full.data[: len(full.data) // 2], at), Out("error", b"", at, act=o.how)]
        )
    return answer


def _reset(service: Service) -> Any:
    service.reset()
    return {"ok": True}


def _health(service: Service) -> Any:
    """`now_ns` is the clock of the records; `defaults` are shown without the key."""
    defaults = {name: getattr(service.defaults, name) for name in Options.__slots__}
    return {
        "ok": True,
        "clock": "monotonic_ns",
        "now_ns": time.monotonic_ns(),
        "defaults": {**defaults, "auth": bool(defaults["auth"])},
    }


# What can be asked of the simulator itself.
_OWN: dict[tuple[str, str], Callable[[Service], Any]] = {
    ("GET", "/__sim/records"): lambda service: [record.as_dict() for record in service.log.snapshot()],
    ("POST", "/__sim/reset"): _reset,
    ("GET", "/__sim/health"): _health,
    ("GET", "/health"): lambda service: {"status": "ok"},  # as vLLM, llama.cpp and load balancers ask
}
