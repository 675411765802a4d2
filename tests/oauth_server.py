"""A real OAuth 2 server on loopback (Authlib's server side on Flask), with a provider behind it that takes
its tokens alone.

`/authorize` logs in at once, as a person with an open session does; `approve(user_code)` is that person for a
device code. Refresh tokens are rotated: a new one comes with each renewal, and the old one is void.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # http, on loopback

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import (
    DEVICE_CODE_GRANT_TYPE,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    DeviceCredentialMixin,
)
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

LIFETIME = 3600


class Client(ClientMixin):
    """The one public client."""

    client_id = "nbllm-test"

    def get_client_id(self):
        return self.client_id

    def get_default_redirect_uri(self):
        return ""

    def get_allowed_scope(self, scope):
        return scope

    def check_redirect_uri(self, redirect_uri):
        return redirect_uri.startswith("http://127.0.0.1:")

    def check_client_secret(self, client_secret):
        return False

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "none"

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return True


@dataclass
class Code(AuthorizationCodeMixin):
    code: str
    redirect_uri: str
    scope: str
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope


@dataclass
class Device(DeviceCredentialMixin):
    device_code: str
    user_code: str
    scope: str
    until: float
    asked: int = 0
    verdict: bool | None = None

    def get_client_id(self):
        return Client.client_id

    def get_scope(self):
        return self.scope

    def get_user_code(self):
        return self.user_code

    def is_expired(self):
        return time.time() > self.until


@dataclass
class Given(TokenMixin):
    access_token: str
    refresh_token: str | None
    scope: str
    revoked: bool = False

    def check_client(self, client):
        return True

    def get_scope(self):
        return self.scope

    def get_expires_in(self):
        return LIFETIME

    def is_expired(self):
        return False

    def is_revoked(self):
        return self.revoked

    def get_user(self):
        return "person"

    def get_client(self):
        return Client()


@dataclass
class State:
    codes: dict[str, Code] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    given: list[Given] = field(default_factory=list)
    renewals: int = 0
    asked: list[str] = field(default_factory=list)  # Authorization headers that reached the provider
    slow: int = 0  # how many times a device is told to slow down
    lifetime: float = 60.0  # of a device code
    approve_after: int = 1  # polls after which the person has entered the code; -1: never
    deny: bool = False
    lock: Any = field(default_factory=threading.Lock)


class CodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def save_authorization_code(self, code, request):
        p = request.payload
        self.server.state.codes[code] = Code(
            code, p.redirect_uri, p.scope, p.data.get("code_challenge"), p.data.get("code_challenge_method")
        )

    def query_authorization_code(self, code, client):
        return self.server.state.codes.get(code)

    def delete_authorization_code(self, code):
        self.server.state.codes.pop(code.code, None)

    def authenticate_user(self, code):
        return "person"


class Refresh(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token):
        return next(
            (g for g in self.server.state.given if g.refresh_token == refresh_token and not g.revoked), None
        )

    def authenticate_user(self, refresh_token):
        return "person"

    def revoke_old_credential(self, refresh_token):
        refresh_token.revoked = True
        self.server.state.renewals += 1


class ByDevice(DeviceCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

    def query_device_credential(self, device_code):
        return self.server.state.devices.get(device_code)

    def query_user_grant(self, user_code):
        device = next(d for d in self.server.state.devices.values() if d.user_code == user_code)
        return None if device.verdict is None else ("person", device.verdict)

    def should_slow_down(self, credential):
        state = self.server.state
        credential.asked += 1
        if state.slow > 0:
            state.slow -= 1
            return True
        if 0 <= state.approve_after <= credential.asked:
            credential.verdict = not state.deny
        return False


class Devices(DeviceAuthorizationEndpoint):
    CLIENT_AUTH_METHODS = ["none"]

    def get_verification_uri(self):
        return "https://provider.example/device"

    def save_device_credential(self, client_id, scope, data):
        state = self.server.state
        state.devices[data["device_code"]] = Device(
            data["device_code"], data["user_code"], scope, time.time() + state.lifetime
        )

    def create_endpoint_response(self, request):
        status, body, headers = super().create_endpoint_response(request)
        return status, {**body, "interval": 0.05, "expires_in": self.server.state.lifetime}, headers


class Server:
    """The server, running."""

    def __init__(self) -> None:
        self.state = State()
        app = Flask(__name__)
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        oauth = AuthorizationServer(
            app,
            query_client=lambda client_id: Client() if client_id == Client.client_id else None,
            save_token=self._save,
        )
        oauth.state = self.state
        oauth.register_grant(CodeGrant, [CodeChallenge(required=True)])
        oauth.register_grant(Refresh)
        oauth.register_grant(ByDevice)
        oauth.register_endpoint(Devices)

        @app.post("/token")
        def token():
            with self.state.lock:
                if (
                    request.form.get("grant_type") == DEVICE_CODE_GRANT_TYPE
                    and request.form.get("device_code") not in self.state.devices
                ):
                    return jsonify(error="invalid_grant"), 400
                return oauth.create_token_response()

        @app.post("/device")
        def device():
            return oauth.create_endpoint_response("device_authorization")

        @app.get("/authorize")
        def authorize():
            person = None if self.state.deny else "person"
            return oauth.create_authorization_response(
                grant_user=person, grant=oauth.get_consent_grant(end_user=person)
            )

        @app.post("/v1/chat/completions")
        def chat():
            sent = request.headers.get("authorization", "")
            self.state.asked.append(sent)
            if not any(sent == f"Bearer {g.access_token}" and not g.revoked for g in self.state.given):
                return jsonify(error={"message": "invalid token", "type": "invalid_request_error"}), 401
            return jsonify(
                id="1",
                object="chat.completion",
                model="m",
                choices=[
                    {"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}
                ],
            )

        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _save(self, token, request):
        token["access_token"] = f"at-canary-{secrets.token_hex(12)}"
        token["refresh_token"] = f"rt-canary-{secrets.token_hex(12)}"
        token["expires_in"] = LIFETIME
        self.state.given.append(Given(token["access_token"], token["refresh_token"], token.get("scope", "")))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
