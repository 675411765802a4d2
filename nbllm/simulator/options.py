"""The options of a simulated request, and the grammar in which they are written. Pure values.

    NAME@key=value,key=value          in the model's name: fast@ttft=0.4,gap=0.02,tokens=50
    key=value,key=value               in the header x-nbllm-sim, and for --defaults

`;` separates like `,`, for use in a comma-separated list of models. A value may be percent-encoded, so that
spaces, commas and quotes survive command lines and URL paths. A name whose last `@` is not followed by
`word=` has no options (`claude-3-5-sonnet@20240620` is a plain name). The precedence, lowest first: the
server's defaults, the preset of the model's name, the options in the name, the header.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints
from urllib.parse import unquote

Gaps = Literal["constant", "jitter", "burst"]
Role = Literal["early", "late"]
Thoughts = Literal["field", "parts"]
Why = Literal["quota", "context"]
End = Literal["completed", "expired", "failed", "cancelled"]
How = Literal["rst", "close", "end"]
Limits = Literal[
    "openai", "anthropic", "azure", "groq", "cerebras", "mistral", "together", "xai", "gemini", "none"
]


class BadOption(ValueError):
    """An unknown option or a value of a wrong type; the message names it and says what is allowed."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that can be set per request. Times are in seconds; numbers of chunks count only those with
    tokens.

    Times. ttft: from the request read to the first token. gap: between two chunks. gaps: constant; jitter
    (each 0.5 to 1.5 times `gap`); burst (`burst` chunks at once, then the sum of their gaps). tail: from the
    last token to the end. headers: before the status line. cold: extra time of the first request after `idle`
    seconds without one. ping: number of keep-alives before the first token. role: the preamble (role delta,
    message_start, response.created) is sent early, at once, or late, with the first token. empty: an empty
    delta is sent at once.

    Content. text: the answer; echo: answers with the prompt. tokens: exact length of the visible text.
    tokens_per_chunk; chunks_per_write: events in one socket write. seed: of jitter and text. reasoning:
    number of reasoning tokens before the text (None: 24 if the request asks for thinking); thoughts: Chat
    Completions sends them in a field or in parts of the content. images: number of images after the text
    (OpenAI's two formats, Gemini). tools: number of tool calls if the request has tools; call: name of the
    tool. script: the model's turns of a conversation as JSON (see scripts.py). structured: whether the
    request's JSON schema is followed. usage: whether usage is reported; cached: input tokens reported as read
    from a cache.

    Errors. strict: rejects histories and tools that real providers reject; window: more prompt tokens are
    rejected. auth: the required API key, 1 for any key. status: fails with this HTTP status; why: quota or
    context, errors that clients recognise by their message; fail_times: only this many times per prompt and
    model; fail_rate: this share of requests; retry_after: seconds to report. limits: simulates this
    provider's rate limits with its headers and errors (none: no headers): `rpm` requests per key and model in
    `per` seconds, refilled continuously, or with `fixed` all at once. After a number of chunks: cut (`how`:
    rst; close, without the end of the framing; end, as if complete), stall (for `stall_for` seconds),
    malformed (the next chunk), error (inside the stream). close: the end of the connection ends the body,
    without chunked framing.

    Batches. batch_s: seconds until the end; batch_end: the final status (expired and cancelled: half of the
    lines are answered). The first batch_missing lines have no result, the next batch_zero lines the status 0,
    the next batch_fail lines an error. batch_shuffle: results in another order. enqueued: a batch fails at
    once if more prompt tokens than this are waiting.
    """

    ttft: float = 0.05
    gap: float = 0.005
    gaps: Gaps = "constant"
    burst: int = 5
    seed: int = 0
    tokens: int | None = None
    tokens_per_chunk: int = 1
    chunks_per_write: int = 1
    text: str | None = None
    echo: bool = False
    reasoning: int | None = None
    thoughts: Thoughts = "field"
    images: int = 0
    tools: int = 1
    call: str | None = None
    script: str | None = None
    strict: bool = True
    window: int | None = None
    structured: bool = True
    usage: bool = True
    cached: int = 0
    cold: float = 0.0
    idle: float = 300.0
    tail: float = 0.0
    ping: int = 0
    role: Role = "early"
    empty: bool = False
    close: bool = False
    status: int | None = None
    why: Why | None = None
    fail_times: int | None = None
    fail_rate: float = 0.0
    retry_after: float | None = None
    limits: Limits | None = None
    rpm: int = 60
    per: float = 60.0
    fixed: bool = False
    headers: float = 0.0
    auth: str | None = None
    cut: int | None = None
    how: How = "rst"
    stall: int | None = None
    stall_for: float = 3600.0
    malformed: int | None = None
    error: int | None = None
    batch_s: float = 0.0
    batch_end: End = "completed"
    batch_fail: int = 0
    batch_zero: int = 0
    batch_missing: int = 0
    batch_shuffle: bool = False
    enqueued: int | None = None


# Model names with preset options, with or without the prefix "sim-".
PRESETS: dict[str, dict[str, Any]] = {
    "instant": {"ttft": 0.0, "gap": 0.0},
    "fast": {"ttft": 0.03, "gap": 0.002},
    "slow": {"ttft": 1.0, "gap": 0.06},
    "thinker": {"reasoning": 40},
    "flaky": {"fail_rate": 0.3, "retry_after": 0.2},
}
FIELDS = {f.name: f for f in fields(Options)}
# Upper bounds: larger values would block other clients, or are longer than anybody waits.
_MAXIMUM = {
    "tokens": 1_000_000,
    "reasoning": 1_000_000,
    "tools": 100,
    "ping": 10_000,
    "status": 599,
    "idle": 1e9,
    "seed": 2**62,
}
_MAX_SECONDS, _MAX_COUNT = 1e7, 1_000_000_000
# Lower bounds other than zero, also in words for the error message.
_MINIMUM: dict[str, tuple[float, str]] = {
    "seed": (-(2**62), "-2**62"),
    "per": (0.001, "a thousandth of a second"),
    **dict.fromkeys(("burst", "tokens_per_chunk", "chunks_per_write", "rpm"), (1, "one")),
}
_TYPES = {
    key: tuple(kind for part in get_args(of) or (of,) for kind in get_args(part) or (part,))
    for key, of in get_type_hints(Options).items()
}
_TRUE, _FALSE = {"1", "true", "on", "yes"}, {"0", "false", "off", "no"}
_SECRET = re.compile(r"(?<=auth=)[^,;]*")


def parse(text: str) -> dict[str, Any]:
    """Parses `key=value,key=value`. Raises BadOption."""
    pairs = (pair.partition("=") for pair in re.split("[,;]", text) if pair.strip())
    return parse_values({key.strip(): unquote(value) for key, _, value in pairs})


def parse_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts options to their types. Raises BadOption."""
    return {key: parse_value(key, value) for key, value in values.items()}


def split_model(model: str) -> tuple[str, str]:
    """Splits a model's name into (name, options text)."""
    name, at, options = model.rpartition("@")
    return (name, options) if at and re.match(r"\w+=", options) else (model, "")


def mask_key(model: str) -> str:
    """The model's name with the key after `auth=` masked: names are returned and recorded, keys must not
    be."""
    return _SECRET.sub("***", model) if "auth=" in model else model


def options_for(defaults: Options, model: str, header: str = "") -> Options:
    """The options in force for one request. header: value of x-nbllm-sim. Raises BadOption."""
    name, in_name = split_model(model)
    preset = PRESETS.get(name.rpartition("/")[2].removeprefix("sim-"), {})
    changes = {**preset, **parse(in_name), **parse(header)}
    return replace(defaults, **changes) if changes else defaults


def options_from(values: Mapping[str, Any]) -> Options:
    """Options from keyword arguments, such as those of `serve(...)`; strings are converted as in the grammar.
    Raises BadOption."""
    return Options(**parse_values(values))


def parse_value(key: str, value: Any) -> Any:
    """Converts `value` to the type of option `key`. Raises BadOption."""
    if key not in FIELDS:
        near = difflib.get_close_matches(key[:60], FIELDS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The options are {', '.join(FIELDS)}."
        raise BadOption(f"The simulator has no option {key[:60]!r}. {hint}")
    kinds = _TYPES[key]
    if value is None and type(None) in kinds:
        return None
    try:
        return _check_bounds(key, _convert(kinds, value))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadOption(
            f"The simulator's option {key} cannot be {str(value)[:60]!r}: {str(error)[:200]}."
        ) from None


def _convert(kinds: tuple[Any, ...], value: Any) -> Any:
    if isinstance(kinds[0], str):
        if value not in kinds:
            raise ValueError(f"it must be one of {', '.join(k for k in kinds if isinstance(k, str))}")
        return str(value)
    if bool in kinds:
        flag = str(value).lower()
        if flag not in _TRUE | _FALSE:
            raise ValueError("it must be on or off")
        return flag in _TRUE
    kind = next(k for k in kinds if k is not type(None))
    return kind(value)


def _check_bounds(key: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        most = _MAXIMUM.get(key, _MAX_SECONDS if float in _TYPES[key] else _MAX_COUNT)
        least, words = _MINIMUM.get(key, (0, "zero"))
        if not least <= value < float("inf"):
            raise ValueError(f"it must be {words} or more")
        if value > most:
            raise ValueError(f"it must be at most {most:g}")
    if key == "status" and value is not None and (value < 200 or value in (204, 304)):
        raise ValueError("it must be a status whose responses have a body")
    return value
