//! The register tiles of scores, in both directions, with the same bits.
//!
//! A score `q · k` is two chains, of the even and of the odd features, added:
//! ```text
//! rows in the lanes:       a key's features broadcast one by one against vectors of queries
//!     [r0 r1 r2 r3 …]          both chains of a tile side by side
//! features in the lanes:   two of a key's features broadcast against the same two of each query
//!     [r0: 0 1 | r1: 0 1 | …]  nothing is transposed, nothing shuffled until the sums
//! ```

use super::tile::{Acc, PANEL_COLS, Panels, Rows, lone_tile, step, zero};
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
    unrolled!(I < MR => {
        unrolled!(V < NV => {
            even[I][V] = s.add(even[I][V], odd[I][V]);
        });
    });
    even
}

/// [`rows_in_lanes`] for one lane, to `[MR][PANEL]` scores at `to`. One chain after the other: a tile then has
/// twice as many keys.
///
/// # Safety
/// - As there; `to` is valid for reading and writing.
#[inline(always)]
pub unsafe fn rows_in_one_lane<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    k: Rows,
    q: *const f32,
    to: *mut f32,
) {
    for chain in 0..CHAINS {
        let k = Rows { col_stride: CHAINS, ..k.at(0, chain) };
        let q = Panels {
            ptr: q.wrapping_add(chain * S::PANEL),
            row_stride: CHAINS * S::PANEL,
            panel_stride: PANEL_COLS,
            col_stride: 1,
        };
        // SAFETY: features below `d` of keys and queries, as the caller promises.
        unsafe {
            let steps = (d + CHAINS - 1 - chain) / CHAINS;
            let sums = lone_tile::<S, f32, MR, NV, CHAINS>(s, steps, k, q, zero(s));
            unrolled!(I < MR => {
                unrolled!(V < NV => {
                    let to = to.wrapping_add(I * S::PANEL + V);
                    s.store(to, if chain == 0 { sums[I][V] } else { s.add(s.load(to), sums[I][V]) });
                });
            });
        }
    }
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
