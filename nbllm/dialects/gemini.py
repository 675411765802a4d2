"""Google's generateContent, as in the Gemini API and Vertex AI.

A stream is a series of chunks: candidates (only candidate 0 is used) whose parts are text, thoughts, calls,
or what tools of the provider did; usage so far; a finish reason, perhaps more than one, of which the last
counts. Calls come complete, or as partialArgs: values at JSON paths, emitted as one JSON text when the call
ends. The opening brace of such a call is emitted at once, so that a call which never ends is not taken for
one without arguments.

The answer is complete when a finish reason has come, or the prompt was blocked, or a candidate has
avgLogprobs (which non-streaming answers of older models have instead of a reason). The protocol has no end
mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from ..core.calls import Dialect, Endpoint, HttpCall, Secret
from ..core.errors import ConfigError
from ..core.events import (
    Event,
    Finished,
    FinishReason,
    MediaDelta,
    Notice,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from ..core.messages import Document, Image, Part, Reasoning, Request, Text, ToolCall, ToolResult
from ._decoder import BaseDecoder, ChoiceSelector
from ._errors import http_error
from ._json import count, items, label, obj, string
from ._media import media
from ._partial_args import PartialArguments
from ._request import (
    argument_object,
    arguments_json,
    base64_data,
    build_post,
    checked_system_text,
    describe_tool,
    dumps,
    google_key_header,
    merge_turns,
    misplaced_part,
    reasoning_budget,
    result_parts,
    with_unique_ids,
    without_none,
)

_ROLES = {"user": "user", "tool": "user", "assistant": "model"}
_VERSION = re.compile(r"/v\d+(?:alpha|beta)?\d*(?:/|$)")
# Models that take a budget of thinking. Later ones take a level.
_BUDGET_MODELS = re.compile(r"gemini-(?:1\.|2\.)|learnlm|gemma")


def encode(request: Request, provider: Endpoint, key: Secret | None) -> HttpCall:
    """The streaming call for `request`: POST /models/{model}:streamGenerateContent.

    A base_url without a version gets /v1beta, as in Google's SDKs. `reasoning` also requests thoughts: a
    number is a budget, of which -1 leaves it to the model; a word is a thinkingLevel, or a budget for models
    before Gemini 3. One strict tool sets the mode VALIDATED for all tools. `generationConfig` in `extra` is
    merged with ours. Only signed thinking is sent back.
    """
    system = checked_system_text(request)
    tools = [describe_tool(t, parametersJsonSchema=t.parameters) for t in request.tools]
    body = {
        "systemInstruction": {"parts": [{"text": system}]} if system else None,
        "contents": _contents(request),
        "tools": [{"functionDeclarations": tools}] if tools else None,
        "toolConfig": _tool_config(request),
        "generationConfig": without_none(
            {
                "maxOutputTokens": request.max_tokens,
                "temperature": request.temperature,
                "topP": request.top_p,
                "stopSequences": list(request.stop),
                "seed": request.seed,
                "responseMimeType": None if request.schema is None else "application/json",
                "responseJsonSchema": request.schema,
                "thinkingConfig": _thinking(request),
            }
        ),
    }
    url = _url(request.model, provider.base_url)
    return build_post(provider, url, google_key_header(key), body, request.extra, "generationConfig")


# --- request ------------------------------------------------------------------------------------------------


def _url(model: str, base: str) -> str:
    base = base.rstrip("/")
    if not _VERSION.search(base):
        base += "/v1beta"
    kind, name = (
        ("tunedModels", model[12:])
        if model.startswith("tunedModels/")
        else ("models", model.removeprefix("models/"))
    )
    return f"{base}/{kind}/{quote(name, safe='')}:streamGenerateContent?alt=sse"


def _thinking(request: Request) -> dict[str, Any] | None:
    reasoning = request.reasoning
    if reasoning is None:
        return None
    tokens = -1 if reasoning == -1 else reasoning_budget(reasoning)
    if not tokens:
        return {"thinkingBudget": 0}
    if isinstance(reasoning, str) and not _BUDGET_MODELS.search(request.model):
        return {"thinkingLevel": reasoning, "includeThoughts": True}
    return {"thinkingBudget": tokens, "includeThoughts": True}


def _tool_config(request: Request) -> dict[str, Any] | None:
    choice = request.tool_choice
    if choice in (None, "auto") and any(t.strict for t in request.tools):
        return {"functionCallingConfig": {"mode": "VALIDATED"}}
    if choice is None:
        return None
    mode = {"auto": "AUTO", "none": "NONE"}.get(choice, "ANY")
    names = [choice] if choice not in ("auto", "none", "required") else None
    return {"functionCallingConfig": without_none({"mode": mode, "allowedFunctionNames": names})}


def _contents(request: Request) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools, by the ids of their calls so far
    made_up_ids: set[str] = set()  # not sent, because Gemini does not know them
    nests_files = not _BUDGET_MODELS.search(request.model)  # a functionResponse may contain pictures
    for role, parts in merge_turns(with_unique_ids(request.messages), _ROLES):
        calls = [p for p in parts if isinstance(p, ToolCall)]
        names |= {p.id: p.name for p in calls}
        made_up_ids |= {p.id for p in calls if p.made_up}
        encoded = [
            block
            for part in parts
            if (block := _part(role, part, names, made_up_ids, nests_files)) is not None
        ]
        encoded += [
            _media(p) for r in parts if isinstance(r, ToolResult) for p in _separate_files(r, nests_files)
        ]
        if encoded:
            out.append({"role": role, "parts": encoded})
    return out


def _part(
    role: str, part: Part, names: Mapping[str, str], made_up_ids: Set[str], nests_files: bool
) -> dict[str, Any] | None:
    match part:
        case Text(text, signature):
            return without_none({"text": text, "thoughtSignature": signature}) if text or signature else None
        case Image() | Document():
            mark = part.signature if isinstance(part, Image) and role == "model" else None
            return _media(part) | without_none({"thoughtSignature": mark})
        case ToolResult() if role == "user":
            return {"functionResponse": _response(part, names, made_up_ids, nests_files)}
        case ToolCall(id, name) if role == "model":
            call = {
                **without_none({"id": None if part.made_up else id}),
                "name": name,
                "args": argument_object(part),
            }
            return without_none({"functionCall": call, "thoughtSignature": part.signature})
        case Reasoning(text, signature) if role == "model":
            is_ours = signature is not None and part.id is None  # thoughts of other providers have an id
            return {"text": text, "thought": True, "thoughtSignature": signature} if is_ours else None
    raise misplaced_part(part, role, "Gemini")


def _media(part: Image | Document) -> dict[str, Any]:
    if part.url is not None:
        return {"fileData": {"mimeType": part.media_type, "fileUri": part.url}}
    return {"inlineData": {"mimeType": part.media_type, "data": base64_data(part)}}


def _separate_files(result: ToolResult, nests_files: bool) -> list[Image | Document]:
    """The files of a result that are sent after the functionResponse: those with a URL, and all files for
    models before Gemini 3, whose responses contain only text."""
    files = [p for p in result_parts(result) if not isinstance(p, Text)]
    return [p for p in files if not nests_files or p.url is not None]


def _response(
    result: ToolResult, names: Mapping[str, str], made_up_ids: Set[str], nests_files: bool
) -> dict[str, Any]:
    name = result.name or names.get(result.id)
    if name is None:
        raise ConfigError(
            f"Gemini needs the name of the tool for the result of call {result.id!r}.",
            hint="Set name= of the ToolResult, or keep the call in the conversation.",
        )
    text = "".join(p.text for p in result_parts(result) if isinstance(p, Text))
    separate = _separate_files(result, nests_files)
    media = [_media(p) for p in result_parts(result) if not isinstance(p, Text) and p not in separate]
    response = {"error" if result.is_error else "output": text}
    id = None if result.id in made_up_ids else result.id
    return without_none({"id": id, "name": name, "response": response, "parts": media})


# --- answer -------------------------------------------------------------------------------------------------

_FILTERED = (
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "model_armor",
    "jailbreak",
    "image_safety",
    "image_recitation",
    "image_prohibited_content",
)
_FAILED = (
    "language",
    "malformed_function_call",
    "malformed_response",
    "unexpected_tool_call",
    "too_many_tool_calls",
    "missing_thought_signature",
    "no_image",
    "image_other",
    "error",
)
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "max_tokens": "length",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    **dict.fromkeys(_FILTERED, "content_filter"),
    **dict.fromkeys(_FAILED, "error"),
}
_BLOCKED = "promptFeedback:"
_MEDIA_FIELDS = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
_SERVER_TOOL_FIELDS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse", *_MEDIA_FIELDS)
_UNSPECIFIED = ("FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")


class ChunkDecoder(BaseDecoder):
    """Reads the chunks of one answer."""

    format = "gemini"
    reasons = _REASONS

    def __init__(self, provider: Endpoint) -> None:
        super().__init__(provider)
        self._last_usage: tuple[dict[str, Any], bool] = ({}, False)
        self._has_avg_logprobs = False
        self._selector = ChoiceSelector()
        self._seen_calls: set[str] = set()
        self._partial_call: PartialArguments | None = None
        self._last_was_draft = False

    def _object(self, value: dict[str, Any], name: str) -> Iterator[Event]:
        self._recognized = self._recognized or not {
            "candidates",
            "promptFeedback",
            "usageMetadata",
        }.isdisjoint(value)
        yield from self._emit_started(value.get("responseId"), value.get("modelVersion"))
        candidates = value.get("candidates")
        for candidate in self._selector.select(candidates) if isinstance(candidates, list) else ():
            yield from self._candidate(candidate)
        feedback = obj(value.get("promptFeedback"))
        if (blocked := label(feedback.get("blockReason"))) and blocked not in _UNSPECIFIED:
            self._reason = self._reason or _BLOCKED + blocked
            yield Notice("refusal", string(feedback.get("blockReasonMessage")), feedback)
        counted = obj(value.get("usageMetadata")), self._reason is not None  # each chunk counts all before it
        if counted != self._last_usage and any(k.endswith("TokenCount") for k in counted[0]):
            self._last_usage = counted
            yield UsageReport(_usage(counted[0]), counted[1])

    @property
    def _is_complete(self) -> bool:
        return self._reason is not None or self._has_avg_logprobs

    def _finished_event(self) -> Finished:
        blocked = self._reason is not None and self._reason.startswith(_BLOCKED)
        return Finished("content_filter", self._reason) if blocked else super()._finished_event()

    def _candidate(self, candidate: dict[str, Any]) -> Iterator[Event]:
        for part in items(obj(candidate.get("content")).get("parts")):
            yield from self._part(part)
        self._has_avg_logprobs = self._has_avg_logprobs or "avgLogprobs" in candidate
        reason = label(candidate.get("finishReason"))
        if reason and reason not in _UNSPECIFIED:
            self._reason = reason
            yield from self._end_call()
            if (message := string(candidate.get("finishMessage"))) and reason != "STOP":
                filtered = _REASONS.get(reason.lower()) == "content_filter"
                yield Notice("refusal" if filtered else "warning", message, {"finishReason": reason})
        if "groundingMetadata" in candidate or "citationMetadata" in candidate:
            yield from self._emit_citations(candidate)

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        signature = label(part.get("thoughtSignature", part.get("thought_signature")))
        if isinstance(part.get("functionCall"), dict):
            yield from self._call(part["functionCall"], signature)
        elif not _MEDIA_FIELDS.isdisjoint(part) and (found := media(part, signature)) is not None:
            yield self._file(found, draft=part.get("thought") is True)
        elif (kind := next((k for k in _SERVER_TOOL_FIELDS if k in part), None)) is not None:
            yield Notice("server_tool", kind, part)
        elif part.get("thought") is True:
            thought = self._joiner.join("thought", string(part.get("text")))
            if thought or signature:
                yield ReasoningDelta(thought, signature)
        elif "text" in part or signature:
            text = self._joiner.join("text", string(part.get("text")))
            if text or signature:
                yield TextDelta(text, signature)
        elif part:
            yield Notice("unknown", next(iter(part)), part)

    def _file(self, part: Image | Document, *, draft: bool) -> Event:
        """The event for a picture or a file. Drafts made while thinking are replaced by the next picture."""
        key = "draft" if draft or self._last_was_draft else None
        self._last_was_draft = draft
        return MediaDelta(part, key)

    def _call(self, call: dict[str, Any], signature: str | None) -> Iterator[Event]:
        name = label(call.get("name"))
        if name is not None:
            yield from self._end_call()
            yield from self._begin_call(call, name, signature)
        elif self._partial_call is None:
            yield Notice("unknown", "a call without a name", call)
        elif signature:
            yield ToolCallDelta(self._call_count - 1, signature=signature)
        if self._partial_call is not None:
            self._partial_call.add(call)
            if call.get("willContinue") is not True:
                yield from self._end_call()

    def _begin_call(self, call: dict[str, Any], name: str, signature: str | None) -> Iterator[Event]:
        id = label(call.get("id"))
        if id is not None:
            text = dumps(call)
            if text in self._seen_calls:
                return
            self._seen_calls.add(text)
        streamed = call.get("willContinue") is True or "partialArgs" in call
        yield ToolCallDelta(
            self._call_count, id, name, "{" if streamed else arguments_json(call.get("args")), signature
        )
        self._partial_call = PartialArguments() if streamed else None
        self._call_count += 1

    def _end_call(self) -> Iterator[Event]:
        if self._partial_call is not None:
            yield ToolCallDelta(self._call_count - 1, arguments=dumps(self._partial_call.value)[1:])
            self._partial_call = None

    _final_events = _end_call

    def _emit_citations(self, candidate: dict[str, Any]) -> Iterator[Event]:
        citations = obj(candidate.get("citationMetadata"))
        chunks = [
            *items(obj(candidate.get("groundingMetadata")).get("groundingChunks")),
            *items(citations.get("citations")),
            *items(citations.get("citationSources")),
        ]
        for chunk in chunks:
            if self._is_new_source(chunk):
                about = next((v for v in chunk.values() if isinstance(v, dict)), chunk)
                names = (string(about.get(k)) for k in ("uri", "title", "fileSearchStore"))
                yield Notice("citation", next(filter(None, names), ""), chunk)


def _usage(raw: dict[str, Any]) -> Usage:
    """Usage from Google's counts, where thoughts are not part of the answer. Input that its own tools read is
    not included, but in `raw`."""
    answer, thoughts = count(raw.get("candidatesTokenCount")), count(raw.get("thoughtsTokenCount"))
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    return Usage(
        count(raw.get("promptTokenCount")),
        output,
        thoughts,
        count(raw.get("cachedContentTokenCount")),
        None,
        raw,
    )


def token_count_call(call: HttpCall) -> HttpCall:
    """The call that counts the tokens of another call."""
    url = call.url.replace(":streamGenerateContent?alt=sse", ":countTokens")
    return replace(call, url=url, body={"contents": call.body["contents"]})


DIALECT = Dialect(
    "gemini", encode, ChunkDecoder, http_error, counting=(token_count_call, "totalTokens"), keeps_prompts=True
)
