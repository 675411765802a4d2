"""An HTTP endpoint as a tool: an address with places to fill, and what may be put there.

A model fills segments of the path, values of the query, and the body; each is encoded, so that none can reach
another place, let alone the host. A path that would climb is refused. A name must lead to the public
internet, by https, looked up and connected to in one step; an address that the user wrote as a number
may be this machine's or a private one. A redirect is followed within the origin only, and what is secret goes
to its own origin.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urljoin

from ..core import addresses
from ..core.calls import Guard, HiddenTexts, HttpCall, Secret, Trace, origin, same_host
from ..core.errors import ConfigError, NbllmError, Timeout, scrub, similar_names
from ..core.messages import Tool
from ..core.schema import checked_schema, schema_problems
from ..core.values import DEFAULT_BUDGET
from ..http.prepared_request import PreparedRequest
from ..http.transport import HttpTransport, Reply
from ..routing.spec import env_values, expand_env
from .names import fit
from .usable import Arguments, ToolArgumentsError, Usable

LIMIT = 2**20  # bytes of an answer
_SECONDS = 30.0
_REDIRECTS = 3
_LONGEST = 8_000  # characters of an address
_ERROR = 500  # characters of an error's page that a model is told
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)([^?#]*)(?:\?([^#]*))?")
_HOLE = re.compile(r"\{([^{}]*)\}")
_CHARSET = re.compile(r"charset *= *[\"']?([\w.:+-]+)", re.IGNORECASE)
_PLACE = re.compile(r"[\w.-]{1,64}")
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("url", "description", "method"), str),
    **dict.fromkeys(("schema", "headers"), Mapping),
    **dict.fromkeys(("private", "reads"), bool),
    "timeout": (int, float),
    "budget": int,
}
_ACCEPT = {"accept": "application/json, text/*;q=0.9, */*;q=0.5"}


@dataclass(frozen=True, slots=True, repr=False)
class HttpTool:
    """An address that a model may ask: `url` holds {names} in its path and in the values of its query.

    schema: a JSON schema of the arguments; None takes text for each name. Arguments that the address has no
    place for go into the query of GET and DELETE, else into a JSON body. headers: values are sent to this
    address only, and shown nowhere. private: its name may lead into a private network. reads: it changes
    nothing. timeout: seconds. budget: tokens of a result. secrets: what else no result may hold. Raises
    ConfigError.
    """

    name: str
    url: str
    schema: Mapping[str, Any] | None = None
    description: str = ""
    method: str = "GET"
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    private: bool = False
    reads: bool | None = None
    timeout: float = _SECONDS
    budget: int = DEFAULT_BUDGET
    secrets: HiddenTexts = field(default_factory=HiddenTexts)

    def __post_init__(self) -> None:
        given = {n: getattr(self, n) for n in _KINDS}
        optional = {n for n in ("schema", "reads") if given[n] is None}
        _check_kinds(self.name, {n: v for n, v in given.items() if n not in optional})
        if not all(isinstance(v, str | Secret) for v in self.headers.values()):
            raise self._wrong("a header that is no text", 'headers={"Authorization": "Bearer ..."}')
        if self.method not in _METHODS:
            raise self._wrong(f"no method {self.method!r}", f"There are {', '.join(_METHODS)}.")
        head, path, query = self._split()
        if _HOLE.search(head) or "@" in head:
            raise self._wrong("an address whose host is filled in", "Fill the path and the query only.")
        names = "".join(piece.partition("=")[0] for piece in query.split("&"))
        if re.search("[{}]", _HOLE.sub("", path + query) + names):
            raise self._wrong("braces that are no place to fill", "Write {name} in the path or for a value.")
        address = addresses.parse(self.url)
        if address.scheme != "https" and not (self.private or _written(address)):
            raise self._wrong("an address without https", "Use https; loopback is written as a number.")
        self._guard().check(head)
        if not self.timeout > 0:
            raise self._wrong("no time", "timeout is in seconds, above 0.")
        known = self.parameters["properties"]
        for name in _HOLE.findall(path + query):
            if name not in known:
                raise self._wrong(f"no argument {name!r} in its schema", "Add it to the schema's properties.")
            if not _PLACE.fullmatch(name):
                raise self._wrong(
                    f"a place {{{name[:40]}}} that is no name", "Write {name}, without a format."
                )

    def _wrong(self, what: str, hint: str) -> ConfigError:
        return ConfigError(f"The tool {self.name!r} has {what}.", hint=hint)

    def _split(self) -> tuple[str, str, str]:
        found = _URL.fullmatch(self.url)
        if found is None:
            raise self._wrong("no usable address", "It looks like https://api.example.com/v1/{city}?q={q}.")
        return found[1], found[2], found[3] or ""

    def _guard(self) -> Guard:
        texts = (v.reveal() if isinstance(v, Secret) else v for v in self.headers.values())
        words = [w for t in texts for w in (t, t.rpartition(" ")[2])]
        own = (v.origin for v in self.headers.values() if isinstance(v, Secret) and v.origin)
        return Guard((origin(self.url), *own), HiddenTexts((*words, *self.secrets)))

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of the arguments: an object that takes no others, and wants those of the path."""
        _, path, query = self._split()
        given = self.schema
        if given is None:
            given = {"properties": {n: {"type": "string"} for n in _HOLE.findall(path + query)}}
        made = checked_schema({"type": "object", "properties": {}, "additionalProperties": False, **given})
        if made["type"] != "object":
            raise self._wrong("a schema that is no object", "Arguments have names: use properties.")
        required = list(dict.fromkeys([*made.get("required", ()), *_HOLE.findall(path)]))
        return made | ({"required": required} if required else {})

    def usable(self, connections: Callable[[], HttpTransport]) -> Usable:
        """As a tool; `connections` gives those of the engine's loop, on which it runs."""
        head, path, _ = self._split()
        about = self.description or scrub(f"{self.method} {head}{path}", self._guard().secrets)
        return Usable(
            Tool(fit(self.name), about, self.parameters),
            partial(self._ask, connections),
            where="engine",
            source=f"http/{self.name}",
            reads=self.reads,
            check=partial(_checked, self.parameters),
            timeout=self.timeout,
            budget=self.budget,
        )

    def request(self, arguments: Mapping[str, Any]) -> HttpCall:
        """The request for arguments. Raises ToolArgumentsError for what has no place in an address."""
        head, path, query = self._split()
        path = "/".join(_segment(s, arguments) for s in path.split("/"))
        used = set(_HOLE.findall("".join(self._split()[1:])))
        rest = {k: v for k, v in arguments.items() if k not in used and v is not None}
        body = rest if self.method in ("POST", "PUT", "PATCH") else {}
        pairs = [p for piece in query.split("&") if piece for p in _pairs(piece, arguments)]
        pairs += [f"{quote(k, safe='')}={v}" for k in rest if not body for v in _values(rest[k])]
        url = f"{head}{path}{'?' if pairs else ''}{'&'.join(pairs)}"
        if len(url) > _LONGEST:
            raise ToolArgumentsError([f"they make an address of more than {_LONGEST:,} characters"])
        shown = {k.lower(): v.reveal() if isinstance(v, Secret) else v for k, v in self.headers.items()}
        return HttpCall(url, _ACCEPT | shown, body, self.method, self._guard())

    async def _ask(self, connections: Callable[[], HttpTransport], arguments: Arguments) -> Any:
        call = self.request(arguments)
        texts = call.guard.secrets
        try:
            async with asyncio.timeout(self.timeout):
                value = await self._answer(connections(), call)
        except NbllmError as error:
            raise error.scrub_secrets(texts).with_traceback(None) from None
        except TimeoutError:
            raise Timeout(
                f"No whole answer within {self.timeout:g} s.", which="total", seconds=self.timeout
            ) from None
        return scrub(value, texts) if isinstance(value, str) else value

    async def _answer(self, http: HttpTransport, call: HttpCall) -> Any:
        public = not (self.private or _written(addresses.parse(call.url)))
        for _ in range(_REDIRECTS + 1):
            prepared = PreparedRequest(call, fresh=True, public=public)
            async with http.open(prepared, Trace(), self.timeout) as reply:
                data = await reply.body(LIMIT + 1)
                if 300 <= reply.status < 400 and "location" in reply.headers:
                    call = self._redirected(call, reply.headers["location"])
                    continue
                return _value(reply, data)
        raise NbllmError(f"It redirects more than {_REDIRECTS} times.")

    def _redirected(self, call: HttpCall, location: str) -> HttpCall:
        try:
            target = urljoin(call.url, location)
        except ValueError:
            target = ""
        if call.method != "GET" or not same_host(target, call.url):
            raise NbllmError(f"It redirects to {origin(target) or 'nowhere'}, which is not followed.")
        return HttpCall(target, call.headers, {}, "GET", call.guard)

    def __repr__(self) -> str:
        return f"HttpTool({self.name!r}, {self.method} {origin(self.url)})"


def _checked(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Arguments:
    if problems := schema_problems(schema, arguments, "they"):
        raise ToolArgumentsError(problems)
    return dict(arguments)


def _written(address: addresses.Address) -> bool:
    """Whether the user wrote an address of this machine or of a private network as it is: no name leads
    there."""
    number = addresses.parse_ip(address.host)
    number = getattr(number, "ipv4_mapped", None) or number
    return address.is_local or (number is not None and number.is_private and not number.is_link_local)


def _segment(template: str, arguments: Mapping[str, Any]) -> str:
    """A segment of the path, filled. What climbs is refused also where a server would take an encoded slash
    for one."""
    made = _HOLE.sub(lambda m: _one(m[1], arguments), template)
    if made == template:
        return made
    plain = _HOLE.sub(lambda m: _text(arguments[m[1]]), template)
    if not made or not {".", ".."}.isdisjoint(re.split(r"[/\\;]", plain)):
        names = ", ".join(_HOLE.findall(template))
        raise ToolArgumentsError([f"{names}: {plain[:80]!r} has no place in a path"])
    return made


def _one(name: str, arguments: Mapping[str, Any]) -> str:
    if arguments.get(name) is None:
        raise ToolArgumentsError([f"{name}: Field required"])
    return quote(_text(arguments[name]), safe="", errors="replace")


def _pairs(piece: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """A name=value of the query, filled; one for each item of a list; none where an argument is missing."""
    name, _, template = piece.partition("=")
    names = _HOLE.findall(template)
    if any(arguments.get(n) is None for n in names):
        return
    if template == f"{{{names[0] if names else ''}}}":
        yield from (f"{name}={value}" for value in _values(arguments[names[0]]))
    elif names:
        yield f"{name}={_HOLE.sub(lambda m: _one(m[1], arguments), template)}"
    else:
        yield piece


def _values(value: Any) -> list[str]:
    many = value if isinstance(value, list) else [value]
    return [quote(_text(v), safe="", errors="replace") for v in many]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(reply: Reply, data: bytes) -> Any:
    """What a model reads of an answer. Raises NbllmError for one that says no."""
    kind = reply.headers.get("content-type", "")
    charset = _CHARSET.search(kind)
    more = f"\n(cut after {LIMIT:,} bytes)" if len(data) > LIMIT else ""
    if reply.status >= 300:
        words = " ".join(data[: 4 * _ERROR].decode("utf-8", "replace").split())
        raise NbllmError(f"HTTP {reply.status}: {words[:_ERROR]}".rstrip(": "))
    if kind.startswith(("image/", "application/pdf")) or (b"\0" in data and not charset):
        return f"({kind or 'a file'} of more than {LIMIT:,} bytes)" if more else data
    try:
        text = data[:LIMIT].decode(charset[1] if charset else "utf-8", "replace")
    except (LookupError, ValueError):  # none that Python knows, or none that may be cut
        text = data[:LIMIT].decode("utf-8", "replace")
    return text + more if data else None


def from_table(name: str, table: Mapping[str, Any], env: Mapping[str, str]) -> HttpTool:
    """An HTTP tool from a table of TOML, each ${NAME} in its url and headers filled from `env`. Raises
    ConfigError for a wrong entry, and for a variable that is not set."""
    _check_entries(name, table)
    secrets: list[str] = []

    def fill(text: str) -> str:
        made, missing = expand_env(text, env)
        if missing:
            raise ConfigError(
                f"The tool {name!r} needs {missing[0]}, which is not set.", hint="Set it in the environment."
            )
        secrets.extend(env_values(text, env))
        return made

    url = fill(table.get("url", ""))
    headers = {k: Secret(fill(str(v))) for k, v in table.get("headers", {}).items()}
    rest = {k: v for k, v in table.items() if k not in ("url", "headers")}
    return HttpTool(name, url, headers=headers, secrets=HiddenTexts(secrets), **rest)


def _check_entries(name: str, table: Mapping[str, Any]) -> None:
    for entry in table:
        if entry not in _KINDS:
            near = similar_names(entry, _KINDS)
            raise ConfigError(
                f"The tool {name!r} has an unknown entry {entry!r}.",
                hint=f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_KINDS)}.",
            )
    _check_kinds(name, table)


def _check_kinds(name: str, values: Mapping[str, Any]) -> None:
    for entry, value in values.items():
        if not isinstance(value, _KINDS[entry]) or (isinstance(value, bool) and _KINDS[entry] is not bool):
            raise ConfigError(
                f"The tool {name!r} has a wrong {entry!r}: {type(value).__name__}.",
                hint="See HttpTool for what each entry is.",
            )
