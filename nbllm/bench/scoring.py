"""Stored answers: those of a run with their prompts, and those that a user marked as good."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..store.preferences import marked_answers, model_name
from .prompts import load
from .store import Store, open_runs

if TYPE_CHECKING:
    import pandas as pd


def answers(df: pd.DataFrame) -> pd.DataFrame:
    """The texts of the answers in `df`: run_id, request_id, name, prompt_id, block, prompt (the last
    message), answer, score. For a failed request, the part that arrived.

    Raises ConfigError where a run is not on this machine. A run with keep_answers=False has no answers.
    """
    import pandas as pd

    rows = []
    for part, store in open_runs(df, "answers"):
        texts, prompts = store.answers(), prompt_texts(store)
        for row in part.drop_duplicates("request_id").to_dict("records"):
            text, score = texts.get(row["request_id"], (None, None))
            if text is not None:
                prompt = prompts.get(str(row["prompt_id"]), "")
                identity = {k: row[k] for k in ("run_id", "request_id", "name", "prompt_id", "block")}
                rows.append({**identity, "prompt": prompt, "answer": text, "score": score})
    names = ["run_id", "request_id", "name", "prompt_id", "block", "prompt", "answer", "score"]
    return pd.DataFrame(rows, columns=names).astype({"score": "float64"})


def prompt_texts(store: Store) -> dict[str, str]:
    """The last message of each turn, by prompt id."""
    texts: dict[str, str] = {}
    for prompt in load((store.get("job") or {}).get("prompts", [])):
        for number, turn in enumerate(prompt.turns):
            texts[prompt.id if len(prompt.turns) == 1 else f"{prompt.id}#{number + 1}"] = turn[-1].text
    return texts


def preferences() -> pd.DataFrame:
    """Answers that were marked as good (the button below an answer, `%llm kept add MODEL`) as comparisons for
    `bench.win_rates`: one row for each two models that answered the same prompt, of which at least one answer
    was marked.

    Columns: prompt_id (a digest of the prompt), prompt, a, b, winner (the marked one; "tie" if both were),
    simulated. Raises ConfigError where they cannot be read.
    """
    import pandas as pd

    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in marked_answers():
        by_prompt.setdefault(str(row["prompt"]), []).append(row)
    rows = [
        row
        for prompt, rows_of_prompt in by_prompt.items()
        for row in _preference_rows(prompt, rows_of_prompt)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "prompt", "a", "b", "winner", "simulated"])


def _preference_rows(prompt: str, preferred: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Marked answers win against the others, and tie with each other."""
    winners = list(dict.fromkeys(model_name(row) for row in preferred))
    others = sorted({str(other) for row in preferred for other in row.get("over", ())} - set(winners))
    common: dict[str, Any] = {
        "prompt_id": sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16],
        "prompt": prompt,
    }
    common["simulated"] = any(row.get("simulated") for row in preferred)
    pairs = [(a, b, "tie") for a, b in itertools.combinations(winners, 2)]
    pairs += [(a, b, a) for a in winners for b in others]
    yield from ({**common, "a": a, "b": b, "winner": winner} for a, b, winner in pairs)
