#!/usr/bin/env bash
# Checks what is needed from the system: Python with venv, make, node, Chromium, fonts.
set -euo pipefail
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need make make
need git git
need curl curl
need node nodejs
need npm npm
need chromium chromium
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
fc-list 2>/dev/null | grep -qi emoji || missing+=(fonts-noto-color-emoji fonts-dejavu fontconfig)
if ((${#missing[@]})); then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "CANNOT RUN: please install ${missing[*]}"
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
python3 --version
node --version
chromium --version
