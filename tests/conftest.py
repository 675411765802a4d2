"""Every test runs without the machine's keys and addresses, and leaves none behind."""

import os
import signal

import pytest

# Started in the background of a script, we would inherit an ignored SIGINT, and hand it on to every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LEAKING = (
    "_API_KEY",
    "_BASE_URL",
    "OLLAMA_HOST",
    "NBLLM_",
    "_PROXY",
    "_proxy",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "LM_API_TOKEN",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_AI_ENDPOINT",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No key, address, proxy or configuration of this machine reaches a test."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp() / "nobody"))
    for name in list(os.environ):
        if name.endswith(_LEAKING) or name.startswith(_LEAKING):
            monkeypatch.delenv(name)
