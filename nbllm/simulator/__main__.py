"""`python -m nbllm.simulator`: prints its addresses and serves until Ctrl-C."""

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
    """Serves until interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nbllm.simulator",
        description="A loopback provider with configurable times and faults.",
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for a free one (default)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--defaults",
        default="",
        metavar="KEY=VALUE,...",
        help="options of requests that set none, such as ttft=0.4,gap=0.02",
    )
    parser.add_argument(
        "--attached",
        action="store_true",
        help="exit when standard input is closed, so when the parent process ends",
    )
    args = parser.parse_args(argv)
    with contextlib.suppress(ImportError, ValueError, OSError):  # each client needs a socket
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536), hard)
        )
    try:
        server = serve(args.port, host=args.host, **parse(args.defaults))
    except (BadOption, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - output of a command
        return 2
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)  # noqa: T201
        for name in FORMATS:
            print(f"  {name:17}{server.base_url(name)}", flush=True)  # noqa: T201
        _exit_at_end_of_input() if args.attached else threading.Event().wait()
    return 0


def _exit_at_end_of_input() -> None:
    """Ends the process at the end of standard input, whatever the server is doing."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            continue
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
