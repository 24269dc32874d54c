//! The softmax of a block of scores: the row's weights and their sum, in a fixed order.
//!
//! A block has at most [`BLOCK`] keys. Its weights are `e^(s - m)`, and their sum is four chains, of
//! the keys `t = c mod 4`, added as `(0 + 2) + (1 + 3)`: an order that both directions can keep, with
//! rows in the lanes ([`columns`]) and with keys in the lanes ([`row`]).

use super::exp::{exp_weight, exp_weights};
use super::unrolled::unrolled;
use crate::elem::{load_up_to, store_up_to};
use crate::simd::Simd;

/// Keys in a block: one rescaling and one sum each.
pub const BLOCK: usize = 64;
/// Chains of a block's sum.
pub const CHAINS: usize = 4;
/// The maximum of no scores. It is finite, so that `s - m` is never `inf - inf`; no finite score is
/// below it, and one that equals it weighs as it should.
pub const NO_MAX: f32 = f32::MIN;

/// Adds the four chains.
#[inline(always)]
fn join<S: Simd>(s: S, sums: [S::V; CHAINS]) -> S::V {
    s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3]))
}

/// One vector of rows, one row of scores a key: replaces the scores at
/// `scores + t * stride` (`t` in `0..keys`) with their weights against the maxima `m`, and returns
/// their sums.
///
/// # Safety
/// - `scores` is valid for reading and writing a vector at each of `keys` rows.
/// - `keys` is a multiple of [`CHAINS`], and the first one's index in its block is, too.
#[inline(always)]
pub unsafe fn columns<S: Simd>(s: S, scores: *mut f32, stride: usize, keys: usize, m: S::V) -> S::V {
    debug_assert!(keys.is_multiple_of(CHAINS));
    let mut p = scores;
    for _ in 0..keys / CHAINS {
        let mut x = [s.splat(0.0); CHAINS];
        unrolled!(C < CHAINS => {
            // SAFETY: one of the `keys` rows.
            x[C] = s.sub(unsafe { s.load(p.wrapping_add(C * stride)) }, m);
        });
        let weights = exp_weights(s, x);
        unrolled!(C < CHAINS => {
            // SAFETY: as above.
            unsafe { s.store(p.wrapping_add(C * stride), weights[C]) };
        });
        p = p.wrapping_add(CHAINS * stride);
    }
    // Apart from the weights, which need all registers.
    let mut sums = [s.splat(0.0); CHAINS];
    let mut p = scores;
    for _ in 0..keys / CHAINS {
        unrolled!(C < CHAINS => {
            // SAFETY: as above.
            sums[C] = s.add(sums[C], unsafe { s.load(p.wrapping_add(C * stride)) });
        });
        p = p.wrapping_add(CHAINS * stride);
    }
    join(s, sums)
}

/// The largest of `n` floats and `m`; NaNs are passed over.
///
/// # Safety
/// - `scores` is valid for reading `n` floats.
#[inline(always)]
pub unsafe fn row_max<S: Simd>(s: S, scores: *const f32, n: usize, m: f32) -> f32 {
    let mut top = s.splat(m);
    let mut t = 0;
    while t + S::LANES <= n {
        // SAFETY: inside the `n` floats.
        top = s.max(unsafe { s.load(scores.add(t)) }, top);
        t += S::LANES;
    }
    let mut lanes = [m; crate::simd::MAX_LANES];
    // SAFETY: the array holds a whole vector.
    unsafe { s.store(lanes.as_mut_ptr(), top) };
    let mut top = m;
    for &x in &lanes {
        top = if x > top { x } else { top };
    }
    while t < n {
        // SAFETY: inside the `n` floats.
        let x = unsafe { *scores.add(t) };
        top = if x > top { x } else { top };
        t += 1;
    }
    top
}

/// One row: writes the weights of `n <= BLOCK` scores against the maximum `m` to `weights`, which may
/// be the scores themselves, and returns their sum, with the bits of [`columns`].
///
/// # Safety
/// - `scores` is valid for reading `n` floats and `weights` for writing them.
#[inline(always)]
pub unsafe fn row<S: Simd>(s: S, scores: *const f32, weights: *mut f32, n: usize, m: f32) -> f32 {
    debug_assert!(n <= BLOCK);
    let m = s.splat(m);
    let mut t = 0;
    while t < n {
        // SAFETY: at most `n - t` floats from `t` on.
        unsafe {
            let score = load_up_to(s, scores.add(t), n - t);
            store_up_to(s, weights.add(t), n - t, exp_weight(s, s.sub(score, m)));
        }
        t += S::LANES;
    }
    // SAFETY: `n` floats that were just written.
    row_sum(unsafe { core::slice::from_raw_parts(weights, n) })
}

/// The sum of a block's weights in the fixed order.
#[inline(always)]
fn row_sum(weights: &[f32]) -> f32 {
    let mut sums = [0.0_f32; CHAINS];
    let (whole, rest) = weights.as_chunks::<CHAINS>();
    for chunk in whole {
        for (sum, &weight) in sums.iter_mut().zip(chunk) {
            *sum += weight;
        }
    }
    for (sum, &weight) in sums.iter_mut().zip(rest) {
        *sum += weight;
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}
