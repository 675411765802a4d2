"""How a Response draws itself as the value of a cell: the safe bundle, unless that cell has just streamed
it."""

from __future__ import annotations

from typing import Any

from ..core.events import Response
from .comparison import Comparison
from .session import Session


def install(session: Session) -> None:
    """Registers the drawing of responses in the session's shell."""

    def draw(response: Response) -> None:
        if not session.was_shown(response):
            from .view.static import final, footer

            session.show(final(response, footer=footer(response)))

    def draw_all(comparison: Comparison) -> None:
        if not session.was_shown(comparison):
            session.show(comparison._repr_mimebundle_())

    _formatter(session).for_type(Response, draw)
    _formatter(session).for_type(Comparison, draw_all)


def remove(session: Session) -> None:
    """Takes the drawing away."""
    for kind in (Response, Comparison):
        _formatter(session).type_printers.pop(kind, None)


def _formatter(session: Session) -> Any:
    return session.shell.display_formatter.ipython_display_formatter
