#!/bin/bash
# Builds the firmware for an emulated board and runs it: run.sh BOARD [lookup|hashes|all|counts|counts16|calls].
#
# `lookup` shows the trained model at work. `hashes` compares the bits of results with those of a PC
# (tests/data/hashes). `all` is both. On a Cortex-M with a floating-point unit: `counts` prints a line for each of
# some calls, with instructions, multiply-adds, bytes of stack and bytes of scratch, `counts16` with operands of 16 bits.
# `calls` is the smallest firmware, in which no panic, allocator or formatting may be linked. The exit status is that of
# the firmware. QKV_OPT_LEVEL is 3 without it.
set -euo pipefail
. "$(dirname "$0")/../../tests/targets/env.sh"
cd "$(dirname "$0")"

boards="
m4f         Cortex-M4F, mps2-an386
m7          Cortex-M7F, mps2-an500
m3          Cortex-M3, soft float, mps2-an385
m0          the instructions of a Cortex-M0, soft float, on a Cortex-M3, mps2-an385
m55         Cortex-M55 without vectors of floats, mps3-an547
m55mve      Cortex-M55 with them: subnormal numbers are flushed to zero, mps3-an547
rv32imafc   RISC-V with FPU, virt
rv32fma     the same with --cfg qkv_fma, as m7, m55 and m55mve
rv32imac    RISC-V, soft float, virt"

flags="" qemu=arm
case "${1:-}" in
    m4f) target=thumbv7em-none-eabihf memory=mps2 machine=mps2-an386 flags="-C target-cpu=cortex-m4" ;;
    m7) target=thumbv7em-none-eabihf memory=mps2 machine=mps2-an500 flags="-C target-cpu=cortex-m7 --cfg qkv_fma" ;;
    m3) target=thumbv7m-none-eabi memory=mps2 machine=mps2-an385 ;;
    m0) target=thumbv6m-none-eabi memory=mps2 machine=mps2-an385 ;;
    m55)
        # Its vectors of floats flush subnormal numbers to zero, so that f16 and exp lose bits.
        target=thumbv8m.main-none-eabihf memory=mps3 machine=mps3-an547
        flags="-C target-cpu=cortex-m55 -C target-feature=-mve.fp --cfg qkv_fma"
        ;;
    m55mve) target=thumbv8m.main-none-eabihf memory=mps3 machine=mps3-an547 flags="-C target-cpu=cortex-m55 --cfg qkv_fma --cfg qkv_mve" ;;
    rv32imafc) target=riscv32imafc-unknown-none-elf memory=virt machine=virt qemu=riscv32 ;;
    rv32fma)
        target=riscv32imafc-unknown-none-elf memory=virt machine=virt qemu=riscv32 flags="--cfg qkv_fma"
        ;;
    rv32imac) target=riscv32imac-unknown-none-elf memory=virt machine=virt qemu=riscv32 ;;
    *) fail "which board? One of:$boards" ;;
esac
case "${2:-all}" in
    all) binaries="lookup hashes" ;;
    lookup | hashes | counts | counts16 | calls) binaries="$2" ;;
    *) fail "which firmware? lookup, hashes, all, counts, counts16 or calls" ;;
esac

need size binutils
case "$qemu" in
    arm) need qemu-system-arm qemu-system-arm ;;
    riscv32) need qemu-system-riscv32 qemu-system-misc ;;
esac
rust_without_std "$target" ld.lld
[ -z "$flags" ] || for_target "$target" RUSTFLAGS "$flags"

build() { # binary; sets `executable`
    local features=() of="$1"
    case "$1" in
        counts) features=(--no-default-features --features print) ;;
        counts16) of=counts ;;
        calls) features=(--no-default-features) ;;
    esac
    QKV_BOARD="$memory" CARGO_PROFILE_RELEASE_OPT_LEVEL="${QKV_OPT_LEVEL:-3}" cargo build --quiet --release --locked \
        "${std[@]}" --target "$target" --target-dir "$target_dir/firmware" --bin "$of" "${features[@]}"
    executable="$target_dir/firmware/$target/release/$of"
}

sizes() { # executable: bytes of the sections that a chip has to hold
    size --format=sysv "$1" | awk '$1 ~ /^\.(text|rodata|data|bss)$/ { printf "%s %d  ", $1, $2 }'
}

run() { # executable, more arguments to qemu
    local bios=()
    [ "$qemu" = arm ] || bios=(-bios none)
    timeout "${QKV_SECONDS:-300}" "qemu-system-$qemu" -machine "$machine" "${bios[@]}" -nographic -monitor none \
        -serial none -semihosting-config enable=on,target=native -kernel "$@"
}

nothing_else_linked() { # executable
    if nm --demangle "$1" | grep -E 'core::(panicking|fmt)|alloc|a_panic_path_is_reachable'; then
        echo "$(basename "$0"): FAILED: a panic, an allocator or formatting is linked" >&2
        exit 1
    fi
}

group=(separate)
[[ "$flags" != *qkv_fma* ]] || group=(fused)
# Some of their f16 numbers are subnormal.
[[ "$flags" != *qkv_mve* ]] || group+=("matmul f16 b?f16 .* 13 x 530 x 37(, packed|, alpha beta bias)?$")
for binary in $binaries; do
    build "$binary"
    echo "== $binary, $target ${flags#-C target-cpu=} on $machine: $(sizes "$executable")"
    case "$binary" in
        lookup) run "$executable" ;;
        hashes) run "$executable" | "$root/tests/targets/compare.sh" "${group[@]}" ;;
        # 128 ns of virtual time an instruction: the gauge wants three ticks of the timer or more.
        counts | counts16) run "$executable" -icount shift=7 ;;
        calls)
            nothing_else_linked "$executable"
            run "$executable"
            ;;
    esac
done
