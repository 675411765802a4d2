"""The quality of a run's answers by the user's own measures: `asserts=`, `score=` and `judge=`.

A run's file stores these options, so that a resumed run has the same columns. It cannot store a function:
`bench.resume` requires it again, by name, before anything is sent.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..client.client import Client
from ..core.assertions import Check, as_check, build_checks, name_assertions
from ..core.errors import ConfigError, NbllmError
from . import judging
from .frames import add_check_columns
from .prompts import Prompt, load
from .scoring import prompt_texts
from .store import Store

if TYPE_CHECKING:
    import pandas as pd

# A function of an answer and of the other columns of its prompt's row.
Scorer = Callable[[str, Mapping[str, Any]], float | bool]
_JUDGE = "judge:"
_NOT_STORED = "A run's file cannot store functions."


@dataclass(frozen=True, slots=True)
class Quality:
    """asserts: assertions by name. score: a column of expected answers, a function, or "judge: ...", which
    the model `judge` decides. rejudge: whether answers that were judged before are judged again."""

    asserts: Mapping[str, Any]
    score: str | Scorer | None = None
    judge: str | None = None
    rejudge: bool = True

    @classmethod
    def of(cls, asserts: Any, score: Any, judge: str | None) -> Quality:
        """From the options of `bench.run`."""
        return cls(name_assertions(asserts), score, judge)

    def public(self) -> dict[str, Any]:
        """For the run's file: {"name": ...} in place of what cannot be stored."""
        asserts = {name: _stored_form(one) for name, one in self.asserts.items()}
        return {"asserts": asserts, "score": _stored_form(self.score), "judge": self.judge}

    @classmethod
    def resumed(cls, public: Mapping[str, Any], asserts: Any, score: Any, judge: str | None) -> Quality:
        """From what `public` returned and from the options of `bench.resume`, which replace the run's own.
        Raises ConfigError for a missing function."""
        all_asserts = {**public.get("asserts", {}), **name_assertions(asserts)}
        if missing := [name for name, one in all_asserts.items() if _is_lost_function(one)]:
            arguments = ", ".join(f"{name!r}: {all_asserts[name]['name']}" for name in missing)
            raise ConfigError(
                f"The run's answers are checked by {' and '.join(map(repr, missing))}. {_NOT_STORED}",
                hint=f"Give it again: bench.resume(run, asserts={{{arguments}}}).",
            )
        if not (rejudge := score is not None or judge is not None):
            score, judge = public.get("score"), public.get("judge")
        if _is_lost_function(score):
            raise ConfigError(
                f"The run's answers are scored by {score['name']}. {_NOT_STORED}",
                hint=f"Give it again: bench.resume(run, score={score['name']}).",
            )
        return cls(all_asserts, score, judge, rejudge)

    def check(self, answers_stored: bool, prompts: Sequence[Prompt], vectors: bool = False) -> None:
        """Raises ConfigError where answers could not be evaluated after they were paid for."""
        if vectors and (self.asserts or self.score is not None):
            raise ConfigError(
                "Embeddings cannot be asserted or scored.", hint="Leave asserts, score and judge out."
            )
        judged = isinstance(self.score, str) and self.score.startswith(_JUDGE)
        if judged != (self.judge is not None) or self.score == _JUDGE:
            raise ConfigError(
                "A judge needs a question and a model.",
                hint='score="judge: which answer is more correct?", judge="openai/mini"',
            )
        for needs, value in (("Assertions need", self.asserts), ("score= needs", self.score)):
            if value and not answers_stored:
                raise ConfigError(f"{needs} the answers.", hint="Leave keep_answers=False out.")
        build_checks(self.asserts, [p.more for p in prompts])
        if isinstance(self.score, str):
            expected = [str(p.more.get(self.score, "")).strip() for p in prompts]  # every answer contains ""
            if not judged and not all(expected):
                raise ConfigError(
                    f"Not every prompt has an expected answer {self.score!r}.",
                    hint="score= names a column of the DataFrame of prompts, or is a function of an answer.",
                )
        elif self.score is not None and not callable(self.score):
            raise ConfigError(f"{self.score!r} is not a score.", hint="Use a column's name, or a function.")
        elif self.score is not None:
            as_check(self.score)  # raises for what cannot be called

    def apply(self, directory: Path, df: pd.DataFrame, client: Client) -> None:
        """Adds the columns to a run's frame, and stores them. Values that cannot be computed are missing,
        with a warning: the answers have been paid for."""
        if not self.asserts and self.score is None:
            return
        succeeded = df[df["ok"].fillna(False).astype(bool)]
        with Store(directory) as store:
            texts = _read_texts(store)
            if self.asserts:
                checks = _run_checks(texts, df.to_dict("records"), build_checks(self.asserts), "checked")
                store.put_checks(checks)
                add_check_columns(df, checks)
            if isinstance(self.score, str) and self.score.startswith(_JUDGE):
                self._judge(store, texts, df, succeeded, client)
            elif self.score is not None:
                check = (
                    _contains_expected(self.score) if isinstance(self.score, str) else as_check(self.score)
                )
                answered = succeeded[succeeded["request_id"].isin(list(texts.answers))].to_dict("records")
                scores = _run_checks(texts, answered, {"score": check}, "scored")
                _store_scores(
                    store, df, {i: v for i, values in scores.items() if (v := values["score"]) is not None}
                )

    def _judge(
        self, store: Store, texts: _RunTexts, df: pd.DataFrame, succeeded: pd.DataFrame, client: Client
    ) -> None:
        """Sets score to the share of comparisons that each answer won; the judge's cost is in
        attrs["judge"]."""
        scores = {} if self.rejudge else {i: s for i, (_, s) in texts.answers.items() if s is not None}
        unjudged = df if self.rejudge else df[df["block"].isin(_unjudged_blocks(succeeded, scores))]
        try:
            if len(unjudged):
                question = str(self.score).removeprefix(_JUDGE).strip()
                judged = judging.judge(unjudged, question, str(self.judge), client=client)
                scores |= judging.win_shares(judged)
                df.attrs["judge"] = judged.attrs["judge"]
        except NbllmError as error:
            warnings.warn(f"The judge failed: {error.message} {error.hint}", stacklevel=4)
            return
        _store_scores(store, df, scores)


def _stored_form(value: Any) -> Any:
    """The value as JSON, or its name only where it has no JSON form."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return {"name": getattr(value, "__name__", type(value).__name__)}


def _is_lost_function(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"name"}


class _RunTexts(NamedTuple):
    """Texts of a run's file: (answer, score) by request, prompts by id, and the other columns of each
    prompt's row."""

    answers: Mapping[str, tuple[str, float | None]]
    prompts: Mapping[str, str]
    more: Mapping[str, Mapping[str, Any]]


def _read_texts(store: Store) -> _RunTexts:
    prompts = load((store.get("job") or {}).get("prompts", []))
    return _RunTexts(store.answers(), prompt_texts(store), {p.id: p.more for p in prompts})


def _run_checks(
    texts: _RunTexts, rows: Iterable[Any], check_functions: Mapping[str, Check], verb: str
) -> dict[str, dict[str, float | None]]:
    """The values of each check by request id; 0 where the request failed."""
    results: dict[str, dict[str, float | None]] = {}
    error = ""
    for row in rows:
        prompt_columns = texts.more.get(str(row["prompt_id"]).partition("#")[0], {})
        row_and_prompt = {**row, "asked": texts.prompts.get(str(row["prompt_id"]), "")}
        text, _ = texts.answers.get(row["request_id"], ("", None))
        values = results.setdefault(str(row["request_id"]), {})
        for name, check in check_functions.items():
            try:
                passed = row["ok"] is True or bool(row["ok"] == True)  # noqa: E712 - it may be NA
                values[name] = check(text, prompt_columns, row_and_prompt) if passed else 0.0
            except Exception as exc:  # noqa: BLE001 - a user's function
                values[name], error = None, f"{type(exc).__name__}: {exc}"
    if error:
        warnings.warn(f"Some answers could not be {verb}: {error[:200]}.", stacklevel=4)
    return results


def _store_scores(store: Store, df: pd.DataFrame, scores: Mapping[str, float]) -> None:
    store.put_scores(scores)
    df["score"] = df["request_id"].map(dict(scores)).astype("float64")


def _unjudged_blocks(succeeded: pd.DataFrame, scores: Mapping[str, float]) -> list[int]:
    """The blocks with an answer that has no score yet."""
    measured = succeeded[succeeded["phase"].astype("string") == "measure"]
    return list(measured[~measured["request_id"].isin(list(scores))]["block"].unique())


def _contains_expected(column: str) -> Check:
    """A check that the answer contains the text of a column, ignoring case and spaces."""

    def contains(answer: str, more: Mapping[str, Any], _row: Mapping[str, Any]) -> float:
        return float(" ".join(str(more[column]).casefold().split()) in " ".join(answer.casefold().split()))

    return contains
