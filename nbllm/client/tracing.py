"""OpenTelemetry spans and metrics of calls, with the names of its conventions for generative models, which
MLflow, Langfuse, Logfire, Phoenix and others read. Off until the user turns it on; opentelemetry is not
imported before.

Spans, from the outside: `cell`, `rows NAME` (a table) or `turn` (a conversation), `invoke_agent MODEL` (an
answer with tools), `chat MODEL` (one call to a provider; several with failover), `execute_tool NAME`.
They hold prompts and answers only with content=True, and never a key. The providers that the user's program
has set up export them; without any, nothing is exported.
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
# The conventions' names of providers; others keep their own.
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
# The conventions' histogram boundaries. OpenTelemetry's defaults begin at 5, beyond most answers.
_TOKEN_BOUNDARIES, _SECOND_BOUNDARIES = [4**n for n in range(14)], [0.01 * 2**n for n in range(14)]
_MAX_CONTENT = 100_000  # characters of a content


def make_tracing(
    *, content: bool = False, tracer_provider: Any = None, meter_provider: Any = None
) -> Tracing:
    """A Tracing with the given OpenTelemetry providers, or those set for the process. Raises ConfigError
    where opentelemetry is not installed."""
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise errors.ConfigError(
            "Tracing needs the package opentelemetry-api.", hint="pip install 'nbllm[otel]'"
        ) from None
    tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
    return Tracing(trace, tracer, metrics.get_meter(NAME, meter_provider=meter_provider), content)


class Tracing:
    """Makes the spans and metrics of a client's calls. content: whether they hold prompts and answers."""

    def __init__(self, api: Any, tracer: Any, meter: Any, content: bool) -> None:
        self._api, self._tracer, self.content = api, tracer, content
        counts, times = (
            {"explicit_bucket_boundaries_advisory": at} for at in (_TOKEN_BOUNDARIES, _SECOND_BOUNDARIES)
        )
        create = meter.create_histogram
        self._tokens = create("gen_ai.client.token.usage", "{token}", "Tokens read and written.", **counts)
        self._duration = create("gen_ai.client.operation.duration", "s", "How long calls took.", **times)
        self._first = create(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first token of an answer.",
            **times,
        )

    @contextlib.contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[Any]:
        """A span around the code inside, with its errors. Attributes that are None are left out."""
        attributes = {f"nbllm.{n}": v for n, v in attributes.items() if v is not None}
        with self._open_span(name, self._api.SpanKind.INTERNAL, attributes) as span:
            yield span

    def turn(self, begin: Callable[[], Stream], engine: Engine, conversation: str, number: int) -> Stream:
        """Returns the stream that `begin` starts; a span lasts from its start to its end."""
        attributes = {"gen_ai.conversation.id": conversation, "nbllm.turn": number}
        span = self._tracer.start_span("turn", attributes=attributes)
        try:
            with self._api.use_span(span, record_exception=False, set_status_on_exception=False):
                stream = begin()
        except BaseException as error:
            self._record_error(span, error, ())
            span.end()
            raise

        async def ended() -> None:
            await stream.wait_end_async()
            stopped = stream.partial().finish_reason == "cancelled"
            if error := asyncio.CancelledError() if stopped else stream.error:
                self._record_error(span, error, stream.attempts[-1].guard.secrets if stream.attempts else ())
            span.end()

        engine.submit(ended())
        return stream

    @contextlib.contextmanager
    def _open_span(self, name: str, kind: Any, attributes: Mapping[str, Any]) -> Iterator[Any]:
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
                self._record_error(span, error, ())
                raise

    def _record_error(self, span: Any, error: BaseException, secrets: Sequence[str]) -> None:
        """Adds an error's type and message to a span; not its traceback, which may hold anything."""
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            span.set_attribute("nbllm.stopped", True)
            return
        message = error.message if isinstance(error, errors.NbllmError) else ""
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._api.StatusCode.ERROR, errors.scrub(message, tuple(secrets))[:500])

    def chat(self, handler: Handler) -> Handler:
        """A wrapper of the pipeline: a span around a call, with its tokens and times."""

        async def call(attempt: Attempt, sink: Sink) -> None:
            start = time.perf_counter(), len(sink.log), len(sink.traces)
            attributes = _request_attributes(attempt)
            name = f"{attributes['gen_ai.operation.name']} {attempt.route.model}"
            with self._open_span(name, self._api.SpanKind.CLIENT, attributes) as span:
                if self.content and span.is_recording():
                    self._set_prompt(span, attempt.request, attempt.guard.secrets)
                failed: BaseException | None = None
                try:
                    await handler(attempt, sink)
                except BaseException as error:
                    failed = error
                    self._record_error(span, error, attempt.guard.secrets)
                    raise
                finally:
                    self._finish_call(span, attempt, sink, start, failed)

        return call

    def _finish_call(
        self,
        span: Any,
        attempt: Attempt,
        sink: Sink,
        start: tuple[float, int, int],
        failed: BaseException | None,
    ) -> None:
        since, n_events, n_sent = start
        seconds, events = time.perf_counter() - since, sink.log[n_events:]
        response = EventLog(events).fold().response()
        span.set_attributes(_response_attributes(response, len(sink.traces) - n_sent))
        request_attributes = _request_attributes(attempt)
        answered = {"gen_ai.response.model": response.model} if response.model else {}
        shared = {n: v for n, v in request_attributes.items() if n in _DIMENSIONS} | answered
        first = next((at - since for at, event in events if is_token(event)), None)
        if first is not None and "gen_ai.request.stream" in request_attributes:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first)
            self._first.record(first, shared)
        if failed is not None and not isinstance(failed, asyncio.CancelledError):
            shared["error.type"] = type(failed).__name__
        self._duration.record(seconds, shared)
        for kind, count in _token_counts(response):
            self._tokens.record(count, {**shared, "gen_ai.token.type": kind})
        if self.content and response.parts and attempt.dialect.name not in EMBEDDERS:
            texts = [
                _message(Message("assistant", response.parts)) | {"finish_reason": response.finish_reason}
            ]
            span.set_attribute("gen_ai.output.messages", _json(texts, attempt.guard.secrets))

    def _set_prompt(self, span: Any, request: Request, secrets: Sequence[str]) -> None:
        messages = [_message(m) for m in request.messages if m.role != "system"]
        span.set_attribute("gen_ai.input.messages", _json(messages, secrets))
        if request.system:
            parts = [{"type": "text", "content": request.system}]
            span.set_attribute("gen_ai.system_instructions", _json(parts, secrets))

    @contextlib.contextmanager
    def agent(self, stream: Stream, first: Attempt) -> Iterator[None]:
        """A span around an answer with tools; its calls and tools are child spans."""
        attributes = {**_request_attributes(first), "gen_ai.operation.name": "invoke_agent"}
        name = f"invoke_agent {first.route.model}"
        with self._open_span(name, self._api.SpanKind.INTERNAL, attributes) as span:
            try:
                yield
            finally:
                self._add_tool_spans(stream, first.guard.secrets)
                span.set_attribute("nbllm.turns", len(stream.turns))

    def _add_tool_spans(self, stream: Stream, secrets: Sequence[str]) -> None:
        """Adds a span for each tool call, with its times."""
        shift = time.time_ns() - time.perf_counter_ns()
        started: dict[str, float] = {}
        parts = [part for message in stream.partial().messages for part in message.parts]
        calls = {part.id: part for part in parts if isinstance(part, ToolCall)}
        for at, event in stream.log:
            if isinstance(event, ToolStarted):
                started[event.id] = at
            if isinstance(event, ToolEnded):
                started_at = started.pop(event.result.id, at)
                self._add_tool_span(event, calls.get(event.result.id), (started_at, at), shift, secrets)

    def _add_tool_span(
        self,
        ended: ToolEnded,
        call: ToolCall | None,
        times: tuple[float, float],
        shift: int,
        secrets: Sequence[str],
    ) -> None:
        name, (since, until) = ended.result.name, times
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": ended.result.id,
            "nbllm.outcome": ended.outcome,
        }
        if self.content:
            attributes["gen_ai.tool.call.arguments"] = _json(call.arguments if call else {}, secrets)
            attributes["gen_ai.tool.call.result"] = _json(_result_content(ended.result), secrets)
        span = self._tracer.start_span(
            f"execute_tool {name}", attributes=attributes, start_time=round(since * 1e9) + shift
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


def _request_attributes(attempt: Attempt) -> dict[str, Any]:
    """A request's attributes, without its content."""
    request, row = attempt.request, attempt.route.provider
    host, port = _host_and_port(row.base_url)
    vectors = attempt.dialect.name in EMBEDDERS
    attributes = {
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
    return {n: v for n, v in attributes.items() if v is not None}


def _host_and_port(url: str) -> tuple[str | None, int | None]:
    try:
        at = urlsplit(url)
        return at.hostname, at.port or {"https": 443, "http": 80}.get(at.scheme)
    except ValueError:
        return None, None


def _response_attributes(response: Response, attempts: int) -> dict[str, Any]:
    usage = response.usage
    attributes = {
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
    return {n: v for n, v in attributes.items() if v is not None}


def _token_counts(response: Response) -> Sequence[tuple[str, int]]:
    usage = response.usage or Usage()
    counts = {"input": usage.input_tokens, "output": usage.output_tokens}
    return [(kind, count) for kind, count in counts.items() if count is not None]


def _result_content(result: ToolResult) -> Any:
    parts = result.content
    return parts if isinstance(parts, str) else [_part(p) for p in parts]


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [_part(p) for p in message.parts]}


_PARTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Text: lambda p: {"type": "text", "content": p.text},
    Reasoning: lambda p: {"type": "reasoning", "content": p.text},
    ToolCall: lambda p: {"type": "tool_call", "id": p.id, "name": p.name, "arguments": p.arguments},
    ToolResult: lambda p: {"type": "tool_call_response", "id": p.id, "response": _result_content(p)},
    **dict.fromkeys((Image, Document), lambda p: {"type": "blob", "mime_type": p.media_type}),
}  # the bytes of files stay here


def _part(part: Any) -> dict[str, Any]:
    known = _PARTS.get(type(part))
    return known(part) if known else {"type": type(part).__name__.lower()}


def _json(value: Any, secrets: Sequence[str]) -> str:
    """Encodes a value as JSON without secrets, cut to what a back end accepts."""
    return errors.scrub(json.dumps(value, default=str, ensure_ascii=False), tuple(secrets))[:_MAX_CONTENT]
