#!/usr/bin/env bash
# Makes the base that the tests build packer's image on, into FILE, a tar: Debian 12 with Python, venv and a static
# busybox. Needs root.
# Usage: scripts/base.sh FILE
set -euo pipefail
. "$(dirname "$0")/newer.sh"

file=$1

[ -f "$file" ] && exit 0
scratch_for "$file"
echo "making a base for packer's image"
bootstrap minbase bookworm "$scratch/base.tar" python3,python3-venv,busybox-static,ca-certificates
mv "$scratch/base.tar" "$file"
