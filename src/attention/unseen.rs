//! Weighted values that a key which a row does not see would reach: it weighs 0, but 0 x NaN is not 0.

use super::mask::bits;
use super::seen;
use super::values::Strips;
use crate::elem::{Elem, load_up_to};
use crate::kernel::tile::Acc;
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;

/// Whether no chain is infinite or NaN.
#[inline(always)]
pub fn all_finite<S: Simd, const MR: usize, const NV: usize>(s: S, chains: &Acc<S::V, MR, NV>) -> bool {
    // 0 x chain is 0 or, for what is not finite, NaN, which stays in the sum.
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let mut sums = [zero; NV];
    unrolled!(I < MR => {
        unrolled!(N < NV => {
            sums[N] = s.fma(chains[I][N], zero, sums[N]);
        });
    });
    let mut sum = zero;
    unrolled!(N < NV => {
        sum = s.add(sum, sums[N]);
    });
    s.gt_bits(s.select_gt(one, sum, zero, one), zero) == 0
}

/// Rows from `r` on and vectors of columns from `c` on, from the keys alone that each row sees, to `out`.
///
/// # Safety
/// - `out` is valid for writing them; the rest is as for `values::apply`.
#[cold]
#[inline(never)]
pub unsafe fn seen_only<S: Simd, E: Elem>(
    s: S,
    strips: &Strips<E>,
    shift: usize,
    (r, rows): (usize, usize),
    (c, vectors): (usize, usize),
    mut out: *mut f32,
) {
    let Strips { x, block, .. } = strips;
    s.vectorize(
        #[inline(always)]
        || {
            for (r, c) in (r..r + rows).flat_map(|r| (0..vectors).map(move |v| (r, c + v * S::LANES))) {
                // SAFETY: keys that the row sees; `out` holds a vector of each.
                unsafe {
                    let (from, to) = seen::keys_of(x, *block, r, 1);
                    let mut keys = block.keys & bits(from, to);
                    if block.holes {
                        keys &= seen::of_row(x, r);
                    }
                    let mut chain = s.splat(0.0);
                    for run in core::iter::once(&strips.first).chain(strips.more) {
                        for t in (run.t..run.end).filter(|t| keys >> t & 1 == 1) {
                            let ptr = run.first.wrapping_add((t - run.t) * strips.row_stride + shift + c);
                            let v = load_up_to(s, ptr, strips.cols - c);
                            let weight = s.splat(*strips.weights.at(r, t).ptr);
                            chain = s.fma(weight, v, chain);
                        }
                    }
                    s.store(out, chain);
                    out = out.wrapping_add(S::LANES);
                }
            }
        },
    );
}
