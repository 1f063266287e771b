#!/usr/bin/env bash
# Quantizes a real model twice, measures both, publishes what retains enough into an OCI layout, and shows the evidence.
# Usage: scripts/demo-quantized.sh MODEL_FOLDER OUT
set -euo pipefail

model=$1 out=$2 reports=$2-reports
packer=.venv/bin/packer
say() { printf '\n$ %s\n' "$*"; "$@"; }
build() { say "$packer" build "$model" --max-size 100MB --base none --evaluate fidelity "$@"; }

build --to "oci:$out:fp8" --quantize fp8-dynamic --retain 0.95 --report "$reports/fp8"
build --to "oci:$out:int8" --quantize int8-w8a8-rtn --retain 0.9 --report "$reports/int8"

# what is not good enough does not ship
status=0
build --to "oci:$out:strict" --quantize fp8-dynamic --retain 0.999 --report "$reports/strict" || status=$?
[ "$status" = 4 ] || { echo "this should have been refused with exit 4, not $status" >&2; exit 1; }

say "$packer" tags "oci:$out"
say "$packer" inspect "oci:$out:fp8"
say "$packer" scorecard "oci:$out:fp8"
say "$packer" diff "oci:$out:fp8" "oci:$out:int8"
printf '\nLook at %s\n' "$reports/fp8/report.html"
