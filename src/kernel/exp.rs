//! `e^x`, within 1 ULP on every tier, and the weights of a softmax, which may be less exact where they
//! are small.
//!
//! ```text
//!     n = round(x / ln 2)      r = x - n ln 2, in two steps (Cody and Waite, 1980), |r| <= ln 2 / 2
//!     e^r = 1 + r + r² (c2 + r (c3 + r (c4 + r (c5 + r c6))))        e^x = e^r 2^n
//! ```
//!
//! The coefficients minimise the relative error over |r| <= 1.001 ln 2 / 2 with the first two fixed
//! at 1, so that e^0 = 1; what is left is 3.1e-9 (0.05 of half an ULP). The rest is rounding.

use super::unrolled::unrolled;
use crate::simd::Simd;

pub const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has 15 bits, so that its product with `n` is exact.
pub const LN2_HIGH: f32 = 0.693_145_75;
pub const LN2_LOW: f32 = 1.428_606_8e-6;
/// 1.5 * 2^23: a number of this size has no fraction bits, so adding it rounds to an integer.
const ROUND: f32 = 12_582_912.0;
/// The same with the exponent bias, which puts `n + 127` into the lowest bits.
const ROUND_BIASED: f32 = ROUND + 127.0;
/// c6 down to c2.
pub const POLYNOMIAL: [f32; 5] = [1.381_45e-3, 8.368_78e-3, 4.166_839e-2, 1.666_652e-1, 4.999_999_3e-1];

/// How `e^r 2^n` is put together: `e^r` is multiplied by `scale`, and 2^n divided by it by another exponent bias.
pub struct Form {
    /// [`ROUND_BIASED`] with that bias.
    pub round: f32,
    pub scale: f32,
    /// Of the exponents of weights the least, and a little less: there 2^n comes out as 0.
    pub least: f32,
}

/// The form of weights. Where steps are fused, the scale costs nothing, and weights below 2^-110.5 are 0, not only those that
/// would be subnormal: products with values would be, and sums of those take some processors a hundred times as long.
pub const fn form(fused: bool) -> Form {
    match fused {
        true => Form { round: ROUND_BIASED - 16.0, scale: 65_536.0, least: -76.94 },
        false => Form { round: ROUND_BIASED, scale: 1.0, least: -88.03 },
    }
}

/// `n + round` and `scale e^r` for `x` in about -104 to 89. The vectors go through each step side by
/// side: one after the other, the chain of one is longer than what a CPU looks ahead. With one rounding a
/// step, `n ln 2` may be taken off at once: that errs by `n 1.9e-9`.
#[inline(always)]
fn reduce<S: Simd, const N: usize>(
    s: S,
    x: [S::V; N],
    Form { round, scale, .. }: Form,
    one_step: bool,
) -> ([S::V; N], [S::V; N]) {
    let (mut biased, mut n, mut r, mut p) = (x, x, x, x);
    unrolled!(I < N => {
        biased[I] = s.fma(x[I], s.splat(LOG2_E), s.splat(round));
    });
    unrolled!(I < N => {
        n[I] = s.sub(biased[I], s.splat(round));
    });
    if one_step {
        unrolled!(I < N => {
            r[I] = s.fma(n[I], s.splat(-core::f32::consts::LN_2), r[I]);
        });
    } else {
        unrolled!(I < N => {
            r[I] = s.fma(n[I], s.splat(-LN2_HIGH), r[I]);
        });
        unrolled!(I < N => {
            r[I] = s.fma(n[I], s.splat(-LN2_LOW), r[I]);
        });
    }
    unrolled!(I < N => {
        p[I] = s.splat(POLYNOMIAL[0] * scale);
    });
    unrolled!(C < POLYNOMIAL.len() - 1 => {
        unrolled!(I < N => {
            p[I] = s.fma(p[I], r[I], s.splat(POLYNOMIAL[C + 1] * scale));
        });
    });
    // The last two steps round most. Over all f32 the worst is 0.91 ULP fused and 0.992 not fused; each
    // form goes beyond 1 ULP in the other group.
    unrolled!(I < N => {
        let (q, r, one) = (p[I], r[I], s.splat(scale));
        p[I] = if S::FUSED { s.fma(s.fma(q, r, one), r, one) } else { s.add(s.fma(s.mul(q, r), r, r), one) };
    });
    (biased, p)
}

/// `e^x` for every `f32`: at most 1 ULP off, subnormal results kept, overflow to infinity, NaN kept.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond these the result is 0 or infinity. Both comparisons let a NaN through.
    let (low, high) = (s.splat(-104.0), s.splat(89.0));
    let x = s.max(low, x);
    let x = s.select_gt(x, high, high, x);
    let ([biased], [p]) = reduce(s, [x], form(false), false);
    // 2^n in two factors, since n may lie outside the exponents of normal numbers. The first product
    // is exact, the second rounds once.
    let n = s.sub(biased, s.splat(ROUND_BIASED));
    let half = s.sub(s.fma(n, s.splat(0.5), s.splat(ROUND)), s.splat(ROUND));
    let rest = s.sub(n, half);
    let first = s.pow2(s.add(half, s.splat(ROUND_BIASED)));
    let second = s.pow2(s.add(rest, s.splat(ROUND_BIASED)));
    s.mul(s.mul(p, first), second)
}

/// `e^x` for `x <= 0` or NaN, the weight of a score that lies `-x` below its row's maximum: at most 1 ULP
/// off down to -9, 4.5 ULP where it is nearly 0, and exactly 0 where `e^x < 2^-126.5`, or with fused steps
/// `2^-110.5`.
#[inline(always)]
pub fn exp_weights<S: Simd, const N: usize>(s: S, mut x: [S::V; N]) -> [S::V; N] {
    unrolled!(I < N => {
        x[I] = s.max(s.splat(form(S::FUSED).least), x[I]);
    });
    let (biased, mut p) = reduce(s, x, form(S::FUSED), S::FUSED);
    unrolled!(I < N => {
        p[I] = s.mul(p[I], s.pow2(biased[I]));
    });
    p
}

/// [`exp_weights`] of one vector.
#[inline(always)]
pub fn exp_weight<S: Simd>(s: S, x: S::V) -> S::V {
    let [weight] = exp_weights(s, [x]);
    weight
}
