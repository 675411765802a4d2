"""The report of a benchmark in a browser: nothing is off screen and all text reads, on a desk and a phone."""

import pytest

import nbllm

from ..test_bench_pages import frame, rows
from ..test_bench_styles import TWELVE
from .conftest import SHOTS

pytestmark = pytest.mark.browser
OFF_SCREEN = """() => [...document.querySelectorAll('body, body *')].filter(e => {
  const box = e.getBoundingClientRect(), wide = document.documentElement.clientWidth + 1;
  return box.right > wide || box.left < -1 || e.scrollWidth > Math.max(e.clientWidth + 1, 1) && e.clientWidth;
}).map(e => e.tagName + ' ' + e.textContent.slice(0, 60))"""
PALE = """() => {
  const rgb = words => words.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
  const bent = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const lum = colour => { const [r, g, b] = rgb(colour).map(bent);
                          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const style = e => getComputedStyle(e);
  const page = e => { while (e && style(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;
                      return e ? style(e).backgroundColor : 'rgb(255, 255, 255)'; };
  const contrast = e => { const [a, b] = [lum(style(e).color), lum(page(e))].sort((x, y) => y - x);
                          return (a + 0.05) / (b + 0.05); };
  const written = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll('main *')].filter(e => written(e) && contrast(e) < 4.5)
    .map(e => e.tagName + '.' + e.className);
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Of one, two, five and twelve models with long names, some at several loads, some failing."""
    folder = tmp_path_factory.mktemp("reports")
    for n in (1, 2, 5, 12):
        df = frame(
            *(
                rows(
                    name,
                    200 * (1 + i),
                    n=8,
                    concurrency=c,
                    fail=0.3 * (i == 1),
                    seed=i,
                    cost_usd=0.001 * (i + 1),
                )
                for i, name in enumerate(TWELVE[:n])
                for c in ((1, 4) if n == 5 else (1,))
            )
        )
        nbllm.bench.report(df, folder / f"{n}.html")
    return folder


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("models", [1, 2, 5, 12])
def test_a_report_fits_the_screen(browser, reports, models, scheme, width):
    """Folded and unfolded, without a bar to scroll sideways."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(f"file://{reports / f'{models}.html'}")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"report-{models}-{scheme}-{width}.png"), full_page=True)
    for unfolded in (False, True):
        page.evaluate(
            "open => document.querySelectorAll('details').forEach(d => { d.open = open; })", unfolded
        )
        assert ([], []) == (page.evaluate(OFF_SCREEN), page.evaluate(PALE))
    page.close()
