"""Logins of MCP servers by OAuth 2: the SDK's flow over our key stores, bound to the server's address.

A login is begun by the user alone (%llm mcp login): nothing else opens a page or registers a client. What is
kept (in the keyring, else for this session) is the tokens, the client and where they are renewed, so that a
renewal after a restart asks nobody.
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
from .mcp_entry import Registered

Answer = Mapping[str, str]
_CALLED = f"{SERVICE} mcp login"


async def check_place(name: str, own: str, url: str) -> None:
    """Raises ConnectFailed where the server `name` at `own`, on the internet, would have something asked at a
    `url` that is unencrypted or in a private network. What a name leads to may change from one moment to the
    next; then there is no certificate for it."""
    if origin(url) == origin(own) or await _is_private(parse(own)):
        return
    if (place := parse(url)).scheme != "https" or await _is_private(place):
        raise ConnectFailed(
            f"{name} would have its login looked for at {place}, which is no place on the internet by https.",
            hint="Ask who runs it.",
        )


async def _is_private(address: Address) -> bool:
    """Whether it leads into this machine or a private network; a name that only a proxy knows does not."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port)
    except OSError:
        return False
    return not are_all_public(found)


@dataclass(slots=True)
class Login:
    """The login of the server called `name` at `url`, as the SDK's store of tokens. ask: gives what the
    browser brought from an address, for a login that is begun now, whose browser comes back to `redirect`."""

    name: str
    url: str
    stores: KeyStores = field(repr=False)
    redirect: str = "http://127.0.0.1/callback"
    ask: Callable[[str], Awaitable[Answer]] | None = None
    registered: Registered = field(default=Registered(), repr=False)
    _data: dict[str, Any] = field(default_factory=dict, repr=False)
    _context: Any = field(default=None, repr=False)

    def load(self) -> bool:
        """Looks for what is kept; whether there is anything."""
        try:
            found = json.loads(self.stores.load(_CALLED, self.url) or "{}")
        except ValueError:
            found = {}
        self._data = found if isinstance(found, dict) else {}
        return bool(self._data.get("tokens"))

    def forget(self) -> bool:
        """Forgets it; False where there was none."""
        there = self.load()
        self.stores.delete(_CALLED, self.url)
        return there

    @property
    def kept(self) -> bool:
        """Whether there is a keyring to keep it."""
        return self.stores.keyring() is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of it no message may show."""
        tokens, client = self._data.get("tokens"), self._data.get("client")
        found = [
            *(tokens.get(k) for k in ("access_token", "refresh_token") if isinstance(tokens, dict)),
            *([client.get("client_secret")] if isinstance(client, dict) else []),
        ]
        return tuple(text for text in found if isinstance(text, str) and text)

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
        made = OAuthClientProvider(self.url, about, self, self._open, self._came)
        self._context = made.context
        return made

    # --- the SDK's store ---

    async def get_tokens(self) -> Any:
        """The tokens, with what renews them."""
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
        """Keeps new tokens."""
        server = self._context.oauth_metadata
        self._data |= {
            "tokens": tokens.model_dump(mode="json", exclude_none=True),
            "ends": None if tokens.expires_in is None else time.time() + tokens.expires_in,
            "server": server.model_dump(mode="json", exclude_none=True) if server is not None else None,
        }
        self._save()

    async def get_client_info(self) -> Any:
        """The client that was registered, by hand or here; none of ours for a new login, whose browser comes
        back elsewhere."""
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
        """Keeps the client that was registered, together with the tokens that it gets."""
        self._data["client"] = client_info.model_dump(mode="json", exclude_none=True)

    def _save(self) -> None:
        self.stores.save(_CALLED, self.url, json.dumps(self._data))

    # --- the browser ---

    async def _open(self, url: str) -> None:
        if self.ask is None:
            await self.get_tokens()  # what it told of others meanwhile is forgotten: they renew nothing
            hint = f"`%llm mcp login {self.name}` logs in again."
            raise ConnectFailed(f"The login to mcp/{self.name} has ended.", hint=hint)
        self._check(url)
        self._data["came"] = dict(await self.ask(url))

    def _check(self, url: str) -> None:
        """What the login brings goes back to where the user logs in, or to where this place or the server
        itself sends it: else a server could have the user log in at another's, and take what comes of it.
        The client's secret goes to where the user logs in alone. Here is also set how it is shown."""
        server, secret = self._context.oauth_metadata, self.registered.secret
        if server is not None and origin(url) not in {
            origin(str(place))
            for place in (server.token_endpoint, *(() if secret else (server.issuer, self.url)))
        }:
            what = "its client's secret" if secret else "what a login brings"
            raise ConfigError(
                f"mcp/{self.name} would have {what} sent elsewhere than where you log in.",
                hint="Ask who runs it.",
            )
        if not secret:
            return
        takes = (server and server.token_endpoint_auth_methods_supported) or ["client_secret_basic"]
        self._data["method"] = f"client_secret_{'basic' if 'client_secret_basic' in takes else 'post'}"
        self._context.client_info.token_endpoint_auth_method = self._data["method"]

    async def _came(self) -> Any:
        from mcp.shared.auth import AuthorizationCodeResult

        came = self._data.pop("came")
        if "code" not in came:
            raise ConfigError("The login was refused, or nobody logged in.", hint="Log in again.")
        return AuthorizationCodeResult(code=came["code"], state=came.get("state"), iss=came.get("iss"))
