"""What the two OpenAI dialects share: parts of a request, finish reasons and usage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..core.calls import Endpoint, HttpCall, Secret
from ..core.errors import ConfigError
from ..core.events import FinishReason, Usage
from ..core.messages import Document, Request
from ..core.strict import OPENAI, strict_answer_schema
from . import _request
from ._json import count, obj
from ._request import bearer_header

# --- requests -----------------------------------------------------------------------------------------------


def file_name(part: Document) -> str:
    """The file name of a document, which the protocol requires: a default if the user gave none."""
    return part.name or "document." + part.media_type.rpartition("/")[2]


def schema_format(request: Request) -> dict[str, Any] | None:
    """Name, schema and strictness of a structured answer: strict as the request says, else if the schema is
    closed. None without a schema."""
    if (schema := request.schema) is None:
        return None
    name = re.sub(r"\W", "_", str(schema.get("title") or "answer"), flags=re.A)[:64]
    strict = is_closed(schema) if request.strict is None else request.strict
    return {
        "name": name,
        "schema": strict_answer_schema(schema, OPENAI) if request.strict else schema,
        "strict": strict,
    }


def is_closed(schema: Any) -> bool:
    """Whether strict mode, which guarantees the answer's form, takes `schema`: it refuses (HTTP 400) objects
    that do not forbid other properties and require all of their own."""
    if isinstance(schema, (list, tuple)):
        return all(map(is_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    kinds = schema.get("type")
    if kinds == "object" or (isinstance(kinds, (list, tuple)) and "object" in kinds):
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        if schema.get("additionalProperties") is not False or len(required) != len(properties):
            return False
    return all(map(is_closed, schema.values()))


def build_post(
    provider: Endpoint, path: str, key: Secret | None, body: Mapping[str, Any], extra: Mapping[str, Any]
) -> HttpCall:
    """The POST call, with its key in the header that the row names."""
    auth = (
        {provider.key_header: key.reveal()} if key is not None and provider.key_header else bearer_header(key)
    )
    return _request.build_post(provider, provider.base_url.rstrip("/") + path, auth, body, extra)


def check_supported(request: Request, provider: Endpoint) -> None:
    """Raises ConfigError for an option of `request` that the provider does not have."""
    for option in provider.quirks.cannot:
        if getattr(request, option) not in (None, ()):
            raise ConfigError(
                f"{provider.label or provider.name} has no {option}.",
                hint=f"Leave {option} out, or ask another provider; options of its own go into `extra`.",
            )


# --- answers ------------------------------------------------------------------------------------------------

REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "complete": "stop",
    "completed": "stop",
    "end": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "max_output_tokens": "length",
    "max_completion_tokens": "length",
    "context_length": "length",
    "max_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "content-filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    "moderation": "content_filter",
    "guardrail_intervened": "content_filter",
    "error": "error",
    "network_error": "error",
    "timeout": "error",
    "function_call_filter": "error",
    "malformed_function_call": "error",
    "insufficient_system_resource": "error",
    "abort": "cancelled",
    "cancelled": "cancelled",
}


def _first_count(*found: Any) -> int | None:
    return next((n for n in map(count, found) if n is not None), None)


def usage(raw: Mapping[str, Any]) -> Usage | None:
    """Token counts under the field names of OpenAI (old and new), DeepSeek, Moonshot, Qwen, LiteLLM and
    Anthropic's relays; None without any."""
    input_details = obj(raw.get("prompt_tokens_details") or raw.get("input_tokens_details"))
    output_details = obj(raw.get("completion_tokens_details") or raw.get("output_tokens_details"))
    input_tokens = _first_count(raw.get("prompt_tokens"), raw.get("input_tokens"))
    output_tokens = _first_count(raw.get("completion_tokens"), raw.get("output_tokens"))
    reasoning = _first_count(output_details.get("reasoning_tokens"), raw.get("reasoning_tokens"))
    if input_tokens is None and output_tokens is None:
        return None
    if reasoning and count(raw.get("total_tokens")) == (input_tokens or 0) + (output_tokens or 0) + reasoning:
        output_tokens = (output_tokens or 0) + reasoning  # xAI counts thinking separately, as its total shows
    return Usage(
        input_tokens,
        output_tokens,
        reasoning,
        _first_count(
            input_details.get("cached_tokens"),
            raw.get("prompt_cache_hit_tokens"),
            raw.get("cached_tokens"),
            raw.get("cache_read_input_tokens"),
        ),
        _first_count(
            input_details.get("cache_write_tokens"),
            input_details.get("cache_creation_tokens"),
            input_details.get("cache_creation_input_tokens"),
            raw.get("cache_creation_input_tokens"),
        ),
        raw,
    )
