#!/usr/bin/env bash
# The fast tests, and those of a real kernel, on every other Python that this machine has, of those we say we support. Names those it has not.
set -euo pipefail
status=0
for version in 3.11 3.12 3.13 3.14; do
  python=""
  for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    "$candidate" -c 'pass' 2>/dev/null && python=$candidate  # a version manager's stand-in may be there and not run
  done
  if [ -z "$python" ]; then
    echo "NOT RUN: Python $version is not on this machine"
    continue
  fi
  if [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; then
    echo "Python $version: ran in the step test"
    continue
  fi
  env=$(mktemp -d)
  "$python" -m venv "$env" && "$env/bin/pip" install -q '.[test]' || { echo "CANNOT RUN on Python $version: it could not be set up"; status=1; continue; }
  run=("$env/bin/python" -m pytest -q -p no:cacheprovider -n auto --dist worksteal)
  "${run[@]}" -m "not slow and not kernel and not real and not browser" || status=1
  "${run[@]}" tests/test_kernel.py tests/test_panel.py || status=1
  rm -rf "$env"
done
exit $status
