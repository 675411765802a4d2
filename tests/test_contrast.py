"""Text can be read in every theme: each colour of our styles keeps 4.5:1 against what it may stand on, and
the colour of warnings is for warnings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nbllm.core.events import Response
from nbllm.core.messages import Text
from nbllm.notebook.view.static import render_answer, render_note
from nbllm.notebook.view.styles import STYLE

NOTEBOOK = Path(__file__).parent.parent / "nbllm" / "notebook"
SOURCES = {
    "styles": STYLE,
    **{n: (NOTEBOOK / n).read_text("utf-8") for n in ("chat_widget.css", "actions.js", "stops.js")},
}
# What JupyterLab 4's themes say, and pages that say nothing: (page, panel, text, variables).
THEMES = {
    "light": (
        "#ffffff",
        "#ffffff",
        "rgba(0,0,0,.87)",
        {
            "ui-font-color1": "rgba(0,0,0,.87)",
            "ui-font-color2": "rgba(0,0,0,.54)",
            "content-font-color1": "rgba(0,0,0,.87)",
            "warn-color0": "#e65100",
            "brand-color1": "#1976d2",
            "content-link-color": "#0d47a1",
            "mirror-editor-keyword-color": "#008000",
            "mirror-editor-string-color": "#ba2121",
            "mirror-editor-comment-color": "#408080",
            "mirror-editor-number-color": "#008800",
            "mirror-editor-def-color": "#0000ff",
            "mirror-editor-builtin-color": "#008000",
        },
    ),
    "dark": (
        "#111111",
        "#212121",
        "#ffffff",
        {
            "ui-font-color1": "rgba(255,255,255,.87)",
            "ui-font-color2": "rgba(255,255,255,.54)",
            "content-font-color1": "#ffffff",
            "warn-color0": "#f57c00",
            "brand-color1": "#2196f3",
            "content-link-color": "#64b5f6",
            "mirror-editor-keyword-color": "#4caf50",
            "mirror-editor-string-color": "#ff7070",
            "mirror-editor-comment-color": "#408080",
            "mirror-editor-number-color": "#66bb6a",
            "mirror-editor-def-color": "#1e88e5",
            "mirror-editor-builtin-color": "#43a047",
        },
    ),
    "a light page": ("#ffffff", "#ffffff", "#000000", {}),
    "a dark page": ("#1e1e1e", "#1e1e1e", "#d4d4d4", {}),
}
VEIL = "rgba(128,128,128,.15)"  # the strongest that text stands on
Colour = tuple[float, float, float, float]


def colour(text: str, around: Colour, known: dict[str, str]) -> Colour:
    """A CSS colour as red, green, blue from 0 to 1 and alpha; `around` is that of the text around it."""
    text = text.strip()
    if text in ("inherit", "currentColor"):
        return around
    if text == "transparent":
        return (0, 0, 0, 0)
    if text in ("Highlight", "CanvasText"):
        return around
    if text.startswith("#"):
        return (*(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)  # type: ignore[return-value]
    name, _, inner = text.partition("(")
    words = split(inner.removesuffix(")"))
    if name == "rgba":
        r, g, b, a = map(float, words)
        return r / 255, g / 255, b / 255, a
    if name == "var":
        own = words[0].removeprefix("--jp-")
        return colour(known[own] if own in known else ",".join(words[1:]), around, known)
    assert name == "color-mix", text
    first, share = words[1].rsplit(" ", 1)
    return mixed(colour(first, around, known), colour(words[2], around, known), float(share[:-1]) / 100)


def split(text: str) -> list[str]:
    """The arguments between a function's brackets."""
    return [m.strip() for m in re.findall(r"(?:[^,()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))+", text)]


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    alpha = one[3] * share + other[3] * (1 - share)
    parts = (a * one[3] * share + b * other[3] * (1 - share) for a, b in zip(one[:3], other[:3], strict=True))
    return (*(p / alpha for p in parts), alpha)  # type: ignore[return-value]


def over(top: Colour, below: Colour) -> Colour:
    parts = (a * top[3] + b * (1 - top[3]) for a, b in zip(top[:3], below[:3], strict=True))
    return (*parts, 1.0)  # type: ignore[return-value]


def contrast(one: Colour, other: Colour) -> float:
    """As WCAG 2 defines it."""

    def light(c: Colour) -> float:
        parts = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in c[:3])
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_measure():
    """Black on white is 21:1, and a known pair."""
    black, white = (colour(c, (0, 0, 0, 1), {}) for c in ("#000000", "#ffffff"))
    assert 21 == round(contrast(black, white), 3)
    assert 4.54 == round(contrast(colour("#767676", black, {}), white), 2)


RULES = sorted(
    {
        (name, found[1].strip())
        for name, source in SOURCES.items()
        for found in re.finditer(r"(?<![\w-])color:\s*([^;}]+)", source)
    }
)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("rule", RULES, ids=" ".join)
def test_every_colour_can_be_read(theme, rule):
    """On the page, in the panel and on our veils, and within text that is muted."""
    page, panel, text, known = THEMES[theme]
    known = {**known}
    muted = re.search(r"--nbllm-muted:([^}]+)}", STYLE)
    black = (0.0, 0.0, 0.0, 1.0)
    for ground in (page, panel):
        bare = colour(ground, black, known)
        for below in (bare, over(colour(VEIL, black, known), bare)):
            plain = colour(text, black, known)
            for around in (plain, colour(muted[1], plain, known)):
                wanted = rule[1].replace("var(--nbllm-muted)", muted[1])
                shown = over(colour(wanted, around, known), below)
                assert contrast(shown, below) >= 4.5, (theme, ground, around, below)


def test_nothing_that_is_read_is_made_faint():
    """No opacity but of what does not show at all until it is wanted."""
    for source in SOURCES.values():
        assert {"0", "1"} >= set(re.findall(r"opacity:\s*([\d.]+)", source))


def test_warnings_alone_have_their_colour():
    """A stop by the user, a refusal, an empty answer are remarks; what is cut off is a warning."""
    words = Response(parts=(Text("a"),), finish_reason="cancelled")
    assert "nbllm-warn" not in render_answer(words)[-1].html
    assert "nbllm-warn" not in render_note("Refused: no").html
    assert "nbllm-warn" in render_answer(Response(parts=(Text("a"),)))[-1].html
    assert ["nbllm-warn"] == re.findall(r"\.(nbllm-[a-z]+)\{color:color-mix\(in srgb,var\(--jp-warn", STYLE)


def test_text_that_runs_from_right_to_left_is_not_fixed_to_the_left():
    """Lists, quotes, tables and thoughts begin where their text does; code and its language stay."""
    rules = re.sub(r"[^{}]*(?:data-lang|align=right|nbllm-badge)[^{}]*{[^}]*}", "", STYLE)
    assert [] == re.findall(r"(?:text-align|margin|padding|border)[\w-]*(?:-|:)(?:left|right)", rules)
