//! The portable tier: `wide::f32x4`, for SSE2, NEON and wasm simd128 as the build has them.
//!
//! Multiply and add are two roundings here on every target, also where `wide` could fuse them, so
//! that this tier gives the bits of the scalar one.

use crate::elem::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::Simd;
use wide::{f32x4, u32x4};

/// The vectors of the build's baseline.
#[derive(Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type V = f32x4;
    const LANES: usize = 4;
    const FUSED: bool = false;
    // 12 accumulators, 2 vectors and 1 broadcast fit the 16 registers of SSE2.
    const MR: usize = 6;
    const NV: usize = 2;
    const PANEL: usize = 48;
    type Few = Self;

    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a * b + c
    }
    #[inline(always)]
    fn max(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_gt(b).select(a, b)
    }
    #[inline(always)]
    fn select_gt(self, a: f32x4, b: f32x4, yes: f32x4, no: f32x4) -> f32x4 {
        a.simd_gt(b).select(yes, no)
    }
    #[inline(always)]
    fn gt_bits(self, a: f32x4, b: f32x4) -> u32 {
        a.simd_gt(b).to_bitmask()
    }
    #[inline(always)]
    fn select_sign(self, sign: f32x4, yes: f32x4, no: f32x4) -> f32x4 {
        f32x4::from_bits(sign.to_bits().simd_gt(u32x4::splat(u32::MAX >> 1))).select(yes, no)
    }
    #[inline(always)]
    fn next_bit(self, bits: f32x4) -> f32x4 {
        f32x4::from_bits(bits.to_bits() << 1_u32)
    }
    #[inline(always)]
    fn pow2(self, t: f32x4) -> f32x4 {
        f32x4::from_bits(t.to_bits() << 23_u32)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x4 {
        // SAFETY: four floats are readable at `p`, as the caller promises.
        f32x4::new(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> f32x4 {
        let mut lanes = [0.0; 4];
        // SAFETY: `n <= 4` floats are readable at `p`, as the caller promises.
        unsafe { core::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n) };
        f32x4::new(lanes)
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> f32x4 {
        // SAFETY: four 16-bit values are readable at `p`, as the caller promises.
        f32x4::new(unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(f16_to_f32))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> f32x4 {
        // SAFETY: four 16-bit values are readable at `p`, as the caller promises.
        f32x4::new(unsafe { p.cast::<[u16; 4]>().read_unaligned() }.map(bf16_to_f32))
    }
    #[inline(always)]
    unsafe fn load_columns(self, p: *const f32, stride: usize) -> [f32x4; 4] {
        // SAFETY: as the caller promises.
        f32x4::transpose(unsafe { [0, 1, 2, 3].map(|i| self.load(p.add(i * stride))) })
    }
    #[inline(always)]
    unsafe fn load_columns_f16(self, p: *const u16, stride: usize) -> [f32x4; 4] {
        // SAFETY: as the caller promises.
        f32x4::transpose(unsafe { [0, 1, 2, 3].map(|i| self.load_f16(p.add(i * stride))) })
    }
    #[inline(always)]
    unsafe fn load_columns_bf16(self, p: *const u16, stride: usize) -> [f32x4; 4] {
        // SAFETY: as the caller promises.
        f32x4::transpose(unsafe { [0, 1, 2, 3].map(|i| self.load_bf16(p.add(i * stride))) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x4) {
        // SAFETY: four floats are writable at `p`, as the caller promises.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v.to_array()) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: f32x4) {
        // SAFETY: `n <= 4` floats are writable at `p`, as the caller promises.
        unsafe { core::ptr::copy_nonoverlapping(v.to_array().as_ptr(), p, n) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: f32x4) {
        // SAFETY: four 16-bit values are writable at `p`, as the caller promises.
        unsafe { p.cast::<[u16; 4]>().write_unaligned(v.to_array().map(f32_to_f16)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: f32x4) {
        // SAFETY: four 16-bit values are writable at `p`, as the caller promises.
        unsafe { p.cast::<[u16; 4]>().write_unaligned(v.to_array().map(f32_to_bf16)) }
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
