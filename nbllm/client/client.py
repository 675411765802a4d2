"""The one path every reply takes: resolve the name, encode, send, decode, retry, and write it all into a
Stream."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from ..agents.base import spoken
from ..agents.opencode_server import OpenCodeTransport, SessionReply
from ..agents.process import ProcessReply, ProcessTransport
from ..agents.protocols import keep as keep_talking
from ..agents.sessions import KeptReply, KeptTransport
from ..core import addresses, errors
from ..core import prompt as prompts
from ..core.calls import (
    AnyCall,
    Arrival,
    Decoder,
    Dialect,
    Frame,
    Guard,
    HttpCall,
    ProcessCall,
    Provider,
    Secret,
    SessionCall,
    TalkCall,
    Trace,
    shown,
)
from ..core.events import Fold, Notice, Response, is_token, total
from ..core.messages import Effort, Request, Tool
from ..core.schema import provider_schema
from ..dialects._media import left_out
from ..http.stamps import stalls_since
from ..http.transport import HttpTransport, Letter, Reply
from ..routing import prices
from ..routing.registry import DEFAULT_MODEL, Registry, Route, load
from ..store.ledger import Ledger
from ..store.measure import Call
from ..tools.mcp_servers import Servers
from . import policy
from .agent import Approve, Asker, Tools, ToolUse
from .engine import Engine, engine
from .policy import Retries
from .stream import Stream, retry_notice

T = TypeVar("T")
AnyLetter = Letter | ProcessCall | TalkCall | SessionCall
AnyReply = Reply | ProcessReply | KeptReply | SessionReply
ANSWER_LIMIT = (
    128 * 2**20
)  # characters of an answer's messages: 500,000 chunks, or a text that no notebook can hold
# seconds that a server gets to end the body after its own end mark, so that the connection can be used again
_DRAIN = 0.5


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for none. connect: name look-up, TCP and TLS. first: call to first token. idle:
    between two messages of the provider. total: call to end, retries included."""

    connect: float | None = 10.0
    first: float | None = 120.0
    idle: float | None = 60.0
    total: float | None = None

    @classmethod
    def of(cls, given: float | Mapping[str, float | None] | Timeouts | None) -> Timeouts:
        """From seconds in total, or a mapping of the names above. Raises ConfigError for other names and for
        non-positive values."""
        if isinstance(given, Timeouts):
            return given
        values = dict(given) if isinstance(given, Mapping) else {} if given is None else {"total": given}
        names = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in names or (value is not None and not value > 0):
                raise errors.ConfigError(
                    f"Not a time limit: {name}={value!r}.",
                    hint=f"Limits are {', '.join(names)}, in seconds above 0.",
                )
        return replace(cls(), **values)


class CallOptions(TypedDict, total=False):
    """The options of a call, as Client.stream takes them."""

    system: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Iterable[str]
    seed: int | None
    reasoning: Effort | int | None
    tools: Tools
    tool_choice: str | None
    schema: Any
    base_url: str | None
    dialect: str | None
    api_key: str | Secret | None
    timeout: float | Mapping[str, float | None] | Timeouts | None
    retries: int | Retries | None
    extra: Mapping[str, Any] | None
    keep: bool
    max_steps: int | None
    approve: Approve | None
    budget: float | Mapping[str, float] | None
    compact: str | float | None


def sealed(options: CallOptions) -> CallOptions:
    """The options with the key made a Secret, so that no traceback that shows local variables can show it."""
    key = options.get("api_key")
    return {**options, "api_key": Secret(key)} if isinstance(key, str) else options


@dataclass(slots=True)
class _Pool:
    """The engine in use, and the connections and commands that live on it; all are replaced together, after a
    fork or a close."""

    engine: Engine | None = None
    http: HttpTransport = field(default_factory=HttpTransport)
    processes: ProcessTransport = field(default_factory=ProcessTransport)
    kept: KeptTransport = field(init=False)
    opencode: OpenCodeTransport = field(init=False)

    def __post_init__(self) -> None:
        self.kept = KeptTransport(self.processes)
        self.opencode = OpenCodeTransport(self.http, self.processes)

    def send(
        self, letter: AnyLetter, trace: Trace, connect: float | None
    ) -> AbstractAsyncContextManager[AnyReply]:
        """What is sent, by the way that is its own."""
        if isinstance(letter, TalkCall):
            return self.kept.send(letter, trace)
        if isinstance(letter, ProcessCall):
            return self.processes.send(letter, trace)
        if isinstance(letter, SessionCall):
            return self.opencode.send(letter, trace, connect)
        return self.http.send(letter, trace, connect)

    async def close(self) -> None:
        """Closes sessions and connections, and ends commands that stay."""
        await asyncio.gather(self.opencode.close(), self.kept.close())
        await asyncio.gather(self.http.close(), self.processes.close())


class Client:
    """Configuration and connections for calls. The module's functions use one that is shared; make another
    for other rows, aliases or keys. Safe to use from any thread. `ledger` remembers its calls in numbers;
    ledger=None for none."""

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        ledger: Ledger | Literal["new"] | None = "new",
    ) -> None:
        self.registry = registry or load()
        self.ledger = Ledger() if ledger == "new" else ledger
        self.timeouts, self.retries = timeouts or Timeouts(), retries or Retries()
        self.asker: Asker | None = None  # asks the person before a tool runs
        self._pool = _Pool()
        self._mcp = Servers.of(lambda: self.registry)

    def _engine(self) -> Engine:
        current = engine()
        if self._pool.engine is not current:
            self._pool = _Pool(current)
            current.at_close(self._pool.close)
            current.at_close(self._mcp.close)
        return current

    def close(self) -> None:
        """Closes this client's connections, and ends the commands that it keeps. The next call opens new
        ones."""
        pool, self._pool = self._pool, _Pool()
        if pool.engine is engine():
            pool.engine.run(self._ended(pool), 5.0)

    async def _ended(self, pool: _Pool) -> None:
        await self._mcp.close()
        await pool.close()

    def resolve(self, model: str, base_url: str | None = None, dialect: str | None = None) -> Route:
        """Where `model` leads; for "auto", the first provider with a key, a reachable Ollama, or the
        simulator."""
        if dialect is not None and dialect not in self.registry.dialects:
            raise errors.ConfigError(
                f"No dialect is called {dialect!r}.", hint=f"There are {', '.join(self.registry.dialects)}."
            )
        return (
            self._auto()
            if model == "auto" and base_url is None
            else self.registry.resolve(model, base_url, dialect)
        )

    def _auto(self) -> Route:
        # a provider with a key in `.env`, which may be somebody else's: what has the user's own key comes
        # first
        beside = ""
        for name, row in self.registry.rows.items() if not self.registry.simulating else ():
            key = self._key_of(name) if not row.local else None
            if key is not None and not key.beside:
                return replace(
                    self.registry.resolve(name),
                    asked="auto",
                    why=f"{row.label or name} has a key ({key.source})",
                )
            beside = beside or (f"{name} {key.source}" if key is not None else "")
        ollama = self.registry.rows.get("ollama")
        if ollama and not self.registry.simulating and self.check(self.registry.address(ollama)).result():
            return replace(
                self.registry.resolve("ollama"), asked="auto", why="no key was found, and Ollama answers here"
            )
        if beside:
            name, _, source = beside.partition(" ")
            return replace(
                self.registry.resolve(name),
                asked="auto",
                why=f"no other key and no Ollama was found, and {source} is one: whoever put it there may "
                f"read what is asked",
            )
        return replace(
            self.registry.resolve("sim/openai"),
            asked="auto",
            why="no key and no Ollama was found: the simulator answers",
        )

    def _key_of(self, name: str) -> Secret | None:
        try:
            return self.registry.key_for(self.registry.resolve(name), None)
        except errors.AuthenticationError:  # a login that has ended; another provider may answer
            return None

    def check(self, url: str, timeout: float = 0.5) -> Future[bool]:
        """Whether something listens at the address, within `timeout` seconds; asked at once, answered in the
        future."""
        return self._engine().submit(_listens(url, timeout))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the engine's loop, where `http` lives, and waits for it."""
        return self._engine().run(work)

    @property
    def processes(self) -> ProcessTransport:
        """Where commands are run; to be used on the engine's loop only."""
        self._engine()
        return self._pool.processes

    @property
    def opencode(self) -> OpenCodeTransport:
        """The sessions with OpenCode's servers; to be used on the engine's loop only."""
        self._engine()
        return self._pool.opencode

    @property
    def http(self) -> HttpTransport:
        """The connection pool; to be used on the engine's loop only."""
        self._engine()
        return self._pool.http

    @property
    def mcp(self) -> Servers:
        """The MCP servers that can be named in tools=; what is awaited of them is awaited on the engine's
        loop."""
        self._engine()
        return self._mcp

    def request(
        self,
        prompt: prompts.Prompt,
        model: str,
        *,
        system: str | None = None,
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        schema: Any = None,
        stop: str | Iterable[str] = (),
        extra: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Request:
        """The Request for `prompt`, with `model` as the provider's own name."""
        return Request(
            model=model,
            messages=prompts.messages(prompt, system),
            tools=prompts.tools(tools),
            schema=prompts.schema(schema),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            extra=dict(extra or {}),
            **options,
        )

    def stream(
        self,
        prompt: prompts.Prompt,
        model: str = DEFAULT_MODEL,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        reasoning: Effort | int | None = None,
        tools: Tools = (),
        tool_choice: str | None = None,
        schema: Any = None,
        base_url: str | None = None,
        dialect: str | None = None,
        api_key: str | Secret | None = None,
        timeout: float | Mapping[str, float | None] | Timeouts | None = None,
        retries: int | Retries | None = None,
        extra: Mapping[str, Any] | None = None,
        keep: bool = False,
        max_steps: int | None = None,
        approve: Approve | None = None,
        budget: float | Mapping[str, float] | None = None,
        compact: str | float | None = None,
    ) -> Stream:
        """Asks `model` and returns its reply at once, as a Stream that grows.

        prompt: text, parts, or messages. timeout: seconds in total, or a mapping of connect, first, idle,
        total (of each turn, where tools run). tools: functions, which run when the reply is read, on the
        thread that reads it, and descriptions of tools without code, whose calls are handed over in
        `Response.tool_calls`. approve: "ask" the user before a call (the default; no, where nobody can
        answer), "auto" runs all, "never" none but those that only read, or a function that is given a
        Question and answers True, "always" or False. max_steps: turns of the model (10). budget: US dollars,
        or a mapping of usd and tokens, after which no further turn uses tools. compact: when a conversation
        is shortened, results of tools first, then all but the last turns by a summary of the same model:
        "auto" at 0.8 of what the model reads, where that is known (the default with tools), "off", a share,
        or a number of tokens. retries: how often to ask again while nothing has been shown. extra: merged
        into the request body as it is. keep: a headless CLI stays for the next call, which is then answered
        sooner; a conversation goes on in the one that heard it. Raises ConfigError for what is wrong on this
        side; what the provider does shows when the stream is read.
        """
        return self.ask(
            prompt,
            self.resolve(model, base_url, dialect),
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            seed=seed,
            reasoning=reasoning,
            tools=tools,
            tool_choice=tool_choice,
            schema=schema,
            api_key=api_key,
            timeout=timeout,
            retries=retries,
            extra=extra,
            keep=keep,
            max_steps=max_steps,
            approve=approve,
            budget=budget,
            compact=compact,
        )

    def ask(
        self,
        prompt: prompts.Prompt,
        route: Route,
        *,
        api_key: str | Secret | None = None,
        timeout: float | Mapping[str, float | None] | Timeouts | None = None,
        retries: int | Retries | None = None,
        keep: bool = False,
        tools: Tools = (),
        max_steps: int | None = None,
        approve: Approve | None = None,
        budget: float | Mapping[str, float] | None = None,
        compact: str | float | None = None,
        **options: Any,
    ) -> Stream:
        """As stream, where a name has been resolved already; `options` as Client.request takes them."""
        api_key = Secret(api_key) if isinstance(api_key, str) else api_key
        options["schema"] = provider_schema(options.get("schema"))
        using = ToolUse.of(
            tools,
            lambda: self.http,
            self._mcp.toolset,
            max_steps=max_steps,
            approve=approve,
            budget=budget,
            compact=compact,
            window=lambda: prices.facts(route.model, route.provider).context,
        )
        request = self.request(prompt, route.model, tools=using.told, **options)
        limits = self.timeouts if timeout is None else Timeouts.of(timeout)
        patience = (
            self.retries
            if retries is None
            else retries
            if isinstance(retries, Retries)
            else Retries(attempts=retries)
        )
        key = self.registry.key_for(route, api_key)

        def send(request: Request) -> Stream:
            return self.send(request, route, key=key, timeouts=limits, retries=patience, keep=keep)

        return self._use(using, request, route, key, send) if using.runs else send(request)

    def _use(
        self,
        using: ToolUse,
        request: Request,
        route: Route,
        key: Secret | None,
        send: Callable[[Request], Stream],
    ) -> Stream:
        """Asks a model whose tools run. Raises ConfigError for what can be known to be wrong before that."""
        guard, running = Guard.of(route.provider, key), self._engine()
        self._prepare(request, route, key, guard, running)
        ask = self.asker

        async def work() -> None:
            await using.run(stream, request, send, ask)

        stream = Stream(lambda fold, s: _summed(fold, s, request, route, guard))
        return stream.start(running, work())

    def complete(
        self, prompt: prompts.Prompt, model: str = DEFAULT_MODEL, **options: Unpack[CallOptions]
    ) -> Response:
        """As stream, but waits for the end and gives the Response. Works inside a running event loop too."""
        options = sealed(options)
        return self.stream(prompt, model, **options).response()

    def send(
        self,
        request: Request,
        route: Route,
        *,
        key: Secret | None,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        fresh: bool = False,
        keep: bool = False,
    ) -> Stream:
        """Sends a Request that is made already; `fresh` over a new connection, or to a new command; `keep` as
        in stream. Raises ConfigError where no key is found for a provider that needs one. On the engine's own
        thread, what `http.prepare` makes must be there already."""
        guard, running = Guard.of(route.provider, key), self._engine()
        dialect = self.registry.dialects[route.provider.dialect]
        letter = self._prepare(request, route, key, guard, running, keep=keep, fresh=fresh)
        stream = Stream(lambda fold, s: _answer(fold, s, request, route, guard))
        job = _Job(
            stream,
            letter,
            dialect,
            route,
            guard,
            key,
            timeouts or self.timeouts,
            retries or self.retries,
            self._pool,
        )
        if left := left_out(request, route.provider.dialect):
            stream.publish(
                Notice(
                    "media",
                    f"{left} not sent back: {route.provider.label or route.provider.name} takes no such "
                    f"file from a model",
                )
            )
        if self.ledger is not None:
            self.ledger.note(
                stream, Call(request, route.provider, route.asked, route.simulated, self.ledger.epoch)
            )
        return stream.start(running, job.run())

    def _prepare(
        self,
        request: Request,
        route: Route,
        key: Secret | None,
        guard: Guard,
        running: Engine,
        *,
        keep: bool = False,
        fresh: bool = False,
    ) -> AnyLetter:
        """A request as it will be sent, and what it needs of the network's libraries made."""
        try:
            call = self.encode(request, route, key, keep=keep)
            if (
                isinstance(call, HttpCall)
                and not running.is_here()
                and not self._pool.http.prepared(call.url)
            ):
                running.run(self._pool.http.prepare(call.url))
            return _letter(call, fresh=fresh)
        except errors.NbllmError as error:
            raise error.scrubbed(guard.texts).with_traceback(None) from None  # whose frames hold the key

    def encode(self, request: Request, route: Route, key: Secret | None, *, keep: bool = False) -> AnyCall:
        """The call that `request` becomes; nothing is sent. Raises ConfigError where the route has a
        problem, and for keep where the provider has no such mode."""
        route.check()
        row = route.provider
        if key is None and not row.local:
            raise self.no_key(row)
        if (
            keep and not route.simulated and row.dialect != "opencode_server"
        ):  # whose sessions stay in any case
            return keep_talking(request, row, key)
        return guarded(self.registry.dialects[row.dialect].encode(request, row, key), row, key)

    def no_key(self, row: Provider) -> errors.ConfigError:
        """The error that says which key is missing and how to give one."""
        where = f" (a key comes from {row.key_url})" if row.key_url else ""
        return errors.ConfigError(
            f"No key for {row.label or row.name}: {' and '.join(row.key_env) or 'its key'} is not "
            f"set{where}.",
            hint=f"Log in: %llm key login {row.name}."
            if row.oauth
            else f"Set {row.key_env[0] if row.key_env else 'it'} in the environment, or type `%llm key "
            f"{row.name}`. "
            f"To try without a key: `%llm simulate on`, or model=sim/{row.name.partition('_')[0]}.",
        )


def guarded(call: AnyCall, row: Provider, key: Secret | None) -> AnyCall:
    """The call with what of it is secret, and where that may go: the row's to the row's address, the key to
    its own, which is the row's where nobody said another."""
    if not isinstance(call, (HttpCall, SessionCall)):
        return call
    return replace(call, guard=Guard.of(row, key.at(row.base_url) if key is not None else None))


def _letter(call: AnyCall, *, fresh: bool) -> AnyLetter:
    """The call, ready to be sent."""
    if isinstance(call, HttpCall):
        return Letter(call, fresh=fresh)
    return call if isinstance(call, ProcessCall) else replace(call, fresh=fresh)


def _answer(fold: Fold, stream: Stream, request: Request, route: Route, guard: Guard) -> Response:
    simulated = route.simulated or "x-nbllm-simulated" in stream.trace.headers
    model = errors.scrub(fold.model, guard.texts) if fold.model and fold.model != route.model else route.model
    cost = None if simulated or not stream.done else prices.cost(fold.usage, model, route.provider)
    trace = stream.trace
    return fold.response(
        model=model,
        provider=route.provider.name,
        cost=cost,
        timing=stream.timing,
        request=request,
        simulated=simulated,
        raw={"status": trace.status, "headers": trace.headers, "usage": fold.usage.raw if fold.usage else {}},
    )


def _summed(fold: Fold, stream: Stream, request: Request, route: Route, guard: Guard) -> Response:
    """The answer of several turns, with what they cost in all."""
    whole = _answer(fold, stream, request, route, guard)
    turns = [turn.partial() for turn in stream.turns]
    beside = [turn.partial() for turn in stream.beside]
    taken_up = len(whole.steps) - len(turns)  # 1 where calls of another answer were run first
    costs = dict(enumerate((turn.cost for turn in turns), taken_up))
    before = tuple(replace(s, cost=costs.get(i)) for i, s in enumerate(whole.before))
    known = [r.cost for r in (*turns, *beside) if r.cost is not None]
    cost = sum(known) if known and len(known) == len(turns) + len(beside) else None
    usage = total([whole.usage, *(r.usage for r in beside)])
    return replace(whole, before=before, cost=cost, usage=usage)


def refusal(dialect: Dialect, reply: AnyReply, body: bytes, row: Provider) -> errors.NbllmError:
    """The error in an answer that refuses, whatever its page holds."""
    try:
        return dialect.error(reply.status, reply.headers, body, row)
    except Exception as exc:  # noqa: BLE001 - the page is the server's
        return unreadable(row, exc, f" (HTTP {reply.status})")


def unreadable(row: Provider, exc: Exception, about: str = "") -> errors.ProtocolError:
    """The error for an answer that a decoder stumbled over."""
    return errors.ProtocolError(
        f"{row.label or row.name} sent what cannot be read{about}: {type(exc).__name__}.",
        hint="Ask again, or check that base_url and dialect belong together.",
    )


async def _listens(url: str, within: float) -> bool:
    try:
        address = addresses.parse(url)
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (errors.ConfigError, OSError, TimeoutError):
        return False
    writer.close()
    return True


@dataclass(slots=True)
class _Job:
    """One call at work on the engine's loop."""

    stream: Stream
    letter: AnyLetter
    dialect: Dialect
    route: Route
    guard: Guard
    key: Secret | None
    timeouts: Timeouts
    retries: Retries
    pool: _Pool
    shown: bool = False
    which: str = "first"

    async def run(self) -> None:
        """Asks until there is an answer or no sense in asking again."""
        if self.route.why:
            self.stream.publish(
                Notice("auto", f"auto chose {self.route.provider.name}/{self.route.model}: {self.route.why}.")
            )
        async with self._limit(self.timeouts.total, "total"):
            attempt = 1
            while (error := await self._try()) is not None:
                wait = policy.wait_before_retry(error, attempt, self.shown, self.retries, random.random())
                if wait is None:
                    raise error
                self.stream.publish(retry_notice(error, wait, attempt, self.retries.attempts))
                await asyncio.sleep(wait)
                attempt += 1

    async def _try(self) -> errors.NbllmError | None:
        try:
            await self._attempt()
        except errors.NbllmError as error:
            if (
                isinstance(error, errors.AuthenticationError)
                and self.key is None
                and isinstance(self.letter, Letter)
            ):
                error.hint = (
                    "No key was sent to this address. Name one for it: key=VARIABLE in a cell, "
                    "api_key=... in Python."
                )
            error.sent = self._sent()
            self.stream.trace.error = error.scrubbed(self.guard.texts).with_traceback(None)
            return error
        return None

    def _sent(self) -> str:
        """Where the call went, and with which key."""
        if self.route.simulated:
            return ""
        command = self.letter.process if isinstance(self.letter, TalkCall) else self.letter
        if isinstance(command, ProcessCall):
            return f"Ran {shutil.which(command.argv[0]) or command.argv[0]}" + (
                f" with the key {self.key.masked} from {self.key.source}." if self.key else "."
            )
        own = self.route.provider
        address = (
            self.stream.trace.address if isinstance(self.letter, SessionCall) else own.base_url
        )  # the one that answered
        key = (
            f"the key {self.key.masked} from {self.key.source}"
            if self.key and address == own.base_url.rstrip("/")
            else "no key"
        )
        return f"Sent to {shown(address, own.secrets)} with {key}." if address else ""

    async def _attempt(self) -> None:
        trace = Trace()
        self.stream.traces.append(trace)
        self.which = "first"
        try:
            async with (
                asyncio.timeout(self.timeouts.first) as clock,
                self.pool.send(self.letter, trace, self.timeouts.connect) as reply,
            ):
                if reply.status >= 300:
                    raise refusal(self.dialect, reply, await reply.body(), self.route.provider)
                await self._decode(reply, clock)
        except errors.Timeout:
            raise  # the transport has named it already: connect
        except TimeoutError:
            raise self._timed_out(self.which) from None
        finally:
            trace.stalls = stalls_since(
                trace.marks.get("start", self.stream.called)
                if len(self.stream.traces) > 1
                else self.stream.called
            )

    async def _decode(self, reply: AnyReply, clock: asyncio.Timeout) -> None:
        decoder = (
            reply.decoder() if isinstance(reply, KeptReply) else self.dialect.decoder(self.route.provider)
        )
        if not isinstance(reply, (KeptReply, SessionReply)):
            await self._read(decoder, reply, clock)
            return
        try:
            await self._read(decoder, reply, clock)
        except errors.NbllmError:
            raise  # what it made of the turn is not known: the next one tells it all again
        except BaseException:
            self._remember(reply)
            raise
        self._remember(reply)

    def _remember(self, reply: KeptReply | SessionReply) -> None:
        reply.remember(spoken(self.stream.partial().message, self.route.provider))

    async def _read(self, decoder: Decoder, reply: AnyReply, clock: asyncio.Timeout) -> None:
        self.stream.trace.whole = getattr(decoder, "whole", False)
        loop, size = asyncio.get_running_loop(), 0
        async with contextlib.aclosing(reply.frames()) as frames:
            async for frame in frames:
                self._feed(decoder, frame)
                if (size := size + len(frame.data)) > ANSWER_LIMIT:
                    raise errors.ProtocolError(
                        f"The answer is larger than {ANSWER_LIMIT >> 20} MiB, and was stopped.",
                        hint="What came is kept. Limit it with max_tokens, or choose another model.",
                    )
                self.stream.trace.arrivals.append(Arrival(len(self.stream.log), frame.read, len(frame.data)))
                if decoder.done:
                    self.stream.trace.marks["done"] = frame.at
                    break
                if self.shown:
                    self._extend(clock, loop.time())
            self._feed(decoder, None)
            if not isinstance(reply, (KeptReply, SessionReply)):  # those go on after the turn
                await _drained(frames)

    def _extend(self, clock: asyncio.Timeout, now: float) -> None:
        """Moves the idle limit. Timers cost more than a chunk's decoding, so only when a twentieth of the
        limit has gone by."""
        idle = self.timeouts.idle
        if self.which != "idle" or (idle is not None and now + 0.95 * idle > (clock.when() or 0.0)):
            self.which = "idle"
            clock.reschedule(None if idle is None else now + idle)

    def _feed(self, decoder: Decoder, frame: Frame | None) -> None:
        """Publishes what is in a frame, or in the end where it is None. Raises ProtocolError for whatever
        else a decoder raises: its input is the server's, and what came before stays."""
        try:
            for event in decoder.close() if frame is None else decoder.feed(frame):
                self.shown = self.shown or is_token(event)
                self.stream.publish(event, None if frame is None else frame.at)
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - what nobody thought of: a wrong type, a depth, a number
            raise unreadable(self.route.provider, exc) from None

    def _timed_out(self, which: str) -> errors.Timeout:
        seconds: float = getattr(self.timeouts, which) or 0.0
        what = {"first": "No token came", "idle": "Nothing more came", "total": "The answer did not end"}[
            which
        ]
        name = self.route.provider.label or self.route.provider.name
        return errors.Timeout(
            f"{what} from {name} within {seconds:g} s ({which} timeout).",
            which=which,
            seconds=seconds,
            hint=f"Allow more with timeout.{which}={seconds * 2:g}, or choose another model.",
        )

    def _limit(self, seconds: float | None, which: str) -> _Limit:
        return _Limit(seconds, self._timed_out, which)


class _Limit:
    """A time limit whose end is one of our errors."""

    def __init__(self, seconds: float | None, error: Any, which: str) -> None:
        self._timeout, self._error, self._which = asyncio.timeout(seconds), error, which

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        try:
            await self._timeout.__aexit__(*exc)
        except TimeoutError:
            raise self._error(self._which) from None


async def _drained(frames: AsyncIterator[Frame]) -> None:
    """Gives the server _DRAIN seconds to end the body after the protocol's own end mark, so that the
    connection can be used again; whatever goes wrong by then is not the answer's business."""
    with contextlib.suppress(TimeoutError, errors.TransportError, errors.ProtocolError):
        async with asyncio.timeout(_DRAIN):
            async for _ in frames:
                pass
