//! The NEON tier: AArch64's baseline vectors with fused multiply-add, four lanes.

use crate::elem::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::simd::Simd;
use core::arch::aarch64::*;

/// The build's baseline has NEON.
#[derive(Clone, Copy)]
pub struct Neon;

/// Calls intrinsics of this tier. Memory access goes through the caller's promise.
macro_rules! neon {
    ($e:expr) => {
        // SAFETY: NEON is in the build's baseline; pointers are as the caller of the method promises.
        unsafe { $e }
    };
}

#[inline(always)]
fn transpose([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    neon!({
        let (ac_low, ac_high) = (vzip1q_f32(a, c), vzip2q_f32(a, c));
        let (bd_low, bd_high) = (vzip1q_f32(b, d), vzip2q_f32(b, d));
        [
            vzip1q_f32(ac_low, bd_low),
            vzip2q_f32(ac_low, bd_low),
            vzip1q_f32(ac_high, bd_high),
            vzip2q_f32(ac_high, bd_high),
        ]
    })
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const FUSED: bool = true;
    // 24 accumulators, 4 vectors and the broadcasts of 32 registers.
    const MR: usize = 6;
    const NV: usize = 4;
    const PANEL: usize = 48;
    type Few = Self;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        neon!(vdupq_n_f32(x))
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        neon!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // FMAX would keep a NaN of either side.
        neon!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn select_gt(self, a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        neon!(vbslq_f32(vcgtq_f32(a, b), yes, no))
    }
    #[inline(always)]
    fn gt_bits(self, a: float32x4_t, b: float32x4_t) -> u32 {
        neon!({
            let lanes = vld1q_u32([1, 2, 4, 8].as_ptr());
            vaddvq_u32(vandq_u32(vcgtq_f32(a, b), lanes))
        })
    }
    #[inline(always)]
    fn select_sign(self, sign: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        neon!(vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(sign)), yes, no))
    }
    #[inline(always)]
    fn next_bit(self, bits: float32x4_t) -> float32x4_t {
        neon!(vreinterpretq_f32_u32(vshlq_n_u32::<1>(vreinterpretq_u32_f32(bits))))
    }
    #[inline(always)]
    fn pow2(self, t: float32x4_t) -> float32x4_t {
        neon!(vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(t))))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        neon!(vld1q_f32(p))
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> float32x4_t {
        let mut lanes = [0.0; 4];
        neon!({
            core::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            vld1q_f32(lanes.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> float32x4_t {
        // The conversion instruction has no stable intrinsic; this vectorizes.
        let lanes = neon!(p.cast::<[u16; 4]>().read_unaligned()).map(f16_to_f32);
        neon!(vld1q_f32(lanes.as_ptr()))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> float32x4_t {
        let lanes = neon!(p.cast::<[u16; 4]>().read_unaligned()).map(bf16_to_f32);
        neon!(vld1q_f32(lanes.as_ptr()))
    }
    #[inline(always)]
    unsafe fn load_columns(self, p: *const f32, stride: usize) -> [float32x4_t; 4] {
        transpose(neon!([0, 1, 2, 3].map(|i| self.load(p.add(i * stride)))))
    }
    #[inline(always)]
    unsafe fn load_columns_f16(self, p: *const u16, stride: usize) -> [float32x4_t; 4] {
        transpose(neon!([0, 1, 2, 3].map(|i| self.load_f16(p.add(i * stride)))))
    }
    #[inline(always)]
    unsafe fn load_columns_bf16(self, p: *const u16, stride: usize) -> [float32x4_t; 4] {
        transpose(neon!([0, 1, 2, 3].map(|i| self.load_bf16(p.add(i * stride)))))
    }
    #[inline(always)]
    unsafe fn splat_group<const C: usize>(self, p: *const f32) -> float32x4_t {
        neon!(match C {
            2 => vcombine_f32(vld1_f32(p), vld1_f32(p)),
            _ => vld1q_f32(p),
        })
    }
    #[inline(always)]
    fn sum_twos(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vpaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        neon!(vst1q_f32(p, v))
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: float32x4_t) {
        let mut lanes = [0.0; 4];
        neon!({
            vst1q_f32(lanes.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n)
        })
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: float32x4_t) {
        let mut lanes = [0.0; 4];
        neon!({
            vst1q_f32(lanes.as_mut_ptr(), v);
            p.cast::<[u16; 4]>().write_unaligned(lanes.map(f32_to_f16))
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: float32x4_t) {
        let mut lanes = [0.0; 4];
        neon!({
            vst1q_f32(lanes.as_mut_ptr(), v);
            p.cast::<[u16; 4]>().write_unaligned(lanes.map(f32_to_bf16))
        })
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
