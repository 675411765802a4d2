#!/usr/bin/env bash
# Builds the wheel and the source distribution, and installs the wheel alone. It holds the very files that the step
# test has tested, so only what a wheel can lack is tried again: its files, their data, what it says it depends on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" install -q build
"$work/build/bin/python" -m build -q --outdir "$work/dist" .
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "$(ls "$work"/dist/*.whl)"
installed=$(cd "$work" && "$work/env/bin/python" -c 'import nbllm, pathlib; print(pathlib.Path(nbllm.__file__).parent)')
case $installed in "$work"/env/*/site-packages/nbllm) ;; *) echo "not the wheel's: $installed"; exit 1 ;; esac
git ls-files -z nbllm | xargs -0 -I{} cmp {} "$(dirname "$installed")/{}"
size=$(du -sm "$work/env/lib" | cut -f1)
echo "without extras: $size MB"
((size <= 350)) || { echo "more than 350 MB"; exit 1; }
# Without extras: every module loads, but those that draw figures; the simulator answers, a benchmark's processes start.
(cd "$work" && "$work/env/bin/python" -W ignore -c '
import importlib, pkgutil
import nbllm
for module in pkgutil.walk_packages(nbllm.__path__, "nbllm."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert (error.name, module.name.rpartition(".")[0]) == ("matplotlib", "nbllm.bench"), module.name
answer = nbllm.complete("hello", model="sim/claude")
assert answer.simulated and answer.text
frame = nbllm.bench.run("sim/openai@ttft=0.01,gap=0.001,tokens=3", "Go.", blocks=2, warmup=0, progress=False)
assert frame["ok"].all()
for name in nbllm.bench.__all__:
    try:
        getattr(nbllm.bench, name)
    except nbllm.errors.ConfigError as error:
        assert "nbllm[bench]" in error.hint, error
        print(error.message)
print("the wheel answers:", answer.text[:60])')
"$work/env/bin/pip" install -q "$(ls "$work"/dist/*.whl)[test]"
cp -r tests notebooks conftest.py pyproject.toml README.md "$work/"
(cd "$work" && "$work/env/bin/python" -m pytest -q -n auto tests/test_registry.py tests/test_catalog.py tests/test_config.py \
  tests/test_simulator.py tests/test_answer_cells.py tests/test_notebooks.py tests/test_mcp.py)
