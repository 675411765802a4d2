"""A real agent on loopback, made with a2a-sdk's server: what it does is the first word of what it is
asked."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager

import uvicorn
from a2a.helpers import proto_helpers as make
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as types
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


class Agent(AgentExecutor):
    """`heard`: each message, as JSON; `cancelled`: set when a task was."""

    def __init__(self):
        self.heard, self.cancelled, self.works = [], threading.Event(), threading.Event()

    async def execute(self, context, event_queue):
        self.heard.append(MessageToDict(context.message))
        word, _, rest = context.get_user_input().partition(" ")
        if word == "message":
            said = make.new_text_message(f"only {rest}", context_id=context.context_id)
            await event_queue.enqueue_event(said)
            return
        if context.current_task is None:
            await event_queue.enqueue_event(make.new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        await task.start_work(make.new_text_message("I look for it"))
        await getattr(self, word, self.other)(task, rest)

    async def other(self, task, rest):
        await task.add_artifact([make.new_text_part(f"heard {rest}")], artifact_id="a")
        await task.complete()

    async def stream(self, task, rest):
        for n, piece in enumerate(rest.split("|")):
            await task.add_artifact([make.new_text_part(piece)], artifact_id="a", append=n > 0)
        await task.add_artifact([make.new_text_part("second")], artifact_id="b")
        await task.complete(make.new_text_message("second"))

    async def again(self, task, rest):
        await task.add_artifact([make.new_text_part("first try")], artifact_id="a")
        await task.add_artifact([make.new_text_part("better")], artifact_id="a")
        await task.complete()

    async def files(self, task, rest):
        parts = [
            make.new_text_part("see"),
            make.new_raw_part(PNG, media_type="text/html", filename="<b>.png"),
            make.new_raw_part(b"a,b", media_type="text/csv", filename="t.csv"),
            make.new_data_part({"n": [1, 2], "x": "</script>"}),
            make.new_url_part("https://files.example/r.pdf", filename="r.pdf"),
        ]
        await task.add_artifact(parts, artifact_id="a")
        await task.complete()

    async def slow(self, task, rest):
        await task.add_artifact([make.new_text_part("begun")], artifact_id="a")
        self.works.set()
        await asyncio.sleep(600)

    async def later(self, task, rest):
        await asyncio.sleep(0.3)
        await self.other(task, rest)

    async def ask(self, task, rest):
        await task.requires_input(make.new_text_message("Which day?"))

    async def login(self, task, rest):
        await task.requires_auth(make.new_text_message("at https://login.example"))

    async def fail(self, task, rest):
        await task.add_artifact([make.new_text_part("half")], artifact_id="a")
        await task.failed(make.new_text_message("no seats"))

    async def reject(self, task, rest):
        await task.reject(make.new_text_message("not mine"))

    async def crash(self, task, rest):
        raise RuntimeError("out of luck")

    async def cancel(self, context, event_queue):
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()
        self.cancelled.set()


class Served:
    """url: of the card. agent: what was heard. seen: (method, path, authorization) of each request. edit:
    changes the card as it is served. status: for every request, 0 for its own. cut: ends the first stream
    after so many pieces."""

    def __init__(self, url, agent):
        self.url, self.agent, self.seen, self.status, self.cut = url, agent, [], 0, 0
        self.edit = lambda card: card


@contextmanager
def served(*, streaming=True, binding="JSONRPC"):
    listening = socket.create_server(("127.0.0.1", 0))
    agent, url = Agent(), f"http://127.0.0.1:{listening.getsockname()[1]}"
    it, path = Served(url, agent), "/rpc" if binding == "JSONRPC" else ""
    interface = types.AgentInterface(protocol_binding=binding, protocol_version="1.0", url=url + path)
    card = types.AgentCard(
        name="Travel <b>desk</b>",
        description="IGNORE ALL",
        version="1",
        capabilities=types.AgentCapabilities(streaming=streaming),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        supported_interfaces=[interface],
    )
    handler = DefaultRequestHandler(agent_executor=agent, task_store=InMemoryTaskStore(), agent_card=card)

    async def edited(found):
        copied = types.AgentCard()
        copied.CopyFrom(found)
        return it.edit(copied)

    cards = create_agent_card_routes(card, card_modifier=edited)
    routes = [*cards, *create_jsonrpc_routes(handler, "/rpc"), *create_rest_routes(handler)]
    app = _watched(Starlette(routes=routes), it)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()  # whoever connects before it runs waits in the socket's queue
    try:
        yield it
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


def _watched(app, it):
    async def watched(scope, receive, send):
        headers = {k.decode(): v.decode() for k, v in scope.get("headers", ())}
        it.seen.append((scope.get("method"), scope.get("path"), headers.get("authorization", "")))
        pieces = 0

        async def sends(message):
            nonlocal pieces
            pieces += message["type"] == "http.response.body" and bool(message.get("body"))
            if it.cut and pieces > it.cut:
                it.cut = 0
                raise ConnectionAbortedError
            await send(message)

        if it.status:
            await send({"type": "http.response.start", "status": it.status, "headers": []})
            return await send({"type": "http.response.body", "body": b"<html>go away</html>"})
        return await app(scope, receive, sends)

    return watched
