#!/usr/bin/env bash
# Fetches into FOLDER the wheels that tests/gpu/run.py needs on a machine without network that has torch and
# transformers, for its Python VERSION on x86-64, in the versions that PYTHON has here. The packages named last are left
# out, because that machine has them too: pyarrow, pandas and pillow are the large ones.
# Usage: scripts/gpu-wheels.sh PYTHON FOLDER [VERSION [PACKAGE...]]
set -euo pipefail

python=$1 folder=$2 version=${3:-3.12}
shift $(($# < 3 ? $# : 3))
needed=(llmcompressor compressed-tensors auto-round accelerate datasets loguru pydantic pydantic-core annotated-types
    typing-inspection dill multiprocess xxhash nvidia-ml-py py-cpuinfo psutil requests pyarrow pandas pillow
    backports.zstd gguf picklescan click rich)

wanted=()
for name in "${needed[@]}"; do
    [[ " $* " = *" $name "* ]] && continue
    wanted+=("$name==$("$python" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$name")")
done
platforms=()
for glibc in 2_28 2_27 2_17 2_5; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
rm -rf "$folder"
mkdir -p "$folder"
"$python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$folder" "${wanted[@]}"
du -sh "$folder"
