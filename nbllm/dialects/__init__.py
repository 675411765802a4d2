"""The words of each wire protocol: `DIALECTS` maps a name to its two pure functions."""

from __future__ import annotations

from ..core.calls import Dialect
from .anthropic import Anthropic
from .cohere import Cohere
from .gemini import Gemini
from .ollama import Ollama
from .openai_chat import OpenAIChat
from .openai_responses import OpenAIResponses

DIALECTS: dict[str, Dialect] = {
    d.name: d for d in (OpenAIChat(), OpenAIResponses(), Anthropic(), Gemini(), Ollama(), Cohere())
}
