"""Where output goes: a kernel's display channel, or the terminal that IPython runs in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_MARKER = "nbllm"  # marks what is our own, in the part of a message that no notebook keeps


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
        """Shows a MIME bundle, or replaces the one that was shown under `display_id`; `metadata` is saved
        with it."""
        transient: dict[str, Any] = {_MARKER: True} | ({"display_id": display_id} if display_id else {})
        self._shell.display_pub.publish(
            data=dict(data), metadata=dict(metadata or {}), transient=transient, update=update
        )

    def clear(self, *, wait: bool) -> None:
        """Removes the cell's outputs; with `wait` when the next one comes."""
        self._shell.display_pub.clear_output(wait=wait)


def is_ours(message: Mapping[str, Any]) -> bool:
    """Whether nbllm shows what a message holds."""
    return _MARKER in message["content"].get("transient", {})


def output_mode(shell: Any, render: str = "auto") -> str:
    """How `shell` shows things, or as `render` says (live, final, plain, terminal): live in a front end that
    answers; only the final form where nobody watches (nbclient, papermill, nbval, a cell under %%capture) and
    within an Output widget, which updates do not reach; as text in a terminal."""
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
    """The front end's message that is being answered; empty in a terminal, and where a kernel does not
    tell."""
    kernel = getattr(shell, "kernel", None)
    try:
        return kernel.get_parent("shell") or {} if kernel is not None else {}
    except (AttributeError, TypeError, LookupError):
        return {}


def hook_printed_text(hook: Callable[[dict[str, Any]], dict[str, Any]], *, enabled: bool = True) -> None:
    """Lets `hear` see every message of printed text, whatever thread prints, or no longer. ipykernel 6 cannot
    do that."""
    for stream in (sys.stdout, sys.stderr):
        sender, register = (
            getattr(stream, "pub_thread", None),
            getattr(stream, "register_hook" if enabled else "unregister_hook", None),
        )
        if sender is not None and register is not None:
            sender.schedule(partial(register, hook))  # its hooks are those of the thread that sends


def _in_output_widget(shell: Any) -> bool:
    """Whether an `Output` of ipywidgets takes what is shown now, as within `with output:`."""
    output = getattr(sys.modules.get("ipywidgets"), "Output", None)
    message_id = parent_message(shell).get("header", {}).get("msg_id")
    if output is None or not message_id:
        return False
    widgets = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", None) or output.widgets
    return any(
        isinstance(widget, output) and widget.msg_id == message_id for widget in list(widgets.values())
    )
