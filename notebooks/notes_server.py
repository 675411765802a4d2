"""An MCP server made of Python's standard library alone: one message of JSON-RPC a line. Its two tools read
the notes of a shop. `tools.ipynb` starts it with `%llm mcp add notes -- python3 notes_server.py`."""

import json
import sys

NOTES = {
    "A-17": "The last ten are scratched: sold at half the price.",
    "B-3": "Not before March.",
}
TOOLS = [
    {
        "name": "list_notes",
        "description": "The articles that have a note.",
        "inputSchema": {"type": "object", "properties": {}},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "read_note",
        "description": "The note about an article.",
        "inputSchema": {
            "type": "object",
            "properties": {"article": {"type": "string", "description": 'such as "A-17"'}},
            "required": ["article"],
        },
        "annotations": {"readOnlyHint": True},
    },
]


def call(name, arguments):
    """What a tool gives: its text, and whether that is an error."""
    if name == "list_notes":
        return ", ".join(NOTES), False
    note = NOTES.get(arguments.get("article"))
    return (note, False) if note else (f"There is no note about {arguments.get('article')!r}.", True)


def answer(method, params):
    """The result of a request; None for a method that this server does not have."""
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "notes", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        text, failed = call(params["name"], params.get("arguments") or {})
        return {"content": [{"type": "text", "text": text}], "isError": failed}
    return {} if method == "ping" else None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:  # a notification wants no answer
        continue
    result = answer(message["method"], message.get("params") or {})
    reply = (
        {"error": {"code": -32601, "message": f"No method {message['method']}."}}
        if result is None
        else {"result": result}
    )
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}) + "\n")
    sys.stdout.flush()
