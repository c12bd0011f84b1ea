#!/usr/bin/env bash
# Runs diff_template.py on all templates of tests/data. usage: diff_template.sh PROGRAM TEST_DIR SCRIPTS_DIR BUILD_DIR
set -euo pipefail
python=$("$3/venv.sh" "$4/venv-jinja" jinja2==3.1.6)
exec "$python" "$2/diff_template.py" "$1" "$2"/../data/chat-templates/*.jinja "$2/../data/models/tiny-qwen3/tokenizer_config.json"
