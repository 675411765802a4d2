"""Builds the documentation site into build/site: `make docs`.

Its sources are written to build/docs: the README, the pages in this folder, the notebooks with their stored
outputs, and pages generated from the tables of options, commands and providers and from the docstrings of
every module. Sphinx builds the site from them, and fails on a broken link. A page loads nothing from other
sites.
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
    """Writes the pages and builds the site. Exits with Sphinx's exit code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(HERE / "images", PAGES / "extra" / "images")
    write("index.md", adapt_links(ROOT / "README.md"))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        write(f"{name.lower()}.md", adapt_links(ROOT / f"{name}.md"))
    guides = [HERE / f"{n}.md" for n in GUIDES]
    guides += sorted(p for p in HERE.glob("*.md") if p.stem not in GUIDES)
    for page in guides:
        write(page.name, adapt_links(page))
    for name in NOTEBOOKS:
        write_notebook(ROOT / "notebooks" / f"{name}.ipynb")
    write("reference/options.md", options_page())
    write("reference/lines.md", commands_page())
    write("reference/providers.md", providers_page())
    write("reference/python.md", python_page())
    modules = [write_module(m) for m in sorted((ROOT / "nbllm").rglob("*.py")) if m.stem != "__main__"]
    write("reference/modules.md", modules_page(modules))
    write("contents.md", contents([p.stem for p in guides]))
    shutil.copy(HERE / "conf.py", PAGES)
    arguments = (
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
    sys.exit(
        subprocess.run([sys.executable, "-m", "sphinx", *arguments, PAGES, SITE], check=False).returncode
    )


def contents(guides: list[str]) -> str:
    """The page with links to all other pages."""
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


def adapt_links(path: Path, text: str | None = None) -> str:
    """The text of a file of the repository with its links adapted to the site. A link to a file that is not
    in the site is replaced by its text."""
    source = path.relative_to(ROOT)

    def replace_link(match: re.Match[str]) -> str:
        target = posixpath.normpath((source.parent / match[2]).as_posix())
        found = site_path(target)
        if found is None:
            return match[1]
        page = site_path(source.as_posix()) or ""
        return f"[{match[1]}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{match[3] or ''})"

    return _IMAGE.sub(r"\1", _LINK.sub(replace_link, text if text is not None else path.read_text("utf-8")))


def site_path(path: str) -> str | None:
    """The path of a repository's file in the site, None if it is not in the site."""
    folder, _, name = path.rpartition("/")
    stem, _, kind = name.rpartition(".")
    known = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    if not folder:
        return known.get(path)
    return {("docs", "md"): name, ("notebooks", "ipynb"): f"notebooks/{stem}.md"}.get((folder, kind))


def write_notebook(path: Path) -> None:
    """Writes a notebook as Markdown; outputs other than text become files."""
    text, more = MarkdownExporter().from_filename(str(path))  # type: ignore[no-untyped-call]
    text = adapt_links(path, text)
    name = path.stem
    for file, data in more["outputs"].items():
        (PAGES / "notebooks" / name).mkdir(parents=True, exist_ok=True)
        (PAGES / "notebooks" / name / file).write_bytes(data)
        text = text.replace(f"]({file})", f"]({name}/{file})")
    write(f"notebooks/{name}.md", text)


def options_page() -> str:
    """All options of a cell and of a benchmark's line, from the table of options."""
    rows = [
        (f"`{o.name}`", f"`-{o.short}`" if o.short else "", escape_cell(o.help), ", ".join(o.values))
        for o in options.OPTIONS
        if o.kind
    ]
    return (
        "# Options\n\nThe names are the same in a cell (`%%llm temperature=0`), in Python "
        "(`nbllm.complete(..., temperature=0)`), in `%llm use` and in a configuration.\n\n"
        + table(("option", "short", "what it does", "values"), rows)
    )


def commands_page() -> str:
    """All `%llm` commands."""
    return "# Commands\n\n" + table(
        ("command", "what it does"),
        [(f"`%llm {name}`", escape_cell(text)) for name, text in SUBCOMMANDS.items()],
    )


def providers_page() -> str:
    """All providers of providers.toml."""
    rows = [
        (
            f"`{row.name}`",
            escape_cell(row.label or row.name),
            escape_cell(row.base_url or " ".join(row.command)),
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
                    f"### {package}.{name}\n\n" + rst_block(f".. auto{kind}:: {home}\n   :no-index:{members}")
                )
    return "\n\n".join(parts)


def write_module(path: Path) -> str:
    """Writes the page of a module's docstrings and returns the module's name."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    name = f"reference/modules/{module}"
    write(
        f"{name}.md",
        f"---\norphan: true\n---\n\n# {module}\n\n" + rst_block(f".. automodule:: {module}\n   :members:"),
    )
    return module


def modules_page(modules: list[str]) -> str:
    """A table of all modules: links to their pages, and the first paragraph of their docstrings."""
    rows = []
    for module in modules:
        about = (importlib.import_module(module).__doc__ or "").strip().split("\n\n")[0]
        rows.append((f"[{module}](modules/{module}.md)", escape_cell(" ".join(about.split()))))
    return "# Modules\n\n" + table(("module", "what it is"), rows)


def rst_block(text: str) -> str:
    """A block of reStructuredText for an autodoc directive."""
    return f"```{{eval-rst}}\n{text}\n```"


def escape_cell(text: str) -> str:
    """Text escaped for a cell of a table."""
    return text.replace("|", "\\|").replace("{", "&#123;").replace("<", "&lt;").replace("\n", " ")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


if __name__ == "__main__":
    main()
