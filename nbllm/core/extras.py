"""Packages that not everybody needs, and what installs them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import ConfigError


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Raises ConfigError, saying what to install, where a package that `what` needs is not there."""
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}.",
            hint=f"Run `%pip install 'nbllm[{extra}]'`, in a terminal pip install 'nbllm[{extra}]'.",
        )
