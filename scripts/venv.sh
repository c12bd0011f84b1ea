#!/usr/bin/env bash
# Makes a Python virtual environment with the given packages, once, and prints its python.
# usage: venv.sh DIR PACKAGE==VERSION…
set -euo pipefail
dir=${1:?usage: venv.sh DIR PACKAGE==VERSION…}
shift
stamp=$dir/.packages
wanted=$(printf '%s\n' "$@")
if [ ! -x "$dir/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$(dirname "$dir")"
    exec 9>"$dir.lock"
    flock 9
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Making $dir with $*" >&2
        rm -rf "$dir"
        python3 -m venv "$dir" >&2 || { echo "venv.sh: python3 cannot make virtual environments: install python3-venv" >&2; exit 1; }
        "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2 ||
            { echo "venv.sh: cannot install $* from the package index" >&2; exit 1; }
        echo "$wanted" > "$stamp"
    fi
fi
echo "$dir/bin/python"
