"""No test, and no notebook that is run as one, notes its calls among the user's."""

import faulthandler
import gc
import os
import shutil
import tempfile
import threading
import time

import pytest

_LONG = 300  # seconds after which a test says where it is; pytest's own option starts a thread for each test


def pytest_configure(config):
    """For kernels and processes that tests start, too."""
    gc.set_threshold(50_000, 20, 20)  # garbage is looked for less often: that took a tenth of all time
    config.nbllm_home = os.environ["NBLLM_HOME"] = tempfile.mkdtemp(prefix="nbllm-test-")
    config.began, screen = 0.0, os.dup(2)
    threading.Thread(target=_watch, args=(config, screen), name="tests-watch", daemon=True).start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Notes when a test began."""
    item.config.began = time.monotonic()
    try:
        return (yield)
    finally:
        item.config.began = 0.0


def _watch(config, screen):
    """Shows where all threads are, once for each test that hangs."""
    told = 0.0
    while True:
        time.sleep(_LONG / 10)
        if (began := config.began) not in (0.0, told) and time.monotonic() - began > _LONG:
            told = began
            faulthandler.dump_traceback(screen)


def pytest_unconfigure(config):
    """Nothing is left behind."""
    shutil.rmtree(config.nbllm_home, ignore_errors=True)
