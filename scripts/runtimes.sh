#!/usr/bin/env bash
# Fetches the runtimes that mount what Debian 12's cannot, into FOLDER: containerd 2, which has image volumes, and a podman
# that mounts artifacts. They come out of a newer suite's packages, with the libraries that they need, and nothing is
# installed. The rest (conmon, runc) is that of Debian 12. Needs root or sudo only if what fetches them is missing.
# Usage: scripts/runtimes.sh FOLDER
set -euo pipefail
. "$(dirname "$0")/newer.sh"

folder=$(realpath --canonicalize-missing "$1")

[ -d "$folder" ] && exit 0
"$(dirname "$0")/debian.sh" patchelf conmon runc catatonit
scratch_for "$folder"
echo "fetching containerd 2 and podman with artifacts"
extract forky containerd,podman
mkdir -p "$scratch/tools/bin"
cp "$scratch"/root/usr/bin/{containerd,ctr,podman} "$scratch/tools/bin"
portable "$folder" "$scratch"/tools/bin/*
mv -T "$scratch/tools" "$folder"
