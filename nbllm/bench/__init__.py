"""Benchmarks whose numbers can be trusted: run, look, compare, and know each number's own error.

    df = nbllm.bench.run(["openai/mini", "claude/sonnet"], prompts, blocks=30, cold=True)
    nbllm.bench.summary(df); nbllm.bench.compare(df); nbllm.bench.plot(df); nbllm.bench.report(df, "report.html")

Names are imported when they are first used; pandas, scipy and matplotlib with what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import compare as compare
    from .ladder import coldstart as coldstart
    from .ladder import gateway as gateway
    from .ladder import streaming as streaming
    from .ladder import warm as warm
    from .plot import plot as plot
    from .prompts import prompt_set as prompt_set
    from .report import report as report
    from .run import chunks as chunks
    from .run import resume as resume
    from .run import run as run
    from .run import runs as runs
    from .run import tokens as tokens
    from .saved import load as load
    from .saved import save as save
    from .schema import schema as schema
    from .selftest import selftest as selftest
    from .summary import summary as summary
    from .synthetic import synthetic as synthetic

_HOME = {
    **dict.fromkeys(("run", "resume", "runs", "chunks", "tokens"), "run"),
    **dict.fromkeys(("coldstart", "warm", "streaming", "gateway"), "ladder"),
    **dict.fromkeys(("load", "save"), "saved"),
    **{name: name for name in ("compare", "plot", "report", "schema", "selftest", "summary", "synthetic")},
    "prompt_set": "prompts",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'nbllm.bench' has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
