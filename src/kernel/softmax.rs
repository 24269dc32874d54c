//! The softmax of a block of scores: the row's weights and their sum, in a fixed order.
//!
//! A block has at most [`BLOCK`] keys. Its weights are `e^(s - m)`, and their sum is four chains, of
//! the keys `t = c mod 4`, added as `(0 + 2) + (1 + 3)`: an order that both directions can keep, with
//! rows in the lanes ([`columns`]) and with keys in the lanes ([`row`]).

use super::exp::{exp_weight, exp_weights};
use super::unrolled::unrolled;
use crate::elem::{load_up_to, store_up_to};
use crate::simd::{INDICES, MAX_LANES, Simd};

/// Keys in a block: one rescaling and one sum each.
pub const BLOCK: usize = 64;
/// A part of a row is up to so many blocks.
pub const PART: usize = 4 * BLOCK;
/// Chains of a block's sum.
pub const CHAINS: usize = 4;
/// The maximum of no scores. It is finite, so that `s - m` is never `inf - inf`; no finite score is
/// below it, and one that equals it weighs as it should.
pub const NO_MAX: f32 = f32::MIN;

/// What weights of this sum are multiplied by: those of a row that sees no key are zeros.
#[inline(always)]
pub fn inverse(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}

/// `ln Σ e^score` from the maximum and the sum over it; minus infinity for a row that sees no key.
#[inline(always)]
pub fn log_sum(m: f32, sum: f32) -> f32 {
    if sum == 0.0 { f32::NEG_INFINITY } else { m + libm::logf(sum) }
}

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

/// The largest of `n` floats and of the lanes of `top`, lane by lane; NaNs are passed over.
///
/// # Safety
/// - `scores` is valid for reading `n` floats.
#[inline(always)]
pub unsafe fn row_max<S: Simd>(s: S, scores: *const f32, n: usize, mut top: S::V) -> S::V {
    let mut tops = [top; CHAINS];
    let mut t = 0;
    while t + CHAINS * S::LANES <= n {
        unrolled!(C < CHAINS => {
            // SAFETY: inside the `n` floats.
            tops[C] = s.max(unsafe { s.load(scores.add(t + C * S::LANES)) }, tops[C]);
        });
        t += CHAINS * S::LANES;
    }
    top = s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3]));
    while t < n {
        // SAFETY: at most `n - t` floats from `t` on; lanes behind them hold zeros, which do not count.
        unsafe {
            let (score, left) = (load_up_to(s, scores.add(t), n - t), s.splat((n - t) as f32));
            top = s.max(s.select_gt(left, s.load(INDICES.as_ptr()), score, top), top);
        }
        t += S::LANES;
    }
    top
}

/// The largest lane.
#[inline(always)]
pub fn highest<S: Simd>(s: S, top: S::V) -> f32 {
    let mut lanes = [NO_MAX; MAX_LANES];
    // SAFETY: the array holds a whole vector.
    unsafe { s.store(lanes.as_mut_ptr(), top) };
    let mut half = S::LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut_checked(half).unwrap_or_default();
        for (x, &y) in low.iter_mut().zip(&*high) {
            *x = if y > *x { y } else { *x };
        }
        half /= 2;
    }
    lanes[0]
}

/// A part of a row, which begins with a block: writes the weights of `n <= PART` scores against the maximum `m` to
/// `weights`, which may be the scores themselves, and adds the sum of each block, with the bits of [`columns`], to `sum`.
///
/// # Safety
/// - `scores` is valid for reading `n` floats and `weights` for writing them.
#[inline(always)]
pub unsafe fn row<S: Simd>(s: S, scores: *const f32, weights: *mut f32, n: usize, m: S::V, sum: &mut f32) {
    debug_assert!(n <= PART);
    let mut t = 0;
    // SAFETY: at most `n - t` floats from `t` on.
    unsafe {
        while t + CHAINS * S::LANES <= n {
            let mut x = [m; CHAINS];
            unrolled!(C < CHAINS => {
                x[C] = s.sub(s.load(scores.add(t + C * S::LANES)), m);
            });
            let x = exp_weights(s, x);
            unrolled!(C < CHAINS => {
                s.store(weights.add(t + C * S::LANES), x[C]);
            });
            t += CHAINS * S::LANES;
        }
        while t < n {
            let score = load_up_to(s, scores.add(t), n - t);
            store_up_to(s, weights.add(t), n - t, exp_weight(s, s.sub(score, m)));
            t += S::LANES;
        }
    }
    // SAFETY: `n` floats that were just written.
    unsafe {
        if n == PART {
            return add_blocks(weights.cast_const(), sum);
        }
        for j in (0..n).step_by(BLOCK) {
            *sum += block_sum(core::slice::from_raw_parts(weights.add(j), (n - j).min(BLOCK)));
        }
    }
}

/// Adds the sums of the blocks of a whole part. The chains of one wait for themselves, but not for those of others.
#[inline(always)]
unsafe fn add_blocks(part: *const f32, sum: &mut f32) {
    let mut sums = [[0.0_f32; CHAINS]; PART / BLOCK];
    for i in (0..BLOCK).step_by(CHAINS) {
        for (b, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                // SAFETY: inside the part.
                *sum += unsafe { *part.wrapping_add(b * BLOCK + i + c) };
            }
        }
    }
    for block in sums {
        *sum += join_row(block);
    }
}

/// The sum of a block's weights in the fixed order.
#[inline(always)]
fn block_sum(weights: &[f32]) -> f32 {
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
    join_row(sums)
}

/// As [`join`].
#[inline(always)]
pub fn join_row(sums: [f32; CHAINS]) -> f32 {
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}
