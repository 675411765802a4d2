"""A benchmark in JupyterLab: one table, names that are told apart, and figures, in both themes."""

import pytest

from ..test_bench_styles import TWELVE

pytestmark = pytest.mark.browser
PAIR = "openai/m@ttft=0.02,gap=0.002,tokens=5,claude/m@ttft=0.03,gap=0.002,tokens=5"
LOAD = "%load_ext nbllm\nimport nbllm, json"
WIDE = """cell => {
  const edge = nbllmTest.area(cell).getBoundingClientRect().right + 1;
  return [...nbllmTest.area(cell).querySelectorAll('table, table *, .nbllm > *')].filter(e =>
    e.getBoundingClientRect().right > edge || e.tagName === 'TABLE' && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.tagName + ' ' + e.textContent.slice(0, 40));
}"""


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("models", [1, 2, 5, 12])
def test_a_benchmark_s_dashboard_and_its_figure_fit(notebook, models, theme):
    """One table, not two, nothing beyond the cell's edge, and every name is another."""
    arms = [
        {
            "name": n,
            "model": f"openai/m@ttft={0.02 + 0.01 * i:.2f},gap=0.002,tokens=5,fail_rate={0.3 * (i == 1)}",
        }
        for i, n in enumerate(TWELVE[:models])
    ]
    n = notebook(
        LOAD,
        f"df = nbllm.bench.run({arms!r}, 'Why?', blocks=6, warmup=0, seed=4)",
        f"nbllm.bench.plot(df, theme={theme.lower()!r})",
        f"%llm bench {PAIR} blocks=6 warmup=0",
        height=1400,
    )
    n.theme(f"JupyterLab {theme}")
    n.run(0, 1, 2, 3, timeout=120)
    assert [] == n.js(WIDE, 1)
    assert [1, 1] == [
        n.js("cell => nbllmTest.area(cell).querySelectorAll('table').length", c) for c in (1, 3)
    ]
    names = n.js(
        "() => [...nbllmTest.area(1).querySelectorAll('tbody tr td:first-child')].map(e => e.innerText)"
    )
    assert models == len(set(names))
    n.js("() => nbllmTest.area(1).scrollIntoView()")
    n.shot(f"bench-{models}-{theme.lower()}")
