#!/usr/bin/env bash
# Makes the base that the tests build packer's image on, into FILE, a tar: Debian 12 with Python, venv and a static
# busybox. Needs root.
# Usage: scripts/base.sh FILE
set -euo pipefail

file=$1

[ -f "$file" ] && exit 0
"$(dirname "$0")/debian.sh" mmdebstrap debian-archive-keyring
# the mirror that this machine takes Debian from, or mmdebstrap's own choice
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' | grep -v -m 1 security || true)
mkdir -p "$(dirname "$file")"
scratch=$(mktemp -d "$file.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
echo "making a base for packer's image"
mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --include=python3,python3-venv,busybox-static,ca-certificates bookworm "$scratch/base.tar" ${mirror:+"$mirror"}
mv "$scratch/base.tar" "$file"
