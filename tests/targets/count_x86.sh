#!/bin/bash
# Counts the instructions of products and attention on x86-64, for each multiply-add, under qemu: a gate for
# speed that needs no clock and no particular machine. count_x86.sh [--write]
#
# Compares with tests/data/counts_x86.txt and fails if a count is more than 1% above; `--write` writes the file.
# The compiler is Debian's and not whichever rustup has: another version makes other code, and Debian's
# changes once in months. The file names its version. Under another one counts are only shown, since
# what then changes may not be ours.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$(dirname "$0")"

table="$root/tests/data/counts_x86.txt"
case "${1:-}" in
    "" | --write) ;;
    *) fail "arguments: none or --write" ;;
esac
need qemu-x86_64 qemu-user
need gcc "gcc libc6-dev"
need nm binutils
debian_rust
version="$(rustc --version)"

# The plugin finds the two marks by their addresses, so the program has fixed ones.
target=x86_64-unknown-linux-gnu
for_target "$target" RUSTFLAGS "-C target-feature=+crt-static -C relocation-model=static"
cargo build --quiet --release --locked --manifest-path linux/Cargo.toml --bin count --target "$target" \
    --target-dir "$target_dir/linux"
program="$target_dir/linux/$target/release/count"
work="$(mktemp --directory)"
trap 'rm -rf "$work"' EXIT
gcc -O2 -Wall -Wextra -Werror -fPIC -shared -o "$work/count.so" count.c

address() {
    nm "$program" | awk -v symbol="$1" '$3 == symbol { print $1 }'
}
qemu-x86_64 -cpu max -d plugin -D "$work/counts" \
    -plugin "$work/count.so,start=$(address count_start),stop=$(address count_stop)" "$program" >"$work/calls" \
    2>"$work/errors" || { cat "$work/errors"; wrong "the program did not run under qemu-x86_64"; }
# AVX2 of qemu-user came with 7.2.
grep -q '/avx2$' "$work/calls" || fail "this qemu-x86_64 has no AVX2: qemu-user 7.2 or later is needed"
[ "$(wc -l <"$work/counts")" = "$(wc -l <"$work/calls")" ] || wrong "there is not one count for each call"
{
    echo "# Instructions for each multiply-add: tests/targets/count_x86.sh --write"
    echo "# $version"
    paste -d ' ' "$work/counts" "$work/calls" | awk '{ printf "%.4f %s\n", $1 / $2, $3 }'
} >"$work/table"

if [ "${1:-}" = --write ]; then
    cp "$work/table" "$table"
    exit
fi
[ -s "$table" ] || wrong "there is no $table: tests/targets/count_x86.sh --write"
made_with="$(sed -n '2s/^# //p' "$table")"
echo "== instructions for each multiply-add, $target, $version"
same=yes
awk -v most=1.01 '
    /^#/ { next }
    NR == FNR { before[$2] = $1; next }
    {
        seen++
        if (!($2 in before)) { print "new   ", $1, $2; bad = 1 }
        else if ($1 > most * before[$2]) { print "MORE  ", $1, $2 ", was " before[$2]; bad = 1 }
        else if ($1 * most < before[$2]) print "fewer ", $1, $2 ", was " before[$2]
        delete before[$2]
    }
    END {
        for (call in before) { print "gone  ", call; bad = 1 }
        if (!seen) bad = 1
        exit bad
    }' "$table" "$work/table" || same=no
if [ "$version" != "$made_with" ]; then
    echo "counts: the table is of $made_with, so that nothing is decided here: write it anew from a commit that passed"
elif [ "$same" = no ]; then
    echo "counts: FAILED: more instructions than 1% above the table; if that is meant: tests/targets/count_x86.sh --write"
    exit 1
else
    echo "counts: all $(grep -vc '^#' "$table") are within 1% of the table or below"
fi
