"""The types exchanged between dialects and transports, and the row that describes a provider. Pure values.

Frame is the common unit: an SSE event, an NDJSON line and a line of a CLI's standard output are all Frames.
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
AGENT = "agent"  # placeholder for the model of agents on other machines, which have none
_OPENAI = re.compile(r"https://(?:[a-z]{2}\.)?api\.openai\.com")


def origin(url: str) -> str:
    """Scheme, host (in IDNA 2008 form) and port of an address as one text; the scheme's default port is left
    out."""
    try:
        return str(parse(url)) if may_hold_secret(url) else _origin(url)
    except ConfigError:  # not a valid address, or one with an unfilled variable: equal to itself only
        return display_url(re.match(r"(?:[^/?#]*//[^/?#]*)?", url)[0] or url)  # type: ignore[index]


@functools.lru_cache(512)
def _origin(url: str) -> str:
    return str(parse(url))


def same_host(a: str, b: str) -> bool:
    """Whether two addresses belong to the same server, so that a key for one may be sent to the other."""
    return a == b or origin(a) == origin(b)


def display_url(url: str, secrets: tuple[str, ...] = ()) -> str:
    """An address that is safe to show: without user information and secrets."""
    return scrub(_USERINFO.sub(f"{MASK}@", url), secrets)


class Secret:
    """A key that no repr, format, pickle or traceback shows. `reveal()` gives the text, for an authorization
    header only.

    origin: where it may be sent, "" where that is not decided yet. from_project: it comes from a file next to
    the notebook, which somebody else may have put there.
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
        """This key, bound to the server at `url` unless it is bound to one already."""
        return (
            self
            if self.origin
            else Secret(self._text, self.source, origin(url), from_project=self.from_project)
        )

    @property
    def masked(self) -> str:
        """The last four characters of a long key: enough to tell two keys apart, too few to use one."""
        return f"{MASK}{self._text[-4:]}" if len(self._text) >= 20 else MASK

    def __repr__(self) -> str:
        return f"Secret({MASK} from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a Secret cannot be pickled")


class Read(NamedTuple):
    """One read of an answer's bytes; times are perf_counter seconds.

    at: when its last byte arrived. lo: lower bound of the arrival of its first byte. user: when this process
    had it. stamp: the source of `at`, "kernel" or "recv". segments: the maximum number of TCP segments in it,
    0 for unknown. clean: it ended where an event ended, so that event arrived exactly at `at`.
    """

    at: float
    lo: float
    user: float
    size: int
    stamp: str = "recv"
    segments: int = 0
    clean: bool = False


class Frame(NamedTuple):
    """One message of a stream. `at`: when its bytes had arrived, perf_counter seconds. `tail`: the stream
    ended inside it, so it may be a fragment. `read`: index of the read in the trace that completed it, -1 for
    unknown."""

    data: str
    name: str = ""
    at: float = 0.0
    tail: bool = False
    read: int = -1


class Arrival(NamedTuple):
    """The events of a frame: those in the stream's log from the previous arrival's `upto` to its own. `read`:
    index of the read that completed it; `size`: characters of its data."""

    upto: int
    read: int
    size: int


class Trace(msgspec.Struct):
    """What a transport observed of one attempt. `marks`: perf_counter seconds by name (start, dns_start, dns,
    connect_start, connected, tls_start, secured, send_start, sent, first_byte, headers, end, eof; for
    processes spawned and exit), set by transports, and `done`, the arrival of the protocol's end marker.
    `stalls`: (from, to) of times at which the network loop was too busy to poll. `non_streaming`: text came
    in complete messages, so there is no time to first token. `address`: the actual address, where the
    transport finds it. `stderr`: the end of a command's standard error. `error`: the error that ended this
    attempt, without secrets; None where there was none."""

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
        """Whether the answer came from the simulator."""
        return "x-nbllm-simulated" in self.headers


class HiddenTexts(tuple[str, ...]):
    """Texts that no repr shows, because tracebacks with local variables show attributes as well."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"({MASK})" if self else "()"


class Guard(msgspec.Struct, frozen=True):
    """The secrets of a call, and the origins that they belong to."""

    origins: tuple[str, ...] = ()
    secrets: HiddenTexts = msgspec.field(default_factory=HiddenTexts)

    @classmethod
    def for_provider(cls, row: Endpoint, key: Secret | None) -> Guard:
        """The guard of calls to a provider: its headers and query belong to its address, the key to the key's
        own."""
        key_texts = (key.reveal(),) if key is not None and key.source != "simulator" else ()
        return cls(
            (origin(row.base_url), *((key.origin,) if key is not None else ())),
            HiddenTexts((*key_texts, *row.secrets)),
        )

    def check(self, url: str) -> None:
        """Raises ConfigError where `url`, as it will be sent, has another origin than the secrets."""
        target = str(parse(url)) if self.origins else ""
        wrong = next((o for o in self.origins if o != target), None)
        if wrong is not None:
            raise ConfigError(
                f"A secret for {wrong or 'no address'} is not sent to {target}.",
                hint="Check base_url and models of the provider; to use a key at another address, give "
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
_PUBLIC_HEADERS = frozenset({"accept", "content-type", "anthropic-version"})  # others may hold secrets


class _Call:
    """Base of all kinds of calls."""

    __slots__ = ()
    no_key_hint: ClassVar[str] = ""  # the hint where it was refused and had no key
    rate_limited: ClassVar[bool] = False  # it goes directly to a provider, which may limit the rate

    @property
    def has_side_effects(self) -> bool:
        """Whether it may do more than answer, so that it is not retried once it has begun."""
        return False

    def with_guard(self, guard: Guard) -> Self:
        """A copy with a guard for its secrets. Commands have none: they get their key as an environment
        variable."""
        return self

    def with_permit(self, permit: Permit | None, *, persistent: bool) -> Self:
        """A copy that asks the user through `permit` what it requests to be allowed; most calls request
        nothing. persistent: the process continues for the next turn."""
        return self

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """("sent" or "run", its content without secrets), for a dry run."""
        raise NotImplementedError

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """A sentence that says where it was sent and with which key. address: as the transport found it."""
        raise NotImplementedError


class _AddressedCall(_Call):
    """A call to a network address."""

    __slots__ = ()

    def with_guard(self, guard: Guard) -> Self:
        """See _Call."""
        return msgspec.structs.replace(self, guard=guard)  # type: ignore[type-var]

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        own = key is not None and bool(address) and same_host(address, row.base_url)
        key_text = f"the key {key.masked} from {key.source}" if key is not None and own else "no key"
        return f"Sent to {display_url(address, row.secrets)} with {key_text}." if address else ""


@dataclass(frozen=True, slots=True, repr=False)
class HttpCall(_AddressedCall):
    """An HTTP request; `body` is a JSON object. guard: its secrets and where they may be sent. content: bytes
    to send instead of `body`."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    method: str = "POST"
    guard: Guard = field(default=Guard(), compare=False)
    content: bytes = field(default=b"", repr=False)
    rate_limited: ClassVar[bool] = True
    no_key_hint: ClassVar[str] = (
        "No key was sent to this address. Give one: key=VARIABLE in a cell, api_key=... in Python."
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
            "body": _shorten(self.body),
        }

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return super(HttpCall, self).describe_destination(row, key, row.base_url)

    def with_guard(self, guard: Guard) -> HttpCall:
        """See _Call."""
        return HttpCall(self.url, self.headers, self.body, self.method, guard, self.content)


_MAX_TEXT = 2_000  # characters; a preview shows longer texts shortened


def _shorten(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[:200]}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {k: _shorten(v) for k, v in value.items()}
    return [_shorten(v) for v in value] if isinstance(value, (list, tuple)) else value


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
    headers: ClassVar[None] = None  # it gets its key as an environment variable

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


History = tuple[tuple[str, str], ...]


class SessionTurn(msgspec.Struct, frozen=True):
    """A turn in a session with an agent that remembers. history: the messages that the session must already
    hold, as (role, text), the model first; message: the new one, likewise; prompt: the text for a session
    that has the history; full_prompt: the text for a new one."""

    history: History
    message: tuple[str, str]
    prompt: str
    full_prompt: str

    @property
    def system(self) -> str:
        """The system prompt, "" for none."""
        return dict(self.history[:2])["system"]

    def history_after(self, answer: str) -> History:
        """The history that the session holds once it has answered."""
        return (*self.history, self.message, ("assistant", answer))


class Permission(msgspec.Struct, frozen=True):
    """A permission that a command requests. request: its id of the request, for the answer; id, name and
    arguments: those of the tool call; source: the requester's name, for the user; decisions: the protocol's
    values for yes and no."""

    request: str | int | float | None
    id: str
    name: str
    arguments: Any
    source: str
    decisions: tuple[Any, Any] = (None, None)


Permit = Callable[[Permission], Coroutine[Any, Any, bool]]


class AgentCall(_Call, msgspec.Struct, frozen=True):
    """A turn with a command-line agent that keeps running: its process, the turn, and a factory of the
    protocol for a working folder. fresh: in a new process, which ends afterwards. permit: asks the user for
    permissions that the command requests; None where all are refused."""

    process: ProcessCall
    turn: SessionTurn
    make_protocol: Callable[[str], AgentProtocol]
    fresh: bool = False
    permit: Permit | None = None
    headers: ClassVar[None] = None  # it gets its key as an environment variable

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
    """A turn in a session of OpenCode's server. addresses: those to try (`headers` are for the first only:
    they contain its password); session and message: the bodies that open a session and send a message
    (without its parts, which the turn has); start: the command that starts a server where none answers, None
    for never; folder: the working folder, "" for the server's own. fresh: in a new session, which is closed
    afterwards."""

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
    """A turn with an agent on another machine: the address of its card, headers for that origin only, the
    turn, and its files (as JSON parts of the protocol). fresh: in a new context."""

    url: str
    headers: Mapping[str, str]
    turn: SessionTurn
    files: tuple[Mapping[str, Any], ...] = ()
    fresh: bool = False
    guard: Guard = Guard()
    no_key_hint: ClassVar[str] = "No key was sent. Set key_env in the agent's entry of the configuration."

    @property
    def has_side_effects(self) -> bool:
        """See _Call."""
        return True

    def __repr__(self) -> str:
        return f"RemoteCall({display_url(self.url, self.guard.secrets)}, headers={list(self.headers)})"

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        parts = [{"text": self.turn.full_prompt}, *self.files]
        return "sent", {"card": display_url(self.url, self.guard.secrets), "parts": _shorten(parts)}


class LocalCall(_Call, msgspec.Struct, frozen=True):
    """A request to a model in a local file, whose server is started if none is running: the request without
    an address, the file, and the size of its context in tokens."""

    http: HttpCall
    file: str
    context: int
    headers: ClassVar[None] = None  # the server's key is generated when it is started

    @property
    def key(self) -> tuple[str, int]:
        """The identity of the server for this call."""
        return self.file, self.context

    def preview(self, row: ProviderSpec) -> tuple[str, dict[str, Any]]:
        """See _Call."""
        return "sent", {"model": self.file, "n_ctx": self.context, "body": _shorten(self.http.body)}

    def describe_destination(self, row: ProviderSpec, key: Secret | None, address: str) -> str:
        """See _Call."""
        return f"Sent to {self.file} on this machine."


AnyCall = HttpCall | ProcessCall | AgentCall | SessionCall | RemoteCall | LocalCall
EMPTY_CALL = HttpCall("", {}, {})  # for an attempt that is never sent


@dataclass(frozen=True, slots=True)
class Quirks:
    """The differences between providers of one dialect, as data.

    max_tokens_field: the name of the limit in the body. system_role: "system" or "developer". stream_usage:
    request usage in the stream (OpenAI's stream_options). reasoning_field: the field in which reasoning is
    sent back, "" for never. thinking_switch: thinking is turned on and off by a separate object, in addition
    to the effort. cannot: the fields of a Request (tools, schema, seed ...) that this provider does not
    support, so that they are an error instead of being ignored. limits: what the rate limits in its headers
    count, where their names do not say ("requests/day"; per minute by default). cache_key: accepts OpenAI's
    fields for prompt caching (prompt_cache_key, prompt_cache_retention); OpenAI's own address always does.
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
    """Facts about a model: its context window in tokens, and US dollars per million tokens of input, output,
    input read from a cache and input written to one. None where unknown."""

    context: int | None = None
    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class OAuth:
    """How the user logs in with OAuth 2: the public client id, the token endpoint, and the endpoint of device
    codes or of authorization in the browser (one of the two)."""

    client_id: str
    token_url: str
    device_url: str = ""
    authorize_url: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The part of a provider that a dialect sees: its address, dialect, quirks and how it is called.

    base_url includes the version path where there is one ("https://api.openai.com/v1"); query is added to it;
    key_header is the header for the key where it is not the dialect's default; key_env names the environment
    variables that may hold the key, in order. command: the command line of a headless CLI, whose address is
    cli://NAME; passes names further environment variables that it may see, except those in pending_consent.
    secret_values: the values from variables, headers and query, which must not be shown; None for unknown.
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
        """The texts of this provider that no message, repr or file may contain."""
        own = (
            (*self.headers.values(), *self.query.values())
            if self.secret_values is None
            else self.secret_values
        )
        user, _, password = (_USERINFO.search(self.base_url) or [""])[0][:-1].partition(":")
        return HiddenTexts(filter(None, (*own, f"{user}:{password}" if password else "", password, user)))

    @property
    def takes_cache_key(self) -> bool:
        """Whether it accepts OpenAI's fields for prompt caching. Other servers may refuse unknown fields, so
        by default only OpenAI's own hosts are sent them."""
        return self.dialect.startswith("openai_") and (self.quirks.cache_key or self.is_openai)

    @property
    def is_openai(self) -> bool:
        """Whether it is on one of OpenAI's own hosts."""
        return _OPENAI.fullmatch(origin(self.base_url)) is not None

    @property
    def display_url(self) -> str:
        """The address, safe to show."""
        return display_url(self.base_url, self.secrets)

    def __repr__(self) -> str:
        """Its address and fields, without secrets."""
        shown = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in _HIDDEN_FIELDS and getattr(self, f.name) != f.default
        }
        shown |= {
            "base_url": self.display_url,
            "headers": dict.fromkeys(self.headers, MASK),
            "query": dict.fromkeys(self.query, MASK),
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items() if v)})"


@dataclass(frozen=True, slots=True, repr=False)
class ProviderSpec(Endpoint):
    """One provider of providers.toml: an endpoint, its names, and the keys that it may use.

    base_url_env names the variables that may hold the address, timeout_env those that hold seconds; prefixes
    are other names before the slash, bare are patterns of model names that need no prefix; models is the path
    of its model list; price its name in the price data; local: it works without a key.

    base_url, headers and query may contain ${NAME} or ${NAME:-default} for an environment variable, and
    base_url {model} for the model's name; both are filled in when a call is routed. opencode is its name in
    OpenCode's key store; facts are the user's own facts about models, by name; verified says how the entry
    was checked; refused why the provider cannot be used; source the file of the entry, "" for nbllm's own;
    pending_consent the variables and names that wait for the user's consent because the entry is in a
    project's file. oauth: how to log in instead of typing a key. builtin_origin: the provider's origin in
    nbllm's own entries, where the name in `opencode` comes from them. batch: the format of batches, a name in
    dialects.batches.FORMATS, "" where there are none. embeddings: short names of embedding models, the first
    of which is the default. folders: the folders of its model files, instead of an address.
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
        """How it is reached: "api", "local", "headless" (a command) or "remote" (an agent on another
        machine)."""
        if self.dialect == "a2a":
            return "remote"
        return "headless" if self.dialect.startswith("cli") else "local" if self.local else "api"

    @property
    def needs_consent(self) -> bool:
        """Whether the user has not approved its address or settings yet."""
        return any(h == self.name or h.startswith(f"{self.name}: ") for h in self.pending_consent)


_HIDDEN_FIELDS = frozenset({"secret_values", "facts", "quirks", "embeddings"})


class Decoder(Protocol):
    """Decodes the frames of one answer. A frame may also be a complete, non-streaming answer in one JSON
    object.

    `done` becomes true at the protocol's end marker ([DONE], message_stop, a done line), after which a server
    that leaves the connection open is not waited for. A decoder may also have `ended`: the finish reason has
    arrived, so silence afterwards is not an error. And it may have `read_fast`, see FastRead.
    """

    done: bool

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The events in `frame`. Raises ProviderError for an error inside the stream, ProtocolError for
        malformed data."""

    def close(self) -> Iterator[Event]:
        """The last events, including Finished. Raises StreamCut where the answer has no proper end."""


# Fast path for frames that contain one item each: given frames and a start index, returns the items of the
# frames from there to the first of another kind, with the same results and effects as `feed`.
FastRead = Callable[[list[Frame], int], list[Item]]


class Reply(Protocol):
    """The reply to a call; to be read on the event loop of its transport."""

    @property
    def status(self) -> int:
        """The HTTP status; 200 for a command."""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers, with names in lower case."""

    async def body(self, limit: int = ...) -> bytes:
        """The body of an error response, at most `limit` bytes of it."""

    def frames(self) -> AsyncGenerator[list[Frame], None]:
        """The frames of the answer; those that arrived together in one list, which is never empty."""

    async def for_each_batch(self, handle: Callable[[list[Frame]], bool]) -> None:
        """Passes each batch of `frames` to `handle`; ends with the answer, or when `handle` returns True
        because the answer is complete. Raises what `handle` raises."""
        async with aclosing(self.frames()) as frames:
            async for batch in frames:
                if handle(batch):
                    await self.drain(frames)
                    break

    def decoder(self) -> Decoder | None:
        """The decoder of these frames, where only the transport knows it; None for the dialect's."""
        return None

    def finish(self, answer: Callable[[], str]) -> None:
        """Called when the turn has ended, completed or stopped; `answer` gives its text for the session
        history."""
        return

    async def drain(self, frames: AsyncIterator[list[Frame]]) -> None:
        """Gives the server a moment to end the body after the end of the answer, so that the connection can
        be reused. Errors are ignored: the answer is complete."""
        return


class Transport(Protocol):
    """Sends one kind of call. Used on one event loop."""

    def prepare_call(self, call: Any, *, fresh: bool) -> Any:
        """The call in the form that `open` takes, with all the work that can be done before the clock starts.
        fresh: over a new connection, with a new process or in a new session. Raises ConfigError for what
        cannot be sent."""
        return msgspec.structs.replace(call, fresh=fresh)

    def warm_up(self, call: Any) -> Coroutine[Any, Any, None] | None:
        """Work to do before the clock of the first call starts; None where there is none."""
        return None

    def describe_wait(self, call: Any) -> str:
        """What the user has to wait for before the answer, as text; "" for nothing."""
        return ""

    def open(self, call: Any, trace: Trace, connect: float | None) -> AbstractAsyncContextManager[Reply]:
        """Sends the call; gives the reply once its headers are there; leaving the context closes it. connect:
        seconds allowed for connecting."""


class AgentProtocol(Protocol):
    """The protocol with a command-line agent that keeps running. Pure: gets every line that the agent writes,
    returns lines to write.

    multi_session: one process holds several conversations. busy: a turn is under way. session: the
    conversation of the last turn. pending_permissions: the agent's requests in order; whoever answers one
    removes it.
    """

    multi_session: bool
    busy: bool
    session: str
    pending_permissions: list[Permission]

    def start_turn(self, turn: SessionTurn, session: str) -> list[str]:
        """The lines that start a turn in `session`, or in a new one ("")."""

    def handle_line(self, line: str) -> list[str]:
        """The lines to write in reply to a line."""

    def answer_permission(self, permission: Permission, allow: bool) -> list[str]:
        """The lines that allow a request once, or refuse it."""

    def interrupt(self) -> list[str]:
        """The lines that stop the current turn; the process keeps running."""

    def decoder(self) -> Decoder:
        """The decoder of the current turn."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire protocol, both directions, as pure functions.

    encode: the call for a streaming request; raises ConfigError for what the protocol does not support.
    decoder: a new decoder for one answer. error: the error for an HTTP response with status 300 or above.

    Optional: counting turns a call into the one that counts its tokens, and names the response's field for
    them; unloading gives the calls that unload a model from memory and that list the loaded ones;
    keeps_prompts: with cache="1h", servers store prompts under a name; vouched: a server must identify itself
    before it is sent a password.
    """

    name: str
    encode: Callable[[Request, Endpoint, Secret | None], AnyCall]
    decoder: Callable[[Endpoint], Decoder]
    error: Callable[[int, Mapping[str, str], bytes, Endpoint], ProviderError]
    counting: tuple[Callable[[HttpCall], HttpCall], str] | None = None
    unloading: Callable[[str, str], tuple[HttpCall, HttpCall]] | None = None
    keeps_prompts: bool = False
    vouched: bool = False
