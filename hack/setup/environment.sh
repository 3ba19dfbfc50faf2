# Sourced by every command in hack/: the right Node.js on PATH and the packages of package-lock.json installed.
# Needs bash, npm (any Node >= 20). Everything fetched lands in GREENTHREAD_CACHE, outside the tree.
# Sets: ROOT (the repository), GREENTHREAD_CACHE, PATH.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ROOT
export GREENTHREAD_CACHE=${GREENTHREAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/greenthread}
NODE_VERSION=24.21.0

say() { printf '%s\n' "$*" >&2; }

install_node() {
  local platform home
  case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) platform=linux-x64 ;;
    Linux-aarch64) platform=linux-arm64 ;;
    Darwin-arm64) platform=darwin-arm64 ;;
    Darwin-x86_64) platform=darwin-x64 ;;
    *) say "GreenThread: no Node.js package for $(uname -sm); use Linux or macOS on x86-64 or arm64"; return 1 ;;
  esac
  home=$GREENTHREAD_CACHE/node-$NODE_VERSION
  if [ ! -x "$home/node_modules/node-$platform/bin/node" ]; then
    say "setup: Node.js $NODE_VERSION from npm (about 10 s, once)"
    mkdir -p "$home"
    npm install --prefix "$home" --no-audit --no-fund --loglevel=error "node-$platform@$NODE_VERSION" >&2 || return 1
  fi
  NODE_BINARY=$home/node_modules/node-$platform/bin/node
  # npm's own launcher picks `node` from PATH, so npm runs under this Node too.
  export PATH=$home/node_modules/node-$platform/bin:$PATH
}

install_packages() {
  local stamp=$ROOT/node_modules/.greenthread-lock
  if ! cmp -s "$ROOT/package-lock.json" "$stamp"; then
    say "setup: npm ci (about 20 s, once per change of package-lock.json)"
    (cd "$ROOT" && npm ci --no-audit --no-fund --loglevel=error >&2) || return 1
    cp "$ROOT/package-lock.json" "$stamp"
  fi
  # So that node_modules/.bin/node runs the project's programs by hand, whatever node is on PATH.
  [ -e "$ROOT/node_modules/.bin/node" ] || ln -s "$NODE_BINARY" "$ROOT/node_modules/.bin/node"
  export PATH=$ROOT/node_modules/.bin:$PATH
}

command -v npm >/dev/null || { say "GreenThread needs npm (Node.js 20 or newer): install it from nodejs.org or your distribution"; exit 1; }
install_node && install_packages || exit 1
