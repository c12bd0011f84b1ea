#!/usr/bin/env bash
# Builds the peer of the speed comparison: llama.cpp's llama-bench, llama-batched-bench and llama-server, from the source package of
# llama-cpp-python on PyPI. usage: fetch-llama-cpp.sh DIR; prints the folder of the programs. Not part of `make test`.
set -euo pipefail
dir=${1:?usage: fetch-llama-cpp.sh DIR}
version=0.3.36
bin=$dir/build/bin
if [ ! -x "$bin/llama-batched-bench" ] || [ ! -x "$bin/llama-server" ]; then
    mkdir -p "$dir"
    python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation -d "$dir" "llama-cpp-python==$version" 2>/dev/null >&2 ||
        python3 -m pip download --quiet --no-deps --no-binary :all: -d "$dir" "llama-cpp-python==$version" >&2
    tar -xzf "$dir"/llama_cpp_python-$version.tar.gz -C "$dir"
    src=$dir/llama_cpp_python-$version/vendor/llama.cpp
    cmake -S "$src" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DGGML_NATIVE=ON >&2
    cmake --build "$dir/build" --target llama-bench llama-batched-bench llama-server >&2
fi
echo "$bin"
