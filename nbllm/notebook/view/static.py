"""The form in which an answer stays in the notebook: safe HTML, its plain-text twin, and a line of figures.

Reasoning is collapsed, tool calls and refusals are shown, an answer that did not end by itself says so, and
what the simulator made is labelled. Both forms say the same.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from html import escape
from typing import Any, ParamSpec, TypeVar

from ...core.compaction import COMPACTED
from ...core.errors import NbllmError, ProviderError, error_line
from ...core.events import PASS_THRESHOLD, FinishReason, Notice, Response, Step, ToolEnded, Usage, UsageReport
from ...core.messages import Document, Image, Reasoning, Text, ToolCall, caption, picture_size, picture_type
from ...core.values import plural
from .hidden import clean, plain
from .markdown import code_html, fences, plain_html, reasoning_html, to_html
from .styles import container

_WIDE = 88  # characters of arguments that stay on one line
_LONGEST_ERROR = 600
PICTURE_ROOM = 24 * 2**20  # characters that the pictures of one answer may take in the notebook
_PIXELS = 100_000_000  # more are a small file that takes a browser's memory


@dataclass(frozen=True, slots=True)
class Rendered:
    """Something to read in both forms."""

    html: str
    text: str


P = ParamSpec("P")
T = TypeVar("T")


def _surely(instead: Callable[..., T]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For what is said about an answer that is there: where a provider's odd figure or words make that
    impossible, what `instead` gives for the error and the same arguments."""

    def wrap(work: Callable[P, T]) -> Callable[P, T]:
        @wraps(work)
        def sure(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return work(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the answer counts more than its figures and its looks
                return instead(error, *args, **kwargs)

        return sure

    return wrap


_IN_FOOTER = ("auto", "media", "tools", "failover", "hedge", "cached", "context", "asserts")  # of notices
# What to say about an answer that did not simply end.
_ENDINGS: dict[FinishReason | None, str] = {
    "cancelled": "■ Stopped by you; this is what had arrived.",
    "length": "✂ Cut off at the limit of tokens ({max_tokens}).",
    "content_filter": "⊘ Ended by the provider's content filter.",
    "error": "⚠ Ended by an error; this is what had arrived.",
    "other": "Ended for another reason ({raw}).",
    None: "⚠ Cut off before its end; this is what had arrived.",
}


# -- figures --


def seconds(value: float | None) -> str:
    """41 ms, 0.41 s, 3.2 s, 48 s, 2 min 5 s."""
    if value is None:
        return "?"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value >= 99.5:
        return f"{round(value) // 60} min {round(value) % 60} s"
    return f"{value:.{2 if value < 0.995 else 1 if value < 9.95 else 0}f} s"


def count(value: int | None) -> str:
    """12,345."""
    return "?" if value is None else f"{value:,}"


def money(value: float | None) -> str:
    """$1.25, $0.0031, $0."""
    if value is None or not math.isfinite(value):
        return "$?"
    if value == 0 or value >= 0.995:
        return f"${value:,.2f}" if value else "$0"
    digits = max(2, 1 - int(f"{value:e}".partition("e")[2]))
    return f"${value:.{digits}f}".rstrip("0") if digits > 2 else f"${value:.2f}"


def rate(value: float | None) -> str:
    """87 tok/s; nothing where it is not known."""
    return "" if value is None else f"{value:.{0 if value >= 10 else 1}f} tok/s"


def about(characters: int) -> str:
    """≈ 310: about how many tokens so many characters are; "?" for none."""
    return f"≈ {count(max(1, characters // 4))}" if characters else "?"


def made(report: UsageReport | None, characters: int) -> str:
    """310 tokens, where the provider has counted an answer to its end; before that ≈ 310 tokens, by what came
    or what it counted so far."""
    so_far = (report.usage.output_tokens if report else None) or 0
    whole = report is not None and report.final and so_far > 0
    return plural(so_far if whole else max(so_far, characters // 4, 1), "token", estimated=not whole)


def tokens(usage: Usage | None, characters: int = 0) -> str:
    """12 (8 cached) → 240 (100 reasoning) tokens; ≈ 240 by the `characters` that came, where nobody counted
    them."""
    u = usage or Usage()
    cached = f" ({count(u.cache_read_tokens)} cached)" if u.cache_read_tokens else ""
    thought = f" ({count(u.reasoning_tokens)} reasoning)" if u.reasoning_tokens else ""
    out = about(characters) if u.output_tokens is None else count(u.output_tokens)
    noun = "token" if out.lstrip("≈ ") == "1" else "tokens"
    return f"{f'{count(u.input_tokens)}{cached} → ' if usage else ''}{out}{thought} {noun}"


def characters(response: Response) -> int:
    """How much a model wrote in all turns: text, reasoning and calls."""
    written = [p for turn in response.before for p in turn.parts] + list(response.parts)
    texts = (p.text for p in written if isinstance(p, (Text, Reasoning)))
    calls = (len(p.name) + len(p.arguments_raw) for p in written if isinstance(p, ToolCall))
    return sum(map(len, texts)) + sum(calls)


def _no_figures(error: Exception, response: Response, **_: Any) -> Rendered:
    words = plain(f"{response.model or '?'} · its figures cannot be shown: {error_line(error)}")
    return Rendered(escape(words, quote=False), words)


@_surely(_no_figures)
def footer(
    response: Response,
    *,
    filled: Sequence[str] = (),
    attached: Sequence[str] = (),
    left: str = "",
    figures: bool = True,
) -> Rendered:
    """The line of figures; `filled` names what was put into the prompt, `attached` what went along with
    it, `left` what looks like a place to fill and stays. figures: without them, only what else there is to
    say."""
    t, usage = response.timing, response.usage
    measured = [
        "" if response.cached else f"{seconds(t.ttft)} to first token",
        "" if t.total is None and not t.attempts else seconds(t.total),
        rate(t.tokens_per_second),
        tokens(usage, characters(response)),
        "" if response.simulated else money(response.cost),
    ]
    items = [
        response.model or "?",
        *(measured if figures else ()),
        f"{money(response.saved_usd)} saved" if response.saved_usd else "",
        plural(len(response.steps), "step") if response.before else "",
        plural(t.attempts, "attempt") if t.attempts > 1 else "",
        "filled " + ", ".join(filled) if filled else "",
        f"not filled: {left}" if left else "",
        "attached " + ", ".join(attached) if attached else "",
        *(f"{_mark(value)} {name}" for name, value in response.checks.items()),
        *dict.fromkeys(n.text.rstrip(".") for n in response.notices if n.kind in _IN_FOOTER),
        *(f"{caption(p)[1:-1]} in .files" for p in response.files),
    ]
    shown = [plain(item).replace("\n", " ") for item in items if item]
    html = " · ".join(
        item.replace(" ", "\u00a0") if len(item) < 40 else item for item in shown
    )  # lines break between items
    return Rendered(escape(html, quote=False), " · ".join(shown))


def _mark(value: float | None) -> str:
    """Of what was asserted: passed, not passed, not known."""
    return "?" if value is None else "✓" if value >= PASS_THRESHOLD else "✗"


def error_lines(error: BaseException) -> str:
    """A few lines about a failed call: what, the provider's own words, which key and address were used, what
    to do."""
    message = error.message if isinstance(error, NbllmError) else str(error)
    short = message if len(message) <= _LONGEST_ERROR else message[: _LONGEST_ERROR - 1] + "…"
    lines = [f"{type(error).__name__}: {short}"]
    if isinstance(error, NbllmError):
        lines += filter(None, (error.sent, error.hint))
    if isinstance(error, ProviderError) and error.request_id:
        lines.append(f"Request id: {error.request_id}")
    return plain("\n".join(lines))


# -- the answer in its formats --


def pretty(value: Any) -> str:
    """JSON over several lines, where indents do not make most of it; of what is nested too deep for that, one
    line. Raises RecursionError for what is nested too deep for JSON."""
    flat = json.dumps(value, ensure_ascii=False, default=str)
    pieces, left = [], 4 * len(flat) + 1_000
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False, default=str).iterencode(value):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                return flat
    except RecursionError:
        return flat
    return "".join(pieces)


def _json_line(text: str) -> Rendered:
    found = fences(text)
    source = found[0][1] if len(found) == 1 else text
    with suppress(ValueError, RecursionError):
        source = pretty(json.loads(source))
    return Rendered(code_html(clean(source), "json"), source)


def code_of(text: str) -> tuple[str, str]:
    """(language, code) of an answer that was asked for as code: its fences one below the other, or all of
    it."""
    found = fences(text)
    return (found[0][0], "\n".join(body for _, body in found)) if found else ("", text)


def _code_line(text: str) -> Rendered:
    language, body = code_of(text)
    return Rendered(code_html(clean(body), language), body)


FORMATS: dict[str, Callable[[str], Rendered]] = {
    "md": lambda text: Rendered(to_html(text), text),
    "text": lambda text: Rendered(plain_html(text), text),
    "json": _json_line,
    "code": _code_line,
    "html": lambda text: Rendered(code_html(clean(text), "html"), text),
}


def call_source(call: ToolCall) -> str:
    """A tool call as a person reads it: search(query="…") in JSON's words."""
    said = call.arguments_raw
    with suppress(RecursionError):
        flat = said if call.arguments is None else json.dumps(call.arguments, ensure_ascii=False)
        said = flat if call.arguments is None or len(flat) <= _WIDE else pretty(call.arguments)
    return f"{call.name}({said})"


def call_rendered(source: str) -> Rendered:
    """The source of a tool call in both forms."""
    return Rendered(
        f'<pre data-lang="tool call"><code>{escape(source, quote=False)}</code></pre>\n',
        f"[tool call] {source}",
    )


_OUTCOMES = {"ran": "", "failed": "failed", "stopped": "stopped", "timeout": "took too long"}


def tool_line(call: ToolCall, end: ToolEnded) -> Rendered:
    """A call with what it came to, in both forms: one line, and unfolded the exact arguments and the
    result."""
    told = end.result.content
    parts = (Text(told),) if isinstance(told, str) else told
    words = clean("\n".join(p.text if isinstance(p, Text) else caption(p) for p in parts))
    about = (_OUTCOMES.get(end.outcome, f"not run ({end.outcome})"), seconds(end.seconds))
    figures = " · ".join(filter(None, about if end.seconds is not None else about[:1]))
    source = clean(call_source(call))
    line = f"{_brief(_spoken(call))} → {_brief(words)}" + (f" · {figures}" if figures else "")
    pictures = joined(picture_line(p) for p in parts if not isinstance(p, Text))
    html = (
        f"<details class=nbllm-think><summary>{escape(line)}</summary>\n{call_rendered(source).html}"
        f'<pre data-lang="result"><code>{escape(words, quote=False)}</code></pre>\n</details>\n'
        f"{pictures.html}"
    )
    return Rendered(html, f"[tool call] {source}\n[result] {words}" + (f" · {figures}" if figures else ""))


def _spoken(call: ToolCall) -> str:
    """price(article="A-17"): a call as one line."""
    if call.arguments is None:
        return f"{call.name}({call.arguments_raw})"
    with suppress(RecursionError):
        pairs = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
        return f"{call.name}({', '.join(pairs)})"
    return f"{call.name}(…)"


def _brief(text: str) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(clean(text[: 4 * _WIDE]).split())
    return flat if len(flat) <= _WIDE and len(text) <= 4 * _WIDE else f"{flat[: _WIDE - 1]}…"


def picture_line(part: Image | Document, room: int = PICTURE_ROOM) -> Rendered:
    """A picture that a model made, as PNG or JPEG within `room` characters; everything else as words. Nothing
    is loaded."""
    data, words = part.data or b"", caption(part)
    kind, size = picture_type(data), picture_size(data)
    shown = (
        isinstance(part, Image)
        and kind in ("image/png", "image/jpeg")
        and size is not None
        and 0 < size[0] * size[1] <= _PIXELS
    )
    if not shown or len(data) * 4 / 3 > room:
        return note_line(words)
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Rendered(
        f'<p><img alt="{escape(words)}" style="max-width:100%;height:auto" src="{source}"></p>\n', words
    )


def note_line(text: str, *, warns: bool = False) -> Rendered:
    """A remark of ours in both forms; one that warns has a colour, as what begins with ⚠ does."""
    text = clean(text)
    kind = "nbllm-warn" if warns or text.startswith("⚠") else "nbllm-note"
    return Rendered(f"<div class={kind}>{escape(text, quote=False)}</div>\n", text)


def foot_line(line: Rendered, *, simulated: bool = False) -> Rendered:
    """The line of figures with the simulator's badge, in place."""
    badge = (
        Rendered("<span class=nbllm-badge>simulated</span> ", "[simulated] ")
        if simulated
        else Rendered("", "")
    )
    return Rendered(
        f"<div class=nbllm-foot><small>{badge.html}{line.html}</small></div>",
        f"{badge.text}{line.text}".rstrip(),
    )


def _source(error: Exception, format: str, text: str) -> Rendered:
    """An answer's text as it is, where its format cannot be drawn."""
    note = note_line(
        f"This is the answer's source: drawing it as {format} failed ({error_line(error)}).", warns=True
    )
    return Rendered(plain_html(text) + note.html, f"{text}\n\n{note.text}")


@_surely(_source)
def _formatted(format: str, text: str) -> Rendered:
    return FORMATS[format](text)


def _parts(response: Response, format: str, thoughts: bool | None) -> Iterable[Rendered]:
    for notice in response.notices:
        if notice.kind == COMPACTED:
            yield _shortened(notice)
    for step in response.before:
        yield from _turn(step, "md" if format in ("json", "code") else format, thoughts)
    beside = "".join(
        n.text for n in response.notices if "reasoning_details" in n.data
    )  # thinking that came in details alone
    yield from _reasoning(Reasoning(beside), thoughts) if beside else ()
    yield from _turn(response, format, thoughts)


def _shortened(notice: Notice) -> Rendered:
    """That a conversation was shortened, with the summary folded."""
    summary = notice.data.get("summary")
    if not summary:
        return note_line(notice.text)
    words = clean(notice.text)
    return Rendered(
        reasoning_html(clean(summary), words), f"[{words}]\n{clean(summary)}\n[end of the summary]"
    )


def _turn(response: Response | Step, format: str, thoughts: bool | None) -> Iterable[Rendered]:
    """The parts of one turn; a call that has come to something stands with that."""
    run: list[str] = []
    room = PICTURE_ROOM
    ended = {e.result.id: e for e in response.results}
    for part in (*response.parts, None):
        if isinstance(part, Text):
            run.append(part.text)
            continue
        if run:
            yield _formatted(format, "".join(run))
            run = []
        if isinstance(part, Reasoning):
            yield from _reasoning(part, thoughts)
        elif isinstance(part, ToolCall):
            yield (
                tool_line(part, ended[part.id])
                if part.id in ended
                else call_rendered(clean(call_source(part)))
            )
        elif isinstance(part, (Image, Document)):
            yield (line := picture_line(part, room))
            room -= len(line.html)


def _reasoning(part: Reasoning, thoughts: bool | None) -> Iterable[Rendered]:
    text = part.text.strip()
    if thoughts is False:
        return
    if text:
        yield Rendered(reasoning_html(text, open=bool(thoughts)), f"[reasoning]\n{text}\n[/reasoning]")
    elif part.redacted:
        yield note_line("Reasoning withheld by the provider.")


@_surely(lambda _error, _response: dict[str, Any]())
def provenance(response: Response) -> dict[str, Any]:
    """Where an answer comes from, for the output's metadata: no key, no address, no prompt but its hash."""
    from importlib.metadata import version

    from ...store.measure import params, sha

    asked, names = response.request, ("input", "output", "reasoning", "cache_read")
    usage = {f"{name}_tokens": getattr(response.usage, f"{name}_tokens", None) for name in names}
    return {
        "model": asked.model if asked else None,
        "answered": response.model,
        "provider": response.provider,
        "id": response.id,
        "simulated": response.simulated,
        "params": json.loads(params(asked)) if asked else {},
        "prompt_sha": sha(asked) if asked else None,
        "finish_reason": response.finish_reason,
        "usage": {n: v for n, v in usage.items() if v is not None},
        "cost_usd": response.cost,
        "nbllm": version("nbllm"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def answer_lines(
    response: Response,
    *,
    format: str = "md",
    error: BaseException | None = None,
    thoughts: bool | None = None,
) -> list[Rendered]:
    """The answer and how it ended, without figures."""
    return [*_parts(response, format, thoughts), *_ending(response, error, True)]


def _ending(response: Response, error: BaseException | None, empty: bool) -> Iterable[Rendered]:
    if response.transcript:
        yield note_line(f"Said in the sound: {response.transcript}")
    if response.refusal:
        yield note_line(f"Refused: {response.refusal}")
    if error is not None:
        yield note_line("⚠ " + error_lines(error).partition("\n")[0])
    elif response.finish_reason in _ENDINGS:
        limit = response.request.max_tokens if response.request else None
        told = f"max_tokens={limit}" if limit else "max_tokens"
        yield note_line(
            _ENDINGS[response.finish_reason].format(max_tokens=told, raw=response.finish_raw or "?")
        )
    elif empty and response.empty and not response.refusal:
        yield note_line("The answer is empty.")


def final(
    response: Response,
    *,
    format: str = "md",
    footer: Rendered | None = None,
    error: BaseException | None = None,
    html: bool = True,
    empty: bool = True,
    thoughts: bool | None = None,
) -> dict[str, str]:
    """The MIME bundle that stays: text/html and text/plain, or without `html` the latter alone. `empty` says
    whether to remark that nothing came."""
    lines = [*_parts(response, format, thoughts), *_ending(response, error, empty)]
    if footer or response.simulated:
        lines.append(foot_line(footer or Rendered("", ""), simulated=response.simulated))
    return bundle_of(joined(lines), html=html)


def bundle_of(whole: Rendered, *, html: bool = True) -> dict[str, str]:
    """The MIME bundle of something rendered, or its text alone."""
    data = {"text/html": container(whole.html, style=True)} if html else {}
    return {**data, "text/plain": plain(whole.text)}


def joined(lines: Iterable[Rendered], between: str = "\n\n") -> Rendered:
    """Several as one."""
    lines = list(lines)
    return Rendered(
        "".join(line.html for line in lines), between.join(line.text.strip("\n") for line in lines)
    )


def static(markdown: str) -> dict[str, str]:
    """The bundle of something of our own to read: safe HTML and the source as its twin."""
    return bundle_of(Rendered(to_html(markdown), markdown))


def data_table(value: Any) -> Rendered:
    """A DataFrame of a model's words: escaped, numbers to the right, with what stayed text."""
    html = value.to_html(escape=True, border=0, max_rows=60, max_cols=30, notebook=False, render_links=False)
    sides = iter(
        [" align=right>" if t.kind in "iuf" else ">" for t in value.dtypes]
        * (62 if value.shape[1] <= 30 else 0)  # heads, 60 rows, dots; more have a column of dots among them
    )
    html = re.sub(r"(?<!<tr>\n      <th)(?<=<t[dh])>(?!</th>)", lambda _: next(sides, ">"), html)
    kept = value.attrs.get("kept_as_text", {})
    notes = [note_line(f"Column {name} stays text: {why}", warns=True) for name, why in kept.items()]
    return joined([Rendered(clean(html), plain(value.to_string(max_rows=60))), *notes])
