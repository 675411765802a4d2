"""Tools for models: functions, HTTP endpoints, MCP servers, and built-in tools.

`tools=[price]` is enough for a function; `nbllm.tools.of(price, reads=True)` adds options.
`nbllm.tools.HttpTool(name, url)` is an endpoint, `files(folder)` a folder, `python(globals())` Python itself.
"""

from .builtin import files, python
from .functions import of
from .http import HttpTool
from .usable import ToolArgumentsError, Usable

__all__ = ["HttpTool", "ToolArgumentsError", "Usable", "files", "of", "python"]
