"""Benchmarks with known measurement error: run, inspect and compare.

    df = nbllm.bench.run(["openai/mini", "claude/sonnet"], prompts, blocks=30, cold=True)
    nbllm.bench.summary(df); nbllm.bench.compare(df); nbllm.bench.plot(df)
    nbllm.bench.report(df, "report.html")

Names are imported on first use, with pandas, scipy and matplotlib where they are needed. No module of this
package has the name of a public function: importing the module would replace the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..core.errors import similar_names
from ..core.extras import require_packages

if TYPE_CHECKING:
    from ..store.columns import schema as schema
    from .assertions import cases as cases
    from .assertions import grid as grid
    from .comparison import compare as compare
    from .decisions import check as check
    from .decisions import goodput as goodput
    from .decisions import leaderboard as leaderboard
    from .exchange import export as export
    from .files import load as load
    from .files import save as save
    from .judging import judge as judge
    from .judging import win_rates as win_rates
    from .load_search import find_load as find_load
    from .planning import power as power
    from .plots import plot as plot
    from .presets import coldstart as coldstart
    from .presets import gateway as gateway
    from .presets import ladder as ladder
    from .presets import streaming as streaming
    from .presets import warm as warm
    from .prompts import prompt_set as prompt_set
    from .reports import report as report
    from .runner import chunks as chunks
    from .runner import resume as resume
    from .runner import run as run
    from .runner import runs as runs
    from .runner import tokens as tokens
    from .scoring import answers as answers
    from .scoring import preferences as preferences
    from .selftests import selftest as selftest
    from .summaries import summary as summary
    from .synthetic_prompts import synthetic as synthetic
    from .traces import trace as trace

_MODULE_OF = {
    **dict.fromkeys(("run", "resume", "runs", "chunks", "tokens"), "runner"),
    **dict.fromkeys(("coldstart", "ladder", "warm", "streaming", "gateway"), "presets"),
    **dict.fromkeys(("load", "save"), "files"),
    **dict.fromkeys(("answers", "preferences"), "scoring"),
    **dict.fromkeys(("check", "goodput", "leaderboard"), "decisions"),
    **dict.fromkeys(("cases", "grid"), "assertions"),
    **dict.fromkeys(("judge", "win_rates"), "judging"),
    "find_load": "load_search",
    "compare": "comparison",
    "export": "exchange",
    "trace": "traces",
    "plot": "plots",
    "power": "planning",
    "prompt_set": "prompts",
    "report": "reports",
    "schema": ".store.columns",
    "selftest": "selftests",
    "summary": "summaries",
    "synthetic": "synthetic_prompts",
}
# Packages these need beside pandas: checked before a run that ends in one of them costs anything.
_EXTRA_PACKAGES = {
    **dict.fromkeys(
        (
            *(
                "compare",
                "summary",
                "check",
                "goodput",
                "leaderboard",
                "power",
                "judge",
                "win_rates",
                "find_load",
            ),
            *("coldstart", "ladder", "warm", "streaming", "gateway"),
        ),
        ("scipy",),
    ),
    **dict.fromkeys(("plot", "report"), ("scipy", "matplotlib")),
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        similar = [] if name[0] == "_" else similar_names(name, _MODULE_OF)
        hint = f": did you mean {similar[0]}?" if similar else ""
        raise AttributeError(f"module 'nbllm.bench' has no attribute {name!r}{hint}")
    require_packages(f"bench.{name}", "bench", *_EXTRA_PACKAGES.get(name, ()))
    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
