"""What passes between dialects and transports, and the row that describes a provider. Pure values.

The narrow waist is Frame: an SSE event, an NDJSON line and a line of a CLI's standard output are the same
thing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import msgspec

from .addresses import may_hold_secret, parse
from .errors import MASK, ConfigError, NbllmError, ProviderError, scrub
from .eventlog import ColumnStore
from .events import Event, Item
from .messages import Request

_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
AGENT = "agent"  # stands for a model, of which agents on other machines have none
_OPENAI = re.compile(r"https://(?:[a-z]{2}\.)?api\.openai\.com")


def origin(url: str) -> str:
    """Scheme, host (as IDNA 2008 writes it) and port of an address as one text, the port left out where it is
    the scheme's own."""
    try:
        return str(parse(url)) if may_hold_secret(url) else _origin(url)
    except ConfigError:  # an address that cannot be read, or still waits for a variable, is no other's
        return display_url(re.match(r"(?:[^/?#]*//[^/?#]*)?", url)[0] or url)  # type: ignore[index]


@functools.lru_cache(512)
def _origin(url: str) -> str:
    return str(parse(url))


def same_host(a: str, b: str) -> bool:
    """Whether two addresses go to the same server, so that a key for one may be sent to the other."""
    return a == b or origin(a) == origin(b)


def display_url(url: str, secrets: tuple[str, ...] = ()) -> str:
    """An address as people may see it: without what stands before an @, and without secrets."""
    return scrub(_USERINFO.sub(f"{MASK}@", url), secrets)


class Secret:
    """A key that no repr, format, pickle or traceback shows. `reveal()` gives the text, for an auth header
    only.

    origin: where it may be sent, "" where nobody has said yet. beside: it lay in a file beside the notebook,
    which somebody else may have put there.
    """

    __slots__ = ("_text", "from_project", "origin", "source")

    def __init__(
        self, text: str, source: str = "argument", origin: str = "", *, from_project: bool = False
    ) -> None:
        self._text, self.source, self.origin, self.from_project = text, source, origin, from_project

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def bound_to(self, url: str) -> Secret:
        """This key as one of the server at `url`, where it does not belong to one already."""
        return (
            self
            if self.origin
            else Secret(self._text, self.source, origin(url), from_project=self.from_project)
        )

    @property
    def masked(self) -> str:
        """Enough to tell two keys apart, too little to use one: the last four characters of a long key."""
        return f"{MASK}{self._text[-4:]}" if len(self._text) >= 20 else MASK

    def __repr__(self) -> str:
        return f"Secret({MASK} from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is never pickled")


class Read(NamedTuple):
    """One read of an answer's bytes; times are perf_counter seconds.

    at: when its last byte arrived. lo: none of it had arrived before. user: when it was in this process's
    hands. stamp: who says so, "kernel" or "recv". segments: at most so many TCP segments it held, 0 for
    unknown. clean: it ended where an event ended, so that event arrived exactly at `at`.
    """

    at: float
    lo: float
    user: float
    size: int
    stamp: str = "recv"
    segments: int = 0
    clean: bool = False


class Frame(NamedTuple):
    """One message of the wire. `at`: when its bytes had arrived, perf_counter seconds. `tail`: the stream
    ended inside it, so it may be a fragment. `read`: which of the trace's reads completed it, -1 for
    unknown."""

    data: str
    name: str = ""
    at: float = 0.0
    tail: bool = False
    read: int = -1


class Arrival(NamedTuple):
    """What became of a frame: the events before `upto` in the stream's log (and after the arrival before) are
    its own; `read` completed it; its data had `size` characters."""

    upto: int
    read: int
    size: int


class Trace(msgspec.Struct):
    """What a transport saw of one attempt. `marks`: perf_counter seconds by name (start, dns_start, dns,
    connect_start, connected, tls_start, secured, send_start, sent, first_byte, headers, end,
    eof; for processes spawned and exit), written by transports, and `done`, the arrival of the protocol's end
    mark. `stalls`: when meanwhile the network's loop was too busy to look, (from, to). `whole`: text came in
    whole messages, so that no time to first token can be told. `address`: where it really went, where that is
    for the transport to find. `stderr`: the end of a command's standard error. `error`: what ended
    this attempt, without secrets; None where nothing did."""

    marks: dict[str, float] = msgspec.field(default_factory=dict)
    status: int | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    http_version: str | None = None
    reused: bool | None = None
    connected_at: float | None = None
    resumed: bool | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    reads: ColumnStore[Read] = msgspec.field(default_factory=lambda: ColumnStore(Read, "dddIOIO"))
    arrivals: ColumnStore[Arrival] = msgspec.field(default_factory=lambda: ColumnStore(Arrival, "IiI"))
    stalls: tuple[tuple[float, float], ...] = ()
    non_streaming: bool = False
    address: str = ""
    stderr: str = ""
    error: NbllmError | None = None

    @property
    def simulated(self) -> bool:
        """Whether the simulator says that it answered."""
        return "x-nbllm-simulated" in self.headers


class HiddenTexts(tuple[str, ...]):
    """Texts that no repr shows: tracebacks that show local variables look into attributes as well."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"({MASK})" if self else "()"


class Guard(msgspec.Struct, frozen=True):
    """What a call holds that is secret: its texts, and the origins that they belong to."""

    origins: tuple[str, ...] = ()
    secrets: HiddenTexts = msgspec.field(default_factory=HiddenTexts)

    @classmethod
    def for_provider(cls, row: Endpoint, key: Secret | None) -> Guard:
        """The guard of calls to a row: its headers and query belong to its address, the key to its own."""
        mine = (key.reveal(),) if key is not None and key.source != "simulator" else ()
        return cls(
            (origin(row.base_url), *((key.origin,) if key is not None else ())),
            HiddenTexts((*mine, *row.secrets)),
        )

    def check(self, url: str) -> None:
        """Raises ConfigError where `url`, as it will be sent, is of another origin than what would go with
        it."""
        where = str(parse(url)) if self.origins else ""
        wrong = next((o for o in self.origins if o != where), None)
        if wrong is not None:
            raise ConfigError(
                f"What belongs to {wrong or 'no address'} is not sent to {where}.",
                hint="Check base_url and models of the provider; a key for another address is named with "
                "base_url and key, or api_key.",
            )


SECRET_HEADERS = frozenset(
    {
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "proxy-authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "x-auth-token",
    }
)
_PUBLIC_HEADERS = frozenset({"accept", "content-type", "anthropic-version"})  # a row's own may hold anything


class _Call:
    """What every kind of call says of itself."""

    __slots__ = ()
    no_key_hint: ClassVar[str] = ""  # what to do where it is refused and held no key
    rate_limited: ClassVar[bool] = False  # it goes straight to a provider, who may limit how often

    @property
    def has_side_effects(self) -> bool:
        """Whether who is asked does more than answer, so that it is not asked again once it has begun."""
        return False

    def with_guard(self, guard: Guard) -> Self:
        """It with what of it is secret, and where that may go; a command is told its key by its
        environment."""
        return self

    def with_permit(self, permit: Permit | None, *, persistent: bool) -> Self:
        """It where the user is asked what it asks to be allowed; most ask for nothing. stays: who is asked
        goes on to the next turn."""
        return self

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """(what would be done with it: sent or run; what it holds, without secrets)."""
        raise NotImplementedError

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """Where it went, which is `address` where the transport found it, and with which key."""
        raise NotImplementedError


class _AddressedCall(_Call):
    """A call that goes to an address."""

    __slots__ = ()

    def with_guard(self, guard: Guard) -> Self:
        """See _Call."""
        return msgspec.structs.replace(self, guard=guard)  # type: ignore[type-var]

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        own = key is not None and bool(address) and same_host(address, row.base_url)
        which = f"the key {key.masked} from {key.source}" if key is not None and own else "no key"
        return f"Sent to {display_url(address, row.secrets)} with {which}." if address else ""


@dataclass(frozen=True, slots=True, repr=False)
class HttpCall(_AddressedCall):
    """An HTTP request, ready to be sent: `body` is a JSON object. guard: what of it is secret, and where it
    may go. content: what is sent in place of a body, where it is no JSON object of ours."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    method: str = "POST"
    guard: Guard = field(default=Guard(), compare=False)
    content: bytes = field(default=b"", repr=False)
    rate_limited: ClassVar[bool] = True
    no_key_hint: ClassVar[str] = (
        "No key was sent to this address. Name one for it: key=VARIABLE in a cell, api_key=... in Python."
    )

    def __repr__(self) -> str:
        headers = {k: v if k.lower() in _PUBLIC_HEADERS else MASK for k, v in self.headers.items()}
        path, mark, query = display_url(self.url, self.guard.secrets).partition("?")
        query = re.sub(r"=[^&]+", f"={MASK}", query)
        return f"HttpCall({self.method} {path}{mark}{query}, headers={headers}, body keys={list(self.body)})"

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        private, texts = SECRET_HEADERS | {name.lower() for name in row.headers}, self.guard.secrets
        headers = {k: MASK if k.lower() in private else scrub(v, texts) for k, v in self.headers.items()}
        return "sent", {
            "url": display_url(self.url, texts),
            "headers": headers,
            "body": _shortened(self.body),
        }

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return super(HttpCall, self).describe_destination(row, key, row.base_url)

    def with_guard(self, guard: Guard) -> HttpCall:
        """See _Call; each call is."""
        return HttpCall(self.url, self.headers, self.body, self.method, guard, self.content)


_LONGEST = 2_000  # characters of a text that a preview shows whole


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:200]}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {k: _shortened(v) for k, v in value.items()}
    return [_shortened(v) for v in value] if isinstance(value, (list, tuple)) else value


class ProcessCall(_Call, msgspec.Struct, frozen=True):
    """A command to run: an argument list, never a shell line. `stdin` is written and closed; `env` is set on
    top of the allowed environment and the variables in `passthrough_env`; `cwd` None is a new temporary
    directory. `inputs` are files to write before, `files` those to read after; {tmp} in arguments and values
    is their folder. foreign: a program that does not know nbllm: its arguments are used as they are, and it
    sees only the few variables without which programs do not start."""

    argv: tuple[str, ...]
    stdin: str = ""
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None
    passthrough_env: tuple[str, ...] = ()
    inputs: Mapping[str, str] = msgspec.field(default_factory=dict)
    files: tuple[str, ...] = ()
    foreign: bool = False
    headers: ClassVar[None] = None  # it is told its key by its environment

    def __repr__(self) -> str:
        return f"ProcessCall({self.argv[:1]}, +{len(self.argv) - 1}, env names={list(self.env)})"

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        command = {"command": list(self.argv), "variables": sorted(self.env), "standard input": self.stdin}
        return "run", command

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return f"Ran {address or self.argv[0]}" + (
            f" with the key {key.masked} from {key.source}." if key else "."
        )


class SessionTurn(msgspec.Struct, frozen=True):
    """A turn in a session with an agent that remembers. history: the messages that the session must already
    hold, as (role, text), the model first; message: the new one, likewise; prompt: the text for a session
    that has the history; full_prompt: the text for a new one."""

    history: tuple[tuple[str, str], ...]
    message: tuple[str, str]
    prompt: str
    full_prompt: str

    def history_after(self, answer: str) -> tuple[tuple[str, str], ...]:
        """The history that the session holds once it has answered."""
        return (*self.history, self.message, ("assistant", answer))


class Permission(msgspec.Struct, frozen=True):
    """What a command asks to be allowed. request: its own name for the question, as it is answered; id, name
    and arguments: of the tool's call; source: who asks, for people; words: what its protocol calls yes and
    no."""

    request: str | int | float | None
    id: str
    name: str
    arguments: Any
    source: str
    decisions: tuple[Any, Any] = (None, None)


Permit = Callable[[Permission], Coroutine[Any, Any, bool]]


class AgentCall(_Call, msgspec.Struct, frozen=True):
    """A turn with a command that stays: how it is run, what is said, and `talk`, which makes both sides'
    words for its working folder. fresh: with a process of its own, which does not stay. permit: asks the user
    what the command asks to be allowed; None where nothing is."""

    process: ProcessCall
    turn: SessionTurn
    make_protocol: Callable[[str], AgentProtocol]
    fresh: bool = False
    permit: Permit | None = None
    headers: ClassVar[None] = None  # it is told its key by its environment

    @property
    def has_side_effects(self) -> bool:
        """See _Call."""
        return self.permit is not None

    def with_permit(self, permit: Permit | None, *, persistent: bool) -> AgentCall:
        """See _Call."""
        return msgspec.structs.replace(self, permit=permit, fresh=self.fresh or not persistent)

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        return self.process.preview(row)

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return self.process.describe_destination(row, key, address)


class SessionCall(_AddressedCall, msgspec.Struct, frozen=True):
    """A turn in a session of OpenCode's server: the addresses to try (`headers` are the first's alone: they
    hold its password), the bodies that open a session and carry a message (its parts are the turn's), how to
    start a server where none answers (None for never), the folder to work in ("" for its own). fresh: in a
    session of its own, which is closed after."""

    addresses: tuple[str, ...]
    headers: Mapping[str, str]
    session: Mapping[str, Any]
    message: Mapping[str, Any]
    turn: SessionTurn
    start: ProcessCall | None = None
    folder: str = ""
    fresh: bool = False
    guard: Guard = Guard()

    def __repr__(self) -> str:
        return (
            f"SessionCall({[display_url(a, self.guard.secrets) for a in self.addresses]}, "
            f"headers={list(self.headers)})"
        )

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        return "sent", {
            "addresses": [display_url(a, self.guard.secrets) for a in self.addresses],
            "session": self.session,
            "message": {**self.message, "parts": [{"type": "text", "text": self.turn.full_prompt}]},
        }


class RemoteCall(_AddressedCall, msgspec.Struct, frozen=True):
    """A turn with an agent on another machine: the address of its card, what goes to that origin alone, the
    turn, and the files that go with it (as the protocol's parts, in JSON). fresh: in a context of its own."""

    url: str
    headers: Mapping[str, str]
    turn: SessionTurn
    files: tuple[Mapping[str, Any], ...] = ()
    fresh: bool = False
    guard: Guard = Guard()
    no_key_hint: ClassVar[str] = "No key was sent. Name one in the agent's row: key_env."

    @property
    def has_side_effects(self) -> bool:
        """See _Call."""
        return True

    def __repr__(self) -> str:
        return f"RemoteCall({display_url(self.url, self.guard.secrets)}, headers={list(self.headers)})"

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        parts = [{"text": self.turn.full_prompt}, *self.files]
        return "sent", {"card": display_url(self.url, self.guard.secrets), "parts": _shortened(parts)}


class LocalCall(_Call, msgspec.Struct, frozen=True):
    """A request for a model in a file, whose server is started where none runs: the request without its
    address, the file, and the tokens that it is given room for."""

    http: HttpCall
    file: str
    context: int
    headers: ClassVar[None] = None  # the server's key is made where it is started

    @property
    def key(self) -> tuple[str, int]:
        """What one server serves."""
        return self.file, self.context

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        return "sent", {"model": self.file, "n_ctx": self.context, "body": _shortened(self.http.body)}

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return f"Sent to {self.file} on this machine."


AnyCall = HttpCall | ProcessCall | AgentCall | SessionCall | RemoteCall | LocalCall
EMPTY_CALL = HttpCall("", {}, {})  # of an attempt that is never sent


@dataclass(frozen=True, slots=True)
class Quirks:
    """What differs between providers of one dialect, as data.

    max_tokens_field: the name of the limit in the body. system_role: "system" or "developer". stream_usage:
    ask for usage in the stream (OpenAI's stream_options). reasoning_field: the field by which thinking is
    sent back, "" for never. thinking_switch: thinking is turned on and off by an object of its own, beside
    the effort. cannot: what of a Request (tools, schema, seed ...) this provider has no word for, so that
    asking for it is an error here and not a loss there. limits: what its headers' rate limits count, where
    their names do not say ("requests/day"; a minute where nothing is said). cache_key: takes OpenAI's words
    for prompts that are kept (prompt_cache_key, prompt_cache_retention), as OpenAI's own address does without
    saying so.
    """

    max_tokens_field: str = ""
    system_role: str = "system"
    stream_usage: bool = True
    reasoning_field: str = ""
    thinking_switch: bool = False
    cannot: tuple[str, ...] = ()
    cache_key: bool = False
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model: its context in tokens, and US dollars for a million tokens of input, output,
    input read from a cache and input written to one. None where it is not known."""

    context: int | None = None
    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class OAuth:
    """How a person logs in by OAuth 2: the public client's name, where tokens come from, and where a device
    code or a code for the browser comes from (one of the two)."""

    client_id: str
    token_url: str
    device_url: str = ""
    authorize_url: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All that a dialect sees of a provider: where it is, which words it takes, and how it is called.

    base_url holds the version path where the provider has one ("https://api.openai.com/v1"); query is added
    to it; key_header is the header that carries the key where it is not the dialect's own; key_env names the
    variables that may hold the key, in order. command: the words that run a headless CLI, which has no
    address but cli://NAME; passthrough_env names the environment variables that it may see in addition to
    the usual ones, except those in pending_consent. secret_values: the values of variables, headers and
    query, which nothing may show; None where they are not known.
    """

    name: str
    dialect: str
    base_url: str
    key_env: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    quirks: Quirks = field(default_factory=Quirks)
    query: Mapping[str, str] = field(default_factory=dict)
    key_header: str = ""
    pending_consent: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    passthrough_env: tuple[str, ...] = ()
    secret_values: HiddenTexts | None = None

    @property
    def secrets(self) -> HiddenTexts:
        """The texts of this row that no message, repr or file may hold."""
        own = (
            (*self.headers.values(), *self.query.values())
            if self.secret_values is None
            else self.secret_values
        )
        user, _, password = (_USERINFO.search(self.base_url) or [""])[0][:-1].partition(":")
        return HiddenTexts(filter(None, (*own, f"{user}:{password}" if password else "", password, user)))

    @property
    def takes_cache_key(self) -> bool:
        """Whether it takes OpenAI's words for prompts that are kept. Other servers may refuse what they do
        not know, so only OpenAI's own hosts are sent them unasked."""
        return self.dialect.startswith("openai_") and (self.quirks.cache_key or self.is_openai)

    @property
    def is_openai(self) -> bool:
        """Whether it is at one of OpenAI's own hosts."""
        return _OPENAI.fullmatch(origin(self.base_url)) is not None

    @property
    def display_url(self) -> str:
        """The address as people may see it."""
        return display_url(self.base_url, self.secrets)

    def __repr__(self) -> str:
        """Its address and entries, without what may be secret."""
        told = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in _HIDDEN_FIELDS and getattr(self, f.name) != f.default
        }
        told |= {
            "base_url": self.display_url,
            "headers": dict.fromkeys(self.headers, MASK),
            "query": dict.fromkeys(self.query, MASK),
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in told.items() if v)})"


@dataclass(frozen=True, slots=True, repr=False)
class ProviderSpec(Endpoint):
    """One row of providers.toml: an endpoint, under which names it is known, and whose keys it may use.

    base_url_env names the variables that may hold the address, timeout_env those that hold seconds; prefixes
    are other words before the slash, bare are patterns of model names that need none; models is the path of
    its model list; price its name in the price data; local: works without a key.

    base_url, headers and query may hold ${NAME} or ${NAME:-other} for an environment variable, and base_url
    {model} for the model's name; both are filled in when a call is routed. opencode is its name in OpenCode's
    store of keys; facts are the user's own on models, by the model's name; verified says by what the row
    was checked; unavailable_reason why it cannot be called; source the file of the row, "" for nbllm's own;
    pending_consent the variables and names that an untrusted project file uses and the user has not approved.
    oauth: how to log in instead of typing a key. builtin_origin: the origin of this provider in nbllm's own
    rows, where the name in `opencode` is theirs. batch: how it writes batches, a name out of
    dialects.batches.FORMATS, "" where it takes none. embeddings: short names of models that embed, the first
    of which is meant where none is named. folders: where model files lie whose names it answers to, in place
    of an address.
    """

    base_url_env: tuple[str, ...] = ()
    timeout_env: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    local: bool = False
    default_model: str = ""
    models: str = ""
    key_url: str = ""
    price: str = ""
    opencode: str = ""
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)
    verified: tuple[str, ...] = ()
    unavailable_reason: str = ""
    source: str = ""
    oauth: OAuth | None = None
    builtin_origin: str = ""
    batch: str = ""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """How it is reached: "api", "local", "headless" (a command) or "remote" (an agent elsewhere)."""
        if self.dialect == "a2a":
            return "remote"
        return "headless" if self.dialect.startswith("cli") else "local" if self.local else "api"

    @property
    def needs_consent(self) -> bool:
        """Whether the user has yet to allow where or how it is asked."""
        return any(h == self.name or h.startswith(f"{self.name}: ") for h in self.pending_consent)


_HIDDEN_FIELDS = frozenset({"secret_values", "facts", "quirks", "embeddings"})


class Decoder(Protocol):
    """Reads the frames of one answer. A frame may also be a whole, non-streamed answer in one JSON object.

    `done` turns true with the protocol's own end mark ([DONE], message_stop, a done line), after which a
    server that leaves the connection open is not waited for. A decoder may have `ended` as well: the reason
    of the end came, so that silence after it is no failure. And it may have `read_fast`, see FastRead.
    """

    done: bool

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events in `frame`. Raises ProviderError for an error inside the stream, ProtocolError for
        gibberish."""

    def close(self) -> Iterator[Event]:
        """The last events, Finished among them. Raises StreamCut where the answer has no proper end."""


# Of frames from a place on, what those hold that are of the usual kind, one thing each, to the first that is
# not: what `feed` would give, and to the same effect.
FastRead = Callable[[list[Frame], int], list[Item]]


class Reply(Protocol):
    """What came of a call that was opened; to be read on the loop of its transport."""

    @property
    def status(self) -> int:
        """HTTP's; 200 for a command."""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP's, in lower case."""

    async def body(self, limit: int = ...) -> bytes:
        """The page of an answer that refuses, at most `limit` bytes of it."""

    def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The answer's messages, those that came together in one list, which is never empty."""

    async def for_each_batch(self, handle: Callable[[list[Frame]], bool]) -> None:
        """Hands the answer's messages to `take`, as `frames` gives them; ends with the answer, or where
        `take` says that this was all of it. Raises what `take` raises."""
        async with aclosing(self.frames()) as frames:
            async for batch in frames:
                if handle(batch):
                    await self.drain(frames)
                    break

    def decoder(self) -> Decoder | None:
        """What reads these frames, where only the transport knows; None for the dialect's own."""
        return None

    def finish(self, answer: Callable[[], str]) -> None:
        """The turn is over, well or stopped; `answer` gives its text to who remembers what was said."""
        return

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """Gives the other side a moment to end what was read to the answer's end, so that the connection can
        be used again; whatever goes wrong by then is not the answer's business."""
        return


class Transport(Protocol):
    """A way to send one kind of call. Used on one event loop."""

    def prepare_call(self, call: Any, *, fresh: bool) -> Any:
        """The call as `open` takes it: all that can be made before a clock starts. fresh: over a connection,
        to a command or in a session of its own. Raises ConfigError for what cannot be sent."""
        return msgspec.structs.replace(call, fresh=fresh)

    def warm_up(self, call: Any) -> Coroutine[Any, Any, None] | None:
        """What is to be done before the first call's clock starts; None where nothing is."""
        return None

    def describe_wait(self, call: Any) -> str:
        """What the user waits for beside the answer, in words; "" for nothing."""
        return ""

    def open(self, call: Any, trace: Trace, connect: float | None) -> AbstractAsyncContextManager[Reply]:
        """Sends, and gives what comes once its head is there; leaving closes it. connect: seconds allowed
        for reaching the other side."""


class AgentProtocol(Protocol):
    """What is said with a command that stays, and how. Pure: gives lines to write, is told every line that
    comes.

    many: one process holds several conversations. busy: a turn is under way. session: the conversation of the
    last turn. asked: what the command asks to be allowed, in its order; whoever answers takes it out.
    """

    multi_session: bool
    busy: bool
    session: str
    pending_permissions: list[Permission]

    def start_turn(self, turn: SessionTurn, session: str) -> list[str]:
        """Begins a turn in `session`, or in a new one ("")."""

    def handle_line(self, line: str) -> list[str]:
        """What to write in answer to a line."""

    def answer_permission(self, permission: Permission, allow: bool) -> list[str]:
        """What to write in answer to a question: this once, or no."""

    def interrupt(self) -> list[str]:
        """Ends the turn under way; the command stays."""

    def decoder(self) -> Decoder:
        """A reader of the turn under way."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire protocol, both directions, as pure functions.

    encode: the call that asks for a request as a stream; raises ConfigError for what the protocol cannot say.
    decoder: a fresh decoder for one answer. error: what an HTTP answer with a status of 300 and above means.

    What few can do beside: counting makes of an answer's call the one that counts its tokens, and names the
    field with them; unloading gives the calls that have a model leave the memory and that list those in it;
    keeps_prompts says that servers keep what cache="1h" is for by a name; vouched, that who listens is asked
    what it is before it is sent a password.
    """

    name: str
    encode: Callable[[Request, Endpoint, Secret | None], AnyCall]
    decoder: Callable[[Endpoint], Decoder]
    error: Callable[[int, Mapping[str, str], bytes, Endpoint], ProviderError]
    counting: tuple[Callable[[HttpCall], HttpCall], str] | None = None
    unloading: Callable[[str, str], tuple[HttpCall, HttpCall]] | None = None
    keeps_prompts: bool = False
    vouched: bool = False
