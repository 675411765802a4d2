"""The README: its blocks run in order in a fresh kernel without a key; the names in it, and in the pages on
cells, providers and benchmarks, exist."""

import re
import tomllib
from pathlib import Path

import pytest

from nbllm.notebook.syntax.options import BENCH_OPTIONS, OPTIONS, SUBCOMMANDS
from nbllm.routing import registry

from .kernels import Kernel

ROOT = Path(__file__).parents[1]
README, CELLS, PROVIDERS, BENCHMARKS = (
    (ROOT / name).read_text("utf-8")
    for name in ("README.md", "docs/cells.md", "docs/providers.md", "docs/benchmarks.md")
)
FENCES = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README)


def spans(*pages):
    """What stands between backquotes, outside of blocks."""
    return [
        span
        for page in pages
        for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"(?ms)^```.*?^```$", "", page))
    ]


SPANS = spans(README, CELLS, PROVIDERS, BENCHMARKS)


def quick(code):
    """The same with fewer blocks, warm, and without the look at the machine, which all take long."""
    shorter = code.replace("blocks=30, cold=True", "blocks=2, warmup=1")
    assert shorter != code or "bench" not in code
    return shorter.replace(", selftest=nbllm.bench.selftest()", "")


@pytest.mark.kernel
@pytest.mark.slow
def test_every_block_runs_in_a_fresh_kernel_without_a_key(tmp_path):
    """As they stand, one after another."""
    cells = [code for kind, code in FENCES if kind in ("", "python")]
    assert 4 == len(cells)
    with Kernel(prepare="") as kernel:
        assert kernel.run(f"import os; os.chdir({str(tmp_path)!r})").ok
        for cell in cells[:-1]:
            ran = kernel.run(cell)
            assert ran.ok, (cell, ran.error)
        for line in quick(cells[-1]).splitlines():
            ran = kernel.run(line)
            assert ran.ok, (line, ran.error)
        assert "sky" in kernel.run("_llm.text").text or kernel.value("len(_llm.text) > 20")
        assert (tmp_path / "report.html").exists()


def test_every_line_it_names_is_there():
    """`%llm WORD`, and the words of its row of lines."""
    words = {w[1] for span in SPANS if (w := re.match(r"%llm ([a-z]+)\b(?!/)", span))}
    words |= set(
        re.findall(r"`(\w+)`", next(line for line in CELLS.splitlines() if line.startswith("| lines |")))
    )
    assert {"models", "simulate", "chat"} <= words
    assert set() == words - set(SUBCOMMANDS) - {"what"}


def test_every_option_it_names_is_there():
    """`name=value` spans are options of a cell or of a benchmark, or stand in the short list below."""
    of_calls = [span for span in spans(README, CELLS, PROVIDERS) if "(" not in span]
    named = {w[1] for span in of_calls if (w := re.match(r"([a-z][a-z_.]*)=[^=]", span))}
    others = {"x.name", "x.start", "x.n_ctx", "name", "by", "since", "oauth", "command", "executor", "window"}
    bench = {name.removeprefix("bench.") for name in BENCH_OPTIONS}
    assert {"attach", "chat", "budget"} <= named
    assert set() == named - set(OPTIONS) - set(BENCH_OPTIONS) - bench - others


@pytest.mark.slow
def test_every_name_of_the_package_is_there():
    """`nbllm.NAME`, in spans and in blocks; `bench.NAME`, too."""
    import nbllm.bench

    code = "\n".join([*SPANS, *(c for kind, c in FENCES if kind == "python")])
    names = set(re.findall(r"(?<!\[tool\.)\bnbllm\.(?!bench|routing|simulator|store|demo)(\w+)", code))
    assert {"complete", "stream", "map"} <= names
    assert set() == {n for n in names if not hasattr(nbllm, n)}
    bench = set(re.findall(r"\bbench\.(\w+)\(", code))
    assert {"run", "coldstart"} <= bench
    assert set() == {n for n in bench if not hasattr(nbllm.bench, n)}


ROWS = [
    (page.name, name, row)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for block in re.findall(r"(?ms)^```toml\n(.*?)^```$", page.read_text("utf-8"))
    for name, row in tomllib.loads(block).get("provider", {}).items()
]


@pytest.mark.parametrize(("page", "name", "row"), ROWS)
def test_every_row_that_a_page_shows_can_be_copied(page, name, row):
    """Into a configuration of one's own."""
    assert name == registry.load(env={}).register(name, row).name


def test_the_rows_of_the_plugin_that_a_page_shows():
    """The function as it stands there."""
    page = (ROOT / "docs/plugins.md").read_text("utf-8")
    names = {}
    exec(re.search(r"(?ms)^```python\n(.*?)^```$", page)[1], names)  # our own page
    for name, row in names["providers"]()["provider"].items():
        assert name == registry.load(env={}).register(name, row).name
