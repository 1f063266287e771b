#!/usr/bin/env bash
# Builds a real model into an OCI layout, shows what it made, and, where podman can run as root, mounts it in a container.
# Usage: scripts/demo.sh MODEL_FOLDER OUT
set -euo pipefail

model=$1 out=$2
packer=.venv/bin/packer
say() { printf '\n$ %s\n' "$*"; "$@"; }

say "$packer" build "$model" --to "oci:$out:smollm2"
say "$packer" inspect "oci:$out:smollm2"

if ! command -v podman >/dev/null || [ "$(id -u)" != 0 ]; then
    printf '\nWith podman, as root, this demo would now run a container that mounts the model.\n'
    exit 0
fi
export CONTAINERS_CONF=$PWD/tests/containers.conf
storage=$(mktemp -d)
podman() { command podman --root "$storage/root" --runroot "$storage/run" "$@"; }
trap 'podman rmi --all --force >/dev/null 2>&1; rm -rf "$storage"' EXIT
say podman pull --quiet "oci:$out:smollm2"
podman tag "$(podman images --quiet | head -n 1)" smollm2
say podman run --rm --mount type=image,source=smollm2,destination=/mnt smollm2 ls -l /mnt/models
