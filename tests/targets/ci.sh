#!/bin/bash
# The checks on other targets that take little time: firmware on Cortex-M4F, M7 and M55 and on RISC-V, and the same
# bits as a PC there, in wasm and on AArch64; C programs on the Cortex-M4F. Installs from Debian what is
# missing, if it may.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(rustc-web cargo-web rust-web-src lld-22 qemu-system-arm qemu-system-misc qemu-user gcc libc6-dev
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-none-eabi libnewlib-arm-none-eabi binutils)

missing() {
    local package
    for package in "${packages[@]}"; do
        dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
    # Debian's own node, or another.
    command -v node >/dev/null || echo nodejs
}

# Downloads of packages that are not there yet.
installed() {
    apt-get --quiet=2 update &&
        DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes install --no-install-recommends "$@" >/dev/null
}

current="what it needs"
trap '[ $? = 0 ] || echo "other targets: FAILED: $current" >&2' EXIT
step() {
    current="$*"
    local TIMEFORMAT="-- $*: %0R s, %0U s of a processor"
    time "$@"
}

if ! command -v dpkg-query >/dev/null; then
    echo "ci.sh: this is not Debian: its compiler and qemu are what the targets are built and run with" >&2
    exit 77
fi
mapfile -t names < <(missing)
if [ ${#names[@]} -gt 0 ]; then
    if [ "$(id --user)" != 0 ]; then
        echo "ci.sh: some packages are missing: apt-get install --no-install-recommends ${names[*]}" >&2
        exit 77
    fi
    # A mirror may be busy: once more, later.
    if ! installed "${names[@]}" && { sleep 20; ! installed "${names[@]}"; }; then
        echo "ci.sh: apt-get could not install, twice: ${names[*]} (of Debian 12 with its security updates)" >&2
        exit 77
    fi
fi

checks() {
    step examples/firmware/run.sh m4f
    step examples/firmware/run.sh rv32imafc
    step examples/firmware/run.sh m7 hashes
    step examples/firmware/run.sh m55mve hashes
    step tests/targets/counts.sh
    step tests/targets/wasm.sh --quick
    step tests/targets/user.sh aarch64 --quick
    # With the core that the firmware was built with.
    CARGO_BUILD_BUILD_DIR="${CARGO_TARGET_DIR:-$PWD/target}/targets/build" step capi/run.sh thumbv7em
}
step checks
echo "other targets: all ok"
