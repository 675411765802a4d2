"""Turns with agents on other machines, through a2a-sdk: reads the card, streams a message, follows a task to
its end, and cancels it on Stop.

A card is untrusted. It may point to another origin: the prompt is sent there, but not the key and the row's
headers, and never from the internet into a private network. Stored for a conversation are the agent's
context, and its task if that waits for input. The only module that imports the SDK, at the first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from ..core import errors
from ..core.calls import Frame, History, HttpCall, RemoteCall, Trace, Transport, origin
from ..http.transport import HttpTransport
from .refusal import RefusableReply, Refusal

if TYPE_CHECKING:
    from ..http.sdk import SdkClient

MAX_SESSIONS = 64  # conversations that are stored
_CARD_LIMIT, _CARD_TIMEOUT = 2**20, 10.0  # bytes of a card, seconds to load it
_CARD_LIFETIME = 300.0  # seconds that a card is cached
_CANCEL_TIMEOUT = 0.8  # seconds to cancel a task
_POLL_PAUSES = (0.2, 5.0)  # seconds between polls of a task: the first pause, and the longest
_PATHS = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # the second is that of version 0.2
_BINDINGS = ("JSONRPC", "HTTP+JSON")


def load_sdk() -> Any:
    """The SDK's parts. Raises ConfigError if it is not installed."""
    try:
        from a2a.client import ClientConfig, ClientFactory
        from a2a.client.card_resolver import parse_agent_card
        from a2a.types import a2a_pb2

        forms = importlib.import_module("google.protobuf.json_format")  # it comes without types
    except ImportError:
        raise errors.ConfigError(
            "Remote agents require the package a2a-sdk.",
            hint="Run `%pip install 'nbllm[a2a]'`, then restart the kernel.",
        ) from None
    logging.getLogger("a2a").addHandler(logging.NullHandler())
    logging.getLogger("a2a").propagate = False  # it logs what agents write
    return SimpleNamespace(
        config=ClientConfig,
        factory=ClientFactory,
        card=parse_agent_card,
        types=a2a_pb2,
        to_dict=forms.MessageToDict,
        from_dict=forms.ParseDict,
    )


class _Task(msgspec.Struct):
    """The state of an agent's task. is_over: it has ended, or waits for input (awaits_input)."""

    ident: str = ""
    context: str = ""
    awaits_input: bool = False
    is_over: bool = False

    def update(self, event: Any, types: Any) -> None:
        """Updates the state from an event."""
        kind = event.WhichOneof("payload")
        payload = getattr(event, kind) if kind else None
        if payload is None:
            return
        self.context = payload.context_id or self.context
        if kind == "message":
            self.is_over = True
            return
        self.ident = (payload.id if kind == "task" else payload.task_id) or self.ident
        if kind != "artifact_update":
            state = payload.status.state
            self.awaits_input = state == types.TASK_STATE_INPUT_REQUIRED
            going = (types.TASK_STATE_UNSPECIFIED, types.TASK_STATE_SUBMITTED, types.TASK_STATE_WORKING)
            self.is_over = state not in going


@dataclass(slots=True)
class RemoteReply(RefusableReply):
    """The events of one turn, or the HTTP error of the agent's server."""

    transport: RemoteTransport
    call: RemoteCall
    sdk_client: SdkClient
    agent: Any = None
    sdk: Any = None
    streams: bool = True
    task: _Task = field(default_factory=_Task)
    first: list[Frame] = field(default_factory=list)
    events: AsyncIterator[Any] | None = None
    refusal: Refusal | None = None
    first_event: asyncio.Task[Frame | None] | None = None

    def finish(self, answer: Callable[[], str]) -> None:
        """Stores the agent's context, and its task if that waits for input."""
        if not self.call.fresh and self.task.context:
            task = self.task.ident if self.task.awaits_input else ""
            self.transport.store_session(self.call, answer(), (self.task.context, task))

    async def begin(self, message: Any) -> None:
        """Sends the message, and waits for the first event. Raises Refusal and NbllmError."""
        self.events = self.agent.send_message(self.sdk.types.SendMessageRequest(message=message))
        self.first_event = asyncio.create_task(self._next())
        first = await asyncio.shield(self.first_event)  # Stop needs the id of the task in it
        self.first = [first] if first is not None else []

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """All events, to the end of the task: after a stream that ends early, by subscribing again, then by
        polling the task."""
        for frame in self.first:
            yield [frame]
        while (frame := await self._next()) is not None:  # type: ignore[assignment]
            yield [frame]
        if self.streams and self.task.ident and not self.task.is_over:
            self.events = self.agent.subscribe(self.sdk.types.SubscribeToTaskRequest(id=self.task.ident))
            with contextlib.suppress(Refusal):
                while (frame := await self._next(quiet=True)) is not None:  # type: ignore[assignment]
                    yield [frame]
        pace, longest = _POLL_PAUSES
        while self.task.ident and not self.task.is_over:
            await asyncio.sleep(pace)
            pace = min(longest, 1.5 * pace)
            self.events = self._poll()
            if (polled := await self._next()) is not None:
                yield [polled]

    async def _poll(self) -> AsyncGenerator[Any, None]:
        task = await self.agent.get_task(self.sdk.types.GetTaskRequest(id=self.task.ident))
        yield self.sdk.types.StreamResponse(task=task)

    async def _next(self, *, quiet: bool = False) -> Frame | None:
        """The next event as a frame; None at the end. An error of the protocol becomes a frame too. quiet:
        other errors end the events."""
        if self.events is None or self.task.is_over:
            return None
        try:
            event = await anext(self.events, None)
        except errors.StreamCut:
            if not self.task.ident:  # else the task continues, and its stream is resumed
                raise
            return None
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - the SDK's own, protobuf's, and those of JSON
            if self.sdk_client.error_response is not None:
                raise Refusal(*self.sdk_client.error_response) from None
            if quiet:
                return None
            self.task.is_over = True
            message = " ".join(str(getattr(exc, "message", "") or exc).split())[:2_000]
            return Frame(json.dumps({"error": {"message": message or type(exc).__name__}}), at=self._at)
        if event is None:
            return None
        self.task.update(event, self.sdk.types)
        return Frame(json.dumps(self.sdk.to_dict(event)), at=self._at)

    @property
    def _at(self) -> float:
        return self.sdk_client.last_arrival or time.perf_counter()

    async def stop(self) -> None:
        """Ends the turn; cancels a task that still runs, within _CANCEL_TIMEOUT."""
        with contextlib.suppress(Exception):  # only an attempt
            async with asyncio.timeout(_CANCEL_TIMEOUT):
                if self.first_event is not None and not self.first_event.done():
                    await asyncio.wait([self.first_event])
                if self.task.ident and not self.task.is_over:
                    request = self.sdk.types.CancelTaskRequest(id=self.task.ident)
                    await self.agent.cancel_task(request)
        if self.first_event is not None:
            self.first_event.cancel()
        if isinstance(self.events, AsyncGenerator):
            with contextlib.suppress(Exception):
                await self.events.aclose()


class RemoteTransport(Transport):
    """Turns with remote agents. Used on one event loop, over the connections of `http`."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http
        self.sessions: dict[tuple[str, History], tuple[str, str]] = {}
        self._cards: dict[str, tuple[float, Any]] = {}

    async def warm_up(self, call: RemoteCall) -> None:
        """Loads the SDK, and prepares the first request."""
        await asyncio.to_thread(load_sdk)  # other answers stream meanwhile
        await self._http.prepare(call.url)

    @asynccontextmanager
    async def open(self, call: RemoteCall, trace: Trace, connect: float | None) -> AsyncIterator[RemoteReply]:
        """Starts a turn and yields its reply; leaving early cancels the task. Raises ConnectFailed if nothing
        answers, ProtocolError for a card that cannot be used; an HTTP error of the server is the reply's
        status."""
        sdk = await asyncio.to_thread(load_sdk)
        from ..http.sdk import SdkClient

        sdk_client = SdkClient(self._http, call.url, call.headers, call.guard, connect)
        began = time.perf_counter()
        async with sdk_client.client() as client:
            reply = RemoteReply(self, call, sdk_client, sdk=sdk)
            try:
                try:
                    await self._begin(reply, client, trace)
                except Refusal as no:
                    trace.status, reply.refusal, reply.task.is_over = no.status, no, True
                trace.marks["start"] = began
                yield reply
            finally:
                await asyncio.shield(reply.stop())

    async def _begin(self, reply: RemoteReply, client: Any, trace: Trace) -> None:
        call, sdk_client, sdk = reply.call, reply.sdk_client, reply.sdk
        card, trace.address = _interfaces(await self._card(sdk, sdk_client.connect, call), call.url)
        reply.streams = card.capabilities.streaming
        known = None if call.fresh else self.sessions.pop((call.url, call.turn.history), None)
        ways = {"polling": not reply.streams, "supported_protocol_bindings": [*_BINDINGS]}
        reply.agent = sdk.factory(sdk.config(httpx_client=client, **ways)).create(card)
        sdk_client.trace, trace.reused = trace, known is not None
        await reply.begin(_message(sdk, call, known))
        if (card_origin := origin(trace.address)) != origin(call.url):
            reply.first.insert(0, Frame(json.dumps({"elsewhere": card_origin}), at=reply._at))

    async def describe_agent(self, call: RemoteCall) -> str:
        """The description of an agent and its skills, from its card. Raises ProtocolError and
        TransportError."""
        where, sdk = origin(call.url), await asyncio.to_thread(load_sdk)
        try:
            async with asyncio.timeout(_CARD_TIMEOUT):
                card = await self._card(sdk, _CARD_TIMEOUT, call)
        except Refusal as no:
            raise errors.ProtocolError(
                f"{where} answered HTTP {no.status} to the request for an agent's card.",
                hint="Check its address and key.",
            ) from None
        except TimeoutError as error:
            if isinstance(error, errors.Timeout):
                raise
            raise errors.Timeout(
                f"No card from {where} within {_CARD_TIMEOUT:g} s.", which="total", seconds=_CARD_TIMEOUT
            ) from None
        skills = [f"- {skill.name}: {skill.description}" for skill in card.skills]
        return "\n".join([f"{card.name}: {card.description}", *(["Skills:", *skills] if skills else ())])

    async def _card(self, sdk: Any, connect: float | None, call: RemoteCall) -> Any:
        """The agent's card, which is cached for minutes. Raises Refusal and ProtocolError."""
        at, card = self._cards.get(call.url, (0.0, None))
        if card is None or time.monotonic() - at > _CARD_LIFETIME:
            page = await self._page(connect, call)
            try:
                card = sdk.card(json.loads(page))
            except Exception:  # noqa: BLE001 - JSON's errors, protobuf's, and those of wrong types
                raise errors.ProtocolError(
                    f"The agent's card at {origin(call.url)} cannot be read.",
                    hint="Check that base_url is an agent's address, such as https://host/agent.",
                ) from None
            self._cards[call.url] = time.monotonic(), card
        copy = sdk.types.AgentCard()
        copy.CopyFrom(card)
        return copy

    async def _page(self, connect: float | None, call: RemoteCall) -> bytes:
        base, is_card_url = call.url.rstrip("/"), call.url.endswith(".json")
        for n, url in enumerate([base] if is_card_url else [base + path for path in _PATHS]):
            card_call = HttpCall(url, {**call.headers, "accept": "application/json"}, {}, "GET", call.guard)
            async with self._http.open(card_call, Trace(), connect) as reply:
                page = await reply.body(_CARD_LIMIT)
                if reply.status < 300:
                    return page
                if reply.status != 404 or is_card_url or n:
                    raise Refusal(reply.status, reply.headers, page)
        raise AssertionError

    def store_session(self, call: RemoteCall, answer: str, session: tuple[str, str]) -> None:
        """Stores (the agent's context, its task if that waits for input) for the next turn."""
        self.sessions[call.url, call.turn.history_after(answer)] = session
        while len(self.sessions) > MAX_SESSIONS:
            del self.sessions[next(iter(self.sessions))]

    async def close(self) -> None:
        """Drops stored sessions and cards."""
        self.sessions, self._cards = {}, {}


def _interfaces(card: Any, url: str) -> tuple[Any, str]:
    """(the card with only the interfaces that can be used: those of its own origin, else those of the first
    origin; the first address). Raises ProtocolError if there are none."""
    usable = [i for i in card.supported_interfaces if i.protocol_binding in _BINDINGS and _is_web(i.url)]
    own = [i for i in usable if origin(i.url) == origin(url)]
    selected = own or [i for i in usable if origin(i.url) == origin(usable[0].url)]
    if not selected:
        raise errors.ProtocolError(
            f"The card at {origin(url)} names no address that speaks {' or '.join(_BINDINGS)}.",
            hint="Ask the agent's owner for an address that speaks JSON-RPC.",
        )
    first = selected[0].url
    copies = [type(i).FromString(i.SerializeToString()) for i in selected]
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(copies)
    return card, first


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        return False


def _message(sdk: Any, call: RemoteCall, known: tuple[str, str] | None) -> Any:
    """The user's message in the protocol's form."""
    text = call.turn.prompt if known else call.turn.full_prompt
    context, task = known or ("", "")
    message = {
        "role": "ROLE_USER",
        "messageId": uuid4().hex,
        "parts": [*([{"text": text}] if text else []), *call.files],
        "contextId": context,
        "taskId": task,
    }
    return sdk.from_dict({k: v for k, v in message.items() if v}, sdk.types.Message())
