"""bg=true: the cell ends at once, the answer grows in its output, and the variable holds a Stream until it
ends.

Without a user (nbclient, papermill, nbval) a notebook is saved when its last cell has ended, so there the
cell waits. Later frames update the display that the cell has created, so they stay in that cell whatever runs
meanwhile.
"""

from __future__ import annotations

from ..core.errors import ConfigError
from ..core.values import plural
from .painters import choose_painter, render_mode
from .run import GuardedPainter, Run, TurnAppender, append_turn, follow_safely, start_thread, store_results
from .session import Session
from .view.outcome import Painter


def runs_in_background(session: Session, run: Run) -> bool:
    """Whether a run goes to the background: bg=true, and a user watches."""
    return bool(run.question.options.get("bg")) and render_mode(session, run) != "final"


def start_background(session: Session, run: Run, out: str | None, append: TurnAppender | None) -> None:
    """Sends the question, shows the first frame, and lets a thread do the rest. Raises ConfigError for errors
    found before sending."""
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
        """Stores the answer however it ends, and ends the display, the variables and the entry for `%llm
        stop`."""
        follow_safely(run, guarded)
        session.background_runs.remove(run)
        store_results(session, run, out, expected=placeholders)
        if run.error is None:
            append_turn(run, append)
        guarded.finish(run.settled_outcomes())

    start_thread("background", finish)


def stop(session: Session, _rest: str) -> str:
    """Stops all answers in the background."""
    running = session.background_runs[:]
    if not running:
        raise ConfigError("Nothing runs in the background.", hint="To stop the running cell, press ■.")
    for run in running:
        run.cancel()
    return f"Stopped {plural(sum(len(run.streams) for run in running), 'answer')}."
