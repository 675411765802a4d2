"""Where output goes: a kernel's display channel, or the terminal that IPython runs in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..events import Event, ReasoningDelta, Response, Restarted, TextDelta
from .bundle import Line, final
from .display import Live
from .hidden import plain


class KernelPort:
    """The display channel of an IPython kernel."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def publish(self, data: Mapping[str, str], *, display_id: str | None = None, update: bool = False, metadata: Mapping[str, Any] | None = None) -> None:
        """Shows a MIME bundle, or replaces the one that was shown under `display_id`; `metadata` is saved with it."""
        transient = {"display_id": display_id} if display_id else {}
        self._shell.display_pub.publish(data=dict(data), metadata=dict(metadata or {}), transient=transient, update=update)

    def clear(self, *, wait: bool) -> None:
        """Removes the cell's outputs; with `wait` when the next one comes."""
        self._shell.display_pub.clear_output(wait=wait)


class Terminal:
    """An answer in a terminal: its text as it comes, then what there is to say about it."""

    def __init__(self, write: Callable[[str], Any] | None = None, *, quiet: bool = False) -> None:
        self._write = write or _to_stdout
        self._quiet = quiet
        self._held = ""  # half of a surrogate pair or of a line end, until the other half comes
        self._thinking = self._wrote = False

    def start(self) -> None:
        """Nothing to show yet."""

    def feed(self, event: Event) -> None:
        """Writes text and reasoning."""
        if self._quiet:
            return
        if isinstance(event, Restarted):
            self._write(f"\n[starting again: {plain(event.why)}]\n")
        elif isinstance(event, (TextDelta, ReasoningDelta)) and event.text:
            self._mark(isinstance(event, ReasoningDelta))
            text = self._held + event.text
            self._held = text[-1] if text[-1] == "\r" or "\ud800" <= text[-1] <= "\udbff" else ""
            self._write(plain(text.removesuffix(self._held)))
            self._wrote = True

    def _mark(self, thinking: bool) -> None:
        if thinking != self._thinking:
            self._write("[reasoning]\n" if thinking else "\n[/reasoning]\n\n")
            self._thinking = thinking

    def tick(self, now: float | None = None) -> None:
        """Nothing to do: text is written as it comes."""

    def finish(self, response: Response, footer: Line | None = None, error: BaseException | None = None,
               instead: Mapping[str, str] | None = None) -> None:
        """Writes what was not in the text: tool calls, how it ended, the figures. An error alone is told by the cell."""
        if error is not None and not (response.parts or response.refusal):
            return
        if self._wrote:  # only what was not written yet
            response = replace(response, parts=response.tool_calls)
        self._mark(False)
        if instead is not None:
            self._write("\n\n" + instead["text/plain"] + "\n")
            return
        rest = final(response, footer=footer, error=error, html=False, empty=not self._wrote)["text/plain"]
        self._write(("\n\n" if self._wrote else "") + rest + "\n" if rest else "\n")


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def where(shell: Any, render: str = "auto") -> str:
    """How `shell` shows things, or as `render` says (live, final, plain, terminal): live in a front end that answers; only the
    final form where nobody watches (nbclient, papermill, nbval, a cell under %%capture) and within an Output widget, which
    updates do not reach; as text in a terminal."""
    from IPython.core.displaypub import CapturingDisplayPublisher

    kernel = getattr(shell, "kernel", None)
    if isinstance(shell.display_pub, CapturingDisplayPublisher) or (kernel is not None and _in_output_widget(shell)):
        return "final"
    if render != "auto":
        return render
    if kernel is None:
        return "terminal"
    return "live" if getattr(kernel, "_allow_stdin", False) else "final"


def request(shell: Any) -> Mapping[str, Any]:
    """The front end's message that is being answered; empty in a terminal, and where a kernel does not tell."""
    kernel = getattr(shell, "kernel", None)
    try:
        return kernel.get_parent("shell") or {} if kernel is not None else {}
    except (AttributeError, TypeError, LookupError):
        return {}


def _in_output_widget(shell: Any) -> bool:
    """Whether an `Output` of ipywidgets takes what is shown now, as within `with output:`."""
    output = getattr(sys.modules.get("ipywidgets"), "Output", None)
    here = request(shell).get("header", {}).get("msg_id")
    if output is None or not here:
        return False
    known = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", None) or output.widgets
    return any(isinstance(widget, output) and widget.msg_id == here for widget in list(known.values()))


def view(shell: Any, *, render: str = "auto", model: str = "", format: str = "md", alone: bool = True) -> Live | Terminal:
    """What shows an answer in `shell`. render: auto, live, final, plain or terminal; alone: as in display.Live."""
    mode = where(shell, render)
    if mode == "terminal":
        return Terminal()
    return Live(KernelPort(shell), model=model, mode=mode, format=format, alone=alone)  # type: ignore[arg-type]  # grammar checks
