#!/usr/bin/env bash
# Recorded provider traffic, where it lies beside the checkout, through the public API: whole, cut to 7 bytes, cut to 1.
#
# Two recordings may fail, and only those: Gemini streams a call's arguments in parts there, and what is expected is what
# one SDK makes of it (a nameless, empty call for every part); we give the call that the parts make.
set -euo pipefail
shared=${NBLLM_SHARED:-../shared}
if [ ! -f "$shared/streams/check.py" ]; then
  echo "NOT RUN: no recorded traffic at $shared/streams (set NBLLM_SHARED); the dialects' own tests have run"
  exit 0
fi
known='gemini-generate/gemini-gemini-3-flash-preview-think-tools13-b1415|gemini-generate/gemini-gemini-3-flash-preview-tools15-25c62'
status=0
for cut in "" "--cut 7" "--cut 1"; do
  # shellcheck disable=SC2086
  out=$(.venv/bin/python "$shared/streams/check.py" --skip cohere-chat --show 100 --need 0.99 $cut) || status=1
  echo "$out" | tail -n 7
  if echo "$out" | grep ' | ' | grep -vE "^($known) \|"; then echo "the cases above must hold (cut ${cut:-as given})"; status=1; fi
done
exit $status
