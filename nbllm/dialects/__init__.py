"""Wire protocols: one file each, named as the protocol, whose `DIALECT` holds its pure functions."""

NAMES = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")
