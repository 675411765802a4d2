"""The error of every metric on this machine, measured against a simulator that records when it sent what."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from . import ground_truth as truth
from .runner import chunks, run
from .supervisor import simulator

# The quantile of the error and its limit in ms (README, "How good are the numbers").
ERROR_LIMITS = {"token, certified": ("p99", 0.3), "first token": ("p50", 0.5)}


def selftest(
    *,
    concurrency: int = 8,
    requests: int = 64,
    ttft: float = 0.05,
    gap: float = 0.01,
    tokens: int = 20,
    disturb: tuple[float, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measures the simulator and returns the errors: one row per metric with n, the median, 99th percentile
    and maximum of the error (ms), the share that is certified, and the share of the others whose bounds
    contain the true time.

    concurrency, requests: the load. ttft, gap: seconds. tokens: of each answer. disturb: (busy, every)
    milliseconds for which the measuring process is blocked; then `flagged` is the share of the inaccurate
    requests that were marked as contaminated. Takes about requests / concurrency * (ttft + gap * tokens)
    seconds, and some three more.
    """
    with simulator() as addresses, tempfile.TemporaryDirectory(prefix="nbllm-selftest-") as directory:
        model = {
            "model": f"selftest@ttft={ttft:g},gap={gap:g},tokens={tokens}",
            "base_url": addresses["openai_chat"],
            "api_key": "sim",
            "name": "simulator",
        }
        df = _measure_simulator(
            model, Path(directory) / "run", concurrency, requests, disturb=disturb, seed=seed
        )
        records = truth.fetch_records(addresses[""])
        by_request = truth.request_errors(df, records)
        by_token = truth.token_errors(df, chunks(df), records, df.attrs["nbllm"]["epoch"])
    return error_table(df, by_request, by_token)


def _measure_simulator(
    model: dict[str, Any], directory: Path, concurrency: int, requests: int, **options: Any
) -> pd.DataFrame:
    per_turn = max(concurrency, min(requests, 4 * concurrency))
    df = run(
        model,
        "Measure me.",
        blocks=max(1, round(requests / per_turn)),
        concurrency=concurrency,
        per_turn=per_turn,
        warmup=2 * concurrency,
        directory=directory,
        progress=False,
        **options,
    )
    return df[df["phase"] == "measure"]


def error_table(df: pd.DataFrame, by_request: pd.DataFrame, by_token: pd.DataFrame) -> pd.DataFrame:
    """The errors as a table; see selftest."""
    certified, bounded = by_token[by_token["certified"]], by_token[~by_token["certified"]]
    contained = bounded["contained"].mean() if len(bounded) else None
    uncontaminated = by_request[by_request["quality"] != "contaminated"]
    inaccurate = by_request[by_request["ttft_error_ms"].abs() > 2.0]
    flagged = (inaccurate["quality"] == "contaminated").mean() if len(inaccurate) else None
    lines = [
        _error_row("token, certified", certified["error_ms"], share=len(certified) / max(1, len(by_token))),
        _error_row("token, bounded: width of the bounds", bounded["width_ms"], contained=contained),
        _error_row(
            "gap between two certified tokens",
            by_token.loc[
                by_token["certified"] & by_token["certified"].shift(fill_value=False), "gap_error_ms"
            ],
        ),
        _error_row(
            "first token", uncontaminated["ttft_error_ms"], share=(df["quality"] == "certified").mean()
        ),
        _error_row("last token", uncontaminated["e2e_error_ms"]),
        _error_row("inter-token latency", uncontaminated["itl_error_ms"]),
        _error_row(
            "first token, contaminated requests",
            by_request.loc[by_request["quality"] == "contaminated", "ttft_error_ms"],
            flagged=flagged,
        ),
        _error_row("this client's lag behind the kernel", by_token["lag_ms"]),
    ]
    out = pd.DataFrame(lines).astype(
        {"certified": "float64", "contained": "float64", "flagged": "float64", "within_bar": "boolean"}
    )
    out.attrs["nbllm"] = df.attrs.get("nbllm", {})
    return out


def _error_row(
    metric: str,
    errors: pd.Series,
    *,
    share: float | None = None,
    contained: float | None = None,
    flagged: float | None = None,
) -> dict[str, Any]:
    values = errors.dropna().astype(float)
    quantiles = (
        {
            "p50": float(values.median()),
            "p99": float(values.abs().quantile(0.99)),
            "max": float(values.abs().max()),
        }
        if len(values)
        else {}
    )
    limit = ERROR_LIMITS.get(metric)
    return {
        "metric": metric,
        "n": len(values),
        "error_p50_ms": quantiles.get("p50"),
        "error_p99_ms": quantiles.get("p99"),
        "error_max_ms": quantiles.get("max"),
        "certified": share,
        "contained": contained,
        "flagged": flagged,
        "within_bar": None if limit is None or not quantiles else bool(abs(quantiles[limit[0]]) <= limit[1]),
    }
