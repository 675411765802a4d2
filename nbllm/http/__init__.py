"""Transports over sockets: connections, their pool, stamps and frames."""
