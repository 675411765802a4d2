"""Benchmarks whose numbers can be trusted: run, look, compare, and know each number's own error.

    df = nbllm.bench.run(["openai/mini", "claude/sonnet"], prompts, blocks=30, cold=True)
    nbllm.bench.summary(df); nbllm.bench.compare(df); nbllm.bench.plot(df); nbllm.bench.report(df, "report.html")

Names are imported when they are first used; pandas, scipy and matplotlib with what needs them. No module here is called
as a function is: importing it would put it in the function's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..columns import schema as schema
    from .checks import selftest as selftest
    from .comparison import compare as compare
    from .files import load as load
    from .files import save as save
    from .plots import plot as plot
    from .prompts import prompt_set as prompt_set
    from .questions import coldstart as coldstart
    from .questions import gateway as gateway
    from .questions import ladder as ladder
    from .questions import streaming as streaming
    from .questions import warm as warm
    from .reports import report as report
    from .running import chunks as chunks
    from .running import resume as resume
    from .running import run as run
    from .running import runs as runs
    from .running import tokens as tokens
    from .summaries import summary as summary
    from .texts import synthetic as synthetic

_HOME = {
    **dict.fromkeys(("run", "resume", "runs", "chunks", "tokens"), "running"),
    **dict.fromkeys(("coldstart", "ladder", "warm", "streaming", "gateway"), "questions"),
    **dict.fromkeys(("load", "save"), "files"),
    "compare": "comparison", "plot": "plots", "prompt_set": "prompts", "report": "reports", "schema": ".columns", "selftest": "checks",
    "summary": "summaries", "synthetic": "texts",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'nbllm.bench' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
