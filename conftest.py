"""No test, and no notebook that is run as one, notes its calls among the user's."""

import os
import shutil
import tempfile


def pytest_configure(config):
    """For kernels and processes that tests start, too."""
    config.nbllm_home = os.environ["NBLLM_HOME"] = tempfile.mkdtemp(prefix="nbllm-test-")


def pytest_unconfigure(config):
    """Nothing is left behind."""
    shutil.rmtree(config.nbllm_home, ignore_errors=True)
