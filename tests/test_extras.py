"""For a missing package, the error names what to install, before anything is sent."""

import ast
from functools import cache
from pathlib import Path

import pytest

import nbllm
from nbllm.core.errors import ConfigError
from nbllm.core.extras import require_packages

BENCH = Path(nbllm.bench.__file__).parent


def test_a_missing_package_is_named_with_its_extra():
    """And one that is there is no reason to stop."""
    require_packages("This", "bench", "scipy")
    with pytest.raises(ConfigError, match="This needs nbllm_has_no_such and neither_this") as caught:
        require_packages("This", "bench", "scipy", "nbllm_has_no_such", "neither_this")
    assert "'nbllm[bench]'" in caught.value.hint


@cache
def imports(name):
    """The import statements of a module of bench."""
    nodes = ast.walk(ast.parse((BENCH / f"{name}.py").read_text("utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def heavy(module):
    """The packages of the extra that a module of bench imports, itself or by another one of bench."""
    found, seen, todo = set(), set(), [module]
    while todo:
        name = todo.pop()
        if name in seen or not (BENCH / f"{name}.py").exists():
            continue
        seen.add(name)
        for node in imports(name):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                todo += [node.module] if node.module else [a.name for a in node.names]
            else:
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                found |= {n.split(".")[0] for n in names} & {"scipy", "matplotlib"}
    return found


# These need it for detect= alone, where it is looked for; .ci/wheel.sh runs one without.
WITHOUT = {"run", "resume", "runs", "chunks", "tokens", "selftest"}


@pytest.mark.parametrize("name", sorted(set(nbllm.bench.__all__) - WITHOUT))
def test_what_a_name_of_bench_needs_is_looked_for_first(name):
    """Those that need none of them run without."""
    assert heavy(nbllm.bench._MODULE_OF[name].lstrip(".")) == set(nbllm.bench._EXTRA_PACKAGES.get(name, ()))
