#!/usr/bin/env bash
# The notebooks in a real JupyterLab in headless Chromium.
set -euo pipefail
[ -f .venv/.browser ] || { .venv/bin/pip install -q --editable '.[test,lab]' playwright && touch .venv/.browser; }
.venv/bin/python -m pytest -q -m browser tests/browser --ignore tests/browser/test_mcp_notebook.py  # .ci/real.sh has that one's packages
