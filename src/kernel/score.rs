//! The register tiles of scores, in both directions, with the same bits.
//!
//! A score `q · k` is [`chains`] of features, each of every second or fourth one, added two by two:
//! ```text
//! rows in the lanes:       a key's features broadcast one by one against vectors of queries
//!     [r0 r1 r2 r3 …]          two chains of a tile side by side, then the other two
//! features in the lanes:   a feature of each chain of a key broadcast against the same of each query
//!     [r0: 0 1 | r1: 0 1 | …]  nothing is transposed, nothing shuffled until the sums
//! ```

use super::tile::{Acc, Panels, Rows, step, zero};
use super::unrolled::unrolled;
use crate::elem::Elem;
use crate::simd::Simd;

/// Chains of a score of `d` features; part of the contract. Four halve the loads of a decode step; with few
/// features many rows would pay for it.
pub const fn chains(d: usize) -> usize {
    if d <= 64 { 2 } else { 4 }
}

/// Steps of two neighbouring ones of some chains, of which the first begins at feature `first`: of both, and
/// whether the first one has another.
pub const fn steps(d: usize, chains: usize, first: usize) -> (usize, bool) {
    let left = d.saturating_sub(first);
    (left / chains + (left % chains > 1) as usize, left % chains == 1)
}

/// Scores of `MR` keys for `NV` vectors of rows, to `[MR][PANEL]` at `to`.
///
/// # Safety
/// - `k` is valid for reading `MR` rows of `d` neighbouring features, `q` for `d` rows of `NV` vectors.
/// - `to` is valid for reading and writing.
#[inline(always)]
pub unsafe fn rows_in_lanes<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    d: usize,
    k: Rows,
    q: Panels<f32>,
    to: *mut f32,
) {
    let (stride, next, chains) = (q.vector_stride::<S>(), q.row_stride, chains(d));
    let mut first = 0;
    loop {
        let (mut even, mut odd) = (zero::<S, MR, NV>(s), zero::<S, MR, NV>(s));
        let (mut rows, mut row) = (k.at(0, first).each::<MR>(), q.ptr.wrapping_add(first * next));
        let (twos, one) = steps(d, chains, first);
        // SAFETY: features below `d` of keys and queries, as the caller promises.
        unsafe {
            for _ in 0..twos {
                step(s, (&rows, 0), (row, stride), &mut even);
                step(s, (&rows, 1), (row.wrapping_add(next), stride), &mut odd);
                unrolled!(I < MR => {
                    rows[I] = rows[I].wrapping_add(chains);
                });
                row = row.wrapping_add(chains * next);
            }
            if one {
                step(s, (&rows, 0), (row, stride), &mut even);
            }
        }
        unrolled!(I < MR => {
            unrolled!(V < NV => {
                even[I][V] = s.add(even[I][V], odd[I][V]);
            });
        });
        // Hidden from the compiler, which would read what a second pass adds to before the first one, into registers
        // that the chains need.
        let to = core::hint::black_box(to);
        // SAFETY: as the caller promises.
        unsafe { keep(s, &even, to, first > 0) };
        first += 2;
        if first >= chains {
            return;
        }
    }
}

/// Writes sums to `[MR][PANEL]` at `to`, or adds them to what is there.
///
/// # Safety
/// - `to` is valid for it.
#[inline(always)]
unsafe fn keep<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    sums: &Acc<S::V, MR, NV>,
    to: *mut f32,
    add: bool,
) {
    unrolled!(I < MR => {
        unrolled!(V < NV => {
            let to = to.wrapping_add(I * S::PANEL + V * S::LANES);
            // SAFETY: as the caller promises.
            unsafe { s.store(to, if add { s.add(s.load(to), sums[I][V]) } else { sums[I][V] }) };
        });
    });
}

/// The chains of `P` keys for `NQ` vectors of queries, a feature of each of `C` chains in neighbouring lanes.
/// Each step does something else `meanwhile`.
///
/// # Safety
/// - Each of `keys` is valid for reading `steps * C` features, `q` for `steps * NQ` vectors.
#[inline(always)]
pub unsafe fn features_in_lanes<S: Simd, E: Elem, const C: usize, const P: usize, const NQ: usize>(
    s: S,
    steps: usize,
    keys: [*const E; P],
    q: *const f32,
    mut meanwhile: impl FnMut(),
    acc: &mut Acc<S::V, P, NQ>,
) {
    let mut q = q;
    for f in 0..steps {
        let group = |key: &*const E| {
            // SAFETY: as the caller promises.
            unsafe { E::splat_group::<S, C>(s, key.wrapping_add(f * C)) }
        };
        let mut queries = [s.splat(0.0); NQ];
        for (v, query) in queries.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *query = unsafe { s.load(q.wrapping_add(v * S::LANES)) };
        }
        // What there is less of stays in registers for the step.
        if NQ <= P {
            for (sums, key) in acc.iter_mut().zip(&keys) {
                let group = group(key);
                for (sum, &query) in sums.iter_mut().zip(&queries) {
                    *sum = s.fma(group, query, *sum);
                }
            }
        } else {
            let mut groups = [s.splat(0.0); P];
            for (to, key) in groups.iter_mut().zip(&keys) {
                *to = group(key);
            }
            for (v, &query) in queries.iter().enumerate() {
                for (sums, &group) in acc.iter_mut().zip(&groups) {
                    if let Some(sum) = sums.get_mut(v) {
                        *sum = s.fma(group, query, *sum);
                    }
                }
            }
        }
        meanwhile();
        q = q.wrapping_add(NQ * S::LANES);
    }
}
