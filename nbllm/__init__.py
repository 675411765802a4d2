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
    from . import errors as errors
    from . import simulator as simulator
    from .api import complete as complete
    from .api import default_client as default_client
    from .api import estimate_tokens as estimate_tokens
    from .api import health as health
    from .api import models as models
    from .api import providers as providers
    from .api import register_provider as register_provider
    from .api import stream as stream
    from .client import Client as Client
    from .client import Timeouts as Timeouts
    from .errors import NbllmError as NbllmError
    from .events import Event as Event
    from .events import Response as Response
    from .events import Timing as Timing
    from .events import Usage as Usage
    from .messages import Document as Document
    from .messages import Image as Image
    from .messages import Message as Message
    from .messages import Reasoning as Reasoning
    from .messages import Request as Request
    from .messages import Text as Text
    from .messages import Tool as Tool
    from .messages import ToolCall as ToolCall
    from .messages import ToolResult as ToolResult
    from .notebook.buttons import approve as approve
    from .notebook.chat_widget import ChatWidget as ChatWidget
    from .notebook.magics import load_ipython_extension as load_ipython_extension
    from .notebook.magics import unload_ipython_extension as unload_ipython_extension
    from .policy import Retries as Retries
    from .streams import Stream as Stream
    from .wire import Provider as Provider

__version__ = "0.1.0"

# Where each public name lives; "" means the module itself.
_HOME = {
    **dict.fromkeys(("stream", "complete", "providers", "models", "default_client", "health", "estimate_tokens", "register_provider"), "api"),
    **dict.fromkeys(("Client", "Timeouts"), "client"),
    "Retries": "policy",
    "Stream": "streams",
    "NbllmError": "errors",
    **dict.fromkeys(("Event", "Response", "Timing", "Usage"), "events"),
    **dict.fromkeys(("Document", "Image", "Message", "Reasoning", "Request", "Text", "Tool", "ToolCall", "ToolResult"), "messages"),
    "Provider": "wire",
    "ChatWidget": "notebook.chat_widget",
    "approve": "notebook.buttons",
    **dict.fromkeys(("load_ipython_extension", "unload_ipython_extension"), "notebook.magics"),
    **dict.fromkeys(("bench", "errors", "simulator"), ""),
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'nbllm' has no attribute {name!r}")
    if not home:
        module = import_module(f".{name}", __name__)
        if name == "bench" and "ipykernel" in sys.modules:  # its runs are drawn in the notebook; bench itself knows none
            import_module(".progress", module.__name__).register(import_module(".notebook.dashboard", __name__).factory)
        return module
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
