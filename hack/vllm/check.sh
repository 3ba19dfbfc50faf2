#!/usr/bin/env bash
# Checks the plug-in vllm/gthread: ruff, mypy and the tests that need no vLLM, in seconds.
#
#   hack/vllm/check.sh              all of it
#   hack/vllm/check.sh pytest ARGS  pytest with the same tools, for example: pytest test/vllm (needs hack/vllm/install.sh)
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
CACHE=${GREENTHREAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/greenthread}
WANTED=$ROOT/vllm/requirements-check.txt
TOOLS=$CACHE/python-tools-$(sha256sum "$WANTED" | cut -c1-12)

if [ ! -f "$TOOLS/installed" ]; then
  echo "check: the tools of vllm/requirements-check.txt (about 10 s, once)" >&2
  rm -rf "$TOOLS"
  python3 -m venv "$TOOLS"
  "$TOOLS/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$WANTED" >&2
  touch "$TOOLS/installed"
fi
export PYTHONDONTWRITEBYTECODE=1
PYTEST=("$TOOLS/bin/python" -m pytest -c "$ROOT/vllm/pyproject.toml" --rootdir "$ROOT")
if [ "${1:-}" = pytest ]; then
  shift
  exec "${PYTEST[@]}" "$@"
fi
cd "$ROOT"
CODE=(vllm/gthread test/unit/gthread test/vllm test/device hack/vllm)
"$TOOLS/bin/ruff" check --quiet --no-cache --config vllm/pyproject.toml "${CODE[@]}"
"$TOOLS/bin/ruff" format --quiet --no-cache --check --config vllm/pyproject.toml "${CODE[@]}" ||
  { echo "check: run $TOOLS/bin/ruff format --config vllm/pyproject.toml ${CODE[*]}" >&2; exit 1; }
# From inside, or the repository's folder vllm/ would be taken for the package.
(cd vllm && "$TOOLS/bin/mypy" --no-error-summary --cache-dir "$TOOLS/mypy" -p gthread)
"${PYTEST[@]}" -q test/unit/gthread
