#!/usr/bin/env bash
# Fetches podman 5, which mounts image volumes in `podman kube play` and which Debian 12 does not have, into FOLDER: out of
# a newer suite's packages, with the libraries that it needs and nothing installed. The rest (conmon, runc, catatonit) is
# that of Debian 12. Needs root or sudo only if what fetches it is missing.
# Usage: scripts/podman5.sh FOLDER
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
echo "fetching podman 5"
# a mirror may lag behind what its Release file says of itself
"${run[@]}" mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' --include=podman,netavark trixie "$scratch/root" ${mirror:+"$mirror"}
libraries=$(dirname "$(echo "$scratch"/root/usr/lib/*/libc.so.6)")
loader=$(basename "$(echo "$libraries"/ld-linux*.so.?)")
mkdir -p "$scratch"/tools/{bin,lib,libexec}
cp "$scratch/root/usr/bin/podman" "$scratch/tools/bin"
cp "$scratch/root/usr/lib/podman/netavark" "$scratch/tools/libexec"
cp -L "$libraries/$loader" "$scratch/tools/lib"
for program in "$scratch"/tools/{bin,libexec}/*; do
    "$libraries/$loader" --library-path "$libraries" --list "$program" | awk '/=> \//{print $3}' | sort -u |
        xargs -I{} cp -L {} "$scratch/tools/lib"
    # podman starts itself again by its own name, so a loader in front of it would not do
    patchelf --set-interpreter "$folder/lib/$loader" --force-rpath --set-rpath "$folder/lib" "$program"
done
cat > "$scratch/tools/containers.conf" <<END
[engine]
helper_binaries_dir = ["$folder/libexec", "/usr/libexec/podman", "/usr/lib/podman"]
END
mv -T "$scratch/tools" "$folder"
