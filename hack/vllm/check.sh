#!/usr/bin/env bash
# Checks the plug-in vllm/gthread: ruff, mypy and the tests that need no vLLM, in seconds.
#
#   hack/vllm/check.sh              all of it
#   hack/vllm/check.sh vllm [ARGS]  the tests on the real vLLM (test/vllm), which it installs first; ARGS go to pytest; minutes
#   hack/vllm/check.sh device       the tests on a real GPU (test/device), by the python3 on PATH that has vLLM with CUDA
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
CACHE=${GREENTHREAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/greenthread}
WANTED=$ROOT/vllm/requirements-check.txt
TOOLS=$CACHE/python-tools-$(sha256sum "$WANTED" | cut -c1-12)

export PYTHONDONTWRITEBYTECODE=1
PYTEST=(-m pytest -c "$ROOT/vllm/pyproject.toml" --rootdir "$ROOT")
case "${1:-}" in
  vllm) shift; PYTHON=$("$HERE/install.sh"); cd "$ROOT"; exec "$PYTHON" "${PYTEST[@]}" -v -rP "${@:-test/vllm}" ;;
  device) shift; cd "$ROOT"; exec python3 "${PYTEST[@]}" -v -s "${@:-test/device}" ;;
esac
if [ ! -f "$TOOLS/installed" ]; then
  echo "check: the tools of vllm/requirements-check.txt (about 10 s, once)" >&2
  rm -rf "$TOOLS"
  python3 -m venv "$TOOLS"
  "$TOOLS/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$WANTED" >&2
  touch "$TOOLS/installed"
fi
cd "$ROOT"
CODE=(vllm/gthread test/unit/gthread test/vllm test/faults test/device hack/vllm)
"$TOOLS/bin/ruff" check --quiet --no-cache --config vllm/pyproject.toml "${CODE[@]}"
"$TOOLS/bin/ruff" format --quiet --no-cache --check --config vllm/pyproject.toml "${CODE[@]}" ||
  { echo "check: run $TOOLS/bin/ruff format --config vllm/pyproject.toml ${CODE[*]}" >&2; exit 1; }
# From inside, or the repository's folder vllm/ would be taken for the package.
(cd vllm && "$TOOLS/bin/mypy" --no-error-summary --cache-dir "$TOOLS/mypy" -p gthread)
"$TOOLS/bin/python" "${PYTEST[@]}" -q test/unit/gthread
