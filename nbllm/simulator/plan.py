"""Plans an answer from the request and the options in force: blocks of tokens, and when each chunk is due.
Pure.

A format parses the HTTP request into a NormalizedRequest; `plan_reply` decides the answer once;
`Reply.schedule()` yields one token-bearing chunk at a time, each with its time in seconds after the request
was read. The times form an absolute schedule, so a late chunk does not delay those after it. A format turns
the chunks into its own events (`WireEvent`).
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import schema, scripts, text
from .normalized_request import NormalizedRequest, Tool
from .options import Options
from .records import Kind

Finish = str  # stop, length, tool_calls, or the reason that a script gives
_MAX_STOP_SEQUENCES = 16  # more stop sequences are ignored
_IMAGE_SIZE, _MAX_IMAGES = (64, 48), 16  # (width, height) in pixels; images in one answer
DEFAULT_REASONING_TOKENS = 24  # if the request asks for thinking and no option sets the number


@dataclass(frozen=True, slots=True)
class Block:
    """A run of tokens of one kind. For a tool call the first token is the name, the others are the
    arguments."""

    kind: Literal["reasoning", "content", "tool"]
    tokens: tuple[str, ...]
    name: str = ""
    call_id: str = ""
    index: int = 0  # among the calls

    @property
    def text(self) -> str:
        """The text, or the arguments of a call."""
        return "".join(self.tokens[1:] if self.kind == "tool" else self.tokens)


class ScheduledChunk(NamedTuple):
    """A token-bearing chunk. block: index of its block. at: seconds after the request was read. more: the
    next chunk shares its socket write."""

    block: int
    text: str
    n_tokens: int
    at: float
    first: bool = False
    last: bool = False
    more: bool = False


class WireEvent(NamedTuple):
    """One encoded event. at: seconds after the request was read. more: the next event goes into the same
    socket write. fault: how to break the connection instead of sending data."""

    kind: Kind
    data: bytes
    at: float
    more: bool = False
    text: str = ""
    n_tokens: int = 0
    fault: Literal["", "rst", "close", "end"] = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A planned answer. created: epoch seconds. load_s: seconds of simulated model loading. input_tokens:
    tokens of the prompt."""

    request: NormalizedRequest
    options: Options
    id: str
    created: float
    load_s: float
    blocks: tuple[Block, ...]
    finish: Finish
    input_tokens: int

    @property
    def cached_tokens(self) -> int:
        """Input tokens that are reported as read from a cache."""
        return min(max(self.options.cached, int(self.request.extra.get("cached", 0))), self.input_tokens)

    @property
    def reasoning_tokens(self) -> int:
        """Number of reasoning tokens."""
        return sum(len(b.tokens) for b in self.blocks if b.kind == "reasoning")

    @property
    def output_tokens(self) -> int:
        """Number of all tokens of the answer, reasoning included."""
        return sum(len(b.tokens) for b in self.blocks)

    @property
    def start_at(self) -> float:
        """When the first token is due, seconds after the request was read."""
        return self.load_s + self.options.ttft

    @property
    def preamble_at(self) -> float:
        """When the events before the first token are due."""
        return 0.0 if self.options.role == "early" else self.start_at

    def text_of(self, kind: str) -> str:
        """The text of all blocks of one kind."""
        return "".join(b.text for b in self.blocks if b.kind == kind)

    @property
    def images(self) -> list[str]:
        """The images: small PNGs of one colour each, in base64."""
        return [
            base64.b64encode(text.png(*_IMAGE_SIZE, i)).decode()
            for i in range(min(self.options.images, _MAX_IMAGES))
        ]

    def schedule(self) -> Iterator[ScheduledChunk]:
        """Yields the chunks of the answer with their times."""
        o, at, i = self.options, self.start_at, 0
        chunks = [
            [b.tokens[j : j + o.tokens_per_chunk] for j in range(0, len(b.tokens), o.tokens_per_chunk)]
            for b in self.blocks
        ]
        total, delays = sum(map(len, chunks)), _delays(o, self.request.seed(o.seed))
        if o.empty and total:
            yield ScheduledChunk(0, "", 0, 0.0)
        for number, block in enumerate(chunks):
            for j, group in enumerate(block):
                i += 1
                yield ScheduledChunk(
                    number,
                    "".join(group),
                    len(group),
                    at,
                    j == 0,
                    j == len(block) - 1,
                    bool(i % o.chunks_per_write) and i < total,
                )
                at += next(delays)

    def end_at(self, last: float) -> float:
        """When the end is due if the last token is due at `last`."""
        return last + self.options.tail

    def complete_at(self) -> float:
        """When a non-streaming answer is due."""
        at = self.start_at
        for chunk in self.schedule():
            at = chunk.at
        return self.end_at(at)


def _delays(o: Options, seed: int) -> Iterator[float]:
    """Yields the seconds after each chunk. Chunks that are sent together are followed by the sum of their
    delays, so the mean stays `gap`."""
    rng = random.Random(seed)
    group_size = o.chunks_per_write if o.chunks_per_write > 1 else o.burst if o.gaps == "burst" else 1
    while True:
        for _ in range(group_size - 1):
            yield 0.0
        yield o.gap * group_size * (rng.uniform(0.5, 1.5) if o.gaps == "jitter" else 1.0)


def plan_reply(request: NormalizedRequest, options: Options, id: str, created: float, load_s: float) -> Reply:
    """Plans the answer to `request`. load_s: seconds of simulated model loading."""
    step = scripts.current_step(request, options)
    calls = _plan_calls(request, options, id) if step is None else _scripted_calls(step, request, id)
    visible = calls or (Block("content", _answer_tokens(request, options)),)
    if calls and step is None and options.text is not None:
        preface = text.replace_lone_surrogates(options.text)
        visible = (Block("content", text.tokens_to_length(preface)), *calls)
    if step is not None and step.text is not None:
        content = step.text.replace("{results}", ", ".join(r.strip() for r in request.tool_results))
        visible = (Block("content", text.tokens_to_length(content)), *calls)
    n = DEFAULT_REASONING_TOKENS if request.thinking else 0
    n = n if options.reasoning is None else options.reasoning
    n = n if step is None or step.reasoning is None else step.reasoning
    thinking = (Block("reasoning", text.reasoning_tokens(n, options.seed)),) if n else ()
    blocks, cut = _cut_at_limit((*thinking, *visible), request.max_tokens)
    return Reply(
        request,
        options,
        id,
        created,
        load_s,
        blocks,
        "length" if cut else (step.finish if step else "") or ("tool_calls" if calls else "stop"),
        request.input_tokens,
    )


def _plan_calls(request: NormalizedRequest, options: Options, id: str) -> tuple[Block, ...]:
    """Blocks for the tool calls of the answer. None if the turn already has tool results, unless the request
    names a tool."""
    if (
        not (request.tools and options.tools)
        or request.tool_choice == "none"
        or (request.tool_results and request.tool_choice in ("auto", "required"))
    ):
        return ()
    wanted = options.call or (request.tool_choice if request.tool_choice not in ("auto", "required") else "")
    tools = [t for t in request.tools if t.name == wanted] or list(request.tools)
    return tuple(
        _plan_call(tools[i % len(tools)], request.prompt, i, f"call_{id.rpartition('-')[2]}{i}")
        for i in range(options.tools)
    )


def _scripted_calls(step: scripts.Step, request: NormalizedRequest, id: str) -> tuple[Block, ...]:
    """Blocks for the tool calls of a script's step."""
    return tuple(
        Block(
            "tool",
            (call.name, *text.tokenize(call.arguments_text)),
            call.name,
            f"call_{id.rpartition('-')[2]}{i}",
            i,
        )
        for i, call in enumerate(step.calls if scripts.calls_allowed(request) else ())
    )


def _plan_call(tool: Tool, prompt: str, turn: int, call_id: str) -> Block:
    arguments = schema.json_text(tool.schema or {"type": "object"}, prompt, turn)
    return Block("tool", (tool.name, *text.tokenize(arguments)), tool.name, call_id, turn)


def _answer_tokens(request: NormalizedRequest, o: Options) -> tuple[str, ...]:
    if request.schema is not None and o.structured and o.text is None:
        fitting = request.schema or {
            "properties": {
                "simulated": {"const": True},
                "answer": {"const": "This JSON was made by nbllm's simulator."},
            }
        }
        return text.tokens_to_length(schema.json_text(fitting, request.prompt))
    content = request.prompt if o.text is None and o.echo else o.text
    if content is None and request.tool_results:
        content = _quote_results(request.tool_results)
    if content is None:
        tokens = text.answer_tokens(request.prompt, o.tokens, o.seed, request.model)
    else:
        tokens = text.tokens_to_length(text.replace_lone_surrogates(content), o.tokens)
    return _cut_at_stop_sequence(tokens, request.stop)


def _quote_results(results: Sequence[str]) -> str:
    lines = "\n".join(f"- `{r.strip().replace('`', ' ')[:400]}`" for r in results)
    return f"This answer was made by **nbllm's simulator**. The tools it asked for answered:\n\n{lines}"


def _cut_at_stop_sequence(tokens: tuple[str, ...], stop: tuple[str, ...]) -> tuple[str, ...]:
    content = "".join(tokens) if stop else ""
    ends = [content.find(s) for s in stop[:_MAX_STOP_SEQUENCES] if s and s in content]
    return tuple(text.tokenize(content[: min(ends)])) if ends else tokens


def _cut_at_limit(blocks: tuple[Block, ...], limit: int | None) -> tuple[tuple[Block, ...], bool]:
    """The blocks within `limit` tokens, and whether something was cut."""
    if limit is None or sum(len(b.tokens) for b in blocks) <= limit:
        return blocks, False
    included, left = [], limit
    for b in blocks:
        included += [Block(b.kind, b.tokens[:left], b.name, b.call_id, b.index)] if left > 0 else []
        left -= len(b.tokens)
    return tuple(included), True
