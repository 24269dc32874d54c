#!/bin/bash
# The checks on other targets that take little time: firmware on a Cortex-M4F and on RISC-V, and the same
# bits as a PC there, in wasm and on aarch64. Installs from Debian what is missing, if it may.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(rustc-web cargo-web rust-web-src lld-22 qemu-system-arm qemu-system-misc qemu-user
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross binutils)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
# Debian's own node, or another.
command -v node >/dev/null || missing+=(nodejs)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id --user)" != 0 ]; then
        echo "ci.sh: some packages are missing: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
    apt-get --quiet=2 update
    DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 install --no-install-recommends "${missing[@]}" >/dev/null
fi

start=$SECONDS
step() {
    local start=$SECONDS
    "$@"
    echo "-- $*: ok, $((SECONDS - start)) s"
}
step examples/firmware/run.sh m4f
step examples/firmware/run.sh rv32imafc
step tests/targets/wasm.sh
step tests/targets/user.sh aarch64 --test hashes
echo "other targets: all ok, $((SECONDS - start)) s"
