"""nbllm: use, and compare, language models from a Jupyter notebook.

    %load_ext nbllm

    %%llm model=gemini/pro
    Why is the sky blue?

and in Python: `nbllm.complete("Why is the sky blue?", model="gemini/pro").text`, `nbllm.stream(...)`.
Names are imported when they are first used, so that `import nbllm` is light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bench as bench
    from . import rows as rows
    from . import simulator as simulator
    from . import tools as tools
    from .client.api import complete as complete
    from .client.api import default_client as default_client
    from .client.api import embed as embed
    from .client.api import estimate_tokens as estimate_tokens
    from .client.api import health as health
    from .client.api import models as models
    from .client.api import nearest as nearest
    from .client.api import providers as providers
    from .client.api import record as record
    from .client.api import register_provider as register_provider
    from .client.api import replay as replay
    from .client.api import resource as resource
    from .client.api import resume as resume
    from .client.api import server_prompt as server_prompt
    from .client.api import stream as stream
    from .client.api import trace as trace
    from .client.api import unload as unload
    from .client.chat import Chat as Chat
    from .client.client import Client as Client
    from .client.policy import Retries as Retries
    from .client.policy import Timeouts as Timeouts
    from .client.stream import Stream as Stream
    from .core import errors as errors
    from .core.calls import ProviderSpec as ProviderSpec
    from .core.errors import NbllmError as NbllmError
    from .core.events import Event as Event
    from .core.events import Response as Response
    from .core.events import Timing as Timing
    from .core.events import Usage as Usage
    from .core.messages import Document as Document
    from .core.messages import Image as Image
    from .core.messages import Message as Message
    from .core.messages import Reasoning as Reasoning
    from .core.messages import Request as Request
    from .core.messages import Text as Text
    from .core.messages import Tool as Tool
    from .core.messages import ToolCall as ToolCall
    from .core.messages import ToolResult as ToolResult
    from .notebook.buttons import approve as approve
    from .notebook.chat_widget import ChatWidget as ChatWidget
    from .notebook.magics import load_ipython_extension as load_ipython_extension
    from .notebook.magics import unload_ipython_extension as unload_ipython_extension
    from .rows import map as map  # noqa: A004 - nbllm.map is the name for it

__version__ = "0.1.0"

# The module of each public name; "" for a submodule.
_MODULES = {
    **dict.fromkeys(
        (
            "stream",
            "complete",
            "resource",
            "resume",
            "server_prompt",
            "record",
            "replay",
            "trace",
            "providers",
            "models",
            "default_client",
            "health",
            "embed",
            "estimate_tokens",
            "nearest",
            "register_provider",
            "unload",
        ),
        "client.api",
    ),
    "Client": "client.client",
    "Chat": "client.chat",
    **dict.fromkeys(("Retries", "Timeouts"), "client.policy"),
    "Stream": "client.stream",
    "NbllmError": "core.errors",
    **dict.fromkeys(("Event", "Response", "Timing", "Usage"), "core.events"),
    **dict.fromkeys(
        ("Document", "Image", "Message", "Reasoning", "Request", "Text", "Tool", "ToolCall", "ToolResult"),
        "core.messages",
    ),
    "ProviderSpec": "core.calls",
    "ChatWidget": "notebook.chat_widget",
    "approve": "notebook.buttons",
    **dict.fromkeys(("load_ipython_extension", "unload_ipython_extension"), "notebook.magics"),
    "map": "rows",
    **dict.fromkeys(("bench", "errors", "rows", "simulator", "tools"), ""),
}
__all__ = list(_MODULES)
# Modules that show runs in a kernel; bench and rows themselves do not import the notebook.
_DISPLAYS = {"bench": ".notebook.dashboard", "rows": ".notebook.rows"}


def __getattr__(name: str) -> Any:
    module_name = _MODULES.get(name)
    if module_name is None:
        near = [] if name[0] == "_" else import_module("difflib").get_close_matches(name, _MODULES, 1)
        raise AttributeError(
            f"module 'nbllm' has no attribute {name!r}" + "".join(f": did you mean {n}?" for n in near)
        )
    magics = sys.modules.get("nbllm.notebook.magics")
    if magics is not None and (module_name.startswith("client.") or name in ("rows", "bench")):
        magics.attach_user_prompt()  # so that questions to the user appear in the notebook
    if not module_name:
        module = import_module(f".{name}", __name__)
        if name in _DISPLAYS and "ipykernel" in sys.modules:
            import_module(_DISPLAYS[name], __name__)
        return module
    from .core.collector import gc_paused

    with gc_paused(long_lived=True):
        module = __getattr__("rows") if module_name == "rows" else import_module(f".{module_name}", __name__)
        value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
