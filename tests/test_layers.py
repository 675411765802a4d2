"""The architecture of the package, checked file by file: the order of the layers, no import cycles, reasons
for late imports, the places of third-party imports, and size."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # `make check` runs it

ROOT = Path(__file__).resolve().parent.parent / "nbllm"
FILES = sorted(ROOT.rglob("*.py"))

# From bottom to top; a layer imports only layers below it. The client builds the chain of handlers, with the
# loop over tools, and so is above `tools`. Tools run on the engine's event loop; the client passes them its
# connections. `simulator` is outside of this order and imports only the pure layers.
LAYERS = [
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
SIMULATOR = "simulator"
MAY_START_SIMULATOR = {"routing", "notebook", "bench", ""}

PURE = {"core", "dialects"}
IMPURE_MODULES = {"httpx", "httpx_sse", "asyncio", "os", "time", "threading", "subprocess", "socket"}
ONLY_IN_LAYERS = {
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

# An import inside a function has one of two reasons. The first: the package is heavy or may not be installed.
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
        "typing_extensions",  # a dependency of pydantic, for types of older Pythons
    ),
    *("opentelemetry", "jupyter_core"),
    *("a2a", "anyio", "idna", "tqdm", "tomlkit", "resource", "keyring", "docstring_parser", "truststore"),
    *("httpx", "certifi"),
}
# The second: a module of ours that loads on first use: (importing module, imported module).
LATE_PARTS = {
    ("__init__", "*"),
    ("bench/cold_start", "*"),  # each step measures the time of its imports
    ("bench/runner", "bench.token_times"),
    ("client/api", "client.catalog"),
    ("client/attempt", "agents.base"),
    ("client/client", "client.agent"),  # these load with the first tool
    ("client/client", "client.permissions"),
    ("client/client", "client.remote_tool"),
    ("client/client", "tools.changes"),
    ("client/client", "tools.http"),
    ("client/client", "tools.mcp_servers"),
    ("notebook/completion", "notebook.tool_names"),
    ("notebook/hooks", "*"),  # %load_ext loads the hooks, not what they call
    ("notebook/session", "*"),  # nor what a call needs
    ("client/api", "client.embeddings"),
    ("client/api", "client.tokens"),
    ("client/api", "client.unloading"),
    ("client/pool", "agents.transports"),  # load with the first command or agent
    ("client/prepare", "agents.local_server"),
    ("client/prepare", "agents.protocols"),
    ("routing/dialects", "*"),
    ("http/transport", "http.through_httpx"),  # proxies
    ("agents/remote", "http.sdk"),  # agents on other machines
    ("notebook/cell", "agents.protocols"),
    ("notebook/cell", "notebook.rows"),  # subpackage rows
    ("notebook/painters", "notebook.view.rich_text"),  # rich, in terminals that have it
    ("notebook/bench_magics", "*"),  # subpackage bench
    ("notebook/calls", "bench.figures"),
    ("notebook/commands", "*"),  # each command imports what it needs
    ("notebook/magics", "*"),  # %load_ext loads no commands and no rendering
    ("notebook/view/static", "store.measure"),
    ("routing/keys", "routing.oauth"),
    ("routing/registry", "simulator"),
    ("simulator/__init__", "simulator.scripts"),
    ("simulator/__init__", "simulator.server"),
}
_STANDARD_LIBRARY = sys.stdlib_module_names - {"resource"}  # late imports of the standard library are fine

# Allowed statements, without docstrings. A commit that needs more says what for; one that needs less lowers
# the number. The reasons of each increase: git log -L '/^BUDGETS/,/^}/:tests/test_layers.py'
BUDGETS = {
    ("core", "dialects", "http", "agents", "routing", "client", "store"): 17_370,
    ("rows",): 1_121,
    ("notebook",): 5_998,
    ("tools",): 2_296,
    ("bench",): 4_808,
    ("simulator",): 2_637,
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def layer_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0] if "/" in name else ""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def import_statements(found: Iterable[ast.AST]) -> list[ast.stmt]:
    return [n for n in found if isinstance(n, ast.Import | ast.ImportFrom)]


@cache
def late_imports(path: Path) -> list[ast.stmt]:
    """The imports inside functions."""
    functions = [n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [n for f in functions for n in import_statements(ast.walk(f))]


def violations(found: Callable[[Path], set[str]]) -> dict[str, set[str]]:
    """The violations by file, without the files that have none. One test checks all files, because with `-n`
    each process would parse them all."""
    return {name_of(path): found_in_file for path in FILES if (found_in_file := found(path))}


def third_party_packages(node: ast.stmt) -> set[str]:
    """The third-party packages that a statement imports."""
    if isinstance(node, ast.Import):
        return {a.name.split(".")[0] for a in node.names}
    return (
        {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) and not node.level else set()
    )


def own_modules(path: Path, node: ast.stmt) -> set[str]:
    """Our own modules that a statement imports, as a/b."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return set()
    package = list(path.relative_to(ROOT).parts[:-1])
    package = package[: len(package) - (node.level - 1)]
    base = "/".join([*package, *(node.module or "").split(".")]).strip("/")
    found = set()
    for alias in node.names:
        candidate = f"{base}/{alias.name}".strip("/")
        module = candidate if (ROOT / f"{candidate}.py").exists() or (ROOT / candidate).is_dir() else base
        found.add(f"{module}/__init__" if (ROOT / module).is_dir() else module)
    return found


def imports(path: Path) -> set[str]:
    return {m for n in import_statements(nodes(path)) for m in own_modules(path, n)} - {name_of(path)}


def upward_imports(path: Path) -> set[str]:
    layer = layer_of(name_of(path))
    layers = {layer_of(m) for m in imports(path)} - {layer}
    if layer == SIMULATOR:
        return layers - PURE
    found = {f for f in layers - {SIMULATOR} if LAYERS.index(f) >= LAYERS.index(layer)}
    return found | ({SIMULATOR} & layers if layer not in MAY_START_SIMULATOR else set())


def test_an_import_points_down():
    """A layer imports neither a layer above it nor another at its level."""
    assert {} == violations(upward_imports)


def test_there_is_no_import_cycle():
    """Imports inside functions and for types count too."""
    graph = {name_of(p): imports(p) - {"__init__"} for p in FILES if name_of(p) != "__init__"}
    done: set[str] = set()

    def walk(name: str, route: list[str]) -> None:
        assert name not in route, f"an import cycle: {' -> '.join([*route[route.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, [*route, name])
            done.add(name)

    for name in graph:
        walk(name, [])


def unlisted_late_imports(path: Path) -> set[str]:
    allowed = {what for who, what in LATE_PARTS if who == name_of(path)}
    found = {
        m.removesuffix("/__init__").replace("/", ".")
        for n in late_imports(path)
        for m in own_modules(path, n)
    }
    packages = (
        {p for n in late_imports(path) for p in third_party_packages(n)}
        - LATE_PACKAGES
        - _STANDARD_LIBRARY
        - {"nbllm"}
    )
    return packages | (set() if "*" in allowed else found - allowed)


def test_every_late_import_is_listed():
    """Each is in one of the two tables above."""
    assert {} == violations(unlisted_late_imports)


def misplaced_imports(path: Path) -> set[str]:
    layer = layer_of(name_of(path))
    found = {p for n in import_statements(nodes(path)) for p in third_party_packages(n)}
    at_import = {p for n in import_statements(tree(path).body) for p in third_party_packages(n)}
    elsewhere = {p for p in found if layer not in ONLY_IN_LAYERS.get(p, (layer,))}
    pandas = at_import & {"pandas"} if layer != "bench" else set()
    return elsewhere | pandas | (found & IMPURE_MODULES if layer in PURE else set())


def test_third_party_imports_are_in_their_layer():
    """Pure layers use no clock, socket or thread; httpx and IPython are imported in one layer each; pandas
    only inside functions, but for modules of bench that need a frame."""
    assert {} == violations(misplaced_imports)


CALL_KINDS = {
    "HttpCall",
    "ProcessCall",
    "AgentCall",
    "SessionCall",
    "PreparedRequest",
    "SessionTurn",
    "SessionReply",
}


def call_kinds_checked(path: Path) -> set[str]:
    if layer_of(name_of(path)) not in {"client", "notebook", "bench"}:
        return set()
    asked = [
        n
        for n in nodes(path)
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") in {"isinstance", "issubclass"}
    ]
    return CALL_KINDS & {w.id for n in asked for w in ast.walk(n) if isinstance(w, ast.Name)}


def test_no_layer_above_checks_the_kind_of_a_call():
    """A transport is found by the kind of its call; the layers above do not check that kind."""
    assert {} == violations(call_kinds_checked)


def dialect_names_used(path: Path) -> set[str]:
    if layer_of(name_of(path)) not in {"client", "notebook"}:
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
    named = {w.value for n in compared for w in ast.walk(n) if isinstance(w, ast.Constant)}
    texts = {n.value for n in nodes(path) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return named | (texts & {*DIALECTS} - rows)


def test_no_dialect_is_compared_by_name():
    """What only some dialects support is a field of the dialect."""
    assert {} == violations(dialect_names_used)


# The module state that functions may write, one of each per process: the engine, the client, keys that the
# user typed, the store, the built-in simulator, and locks that are replaced in a forked child.
PROCESS_STATE = {
    ("client/engine", "_engine"),
    ("client/engine", "_lock"),
    ("client/api", "_client"),
    ("routing/keys", "_session_keys"),  # keys that the user typed are for every client
    ("routing/oauth", "_locks"),  # a login is renewed once for all clients
    ("store/history", "_ledger_file"),
    ("store/history", "_paused"),  # while a process forks
    ("store/history", "_lock"),
    ("store/ledger", "_ALL"),  # weak
    ("simulator/__init__", "_shared"),
    ("simulator/__init__", "_lock"),
    ("simulator/server", "_running"),  # weak
}
MUTATING_METHODS = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "move_to_end", "pop", "popitem"),
    *("popleft", "remove", "setdefault", "update"),
}


def root_name(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def mutated_names(node: ast.AST) -> set[str]:
    """The names of the objects that a statement or call mutates."""
    if isinstance(node, ast.Global):
        return set(node.names)
    if isinstance(node, ast.Call):
        counts = getattr(node.func, "id", "") == "next" and node.args
        changes = isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING_METHODS
        return {root_name(node.args[0] if counts else node.func)} if counts or changes else set()
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {root_name(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript)}


@cache
def module_names(path: Path) -> set[str]:
    assigned = [t for n in tree(path).body for t in getattr(n, "targets", [getattr(n, "target", None)])]
    return {t.id for t in assigned if isinstance(t, ast.Name)}


def module_state_written(path: Path) -> set[str]:
    """The names of this and of other modules that functions write to."""
    functions = [n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = module_names(path)
    for node in import_statements(tree(path).body):
        for module in own_modules(path, node):
            file = ROOT / f"{module}.py"
            known = module_names(file) if file.exists() else set()
            names |= {a.asname or a.name for a in node.names if a.name in known}
    local = {f: {a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)} for f in functions}
    written = {name for f in functions for n in ast.walk(f) for name in mutated_names(n) - local[f]}
    return {name for name in written & names if (name_of(path), name) not in PROCESS_STATE}


def test_no_module_state_changes_after_import():
    """State belongs to the engine, a client, the store or a notebook's session."""
    assert {} == violations(module_state_written)


def statements(path: Path) -> int:
    found = [n for n in nodes(path) if isinstance(n, ast.stmt)]
    words = [
        n
        for n in found
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
    ]
    return len(found) - len(words)


@pytest.mark.parametrize("subpackages", BUDGETS, ids="+".join)
def test_a_subpackage_stays_within_its_budget(subpackages):
    """More statements need a larger budget, with a reason."""
    used = sum(statements(p) for p in FILES if layer_of(name_of(p)) in subpackages)
    assert used <= BUDGETS[subpackages]


def test_the_map_of_the_package_is_right():
    """CONTRIBUTING.md lists every folder, in the order of the layers, and names no file that does not
    exist."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text("utf-8")
    folders = {p.parent.relative_to(ROOT).as_posix() for p in FILES} - {"."}
    assert set() == {f for f in folders if f" {f.rpartition('/')[2]}/ " not in text}
    positions = [text.index(f"\n {layer}/ ") for layer in reversed(LAYERS) if layer]
    assert sorted(positions) == positions
    named = {w for w in re.findall(r"`([\w./-]+\.(?:py|toml|md))`", text) if "/" in w}
    assert set() == {n for n in named if not any((at / n).exists() for at in (ROOT, ROOT.parent))}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("nbllm, nbllm.errors", HEAVY),
        ("nbllm.bench.worker, nbllm.bench.cold_start", {"pandas", "numpy", "scipy", "matplotlib"}),
        ("nbllm.bench.runner", {"pandas", "scipy", "matplotlib"}),
    ],
)
def test_imports_are_light(modules, heavy):
    """`import nbllm` loads no heavy package, a benchmark's processes none for tables, and a benchmark starts
    before pandas is loaded."""
    code = f"import sys, {modules}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set() == heavy & set(loaded)


def test_all_lists_what_can_be_imported():
    """The names in `__all__` can be imported and are listed by dir()."""
    import nbllm

    assert set() == {name for name in nbllm.__all__ if getattr(nbllm, name, None) is None}
    assert set(nbllm.__all__) <= set(dir(nbllm))
