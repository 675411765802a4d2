#!/usr/bin/env bash
# Builds the wheel and the source distribution, installs the wheel alone, and runs the tests against it, not the checkout.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" install -q build
"$work/build/bin/python" -m build -q --outdir "$work/dist" .
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "$(ls "$work"/dist/*.whl)"
# What a person gets without extras: the package loads, its data is there, the simulator answers.
(cd "$work" && "$work/env/bin/python" -c '
import nbllm, pathlib
assert "site-packages" in nbllm.__file__, nbllm.__file__
assert (pathlib.Path(nbllm.__file__).parent / "py.typed").exists()
answer = nbllm.complete("hello", model="sim/claude")
assert answer.simulated and answer.text
print("the wheel answers:", answer.text[:60])')
"$work/env/bin/pip" install -q "$(ls "$work"/dist/*.whl)[test]"
cp -r tests notebooks pyproject.toml README.md "$work/"
(cd "$work" && "$work/env/bin/python" -m pytest -q -m "not kernel and not slow and not real and not browser" --ignore tests/test_layers.py)
