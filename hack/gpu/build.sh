#!/bin/sh
# Builds the simulated GPU's programs into OUTDIR: one static binary under the names it answers to.
#   hack/gpu/build.sh OUTDIR
set -eu
[ $# -eq 1 ] || { echo "usage: hack/gpu/build.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/gpu-sim.new" ./cmd/gpu-sim
mv "$out/gpu-sim.new" "$out/gpu-sim"
for name in nvidia-smi nvidia-container-runtime gpu-sim-setup gpu-sim-set gpu-sim-hold; do
  ln -f "$out/gpu-sim" "$out/$name"
done
