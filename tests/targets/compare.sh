#!/bin/bash
# Compares the hashes on standard input with those of a group of tiers: compare.sh fused|separate [PATTERN].
# Cases whose names match the pattern may differ.
set -euo pipefail
. "$(dirname "$0")/env.sh"
expected="$root/tests/data/hashes/$1.txt"
[ -s "$expected" ] || wrong "there is no $expected: QKV_WRITE_HASHES=1 cargo test --test hashes"
got="$(mktemp)"
trap 'rm -f "$got"' EXIT
cat >"$got"
but="${2:-^$}"
if ! diff --unified=0 <(grep -vE "$but" "$expected") <(grep -vE "$but" "$got"); then
    echo "hashes: FAILED: other results than a PC's"
    exit 1
fi
echo "hashes: all $(grep -cvE "$but" "$got") cases have the bits of a PC${2:+, but for $2}"
