//! `cap tanh(score / cap)`: the softcap of scores.
//!
//! ```text
//! |x| <= 1/2:  tanh x = x + x z (c1 + z (c2 + z (c3 + z c4))),  z = x²        0.25 u, the rest is rounding
//! beyond:      tanh |x| = (1 - e) / (1 + e),  e = e^(-2 |x|)
//! ```
//! Which form a score takes depends on the score alone. Most scores lie well below the cap: the second form
//! is computed only where one of the vectors needs it.

use super::exp::exp_weights;
use crate::simd::Simd;

/// c4 down to c1: the least relative error over the first range.
const POLYNOMIAL: [f32; 4] = [0.017_241_492, -0.053_045_495, 0.133_258_79, -0.333_331_44];

/// `cap tanh(x / cap)` for a normal `cap`, whose sign does not matter; NaN stays NaN.
#[inline(always)]
pub fn softcap<S: Simd, const N: usize>(s: S, scores: [S::V; N], cap: f32) -> [S::V; N] {
    let (one, edge) = (s.splat(1.0), s.splat(0.25));
    let inverse = s.splat(1.0 / cap);
    let x = scores.map(
        #[inline(always)]
        |score| s.mul(score, inverse),
    );
    let z = x.map(
        #[inline(always)]
        |x| s.mul(x, x),
    );
    let mut p = [s.splat(POLYNOMIAL[0]); N];
    for &c in &POLYNOMIAL[1..] {
        for (p, &z) in p.iter_mut().zip(&z) {
            *p = s.fma(*p, z, s.splat(c));
        }
    }
    // A NaN is passed over: it needs no second form.
    let mut top = s.splat(0.0);
    for ((p, &x), &z) in p.iter_mut().zip(&x).zip(&z) {
        *p = s.fma(*p, s.mul(x, z), x);
        top = s.max(z, top);
    }
    if s.gt_bits(top, edge) != 0 {
        let minus = |x: S::V| s.sub(s.splat(0.0), x);
        let size = x.map(
            #[inline(always)]
            |x| s.max(minus(x), x),
        );
        let e = exp_weights(
            s,
            size.map(
                #[inline(always)]
                |size| s.mul(size, s.splat(-2.0)),
            ),
        );
        for (((p, &x), &z), &e) in p.iter_mut().zip(&x).zip(&z).zip(&e) {
            let far = s.div(s.sub(one, e), s.add(one, e));
            *p = s.select_gt(z, edge, s.select_gt(x, s.splat(0.0), far, minus(far)), *p);
        }
    }
    p.map(
        #[inline(always)]
        |p| s.mul(p, s.splat(cap)),
    )
}
