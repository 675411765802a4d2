"""The one path every reply takes: client, stream, engine, and the functions of the public face."""
