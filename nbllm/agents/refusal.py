"""HTTP errors in a step of a turn, and replies that may be such an error."""

from __future__ import annotations

from ..core.calls import Reply


class Refusal(Exception):
    """The server answered a step with an HTTP error."""

    def __init__(self, status: int, headers: dict[str, str], page: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.page = status, headers, page


class RefusableReply(Reply):
    """A reply with the status, headers and body of its refusal, if there is one."""

    __slots__ = ()
    refusal: Refusal | None

    @property
    def status(self) -> int:
        """The status of the refusal, else 200."""
        return self.refusal.status if self.refusal else 200

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the refusal."""
        return self.refusal.headers if self.refusal else {}

    async def body(self, limit: int = 0) -> bytes:
        """The body of the refusal."""
        return self.refusal.page if self.refusal else b""
