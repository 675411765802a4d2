#!/usr/bin/env bash
# Runs all tests except most kernel tests on every other supported Python: those installed on this machine, and the newest one in
# a folder with Debian's next release (this needs root). Lists the versions that were not available.
set -euo pipefail
status=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
newest=3.14 release=forky

inside() { # COMMAND... in the folder of Debian's next release; what is mounted there goes with the command
  # shellcheck disable=SC2016
  unshare --mount bash -c 'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/dev/shm" && mount -t devpts devpts "$0/dev/pts" &&
    exec chroot "$0" sh -c "cd /src && exec \"\$@\"" sh "$@"' "$scratch/debian" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/bin:/bin "$@"
}

next_release() { # makes that folder
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; } || return 1
  debootstrap --variant=minbase --include="python$newest,python$newest-venv,ca-certificates,git,procps" "$release" "$scratch/debian" \
    http://deb.debian.org/debian /usr/share/debootstrap/scripts/sid >"$scratch/log" 2>&1 || { tail -3 "$scratch/log"; return 1; }
  cp /etc/resolv.conf "$scratch/debian/etc/"
  cp /etc/ssl/certs/ca-certificates.crt "$scratch/debian/etc/ssl/certs/" # with those of this machine
  git clone -q . "$scratch/debian/src"
  inside true
}

checks() { # PYTHON ENVIRONMENT [inside]: all commands run behind the last word
  local python=$1 env=$2
  shift 2
  "$@" "$python" -m venv "$env" && "$@" "$env/bin/pip" install -q '.[test]' || { echo "CANNOT RUN on Python $version: it could not be set up"; status=1; return; }
  local run=("$@" "$env/bin/python" -m pytest -q -p no:cacheprovider -n auto --dist worksteal)
  # Growth and memory are measured on one Python.
  "${run[@]}" -m "not kernel and not real and not browser" --ignore tests/test_growth.py --ignore tests/test_growth_text.py --ignore tests/test_memory.py || status=1
  "${run[@]}" tests/test_kernel.py tests/test_chat_widget.py || status=1
}

for version in 3.11 3.12 3.13 "$newest"; do
  python=""
  for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    "$candidate" -c 'pass' 2>/dev/null && python=$candidate # a version manager's stand-in may be there and not run
  done
  if [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; then
    echo "Python $version: ran in the step test"
  elif [ -n "$python" ]; then
    echo "Python $version:"
    checks "$python" "$scratch/$version"
  elif [ "$version" = "$newest" ] && next_release; then
    echo "Python $version, of Debian $release:"
    checks "python$version" /venv inside
  else
    echo "NOT RUN: Python $version is not on this machine"
  fi
done
exit $status
