"""Output to the front end: a kernel's display channel, or the terminal in which IPython runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_MARKER = "nbllm"  # marks our own messages, in a part that notebooks do not save


class KernelPort:
    """The display channel of an IPython kernel."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def publish(
        self,
        data: Mapping[str, str],
        *,
        display_id: str | None = None,
        update: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Displays a MIME bundle, or replaces the one displayed under `display_id`; `metadata` is saved with
        it."""
        transient: dict[str, Any] = {_MARKER: True} | ({"display_id": display_id} if display_id else {})
        self._shell.display_pub.publish(
            data=dict(data), metadata=dict(metadata or {}), transient=transient, update=update
        )

    def clear(self, *, wait: bool) -> None:
        """Removes the cell's outputs; with `wait`, when the next one arrives."""
        self._shell.display_pub.clear_output(wait=wait)


def is_ours(message: Mapping[str, Any]) -> bool:
    """Whether a display message comes from nbllm."""
    return _MARKER in message["content"].get("transient", {})


def output_mode(shell: Any, render: str = "auto") -> str:
    """How `shell` displays output: live in an interactive front end; final (only the final form) without a
    user (nbclient, papermill, nbval, a cell under %%capture) and in an Output widget, which updates do not
    reach; terminal: as text. `render` (live, final, plain, terminal) overrides it."""
    from IPython.core.displaypub import CapturingDisplayPublisher

    kernel = getattr(shell, "kernel", None)
    if isinstance(shell.display_pub, CapturingDisplayPublisher) or (
        kernel is not None and _in_output_widget(shell)
    ):
        return "final"
    if render != "auto":
        return render
    if kernel is None:
        return "terminal"
    return "live" if getattr(kernel, "_allow_stdin", False) else "final"


def parent_message(shell: Any) -> Mapping[str, Any]:
    """The front end's message that is being handled; empty in a terminal, and in kernels that do not report
    it."""
    kernel = getattr(shell, "kernel", None)
    try:
        return kernel.get_parent("shell") or {} if kernel is not None else {}
    except (AttributeError, TypeError, LookupError):
        return {}


def hook_printed_text(hook: Callable[[dict[str, Any]], dict[str, Any]], *, enabled: bool = True) -> None:
    """Registers `hook` for messages of printed text of all threads, or unregisters it. Without effect on
    ipykernel 6."""
    for stream in (sys.stdout, sys.stderr):
        sender, register = (
            getattr(stream, "pub_thread", None),
            getattr(stream, "register_hook" if enabled else "unregister_hook", None),
        )
        if sender is not None and register is not None:
            sender.schedule(partial(register, hook))  # hooks belong to the thread that sends


def _in_output_widget(shell: Any) -> bool:
    """Whether an `Output` of ipywidgets captures the output now, as within `with output:`."""
    output = getattr(sys.modules.get("ipywidgets"), "Output", None)
    message_id = parent_message(shell).get("header", {}).get("msg_id")
    if output is None or not message_id:
        return False
    widgets = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", None) or output.widgets
    return any(
        isinstance(widget, output) and widget.msg_id == message_id for widget in list(widgets.values())
    )
