"""How a Response draws itself as the value of a cell: the safe bundle, unless that cell has just streamed it."""

from __future__ import annotations

from typing import Any

from ..events import Response
from .session import Session


def install(session: Session) -> None:
    """Registers the drawing of responses in the session's shell."""

    def draw(response: Response) -> None:
        if not session.was_shown(response):
            from .bundle import final, footer  # noqa: PLC0415 - markdown-it is loaded with the first answer

            session.show(final(response, footer=footer(response)))

    _formatter(session).for_type(Response, draw)


def remove(session: Session) -> None:
    """Takes the drawing away."""
    _formatter(session).type_printers.pop(Response, None)


def _formatter(session: Session) -> Any:
    return session.shell.display_formatter.ipython_display_formatter
