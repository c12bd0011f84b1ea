#!/usr/bin/env bash
# Builds the container image: the program and its libraries from scratch (some 25 MB), or on a base with Ray (deploy/make-base.sh).
# usage: build-image.sh PROGRAM [TAG] [BASE_IMAGE]       TAG: shoal:latest
# The base must have been made for this program: it has the libraries that the program was linked with then.
# ENGINE: buildah (default, where it is there), podman or docker; ENGINE_ARGS: further arguments of it, before its command.
set -euo pipefail
program=${1:?usage: build-image.sh PROGRAM [TAG] [BASE_IMAGE]}
tag=${2:-shoal:latest}
base=${3:-scratch}
here=$(cd "$(dirname "$0")" && pwd)

engine=${ENGINE:-}
for candidate in buildah podman docker; do
    [ -z "$engine" ] && command -v $candidate >/dev/null && engine=$candidate
done
[ -n "$engine" ] || { echo "build-image: neither buildah nor podman nor docker is here" >&2; exit 1; }
[ -x "$program" ] || { echo "build-image: $program is no program; 'make' builds build/shoal" >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root=$context/root
install -D -m 755 "$program" "$root/usr/local/bin/shoal"
if [ "$base" = scratch ]; then
    mkdir -p "$root"/{dev,etc/ssl/certs,proc,root,sys} && install -d -m 1777 "$root/tmp" "$root/var/tmp"
    libraries=$(ldd "$program") || { echo "build-image: ldd cannot read $program" >&2; exit 1; }
    if missing=$(grep 'not found' <<<"$libraries"); then
        echo "build-image: libraries of $program are missing here:" $missing >&2
        exit 1
    fi
    for library in $(grep -o '/[^ ]*' <<<"$libraries" | sort -u); do
        install -D -m 755 "$(readlink -f "$library")" "$root$library"
    done
    echo 'root:x:0:0:root:/root:/sbin/nologin' > "$root/etc/passwd"
    echo 'root:x:0:' > "$root/etc/group"
    echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
    certificates=/etc/ssl/certs/ca-certificates.crt
    if [ -r $certificates ]; then
        install -m 644 $certificates "$root/etc/ssl/certs/"
    else
        echo "build-image: no $certificates here: the image will not reach the hub" >&2
    fi
fi
cp "$here/../Containerfile" "$context/"
case $engine in
    buildah) build=(bud --isolation chroot) ;;
    *) build=(build) ;;
esac
# shellcheck disable=SC2086
"$engine" ${ENGINE_ARGS:-} "${build[@]}" --build-arg "BASE=$base" -t "$tag" -f "$context/Containerfile" "$context"
