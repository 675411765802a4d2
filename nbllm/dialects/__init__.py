"""The words of each wire protocol: a file each, called as the protocol is, whose `DIALECT` has its pure
functions."""

NAMES = ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama", "cohere")
