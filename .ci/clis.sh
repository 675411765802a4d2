#!/usr/bin/env bash
# The headless CLIs at the versions that were measured, into $NBLLM_REAL/clis; with --test the tests against them.
set -euo pipefail
real=${NBLLM_REAL:-$HOME/.cache/nbllm-ci}
mkdir -p "$real/clis"
if [ ! -e "$real/clis/complete" ]; then
  npm install --prefix "$real/clis" --silent --no-fund --no-audit @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 @google/gemini-cli@0.61.0 \
    @github/copilot@1.0.102 opencode-ai@1.18.33
  node "$real/clis/node_modules/opencode-ai/postinstall.mjs" # npm may not have run it
  touch "$real/clis/complete"
fi
[ "${1:-}" = --test ] || exit 0
NBLLM_REAL=$real .venv/bin/python -m pytest -q -m real tests/real/test_clis.py
