//! The scalar tier: one lane, for targets without vectors (Cortex-M, RISC-V, soft float).
//!
//! `--cfg qkv_fma` is for processors with an instruction that fuses a product and a sum: a Cortex-M7 or M55, named by
//! `-C target-cpu`, and RISC-V with F. Results have the bits of AVX2 and NEON then.

use crate::elem::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::Simd;

#[cfg(not(qkv_fma))]
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    a * b + c
}

/// Rust has a name for this instruction only in std.
#[cfg(qkv_fma)]
#[inline(always)]
fn multiply_add(a: f32, b: f32, mut c: f32) -> f32 {
    // SAFETY: registers alone, of a unit that `qkv_fma` says is there.
    unsafe {
        #[cfg(target_arch = "arm")]
        core::arch::asm!("vfma.f32 {c}, {a}, {b}", a = in(sreg) a, b = in(sreg) b, c = inout(sreg) c,
            options(pure, nomem, nostack, preserves_flags));
        #[cfg(any(target_arch = "riscv32", target_arch = "riscv64"))]
        core::arch::asm!("fmadd.s {c}, {a}, {b}, {c}", a = in(freg) a, b = in(freg) b, c = inout(freg) c,
            options(pure, nomem, nostack, preserves_flags));
        #[cfg(not(any(target_arch = "arm", target_arch = "riscv32", target_arch = "riscv64")))]
        compile_error!("qkv_fma is for Arm and RISC-V: other targets have tiers for it");
    }
    c
}

/// `√x`: an instruction where that is known, seventy of libm's elsewhere.
#[inline]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    {
        use core::arch::x86_64::{_mm_cvtss_f32, _mm_set_ss, _mm_sqrt_ss};
        // SAFETY: the build has SSE.
        unsafe { _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    libm::sqrtf(x)
}

/// One `f32` is a vector. Every CPU has it.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Simd for Scalar {
    type V = f32;
    const LANES: usize = 1;
    const FUSED: bool = cfg!(qkv_fma);
    const MR: usize = 6;
    const NV: usize = 4;
    const PANEL: usize = 4;
    type Few = Self;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        multiply_add(a, b, c)
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn select_gt(self, a: f32, b: f32, yes: f32, no: f32) -> f32 {
        if a > b { yes } else { no }
    }
    #[inline(always)]
    fn gt_bits(self, a: f32, b: f32) -> u32 {
        (a > b).into()
    }
    #[inline(always)]
    fn select_sign(self, sign: f32, yes: f32, no: f32) -> f32 {
        if sign.is_sign_negative() { yes } else { no }
    }
    #[inline(always)]
    fn next_bit(self, bits: f32) -> f32 {
        f32::from_bits(bits.to_bits() << 1)
    }
    #[inline(always)]
    fn pow2(self, t: f32) -> f32 {
        f32::from_bits(t.to_bits() << 23)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { p.read() }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> f32 {
        // SAFETY: as the caller promises.
        if n == 0 { 0.0 } else { unsafe { p.read() } }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> f32 {
        // SAFETY: as the caller promises.
        f16_to_f32(unsafe { p.read() })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> f32 {
        // SAFETY: as the caller promises.
        bf16_to_f32(unsafe { p.read() })
    }
    #[inline(always)]
    unsafe fn load_columns(self, p: *const f32, _: usize) -> [f32; 4] {
        // SAFETY: as the caller promises.
        unsafe { [0, 1, 2, 3].map(|e| self.load(p.add(e))) }
    }
    #[inline(always)]
    unsafe fn load_columns_f16(self, p: *const u16, _: usize) -> [f32; 4] {
        // SAFETY: as the caller promises.
        unsafe { [0, 1, 2, 3].map(|e| self.load_f16(p.add(e))) }
    }
    #[inline(always)]
    unsafe fn load_columns_bf16(self, p: *const u16, _: usize) -> [f32; 4] {
        // SAFETY: as the caller promises.
        unsafe { [0, 1, 2, 3].map(|e| self.load_bf16(p.add(e))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32) {
        // SAFETY: as the caller promises.
        unsafe { p.write(v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: f32) {
        if n != 0 {
            // SAFETY: as the caller promises.
            unsafe { p.write(v) }
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: f32) {
        // SAFETY: as the caller promises.
        unsafe { p.write(f32_to_f16(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: f32) {
        // SAFETY: as the caller promises.
        unsafe { p.write(f32_to_bf16(v)) }
    }
    #[inline(always)]
    fn few(self) -> Self {
        self
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
}
