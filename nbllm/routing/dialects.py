"""Every dialect that nbllm brings: those of HTTP servers, of commands, of OpenCode's server and of remote
agents. Installed packages bring others, see Registry.dialects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..agents import opencode_protocol, remote_protocol
from ..agents.one_shot import CLIS
from ..core.calls import Dialect
from ..dialects import DIALECTS as SERVERS

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    SERVERS | {d.name: d for d in (*CLIS, opencode_protocol.DIALECT, remote_protocol.DIALECT)}
)
