"""Recorded traffic as load: Mooncake's traces and OpenTelemetry's spans, with their times and lengths.

Texts that a trace does not contain are made of common words, as long as the request was. Requests that share
blocks (`hash_ids`) start with the same text, so that a prefix cache hits as it did then.
"""

from __future__ import annotations

import json
import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.messages import Message
from ..core.values import plural
from .arrivals import replay
from .prompts import Prompt, iter_json
from .words import COMMON_WORDS

BLOCK_TOKENS = 512  # of a block in Mooncake's traces
_MAX_TOKENS = 1_000_000  # larger numbers are invalid
_USAGE_ATTRIBUTES = {
    "input": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "output": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
}

_START_FIELDS = ("startTimeUnixNano", "start_time_unix_nano", "start_time")


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded requests: `times` in seconds since the first, and a prompt for each."""

    times: tuple[float, ...]
    prompts: tuple[Prompt, ...]


def trace(
    path: str | os.PathLike[str], *, speed: float = 1.0, limit: int | None = None, block: int = BLOCK_TOKENS
) -> Trace:
    """Recorded traffic, passed to `bench.run(models, trace)` in place of prompts: each turn sends the
    requests at their times.

    A .jsonl of Mooncake's (timestamp in ms, input_length, output_length, hash_ids of `block` tokens each), or
    OpenTelemetry spans (OTLP as JSON, or one span per line) with gen_ai.usage.*. speed: 2 for twice as fast.
    limit: only the first requests. Raises ConfigError for any other file; warns of records that cannot be
    used.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"{path!r} is not a path.", hint='bench.trace("trace.jsonl")')
    counts_valid = all(isinstance(n, int) and n > 0 for n in (block, 1 if limit is None else limit))
    if not (counts_valid and isinstance(speed, (int, float)) and 0 < speed < math.inf):
        raise ConfigError(
            "speed must be a number above 0, limit and block whole numbers above 0.",
            hint="bench.trace(path, speed=2, limit=100)",
        )
    source = Path(path)
    try:
        records = [(r, _parse_request(r)) for r in _records(source)]
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}.", hint="Check the path.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{source} is not valid JSON: {error}.", hint="Use one JSON value per line."
        ) from None
    requests = sorted((r for _, r in records if r is not None), key=lambda r: r.at)[:limit]
    if not requests:
        raise ConfigError(
            f"{source} has no requests.",
            hint="Mooncake's lines have timestamp, input_length and output_length; spans gen_ai.usage.*.",
        )
    if unusable := [
        (n, r) for n, (r, request) in enumerate(records, 1) if request is None and not _is_other_span(r)
    ]:
        warnings.warn(
            f"{plural(len(unusable), 'record')} of {source} left out: no usable time or lengths. "
            f"The first is number {unusable[0][0]}: {json.dumps(unusable[0][1])[:120]}",
            stacklevel=2,
        )
    times = tuple(t / speed for t in replay(r.at for r in requests))
    return Trace(times, tuple(_prompt(r, i, block) for i, r in enumerate(requests)))


@dataclass(frozen=True, slots=True)
class _Request:
    at: float  # seconds
    input_tokens: int
    output_tokens: int
    blocks: tuple[Any, ...] = ()
    text: str = ""


def _records(path: Path) -> Iterator[Any]:
    """The lines of a file, and the spans in them. Raises ValueError that says where it is not JSON."""
    for value in iter_json(path.read_text("utf-8-sig")):
        for record in value if isinstance(value, list) else [value]:
            yield from _spans(record)


def _spans(record: Any) -> Iterator[Any]:
    if not isinstance(record, Mapping) or "resourceSpans" not in record:
        yield record
        return
    for resource in _as_list(record["resourceSpans"]):
        for scope in _as_list(_first_field(resource, "scopeSpans")):
            yield from _as_list(_first_field(scope, "spans"))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _first_field(record: Any, *names: str) -> Any:
    """The first of these fields that a record has."""
    return next((record[n] for n in names if isinstance(record, Mapping) and n in record), None)


def _parse_request(record: Any) -> _Request | None:
    """The request that a record describes; None for other records (a tool's span, for example)."""
    input_tokens, output_tokens = (
        _token_count(_first_field(record, *names))
        for names in (("input_length", "input_tokens"), ("output_length", "output_tokens"))
    )
    if input_tokens is not None and output_tokens is not None:
        start = _seconds(_first_field(record, "timestamp", "created_time"), 1e3)
        return (
            None
            if start is None
            else _Request(
                start,
                input_tokens,
                output_tokens,
                tuple(map(str, _as_list(_first_field(record, "hash_ids")))),
            )
        )
    attributes = _attributes(_first_field(record, "attributes"))
    input_tokens, output_tokens = (
        _token_count(_first_field(attributes, *_USAGE_ATTRIBUTES[side])) for side in ("input", "output")
    )
    start = _seconds(_first_field(record, *_START_FIELDS), 1e9)
    return (
        None
        if input_tokens is None or output_tokens is None or start is None
        else _Request(
            start, input_tokens, output_tokens, text=_message_texts(attributes.get("gen_ai.input.messages"))
        )
    )


def _is_other_span(record: Any) -> bool:
    """Whether a record is a span of another kind: it has no token counts."""
    names = {*_attributes(_first_field(record, "attributes"))}
    return _first_field(record, "attributes", *_START_FIELDS) is not None and not names & {
        n for s in _USAGE_ATTRIBUTES.values() for n in s
    }


def _attributes(attributes: Any) -> dict[str, Any]:
    """Attributes as a mapping; OTLP has a list of keys with typed values."""
    if isinstance(attributes, Mapping):
        return dict(attributes)
    pairs = ((_first_field(a, "key"), _first_field(a, "value")) for a in _as_list(attributes))
    return {str(k): next(iter(v.values()), None) if isinstance(v, Mapping) else v for k, v in pairs}


def _token_count(value: Any) -> int | None:
    """A number of tokens, or None; OTLP writes whole numbers as strings."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= _MAX_TOKENS and not isinstance(value, bool) else None


def _seconds(value: Any, of: float) -> float | None:
    """A time in seconds: from a number in units of 1 / `of` seconds, or from an ISO date."""
    try:
        return float(value) / of
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def _message_texts(messages: Any) -> str:
    """The texts of a span's messages, if it contains them."""
    try:
        parsed = json.loads(messages) if isinstance(messages, str) else messages
    except ValueError:
        return ""
    parts = [part for m in _as_list(parsed) for part in _as_list(_first_field(m, "parts"))]
    return "\n\n".join(
        str(_first_field(p, "content")) for p in parts if isinstance(_first_field(p, "content"), str)
    )


def _prompt(request: _Request, number: int, block: int) -> Prompt:
    text = request.text or " ".join(_words(request, number, block))
    return Prompt(
        f"trace-{number}",
        ((Message("user", text or "Go on."),),),
        {"max_tokens": max(1, request.output_tokens)},
    )


def _words(request: _Request, number: int, block: int) -> Iterable[str]:
    """As many words as the request had tokens; each block has the same words wherever it occurs."""
    left = request.input_tokens
    for name in (*request.blocks, f"own {number}"):
        rng = random.Random(f"block {name}")
        count = left if name == f"own {number}" else min(block, left)
        yield from rng.choices(COMMON_WORDS, k=count)
        left -= count
