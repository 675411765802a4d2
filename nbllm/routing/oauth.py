"""Logging in to a provider by OAuth 2, for rows that declare it: a device code (RFC 8628), or an
authorization code with PKCE and a redirect to this machine (RFC 7636, RFC 8252); renewal with rotation (RFC
6749, section 6). Authlib makes the address for the browser and its proof; what a server answers is read here,
bounded in size and time, and believed as far as it makes sense.

A token lies in the keyring under the address of its provider, or in memory where there is no keyring,
together with the place it came from: a row that is changed to another token address does not get to renew it
there. It is renewed before a call, a minute before its end, and once however many calls wait for it.
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

_EARLY = 60.0  # seconds before its end at which a token is renewed
_PATIENCE = 600.0  # seconds that a person gets in the browser, where the server does not say
_ANSWER_LIMIT, _ANSWER_TIME = 2**20, 60.0  # bytes and seconds of a server's answer
_QUICK = 4  # questions that may follow each other faster than one a second
_SHOWN = 2_000  # characters of an address that is shown
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b[\]PX^_]|[\x9d\x90])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
)
_SERVICE = f"{SERVICE} login"
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Token:
    """What a login gave: the token to send, the one that renews it, when it ends (seconds since 1970), and
    where it came from."""

    access: Secret
    refresh: Secret | None
    ends: float | None
    token_url: str
    client_id: str

    @property
    def fresh(self) -> bool:
        """Whether it can still be sent."""
        return self.ends is None or self.ends - _EARLY > time.time()

    def dumped(self) -> str:
        """For the keyring."""
        return json.dumps(
            {
                "access": self.access.reveal(),
                "refresh": self.refresh.reveal() if self.refresh else None,
                "ends": self.ends,
                "token_url": self.token_url,
                "client_id": self.client_id,
            }
        )

    @classmethod
    def loaded(cls, text: str) -> Token | None:
        """From the keyring; None for what is no token."""
        try:
            v = json.loads(text)
            refresh, ends = v["refresh"], v["ends"]
            if not (
                _sendable(v["access"])
                and (refresh is None or _sendable(refresh))
                and (ends is None or math.isfinite(ends))
            ):
                return None
            return cls(
                Secret(v["access"], "a login"),
                Secret(refresh, "a login") if refresh else None,
                ends,
                v["token_url"],
                v["client_id"],
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


# --- logging in ---------------------------------------------------------------------------------------------


def login(
    row: ProviderSpec,
    place: str,
    stores: KeyStores,
    tell: Callable[[str], None],
    *,
    patience: float = _PATIENCE,
) -> bool:
    """Logs in to `row`, whose keys are kept for `place`; `tell` says what the user has to do, and
    `patience` is how many seconds they get. True where the token is kept for
    good. Raises ConfigError where the row has no login or it did not come about; an interrupt ends the
    waiting."""
    way = _declared(row)
    given = _by_device(way, tell, patience) if way.device_url else _by_browser(way, tell, patience)
    return _keep(_token(given, way, None), place, stores)


def logout(place: str, stores: KeyStores) -> bool:
    """Forgets the login for `place`; False where there was none."""
    there = stores.seen.pop(("login", place), "") != ""
    return stores.forget(_SERVICE, place) or there


def _declared(row: ProviderSpec) -> OAuth:
    if row.oauth is None:
        raise ConfigError(
            f"{row.label or row.name} has no login.", hint=f"It takes a key: %llm key set {row.name}."
        )
    if row.needs_consent:
        raise ConfigError(
            f"{row.source} may not be logged in to yet.",
            hint=f"If that is meant: `%llm key allow {row.name}`.",
        )
    return row.oauth


def _client(way: OAuth, **more: Any) -> Any:
    try:
        made = importlib.import_module("authlib.integrations.httpx_client")
    except ImportError:
        raise ConfigError("A login needs the package authlib.", hint="pip install 'nbllm[keys]'") from None
    return made.OAuth2Client(
        way.client_id,
        scope=" ".join(way.scopes) or None,
        token_endpoint_auth_method="none",  # noqa: S106
        timeout=30.0,
        **more,
    )


def _by_device(way: OAuth, tell: Callable[[str], None], patience: float) -> Mapping[str, Any]:
    with _client(way) as client:
        started, status = _posted(client, way.device_url, client_id=way.client_id, scope=" ".join(way.scopes))
        device = label(started.get("device_code"))
        if device is None:
            raise _refused(started.get("error"), status)
        until = time.monotonic() + min(patience, _seconds(started.get("expires_in"), patience))
        pause, asked = min(_seconds(started.get("interval"), 5.0), 60.0), 0
        tell(
            f"Open {_place_to_open(started)} and enter the code {shown(started.get('user_code'))[:64]}. "
            f"Waiting ..."
        )
        while (left := until - time.monotonic()) > 0:
            threading.Event().wait(min(left, pause if asked < _QUICK else max(pause, 1.0)))
            asked += 1
            given, status = _posted(
                client, way.token_url, grant_type=_DEVICE, device_code=device, client_id=way.client_id
            )
            if "access_token" in given:
                return given
            if given.get("error") == "slow_down":
                pause += 5.0
            elif given.get("error") != "authorization_pending":
                raise _refused(given.get("error"), status)
    raise ConfigError("Nobody entered the code in time.", hint="Log in again.")


def _by_browser(way: OAuth, tell: Callable[[str], None], patience: float) -> Mapping[str, Any]:
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    with (
        Listener(state) as listener,
        _client(way, redirect_uri=listener.address, code_challenge_method="S256") as client,
    ):
        url, _ = client.create_authorization_url(way.authorize_url, state=state, code_verifier=verifier)
        tell(f"Open {shown(url)} in a browser on this machine. Waiting ...")
        answer = listener.wait(patience)
        if "code" not in answer:
            raise _refused(answer.get("error"), None)
        given, status = _posted(
            client,
            way.token_url,
            grant_type="authorization_code",
            code=answer["code"],
            redirect_uri=listener.address,
            client_id=way.client_id,
            code_verifier=verifier,
        )
        if "access_token" not in given:
            raise _refused(given.get("error"), status)
        return given


class _Server(ThreadingHTTPServer):
    """A thread for each visitor: one who says nothing keeps nobody waiting."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a visitor that leaves is no fault of ours, and a traceback would show what it asked."""


class Listener:
    """Waits on a free port of this machine for the browser to come back; other visitors are turned away, and
    so is whoever calls this machine by another name. state: what the browser was sent with, "" while it is
    not yet known. port: one that the browser must come back to, under the name localhost; 0: any."""

    def __init__(self, state: str = "", port: int = 0) -> None:
        self.state, self._answer = state, dict[str, str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # seconds for what a visitor has to say

            def do_GET(self) -> None:
                ours = outer._take(self.path, self.headers.get_all("host") or [])
                self.send_response(200 if ours else 400)
                self.send_header("content-type", "text/plain; charset=utf-8")
                self.send_header("cache-control", "no-store")
                self.end_headers()
                self.wfile.write(
                    b"You can close this page and go back to the notebook."
                    if ours
                    else b"This is not the login that was begun."
                )

            def log_message(self, *_args: Any) -> None:
                """Nothing: the query holds a code."""

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ConfigError(
                f"Port {port} of this machine cannot be used ({error.strerror}).",
                hint="The login comes back to it: end what uses it, and log in again.",
            ) from None
        host = "localhost" if port else "127.0.0.1"
        self.address = f"http://{host}:{self._server.server_port}/callback"

    def _take(self, target: str, hosts: list[str]) -> bool:
        """Whether a visitor is the browser that was sent; the first such brings the answer."""
        port = self._server.server_port
        if len(hosts) != 1 or hosts[0].lower() not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return False
        try:
            parts = urlsplit(target)
            said = dict(reversed(parse_qsl(parts.query, max_num_fields=50)))
        except ValueError:
            return False
        told = said.get("state", "").encode("utf-8", "replace")
        ours = parts.path == "/callback" and bool(self.state)
        ours = ours and secrets.compare_digest(told, self.state.encode())
        if ours and not self._answer:
            self._answer = said
        return ours

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        """What the browser brought. Visitors are taken in by the thread that waits, one after the other, and
        heard by threads of their own."""
        until = time.monotonic() + seconds
        self._server.timeout = 0.1  # in short steps, so that an interrupt is heard everywhere
        while not self._answer:
            if time.monotonic() > until:
                raise ConfigError("Nobody logged in in time.", hint="Log in again.")
            self._server.handle_request()
        return self._answer


# --- renewing -----------------------------------------------------------------------------------------------


def access(row: ProviderSpec, place: str, stores: KeyStores) -> Secret | None:
    """The token to send to `place`, renewed where it has ended; None where nobody logged in.

    Raises AuthenticationError where it cannot be renewed, with what to do.
    """
    token = _known(row, place, stores)
    if token is None or token.fresh:
        return token.access if token else None
    with _lock(place):
        token = _known(row, place, stores)  # another call may have renewed it meanwhile
        if token is not None and not token.fresh:
            token = _renewed(row, token, place, stores)
    return token.access if token else None


def _renewed(row: ProviderSpec, token: Token, place: str, stores: KeyStores) -> Token:
    way = _declared(row)
    try:
        if token.refresh is None:
            raise _refused("no refresh token", None)
        with _client(way) as client:
            given, status = _posted(
                client,
                way.token_url,
                grant_type="refresh_token",
                refresh_token=token.refresh.reveal(),
                client_id=way.client_id,
                scope=" ".join(way.scopes),
            )
        fresh = _token(given, way, token.refresh) if "access_token" in given else None
        if fresh is None:
            raise _refused(given.get("error"), status)
    except ConfigError as error:
        stores.seen.pop(("login", place), None)
        other = _known(row, place, stores)  # another kernel may have renewed it, and ours is void since
        if other is not None and other.fresh:
            return other
        raise AuthenticationError(
            f"The login to {row.label or row.name} has ended and was not renewed: {error.message}",
            status=None,
            hint=f"Log in again: %llm key login {row.name}.",
        ) from None
    _keep(fresh, place, stores)
    return fresh


def _known(row: ProviderSpec, place: str, stores: KeyStores) -> Token | None:
    """The token that is kept, where it came from the place that the row names today."""
    text = stores.seen.get(("login", place), "")
    if not text:
        ring = stores.keyring()
        text = (
            stores.cached_lookup("login", place, lambda: ring.get_password(_SERVICE, place))
            if ring is not None
            else ""
        )
    token = Token.loaded(text) if text else None
    way = row.oauth
    return (
        token
        if token and way and (token.token_url, token.client_id) == (way.token_url, way.client_id)
        else None
    )


def _keep(token: Token, place: str, stores: KeyStores) -> bool:
    stores.seen["login", place] = token.dumped()
    ring = stores.keyring()
    try:
        if ring is not None:
            ring.set_password(_SERVICE, place, token.dumped())
    except Exception:  # noqa: BLE001 - each backend has errors of its own; the token serves this session
        return False
    return ring is not None


def _lock(place: str) -> threading.Lock:
    with _guard:
        return _locks.setdefault(place, threading.Lock())


# --- answers ------------------------------------------------------------------------------------------------


def _token(given: Mapping[str, Any], way: OAuth, before: Secret | None) -> Token:
    """From a server's answer; without a new refresh token the one before goes on. Raises ConfigError for what
    no header can hold."""
    span, access, refresh = (
        _seconds(given.get("expires_in"), math.inf),
        given.get("access_token"),
        given.get("refresh_token"),
    )
    if not _sendable(access):
        raise _refused("no usable token", None)
    again = Secret(str(refresh), "a login") if _sendable(refresh) else before
    return Token(
        Secret(str(access), "a login"),
        again,
        None if math.isinf(span) else time.time() + span,
        way.token_url,
        way.client_id,
    )


def _sendable(value: Any) -> bool:
    """Whether a token can stand in a header: some text of visible ASCII."""
    return (
        isinstance(value, str)
        and bool(value)
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _seconds(value: Any, usual: float) -> float:
    """A server's number of seconds, which may be written as a text; `usual` where it is none, nothing, or
    over ten years."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return usual
    return found if 0 < found < 3.2e8 else usual


def shown(value: Any) -> str:
    """A server's word as it can be printed: without escape sequences, control, format and blank
    characters."""
    return "".join(c for c in _ESCAPES.sub("", label(value) or "") if c.isprintable() and not c.isspace())


def _place_to_open(started: Mapping[str, Any]) -> str:
    """Where the code is to be entered. Raises ConfigError where the server names no address that a browser
    should open."""
    for name in ("verification_uri_complete", "verification_uri", "verification_url"):
        url = shown(started.get(name))
        try:
            parts = urlsplit(url)
            safe = parts.scheme == "https" or (
                parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
            )
        except ValueError:
            continue
        if safe and parts.hostname and len(url) <= _SHOWN:
            return url
    raise ConfigError(
        "The server named no address at which the code could be entered.",
        hint="Try again, or ask who runs it.",
    )


def _posted(client: Any, url: str, **data: str) -> tuple[dict[str, Any], int | None]:
    """(the JSON object that answers a form, {} for anything else; the status). Errors of Authlib and httpx
    are in our words and without theirs, which may quote a token. Raises ConfigError where nobody answers."""
    body, until = bytearray(), time.monotonic() + _ANSWER_TIME
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
                if len(body) > _ANSWER_LIMIT or time.monotonic() > until:
                    return {}, status
    except Exception as error:  # noqa: BLE001 - of Authlib, of httpx, of a server that is none
        why = type(error).__name__
    else:
        try:
            return obj(load_json(bytes(body))), status
        except ProtocolError:
            return {}, status
    raise _refused(why, None)


def _refused(error: object, status: int | None) -> ConfigError:
    why = (
        str(error)
        if isinstance(error, str) and error.replace("_", "").replace(" ", "").isalnum() and len(error) < 60
        else f"HTTP {status}"
        if status
        else "no usable answer"
    )
    return ConfigError(f"The server did not log you in: {why}.", hint="Try again, or ask who runs it.")
