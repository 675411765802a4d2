"""An HTTP endpoint as a tool: a URL with placeholders, and the rules for what a model may put there.

A model fills segments of the path, values of the query, and the body; each is encoded, so that it cannot
change another part of the URL, least of all the host. A path with ".." is refused. A host name must lead to
the public internet, over https, and is resolved and connected to in one step; an IP address that the user
wrote may be this machine's or a private one. Redirects are followed within the origin only, and secrets are
sent to their own origin only.
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
from .names import valid_name
from .usable import Arguments, ToolArgumentsError, Usable

LIMIT = 2**20  # bytes of a response
_TIMEOUT = 30.0
_REDIRECTS = 3
_MAX_URL = 8_000  # characters of a URL
_MAX_ERROR = 500  # characters of an error's body that the model reads
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)([^?#]*)(?:\?([^#]*))?")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_CHARSET = re.compile(r"charset *= *[\"']?([\w.:+-]+)", re.IGNORECASE)
_PLACEHOLDER_NAME = re.compile(r"[\w.-]{1,64}")
_ENTRY_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("url", "description", "method"), str),
    **dict.fromkeys(("schema", "headers"), Mapping),
    **dict.fromkeys(("private", "reads"), bool),
    "timeout": (int, float),
    "budget": int,
}
_ACCEPT = {"accept": "application/json, text/*;q=0.9, */*;q=0.5"}


@dataclass(frozen=True, slots=True, repr=False)
class HttpTool:
    """An endpoint that a model may call: `url` holds placeholders ({name}) in its path and in the values of
    its query.

    schema: a JSON schema of the arguments; with None each placeholder takes text. Arguments without a
    placeholder go into the query of GET and DELETE, else into a JSON body. headers: their values are sent to
    this origin only, and never shown. private: the host name may lead into a private network. reads: it
    changes nothing. timeout: seconds. budget: tokens of a result. secrets: other texts that no result may
    hold. Raises ConfigError.
    """

    name: str
    url: str
    schema: Mapping[str, Any] | None = None
    description: str = ""
    method: str = "GET"
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    private: bool = False
    reads: bool | None = None
    timeout: float = _TIMEOUT
    budget: int = DEFAULT_BUDGET
    secrets: HiddenTexts = field(default_factory=HiddenTexts)

    def __post_init__(self) -> None:
        values = {n: getattr(self, n) for n in _ENTRY_TYPES}
        optional = {n for n in ("schema", "reads") if values[n] is None}
        _check_types(self.name, {n: v for n, v in values.items() if n not in optional})
        if not all(isinstance(v, str | Secret) for v in self.headers.values()):
            raise self._error("a header that is not text", 'headers={"Authorization": "Bearer ..."}')
        if self.method not in _METHODS:
            raise self._error(f"no method {self.method!r}", f"There are {', '.join(_METHODS)}.")
        head, path, query = self._split_url()
        if _PLACEHOLDER.search(head) or "@" in head:
            raise self._error(
                "a placeholder or a login in its host", "Use placeholders in the path and query only."
            )
        names = "".join(piece.partition("=")[0] for piece in query.split("&"))
        if re.search("[{}]", _PLACEHOLDER.sub("", path + query) + names):
            raise self._error(
                "braces that are no placeholder", "Write {name} in the path or for a value of the query."
            )
        address = addresses.parse(self.url)
        if address.scheme != "https" and not (self.private or _is_written_local(address)):
            raise self._error("a URL without https", "Use https, or write a local address as a number.")
        self._guard().check(head)
        if not self.timeout > 0:
            raise self._error("an invalid timeout", "It is in seconds, above 0.")
        known = self.parameters["properties"]
        for name in _PLACEHOLDER.findall(path + query):
            if name not in known:
                raise self._error(f"no argument {name!r} in its schema", "Add it to the schema's properties.")
            if not _PLACEHOLDER_NAME.fullmatch(name):
                raise self._error(
                    f"a placeholder {{{name[:40]}}} that is not a name", "Write {name}, without a format."
                )

    def _error(self, what: str, hint: str) -> ConfigError:
        return ConfigError(f"The tool {self.name!r} has {what}.", hint=hint)

    def _split_url(self) -> tuple[str, str, str]:
        match = _URL.fullmatch(self.url)
        if match is None:
            raise self._error("no valid URL", "It looks like https://api.example.com/v1/{city}?q={q}.")
        return match[1], match[2], match[3] or ""

    def _guard(self) -> Guard:
        texts = (v.reveal() if isinstance(v, Secret) else v for v in self.headers.values())
        secrets = [part for t in texts for part in (t, t.rpartition(" ")[2])]
        own = (v.origin for v in self.headers.values() if isinstance(v, Secret) and v.origin)
        return Guard((origin(self.url), *own), HiddenTexts((*secrets, *self.secrets)))

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema of the arguments: an object without others, with those of the path required."""
        _, path, query = self._split_url()
        schema = self.schema
        if schema is None:
            schema = {"properties": {n: {"type": "string"} for n in _PLACEHOLDER.findall(path + query)}}
        checked = checked_schema(
            {"type": "object", "properties": {}, "additionalProperties": False, **schema}
        )
        if checked["type"] != "object":
            raise self._error("a schema that is not an object", "Arguments have names: use properties.")
        required = list(dict.fromkeys([*checked.get("required", ()), *_PLACEHOLDER.findall(path)]))
        return checked | ({"required": required} if required else {})

    def usable(self, connections: Callable[[], HttpTransport]) -> Usable:
        """The tool. connections: returns those of the engine's loop, on which it runs."""
        head, path, _ = self._split_url()
        about = self.description or scrub(f"{self.method} {head}{path}", self._guard().secrets)
        return Usable(
            Tool(valid_name(self.name), about, self.parameters),
            partial(self._call, connections),
            where="engine",
            source=f"http/{self.name}",
            reads=self.reads,
            check=partial(_validate, self.parameters),
            timeout=self.timeout,
            budget=self.budget,
        )

    def request(self, arguments: Mapping[str, Any]) -> HttpCall:
        """The request for arguments. Raises ToolArgumentsError for a value that a URL cannot hold."""
        head, path, query = self._split_url()
        path = "/".join(_fill_segment(s, arguments) for s in path.split("/"))
        used = set(_PLACEHOLDER.findall("".join(self._split_url()[1:])))
        rest = {k: v for k, v in arguments.items() if k not in used and v is not None}
        body = rest if self.method in ("POST", "PUT", "PATCH") else {}
        pairs = [p for piece in query.split("&") if piece for p in _fill_query(piece, arguments)]
        pairs += [f"{quote(k, safe='')}={v}" for k in rest if not body for v in _encode_values(rest[k])]
        url = f"{head}{path}{'?' if pairs else ''}{'&'.join(pairs)}"
        if len(url) > _MAX_URL:
            raise ToolArgumentsError([f"they make a URL of more than {_MAX_URL:,} characters"])
        shown = {k.lower(): v.reveal() if isinstance(v, Secret) else v for k, v in self.headers.items()}
        return HttpCall(url, _ACCEPT | shown, body, self.method, self._guard())

    async def _call(self, connections: Callable[[], HttpTransport], arguments: Arguments) -> Any:
        call = self.request(arguments)
        texts = call.guard.secrets
        try:
            async with asyncio.timeout(self.timeout):
                value = await self._send(connections(), call)
        except NbllmError as error:
            raise error.scrub_secrets(texts).with_traceback(None) from None
        except TimeoutError:
            raise Timeout(
                f"No complete answer within {self.timeout:g} s.", which="total", seconds=self.timeout
            ) from None
        return scrub(value, texts) if isinstance(value, str) else value

    async def _send(self, http: HttpTransport, call: HttpCall) -> Any:
        public = not (self.private or _is_written_local(addresses.parse(call.url)))
        for _ in range(_REDIRECTS + 1):
            prepared = PreparedRequest(call, fresh=True, public=public)
            async with http.open(prepared, Trace(), self.timeout) as reply:
                data = await reply.body(LIMIT + 1)
                if 300 <= reply.status < 400 and "location" in reply.headers:
                    call = self._redirect(call, reply.headers["location"])
                    continue
                return _read_answer(reply, data)
        raise NbllmError(f"It redirects more than {_REDIRECTS} times.")

    def _redirect(self, call: HttpCall, location: str) -> HttpCall:
        try:
            target = urljoin(call.url, location)
        except ValueError:
            target = ""
        if call.method != "GET" or not same_host(target, call.url):
            raise NbllmError(f"It redirects to {origin(target) or 'nowhere'}, which is not followed.")
        return HttpCall(target, call.headers, {}, "GET", call.guard)

    def __repr__(self) -> str:
        return f"HttpTool({self.name!r}, {self.method} {origin(self.url)})"


def _validate(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Arguments:
    if problems := schema_problems(schema, arguments, "they"):
        raise ToolArgumentsError(problems)
    return dict(arguments)


def _is_written_local(address: addresses.Address) -> bool:
    """Whether the user wrote a local or private IP address, and not a name that might lead to one."""
    number = addresses.parse_ip(address.host)
    number = getattr(number, "ipv4_mapped", None) or number
    return address.is_local or (number is not None and number.is_private and not number.is_link_local)


def _fill_segment(template: str, arguments: Mapping[str, Any]) -> str:
    """A segment of the path, filled. ".." is refused, even where only a server that decodes slashes would see
    it."""
    filled = _PLACEHOLDER.sub(lambda m: _fill_value(m[1], arguments), template)
    if filled == template:
        return filled
    plain = _PLACEHOLDER.sub(lambda m: _text(arguments[m[1]]), template)
    if not filled or not {".", ".."}.isdisjoint(re.split(r"[/\\;]", plain)):
        names = ", ".join(_PLACEHOLDER.findall(template))
        raise ToolArgumentsError([f"{names}: {plain[:80]!r} is not allowed in a path"])
    return filled


def _fill_value(name: str, arguments: Mapping[str, Any]) -> str:
    if arguments.get(name) is None:
        raise ToolArgumentsError([f"{name}: Field required"])
    return quote(_text(arguments[name]), safe="", errors="replace")


def _fill_query(piece: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """A name=value of the query, filled; one for each item of a list, none for a missing argument."""
    name, _, template = piece.partition("=")
    names = _PLACEHOLDER.findall(template)
    if any(arguments.get(n) is None for n in names):
        return
    if template == f"{{{names[0] if names else ''}}}":
        yield from (f"{name}={value}" for value in _encode_values(arguments[names[0]]))
    elif names:
        yield f"{name}={_PLACEHOLDER.sub(lambda m: _fill_value(m[1], arguments), template)}"
    else:
        yield piece


def _encode_values(value: Any) -> list[str]:
    many = value if isinstance(value, list) else [value]
    return [quote(_text(v), safe="", errors="replace") for v in many]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_answer(reply: Reply, data: bytes) -> Any:
    """The content of a response for the model. Raises NbllmError for an error status."""
    kind = reply.headers.get("content-type", "")
    charset = _CHARSET.search(kind)
    more = f"\n(cut after {LIMIT:,} bytes)" if len(data) > LIMIT else ""
    if reply.status >= 300:
        text = " ".join(data[: 4 * _MAX_ERROR].decode("utf-8", "replace").split())
        raise NbllmError(f"HTTP {reply.status}: {text[:_MAX_ERROR]}".rstrip(": "))
    if kind.startswith(("image/", "application/pdf")) or (b"\0" in data and not charset):
        return f"({kind or 'a file'} of more than {LIMIT:,} bytes)" if more else data
    try:
        text = data[:LIMIT].decode(charset[1] if charset else "utf-8", "replace")
    except (LookupError, ValueError):  # an unknown charset, or one that cannot be cut
        text = data[:LIMIT].decode("utf-8", "replace")
    return text + more if data else None


def from_table(name: str, table: Mapping[str, Any], env: Mapping[str, str]) -> HttpTool:
    """An HTTP tool from a TOML table, with each ${NAME} in its url and headers filled from `env`. Raises
    ConfigError for an invalid entry, and for a variable that is not set."""
    _check_entries(name, table)
    secrets: list[str] = []

    def fill(text: str) -> str:
        filled, missing = expand_env(text, env)
        if missing:
            raise ConfigError(
                f"The tool {name!r} needs {missing[0]}, which is not set.", hint="Set it in the environment."
            )
        secrets.extend(env_values(text, env))
        return filled

    url = fill(table.get("url", ""))
    headers = {k: Secret(fill(str(v))) for k, v in table.get("headers", {}).items()}
    rest = {k: v for k, v in table.items() if k not in ("url", "headers")}
    return HttpTool(name, url, headers=headers, secrets=HiddenTexts(secrets), **rest)


def _check_entries(name: str, table: Mapping[str, Any]) -> None:
    for entry in table:
        if entry not in _ENTRY_TYPES:
            near = similar_names(entry, _ENTRY_TYPES)
            raise ConfigError(
                f"The tool {name!r} has an unknown entry {entry!r}.",
                hint=f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(_ENTRY_TYPES)}.",
            )
    _check_types(name, table)


def _check_types(name: str, values: Mapping[str, Any]) -> None:
    for entry, value in values.items():
        if not isinstance(value, _ENTRY_TYPES[entry]) or (
            isinstance(value, bool) and _ENTRY_TYPES[entry] is not bool
        ):
            raise ConfigError(
                f"The tool {name!r} has a wrong {entry!r}: {type(value).__name__}.",
                hint="See HttpTool for what each entry is.",
            )
