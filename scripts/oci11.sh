#!/usr/bin/env bash
# Builds a registry that answers OCI 1.1 referrers, which Debian 12 does not have, out of SOURCE, and fetches the clients
# oras and cosign, into FOLDER: programs, libraries and the compiler come out of a newer suite's packages, and nothing is
# installed. Needs root or sudo only if what fetches them is missing.
# Usage: scripts/oci11.sh SOURCE FOLDER
set -euo pipefail
. "$(dirname "$0")/newer.sh"

source=$1 folder=$2

scratch_for "$folder"
echo "fetching and building a registry with referrers"
packages=oras,cosign,golang-go,golang-github-cue-labs-oci-dev
packages+=,golang-github-opencontainers-go-digest-dev,golang-github-opencontainers-image-spec-dev
extract trixie "$packages"
mkdir "$scratch/tools"
env -u GOFLAGS GOROOT="$(echo "$scratch"/root/usr/lib/go-1.*)" GOPATH="$scratch/root/usr/share/gocode" \
    GOCACHE="$scratch/cache" GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 \
    "$scratch"/root/usr/lib/go-1.*/bin/go build -trimpath -o "$scratch/tools/oci11" "$source"
cp "$scratch"/root/usr/bin/{oras,cosign} "$scratch/tools"
touch "$scratch/tools/.installed"
rm -rf "$folder"
mv -T "$scratch/tools" "$folder"
