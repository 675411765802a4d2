"""From what a request asks and the options in force to the answer's script: blocks of tokens and when each is
due. Pure.

A format reads a request into an Ask; `reply` decides the answer once; `Reply.pieces()` is the script, one
token-bearing chunk at a time with its moment in seconds after the request was read. Moments come from an
absolute schedule, so a late chunk does not push those after it. A format turns pieces into its own events
(`Out`).
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import schema, scripts, text
from .normalized_request import Ask, Tool
from .options import Options
from .records import Kind

Finish = str  # stop, length, tool_calls, or what a script says
_STOPS = 16  # stop sequences that are looked for
_PICTURE, _PICTURES = (64, 48), 16  # width and height, and how many at most
ASKED_THINKING = 24  # tokens of thinking where a request asks for it and no option says how many


@dataclass(frozen=True, slots=True)
class Block:
    """A run of tokens of one kind. For a tool call the first token is the name, the others are the
    arguments."""

    kind: Literal["reasoning", "content", "tool"]
    tokens: tuple[str, ...]
    name: str = ""
    call_id: str = ""
    index: int = 0  # among calls

    @property
    def text(self) -> str:
        """The text, or the arguments of a call."""
        return "".join(self.tokens[1:] if self.kind == "tool" else self.tokens)


class Piece(NamedTuple):
    """A token-bearing chunk. at: seconds after the request was read. more: the next chunk shares its socket
    write."""

    block: int
    text: str
    n_tokens: int
    at: float
    first: bool = False
    last: bool = False
    more: bool = False


class Out(NamedTuple):
    """One event, encoded. `more`: what follows goes into the same socket write. act: a fault to commit
    instead."""

    kind: Kind
    data: bytes
    at: float
    more: bool = False
    text: str = ""
    n_tokens: int = 0
    act: Literal["", "rst", "close", "end"] = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A decided answer. load: seconds of simulated cold start. created: wall-clock seconds. input: tokens of
    the prompt."""

    ask: Ask
    options: Options
    id: str
    created: float
    load: float
    blocks: tuple[Block, ...]
    finish: Finish
    input: int

    @property
    def cached(self) -> int:
        """Those of them that are said to come from a cache."""
        return min(max(self.options.cached, int(self.ask.extra.get("cached", 0))), self.input)

    @property
    def reasoning(self) -> int:
        """Tokens of thinking."""
        return sum(len(b.tokens) for b in self.blocks if b.kind == "reasoning")

    @property
    def output(self) -> int:
        """All tokens of the answer, thinking included."""
        return sum(len(b.tokens) for b in self.blocks)

    @property
    def start(self) -> float:
        """When the first token is due, seconds after the request was read."""
        return self.load + self.options.ttft

    @property
    def preamble(self) -> float:
        """When what comes before the first token is due."""
        return 0.0 if self.options.role == "early" else self.start

    def text_of(self, kind: str) -> str:
        """All text of one kind."""
        return "".join(b.text for b in self.blocks if b.kind == kind)

    @property
    def pictures(self) -> list[str]:
        """The pictures, small PNGs of one colour each, in base64."""
        return [
            base64.b64encode(text.png(*_PICTURE, i)).decode()
            for i in range(min(self.options.images, _PICTURES))
        ]

    def pieces(self) -> Iterator[Piece]:
        """The script."""
        o, at, i = self.options, self.start, 0
        chunks = [
            [b.tokens[j : j + o.tokens_per_chunk] for j in range(0, len(b.tokens), o.tokens_per_chunk)]
            for b in self.blocks
        ]
        total, pauses = sum(map(len, chunks)), _pauses(o, self.ask.seed(o.seed))
        if o.empty and total:
            yield Piece(0, "", 0, 0.0)
        for number, block in enumerate(chunks):
            for j, group in enumerate(block):
                i += 1
                yield Piece(
                    number,
                    "".join(group),
                    len(group),
                    at,
                    j == 0,
                    j == len(block) - 1,
                    bool(i % o.chunks_per_write) and i < total,
                )
                at += next(pauses)

    def end(self, last: float) -> float:
        """When the end is due, given when the last token was."""
        return last + self.options.tail

    def whole_at(self) -> float:
        """When an answer in one piece is due."""
        at = self.start
        for piece in self.pieces():
            at = piece.at
        return self.end(at)


def _pauses(o: Options, seed: int) -> Iterator[float]:
    """The seconds after each chunk. Several chunks at once are followed by their pauses in one, so the mean
    stays `gap`."""
    rng = random.Random(seed)
    at_once = o.chunks_per_write if o.chunks_per_write > 1 else o.burst if o.gaps == "burst" else 1
    while True:
        for _ in range(at_once - 1):
            yield 0.0
        yield o.gap * at_once * (rng.uniform(0.5, 1.5) if o.gaps == "jitter" else 1.0)


def reply(ask: Ask, options: Options, id: str, created: float, load: float) -> Reply:
    """The answer to `ask`."""
    step = scripts.step(ask, options)
    calls = _calls(ask, options, id) if step is None else _written(step, ask, id)
    visible = calls or (Block("content", _said(ask, options)),)
    if calls and step is None and options.text is not None:
        visible = (Block("content", text.given(text.clean(options.text))), *calls)
    if step is not None and step.text is not None:
        said = step.text.replace("{results}", ", ".join(r.strip() for r in ask.results))
        visible = (Block("content", text.given(said)), *calls)
    n = options.reasoning if options.reasoning is not None else ASKED_THINKING if ask.thinking else 0
    n = n if step is None or step.reasoning is None else step.reasoning
    thinking = (Block("reasoning", text.thoughts(n, options.seed)),) if n else ()
    blocks, cut = _limited((*thinking, *visible), ask.max_tokens)
    return Reply(
        ask,
        options,
        id,
        created,
        load,
        blocks,
        "length" if cut else (step.finish if step else "") or ("tool_calls" if calls else "stop"),
        ask.input_tokens,
    )


def _calls(ask: Ask, options: Options, id: str) -> tuple[Block, ...]:
    """The tools that the answer calls: none where the turn already holds results, unless the request
    insists."""
    if (
        not (ask.tools and options.tools)
        or ask.choice == "none"
        or (ask.results and ask.choice in ("auto", "required"))
    ):
        return ()
    wanted = options.call or (ask.choice if ask.choice not in ("auto", "required") else "")
    tools = [t for t in ask.tools if t.name == wanted] or list(ask.tools)
    return tuple(
        _call(tools[i % len(tools)], ask.prompt, i, f"call_{id.rpartition('-')[2]}{i}")
        for i in range(options.tools)
    )


def _written(step: scripts.Step, ask: Ask, id: str) -> tuple[Block, ...]:
    """The calls of a step, as they are written there."""
    return tuple(
        Block("tool", (call.name, *text.pieces(call.sent)), call.name, f"call_{id.rpartition('-')[2]}{i}", i)
        for i, call in enumerate(step.calls if scripts.calls_allowed(ask) else ())
    )


def _call(tool: Tool, prompt: str, turn: int, call_id: str) -> Block:
    arguments = schema.text(tool.schema or {"type": "object"}, prompt, turn)
    return Block("tool", (tool.name, *text.pieces(arguments)), tool.name, call_id, turn)


def _said(ask: Ask, o: Options) -> tuple[str, ...]:
    if ask.schema is not None and o.structured and o.text is None:
        fitting = ask.schema or {
            "properties": {
                "simulated": {"const": True},
                "answer": {"const": "This JSON was made by nbllm's simulator."},
            }
        }
        return text.given(schema.text(fitting, ask.prompt))
    said = (
        o.text
        if o.text is not None
        else ask.prompt
        if o.echo
        else _from_results(ask.results)
        if ask.results
        else None
    )
    tokens = (
        text.answer(ask.prompt, o.tokens, o.seed, ask.model)
        if said is None
        else text.given(text.clean(said), o.tokens)
    )
    return _stopped(tokens, ask.stop)


def _from_results(results: Sequence[str]) -> str:
    lines = "\n".join(f"- `{r.strip().replace('`', ' ')[:400]}`" for r in results)
    return f"This answer was made by **nbllm's simulator**. The tools it asked for answered:\n\n{lines}"


def _stopped(tokens: tuple[str, ...], stop: tuple[str, ...]) -> tuple[str, ...]:
    said = "".join(tokens) if stop else ""
    ends = [said.find(s) for s in stop[:_STOPS] if s and s in said]
    return tuple(text.pieces(said[: min(ends)])) if ends else tokens


def _limited(blocks: tuple[Block, ...], most: int | None) -> tuple[tuple[Block, ...], bool]:
    """The blocks within `most` tokens, and whether something was cut."""
    if most is None or sum(len(b.tokens) for b in blocks) <= most:
        return blocks, False
    kept, left = [], most
    for b in blocks:
        kept += [Block(b.kind, b.tokens[:left], b.name, b.call_id, b.index)] if left > 0 else []
        left -= len(b.tokens)
    return tuple(kept), True
