"""Embeddings in four formats, as dialects: texts in, one vector for each text out.

The texts are the messages of the request, in their order. `extra` may contain purpose ("document" or "query")
and dimensions, which are sent under other names; the rest of it is merged into the body. The vectors are
encoded as a text, so that they take the same path as every answer: `pack_matrix` writes it, `unpack_matrix`
reads it.

Vectors are validated: those of one answer must have the same length, finite numbers, and indexes from 0 to
n-1, each once, by which they are sorted.
"""

from __future__ import annotations

import base64
import binascii
import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from ..core.calls import Dialect, Endpoint, HttpCall, Secret
from ..core.errors import BadRequest, ContextLengthExceeded, ProtocolError, ProviderError, ServerError
from ..core.events import Event, TextDelta, Usage, UsageReport
from ..core.messages import Request
from ._decoder import BaseDecoder
from ._errors import http_error
from ._json import count, obj
from ._openai import build_post as build_openai_post
from ._request import bearer_header, build_post, google_key_header, url_under, without_none

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, np.dtype[np.float32]]

_FLOAT = "<f4"
Vector = list[float] | str  # numbers, or base64 of float32, the low byte first


# --- the answer as a text ---


def pack_matrix(matrix: Matrix) -> str:
    """A matrix as a text: number of rows, number of columns, and its float32 bytes in base64."""
    rows, size = matrix.shape
    return f"{rows} {size} {base64.b64encode(matrix.astype(_FLOAT).tobytes()).decode()}"


def unpack_matrix(text: str) -> Matrix:
    """The matrix in a text from `pack_matrix`. Raises ProtocolError for any other text."""
    import numpy as np

    try:
        rows, size, data = text.split(" ")
        raw = np.frombuffer(base64.b64decode(data, validate=True), _FLOAT)
        return raw.reshape(int(rows), int(size)).astype(np.float32)
    except (ValueError, TypeError):
        raise ProtocolError("The answer has no embeddings.", hint="Try again without the cache.") from None


def _build_matrix(vectors: Sequence[Vector]) -> Matrix:
    """The vectors as rows of a matrix. Raises ProtocolError if they are not finite numbers of one length."""
    import numpy as np

    if not vectors:
        return np.empty((0, 0), np.float32)
    try:
        rows = [
            np.frombuffer(base64.b64decode(v, validate=True), _FLOAT).astype(np.float32)
            if isinstance(v, str)
            else np.asarray(v, np.float32)
            for v in vectors
        ]
    except (ValueError, binascii.Error):
        raise _invalid_vectors("vectors that are not float32 in base64") from None
    if len({len(row) for row in rows}) != 1 or not len(rows[0]):
        raise _invalid_vectors("vectors that are empty or differ in length")
    matrix = np.stack(rows)
    if not np.isfinite(matrix).all():
        raise _invalid_vectors("numbers that are not finite")
    return matrix


def _invalid_vectors(what: str) -> ProtocolError:
    return ProtocolError(
        f"The provider sent {what}.", hint="Try again, or check that this is an embedding model."
    )


# --- requests ---


def _embedding_options(request: Request) -> tuple[list[str], str, int | None, dict[str, Any]]:
    """(texts, "document" or "query", dimensions, other fields to send)."""
    extra = dict(request.extra)
    purpose, dimensions = extra.pop("purpose", "document"), extra.pop("dimensions", None)
    return [m.text for m in request.messages], purpose, dimensions, extra


def _openai_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """OpenAI's call. base64 needs a quarter of the bytes, but not every compatible server supports it."""
    texts, _, dimensions, extra = _embedding_options(request)
    form = "base64" if row.is_openai else "float"
    body = {"model": request.model, "input": texts, "encoding_format": form, "dimensions": dimensions}
    return build_openai_post(row, "/embeddings", key, body, extra)


def _gemini_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """Gemini's call. gemini-embedding-2 takes no task types; the models before it do."""
    (texts, purpose, dimensions, extra), name = (
        _embedding_options(request),
        request.model.removeprefix("models/"),
    )
    base = row.base_url.rstrip("/")
    base = base if base.rpartition("/")[2].startswith("v1") else f"{base}/v1beta"
    kind = None if name.startswith("gemini-embedding-2") else f"RETRIEVAL_{purpose.upper()}"
    one = without_none({"model": f"models/{name}", "taskType": kind, "outputDimensionality": dimensions})
    body = {"requests": [{**one, "content": {"parts": [{"text": text}]}} for text in texts]}
    return build_post(
        row, f"{base}/models/{quote(name, safe='')}:batchEmbedContents", google_key_header(key), body, extra
    )


def _ollama_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """Ollama's call. truncate is off: a text that is too long is an error, and not cut silently."""
    texts, _, dimensions, extra = _embedding_options(request)
    body = {"model": request.model, "input": texts, "truncate": False, "dimensions": dimensions}
    return build_post(row, url_under(row, "/api", "/embed"), bearer_header(key), body, extra)


def _cohere_call(request: Request, row: Endpoint, key: Secret | None) -> HttpCall:
    """Cohere's call. truncate is off here too; every model since v3 requires input_type."""
    texts, purpose, dimensions, extra = _embedding_options(request)
    body = {
        "model": request.model,
        "texts": texts,
        "input_type": f"search_{purpose}",
        "embedding_types": ["float"],
        "truncate": "NONE",
        "output_dimension": dimensions,
    }
    return build_post(row, url_under(row, "/v2", "/embed"), bearer_header(key), body, extra)


# --- the dialects ---


class Embeddings(msgspec.Struct, frozen=True):
    """One format. vectors_path: the field names that lead to the list of vectors; field: the vector's name in
    an item of the list, "" if items are vectors; usage_path: the field names that lead to the input tokens.
    max_texts, max_tokens: limits of one request, None for no limit; batch_size: default number of texts in
    one request."""

    name: str
    encode: Callable[[Request, Endpoint, Secret | None], HttpCall]
    vectors_path: tuple[str, ...]
    field: str
    usage_path: tuple[str, ...]
    max_texts: int
    batch_size: int
    max_tokens: int | None = None


def _error(status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint) -> ProviderError:
    """The error of an HTTP answer: ContextLengthExceeded if a text, or all together, are too long."""
    error = http_error(status, headers, body, provider)
    if type(error) not in (BadRequest, ServerError) or not re.search(_TOO_LONG, error.message):
        return error
    return ContextLengthExceeded(
        error.message,
        status=error.status,
        type=error.type,
        code=error.code,
        request_id=error.request_id,
        body=error.body,
        hint="Shorten the texts, or choose a model with a larger context.",
    )


# Messages of OpenAI (one text; a whole request), Hugging Face's server, Bedrock, DashScope, NVIDIA, llama.cpp
# and others; and about too many texts or tokens in one request: of Mistral, Azure, DashScope, SiliconFlow,
# Voyage, Zhipu and Cohere.
_TOO_LONG = (
    r"(?i)maximum input length|tokens per (?:submitted batch|request)|maxlength|"
    r"must have less than \d+ (?:tokens|characters)|"
    r"too many (?:input )?tokens|max_sequence_length|maximum allowed token|too large to process|n_ctx|"
    r"too many (?:inputs|texts)|batch size|in one batch|number of (?:texts|inputs)|最大不得超过|"
    r"(?:text|input)s?\b.{0,60}\btoo long"
)


class VectorDecoder(BaseDecoder):
    """Reads the vectors in an answer, which is one JSON object."""

    non_streaming = True

    def __init__(self, format: Embeddings, provider: Endpoint) -> None:
        super().__init__(provider)
        self._format = format

    def _check_format(self, value: Mapping[str, Any]) -> None:
        """Does nothing: an answer without vectors is an error in any case."""

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        """The vectors as one text. Raises ProtocolError for invalid vectors."""
        format = self._format
        vectors = _get_path(value, format.vectors_path)
        try:
            if format.field:
                vectors = _sort_by_index(msgspec.convert(vectors, list[dict[str, Any]]), format.field)
            text = pack_matrix(_build_matrix(msgspec.convert(vectors, list[Vector])))
        except msgspec.ValidationError:
            return
        self.done = self._recognized = True
        *about, _ = format.usage_path
        usage, tokens = (
            obj(_get_path(value, about)) if about else {},
            count(_get_path(value, format.usage_path)),
        )
        yield from self._emit_started(None, value.get("model"))
        yield TextDelta(text)
        yield UsageReport(Usage(input_tokens=tokens, output_tokens=0, raw=usage))


def _get_path(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = obj(value).get(name)
    return value


def _sort_by_index(items: list[dict[str, Any]], field: str) -> list[Any]:
    """The vectors of items, sorted by their indexes if they have any."""
    indexes = [item.get("index") for item in items]
    if any(index is not None for index in indexes):
        if set(indexes) != set(range(len(indexes))):
            raise _invalid_vectors("indexes that are not 0 to n-1, each once")
        items = sorted(items, key=operator.itemgetter("index"))
    return [item.get(field) for item in items]


# Limits, 2026-11: OpenAI's API reference (2,048 texts and 300,000 tokens a request; 256 texts are sent, so
# that a retry costs little); Google's error message ("at most 100 requests can be in one batch"); Cohere's
# reference of v2/embed (96 texts). Ollama names none: it computes texts one after another.
_OPENAI_FORMAT = Embeddings(
    "openai_embeddings",
    _openai_call,
    ("data",),
    "embedding",
    ("usage", "prompt_tokens"),
    *(2048, 256, 300_000),
)
EMBEDDINGS: dict[str, Embeddings] = {
    "openai_chat": _OPENAI_FORMAT,
    "openai_responses": _OPENAI_FORMAT,
    "gemini": Embeddings(
        "gemini_embeddings",
        _gemini_call,
        ("embeddings",),
        "values",
        ("usageMetadata", "promptTokenCount"),
        *(100, 100),
    ),
    "ollama": Embeddings(
        "ollama_embeddings", _ollama_call, ("embeddings",), "", ("prompt_eval_count",), 2048, 64
    ),
    "cohere": Embeddings(
        "cohere_embeddings",
        _cohere_call,
        ("embeddings", "float"),
        "",
        ("meta", "billed_units", "input_tokens"),
        *(96, 96),
    ),
}
EMBEDDERS = {
    f.name: Dialect(f.name, f.encode, functools.partial(VectorDecoder, f), _error)
    for f in EMBEDDINGS.values()
}
