"""The words of each wire protocol: `DIALECTS` maps a name to its pure functions."""

from __future__ import annotations

from . import anthropic, cohere, gemini, ollama, openai_chat, openai_responses

_MODULES = (openai_chat, openai_responses, anthropic, gemini, ollama, cohere)
DIALECTS = {m.DIALECT.name: m.DIALECT for m in _MODULES}
