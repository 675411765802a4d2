"""Answers that were kept, and what they are worth by the user's own measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import errors
from .prompts import Prompt, load
from .store import Store, opened

if TYPE_CHECKING:
    import pandas as pd

# A function of an answer and of what its prompt's row says beside the prompt.
Scorer = Callable[[str, Mapping[str, Any]], float | bool]


def answers(df: pd.DataFrame) -> pd.DataFrame:
    """The texts of the answers in `df`: run_id, request_id, name, prompt_id, block, prompt (the last
    message), answer, score. Of requests that failed, what came.

    Raises ConfigError where a run is not on this machine. A run with keep_answers=False has none.
    """
    import pandas as pd

    rows = []
    for part, store in opened(df, "answers"):
        known, asked = store.answers(), _asked(store)
        for row in part.drop_duplicates("request_id").to_dict("records"):
            text, score = known.get(row["request_id"], (None, None))
            if text is not None:
                prompt = asked.get(str(row["prompt_id"]), "")
                kept = {k: row[k] for k in ("run_id", "request_id", "name", "prompt_id", "block")}
                rows.append({**kept, "prompt": prompt, "answer": text, "score": score})
    names = ["run_id", "request_id", "name", "prompt_id", "block", "prompt", "answer", "score"]
    return pd.DataFrame(rows, columns=names).astype({"score": "float64"})


def _asked(store: Store) -> dict[str, str]:
    """The last message of each prompt's turn, by its id."""
    found: dict[str, str] = {}
    for prompt in load((store.get("job") or {}).get("prompts", [])):
        for number, turn in enumerate(prompt.turns):
            found[prompt.id if len(prompt.turns) == 1 else f"{prompt.id}#{number + 1}"] = turn[-1].text
    return found


def scorable(score: str | Scorer | None, kept: bool, prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError where answers could not be scored after they are paid for."""
    if score is None:
        return
    if not kept:
        raise errors.ConfigError("score= needs the answers.", hint="Leave keep_answers=False out.")
    if isinstance(score, str) and not all(score in prompt.more for prompt in prompts):
        raise errors.ConfigError(
            f"Not every prompt has an expected answer {score!r}.",
            hint="score= names a column of the DataFrame of prompts, or is a function of an answer.",
        )
    if not isinstance(score, str) and not callable(score):
        raise errors.ConfigError(f"Not a score: {score!r}.", hint="A column's name, or a function.")


def scored(place: Path, df: pd.DataFrame, score: str | Scorer) -> None:
    """Adds the column score to a run's frame, and keeps it. An answer that the function cannot score has
    none, and a warning says so: it has been paid for."""
    import warnings

    with Store(place) as store:
        kept = store.answers()
        more = {str(p["id"]): p.get("more", {}) for p in (store.get("job") or {}).get("prompts", [])}
        found: dict[str, float] = {}
        wrong = ""
        for row in df[df["ok"].fillna(False).astype(bool)].to_dict("records"):
            said = more.get(str(row["prompt_id"]).partition("#")[0], {})
            if row["request_id"] in kept:
                try:
                    found[row["request_id"]] = _score(score, kept[row["request_id"]][0], said)
                except Exception as exc:  # noqa: BLE001 - a user's function
                    wrong = f"{type(exc).__name__}: {exc}"
        store.score(found)
    df["score"] = df["request_id"].map(found).astype("float64")
    if wrong:
        warnings.warn(f"Some answers could not be scored: {wrong[:200]}.", stacklevel=3)


def _score(score: str | Scorer, answer: str, more: Mapping[str, Any]) -> float:
    if isinstance(score, str):
        return float(" ".join(str(more[score]).casefold().split()) in " ".join(answer.casefold().split()))
    value = float(score(answer, more))
    if not math.isfinite(value):
        raise ValueError(f"{value} is no score")
    return value
