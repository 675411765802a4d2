"""Batches: many requests submitted at once, answered within a day at half the price.

Eight providers use three shapes: `file` (upload a file of requests, create a batch from it, read two files of
results), `inline` (the requests are in the call that creates the batch) and `job` (a file, with the model
outside it). A request line is what the dialect would have sent, without streaming, under an id of ours; a
result line is a complete answer, which the dialect's own decoder reads as one frame.

Order and number of results are not relied on: they come shuffled, in two files, some twice, some never. A
Collector matches them by id and reports the missing ones.
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
_MARGIN = 0.95  # of the bytes that a provider allows: its count may include more than ours
_CUSTOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROVIDER_ID = re.compile(r"(?:files/|batches/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_STREAM_FIELDS = frozenset({"stream", "stream_options"})
# Characters inside JSON strings that some text readers take for the end of a line.
_LINE_BREAKS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
_MAX_UNMATCHED_IDS = 5  # stored for a message


class BatchFormat(msgspec.Struct, frozen=True):
    """The batch format of one provider. max_requests, max_bytes: limits of one batch. creation: what a batch
    is created from (an uploaded file, requests in the call, requests after their common fields, a file sent
    by Google's resumable upload, a job over files). id_field, body_field: names in a request line;
    names_endpoint: the line also has method and path; omitted_fields: fields of the body that are sent
    elsewhere or not at all. path: of batches; upload_path: of files, which are uploaded for `purpose`.
    known_by: how a batch of ours is recognised in the list: by metadata, its name, its file's name, or its
    first result. size_param, page_param: query parameters of the list; cancel_suffix: what is appended to a
    batch's path to cancel it, "" if that is not possible."""

    shape: Literal["file", "inline", "job"]
    max_requests: int
    max_bytes: int
    creation: Literal["file", "requests", "described", "resumable", "job"] = "file"
    id_field: str = "custom_id"
    body_field: str = "body"
    names_endpoint: bool = False
    omitted_fields: frozenset[str] = _STREAM_FIELDS
    path: str = "/batches"
    upload_path: str = "/files"
    purpose: str = "batch"
    known_by: Literal["metadata", "name", "file", "result"] = "metadata"
    size_param: str = "limit=100"
    page_param: str = "after"
    cancel_suffix: str = "/cancel"


# By the name that a row of providers.toml has in `batch`.
FORMATS: Mapping[str, BatchFormat] = {
    "openai": BatchFormat("file", 50_000, 200 * _MB, names_endpoint=True),  # Azure too
    "groq": BatchFormat("file", 50_000, 100 * _MB, names_endpoint=True),
    "together": BatchFormat(
        "file", 50_000, 100 * _MB, upload_path="/files/upload", purpose="batch-api", known_by="file"
    ),
    "anthropic": BatchFormat(
        "inline",
        *(100_000, 256 * _MB),
        "requests",
        body_field="params",
        path="/v1/messages/batches",
        known_by="result",
        page_param="after_id",
    ),
    # OpenRouter documents no limits: these are the smallest of the others.
    "openrouter": BatchFormat(
        "inline", 50_000, 100 * _MB, "described", known_by="result", page_param="cursor", cancel_suffix=""
    ),
    "gemini": BatchFormat(
        "job",
        *(50_000, 2_000 * _MB),
        "resumable",
        id_field="key",
        body_field="request",
        known_by="name",
        size_param="pageSize=100",
        page_param="pageToken",
        cancel_suffix=":cancel",
    ),
    "mistral": BatchFormat(
        "job",
        *(100_000, 512 * _MB),
        "job",
        omitted_fields=_STREAM_FIELDS | {"model"},
        path="/batch/jobs",
        size_param="page_size=100",
        page_param="page",
    ),
}


def custom_id(run: str, row: int | str) -> str:
    """The id of a row's line, `{run}_{row}`. Raises ConfigError for an id that providers would refuse."""
    id = f"{run}_{row}"
    if not _CUSTOM_ID.fullmatch(id):
        raise ConfigError(
            f"{id[:80]!r} cannot be the id of a request in a batch.",
            hint="Use at most 64 characters: letters, digits, _ and -.",
        )
    return id


def request_line(format: BatchFormat, id: str, call: HttpCall) -> str:
    """The request line for `call`: its body without streaming, under `id`; with no line break at its end."""
    body = {name: value for name, value in call.body.items() if name not in format.omitted_fields}
    head: dict[str, Any] = {format.id_field: id}
    if format.names_endpoint:
        head |= {"method": "POST", "url": batch_endpoint(call)}
    return dumps({**head, format.body_field: body}).translate(_LINE_BREAKS)


def batch_endpoint(call: HttpCall) -> str:
    """The endpoint of a batch of such calls. Raises ConfigError for calls that cannot be sent as a batch."""
    path = urlsplit(call.url).path
    found = next((end for end in ("/chat/completions", "/responses") if path.endswith(end)), None)
    if found is None:
        raise ConfigError(
            "This call cannot be sent in a batch.", hint='Leave mode="batch" out, or ask another provider.'
        )
    return "/v1" + found


def split_lines(
    format: BatchFormat, sizes: Sequence[int], tokens: Sequence[int] = (), enqueued: int | None = None
) -> Iterator[range]:
    """Ranges of lines that go into one batch each, in order, within the format's limits of requests and bytes
    and, if given, of `enqueued` prompt tokens. sizes: bytes of each line; tokens: of each prompt.

    Raises ConfigError for a line that is too large for any batch.
    """
    max_bytes = int(format.max_bytes * _MARGIN)
    start = weight = load = 0
    for at, size in enumerate(sizes):
        own, cost = size + 1, tokens[at] if enqueued is not None and tokens else 0  # 1: the line break
        if own > max_bytes or (enqueued is not None and cost > enqueued):
            raise ConfigError(
                f"Row {at} is too large for a batch: {size:,} bytes, {cost:,} tokens.",
                hint='Shorten it, or leave mode="batch" out.',
            )
        full = at - start >= format.max_requests or weight + own > max_bytes
        if full or (enqueued is not None and load + cost > enqueued):
            yield range(start, at)
            start, weight, load = at, 0, 0
        weight, load = weight + own, load + cost
    if start < len(sizes):
        yield range(start, len(sizes))


# --- state --------------------------------------------------------------------------------------------------

_RUNNING_STATES = {
    *("validating", "in_progress", "finalizing", "cancelling", "canceling", "pending", "queued", "running"),
    *("updating", "paused", "cancellation_requested"),
}
_ENDED_STATES = {
    *("completed", "expired", "cancelled", "canceled", "failed", "ended", "succeeded", "success"),
    *("partially_succeeded", "timeout_exceeded"),
}
_END_FIELDS = ("completed_at", "failed_at", "expired_at", "cancelled_at", "ended_at", "endTime", "done")


class BatchState(msgspec.Struct, frozen=True):
    """The state of a batch. state: the provider's word, in lower case, without Google's prefixes. files: ids
    of result files, all of which must be read; url: an untrusted address of results; inline: the results
    themselves. problems: why the batch failed, each {code: ..., message: ...}."""

    id: str
    state: str
    running: bool
    total: int | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    inline: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[Mapping[str, Any], ...] = ()

    @property
    def has_results(self) -> bool:
        """Whether there are results to read. An expired or cancelled batch may have some too."""
        return bool(self.files or self.url or self.inline)

    @property
    def exceeds_token_limit(self) -> bool:
        """Whether it was refused because too many tokens are enqueued: send it later, or in halves."""
        messages = [f"{p.get('code')} {p.get('message')}".lower() for p in self.problems]
        return any("token_limit_exceeded" in m or "enqueued token" in m for m in messages)


def parse_state(value: Any) -> BatchState:
    """The state of a batch, from the answer of any provider. A batch in an unknown state has ended if it has
    results or an end time. Raises ProtocolError for an answer that is not a batch."""
    job = obj(obj(value).get("job")) or obj(value)
    about = {**job, **obj(job.get("metadata"))} if "id" not in job else job  # Google's operation
    state = (
        string(about.get("status")) or string(about.get("processing_status")) or string(about.get("state"))
    )
    state = re.sub(r"^(batch|job)_state_", "", state.lower())
    id = label(job.get("id")) or label(job.get("name"))
    if not id or not (state or about.get("done")):
        raise ProtocolError(
            "The provider's answer is not a batch.", hint="Check that base_url belongs to this provider."
        )
    output = obj(about.get("output")) or obj(about.get("response"))
    inlined = obj(output.get("inlinedResponses")).get("inlinedResponses")
    inlined = inlined or about.get("outputs") or about.get("results")
    names = [*(about.get(n) for n in _FILE_FIELDS), output.get("responsesFile")]
    found = BatchState(
        id,
        state,
        state not in _ENDED_STATES,
        _total(about),
        tuple(check_id(name) for name in names if name),
        string(about.get("results_url")),
        tuple(items(inlined)),
        tuple(_failure_reasons(about)),
    )
    has_ended = state not in _RUNNING_STATES and (
        found.has_results or any(about.get(name) for name in _END_FIELDS)
    )
    return msgspec.structs.replace(found, running=False) if has_ended else found


_FILE_FIELDS = ("output_file_id", "error_file_id", "output_file", "error_file")


def check_id(name: Any) -> str:
    """`name`, the id of a file or a batch. It becomes part of a path: raises ProtocolError for an id that
    would lead elsewhere."""
    if not isinstance(name, str) or not _PROVIDER_ID.fullmatch(name):
        raise ProtocolError(
            f"The provider sent an invalid id of a file or a batch: {str(name)[:80]!r}.", hint="Try again."
        )
    return name


def _total(about: Mapping[str, Any]) -> int | None:
    counts = obj(about.get("request_counts"))
    stats = label(obj(about.get("batchStats")).get("requestCount")) or ""  # Google's numbers are texts
    totals = (int(stats) if re.fullmatch("[0-9]{1,19}", stats) else None, about.get("total_requests"))
    rest = sum(count(v) or 0 for v in counts.values()) if counts else None
    return next((n for n in map(count, (*totals, counts.get("total"))) if n is not None), rest)


def _failure_reasons(about: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    errors = about.get("errors")
    yield from items(errors if isinstance(errors, list) else obj(errors).get("data"))
    if (error := about.get("error")) and isinstance(error, dict | str):
        yield {"message": error} if isinstance(error, str) else error


# --- results ------------------------------------------------------------------------------------------------

# Google's errors in result lines have gRPC codes; the HTTP status for each.
_HTTP_BY_GRPC = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one request: the body of a complete answer, or an error."""

    id: str
    body: Mapping[str, Any] | None = None
    error: NbllmError | None = None

    def events(self, dialect: Dialect, provider: Endpoint) -> list[Event]:
        """The events of the answer, from the dialect's own decoder. Raises the error of a failed request, and
        whatever the decoder raises."""
        if self.error is not None:
            raise self.error
        decoder = dialect.decoder(provider)
        return [*decoder.feed(Frame(dumps(self.body))), *decoder.close()]


def parse_outcome(value: Any, provider: Endpoint) -> Outcome:
    """The outcome in a result line of any provider."""
    about = obj(value)
    metadata = obj(about.get("metadata"))
    id = next((string(v) for v in (about.get("custom_id"), about.get("key"), metadata.get("key")) if v), "")
    if "result" in about:
        return _anthropic_outcome(id, obj(about["result"]), provider)
    if error := about.get("error"):
        status = _HTTP_BY_GRPC.get(count(obj(error).get("code")) or 0)
        return Outcome(id, error=provider_error(provider, {"error": error}, status=status))
    response = obj(about.get("response"))
    if "status_code" not in response:
        return Outcome(id, response) if response else _unexplained_failure(id, provider)
    code, body = response["status_code"], obj(response.get("body"))
    status = int(code) if re.fullmatch("[0-9]{3}", string(code)) else count(code) or 0
    if status == 0 or (status < 300 and not body):
        return _unexplained_failure(id, provider)
    if status < 300:
        return Outcome(id, body)
    return Outcome(id, error=provider_error(provider, response.get("body"), status=status))


def _anthropic_outcome(id: str, result: Mapping[str, Any], provider: Endpoint) -> Outcome:
    kind, message = string(result.get("type")), obj(result.get("message"))
    if kind == "succeeded" and message:
        return Outcome(id, message)
    if kind == "errored":
        return Outcome(id, error=provider_error(provider, result.get("error")))
    return (
        _unexplained_failure(id, provider)
        if kind in ("", "succeeded")
        else unanswered_outcome(id, kind, provider)
    )


_HINT = "Run this row again."


def unanswered_outcome(id: str, state: str, provider: Endpoint) -> Outcome:
    """The outcome of a request without an answer, in a batch that ended as `state`."""
    message = f"{provider.label or provider.name} did not answer this request: {state[:60]}."
    return Outcome(id, error=ProviderError(message, code=state, hint=_HINT))


def _unexplained_failure(id: str, provider: Endpoint) -> Outcome:
    message = f"{provider.label or provider.name} failed without a reason."
    return Outcome(id, error=ServerError(message, hint=_HINT))


class Collector(msgspec.Struct):
    """Matches result lines with the requests of a batch, in any order, and knows which are missing.
    unmatched: number of lines that belong to no request, or to one that has its answer; unmatched_ids: some
    of their ids."""

    ids: Iterable[str]
    provider: Endpoint
    unmatched: int = 0
    unmatched_ids: list[str] = msgspec.field(default_factory=list)
    # by id: whether a line came; in the order of the requests
    _answered: dict[str, bool] = msgspec.field(default_factory=dict)
    _ok: set[str] = msgspec.field(default_factory=set)

    def __post_init__(self) -> None:
        self._answered = dict.fromkeys(self.ids, False)

    def parse_line(self, text: str | bytes) -> Outcome | None:
        """The outcome in a line of a result file; None for a line that is empty, unreadable or unmatched. An
        answer replaces an earlier error, never the reverse."""
        if not text.strip():
            return None
        try:
            return self.match_value(load_json(text))
        except ProtocolError:
            if isinstance(text, bytes):  # may be an answer with invalid characters
                return self.parse_line(text.decode("utf-8", "replace"))
            self._count_unmatched("")
            return None

    def match_value(self, value: Any) -> Outcome | None:
        """As `parse_line`, for a line that is decoded already."""
        found = parse_outcome(value, self.provider)
        known = self._answered.get(found.id)
        if known is None or found.id in self._ok or (known and found.error is not None):
            self._count_unmatched(found.id)
            return None
        self._answered[found.id] = True
        if found.error is None:
            self._ok.add(found.id)
        return found

    def missing(self, state: str = "") -> Iterator[Outcome]:
        """Failures for all requests without a result line; call it after all files were read. state: of the
        batch."""
        why = "no line in the results" + (f" of a batch that is {state}" if state else "")
        return (unanswered_outcome(id, why, self.provider) for id, came in self._answered.items() if not came)

    def _count_unmatched(self, id: str) -> None:
        self.unmatched += 1
        if len(self.unmatched_ids) < _MAX_UNMATCHED_IDS:
            self.unmatched_ids.append(id[:64])
