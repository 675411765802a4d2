"""What goes wrong with MCP servers, in words: the SDK's exceptions, which come in groups and bring pages of
pydantic's."""

from __future__ import annotations

from ..core.errors import NbllmError, error_line

# What the SDK says of a connection that is gone for good, and not of a call.
_GONE = (
    "Connection closed",
    "Session terminated",
    "Server returned an error response",
    "SSE stream ended",
    "reconnection attempts",
)


class ToolFailed(NbllmError):
    """A server's tool came to nothing. The message is one line, for the model."""


def is_gone(error: Exception) -> bool:
    """Whether the connection has ended, and not only a call failed."""
    return any(sign in str(error) for sign in _GONE)


def leaf(error: BaseException) -> Exception:
    """What is behind groups of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, Exception)), error.exceptions[0])
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)


def words(error: Exception) -> str:
    """An exception in words: a server's error as it tells it, and no page of pydantic's."""
    if isinstance(error, NbllmError):
        return error.message.rstrip(".")
    if type(error).__name__ == "ValidationError" or " validation error" in str(error):
        return "what it answered does not fit the protocol"
    if type(error).__name__ == "MCPError":
        return str(error)
    return error_line(error).removeprefix("RuntimeError: ")
