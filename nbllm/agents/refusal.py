"""A server that says no to a step of a turn, and a reply that may be that."""

from __future__ import annotations

from ..core.calls import Reply


class Refusal(Exception):
    """The server said no."""

    def __init__(self, status: int, headers: dict[str, str], page: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.page = status, headers, page


class RefusableReply(Reply):
    """A reply whose status, headers and page are those of its refusal, where there is one."""

    __slots__ = ()
    refusal: Refusal | None

    @property
    def status(self) -> int:
        """Of a refusal, else 200."""
        return self.refusal.status if self.refusal else 200

    @property
    def headers(self) -> dict[str, str]:
        """Those of a refusal."""
        return self.refusal.headers if self.refusal else {}

    async def body(self, limit: int = 0) -> bytes:
        """The page of a refusal."""
        return self.refusal.page if self.refusal else b""
