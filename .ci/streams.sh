#!/usr/bin/env bash
# Sends recorded provider traffic, if it is next to the checkout, through the public API: complete, in pieces of 7 bytes, of 1.
# The synthetic answers are in tests/data; tests/test_synthetic_streams.py uses them.
set -euo pipefail
shared=${NBLLM_SHARED:-../shared}
if [ ! -f "$shared/streams/check.py" ]; then
  echo "NOT RUN: no recorded traffic at $shared/streams (set NBLLM_SHARED); the dialects' own tests have run"
  exit 0
fi
status=0 started=() said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
for cut in "" "--cut 7" "--cut 1"; do # at the same time
  # shellcheck disable=SC2086
  .venv/bin/python "$shared/streams/check.py" --show 100 $cut >"$said/cut${cut##* }" 2>&1 &
  started+=($!)
done
for child in "${started[@]}"; do wait "$child" || status=1; done
cat "$said"/*
exit $status
