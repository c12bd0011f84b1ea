#!/usr/bin/env bash
# Makes the base image for nodes, without any image registry: Debian's minimal root file system (debootstrap), the libraries that the
# program needs, Python, and Ray in /opt/ray. As root; 10 minutes and 1.5 GB of disk.
# usage: make-base.sh PROGRAM [TAG] [RAY_VERSION]        TAG: shoal-base:latest
# MIRROR, SUITE: of Debian. PIP_INDEX_URL, PIP_CERT: of PyPI, or of what stands in for it. ENGINE_ARGS: further arguments of buildah, before its command.
set -euo pipefail
program=${1:?usage: make-base.sh PROGRAM [TAG] [RAY_VERSION]}
tag=${2:-shoal-base:latest}
ray=${3:-2.60.0}
for tool in debootstrap buildah dpkg ldd; do
    command -v $tool >/dev/null || { echo "make-base: the program '$tool' is missing (Debian: apt-get install debootstrap buildah)" >&2; exit 1; }
done
[ "$(id -u)" -eq 0 ] || { echo "make-base: debootstrap needs root" >&2; exit 1; }

# The packages of the libraries that the program is linked with. dpkg knows some of them by the path before /usr was merged.
packages=python3,python3-venv,ca-certificates
for library in $(ldd "$program" | grep -o '/[^ ]*' | sort -u); do
    for path in "$library" "/usr$library" "$(readlink -f "$library")"; do
        package=$(dpkg -S "$path" 2>/dev/null | head -n 1 | cut -d: -f1) && [ -n "$package" ] && break
    done
    [ -n "$package" ] || { echo "make-base: no package has $library" >&2; exit 1; }
    packages+=,$package
done
packages=$(tr ',' '\n' <<<"$packages" | sort -u | paste -sd,)

root=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT
debootstrap --variant=minbase --include="$packages" "${SUITE:-$(. /etc/os-release; echo "$VERSION_CODENAME")}" "$root" ${MIRROR:+"$MIRROR"} >&2
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
[ -r /etc/pip.conf ] && cp /etc/pip.conf "$root/etc/pip.conf"
mount -t proc proc "$root/proc"
pip_env=(-u PIP_FIND_LINKS -u REQUESTS_CA_BUNDLE)
if [ -r "${PIP_CERT:-}" ]; then # a mirror's own certificates, for the installation alone
    cp "$PIP_CERT" "$root/tmp/index.pem"
    pip_env+=(PIP_CERT=/tmp/index.pem REQUESTS_CA_BUNDLE=/tmp/index.pem)
fi
chroot "$root" /usr/bin/env "${pip_env[@]}" sh -c '
    python3 -m venv /opt/ray && /opt/ray/bin/pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check "ray[default]==$1"' sh "$ray" >&2
umount "$root/proc"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root/etc/pip.conf" "$root"/usr/share/{doc,man,locale}/* "$root"/root/.cache "$root/tmp/index.pem"
: > "$root/etc/resolv.conf"

# shellcheck disable=SC2086
container=$(buildah ${ENGINE_ARGS:-} from scratch)
buildah ${ENGINE_ARGS:-} add --quiet "$container" "$root/" / >&2
buildah ${ENGINE_ARGS:-} commit --quiet --rm "$container" "$tag"
