#!/bin/bash
# Proves that the library needs no std and no allocator and cannot panic: the binary of this crate links
# although its panic handler calls a function that exists nowhere, at the optimisation levels of
# servers and of firmware, and runs with the right results. Then shows that the proof can fail.
set -euo pipefail
cd "$(dirname "$0")"
target="${CARGO_TARGET_DIR:-$PWD/target}/no_std"
missing=a_panic_path_is_reachable
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

build() { # level, then arguments to cargo
    CARGO_PROFILE_RELEASE_OPT_LEVEL="$1" cargo build --release --locked --target-dir "$target" "${@:2}" >"$log" 2>&1
}

# Every call of a panic function that is left, with the source lines that it was inlined from.
locate() {
    CARGO_PROFILE_RELEASE_DEBUG=line-tables-only build "$1" --features locate || return 0
    local binary="$target/release/no_std" address
    objdump --demangle --disassemble --no-show-raw-insn "$binary" |
        sed -nE 's/^ *([0-9a-f]+):\t(call|jmp|lea).*<core.*::(panicking|(slice::index|str|option|result|cell)::.*(fail|panic)).*/\1/p' |
        while read -r address; do
            addr2line --demangle --functions --inlines --pretty-print --exe "$binary" "0x$address" |
                grep -v '/library/core/' | sed '1s/^/a panic path: /' || true
        done
}

proves() { # level
    if ! build "$1"; then
        cat "$log"
        locate "$1"
        echo "no_std: FAILED at opt-level $1"
        exit 1
    fi
    "$target/release/no_std"
    if nm "$target/release/no_std" | grep -E '__rust_alloc|__rdl_alloc|core9panicking'; then
        echo "no_std: FAILED at opt-level $1: an allocator or a panic function is linked"
        exit 1
    fi
    echo "opt-level $1: links without std, allocator or any panic path, and runs"
}

can_fail() { # level
    if build "$1" --features bad; then
        echo "no_std: FAILED: a planted index panic did not break the link"
        exit 1
    elif ! grep -q "undefined.*$missing" "$log"; then
        cat "$log"
        echo "no_std: FAILED: the planted panic broke the build in another way"
        exit 1
    fi
    echo "a planted index panic breaks the link: $missing is undefined"
}

# Once, at the level that links sooner. Level 3 last: what it leaves is what .ci/check_tile.py looks at.
proves s
can_fail s
proves 3
