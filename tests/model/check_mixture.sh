#!/usr/bin/env bash
# Makes mixtures of the real model and compares them with it. usage: check_mixture.sh BUILD CHECK_MIXTURE
set -euo pipefail
build=$1 check=$2 root=$(cd "$(dirname "$0")/../.." && pwd)
dense=$("$root/scripts/fetch-model.sh" "$build/models")
python=$("$root/scripts/venv.sh" "$build/venv-gguf" numpy==2.4.6 gguf==0.19.0)
temp=$(mktemp -d "$build/mixture.XXXXXX")
trap 'rm -rf "$temp"' EXIT
make() { "$python" "$root/scripts/moe-from-dense.py" "$dense" "$temp/$1.gguf" "${@:2}"; }
make dense-f32 F32 dense
make split-f32 F32 split 6
"$check" "$temp/dense-f32.gguf" "$temp/split-f32.gguf"
rm "$temp"/*
make dense-bf16 BF16 dense
make copies-bf16 BF16 copies 3 2
"$check" "$temp/dense-bf16.gguf" "$temp/copies-bf16.gguf"
