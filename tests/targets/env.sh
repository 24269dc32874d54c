# What the scripts for other targets share; sourced by them. Sets `root` and `target_dir`.
#
# Rust for a target comes from rustup where rustup has that target, else from Debian: its compiler comes
# with the sources of the standard library, so that cargo builds that too. The packages are in bookworm.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export CARGO_TERM_COLOR=never
target_dir="${CARGO_TARGET_DIR:-$root/target}/targets"
unset CARGO_TARGET_DIR

# Of all scripts together: what builds other crates runs on this machine and is the same for each target.
export CARGO_BUILD_BUILD_DIR="$target_dir/build"

fail() { # a sentence about what is missing
    echo "$(basename "$0"): $1" >&2
    exit 77
}

wrong() { # a sentence about what should not be so
    echo "$(basename "$0"): $1" >&2
    exit 1
}

need() { # command, Debian package
    command -v "$1" >/dev/null || fail "there is no $1: apt-get install $2"
}

# Debian's cargo and compiler. Building std is unstable, which that compiler must be told to accept.
debian_rust() {
    local file
    for file in /usr/bin/cargo /usr/bin/rustc /usr/lib/rustlib/src/rust/library/Cargo.lock; do
        [ -e "$file" ] || fail "there is no $file: apt-get install rustc-web cargo-web rust-web-src"
    done
    export PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
}

has_rustup_target() {
    command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$1"
}

# Sets the array `std` to cargo's arguments for a target without an operating system.
rust_without_std() { # target, LLVM's linker for it
    std=()
    has_rustup_target "$1" && return
    [ -e /usr/lib/rustlib/src ] ||
        fail "there is no Rust for $1: rustup target add $1, or apt-get install rustc-web cargo-web rust-web-src lld-22"
    debian_rust
    std=(-Zbuild-std=core)
    for_target "$1" LINKER "$(lld "$2")"
}

# The path of one of LLVM's linkers; Debian's Rust has none of its own.
lld() { # ld.lld or wasm-ld
    local found
    found="$(ls -v /usr/lib/llvm-*/bin/"$1" 2>/dev/null | tail -n 1)"
    [ -n "$found" ] || fail "there is no $1: apt-get install lld-22"
    echo "$found"
}

# Sets a key of cargo's configuration for a target, such as LINKER.
for_target() { # target, key, value
    local name="${1^^}"
    export "CARGO_TARGET_${name//[-.]/_}_$2=$3"
}
