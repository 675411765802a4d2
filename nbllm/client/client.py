"""The one path every reply takes: resolve the name, make the call, and start what sends it (pipeline) and
writes the answer into a Stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import is_not
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from msgspec import structs

from ..core import errors
from ..core import prompt as prompts
from ..core.calls import EMPTY_CALL, AnyCall, Guard, Secret
from ..core.events import Fold, Notice, Response, Timing, Usage, sum_usage
from ..core.history import describe_files
from ..core.messages import Effort, Message, Request, Tool
from ..core.options import CallSpec
from ..core.schema import provider_schema
from ..dialects._media import dropped_files
from ..http.transport import HttpTransport
from ..routing import prices
from ..routing.registry import DEFAULT_MODEL, Registry, Route, load
from ..store.answers import Answers
from ..store.budgets import Budget, Turns
from ..store.chunks import Row
from ..store.ledger import Ledger
from ..store.timeline import timing
from . import answers, auto, choosing, hedging, prepare
from .attempt import Attempt, Handler, sender
from .engine import Engine, engine
from .failover import Breakers, failing_over, request_for
from .gate import Gates
from .pipeline import Wrapper, compose_handler
from .policy import Approve, Asker, Retries, Scale, Timeouts, Tools
from .pool import Pool
from .recordings import Tapes, replaying
from .stream import Stream
from .tracing import Tracing, tracing

if TYPE_CHECKING:
    from ..tools.changes import Journal
    from ..tools.mcp_servers import Servers
    from ..tools.sources import Given
    from .agent import ToolUse
    from .permits import Permits
    from .remote_tool import RemoteTool

T = TypeVar("T")


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
    mode: Literal["query", "execute"] | None
    strict: bool | None
    max_steps: int | None
    approve: Approve | None
    budget: float | Mapping[str, float] | Budget | None
    compact: str | float | None
    cache: str | bool | None
    failover: str | None
    hedge: float | None
    label: str | None
    sample: int


def sealed(options: CallOptions) -> CallOptions:
    """The options with the key made a Secret, so that no traceback that shows local variables can show it.
    Raises ConfigError for what is no text."""
    key = options.get("api_key")
    if not isinstance(key, str | Secret | None):
        raise errors.ConfigError(
            f"api_key= takes a text, and no {type(key).__name__}.", hint="Check the call."
        )
    return {**options, "api_key": Secret(key)} if isinstance(key, str) else options


class Client:
    """Configuration and connections for calls. The module's functions use one that is shared; make another
    for other rows, aliases or keys. Safe to use from any thread. `ledger` remembers its calls in numbers;
    ledger=None for none. wrap: wrappers round every call, from the inside outwards (see pipeline). paced:
    its calls keep to their providers' rate limits together with all others of the process (see gate);
    benchmarks' do not."""

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        timeouts: Timeouts | Mapping[str, float | None] | float | None = None,
        retries: Retries | int | None = None,
        ledger: Ledger | Literal["new"] | None = "new",
        wrap: Sequence[Wrapper] = (),
        paced: bool = True,
    ) -> None:
        if not isinstance(registry, Registry | None):
            raise errors.ConfigError(
                f"A client takes a registry, and no {type(registry).__name__}.",
                hint="A model is named in the call: Client().complete(prompt, model=...).",
            )
        self.registry = registry or load()
        self.ledger = Ledger(self.registry.ledger) if ledger == "new" else ledger
        self.timeouts, self.retries = Timeouts.of(timeouts), Retries.of(retries) or Retries()
        self.wrap, self.paced = tuple(wrap), paced
        self.budget: Budget | None = None  # of all its calls
        self.sender: Handler | None = None  # sends in place of its own connections
        self.asker: Asker | None = None  # asks the user before a tool runs
        self.tracing: Tracing | None = None  # spans and metrics of its calls
        self._changes: Journal | None = None
        self._scales: dict[tuple[str, str], Scale] = {}  # by provider and model
        self._pool = Pool()
        self._composed: tuple[tuple[Any, ...], Handler | None] = (), None
        self._servers: Servers | None = None
        self.tapes = Tapes(self.registry.env if paced else {})  # what is measured is neither

    def _engine(self) -> Engine:
        current = engine()
        if self._pool.engine is not current:
            self._pool = Pool(current)
            current.at_close(self._pool.close)
            current.at_close(self._close_servers)
        return current

    def close(self) -> None:
        """Closes this client's connections, and ends the commands that it keeps. The next call opens new
        ones."""
        pool, self._pool = self._pool, Pool()
        if pool.engine is engine():
            pool.engine.run(self._ended(pool), 5.0)
        if self.ledger is not None:
            self.ledger.flush()

    async def _ended(self, pool: Pool) -> None:
        await self._close_servers()
        await pool.close()

    async def _close_servers(self) -> None:
        if self._servers is not None:
            await self._servers.close()

    def resolve(self, model: str, base_url: str | None = None, dialect: str | None = None) -> Route:
        """Where `model` leads; for "auto", the first provider with a key, a reachable Ollama, or the
        simulator; for "a|b", to a, and to b where that fails; for "cheap(a|b)" and "fast(a|b)", to the one
        that costs least, or took least time here, and then to the other."""
        if not isinstance(model, str) or not model.isprintable():
            given = ascii(model) if isinstance(model, str) else type(model).__name__
            raise errors.ConfigError(
                f"No model can be called {given[:80]}.", hint="Give its name on one line."
            )
        if (asked := choosing.written(model)) is not None:
            word, names = asked
            return choosing.ordered(word, self._several(names, base_url, dialect), self._last_day)
        if "|" in model:
            first, *others = self._several(model, base_url, dialect)
            return replace(first, fallbacks=tuple(others))
        if dialect is not None and str(dialect) not in self.registry.dialects:
            hint = errors.did_you_mean(dialect, self.registry.dialects)
            raise errors.ConfigError(f"No dialect is called {dialect!r}.", hint=hint)
        if model == "auto" and base_url is None and (tape := self.tapes.look()) is not None and tape.first:
            model = tape.first  # asking who is there would open a connection
        if model == "auto" and base_url is None:
            return auto.choose(self.registry, lambda url: self.check(url).result())
        return self.registry.resolve(model, base_url, dialect)

    def _several(self, model: str, base_url: str | None, dialect: str | None) -> list[Route]:
        names = [name.strip() for name in model.split("|")]
        odd = len(set(names)) < len(names) or not all(names) or ("," in model and "|" not in model)
        if base_url is not None or dialect is not None or odd:
            raise errors.ConfigError(
                f"{model!r} does not say which models are asked in turn.",
                hint="Write different names, as in openai/mini|claude/haiku, without base_url and dialect.",
            )
        return [self.resolve(name) for name in names]

    def _traced(self) -> Tracing | None:
        """What makes spans, where the user wants them and calls are not measured."""
        if self.tracing is None and self.paced:
            said = self.registry.env.get("NBLLM_OTEL", "").lower()
            if said in ("1", "true", "on", "yes", "content") or (self.registry.otel and not said):
                self.tracing = tracing(content=said == "content")
        return self.tracing if self.paced else None

    def span(self, name: str, **about: Any) -> AbstractContextManager[Any]:
        """A span round the calls that are begun inside, where calls are traced. about: its attributes."""
        watched = self._traced()
        return nullcontext() if watched is None else watched.span(name, **about)

    def turn(self, begin: Callable[[], Stream], conversation: str, number: int) -> Stream:
        """What `begin` asks, in a span of a conversation's turn where calls are traced."""
        watched = self._traced()
        return begin() if watched is None else watched.turn(begin, self._engine(), conversation, number)

    def _last_day(self) -> list[Row]:
        """What the ledger knows of the calls of a day, of all kernels."""
        return [] if self.ledger is None else self.ledger.last_day()

    def check(self, url: str, timeout: float = 0.5) -> Future[bool]:
        """Whether something listens at the address, within `timeout` seconds; asked at once, answered in the
        future."""
        return self._engine().submit(auto.listens(url, timeout))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the engine's loop, where `http` lives, and waits for it."""
        return self._engine().run(work)

    @property
    def answers(self) -> Answers:
        """The answers that cache=true keeps."""
        return self._engine().singleton(answers.Kept).answers

    @property
    def pool(self) -> Pool:
        """Its connections, commands and sessions; to be used on the engine's loop only."""
        self._engine()
        return self._pool

    @property
    def http(self) -> HttpTransport:
        """The connections; to be used on the engine's loop only."""
        return self.pool.http

    @property
    def mcp(self) -> Servers:
        """The MCP servers that can be named in tools=; what is awaited of them is awaited on the engine's
        loop."""
        self._engine()
        if self._servers is None:
            from ..tools.mcp_servers import Servers

            self._servers = Servers.of(lambda: self.registry)
        return self._servers

    @property
    def changes(self) -> Journal:
        """What tools have changed in files and notebooks; what is awaited of it is awaited on the engine's
        loop."""
        if self._changes is None:
            from ..tools.changes import Journal

            self._changes = Journal()
        return self._changes

    def described(self, tools: Tools) -> tuple[Tool, ...]:
        """What a model is told of tools; those of MCP servers are known when they run. Raises
        ConfigError."""
        return self._using(CallSpec(tools=tools)).told

    def _using(self, spec: CallSpec, route: Route | None = None) -> ToolUse:
        """The tools of a call and how they may be used. What that needs loads with the first of them."""
        from .agent import ToolUse

        def window() -> int | None:
            return None if route is None else prices.facts(route.model, route.provider).context

        return ToolUse.of(spec, lambda: self.http, lambda name: self._named_tool(name, spec.budget), window)

    def _named_tool(self, name: str, budget: Budget | None) -> Given:
        """What a name in tools= means: mcp/NAME an MCP server, http/NAME an endpoint of the configuration,
        remote/NAME an agent, cli/NAME one on this machine; what agents take counts in `budget`. Raises
        ConfigError."""
        if name.startswith("remote/"):
            return self.remote(name, budget)
        if name.startswith("cli/"):
            from .remote_tool import command_tool

            route = self.registry.resolve(name)
            return command_tool(route, name, lambda message: self.stream(message, name, budget=budget))
        own = name.removeprefix("http/")
        if own == name:
            return self.mcp.toolset(name)
        known = self.registry.tools
        if own not in known:
            there = ", ".join(f"http/{n}" for n in known) or "none yet"
            hint = f"There are: {there}. [tool.{own}] with a url in your providers.toml describes one."
            raise errors.ConfigError(f"No tool is called {name!r}.", hint=hint)
        from ..tools.http import from_table

        return from_table(own, known[own], self.registry.env).usable(lambda: self.http)

    def remote(self, name: str, budget: Budget | None = None) -> RemoteTool:
        """The agent on another machine that is called so, as a tool; what it takes counts in `budget`. Raises
        ConfigError where it cannot be asked."""
        from .remote_tool import RemoteTool

        route = self.registry.resolve(name)
        key = self.tapes.keys(self.registry)(route, None)
        call: Any = self.encode(Request(route.model, (Message("user", "x"),)), route, key)
        consent = self.mcp.consent

        async def said() -> str:
            return await self.pool.transports.remote.said(call)

        return RemoteTool(route, lambda message: self.stream(message, name, budget=budget), said, consent)

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
        cache: str | None = None,
        **options: Any,
    ) -> Request:
        """The Request for `prompt`, with `model` as the provider's own name."""
        return Request(
            model=model,
            messages=prompts.parse_messages(prompt, system),
            tools=prompts.parse_tools(tools),
            schema=schema if isinstance(schema, Mapping) else provider_schema(schema),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            extra=dict(extra or {}),
            cache=prompts.parse_cache(cache),
            **options,
        )

    def stream(
        self, prompt: prompts.Prompt, model: str = DEFAULT_MODEL, **options: Unpack[CallOptions]
    ) -> Stream:
        """Asks `model` and returns its reply at once, as a Stream that grows.

        prompt: text, parts, or messages. timeout: seconds in total, or a mapping of connect, first, idle,
        total (of each turn, where tools run). tools: functions, which run when the reply is read, on
        the thread that reads it, and descriptions of tools without code, whose calls are handed over
        in `Response.tool_calls`. approve: "ask" the user before a call (the default; no, where nobody
        can answer), "auto" runs all, "never" none but those that only read, or a function that is
        given a Question and answers True, "always" or False. max_steps: turns of the model (10).
        budget: US dollars, a mapping of usd and tokens, or a Budget that several calls share: a call
        that may take more is not sent; where tools run, no further turn uses them once it is spent.
        compact: when a conversation is shortened, results of tools first, then all but the last turns
        by a summary of the same model: "auto" at 0.8 of what the model reads, where that is known
        (the default with tools), "off", a share, or a number of tokens. cache: whether the provider
        is asked to keep the prompt for the next one that begins like it: "auto" (the default with
        tools and in conversations), "off", or "1h" for longer, where it can; True gives at once the
        answer that an equal call had before, of which Response.cached tells, and keeps what comes;
        "refresh" asks anew and keeps that one; sample tells several answers to one question apart.
        label: a word that its rows in the log have. failover: with model="a|b", "restart" asks b also
        where a fails after it has begun to answer, what came is void then; "content" where a's
        filter refused. hedge: seconds without a
        token after which it is asked a second time; who begins first is read, both are paid. retries:
        how often to ask again while nothing has been shown. extra: merged into the request body as it
        is. keep: a headless CLI stays for the next call, which is then answered sooner; a conversation
        goes on in the one that heard it. Raises ConfigError for what is wrong on this side; what the provider
        does shows when the stream is read.
        """
        options = sealed(options)
        spec = CallSpec.of(options)
        return self.ask(prompt, self.resolve(model, spec.base_url, spec.dialect), spec)

    def ask(self, prompt: prompts.Prompt, route: Route, spec: CallSpec) -> Stream:
        """As stream, where a name has been resolved already."""
        permits: Permits | None = None
        if spec.mode == "execute" and spec.tools is None:
            from .permits import Permits

            permits, spec = Permits.of(spec, self.asker), replace(spec, approve=None)
        turns = None if spec.budget is None else Turns(Budget.of(spec.budget))
        using = self._using(replace(spec, budget=turns), route) if _works(spec) else None
        given = self.parameters(spec)
        if "cache" not in given and using is not None and using.runs:
            given["cache"] = "auto"
        request = self.request(prompt, route.model, **given | {"tools": using.told if using else ()})
        sending = self.sending(spec, route)
        if permits is not None:
            sending["permits"] = permits
        if turns:
            sending["budgets"] = (turns if using and using.works else turns.whole,)

        def once(request: Request) -> Stream:
            return self.send(request, route, **sending)

        send = once if spec.hedge is None else self._hedged(spec, route, once)

        if using is None or not using.runs:
            return send(request if using is None else using.asked(request))
        return self._use(using, request, route, sending["key"], send)

    def _hedged(
        self, spec: CallSpec, route: Route, send: Callable[[Request], Stream]
    ) -> Callable[[Request], Stream]:
        """Sends a second time where the first is slow. Raises ConfigError for what must not be done twice."""
        seconds, running = hedging.after(spec.hedge) or 0.0, self._engine()
        twice = {"tools": bool(spec.tools), "keep": spec.keep, "cache": answers.own(spec.cache)}
        if name := next((name for name, given in twice.items() if given), None):
            raise errors.ConfigError(f"{name}= cannot be used with hedge=.", hint="Leave one of them out.")

        def ask(request: Request) -> Stream:
            first = self.attempt(request, route, key=self.tapes.keys(self.registry)(route, spec.api_key))
            # The others are made ready here: the second is sent where nothing may be waited for.
            if not all(a.call.rate_limited for a in (first, *self._others(request, route))):
                raise errors.ConfigError(
                    "hedge= asks twice, and an agent or command would do twice what it does.",
                    hint="Leave hedge= out.",
                )
            stream = Stream(lambda fold, s: _answer(fold, s, first))
            return stream.start(running, hedging.hedged(stream, lambda: send(request), seconds))

        return ask

    def sending(self, spec: CallSpec, route: Route) -> dict[str, Any]:
        """The keyword arguments of `send` that the options mean. Raises ConfigError for what has no sense."""
        return {
            "key": self.tapes.keys(self.registry)(route, spec.api_key),
            "timeouts": self.timeouts if spec.timeout is None else Timeouts.of(spec.timeout),
            "retries": Retries.of(spec.retries),
            "keep": bool(spec.keep),
            "mode": spec.mode,
            "failover": checked_failover(spec.failover, route, spec.api_key),
            "known": answers.own(spec.cache),
            "sample": spec.sample or 0,
            "label": checked_label(spec.label),
        }

    @staticmethod
    def parameters(spec: CallSpec) -> dict[str, Any]:
        """The keyword arguments of `request` that the options mean, apart from the tools."""
        given = spec.selected("parameter", "request") | {"schema": provider_schema(spec.schema)}
        given |= {} if spec.schema is None else {"strict": spec.strict}
        return {n: v for n, v in given.items() if n != "tools" and not (n == "cache" and answers.own(v))}

    def _use(
        self,
        using: ToolUse,
        request: Request,
        route: Route,
        key: Secret | None,
        send: Callable[[Request], Stream],
    ) -> Stream:
        """Asks a model whose tools run. Raises ConfigError for what can be known to be wrong before that."""
        first, ask = self.attempt(request, route, key=key), self.asker
        self._others(request, route)  # made ready here: the loop runs where nothing may be waited for
        scale = self._scales.setdefault((route.provider.name, route.model), Scale())

        watched = self._traced()

        def secrets() -> Sequence[str]:
            return (*first.guard.secrets, *self.registry.secrets)

        async def work() -> None:
            with nullcontext() if watched is None else watched.agent(stream, first):
                await using.run(stream, request, send, ask, scale, journal=self.changes, secrets=secrets)

        stream = Stream(lambda fold, s: _summed(fold, s, first))
        return stream.start(self._engine(), work())

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
        mode: str | None = None,
        permits: Permits | None = None,
        background: bool = False,
        failover: str = "start",
        budgets: tuple[Budget, ...] = (),
        known: str = "",
        sample: int = 0,
        label: str | None = None,
    ) -> Stream:
        """Sends a Request that is made already; `fresh` over a new connection, or to a new command; `keep` as
        in stream; `background` where nobody waits for it, so that others go first; `failover` as in
        stream; `budgets` beside the client's own; `known`, "true" or "refresh", for an
        answer that is known already, and which `sample` of them; `label` for the log. Raises
        ConfigError where no key is found for a provider that needs one. On the engine's own thread,
        what `http.prepare` makes must be there already."""
        how: dict[str, Any] = {"timeouts": timeouts, "fresh": fresh, "keep": keep}
        how |= {"mode": mode, "permits": permits}
        first = self.attempt(request, route, key=key, **how)
        first = structs.replace(first, background=background, label=label) if background or label else first
        tape = self.tapes.look()
        answers.check(first.call, known)
        stream = Stream(lambda fold, s: _answer(fold, s, first))
        if permits is not None:
            permits.stream = stream
        for notice in _notices(request, first):
            stream.publish(notice)
        running, retries = self._engine(), retries or self.retries
        gates = running.singleton(Gates) if self.paced else None
        others = self._others(request, route, **how) if route.fallbacks else ()

        def in_turn(handler: Handler) -> Handler:
            return failing_over(handler, others, running.singleton(Breakers), how=failover)

        def taped(handler: Handler) -> Handler:
            if tape is not None:
                return replaying(tape, others)
            return answers.answered(handler, running.singleton(answers.Kept), known, sample)

        own = self.tapes.wrap(others) if tape is None else ()
        if others and tape is None:  # a replay asks nobody in turn
            own = (in_turn, *own)
        wrap = (*own, *self.wrap) if own else self.wrap
        budgets = budgets if self.budget is None else (*budgets, self.budget)
        watched = self._traced()
        known_already = taped if tape or known else None
        told = budgets, known_already, watched and watched.chat
        handler = self._handler((self.sender, self._pool, retries, wrap, self.ledger, gates, *told))
        return stream.start(running, handler(first, stream))

    def _handler(self, parts: tuple[Any, ...]) -> Handler:
        """What is composed of them; as before, where they are those of the call before."""
        before, handler = self._composed
        if handler is None or any(map(is_not, parts, before)):
            own, pool, retries, wrap, ledger, gates, budgets, known, traced = parts
            told = {"budgets": budgets, "known": known, "traced": traced}
            told["naming"] = None if own else pool.contexts.naming  # who sends for us names its own
            handler = compose_handler(own or sender(pool.transport), retries, wrap, ledger, gates, **told)
            self._composed = parts, handler
        return handler

    def _others(self, request: Request, route: Route, **options: Any) -> list[Attempt]:
        """What is sent where a route fails, made ready."""
        key_of = self.tapes.keys(self.registry)
        return [
            self.attempt(request_for(request, route, r), r, key=key_of(r, None), **options)
            for r in route.fallbacks
        ]

    def attempt(
        self,
        request: Request,
        route: Route,
        *,
        key: Secret | None,
        timeouts: Timeouts | None = None,
        fresh: bool = False,
        keep: bool = False,
        mode: str | None = None,
        permits: Permits | None = None,
    ) -> Attempt:
        """What `send` sends, made ready, with what it needs of the network's libraries: for a handler that
        asks another route than the one it was given."""
        guard, running = Guard.for_provider(route.provider, key), self._engine()
        limits = (timeouts or self.timeouts).at_least(self.registry.timeout_from_env(route.provider))
        if self.tapes.look() is not None:
            dialect = prepare.dialect(route.provider, self.registry.dialects)
            return Attempt(request, route, dialect, key, guard, EMPTY_CALL, None, limits)
        try:
            request, call = self._encoded(request, route, key, keep=keep, mode=mode)
            call = call.with_permit(permits, persistent=keep) if mode == "execute" else call
            fresh = fresh or (mode == "execute" and not keep)
            transport = self._pool.transport(call)
            if not running.is_here() and (warming := transport.warm_up(call)) is not None:
                running.run(warming)
            ready = transport.prepare_call(call, fresh=fresh)
        except errors.NbllmError as error:
            raise error.scrub_secrets(guard.secrets).with_traceback(
                None
            ) from None  # whose frames hold the key
        dialect = prepare.dialect(route.provider, self.registry.dialects)
        return Attempt(request, route, dialect, key, guard, call, ready, limits)

    def _encoded(
        self, request: Request, route: Route, key: Secret | None, **how: Any
    ) -> tuple[Request, AnyCall]:
        """The request as it is sent, and its call: no answer is lost for a file of a tool's that the provider
        does not take, which is told in words."""
        try:
            return request, self.encode(request, route, key, **how)
        except errors.ConfigError:
            if (worded := describe_files(request.messages)) == request.messages:
                raise
            request = replace(request, messages=worded)
            return request, self.encode(request, route, key, **how)

    def encode(
        self,
        request: Request,
        route: Route,
        key: Secret | None,
        *,
        keep: bool = False,
        mode: str | None = None,
    ) -> AnyCall:
        """The call that `request` becomes; nothing is sent. Raises ConfigError where the route has a
        problem, and for keep where the provider has no such mode."""
        route.check()
        return prepare.encode(request, route, key, self.registry.dialects, keep=keep, mode=mode)


def checked_label(given: Any) -> str | None:
    """A word for the log. Raises ConfigError for what is none, or longer than 80 characters."""
    if given is None or (isinstance(given, str) and 0 < len(given) <= 80 and given.isprintable()):
        return given or None
    raise errors.ConfigError(
        f"Not a label: {str(given)[:40]!r}.", hint="label= takes a word of at most 80 characters."
    )


def checked_failover(failover: str | None, route: Route, key: Secret | None) -> str:
    """What failover= says. Raises ConfigError where it, or a key, has no sense for the models."""
    if failover not in (None, "start", "restart", "content"):
        raise errors.ConfigError(f"Not a failover: {failover!r}.", hint="It is start, restart or content.")
    if failover is not None and not route.fallbacks:
        raise errors.ConfigError(
            "failover= needs a model to go on with.", hint="For example model=openai/mini|claude/haiku."
        )
    if key is not None and any(r.provider.name != route.provider.name for r in route.fallbacks):
        raise errors.ConfigError(
            "One key does not fit several providers.", hint="Leave api_key out: each finds its own."
        )
    return failover or "start"


def _works(spec: CallSpec) -> bool:
    """Whether tools or their limits were given, rightly or wrongly, or the conversation may be shortened."""
    tools = spec.tools is not None and not (isinstance(spec.tools, (list, tuple)) and not spec.tools)
    restricted = (spec.strict, spec.max_steps, spec.approve) != (None, None, None)
    return tools or restricted or spec.compact not in (None, "off")


def _notices(request: Request, first: Attempt) -> Iterable[Notice]:
    """What is told before anything is sent."""
    route, row = first.route, first.route.provider
    if first.request.messages != request.messages:
        yield Notice("media", f"files of tools told in words: {first.provider_label} takes no such file")
    if left := dropped_files(request, row.dialect):
        yield Notice(
            "media", f"{left} not sent back: {row.label or row.name} takes no such file from a model"
        )
    if route.why:
        yield Notice("auto", f"{route.chosen_by} chose {row.name}/{route.model}: {route.why}.")


def _answer(fold: Fold, stream: Stream, first: Attempt) -> Response:
    """The answer, as one of the route that was asked last."""
    asked: Attempt = stream.attempts[-1] if stream.attempts else first
    route, trace, found = asked.route, stream.trace, fold.model
    known = next((n for n in fold.notices if n.kind == "cached"), None)
    simulated = route.simulated or trace.simulated
    simulated = simulated or (known is not None and known.data.get("simulated") is True)
    usage = fold.usage
    model = errors.scrub(found, asked.guard.secrets) if found and found != route.model else route.model
    kept = [Usage(n.data["kept"], 0) for n in fold.notices if n.kind == "context" and n.data]  # as input
    costs = (prices.cost(used, model, route.provider) for used in (usage, *kept))
    cost = None if simulated or not stream.done else _sum(costs)
    answer = fold.response(
        model=model,
        provider=route.provider.name,
        cost=cost if known is None else 0.0,
        saved_usd=cost if known is not None else None,
        cached=known is not None,
        timing=timing(stream, stream.turns, usage) if known is None else Timing(attempts=0),
        request=asked.request,
        simulated=simulated,
        raw={"status": trace.status, "headers": trace.headers, "usage": usage.raw if usage else {}},
    )
    if not any(secret in f"{answer.id} {answer.finish_raw}" for secret in asked.guard.secrets):
        return answer
    named = {n: errors.scrub(getattr(answer, n) or "", asked.guard.secrets) for n in ("id", "finish_raw")}
    return replace(answer, id=named["id"], finish_raw=named["finish_raw"])  # a server gave a key back


def _sum(costs: Iterable[float | None]) -> float | None:
    """All of them together; None where one is not known."""
    return None if None in (known := list(costs)) else sum(filter(None, known))


def _summed(fold: Fold, stream: Stream, first: Attempt) -> Response:
    """The answer of several turns, with what they cost in all."""
    whole = _answer(fold, stream, first)
    turns = [turn.partial() for turn in stream.turns]
    beside = [turn.partial() for turn in stream.extra_calls]
    # from 1 where calls of another answer were run first
    costs = dict(enumerate((turn.cost for turn in turns), len(whole.steps) - len(turns)))
    before = tuple(replace(s, cost=costs.get(i)) for i, s in enumerate(whole.before))
    cost = _sum(r.cost for r in (*turns, *beside)) if turns else None
    saved = [r.saved_usd for r in turns if r.saved_usd is not None]
    told: dict[str, Any] = {
        "usage": sum_usage([whole.usage, *(r.usage for r in beside)]),
        "cached": bool(turns) and all(turn.cached for turn in turns),
        "saved_usd": sum(saved) if saved else None,
        "timing": Timing(attempts=0) if any(turn.cached for turn in turns) else whole.timing,
    }
    return replace(whole, before=before, cost=cost, **told)
