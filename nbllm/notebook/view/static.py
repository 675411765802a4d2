"""The static form of an answer in the notebook: safe HTML, the same as plain text, and a line of figures.

Reasoning is collapsed, tool calls and refusals are shown, an answer that ended early says so, and answers of
the simulator are labelled. Both forms have the same content.
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
from .hidden import clean, plain_text
from .markdown import code_html, fences, plain_html, reasoning_html, to_html
from .styles import container

_LINE_WIDTH = 88  # characters of arguments that stay on one line
_MAX_ERROR = 600
PICTURE_BUDGET = 24 * 2**20  # characters that the pictures of one answer may take in the notebook
_MAX_PIXELS = 100_000_000  # a larger picture can be a small file that exhausts a browser's memory


@dataclass(frozen=True, slots=True)
class Rendered:
    """Content in both forms."""

    html: str
    text: str


P = ParamSpec("P")
T = TypeVar("T")


def _with_fallback(fallback: Callable[..., T]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator for the display of an answer that exists: if unexpected data of a provider makes the function
    raise, it returns `fallback(error, *args)` instead."""

    def wrap(work: Callable[P, T]) -> Callable[P, T]:
        @wraps(work)
        def sure(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return work(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - showing the answer matters more than its figures
                return fallback(error, *args, **kwargs)

        return sure

    return wrap


_FOOTER_NOTICES = (
    "auto",
    "media",
    "tools",
    "failover",
    "hedge",
    "cached",
    "context",
    "asserts",
)  # kinds of notices
# Notes on answers that did not end normally.
_ENDINGS: dict[FinishReason | None, str] = {
    "cancelled": "■ Stopped by you; this is what had arrived.",
    "length": "✂ Cut off at the limit of tokens ({max_tokens}).",
    "content_filter": "⊘ Ended by the provider's content filter.",
    "error": "⚠ Ended by an error; this is what had arrived.",
    "other": "Ended for another reason ({raw}).",
    None: "⚠ Cut off before its end; this is what had arrived.",
}


# -- figures --


def format_seconds(value: float | None) -> str:
    """41 ms, 0.41 s, 3.2 s, 48 s, 2 min 5 s."""
    if value is None:
        return "?"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value >= 99.5:
        return f"{round(value) // 60} min {round(value) % 60} s"
    return f"{value:.{2 if value < 0.995 else 1 if value < 9.95 else 0}f} s"


def format_count(value: int | None) -> str:
    """12,345."""
    return "?" if value is None else f"{value:,}"


def format_money(value: float | None) -> str:
    """$1.25, $0.0031, $0."""
    if value is None or not math.isfinite(value):
        return "$?"
    if value == 0 or value >= 0.995:
        return f"${value:,.2f}" if value else "$0"
    digits = max(2, 1 - int(f"{value:e}".partition("e")[2]))
    return f"${value:.{digits}f}".rstrip("0") if digits > 2 else f"${value:.2f}"


def format_rate(value: float | None) -> str:
    """87 tok/s; "" if unknown."""
    return "" if value is None else f"{value:.{0 if value >= 10 else 1}f} tok/s"


def estimate_tokens(characters: int) -> str:
    """≈ 310: the estimated tokens of so many characters; "?" for none."""
    return f"≈ {format_count(max(1, characters // 4))}" if characters else "?"


def output_tokens(report: UsageReport | None, characters: int) -> str:
    """310 tokens if the provider has reported the final count; before that an estimate, ≈ 310 tokens, from
    the characters or the count so far."""
    so_far = (report.usage.output_tokens if report else None) or 0
    is_final = report is not None and report.final and so_far > 0
    return plural(so_far if is_final else max(so_far, characters // 4, 1), "token", estimated=not is_final)


def token_figures(usage: Usage | None, characters: int = 0) -> str:
    """12 (8 cached) → 240 (100 reasoning) tokens; ≈ 240, estimated from `characters`, if they were not
    counted."""
    u = usage or Usage()
    cached = f" ({format_count(u.cache_read_tokens)} cached)" if u.cache_read_tokens else ""
    thought = f" ({format_count(u.reasoning_tokens)} reasoning)" if u.reasoning_tokens else ""
    out = estimate_tokens(characters) if u.output_tokens is None else format_count(u.output_tokens)
    noun = "token" if out.lstrip("≈ ") == "1" else "tokens"
    return f"{f'{format_count(u.input_tokens)}{cached} → ' if usage else ''}{out}{thought} {noun}"


def answer_length(response: Response) -> int:
    """Characters of all turns of an answer: text, reasoning and calls."""
    written = [p for turn in response.before for p in turn.parts] + list(response.parts)
    texts = (p.text for p in written if isinstance(p, (Text, Reasoning)))
    calls = (len(p.name) + len(p.arguments_raw) for p in written if isinstance(p, ToolCall))
    return sum(map(len, texts)) + sum(calls)


def _footer_fallback(error: Exception, response: Response, **_: Any) -> Rendered:
    text = plain_text(f"{response.model or '?'} · its figures cannot be shown: {error_line(error)}")
    return Rendered(escape(text, quote=False), text)


@_with_fallback(_footer_fallback)
def answer_footer(
    response: Response,
    *,
    filled: Sequence[str] = (),
    attached: Sequence[str] = (),
    unfilled: str = "",
    figures: bool = True,
) -> Rendered:
    """The line of figures. filled: names of values in the prompt; attached: attachments; unfilled: text that
    looks like a placeholder and was left as it is. figures=False: only the rest."""
    t, usage = response.timing, response.usage
    measured = [
        "" if response.cached else f"{format_seconds(t.ttft)} to first token",
        "" if t.total is None and not t.attempts else format_seconds(t.total),
        format_rate(t.tokens_per_second),
        token_figures(usage, answer_length(response)),
        "" if response.simulated else format_money(response.cost),
    ]
    items = [
        response.model or "?",
        *(measured if figures else ()),
        f"{format_money(response.saved_usd)} saved" if response.saved_usd else "",
        plural(len(response.steps), "step") if response.before else "",
        plural(t.attempts, "attempt") if t.attempts > 1 else "",
        "filled " + ", ".join(filled) if filled else "",
        f"not filled: {unfilled}" if unfilled else "",
        "attached " + ", ".join(attached) if attached else "",
        *(f"{_check_mark(value)} {name}" for name, value in response.checks.items()),
        *dict.fromkeys(n.text.rstrip(".") for n in response.notices if n.kind in _FOOTER_NOTICES),
        *(f"{caption(p)[1:-1]} in .files" for p in response.files),
    ]
    shown = [plain_text(item).replace("\n", " ") for item in items if item]
    html = " · ".join(
        item.replace(" ", "\u00a0") if len(item) < 40 else item for item in shown
    )  # lines break between items
    return Rendered(escape(html, quote=False), " · ".join(shown))


def _check_mark(value: float | None) -> str:
    """The mark of an assertion: passed, failed, unknown."""
    return "?" if value is None else "✓" if value >= PASS_THRESHOLD else "✗"


def error_lines(error: BaseException) -> str:
    """A few lines about a failed call: the error, the provider's message, the key and address used, what to
    do."""
    message = error.message if isinstance(error, NbllmError) else str(error)
    short = message if len(message) <= _MAX_ERROR else message[: _MAX_ERROR - 1] + "…"
    lines = [f"{type(error).__name__}: {short}"]
    if isinstance(error, NbllmError):
        lines += filter(None, (error.sent, error.hint))
    if isinstance(error, ProviderError) and error.request_id:
        lines.append(f"Request id: {error.request_id}")
    return plain_text("\n".join(lines))


# -- the answer in its formats --


def pretty_json(value: Any) -> str:
    """Indented JSON; on one line if it is nested so deeply that indents would make most of it. Raises
    RecursionError if it is nested too deeply for JSON."""
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


def _render_json(text: str) -> Rendered:
    found = fences(text)
    source = found[0][1] if len(found) == 1 else text
    with suppress(ValueError, RecursionError):
        source = pretty_json(json.loads(source))
    return Rendered(code_html(clean(source), "json"), source)


def extract_code(text: str) -> tuple[str, str]:
    """(language, code) of an answer with format=code: all its code blocks, or the whole text."""
    found = fences(text)
    return (found[0][0], "\n".join(body for _, body in found)) if found else ("", text)


def _render_code(text: str) -> Rendered:
    language, body = extract_code(text)
    return Rendered(code_html(clean(body), language), body)


FORMATS: dict[str, Callable[[str], Rendered]] = {
    "md": lambda text: Rendered(to_html(text), text),
    "text": lambda text: Rendered(plain_html(text), text),
    "json": _render_json,
    "code": _render_code,
    "html": lambda text: Rendered(code_html(clean(text), "html"), text),
}


def call_source(call: ToolCall) -> str:
    """A tool call as source: search(query="…") with JSON values."""
    arguments = call.arguments_raw
    with suppress(RecursionError):
        flat = arguments if call.arguments is None else json.dumps(call.arguments, ensure_ascii=False)
        arguments = (
            flat if call.arguments is None or len(flat) <= _LINE_WIDTH else pretty_json(call.arguments)
        )
    return f"{call.name}({arguments})"


def render_call(source: str) -> Rendered:
    """A tool call's source in both forms."""
    return Rendered(
        f'<pre data-lang="tool call"><code>{escape(source, quote=False)}</code></pre>\n',
        f"[tool call] {source}",
    )


_TOOL_OUTCOMES = {"ran": "", "failed": "failed", "stopped": "stopped", "timeout": "took too long"}


def render_tool_call(call: ToolCall, end: ToolEnded) -> Rendered:
    """A call with its result in both forms: one line that expands to the arguments and the result."""
    content = end.result.content
    parts = (Text(content),) if isinstance(content, str) else content
    result = clean("\n".join(p.text if isinstance(p, Text) else caption(p) for p in parts))
    about = (_TOOL_OUTCOMES.get(end.outcome, f"not run ({end.outcome})"), format_seconds(end.seconds))
    figures = " · ".join(filter(None, about if end.seconds is not None else about[:1]))
    source = clean(call_source(call))
    line = f"{_first_line(_call_on_one_line(call))} → {_first_line(result)}" + (
        f" · {figures}" if figures else ""
    )
    pictures = join_rendered(render_picture(p) for p in parts if not isinstance(p, Text))
    html = (
        f"<details class=nbllm-think><summary>{escape(line)}</summary>\n{render_call(source).html}"
        f'<pre data-lang="result"><code>{escape(result, quote=False)}</code></pre>\n</details>\n'
        f"{pictures.html}"
    )
    return Rendered(html, f"[tool call] {source}\n[result] {result}" + (f" · {figures}" if figures else ""))


def _call_on_one_line(call: ToolCall) -> str:
    """A call on one line: price(article="A-17")."""
    if call.arguments is None:
        return f"{call.name}({call.arguments_raw})"
    with suppress(RecursionError):
        pairs = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
        return f"{call.name}({', '.join(pairs)})"
    return f"{call.name}(…)"


def _first_line(text: str) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(clean(text[: 4 * _LINE_WIDTH]).split())
    return (
        flat if len(flat) <= _LINE_WIDTH and len(text) <= 4 * _LINE_WIDTH else f"{flat[: _LINE_WIDTH - 1]}…"
    )


def render_picture(part: Image | Document, budget: int = PICTURE_BUDGET) -> Rendered:
    """A picture of a model, as PNG or JPEG within `budget` characters; any other part as text. Nothing is
    loaded from a URL."""
    data, description = part.data or b"", caption(part)
    kind, size = picture_type(data), picture_size(data)
    shown = (
        isinstance(part, Image)
        and kind in ("image/png", "image/jpeg")
        and size is not None
        and 0 < size[0] * size[1] <= _MAX_PIXELS
    )
    if not shown or len(data) * 4 / 3 > budget:
        return render_note(description)
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Rendered(
        f'<p><img alt="{escape(description)}" style="max-width:100%;height:auto" src="{source}"></p>\n',
        description,
    )


def render_note(text: str, *, is_warning: bool = False) -> Rendered:
    """A note in both forms; warnings, and texts that begin with ⚠, have a colour."""
    text = clean(text)
    kind = "nbllm-warn" if is_warning or text.startswith("⚠") else "nbllm-note"
    return Rendered(f"<div class={kind}>{escape(text, quote=False)}</div>\n", text)


def render_footer(line: Rendered, *, simulated: bool = False) -> Rendered:
    """The line of figures, with the simulator's badge, in both forms."""
    badge = (
        Rendered("<span class=nbllm-badge>simulated</span> ", "[simulated] ")
        if simulated
        else Rendered("", "")
    )
    return Rendered(
        f"<div class=nbllm-foot><small>{badge.html}{line.html}</small></div>",
        f"{badge.text}{line.text}".rstrip(),
    )


def _source_fallback(error: Exception, format: str, text: str) -> Rendered:
    """The source of an answer that cannot be rendered in its format."""
    note = render_note(
        f"This is the answer's source: rendering it as {format} failed ({error_line(error)}).",
        is_warning=True,
    )
    return Rendered(plain_html(text) + note.html, f"{text}\n\n{note.text}")


@_with_fallback(_source_fallback)
def _render_text(format: str, text: str) -> Rendered:
    return FORMATS[format](text)


def _answer_parts(response: Response, format: str, thoughts: bool | None) -> Iterable[Rendered]:
    for notice in response.notices:
        if notice.kind == COMPACTED:
            yield _render_compaction(notice)
    for step in response.before:
        yield from _step_parts(step, "md" if format in ("json", "code") else format, thoughts)
    detail_text = "".join(
        n.text for n in response.notices if "reasoning_details" in n.data
    )  # reasoning that arrived only in reasoning_details
    yield from _render_reasoning(Reasoning(detail_text), thoughts) if detail_text else ()
    yield from _step_parts(response, format, thoughts)


def _render_compaction(notice: Notice) -> Rendered:
    """The note that a conversation was shortened, with the summary collapsed."""
    summary = notice.data.get("summary")
    if not summary:
        return render_note(notice.text)
    title = clean(notice.text)
    return Rendered(
        reasoning_html(clean(summary), title), f"[{title}]\n{clean(summary)}\n[end of the summary]"
    )


def _step_parts(response: Response | Step, format: str, thoughts: bool | None) -> Iterable[Rendered]:
    """The parts of one turn; calls that have ended are shown with their results."""
    texts: list[str] = []
    budget = PICTURE_BUDGET
    ended = {e.result.id: e for e in response.results}
    for part in (*response.parts, None):
        if isinstance(part, Text):
            texts.append(part.text)
            continue
        if texts:
            yield _render_text(format, "".join(texts))
            texts = []
        if isinstance(part, Reasoning):
            yield from _render_reasoning(part, thoughts)
        elif isinstance(part, ToolCall):
            yield (
                render_tool_call(part, ended[part.id])
                if part.id in ended
                else render_call(clean(call_source(part)))
            )
        elif isinstance(part, (Image, Document)):
            yield (line := render_picture(part, budget))
            budget -= len(line.html)


def _render_reasoning(part: Reasoning, thoughts: bool | None) -> Iterable[Rendered]:
    text = part.text.strip()
    if thoughts is False:
        return
    if text:
        yield Rendered(reasoning_html(text, open=bool(thoughts)), f"[reasoning]\n{text}\n[/reasoning]")
    elif part.redacted:
        yield render_note("Reasoning withheld by the provider.")


@_with_fallback(lambda _error, _response: dict[str, Any]())
def provenance(response: Response) -> dict[str, Any]:
    """Where an answer comes from, for the output's metadata: no key, no address, and only a hash of the
    prompt."""
    from importlib.metadata import version

    from ...store.measure import messages_sha, params_json

    request, names = response.request, ("input", "output", "reasoning", "cache_read")
    usage = {f"{name}_tokens": getattr(response.usage, f"{name}_tokens", None) for name in names}
    return {
        "model": request.model if request else None,
        "answered": response.model,
        "provider": response.provider,
        "id": response.id,
        "simulated": response.simulated,
        "params": json.loads(params_json(request)) if request else {},
        "prompt_sha": messages_sha(request) if request else None,
        "finish_reason": response.finish_reason,
        "usage": {n: v for n, v in usage.items() if v is not None},
        "cost_usd": response.cost,
        "nbllm": version("nbllm"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def render_answer(
    response: Response,
    *,
    format: str = "md",
    error: BaseException | None = None,
    thoughts: bool | None = None,
) -> list[Rendered]:
    """The answer and its ending, without figures."""
    return [*_answer_parts(response, format, thoughts), *_ending_notes(response, error, True)]


def _ending_notes(response: Response, error: BaseException | None, note_if_empty: bool) -> Iterable[Rendered]:
    if response.transcript:
        yield render_note(f"Spoken: {response.transcript}")
    if response.refusal:
        yield render_note(f"Refused: {response.refusal}")
    if error is not None:
        yield render_note("⚠ " + error_lines(error).partition("\n")[0])
    elif response.finish_reason in _ENDINGS:
        limit = response.request.max_tokens if response.request else None
        limit_text = f"max_tokens={limit}" if limit else "max_tokens"
        yield render_note(
            _ENDINGS[response.finish_reason].format(max_tokens=limit_text, raw=response.finish_raw or "?")
        )
    elif note_if_empty and response.empty and not response.refusal:
        yield render_note("The answer is empty.")


def answer_bundle(
    response: Response,
    *,
    format: str = "md",
    footer: Rendered | None = None,
    error: BaseException | None = None,
    html: bool = True,
    note_if_empty: bool = True,
    thoughts: bool | None = None,
) -> dict[str, str]:
    """The MIME bundle of the final form: text/html and text/plain, or only text/plain. note_if_empty: whether
    an empty answer gets a note."""
    lines = [*_answer_parts(response, format, thoughts), *_ending_notes(response, error, note_if_empty)]
    if footer or response.simulated:
        lines.append(render_footer(footer or Rendered("", ""), simulated=response.simulated))
    return to_bundle(join_rendered(lines), html=html)


def to_bundle(rendered: Rendered, *, html: bool = True) -> dict[str, str]:
    """The MIME bundle of rendered content, or only its text."""
    data = {"text/html": container(rendered.html, style=True)} if html else {}
    return {**data, "text/plain": plain_text(rendered.text)}


def join_rendered(lines: Iterable[Rendered], separator: str = "\n\n") -> Rendered:
    """Several rendered contents as one."""
    lines = list(lines)
    return Rendered(
        "".join(line.html for line in lines), separator.join(line.text.strip("\n") for line in lines)
    )


def markdown_bundle(markdown: str) -> dict[str, str]:
    """The bundle of our own Markdown: safe HTML, and the source as its text."""
    return to_bundle(Rendered(to_html(markdown), markdown))


def render_data_frame(value: Any) -> Rendered:
    """A DataFrame of a model's data: escaped, numbers right-aligned, with notes on columns that stayed
    text."""
    html = value.to_html(escape=True, border=0, max_rows=60, max_cols=30, notebook=False, render_links=False)
    sides = iter(
        [" align=right>" if t.kind in "iuf" else ">" for t in value.dtypes]
        * (62 if value.shape[1] <= 30 else 0)  # headings, 60 rows, dots; wider frames have a column of dots
    )
    html = re.sub(r"(?<!<tr>\n      <th)(?<=<t[dh])>(?!</th>)", lambda _: next(sides, ">"), html)
    text_columns = value.attrs.get("kept_as_text", {})
    notes = [
        render_note(f"Column {name} stays text: {why}", is_warning=True) for name, why in text_columns.items()
    ]
    return join_rendered([Rendered(clean(html), plain_text(value.to_string(max_rows=60))), *notes])
