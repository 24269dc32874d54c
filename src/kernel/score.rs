//! The register tiles of scores, in both directions, with the same bits.
//!
//! A score `q · k` is four chains, of the features `f = c mod 4`, added as `(0 + 1) + (2 + 3)`:
//! ```text
//! rows in the lanes:       keys broadcast, vectors of queries; two chains of each tile at a time
//!     [r0 r1 r2 r3 …]      a tile twice as wide would need more registers, one chain more loads
//! features in the lanes:   four features of a key broadcast, four of each query side by side
//!     [r0: 0 1 2 3 | r1: 0 1 2 3 | …]      nothing is transposed, nothing shuffled until the sums
//! ```

use super::tile::{Acc, Panels, Rows, step, zero};
use crate::simd::Simd;

/// Chains of a score; part of the contract.
pub const CHAINS: usize = 4;

/// Scores of `MR` keys for `NV` vectors of rows, to rows of `to`, `to_stride` apart.
///
/// # Safety
/// - `k` is valid for reading `MR` rows of `d` neighbouring features, `q` for `d` rows of `NV` vectors,
///   `to` for writing `MR` rows of `NV` neighbouring vectors.
#[inline(always)]
pub unsafe fn rows_in_lanes<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    k: Rows,
    q: Panels<f32>,
    (to, to_stride): (*mut f32, usize),
) {
    let place = |i: usize, v: usize| to.wrapping_add(i * to_stride + v * S::LANES);
    // SAFETY: as the caller promises.
    unsafe {
        // The sums of the first two chains wait in memory: registers are for the others.
        let sums = two_chains::<S, MR, NV>(s, d, k, q);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                s.store(place(i, v), sum);
            }
        }
        let after = Panels { ptr: q.ptr.wrapping_add(2 * q.row_stride), ..q };
        let sums = two_chains::<S, MR, NV>(s, d.saturating_sub(2), k.at(0, 2), after);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                s.store(place(i, v), s.add(s.load(place(i, v)), sum));
            }
        }
    }
}

/// Two neighbouring chains over `d` features, added.
#[inline(always)]
unsafe fn two_chains<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    k: Rows,
    q: Panels<f32>,
) -> Acc<S::V, MR, NV> {
    let (mut even, mut odd) = (zero::<S, MR, NV>(s), zero::<S, MR, NV>(s));
    let (stride, next) = (q.vector_stride::<S>(), q.row_stride);
    let (mut rows, mut row) = (k.each::<MR>(), q.ptr);
    // SAFETY: features below `d` of keys and queries, as the caller promises.
    unsafe {
        for _ in 0..(d + 2) / CHAINS {
            step(s, rows, (row, stride), &mut even);
            step(s, rows.map(|p| p.wrapping_add(1)), (row.wrapping_add(next), stride), &mut odd);
            rows = rows.map(|p| p.wrapping_add(CHAINS));
            row = row.wrapping_add(CHAINS * next);
        }
        if d % CHAINS == 1 {
            step(s, rows, (row, stride), &mut even);
        }
    }
    for (even, odd) in even.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
        *even = s.add(*even, *odd);
    }
    even
}

/// The chains of `P` keys for `NQ` vectors of queries, [`CHAINS`] features of a row in neighbouring lanes.
/// Features are taken in whole groups of four.
///
/// # Safety
/// - Each of `keys` is valid for reading `fours` times four features, `q` for `fours * NQ` vectors.
#[inline(always)]
pub unsafe fn features_in_lanes<S: Simd, const P: usize, const NQ: usize>(
    s: S,
    fours: usize,
    keys: [*const f32; P],
    q: *const f32,
    acc: &mut Acc<S::V, P, NQ>,
) {
    let mut q = q;
    for f in 0..fours {
        let mut queries = [s.splat(0.0); NQ];
        for (v, query) in queries.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *query = unsafe { s.load(q.wrapping_add(v * S::LANES)) };
        }
        for (sums, key) in acc.iter_mut().zip(&keys) {
            // SAFETY: as the caller promises.
            let four = unsafe { s.splat_four(key.wrapping_add(f * CHAINS)) };
            for (sum, &query) in sums.iter_mut().zip(&queries) {
                *sum = s.fma(four, query, *sum);
            }
        }
        q = q.wrapping_add(NQ * S::LANES);
    }
}
