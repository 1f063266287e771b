#!/usr/bin/env bash
# Fetches the runtimes that mount what Debian 12's cannot, into FOLDER: containerd 2, which has image volumes, and a podman
# that mounts artifacts. They come out of a newer suite's packages, with the libraries that they need, and nothing is
# installed. The rest (conmon, runc) is that of Debian 12. Needs root or sudo only if what fetches them is missing.
# Usage: scripts/runtimes.sh FOLDER
set -euo pipefail

folder=$(realpath --canonicalize-missing "$1")

[ -d "$folder" ] && exit 0
"$(dirname "$0")/debian.sh" mmdebstrap debian-archive-keyring patchelf conmon runc catatonit
run=()
[ "$(id -u)" = 0 ] || run=(sudo)
# the mirror that this machine takes Debian from, or mmdebstrap's own choice
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' | grep -v -m 1 security || true)
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap '"${run[@]}" rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
echo "fetching containerd 2 and podman with artifacts"
# a mirror may lag behind what its Release file says of itself
"${run[@]}" mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' --include=containerd,podman forky "$scratch/root" ${mirror:+"$mirror"}
libraries=$(dirname "$(echo "$scratch"/root/usr/lib/*/libc.so.6)")
loader=$(basename "$(echo "$libraries"/ld-linux*.so.?)")
mkdir -p "$scratch"/tools/{bin,lib}
cp "$scratch"/root/usr/bin/{containerd,ctr,podman} "$scratch/tools/bin"
cp -L "$libraries/$loader" "$scratch/tools/lib"
for program in "$scratch"/tools/bin/*; do
    "$libraries/$loader" --library-path "$libraries" --list "$program" | awk '/=> \//{print $3}' | sort -u |
        xargs -I{} cp -L {} "$scratch/tools/lib"
    # podman starts itself again by its own name, so a loader in front of it would not do
    patchelf --set-interpreter "$folder/lib/$loader" --force-rpath --set-rpath "$folder/lib" "$program"
done
mv -T "$scratch/tools" "$folder"
