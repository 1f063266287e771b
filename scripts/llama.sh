#!/usr/bin/env bash
# Fetches llama.cpp's own tools, which Debian 12 does not have, into FOLDER: extracted out of a newer suite's packages,
# with the libraries that they need and nothing installed. Needs root or sudo only if they are missing.
# Usage: scripts/llama.sh FOLDER
set -euo pipefail

folder=$1

[ -d "$folder" ] && exit 0
"$(dirname "$0")/debian.sh" mmdebstrap debian-archive-keyring
run=()
[ "$(id -u)" = 0 ] || run=(sudo)
# the mirror that this machine takes Debian from, or mmdebstrap's own choice
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' | grep -v -m 1 security || true)
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap '"${run[@]}" rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
echo "fetching llama.cpp's tools"
# a mirror may lag behind what its Release file says of itself
"${run[@]}" mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' --include=llama.cpp-tools,llama.cpp-tools-extra \
    forky "$scratch/root" ${mirror:+"$mirror"}
# the programs and libraries alone, not the devices of a root
mkdir "$scratch/tools"
"${run[@]}" mv "$scratch/root/usr" "$scratch/tools"
"${run[@]}" chown -R "$(id -u):$(id -g)" "$scratch/tools"
mv -T "$scratch/tools" "$folder"
