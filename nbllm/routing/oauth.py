"""Logs in to a provider by OAuth 2, for rows that declare it: a device code (RFC 8628), or an authorization
code with PKCE and a redirect to this machine (RFC 7636, RFC 8252); renewal with rotation (RFC 6749, section
6). Authlib makes the address for the browser and its proof; a server's answer is read here, limited in size
and time, and each value in it is checked.

A token is stored in the keyring under the address of its provider, or in memory where there is no keyring,
together with its token address: a row that is changed to another token address cannot renew it there. It is
renewed before a call, a minute before it expires, and once however many calls wait for it.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..core.calls import OAuth, ProviderSpec, Secret
from ..core.errors import AuthenticationError, ConfigError, ProtocolError
from ..dialects._json import label, load_json, obj
from .key_stores import SERVICE, KeyStores

_RENEW_BEFORE = 60.0  # seconds before its expiry at which a token is renewed
_TIMEOUT = 600.0  # seconds for the user in the browser, where the server sets no limit
_MAX_ANSWER, _ANSWER_TIMEOUT = 2**20, 60.0  # bytes and seconds of a server's answer
_FAST_POLLS = 4  # polls that may follow each other faster than one a second
_MAX_ADDRESS = 2_000  # characters of an address that is shown
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b[\]PX^_]|[\x9d\x90])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
)
_SERVICE = f"{SERVICE} login"
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_locks: dict[str, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Token:
    """The result of a login: the access and refresh token, when it expires (seconds since 1970, None for
    never), and where it came from."""

    access: Secret
    refresh: Secret | None
    expires: float | None
    token_url: str
    client_id: str

    @property
    def is_valid(self) -> bool:
        """Whether it can still be sent."""
        return self.expires is None or self.expires - _RENEW_BEFORE > time.time()

    def to_json(self) -> str:
        """The text that the keyring stores."""
        return json.dumps(
            {
                "access": self.access.reveal(),
                "refresh": self.refresh.reveal() if self.refresh else None,
                "ends": self.expires,
                "token_url": self.token_url,
                "client_id": self.client_id,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Token | None:
        """The token of a stored text; None for an invalid one."""
        try:
            v = json.loads(text)
            refresh, expires = v["refresh"], v["ends"]
            if not (
                _is_sendable(v["access"])
                and (refresh is None or _is_sendable(refresh))
                and (expires is None or math.isfinite(expires))
            ):
                return None
            return cls(
                Secret(v["access"], "a login"),
                Secret(refresh, "a login") if refresh else None,
                expires,
                v["token_url"],
                v["client_id"],
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


# --- logging in ---------------------------------------------------------------------------------------------


def login(
    row: ProviderSpec,
    address: str,
    stores: KeyStores,
    show: Callable[[str], None],
    *,
    timeout: float = _TIMEOUT,
) -> bool:
    """Logs in to `row`, whose keys are stored for `address`; `show` displays what the user has to do within
    `timeout` seconds. True where the token is stored permanently. Raises ConfigError where the row has no
    login or it fails; an interrupt ends the waiting."""
    oauth = _declared_oauth(row)
    flow = _log_in_by_device if oauth.device_url else _log_in_by_browser
    return stores.save(_SERVICE, address, _parse_token(flow(oauth, show, timeout), oauth, None).to_json())


def logout(address: str, stores: KeyStores) -> bool:
    """Deletes the login for `address`; False where there was none."""
    is_cached = bool(stores.cache.get((_SERVICE, address)))
    return stores.delete(_SERVICE, address) or is_cached


def _declared_oauth(row: ProviderSpec) -> OAuth:
    if row.oauth is None:
        raise ConfigError(
            f"{row.label or row.name} has no login.", hint=f"It takes a key: %llm key set {row.name}."
        )
    if row.needs_consent:
        raise ConfigError(
            f"The login of {row.source} needs your consent.",
            hint=f"If that is intended: `%llm key allow {row.name}`.",
        )
    return row.oauth


def _client(oauth: OAuth, **more: Any) -> Any:
    try:
        module = importlib.import_module("authlib.integrations.httpx_client")
    except ImportError:
        raise ConfigError("A login needs the package authlib.", hint="pip install 'nbllm[keys]'") from None
    return module.OAuth2Client(
        oauth.client_id,
        scope=" ".join(oauth.scopes) or None,
        token_endpoint_auth_method="none",  # noqa: S106
        timeout=30.0,
        **more,
    )


def _log_in_by_device(oauth: OAuth, show: Callable[[str], None], timeout: float) -> Mapping[str, Any]:
    with _client(oauth) as client:
        started, status = _post(
            client, oauth.device_url, client_id=oauth.client_id, scope=" ".join(oauth.scopes)
        )
        device = label(started.get("device_code"))
        if device is None:
            raise _login_error(started.get("error"), status)
        until = time.monotonic() + min(timeout, _parse_seconds(started.get("expires_in"), timeout))
        pause, polls = min(_parse_seconds(started.get("interval"), 5.0), 60.0), 0
        show(
            f"Open {_verification_address(started)} and enter the code "
            f"{printable(started.get('user_code'))[:64]}. Waiting ..."
        )
        while (left := until - time.monotonic()) > 0:
            threading.Event().wait(min(left, pause if polls < _FAST_POLLS else max(pause, 1.0)))
            polls += 1
            answer, status = _post(
                client, oauth.token_url, grant_type=_DEVICE, device_code=device, client_id=oauth.client_id
            )
            if "access_token" in answer:
                return answer
            if answer.get("error") == "slow_down":
                pause += 5.0
            elif answer.get("error") != "authorization_pending":
                raise _login_error(answer.get("error"), status)
    raise ConfigError("The code was not entered in time.", hint="Log in again.")


def _log_in_by_browser(oauth: OAuth, show: Callable[[str], None], timeout: float) -> Mapping[str, Any]:
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    with (
        RedirectListener(state) as listener,
        _client(oauth, redirect_uri=listener.address, code_challenge_method="S256") as client,
    ):
        url, _ = client.create_authorization_url(oauth.authorize_url, state=state, code_verifier=verifier)
        show(f"Open {printable(url)} in a browser on this machine. Waiting ...")
        redirect = listener.wait(timeout)
        if "code" not in redirect:
            raise _login_error(redirect.get("error"), None)
        answer, status = _post(
            client,
            oauth.token_url,
            grant_type="authorization_code",
            code=redirect["code"],
            redirect_uri=listener.address,
            client_id=oauth.client_id,
            code_verifier=verifier,
        )
        if "access_token" not in answer:
            raise _login_error(answer.get("error"), status)
        return answer


class _Server(ThreadingHTTPServer):
    """Handles each connection on a thread of its own, so that a silent client delays no other."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of connections: a traceback would show the request."""


class RedirectListener:
    """Waits on a free port of this machine for the browser's redirect. Other requests are rejected, and so
    are requests that address this machine by another name. state: that of the login, "" while it is not yet
    known. port: the port of the redirect, under the name localhost; 0 for any."""

    def __init__(self, state: str = "", port: int = 0) -> None:
        self.state, self._parameters = state, dict[str, str]()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # seconds for the client to send its request

            def do_GET(self) -> None:
                is_ours = listener._accept(self.path, self.headers.get_all("host") or [])
                self.send_response(200 if is_ours else 400)
                self.send_header("content-type", "text/plain; charset=utf-8")
                self.send_header("cache-control", "no-store")
                self.end_headers()
                self.wfile.write(
                    b"You can close this page and go back to the notebook."
                    if is_ours
                    else b"This request does not belong to the current login."
                )

            def log_message(self, *_args: Any) -> None:
                """Logs nothing: the query holds a code."""

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ConfigError(
                f"Port {port} of this machine cannot be used ({error.strerror}).",
                hint="The login needs this port: end the program that uses it, and log in again.",
            ) from None
        host = "localhost" if port else "127.0.0.1"
        self.address = f"http://{host}:{self._server.server_port}/callback"

    def _accept(self, target: str, hosts: list[str]) -> bool:
        """Whether a request is the redirect of this login; the parameters of the first such are stored."""
        port = self._server.server_port
        if len(hosts) != 1 or hosts[0].lower() not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return False
        try:
            parts = urlsplit(target)
            parameters = dict(reversed(parse_qsl(parts.query, max_num_fields=50)))
        except ValueError:
            return False
        state = parameters.get("state", "").encode("utf-8", "replace")
        is_ours = parts.path == "/callback" and bool(self.state)
        is_ours = is_ours and secrets.compare_digest(state, self.state.encode())
        if is_ours and not self._parameters:
            self._parameters = parameters
        return is_ours

    def __enter__(self) -> RedirectListener:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        """The parameters of the redirect. The calling thread accepts connections one after the other, and
        threads of their own answer them. Raises ConfigError where it does not come in time."""
        until = time.monotonic() + seconds
        self._server.timeout = 0.1  # short, so that an interrupt takes effect on all platforms
        while not self._parameters:
            if time.monotonic() > until:
                raise ConfigError("The login was not completed in time.", hint="Log in again.")
            self._server.handle_request()
        return self._parameters


# --- renewal ------------------------------------------------------------------------------------------------


def access_token(row: ProviderSpec, address: str, stores: KeyStores) -> Secret | None:
    """The token to send to `address`, renewed where it has expired; None without a login.

    Raises AuthenticationError where it cannot be renewed, with what to do.
    """
    token = _stored_token(row, address, stores)
    if token is not None and not token.is_valid:
        with _locks.setdefault(address, threading.Lock()):
            token = _stored_token(row, address, stores)  # another call may have renewed it meanwhile
            if token is not None and not token.is_valid:
                token = _renew(row, token, address, stores)
    return token.access if token else None


def _renew(row: ProviderSpec, token: Token, address: str, stores: KeyStores) -> Token:
    oauth = _declared_oauth(row)
    try:
        if token.refresh is None:
            raise _login_error("no refresh token", None)
        with _client(oauth) as client:
            answer, status = _post(
                client,
                oauth.token_url,
                grant_type="refresh_token",
                refresh_token=token.refresh.reveal(),
                client_id=oauth.client_id,
                scope=" ".join(oauth.scopes),
            )
        if "access_token" not in answer:
            raise _login_error(answer.get("error"), status)
        renewed = _parse_token(answer, oauth, token.refresh)
    except ConfigError as error:
        stores.cache.pop((_SERVICE, address), None)
        other = _stored_token(row, address, stores)  # another kernel may have renewed it, which voids ours
        if other is not None and other.is_valid:
            return other
        raise AuthenticationError(
            f"The login to {row.label or row.name} has expired and could not be renewed: {error.message}",
            status=None,
            hint=f"Log in again: %llm key login {row.name}.",
        ) from None
    stores.save(_SERVICE, address, renewed.to_json())
    return renewed


def _stored_token(row: ProviderSpec, address: str, stores: KeyStores) -> Token | None:
    """The stored token; None where the row has another token address or client by now."""
    token, oauth = Token.from_json(stores.load(_SERVICE, address) or "{}"), row.oauth
    if token is None or oauth is None:
        return None
    is_same = (token.token_url, token.client_id) == (oauth.token_url, oauth.client_id)
    return token if is_same else None


# --- answers ------------------------------------------------------------------------------------------------


def _parse_token(answer: Mapping[str, Any], oauth: OAuth, refresh: Secret | None) -> Token:
    """The token in a server's answer; `refresh` stays where it has no new refresh token. Raises ConfigError
    for a token that no header can hold."""
    access, new_refresh = answer.get("access_token"), answer.get("refresh_token")
    lifetime = _parse_seconds(answer.get("expires_in"), math.inf)
    if not _is_sendable(access):
        raise _login_error("no usable token", None)
    return Token(
        Secret(str(access), "a login"),
        Secret(str(new_refresh), "a login") if _is_sendable(new_refresh) else refresh,
        time.time() + lifetime if lifetime < math.inf else None,
        oauth.token_url,
        oauth.client_id,
    )


def _is_sendable(value: Any) -> bool:
    """Whether a token can be sent in a header: a text of visible ASCII characters."""
    return isinstance(value, str) and re.fullmatch(r"[!-~]+", value) is not None


def _parse_seconds(value: Any, default: float) -> float:
    """A server's number of seconds, which may be a string; `default` for an invalid value, for 0, and above
    ten years."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return seconds if 0 < seconds < 3.2e8 else default


def printable(value: Any) -> str:
    """A server's text as it can be printed: without escape sequences, and control, format and white space
    characters."""
    return "".join(c for c in _ESCAPES.sub("", label(value) or "") if c.isprintable() and not c.isspace())


def _verification_address(started: Mapping[str, Any]) -> str:
    """The address at which the user enters the code. Raises ConfigError where the server sent none that a
    browser should open."""
    for name in ("verification_uri_complete", "verification_uri", "verification_url"):
        url = printable(started.get(name))
        try:
            parts = urlsplit(url)
            is_safe = parts.scheme == "https" or (
                parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
            )
        except ValueError:
            continue
        if is_safe and parts.hostname and len(url) <= _MAX_ADDRESS:
            return url
    raise ConfigError(
        "The server sent no usable address for entering the code.",
        hint="Try again, or contact the provider.",
    )


def _post(client: Any, url: str, **data: str) -> tuple[dict[str, Any], int | None]:
    """(the JSON object that answers a form, {} for anything else; the status). Errors of Authlib and httpx
    are replaced by ours, since their texts may quote a token. Raises ConfigError where no answer comes."""
    body, until = bytearray(), time.monotonic() + _ANSWER_TIMEOUT
    try:
        with client.stream(
            "POST",
            url,
            data=data,
            headers={"accept": "application/json", "accept-encoding": "identity"},
            withhold_token=True,
        ) as answer:
            status = int(answer.status_code)
            for chunk in answer.iter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER or time.monotonic() > until:
                    return {}, status
    except Exception as error:  # noqa: BLE001 - of Authlib, of httpx, of a server that is none
        why = type(error).__name__
    else:
        try:
            return obj(load_json(bytes(body))), status
        except ProtocolError:
            return {}, status
    raise _login_error(why, None)


def _login_error(error: object, status: int | None) -> ConfigError:
    why = (
        str(error)
        if isinstance(error, str) and error.replace("_", "").replace(" ", "").isalnum() and len(error) < 60
        else f"HTTP {status}"
        if status
        else "no usable answer"
    )
    return ConfigError(f"The server did not log you in: {why}.", hint="Try again, or contact the provider.")
