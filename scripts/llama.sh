#!/usr/bin/env bash
# Fetches llama.cpp's own tools, which Debian 12 does not have, into FOLDER: extracted out of a newer suite's packages,
# with the libraries that they need and nothing installed. Needs root or sudo only if they are missing.
# Usage: scripts/llama.sh FOLDER
set -euo pipefail
. "$(dirname "$0")/newer.sh"

folder=$1

[ -d "$folder" ] && exit 0
scratch_for "$folder"
echo "fetching llama.cpp's tools"
extract forky llama.cpp-tools,llama.cpp-tools-extra
# the programs and libraries alone, not the devices of a root
mkdir "$scratch/tools"
"${run[@]}" mv "$scratch/root/usr" "$scratch/tools"
"${run[@]}" chown -R "$(id -u):$(id -g)" "$scratch/tools"
mv -T "$scratch/tools" "$folder"
