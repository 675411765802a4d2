"""Embeddings as OpenAI, Gemini, Ollama and Cohere send them. A vector is made of its text's words, so that
texts that share words are near each other; the same text always gives the same vector."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..normalized_request import Ask
from ..plan import Out, Reply
from ..text import words
from . import Format, Refused, Request, gemini, listed, ollama, openai_chat, said

SIZE, LARGEST = 256, 4096  # numbers in a vector where none is asked for, and at most
_MARKS = 4  # places that a word has in a vector


def vector(text: str, size: int) -> list[float]:
    """The vector of a text, of length 1."""
    found = [0.0] * size
    for word in {w.removesuffix("s") or w for w in words(text)} or {text}:
        for mark in range(_MARKS):
            place = zlib.crc32(f"{mark} {word}".encode(errors="replace"))
            found[place // 2 % size] += 1.0 if place % 2 else -1.0
    length = math.sqrt(sum(x * x for x in found))
    return [x / length for x in found] if length else [1.0, *found[1:]]


Asked = tuple[str, list[Any], Any]  # model, texts, size


def _openai(request: Request) -> Asked:
    body = request.json()
    return body.get("model", ""), list(listed(body.get("input"))), body.get("dimensions")


def _gemini(request: Request) -> Asked:
    body = request.json()
    name = request.path.rpartition("/models/")[2].rpartition(":")[0]
    asked = body.get("requests") or []
    size = next((r.get("outputDimensionality") for r in asked), None)
    return name, [said(r.get("content")) for r in asked], size


def _cohere(request: Request) -> Asked:
    body = request.json()
    if body.get("input_type") is None:
        raise Refused(400, "invalid request: input_type is required")
    return body.get("model", ""), list(listed(body.get("texts"))), body.get("output_dimension")


def _openai_whole(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    packs = reply.ask.extra["body"].get("encoding_format") == "base64"

    def shown(v: list[float]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() if packs else v

    data = [{"object": "embedding", "index": i, "embedding": shown(v)} for i, v in enumerate(vectors)]
    usage = {"prompt_tokens": reply.input, "total_tokens": reply.input}
    return {"object": "list", "data": data, "model": reply.ask.model.partition("@")[0], "usage": usage}


def _gemini_whole(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    return {
        "embeddings": [{"values": v} for v in vectors],
        "usageMetadata": {"promptTokenCount": reply.input},
    }


def _ollama_whole(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    model, ns = reply.ask.model.partition("@")[0], round(reply.start * 1e9)
    counts = {"total_duration": ns, "load_duration": 0, "prompt_eval_count": reply.input}
    return {"model": model, "embeddings": vectors, **counts}


def _cohere_whole(reply: Reply, vectors: list[list[float]]) -> Mapping[str, Any]:
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": reply.input}}
    return {
        "id": reply.id,
        "embeddings": {"float": vectors},
        "texts": reply.ask.extra["texts"],
        "meta": meta,
        "response_type": "embeddings_by_type",
    }


@dataclass(slots=True)
class Vectors:
    """One format: how it asks, how it answers, and what it refuses. chat: the format whose errors and headers
    it shares; most: texts of one request; full: the words for more; hollow: for an empty text."""

    NAME: str
    chat: Format
    asked: Callable[[Request], Asked]
    answer: Callable[[Reply, list[list[float]]], Mapping[str, Any]]
    most: int
    full: str
    hollow: str = ""
    ID: str = "embd-"
    PING: bytes = b""

    def ask(self, request: Request) -> Ask:
        """What the request asks. Raises Refused."""
        model, texts, size = self.asked(request)
        if not isinstance(model, str) or not model or not all(isinstance(t, str) for t in texts):
            raise Refused(400, "model and input are required")
        if len(texts) > self.most:
            raise Refused(400, self.full)
        if self.hollow and not all(texts):
            raise Refused(400, self.hollow)
        size = size if isinstance(size, int) and 0 < size <= LARGEST else SIZE
        turns = tuple(("user", text) for text in texts)
        extra = {"texts": texts, "size": size, "body": request.json()}
        return Ask(model, turns, max_tokens=1, report=False, extra=extra)

    def whole(self, reply: Reply) -> Mapping[str, Any]:
        """The vectors."""
        return self.answer(reply, [vector(t, reply.ask.extra["size"]) for t in reply.ask.extra["texts"]])

    def media(self, ask: Ask) -> str:
        """JSON: nothing is streamed."""
        return "application/json"

    def stream(self, reply: Reply) -> Iterator[Out]:
        """Nothing is streamed."""
        return iter(())

    def broken(self, reply: Reply, at: float, sent: int) -> Iterator[Out]:
        """Nothing is streamed."""
        return iter(())

    def error(self, refused: Refused, request_id: str) -> Any:
        """As the format's chat; Cohere's is a message alone."""
        told = self.chat.error(refused, request_id)
        return {"id": request_id, "message": told["error"]["message"]} if self.NAME == "cohere" else told

    def headers(self, id: str, seconds: float) -> Mapping[str, str]:
        """As the format's chat."""
        return self.chat.headers(id, seconds)


OPENAI = Vectors(
    "openai_chat",
    openai_chat,
    _openai,
    _openai_whole,
    2048,
    "Invalid 'input': maximum array length is 2048.",
    "Invalid 'input': input cannot be an empty string.",
)
GEMINI = Vectors(
    "gemini",
    gemini,
    _gemini,
    _gemini_whole,
    100,
    "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
    "* EmbedContentRequest.content: content is empty",
)
OLLAMA = Vectors("ollama", ollama, _openai, _ollama_whole, 1 << 20, "")
COHERE = Vectors(
    "cohere",
    openai_chat,
    _cohere,
    _cohere_whole,
    96,
    "invalid request: total number of texts must be at most 96",
    "invalid request: all texts must be non-empty",
)
