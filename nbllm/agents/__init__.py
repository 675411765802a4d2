"""Agents and local models: command-line agents, OpenCode's server, remote agents, models in files."""
