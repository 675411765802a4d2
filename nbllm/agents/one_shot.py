"""The headless CLIs claude, gemini, codex, copilot and opencode: the command for a request, the meaning of
their lines. Pure.

Flags, event types and exit codes as measured with claude 2.1.329, gemini 0.61.0, codex 0.169.0, copilot
1.0.102 and opencode 1.18.33; unknown lines are passed over.

Each of the five also has a mode in which it stays (protocols.py), where the same flags keep it from tools
and from a project's settings. claude's lines are the same there, and read by the same decoder. The others are
asked once in this form because, at these versions and before the same server, the other tells or costs worse:

    codex      app-server is [experimental] in its own help; a refused key is tried again before it is told
    gemini     a 429 or a 500 is silent until the time limit, on standard error too; cached tokens are not
               told; an answer that broke off ends well, its tries one after the other
    copilot    a failure is told as words of the model, without its status; a refused key is tried three times
    opencode   the model is asked a second time, for a title, which `run --title` does without

`cli_text` is any program that reads a prompt and writes an answer: there is no session to speak of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ..core import errors
from ..core.calls import Dialect, Endpoint, Frame, ProcessCall, Secret
from ..core.events import Event, FinishReason, Notice, ReasoningDelta
from ..core.messages import Request
from ..dialects._json import count, items, obj
from .base import (
    AgentDecoder,
    add_counts,
    agent_error,
    allowed_passthrough,
    as_number,
    as_status,
    as_text,
    build_process_call,
    check_options,
    fit_system_prompt,
    result_content,
    split_names,
    system_and_prompt,
    tool_outcome,
    usage_report,
)
from .json_lines import ANSI, parse_object

_QUIET_ENV = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
_PERMANENT = (401, 403, 404)  # the CLI would go on asking for a minute; the answer will not change


def gateway_error(
    status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint
) -> errors.ProviderError:
    """The error of a gateway that speaks through a command, which has no HTTP answer of its own."""
    return agent_error(status, body.decode("utf-8", "replace"), provider)


# --- claude ---


_FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class ClaudeDecoder(AgentDecoder):
    """stream-json with partial messages: raw Anthropic events within, one result at the end."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._streamed: set[str] = set()
        self._last_text = ""  # the text that the CLI said last that a part holds
        self._error = ""
        self._denied: dict[str, Any] = {}  # the tools that were refused
        self._tool_call: tuple[str, Any, list[str]] | None = None  # a tool's call that comes in pieces

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, sub = value.get("type"), value.get("subtype")
        if parent := as_text(value.get("parent_tool_use_id")):
            yield from self._subagent(parent, obj(value.get("message")))
        elif kind == "system" and sub == "init":
            yield from self._emit_started(value.get("session_id"), value.get("model"))
        elif kind == "system" and sub == "api_retry":
            yield from self._handle_retry(value)
        elif kind == "system" and sub == "permission_denied":
            self._denied[as_text(value.get("tool_use_id"))] = value
            yield from self._emit_tool_end(
                as_text(value.get("tool_use_id")), value.get("message"), "refused", value.get("tool_name")
            )
        elif kind == "stream_event":
            yield from self._handle_event(obj(value.get("event")))
        elif kind == "assistant":
            yield from self._handle_assistant(obj(value.get("message")), value)
        elif kind == "user":
            yield from self._tool_results(obj(value.get("message")), value)
        elif kind == "result":
            yield from self._handle_result(value)

    def _subagent(self, parent: str, message: dict[str, Any]) -> Iterator[Event]:
        """What a sub-agent says and does is no part of the answer: it is told beside it."""
        for block in items(message.get("content")):
            if block.get("type") == "tool_use":
                yield from self._emit_tool(
                    as_text(block.get("id")), block.get("name"), block.get("input"), parent=parent
                )
            elif block.get("type") == "text" and message.get("role") != "user":
                yield Notice(
                    "server_tool", "sub-agent", {"parent": parent, "text": as_text(block.get("text"))}
                )
        yield from self._tool_results(message, {})

    def _tool_results(self, message: dict[str, Any], value: dict[str, Any]) -> Iterator[Event]:
        notes = {as_text(m.get("id")): m for m in items(value.get("tool_result_meta"))}
        for block in items(message.get("content")):
            if block.get("type") == "tool_result":
                ident = as_text(block.get("tool_use_id"))
                denied = ident in self._denied or bool(obj(notes.get(ident)).get("non_execution_kind"))
                word = tool_outcome(failed=bool(block.get("is_error")), denied=denied)
                yield from self._emit_tool_end(ident, result_content(block.get("content")), word)

    def _handle_retry(self, value: dict[str, Any]) -> Iterator[Event]:
        code, why = as_status(value.get("error_status")), as_text(value.get("error"))
        if code in _PERMANENT:
            raise agent_error(code, (why or "refused").replace("_", " "), self.provider, value)
        yield Notice(
            "retry",
            f"{self.provider.label} asks again ({as_text(value.get('attempt'))} of "
            f"{as_text(value.get('max_retries'))}): {why}.",
            value,
        )

    def _handle_event(self, event: dict[str, Any]) -> Iterator[Event]:
        kind, delta = event.get("type"), obj(event.get("delta"))
        if kind == "message_start":
            yield from self._restart("The CLI asked again after a broken stream.")
            self._streamed.add(as_text(obj(event.get("message")).get("id")))
            self._last_text = ""
        elif kind == "content_block_start":
            block, self._part_start, self._last_text = obj(event.get("content_block")), len(self._pieces), ""
            self._tool_call = (
                (as_text(block.get("id")), block.get("name"), []) if block.get("type") == "tool_use" else None
            )
        elif delta.get("type") == "input_json_delta" and self._tool_call:
            self._tool_call[2].append(as_text(delta.get("partial_json")))
        elif kind == "content_block_stop" and self._tool_call:
            ident, name, pieces = self._tool_call
            raw, self._tool_call = "".join(pieces), None
            yield from self._emit_tool(ident, name, parse_object(raw) or raw)
        elif delta.get("type") == "text_delta":
            yield from self._emit_text(as_text(delta.get("text")))
        elif delta.get("type") == "thinking_delta" and delta.get("thinking"):
            yield ReasoningDelta(as_text(delta["thinking"]))
        elif delta.get("type") == "signature_delta":
            yield ReasoningDelta("", signature=as_text(delta.get("signature")) or None)
        elif kind == "message_delta" and delta.get("stop_reason"):
            self._end_message()

    def _handle_assistant(self, message: dict[str, Any], value: dict[str, Any]) -> Iterator[Event]:
        said = "".join(
            as_text(b.get("text")) for b in items(message.get("content")) if b.get("type") == "text"
        )
        if message.get("model") == "<synthetic>" or value.get("error"):
            self._error = said or as_text(value.get("error"))
            return
        for block in items(message.get("content")):
            if block.get("type") == "tool_use":
                yield from self._emit_tool(as_text(block.get("id")), block.get("name"), block.get("input"))
        if as_text(message.get("id")) not in self._streamed:
            yield from self._restart("The CLI asked again after a broken stream.")
            yield from self._emit_text(said)
            self._end_message()
        elif said != self._last_text:
            self._last_text = said
            yield from self._complete_part(said)

    def _handle_result(self, value: dict[str, Any]) -> Iterator[Event]:
        for denied in items(value.get("permission_denials")):
            yield from self._emit_tool_end(
                as_text(denied.get("tool_use_id")),
                None,
                "refused",
                denied.get("tool_name"),
                denied.get("tool_input"),
            )
        if not value.get("is_error"):
            yield from self._check_result_text(as_text(value.get("result")))
        yield from self._emit_usage(value)
        self.done = True
        ended, stopped, more = (
            as_text(value.get("terminal_reason")),
            as_text(value.get("stop_reason")),
            value.get("errors"),
        )
        if value.get("subtype") == "error_max_turns":
            self._set_finished("other", "max_turns")
        elif ended.startswith("aborted"):
            self._set_finished("cancelled", ended)
        elif value.get("is_error") or as_text(value.get("subtype")).startswith("error"):
            told = (
                self._error
                or as_text(value.get("result"))
                or "; ".join(map(as_text, more if isinstance(more, list) else ()))
                or as_text(value.get("subtype"))
            )
            raise agent_error(as_status(value.get("api_error_status")), told, self.provider, value)
        else:
            self._set_finished(_FINISH_REASONS.get(stopped, "stop"), stopped or None)

    def _emit_usage(self, value: dict[str, Any]) -> Iterator[Event]:
        u = obj(value.get("usage"))
        read, written = count(u.get("cache_read_input_tokens")), count(u.get("cache_creation_input_tokens"))
        dollars = as_number(value.get("total_cost_usd"))
        cost = {"cost": dollars} if dollars else {}
        thought = count(obj(u.get("output_tokens_details")).get("thinking_tokens"))
        if u:
            yield usage_report(
                add_counts(count(u.get("input_tokens")), read, written),
                count(u.get("output_tokens")),
                {**u, **cost},
                cache_read_tokens=read,
                cache_write_tokens=written,
                reasoning_tokens=thought,
            )
        yield Notice(
            "timing",
            data={
                k: value[k]
                for k in ("duration_ms", "duration_api_ms", "ttft_ms")
                if as_number(value.get(k)) is not None
            },
        )


def encode_claude(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`claude -p`; no tools, no settings, no session on disk, unless asked for."""
    extra = check_options(request, provider, ("max_turns", "allowed_tools", "permission_mode", "cwd"))
    system, prompt = system_and_prompt(request, provider)
    tools = extra.get("allowed_tools") or []
    words = [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        "--no-session-persistence",
        "--strict-mcp-config",
        "--setting-sources",
        "",
        "--tools",
        ",".join(split_names(tools)),
        "--permission-mode",
        str(extra.get("permission_mode") or "default"),
    ]
    words += [f"--allowedTools={','.join(split_names(tools))}"] if tools else []
    words += ["--model", request.model] if request.model else []
    words += ["--system-prompt-file", "{tmp}/system.md"]
    words += ["--max-turns", str(extra["max_turns"])] if extra.get("max_turns") else []
    return build_process_call(
        provider,
        words,
        prompt,
        key,
        env={**_QUIET_ENV, "CLAUDE_CODE_MAX_RETRIES": "2"},
        cwd=extra.get("cwd"),
        inputs={"system.md": system or "You are a helpful assistant."},
    )


# --- gemini ---


class GeminiDecoder(AgentDecoder):
    """stream-json: deltas of the assistant, one result. It marks no retry, so a pause and the same first
    words tell of one."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._first, self._last_at = "", 0.0
        self._looped = False

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind = value.get("type")
        if kind == "init":
            yield from self._emit_started(value.get("session_id"), value.get("model"))
        elif kind == "message" and value.get("role") == "assistant":
            yield from self._handle_delta(
                as_text(result_content(value.get("content"))), _epoch_seconds(value.get("timestamp"))
            )
        elif kind == "tool_use":
            self._end_message()
            self._first = ""
            yield from self._emit_tool(
                as_text(value.get("tool_id")), value.get("tool_name"), value.get("parameters")
            )
        elif kind == "tool_result":
            error, ident = obj(value.get("error")), as_text(value.get("tool_id"))
            word = tool_outcome(
                failed=value.get("status") == "error", denied=bool(_DENIED.search(as_text(error.get("type"))))
            )
            yield from self._emit_tool_end(ident, value.get("output") or error.get("message"), word)
        elif kind == "error":
            told = as_text(value.get("message"))
            self._looped = self._looped or "loop" in told.lower()
            yield Notice("warning", told, value)
        elif kind == "result":
            yield from self._handle_result(value)

    def _handle_delta(self, words: str, at: float) -> Iterator[Event]:
        if self._pieces and words == self._first and at - self._last_at >= 1.0:
            yield from self._restart("The CLI asked again after a broken stream.")
        self._first = self._first or words
        self._last_at = at
        yield from self._emit_text(words)

    def _handle_result(self, value: dict[str, Any]) -> Iterator[Event]:
        stats = obj(value.get("stats"))
        self.done = True
        if value.get("status") != "success":
            raise agent_error(None, value.get("error"), self.provider, value)
        if stats:
            yield usage_report(
                count(stats.get("input_tokens")),
                count(stats.get("output_tokens")),
                stats,
                cache_read_tokens=count(stats.get("cached")),
            )
        self._set_finished("other" if self._looped else "stop", "loop detected" if self._looped else None)


def _epoch_seconds(value: Any) -> float:
    try:
        return datetime.fromisoformat(as_text(value)[:40].replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def encode_gemini(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`gemini -o stream-json`, the prompt on standard input."""
    extra = check_options(request, provider, ("allowed_tools", "permission_mode", "cwd", "trust"))
    system, prompt = system_and_prompt(request, provider)
    words = [
        "-o",
        "stream-json",
        *(["-m", request.model] if request.model else []),
        "--approval-mode",
        str(extra.get("permission_mode") or "default"),
    ]
    words += ["--admin-policy", "{tmp}/policy.toml"]
    rules = ['[[rule]]\ntoolName = "*"\ndecision = "deny"\npriority = 998\n']
    rules += [
        f'[[rule]]\ntoolName = {json.dumps(t)}\ndecision = "allow"\npriority = 999\n'
        for t in split_names(extra.get("allowed_tools") or [])
    ]
    inputs = {"system.md": system or "You are a helpful assistant.", "policy.toml": "\n".join(rules)}
    env = {
        "GEMINI_CLI_NO_RELAUNCH": "true",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_TELEMETRY_ENABLED": "false",
        "GEMINI_SYSTEM_MD": "{tmp}/system.md",
    }
    return build_process_call(provider, words, prompt, key, env=env, cwd=extra.get("cwd"), inputs=inputs)


# --- codex ---


class CodexDecoder(AgentDecoder):
    """Items that are completed, no deltas: no time to first token can be told."""

    non_streaming = True

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, item = value.get("type"), obj(value.get("item"))
        if kind == "thread.started":
            yield from self._emit_started(value.get("thread_id"), None)
        elif kind in ("item.started", "item.completed"):
            told = as_text(item.get("type")) or as_text(item.get("item_type"))  # of codex before 0.44
            yield from self._handle_item(_OLD_TYPES.get(told, told), item, completed=kind == "item.completed")
        elif kind == "error":
            told = as_text(value.get("message"))
            found = re.search(r"status (\d{3})", told)
            if found and int(found[1]) in _PERMANENT:
                raise agent_error(int(found[1]), told, self.provider, value)
            yield Notice("retry", told, value)
        elif kind == "turn.completed":
            u = obj(value.get("usage"))
            yield usage_report(
                count(u.get("input_tokens")),
                count(u.get("output_tokens")),
                u,
                cache_read_tokens=count(u.get("cached_input_tokens")),
                cache_write_tokens=count(u.get("cache_write_input_tokens")),
                reasoning_tokens=count(u.get("reasoning_output_tokens")),
            )
            self.done = True
            self._set_finished("stop")
        elif kind == "turn.failed":
            self.done = True
            raise agent_error(None, value.get("error"), self.provider, value)

    def _handle_item(self, kind: str, item: dict[str, Any], *, completed: bool) -> Iterator[Event]:
        if kind == "agent_message" and completed:
            yield from self._emit_paragraph(as_text(item.get("text")))
            self._end_message()
        elif kind == "reasoning" and completed:
            yield ReasoningDelta(as_text(item.get("text")))
        elif kind == "error":
            yield Notice("warning", as_text(item.get("message")), item)
        elif kind not in ("agent_message", "reasoning"):
            yield from emit_codex_item(self, kind, item, completed=completed)


_OLD_TYPES = {"assistant_message": "agent_message"}


def emit_codex_item(
    lines: AgentDecoder, kind: str, item: Mapping[str, Any], *, completed: bool
) -> Iterator[Event]:
    """What codex does by itself: a command, a change of files, a call of an MCP server's tool, a search."""
    ident, name = as_text(item.get("id")), as_text(item.get("tool")) or kind
    given = item.get("arguments")
    if given is None:
        given = {k: v for k, v in item.items() if k not in _NOT_ARGUMENTS}
    if not completed:
        yield from lines._emit_tool(ident, name, given)
        return
    result = next((item[k] for k in _RESULT_FIELDS if item.get(k) not in (None, "")), None)
    state, code = as_text(item.get("status")), item.get("exit_code", item.get("exitCode"))
    word = tool_outcome(failed=state == "failed" or code not in (None, 0), denied=state == "declined")
    result = result_content(obj(result).get("content")) or result
    yield from lines._emit_tool_end(ident, as_text(obj(result).get("message")) or result, word, name, given)


_RESULT_FIELDS = ("aggregated_output", "aggregatedOutput", "error", "result")
_NOT_ARGUMENTS = frozenset(
    {
        *_RESULT_FIELDS,
        "id",
        "type",
        "status",
        "exit_code",
        "exitCode",
        "durationMs",
        "commandActions",
        "processId",
    }
)
_DENIED = re.compile(
    r"denied|denial|declined|policy|permission|reject|not allowed|prevents you", re.IGNORECASE
)


def encode_codex(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`codex exec --json`; tools off, the sandbox read-only, nothing kept."""
    extra = check_options(request, provider, ("allowed_tools", "permission_mode", "cwd"))
    system, prompt = system_and_prompt(request, provider)
    words = [
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--ephemeral",
        "-s",
        str(extra.get("permission_mode") or "read-only"),
        *codex_settings(extra),
    ]
    system, prompt = fit_system_prompt(system, prompt)
    words += ["-c", f"developer_instructions={json.dumps(system)}"] if system else []
    words += ["-m", request.model] if request.model else []
    return build_process_call(provider, [*words, "-"], prompt, key, cwd=extra.get("cwd"))


def codex_settings(extra: Mapping[str, Any]) -> list[str]:
    """The words for nothing asked, nothing told to others, and only the tools that are allowed."""
    words = [
        "-c",
        "analytics.enabled=false",
        "-c",
        "check_for_update_on_startup=false",
        "-c",
        'web_search="disabled"',
    ]
    return words + [
        w
        for tool in ("shell_tool", "apps", "multi_agent", "goals")
        if tool not in split_names(extra.get("allowed_tools") or [])
        for w in ("--disable", tool)
    ]


# --- copilot ---


_COUNTS = ("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens")


class CopilotDecoder(AgentDecoder):
    """Deltas with a new message id for each attempt; tokens stand in a file that is read at the exit."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._streaming = ""
        self._error: errors.ProviderError | None = None
        self._cancelled = False

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, data = as_text(value.get("type")), obj(value.get("data"))
        if kind.startswith("assistant."):
            yield from self._handle_assistant(kind.partition(".")[2], data)
        elif kind == "model.call_start":
            yield from self._emit_started(None, data.get("model"))
        elif kind == "tool.execution_start":
            yield from self._emit_tool(
                as_text(data.get("toolCallId")),
                data.get("toolName") or data.get("name"),
                data.get("arguments"),
            )
        elif kind == "tool.execution_complete":
            error, result = obj(data.get("error")), obj(data.get("result"))
            denied = bool(_DENIED.search(as_text(error.get("code"))))
            yield from self._emit_tool_end(
                as_text(data.get("toolCallId")),
                result.get("content") or as_text(error.get("message")) or data.get("result"),
                tool_outcome(failed=data.get("success") is False, denied=denied),
                data.get("toolName"),
            )
        elif kind == "model.call_finished" and data.get("outcome") == "success":
            self._end_message()  # the turn is finished, also where no message says so (another follows)
        elif kind == "model.call_failure":
            self._check_failure(data)
        elif kind == "session.error":
            self._error = agent_error(
                as_status(data.get("statusCode")), as_text(data.get("message")), self.provider, data
            )
        elif kind in ("abort", "agent.interrupted"):
            self._cancelled = True
        elif kind == "result":
            yield from self._handle_result(value, data)

    def _handle_assistant(self, kind: str, data: dict[str, Any]) -> Iterator[Event]:
        if kind == "reasoning_delta":
            yield ReasoningDelta(as_text(data.get("deltaContent")))
        elif kind == "message_start":
            yield from self._restart("The CLI asked again after a broken stream.")
        elif kind == "message_delta":
            self._streaming = as_text(data.get("messageId"))
            yield from self._emit_text(as_text(data.get("deltaContent")))
        elif kind == "message":
            if as_text(data.get("messageId")) != self._streaming:
                yield from self._restart("The CLI asked again after a broken stream.")
                yield from self._emit_text(as_text(data.get("content")))
                self._end_message()
            else:
                yield from self._check_result_text(as_text(data.get("content")))
                self._end_message()
        elif kind == "turn_retry":
            yield Notice("retry", f"{self.provider.label} asks again: {as_text(data.get('reason'))}.", data)

    def _check_failure(self, data: dict[str, Any]) -> None:
        code = as_status(data.get("statusCode"))
        if code in _PERMANENT:
            raise agent_error(code, as_text(data.get("errorMessage")) or "refused", self.provider, data)

    def _handle_result(self, value: dict[str, Any], data: dict[str, Any]) -> Iterator[Event]:
        code = value.get("exitCode", data.get("exitCode"))
        if isinstance(value.get("sessionId"), str):
            yield Notice("session", data={"session_id": value["sessionId"]})
        if self._error is not None:
            raise self._error
        if self._cancelled:
            self._set_finished("cancelled")
        elif as_text(code) == "0":
            self._set_finished("stop")

    def _at_exit(self) -> Iterator[Event]:
        models = obj(parse_object(obj(self._exit.get("files")).get("usage.json")).get("modelMetrics"))
        usages = [obj(obj(m).get("usage")) for m in models.values()]
        if any(usages):
            sums: dict[str, int] = {}
            for n, told in ((n, count(u.get(n))) for u in usages for n in _COUNTS):
                if told is not None:
                    sums[n] = sums.get(n, 0) + told
            given, made, read, written, thought = map(sums.get, _COUNTS)
            yield usage_report(
                given,
                made,
                sums,
                cache_read_tokens=read,
                cache_write_tokens=written,
                reasoning_tokens=thought,
            )


def encode_copilot(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`copilot --output-format json`, the prompt on standard input. It has no word for a system prompt:
    that stands first in the prompt."""
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    system, prompt = system_and_prompt(request, provider)
    words = [
        "--output-format",
        "json",
        "--stream",
        "on",
        "--usage-output-file",
        "{tmp}/usage.json",
        *copilot_settings(request, extra),
    ]
    return build_process_call(
        provider,
        words,
        f"{system}\n\n{prompt}" if system else prompt,
        key,
        env={"COPILOT_AUTO_UPDATE": "false"},
        cwd=extra.get("cwd"),
        files=("usage.json",),
    )


def copilot_settings(request: Request, extra: Mapping[str, Any]) -> list[str]:
    """The words for a quiet run with only the tools that are allowed (an empty list of them would be
    passed over)."""
    tools = split_names(extra.get("allowed_tools") or [])
    words = [
        "--no-auto-update",
        "--disable-client-telemetry",
        "--no-color",
        "--no-custom-instructions",
        "--disable-builtin-mcps",
        "--no-ask-user",
        "--log-level",
        "none",
        f"--available-tools={','.join(tools) or 'none'}",
        *(f"--allow-tool={t}" for t in tools),
    ]
    return [*words, *(["--model", request.model] if request.model else [])]


# --- opencode ---


_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content-filter": "content_filter",
    "tool-calls": "other",  # it may take no more steps
    "other": "other",
    "unknown": "other",
}


class OpenCodeDecoder(AgentDecoder):
    """Whole parts, no deltas and no terminal event: the last step's reason and a clean exit are the end."""

    non_streaming = True

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._totals: dict[str, float] = {}
        self._reason = ""

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, part = value.get("type"), obj(value.get("part"))
        if kind == "step_start":
            self._reason = ""
            yield from self._emit_started(value.get("sessionID"), None)
        elif kind == "text":
            yield from self._emit_paragraph(as_text(part.get("text")))
            self._end_message()
        elif kind == "reasoning":
            yield ReasoningDelta(as_text(part.get("text")))
        elif kind == "tool_use":
            yield from emit_opencode_tool(self, part)
        elif kind == "step_finish":
            self._reason = as_text(part.get("reason"))
            yield self._usage_so_far(part)
        elif kind == "error":
            raise agent_error(None, value.get("error"), self.provider, value.get("error"))

    def _usage_so_far(self, part: dict[str, Any]) -> Event:
        t = obj(part.get("tokens"))
        cache = obj(t.get("cache"))
        step = {
            "input": count(t.get("input")),
            "output": count(t.get("output")),
            "reasoning": count(t.get("reasoning")),
            "read": count(cache.get("read")),
            "write": count(cache.get("write")),
            "cost": as_number(part.get("cost")),
        }
        if not step["cost"]:  # 0 is written for a model whose price it does not know
            step["cost"] = None
        self._totals |= {k: self._totals.get(k, 0) + v for k, v in step.items() if v is not None}
        s = {k: int(v) for k, v in self._totals.items() if k != "cost"}
        return usage_report(  # input leaves out the cache, output the reasoning
            add_counts(s.get("input"), s.get("read"), s.get("write")),
            add_counts(s.get("output"), s.get("reasoning")),
            dict(self._totals),
            final=False,
            cache_read_tokens=s.get("read"),
            cache_write_tokens=s.get("write"),
            reasoning_tokens=s.get("reasoning"),
        )

    @property
    def ended(self) -> bool:
        """Whether the last step gave a reason to end."""
        return self._reason in ("stop", "length", "content-filter")

    def close(self) -> Iterator[Event]:
        """As the others'; a command that does not exit after its last step has answered."""
        there = self._reason in _REASONS if self._exit else self.ended
        if there and self._exit.get("rc", 0) == 0 and self._finished is None:
            self._set_finished(_REASONS[self._reason], self._reason)
        yield from super().close()


def emit_opencode_tool(lines: AgentDecoder, part: Mapping[str, Any]) -> Iterator[Event]:
    """A tool that OpenCode uses, as far as it is."""
    state, ident, name = obj(part.get("state")), as_text(part.get("callID")), part.get("tool")
    told, given = state.get("status"), state.get("input")
    if told == "running":
        yield from lines._emit_tool(ident, name, given)
    elif told != "pending":
        error = as_text(state.get("error"))
        word = tool_outcome(failed=told == "error", denied=bool(_DENIED.search(error)))
        yield from lines._emit_tool(ident, name, given)
        yield from lines._emit_tool_end(ident, error or state.get("output"), word)


_CLOUD_PREFIXES = {
    "amazon-bedrock": ("AWS_",),
    "google-vertex": ("GOOGLE_", "GCLOUD_", "CLOUDSDK_"),
    "azure": ("AZURE_",),
}


def encode_opencode(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`opencode run --format json` with an agent of ours that has no tools and may do nothing;
    `cli/opencode/PROVIDER/MODEL`."""
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    system, prompt = fit_system_prompt(*system_and_prompt(request, provider))
    words = [
        "run",
        "--format",
        "json",
        "--title",
        "nbllm",
        "--pure",
        "--agent",
        "nbllm",
        "--thinking",
        "--print-logs",  # on standard error: without it nothing tells what it waits for
        "--log-level",
        "ERROR",
        *(["-m", request.model] if request.model else []),
    ]
    return build_process_call(
        provider,
        words,
        prompt,
        key,
        env=opencode_settings(system, extra),
        cwd=extra.get("cwd"),
        passthrough_env=opencode_passes(provider, request.model),
    )


def opencode_passes(provider: Endpoint, model: str) -> tuple[str, ...]:
    """The variables that it may see: of clouds, those of the model, or all where it chooses one."""
    maker = model.partition("/")[0]
    others = tuple(
        n for m, names in _CLOUD_PREFIXES.items() if maker and not maker.startswith(m) for n in names
    )
    return tuple(n for n in allowed_passthrough(provider) if not n.startswith(others))


def opencode_settings(
    system: str, extra: Mapping[str, Any], *, asks_permission: bool = False, **more: Any
) -> dict[str, str]:
    """The variables that give it an agent of ours, which may do nothing but what is allowed; or which
    asks before all but reading."""
    tools = {"*": False} | dict.fromkeys(split_names(extra.get("allowed_tools") or []), True)
    allowed = ("read", "glob", "grep", "list") if asks_permission else [t for t in tools if t != "*"]
    rules = {"*": "ask" if asks_permission else "deny"} | dict.fromkeys(allowed, "allow")
    config = {
        "autoupdate": False,
        "share": "disabled",
        "permission": rules,
        "agent": {
            "nbllm": {
                "prompt": system or "You are a helpful assistant.",
                **(
                    {"permission": rules} if asks_permission else {"tools": tools}
                ),  # a tool turned on is allowed
                "mode": "primary",
            }
        },
        **more,
    }
    return {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_SHARE": "1",
    }


# --- any other ---


class PlainTextDecoder(AgentDecoder):
    """Standard output is the answer; the exit code is the only verdict there is."""

    def feed(self, frame: Frame) -> Iterator[Event]:
        """Each line with its line end; at the exit, whether it went well."""
        if frame.name != "exit":
            words = ANSI.sub("", frame.data) if "\x1b" in frame.data else frame.data
            yield from self._emit_text(words + ("" if frame.tail else "\n"))
            return
        self._exit, self.done = parse_object(frame.data), True
        rc, told = self._exit.get("rc"), " ".join(as_text(self._exit.get("stderr")).split())[-400:]
        if self._pieces and rc == 0:
            self._set_finished("stop")
        elif not self._pieces:
            raise agent_error(
                None, told or (f"exit code {as_text(rc)}" if rc else "it printed nothing"), self.provider
            )


def encode_plain(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """The row's command as it stands: any that reads a prompt on standard input and writes an answer;
    `{model}` in its words is the model."""
    extra = check_options(request, provider, ("cwd",))
    system, prompt = system_and_prompt(request, provider)
    made = build_process_call(
        provider, [], f"{system}\n\n{prompt}" if system else prompt, key, cwd=extra.get("cwd")
    )
    return ProcessCall(
        tuple(w.replace("{model}", request.model) for w in made.argv),
        made.stdin,
        made.env,
        made.cwd,
        made.passthrough_env,
    )


CLIS = (
    Dialect("cli_claude", encode_claude, ClaudeDecoder, gateway_error),
    Dialect("cli_gemini", encode_gemini, GeminiDecoder, gateway_error),
    Dialect("cli_codex", encode_codex, CodexDecoder, gateway_error),
    Dialect("cli_copilot", encode_copilot, CopilotDecoder, gateway_error),
    Dialect("cli_opencode", encode_opencode, OpenCodeDecoder, gateway_error),
    Dialect("cli_text", encode_plain, PlainTextDecoder, gateway_error),
)
