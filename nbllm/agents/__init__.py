"""Command-line agents and OpenCode's server: their words, their processes and their sessions."""
