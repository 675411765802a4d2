#!/usr/bin/env bash
# The headless CLIs at the versions that were measured, into $NBLLM_REAL/clis; with --test the tests against them.
set -euo pipefail
real=${NBLLM_REAL:-$HOME/.cache/nbllm-ci}
mkdir -p "$real/clis"
if [ ! -e "$real/clis/node_modules/.bin/gemini" ]; then
  npm install --prefix "$real/clis" --silent --no-fund --no-audit @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 @google/gemini-cli@0.61.0
fi
[ "${1:-}" = --test ] || exit 0
NBLLM_REAL=$real .venv/bin/python -m pytest -q -m real tests/real/test_clis.py
