#!/usr/bin/env bash
# Installs third-party servers and SDKs into $NBLLM_REAL (default ~/.cache/nbllm-ci), where they are not there yet;
# with --test runs the tests against them. llama.cpp comes ready-made, with its own server, as the package xllamacpp.
set -euo pipefail
real=${NBLLM_REAL:-$HOME/.cache/nbllm-ci}
shared=$(cd "${NBLLM_SHARED:-../shared}" 2>/dev/null && pwd || true)
mkdir -p "$real"

if [ ! -f "$real/node_modules/@copilotkit/aimock/dist/cli.js" ]; then
  npm install --prefix "$real" --ignore-scripts --silent --no-fund --no-audit @copilotkit/aimock@1.43.0
fi
if [ ! -f "$real/mcp/.installed" ]; then
  npm install --prefix "$real" --ignore-scripts --silent --no-fund --no-audit \
    @modelcontextprotocol/server-{everything,filesystem,memory,sequential-thinking}@2026.8.31
  python3 -m venv "$real/mcp"
  "$real/mcp/bin/pip" install -q mcp==2.3.0 mcp-server-{time,git}==2026.10.19 mcp-server-fetch==2026.10.24 mcp-server-sqlite==2025.4.25
  touch "$real/mcp/.installed"
fi
if [ ! -f "$real/sdks/.installed-4" ]; then
  python3 -m venv "$real/sdks"
  "$real/sdks/bin/pip" install -q openai anthropic google-genai mistralai ollama pytest hypothesis httpx-sse msgspec genai-prices ipython pandas markdown-it-py platformdirs httptools aiohappyeyeballs trustme python-dotenv jsonschema
  touch "$real/sdks/.installed-4"
fi

heavy=yes
if [ -z "$shared" ] || [ ! -d "$shared/real/llamacpp" ]; then
  heavy=no
  echo "NOT RUN: llama.cpp and LiteLLM: the model's and the gateway's scripts are not at ${NBLLM_SHARED:-../shared}/real (set NBLLM_SHARED)"
else
  if [ ! -f "$real/llama/.installed" ]; then
    python3 -m venv "$real/llama"
    "$real/llama/bin/pip" install -q xllamacpp==2026.10.11549 gguf
    touch "$real/llama/.installed"
  fi
  if [ ! -f "$real/litellm/.installed" ]; then
    python3 -m venv "$real/litellm"
    "$real/litellm/bin/pip" install -q 'litellm[proxy]==1.106.2' prisma
    touch "$real/litellm/.installed"
  fi
  [ -f "$real/tiny.gguf" ] || "$real/llama/bin/python" "$shared/real/llamacpp/make_tiny_gguf.py" "$real/tiny.gguf"
fi

# jupyter-mcp-server brings Jupyter's collaboration, which runs cells in another way: an environment of its own.
jupyter=$real/jupyter/.installed-$(sha256sum pyproject.toml | cut -c1-12)
if [ ! -f "$jupyter" ]; then
  rm -rf "$real/jupyter"
  python3 -m venv "$real/jupyter"
  "$real/jupyter/bin/pip" install -q '.[test,lab,jupyter]' playwright
  touch "$jupyter"
fi

[ "${1:-}" = --test ] || exit 0
PYTHONPATH=. "$real/sdks/bin/python" -m pytest -q -m real tests/real/test_simulator_sdks.py tests/real/test_simulator_batch_sdks.py
ignore=()
[ "$heavy" = yes ] || ignore=(--ignore tests/real/test_llamacpp.py --ignore tests/real/test_local_model.py --ignore tests/real/test_bench.py)
NBLLM_SHARED=$shared NBLLM_REAL=$real .venv/bin/python -m pytest -q -m real tests/real --ignore tests/real/test_simulator_sdks.py --ignore tests/real/test_simulator_batch_sdks.py --ignore tests/real/test_clis.py --ignore tests/real/test_jupyter.py "${ignore[@]}"
PYTHONPATH=$PWD NBLLM_REAL=$real "$real/jupyter/bin/python" -m pytest -q -m real tests/real/test_jupyter.py
PYTHONPATH=$PWD "$real/jupyter/bin/python" -m pytest -q -m browser tests/browser/test_mcp_notebook.py
