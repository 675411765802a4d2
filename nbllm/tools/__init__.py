"""What a model may use: functions, HTTP endpoints, MCP servers, and the loop that runs them."""
