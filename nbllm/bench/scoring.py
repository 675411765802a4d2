"""Answers that were kept, and what they are worth by the user's own measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import errors
from .assertions import Check, scorer
from .prompts import Prompt, load
from .store import Store, opened

if TYPE_CHECKING:
    import pandas as pd

# A function of an answer and of what its prompt's row says beside the prompt.
Scorer = Callable[[str, Mapping[str, Any]], float | bool]
JUDGE = "judge:"


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


def scorable(
    score: str | Scorer | None, kept: bool, prompts: Sequence[Prompt], judge: str | None = None
) -> None:
    """Raises ConfigError where answers could not be scored after they are paid for."""
    judged = isinstance(score, str) and score.startswith(JUDGE)
    if judged != (judge is not None) or score == JUDGE:
        raise errors.ConfigError(
            "A judge needs a question and a model.",
            hint='score="judge: which answer is more correct?", judge="openai/mini"',
        )
    if score is None:
        return
    if not kept:
        raise errors.ConfigError("score= needs the answers.", hint="Leave keep_answers=False out.")
    if isinstance(score, str) and not judged and not all(score in prompt.more for prompt in prompts):
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

    check = _expected(score) if isinstance(score, str) else scorer(score)
    with Store(place) as store:
        kept, asked = store.answers(), _asked(store)
        more = {str(p["id"]): p.get("more", {}) for p in (store.get("job") or {}).get("prompts", [])}
        found: dict[str, float] = {}
        wrong = ""
        for row in df[df["ok"].fillna(False).astype(bool)].to_dict("records"):
            said = more.get(str(row["prompt_id"]).partition("#")[0], {})
            about = {"asked": asked.get(str(row["prompt_id"]), "")}
            if row["request_id"] in kept:
                try:
                    value = check(kept[row["request_id"]][0], said, about)
                    found |= {} if value is None else {row["request_id"]: value}
                except Exception as exc:  # noqa: BLE001 - a user's function
                    wrong = f"{type(exc).__name__}: {exc}"
        store.score(found)
    df["score"] = df["request_id"].map(found).astype("float64")
    if wrong:
        warnings.warn(f"Some answers could not be scored: {wrong[:200]}.", stacklevel=3)


def _expected(column: str) -> Check:
    """Whether an answer holds what a column expects, whatever the case and the spaces."""

    def held(answer: str, more: Mapping[str, Any], _row: Mapping[str, Any]) -> float:
        return float(" ".join(str(more[column]).casefold().split()) in " ".join(answer.casefold().split()))

    return held
