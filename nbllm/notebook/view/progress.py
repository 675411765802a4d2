"""Progress of a long task as one display that is updated: static HTML in every frame, so that a notebook
saved at any time shows it without a kernel."""

from __future__ import annotations

import sys
import time
from typing import Any, Self
from uuid import uuid4

from .frontend import KernelPort, output_mode
from .styles import container

_MIN_INTERVAL, _MAX_INTERVAL = 0.25, 2.0  # seconds between two frames; the interval grows with the duration
_BAR_STYLE = "height:4px;max-width:46em;border-radius:2px;margin:.4em 0 .8em;background:"


class Display:
    """A display in a kernel's front end. live: whether frames before the last one are shown."""

    def __init__(self, port: KernelPort, *, live: bool = True) -> None:
        self._port, self._live, self._id = port, live, f"nbllm-{uuid4().hex}"
        self._last_frame, self._is_shown = 0.0, False

    @classmethod
    def for_process(cls, **more: Any) -> Self | None:
        """A display for this kernel's front end; None in a terminal or a script."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        mode = "terminal" if shell is None else output_mode(shell)
        return None if mode == "terminal" else cls(KernelPort(shell), live=mode == "live", **more)

    def is_due(self, elapsed: float) -> bool:
        """Whether the last frame is old enough, `elapsed` seconds after the start."""
        return self._live and time.monotonic() - self._last_frame > min(
            _MAX_INTERVAL, max(_MIN_INTERVAL, elapsed / 100)
        )

    def publish(self, html: str, text: str, *, last: bool) -> None:
        """Shows a frame."""
        self._last_frame = time.monotonic()
        if last or self._live:
            bundle = {"text/html": container(html, style=True), "text/plain": text}
            self._port.publish(bundle, display_id=self._id, update=self._is_shown)
            self._is_shown = True


def progress_bar(done: int, total: int) -> str:
    """A progress bar as HTML."""
    share = min(1.0, done / total) if total else 1.0
    return (
        f'<div style="{_BAR_STYLE}rgba(128,128,128,.2)">'
        f'<div style="{_BAR_STYLE}var(--jp-brand-color1,#3a82d6);width:{share:.1%}"></div></div>'
    )
