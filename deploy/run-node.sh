#!/usr/bin/env bash
# Runs one node of the cluster in a container: Ray in the foreground (shoal node start --block), on the host's network, with the host's shared
# memory, the shared model cache, and the NPUs with their driver where there are any. Started on every node:
#     run-node.sh --head                            on one
#     run-node.sh --address 10.0.0.1:6379           on all others
# All arguments go to `shoal node start`. Then, on the head:  podman exec shoal-node shoal serve MODEL --distributed-executor-backend ray …
#
# IMAGE (shoal-node:latest), NAME (shoal-node), ENGINE (podman, else docker), MODEL_CACHE (~/.cache/huggingface; the same path on every node, also
# inside), MODELS (a folder with models, mounted read-only at its own path), DRY_RUN=1 prints the command. SYSTEM_ROOT: where /dev and the driver
# are looked for ("" is /).
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,7p' "$0" | cut -c3- >&2; exit 2; }
image=${IMAGE:-shoal-node:latest}
name=${NAME:-shoal-node}
cache=${MODEL_CACHE:-$HOME/.cache/huggingface}
system=${SYSTEM_ROOT:-}
engine=${ENGINE:-}
for candidate in podman docker; do
    [ -z "$engine" ] && command -v $candidate >/dev/null && engine=$candidate
done
if [ -z "$engine" ]; then
    [ -n "${DRY_RUN:-}" ] || { echo "run-node: neither podman nor docker is here" >&2; exit 1; }
    engine=podman
fi

run=("$engine" run --rm --name "$name" --network host --ipc host --ulimit memlock=-1 --ulimit nofile=1048576:1048576)
run+=(--volume "$cache:$cache" --env "HF_HOME=$cache")
[ -n "${MODELS:-}" ] && run+=(--volume "$MODELS:$MODELS:ro")
# What the guide for Ascend gives to a container: the devices, and the driver with its tools and settings.
n_npus=0
for device in "$system"/dev/davinci[0-9]*; do
    [ -e "$device" ] || continue
    run+=(--device "${device#"$system"}")
    n_npus=$((n_npus + 1))
done
if [ $n_npus -gt 0 ]; then
    for device in /dev/davinci_manager /dev/devmm_svm /dev/hisi_hdc; do
        [ -e "$system$device" ] && run+=(--device "$device")
    done
    for path in /usr/local/dcmi /usr/local/bin/npu-smi /usr/local/sbin/npu-smi /usr/local/Ascend/driver/lib64 /usr/local/Ascend/driver/version.info \
        /usr/local/Ascend/driver/tools /etc/ascend_install.info /etc/hccn.conf; do
        [ -e "$system$path" ] && run+=(--volume "$path:$path:ro")
    done
fi
for variable in RAY_AUTH_MODE RAY_AUTH_TOKEN ASCEND_RT_VISIBLE_DEVICES HF_TOKEN HF_ENDPOINT; do
    [ -n "${!variable:-}" ] && run+=(--env "$variable") # by name alone: the value stays off the command line
done
run+=("$image" node start --block "$@")
if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${run[@]}"
    echo
    exit 0
fi
[ -d "$cache" ] || mkdir -p "$cache"
exec "${run[@]}"
