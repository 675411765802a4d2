"""Chooses the painter of a run by front end, number of answers and options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from uuid import uuid4

from .buttons import StopButtons
from .run import Run
from .session import Session
from .view.frontend import KernelPort, output_mode
from .view.grid import Grid
from .view.live import LivePainter
from .view.markdown import parser
from .view.outcome import Outcome, Painter
from .view.text import TextPainter


def choose_painter(
    session: Session, run: Run, before: Sequence[Outcome] = (), *, in_place: bool = False
) -> Painter:
    """The painter for `run`, beside the columns of `before`. in_place: the cell may have ended when the
    answers arrive."""
    options = run.question.options
    mode = render_mode(session, run)
    if options.get("quiet"):
        return Painter()
    if mode == "terminal":
        return _terminal_painter(run, before)
    port = KernelPort(session.shell)
    parser()  # imported before the call, so that the first text does not wait for it

    def alone() -> bool:
        return session.is_alone and not in_place

    if len(run.states) == 1 and not before and not in_place:
        run.actions_id = f"nbllm-{uuid4().hex}" if mode == "live" and session.comm is not None else ""
        return LivePainter(
            port,
            run.states[0],
            mode=mode,  # type: ignore[arg-type]
            is_alone=alone,
            clear_count=lambda: session.clear_count,
            actions_id=run.actions_id,
        )
    live = mode == "live" and session.comm is not None
    stops = StopButtons([s.label for s in run.states], run.stop) if live else None
    return Grid(
        port,
        run.states,
        mode=mode,
        format=run.question.format,
        before=before,
        is_alone=alone,
        stop_ids=stops.placeholder_ids if stops else (),
        close=stops.close if stops else lambda: None,
    )


def _terminal_painter(run: Run, before: Sequence[Outcome]) -> Painter:
    """Plain text, or Markdown drawn by rich if that is installed and standard output is a terminal."""
    thoughts = run.question.show_reasoning
    if run.question.format == "md" and sys.stdout.isatty() and find_spec("rich") is not None:
        from .view.rich_text import RichPainter

        return RichPainter(run.states, before=before, thoughts=thoughts)
    return TextPainter(len(run.states), before=before, thoughts=thoughts)


def render_mode(session: Session, run: Run) -> str:
    """live, final, plain or terminal: render= of the cell, or what the front end supports."""
    return output_mode(session.shell, str(run.question.options.get("render", "auto")))
