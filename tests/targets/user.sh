#!/bin/bash
# The tests on another processor, under qemu-user: user.sh PROCESSOR [--quick | arguments to cargo test].
#
# Without arguments all tests run, in release mode, but for one kind: see below. `--quick` compares the bits of
# results of each tier with those of a PC, hardly optimized, and builds in a fraction of the time. The exit
# status is that of cargo test.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$root"

processors="
aarch64     NEON; Debian's own std for arm64, unpacked
x86_64      of 2008 (Nehalem): SSE2 is what is used, no AVX; the machine's own Rust
i686        32 bits, SSE2; std is built, as below
s390x       big-endian
powerpc64   big-endian, without AltiVec, which flushes subnormal numbers to zero"

processor="${1:-}"
[ $# = 0 ] || shift
std=()
case "$processor" in
    aarch64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu libc=arm64 qemu=qemu-aarch64 ;;
    x86_64) target=x86_64-unknown-linux-gnu gnu="" qemu="qemu-x86_64 -cpu Nehalem" ;;
    i686) target=i686-unknown-linux-gnu gnu=i686-linux-gnu libc=i386 qemu=qemu-i386 ;;
    s390x) target=s390x-unknown-linux-gnu gnu=s390x-linux-gnu libc=s390x qemu=qemu-s390x ;;
    powerpc64) target=powerpc64-unknown-linux-gnu gnu=powerpc64-linux-gnu libc=ppc64 qemu=qemu-ppc64 ;;
    *) fail "which processor? One of:$processors" ;;
esac
need "${qemu%% *}" qemu-user
if [ -n "$gnu" ]; then
    need "$gnu-gcc" "gcc-$gnu libc6-dev-$libc-cross"
    for_target "$target" LINKER "$gnu-gcc"
    qemu="$qemu -L /usr/$gnu"
fi
for_target "$target" RUNNER "$qemu"
[ "$processor" != powerpc64 ] || for_target "$target" RUSTFLAGS "-C target-feature=-altivec,-vsx"

# Debian's prebuilt std for arm64 into a sysroot of its own: nothing of the machine changes.
arm_sysroot() {
    sysroot="$target_dir/sysroot"
    [ -d "$sysroot/lib/rustlib/$target" ] && return
    local lists version
    version="$(dpkg-query --show --showformat '${Version}' libstd-rust-web-dev:amd64)"
    lists="$(mktemp --directory)"
    # A mirror may be busy: once more, later.
    arm_download || { sleep 20; arm_download; } ||
        fail "apt-get could not download libstd-rust-web-dev $version for arm64, twice: does apt-get update work?"
    mkdir -p "$sysroot/lib/rustlib"
    ln -sfn /usr/lib/rustlib/x86_64-unknown-linux-gnu "$sysroot/lib/rustlib/"
    mv "$lists/files/usr/lib/rustlib/$target" "$sysroot/lib/rustlib/"
    rm -rf "$lists"
}

arm_download() {
    local apt=(apt-get --quiet=2 -o APT::Architecture=arm64 -o APT::Architectures::=arm64
        -o "Dir::State::lists=$lists/lists" -o "Dir::Cache=$lists/cache" -o APT::Sandbox::User=root)
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
    "${apt[@]}" update &&
        (cd "$lists" && "${apt[@]}" download "libstd-rust-web-dev=$version" && dpkg-deb --extract ./*.deb files)
}

if ! has_rustup_target "$target"; then
    debian_rust
    case "$processor" in
        aarch64)
            arm_sysroot
            export RUSTFLAGS="--sysroot=$sysroot" RUSTDOCFLAGS="--sysroot=$sysroot"
            ;;
        x86_64) ;;
        *) std=(-Zbuild-std=std,panic_unwind,test) ;;
    esac
fi
if [ "${1:-}" = --quick ]; then
    echo "== hashes, hardly optimized, $target under $qemu"
    cargo test --quiet --profile quick --locked "${std[@]}" --manifest-path tests/targets/linux/Cargo.toml --target "$target" \
        --target-dir "$target_dir/user" --test hashes -- every_tier
    exit
fi
# Tests of offsets beyond 2^32 map hundreds of gigabytes, untouched; qemu-user keeps accounts of each page.
skipped=far::
echo "== cargo test ${*:-(all)}, without $skipped, $target under $qemu"
# What the library inlines is compiled with it, fully; the rest, mostly for benches, only has to build soon.
cargo test --release --locked --config 'profile.release.package."*".opt-level=1' "${std[@]}" \
    --target "$target" --target-dir "$target_dir/user" "$@" -- --skip "$skipped"
