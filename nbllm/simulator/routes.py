"""Maps paths to wire formats, and answers metadata requests: model lists, token counts, versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .options import PRESETS, split_model
from .protocols import (
    ApiError,
    Format,
    HttpRequest,
    anthropic,
    embeddings,
    gemini,
    ollama,
    openai_chat,
    openai_responses,
)

FORMATS: dict[str, Format] = {f.NAME: f for f in (openai_chat, openai_responses, anthropic, gemini, ollama)}
MODELS = ("sim", *(f"sim-{name}" for name in PRESETS))
CREATED = 1767225600  # 2026-01-01: the creation date of the simulated models

# The endings of a path, with any prefix, and the format that answers.
_MODEL_ROUTES: tuple[tuple[tuple[str, ...], Format], ...] = (
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


def find_format(request: HttpRequest) -> Format | None:
    """The format of a request for a model's answer, None for any other request."""
    if request.method != "POST":
        return None
    return next((format for ends, format in _MODEL_ROUTES if request.path.endswith(ends)), None)


def guess_format(request: HttpRequest) -> Format:
    """The likely format of a request, for lists and errors."""
    if "anthropic-version" in request.headers or "/messages" in request.path:
        return anthropic
    if "x-goog-api-key" in request.headers or "/v1beta" in request.path or "key" in request.query:
        return gemini
    return ollama if "/api/" in request.path else openai_chat


def metadata_body(request: HttpRequest, loaded: Mapping[str, float]) -> Any:
    """The JSON body for a metadata request, or a string for plain text. loaded: seconds until each loaded
    model is unloaded. Raises ApiError 404 for an unknown path."""
    for method, pattern, function in _METADATA_ROUTES:
        found = pattern.match(request.path) if method == request.method else None
        if found:
            return function(request, found, loaded)
    raise ApiError(404, f"Unknown request: {request.method} {request.path}")


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


def _models(request: HttpRequest, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    format_name = guess_format(request).NAME
    models = [_MODEL.get(format_name, _openai_model)(name) for name in MODELS]
    if format_name == "gemini":
        return {"models": models}
    if format_name == "anthropic":
        return {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return {"object": "list", "data": models}


def _count_gemini(request: HttpRequest, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    n = gemini.parse_request(request).input_tokens
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


def _ps(request: HttpRequest, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
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


def _show(request: HttpRequest, found: re.Match[str], loaded: Mapping[str, float]) -> Any:
    body = request.json()
    name = split_model(str(body.get("model") or body.get("name") or ""))[0]
    if not name:
        raise ApiError(400, "model is required")
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


def _path_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"{pattern}\Z", re.DOTALL)


_MetadataHandler = Callable[[HttpRequest, re.Match[str], Mapping[str, float]], Any]
_BANNER = "nbllm simulator is running"
# Each pattern can match from one position only, so that matching is linear in the path's length.
_METADATA_ROUTES: tuple[tuple[str, re.Pattern[str], _MetadataHandler], ...] = (
    (
        "POST",
        _path_pattern(r".*/messages/count_tokens"),
        lambda request, *_: {"input_tokens": anthropic.parse_request(request).input_tokens},
    ),
    ("POST", _path_pattern(r"(?>.*?/models/).+:countTokens"), _count_gemini),
    ("GET", _path_pattern(r".*/models/?"), _models),
    (
        "GET",
        _path_pattern(r"(?>.*?/models/)(.+)"),
        lambda request, found, _: _MODEL.get(guess_format(request).NAME, _openai_model)(found[1]),
    ),
    ("GET", _path_pattern(r".*/api/tags"), lambda *_: {"models": [_ollama_model(name) for name in MODELS]}),
    ("GET", _path_pattern(r".*/api/ps"), _ps),
    ("GET", _path_pattern(r".*/api/version"), lambda *_: {"version": "0.0.0-nbllm-simulator"}),
    ("POST", _path_pattern(r".*/api/show"), _show),
    ("GET", _path_pattern("/"), lambda *_: _BANNER),
    ("HEAD", _path_pattern("/"), lambda *_: _BANNER),
)
