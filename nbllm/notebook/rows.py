"""`%%llm MODEL each=df`: runs the cell's prompt for every row of a DataFrame and shows the progress.

The variable of each= (or of out=) gets a new frame with the answers as columns; the old frame is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from .. import rows
from ..core.errors import ConfigError, NbllmError
from ..rows import BatchJob
from ..rows.executors import ExecutorError
from ..rows.progress import TableFrontEnd, Totals
from .buttons import approve
from .question import Question
from .session import Session, Stopped, current_session
from .syntax.lexer import column_error
from .syntax.parser import CellLine
from .view.progress import Display, progress_bar

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 5  # rows of the result that the cell shows


class RowsDisplay(Display, TableFrontEnd):
    """Progress of a run in a kernel's front end; see rows.progress.Progress."""

    def confirm(self, question: str) -> bool | None:
        """Asks the user with buttons or the keyboard; None if nobody can answer."""
        return approve(question, yes="Start", no="Not now") if current_session().can_prompt_user else None

    def draw(self, totals: Totals) -> None:
        """Draws a frame if one is due."""
        if self.is_due(totals.elapsed):
            self.end(totals, None)

    def end(self, totals: Totals, ended: str | None) -> None:
        """Draws the last frame; ended: how the run ended, None if it goes on."""
        foot = "■ stops; finished rows are kept." if ended is None else totals.ending(ended)
        line, far = totals.line(ended), progress_bar(totals.done, totals.total) if ended is None else ""
        told = f'<div class="nbllm-foot">{escape(foot)}</div>' if foot else ""
        html = f"<div><b>Rows</b> {escape(line)}</div>{far}{told}"
        self.publish(html, "\n".join(filter(None, (line, foot))), last=ended is not None)


def run(
    session: Session, line: CellLine, question: Question, template: str
) -> pd.DataFrame | BatchJob | None:
    """Runs the prompt for every row; returns the first rows, None under quiet. With wait=false it returns a
    BatchJob, which is also in the variable of out= and in _llm; the frame stays as it is. Raises
    ConfigError for errors found before sending, and the reason if the run ended early; the frame is in its
    variable then too."""
    options = question.options
    name = str(options["each"])
    with line.locate_errors("each"):
        df = _data_frame(session, name)
    target, call_options = line.out or name, _call_options(session, question)
    executor = _executor(session, line, options.get("executor"))
    try:
        result = rows.map(df, template, client=session.client, executor=executor, **call_options)
    except ExecutorError as error:
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
    """The options of a cell for rows.map."""
    options, contestants = question.options, question.contestants
    if len(contestants) > 1:
        raise ConfigError("each= asks one model.", hint="Run the cell again with out=NAME for another.")
    _, spec = session.prepare_call(question, contestants[0])
    row_options = {n: options[n] for n in ("into", "run", "width", "mode", "wait") if n in options}
    return {**spec.selected(), **row_options, "model": contestants[0].model, "schema": question.shape}


def _executor(session: Session, line: CellLine, name: str | None) -> Any:
    """The value of the variable in executor=, None without one. Raises ConfigError, with the column."""
    if name is not None and name not in session.namespace:
        hint = "executor= names a concurrent.futures.Executor, or a client of dask."
        raise column_error(line.spans["executor"][0], f"there is no variable called {name}", hint)
    return None if name is None else session.namespace[name]


def batches(session: Session, rest: str) -> Any:
    """`%llm batches`: lists the batches of this machine; NAME [TABLE] returns the table of a run with the
    answers so far, cancel NAME cancels its batches. Raises ConfigError for an unknown run or table."""
    words = rest.split()
    if not words:
        return rows.batches()
    if words[0] == "cancel" and len(words) == 2:
        counts = rows.cancel(words[1], client=session.client)
        return ", ".join(f"{count:,} {state}" for state, count in counts.items())
    if len(words) > 2:
        raise ConfigError("Expected a run and its table.", hint="For example: df = %llm batches reviews df")
    df = _data_frame(session, words[1]) if len(words) > 1 else None
    return rows.collect(words[0], df, client=session.client)


def _data_frame(session: Session, name: str) -> Any:
    """The DataFrame of that name. Raises ConfigError."""
    df = session.namespace.get(name)
    if not (hasattr(df, "iloc") and hasattr(df, "columns")):
        wrong = f"{name} is not a pandas DataFrame, but {type(df).__name__}"
        hint = f"Write {name} = {name}.to_pandas()." if hasattr(df, "to_pandas") else "Name a DataFrame."
        raise ConfigError(
            f"{wrong if name in session.namespace else f'there is no variable called {name}'}.", hint=hint
        )
    return df
