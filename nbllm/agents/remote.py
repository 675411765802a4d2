"""Turns with agents on other machines, through a2a-sdk: the card, a message that is streamed, a task that is
followed to its end, cancelled on Stop.

A card is untrusted. It may point to another origin: what is asked goes there, the key and the row's headers
do not, and never into a private network from the internet. What is remembered of a conversation is the
agent's context, and its task where it waits for an answer. The one place that imports the SDK, at the first
use.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from ..core import errors
from ..core.calls import Frame, HttpCall, RemoteCall, Trace, Transport, origin
from ..http.transport import HttpTransport
from .refusal import Refusable, Refusal

if TYPE_CHECKING:
    from ..http.sdk import SdkClient

LIMIT = 64  # conversations that are remembered
_CARD, _CARD_TIME = 2**20, 10.0  # bytes of a card, seconds for it
_FRESH = 300.0  # seconds that a card is taken to be the same
_CANCEL = 0.8  # seconds for a task to be told to stop
_PACE = (0.2, 5.0)  # seconds between two looks at a task: the first, and the longest
_PATHS = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # the second is that of version 0.2
_BINDINGS = ("JSONRPC", "HTTP+JSON")

Heard = tuple[tuple[str, str], ...]


def sdk() -> Any:
    """The SDK's parts. Raises ConfigError where it is not installed."""
    try:
        from a2a.client import ClientConfig, ClientFactory
        from a2a.client.card_resolver import parse_agent_card
        from a2a.types import a2a_pb2

        forms = importlib.import_module("google.protobuf.json_format")  # it comes without types
    except ImportError:
        raise errors.ConfigError(
            "Remote agents need the package a2a-sdk.", hint="Run `%pip install 'nbllm[a2a]'`, then restart."
        ) from None
    logging.getLogger("a2a").addHandler(logging.NullHandler())
    logging.getLogger("a2a").propagate = False  # it logs what agents write
    return SimpleNamespace(
        config=ClientConfig,
        factory=ClientFactory,
        card=parse_agent_card,
        types=a2a_pb2,
        told=forms.MessageToDict,
        made=forms.ParseDict,
    )


class _Task(msgspec.Struct):
    """An agent's work on one turn, as far as it is known. over: it has ended, or waits for the user."""

    ident: str = ""
    context: str = ""
    waits: bool = False
    over: bool = False

    def note(self, event: Any, types: Any) -> None:
        """What an event says of it."""
        kind = event.WhichOneof("payload")
        told = getattr(event, kind) if kind else None
        if told is None:
            return
        self.context = told.context_id or self.context
        if kind == "message":
            self.over = True
            return
        self.ident = (told.id if kind == "task" else told.task_id) or self.ident
        if kind != "artifact_update":
            state = told.status.state
            self.waits = state == types.TASK_STATE_INPUT_REQUIRED
            going = (types.TASK_STATE_UNSPECIFIED, types.TASK_STATE_SUBMITTED, types.TASK_STATE_WORKING)
            self.over = state not in going


@dataclass(slots=True)
class RemoteReply(Refusable):
    """The events of one turn; or, where the agent's server said no, that answer."""

    transport: RemoteTransport
    call: RemoteCall
    bound: SdkClient
    agent: Any = None
    kit: Any = None
    streams: bool = True
    task: _Task = field(default_factory=_Task)
    first: list[Frame] = field(default_factory=list)
    events: AsyncIterator[Any] | None = None
    refusal: Refusal | None = None
    opening: asyncio.Task[Frame | None] | None = None

    def finish(self, answer: Callable[[], str]) -> None:
        """Notes the agent's context, and its task where it waits for an answer."""
        if not self.call.fresh and self.task.context:
            task = self.task.ident if self.task.waits else ""
            self.transport.remember(self.call, answer(), (self.task.context, task))

    async def begin(self, message: Any) -> None:
        """Sends the message, and waits for the first of what comes. Raises Refusal, and errors of ours."""
        self.events = self.agent.send_message(self.kit.types.SendMessageRequest(message=message))
        self.opening = asyncio.create_task(self._next())
        first = await asyncio.shield(self.opening)  # Stop needs what it tells: which task is to be cancelled
        self.first = [first] if first is not None else []

    async def frames(self) -> AsyncGenerator[list[Frame], None]:
        """All events, to the task's end: a stream that ends before is taken up again, or the task looked
        at."""
        for frame in self.first:
            yield [frame]
        while (frame := await self._next()) is not None:  # type: ignore[assignment]
            yield [frame]
        if self.streams and self.task.ident and not self.task.over:
            self.events = self.agent.subscribe(self.kit.types.SubscribeToTaskRequest(id=self.task.ident))
            with contextlib.suppress(Refusal):
                while (frame := await self._next(quiet=True)) is not None:  # type: ignore[assignment]
                    yield [frame]
        pace, longest = _PACE
        while self.task.ident and not self.task.over:
            await asyncio.sleep(pace)
            pace = min(longest, 1.5 * pace)
            self.events = _once(self._look())
            if (looked := await self._next()) is not None:
                yield [looked]

    async def _look(self) -> Any:
        found = await self.agent.get_task(self.kit.types.GetTaskRequest(id=self.task.ident))
        return self.kit.types.StreamResponse(task=found)

    async def _next(self, *, quiet: bool = False) -> Frame | None:
        """The next event as a frame; None at the end. An error that the protocol has words for is a frame
        too."""
        if self.events is None or self.task.over:
            return None
        try:
            event = await anext(self.events, None)
        except errors.StreamCut:
            if not self.task.ident:  # else it goes on, and is taken up again
                raise
            return None
        except errors.NbllmError:
            raise
        except Exception as exc:  # noqa: BLE001 - the SDK's own, protobuf's, and those of JSON
            if self.bound.refused is not None:
                raise Refusal(*self.bound.refused) from None
            if quiet:
                return None
            self.task.over = True
            told = " ".join(str(getattr(exc, "message", "") or exc).split())[:2_000]
            return Frame(json.dumps({"error": {"message": told or type(exc).__name__}}), at=self._at)
        if event is None:
            return None
        self.task.note(event, self.kit.types)
        return Frame(json.dumps(self.kit.told(event)), at=self._at)

    @property
    def _at(self) -> float:
        return self.bound.at or time.perf_counter()

    async def stop(self) -> None:
        """Ends the turn: a task that goes on is cancelled, as far as that takes no longer than a moment."""
        with contextlib.suppress(Exception):  # it is told, and no more than that
            async with asyncio.timeout(_CANCEL):
                if self.opening is not None and not self.opening.done():
                    await asyncio.wait([self.opening])
                if self.task.ident and not self.task.over:
                    request = self.kit.types.CancelTaskRequest(id=self.task.ident)
                    await self.agent.cancel_task(request)
        if self.opening is not None:
            self.opening.cancel()
        if isinstance(self.events, AsyncGenerator):
            with contextlib.suppress(Exception):
                await self.events.aclose()


async def _once(work: Coroutine[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    yield await work


class RemoteTransport(Transport):
    """Turns with remote agents. Used on one event loop, over the connections of `http`."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http
        self.heard: dict[tuple[str, Heard], tuple[str, str]] = {}
        self._cards: dict[str, tuple[float, Any]] = {}

    def warm_up(self, call: RemoteCall) -> Coroutine[Any, Any, None] | None:
        """Loads the SDK, and what the first request needs."""
        return self._warm(call)

    async def _warm(self, call: RemoteCall) -> None:
        await asyncio.to_thread(sdk)  # other answers stream meanwhile
        await self._http.prepare(call.url)

    @asynccontextmanager
    async def open(self, call: RemoteCall, trace: Trace, connect: float | None) -> AsyncIterator[RemoteReply]:
        """Says a turn and gives its events; leaving in the middle of it cancels the task. Raises
        ConnectFailed where nobody answers, ProtocolError for a card that cannot be used; a server's own no is
        the reply's status."""
        kit = await asyncio.to_thread(sdk)
        from ..http.sdk import SdkClient

        bound = SdkClient(self._http, call.url, call.headers, call.guard, connect)
        began = time.perf_counter()
        async with bound.client() as client:
            reply = RemoteReply(self, call, bound, kit=kit)
            try:
                try:
                    await self._begin(reply, client, trace)
                except Refusal as no:
                    trace.status, reply.refusal, reply.task.over = no.status, no, True
                trace.marks["start"] = began
                yield reply
            finally:
                await asyncio.shield(reply.stop())

    async def _begin(self, reply: RemoteReply, client: Any, trace: Trace) -> None:
        call, bound, kit = reply.call, reply.bound, reply.kit
        card, trace.address = _interfaces(await self._card(kit, bound.connect, call), call.url)
        reply.streams = card.capabilities.streaming
        known = None if call.fresh else self.heard.pop((call.url, call.turn.history), None)
        ways = {"polling": not reply.streams, "supported_protocol_bindings": [*_BINDINGS]}
        reply.agent = kit.factory(kit.config(httpx_client=client, **ways)).create(card)
        bound.trace, trace.reused = trace, known is not None
        await reply.begin(_message(kit, call, known))
        if (there := origin(trace.address)) != origin(call.url):
            reply.first.insert(0, Frame(json.dumps({"elsewhere": there}), at=reply._at))

    async def said(self, call: RemoteCall) -> str:
        """What an agent's card says of it and of its skills, in its own words. Raises ProtocolError, and
        errors of connections."""
        where, kit = origin(call.url), await asyncio.to_thread(sdk)
        try:
            async with asyncio.timeout(_CARD_TIME):
                card = await self._card(kit, _CARD_TIME, call)
        except Refusal as no:
            raise errors.ProtocolError(
                f"{where} answers {no.status} where an agent's card should be.",
                hint="Check its address and key.",
            ) from None
        except TimeoutError as error:
            if isinstance(error, errors.Timeout):
                raise
            raise errors.Timeout(
                f"No card from {where} within {_CARD_TIME:g} s.", which="total", seconds=_CARD_TIME
            ) from None
        skills = [f"- {skill.name}: {skill.description}" for skill in card.skills]
        return "\n".join([f"{card.name}: {card.description}", *(["Skills:", *skills] if skills else ())])

    async def _card(self, kit: Any, connect: float | None, call: RemoteCall) -> Any:
        """The agent's card, as it is now or was minutes ago. Raises Refusal, ProtocolError."""
        at, card = self._cards.get(call.url, (0.0, None))
        if card is None or time.monotonic() - at > _FRESH:
            page = await self._page(connect, call)
            try:
                card = kit.card(json.loads(page))
            except Exception:  # noqa: BLE001 - JSON's errors, protobuf's, and those of wrong types
                raise errors.ProtocolError(
                    f"What {origin(call.url)} has in the place of an agent's card cannot be read.",
                    hint="Check that base_url is an agent's address, such as https://host/agent.",
                ) from None
            self._cards[call.url] = time.monotonic(), card
        made = kit.types.AgentCard()
        made.CopyFrom(card)
        return made

    async def _page(self, connect: float | None, call: RemoteCall) -> bytes:
        base, whole = call.url.rstrip("/"), call.url.endswith(".json")
        for n, url in enumerate([base] if whole else [base + path for path in _PATHS]):
            asked = HttpCall(url, {**call.headers, "accept": "application/json"}, {}, "GET", call.guard)
            async with self._http.open(asked, Trace(), connect) as reply:
                page = await reply.body(_CARD)
                if reply.status < 300:
                    return page
                if reply.status != 404 or whole or n:
                    raise Refusal(reply.status, reply.headers, page)
        raise AssertionError

    def remember(self, call: RemoteCall, answer: str, place: tuple[str, str]) -> None:
        """A conversation that may go on: (the agent's context, its task where it waits)."""
        self.heard[call.url, call.turn.history_after(answer)] = place
        while len(self.heard) > LIMIT:
            del self.heard[next(iter(self.heard))]

    async def close(self) -> None:
        """Forgets what was heard."""
        self.heard, self._cards = {}, {}


def _interfaces(card: Any, url: str) -> tuple[Any, str]:
    """(the card with the addresses that can be asked, those of its own origin where there are any; the
    first). Raises ProtocolError for none."""
    able = [i for i in card.supported_interfaces if i.protocol_binding in _BINDINGS and _is_web(i.url)]
    own = [i for i in able if origin(i.url) == origin(url)]
    kept = own or [i for i in able if origin(i.url) == origin(able[0].url)]
    if not kept:
        raise errors.ProtocolError(
            f"The card at {origin(url)} names no address that speaks {' or '.join(_BINDINGS)}.",
            hint="Ask the agent's owner, or for an address that speaks JSON-RPC.",
        )
    first = kept[0].url
    made = [type(i).FromString(i.SerializeToString()) for i in kept]
    del card.supported_interfaces[:]
    card.supported_interfaces.extend(made)
    return card, first


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        return False


def _message(kit: Any, call: RemoteCall, known: tuple[str, str] | None) -> Any:
    """The user's message in the protocol's form."""
    words = call.turn.prompt if known else call.turn.full_prompt
    context, task = known or ("", "")
    told = {
        "role": "ROLE_USER",
        "messageId": uuid4().hex,
        "parts": [*([{"text": words}] if words else []), *call.files],
        "contextId": context,
        "taskId": task,
    }
    return kit.made({k: v for k, v in told.items() if v}, kit.types.Message())
