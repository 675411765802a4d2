"""Normalises addresses as users paste them: with quotes, with a query, or of a complete endpoint instead of
the base address. Pure."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..core.addresses import is_public, may_hold_secret, parse_ip

_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_BLANKS = " \t\r\n\u00a0\u200b\u2060\ufeff"

# A host without a scheme: it has a dot, a port, or an IPv6 address's brackets. Suffixes of names on the local
# network.
_BARE_HOST = r"(localhost|[\w-]+(?:\.[\w-]+)+|\[[0-9a-fA-F:.]+\]|[\w.-]+(?=:\d))(?::\d+)?(?=[/?]|$)"
_LOCAL_SUFFIXES = (".local", ".internal", ".lan", ".localhost")

# By dialect, the end of a path that belongs to an endpoint: the dialect appends it itself.
_OPENAI = r"/(?:(?:chat/)?completions|embeddings|responses)$|(?<=.)/models$"  # Azure's base is /models
_ENDPOINTS = {
    "openai_chat": _OPENAI,
    "openai_responses": _OPENAI,
    "anthropic": r"(?:/v1)?/(?:messages(?:/count_tokens)?|models|complete)$",
    "gemini": r"/(?:models|tunedModels)(?:/[^/]*)?$",
    "ollama": r"(?:/api(?:/(?:chat|generate|tags|embed|embeddings))?|/v1(?:/chat/completions|/models)?)$",
    "cohere": r"(?:/v[12])?/(?:chat|embed|models)$|/v[12]$",
}


class BaseUrl(NamedTuple):
    """A base address, and the query parameters that every request to it carries."""

    url: str
    query: dict[str, str]


def strip_quotes(text: str) -> str:
    """`text` without the white space and quotes around it, which .env files and terminals add."""
    text = text.strip(_BLANKS)
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip(_BLANKS)
    return text


def parse_base_url(url: str, dialect: str) -> BaseUrl:
    """The base address for a dialect's requests; `url` may be that of a complete endpoint."""
    return _parse(url, dialect) if may_hold_secret(url) else BaseUrl(_parse_cached(url, dialect), {})


@functools.lru_cache(256)
def _parse_cached(url: str, dialect: str) -> str:
    return _parse(url, dialect).url


def _parse(url: str, dialect: str) -> BaseUrl:
    url = _add_scheme(strip_quotes(strip_quotes(url).rstrip(",;")).partition("#")[0])
    base, _, query = url.partition("?")
    head, path = re.fullmatch(r"([^/]*//[^/]*|)(.*)", base, re.DOTALL).groups()  # type: ignore[union-attr]
    path = re.sub(r"/{2,}", "/", path).rstrip("/")
    path = re.sub(r"(/v\d+\w*)\1$", r"\1", path)
    if (endpoint := _ENDPOINTS.get(dialect)) is not None:
        path = re.sub(endpoint, "", path)
    parameters = {k: v for k, v in parse_qsl(query, keep_blank_values=True) if (k, v) != ("alt", "sse")}
    return BaseUrl(head + path, parameters)


def _add_scheme(url: str) -> str:
    """`url` with its scheme and both slashes, where they are missing: http for hosts on the local network,
    https for all others, so that no key leaves it unencrypted."""
    url = re.sub(r"^<(.*)>$", r"\1", url)
    url = re.sub(r"(?i)^(https?:)/?(?=[^/])", r"\1//", url)
    if (match := re.match(_BARE_HOST, url)) is None:
        return url
    host, number = match[1].lower(), parse_ip(match[1].strip("[]"))
    is_local = (
        not is_public(number) if number is not None else "." not in host or host.endswith(_LOCAL_SUFFIXES)
    )
    return f"{'http' if is_local else 'https'}://{url}"


def without_suffix(value: str, suffix: str) -> str:
    """The value of the variable that stands before `suffix` in an address, without the part of `suffix` that
    was pasted with it: Azure's portal also shows https://NAME.openai.azure.com/openai/deployments/..."""
    value = _add_scheme(re.split(r"[?#]", strip_quotes(value))[0].rstrip("/"))
    first = re.match(r"/[\w.-]+", suffix)
    if first is None or "//" not in value:
        return value
    head, slashes, path = value.partition("//")
    match = re.search(re.escape(first[0]) + r"(?=/|$)", path)
    return head + slashes + (path[: match.start()] if match else path)
