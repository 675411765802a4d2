"""The live display and the final form, through a port that records what a front end would get."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm import simulator
from nbllm.client.client import Client
from nbllm.core.errors import RateLimited, StreamCut
from nbllm.core.events import (  # fmt: skip
    Finished,
    Fold,
    Notice,
    ReasoningDelta,
    Response,
    Restarted,
    Started,
    TextDelta,
    Timing,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from nbllm.core.messages import Reasoning, Request, Text, ToolCall
from nbllm.core.values import plural
from nbllm.notebook.comparison import Outcome
from nbllm.notebook.question import Question
from nbllm.notebook.run import Run, follow
from nbllm.notebook.view.grid import Grid
from nbllm.notebook.view.live import LivePainter
from nbllm.notebook.view.outcome import RunObserver
from nbllm.notebook.view.state import AnswerState
from nbllm.notebook.view.static import (
    Rendered,
    answer_bundle,
    answer_footer,
    error_lines,
    format_count,
    format_money,
    format_seconds,
)
from nbllm.notebook.view.styles import STYLE, style_of
from nbllm.notebook.view.text import TextPainter
from nbllm.routing import registry

from .examples import examples
from .payloads import PAYLOADS
from .test_markdown import checked

ENVELOPE = 600


class Page:
    """A front end: outputs in order, updates in place, and what it took to get there."""

    def __init__(self):
        self.outputs, self.messages, self.bytes, self.blank, self.kinds = [], 0, 0, 0, []
        self._wait = False

    def publish(self, data, *, display_id=None, update=False, metadata=None):
        self._count("update" if update else "display", json.dumps(dict(data), ensure_ascii=False).encode())
        if self._wait:
            self.outputs, self._wait = [], False
        if update:
            [output] = [o for o in self.outputs if o[0] == display_id]
            output[1] = dict(data)
        else:
            assert display_id is None or display_id not in [o[0] for o in self.outputs]
            self.outputs.append([display_id, dict(data)])

    def clear(self, *, wait):
        self._count("clear", b"")
        self._wait = wait
        self.blank += not wait

    def _count(self, kind, data):
        self.messages, self.bytes = self.messages + 1, self.bytes + len(data) + ENVELOPE
        self.kinds.append(kind)

    @property
    def html(self):
        return "".join(data.get("text/html", "") for _, data in self.outputs)

    @property
    def text(self):
        return "".join(data["text/plain"] for _, data in self.outputs)


def unstyled(html):
    """`html` without our own style elements, and no others."""
    html = html.replace(STYLE, "")
    return html.replace(style_of(html), "")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Shown:
    """A state and its painter, fed as the cell's loop does it."""

    def __init__(self, page, clock, *, format="md", thoughts=None, **options):
        self.state, self.clock = AnswerState("sim/x", clock.now, format, show_reasoning=thoughts), clock
        self.painter = LivePainter(page, self.state, clock=clock, **options)

    def feed(self, event):
        self.state.feed(event, self.clock.now)

    def tick(self, now):
        self.painter.tick(now)

    def finish(self, response, footer=None, error=None):
        thoughts = self.state.show_reasoning
        self.painter.finish([Outcome("sim/x", response, error=error, footer=footer, show_reasoning=thoughts)])


def live(**options):
    page, clock = Page(), Clock()
    view = Shown(page, clock, **options)
    view.painter.start()
    return page, clock, view


def stream(chunks, per_second, **options):
    """Feeds text chunk by chunk as the cell's loop does, 20 looks a second; gives page and seconds."""
    page, clock, view = live(**options)
    began, looked = clock.now, clock.now
    for chunk in chunks:
        clock.now += 1 / per_second
        while looked + 0.05 <= clock.now:
            looked += 0.05
            view.tick(looked)
        view.feed(TextDelta(chunk))
    view.tick(clock.now)
    view.finish(Response((Text("".join(chunks)),), finish_reason="stop"), Rendered("foot", "foot"))
    return page, clock.now - began


WORDS = "The sky is blue, as air bends **long** waves `less` than others, $x^2$ times. "


def prose(n):
    return [("\n\n" if i % 40 == 39 else WORDS[i * 5 % 75 :][:5]) for i in range(n)]


SHAPES = {
    "prose": prose,
    "code": lambda n: [
        "```py\n",
        *(["def f", "oo(x)", ":\n   ", "retur", "n 'a'", " + 1\n"] * (n // 6)),
        "```\n",
    ][:n],
    "list": lambda n: (["- ite", "m abc", "defgh", "ijklm", "nopqr", "stuv\n"] * n)[:n],
    "table": lambda n: ["|a|b|\n|-|-|\n", *["|1|2|\n"] * (n - 1)],
    "one paragraph": lambda n: ["word "] * n,
    "empty cells": lambda n: ["|a|b|c|d|\n|-|-|-|-|\n", *["|||||\n"] * (n - 1)],
    "tiny tokens": lambda n: ["```py\n", *["1 1 1"] * (n - 1)],
    "signs": lambda n: ['<&"&>'] * n,
    "one line of code": lambda n: ["```\n", *["x = 1"] * (n - 1)],
}


@pytest.mark.slow
@pytest.mark.parametrize("per_second", [30, 100, 300, 1_000, 100_000])
def test_a_thousand_chunks_are_cheap(per_second):
    """At most 100 messages and 0.4 MB."""
    for shape in ("prose", "code", "list"):
        page, _ = stream(SHAPES[shape](1_000), per_second)
        assert page.messages <= 100
        assert page.bytes <= 400_000


@pytest.mark.parametrize(
    ("shape", "n", "per_second"),
    [(s, 1_000, 100) for s in SHAPES]
    + [
        pytest.param(s, n, p, marks=pytest.mark.slow)
        for s in SHAPES
        for n, p in ((5_000, 5_000), (20_000, 40_000))
    ]
    + [pytest.param(s, 20_000, 2_000, marks=pytest.mark.slow) for s in ("prose", "code")],
)
def test_any_content_keeps_to_the_budget(shape, n, per_second):
    """At most 160 kB/s and 7 times the text, 60 messages a second; one output is left."""
    chunks = SHAPES[shape](n)
    page, took = stream(chunks, per_second)
    assert page.bytes <= 160_000 * took + 7 * len("".join(chunks).encode()) + 2 * len(STYLE)
    assert page.messages <= 60 * took + 6
    assert page.blank == 0
    assert len(page.outputs) == 1
    assert "".join(chunks).strip("\n") + "\n\nfoot" == page.text


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["prose", "code", "list"])
def test_jupyterlab_folds_nothing_away(shape):
    """It shows 50 outputs of a cell."""
    page, clock, view = live()
    for i, chunk in enumerate(SHAPES[shape](12_000)):
        view.feed(TextDelta(chunk))
        clock.now += 0.01
        if i % 5 == 0:
            view.tick(clock.now)
    assert 20 < len(page.outputs) <= 46


def test_the_first_words_are_shown_at_once():
    """Even a millisecond after the status line."""
    page, clock, view = live()
    clock.now += 0.001
    view.feed(TextDelta("Hel"))
    view.tick(clock.now)
    assert "<p>Hel</p>" in page.html


def test_while_waiting_the_seconds_are_counted():
    """Model and time stand there; later, tokens."""
    page, clock, view = live()
    assert "sim/x · waiting for the first token…" in page.text
    clock.now += 3
    view.tick(clock.now)
    assert "waiting for the first token… 3 s" in page.text
    view.feed(Notice("retry", "overloaded, attempt 2 in 1.5 s"))
    view.feed(Started(model="real-name"))
    view.tick(clock.now + 1)
    assert "real-name · waiting for the first token… 4 s · overloaded, attempt 2 in 1.5 s" in page.text
    view.feed(TextDelta("x" * 400))
    view.tick(clock.now + 2)
    assert "real-name · 3.0 s to first token · 5.0 s · ≈ 100 tokens" in page.text
    view.feed(UsageReport(Usage(output_tokens=90)))
    view.tick(clock.now + 4)
    assert "7.0 s · 90 tokens" in page.text


def test_finished_blocks_are_sent_once_and_the_tail_again():
    """What is frozen is not touched any more; the style sheet stays in the first display."""
    page, clock, view = live()
    for _ in range(6):
        view.feed(TextDelta("word " * 100 + "\n\nNext"))
        clock.now += 1
        view.tick(clock.now)
    assert len(page.outputs) == 7
    frozen = [data["text/html"] for _, data in page.outputs[:-1]]
    assert frozen[0].count(STYLE) == 1
    assert page.html.count(STYLE) == 1
    view.feed(TextDelta(" more"))
    clock.now += 1
    view.tick(clock.now)
    assert frozen == [data["text/html"] for _, data in page.outputs[:-1]]


def test_a_notebook_saved_in_mid_stream_holds_the_text_so_far():
    """In HTML and in plain text."""
    page, clock, view = live()
    text = "".join(prose(700))
    for i in range(0, len(text), 7):
        view.feed(TextDelta(text[i : i + 7]))
        clock.now += 0.02
        view.tick(clock.now)
    clock.now += 1
    view.tick(clock.now)
    assert page.text.startswith(text)
    checked(unstyled(page.html).replace(' class="nbllm tex2jax_ignore mathjax_ignore"', ""))


def test_formulas_are_typeset_when_their_block_is_finished():
    """Not again and again in the tail."""
    page, clock, view = live()
    view.feed(TextDelta("With $x$"))
    view.tick(clock.now)
    assert "mathjax_process" not in page.html
    view.feed(TextDelta(" so.\n\nN"))
    clock.now += 1
    view.tick(clock.now)
    assert "mathjax_process" not in page.html
    view.feed(TextDelta("ext words" * 50 + "\n\nAnd"))
    clock.now += 1
    view.tick(clock.now)
    assert "mathjax_process" in page.outputs[0][1]["text/html"]


def test_columns_say_which_formulas_are_closed():
    """So that the page typesets each of them once, and none that still grows."""
    page, state = Page(), AnswerState("one", 0.0)
    grid = Grid(page, [state], clock=Clock())
    state.feed(TextDelta("With $x$.\n\n$$\ny\n$$\n\nNow $z$ and\n\n$$\nw"), 1.0)
    grid.flush(1.0)
    found = re.findall(r'class="nbllm-tex( nbllm-closed)?">([^<]*)<', page.html)
    assert [(" nbllm-closed", source) for source in ("$x$", "$$y$$", "$z$")] == found
    assert "mathjax_process" not in page.html


def test_thinking_is_shown_while_it_goes_on_and_collapsed_after():
    """Its last words, then a closed block."""
    page, clock, view = live()
    view.feed(ReasoningDelta("First. " * 200 + "Last thought"))
    view.tick(clock.now)
    assert "Last thought" in page.html
    assert "<details" not in page.html
    assert len(page.html) < 1_500 + len(STYLE)
    view.feed(TextDelta("Answer"))
    clock.now += 1
    view.tick(clock.now)
    assert "<details class=nbllm-think><summary>Reasoning</summary>" in page.html
    assert "<p>Answer</p>" in page.html


@pytest.mark.parametrize(
    ("thoughts", "block"),
    [(None, "<details class=nbllm-think>"), (True, "<details class=nbllm-think open>"), (False, "")],
)
def test_thinking_is_shown_as_the_cell_says(thoughts, block):
    """Folded, open or not at all: while it comes, when it is over, among several, and in a terminal."""
    page, clock, view = live(thoughts=thoughts)
    view.feed(ReasoningDelta("A secret plan"))
    view.tick(clock.now)
    looks = [page.html + page.text]
    view.feed(TextDelta("Answer"))
    clock.now += 1
    view.tick(clock.now)
    looks.append(page.html + page.text)
    said = Response((Reasoning("A secret plan"), Text("Answer")), finish_reason="stop")
    view.finish(said)
    looks.append(page.html + page.text)
    line = Outcome("sim/x", said, show_reasoning=thoughts).render("md")
    looks.append(line.html + line.text)
    written = []
    terminal = TextPainter(write=written.append, thoughts=thoughts)
    for event in (ReasoningDelta("A secret plan"), TextDelta("Answer")):
        terminal.feed(0, event)
    terminal.finish([Outcome("sim/x", said, show_reasoning=thoughts)])
    looks.append("".join(written))
    assert [thoughts is not False] * 5 == ["A secret plan" in look for look in looks]
    assert all("Answer" in look for look in looks[1:])
    assert all(block in look for look in looks[1:4])
    silent = TextPainter(write=written.append, thoughts=thoughts)
    silent.finish([Outcome("sim/x", replace(said, parts=said.parts[:1]), show_reasoning=thoughts)])
    assert (thoughts is not False) == ("A secret plan" in written[-1])


def test_a_tool_call_shows_as_it_grows():
    """Name and arguments."""
    page, clock, view = live()
    view.feed(ToolCallDelta(0, name="search", arguments='{"q": "<b'))
    view.tick(clock.now + 1)
    assert 'search({"q": "&lt;b)' in page.html


def test_what_was_void_disappears():
    """And the answer begins again."""
    page, clock, view = live()
    for _ in range(3):
        view.feed(TextDelta("old " * 200 + "\n\nN"))
        clock.now += 1
        view.tick(clock.now)
    view.feed(Restarted("sent again"))
    view.feed(TextDelta("new"))
    clock.now += 1
    view.tick(clock.now)
    assert "old" not in page.html
    assert "<p>new</p>" in page.html
    assert len(page.outputs) == 1
    assert STYLE in page.html


@pytest.mark.parametrize("mode", ["live", "plain", "final"])
def test_one_output_is_left(mode):
    """Whatever came before."""
    page, clock, view = live(mode=mode)
    for chunk in prose(300):
        view.feed(TextDelta(chunk))
        clock.now += 0.05
        view.tick(clock.now)
    view.finish(Response((Text("# Hi"),), finish_reason="stop"), Rendered("f<", "f<"))
    [[display_id, data]] = page.outputs
    assert display_id is None
    assert "# Hi\n\nf<" == data["text/plain"]
    assert ("text/html" in data) is (mode != "plain")
    assert set(data) <= {"text/html", "text/plain"}
    assert (page.kinds == ["display"]) is (mode == "final")


def test_a_call_that_failed_before_anything_came_leaves_the_error_alone():
    """The status line goes when the error output comes."""
    page, _, view = live()
    view.finish(Response(), error=RateLimited("no", status=429))
    assert ["display", "clear"] == page.kinds


FORMATS = [
    ("md", "# a", "<h3>a</h3>", "# a"),
    ("text", "# <a", "# &lt;a", "# <a"),
    ("json", '```json\n{"a":[1]}\n```', "<span class=n>1</span>\n  ]\n}", '{\n  "a": [\n    1\n  ]\n}'),
    ("json", '{"a":', ":</code>", '{"a":'),
    ("code", "So:\n\n```py\nx=1\n```\nand\n```py\ny\n```", 'data-lang="py"', "x=1\n\ny"),
    ("code", "none", "<pre><code>none</code></pre>", "none"),
    ("html", "<b>a</b>", "&lt;", "<b>a</b>"),
]


@pytest.mark.parametrize(("format", "source", "html", "text"), FORMATS)
def test_formats(format, source, html, text):
    """How an answer may be shown; HTML is never HTML."""
    data = answer_bundle(Response((Text(source),), finish_reason="stop"), format=format)
    assert html in data["text/html"]
    assert text == data["text/plain"]
    page, clock, view = live(format=format)
    view.feed(TextDelta(source))
    view.tick(clock.now)
    assert source in page.text
    assert "<b>a" not in page.html


ENDINGS = [
    (Response((Text("a"),), finish_reason="cancelled"), None, "Stopped by you"),
    (
        Response((Text("a"),), finish_reason="length", request=Request("m", (), max_tokens=7)),
        None,
        "limit of tokens (max_tokens=7)",
    ),
    (Response((Text("a"),), finish_reason="content_filter"), None, "content filter"),
    (Response((Text("a"),)), None, "Cut off before its end"),
    (
        Response((Text("a"),)),
        StreamCut("The stream ended early.", hint="Ask again."),
        "⚠ StreamCut: The stream ended early.",
    ),
    (Response((Text("a"),), finish_reason="other", finish_raw="RECITATION"), None, "RECITATION"),
    (
        Response((), finish_reason="stop", notices=(Notice("refusal", "I <can't>."),)),
        None,
        "Refused: I <can't>.",
    ),
    (Response((), finish_reason="stop"), None, "The answer is empty."),
    (Response((Text("a"),), finish_reason="stop", simulated=True), None, "[simulated]"),
    (
        Response((ToolCall("1", "f", {"a": "<b>"}),), finish_reason="tool_calls"),
        None,
        '[tool call] f({"a": "<b>"})',
    ),
    (
        Response((ToolCall("1", "f", None, '{"a": <'),), finish_reason="tool_calls"),
        None,
        '[tool call] f({"a": <)',
    ),
    (
        Response((Reasoning("so <i>"), Text("a")), finish_reason="stop"),
        None,
        "[reasoning]\nso <i>\n[/reasoning]\n\na",
    ),
    (
        Response((Reasoning(redacted="xx"), Text("a")), finish_reason="stop"),
        None,
        "Reasoning withheld by the provider.",
    ),
]


@pytest.mark.parametrize(("response", "error", "text"), ENDINGS)
def test_how_an_answer_ended_is_told_in_both_forms(response, error, text):
    """Stopped, cut, filtered, refused, empty, simulated; calls and reasoning."""
    data = answer_bundle(response, error=error)
    assert text in data["text/plain"]
    checker = checked(unstyled(data["text/html"]).replace(' class="nbllm tex2jax_ignore mathjax_ignore"', ""))
    last = (
        text.replace("[simulated]", "simulated")
        .replace("[tool call] ", "")
        .replace("[reasoning]\n", "")
        .replace("[/reasoning]\n\n", "")
        .splitlines()
    )
    assert all(line in "".join(checker.text) for line in last)


RICH = Response(
    (Text("a"),), "stop", model="gemini-2.5-pro", cost=0.0031, usage=Usage(1_200, 240, reasoning_tokens=100, cache_read_tokens=800),  # noqa: E501
    timing=Timing(ttft=0.412, total=3.21, decode=2.75, decoded=239, attempts=2),
)  # fmt: skip


def test_the_footer():
    """Figures, "?" where unknown, and what was filled in."""
    expected = (
        "gemini-2.5-pro · 0.41 s to first token · 3.2 s · 87 tok/s · 1,200 (800 cached) → 240 (100 "
        "reasoning) tokens · $0.0031 · 2 attempts · filled n, df"
    )
    assert expected == answer_footer(RICH, filled=["n", "df"]).text
    assert "? · ? to first token · ? · ? tokens · $?" == answer_footer(Response()).text
    assert "&lt;b&gt;" in answer_footer(Response(model="<b>")).html


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (format_seconds, 0.0412, "41 ms"), (format_seconds, 0.412, "0.41 s"), (format_seconds, 3.21, "3.2 s"), (format_seconds, 9.96, "10 s"), (format_seconds, 48.2, "48 s"), (format_seconds, 125, "2 min 5 s"), (format_seconds, None, "?"),  # noqa: E501
        (format_money, 0.0031, "$0.0031"), (format_money, 0.000012, "$0.000012"), (format_money, 0.5, "$0.50"), (format_money, 12.345, "$12.35"), (format_money, 0, "$0"), (format_money, None, "$?"), (format_money, 1234.5, "$1,234.50"), (format_money, 0.00315, "$0.0032"),  # noqa: E501
        (format_count, 12345, "12,345"), (format_count, None, "?"),
    ],
)  # fmt: skip
def test_figures(form, value, text):
    """Two significant digits are enough."""
    assert text == form(value)


def test_error_lines():
    """What, their words, what to do."""
    error = RateLimited(
        "Too many requests\x1b[31m", status=429, request_id="req_1", hint="Wait 20 s, or ask another model."
    )
    assert (
        "RateLimited: Too many requests␛[31m\nWait 20 s, or ask another model.\nRequest id: req_1"
        == error_lines(error)
    )


EVENTS = st.one_of(
    st.sampled_from(list(PAYLOADS.values())).map(TextDelta),
    st.text(max_size=30).map(TextDelta),
    st.sampled_from(["\n\n", "```\n", "- a\n", "$x$", "word " * 30]).map(TextDelta),
    st.text(max_size=30).map(ReasoningDelta),
    st.builds(ToolCallDelta, st.integers(0, 2), st.none(), st.sampled_from([None, "f"]), st.text(max_size=9)),
    st.builds(Notice, st.sampled_from(["retry", "refusal", "unknown"]), st.text(max_size=9)),
    st.just(Restarted("again")),
    st.builds(Started, st.none(), st.text(max_size=5)),
    st.just(Finished("stop")),
)


@pytest.mark.slow
@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 2)), max_size=25),
    st.sampled_from(["md", "text", "json", "code", "html"]),
)
@examples(200)
def test_any_events_show_safely(events, format):
    """At every moment and at the end: closed list of tags, valid text, one output left."""
    page, clock, view = live(format=format)
    fold = Fold()
    for event, pause in events:
        fold.add(event)
        view.feed(event)
        clock.now += pause
        view.tick(clock.now)
        checked(unstyled(page.html).replace(' class="nbllm tex2jax_ignore mathjax_ignore"', ""))
    view.finish(fold.response(), answer_footer(fold.response()))
    assert len(page.outputs) == 1
    checked(unstyled(page.html).replace(' class="nbllm tex2jax_ignore mathjax_ignore"', ""))
    page.text.encode()


def test_a_terminal_gets_the_text_as_it_comes():
    """Then what there is to say about it; no escape sequence of the model's reaches it."""
    written = []
    view = TextPainter(write=written.append)
    for event in (
        ReasoningDelta("hm"),
        TextDelta("a\x1b[2J\r"),
        TextDelta("\nb\rc\ud83d"),
        TextDelta("\ude00"),
    ):
        view.feed(0, event)
    view.finish(
        [
            Outcome(
                "m",
                Response((Reasoning("hm"), Text("..."), ToolCall("1", "f", {})), "cancelled"),
                footer=Rendered("", "foot"),
            )
        ]
    )
    assert (
        "[reasoning]\nhm\n[/reasoning]\n\na␛[2J\nb\nc😀\n\n[tool call] f({})\n\n■ Stopped by you; this is "
        "what had arrived.\n\nfoot\n" == "".join(written)
    )


@pytest.mark.parametrize(
    ("value", "noun", "about", "text"),
    [
        (0, "turn", False, "0 turns"),
        (1, "token", True, "≈ 1 token"),
        (2, "answer", False, "2 answers"),
        (1234, "token", True, "≈ 1,234 tokens"),
        (None, "token", False, "? tokens"),
    ],
)
def test_a_count_and_its_noun(value, noun, about, text):
    """One form for all of them."""
    assert text == plural(value, noun, estimated=about)


def test_one_token_is_no_plural():
    """Live and at the end, about and counted."""
    state = AnswerState("m", 0.0)
    state.feed(TextDelta("Hi"), 0.5)
    assert "≈ 1 token" == state.status(1.0).split(" · ")[-1]
    state.feed(UsageReport(Usage(3, 1), final=True), 0.6)
    assert "1 token" == state.status(1.0).split(" · ")[-1]


def columns(page):
    """The text of each column as the page shows them."""
    return page.text.split("## ")[1:]


@pytest.mark.slow
def test_columns_are_read_from_the_top_while_they_grow():
    """What was there stays where it is, frame after frame, and the final form begins with it; a frame has a
    bounded size."""
    page, states = Page(), [AnswerState(name, 0.0) for name in "ab"]
    grid, before = Grid(page, states, clock=Clock(), stop_ids=("one", "two")), ["", ""]
    grid.start()
    for i in range(300):
        for state in states:
            state.feed(TextDelta(f"Paragraph {i} of {state.label}, with some words behind it.\n\n"), i)
        grid.flush(float(i))
        shown = [column.rpartition("\n\n")[0].partition("…")[0].strip() for column in columns(page)]
        assert all(now.startswith(old.rpartition("\n\n")[0]) for now, old in zip(shown, before, strict=True))
        assert all("Paragraph 0" in column for column in shown)
        before = shown
    bounded = len(page.html)
    states[0].feed(TextDelta("More of it.\n\n" * 9_000), 300.0)
    grid.flush(300.0)
    assert len(page.html) < 4 * bounded
    assert "…" in columns(page)[0]


def test_a_place_for_a_stop_stands_in_the_head_of_what_grows():
    """And is gone with the end of its column, while the others go on."""
    page, states = Page(), [AnswerState(name, 0.0) for name in "ab"]
    grid = Grid(page, states, clock=Clock(), stop_ids=("one", "two"))
    grid.start()
    assert "<b>a</b> <span id=one></span></div>" in page.html
    states[0].ended = 1.0
    grid.tick(1_000.0)
    shown = page.html
    assert "id=one" not in shown
    assert "<b>b</b> <span id=two></span></div>" in shown


def test_live_and_final_figures_agree():
    """The time to the first token is counted from the same moment."""
    with simulator.serve(ttft=0.01, gap=0.001) as sim:
        client = Client(
            registry.load({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": sim.base_url("openai_chat")})
        )
        run = Run.of(
            Question((Text("Why?"),), ("openai/m", "openai/n"), {}, {}),
            lambda q, c: client.stream([q.message], c.model),
        ).begin()
        follow(run, RunObserver())
        for state, found in zip(run.states, run.settled_outcomes(), strict=True):
            told = answer_footer(found.response).text.replace("\u00a0", " ").split(" · ")
            live = state.status(0.0).split(" · ")
            assert live[1] == told[1]
            assert live[1].endswith("to first token")
            assert live[3] == told[4].partition("→ ")[2]
