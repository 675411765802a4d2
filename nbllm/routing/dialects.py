"""Every dialect that nbllm brings: those of HTTP servers, of commands, of OpenCode's server and of remote
agents. Installed packages bring others, see Registry.dialects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..agents.one_shot import CLIS
from ..agents.opencode_protocol import OpenCodeServer
from ..agents.remote_protocol import AgentToAgent
from ..core.calls import Dialect
from ..dialects import DIALECTS as SERVERS

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    SERVERS
    | {
        d.name: Dialect(d.name, d.encode, d.decoder, d.error)
        for d in (*CLIS, OpenCodeServer(), AgentToAgent())
    }
)
