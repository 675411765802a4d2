"""Embeddings in four formats, as dialects: texts in, one vector for each text out.

The texts are the messages of the request, in their order. `extra` may hold purpose ("document" or "query")
and dimensions, which are not sent under these names; the rest of it is merged into the body. The answer is a
text of its own, so that it takes the way of every answer: `packed` writes it, `unpacked` reads it.

Servers are not believed: vectors of one answer have one length, finite numbers, and indexes that are 0 to
n-1, each once; they are put in the order of the indexes.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ..core.calls import Dialect, Endpoint, Frame, HttpCall, Secret
from ..core.errors import BadRequest, ContextLengthExceeded, ProtocolError, ProviderError, ServerError
from ..core.events import Event, Finished, Started, TextDelta, Usage, UsageReport
from ..core.messages import Request
from ._decoder import excerpt, failure, unfinished, values
from ._errors import http_error, provider_error
from ._json import count, obj
from ._openai import post
from ._request import with_query

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, np.dtype[np.float32]]

_FLOAT = "<f4"
Vector = list[float] | str  # numbers, or base64 of float32, the low byte first


# --- the answer as a text ---


def packed(matrix: Matrix) -> str:
    """Rows of float32 as a text: how many, how long, and their bytes in base64."""
    rows, size = matrix.shape
    return f"{rows} {size} {base64.b64encode(matrix.astype(_FLOAT).tobytes()).decode()}"


def unpacked(text: str) -> Matrix:
    """What `packed` wrote. Raises ProtocolError for anything else."""
    import numpy as np

    try:
        rows, size, data = text.split(" ")
        raw = np.frombuffer(base64.b64decode(data, validate=True), _FLOAT)
        return raw.reshape(int(rows), int(size)).astype(np.float32)
    except (ValueError, TypeError):
        raise ProtocolError("The answer holds no embeddings.", hint="Ask again without the cache.") from None


def _matrix(vectors: Sequence[Vector]) -> Matrix:
    """The vectors as rows. Raises ProtocolError where they are no numbers of one length."""
    import numpy as np

    if not vectors:
        return np.empty((0, 0), np.float32)
    try:
        rows = [_numbers(v) if isinstance(v, str) else np.asarray(v, np.float32) for v in vectors]
    except (ValueError, binascii.Error):
        raise _odd("vectors that are no base64 of float32") from None
    if len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise _odd("vectors of different or no length")
    whole = np.stack(rows)
    if not np.isfinite(whole).all():
        raise _odd("numbers that are not finite")
    return whole


def _numbers(text: str) -> Matrix:
    import numpy as np

    return np.frombuffer(base64.b64decode(text, validate=True), _FLOAT).astype(np.float32)


def _odd(what: str) -> ProtocolError:
    return ProtocolError(
        f"The provider sent {what}.", hint="Ask again, or check that the model is one for embeddings."
    )


# --- what the formats send ---


class _Item(msgspec.Struct):
    embedding: Vector
    index: int | None = None


class _OpenAI(msgspec.Struct):
    data: list[_Item]
    model: str | None = None
    usage: dict[str, Any] | None = None


class _Values(msgspec.Struct):
    values: list[float]


class _Gemini(msgspec.Struct):
    embeddings: list[_Values]
    usageMetadata: dict[str, Any] | None = None  # noqa: N815 - the provider's name


class _Ollama(msgspec.Struct):
    embeddings: list[list[float]]
    model: str | None = None
    prompt_eval_count: Any = None


class _Kinds(msgspec.Struct):
    vectors: list[list[float]] = msgspec.field(name="float")


class _Cohere(msgspec.Struct):
    embeddings: _Kinds
    meta: dict[str, Any] | None = None


Read = tuple[Sequence[Vector], "str | None", Mapping[str, Any], "int | None"]


def _openai_read(said: _OpenAI) -> Read:
    usage = said.usage or {}
    places = [item.index for item in said.data]
    found: Sequence[_Item] = said.data
    if any(place is not None for place in places):
        if set(places) != set(range(len(places))):
            raise _odd("indexes that are not 0 to n-1, each once")
        found = sorted(said.data, key=lambda item: item.index or 0)
    return [item.embedding for item in found], said.model, usage, count(usage.get("prompt_tokens"))


def _gemini_read(said: _Gemini) -> Read:
    usage = said.usageMetadata or {}
    return [v.values for v in said.embeddings], None, usage, count(usage.get("promptTokenCount"))


def _ollama_read(said: _Ollama) -> Read:
    return said.embeddings, said.model, {}, count(said.prompt_eval_count)


def _cohere_read(said: _Cohere) -> Read:
    billed = obj(obj(said.meta).get("billed_units"))
    return said.embeddings.vectors, None, billed, count(billed.get("input_tokens"))


# --- what is asked ---


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request's parts. purpose: document or query."""

    texts: list[str]
    purpose: str
    dimensions: int | None
    extra: dict[str, Any]


def _asked(request: Request) -> _Asked:
    extra = dict(request.extra)
    purpose, dimensions = extra.pop("purpose", "document"), extra.pop("dimensions", None)
    return _Asked([m.text for m in request.messages], purpose, dimensions, extra)


def _openai_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """base64 is a quarter of the bytes, but not every compatible server knows it."""
    asked = _asked(request)
    body = {
        "model": request.model,
        "input": asked.texts,
        "encoding_format": "base64" if row.is_openai else "float",
        "dimensions": asked.dimensions,
    }
    return post(row, "/embeddings", key, body, asked.extra)


def _gemini_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """gemini-embedding-2 takes no task types; the models before it do."""
    asked, name = _asked(request), request.model.removeprefix("models/")
    base = row.base_url.rstrip("/")
    base = base if base.rpartition("/")[2].startswith("v1") else f"{base}/v1beta"
    one: dict[str, Any] = {"model": f"models/{name}"}
    if not name.startswith("gemini-embedding-2"):
        one["taskType"] = f"RETRIEVAL_{asked.purpose.upper()}"
    if asked.dimensions is not None:
        one["outputDimensionality"] = asked.dimensions
    requests = [{**one, "content": {"parts": [{"text": text}]}} for text in asked.texts]
    headers = {"x-goog-api-key": key.reveal()} if key is not None else {}
    url = with_query(f"{base}/models/{quote(name, safe='')}:batchEmbedContents", row)
    return HttpCall(url, {**headers, **row.headers}, {"requests": requests, **asked.extra})


def _ollama_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """truncate is off: a text that does not fit is an error, not half a text."""
    asked = _asked(request)
    body: dict[str, Any] = {"model": request.model, "input": asked.texts, "truncate": False}
    body |= {"dimensions": asked.dimensions} if asked.dimensions is not None else {}
    return _bearer(row, key, row.base_url.rstrip("/").removesuffix("/api") + "/api/embed", body, asked)


def _cohere_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """truncate is off here too; input_type is wanted by every model since v3."""
    asked = _asked(request)
    body: dict[str, Any] = {
        "model": request.model,
        "texts": asked.texts,
        "input_type": f"search_{asked.purpose}",
        "embedding_types": ["float"],
        "truncate": "NONE",
    }
    body |= {"output_dimension": asked.dimensions} if asked.dimensions is not None else {}
    return _bearer(row, key, row.base_url.rstrip("/").removesuffix("/v2") + "/v2/embed", body, asked)


def _bearer(row: Endpoint, key: Secret | None, url: str, body: dict[str, Any], asked: _Asked) -> HttpCall:
    headers = {"Authorization": f"Bearer {key.reveal()}"} if key is not None else {}
    url = with_query(url, row)
    return HttpCall(url, {**headers, **row.headers}, {**body, **asked.extra})


# --- the dialects ---


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One format. most: texts of one request; tokens: those of all its texts, None for no limit; batch: texts
    that are sent in one where nobody chooses."""

    name: str
    shape: type[msgspec.Struct]
    encode: Callable[[Request, Endpoint, Secret | None], HttpCall]
    read: Callable[[Any], Read]
    most: int
    batch: int
    tokens: int | None = None


def _error(status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint) -> ProviderError:
    """ContextLengthExceeded where a text, or all of them, are too long."""
    said = http_error(status, headers, body, provider)
    if type(said) not in (BadRequest, ServerError) or not _TOO_LONG.search(said.message):
        return said
    return ContextLengthExceeded(
        said.message,
        status=said.status,
        type=said.type,
        code=said.code,
        request_id=said.request_id,
        body=said.body,
        hint="Shorten the texts, or choose a model that reads more.",
    )


# As OpenAI (a text; all of a request), Hugging Face's server, Bedrock, DashScope, NVIDIA, llama.cpp and
# others say it.
_TOO_LONG = re.compile(
    r"maximum input length|tokens per request|must have less than \d+ (?:tokens|characters)|"
    r"too many input tokens|max_sequence_length|maximum allowed token|too large to process|"
    r"maxlength|(?:text|input)s?\b.{0,60}\btoo long",
    re.IGNORECASE,
)


class VectorDecoder:
    """Reads an answer, which is one JSON object."""

    whole = True

    def __init__(self, format: Embeddings, provider: Endpoint) -> None:
        self.done = False
        self._format, self._provider, self._said = format, provider, ""

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The vectors as one text. Raises ProviderError for an error, ProtocolError for anything else."""
        self._said = self._said or excerpt(frame)
        try:
            said = msgspec.json.decode(frame.data, type=self._format.shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            for value in values(frame, self._provider):
                if value is not None and (problem := failure(value, frame.name)) is not None:
                    raise provider_error(self._provider, problem) from None
            return
        vectors, model, usage, tokens = self._format.read(said)
        text = packed(_matrix(vectors))
        self.done = True
        yield Started(model=model)
        yield TextDelta(text)
        yield UsageReport(Usage(input_tokens=tokens, output_tokens=0, raw=usage))
        yield Finished("stop")

    def close(self) -> Iterator[Event]:
        """Raises where no vectors came."""
        if not self.done:
            raise unfinished(self._provider, self._said, known=False)
        return iter(())


# Limits, 2026-11: OpenAI's API reference (2,048 texts and 300,000 tokens a request; 256 are asked, so that a
# retry costs little); Google's own refusal ("at most 100 requests can be in one batch"); Cohere's reference
# of v2/embed (96 texts). Ollama names none: its texts are computed one after another.
_OPENAI_FORMAT = Embeddings("openai_embeddings", _OpenAI, _openai_call, _openai_read, 2048, 256, 300_000)
EMBEDDINGS: dict[str, Embeddings] = {
    "openai_chat": _OPENAI_FORMAT,
    "openai_responses": _OPENAI_FORMAT,
    "gemini": Embeddings("gemini_embeddings", _Gemini, _gemini_call, _gemini_read, 100, 100),
    "ollama": Embeddings("ollama_embeddings", _Ollama, _ollama_call, _ollama_read, 2048, 64),
    "cohere": Embeddings("cohere_embeddings", _Cohere, _cohere_call, _cohere_read, 96, 96),
}
EMBEDDERS = {
    f.name: Dialect(f.name, f.encode, functools.partial(VectorDecoder, f), _error)
    for f in EMBEDDINGS.values()
}
