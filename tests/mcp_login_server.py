"""A real MCP server over HTTP that wants a login: mcp_login_server.py SOCKET SECONDS. Whoever comes to
/authorize has logged in; tokens are said to end after SECONDS. GET /seen tells what happened."""

import secrets
import socket
import sys
import time

import uvicorn
from mcp.server.auth.provider import AccessToken, AuthorizationCode, RefreshToken, construct_redirect_uri
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.responses import JSONResponse

LISTENING, SECONDS = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
URL = f"http://127.0.0.1:{LISTENING.getsockname()[1]}"


class Registered(OAuthClientInformationFull):
    """A client that was registered by hand, with any port."""

    def validate_redirect_uri(self, redirect_uri):
        self.redirect_uris = [redirect_uri]
        return redirect_uri

    def validate_scope(self, requested_scope):
        return requested_scope.split() if requested_scope else None


class Provider:
    def __init__(self):
        self.clients, self.codes, self.access, self.refresh = {}, {}, {}, {}
        self.seen = {"clients": 0, "logins": 0, "renewals": 0}

    async def get_client(self, client_id):
        if client_id == "by-hand":
            return Registered(
                client_id=client_id,
                client_secret="canary-client-secret",
                redirect_uris=["http://localhost/callback"],
                token_endpoint_auth_method="client_secret_basic",
            )
        return self.clients.get(client_id)

    async def register_client(self, client_info):
        self.seen["clients"] += 1
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client, params):
        self.seen["logins"] += 1
        code = secrets.token_hex(16)
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(self, client, authorization_code):
        return self.codes.get(authorization_code)

    def _tokens(self, client, scopes):
        access, refresh = f"canary-access-{secrets.token_hex(8)}", f"canary-refresh-{secrets.token_hex(8)}"
        ends = int(time.time()) + 3600
        self.access[access] = AccessToken(
            token=access, client_id=client.client_id, scopes=scopes, expires_at=ends
        )
        self.refresh[refresh] = RefreshToken(token=refresh, client_id=client.client_id, scopes=scopes)
        return OAuthToken(access_token=access, refresh_token=refresh, expires_in=SECONDS, token_type="Bearer")

    async def exchange_authorization_code(self, client, authorization_code):
        del self.codes[authorization_code.code]
        return self._tokens(client, authorization_code.scopes)

    async def load_refresh_token(self, client, refresh_token):
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(self, client, refresh_token, scopes):
        self.seen["renewals"] += 1
        del self.refresh[refresh_token.token]
        return self._tokens(client, scopes)

    async def load_access_token(self, token):
        found = self.access.get(token)
        return found if found and found.expires_at > time.time() else None

    async def revoke_token(self, token):
        self.access.pop(token.token, None)


provider = Provider()
server = MCPServer(
    "locked",
    auth_server_provider=provider,
    auth=AuthSettings(
        issuer_url=URL,
        resource_server_url=f"{URL}/mcp",
        validate_token_resource=False,
        client_registration_options=ClientRegistrationOptions(enabled=True),
    ),
)


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.custom_route("/seen", methods=["GET"])
async def seen(_request):
    return JSONResponse(provider.seen)


@server.custom_route("/revoke", methods=["GET"])
async def revoke(_request):
    provider.access.clear()
    provider.refresh.clear()
    return JSONResponse({})


uvicorn.Server(uvicorn.Config(server.streamable_http_app())).run(sockets=[LISTENING])
