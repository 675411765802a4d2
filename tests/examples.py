"""How many examples a property test tries."""

from hypothesis import settings


def examples(n, **more):
    """Settings of a property test that tries `n` examples where the profile in use tries a hundred."""
    return settings(max_examples=max(1, n * settings().max_examples // 100), **more)
