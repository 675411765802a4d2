"""Embeddings in the formats of OpenAI, Gemini, Ollama and Cohere. A vector is computed from the words of its
text, so that texts with common words are similar; the same text always gives the same vector."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..normalized_request import NormalizedRequest
from ..plan import Reply, WireEvent
from ..text import lowercase_words
from . import ApiError, Format, HttpRequest, as_tuple, content_text, gemini, ollama, openai_chat

SIZE, MAX_SIZE = 256, 4096  # dimensions: the default, the maximum
_HASHES = 4  # dimensions that a word contributes to


def vector(text: str, size: int) -> list[float]:
    """The unit vector of a text."""
    values = [0.0] * size
    for word in {w.removesuffix("s") or w for w in lowercase_words(text)} or {text}:
        for hash_index in range(_HASHES):
            position = zlib.crc32(f"{hash_index} {word}".encode(errors="replace"))
            values[position // 2 % size] += 1.0 if position % 2 else -1.0
    length = math.sqrt(sum(x * x for x in values))
    return [x / length for x in values] if length else [1.0, *values[1:]]


EmbeddingRequest = tuple[str, list[Any], Any]  # model, texts, size


def _parse_openai(request: HttpRequest) -> EmbeddingRequest:
    body = request.json()
    return body.get("model", ""), list(as_tuple(body.get("input"))), body.get("dimensions")


def _parse_gemini(request: HttpRequest) -> EmbeddingRequest:
    body = request.json()
    name = request.path.rpartition("/models/")[2].rpartition(":")[0]
    parse = body.get("requests") or []
    size = next((r.get("outputDimensionality") for r in parse), None)
    return name, [content_text(r.get("content")) for r in parse], size


def _parse_cohere(request: HttpRequest) -> EmbeddingRequest:
    body = request.json()
    if body.get("input_type") is None:
        raise ApiError(400, "invalid request: input_type is required")
    return body.get("model", ""), list(as_tuple(body.get("texts"))), body.get("output_dimension")


def _openai_body(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    is_base64 = reply.request.extra["body"].get("encoding_format") == "base64"

    def encode_vector(v: list[float]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() if is_base64 else v

    data = [{"object": "embedding", "index": i, "embedding": encode_vector(v)} for i, v in enumerate(vectors)]
    usage = {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens}
    return {"object": "list", "data": data, "model": reply.request.model.partition("@")[0], "usage": usage}


def _gemini_body(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    return {
        "embeddings": [{"values": v} for v in vectors],
        "usageMetadata": {"promptTokenCount": reply.input_tokens},
    }


def _ollama_body(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    model, ns = reply.request.model.partition("@")[0], round(reply.start_at * 1e9)
    counts = {"total_duration": ns, "load_duration": 0, "prompt_eval_count": reply.input_tokens}
    return {"model": model, "embeddings": vectors, **counts}


def _cohere_body(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": reply.input_tokens}}
    return {
        "id": reply.id,
        "embeddings": {"float": vectors},
        "texts": reply.request.extra["texts"],
        "meta": meta,
        "response_type": "embeddings_by_type",
    }


@dataclass(slots=True)
class EmbeddingsFormat:
    """One embeddings format. chat: the format whose errors and headers it shares; max_texts: texts in one
    request; too_many_message: the error for more; empty_message: the error for an empty text, "" if
    allowed."""

    NAME: str
    chat: Format
    parse: Callable[[HttpRequest], EmbeddingRequest]
    build_body: Callable[[Reply, list[list[float]]], Mapping[str, Any]]
    max_texts: int
    too_many_message: str
    empty_message: str = ""
    ID: str = "embd-"
    PING: bytes = b""

    def parse_request(self, request: HttpRequest) -> NormalizedRequest:
        """Parses a request. Raises ApiError."""
        model, texts, size = self.parse(request)
        if not isinstance(model, str) or not model or not all(isinstance(t, str) for t in texts):
            raise ApiError(400, "model and input are required")
        if len(texts) > self.max_texts:
            raise ApiError(400, self.too_many_message)
        if self.empty_message and not all(texts):
            raise ApiError(400, self.empty_message)
        size = size if isinstance(size, int) and 0 < size <= MAX_SIZE else SIZE
        turns = tuple(("user", text) for text in texts)
        extra = {"texts": texts, "size": size, "body": request.json()}
        return NormalizedRequest(model, turns, max_tokens=1, include_usage=False, extra=extra)

    def full_body(self, reply: Reply) -> Mapping[str, Any]:
        """The vectors."""
        return self.build_body(
            reply, [vector(t, reply.request.extra["size"]) for t in reply.request.extra["texts"]]
        )

    def content_type(self, request: NormalizedRequest) -> str:
        """JSON; embeddings do not stream."""
        return "application/json"

    def stream(self, reply: Reply) -> Iterator[WireEvent]:
        """Embeddings do not stream."""
        return iter(())

    def error_events(self, reply: Reply, at: float, sent: int) -> Iterator[WireEvent]:
        """Embeddings do not stream."""
        return iter(())

    def error_body(self, error: ApiError, request_id: str) -> Any:
        """The chat format's error; Cohere's has only a message."""
        body = self.chat.error_body(error, request_id)
        return {"id": request_id, "message": body["error"]["message"]} if self.NAME == "cohere" else body

    def headers(self, id: str, seconds: float) -> Mapping[str, str]:
        """The chat format's headers."""
        return self.chat.headers(id, seconds)


OPENAI = EmbeddingsFormat(
    "openai_chat",
    openai_chat,
    _parse_openai,
    _openai_body,
    2048,
    "Invalid 'input': maximum array length is 2048.",
    "Invalid 'input': input cannot be an empty string.",
)
GEMINI = EmbeddingsFormat(
    "gemini",
    gemini,
    _parse_gemini,
    _gemini_body,
    100,
    "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
    "* EmbedContentRequest.content: content is empty",
)
OLLAMA = EmbeddingsFormat("ollama", ollama, _parse_openai, _ollama_body, 1 << 20, "")
COHERE = EmbeddingsFormat(
    "cohere",
    openai_chat,
    _parse_cohere,
    _cohere_body,
    96,
    "invalid request: total number of texts must be at most 96",
    "invalid request: all texts must be non-empty",
)
