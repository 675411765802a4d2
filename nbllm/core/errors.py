"""Errors, split by whose fault they are. Each message ends with what to do next, and none holds a secret.

NbllmError
├── ConfigError         you: no key, unknown model, bad option
│   └── BudgetExceeded  what may be spent leaves no room for the call, which was not sent
├── TransportError      the wire
│   ├── ConnectFailed   nobody answered at that address
│   ├── Timeout         which one is in `.which`: connect, first, idle, silent or total
│   └── StreamCut       the answer stopped before its end
├── ProviderError       they said no: `.status .type .code .retry_after .request_id`
│   ├── AuthenticationError · PermissionDenied · NotFound · BadRequest
│   ├── RateLimited     ask again later: `.per .until`      ├── QuotaExceeded   ask again after paying
│   ├── Overloaded      their trouble, passing  └── ServerError   their trouble
│   └── ContextLengthExceeded · ContentFiltered
├── ProtocolError       they spoke gibberish
└── AnswerProcessingError  the answer came; checking, converting or showing it failed

`.partial` is the Response with what had arrived (of `embed`, its DataFrame), None where nothing was asked
yet.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from .events import Response

MASK = "•••"


def similar_names(name: str, known: Iterable[str], most: int = 1, least: float = 0.6) -> list[str]:
    """The names that are most like `name`, at most so many; least: of how much must be alike."""
    import difflib  # late, as a name that nobody knows is rare

    return difflib.get_close_matches(name, [*known], most, least)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The hint for a name that is not among those that are known: the nearest, or all of them."""
    known = list(known)
    near = similar_names(str(name)[:200], known)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."


_SHORTEST = 4  # characters of a secret that is looked for: a shorter one would mask prose
_LONG = 8  # from here on it is looked for in any case, and as base64
_PLAIN = frozenset(
    {"true", "false", "null", "none", "application/json", "text/event-stream"}
)  # values that are nobody's secret
_DEEPEST = 100  # levels of an error's body that are looked through


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret in it masked, also where it is quoted for an address or for JSON, or in
    base64."""
    return scrubber([s for s in secrets if len(s) <= len(text)])(text)  # no form is shorter than itself


def scrubber(secrets: Iterable[str]) -> Callable[[str], str]:
    """What masks these secrets in a text."""
    found = {form for s in secrets if len(s) >= _SHORTEST and s.lower() not in _PLAIN for form in _forms(s)}
    if not found:
        return str
    folded = [form.casefold() for form in found]

    @functools.cache
    def pattern() -> re.Pattern[str]:
        longest_first = sorted(found, key=len, reverse=True)
        words = (f"(?i:{re.escape(f)})" if len(f) >= _LONG else re.escape(f) for f in longest_first)
        return re.compile("|".join(words))

    def masked(text: str) -> str:
        low = text.casefold()  # the pattern is slow, and few texts hold a secret
        return pattern().sub(MASK, text) if any(form in low for form in folded) else text

    return masked


def _forms(secret: str) -> set[str]:
    """A secret as it may stand in a text."""
    raw = secret.encode("utf-8", "surrogatepass")
    found = {
        secret,
        quote(raw),
        quote(raw, safe=""),
        quote_plus(raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }
    for before in (
        range(3) if len(secret) >= _LONG else ()
    ):  # base64 of a longer text that holds it, as Basic auth does
        packed = base64.b64encode(b"\0" * before + raw).decode()[
            (0, 2, 3)[before] : (before + len(raw)) * 8 // 6
        ]
        found |= {packed, packed.replace("+", "-").replace("/", "_")}
    return found


_PREFIXED = re.compile(
    r"(?:sk|pk|rk|gsk|csk|xai|hf|r8|ghp|github_pat|nvapi|pplx|fw|tgp|AQ|ya29)[-_.](?=[\w\-]*[\dA-Z])[\w\-]{12,}|AIza[\w\-]{12,}"
)
_RANDOM = re.compile(r"(?=[a-zA-Z]*\d[a-zA-Z]*\d)[a-zA-Z\d]{20,}|[a-zA-Z]{40,}", re.ASCII)


def looks_like_key(text: str, *, known_prefix: bool = False) -> bool:
    """Whether `text` could be a provider's key: it has a known prefix or, unless `known_prefix` is asked for,
    consists of long runs of letters and digits."""
    runs = [run for run in re.split(r"[-_.]", text) if run]
    return bool(_PREFIXED.match(text)) or (
        not known_prefix and bool(runs) and all(_RANDOM.fullmatch(run) for run in runs)
    )


_SECRET_NAME = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|_PASS|_PWD|_PAT)$", re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of the environment is called as those are that hold a secret."""
    return bool(_SECRET_NAME.search(name))


class NbllmError(Exception):
    """Base of all errors that nbllm raises. `hint` says what to do next and is part of the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = message, hint
        self.sent = ""  # where the call went and with which key (masked), once it was sent
        self.partial: Response | None = None
        super().__init__(message)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.message, self.sent, self.hint)))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of a traceback; a script has Python's own."""
        words = "".join(c if c.isprintable() or c == "\n" else "�" for c in f"{type(self).__name__}: {self}")
        return words.splitlines()

    def scrub_secrets(self, secrets: Iterable[str]) -> NbllmError:
        """This error, with every secret taken out of all its texts, and without the one behind it, whose
        frames hold what was sent."""
        masked, self.__context__ = scrubber(secrets), None
        self.args = tuple(masked(a) if isinstance(a, str) else a for a in self.args)
        for name, value in vars(self).items():
            setattr(self, name, _scrub_value(value, masked))
        return self


def _scrub_value(value: Any, masked: Callable[[str], str], depth: int = 0) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, (dict, list)) and depth >= _DEEPEST:
        return MASK
    if isinstance(value, dict):
        return {masked(str(k)): _scrub_value(v, masked, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_scrub_value(v, masked, depth + 1) for v in value]
    return value


class ConfigError(NbllmError, ValueError):
    """Something on this side is missing or wrong."""


class BudgetExceeded(ConfigError):
    """A call does not fit what may be spent (budget=, %llm budget), and was not sent."""


class TransportError(NbllmError):
    """The wire failed."""


class ConnectFailed(TransportError):
    """No connection to the address came about."""


class Timeout(TransportError, TimeoutError):
    """A time limit ran out; `which` is connect, first, idle, silent or total, `seconds` is the limit."""

    def __init__(self, message: str, *, which: str, seconds: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.which, self.seconds = which, seconds


class StreamCut(TransportError):
    """The answer stopped before its end; `.partial` holds what had arrived."""


class ProviderError(NbllmError):
    """The provider refused or failed. `.type` and `.code` are its own words, `.body` its own object."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        body: Any = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.type, self.code = status, type, code
        self.retry_after, self.request_id, self.body = retry_after, request_id, body
        self.reset_after: float | None = (
            None  # seconds until a used-up rate limit is full again, from its own headers
        )
        self.limits: tuple[Any, ...] = ()  # what it told of its rate limits (dialects' Limit)
        self.per: str | None = None  # whose limit it was: of the second, minute, hour, day or month
        self.until: float | None = None  # epoch seconds at which a limit of hours or days lets calls through
        self.retryable = True  # False where asking again soon is known to be of no use

    @property
    def is_lasting(self) -> bool:
        """Whether a limit of an hour, a day or a month is used up, which no call waits for."""
        return self.per in ("hour", "day", "month")


class AuthenticationError(ProviderError):
    """The key is missing, wrong or expired."""


class PermissionDenied(ProviderError):
    """The key is known but may not do this."""


class NotFound(ProviderError):
    """No such model, or no such path at that address."""


class BadRequest(ProviderError):
    """The provider does not accept the request as it is."""


class RateLimited(ProviderError):
    """Too many requests or tokens in a time; `retry_after` seconds where the provider said so. `per` is the
    time that the limit counts (second, minute, hour, day, month; None for unknown); where it is an hour or
    more, `until` is the moment at which calls are let through again, in epoch seconds (None for unknown)."""


class QuotaExceeded(ProviderError):
    """The account's credit or quota is used up; asking again does not help."""


class Overloaded(ProviderError):
    """The provider has too much to do at the moment."""


class ServerError(ProviderError):
    """The provider failed by its own fault."""


class ContextLengthExceeded(BadRequest):
    """Prompt and answer together do not fit the model."""


class ContentFiltered(BadRequest):
    """The provider's filter stopped the prompt or the answer."""


class ProtocolError(NbllmError):
    """What came cannot be read as the format it was said to be."""


class Mismatch(NbllmError):
    """An answer does not have the shape that was asked for. `problems` says where, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        super().__init__(
            f"The answer does not fit the schema: {'; '.join(problems[:3])}{more}.",
            hint="The answer as it came is in the error's .partial (and in _llm).",
        )


class Truncated(NbllmError):
    """A structured answer was cut off, so it is no whole value."""

    def __init__(self) -> None:
        super().__init__(
            "The structured answer was cut off at the limit of tokens, so it is not used.",
            hint="Allow more with max_tokens, or ask for less. What came is in the error's .partial (and "
            "in _llm).",
        )


class AnswerProcessingError(NbllmError):
    """The answer came, and something that was done with it failed; `.partial` is the answer."""

    def __init__(self, message: str, *, partial: Response, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partial = partial


@contextmanager
def processing_answer(response: Response, doing: str) -> Iterator[None]:
    """Within, an answer is checked, converted or shown: whatever is raised there leaves as one of our errors,
    with the answer as its `.partial`. The one place where that is done."""
    try:
        yield
    except NbllmError as error:
        error.partial = response if error.partial is None else error.partial
        raise
    # a paid answer is not lost by a validator, a DataFrame or a drawing
    except Exception as error:  # noqa: BLE001
        raise AnswerProcessingError(
            f"The answer came, but {doing} failed: {error_line(error)}",
            hint="The answer is kept, in _llm and in the error's .partial.",
            partial=response,
        ) from None


def error_line(error: BaseException, longest: int = 300) -> str:
    """An exception of somebody else's in one line: its type and its words."""
    told = traceback.TracebackException(type(error), error, None)
    told.__notes__ = None  # they would stand last, where the exception's own words are looked for
    return " ".join([*told.format_exception_only()][-1].split())[:longest]


def as_nbllm_error(error: BaseException) -> NbllmError:
    """An exception as one of our errors. Of one that we did not foresee the place is told only: its words may
    hold a key."""
    if isinstance(error, NbllmError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return NbllmError(
        f"nbllm failed inside: {type(error).__name__} at {place.name}, line {place.lineno} of "
        f"{PurePath(place.filename).name}.",
        hint="This is a bug of nbllm: please report it.",
    )
