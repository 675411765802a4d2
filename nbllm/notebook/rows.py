"""`%%llm MODEL each=df`: the cell's prompt for every row of a DataFrame, with a display of how it goes.

The variable named by each= (by out=, where that is given) gets a new frame with the answers beside its
columns; the old frame, and what else holds it, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from .. import rows
from ..core.errors import ConfigError, NbllmError
from ..rows import BatchJob
from ..rows.executors import Unfit
from ..rows.progress import TableFrontEnd, Totals
from .buttons import approve
from .question import Question
from .session import Session, Stopped, current_session
from .syntax.lexer import column_error
from .syntax.parser import CellLine
from .view.progress import Display, progress_bar

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 5  # rows of the table that the cell shows


class RowsDisplay(Display, TableFrontEnd):
    """Shows a run in a kernel's front end; see rows.progress.Progress."""

    def ask(self, question: str) -> bool | None:
        """Asks with buttons, or through the keyboard, where somebody can answer."""
        return approve(question, yes="Start", no="Not now") if current_session().can_prompt_user else None

    def draw(self, totals: Totals) -> None:
        """Draws, where the last frame is old enough."""
        if self.is_due(totals.elapsed):
            self.end(totals, None)

    def end(self, totals: Totals, ended: str | None) -> None:
        """Draws the last frame; ended: None where it is not."""
        foot = "■ stops; what has been answered is kept." if ended is None else totals.ending(ended)
        line, far = totals.line(ended), progress_bar(totals.done, totals.total) if ended is None else ""
        told = f'<div class="nbllm-foot">{escape(foot)}</div>' if foot else ""
        html = f"<div><b>Rows</b> {escape(line)}</div>{far}{told}"
        self.publish(html, "\n".join(filter(None, (line, foot))), last=ended is not None)


def run(
    session: Session, line: CellLine, question: Question, template: str
) -> pd.DataFrame | BatchJob | None:
    """Asks the question of every row; gives the first rows, None under quiet; a BatchJob with wait=false,
    which is in the variable of out= and in _llm, while the frame stays as it is. Raises ConfigError before
    anything is sent for what is wrong in the cell, and the reason where the run ended early: the frame is in
    its variable then, too."""
    options = question.options
    name = str(options["each"])
    with line.locate_errors("each"):
        df = _data_frame(session, name)
    target, call_options = line.out or name, _call_options(session, question)
    executor = _executor(session, line, options.get("executor"))
    try:
        result = rows.map(df, template, client=session.client, executor=executor, **call_options)
    except Unfit as error:
        raise column_error(line.spans["executor"][0], error.message.rstrip("."), error.hint) from None
    if isinstance(result, BatchJob):
        session.namespace[line.out or "_llm"] = session.namespace["_llm"] = result
        return None if options.get("quiet") else result
    session.namespace[target] = session.namespace["_llm"] = result
    ending = str(result.attrs.get("nbllm_ended") or "")
    if ending in (rows.STOPPED, rows.WAITING):
        raise Stopped(target)
    if ending and ending != rows.DECLINED:
        raise NbllmError(
            f"The run ended early: {ending}",
            hint=f"The finished rows are in {target}. "
            f"To continue: nbllm.rows.resume({result.attrs['nbllm_run']!r}).",
        )
    return None if options.get("quiet") else result.head(_ROWS_SHOWN)


def _call_options(session: Session, question: Question) -> Mapping[str, Any]:
    """What rows.map takes of a cell's options."""
    options, contestants = question.options, question.contestants
    if len(contestants) > 1:
        raise ConfigError("each= asks one model.", hint="Run the cell again with out=NAME for another.")
    _, spec = session.prepare_call(question, contestants[0])
    row_options = {n: options[n] for n in ("into", "run", "width", "mode", "wait") if n in options}
    return {**spec.selected(), **row_options, "model": contestants[0].model, "schema": question.shape}


def _executor(session: Session, line: CellLine, name: str | None) -> Any:
    """What the variable of executor= holds; None without one. Raises ConfigError, with the column."""
    if name is not None and name not in session.namespace:
        hint = "executor= names a concurrent.futures.Executor, or a client of dask."
        raise column_error(line.spans["executor"][0], f"there is no variable called {name}", hint)
    return None if name is None else session.namespace[name]


def batches(session: Session, rest: str) -> Any:
    """`%llm batches`: all of this machine; NAME [TABLE] gives the table of a run with what has come, cancel
    NAME ends its batches. Raises ConfigError for a run or a table that there is none of."""
    words = rest.split()
    if not words:
        return rows.batches()
    if words[0] == "cancel" and len(words) == 2:
        counts = rows.cancel(words[1], client=session.client)
        return ", ".join(f"{count:,} {state}" for state, count in counts.items())
    if len(words) > 2:
        raise ConfigError("That is no run and its table.", hint="As in df = %llm batches reviews df")
    df = _data_frame(session, words[1]) if len(words) > 1 else None
    return rows.collect(words[0], df, client=session.client)


def _data_frame(session: Session, name: str) -> Any:
    """The DataFrame of that name. Raises ConfigError."""
    df = session.namespace.get(name)
    if not (hasattr(df, "iloc") and hasattr(df, "columns")):
        wrong = f"{name} is no DataFrame of pandas, but {type(df).__name__}"
        hint = f"Write {name} = {name}.to_pandas()." if hasattr(df, "to_pandas") else "Name a DataFrame."
        raise ConfigError(
            f"{wrong if name in session.namespace else f'there is no variable called {name}'}.", hint=hint
        )
    return df
