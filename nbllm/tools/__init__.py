"""What a model may use: functions, HTTP endpoints, MCP servers, and what nbllm brings.

`tools=[price]` is enough for a function; `nbllm.tools.of(price, reads=True)` says more of it.
`nbllm.tools.HttpTool(name, url)` is an endpoint, `files(folder)` a folder, `python(globals())` Python itself.
"""

from .builtin import files, python
from .functions import of
from .http import HttpTool
from .usable import ToolArgumentsError, Usable

__all__ = ["HttpTool", "ToolArgumentsError", "Usable", "files", "of", "python"]
