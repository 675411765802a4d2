"""What a simulated request can be asked to do, and the one grammar that says it. Pure values.

    NAME@key=value,key=value          in the model's name: fast@ttft=0.4,gap=0.02,tokens=50
    key=value,key=value               in the header x-nbllm-sim, and after --defaults

`;` separates as `,` does, for places where a comma already divides a list of models. A value may be
percent-encoded, so that spaces, commas and quotes survive command lines and URL paths. A name whose last `@`
is not followed by `word=` holds no options (`claude-3-5-sonnet@20240620` is a plain name). Later words win
over earlier ones: the server's defaults, the preset that the name stands for, the name's own options, the
header.
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
    """An option that is unknown or ill-typed; the message says which and what would do."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that can be chosen per request. Times are seconds; a count of chunks counts token-bearing
    ones.

    ttft: request read to first token. gap: between two token-bearing chunks. gaps: constant; jitter (each
    between half and one and a half of `gap`); burst (`burst` chunks at once, then their gaps in one). seed:
    of jitter, burst, text. tokens: exact length of the visible text. tokens_per_chunk; chunks_per_write
    (events in one socket write). text: what to answer; echo: answer with the prompt. reasoning: tokens of
    thinking first (None: 24 where the request asks for thinking); thoughts: how Chat Completions sends it, in
    a field or in parts of the content. images: how many pictures follow the text, in the formats that have
    them (OpenAI's two, Gemini). tools: how many calls are made where the request has tools, 0 for none; call:
    which tool. script: the model's turns of a conversation, one after another, as JSON (see scripts.py).
    strict: refuse what real providers refuse of a history and of tools; window: tokens that the model reads,
    more are refused. structured: whether an asked-for JSON schema is followed. usage: whether usage is
    reported; cached: input tokens said to come from a cache. cold: extra seconds of the first request after
    `idle` seconds without one. tail: between last token and end. ping: keep-alive comments before the first
    token. role: the preamble (role delta, message_start, response.created) at once or with the first token.
    empty: an empty delta at once. close: the body ends with the connection, without chunked framing. status:
    fail with it; why: quota or context, an error that clients tell apart by its words; fail_times: only so
    often per distinct prompt and model; fail_rate: this share of requests; retry_after: seconds to name.
    limits: whose rate limits are played, in that provider's own headers and refusals (none: it tells
    nothing): `rpm` requests of a key and model in `per` seconds, which come back steadily, or with `fixed`
    all at once. headers: seconds before the status line. auth: the key that is wanted, 1 for any key. After
    so many token- bearing chunks: cut (`how`: rst, close without the framing's end, or end as if all were
    well), stall (`stall_for` seconds), malformed (the next one), error (inside the stream). Of batches:
    batch_s, seconds until the end; batch_end, how they end (expired and cancelled ones answered half); of
    their lines batch_missing have no result, the next batch_zero the status 0, the next batch_fail an
    error; batch_shuffle: results in another order; enqueued: prompt tokens that may wait, more fail at
    once.
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


# Names that stand for options, with or without "sim-" before them.
PRESETS: dict[str, dict[str, Any]] = {
    "instant": {"ttft": 0.0, "gap": 0.0},
    "fast": {"ttft": 0.03, "gap": 0.002},
    "slow": {"ttft": 1.0, "gap": 0.06},
    "thinker": {"reasoning": 40},
    "flaky": {"fail_rate": 0.3, "retry_after": 0.2},
}
FIELDS = {f.name: f for f in fields(Options)}
# The most that each may be: more would keep the server from its other clients, or is no time that anybody
# waits.
_MOST = {
    "tokens": 1_000_000,
    "reasoning": 1_000_000,
    "tools": 100,
    "ping": 10_000,
    "status": 599,
    "idle": 1e9,
    "seed": 2**62,
}
_MOST_SECONDS, _MOST_COUNT = 1e7, 1_000_000_000
# And the least, in words, where that is not zero.
_LEAST: dict[str, tuple[float, str]] = {
    "seed": (-(2**62), "so much"),
    "per": (0.001, "a thousandth of a second"),
    **dict.fromkeys(("burst", "tokens_per_chunk", "chunks_per_write", "rpm"), (1, "one")),
}
_KINDS = {
    key: tuple(kind for part in get_args(of) or (of,) for kind in get_args(part) or (part,))
    for key, of in get_type_hints(Options).items()
}
_TRUE, _FALSE = {"1", "true", "on", "yes"}, {"0", "false", "off", "no"}
_SECRET = re.compile(r"(?<=auth=)[^,;]*")


def parse(words: str) -> dict[str, Any]:
    """The options that `key=value,key=value` names. Raises BadOption."""
    pairs = (word.partition("=") for word in re.split("[,;]", words) if word.strip())
    return read({key.strip(): unquote(value) for key, _, value in pairs})


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in their own types. Raises BadOption."""
    return {key: typed(key, value) for key, value in given.items()}


def split(model: str) -> tuple[str, str]:
    """(name, option words) of a model's name."""
    name, at, words = model.rpartition("@")
    return (name, words) if at and re.match(r"\w+=", words) else (model, "")


def masked(model: str) -> str:
    """The model's name without the key that `auth=` may hold: names are echoed and recorded, keys are not."""
    return _SECRET.sub("***", model) if "auth=" in model else model


def chosen(defaults: Options, model: str, header: str = "") -> Options:
    """The options in force for one request. Raises BadOption."""
    name, words = split(model)
    preset = PRESETS.get(name.rpartition("/")[2].removeprefix("sim-"), {})
    asked = {**preset, **parse(words), **parse(header)}
    return replace(defaults, **asked) if asked else defaults


def checked(given: Mapping[str, Any]) -> Options:
    """Options from keywords such as those of `serve(...)`; text is read as in the grammar. Raises
    BadOption."""
    return Options(**read(given))


def typed(key: str, value: Any) -> Any:
    """`value` in the type of option `key`. Raises BadOption."""
    if key not in FIELDS:
        near = difflib.get_close_matches(key[:60], FIELDS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(FIELDS)}."
        raise BadOption(f"The simulator has no option {key[:60]!r}. {hint}")
    kinds = _KINDS[key]
    if value is None and type(None) in kinds:
        return None
    try:
        return _bounded(key, _read(kinds, value))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadOption(
            f"The simulator's option {key} cannot be {str(value)[:60]!r}: {str(error)[:200]}."
        ) from None


def _read(kinds: tuple[Any, ...], value: Any) -> Any:
    if isinstance(kinds[0], str):
        return _word(tuple(k for k in kinds if isinstance(k, str)), value)
    if bool in kinds:
        return _flag(value)
    kind = next(k for k in kinds if k is not type(None))
    return kind(value)


def _word(words: tuple[str, ...], value: Any) -> str:
    if value not in words:
        raise ValueError(f"it is one of {', '.join(words)}")
    return str(value)


def _flag(value: Any) -> bool:
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        raise ValueError("it is on or off")
    return text in _TRUE


def _bounded(key: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        most = _MOST.get(key, _MOST_SECONDS if float in _KINDS[key] else _MOST_COUNT)
        least, words = _LEAST.get(key, (0, "zero"))
        if not least <= value < float("inf"):
            raise ValueError(f"it is {words} or more")
        if value > most:
            raise ValueError(f"it is at most {most:g}")
    if key == "status" and value is not None and (value < 200 or value in (204, 304)):
        raise ValueError("it is a status of an answer with a body")
    return value
