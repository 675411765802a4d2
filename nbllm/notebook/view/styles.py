"""The styles of our output: one small style sheet, scoped to our container, in the colours of the front end's
theme.

Only structure carries meaning: in front ends that remove styles (GitHub, an untrusted notebook), plain tags
remain. Text has a contrast of 4.5:1 in any theme: colours are mixed with the colour of the surrounding text,
which moves them away from the background, light or dark. Only warnings have the colour of warnings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MUTED = "var(--nbllm-muted)"
_LINE = "var(--jp-border-color2,rgba(128,128,128,.35))"
_FAINT = "color-mix(in srgb,currentColor 66%,transparent)"
_MONO = "var(--jp-code-font-family,ui-monospace,SFMono-Regular,Menlo,Consolas,monospace)"


def _mix_with_text(name: str, otherwise: str) -> str:
    """A colour of the front end's theme, mixed with the colour of the surrounding text."""
    return f"color-mix(in srgb,var(--jp-{name},{otherwise}) 50%,currentColor)"


# (pattern that an output's HTML must match, "" for all; the rules that it needs)
_RULES = (
    ("", f"""
.nbllm.nbllm{{margin:0;--nbllm-muted:{_mix_with_text("ui-font-color2", _FAINT)}}}
.nbllm{{contain:paint;line-height:1.55;overflow-wrap:break-word;padding:1px 0;
padding-inline-start:var(--jp-code-padding,0)}}
.nbllm>:is(p,ul,ol,blockquote,details,h3,h4,h5,h6){{max-width:46em}}
.nbllm>:is(p,ul,ol,blockquote,table,pre,details){{margin:0 0 .75em}}.nbllm p{{text-align:start}}"""),
    ("<h[3-6]", """
.nbllm :is(h3,h4,h5,h6){margin:1.1em 0 .45em;line-height:1.25;font-weight:600}
.nbllm h3{font-size:1.3em}.nbllm h4{font-size:1.15em}.nbllm :is(h5,h6){font-size:1em}
.nbllm>:is(h3,h4):first-child{margin-top:.2em}.nbllm>style+:is(h3,h4){margin-top:.2em}"""),
    ("<li", """
.nbllm li{text-align:start}.nbllm li>p{margin:0 0 .4em}.nbllm :is(ul,ol){padding-inline-start:1.7em}
.nbllm :is(th,td)>:is(ul,ol){margin:0;padding-inline-start:1.2em}"""),
    ("<blockquote", f"""
.nbllm blockquote{{margin-inline-start:0;padding:0;padding-inline-start:1em;
border-inline-start:3px solid {_LINE};color:{_MUTED}}}"""),
    ("nbllm-task", """
.nbllm li.nbllm-task{list-style:none;margin-inline-start:-1.35em}"""),
    ("<hr", f"""
.nbllm hr{{border:0;border-top:1px solid {_LINE};margin:1.2em 0}}"""),
    ("<a ", f"""
.nbllm a{{color:{_mix_with_text("content-link-color", "#3a82d6")}}}"""),
    ("<table", f"""
.nbllm table{{color:inherit;display:block;width:fit-content;max-width:100%;overflow-x:auto;
border:0;border-collapse:collapse;font-size:.95em}}
.nbllm :is(th,td){{text-align:start;padding:.35em .9em;border:0;border-bottom:1px solid {_LINE};
max-width:30em;white-space:normal;vertical-align:top}}
.nbllm :is(tr,tbody tr:nth-child(odd),tbody tr:hover){{background:none}}
.nbllm th{{font-weight:600}}.nbllm thead th{{border-bottom-width:2px}}
.nbllm tbody>tr:last-child>:is(th,td){{border-bottom:0}}
.nbllm :is(th,td)[align=right]{{text-align:right;white-space:nowrap}}"""),
    ("<pre", """
.nbllm pre{position:relative;overflow-x:auto;padding:.7em .9em;border-radius:5px;
background:rgba(128,128,128,.09);line-height:1.45}
.nbllm pre code{background:none;padding:0;white-space:pre}"""),
    ("<(?:pre|code)", f"""
.nbllm :is(pre,code){{font-family:{_MONO};font-size:.95em}}.nbllm pre code{{font-size:1em}}
.nbllm :not(pre)>code{{background:rgba(128,128,128,.13);padding:.1em .35em;border-radius:3px}}"""),
    ("data-lang", f"""
.nbllm pre[data-lang]::after{{content:attr(data-lang);position:absolute;top:.45em;right:.8em;
font-size:.8em;color:{_MUTED}}}"""),
    ("nbllm-tex", """
.nbllm div.nbllm-tex{margin:0;max-width:46em;overflow-x:auto;overflow-y:hidden}
.nbllm span.nbllm-tex .MathJax_FullWidth{display:inline!important;width:auto!important}"""),
    ("nbllm-text", """
.nbllm .nbllm-text{white-space:pre-wrap}"""),
    ("nbllm-think", f"""
.nbllm .nbllm-think{{color:{_MUTED};font-size:.93em;
border-inline-start:2px solid {_LINE};padding-inline-start:.9em}}"""),
    ("<details", """
.nbllm summary{cursor:pointer}.nbllm details[open]>summary{margin-bottom:.5em}
.nbllm details>p:last-child{margin-bottom:0}"""),
    ("nbllm-(?:note|warn)", f"""
.nbllm :is(.nbllm-note,.nbllm-warn){{margin:.5em 0;font-size:.93em}}
.nbllm .nbllm-warn{{color:{_mix_with_text("warn-color0", "#b26a00")}}}"""),
    ("nbllm-foot", f"""
.nbllm .nbllm-foot{{margin-top:.6em;font-size:.82em;line-height:1.5;color:{_MUTED};
font-variant-numeric:tabular-nums}}
.nbllm .nbllm-foot small{{font-size:inherit}}"""),
    ("nbllm-side", f"""
.nbllm .nbllm-side{{display:block;width:auto;font-size:inherit}}
.nbllm .nbllm-side>tbody{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15em,100%),1fr));
gap:1em 1.6em;align-items:start}}
.nbllm .nbllm-side>tbody>tr{{display:contents}}
.nbllm .nbllm-side>tbody>tr>td{{display:block;width:auto;padding:0;line-height:1.55;border:0;
min-width:0;max-width:none}}
.nbllm .nbllm-col{{overflow-wrap:break-word}}.nbllm .nbllm-col :is(th,td){{overflow-wrap:normal;
padding-inline:.5em}}
.nbllm .nbllm-col>:is(p,ul,ol,blockquote,table,pre,details){{margin:0 0 .75em}}
.nbllm .nbllm-col pre[data-lang]{{padding-top:1.8em}}
.nbllm .nbllm-head{{border-bottom:1px solid {_LINE};margin-bottom:.6em;padding-bottom:.25em}}
@media print{{.nbllm .nbllm-side>tbody{{grid-template-columns:repeat(auto-fit,minmax(min(21em,100%),1fr))}}
.nbllm .nbllm-col :is(th,td){{padding:.3em .45em;font-size:.9em}}}}"""),
    ("nbllm-badge", """
.nbllm .nbllm-badge{border:1px solid;border-radius:3px;padding:0 .4em;margin-right:.3em}"""),
    ("<(?:table|pre)", """
@media print{.nbllm{contain:none}.nbllm :is(table,pre){overflow:visible}
.nbllm pre code{white-space:pre-wrap}}"""),
    ("<span class=.>", "".join(f"""
.nbllm .{name}{{color:{_mix_with_text(f"mirror-editor-{word}-color", colour)}}}""" for name, word, colour in (
        ("k", "keyword", "#2e8b57"),
        ("s", "string", "#c96f6c"),
        ("c", "comment", "#7a8a8a"),
        ("n", "number", "#2e8b57"),
        ("f", "def", "#4a7fd6"),
        ("b", "builtin", "#2e8b57"),
    )) + """
.nbllm .c{font-style:italic}"""),
)  # fmt: skip


def _sheet(rules: Iterable[str]) -> str:
    """A style element. `div.nbllm.nbllm` overrides the front end's own rules for `.jp-RenderedHTMLCommon` and
    its tags."""
    return (
        "<style>"
        + re.sub("(^|[{}])[.]nbllm", r"\1div.nbllm.nbllm", "".join(rules).replace("\n", ""))
        + "</style>"
    )


STYLE = _sheet(rules for _, rules in _RULES)  # for growing content, which may come to need any rule


def style_of(body: str) -> str:
    """The style element with the rules that `body` needs: each output must be complete by itself, and most
    are prose."""
    return _sheet(rules for needs, rules in _RULES if re.search(needs, body))


def container(body: str, *, style: bool, grows: bool = False) -> str:
    """Our container around `body`. Its classes tell MathJax, old and new, to ignore all dollars except in our
    formulas. grows: displays without a style of their own follow. In final output, table cells of moderate
    tables get an inline alignment: JupyterLab aligns them to the right where it removes our styles."""
    if style and not grows and "dir=rtl" not in body and body.count("<td>") < 500:
        body = re.sub("<(t[dh])>", r'<\1 style="text-align:left">', body)
    return (
        f'<div class="nbllm tex2jax_ignore mathjax_ignore">'
        f"{'' if not style else STYLE if grows else style_of(body)}{body}</div>"
    )
