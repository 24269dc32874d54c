#!/bin/bash
# What calls cost on a Cortex-M: executed instructions, stack, scratch, at opt-level 3 with operands of 16 bits too, and
# flash of the smallest firmware with matmul and attention. Prints a table, and fails if one of its numbers is more than
# 1% above tests/data/counts.txt, if instructions depend on the operands' values, or if a call does not keep its
# caller's registers. `counts.sh --write` writes that file instead.
set -euo pipefail
. "$(dirname "$0")/env.sh"
firmware="$root/examples/firmware/run.sh"
committed="$root/tests/data/counts.txt"
case "${1:-}" in
    "" | --write) ;;
    *) fail "which option? --write or none" ;;
esac
measured="$(mktemp)"
trap 'rm -f "$measured"' EXIT

run() { # board, level, firmware
    if ! QKV_OPT_LEVEL="$2" CARGO_TARGET_DIR="${target_dir%/targets}" "$firmware" "$1" "$3"; then
        echo "counts: FAILED: $3 on $1 at opt-level $2" >&2
        return 1
    fi
}

counted() { # board, level, firmware
    local counts
    counts="$(run "$1" "$2" "$3")" || { echo "$counts" && return 1; }
    awk -v of="$1 $2" '
        /^==/ { next }
        { printf "%s %s instructions=%d each=%.3f stack=%d scratch=%d\n", of, $1, $2, $2 / $3, $4, $5 }
    ' <<<"$counts"
}

measure() { # board, level
    local calls
    counted "$1" "$2" counts
    [ "$2" != 3 ] || counted "$1" "$2" counts16
    calls="$(run "$1" "$2" calls)"
    awk -v of="$1 $2" '
        { for (i = 1; i < NF; i++) { if ($i == ".text") text = $(i + 1); if ($i == ".rodata") rodata = $(i + 1) } }
        END { printf "%s calls text=%d rodata=%d\n", of, text, rodata }
    ' <<<"$calls"
}

has_rustup_target thumbv7em-none-eabihf && rustc=rustc || rustc=/usr/bin/rustc
echo "# By tests/targets/counts.sh --write, $("$rustc" --version | cut -d ' ' -f 1-2)." >"$measured"
for board in m4f m7 m55mve; do
    for level in 3 s z; do
        [ "$board" != m55mve ] || [ "$level" = 3 ] || continue
        measure "$board" "$level" | tee -a "$measured"
    done
done
if [ "${1:-}" = --write ]; then
    cp "$measured" "$committed"
    exit
fi
awk '
    FNR == 1 { file++ }
    /^#/ { version[file] = $0; next }
    { key = $1 " " $2 " " $3 }
    file == 1 { old[key] = $0; next }
    !(key in old) { print "counts: FAILED: not in the file: " key; failed = 1; next }
    {
        n = split(old[key], was)
        for (i = 4; i <= n; i++) {
            split(was[i], before, "=")
            split($i, now, "=")
            if (before[1] != now[1] || (now[1] != "each" && now[2] > before[2] * 1.01)) {
                print "counts: FAILED: " key ": " was[i] " before, " $i " now"
                failed = 1
            }
        }
        delete old[key]
    }
    END {
        for (key in old) { print "counts: FAILED: not measured: " key; failed = 1 }
        if (failed && version[1] != version[2]) print "counts: another compiler? " version[1] " -> " version[2]
        exit failed
    }
' "$committed" "$measured"
echo "counts: nothing is more than 1% above $(realpath --relative-to="$root" "$committed")"
