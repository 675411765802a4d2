"""Answers that were kept, with what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .prompts import load
from .store import Store, opened

if TYPE_CHECKING:
    import pandas as pd


def answers(df: pd.DataFrame) -> pd.DataFrame:
    """The texts of the answers in `df`: run_id, request_id, name, prompt_id, block, prompt (the last
    message), answer, score. Of requests that failed, what came.

    Raises ConfigError where a run is not on this machine. A run with keep_answers=False has none.
    """
    import pandas as pd

    rows = []
    for part, store in opened(df, "answers"):
        known, prompts = store.answers(), asked(store)
        for row in part.drop_duplicates("request_id").to_dict("records"):
            text, score = known.get(row["request_id"], (None, None))
            if text is not None:
                prompt = prompts.get(str(row["prompt_id"]), "")
                kept = {k: row[k] for k in ("run_id", "request_id", "name", "prompt_id", "block")}
                rows.append({**kept, "prompt": prompt, "answer": text, "score": score})
    names = ["run_id", "request_id", "name", "prompt_id", "block", "prompt", "answer", "score"]
    return pd.DataFrame(rows, columns=names).astype({"score": "float64"})


def asked(store: Store) -> dict[str, str]:
    """The last message of each prompt's turn, by its id."""
    found: dict[str, str] = {}
    for prompt in load((store.get("job") or {}).get("prompts", [])):
        for number, turn in enumerate(prompt.turns):
            found[prompt.id if len(prompt.turns) == 1 else f"{prompt.id}#{number + 1}"] = turn[-1].text
    return found
