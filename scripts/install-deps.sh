#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, and nothing when all are there.
# Used by `make run`, `make test`, CI and the node tests alike. usage: install-deps.sh [run|test]
set -euo pipefail

what=${1:-test}

build_packages=(
    gcc libc6-dev make cmake ninja-build pkg-config git ca-certificates curl
    libmicrohttpd-dev libgnutls28-dev libcurl4-openssl-dev libjansson-dev libssl-dev libxxhash-dev
    libutf8proc-dev libpcre2-dev libhwloc-dev libzip-dev libmnl-dev
    python3 python3-venv python3-pip
)
test_packages=(libcmocka-dev libsimde-dev iproute2 procps util-linux nftables buildah)

packages=("${build_packages[@]}")
[ "$what" = test ] && packages+=("${test_packages[@]}")

missing=()
for package in "${packages[@]}"; do
    case $package in
        # A machine may have these from elsewhere: what counts is the program.
        gcc | make | cmake | git | curl) command -v "$package" >/dev/null && continue ;;
        ninja-build) command -v ninja >/dev/null && continue ;;
    esac
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    echo "install-deps: these packages are missing and need root or sudo to be installed: ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "install-deps: this is no Debian system (no apt-get); install these or their like: ${missing[*]}" >&2
    exit 1
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq ||
    echo "install-deps: 'apt-get update' failed; trying with the lists that are there" >&2
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; then
    for package in "${missing[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' && continue
        reason=$("${as_root[@]}" apt-get install -y -qq --no-install-recommends --simulate "$package" 2>&1 | tail -n 1) || true
        echo "install-deps: cannot install $package: ${reason:-see above}" >&2
    done
    exit 1
fi
