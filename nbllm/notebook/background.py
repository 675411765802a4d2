"""bg=true: the prompt comes back at once, the answer grows in its own cell, and the variable is a Stream
until it is done.

Where nobody watches (nbclient, papermill, nbval) a notebook is saved when its last cell has ended, so there
such a cell waits. What is drawn later is an update of the display that the cell has made, so it stays in that
cell whatever runs meanwhile.
"""

from __future__ import annotations

from ..core.errors import ConfigError
from ..core.values import plural
from .painters import choose_painter, render_mode
from .run import GuardedPainter, Run, TurnAppender, append_turn, follow_safely, start_thread, store_results
from .session import Session
from .view.outcome import Painter


def runs_in_background(session: Session, run: Run) -> bool:
    """Whether a run goes to the background: its cell says so, and somebody watches."""
    return bool(run.question.options.get("bg")) and render_mode(session, run) != "final"


def start_background(session: Session, run: Run, out: str | None, append: TurnAppender | None) -> None:
    """Asks, shows the beginning, and lets a thread do the rest. Raises ConfigError for what is wrong on this
    side."""
    terminal = render_mode(session, run) == "terminal"
    guarded = GuardedPainter(Painter() if terminal else choose_painter(session, run, in_place=True))
    run.begin()
    guarded.start()
    session.mark_output()
    names = [name for name in (out, "_llm") if name]
    placeholders: dict[str, object] = dict.fromkeys(names, run.streams[0] if len(run.streams) == 1 else run)
    session.namespace.update(placeholders)
    session.background_runs.append(run)
    if terminal:
        session.print_text(f"Asked in the background: {names[0]} is a Stream until the answer is there.")

    def finish() -> None:
        """However it ends, the answer is kept; the cell's display, its variables and `%llm stop` end too."""
        follow_safely(run, guarded)
        session.background_runs.remove(run)
        store_results(session, run, out, expected=placeholders)
        if run.error is None:
            append_turn(run, append)
        guarded.finish(run.settled_outcomes())

    start_thread("background", finish)


def stop(session: Session, _rest: str) -> str:
    """Stops what is answered in the background."""
    running = session.background_runs[:]
    if not running:
        raise ConfigError(
            "Nothing runs in the background.", hint="A cell with bg=true does; ■ stops the cell that runs."
        )
    for run in running:
        run.cancel()
    return f"Stopped {plural(sum(len(run.streams) for run in running), 'answer')}."
