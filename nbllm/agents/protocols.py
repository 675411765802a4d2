"""The long-lived modes of headless CLIs: claude's stream-json input, codex's app-server, the Agent Client
Protocol. Pure.

An AgentProtocol implements the exchange with one running command: it opens sessions, answers the command's
requests (a permission only as the user decides), and knows when a turn is over. The lines of a turn are read
by a decoder of its own. As measured with claude 2.1.197 and 2.1.329, codex 0.169.0, gemini 0.61.0, copilot
1.0.102 and opencode 1.18.33.

The package agent-client-protocol (0.12.1) cannot replace this file: an update of an unknown kind, or a call
without a title, is a pydantic error there and a skipped line here; its connection reads by itself, so that
lines would have no time of arrival; and its import takes 0.4 s of processor time.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from msgspec import structs

from ..core.calls import AgentCall, Decoder, Endpoint, Permission, Secret, SessionCall, SessionTurn
from ..core.errors import ConfigError, ProtocolError, ProviderError
from ..core.events import Event, Finished, FinishReason, Notice, ReasoningDelta, UsageReport
from ..core.messages import Request
from ..dialects._json import count, items, obj
from . import one_shot, opencode_protocol
from .base import (
    AgentDecoder,
    add_counts,
    agent_error,
    as_number,
    as_text,
    build_process_call,
    check_options,
    error_text,
    fit_system_prompt,
    result_content,
    session_turn,
    tool_outcome,
    usage_report,
)
from .json_lines import ObjectReader
from .one_shot import ClaudeDecoder, emit_codex_item

T = TypeVar("T")
_NO_METHOD = -32601
# Messages of copilot that come as text of the model: before an answer, and instead of one.
_BANNER = re.compile(r"Info: (?:Disabled tools|Unknown tool name|Request failed due to )")
_FAILED, _AGAIN = "Error: ", "Retrying..."
_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "max_turn_requests": "other",
    "refusal": "content_filter",
    "cancelled": "cancelled",
}


_MAX_SESSIONS = 64  # whose usage so far is stored for an Agent Client Protocol command


class _Protocol(ABC):
    """Base class of protocols. asks_permission: permissions are passed to the user, else refused; denied: the
    refused permissions by tool call id."""

    multi_session = True

    def __init__(self, provider: Endpoint, *, asks_permission: bool = False) -> None:
        self.provider, self.busy, self.session, self.asks_permission = provider, False, "", asks_permission
        self.pending_permissions: list[Permission] = []
        self.denied: dict[str, Permission] = {}
        self._objects = ObjectReader()

    def handle_line(self, line: str) -> list[str]:
        """The lines to write in answer to a line: the next step of ours, or the answer to a request."""
        return [answer for value in self._objects.read(line)[0] for answer in self._handle_object(value)]

    @abstractmethod
    def _handle_object(self, value: dict[str, Any]) -> list[str]:
        """The lines to write in answer to an object."""

    def _request_permission(self, permission: Permission, *, ask_user: bool) -> list[str]:
        """Adds a permission to the pending ones if `ask_user`, else refuses it. Returns the lines to
        write."""
        if ask_user:
            self.pending_permissions.append(permission)
        return [] if ask_user else self.answer_permission(permission, False)

    def answer_permission(self, permission: Permission, allow: bool) -> list[str]:
        """The lines that answer a permission request."""
        self.denied |= {} if allow else {permission.id: permission}
        return [json.dumps(self._permission_answer(permission, allow))]

    def _permission_answer(self, permission: Permission, allow: bool) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": permission.request, "result": permission.decisions[0 if allow else 1]}


class ClaudeProtocol(_Protocol):
    """claude's stream-json in both directions. A process has one session."""

    multi_session = False

    def __init__(self, provider: Endpoint, *, asks_permission: bool = False) -> None:
        super().__init__(provider, asks_permission=asks_permission)
        self.cost = 0.0  # US dollars so far: a result has the total of the process
        self._is_initialized = False
        self._waiting_lines: list[str] = []

    def start_turn(self, turn: SessionTurn, session: str) -> list[str]:
        """The line of the turn; for the first turn the initialize request, whose answer the turn waits
        for."""
        line = json.dumps(
            {
                "type": "user",
                "message": {"role": "user", "content": turn.prompt if session else turn.full_prompt},
                "parent_tool_use_id": None,
                "session_id": "default",
            }
        )
        self.busy, self.session = True, "default"
        if self._is_initialized:
            return [line]
        self._waiting_lines.append(line)
        return [self._control("initialize", hooks=None)]

    def _handle_object(self, value: dict[str, Any]) -> list[str]:
        kind = value.get("type")
        if kind == "control_response" and not self._is_initialized:
            self._is_initialized, waiting, self._waiting_lines = True, self._waiting_lines, []
            return waiting
        if kind == "control_request":
            request, request_id = obj(value.get("request")), value.get("request_id")
            permission = Permission(
                _request_id(request_id),
                as_text(request.get("tool_use_id")),
                as_text(request.get("tool_name")) or "tool",
                request.get("input"),
                self.provider.label or self.provider.name,
            )
            return self._request_permission(
                permission, ask_user=self.asks_permission and request.get("subtype") == "can_use_tool"
            )
        if kind == "result":
            self.busy = False
        return []

    def _permission_answer(self, permission: Permission, allow: bool) -> dict[str, Any]:
        """Allows the tool with the arguments that were shown, or denies it."""
        answer = (
            {"behavior": "allow", "updatedInput": permission.arguments}
            if allow
            else {"behavior": "deny", "message": "Not allowed."}
        )
        response = {"subtype": "success", "request_id": permission.request, "response": answer}
        return {"type": "control_response", "response": response}

    def interrupt(self) -> list[str]:
        """The request to stop, which the command answers with a result."""
        return [self._control("interrupt")] if self._is_initialized else []

    def decoder(self) -> Decoder:
        """The decoder of one turn."""
        return _ClaudeTurnDecoder(self.provider, self)

    @staticmethod
    def _control(subtype: str, **more: Any) -> str:
        return json.dumps(
            {
                "type": "control_request",
                "request_id": f"nbllm-{subtype}",
                "request": {"subtype": subtype, **more},
            }
        )


class _ClaudeTurnDecoder(ClaudeDecoder):
    """Decodes the lines of one turn; the cost in a result is the total of the process."""

    def __init__(self, provider: Endpoint, protocol: ClaudeProtocol) -> None:
        super().__init__(provider)
        self._protocol, self._denied = protocol, protocol.denied

    def _emit_usage(self, value: dict[str, Any]) -> Iterator[Event]:
        total = as_number(value.get("total_cost_usd"))
        if total is not None:
            value = {**value, "total_cost_usd": total - self._protocol.cost}
            self._protocol.cost = total
        yield from super()._emit_usage(value)


def _request_id(value: Any) -> str | int | float | None:
    """The id of a request, as it must be sent back; None for an invalid one."""
    return value if isinstance(value, (str, int, float)) else None


def _swap_stored(stored: dict[str, T], session: str, value: T) -> T | None:
    """Stores `value` for a session and returns its previous value; drops the oldest beyond _MAX_SESSIONS."""
    before = stored.pop(session, None)
    stored[session] = value
    while len(stored) > _MAX_SESSIONS:
        del stored[next(iter(stored))]
    return before


def _invalid_message(provider: Endpoint, what: str) -> ProtocolError:
    return ProtocolError(
        f"{provider.label or provider.name} sent an invalid message ({what}).",
        hint="Leave keep out, and report this.",
    )


class _JsonRpcProtocol(_Protocol):
    """Base class of protocols with JSON-RPC over lines. Requests are numbered; the answer to one leads to the
    next step. client: the parameters of the initialize request."""

    client: ClassVar[Mapping[str, Any]]

    def __init__(
        self, provider: Endpoint, model: str, system: str, folder: str, *, asks_permission: bool = False
    ) -> None:
        super().__init__(provider, asks_permission=asks_permission)
        self.model, self.system, self.folder = model, system, folder
        self._pending_requests: dict[int, str] = {}  # methods by number
        self._next, self._ready, self._prompt_text = 0, False, ""

    def start_turn(self, turn: SessionTurn, session: str) -> list[str]:
        """The lines to write first: the prompt, or the requests that must come before it (initialize, or a
        new session)."""
        self.busy, self.session = True, session
        self._prompt_text = turn.prompt if session else turn.full_prompt
        return self._prompt_lines() if self._ready else [self._request("initialize", self.client)]

    def _prompt_lines(self) -> list[str]:
        return [self._prompt_request(self._prompt_text) if self.session else self._new_session_request()]

    def _handle_object(self, value: dict[str, Any]) -> list[str]:
        if "method" in value and "id" in value:
            id = _request_id(value["id"])
            permission = self._permission(as_text(value["method"]), obj(value.get("params")), id)
            if permission is not None:
                return self._request_permission(permission, ask_user=self.asks_permission)
            error = {"code": _NO_METHOD, "message": "Not supported."}
            return [json.dumps({"jsonrpc": "2.0", "id": id, "error": error})]
        if "method" in value:
            return self._handle_notification(as_text(value["method"]), obj(value.get("params")))
        method = self._pending_requests.pop(value["id"], "") if isinstance(value.get("id"), int) else ""
        if method and "error" in value:
            self.busy = False
            return []
        return self._handle_result(method, obj(value.get("result")))

    def _request(self, method: str, params: Mapping[str, Any]) -> str:
        self._next += 1
        self._pending_requests[self._next] = method
        return json.dumps({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})

    @abstractmethod
    def _new_session_request(self) -> str:
        """The request for a new session."""

    @abstractmethod
    def _prompt_request(self, text: str) -> str:
        """The request that sends a prompt to the session."""

    def _set_session(self, session: Any) -> None:
        """Stores the id of the new session. Raises ProtocolError for a missing id."""
        self.session = as_text(session)
        if not self.session:
            raise _invalid_message(self.provider, "a session without an id")

    @abstractmethod
    def _handle_result(self, method: str, result: dict[str, Any]) -> list[str]:
        """The lines to write after the result of a request of ours."""

    def _handle_notification(self, method: str, params: dict[str, Any]) -> list[str]:
        return []

    @abstractmethod
    def _permission(self, method: str, params: dict[str, Any], ident: Any) -> Permission | None:
        """The permission that a request of the command asks for; None for other requests."""


class CodexProtocol(_JsonRpcProtocol):
    """codex app-server: threads with turns, and deltas."""

    client: ClassVar[Mapping[str, Any]] = {"clientInfo": {"name": "nbllm", "title": "nbllm", "version": "1"}}

    def __init__(
        self,
        provider: Endpoint,
        model: str,
        system: str,
        folder: str,
        *,
        sandbox: str = "read-only",
        asks_permission: bool = False,
    ) -> None:
        super().__init__(provider, model, system, folder, asks_permission=asks_permission)
        self.sandbox = sandbox
        self._changes: dict[str, Any] = {}  # file changes by item id, until the turn ends
        self._turn_id = ""
        self._stopping = False

    def _new_session_request(self) -> str:
        return self._request(
            "thread/start",
            {
                "cwd": self.folder,
                "sandbox": self.sandbox,
                "approvalPolicy": "untrusted" if self.asks_permission else "never",
                "ephemeral": True,
                **({"model": self.model} if self.model else {}),
                **({"developerInstructions": self.system} if self.system else {}),
            },
        )

    def _prompt_request(self, text: str) -> str:
        self._turn_id, self._stopping = "", False
        return self._request(
            "turn/start", {"threadId": self.session, "input": [{"type": "text", "text": text}]}
        )

    def _handle_result(self, method: str, result: dict[str, Any]) -> list[str]:
        if method == "initialize":
            self._ready = True
            return [json.dumps({"jsonrpc": "2.0", "method": "initialized"}), *self._prompt_lines()]
        if method == "thread/start":
            self._set_session(obj(result.get("thread")).get("id"))
            return self._prompt_lines()
        if method == "turn/start":
            self._turn_id = as_text(obj(result.get("turn")).get("id"))
            return self.interrupt() if self._stopping else []
        return []

    def _handle_notification(self, method: str, params: dict[str, Any]) -> list[str]:
        if method == "turn/completed" and params.get("threadId") == self.session:
            self.busy, self._changes = False, {}
        item = obj(params.get("item"))
        if method == "item/started" and item.get("type") == "fileChange":
            self._changes[as_text(item.get("id"))] = item.get("changes")
        return []

    def _permission(self, method: str, params: dict[str, Any], ident: Any) -> Permission | None:
        if method not in _CODEX_ASKS:
            return None
        item, label = as_text(params.get("itemId")), self.provider.label or self.provider.name
        arguments = {k: v for k in _CODEX_SHOWN if (v := params.get(k)) not in (None, [])}
        if method == "item/fileChange/requestApproval":
            arguments["changes"] = self._changes.get(item)
        decisions = ({"decision": "accept"}, {"decision": "decline"})
        return Permission(ident, item, _CODEX_ASKS[method], arguments, label, decisions)

    def interrupt(self) -> list[str]:
        """The request to stop the turn, once its id is known."""
        self._stopping = True
        return (
            [self._request("turn/interrupt", {"threadId": self.session, "turnId": self._turn_id})]
            if self._turn_id
            else []
        )

    def decoder(self) -> Decoder:
        """The decoder of one turn."""
        return _CodexTurnDecoder(self.provider, self)


class _CodexTurnDecoder(AgentDecoder):
    """Decodes the notifications of one turn: deltas by item, its usage, its end."""

    def __init__(self, provider: Endpoint, protocol: CodexProtocol) -> None:
        super().__init__(provider)
        self._protocol, self._item = protocol, ""

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        method, params = as_text(value.get("method")), obj(value.get("params"))
        if "error" in value and "id" in value:
            raise agent_error(None, value["error"], self.provider, value)
        thread = as_text(params.get("threadId")) or as_text(obj(params.get("thread")).get("id"))
        if thread and self._protocol.session and thread != self._protocol.session:
            return  # of a sub-agent, whose text is not part of the answer
        if method == "thread/started":
            thread_info = obj(params.get("thread"))
            yield from self._emit_started(thread_info.get("id"), thread_info.get("model"))
        elif method == "item/agentMessage/delta":
            yield from self._delta(as_text(params.get("itemId")), as_text(params.get("delta")))
        elif method in ("item/reasoning/textDelta", "item/reasoning/summaryTextDelta"):
            yield ReasoningDelta(as_text(params.get("delta")))
        elif method in ("item/started", "item/completed"):
            yield from self._handle_item(obj(params.get("item")), completed=method == "item/completed")
        elif method == "thread/tokenUsage/updated":
            usage = obj(obj(params.get("tokenUsage")).get("last"))
            yield usage_report(
                count(usage.get("inputTokens")),
                count(usage.get("outputTokens")),
                usage,
                final=False,
                cache_read_tokens=count(usage.get("cachedInputTokens")),
                cache_write_tokens=count(usage.get("cacheWriteInputTokens")),
                reasoning_tokens=count(usage.get("reasoningOutputTokens")),
            )
        elif method == "error":
            yield from self._handle_error(params)
        elif method == "turn/completed":
            self._handle_turn_end(obj(params.get("turn")))

    def _delta(self, item: str, text: str) -> Iterator[Event]:
        first, self._item = item != self._item, item
        if first:
            yield from self._restart()
        yield from self._emit_paragraph(text) if first else self._emit_text(text)

    def _handle_item(self, item: dict[str, Any], *, completed: bool) -> Iterator[Event]:
        kind, ident = as_text(item.get("type")), as_text(item.get("id"))
        if kind == "agentMessage" and completed:
            if ident != self._item:
                yield from self._delta(ident, as_text(item.get("text")))
            else:
                yield from self._check_result_text(as_text(item.get("text")))
            self._end_message()
        elif kind not in ("agentMessage", "userMessage", "reasoning"):
            yield from emit_codex_item(self, kind, item, completed=completed)

    def _handle_error(self, params: dict[str, Any]) -> Iterator[Event]:
        error = agent_error(None, params.get("error"), self.provider, params)
        if not params.get("willRetry") or error.status in (401, 403, 404):
            raise error
        yield Notice("retry", error_text(params.get("error")), params)

    def _handle_turn_end(self, turn: dict[str, Any]) -> None:
        self.done = True
        if turn.get("status") == "failed":
            raise agent_error(None, turn.get("error"), self.provider, turn)
        self._set_finished("cancelled" if turn.get("status") == "interrupted" else "stop")


_CODEX_ASKS = {
    "item/commandExecution/requestApproval": "commandExecution",
    "item/fileChange/requestApproval": "fileChange",
}
_CODEX_SHOWN = ("command", "cwd", "reason", "grantRoot", "networkApprovalContext", "kind")


class AcpProtocol(_JsonRpcProtocol):
    """The Agent Client Protocol (agentclientprotocol.com): initialize, authenticate if necessary, open a
    session, send prompts.

    login: the authentication method for a key, "" without a key; agent: the mode to set, "" for the default;
    cumulative: usage is reported as the session's total so far.
    """

    client: ClassVar[Mapping[str, Any]] = {
        "protocolVersion": 1,
        "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
    }

    def __init__(
        self,
        provider: Endpoint,
        model: str,
        system: str,
        folder: str,
        *,
        login: str = "",
        agent: str = "",
        cumulative: bool = False,
        asks_permission: bool = False,
    ) -> None:
        super().__init__(provider, model, system, folder, asks_permission=asks_permission)
        self.login, self.agent = login, agent
        self.cumulative = cumulative
        self.totals: dict[str, dict[str, int]] = {}  # usage so far, by session
        self.costs: dict[str, float] = {}  # US dollars so far, by session: always reported as a total

    def _new_session_request(self) -> str:
        return self._request("session/new", {"cwd": self.folder, "mcpServers": []})

    def _prompt_request(self, text: str) -> str:
        return self._request(
            "session/prompt", {"sessionId": self.session, "prompt": [{"type": "text", "text": text}]}
        )

    def _handle_result(self, method: str, result: dict[str, Any]) -> list[str]:
        if method == "initialize" and not isinstance(result.get("authMethods"), (list, type(None))):
            raise _invalid_message(self.provider, "authMethods is not a list")
        if method == "initialize" and self.login in [m.get("id") for m in items(result.get("authMethods"))]:
            return [self._request("authenticate", {"methodId": self.login})]
        if method in ("initialize", "authenticate"):
            self._ready = True
            return self._prompt_lines()
        if method == "session/new":
            self._set_session(result.get("sessionId"))
            return (
                [self._request("session/set_mode", {"sessionId": self.session, "modeId": self.agent})]
                if self.agent
                else self._prompt_lines()
            )
        if method == "session/set_mode":
            return self._prompt_lines()
        if method == "session/prompt":
            self.busy = False
        return []

    def _permission(self, method: str, params: dict[str, Any], ident: Any) -> Permission | None:
        if method != "session/request_permission":
            return None
        kinds = {
            as_text(o.get("kind")): as_text(o.get("optionId"))
            for o in reversed([*items(params.get("options"))])
        }
        allow, reject = (
            {
                "outcome": {"outcome": "selected", "optionId": kinds[k]}
                if kinds.get(k)
                else {"outcome": "cancelled"}
            }
            for k in ("allow_once", "reject_once")
        )
        call = obj(params.get("toolCall"))
        arguments = {k: call[k] for k in ("rawInput", "content", "locations") if call.get(k)}
        name = as_text(call.get("title")) or as_text(call.get("kind")) or "tool"
        label = self.provider.label or self.provider.name
        return Permission(ident, as_text(call.get("toolCallId")), name, arguments, label, (allow, reject))

    def interrupt(self) -> list[str]:
        """The notification that cancels the turn; the prompt is then answered as cancelled."""
        return (
            [
                json.dumps(
                    {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": self.session}}
                )
            ]
            if self.session
            else []
        )

    def decoder(self) -> Decoder:
        """The decoder of one turn."""
        return _AcpTurnDecoder(self.provider, self)


class _AcpTurnDecoder(AgentDecoder):
    """Decodes the updates of one turn, and the result of its prompt."""

    def __init__(self, provider: Endpoint, protocol: AcpProtocol) -> None:
        super().__init__(provider)
        self._protocol = protocol
        self._message: Any = None
        self._cost: float | None = None
        self._calls: dict[str, dict[str, Any]] = {}

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        result = obj(value.get("result"))
        if "error" in value and "method" not in value:
            found = [
                agent_error(None, e, self.provider, value)
                for e in (error_text(value["error"]), value["error"])
            ]
            # the message first: gemini's code is 500 for every error
            raise next((e for e in found if type(e) is not ProviderError), found[-1])
        if "sessionId" in result:
            yield from self._emit_started(result["sessionId"], self._protocol.model or None)
        elif "stopReason" in result:
            yield from self._handle_prompt_result(result)
        elif (
            value.get("method") == "session/update"
            and obj(value.get("params")).get("sessionId") == self._protocol.session
        ):
            yield from self._update(obj(value["params"].get("update")))

    def _update(self, update: dict[str, Any]) -> Iterator[Event]:
        kind, text = update.get("sessionUpdate"), as_text(obj(update.get("content")).get("text"))
        if kind == "agent_message_chunk" and _BANNER.match(text) and (_AGAIN in text or not self._pieces):
            yield Notice("retry" if _AGAIN in text else "warning", text, update)
        elif kind == "agent_message_chunk":
            if update.get("messageId") != self._message:
                yield from self._restart()
            self._message = update.get("messageId")
            yield from self._emit_text(text)
        elif kind == "agent_thought_chunk":
            yield ReasoningDelta(text)
        elif kind == "tool_call":
            self._end_message()
            yield from self._handle_tool_update(update)
        elif kind == "tool_call_update":
            yield from self._handle_tool_update(update)
        elif kind == "usage_update":
            # 0 is written for a model whose price is not known
            self._cost = as_number(obj(update.get("cost")).get("amount")) or None

    def _handle_tool_update(self, update: dict[str, Any]) -> Iterator[Event]:
        """The events for a tool call or its update, which contains only the changed fields."""
        ident = as_text(update.get("toolCallId"))
        call = self._calls.setdefault(ident, {})
        call.update({k: v for k, v in update.items() if v is not None})
        name, arguments, status = (
            call.get("title") or call.get("kind"),
            call.get("rawInput"),
            call.get("status"),
        )
        if arguments is not None or status in ("in_progress", "completed", "failed"):
            yield from self._emit_tool(ident, name, arguments)
        if status in ("completed", "failed"):
            result = result_content(call.get("content")) or call.get("rawOutput")
            outcome = tool_outcome(failed=status == "failed", denied=ident in self._protocol.denied)
            yield from self._emit_tool_end(ident, result, outcome)
            self._calls.pop(ident)

    def _handle_prompt_result(self, result: dict[str, Any]) -> Iterator[Event]:
        self.done = True
        # some agents end the turn after a refusal, without an update of the tool
        for permission in self._protocol.denied.values():
            yield from self._emit_tool_end(
                permission.id, None, "refused", permission.name, permission.arguments
            )
        self._protocol.denied = {}
        usage = obj(result.get("usage"))
        counts = obj(obj(obj(result.get("_meta")).get("quota")).get("token_count"))  # gemini's usage
        report = None
        if usage:
            report = self._usage_report({k: n for k, v in usage.items() if (n := count(v)) is not None})
        elif counts:
            report = usage_report(
                count(counts.get("input_tokens")), count(counts.get("output_tokens")), counts
            )
        yield from (report,) if report else ()
        text, output_tokens = "".join(self._pieces), report and report.usage.output_tokens
        if self.provider.dialect == "cli_copilot" and text.startswith(_FAILED) and not output_tokens:
            raise agent_error(None, text.removeprefix(_FAILED), self.provider, result)
        reason = as_text(result.get("stopReason"))
        if reason == "end_turn" and counts and not any(counts.values()):
            # gemini after several broken attempts, whose pieces of text follow each other
            raise agent_error(None, "the answer broke off, and no token was counted", self.provider, result)
        self._finished = Finished(_REASONS.get(reason, "other"), reason)

    def _usage_report(self, counts: dict[str, int]) -> UsageReport:
        """The usage of the turn, with cached input and thinking included, as copilot's counts are and
        opencode's are not."""
        before = (
            _swap_stored(self._protocol.totals, self._protocol.session, counts) or {}
            if self._protocol.cumulative
            else {}
        )
        turn = {k: max(0, v - before.get(k, 0)) for k, v in counts.items()}
        input_tokens, output_tokens = turn.get("inputTokens"), turn.get("outputTokens")
        read, written, reasoning = map(turn.get, ("cachedReadTokens", "cachedWriteTokens", "thoughtTokens"))
        separate = add_counts(0, read, written, reasoning)
        is_separate = bool(separate) and turn.get("totalTokens") == add_counts(
            0, input_tokens, output_tokens, separate
        )
        raw: dict[str, Any] = dict(turn)
        if self._cost is not None:
            raw["cost"] = self._cost - (
                _swap_stored(self._protocol.costs, self._protocol.session, self._cost) or 0.0
            )
        return usage_report(
            add_counts(input_tokens, read, written) if is_separate else input_tokens,
            add_counts(output_tokens, reasoning) if is_separate else output_tokens,
            raw,
            cache_read_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=reasoning,
        )


# --- calls ---


def encode_session_call(request: Request, provider: Endpoint, key: Secret | None) -> AgentCall | SessionCall:
    """The request as a turn with the row's command in its long-lived mode. Raises ConfigError for a command
    without such a mode."""
    if provider.dialect == opencode_protocol.DIALECT.name:
        return opencode_protocol.encode(request, provider, key)  # its sessions always stay open
    if provider.dialect not in _ENCODERS:
        raise ConfigError(
            f"{provider.label or provider.name} has no long-lived mode.",
            hint="Leave keep out; cli/claude, cli/codex, cli/gemini, cli/copilot and cli/opencode have one.",
        )
    return _ENCODERS[provider.dialect](request, provider, key, False)


def encode_execute_call(request: Request, provider: Endpoint, key: Secret | None) -> AgentCall:
    """The request as a turn with a command that may use its own tools, and asks for permission before those
    that change something. Raises ConfigError for other providers than the five CLIs."""
    check_mode(provider, "execute")
    supported = ("max_turns", "cwd") if provider.dialect == "cli_claude" else ("cwd",)
    check_options(request, provider, supported)  # not the options on tools, which the mode decides
    return _ENCODERS[provider.dialect](request, provider, key, True)


def check_mode(provider: Endpoint, mode: str | None, *, simulated: bool = False) -> None:
    """Raises ConfigError for an unknown mode, and for a mode with a provider that has none."""
    if mode is not None and mode not in ("query", "execute"):
        raise ConfigError(f"mode cannot be {mode!r} here.", hint="Use query or execute; batch is for rows.")
    if mode is not None and provider.dialect not in _ENCODERS and not simulated:
        raise ConfigError(
            f"mode={mode} is only for command-line agents, and {provider.label or provider.name} is not one.",
            hint="Leave mode out; cli/claude, cli/codex, cli/gemini, cli/copilot and cli/opencode take it.",
        )


def _claude(request: Request, provider: Endpoint, key: Secret | None, executes: bool) -> AgentCall:
    call = one_shot.encode_claude(request, provider, key)
    args, tools = list(call.argv), call.argv.index("--tools") + 1
    args += ["--input-format", "stream-json"]
    if executes:
        args[tools] = "default"
        args += ["--permission-prompt-tool", "stdio"]
    return AgentCall(
        structs.replace(call, argv=tuple(args), stdin=""),
        session_turn(request, provider),
        lambda _place: ClaudeProtocol(provider, asks_permission=executes),
    )


def _gemini(request: Request, provider: Endpoint, key: Secret | None, executes: bool) -> AgentCall:
    call, turn = one_shot.encode_gemini(request, provider, key), session_turn(request, provider)
    removed = {"-o", "stream-json"} | ({"--admin-policy", "{tmp}/policy.toml"} if executes else set())
    args = tuple(w for w in call.argv if w not in removed)
    return AgentCall(
        structs.replace(call, argv=(*args, "--acp"), stdin=""),
        turn,
        lambda folder: AcpProtocol(
            provider,
            request.model,
            "",
            folder,
            login="gemini-api-key" if key else "",
            asks_permission=executes,
        ),
    )


def _codex(request: Request, provider: Endpoint, key: Secret | None, executes: bool) -> AgentCall:
    extra = check_options(request, provider, ("allowed_tools", "permission_mode", "cwd"))
    turn, sandbox = session_turn(request, provider), str(extra.get("permission_mode") or "read-only")
    if executes:
        extra, sandbox = {**extra, "allowed_tools": ["shell_tool"]}, "workspace-write"
    args = [
        "app-server",
        *one_shot.codex_settings(extra),
        "-c",
        f'sandbox_mode="{sandbox}"',
    ]  # also sent for each thread; here it distinguishes processes in the pool
    return AgentCall(
        build_process_call(provider, args, "", key, cwd=extra.get("cwd")),
        turn,
        lambda folder: CodexProtocol(
            provider, request.model, turn.system, folder, sandbox=sandbox, asks_permission=executes
        ),
    )


def _copilot(request: Request, provider: Endpoint, key: Secret | None, executes: bool) -> AgentCall:
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    turn = session_turn(request, provider)
    args = ["--acp", *one_shot.copilot_settings(request, extra)]
    args = [w for w in args if not (executes and w.startswith("--available-tools="))]
    return AgentCall(
        build_process_call(
            provider, args, "", key, env={"COPILOT_AUTO_UPDATE": "false"}, cwd=extra.get("cwd")
        ),
        structs.replace(turn, full_prompt=f"{turn.system}\n\n{turn.full_prompt}") if turn.system else turn,
        lambda folder: AcpProtocol(
            provider, request.model, "", folder, cumulative=True, asks_permission=executes
        ),
    )


def _opencode(request: Request, provider: Endpoint, key: Secret | None, executes: bool) -> AgentCall:
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    turn = session_turn(request, provider)
    system, full_prompt = fit_system_prompt(turn.system, turn.full_prompt)
    env = one_shot.opencode_settings(
        system,
        extra,
        asks_permission=executes,
        default_agent="nbllm",
        **({"model": request.model} if request.model else {}),
    )
    return AgentCall(
        build_process_call(
            provider,
            ["acp", "--pure"],
            "",
            key,
            env=env,
            cwd=extra.get("cwd"),
            passthrough_env=one_shot.opencode_passes(provider, request.model),
        ),
        structs.replace(turn, full_prompt=full_prompt),
        lambda folder: AcpProtocol(
            provider, request.model, "", folder, agent="nbllm", asks_permission=executes
        ),
    )


_ENCODERS: dict[str, Callable[[Request, Endpoint, Secret | None, bool], AgentCall]] = {
    "cli_claude": _claude,
    "cli_gemini": _gemini,
    "cli_codex": _codex,
    "cli_copilot": _copilot,
    "cli_opencode": _opencode,
}
