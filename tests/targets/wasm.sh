#!/bin/bash
# Builds for wasm32 with simd128 and compares the bits of results with those of a PC, under node:
# wasm.sh [--quick]. The kernels are optimized, or `--quick` to build.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$(dirname "$0")/wasm"
target=wasm32-unknown-unknown
case "${1:-}" in
    "") profile=release ;;
    --quick) profile=quick ;;
    *) fail "arguments: none or --quick" ;;
esac
need node nodejs
rust_without_std "$target" wasm-ld
# The operands of the cases lie on the stack.
for_target "$target" RUSTFLAGS "-C target-feature=+simd128 -C link-arg=-zstack-size=4194304"
cargo build --quiet --profile "$profile" --locked "${std[@]}" --target "$target" --target-dir "$target_dir/wasm"
module="$target_dir/wasm/$target/$profile/wasm.wasm"
echo "== hashes, $target +simd128 under node $(node --version): $(stat --format=%s "$module") bytes"
node run.mjs "$module" | ../compare.sh separate
