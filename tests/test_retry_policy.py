"""The table of retries."""

import pytest

from nbllm.client.policy import LONGEST_WAIT, Retries, wait_before_retry
from nbllm.core import errors

R = Retries(attempts=2, base=0.5, cap=8.0)


def error(kind=errors.RateLimited, status=429, retry_after=None, reset_after=None):
    e = kind("x", status=status, retry_after=retry_after)
    e.reset_after = reset_after
    return e


@pytest.mark.parametrize(
    ("expected", "failure", "attempt", "shown", "random"),
    [
        (0.25, error(), 1, False, 0.5),
        (0.5, error(), 2, False, 0.5),
        (None, error(), 3, False, 0.5),
        (None, error(), 1, True, 0.5),
        (2.25, error(retry_after=2.0), 1, False, 0.5),
        (0.25, error(retry_after=0.0), 1, False, 0.5),
        (None, error(retry_after=86400.0), 1, False, 0.5),
        (LONGEST_WAIT, error(retry_after=LONGEST_WAIT), 1, False, 0.0),
        (7.0, error(reset_after=7.0), 1, False, 0.0),
        (1.0, error(retry_after=1.0, reset_after=7.0), 1, False, 0.0),
        (None, error(errors.QuotaExceeded), 1, False, 0.5),
        (None, error(errors.AuthenticationError, 401), 1, False, 0.5),
        (None, error(errors.BadRequest, 400), 1, False, 0.5),
        (None, error(errors.NotFound, 404), 1, False, 0.5),
        (0.25, error(errors.Overloaded, 529), 1, False, 0.5),
        (0.25, error(errors.ServerError, 500), 1, False, 0.5),
        (0.25, error(errors.BadRequest, 408), 1, False, 0.5),
        (0.25, errors.ConnectFailed("x"), 1, False, 0.5),
        (0.25, errors.StreamCut("x"), 1, False, 0.5),
        (0.25, errors.Timeout("x", which="connect", seconds=1), 1, False, 0.5),
        (None, errors.Timeout("x", which="first", seconds=1), 1, False, 0.5),
        (None, errors.Timeout("x", which="total", seconds=1), 1, False, 0.5),
        (None, errors.ProtocolError("x"), 1, False, 0.5),
        (None, errors.ConfigError("x"), 1, False, 0.5),
    ],
)
def test_what_is_asked_again_and_when(expected, failure, attempt, shown, random):
    """Passing troubles are asked again with full jitter, never after a token was shown; the provider's own
    wait is a minimum."""
    assert expected == wait_before_retry(failure, attempt, shown, R, random)


def test_the_backoff_is_capped():
    """Late attempts wait at most the cap."""
    assert 8.0 == wait_before_retry(error(), 10, False, Retries(attempts=20), 1.0)
