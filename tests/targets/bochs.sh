#!/bin/bash
# The tests on a processor with AVX-512, for machines without one: Bochs, an emulator of PCs, is a Skylake-X, boots a
# kernel of Debian's and runs them. 20 minutes, and some to build.
#
# Fails unless the guest says that it compared the AVX-512 tier, each test passed and it came to its end. What is slow
# is left out, by name: Bochs takes one or two minutes for a second of the machine. What runs is not lowered in count.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$root"

# Test binaries and their arguments. Not among them: `layers`, which reads sources, `conformance`, whose time nobody has
# measured there, and `refused`, `stack`, `corners`, `sequences` and `append_packed`, which are younger than its last run.
tests="
hashes --nocapture
matmul --skip few_rows_
softmax
convert
attention --skip windows_agree_with_the_bit_model_at_both_ends
attention_bits
attention_steps
attention_split --skip keys_in_rings_and_pages_of_any_size --skip keys_that_come_from_memory
scores --skip keys_hidden_in_whole_blocks --skip scores_of_more_rows --skip scores_of_random_calls
    --skip scores_past_a_chunk --skip scores_that_are_not_finite
semantics --skip nan_in_a_key_or_value_reaches --skip numbers_in_keys_that_no_query_sees
guard --skip of_every_ --skip products_past_the_cache_blocks --skip that_no_query_sees
append
rotary
layer
lookup
packed_const
view
error"
limit=5400 # seconds

[ $# = 0 ] || fail "arguments: none"
packages="apt-get install --no-install-recommends bochs bochs-term bochsbios vgabios grub-common grub-pc-bin xorriso"
packages+=" busybox-static gcc libc6-dev"
for file in /usr/bin/{bochs-bin,grub-mkrescue,xorriso,busybox,gcc,script,apt-get} /usr/lib/grub/i386-pc/boot_hybrid.img \
    /usr/share/bochs/{BIOS-bochs-latest,VGABIOS-lgpl-latest} /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so; do
    [ -e "$file" ] || fail "there is no $file: $packages"
done
! ldd /usr/bin/busybox >/dev/null 2>&1 || fail "busybox is not a static one: $packages"

# Only unpacked: nothing of the machine changes.
kernel="$target_dir/bochs/vmlinuz"
if [ ! -e "$kernel" ]; then
    mkdir -p "$target_dir/bochs/package"
    package="$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)"
    (cd "$target_dir/bochs/package" && apt-get --quiet=2 -o APT::Sandbox::User=root download "$package" &&
        dpkg-deb --extract ./"$package"_*.deb .) ||
        fail "apt-get could not download Debian's linux-image-cloud-amd64: does apt-get update work?"
    mv "$target_dir"/bochs/package/boot/vmlinuz-* "$kernel"
    rm -rf "$target_dir/bochs/package"
fi

work="$(mktemp --directory)"
trap 'rm -rf "$work"' EXIT
guest="$work/guest"
mkdir -p "$guest"/{proc,dev,tests} "$guest$root/tests" "$work/disc/boot/grub"

# Instead of being run the binaries are copied. The library looks for AVX-512 when it runs, the build needs no flag.
target=x86_64-unknown-linux-gnu
has_rustup_target "$target" || debian_rust
for_target "$target" RUSTFLAGS "-C target-feature=+crt-static"
for_target "$target" RUNNER "cp --target-directory=$guest/tests"
mapfile -t names < <(grep -o '^[a-z_]*' <<<"$tests")
cargo test --release --locked --config 'profile.release.package."*".opt-level=1' \
    --config profile.release.strip=true --target "$target" --target-dir "$target_dir/bochs" "${names[@]/#/--test=}"

{
    echo "#!/busybox sh"
    echo "/busybox mount -t proc proc /proc"
    echo "/busybox mount -t devtmpfs dev /dev"
    echo "cd $root"
    echo "run() { echo \"== \$*\"; name=\$1; shift; /tests/\$name-* \"\$@\" || failed=\"\$failed \$name\"; }"
    # A binary to a line: those that are indented go on.
    sed -z 's/\n  */ /g; s/\n\([a-z]\)/\nrun \1/g' <<<"$tests"
    echo "echo \"guest: failed: \${failed:-none}\""
    # Until the serial line has sent that.
    echo "/busybox usleep 10000"
    echo "/busybox poweroff -f"
} >"$guest/init"
chmod +x "$guest/init"
cp /usr/bin/busybox "$guest/"
cp -r tests/data "$guest$root/tests/"
(cd "$guest" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/disc/initrd"
cp "$kernel" "$work/disc/vmlinuz"

# - The XSAVES of Bochs 2.7 tells a wrong size, for which Linux turns AVX off.
# - A kernel that panics starts anew, in the way that ends Bochs.
cat >"$work/disc/boot/grub/grub.cfg" <<END
linux /vmlinuz console=ttyS0 quiet rdinit=/init clearcpuid=xsaves,xsavec panic=-1 reboot=t mitigations=off tsc=reliable lpj=1000000
initrd /initrd
boot
END
grub-mkrescue --output="$work/disc.iso" "$work/disc" --install-modules="linux normal iso9660 biosdisk" --fonts= \
    --locales= --themes= 2>"$work/errors" || { cat "$work/errors"; wrong "grub-mkrescue made no disc"; }

# More instructions a second (ips) would have the kernel wait longer for its timers. The serial line is our output.
cat >"$work/bochsrc" <<END
display_library: term
cpu: model=corei7_skylake_x, ips=20000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=/dev/fd/3
clock: sync=none
log: $work/log
panic: action=fatal
error: action=report
info: action=report
END
# Debian's Bochs starts in its debugger: go on. Its display is a terminal, which `script` makes.
echo c >"$work/commands"
gcc -O2 -Wall -Wextra -Werror -fPIC -shared -o "$work/bochs.so" tests/targets/bochs.c
echo "== cargo test in Bochs, a Skylake-X"
# A panic is Bochs' only end, also where the guest turns itself off: the status says nothing.
TERM=vt100 timeout --foreground "$limit" script --quiet --command \
    "LD_PRELOAD=$work/bochs.so exec bochs-bin -q -f $work/bochsrc -rc $work/commands" /dev/null 3>&1 >"$work/display" \
    </dev/null | sed --unbuffered 's/\r//g' | tee "$work/serial" || true
grep -q 'avx512: all .* cases have the bits of its group' "$work/serial" || wrong "the guest did not compare the AVX-512 tier"
grep -q '^guest: failed:' "$work/serial" || wrong "the guest did not come to its end in $limit s"
grep -qx 'guest: failed: none' "$work/serial" || wrong "tests failed in the guest"
echo "bochs: all passed"
