"""The walls of the house, checked file by file: floors, no circles, what is imported late and why, where
outside things live, size."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "nbllm"
FILES = sorted(ROOT.rglob("*.py"))

# Bottom to top. An import points down: the client makes its chain of handlers, the loop over tools among
# them, and so stands above what a model may use. What tools need of the engine's loop they find running (they
# are awaited there); what they need of its connections they are given. `simulator` stands beside the tower
# and knows the vocabulary only.
FLOORS = [
    "core",
    "dialects",
    "http",
    "agents",
    "routing",
    "store",
    "tools",
    "client",
    "rows",
    "bench",
    "notebook",
    "",
]
BESIDE = "simulator"
WHO_STARTS_IT = {"routing", "notebook", "bench", ""}  # the simulator

PURE = {"core", "dialects"}
NOT_PURE = {"httpx", "httpx_sse", "asyncio", "os", "time", "threading", "subprocess", "socket"}
ONLY_IN = {
    **dict.fromkeys(("httpx", "httptools", "aiohappyeyeballs", "httpx_sse"), ("http",)),
    **dict.fromkeys(("mcp", "mcp_types", "httpx2"), ("tools",)),
    **dict.fromkeys(("a2a", "xllamacpp"), ("agents",)),
    "anyio": ("http", "tools"),
    "opentelemetry": ("client",),
    **dict.fromkeys(("IPython", "ipywidgets"), ("notebook",)),
}
HEAVY = {
    *("pandas", "numpy", "scipy", "matplotlib", "pyarrow", "pydantic", "jsonschema", "referencing"),
    *("ipywidgets", "anywidget", "markdown_it", "pygments", "mcp", "mcp_types", "genai_prices", "httpx"),
    "httpx2",
    "httpx_sse",
    "a2a",
    "xllamacpp",
}

# An import inside a function is for one of two reasons. The first: a package that is heavy, or that may not
# be there.
LATE_PACKAGES = HEAVY | {
    *(
        "IPython",
        "traitlets",
        "comm",
        "nbformat",
        "nbclient",
        "nbconvert",
        "platformdirs",
        "dotenv",
        "tiktoken",
        "tokenizers",
        "rich",
        "typing_extensions",  # pydantic brings it, for types of older Pythons
    ),
    *("opentelemetry", "jupyter_core"),
    *("a2a", "anyio", "idna", "tqdm", "tomlkit", "resource", "keyring", "docstring_parser", "truststore"),
    *("httpx", "certifi"),
}
# The second: a part of ours that loads when it is first used. (who, what)
LATE_PARTS = {
    ("__init__", "*"),
    ("bench/cold_start", "*"),  # a rung measures what its own imports take
    ("bench/plots", "bench.runner"),
    ("bench/plots", "bench.token_times"),
    ("bench/runner", "bench.token_times"),
    ("client/api", "client.catalog"),
    ("client/attempt", "agents.base"),
    ("client/client", "client.agent"),  # what tools need loads with the first of them
    ("client/client", "client.permits"),
    ("client/client", "client.remote_tool"),
    ("client/client", "tools.changes"),
    ("client/client", "tools.http"),
    ("client/client", "tools.mcp_servers"),
    ("notebook/completion", "notebook.tool_names"),
    ("notebook/hooks", "*"),  # %load_ext brings what is hooked in, and not what it does
    ("notebook/session", "*"),  # nor what a call needs
    ("client/api", "client.embeddings"),
    ("client/api", "client.tokens"),
    ("client/api", "client.unloading"),
    ("client/pool", "agents.transports"),  # commands and agents load with the first of them
    ("client/prepare", "agents.local_server"),
    ("client/prepare", "agents.protocols"),
    ("routing/dialects", "*"),
    ("http/transport", "http.through_httpx"),  # proxies
    ("agents/remote", "http.sdk"),  # agents on other machines
    ("notebook/cell", "agents.protocols"),
    ("notebook/cell", "notebook.rows"),  # the rows wing
    ("notebook/painters", "notebook.view.rich_text"),  # rich, in terminals that have it
    ("notebook/bench_magics", "*"),  # the bench wing
    ("notebook/calls", "bench.figures"),
    ("notebook/commands", "*"),  # a command brings what it needs
    ("notebook/magics", "*"),  # %load_ext brings no command and no drawing
    ("notebook/view/static", "store.measure"),
    ("routing/keys", "routing.oauth"),
    ("routing/registry", "simulator"),
    ("simulator/__init__", "simulator.scripts"),
    ("simulator/__init__", "simulator.server"),
}
_STANDARD = sys.stdlib_module_names - {
    "resource"
}  # late ones of the standard library cost nothing to anybody

# Statements, docstrings not counted. The plan of November was 13,200 for what the package then did. Since
# then came tools, MCP and remote agents, tables and batches, failover, budgets, recordings, a cache,
# embeddings, logins, local models, verdicts on answers, and faster paths. What each raise
# bought is in the history: git log -L '/^BUDGETS/,/^}/:tests/test_layers.py'
# A commit that needs more says what for; one that needs less lowers the number.
BUDGETS = {
    ("core", "dialects", "http", "agents", "routing", "client", "store"): 17_419,
    ("rows",): 1_127,
    ("notebook",): 6_008,
    ("tools",): 2_306,
    ("bench",): 4_861,
    ("simulator",): 2_645,
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def floor_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0] if "/" in name else ""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def importing(found: Iterable[ast.AST]) -> list[ast.stmt]:
    return [n for n in found if isinstance(n, ast.Import | ast.ImportFrom)]


@cache
def late(path: Path) -> list[ast.stmt]:
    """The imports inside functions."""
    functions = [n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [n for f in functions for n in importing(ast.walk(f))]


def offending(found: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    """What is found in the files where something is. One test for all files: each process of `-n` would read
    them all for the tests that it gets."""
    return {name_of(path): wrong for path in FILES if (wrong := found(path))}


def outside(node: ast.stmt) -> set[str]:
    """The packages of others that a statement imports."""
    if isinstance(node, ast.Import):
        return {a.name.split(".")[0] for a in node.names}
    return (
        {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) and not node.level else set()
    )


def ours(path: Path, node: ast.stmt) -> set[str]:
    """Our own modules that a statement imports, as a/b."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return set()
    package = list(path.relative_to(ROOT).parts[:-1])
    package = package[: len(package) - (node.level - 1)]
    base = "/".join([*package, *(node.module or "").split(".")]).strip("/")
    found = set()
    for alias in node.names:
        whole = f"{base}/{alias.name}".strip("/")
        module = whole if (ROOT / f"{whole}.py").exists() or (ROOT / whole).is_dir() else base
        found.add(f"{module}/__init__" if (ROOT / module).is_dir() else module)
    return found


def imports(path: Path) -> set[str]:
    return {m for n in importing(nodes(path)) for m in ours(path, n)} - {name_of(path)}


def upwards(path: Path) -> set[str]:
    here = floor_of(name_of(path))
    there = {floor_of(m) for m in imports(path)} - {here}
    if here == BESIDE:
        return there - PURE  # the simulator knows the vocabulary only
    found = {f for f in there - {BESIDE} if FLOORS.index(f) >= FLOORS.index(here)}
    return found | ({BESIDE} & there if here not in WHO_STARTS_IT else set())


def test_an_import_points_down():
    """Never up, never sideways between wings."""
    assert {} == offending(upwards)


def test_no_circle_of_files():
    """Imports inside functions and for types counted."""
    graph = {name_of(p): imports(p) - {"__init__"} for p in FILES if name_of(p) != "__init__"}
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, [*way, name])
            done.add(name)

    for name in graph:
        walk(name, [])


def without_reason(path: Path) -> set[str]:
    allowed = {what for who, what in LATE_PARTS if who == name_of(path)}
    found = {m.removesuffix("/__init__").replace("/", ".") for n in late(path) for m in ours(path, n)}
    packages = {p for n in late(path) for p in outside(n)} - LATE_PACKAGES - _STANDARD - {"nbllm"}
    return packages | (set() if "*" in allowed else found - allowed)


def test_late_imports_have_a_reason():
    """They stand in one of the two tables above."""
    assert {} == offending(without_reason)


def homeless(path: Path) -> set[str]:
    here = floor_of(name_of(path))
    found = {p for n in importing(nodes(path)) for p in outside(n)}
    early = {p for n in importing(tree(path).body) for p in outside(n)}
    elsewhere = {p for p in found if here not in ONLY_IN.get(p, (here,))}
    return elsewhere | (early & {"pandas"}) | (found & NOT_PURE if here in PURE else set())


def test_outside_things_have_one_home():
    """Pure floors know no clock, socket or thread; httpx and IPython are imported in one package each; pandas
    inside functions."""
    assert {} == offending(homeless)


KINDS = {
    "HttpCall",
    "ProcessCall",
    "AgentCall",
    "SessionCall",
    "PreparedRequest",
    "SessionTurn",
    "SessionReply",
}


def kinds_asked_for(path: Path) -> set[str]:
    if floor_of(name_of(path)) not in {"client", "notebook", "bench"}:
        return set()
    asked = [
        n
        for n in nodes(path)
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") in {"isinstance", "issubclass"}
    ]
    return KINDS & {w.id for n in asked for w in ast.walk(n) if isinstance(w, ast.Name)}


def test_no_kind_of_call_is_asked_for():
    """A transport is found by its call's kind, and a call shows itself: nobody above asks which it is."""
    assert {} == offending(kinds_asked_for)


def dialects_named(path: Path) -> set[str]:
    if floor_of(name_of(path)) not in {"client", "notebook"}:
        return set()
    from nbllm.routing.dialects import DIALECTS
    from nbllm.routing.registry import load

    rows = set(load().rows)  # some providers are called as their dialect is
    compared = [
        n
        for n in nodes(path)
        if isinstance(n, ast.Compare)
        and any(isinstance(w, ast.Attribute) and w.attr in ("dialect", "batch") for w in ast.walk(n))
    ]
    told = {w.value for n in compared for w in ast.walk(n) if isinstance(w, ast.Constant)}
    texts = {n.value for n in nodes(path) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return told | (texts & {*DIALECTS} - rows)


def test_no_dialect_is_known_by_name():
    """What few dialects can do stands in their own values."""
    assert {} == offending(dialects_named)


# What functions may write outside of themselves, one of each in a process: the engine, the client, what a
# person typed, the store, the built-in simulator, and who must renew its locks in a forked child.
PROCESS_WIDE = {
    ("client/engine", "_engine"),
    ("client/engine", "_lock"),
    ("client/api", "_client"),
    ("routing/keys", "_session_keys"),  # what a person typed holds for every client
    ("routing/oauth", "_locks"),  # a login is renewed once, whichever client notices
    ("store/history", "_book"),
    ("store/history", "_held"),  # while a process forks
    ("store/history", "_lock"),
    ("store/ledger", "_ALL"),  # weak
    ("simulator/__init__", "_shared"),
    ("simulator/__init__", "_lock"),
    ("simulator/server", "_running"),  # weak
}
CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "move_to_end", "pop", "popitem"),
    *("popleft", "remove", "setdefault", "update"),
}


def root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def changed(node: ast.AST) -> set[str]:
    """The names of what a statement or call changes in place."""
    if isinstance(node, ast.Global):
        return set(node.names)
    if isinstance(node, ast.Call):
        counts = getattr(node.func, "id", "") == "next" and node.args
        changes = isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES
        return {root(node.args[0] if counts else node.func)} if counts or changes else set()
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {root(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript)}


@cache
def module_names(path: Path) -> set[str]:
    assigned = [t for n in tree(path).body for t in getattr(n, "targets", [getattr(n, "target", None)])]
    return {t.id for t in assigned if isinstance(t, ast.Name)}


def written_later(path: Path) -> set[str]:
    """The module's own names, and those of others, that functions write."""
    functions = [n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = module_names(path)
    for node in importing(tree(path).body):
        for module in ours(path, node):
            there = ROOT / f"{module}.py"
            known = module_names(there) if there.exists() else set()
            names |= {a.asname or a.name for a in node.names if a.name in known}
    local = {f: {a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)} for f in functions}
    written = {name for f in functions for n in ast.walk(f) for name in changed(n) - local[f]}
    return {name for name in written & names if (name_of(path), name) not in PROCESS_WIDE}


def test_no_table_of_a_module_changes_after_import():
    """State is the engine's, a client's, the store's or a notebook's session's."""
    assert {} == offending(written_later)


def statements(path: Path) -> int:
    found = [n for n in nodes(path) if isinstance(n, ast.stmt)]
    words = [
        n
        for n in found
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
    ]
    return len(found) - len(words)


@pytest.mark.parametrize("wings", BUDGETS, ids="+".join)
def test_a_wing_keeps_to_its_budget(wings):
    """When it is spent, something must go."""
    spent = sum(statements(p) for p in FILES if floor_of(name_of(p)) in wings)
    assert spent <= BUDGETS[wings]


def test_the_map_of_the_house_is_right():
    """CONTRIBUTING.md has every folder, from the top down as imports point, and names no file in vain."""
    told = (ROOT.parent / "CONTRIBUTING.md").read_text("utf-8")
    folders = {p.parent.relative_to(ROOT).as_posix() for p in FILES} - {"."}
    assert set() == {f for f in folders if f" {f.rpartition('/')[2]}/ " not in told}
    placed = [told.index(f"\n {floor}/ ") for floor in reversed(FLOORS) if floor]
    assert sorted(placed) == placed
    named = {w for w in re.findall(r"`([\w./-]+\.(?:py|toml|md))`", told) if "/" in w}
    assert set() == {n for n in named if not any((at / n).exists() for at in (ROOT, ROOT.parent))}


def test_import_nbllm_is_light():
    """`import nbllm` brings nothing heavy."""
    code = "import sys, nbllm, nbllm.errors; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set() == HEAVY & set(loaded)


def test_what_all_names_is_what_there_is():
    """`__all__` and the names that can be reached are the same."""
    import nbllm

    assert set() == {name for name in nbllm.__all__ if getattr(nbllm, name, None) is None}
    assert set(nbllm.__all__) <= set(dir(nbllm))
