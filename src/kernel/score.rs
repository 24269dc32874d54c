//! The register tiles of scores, in both directions, with the same bits.
//!
//! A score `q · k` is two chains, of the even and of the odd features, added:
//! ```text
//! rows in the lanes:       a key's features broadcast one by one against vectors of queries
//!     [r0 r1 r2 r3 …]          both chains of a tile side by side
//! features in the lanes:   two of a key's features broadcast against the same two of each query
//!     [r0: 0 1 | r1: 0 1 | …]  nothing is transposed, nothing shuffled until the sums
//! ```

use super::tile::{Acc, Panels, Rows, step, zero};
use super::unrolled::unrolled;
use crate::simd::Simd;

/// Chains of a score; part of the contract.
pub const CHAINS: usize = 2;

/// Scores of `MR` keys for `NV` vectors of rows.
///
/// # Safety
/// - `k` is valid for reading `MR` rows of `d` neighbouring features, `q` for `d` rows of `NV` vectors.
#[inline(always)]
pub unsafe fn rows_in_lanes<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    k: Rows,
    q: Panels<f32>,
) -> Acc<S::V, MR, NV> {
    if const { S::LANES == 1 } {
        // SAFETY: as the caller promises.
        return unsafe { rows_in_one_lane(s, d, k, q) };
    }
    let (mut even, mut odd) = (zero::<S, MR, NV>(s), zero::<S, MR, NV>(s));
    let (stride, next) = (q.vector_stride::<S>(), q.row_stride);
    let (mut rows, mut row) = (k.each::<MR>(), q.ptr);
    // SAFETY: features below `d` of keys and queries, as the caller promises.
    unsafe {
        for _ in 0..d / CHAINS {
            step(s, (&rows, 0), (row, stride), &mut even);
            step(s, (&rows, 1), (row.wrapping_add(next), stride), &mut odd);
            unrolled!(I < MR => {
                rows[I] = rows[I].wrapping_add(CHAINS);
            });
            row = row.wrapping_add(CHAINS * next);
        }
        if d % CHAINS == 1 {
            step(s, (&rows, 0), (row, stride), &mut even);
        }
    }
    added(s, even, odd)
}

/// The sums of both chains.
#[inline(always)]
fn added<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    mut even: Acc<S::V, MR, NV>,
    odd: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    unrolled!(I < MR => {
        unrolled!(V < NV => {
            even[I][V] = s.add(even[I][V], odd[I][V]);
        });
    });
    even
}

/// [`rows_in_lanes`] for one lane, where pointers move every four features.
#[inline(always)]
unsafe fn rows_in_one_lane<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    mut k: Rows,
    q: Panels<f32>,
) -> Acc<S::V, MR, NV> {
    let (mut this, mut other) = (zero::<S, MR, NV>(s), zero::<S, MR, NV>(s));
    let mut q = q.ptr;
    // SAFETY: features below `d` of keys and queries, as the caller promises.
    unsafe {
        // What is no four comes first: behind the loop it would want the chains twice. Which chain is which does
        // not matter for their sum.
        for _ in 0..d % 4 {
            step(s, (&k.each(), 0), (q, 1), &mut this);
            (this, other) = (other, this);
            k.ptr = k.ptr.wrapping_add(1);
            q = q.wrapping_add(S::PANEL);
        }
        for _ in 0..d / 4 {
            let rows = k.each();
            step(s, (&rows, 0), (q, 1), &mut this);
            step(s, (&rows, 1), (q.wrapping_add(S::PANEL), 1), &mut other);
            step(s, (&rows, 2), (q.wrapping_add(2 * S::PANEL), 1), &mut this);
            step(s, (&rows, 3), (q.wrapping_add(3 * S::PANEL), 1), &mut other);
            k.ptr = k.ptr.wrapping_add(4);
            q = q.wrapping_add(4 * S::PANEL);
        }
    }
    added(s, this, other)
}

/// The chains of `P` keys for `NQ` vectors of queries, [`CHAINS`] features of a row in neighbouring lanes.
/// Each step does something else `meanwhile`.
///
/// # Safety
/// - Each of `keys` is valid for reading `twos` times two features, `q` for `twos * NQ` vectors.
#[inline(always)]
pub unsafe fn features_in_lanes<S: Simd, const P: usize, const NQ: usize>(
    s: S,
    twos: usize,
    keys: [*const f32; P],
    q: *const f32,
    mut meanwhile: impl FnMut(),
    acc: &mut Acc<S::V, P, NQ>,
) {
    let mut q = q;
    for f in 0..twos {
        let mut queries = [s.splat(0.0); NQ];
        for (v, query) in queries.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *query = unsafe { s.load(q.wrapping_add(v * S::LANES)) };
        }
        for (sums, key) in acc.iter_mut().zip(&keys) {
            // SAFETY: as the caller promises.
            let two = unsafe { s.splat_two(key.wrapping_add(f * CHAINS)) };
            for (sum, &query) in sums.iter_mut().zip(&queries) {
                *sum = s.fma(two, query, *sum);
            }
        }
        meanwhile();
        q = q.wrapping_add(NQ * S::LANES);
    }
}
