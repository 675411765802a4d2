"""Network errors, as connections raise them; transport.py translates them into NbllmErrors.

- Fault
  - NotConnected: no connection; ProxyFault: the proxy made none
  - ConnectTimeout: no connection in time
  - ConnectionBroken: the connection ended too soon
  - InvalidResponse: the response is not valid HTTP
  - InvalidRequest: the request is not valid HTTP
"""

from __future__ import annotations


class Fault(Exception):
    """Base class."""


class NotConnected(Fault):
    """No connection could be made."""


class ProxyFault(NotConnected):
    """A proxy made no connection."""


class ConnectTimeout(Fault):
    """No connection was made within the time limit."""


class ConnectionBroken(Fault):
    """The connection ended too soon."""


class InvalidResponse(Fault):
    """The response is not valid HTTP."""


class InvalidRequest(Fault):
    """The request is not valid HTTP."""
