"""Calls as OpenTelemetry's spans and metrics, under its conventions' names for generative models, so that
MLflow, Langfuse, Logfire, Phoenix and others see them. Off until the user turns it on, and opentelemetry is
not imported before.

Spans, from the outside: `cell`, `rows NAME` (a table's) or `turn` (a conversation's), `invoke_agent MODEL`
(an answer with tools), `chat MODEL` (one call of a provider; several where one fails and another is asked),
`execute_tool NAME`.
What was said is in them only where that is asked for, and never a key. Where they go is the business of the
providers that the user's program has set up: without any, nothing goes anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..core import errors
from ..core.eventlog import EventLog
from ..core.events import Response, ToolEnded, ToolStarted, Usage, is_token
from ..core.messages import Document, Image, Message, Reasoning, Request, Text, ToolCall, ToolResult
from ..dialects.embeddings import EMBEDDERS
from .attempt import Attempt, Handler, Sink

if TYPE_CHECKING:
    from .engine import Engine
    from .stream import Stream

NAME = "nbllm"
# The conventions' words for providers that they know; others have the name of their row.
_PROVIDERS = {
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "azure": "azure.ai.openai",
    "azure_responses": "azure.ai.openai",
    "openai_responses": "openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "moonshot": "moonshot_ai",
    "azure_foundry": "azure.ai.inference",
    "bedrock": "aws.bedrock",
}
# The conventions' boundaries; OpenTelemetry's own begin at 5, where most answers are there.
_COUNTS, _SECONDS = [4**n for n in range(14)], [0.01 * 2**n for n in range(14)]
_LONGEST = 100_000  # characters of a content


def make_tracing(
    *, content: bool = False, tracer_provider: Any = None, meter_provider: Any = None
) -> Tracing:
    """Spans and metrics for the providers given, or for those that are set for the process. Raises
    ConfigError where opentelemetry is not installed."""
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise errors.ConfigError(
            "Tracing needs the package opentelemetry-api.", hint="pip install 'nbllm[otel]'"
        ) from None
    tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
    return Tracing(trace, tracer, metrics.get_meter(NAME, meter_provider=meter_provider), content)


class Tracing:
    """Makes the spans and metrics of a client's calls. content: whether what was said is in them."""

    def __init__(self, api: Any, tracer: Any, meter: Any, content: bool) -> None:
        self._api, self._tracer, self.content = api, tracer, content
        counts, times = ({"explicit_bucket_boundaries_advisory": at} for at in (_COUNTS, _SECONDS))
        made = meter.create_histogram
        self._tokens = made("gen_ai.client.token.usage", "{token}", "Tokens read and written.", **counts)
        self._duration = made("gen_ai.client.operation.duration", "s", "How long calls took.", **times)
        self._first = made(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first token of an answer.",
            **times,
        )

    @contextlib.contextmanager
    def span(self, name: str, **about: Any) -> Iterator[Any]:
        """A span round what is done inside; its errors are its own. about: attributes; None is left out."""
        attributes = {f"nbllm.{n}": v for n, v in about.items() if v is not None}
        with self._opened(name, self._api.SpanKind.INTERNAL, attributes) as span:
            yield span

    def turn(self, begin: Callable[[], Stream], engine: Engine, conversation: str, number: int) -> Stream:
        """A span of the stream that `begin` starts, up to its end, whoever reads it."""
        about = {"gen_ai.conversation.id": conversation, "nbllm.turn": number}
        span = self._tracer.start_span("turn", attributes=about)
        try:
            with self._api.use_span(span, record_exception=False, set_status_on_exception=False):
                stream = begin()
        except BaseException as error:
            self._failed(span, error, ())
            span.end()
            raise

        async def ended() -> None:
            await stream.wait_end_async()
            stopped = stream.partial().finish_reason == "cancelled"
            if error := asyncio.CancelledError() if stopped else stream.error:
                self._failed(span, error, stream.attempts[-1].guard.secrets if stream.attempts else ())
            span.end()

        engine.submit(ended())
        return stream

    @contextlib.contextmanager
    def _opened(self, name: str, kind: Any, attributes: Mapping[str, Any]) -> Iterator[Any]:
        opened = self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        )
        with opened as span:
            try:
                yield span
            except BaseException as error:
                self._failed(span, error, ())
                raise

    def _failed(self, span: Any, error: BaseException, secrets: Sequence[str]) -> None:
        """An error: its type and its message, without a traceback, whose lines may hold anything."""
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            span.set_attribute("nbllm.stopped", True)
            return
        said = error.message if isinstance(error, errors.NbllmError) else ""
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._api.StatusCode.ERROR, errors.scrub(said, tuple(secrets))[:500])

    def chat(self, handler: Handler) -> Handler:
        """A wrapper of the pipeline: a span round a call, with its tokens and times."""

        async def call(attempt: Attempt, sink: Sink) -> None:
            began = time.perf_counter(), len(sink.log), len(sink.traces)
            about = _asked(attempt)
            name = f"{about['gen_ai.operation.name']} {attempt.route.model}"
            with self._opened(name, self._api.SpanKind.CLIENT, about) as span:
                if self.content and span.is_recording():
                    self._said(span, attempt.request, attempt.guard.secrets)
                failed: BaseException | None = None
                try:
                    await handler(attempt, sink)
                except BaseException as error:
                    failed = error
                    self._failed(span, error, attempt.guard.secrets)
                    raise
                finally:
                    self._ended(span, attempt, sink, began, failed)

        return call

    def _ended(
        self,
        span: Any,
        attempt: Attempt,
        sink: Sink,
        began: tuple[float, int, int],
        failed: BaseException | None,
    ) -> None:
        since, place, sent = began
        seconds, came = time.perf_counter() - since, sink.log[place:]
        response = EventLog(came).fold().response()
        span.set_attributes(_answered(response, len(sink.traces) - sent))
        asked = _asked(attempt)
        answered = {"gen_ai.response.model": response.model} if response.model else {}
        shared = {n: v for n, v in asked.items() if n in _DIMENSIONS} | answered
        first = next((at - since for at, event in came if is_token(event)), None)
        if first is not None and "gen_ai.request.stream" in asked:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first)
            self._first.record(first, shared)
        if failed is not None and not isinstance(failed, asyncio.CancelledError):
            shared["error.type"] = type(failed).__name__
        self._duration.record(seconds, shared)
        for kind, count in _counted(response):
            self._tokens.record(count, {**shared, "gen_ai.token.type": kind})
        if self.content and response.parts and attempt.dialect.name not in EMBEDDERS:
            said = [
                _message(Message("assistant", response.parts)) | {"finish_reason": response.finish_reason}
            ]
            span.set_attribute("gen_ai.output.messages", _json(said, attempt.guard.secrets))

    def _said(self, span: Any, request: Request, secrets: Sequence[str]) -> None:
        messages = [_message(m) for m in request.messages if m.role != "system"]
        span.set_attribute("gen_ai.input.messages", _json(messages, secrets))
        if request.system:
            parts = [{"type": "text", "content": request.system}]
            span.set_attribute("gen_ai.system_instructions", _json(parts, secrets))

    @contextlib.contextmanager
    def agent(self, stream: Stream, first: Attempt) -> Iterator[None]:
        """A span round an answer with tools; each of its calls and tools is a child."""
        about = {**_asked(first), "gen_ai.operation.name": "invoke_agent"}
        name = f"invoke_agent {first.route.model}"
        with self._opened(name, self._api.SpanKind.INTERNAL, about) as span:
            try:
                yield
            finally:
                self._tools(stream, first.guard.secrets)
                span.set_attribute("nbllm.turns", len(stream.turns))

    def _tools(self, stream: Stream, secrets: Sequence[str]) -> None:
        """The spans of what tools did, with the times at which it was."""
        shift = time.time_ns() - time.perf_counter_ns()
        began: dict[str, float] = {}
        said = [part for message in stream.partial().messages for part in message.parts]
        calls = {part.id: part for part in said if isinstance(part, ToolCall)}
        for at, event in stream.log:
            if isinstance(event, ToolStarted):
                began[event.id] = at
            if isinstance(event, ToolEnded):
                at_first = began.pop(event.result.id, at)
                self._tool(event, calls.get(event.result.id), (at_first, at), shift, secrets)

    def _tool(
        self,
        ended: ToolEnded,
        call: ToolCall | None,
        times: tuple[float, float],
        shift: int,
        secrets: Sequence[str],
    ) -> None:
        name, (since, until) = ended.result.name, times
        about = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": ended.result.id,
            "nbllm.outcome": ended.outcome,
        }
        if self.content:
            about["gen_ai.tool.call.arguments"] = _json(call.arguments if call else {}, secrets)
            about["gen_ai.tool.call.result"] = _json(_told(ended.result), secrets)
        span = self._tracer.start_span(
            f"execute_tool {name}", attributes=about, start_time=round(since * 1e9) + shift
        )
        if ended.result.is_error:
            span.set_attribute("error.type", ended.outcome)
            span.set_status(self._api.StatusCode.ERROR)
        span.end(round(until * 1e9) + shift)


_DIMENSIONS = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "server.address",
    "server.port",
)


def _asked(attempt: Attempt) -> dict[str, Any]:
    """What is asked of whom, without what is said."""
    request, row = attempt.request, attempt.route.provider
    host, port = _server(row.base_url)
    vectors = attempt.dialect.name in EMBEDDERS
    found = {
        "gen_ai.operation.name": "embeddings" if vectors else "chat",
        "gen_ai.provider.name": _PROVIDERS.get(row.name, row.name),
        "gen_ai.request.model": attempt.route.model,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.stop_sequences": list(request.stop) or None,
        "gen_ai.request.stream": None if vectors else True,
        "gen_ai.embeddings.dimension.count": request.extra.get("dimensions") if vectors else None,
        "gen_ai.output.type": None if request.schema is None else "json",
        "server.address": host,
        "server.port": port,
        "nbllm.label": attempt.label,
        "nbllm.simulated": attempt.route.simulated or None,
    }
    return {n: v for n, v in found.items() if v is not None}


def _server(url: str) -> tuple[str | None, int | None]:
    try:
        at = urlsplit(url)
        return at.hostname, at.port or {"https": 443, "http": 80}.get(at.scheme)
    except ValueError:
        return None, None


def _answered(response: Response, attempts: int) -> dict[str, Any]:
    usage = response.usage
    found = {
        "gen_ai.response.id": response.id,
        "gen_ai.response.model": response.model,
        "gen_ai.response.finish_reasons": [response.finish_reason] if response.finish_reason else None,
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage and usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage and usage.cache_write_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage and usage.cache_write_tokens,  # its next name
        "gen_ai.usage.reasoning.output_tokens": usage and usage.reasoning_tokens,
        "nbllm.attempts": attempts,
        "nbllm.cached": any(n.kind == "cached" for n in response.notices) or None,
    }
    return {n: v for n, v in found.items() if v is not None}


def _counted(response: Response) -> Sequence[tuple[str, int]]:
    usage = response.usage or Usage()
    told = {"input": usage.input_tokens, "output": usage.output_tokens}
    return [(kind, count) for kind, count in told.items() if count is not None]


def _told(result: ToolResult) -> Any:
    parts = result.content
    return parts if isinstance(parts, str) else [_part(p) for p in parts]


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [_part(p) for p in message.parts]}


_PARTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Text: lambda p: {"type": "text", "content": p.text},
    Reasoning: lambda p: {"type": "reasoning", "content": p.text},
    ToolCall: lambda p: {"type": "tool_call", "id": p.id, "name": p.name, "arguments": p.arguments},
    ToolResult: lambda p: {"type": "tool_call_response", "id": p.id, "response": _told(p)},
    **dict.fromkeys((Image, Document), lambda p: {"type": "blob", "mime_type": p.media_type}),
}  # the bytes of files stay here


def _part(part: Any) -> dict[str, Any]:
    known = _PARTS.get(type(part))
    return known(part) if known else {"type": type(part).__name__.lower()}


def _json(value: Any, secrets: Sequence[str]) -> str:
    """As JSON, without secrets, and not longer than a back end takes."""
    return errors.scrub(json.dumps(value, default=str, ensure_ascii=False), tuple(secrets))[:_LONGEST]
