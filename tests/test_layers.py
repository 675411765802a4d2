"""The floors of the house: an import points down, and heavy or outside things are imported in one place only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "nbllm"

# Bottom to top. A module may import its own floor's package and every floor below; `simulator` stands beside the tower.
FLOORS = [
    {"addresses", "errors", "events", "files", "messages"}, {"wire"}, {"dialects"}, {"policy", "prompt", "prices", "structured", "toml_edit"},
    {"keys", "oauth", "engine", "streams", "transports"}, {"pieces"}, {"columns", "measure"}, {"ledger"}, {"tables"}, {"config"}, {"registry"}, {"client"},
    {"questions"}, {"catalog", "tokens"}, {"api"},
    {"bench", "rows", "cluster"}, {"notebook"}, {"__init__"},
]
PURE = {"addresses", "messages", "events", "errors", "wire", "dialects", "policy", "prompt"}
NOT_PURE = {"httpx", "httpx_sse", "asyncio", "os", "time", "threading", "subprocess", "socket"}
ONLY_IN = {"httpx": "transports", "httptools": "transports", "aiohappyeyeballs": "transports", "anyio": "transports", "httpx_sse": "transports", "IPython": "notebook", "ipywidgets": "notebook"}
HEAVY = {"pandas", "matplotlib", "pydantic", "ipywidgets", "mcp", "genai_prices", "numpy", "httpx", "markdown_it", "pygments"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """The modules that a file imports: 'httpx', or '.wire' for our own."""
    tree = ast.parse(path.read_text("utf-8"))
    depth = len(path.relative_to(ROOT).parts)
    nodes = tree.body if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {"." + node.module.split(".")[0]} if node.module else {"." + a.name for a in node.names}
    return found


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_an_import_points_down(path):
    """Never up, never sideways between features."""
    here = part(path)
    ours = {name[1:] for name in imports(path) if name.startswith(".")} - {here}
    if here == "simulator":
        assert all(name in PURE for name in ours), "the simulator knows the vocabulary only"
        return
    wrong = {name for name in ours if name != "simulator" and floor(name) >= floor(here) and floor(here) != 0}
    assert set() == wrong or (floor(here) == 4 and all(floor(n) == 4 for n in wrong))
    assert "simulator" not in ours or here in ("registry", "notebook", "bench", "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_things_have_one_home(path):
    """Pure floors know no clock, socket or thread; httpx and IPython are imported in one package each; pandas inside functions."""
    here, found = part(path), imports(path)
    assert not (here in PURE and found & NOT_PURE)
    assert set() == {name for name in found if ONLY_IN.get(name, here) != here}
    assert "pandas" not in imports(path, top_only=True)


def test_import_nbllm_is_light():
    """`import nbllm` brings nothing heavy."""
    code = "import sys, nbllm, nbllm.errors; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == HEAVY & set(loaded)


def test_what_all_names_is_what_there_is():
    """`__all__` and the names that can be reached are the same."""
    import nbllm

    assert set() == {name for name in nbllm.__all__ if getattr(nbllm, name, None) is None}
    assert set(nbllm.__all__) <= set(dir(nbllm))
