#!/usr/bin/env bash
# Fetches podman 5, which mounts image volumes in `podman kube play` and which Debian 12 does not have, into FOLDER: out of
# a newer suite's packages, with the libraries that it needs and nothing installed. The rest (conmon, runc, catatonit) is
# that of Debian 12. Needs root or sudo only if what fetches it is missing.
# Usage: scripts/podman5.sh FOLDER
set -euo pipefail
. "$(dirname "$0")/newer.sh"

folder=$(realpath --canonicalize-missing "$1")

[ -d "$folder" ] && exit 0
"$(dirname "$0")/debian.sh" patchelf conmon runc catatonit
scratch_for "$folder"
echo "fetching podman 5"
extract trixie podman,netavark
mkdir -p "$scratch"/tools/{bin,libexec}
cp "$scratch/root/usr/bin/podman" "$scratch/tools/bin"
cp "$scratch/root/usr/lib/podman/netavark" "$scratch/tools/libexec"
portable "$folder" "$scratch"/tools/{bin,libexec}/*
cat > "$scratch/tools/containers.conf" <<END
[engine]
helper_binaries_dir = ["$folder/libexec", "/usr/libexec/podman", "/usr/lib/podman"]
END
mv -T "$scratch/tools" "$folder"
