#!/usr/bin/env bash
# What each weight format costs in quality: perplexity of the real 1.5B model on a text, and the difference to its BF16 folder, for the table
# in docs/numerics.md. usage: quality.sh DIR PERPLEXITY TEXT [TOKENS]     PERPLEXITY: the program, build/bench/perplexity
# Fetches 1.1 GB, makes 14 GB of models in DIR (what is there already is used again) and takes the better part of an hour on two cores.
set -euo pipefail
dir=${1:?usage: quality.sh DIR PERPLEXITY TEXT [TOKENS]}
perplexity=${2:?usage: quality.sh DIR PERPLEXITY TEXT [TOKENS]}
text=${3:?usage: quality.sh DIR PERPLEXITY TEXT [TOKENS]}
tokens=${4:-4096}
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$dir"
original=$("$here/fetch-quality-model.sh" "$dir")
python=$("$here/../scripts/venv.sh" "$dir/venv" numpy==2.1.3 gguf==0.17.1 ml_dtypes==0.6.0)
llama=$("$here/fetch-llama-cpp.sh" "$dir/llama.cpp")
cmake --build "$dir/llama.cpp/build" --target llama-quantize >&2

# A model that could not be made to its end is not there.
make_model() { # KIND FROM OUT [METADATA]
    [ -e "$dir/$3" ] && return
    rm -rf "$dir/incomplete-$3"
    "$python" "$here/quality-models.py" "$1" "$2" "$dir/incomplete-$3" "${@:4}" >&2
    mv "$dir/incomplete-$3" "$dir/$3"
}

make_model bf16 "$original" bf16-exact
make_model bf16 "$original" bf16
make_model fp8 "$dir/bf16" fp8
make_model gptq "$dir/bf16" gptq
make_model gguf "$dir/bf16" bf16.gguf "$original"
for kind in Q4_K_M Q5_K_M Q6_K; do
    [ -e "$dir/$kind.gguf" ] && continue
    "$llama/llama-quantize" "$dir/bf16.gguf" "$dir/incomplete.gguf" $kind >&2
    mv "$dir/incomplete.gguf" "$dir/$kind.gguf"
done

measure() { # NAME ARGUMENTS…
    echo "$1"
    "$perplexity" "$2" "$text" --tokenizer "$original" --tokens "$tokens" "${@:3}"
}

measure "BF16, exactly the Q4_K_M file's numbers" "$dir/bf16-exact" --save "$dir/exact.loss"
measure "the Q4_K_M file (int8 activations alone)" "$original" --against "$dir/exact.loss"
measure BF16 "$dir/bf16" --save "$dir/bf16.loss"
measure "FP8, blocks of 128 x 128" "$dir/fp8" --against "$dir/bf16.loss"
measure "--quantization int8" "$dir/bf16" --quantization int8 --against "$dir/bf16.loss"
measure "--quantization int4" "$dir/bf16" --quantization int4 --against "$dir/bf16.loss"
measure "GPTQ format, rounded to nearest" "$dir/gptq" --against "$dir/bf16.loss"
for kind in Q4_K_M Q5_K_M Q6_K; do
    measure "GGUF $kind" "$dir/$kind.gguf" --against "$dir/bf16.loss"
done
