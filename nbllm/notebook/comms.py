"""Widget messages from the page while a cell runs: whether they arrive, and what they need to arrive.

Theory. JupyterLab sends a widget's messages to a subshell of the kernel, which handles them while a cell
runs; but only if a widget was created before, and ipykernel 7.4 sends the replies to the busy main shell. So
a small widget is created when the extension is loaded, and the replies of each of ours are redirected.
Whether messages really arrive is never assumed: the page sets `_view_count` of a displayed widget, and if
that arrives while the cell runs, a click will too.
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


# The synchronised traits of our widgets, by the file of their page code.
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
    """Opens the comm of an empty layout, as ipywidgets would, without importing ipywidgets. The caller must
    keep it."""
    from comm import create_comm

    return create_comm(
        target_name="jupyter.widget",
        data={"state": _LAYOUT, "buffer_paths": []},
        metadata={"version": "2.1.0"},
    )


def read_asset(name: str) -> str:
    """A JavaScript or CSS file of this folder."""
    return Path(__file__).with_name(name).read_text("utf-8")


@lru_cache(maxsize=8)
def widget_class(name: str) -> type[Any]:
    """The widget class without a view for the JavaScript file `name`; the shared page.js is put before it.
    Created on first use, since anywidget imports ipywidgets."""
    import anywidget
    from traitlets import Bool, Dict, List, Unicode

    kinds = {"str": Unicode, "bool": Bool, "list": List, "dict": Dict}
    traits = {trait: kinds[kind]().tag(sync=True) for trait, kind in _TRAITS[name].items()}
    module = "\n".join(map(read_asset, ("page.js", name)))
    return type(name.partition(".")[0].title(), (anywidget.AnyWidget,), {"_esm": module, **traits})


def fix_reply_channel(widget: Any) -> Any:
    """Makes the widget's replies return on the channel of the message, also on ipykernel 7.4; returns it."""
    comm: Any = getattr(widget, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, default: default
    return widget
