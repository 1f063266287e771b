#!/usr/bin/env bash
# Builds a registry that answers OCI 1.1 referrers, which Debian 12 does not have, out of SOURCE, and fetches the clients
# oras and cosign, into FOLDER: programs, libraries and the compiler come out of a newer suite's packages, and nothing is
# installed. Needs root or sudo only if what fetches them is missing.
# Usage: scripts/oci11.sh SOURCE FOLDER
set -euo pipefail

source=$1 folder=$2

"$(dirname "$0")/debian.sh" mmdebstrap debian-archive-keyring
run=()
[ "$(id -u)" = 0 ] || run=(sudo)
# the mirror that this machine takes Debian from, or mmdebstrap's own choice
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' | grep -v -m 1 security || true)
mkdir -p "$(dirname "$folder")"
scratch=$(realpath "$(mktemp -d "$folder.XXXXXX")") # the compiler wants absolute paths
trap '"${run[@]}" rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
echo "fetching and building a registry with referrers"
# a mirror may lag behind what its Release file says of itself
"${run[@]}" mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' \
    --include=oras,cosign,golang-go,golang-github-cue-labs-oci-dev \
    --include=golang-github-opencontainers-go-digest-dev,golang-github-opencontainers-image-spec-dev \
    trixie "$scratch/root" ${mirror:+"$mirror"}
mkdir "$scratch/tools"
env -u GOFLAGS GOROOT="$(echo "$scratch"/root/usr/lib/go-1.*)" GOPATH="$scratch/root/usr/share/gocode" \
    GOCACHE="$scratch/cache" GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 \
    "$scratch"/root/usr/lib/go-1.*/bin/go build -trimpath -o "$scratch/tools/oci11" "$source"
cp "$scratch"/root/usr/bin/{oras,cosign} "$scratch/tools"
touch "$scratch/tools/.installed"
rm -rf "$folder"
mv -T "$scratch/tools" "$folder"
