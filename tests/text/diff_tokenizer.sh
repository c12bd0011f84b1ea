#!/usr/bin/env bash
# Runs diff_tokenizer.py on the real Qwen3 tokenizer, SmolLM2's and the tiny model's. usage: diff_tokenizer.sh PROGRAM TEST_DIR SCRIPTS_DIR BUILD_DIR
set -euo pipefail
python=$("$3/venv.sh" "$4/venv-tokenizers" tokenizers==0.23.3 gguf numpy)
qwen3=$("$3/fetch-tokenizer.sh" "$4/models")
smollm2=$("$3/fetch-model.sh" "$4/models")
exec "$python" "$2/diff_tokenizer.py" "$1" 12 "$qwen3" "$smollm2" "$2/../data/models/tiny-qwen3/tokenizer.json"
