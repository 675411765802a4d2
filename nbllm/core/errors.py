"""Errors, grouped by whose fault they are. Each message ends with what to do next; none contains a secret.

NbllmError
├── ConfigError         the user: no key, unknown model, bad option
│   └── BudgetExceeded  the budget leaves no room for the call, which was not sent
├── TransportError      the network
│   ├── ConnectFailed   no server answered at that address
│   ├── Timeout         `.which` says which limit: connect, first, idle, silent or total
│   └── StreamCut       the answer broke off before its end
├── ProviderError       the provider refused: `.status .type .code .retry_after .request_id`
│   ├── AuthenticationError · PermissionDenied · NotFound · BadRequest
│   ├── RateLimited     retry later: `.per .until`
│   ├── QuotaExceeded   retry after paying
│   ├── Overloaded · ServerError   the provider's own fault; the first is temporary
│   └── ContextLengthExceeded · ContentFiltered
├── ProtocolError       the response is malformed
└── AnswerProcessingError  the answer arrived; checking, converting or showing it failed

`.partial` is the Response with what had arrived (for `embed`, its DataFrame); None where nothing was sent.
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


def similar_names(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The `count` names most similar to `name`. cutoff: how similar they must be, from 0 to 1."""
    import difflib  # imported late, because unknown names are rare

    return difflib.get_close_matches(name, [*known], count, cutoff)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The hint for an unknown name: the most similar known name, or all of them."""
    known = list(known)
    near = similar_names(str(name)[:200], known)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."


_MIN_LENGTH = 4  # characters of a secret; masking a shorter one would mask prose
_LONG = 8  # characters from which on a secret is also searched for in other letter case, and as base64
_NOT_SECRET = frozenset({"true", "false", "null", "none", "application/json", "text/event-stream"})
_MAX_DEPTH = 100  # levels of an error's body that are searched


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret masked, also where it is quoted for a URL or JSON, or encoded as base64."""
    return scrubber([s for s in secrets if len(s) <= len(text)])(text)  # no form is shorter than the secret


def scrubber(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that masks these secrets in a text."""
    forms = {f for s in secrets if len(s) >= _MIN_LENGTH and s.lower() not in _NOT_SECRET for f in _forms(s)}
    if not forms:
        return str
    folded = [form.casefold() for form in forms]

    @functools.cache
    def pattern() -> re.Pattern[str]:
        longest_first = sorted(forms, key=len, reverse=True)
        patterns = (f"(?i:{re.escape(f)})" if len(f) >= _LONG else re.escape(f) for f in longest_first)
        return re.compile("|".join(patterns))

    def mask(text: str) -> str:
        lower = text.casefold()  # checked first: the pattern is slow, and few texts contain a secret
        return pattern().sub(MASK, text) if any(form in lower for form in folded) else text

    return mask


def _forms(secret: str) -> set[str]:
    """All forms in which a secret may appear in a text."""
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {
        secret,
        quote(raw),
        quote(raw, safe=""),
        quote_plus(raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }
    # Within the base64 of a longer text, as in Basic auth, it looks different at each of three offsets.
    for offset in range(3) if len(secret) >= _LONG else ():
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        encoded = encoded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6]
        forms |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return forms


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
    """Whether an environment variable's name is typical of one that holds a secret."""
    return bool(_SECRET_NAME.search(name))


class NbllmError(Exception):
    """Base class of all errors that nbllm raises. `hint` says what to do next and is part of the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = message, hint
        self.sent = ""  # once the call was sent: where to, and with which key (masked)
        self.partial: Response | None = None
        super().__init__(message)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.message, self.sent, self.hint)))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback; scripts get Python's own."""
        text = "".join(c if c.isprintable() or c == "\n" else "�" for c in f"{type(self).__name__}: {self}")
        return text.splitlines()

    def scrub_secrets(self, secrets: Iterable[str]) -> NbllmError:
        """Masks every secret in all texts of this error, and drops its `__context__`, whose frames hold what
        was sent. Returns the error."""
        mask, self.__context__ = scrubber(secrets), None
        self.args = tuple(mask(a) if isinstance(a, str) else a for a in self.args)
        for name, value in vars(self).items():
            setattr(self, name, _scrub_value(value, mask))
        return self


def _scrub_value(value: Any, mask: Callable[[str], str], depth: int = 0) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, (dict, list)) and depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, dict):
        return {mask(str(k)): _scrub_value(v, mask, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_scrub_value(v, mask, depth + 1) for v in value]
    return value


class ConfigError(NbllmError, ValueError):
    """Something on the user's side is missing or wrong."""


class BudgetExceeded(ConfigError):
    """A call would exceed the budget (budget=, %llm budget), and was not sent."""


class TransportError(NbllmError):
    """The network failed."""


class ConnectFailed(TransportError):
    """No connection to the address could be made."""


class Timeout(TransportError, TimeoutError):
    """A time limit ran out; `which` is connect, first, idle, silent or total, `seconds` is the limit."""

    def __init__(self, message: str, *, which: str, seconds: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.which, self.seconds = which, seconds


class StreamCut(TransportError):
    """The answer broke off before its end; `.partial` holds what had arrived."""


class ProviderError(NbllmError):
    """The provider refused or failed. `.type`, `.code` and `.body` are as the provider sent them."""

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
        self.reset_after: float | None = None  # seconds until a rate limit is reset, from the headers
        self.limits: tuple[Any, ...] = ()  # the rate limits that it reported (dialects' Limit)
        self.per: str | None = None  # period of the limit: second, minute, hour, day or month
        self.until: float | None = None  # epoch seconds at which a limit of hours or days allows calls again
        self.retryable = True  # False where a retry soon is known to be useless

    @property
    def is_lasting(self) -> bool:
        """Whether a limit per hour, day or month is used up, for which no call waits."""
        return self.per in ("hour", "day", "month")


class AuthenticationError(ProviderError):
    """The key is missing, wrong or expired."""


class PermissionDenied(ProviderError):
    """The key is valid but not allowed to do this."""


class NotFound(ProviderError):
    """There is no such model, or no such path at that address."""


class BadRequest(ProviderError):
    """The provider does not accept this request."""


class RateLimited(ProviderError):
    """Too many requests or tokens in a period. `retry_after` is in seconds, where the provider sent it. `per`
    is the period of the limit (second, minute, hour, day, month; None for unknown); where it is an hour or
    more, `until` is the moment at which calls are allowed again, in epoch seconds (None for unknown)."""


class QuotaExceeded(ProviderError):
    """The account's credit or quota is used up; a retry does not help."""


class Overloaded(ProviderError):
    """The provider is overloaded at the moment."""


class ServerError(ProviderError):
    """The provider failed internally."""


class ContextLengthExceeded(BadRequest):
    """Prompt and answer together exceed the model's context window."""


class ContentFiltered(BadRequest):
    """The provider's filter stopped the prompt or the answer."""


class ProtocolError(NbllmError):
    """What arrived is not valid in the expected format."""


class Mismatch(NbllmError):
    """An answer does not match the requested schema. `problems` says where, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        super().__init__(
            f"The answer does not fit the schema: {'; '.join(problems[:3])}{more}.",
            hint="The unchanged answer is in the error's .partial (and in _llm).",
        )


class Truncated(NbllmError):
    """A structured answer was cut off, so its value is incomplete."""

    def __init__(self) -> None:
        super().__init__(
            "The structured answer was cut off at the token limit, so it is not used.",
            hint="Allow more with max_tokens, or ask for less. The partial answer is in the error's .partial "
            "(and in _llm).",
        )


class AnswerProcessingError(NbllmError):
    """The answer arrived, but processing it failed; `.partial` is the answer."""

    def __init__(self, message: str, *, partial: Response, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partial = partial


@contextmanager
def processing_answer(response: Response, doing: str) -> Iterator[None]:
    """Context in which an answer is checked, converted or shown. Whatever is raised inside becomes an
    NbllmError with the answer as its `.partial`."""
    try:
        yield
    except NbllmError as error:
        error.partial = response if error.partial is None else error.partial
        raise
    except Exception as error:  # noqa: BLE001 - validators and drawing must not lose a paid answer
        raise AnswerProcessingError(
            f"The answer arrived, but {doing} failed: {error_line(error)}",
            hint="The answer is in _llm and in the error's .partial.",
            partial=response,
        ) from None


def error_line(error: BaseException, max_length: int = 300) -> str:
    """A foreign exception in one line: its type and message."""
    formatted = traceback.TracebackException(type(error), error, None)
    formatted.__notes__ = None  # they would be last, where the message is expected
    return " ".join([*formatted.format_exception_only()][-1].split())[:max_length]


def as_nbllm_error(error: BaseException) -> NbllmError:
    """An exception as an NbllmError. For an unexpected one, only its location is shown: its message may
    contain a key."""
    if isinstance(error, NbllmError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return NbllmError(
        f"nbllm failed internally: {type(error).__name__} in {frame.name}, line {frame.lineno} of "
        f"{PurePath(frame.filename).name}.",
        hint="This is a bug in nbllm: please report it.",
    )
