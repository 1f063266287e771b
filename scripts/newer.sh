# shellcheck shell=bash
# Sourced by the scripts that fetch what Debian 12 does not have: packages of another suite, extracted and not installed.
# They need root or sudo only if what fetches them is missing.

run=()
[ "$(id -u)" = 0 ] || run=(sudo)

# scratch_for TARGET: a folder beside it, in $scratch, which goes when the script ends
scratch_for() {
    mkdir -p "$(dirname "$1")"
    scratch=$(realpath "$(mktemp -d "$1.XXXXXX")")
    trap '"${run[@]}" rm -rf "$scratch"' EXIT
    chmod 755 "$scratch"
}

# bootstrap VARIANT SUITE TARGET PACKAGES [OPTION...]: a root, or a tar of one
bootstrap() {
    local variant=$1 suite=$2 target=$3 packages=$4 mirror
    "$(dirname "${BASH_SOURCE[0]}")/debian.sh" mmdebstrap debian-archive-keyring
    # the mirror that this machine takes Debian from, or mmdebstrap's own choice
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Created-By: Packages' | grep -v -m 1 security || true)
    "${run[@]}" mmdebstrap --quiet --variant="$variant" --aptopt='APT::Install-Recommends "false"' \
        --include="$packages" "${@:5}" "$suite" "$target" ${mirror:+"$mirror"}
}

# extract SUITE PACKAGES: their files in $scratch/root; a mirror may lag behind what its Release file says of itself
extract() {
    bootstrap extract "$1" "$scratch/root" "$2" --aptopt='Acquire::Check-Valid-Until "false"'
}

# portable FOLDER PROGRAM...: programs out of $scratch/root, which will lie in FOLDER, with the libraries that they need
portable() {
    local folder=$1 libraries loader program
    shift
    libraries=$(dirname "$(echo "$scratch"/root/usr/lib/*/libc.so.6)")
    loader=$(basename "$(echo "$libraries"/ld-linux*.so.?)")
    mkdir -p "$scratch/tools/lib"
    cp -L "$libraries/$loader" "$scratch/tools/lib"
    for program; do
        "$libraries/$loader" --library-path "$libraries" --list "$program" | awk '/=> \//{print $3}' | sort -u |
            xargs -I{} cp -L {} "$scratch/tools/lib"
        # podman starts itself again by its own name, so a loader in front of it would not do
        patchelf --set-interpreter "$folder/lib/$loader" --force-rpath --set-rpath "$folder/lib" "$program"
    done
}
