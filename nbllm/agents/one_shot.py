"""The headless CLIs claude, gemini, codex, copilot and opencode, run once for each request: the command, and
the decoding of its lines. Pure.

Flags, event types and exit codes as measured with claude 2.1.329, gemini 0.61.0, codex 0.169.0, copilot
1.0.102 and opencode 1.18.33; unknown lines are skipped.

Each of the five also has a long-lived mode (protocols.py), with the same flags against tools and a project's
settings. claude's lines are the same there and have the same decoder. For single requests, the others are run
in this form because, at these versions and against the same server, the long-lived mode reports or costs
worse:

    codex      app-server is [experimental] in its own help; a refused key is retried before it is reported
    gemini     a 429 or a 500 is not reported until the time limit, not even on standard error; cached tokens
               are not reported; an answer that broke off ends as a success, its attempts one after the other
    copilot    a failure comes as text of the model, without its status; a refused key is tried three times
    opencode   the model is called a second time, for a title, which `run --title` avoids

`cli_text` is any program that reads a prompt and writes an answer, without sessions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..core import errors
from ..core.calls import Dialect, Endpoint, Frame, ProcessCall, Secret
from ..core.events import Event, FinishReason, Notice, ReasoningDelta
from ..core.messages import Request
from ..dialects._json import count, items, obj
from ..dialects._limits import parse_time
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
_PERMANENT = (401, 403, 404)  # the CLI would retry for a minute, without success


def gateway_error(
    status: int, headers: Mapping[str, str], body: bytes, provider: Endpoint
) -> errors.ProviderError:
    """The error for an HTTP answer, which only a server such as OpenCode's sends, and no command."""
    return agent_error(status, body.decode("utf-8", "replace"), provider)


# --- claude ---


_FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class ClaudeDecoder(AgentDecoder):
    """Decodes claude's stream-json with partial messages: raw Anthropic events inside, one result at the
    end."""

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._streamed: set[str] = set()
        self._last_text = ""  # the last complete text of a part from the CLI
        self._error = ""
        self._denied: dict[str, Any] = {}  # the tools that were refused
        # a tool call that comes in pieces: id, name, pieces
        self._tool_call: tuple[str, Any, list[str]] | None = None

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
        """Notices for what a sub-agent says and does, which is not part of the answer."""
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
        metadata = {as_text(m.get("id")): m for m in items(value.get("tool_result_meta"))}
        for block in items(message.get("content")):
            if block.get("type") == "tool_result":
                ident = as_text(block.get("tool_use_id"))
                denied = ident in self._denied or bool(obj(metadata.get(ident)).get("non_execution_kind"))
                outcome = tool_outcome(failed=bool(block.get("is_error")), denied=denied)
                yield from self._emit_tool_end(ident, result_content(block.get("content")), outcome)

    def _handle_retry(self, value: dict[str, Any]) -> Iterator[Event]:
        code, reason = as_status(value.get("error_status")), as_text(value.get("error"))
        if code in _PERMANENT:
            raise agent_error(code, (reason or "refused").replace("_", " "), self.provider, value)
        yield Notice(
            "retry",
            f"{self.provider.label} is retrying ({as_text(value.get('attempt'))} of "
            f"{as_text(value.get('max_retries'))}): {reason}.",
            value,
        )

    def _handle_event(self, event: dict[str, Any]) -> Iterator[Event]:
        kind, delta = event.get("type"), obj(event.get("delta"))
        if kind == "message_start":
            yield from self._restart()
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
        text = "".join(
            as_text(b.get("text")) for b in items(message.get("content")) if b.get("type") == "text"
        )
        if message.get("model") == "<synthetic>" or value.get("error"):
            self._error = text or as_text(value.get("error"))
            return
        for block in items(message.get("content")):
            if block.get("type") == "tool_use":
                yield from self._emit_tool(as_text(block.get("id")), block.get("name"), block.get("input"))
        if as_text(message.get("id")) not in self._streamed:
            yield from self._restart()
            yield from self._emit_text(text)
            self._end_message()
        elif text != self._last_text:
            self._last_text = text
            yield from self._complete_part(text)

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
        terminal_reason, stop_reason, more = (
            as_text(value.get("terminal_reason")),
            as_text(value.get("stop_reason")),
            value.get("errors"),
        )
        if value.get("subtype") == "error_max_turns":
            self._set_finished("other", "max_turns")
        elif terminal_reason.startswith("aborted"):
            self._set_finished("cancelled", terminal_reason)
        elif value.get("is_error") or as_text(value.get("subtype")).startswith("error"):
            message = (
                self._error
                or as_text(value.get("result"))
                or "; ".join(map(as_text, more if isinstance(more, list) else ()))
                or as_text(value.get("subtype"))
            )
            raise agent_error(as_status(value.get("api_error_status")), message, self.provider, value)
        else:
            self._set_finished(_FINISH_REASONS.get(stop_reason, "stop"), stop_reason or None)

    def _emit_usage(self, value: dict[str, Any]) -> Iterator[Event]:
        usage = obj(value.get("usage"))
        read, written = (
            count(usage.get("cache_read_input_tokens")),
            count(usage.get("cache_creation_input_tokens")),
        )
        dollars = as_number(value.get("total_cost_usd"))
        cost = {"cost": dollars} if dollars else {}
        reasoning = count(obj(usage.get("output_tokens_details")).get("thinking_tokens"))
        if usage:
            yield usage_report(
                add_counts(count(usage.get("input_tokens")), read, written),
                count(usage.get("output_tokens")),
                {**usage, **cost},
                cache_read_tokens=read,
                cache_write_tokens=written,
                reasoning_tokens=reasoning,
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
    """`claude -p`, by default without tools, settings, and a session on disk."""
    extra = check_options(request, provider, ("max_turns", "allowed_tools", "permission_mode", "cwd"))
    system, prompt = system_and_prompt(request, provider)
    tools = extra.get("allowed_tools") or []
    args = [
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
        *([f"--allowedTools={','.join(split_names(tools))}"] if tools else []),
        *(["--model", request.model] if request.model else []),
        "--system-prompt-file",
        "{tmp}/system.md",
        *(["--max-turns", str(extra["max_turns"])] if extra.get("max_turns") else []),
    ]
    return build_process_call(
        provider,
        args,
        prompt,
        key,
        env={**_QUIET_ENV, "CLAUDE_CODE_MAX_RETRIES": "2"},
        cwd=extra.get("cwd"),
        inputs={"system.md": system or "You are a helpful assistant."},
    )


# --- gemini ---


class GeminiDecoder(AgentDecoder):
    """Decodes gemini's stream-json: deltas of the assistant, one result. A retry is not marked: it is
    detected by a pause and the same first delta."""

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
                as_text(result_content(value.get("content"))),
                parse_time(as_text(value.get("timestamp"))) or 0.0,
            )
        elif kind == "tool_use":
            self._end_message()
            self._first = ""
            yield from self._emit_tool(
                as_text(value.get("tool_id")), value.get("tool_name"), value.get("parameters")
            )
        elif kind == "tool_result":
            error, ident = obj(value.get("error")), as_text(value.get("tool_id"))
            outcome = tool_outcome(
                failed=value.get("status") == "error", denied=bool(_DENIED.search(as_text(error.get("type"))))
            )
            yield from self._emit_tool_end(ident, value.get("output") or error.get("message"), outcome)
        elif kind == "error":
            message = as_text(value.get("message"))
            self._looped = self._looped or "loop" in message.lower()
            yield Notice("warning", message, value)
        elif kind == "result":
            yield from self._handle_result(value)

    def _handle_delta(self, text: str, at: float) -> Iterator[Event]:
        if self._pieces and text == self._first and at - self._last_at >= 1.0:
            yield from self._restart()
        self._first = self._first or text
        self._last_at = at
        yield from self._emit_text(text)

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


def encode_gemini(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`gemini -o stream-json`, the prompt on standard input."""
    extra = check_options(request, provider, ("allowed_tools", "permission_mode", "cwd", "trust"))
    system, prompt = system_and_prompt(request, provider)
    args = [
        "-o",
        "stream-json",
        *(["-m", request.model] if request.model else []),
        "--approval-mode",
        str(extra.get("permission_mode") or "default"),
        "--admin-policy",
        "{tmp}/policy.toml",
    ]
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
    return build_process_call(provider, args, prompt, key, env=env, cwd=extra.get("cwd"), inputs=inputs)


# --- codex ---


class CodexDecoder(AgentDecoder):
    """Decodes codex's items, which come complete, without deltas: there is no time to first token."""

    non_streaming = True

    def _handle(self, value: dict[str, Any]) -> Iterator[Event]:
        kind, item = value.get("type"), obj(value.get("item"))
        if kind == "thread.started":
            yield from self._emit_started(value.get("thread_id"), None)
        elif kind in ("item.started", "item.completed"):
            message = as_text(item.get("type")) or as_text(item.get("item_type"))  # of codex before 0.44
            yield from self._handle_item(
                _OLD_TYPES.get(message, message), item, completed=kind == "item.completed"
            )
        elif kind == "error":
            message = as_text(value.get("message"))
            found = re.search(r"status (\d{3})", message)
            if found and int(found[1]) in _PERMANENT:
                raise agent_error(int(found[1]), message, self.provider, value)
            yield Notice("retry", message, value)
        elif kind == "turn.completed":
            usage = obj(value.get("usage"))
            yield usage_report(
                count(usage.get("input_tokens")),
                count(usage.get("output_tokens")),
                usage,
                cache_read_tokens=count(usage.get("cached_input_tokens")),
                cache_write_tokens=count(usage.get("cache_write_input_tokens")),
                reasoning_tokens=count(usage.get("reasoning_output_tokens")),
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
    decoder: AgentDecoder, kind: str, item: Mapping[str, Any], *, completed: bool
) -> Iterator[Event]:
    """Notices for an action of codex: a command, a file change, a tool call of an MCP server, a search."""
    ident, name = as_text(item.get("id")), as_text(item.get("tool")) or kind
    arguments = item.get("arguments")
    if arguments is None:
        arguments = {k: v for k, v in item.items() if k not in _NOT_ARGUMENTS}
    if not completed:
        yield from decoder._emit_tool(ident, name, arguments)
        return
    result = next((item[k] for k in _RESULT_FIELDS if item.get(k) not in (None, "")), None)
    state, code = as_text(item.get("status")), item.get("exit_code", item.get("exitCode"))
    outcome = tool_outcome(failed=state == "failed" or code not in (None, 0), denied=state == "declined")
    result = result_content(obj(result).get("content")) or result
    yield from decoder._emit_tool_end(
        ident, as_text(obj(result).get("message")) or result, outcome, name, arguments
    )


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
    """`codex exec --json`, by default without tools, with a read-only sandbox, and nothing stored."""
    extra = check_options(request, provider, ("allowed_tools", "permission_mode", "cwd"))
    system, prompt = fit_system_prompt(*system_and_prompt(request, provider))
    args = [
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--ephemeral",
        "-s",
        str(extra.get("permission_mode") or "read-only"),
        *codex_settings(extra),
        *(["-c", f"developer_instructions={json.dumps(system)}"] if system else []),
        *(["-m", request.model] if request.model else []),
        "-",
    ]
    return build_process_call(provider, args, prompt, key, cwd=extra.get("cwd"))


def codex_settings(extra: Mapping[str, Any]) -> list[str]:
    """The arguments that turn off analytics, update checks, web search, and all tools that are not
    allowed."""
    args = [
        "-c",
        "analytics.enabled=false",
        "-c",
        "check_for_update_on_startup=false",
        "-c",
        'web_search="disabled"',
    ]
    return args + [
        w
        for tool in ("shell_tool", "apps", "multi_agent", "goals")
        if tool not in split_names(extra.get("allowed_tools") or [])
        for w in ("--disable", tool)
    ]


# --- copilot ---


_COUNTS = ("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens")


class CopilotDecoder(AgentDecoder):
    """Decodes copilot's deltas, with a new message id for each attempt; usage is in a file that is read at
    the exit."""

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
            self._end_message()  # the message is complete, even without an event that says so
        elif kind == "model.call_failure":
            self._raise_if_permanent(data)
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
            yield from self._restart()
        elif kind == "message_delta":
            self._streaming = as_text(data.get("messageId"))
            yield from self._emit_text(as_text(data.get("deltaContent")))
        elif kind == "message":
            if as_text(data.get("messageId")) != self._streaming:
                yield from self._restart()
                yield from self._emit_text(as_text(data.get("content")))
            else:
                yield from self._check_result_text(as_text(data.get("content")))
            self._end_message()
        elif kind == "turn_retry":
            yield Notice("retry", f"{self.provider.label} is retrying: {as_text(data.get('reason'))}.", data)

    def _raise_if_permanent(self, data: dict[str, Any]) -> None:
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
            for n, tokens in ((n, count(u.get(n))) for u in usages for n in _COUNTS):
                if tokens is not None:
                    sums[n] = sums.get(n, 0) + tokens
            input_tokens, output_tokens, read, written, reasoning = map(sums.get, _COUNTS)
            yield usage_report(
                input_tokens,
                output_tokens,
                sums,
                cache_read_tokens=read,
                cache_write_tokens=written,
                reasoning_tokens=reasoning,
            )


def encode_copilot(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`copilot --output-format json`, the prompt on standard input. It has no option for a system prompt,
    which is put before the prompt."""
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    system, prompt = system_and_prompt(request, provider)
    args = [
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
        args,
        f"{system}\n\n{prompt}" if system else prompt,
        key,
        env={"COPILOT_AUTO_UPDATE": "false"},
        cwd=extra.get("cwd"),
        files=("usage.json",),
    )


def copilot_settings(request: Request, extra: Mapping[str, Any]) -> list[str]:
    """The arguments for a quiet run with only the tools that are allowed; copilot ignores an empty list of
    tools."""
    tools = split_names(extra.get("allowed_tools") or [])
    args = [
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
    return [*args, *(["--model", request.model] if request.model else [])]


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
    """Decodes opencode's parts, which come complete, without a terminal event: the reason of the last step
    and a clean exit are the end."""

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
        tokens = obj(part.get("tokens"))
        cache = obj(tokens.get("cache"))
        step = {
            "input": count(tokens.get("input")),
            "output": count(tokens.get("output")),
            "reasoning": count(tokens.get("reasoning")),
            "read": count(cache.get("read")),
            "write": count(cache.get("write")),
            "cost": as_number(part.get("cost")),
        }
        if not step["cost"]:  # 0 is written for a model whose price it does not know
            step["cost"] = None
        self._totals |= {k: self._totals.get(k, 0) + v for k, v in step.items() if v is not None}
        sums = {k: int(v) for k, v in self._totals.items() if k != "cost"}
        return usage_report(  # input leaves out the cache, output the reasoning
            add_counts(sums.get("input"), sums.get("read"), sums.get("write")),
            add_counts(sums.get("output"), sums.get("reasoning")),
            dict(self._totals),
            final=False,
            cache_read_tokens=sums.get("read"),
            cache_write_tokens=sums.get("write"),
            reasoning_tokens=sums.get("reasoning"),
        )

    @property
    def ended(self) -> bool:
        """Whether the last step has a final reason."""
        return self._reason in ("stop", "length", "content-filter")

    def close(self) -> Iterator[Event]:
        """The Finished event; a command that does not exit after its last step has answered too."""
        has_reason = self._reason in _REASONS if self._exit else self.ended
        if has_reason and self._exit.get("rc", 0) == 0 and self._finished is None:
            self._set_finished(_REASONS[self._reason], self._reason)
        yield from super().close()


def emit_opencode_tool(decoder: AgentDecoder, part: Mapping[str, Any]) -> Iterator[Event]:
    """Notices for a tool of OpenCode, by its state."""
    state, ident, name = obj(part.get("state")), as_text(part.get("callID")), part.get("tool")
    status, arguments = state.get("status"), state.get("input")
    if status == "running":
        yield from decoder._emit_tool(ident, name, arguments)
    elif status != "pending":
        error = as_text(state.get("error"))
        outcome = tool_outcome(failed=status == "error", denied=bool(_DENIED.search(error)))
        yield from decoder._emit_tool(ident, name, arguments)
        yield from decoder._emit_tool_end(ident, error or state.get("output"), outcome)


_CLOUD_PREFIXES = {
    "amazon-bedrock": ("AWS_",),
    "google-vertex": ("GOOGLE_", "GCLOUD_", "CLOUDSDK_"),
    "azure": ("AZURE_",),
}


def encode_opencode(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """`opencode run --format json` with an agent of ours, by default without tools and permissions;
    `cli/opencode/PROVIDER/MODEL`."""
    extra = check_options(request, provider, ("allowed_tools", "cwd", "trust"))
    system, prompt = fit_system_prompt(*system_and_prompt(request, provider))
    args = [
        "run",
        "--format",
        "json",
        "--title",
        "nbllm",
        "--pure",
        "--agent",
        "nbllm",
        "--thinking",
        "--print-logs",  # on standard error, which otherwise has no errors
        "--log-level",
        "ERROR",
        *(["-m", request.model] if request.model else []),
    ]
    return build_process_call(
        provider,
        args,
        prompt,
        key,
        env=opencode_settings(system, extra),
        cwd=extra.get("cwd"),
        passthrough_env=opencode_passes(provider, request.model),
    )


def opencode_passes(provider: Endpoint, model: str) -> tuple[str, ...]:
    """The variables that opencode may see: those of other clouds than the model's are left out."""
    maker = model.partition("/")[0]
    others = tuple(
        n for m, names in _CLOUD_PREFIXES.items() if maker and not maker.startswith(m) for n in names
    )
    return tuple(n for n in allowed_passthrough(provider) if not n.startswith(others))


def opencode_settings(
    system: str, extra: Mapping[str, Any], *, asks_permission: bool = False, **more: Any
) -> dict[str, str]:
    """The environment variables that configure an agent of ours: with only the tools that are allowed; or, if
    asks_permission, with all tools, and a question before all but reading."""
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
                ),  # an enabled tool is also permitted
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
    """Decodes plain text: standard output is the answer, and the exit code decides on success."""

    def feed(self, frame: Frame) -> Iterator[Event]:
        """The text of each line with its line break; at the exit, an error unless it succeeded."""
        if frame.name != "exit":
            text = ANSI.sub("", frame.data) if "\x1b" in frame.data else frame.data
            yield from self._emit_text(text + ("" if frame.tail else "\n"))
            return
        self._exit, self.done = parse_object(frame.data), True
        rc, stderr = self._exit.get("rc"), " ".join(as_text(self._exit.get("stderr")).split())[-400:]
        if self._pieces and rc == 0:
            self._set_finished("stop")
        elif not self._pieces:
            raise agent_error(
                None, stderr or (f"exit code {as_text(rc)}" if rc else "it printed nothing"), self.provider
            )


def encode_plain(request: Request, provider: Endpoint, key: Secret | None) -> ProcessCall:
    """The row's command as it is: any program that reads a prompt from standard input and writes an answer;
    `{model}` in its arguments is replaced."""
    extra = check_options(request, provider, ("cwd",))
    system, prompt = system_and_prompt(request, provider)
    call = build_process_call(
        provider, [], f"{system}\n\n{prompt}" if system else prompt, key, cwd=extra.get("cwd")
    )
    return ProcessCall(
        tuple(w.replace("{model}", request.model) for w in call.argv),
        call.stdin,
        call.env,
        call.cwd,
        call.passthrough_env,
    )


CLIS = (
    Dialect("cli_claude", encode_claude, ClaudeDecoder, gateway_error),
    Dialect("cli_gemini", encode_gemini, GeminiDecoder, gateway_error),
    Dialect("cli_codex", encode_codex, CodexDecoder, gateway_error),
    Dialect("cli_copilot", encode_copilot, CopilotDecoder, gateway_error),
    Dialect("cli_opencode", encode_opencode, OpenCodeDecoder, gateway_error),
    Dialect("cli_text", encode_plain, PlainTextDecoder, gateway_error),
)
