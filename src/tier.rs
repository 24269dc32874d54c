//! `Tier`: which instructions a call runs on, found at run time without std.

use crate::simd::VECTORS;

/// Which SIMD instructions a call uses.
///
/// A default build finds the best tier of the CPU by itself; a value of this type forces one, which
/// tests and benchmarks need. Every value that can be made is one that this CPU can run.
///
/// The tiers form two groups. Those with fused multiply-add ([`is_fused`](Tier::is_fused)) agree
/// bit for bit with each other; those without agree bit for bit with each other, so that
/// [`Tier::portable`] on a PC gives the bits of a microcontroller. One that has such an instruction is in the first
/// group if it is built with `--cfg qkv_fma`: RISC-V with F, and a Cortex-M7 or M55 that `-C target-cpu` names.
///
/// ```
/// use qkv::Tier;
/// println!("this machine runs {}", Tier::detect());
/// assert!(Tier::all().any(|tier| tier == Tier::detect()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tier(pub(crate) Isa);

/// The tiers of this target. Values exist only for what [`available`] has checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Isa {
    Scalar,
    #[cfg(any(
        target_feature = "sse2",
        all(target_arch = "aarch64", target_feature = "neon"),
        target_feature = "simd128"
    ))]
    Portable,
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Neon,
    #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
    Avx2,
    #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
    Avx512,
}

/// From the plainest to the fastest.
const ALL: &[Isa] = &[
    Isa::Scalar,
    #[cfg(any(
        target_feature = "sse2",
        all(target_arch = "aarch64", target_feature = "neon"),
        target_feature = "simd128"
    ))]
    Isa::Portable,
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Isa::Neon,
    #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
    Isa::Avx2,
    #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
    Isa::Avx512,
];

impl Tier {
    /// The fastest tier of this CPU. The answer is found once and kept in one byte.
    #[inline]
    pub fn detect() -> Tier {
        Tier(detect())
    }

    /// The vectors that every CPU of the build's target has, or scalars where it has none.
    #[inline]
    pub const fn portable() -> Tier {
        // Behind `Scalar`, if there are such vectors.
        Tier(ALL[VECTORS as usize])
    }

    /// One lane, as a microcontroller runs it.
    #[inline]
    pub const fn scalar() -> Tier {
        Tier(Isa::Scalar)
    }

    /// Every tier that this CPU can run, from the plainest to the fastest.
    pub fn all() -> impl Iterator<Item = Tier> {
        ALL.iter().filter(|&&isa| available(isa)).map(|&isa| Tier(isa))
    }

    /// Whether the tier rounds `a * b + c` once. Tiers that agree in this agree in every bit.
    pub fn is_fused(self) -> bool {
        use crate::simd::Simd;
        fn fused<S: Simd>(_: S) -> bool {
            S::FUSED
        }
        dispatch!(self, s => fused(s))
    }

    /// `"scalar"`, `"portable"`, `"neon"`, `"avx2"` or `"avx512"`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Isa::Scalar => "scalar",
            #[cfg(any(
                target_feature = "sse2",
                all(target_arch = "aarch64", target_feature = "neon"),
                target_feature = "simd128"
            ))]
            Isa::Portable => "portable",
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Isa::Neon => "neon",
            #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
            Isa::Avx2 => "avx2",
            #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
            Isa::Avx512 => "avx512",
        }
    }
}

impl core::fmt::Display for Tier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs `$body` with `$s` bound to the token of `$tier`: one `match` a call, never inside a loop.
macro_rules! dispatch {
    ($tier:expr, $s:ident => $body:expr) => {
        match $tier.0 {
            $crate::tier::Isa::Scalar => {
                let $s = $crate::arch::scalar::Scalar;
                $body
            }
            #[cfg(any(
                target_feature = "sse2",
                all(target_arch = "aarch64", target_feature = "neon"),
                target_feature = "simd128"
            ))]
            $crate::tier::Isa::Portable => {
                let $s = $crate::arch::portable::Portable;
                $body
            }
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            $crate::tier::Isa::Neon => {
                let $s = $crate::arch::neon::Neon;
                $body
            }
            #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
            $crate::tier::Isa::Avx2 => {
                // SAFETY: this tier is only handed out after `available` has found it.
                let $s = unsafe { $crate::arch::avx2::Avx2::new() };
                $body
            }
            #[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
            $crate::tier::Isa::Avx512 => {
                // SAFETY: this tier is only handed out after `available` has found it.
                let $s = unsafe { $crate::arch::avx512::Avx512::new() };
                $body
            }
        }
    };
}
pub(crate) use dispatch;

#[cfg(not(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi"))))]
fn available(_: Isa) -> bool {
    true
}

#[cfg(not(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi"))))]
fn detect() -> Isa {
    ALL[ALL.len() - 1]
}

#[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
use x86::{available, detect};

#[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
mod x86 {
    use super::Isa;
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use core::sync::atomic::{AtomicU8, Ordering};

    /// 0 before the first question; then bit 0 is set, bit 1 for AVX2, bit 2 for AVX-512.
    static FOUND: AtomicU8 = AtomicU8::new(0);
    const ASKED: u8 = 1;
    const AVX2: u8 = 2;
    const AVX512: u8 = 4;

    #[inline]
    fn found() -> u8 {
        // Two threads may both ask: they find the same.
        match FOUND.load(Ordering::Relaxed) {
            0 => ask(),
            found => found,
        }
    }

    #[inline]
    pub fn available(isa: Isa) -> bool {
        match isa {
            Isa::Scalar | Isa::Portable => true,
            Isa::Avx2 => found() & AVX2 != 0,
            Isa::Avx512 => found() & AVX512 != 0,
        }
    }

    #[inline]
    pub fn detect() -> Isa {
        let found = found();
        if found & AVX512 != 0 {
            Isa::Avx512
        } else if found & AVX2 != 0 {
            Isa::Avx2
        } else {
            Isa::Portable
        }
    }

    #[cold]
    fn ask() -> u8 {
        let mut found = ASKED;
        if has_avx2() {
            found |= AVX2;
            if has_avx512f() {
                found |= AVX512;
            }
        }
        FOUND.store(found, Ordering::Relaxed);
        found
    }

    /// The instruction sets, and that the operating system saves the registers they use. A CPU may
    /// have AVX while a hypervisor or kernel has it turned off; then it faults.
    fn has_avx2() -> bool {
        if cfg!(all(target_feature = "avx2", target_feature = "fma", target_feature = "f16c")) {
            return true;
        }
        if __cpuid(0).eax < 7 {
            return false;
        }
        let (one, seven) = (__cpuid(1).ecx, __cpuid_count(7, 0).ebx);
        let (fma, osxsave, avx, f16c, avx2) = (1 << 12, 1 << 27, 1 << 28, 1 << 29, 1 << 5);
        let wanted = fma | osxsave | avx | f16c;
        one & wanted == wanted && seven & avx2 != 0 && saved_registers() & 0b110 == 0b110
    }

    fn has_avx512f() -> bool {
        if cfg!(target_feature = "avx512f") {
            return true;
        }
        let avx512f = 1 << 16;
        __cpuid_count(7, 0).ebx & avx512f != 0 && saved_registers() & 0b1110_0110 == 0b1110_0110
    }

    /// XCR0: bit 1 SSE, bit 2 AVX, bits 5 to 7 AVX-512. Only asked when CPUID says OSXSAVE.
    fn saved_registers() -> u64 {
        // SAFETY: OSXSAVE is set, so the instruction exists and register 0 may be read.
        unsafe { _xgetbv(0) }
    }
}
