"""Every test runs without the machine's keys and addresses, and leaves none behind."""

import gc
import os
import platform
import signal
import sys

import pytest
from hypothesis import settings

# Started in the background of a script, we would inherit an ignored SIGINT, and hand it on to every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: what fails on one machine fails on all. New ones are looked for with
# `--hypothesis-profile=search`, by whoever changes a parser. No deadline: a busy machine is no fault.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.register_profile("few", derandomize=True, deadline=None, max_examples=15)  # make fast
settings.load_profile("steady")

_LEAKING = (
    "_API_KEY",
    "_BASE_URL",
    "_API_BASE",
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


def pytest_ignore_collect(collection_path, config):
    """What is left out by its mark need not be loaded: that takes seconds, in each process of `-n`."""
    place = collection_path.name
    return True if place in ("browser", "real") and f"not {place}" in config.option.markexpr else None


def pytest_collection_finish():
    """Thousands of tests are no garbage: they need not be looked through at each collection of it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Each process of `-n` collects for itself, so a test's name must be the same in all."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"an address in memory is no part of a test's name (use ids=): {named[0]}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """With -n auto two processes for each core, at most eight: slow tests wait as much as they work."""
    return min(8, (1 if is_fast(config) else 2) * (os.cpu_count() or 1))


def is_fast(config):
    """Whether slow tests are excluded, as in `make fast`."""
    return "not slow" in config.option.markexpr


def pytest_configure(config):
    """Records which processes the tests of `make fast` start: none may."""
    config.started = []
    if is_fast(config):
        platform.processor()  # libraries ask for it, which starts a process
        events = ("subprocess.Popen", "os.fork", "os.posix_spawn")
        sys.addaudithook(lambda event, args: event in events and config.started.append((event, *args[:2])))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory, pytestconfig):
    """No key, address, proxy or configuration of this machine reaches a test, and no call is noted there."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp() / "nobody"))
    for name in list(os.environ):
        if name.endswith(_LEAKING) or name.startswith(_LEAKING):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NBLLM_MODELS", str(tmp_path_factory.getbasetemp() / "nobody"))  # no model file either
    monkeypatch.setenv("NBLLM_HOME", pytestconfig.nbllm_home)
    yield
    if started := [*pytestconfig.started]:
        pytestconfig.started.clear()
        pytest.fail(f"This test starts a process, so it must be marked slow: {started[0]}")


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory):
    """The file of an authority's certificate, in place of the system's hundred and forty: each client that
    reads those takes 20 ms for it."""
    import trustme

    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)
