"""`python -m nbllm.simulator`: serves until Ctrl-C and prints where."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading

from . import serve
from .options import BadOption, parse
from .routes import FORMATS


def main(argv: list[str] | None = None) -> int:
    """Serves until it is interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nbllm.simulator", description="A loopback provider with chosen times and faults."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--defaults",
        default="",
        metavar="KEY=VALUE,...",
        help="options of requests that choose none, such as ttft=0.4,gap=0.02",
    )
    parser.add_argument(
        "--attached",
        action="store_true",
        help="end when standard input is closed, as a parent's end closes it",
    )
    args = parser.parse_args(argv)
    with contextlib.suppress(ImportError, ValueError, OSError):  # a thousand clients are a thousand sockets
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536), hard)
        )
    try:
        server = serve(args.port, host=args.host, **parse(args.defaults))
    except (BadOption, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command speaks on its streams
        return 2
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)  # noqa: T201
        for name in FORMATS:
            print(f"  {name:17}{server.base_url(name)}", flush=True)  # noqa: T201
        _until_closed() if args.attached else threading.Event().wait()
    return 0


def _until_closed() -> None:
    """Ends the process, whatever its server does, at the end of standard input."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            continue
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
