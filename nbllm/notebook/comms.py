"""Messages from the page while a cell runs: whether they come, and what must be done so that they can.

Theory. JupyterLab sends a widget's messages to a subshell of the kernel, which answers while a cell runs; but
only once a widget has been made before, and ipykernel 7.4 sends the replies to the shell that is busy. So a
small widget is made when the extension is loaded, and each of ours is mended. Whether a message really comes
is never assumed: `_view_count` of a widget on the page is set by the page, and where that arrives while the
cell runs, a click will too.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

_LAYOUT = {
    "_model_module": "@jupyter-widgets/base",
    "_model_module_version": "2.0.0",
    "_model_name": "LayoutModel",
    "_view_count": None,
    "_view_module": "@jupyter-widgets/base",
    "_view_module_version": "2.0.0",
    "_view_name": "LayoutView",
}


# What the pages of our widgets and the kernel both know, by the page's file.
_TRAITS = {
    "actions.js": {},
    "stops.js": {"places": "list", "words": "list", "proved": "bool"},
    "chat_widget.js": {
        **dict.fromkeys(("place", "style", "model", "meter", "asked", "done", "tail", "status"), "str"),
        **dict.fromkeys(("busy", "placed"), "bool"),
        **dict.fromkeys(("models", "turns"), "list"),
        "question": "dict",
    },
}


def open_comm() -> Any:
    """Opens the comm of an empty layout, as ipywidgets would (it is not loaded for it); to be kept by the
    caller."""
    from comm import create_comm

    return create_comm(
        target_name="jupyter.widget",
        data={"state": _LAYOUT, "buffer_paths": []},
        metadata={"version": "2.1.0"},
    )


def read_asset(name: str) -> str:
    """A file of this folder that is for the page."""
    return Path(__file__).with_name(name).read_text("utf-8")


@lru_cache(maxsize=8)
def widget_class(name: str) -> type[Any]:
    """The kernel's side of a widget without a view, of which the file `name` is the page's: a module of
    JavaScript, before which stands what they share. It is made when first needed: anywidget loads
    ipywidgets."""
    import anywidget
    from traitlets import Bool, Dict, List, Unicode

    kinds = {"str": Unicode, "bool": Bool, "list": List, "dict": Dict}
    traits = {trait: kinds[kind]().tag(sync=True) for trait, kind in _TRAITS[name].items()}
    module = "\n".join(map(read_asset, ("page.js", name)))
    return type(name.partition(".")[0].title(), (anywidget.AnyWidget,), {"_esm": module, **traits})


def fix_reply_channel(widget: Any) -> Any:
    """The widget, its replies going the way by which the message came, also on ipykernel 7.4."""
    comm: Any = getattr(widget, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, default: default
    return widget
