"""The path of every reply: resolve the model's name, encode the call, and start the handler (pipeline) that
sends it and writes the answer into a Stream."""

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
from ..store.answers import AnswerStore
from ..store.budgets import Budget, LoopBudget
from ..store.ledger import Ledger
from ..store.timeline import timing
from . import answers, auto, hedging, model_choice, prepare
from .attempt import Attempt, Handler, sender
from .engine import Engine, engine
from .failover import Breakers, failing_over, request_for
from .gate import Gates
from .pipeline import Wrapper, compose_handler
from .policy import Approve, Asker, Retries, Timeouts, TokenScale, Tools, parse_approve
from .pool import Pool
from .recordings import Tapes, replaying
from .stream import Stream
from .tracing import Tracing, make_tracing

if TYPE_CHECKING:
    from ..tools.changes import Journal
    from ..tools.mcp_servers import Servers
    from ..tools.sources import ToolLike
    from .agent import ToolUse
    from .permissions import PermissionHandler
    from .remote_tool import RemoteTool

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """The options of Client.stream."""

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


def seal_key(options: CallOptions) -> CallOptions:
    """The options with the key as a Secret, so that no traceback with local variables can show it. Raises
    ConfigError where it is not text."""
    key = options.get("api_key")
    if not isinstance(key, str | Secret | None):
        raise errors.ConfigError(
            f"api_key= takes text, not {type(key).__name__}.", hint="Pass the key as a string."
        )
    return {**options, "api_key": Secret(key)} if isinstance(key, str) else options


class Client:
    """Configuration and connections for calls. The module's functions share one; make another for other
    providers, aliases or keys. Safe to use from any thread. ledger: where its calls are recorded; None for
    nowhere. wrap: wrappers around every call, innermost first (see pipeline). paced: its calls keep to their
    providers' rate limits, together with all others of the process (see gate); those of benchmarks do not."""

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
                f"A client takes a registry, not {type(registry).__name__}.",
                hint="Name the model in the call: Client().complete(prompt, model=...).",
            )
        self.registry = registry or load()
        self.ledger = Ledger(self.registry.ledger) if ledger == "new" else ledger
        self.timeouts, self.retries = Timeouts.of(timeouts), Retries.of(retries) or Retries()
        self.wrap, self.paced = tuple(wrap), paced
        self.budget: Budget | None = None  # for all its calls together
        self.sender: Handler | None = None  # used instead of its own connections
        self.asker: Asker | None = None  # asks the user before a tool runs
        self.tracing: Tracing | None = None  # makes spans and metrics of its calls
        self._changes: Journal | None = None
        self._token_scales: dict[tuple[str, str], TokenScale] = {}  # by provider and model
        self._pool = Pool()
        self._last_handler: tuple[tuple[Any, ...], Handler | None] = (), None
        self._servers: Servers | None = None
        self.tapes = Tapes(self.registry.env if paced else {})  # benchmarks neither record nor replay

    def _current_engine(self) -> Engine:
        current = engine()
        if self._pool.engine is not current:
            self._pool = Pool(current)
            current.at_close(self._pool.close)
            current.at_close(self._close_servers)
        return current

    def close(self) -> None:
        """Closes this client's connections and ends its running commands. The next call opens new ones."""
        pool, self._pool = self._pool, Pool()
        if pool.engine is engine():
            pool.engine.run(self._close_all(pool), 5.0)
        if self.ledger is not None:
            self.ledger.flush()

    async def _close_all(self, pool: Pool) -> None:
        await self._close_servers()
        await pool.close()

    async def _close_servers(self) -> None:
        if self._servers is not None:
            await self._servers.close()

    def resolve(self, model: str, base_url: str | None = None, dialect: str | None = None) -> Route:
        """The route for a model's name. "auto" is the first provider with a key, a reachable Ollama, or the
        simulator; "a|b" is a, with b as failover; "cheap(a|b)" and "fast(a|b)" order them by price, or by the
        times measured here."""
        if not isinstance(model, str) or not model.isprintable():
            name = ascii(model) if isinstance(model, str) else type(model).__name__
            raise errors.ConfigError(
                f"A model cannot be named {name[:80]}.", hint="Give its name as text on one line."
            )
        if (choice := model_choice.parse_choice(model)) is not None:
            word, names = choice
            return model_choice.choose_route(word, self._resolve_all(names, base_url, dialect), self.ledger)
        if "|" in model:
            first, *others = self._resolve_all(model, base_url, dialect)
            return replace(first, fallbacks=tuple(others))
        if dialect is not None and str(dialect) not in self.registry.dialects:
            hint = errors.did_you_mean(dialect, self.registry.dialects)
            raise errors.ConfigError(f"No dialect is called {dialect!r}.", hint=hint)
        if model == "auto" and base_url is None:
            tape = self.tapes.get_source()  # a replay opens no connection
            if tape is None or not tape.first:
                return auto.choose(self.registry, lambda url: self.check(url).result())
            model = tape.first
        return self.registry.resolve(model, base_url, dialect)

    def _resolve_all(self, model: str, base_url: str | None, dialect: str | None) -> list[Route]:
        names = [name.strip() for name in model.split("|")]
        invalid = len(set(names)) < len(names) or not all(names) or ("," in model and "|" not in model)
        if base_url is not None or dialect is not None or invalid:
            raise errors.ConfigError(
                f"{model!r} is not a list of models to try in turn.",
                hint="Write different names, as in openai/mini|claude/haiku, without base_url and dialect.",
            )
        return [self.resolve(name) for name in names]

    def _active_tracing(self) -> Tracing | None:
        """The tracing of calls where the user turned it on; never for benchmarks."""
        if self.tracing is None and self.paced:
            setting = self.registry.env.get("NBLLM_OTEL", "").lower()
            if setting in ("1", "true", "on", "yes", "content") or (self.registry.otel and not setting):
                self.tracing = make_tracing(content=setting == "content")
        return self.tracing if self.paced else None

    def span(self, name: str, **about: Any) -> AbstractContextManager[Any]:
        """A span around the calls that start inside, where calls are traced. about: its attributes."""
        tracing = self._active_tracing()
        return nullcontext() if tracing is None else tracing.span(name, **about)

    def trace_turn(self, begin: Callable[[], Stream], conversation: str, number: int) -> Stream:
        """The stream that `begin` starts, in a span for a conversation's turn where calls are traced."""
        tracing = self._active_tracing()
        if tracing is None:
            return begin()
        return tracing.turn(begin, self._current_engine(), conversation, number)

    def check(self, url: str, timeout: float = 0.5) -> Future[bool]:
        """Starts checking whether a server listens at the address; gives up after `timeout` seconds."""
        return self._current_engine().submit(auto.listens(url, timeout))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the engine's loop, where `http` lives, and waits for it."""
        return self._current_engine().run(work)

    @property
    def answers(self) -> AnswerStore:
        """The answers that cache=true stores."""
        return self._current_engine().singleton(answers.AnswerCache).answers

    @property
    def pool(self) -> Pool:
        """Its connections, commands and sessions; to be used on the engine's loop only."""
        self._current_engine()
        return self._pool

    @property
    def http(self) -> HttpTransport:
        """The connections; to be used on the engine's loop only."""
        return self.pool.http

    @property
    def mcp(self) -> Servers:
        """The MCP servers that can be named in tools=; their coroutines run on the engine's loop."""
        self._current_engine()
        if self._servers is None:
            from ..tools.mcp_servers import Servers

            self._servers = Servers.of(lambda: self.registry)
        return self._servers

    @property
    def changes(self) -> Journal:
        """The changes that tools made to files and notebooks; its coroutines run on the engine's loop."""
        if self._changes is None:
            from ..tools.changes import Journal

            self._changes = Journal()
        return self._changes

    def tool_descriptions(self, tools: Tools) -> tuple[Tool, ...]:
        """The descriptions of tools that a model gets; those of MCP servers are known only when they run.
        Raises ConfigError."""
        return self._tool_use(CallSpec(tools=tools)).descriptions

    def _tool_use(self, spec: CallSpec, route: Route | None = None) -> ToolUse:
        """The tools of a call and how they may be used. The agent's modules load at the first use."""
        from .agent import ToolUse

        def window() -> int | None:
            return None if route is None else prices.facts(route.model, route.provider).context

        return ToolUse.of(spec, lambda: self.http, lambda name: self._tool_by_name(name, spec.budget), window)

    def _tool_by_name(self, name: str, budget: Budget | None) -> ToolLike:
        """The tool or toolset for a name in tools=: mcp/NAME an MCP server, http/NAME an endpoint of the
        configuration, remote/NAME a remote agent, cli/NAME a command-line agent. What agents use counts in
        `budget`. Raises ConfigError."""
        if name.startswith("remote/"):
            return self.remote(name, budget)
        if name.startswith("cli/"):
            from .remote_tool import command_tool

            route = self.registry.resolve(name)
            return command_tool(route, name, lambda message: self.stream(message, name, budget=budget))
        if not name.startswith("http/"):
            return self.mcp.toolset(name)
        endpoint, tables = name.removeprefix("http/"), self.registry.tools
        if endpoint not in tables:
            known = ", ".join(f"http/{n}" for n in tables) or "none yet"
            hint = f"There are: {known}. Describe one as [tool.{endpoint}] with a url in your providers.toml."
            raise errors.ConfigError(f"No tool is called {name!r}.", hint=hint)
        from ..tools.http import from_table

        return from_table(endpoint, tables[endpoint], self.registry.env).usable(lambda: self.http)

    def remote(self, name: str, budget: Budget | None = None) -> RemoteTool:
        """The remote agent of this name as a tool; what it uses counts in `budget`. Raises ConfigError where
        it cannot be used."""
        from .remote_tool import RemoteTool

        route = self.registry.resolve(name)
        key = self.tapes.find_key(self.registry, route, None)
        call: Any = self.encode(Request(route.model, (Message("user", "x"),)), route, key)
        consent = self.mcp.consent

        async def read_card() -> str:
            return await self.pool.transports.remote.describe_agent(call)

        return RemoteTool(
            route, lambda message: self.stream(message, name, budget=budget), read_card, consent
        )

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
        """Sends a prompt to `model` and returns its reply at once, as a Stream that grows.

        - prompt: text, parts, or messages.
        - timeout: total seconds, or a mapping of connect, first, idle, silent and total (for each turn, where
          tools run).
        - retries: how often to send again while no token has been shown.
        - tools: functions, which run while the reply is read, on the reader's thread, and descriptions of
          tools
          without code, whose calls are returned in `Response.tool_calls`.
        - approve: "ask" the user before each call (the default; no call runs where the user cannot be asked),
          "auto" runs all, "never" only those that only read; or a function that gets a Question and returns
          True, "always" or False.
        - max_steps: turns of the model (10).
        - budget: US dollars, a mapping of usd and tokens, or a Budget that several calls share. A call that
          might exceed it is not sent; where tools run, no further turn may use them once it is spent.
        - compact: when to shorten a conversation, tool results first, then all but the last turns by a
          summary
          of the same model: "auto" at 0.8 of the context window, where that is known (the default with
          tools), "off", a share, or a number of tokens.
        - cache: whether the provider caches the prompt for later ones with the same beginning: "auto" (the
          default with tools and in conversations), "off", or "1h" for longer, where it can. True returns the
          stored answer to an equal call (see Response.cached), or stores the new one; "refresh" always sends
          and stores; sample distinguishes several answers to one prompt.
        - failover: with model="a|b", "restart" goes on with b even after a has begun to answer, and discards
          that part; "content" does so where a's content filter refused.
        - hedge: seconds without a token after which the call is sent a second time; the answer that begins
          first is used, both are paid for.
        - label: text for the log's rows of this call.
        - extra: merged into the request's body unchanged.
        - keep: a command-line program keeps running for the next call, which is then faster; a conversation
          continues in the process that holds its history.

        Raises ConfigError for invalid arguments; errors of the provider are raised when the stream is read.
        """
        options = seal_key(options)
        spec = CallSpec.of(options)
        return self.stream_to(self.resolve(model, spec.base_url, spec.dialect), prompt, spec)

    def stream_to(self, route: Route, prompt: prompts.Prompt, spec: CallSpec) -> Stream:
        """`stream` for a resolved route."""
        permits: PermissionHandler | None = None
        if spec.mode == "execute" and spec.tools is None:
            from .permissions import PermissionHandler

            permits = PermissionHandler(parse_approve(spec.approve), self.asker)
            spec = replace(spec, approve=None)
        turns = None if spec.budget is None else LoopBudget(Budget.of(spec.budget))
        tool_use = self._tool_use(replace(spec, budget=turns), route) if _needs_agent(spec) else None
        parameters = self.request_parameters(spec)
        if "cache" not in parameters and tool_use is not None and tool_use.needs_loop:
            parameters["cache"] = "auto"
        parameters["tools"] = tool_use.descriptions if tool_use else ()
        request = self.request(prompt, route.model, **parameters)
        send_options = self.send_options(spec, route)
        if permits is not None:
            send_options["permits"] = permits
        if turns:
            send_options["budgets"] = (turns if tool_use and tool_use.has_runnable_tools else turns.parent,)

        def send_once(request: Request) -> Stream:
            return self.send(request, route, **send_options)

        send = send_once if spec.hedge is None else self._hedge(spec, route, send_once)
        if tool_use is None:
            return send(request)
        if not tool_use.needs_loop:
            return send(tool_use.prepare_request(request))
        return self._run_with_tools(tool_use, request, route, send_options["key"], send)

    def _hedge(
        self, spec: CallSpec, route: Route, send: Callable[[Request], Stream]
    ) -> Callable[[Request], Stream]:
        """A function that sends a request, and a second one where that is slow. Raises ConfigError for
        options that cannot be combined with it."""
        seconds, running = hedging.parse_hedge(spec.hedge) or 0.0, self._current_engine()
        excluded = {"tools": bool(spec.tools), "keep": spec.keep, "cache": answers.cache_mode(spec.cache)}
        if name := next((name for name, is_set in excluded.items() if is_set), None):
            raise errors.ConfigError(f"{name}= cannot be used with hedge=.", hint="Leave one of them out.")

        def send_hedged(request: Request) -> Stream:
            first = self.attempt(request, route, key=self.tapes.find_key(self.registry, route, spec.api_key))
            # All are prepared here, because the engine's thread, which sends the second request, must not
            # wait.
            if not all(a.call.rate_limited for a in (first, *self._fallback_attempts(request, route))):
                raise errors.ConfigError(
                    "hedge= may send a request twice, and an agent or command would act twice.",
                    hint="Leave hedge= out.",
                )
            stream = Stream(lambda fold, s: _build_response(fold, s, first))
            return stream.start(running, hedging.run_hedged(stream, lambda: send(request), seconds))

        return send_hedged

    def send_options(self, spec: CallSpec, route: Route) -> dict[str, Any]:
        """The keyword arguments of `send` for these options. Raises ConfigError for invalid ones."""
        return {
            "key": self.tapes.find_key(self.registry, route, spec.api_key),
            "timeouts": self.timeouts if spec.timeout is None else Timeouts.of(spec.timeout),
            "retries": Retries.of(spec.retries),
            "keep": bool(spec.keep),
            "mode": spec.mode,
            "failover": check_failover(spec.failover, route, spec.api_key),
            "cache_mode": answers.cache_mode(spec.cache),
            "sample": spec.sample or 0,
            "label": check_label(spec.label),
        }

    @staticmethod
    def request_parameters(spec: CallSpec) -> dict[str, Any]:
        """The keyword arguments of `request` for these options, without the tools."""
        parameters = spec.selected("parameter", "request") | {"schema": provider_schema(spec.schema)}
        parameters |= {} if spec.schema is None else {"strict": spec.strict}
        return {
            n: v
            for n, v in parameters.items()
            if n != "tools" and not (n == "cache" and answers.cache_mode(v))
        }

    def _run_with_tools(
        self,
        tool_use: ToolUse,
        request: Request,
        route: Route,
        key: Secret | None,
        send: Callable[[Request], Stream],
    ) -> Stream:
        """Runs the loop over tools. Raises ConfigError for mistakes that are known before it starts."""
        first, asker = self.attempt(request, route, key=key), self.asker
        self._fallback_attempts(request, route)  # prepared here, because the engine's thread must not wait
        scale = self._token_scales.setdefault((route.provider.name, route.model), TokenScale())
        tracing = self._active_tracing()

        def secrets() -> Sequence[str]:
            return (*first.guard.secrets, *self.registry.secrets)

        async def work() -> None:
            with nullcontext() if tracing is None else tracing.agent(stream, first):
                await tool_use.run(stream, request, send, asker, scale, journal=self.changes, secrets=secrets)

        stream = Stream(lambda fold, s: _build_multi_turn_response(fold, s, first))
        return stream.start(self._current_engine(), work())

    def complete(
        self, prompt: prompts.Prompt, model: str = DEFAULT_MODEL, **options: Unpack[CallOptions]
    ) -> Response:
        """`stream`, but waits for the end and returns the Response. Works inside a running event loop,
        too."""
        options = seal_key(options)
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
        permits: PermissionHandler | None = None,
        background: bool = False,
        failover: str = "start",
        budgets: tuple[Budget, ...] = (),
        cache_mode: str = "",
        sample: int = 0,
        label: str | None = None,
    ) -> Stream:
        """Sends a Request. fresh: over a new connection, or to a new command. keep, failover: as in stream.
        background: no user waits for it, so other calls go first. budgets: in addition to the client's own.
        cache_mode: "true" or "refresh" for the cache of answers; sample: which answer of several. label: for
        the log. Raises ConfigError where a provider's key is missing. On the engine's thread, `http.prepare`
        must have been called before."""
        options: dict[str, Any] = {
            "timeouts": timeouts,
            "fresh": fresh,
            "keep": keep,
            "mode": mode,
            "permits": permits,
        }
        first = self.attempt(request, route, key=key, **options)
        first = structs.replace(first, background=background, label=label) if background or label else first
        tape = self.tapes.get_source()
        answers.check_cacheable(first.call, cache_mode)
        stream = Stream(lambda fold, s: _build_response(fold, s, first))
        if permits is not None:
            permits.stream = stream
        for notice in _notices(request, first):
            stream.publish(notice)
        running, retries = self._current_engine(), retries or self.retries
        gates = running.singleton(Gates) if self.paced else None
        others = self._fallback_attempts(request, route, **options) if route.fallbacks else ()

        def with_failover(handler: Handler) -> Handler:
            return failing_over(handler, others, running.singleton(Breakers), mode=failover)

        def from_store(handler: Handler) -> Handler:
            if tape is not None:
                return replaying(tape, others)
            return answers.cached(handler, running.singleton(answers.AnswerCache), cache_mode, sample)

        own = self.tapes.wrap(others) if tape is None else ()
        if others and tape is None:  # a replay does not fail over
            own = (with_failover, *own)
        wrap = (*own, *self.wrap) if own else self.wrap
        budgets = budgets if self.budget is None else (*budgets, self.budget)
        tracing = self._active_tracing()
        stored = from_store if tape or cache_mode else None
        optional = budgets, stored, tracing and tracing.chat
        handler = self._handler((self.sender, self._pool, retries, wrap, self.ledger, gates, *optional))
        return stream.start(running, handler(first, stream))

    def _handler(self, parts: tuple[Any, ...]) -> Handler:
        """The handler composed of these parts; the last call's where it has the same."""
        last_parts, handler = self._last_handler
        if handler is None or any(map(is_not, parts, last_parts)):
            own, pool, retries, wrap, ledger, gates, budgets, stored, traced = parts
            handler = compose_handler(
                own or sender(pool.transport),
                retries,
                wrap,
                ledger,
                gates,
                budgets=budgets,
                stored=stored,
                traced=traced,
                contexts=None if own else pool.contexts.use_contexts,  # another sender has its own
            )
            self._last_handler = parts, handler
        return handler

    def _fallback_attempts(self, request: Request, route: Route, **options: Any) -> list[Attempt]:
        """The prepared attempts for a route's failover."""
        return [
            self.attempt(
                request_for(request, route, r), r, key=self.tapes.find_key(self.registry, r, None), **options
            )
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
        permits: PermissionHandler | None = None,
    ) -> Attempt:
        """Prepares the attempt that `send` sends, and loads the network libraries that it needs. Handlers
        call it to send to another route."""
        guard, running = Guard.for_provider(route.provider, key), self._current_engine()
        limits = (timeouts or self.timeouts).at_least(self.registry.timeout_from_env(route.provider))
        if self.tapes.get_source() is not None:
            dialect = prepare.dialect_of(route.provider, self.registry.dialects)
            return Attempt(request, route, dialect, key, guard, EMPTY_CALL, None, limits)
        try:
            request, call = self._encode_for_route(request, route, key, keep=keep, mode=mode)
            call = call.with_permit(permits, persistent=keep) if mode == "execute" else call
            fresh = fresh or (mode == "execute" and not keep)
            transport = self._pool.transport(call)
            if not running.is_here() and (warming := transport.warm_up(call)) is not None:
                running.run(warming)
            prepared_call = transport.prepare_call(call, fresh=fresh)
        except errors.NbllmError as error:
            raise error.scrub_secrets(guard.secrets).with_traceback(None) from None  # its frames hold the key
        dialect = prepare.dialect_of(route.provider, self.registry.dialects)
        return Attempt(request, route, dialect, key, guard, call, prepared_call, limits)

    def _encode_for_route(
        self, request: Request, route: Route, key: Secret | None, **options: Any
    ) -> tuple[Request, AnyCall]:
        """The request as it is sent, and its call. Where the provider does not take a file that a tool
        returned, the file is replaced by a description, so that the answer is not lost."""
        try:
            return request, self.encode(request, route, key, **options)
        except errors.ConfigError:
            if (described := describe_files(request.messages)) == request.messages:
                raise
            request = replace(request, messages=described)
            return request, self.encode(request, route, key, **options)

    def encode(
        self,
        request: Request,
        route: Route,
        key: Secret | None,
        *,
        keep: bool = False,
        mode: str | None = None,
    ) -> AnyCall:
        """The call for `request`; nothing is sent. Raises ConfigError where the route has a problem, and for
        keep where the provider does not support it."""
        route.check()
        return prepare.encode(request, route, key, self.registry.dialects, keep=keep, mode=mode)


def check_label(label: Any) -> str | None:
    """The label for the log. Raises ConfigError for an invalid one, or more than 80 characters."""
    if label is None or (isinstance(label, str) and 0 < len(label) <= 80 and label.isprintable()):
        return label or None
    raise errors.ConfigError(
        f"Not a label: {str(label)[:40]!r}.", hint="label= takes text of at most 80 characters."
    )


def check_failover(failover: str | None, route: Route, key: Secret | None) -> str:
    """The mode in failover=. Raises ConfigError where it, or a key, does not fit the models."""
    if failover not in (None, "start", "restart", "content"):
        raise errors.ConfigError(
            f"Not a value of failover: {failover!r}.", hint="Use start, restart or content."
        )
    if failover is not None and not route.fallbacks:
        raise errors.ConfigError(
            "failover= needs a second model.", hint="For example model=openai/mini|claude/haiku."
        )
    if key is not None and any(r.provider.name != route.provider.name for r in route.fallbacks):
        raise errors.ConfigError(
            "One key does not fit several providers.", hint="Leave api_key out: each finds its own."
        )
    return failover or "start"


def _needs_agent(spec: CallSpec) -> bool:
    """Whether tools or options of tools were given, valid or not, or the conversation may be shortened."""
    tools = spec.tools is not None and not (isinstance(spec.tools, (list, tuple)) and not spec.tools)
    restricted = (spec.strict, spec.max_steps, spec.approve) != (None, None, None)
    return tools or restricted or spec.compact not in (None, "off")


def _notices(request: Request, first: Attempt) -> Iterable[Notice]:
    """The notices before a request is sent."""
    route, row = first.route, first.route.provider
    if first.request.messages != request.messages:
        text = f"files of tools replaced by descriptions: {first.provider_label} takes no such file"
        yield Notice("media", text)
    if dropped := dropped_files(request, row.dialect):
        text = f"{dropped} not sent back: {first.provider_label} takes no such file from a model"
        yield Notice("media", text)
    if route.why:
        yield Notice("auto", f"{route.chosen_by} chose {row.name}/{route.model}: {route.why}.")


def _build_response(fold: Fold, stream: Stream, first: Attempt) -> Response:
    """The response to a call, with the model and prices of the last attempt's route."""
    attempt: Attempt = stream.attempts[-1] if stream.attempts else first
    route, trace, reported, usage = attempt.route, stream.trace, fold.model, fold.usage
    cached = next((n for n in fold.notices if n.kind == "cached"), None)
    is_simulated = cached is not None and cached.data.get("simulated") is True
    simulated = route.simulated or trace.simulated or is_simulated
    secrets = attempt.guard.secrets
    model = errors.scrub(reported, secrets) if reported and reported != route.model else route.model
    # Tokens that a server cached are paid for as input.
    stored = [Usage(n.data["kept"], 0) for n in fold.notices if n.kind == "context" and n.data]
    costs = (prices.cost(used, model, route.provider) for used in (usage, *stored))
    cost = None if simulated or not stream.done else _total_cost(costs)
    answer = fold.response(
        model=model,
        provider=route.provider.name,
        cost=cost if cached is None else 0.0,
        saved_usd=cost if cached is not None else None,
        cached=cached is not None,
        timing=timing(stream, stream.turns, usage) if cached is None else Timing(attempts=0),
        request=attempt.request,
        simulated=simulated,
        raw={"status": trace.status, "headers": trace.headers, "usage": usage.raw if usage else {}},
    )
    if not any(secret in f"{answer.id} {answer.finish_raw}" for secret in secrets):
        return answer
    # A server sent the key back.
    id, finish_raw = (errors.scrub(text or "", secrets) for text in (answer.id, answer.finish_raw))
    return replace(answer, id=id, finish_raw=finish_raw)


def _total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum; None where one is unknown."""
    return None if None in (known := list(costs)) else sum(filter(None, known))


def _build_multi_turn_response(fold: Fold, stream: Stream, first: Attempt) -> Response:
    """The response to a call of several turns, with their total cost."""
    response = _build_response(fold, stream, first)
    turns = [turn.partial() for turn in stream.turns]
    extra = [call.partial() for call in stream.extra_calls]
    # It starts at 1 where the calls of an earlier answer were run first.
    costs = dict(enumerate((turn.cost for turn in turns), len(response.steps) - len(turns)))
    saved = [turn.saved_usd for turn in turns if turn.saved_usd is not None]
    return replace(
        response,
        before=tuple(replace(s, cost=costs.get(i)) for i, s in enumerate(response.before)),
        cost=_total_cost(r.cost for r in (*turns, *extra)) if turns else None,
        usage=sum_usage([response.usage, *(r.usage for r in extra)]),
        cached=bool(turns) and all(turn.cached for turn in turns),
        saved_usd=sum(saved) if saved else None,
        timing=Timing(attempts=0) if any(turn.cached for turn in turns) else response.timing,
    )
