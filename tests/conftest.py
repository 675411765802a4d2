"""Every test runs without the machine's keys and addresses, and leaves none behind."""

import os

import pytest

_LEAKING = ("_API_KEY", "_BASE_URL", "OLLAMA_HOST", "NBLLM_", "_PROXY", "_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No key, address or proxy of this machine reaches a test."""
    for name in list(os.environ):
        if name.endswith(_LEAKING) or name.startswith(_LEAKING):
            monkeypatch.delenv(name)
