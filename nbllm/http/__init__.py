"""HTTP transports: connections, their pool, time stamps and frames."""
