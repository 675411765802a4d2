"""Builds the documentation site into build/site: `make docs`.

Its sources are laid out in build/docs: the README, the pages beside this file, the notebooks with their
stored outputs, and pages made from the tables of options, lines and providers and from the docstrings of
every module. Sphinx makes the site of them, and fails on a link that leads nowhere. A page loads nothing from
elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from nbconvert import MarkdownExporter

import nbllm
from nbllm.core import options
from nbllm.notebook.syntax.options import SUBCOMMANDS
from nbllm.routing.registry import load

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGES, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
GUIDES = (
    "cells",
    "providers",
    "benchmarks",
    "tools",
    "rows",
    "batches",
    "tracing",
    "embeddings",
    "answers",
    "prompts",
    "plugins",
)  # first in this order, then the rest
NOTEBOOKS = ("quickstart", "variables", "structured", "comparing", "chat", "tools", "rows", "benchmark")
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_IMAGE = re.compile(r"(src(?:set)?=\")docs/")


def main() -> None:
    """Lays the pages out and builds the site. Exits with Sphinx's code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(HERE / "images", PAGES / "extra" / "images")
    write("index.md", linked(ROOT / "README.md"))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        write(f"{name.lower()}.md", linked(ROOT / f"{name}.md"))
    guides = [HERE / f"{n}.md" for n in GUIDES]
    guides += sorted(p for p in HERE.glob("*.md") if p.stem not in GUIDES)
    for page in guides:
        write(page.name, linked(page))
    for name in NOTEBOOKS:
        write_notebook(ROOT / "notebooks" / f"{name}.ipynb")
    write("reference/options.md", options_page())
    write("reference/lines.md", lines_page())
    write("reference/providers.md", providers_page())
    write("reference/python.md", python_page())
    modules = [write_module(m) for m in sorted((ROOT / "nbllm").rglob("*.py")) if m.stem != "__main__"]
    write("reference/modules.md", modules_page(modules))
    write("contents.md", contents([p.stem for p in guides]))
    shutil.copy(HERE / "conf.py", PAGES)
    words = (
        "--builder",
        "html",
        "--doctree-dir",
        ROOT / "build" / "doctrees",
        "--jobs",
        "2",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
    )
    sys.exit(subprocess.run([sys.executable, "-m", "sphinx", *words, PAGES, SITE], check=False).returncode)


def contents(guides: list[str]) -> str:
    """The page that has every other one."""
    parts = {
        "nbllm": ["index"],
        "Guides": guides,
        "Notebooks": [f"notebooks/{n}" for n in NOTEBOOKS],
        "Reference": [f"reference/{n}" for n in ("options", "lines", "python", "providers", "modules")],
        "Project": ["changelog", "contributing"],
    }
    trees = [
        f"```{{toctree}}\n:caption: {part}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```"
        for part, pages in parts.items()
    ]
    return "\n\n".join(["# Contents", *trees])


def write(name: str, text: str) -> None:
    """Writes one page."""
    page = PAGES / name
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, "utf-8")


def linked(path: Path, text: str | None = None) -> str:
    """A file of the repository with its links as they are in the site; of a link to a file that is not there
    stay its words."""
    here = path.relative_to(ROOT)

    def there(match: re.Match[str]) -> str:
        target = posixpath.normpath((here.parent / match[2]).as_posix())
        found = in_site(target)
        if found is None:
            return match[1]
        page = in_site(here.as_posix()) or ""
        return f"[{match[1]}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{match[3] or ''})"

    return _IMAGE.sub(r"\1", _LINK.sub(there, text if text is not None else path.read_text("utf-8")))


def in_site(path: str) -> str | None:
    """Where a file of the repository is in the site, None where it is not."""
    folder, _, name = path.rpartition("/")
    stem, _, kind = name.rpartition(".")
    known = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    if not folder:
        return known.get(path)
    return {("docs", "md"): name, ("notebooks", "ipynb"): f"notebooks/{stem}.md"}.get((folder, kind))


def write_notebook(path: Path) -> None:
    """A notebook as Markdown; what its outputs hold beside text goes into files."""
    text, more = MarkdownExporter().from_filename(str(path))  # type: ignore[no-untyped-call]
    text = linked(path, text)
    name = path.stem
    for file, data in more["outputs"].items():
        (PAGES / "notebooks" / name).mkdir(parents=True, exist_ok=True)
        (PAGES / "notebooks" / name / file).write_bytes(data)
        text = text.replace(f"]({file})", f"]({name}/{file})")
    write(f"notebooks/{name}.md", text)


def options_page() -> str:
    """Every option of a cell and of a benchmark's line, from the one table there is."""
    rows = [
        (f"`{o.name}`", f"`-{o.short}`" if o.short else "", cell(o.help), ", ".join(o.values))
        for o in options.OPTIONS
        if o.kind
    ]
    return (
        "# Options\n\nThe same words in a cell (`%%llm temperature=0`), in Python "
        "(`nbllm.complete(..., temperature=0)`), in `%llm use` and in a configuration.\n\n"
        + table(("option", "short", "what it does", "values"), rows)
    )


def lines_page() -> str:
    """Every `%llm` line."""
    return "# Lines\n\n" + table(
        ("line", "what it does"), [(f"`%llm {name}`", cell(text)) for name, text in SUBCOMMANDS.items()]
    )


def providers_page() -> str:
    """Every row of providers.toml."""
    rows = [
        (
            f"`{row.name}`",
            cell(row.label or row.name),
            cell(row.base_url or " ".join(row.command)),
            row.dialect,
            ", ".join(f"`{n}`" for n in row.key_env),
        )
        for row in load({}).rows.values()
    ]
    return "# Providers\n\n" + table(("name", "provider", "address or command", "format", "key"), rows)


def python_page() -> str:
    """The names of `nbllm` and of `nbllm.bench`."""
    parts = ["# Python"]
    for package, module in (("nbllm", nbllm), ("nbllm.bench", nbllm.bench)):
        parts.append(f"## {package}")
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value):
                kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
                home = f"{value.__module__}.{value.__qualname__}" if kind != "data" else f"{package}.{name}"
                members = "\n   :members:" if kind == "class" else ""
                parts.append(
                    f"### {package}.{name}\n\n" + rest(f".. auto{kind}:: {home}\n   :no-index:{members}")
                )
    return "\n\n".join(parts)


def write_module(path: Path) -> str:
    """A page of a module's docstrings; its name."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    name = f"reference/modules/{module}"
    write(
        f"{name}.md",
        f"---\norphan: true\n---\n\n# {module}\n\n" + rest(f".. automodule:: {module}\n   :members:"),
    )
    return module


def modules_page(modules: list[str]) -> str:
    """A link to the page of each module, with its first sentence."""
    rows = []
    for module in modules:
        about = (importlib.import_module(module).__doc__ or "").strip().split("\n\n")[0]
        rows.append((f"[{module}](modules/{module}.md)", cell(" ".join(about.split()))))
    return "# Modules\n\n" + table(("module", "what it is"), rows)


def rest(text: str) -> str:
    """A directive of autodoc, whose words are reStructuredText."""
    return f"```{{eval-rst}}\n{text}\n```"


def cell(text: str) -> str:
    """Text within a cell of a table."""
    return text.replace("|", "\\|").replace("{", "&#123;").replace("<", "&lt;").replace("\n", " ")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


if __name__ == "__main__":
    main()
