"""Addresses as people have them: pasted from a portal or a terminal, with quotes, a query, or a whole
endpoint where a base is wanted. Pure."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..core.addresses import is_public, may_hold_secret, parse_ip

_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_BLANKS = " \t\r\n\u00a0\u200b\u2060\ufeff"

# A host without a scheme: it has a dot, a port, or an IPv6 address's brackets. Ends of names that are near.
_BARE = r"(localhost|[\w-]+(?:\.[\w-]+)+|\[[0-9a-fA-F:.]+\]|[\w.-]+(?=:\d))(?::\d+)?(?=[/?]|$)"
_NEAR = (".local", ".internal", ".lan", ".localhost")

# By dialect, what of a path is an endpoint's and not the base's; what the dialect adds itself.
_GEMINI = r"/(?:models|tunedModels)(?:/[^/]*)?$"
_OPENAI = r"/(?:(?:chat/)?completions|embeddings|responses)$|(?<=.)/models$"  # Azure's base is /models
_ENDPOINTS = {
    "openai_chat": _OPENAI,
    "openai_responses": _OPENAI,
    "anthropic": r"(?:/v1)?/(?:messages(?:/count_tokens)?|models|complete)$",
    "gemini": _GEMINI,
    "ollama": r"(?:/api(?:/(?:chat|generate|tags|embed|embeddings))?|/v1(?:/chat/completions|/models)?)$",
    "cohere": r"(?:/v[12])?/(?:chat|embed|models)$|/v[12]$",
}


class Place(NamedTuple):
    """A base address, and the query that goes with every request to it."""

    url: str
    query: dict[str, str]


def bare(text: str) -> str:
    """A text without the blanks and quotes around it, as they stand in .env files and terminals."""
    text = text.strip(_BLANKS)
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip(_BLANKS)
    return text


def place(url: str, dialect: str) -> Place:
    """Where a dialect's requests go, for an address that may be that of a whole endpoint."""
    return _place(url, dialect) if may_hold_secret(url) else Place(_plain(url, dialect), {})


@functools.lru_cache(256)
def _plain(url: str, dialect: str) -> str:
    return _place(url, dialect).url


def _place(url: str, dialect: str) -> Place:
    url = _schemed(bare(bare(url).rstrip(",;")).partition("#")[0])
    base, _, query = url.partition("?")
    head, path = re.fullmatch(r"([^/]*//[^/]*|)(.*)", base, re.DOTALL).groups()  # type: ignore[union-attr]
    path = re.sub(r"/{2,}", "/", path).rstrip("/")
    path = re.sub(r"(/v\d+\w*)\1$", r"\1", path)
    if (endpoint := _ENDPOINTS.get(dialect)) is not None:
        path = re.sub(endpoint, "", path)
    asked = {k: v for k, v in parse_qsl(query, keep_blank_values=True) if (k, v) != ("alt", "sse")}
    return Place(head + path, asked)


def _schemed(url: str) -> str:
    """An address with the scheme, and both slashes, that it may lack: http for what is near, so that a key
    goes to no other host unencrypted."""
    url = re.sub(r"^<(.*)>$", r"\1", url)
    url = re.sub(r"(?i)^(https?:)/?(?=[^/])", r"\1//", url)
    if (found := re.match(_BARE, url)) is None:
        return url
    host, number = found[1].lower(), parse_ip(found[1].strip("[]"))
    near = not is_public(number) if number is not None else "." not in host or host.endswith(_NEAR)
    return f"{'http' if near else 'https'}://{url}"


def without(value: str, rest: str) -> str:
    """The value of a variable that stands before `rest` in an address, without what of `rest` was pasted with
    it: Azure's portal shows https://NAME.openai.azure.com/openai/deployments/... as well."""
    value = _schemed(re.split(r"[?#]", bare(value))[0].rstrip("/"))
    first = re.match(r"/[\w.-]+", rest)
    if first is None or "//" not in value:
        return value
    head, slashes, path = value.partition("//")
    at = re.search(re.escape(first[0]) + r"(?=/|$)", path)
    return head + slashes + (path[: at.start()] if at else path)
