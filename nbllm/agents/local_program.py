"""The program in which a local model runs: llama.cpp's own server, from the package xllamacpp. It is a
separate process, so that its memory, load and crashes do not affect the kernel.

It reads one line of JSON (path, name, key, context), loads the model, writes one line with its address, and
ends when its standard input is closed. It imports no other module of this package.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Loads the model and serves it until standard input is closed."""
    import xllamacpp  # type: ignore[import-untyped]

    settings = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = settings["path"], {settings["name"]}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [settings["key"]]
    params.n_ctx, params.n_parallel, params.ui = settings["context"], 1, False
    try:
        server = xllamacpp.Server(params)  # returns when the model is loaded
    except RuntimeError:  # the reason is on standard error
        os._exit(1)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # does not wait for answers under way


if __name__ == "__main__":
    main()
