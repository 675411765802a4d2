"""OAuth 2 logins of MCP servers: the SDK's flow with our key stores, bound to the server's URL.

Only the user starts a login (%llm mcp login): nothing else opens a page or registers a client. Stored (in the
keyring, else for this session) are the tokens, the client and the server that renews them, so that a renewal
after a restart needs no user.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.addresses import Address, are_all_public, parse
from ..core.calls import origin
from ..core.errors import ConfigError, ConnectFailed
from ..routing.key_stores import SERVICE, KeyStores
from .mcp_entry import ClientRegistration

Answer = Mapping[str, str]
_SERVICE = f"{SERVICE} mcp login"


async def check_url(name: str, own: str, url: str) -> None:
    """Raises ConnectFailed where the server `name` at `own`, on the internet, makes us send a request to a
    `url` that is unencrypted or in a private network. A name may resolve differently a moment later, but then
    there is no certificate for it."""
    if origin(url) == origin(own) or await _is_private(parse(own)):
        return
    if (address := parse(url)).scheme != "https" or await _is_private(address):
        raise ConnectFailed(
            f"{name} sends its login to {address}, which is not an https address on the internet.",
            hint="Ask the operator of the server.",
        )


async def _is_private(address: Address) -> bool:
    """Whether an address leads to this machine or a private network; a name that only a proxy can resolve
    does not."""
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(address.host, address.port)
    except OSError:
        return False
    return not are_all_public(addresses)


@dataclass(slots=True)
class Login:
    """The login of the server `name` at `url`, as the SDK's store of tokens. ask: for a login that starts
    now, opens a URL in the browser and returns the parameters with which it comes back to `redirect`."""

    name: str
    url: str
    stores: KeyStores = field(repr=False)
    redirect: str = "http://127.0.0.1/callback"
    ask: Callable[[str], Awaitable[Answer]] | None = None
    registered: ClientRegistration = field(default=ClientRegistration(), repr=False)
    _data: dict[str, Any] = field(default_factory=dict, repr=False)
    _context: Any = field(default=None, repr=False)

    def load(self) -> bool:
        """Loads the stored login; False where there is none."""
        try:
            data = json.loads(self.stores.load(_SERVICE, self.url) or "{}")
        except ValueError:
            data = {}
        self._data = data if isinstance(data, dict) else {}
        return bool(self._data.get("tokens"))

    def forget(self) -> bool:
        """Deletes the stored login; False where there was none."""
        existed = self.load()
        self.stores.delete(_SERVICE, self.url)
        return existed

    @property
    def is_persistent(self) -> bool:
        """Whether there is a keyring to store it in."""
        return self.stores.keyring() is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Its texts that no message may show."""
        tokens, client = self._data.get("tokens"), self._data.get("client")
        texts = [
            *(tokens.get(k) for k in ("access_token", "refresh_token") if isinstance(tokens, dict)),
            *([client.get("client_secret")] if isinstance(client, dict) else []),
        ]
        return tuple(text for text in texts if isinstance(text, str) and text)

    def auth(self) -> Any:
        """The SDK's authentication for httpx2."""
        from mcp.client.auth import OAuthClientProvider
        from mcp.shared.auth import OAuthClientMetadata

        about = OAuthClientMetadata.model_validate(
            {
                "client_name": "nbllm",
                "redirect_uris": [self.redirect],
                "token_endpoint_auth_method": "none",
                "scope": self.registered.scope or None,
            }
        )
        provider = OAuthClientProvider(self.url, about, self, self._open_browser, self._take_result)
        self._context = provider.context
        return provider

    # --- the SDK's store ---

    async def get_tokens(self) -> Any:
        """The tokens, after restoring what is needed to renew them."""
        from mcp.shared.auth import OAuthMetadata, OAuthToken

        if self.ask is not None or not self._data.get("tokens"):
            return None
        self._context.oauth_metadata = (
            OAuthMetadata.model_validate(server)
            if isinstance(server := self._data.get("server"), dict)
            else None
        )
        self._context.token_expiry_time = self._data.get("ends")
        return OAuthToken.model_validate(self._data["tokens"])

    async def set_tokens(self, tokens: Any) -> None:
        """Stores new tokens."""
        server = self._context.oauth_metadata
        self._data |= {
            "tokens": tokens.model_dump(mode="json", exclude_none=True),
            "ends": None if tokens.expires_in is None else time.time() + tokens.expires_in,
            "server": server.model_dump(mode="json", exclude_none=True) if server is not None else None,
        }
        self.stores.save(_SERVICE, self.url, json.dumps(self._data))

    async def get_client_info(self) -> Any:
        """The registered client, of the entry or of an earlier login; none for a new login, whose redirect
        address differs."""
        from mcp.shared.auth import OAuthClientInformationFull

        known = self._data.get("client") if self.ask is None else None
        if self.registered.id:
            known = {
                "client_id": self.registered.id,
                "client_secret": self.registered.secret or None,
                "redirect_uris": [self.redirect],
                "token_endpoint_auth_method": self._data.get("method", "none"),
            }
        return OAuthClientInformationFull.model_validate(known) if known else None

    async def set_client_info(self, client_info: Any) -> None:
        """Stores the registered client, together with the tokens that it gets."""
        self._data["client"] = client_info.model_dump(mode="json", exclude_none=True)

    # --- the browser ---

    async def _open_browser(self, url: str) -> None:
        if self.ask is None:
            await self.get_tokens()  # drops other servers that it named meanwhile: they cannot renew tokens
            hint = f"`%llm mcp login {self.name}` logs in again."
            raise ConnectFailed(f"The login to mcp/{self.name} has ended.", hint=hint)
        self._check(url)
        self._data["came"] = dict(await self.ask(url))

    def _check(self, url: str) -> None:
        """Checks that the login's code is sent to the host where the user logs in, its issuer or the MCP
        server itself: otherwise a server could make the user log in at another host and take the code. The
        client's secret is sent only to the host where the user logs in. Also sets how the secret is sent."""
        server, secret = self._context.oauth_metadata, self.registered.secret
        if server is not None and origin(url) not in {
            origin(str(address))
            for address in (server.token_endpoint, *(() if secret else (server.issuer, self.url)))
        }:
            what = "its client's secret" if secret else "the code of a login"
            raise ConfigError(
                f"mcp/{self.name} would have {what} sent to another host than the one where you log in.",
                hint="Ask the operator of the server.",
            )
        if not secret:
            return
        takes = (server and server.token_endpoint_auth_methods_supported) or ["client_secret_basic"]
        self._data["method"] = f"client_secret_{'basic' if 'client_secret_basic' in takes else 'post'}"
        self._context.client_info.token_endpoint_auth_method = self._data["method"]

    async def _take_result(self) -> Any:
        from mcp.shared.auth import AuthorizationCodeResult

        result = self._data.pop("came")
        if "code" not in result:
            raise ConfigError("The login was refused or not completed.", hint="Log in again.")
        return AuthorizationCodeResult(code=result["code"], state=result.get("state"), iss=result.get("iss"))
