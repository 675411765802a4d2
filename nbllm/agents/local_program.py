"""The program in which a local model runs: llama.cpp's own server, as the package xllamacpp brings it. A
process of its own, so that what it costs and how it ends is none of the kernel's business.

It reads one line of JSON (path, name, key, context), loads the model, writes one line with its address, and
ends with its standard input. No other module of ours is imported here.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Loads and serves until nobody needs it."""
    import xllamacpp  # type: ignore[import-untyped]

    asked = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = asked["path"], {asked["name"]}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [asked["key"]]
    params.n_ctx, params.n_parallel, params.ui = asked["context"], 1, False
    try:
        server = xllamacpp.Server(params)  # returns when the model is loaded
    except RuntimeError:  # it has told why on standard error
        os._exit(1)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # what it is doing for nobody is not waited for


if __name__ == "__main__":
    main()
