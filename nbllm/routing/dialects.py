"""Every dialect that a provider's row may name: those of HTTP servers, of commands and of OpenCode's
server."""

from __future__ import annotations

from ..agents.one_shot import CLIS
from ..agents.opencode_protocol import OpenCodeServer
from ..core.calls import Dialect
from ..dialects import DIALECTS as SERVERS

DIALECTS: dict[str, Dialect] = {**SERVERS, **{d.name: d for d in (*CLIS, OpenCodeServer())}}


def choices() -> tuple[str, ...]:
    """The dialects that a user may name, those of installed packages with them."""
    return tuple(DIALECTS)
