"""Which format answers at which path, and the small questions: model lists, token counts, versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .options import PRESETS, split
from .protocols import (
    Format,
    Refused,
    Request,
    anthropic,
    embeddings,
    gemini,
    ollama,
    openai_chat,
    openai_responses,
)

FORMATS: dict[str, Format] = {f.NAME: f for f in (openai_chat, openai_responses, anthropic, gemini, ollama)}
MODELS = ("sim", *(f"sim-{name}" for name in PRESETS))
CREATED = 1767225600  # 2026-01-01, when the simulated models were "made"

# The end of a path, whatever stands before it, and who answers there.
_ANSWERS: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("/chat/completions",), openai_chat),
    (("/responses",), openai_responses),
    (("/messages",), anthropic),
    ((":generateContent", ":streamGenerateContent"), gemini),
    (("/api/chat", "/api/generate"), ollama),
    (("/embeddings",), embeddings.OPENAI),
    ((":batchEmbedContents",), embeddings.GEMINI),
    (("/api/embed",), embeddings.OLLAMA),
    (("/v2/embed",), embeddings.COHERE),
)


def answering(request: Request) -> Format | None:
    """The format in which a model's answer is asked, None where the request is something else."""
    if request.method != "POST":
        return None
    return next((format for ends, format in _ANSWERS if request.path.endswith(ends)), None)


def speaks(request: Request) -> Format:
    """The format that a request seems to speak, for lists and errors."""
    if "anthropic-version" in request.headers or "/messages" in request.path:
        return anthropic
    if "x-goog-api-key" in request.headers or "/v1beta" in request.path or "key" in request.query:
        return gemini
    return ollama if "/api/" in request.path else openai_chat


def small(request: Request, loaded: Mapping[str, float]) -> Any:
    """The JSON that answers a small question, or a string for plain text. Raises Refused 404 where nothing is
    known."""
    for method, pattern, function in _SMALL:
        found = pattern.match(request.path) if method == request.method else None
        if found:
            return function(request, found, loaded)
    raise Refused(404, f"Unknown request: {request.method} {request.path}")


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "nbllm-simulator"}


_MODEL: dict[str, Callable[[str], dict[str, Any]]] = {
    "anthropic": lambda name: {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
    },
    "gemini": lambda name: {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "description": "Answers of nbllm's simulator.",
        "inputTokenLimit": 1048576,
        "outputTokenLimit": 65536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    },
}


def _models(request: Request, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    which = speaks(request).NAME
    models = [_MODEL.get(which, _openai_model)(name) for name in MODELS]
    if which == "gemini":
        return {"models": models}
    if which == "anthropic":
        return {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return {"object": "list", "data": models}


def _count_gemini(request: Request, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    n = gemini.ask(request).input_tokens
    return {"totalTokens": n, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": n}]}


_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "simulated",
    "families": ["simulated"],
    "parameter_size": "0.0B",
    "quantization_level": "F16",
}


def _ollama_model(name: str) -> dict[str, Any]:
    named = name if ":" in name else f"{name}:latest"
    return {
        "name": named,
        "model": named,
        "modified_at": "2026-01-01T00:00:00Z",
        "size": 0,
        "digest": "0" * 64,
        "details": _DETAILS,
    }


def _ps(request: Request, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    now = datetime.now(UTC)
    until = {name: now + timedelta(seconds=min(left, 3.2e9)) for name, left in loaded.items()}
    return {
        "models": [
            {
                **_ollama_model(n),
                "expires_at": t.isoformat().replace("+00:00", "Z"),
                "size_vram": 0,
                "context_length": 8192,
            }
            for n, t in until.items()
        ]
    }


def _show(request: Request, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    body = request.json()
    name = split(str(body.get("model") or body.get("name") or ""))[0]
    if not name:
        raise Refused(400, "model is required")
    return {
        "license": "",
        "modelfile": f"FROM {name}",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {
            "general.architecture": "simulated",
            "general.parameter_count": 0,
            "simulated.context_length": 8192,
        },
        "capabilities": ["completion", "tools", "thinking", "vision"],
        "modified_at": "2026-01-01T00:00:00Z",
    }


def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"{pattern}\Z", re.DOTALL)


_Small = Callable[[Request, re.Match[str], Mapping[str, float]], Any]
_ROOT = "nbllm simulator is running"
# Each has one place to begin, so that no path costs more than its length.
_SMALL: tuple[tuple[str, re.Pattern[str], _Small], ...] = (
    (
        "POST",
        _ending(r".*/messages/count_tokens"),
        lambda request, *_: {"input_tokens": anthropic.ask(request).input_tokens},
    ),
    ("POST", _ending(r"(?>.*?/models/).+:countTokens"), _count_gemini),
    ("GET", _ending(r".*/models/?"), _models),
    (
        "GET",
        _ending(r"(?>.*?/models/)(.+)"),
        lambda request, found, _: _MODEL.get(speaks(request).NAME, _openai_model)(found[1]),
    ),
    ("GET", _ending(r".*/api/tags"), lambda *_: {"models": [_ollama_model(name) for name in MODELS]}),
    ("GET", _ending(r".*/api/ps"), _ps),
    ("GET", _ending(r".*/api/version"), lambda *_: {"version": "0.0.0-nbllm-simulator"}),
    ("POST", _ending(r".*/api/show"), _show),
    ("GET", _ending("/"), lambda *_: _ROOT),
    ("HEAD", _ending("/"), lambda *_: _ROOT),
)
