"""`python -m nbllm.bench check RUN BASELINE`: exits with a non-zero status where a run is worse than an
earlier one (for CI)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..core.errors import NbllmError
from .decisions import check


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status. 0: no metric became worse. 1: a metric became worse, or a model is missing. 2: the runs
    could not be compared."""
    parser = argparse.ArgumentParser(prog="python -m nbllm.bench", description=__doc__)
    check_parser = parser.add_subparsers(required=True).add_parser(
        "check", help="compare a run with an earlier one"
    )
    check_parser.add_argument(
        "run", help="a .parquet, .csv or .jsonl file of bench.save, or a run's directory or id"
    )
    check_parser.add_argument("baseline", help="the earlier one")
    check_parser.add_argument(
        "--margin", type=float, default=0.05, help="relative differences below it are ignored (0.05)"
    )
    check_parser.add_argument("--metric", action="append", help="ttft_ms, e2e_ms ...; may be repeated")
    check_parser.add_argument("--reference", help="a model of both runs; removes what slows all models alike")
    arguments = parser.parse_args(argv)
    try:
        table = check(
            arguments.run,
            arguments.baseline,
            margin=arguments.margin,
            metrics=arguments.metric,
            reference=arguments.reference,
        )
    except NbllmError as error:
        print(f"{error.message} {error.hint}".strip(), file=sys.stderr)  # noqa: T201
        return 2
    if table["verdict"].isin(["new"]).all():
        print("The runs have no model in common.", file=sys.stderr)  # noqa: T201
        return 2
    columns = table[["name", "metric", "passed", "verdict", "now", "baseline", "ratio", "note"]]
    print(columns.to_string(index=False, float_format=lambda v: f"{v:.4g}"))  # noqa: T201
    return 0 if table["passed"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
