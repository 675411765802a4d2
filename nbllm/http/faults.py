"""What goes wrong on the way to a server and back, as connections tell it; our words are in transport.py.

- Fault
  - NotConnected: no connection; ProxyFault: the proxy gave none; NotInTime: none in time
  - Broken: it was there, and ended too soon
  - Unreadable: what came is no HTTP
  - Unsendable: what was to be sent is no HTTP
"""

from __future__ import annotations


class Fault(Exception):
    """The root of them."""


class NotConnected(Fault):
    """There is no connection."""


class ProxyFault(NotConnected):
    """A proxy gave none."""


class ConnectTimeout(Fault):
    """There was no connection in the time allowed."""


class ConnectionBroken(Fault):
    """A connection ended too soon."""


class InvalidResponse(Fault):
    """What came is not what HTTP allows."""


class InvalidRequest(Fault):
    """What was to be sent is not what HTTP allows."""
