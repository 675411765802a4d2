"""Errors of MCP servers as messages: the SDK raises exception groups, and pages of pydantic's text."""

from __future__ import annotations

from ..core.errors import NbllmError, error_line

# Parts of the SDK's messages about a lost connection.
_GONE = (
    "Connection closed",
    "Session terminated",
    "Server returned an error response",
    "SSE stream ended",
    "reconnection attempts",
)


class ToolFailed(NbllmError):
    """A server's tool failed. The message is one line, for the model."""


def is_disconnected(error: Exception) -> bool:
    """Whether the connection was lost, and not only a call failed."""
    return any(sign in str(error) for sign in _GONE)


def innermost(error: BaseException) -> Exception:
    """The exception inside exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, Exception)), error.exceptions[0])
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)


def error_text(error: Exception) -> str:
    """An exception's message: a server's error as it sent it, without pydantic's pages of text."""
    if isinstance(error, NbllmError):
        return error.message.rstrip(".")
    if type(error).__name__ == "ValidationError" or " validation error" in str(error):
        return "its answer does not follow the protocol"
    if type(error).__name__ == "MCPError":
        return str(error)
    return error_line(error).removeprefix("RuntimeError: ")
