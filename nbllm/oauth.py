"""Logging in to a provider by OAuth 2, for rows that declare it: a device code (RFC 8628), or an authorization code with
PKCE and a redirect to this machine (RFC 7636, RFC 8252); renewal with rotation (RFC 6749, section 6). Authlib speaks the protocol.

A token lies in the keyring under the address of its provider, or in memory where there is no keyring, together with the
place it came from: a row that is changed to another token address does not get to renew it there. It is renewed before a
call, a minute before its end, and once however many calls wait for it.
"""

from __future__ import annotations

import importlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .errors import AuthenticationError, ConfigError
from .wire import OAuth, Provider, Secret

if TYPE_CHECKING:
    from .keys import Stores

_EARLY = 60.0  # seconds before its end at which a token is renewed
_PATIENCE = 600.0  # seconds that a person gets in the browser, where the server does not say
_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Token:
    """What a login gave: the token to send, the one that renews it, when it ends (seconds since 1970), and where it came from."""

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
        return json.dumps({"access": self.access.reveal(), "refresh": self.refresh.reveal() if self.refresh else None, "ends": self.ends,
                           "token_url": self.token_url, "client_id": self.client_id})

    @classmethod
    def loaded(cls, text: str) -> Token | None:
        """From the keyring; None for what is no token."""
        try:
            v = json.loads(text)
            return cls(Secret(v["access"], "a login"), Secret(v["refresh"], "a login") if v["refresh"] else None, v["ends"], v["token_url"], v["client_id"])
        except (ValueError, KeyError, TypeError):
            return None


# --- logging in ---------------------------------------------------------------------------------------------


def login(row: Provider, place: str, stores: Stores, tell: Callable[[str], None], *, patience: float = _PATIENCE) -> bool:
    """Logs in to `row`, whose keys are kept for `place`; `tell` says what the person has to do, and
    `patience` is how many seconds they get. True where the token is kept for
    good. Raises ConfigError where the row has no login or it did not come about; an interrupt ends the waiting."""
    way = _declared(row)
    given = _by_device(way, tell, patience) if way.device_url else _by_browser(way, tell, patience)
    return _keep(_token(given, way, None), place, stores)


def logout(place: str, stores: Stores) -> bool:
    """Forgets the login for `place`; False where there was none."""
    there = stores.seen.pop(("login", place), "") != ""
    ring = stores.keyring()
    try:
        if ring is None or ring.get_password(_service(), place) is None:
            return there
        ring.delete_password(_service(), place)
    except Exception:  # noqa: BLE001 - each backend has errors of its own; a locked one still holds its token
        return there
    return True


def _declared(row: Provider) -> OAuth:
    if row.oauth is None:
        raise ConfigError(f"{row.label or row.name} has no login.", hint=f"It takes a key: %llm key set {row.name}.")
    if row.name in row.held:
        raise ConfigError(f"{row.source} may not be logged in to yet.", hint=f"If that is meant: `%llm key allow {row.name}`.")
    return row.oauth


def _client(way: OAuth, **more: Any) -> Any:
    try:
        made = importlib.import_module("authlib.integrations.httpx_client")
    except ImportError:
        raise ConfigError("A login needs the package authlib.", hint="pip install 'nbllm[keys]'") from None
    return made.OAuth2Client(way.client_id, scope=" ".join(way.scopes) or None, token_endpoint_auth_method="none", timeout=30.0, **more)  # noqa: S106 - the name of a method: a public client has no secret


def _by_device(way: OAuth, tell: Callable[[str], None], patience: float) -> Mapping[str, Any]:
    with _client(way) as client:
        asked = client.request("POST", way.device_url, data={"client_id": way.client_id, "scope": " ".join(way.scopes)}, withhold_token=True)
        started = _object(asked)
        if "device_code" not in started:
            raise _refused(started.get("error"), asked.status_code)
        until = time.monotonic() + min(patience, float(started.get("expires_in") or patience))
        pause = float(started.get("interval", 5))
        tell(f"Open {started.get('verification_uri_complete') or started.get('verification_uri')} and enter the code {started.get('user_code')}. Waiting ...")
        while time.monotonic() < until:
            threading.Event().wait(pause)
            answer = client.request("POST", way.token_url, data={"grant_type": _DEVICE, "device_code": started["device_code"], "client_id": way.client_id}, withhold_token=True)
            given = _object(answer)
            if "access_token" in given:
                return given
            if given.get("error") == "slow_down":
                pause += 5.0
            elif given.get("error") != "authorization_pending":
                raise _refused(given.get("error"), answer.status_code)
    raise ConfigError("Nobody entered the code in time.", hint="Log in again.")


def _by_browser(way: OAuth, tell: Callable[[str], None], patience: float) -> Mapping[str, Any]:
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    with _Listener(state) as listener, _client(way, redirect_uri=listener.address, code_challenge_method="S256") as client:
        url, _ = client.create_authorization_url(way.authorize_url, state=state, code_verifier=verifier)
        tell(f"Open {url} in a browser on this machine. Waiting ...")
        answer = listener.wait(patience)
        if "code" not in answer:
            raise _refused(answer.get("error"), None)
        return _asked(lambda: client.fetch_token(way.token_url, code=answer["code"], code_verifier=verifier))


class _Listener:
    """Waits on a free port of this machine for the browser to come back; other visitors are turned away."""

    def __init__(self, state: str) -> None:
        self._answer: dict[str, str] = {}
        self._came = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                said = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                ours = secrets.compare_digest(said.get("state", ""), state)
                self.send_response(200 if ours else 400)
                self.send_header("content-type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"You can close this page and go back to the notebook." if ours else b"This is not the login that was begun.")
                if ours:
                    outer._answer = said
                    outer._came.set()

            def log_message(self, *_args: Any) -> None:
                """Nothing: the query holds a code."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/callback"

    def __enter__(self) -> _Listener:
        threading.Thread(target=self._server.serve_forever, name="nbllm-login", daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        until = time.monotonic() + seconds
        while not self._came.wait(0.1):  # in short steps, so that an interrupt is heard everywhere
            if time.monotonic() > until:
                raise ConfigError("Nobody logged in in time.", hint="Log in again.")
        return self._answer


# --- renewing -----------------------------------------------------------------------------------------------


def access(row: Provider, place: str, stores: Stores) -> Secret | None:
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


def _renewed(row: Provider, token: Token, place: str, stores: Stores) -> Token:
    way = _declared(row)
    try:
        if token.refresh is None:
            raise _refused("no refresh token", None)
        with _client(way) as client:
            given = _asked(lambda: client.refresh_token(way.token_url, refresh_token=token.refresh.reveal() if token.refresh else ""))
    except ConfigError as error:
        stores.seen.pop(("login", place), None)
        other = _known(row, place, stores)  # another kernel may have renewed it, and ours is void since
        if other is not None and other.fresh:
            return other
        raise AuthenticationError(f"The login to {row.label or row.name} has ended and was not renewed: {error.message}", status=None,
                                  hint=f"Log in again: %llm key login {row.name}.") from None
    fresh = _token(given, way, token.refresh)
    _keep(fresh, place, stores)
    return fresh


def _known(row: Provider, place: str, stores: Stores) -> Token | None:
    """The token that is kept, where it came from the place that the row names today."""
    text = stores.seen.get(("login", place), "")
    if not text:
        ring = stores.keyring()
        text = stores.slowly("login", place, lambda: ring.get_password(_service(), place)) if ring is not None else ""
    token = Token.loaded(text) if text else None
    way = row.oauth
    return token if token and way and (token.token_url, token.client_id) == (way.token_url, way.client_id) else None


def _keep(token: Token, place: str, stores: Stores) -> bool:
    stores.seen["login", place] = token.dumped()
    ring = stores.keyring()
    try:
        if ring is not None:
            ring.set_password(_service(), place, token.dumped())
    except Exception:  # noqa: BLE001 - each backend has errors of its own; the token serves this session
        return False
    return ring is not None


def _lock(place: str) -> threading.Lock:
    with _guard:
        return _locks.setdefault(place, threading.Lock())


# --- answers ------------------------------------------------------------------------------------------------


def _token(given: Mapping[str, Any], way: OAuth, before: Secret | None) -> Token:
    """From a server's answer; without a new refresh token the one before goes on."""
    span, refresh = given.get("expires_in"), given.get("refresh_token")
    ends = time.time() + float(span) if isinstance(span, (int, float)) else None
    return Token(Secret(str(given["access_token"]), "a login"), Secret(str(refresh), "a login") if refresh else before, ends, way.token_url, way.client_id)


def _asked(work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What Authlib got, its errors in our words and without theirs, which may quote a token."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - of Authlib, of httpx, of a server that is none
        told = getattr(error, "error", None)
    raise _refused(told if isinstance(told, str) else None, None)


def _object(response: Any) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _refused(error: object, status: int | None) -> ConfigError:
    why = str(error) if isinstance(error, str) and error.replace("_", "").replace(" ", "").isalnum() and len(error) < 60 else f"HTTP {status}" if status else "no usable answer"
    return ConfigError(f"The server did not log you in: {why}.", hint="Try again, or ask who runs it.")


def _service() -> str:
    from .keys import SERVICE

    return f"{SERVICE} login"
