"""The description of an MCP server by a file or the user: its variables, its mistakes, its secrets, and what
consent is bound to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..core.calls import HiddenTexts, Secret, display_url, origin
from ..core.errors import MASK, ConfigError, looks_like_key

SESSION = "this session"
_KNOWN_KEYS = frozenset(
    {"type", "transport", "command", "args", "env", "cwd", "url", "serverUrl", "headers", "oauth", "auth"}
)
_UNSUPPORTED = {"envFile": "it reads variables from a file"}
_TYPES = {"stdio", "http", "streamable-http", "streamableHttp", "sse"}
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie|bearer|\bpat\b", re.IGNORECASE)


class ClientRegistration(NamedTuple):
    """An entry's login: the id and secret of a client that was registered by hand, the requested scopes, and
    the local port that the browser returns to (0: any)."""

    id: str = ""
    secret: str = ""
    scope: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A server: a command or a URL. file: where it is described, SESSION where the user typed it. trusted: it
    is in the user's own file, or was typed. argv, env, cwd, url, headers: with variables filled in. written:
    the command's words or the URL, env and headers as written (what consent is bound to). problem: why it
    cannot be used, else "". unused: keys of the entry that nbllm ignores."""

    name: str
    file: str = SESSION
    trusted: bool = False
    argv: tuple[str, ...] = field(default=(), repr=False)
    url: str = field(default="", repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, Secret] = field(default_factory=dict)
    cwd: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict, repr=False)
    login: ClientRegistration = field(default=ClientRegistration(), repr=False)
    problem: str = ""
    unused: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key that consent is bound to: a hash of the file's path, the command or URL, and the variables
        as written (not their values, which change)."""
        written = {k: self.written.get(k) for k in ("env", "headers", "cwd")}
        written |= {k: v for k, v in self.written.items() if k == "login"}
        content = json.dumps([self.file, self.argv, self.url, written], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def runs_same(self, other: Entry) -> bool:
        """Whether `other` would run in exactly the same way."""

        def run(e: Entry) -> tuple[Any, ...]:
            return e.key, e.cwd, e.login, dict(e.env), {k: s.reveal() for k, s in e.headers.items()}

        return run(self) == run(other)

    @property
    def secrets(self) -> HiddenTexts:
        """Its texts that no message, log or result may show."""
        values = (v for k, v in self.env.items() if _is_secret(k, v) or _looks_random(v))
        texts = (part for s in self.headers.values() for part in (s.reveal(), *s.reveal().split()))
        typed = (v for k, v in _option_pairs(self.argv) if _is_secret(k, v))
        query = (v for v in re.findall(r"=([^&#]+)", urlsplit(self.url).query))
        texts_ = (*values, *texts, *typed, *query, *filter(None, [self.login.secret]))
        return HiddenTexts(dict.fromkeys(v for v in texts_ if v.lower() not in _AUTH_SCHEMES))

    @property
    def display_command(self) -> str:
        """Its command or URL as written, for the user: variables by their names, and possible keys masked."""
        if self.url or self.written.get("url"):
            return re.sub(r"=(?!\$\{)[^&#]+", f"={MASK}", display_url(self.written["url"]))
        words = self.written.get("words", ())
        masked = [_mask_word(w, *pair) for w, pair in zip(words, _option_pairs(words), strict=True)]
        return shlex.join(masked).replace(shlex.quote(MASK), MASK)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variables that the server gets: of its environment and headers, and of ours that
        are filled in."""
        filled = _VARIABLE.findall(json.dumps(self.written))
        ours = (n.removeprefix("env:").partition(":-")[0] for n in filled if n not in _FOLDERS)
        return tuple(dict.fromkeys((*self.env, *self.headers, *ours)))


_AUTH_SCHEMES = frozenset({"bearer", "basic", "token"})


def _is_secret(name: str, value: str) -> bool:
    """Whether the value of a variable or option is masked: because of its name, or because it looks like a
    key."""
    return bool(_SECRET.search(name)) or looks_like_key(value)


def _looks_random(value: str) -> bool:
    """Whether a variable's value looks like a secret: neither a path, a number nor a word."""
    return len(value) >= 16 and bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^\s/\\]+", value))


def _option_pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) for each word of a command: of --token=x, of x after --token, else ("", x)."""
    before = ""
    for word in words:
        name, equals, value = word.partition("=")
        yield (name, value) if equals and word.startswith("-") else (before, word)
        before = "" if equals or not word.startswith("-") else word


def _mask_word(word: str, name: str, value: str) -> str:
    """A word of a command with secrets masked. Possible code or file names stay, so that the user sees what
    would run."""
    if not re.fullmatch(r"\w[\w+=:~-]{3,}", value) or not _is_secret(name if name[:1] == "-" else "", value):
        return word
    return word.removesuffix(value) + MASK


class Source(NamedTuple):
    """The origin of an entry: the file, the folder for ${workspaceFolder}, and whether it is trusted."""

    file: str
    folder: Path
    trusted: bool = False


def parse_entry(name: str, table: Any, source: Source, env: Mapping[str, str]) -> Entry:
    """Parses a server's table and fills in its variables. Mistakes are reported in its `problem`."""
    known = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:64] or "unnamed"
    try:
        return _build_entry(known, _check_table(table), source, env)
    except ConfigError as error:
        return Entry(known, source.file, source.trusted, problem=error.message)


def _check_table(table: Any) -> Mapping[str, Any]:
    """The table, after checks of its keys and types. Raises ConfigError."""
    if not isinstance(table, dict):
        raise ConfigError("its description is not an object")
    for key, kinds in _TYPE_CHECKS.items():
        if key in table and not kinds(table[key]):
            raise ConfigError(f"{key} has a value of the wrong type")
    if reason := next((f"{k} is not supported: {v}" for k, v in _UNSUPPORTED.items() if k in table), None):
        raise ConfigError(reason)
    kind = table.get("type", table.get("transport", "stdio" if "command" in table else "http"))
    if kind not in _TYPES or kind == "sse":
        raise ConfigError(f"type {str(kind)[:40]!r} is not supported: stdio and http are")
    if table.get("disabled") is True:
        raise ConfigError("it is disabled there")
    if ("command" in table) == bool(table.get("url") or table.get("serverUrl")):
        raise ConfigError("it needs either a command or a url")
    return table


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, (str, int, float)) for v in value.values())


_TYPE_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("command", "cwd", "url", "serverUrl"), lambda v: isinstance(v, str)),
    **dict.fromkeys(("type", "transport"), lambda v: isinstance(v, str)),
    "args": lambda v: isinstance(v, list) and all(isinstance(a, (str, int, float)) for a in v),
    **dict.fromkeys(("env", "headers"), _is_text_mapping),
    **dict.fromkeys(("oauth", "auth"), lambda v: isinstance(v, dict)),
}


def _build_entry(name: str, table: Mapping[str, Any], source: Source, env: Mapping[str, str]) -> Entry:
    def fill(text: object) -> str:
        return expand_variables(_to_text(text), env, source.folder)

    words = [str(table.get("command", "")), *map(_to_text, table.get("args", ()))]
    url = str(table.get("url") or table.get("serverUrl") or "").strip()
    variables, headers = dict(table.get("env", {})), dict(table.get("headers", {}))
    login = {**table.get("auth", {}), **table.get("oauth", {})}
    cwd = str(source.folder / Path(fill(table.get("cwd", "."))).expanduser())
    address = _check_url(fill(url), bool(headers or login)) if url else ""
    return Entry(
        name,
        source.file,
        source.trusted,
        () if url else (_resolve_program(fill(words[0]), cwd), *map(fill, words[1:])),
        address,
        {k: fill(v) for k, v in variables.items()},
        {k: Secret(_check_header(k, fill(v)), f"{k} of {name}", origin(address)) for k, v in headers.items()},
        cwd,
        {"words": words, "url": url, "cwd": table.get("cwd"), "env": variables, "headers": headers}
        | ({"login": login} if login else {}),
        _parse_login(login, fill),
        unused=tuple(k for k in table if k not in _KNOWN_KEYS),
    )


def _to_text(value: object) -> str:
    """A value as text, with JSON's true and false."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _check_header(name: str, value: str) -> str:
    """A header's value without surrounding blanks. Raises ConfigError for an invalid one, because the HTTP
    library's error would show it, escaped, so that it would not be masked."""
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
        raise ConfigError(f"{name[:40]!r} is not a valid name of a header")
    if not re.fullmatch(r"[^\0-\x08\n-\x1f\x7f\ud800-\udfff]*", value.strip()):
        raise ConfigError(f"the value of its header {name[:40]} holds characters that are not allowed")
    return value.strip()


_LOGIN_KEYS = {
    **dict.fromkeys(("clientId", "client_id", "CLIENT_ID"), "id"),
    **dict.fromkeys(("clientSecret", "client_secret", "CLIENT_SECRET"), "secret"),
    **dict.fromkeys(("scopes", "scope"), "scope"),
    **dict.fromkeys(("callbackPort", "callback_port"), "port"),
}


def _parse_login(table: Mapping[str, Any], fill: Callable[[object], str]) -> ClientRegistration:
    """The entry's login, with the keys of Claude (oauth), Cursor (auth) or OAuth itself."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _LOGIN_KEYS:
            raise ConfigError(f"{key[:40]} of its login is not supported; use {', '.join(_LOGIN_KEYS)}")
        values[_LOGIN_KEYS[key]] = " ".join(map(str, value)) if isinstance(value, list) else value
    texts = {k: fill(v) for k, v in values.items() if k != "port"}
    port = values.get("port", 0)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16:
        raise ConfigError("the port of its login is invalid")
    return ClientRegistration(**texts, port=port)


def _resolve_program(word: str, cwd: str) -> str:
    """A command's name, or its path relative to the folder it runs in."""
    return str(Path(cwd) / Path(word).expanduser()) if "/" in word or os.sep in word else word


def _check_url(url: str, headers: bool) -> str:
    """The server's URL. Raises ConfigError for an invalid one, and for headers that would be sent
    unencrypted."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("its url is not valid") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("its url is not one that starts with https:// or http://")
    if parts.username or parts.password:
        raise ConfigError("its url holds a name or password: put them into headers")
    if headers and parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError("its keys would be sent unencrypted: the url must start with https://")
    return url


_FOLDERS: dict[str, Callable[[Path], str]] = {
    "workspaceFolder": str,
    "workspaceFolderBasename": lambda folder: folder.name,
    "userHome": lambda _folder: str(Path.home()),
    "pathSeparator": lambda _folder: os.sep,
    "/": lambda _folder: os.sep,
}


def expand_variables(text: str, env: Mapping[str, str], folder: Path) -> str:
    """`text` with ${NAME}, ${NAME:-default}, ${env:NAME} and ${workspaceFolder} filled in. Raises ConfigError
    for one that cannot be."""

    def value(match: re.Match[str]) -> str:
        word = match[1]
        if word in _FOLDERS:
            return _FOLDERS[word](folder)
        name, has_default, default = word.removeprefix("env:").partition(":-")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"nbllm does not know {match[0][:80]}")
        variable = env.get(name)
        if not variable and not has_default:
            raise ConfigError(f"the variable {name} is not set in the environment, and {match[0]} needs it")
        return variable or default

    return _VARIABLE.sub(value, text)
