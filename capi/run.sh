#!/bin/bash
# Builds the static library and runs the C programs with it: on this machine, or with `thumbv7em` on a
# Cortex-M4F in qemu. The links prove that no panic can be reached; then a planted one shows that the proof
# can fail.
set -euo pipefail
cd "$(dirname "$0")"
target="${CARGO_TARGET_DIR:-$PWD/target}"
missing=qkv_a_panic_is_reachable
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

need() { # program, Debian package
    command -v "$1" >/dev/null || { echo "capi: $1 is missing: apt-get install $2"; exit 1; }
}

host() { # features, C file, options of the linker
    cargo build --release --locked --features "$1"
    gcc -std=c99 -O2 -Wall -Wextra -Wcast-qual -Werror -Iinclude -o "$out/program" "$2" \
        "$target/release/libqkv_c.a" -Wl,--gc-sections -lm "${@:3}" 2>"$out/log" || return 1
}

# Debian's Rust has the sources of core, for targets that rustup has not installed. Firmware is built for size.
cortex_m() { # as host
    need /usr/bin/rustc "rustc-web cargo-web rust-web-src"
    need arm-none-eabi-gcc "gcc-arm-none-eabi libnewlib-arm-none-eabi"
    need qemu-system-arm qemu-system-arm
    CARGO_PROFILE_RELEASE_OPT_LEVEL=s RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_THUMBV7EM_NONE_EABIHF_RUSTFLAGS="-C target-cpu=cortex-m4" \
        PATH="/usr/bin:$PATH" /usr/bin/cargo build --release --locked --features "$1" \
        -Zbuild-std=core --target thumbv7em-none-eabihf
    arm-none-eabi-gcc -std=c99 -O2 -Wall -Wextra -Wcast-qual -Werror -mcpu=cortex-m4 -mthumb \
        -mfpu=fpv4-sp-d16 -mfloat-abi=hard --specs=rdimon.specs -T examples/mps2.ld -Iinclude \
        -o "$out/program" examples/vectors.c "$2" \
        "$target/thumbv7em-none-eabihf/release/libqkv_c.a" -Wl,--gc-sections -lm "${@:3}" 2>"$out/log" || return 1
}

case "${1:-host}" in
    host) build=host run=("$out/program") ;;
    thumbv7em)
        build=cortex_m
        run=(timeout 300 qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none
            -semihosting-config "enable=on,target=native" -kernel "$out/program")
        ;;
    *) echo "usage: capi/run.sh [host | thumbv7em]"; exit 1 ;;
esac

for program in attention decode lengths; do
    if ! $build prove "examples/$program.c"; then
        cat "$out/log"
        echo "capi: FAILED: $program.c does not link, so a panic can be reached or something is missing"
        exit 1
    fi
    "${run[@]}"
done
echo "capi: links without std and without any panic path, and runs"

echo "int main(void) { return 0; }" >"$out/nothing.c"
if $build prove,bad "$out/nothing.c" -Wl,--undefined=qkv_bad; then
    echo "capi: FAILED: a planted panic did not break the link"
    exit 1
elif ! grep -q "undefined.*$missing" "$out/log"; then
    cat "$out/log"
    echo "capi: FAILED: the planted panic broke the build in another way"
    exit 1
fi
echo "capi: a planted panic breaks the link: $missing is undefined"
