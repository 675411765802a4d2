"""Optional packages, and what installs them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import ConfigError


def require_packages(feature: str, extra: str, *packages: str) -> None:
    """Raises ConfigError, saying what to install, where a package that `feature` needs is missing."""
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        raise ConfigError(
            f"{feature} needs {' and '.join(missing)}.",
            hint=f"Run `%pip install 'nbllm[{extra}]'`, or in a terminal pip install 'nbllm[{extra}]'.",
        )
