"""Untrusted text costs its length times a constant, whatever it repeats: every parser with growing hostile inputs."""

import re

import pytest

from .growth import growth


def test_growth_tells_linear_from_quadratic_and_endless():
    """The measure itself."""
    growth(lambda text: re.sub("a", "b", text), lambda n: "a" * n, 1000)
    for pattern, text in ((r"(?s)a.*b", "a"), (r"(a|a)*b", "a")):
        with pytest.raises(AssertionError, match=r"times as long|not ended"):
            growth(lambda given, pattern=pattern: re.findall(pattern, given), lambda n, text=text: text * n, 20, patience=2)
