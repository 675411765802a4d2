"""Batches: many requests handed in at once, answered within a day at half the price.

Eight providers have three shapes: `file` (upload lines, create a batch of the file, read two files of
results), `inline` (the requests stand in the call that creates it) and `job` (a file, and the model stands
outside). A line holds what the dialect would have sent, without its stream, under an id of ours; a line of
the results holds a whole answer, which the dialect's own decoder reads as one frame.

Nothing here trusts order or number: results come shuffled, in two files, some twice, some never. A Collector
matches them by id and counts to the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from ..core.calls import Dialect, Endpoint, Frame, HttpCall
from ..core.errors import ConfigError, NbllmError, ProtocolError, ProviderError, ServerError
from ..core.events import Event
from ._errors import provider_error
from ._json import count, items, label, load_json, obj, string
from ._request import dumps

_MB = 1_000_000
_MARGIN = 0.95  # of the bytes that a provider allows: its count may include what ours does not
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILE = re.compile(r"(?:files/|batches/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_STREAMED = frozenset({"stream", "stream_options"})
# Ends of lines to some who read text, within JSON's strings.
_BREAKS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
_SHOWN = 5  # strange ids that are told


class BatchFormat(msgspec.Struct, frozen=True):
    """How one provider writes its batches. requests and bytes: the most of one batch. made: what one is
    made of (an uploaded file, requests in the call, requests after what all have in common, a file uploaded
    in Google's resumable way, a job over files). id and body: the names in a line of the request;
    addressed: the line names method and path too; left_out: what of a body stands elsewhere. path: where
    its batches are; files: where a file is uploaded, for a purpose. known_by: what tells a batch of ours in
    the list: metadata, the name of the batch, that of its file, or its first result. size and page: how the
    list's pages are asked for; cancel: what follows a batch's address, "" where none can be."""

    shape: Literal["file", "inline", "job"]
    requests: int
    bytes: int
    made: Literal["file", "requests", "described", "resumable", "job"] = "file"
    id: str = "custom_id"
    body: str = "body"
    addressed: bool = False
    left_out: frozenset[str] = _STREAMED
    path: str = "/batches"
    files: str = "/files"
    purpose: str = "batch"
    known_by: Literal["metadata", "name", "file", "result"] = "metadata"
    size: str = "limit=100"
    page: str = "after"
    cancel: str = "/cancel"


# What a row of providers.toml names in `batch`.
FORMATS: Mapping[str, BatchFormat] = {
    "openai": BatchFormat("file", 50_000, 200 * _MB, addressed=True),  # Azure too
    "groq": BatchFormat("file", 50_000, 100 * _MB, addressed=True),
    "together": BatchFormat(
        "file", 50_000, 100 * _MB, files="/files/upload", purpose="batch-api", known_by="file"
    ),
    "anthropic": BatchFormat(
        "inline",
        *(100_000, 256 * _MB),
        "requests",
        body="params",
        path="/v1/messages/batches",
        known_by="result",
        page="after_id",
    ),
    # It says no limits: the smallest of the others.
    "openrouter": BatchFormat(
        "inline", 50_000, 100 * _MB, "described", known_by="result", page="cursor", cancel=""
    ),
    "gemini": BatchFormat(
        "job",
        *(50_000, 2_000 * _MB),
        "resumable",
        id="key",
        body="request",
        known_by="name",
        size="pageSize=100",
        page="pageToken",
        cancel=":cancel",
    ),
    "mistral": BatchFormat(
        "job",
        *(100_000, 512 * _MB),
        "job",
        left_out=_STREAMED | {"model"},
        path="/batch/jobs",
        size="page_size=100",
        page="page",
    ),
}


def custom_id(run: str, row: int | str) -> str:
    """The id of a row's line, `{run}_{row}`. Raises ConfigError where providers would refuse it."""
    made = f"{run}_{row}"
    if not _ID.fullmatch(made):
        raise ConfigError(
            f"{made[:80]!r} cannot be the id of a request in a batch.",
            hint="Letters, digits, _ and -, 64 at most, are what all providers take.",
        )
    return made


def line(format: BatchFormat, id: str, call: HttpCall) -> str:
    """The line that asks what `call` would: its body without its stream, under `id`, without a line's end."""
    body = {name: value for name, value in call.body.items() if name not in format.left_out}
    said: dict[str, Any] = {format.id: id}
    if format.addressed:
        said |= {"method": "POST", "url": endpoint(call)}
    return dumps({**said, format.body: body}).translate(_BREAKS)


def endpoint(call: HttpCall) -> str:
    """The path that a batch of such calls names. Raises ConfigError where there is none."""
    path = urlsplit(call.url).path
    found = next((end for end in ("/chat/completions", "/responses") if path.endswith(end)), None)
    if found is None:
        raise ConfigError(
            "Such calls cannot be sent as a batch.", hint='Leave mode="batch" out, or ask another provider.'
        )
    return "/v1" + found


def parts(
    format: BatchFormat, sizes: Sequence[int], tokens: Sequence[int] = (), enqueued: int | None = None
) -> Iterator[range]:
    """Which lines go into one batch, in order, so that each keeps to the format's count and bytes and, where
    known, to the prompt tokens that may be enqueued. sizes: bytes of each line; tokens: of each prompt.

    Raises ConfigError for a line that fits into no batch.
    """
    most = int(format.bytes * _MARGIN)
    start = weight = load = 0
    for at, size in enumerate(sizes):
        own, cost = size + 1, tokens[at] if enqueued is not None and tokens else 0  # 1: its line's end
        if own > most or (enqueued is not None and cost > enqueued):
            raise ConfigError(
                f"Row {at} is too large for a batch: {size:,} bytes, {cost:,} tokens.",
                hint='Shorten it, or leave mode="batch" out.',
            )
        full = at - start >= format.requests or weight + own > most
        if full or (enqueued is not None and load + cost > enqueued):
            yield range(start, at)
            start, weight, load = at, 0, 0
        weight, load = weight + own, load + cost
    if start < len(sizes):
        yield range(start, len(sizes))


# --- how far it is ------------------------------------------------------------------------------------------

_RUNNING = {
    *("validating", "in_progress", "finalizing", "cancelling", "canceling", "pending", "queued", "running"),
    *("updating", "paused", "cancellation_requested"),
}
_ENDED = {
    *("completed", "expired", "cancelled", "canceled", "failed", "ended", "succeeded", "success"),
    *("partially_succeeded", "timeout_exceeded"),
}
_TIMES = ("completed_at", "failed_at", "expired_at", "cancelled_at", "ended_at", "endTime", "done")


class BatchState(msgspec.Struct, frozen=True):
    """What a provider says of a batch. state: its word, in lower case, without Google's prefixes. files: ids
    of result files, all of which are to be read; url: an address of results, which may lead anywhere; inline:
    the results themselves. problems: why it failed, {code: ..., message: ...} each."""

    id: str
    state: str
    running: bool
    total: int | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    inline: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[Mapping[str, Any], ...] = ()

    @property
    def results(self) -> bool:
        """Whether there is something to read: an expired or cancelled batch keeps what came."""
        return bool(self.files or self.url or self.inline)

    @property
    def too_much(self) -> bool:
        """Whether it was refused because too many tokens wait already: to be sent later, or in halves."""
        said = [f"{p.get('code')} {p.get('message')}".lower() for p in self.problems]
        return any("token_limit_exceeded" in words or "enqueued token" in words for words in said)


def state(value: Any) -> BatchState:
    """The state of a batch, from the answer of any provider. One in a state that nobody knows has ended where
    it has results or a time of its end. Raises ProtocolError for what is no batch."""
    job = obj(obj(value).get("job")) or obj(value)
    about = {**job, **obj(job.get("metadata"))} if "id" not in job else job  # Google's operation
    word = string(about.get("status")) or string(about.get("processing_status")) or string(about.get("state"))
    word = re.sub(r"^(batch|job)_state_", "", word.lower())
    id = label(job.get("id")) or label(job.get("name"))
    if not id or not (word or about.get("done")):
        raise ProtocolError(
            "The provider answered something that is no batch.", hint="Check that base_url belongs to it."
        )
    output = obj(about.get("output")) or obj(about.get("response"))
    inlined = obj(output.get("inlinedResponses")).get("inlinedResponses")
    inlined = inlined or about.get("outputs") or about.get("results")
    names = [*(about.get(n) for n in _FILES), output.get("responsesFile")]
    found = BatchState(
        id,
        word,
        word not in _ENDED,
        _total(about),
        tuple(path_id(name) for name in names if name),
        string(about.get("results_url")),
        tuple(items(inlined)),
        tuple(_problems(about)),
    )
    over = word not in _RUNNING and (found.results or any(about.get(name) for name in _TIMES))
    return msgspec.structs.replace(found, running=False) if over else found


_FILES = ("output_file_id", "error_file_id", "output_file", "error_file")


def path_id(name: Any) -> str:
    """The id of a file or a batch. It becomes part of a path, so that it must not lead elsewhere: raises
    ProtocolError for what would."""
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise ProtocolError(
            f"The provider named a file or a batch {str(name)[:80]!r}, which is no id.", hint="Ask again."
        )
    return name


def _total(about: Mapping[str, Any]) -> int | None:
    counts = obj(about.get("request_counts"))
    stats = label(obj(about.get("batchStats")).get("requestCount")) or ""  # Google's numbers are texts
    told = (int(stats) if re.fullmatch("[0-9]{1,19}", stats) else None, about.get("total_requests"))
    rest = sum(count(v) or 0 for v in counts.values()) if counts else None
    return next((n for n in map(count, (*told, counts.get("total"))) if n is not None), rest)


def _problems(about: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    errors = about.get("errors")
    yield from items(errors if isinstance(errors, list) else obj(errors).get("data"))
    if (error := about.get("error")) and isinstance(error, dict | str):
        yield {"message": error} if isinstance(error, str) else error


# --- what came ----------------------------------------------------------------------------------------------

# Google's errors in lines have the numbers of gRPC.
_GRPC = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request: the body of a whole answer, or an error."""

    id: str
    body: Mapping[str, Any] | None = None
    error: NbllmError | None = None

    def events(self, dialect: Dialect, provider: Endpoint) -> list[Event]:
        """The events of the answer, by the dialect's own decoder. Raises the error where that came instead,
        and what the decoder raises."""
        if self.error is not None:
            raise self.error
        decoder = dialect.decoder(provider)
        return [*decoder.feed(Frame(dumps(self.body))), *decoder.close()]


def outcome(value: Any, provider: Endpoint) -> Outcome:
    """What a line of any provider's results says."""
    about = obj(value)
    metadata = obj(about.get("metadata"))
    id = next((string(v) for v in (about.get("custom_id"), about.get("key"), metadata.get("key")) if v), "")
    if "result" in about:
        return _anthropic(id, obj(about["result"]), provider)
    if error := about.get("error"):
        status = _GRPC.get(count(obj(error).get("code")) or 0)
        return Outcome(id, error=provider_error(provider, {"error": error}, status=status))
    response = obj(about.get("response"))
    if "status_code" not in response:
        return Outcome(id, response) if response else _no_reason(id, provider)
    told, body = response["status_code"], obj(response.get("body"))
    status = int(told) if re.fullmatch("[0-9]{3}", string(told)) else count(told) or 0
    if status == 0 or (status < 300 and not body):
        return _no_reason(id, provider)
    if status < 300:
        return Outcome(id, body)
    return Outcome(id, error=provider_error(provider, response.get("body"), status=status))


def _anthropic(id: str, result: Mapping[str, Any], provider: Endpoint) -> Outcome:
    kind, message = string(result.get("type")), obj(result.get("message"))
    if kind == "succeeded" and message:
        return Outcome(id, message)
    if kind == "errored":
        return Outcome(id, error=provider_error(provider, result.get("error")))
    return _no_reason(id, provider) if kind in ("", "succeeded") else ended_without(id, kind, provider)


_HINT = "Ask for this row again."


def ended_without(id: str, state: str, provider: Endpoint) -> Outcome:
    """The outcome of a request that a batch which ended as `state` did not answer."""
    said = f"{provider.label or provider.name} did not answer it: {state[:60]}."
    return Outcome(id, error=ProviderError(said, code=state, hint=_HINT))


def _no_reason(id: str, provider: Endpoint) -> Outcome:
    said = f"{provider.label or provider.name} failed without a reason."
    return Outcome(id, error=ServerError(said, hint=_HINT))


class Collector(msgspec.Struct):
    """Matches the lines of results with the requests of a batch, whatever their order, and knows which are
    missing. strange: how many lines belong to no request, or to one that has its answer; `some` of their
    ids."""

    ids: Iterable[str]
    provider: Endpoint
    strange: int = 0
    some: list[str] = msgspec.field(default_factory=list)
    # by id: whether a line came; in the order of the requests
    _answered: dict[str, bool] = msgspec.field(default_factory=dict)
    _ok: set[str] = msgspec.field(default_factory=set)

    def __post_init__(self) -> None:
        self._answered = dict.fromkeys(self.ids, False)

    def take(self, text: str | bytes) -> Outcome | None:
        """The outcome in a line of a file; None for an empty line, for one that cannot be read, and for one
        that is nobody's. An answer takes the place of an error that came before, never the reverse."""
        if not text.strip():
            return None
        try:
            return self.match(load_json(text))
        except ProtocolError:
            if isinstance(text, bytes):  # an answer with spoilt characters is one
                return self.take(text.decode("utf-8", "replace"))
            self._odd("")
            return None

    def match(self, value: Any) -> Outcome | None:
        """As `take`, of a line that is read already."""
        found = outcome(value, self.provider)
        known = self._answered.get(found.id)
        if known is None or found.id in self._ok or (known and found.error is not None):
            self._odd(found.id)
            return None
        self._answered[found.id] = True
        if found.error is None:
            self._ok.add(found.id)
        return found

    def rest(self, state: str = "") -> Iterator[Outcome]:
        """The requests without a line, as failures, once all files are read. state: how the batch ended."""
        why = "no line in the results" + (f" of a batch that is {state}" if state else "")
        return (ended_without(id, why, self.provider) for id, came in self._answered.items() if not came)

    def _odd(self, id: str) -> None:
        self.strange += 1
        if len(self.some) < _SHOWN:
            self.some.append(id[:64])
