//! The weighted values of one block: `acc = acc f + P V`, for both directions of the scores.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, ask, tile, with_rows, with_vectors, zero};
use crate::simd::Simd;
use crate::view::RawMat;

/// Weighted values of nothing.
///
/// # Safety
/// - `x` has room for `rows` rows.
pub unsafe fn clear(x: &Scratch, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe { core::slice::from_raw_parts_mut(x.acc, rows * x.width) }.fill(0.0);
}

/// Adds the block's values, weighted.
///
/// # Safety
/// - `x` holds the block's weights and factors; the block is inside V.
#[inline(never)]
pub unsafe fn apply<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block, next: usize) {
    let v = panel.p.v.head(panel.kv_head);
    let keys = v.block(block.start, 0, (block.start + block.to).min(v.rows) - block.start, v.cols);
    let weights = if panel.in_lanes {
        Rows { ptr: x.scores, row_stride: 1, col_stride: S::PANEL }
    } else {
        Rows { ptr: x.scores, row_stride: BLOCK, col_stride: 1 }
    };
    // Many rows read each value several times: widened and side by side it costs them less. The last
    // columns must fill a vector.
    let v_cols = v.cols.next_multiple_of(S::LANES);
    let ragged = !v.cols.is_multiple_of(S::LANES);
    let copied =
        ragged || (panel.in_lanes && S::LANES > 1 && (v.kind != Kind::F32 || v.row_stride != v.cols));
    // SAFETY: as the caller promises.
    unsafe {
        // An unseen key's weight is 0, but 0 x NaN is not.
        let careful = block.partial && !all_finite(s, keys, block);
        let part = Part { x, rows: panel.rows, block, careful, weights, next };
        if copied {
            let (from, to) = block.bring;
            if from < to {
                let seen = v.block(block.start + from, 0, to - from, v.cols);
                pack(s, seen, Grid { dst: x.values.add(from * x.width), stride: x.width, width: x.width });
            }
            let v = Panels { ptr: x.values.cast_const(), row_stride: x.width, panel_stride: PANEL_COLS };
            strips(s, Part { next: 0, ..part }, v, v_cols);
        } else {
            by_kind!(v.kind, E => {
                let v = Panels { ptr: keys.at::<E>(0, 0).cast_const(), row_stride: v.row_stride, panel_stride: PANEL_COLS };
                strips(s, part, v, v_cols);
            });
        }
    }
}

/// A block's rows and keys, and how they are weighted.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: &'a Scratch,
    rows: usize,
    block: Block,
    /// Keys that a row does not see must not be touched for it.
    careful: bool,
    weights: Rows,
    /// Elements from these values to those that are read next, which are asked for on the way; 0 for none.
    next: usize,
}

/// `cols` columns of V, whole vectors.
#[inline(never)]
unsafe fn strips<S: Simd, E: Elem>(s: S, part: Part, v: Panels<E>, cols: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            let mut r = 0;
            while r < part.rows {
                let n = if part.careful { 1 } else { (part.rows - r).min(S::MR) };
                let mut keys = (part.block.from, part.block.to);
                if part.block.partial {
                    // The rows' first keys and ends grow with the row.
                    // SAFETY: rows of the panel.
                    keys = unsafe { (*part.x.from.add(r) as usize, *part.x.to.add(r + n - 1) as usize) };
                }
                if keys.0 < keys.1 || part.block.first {
                    // SAFETY: as the caller promises.
                    unsafe { strip(s, part, (r, n), keys, v, cols) };
                }
                r += n;
            }
        },
    );
}

/// `rows` = (first row, rows) of one tile, `keys` = (first key, end) that they are given.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem>(
    s: S,
    part: Part,
    rows: (usize, usize),
    keys: (usize, usize),
    v: Panels<E>,
    cols: usize,
) {
    let place = Place { part, r: rows.0, keys, cols };
    // SAFETY: as the caller promises. One or two rows alone have too few chains for the multipliers'
    // latency: they take more columns.
    unsafe {
        let mut c = 0;
        if rows.1 == 1 {
            c = wide::<S, E, 1, 8>(s, place, v, c, cols);
        } else if rows.1 == 2 {
            c = wide::<S, E, 2, 4>(s, place, v, c, cols);
        }
        with_rows!(S, rows.1, MR => {
            while c < cols {
                let n = (cols - c).min(S::NV * S::LANES);
                with_vectors!(S, n / S::LANES, NV => columns::<S, E, MR, NV>(s, place, v, c));
                c += n;
            }
        });
    }
}

/// Where a strip of tiles lies: its first row, its keys, and all columns.
#[derive(Clone, Copy)]
struct Place<'a> {
    part: Part<'a>,
    r: usize,
    keys: (usize, usize),
    cols: usize,
}

/// As many tiles of `NV` vectors as fit; returns the first column that is left.
#[inline(always)]
unsafe fn wide<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: Place,
    v: Panels<E>,
    mut c: usize,
    cols: usize,
) -> usize {
    while c + NV * S::LANES <= cols {
        // SAFETY: as the caller promises.
        unsafe { columns::<S, E, MR, NV>(s, place, v, c) };
        c += NV * S::LANES;
    }
    c
}

/// One tile: `acc = acc f + Σ_t weight(t) v(t)`.
#[inline(always)]
unsafe fn columns<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: Place,
    v: Panels<E>,
    c: usize,
) {
    let (part, r, (from, to)) = (place.part, place.r, place.keys);
    // By value: the compiler would read them again after each store.
    let Scratch { acc, factor, width, .. } = *part.x;
    let start = v.ptr.wrapping_add(from * v.row_stride);
    let v = Panels { ptr: start.wrapping_add(c), ..v };
    // SAFETY: as the caller promises.
    unsafe {
        let (n, weights) = (to.saturating_sub(from), part.weights.at(r, from));
        let mut chains = zero(s);
        if part.next == 0 || r > 0 {
            chains = tile::<S, E, MR, NV>(s, n, weights, v, chains);
        } else {
            // This tile's share of the values that are read next, a row at a time.
            let share = n * c / place.cols..n * (c + NV * S::LANES) / place.cols;
            let (step, mut t) = (n / share.len().max(1), 0);
            for row in share {
                ask(s, start.wrapping_add(row * v.row_stride).wrapping_add(part.next), place.cols);
                chains = tile::<S, E, MR, NV>(s, step, weights.at(0, t), v.at(t, 0), chains);
                t += step;
            }
            chains = tile::<S, E, MR, NV>(s, n - t, weights.at(0, t), v.at(t, 0), chains);
        }
        for (i, row) in chains.iter().enumerate() {
            let factor = s.splat(*factor.add(r + i));
            let acc = acc.add((r + i) * width + c);
            for (n, &chain) in row.iter().enumerate() {
                let acc = acc.add(n * S::LANES);
                s.store(acc, if part.block.first { chain } else { s.fma(s.load(acc), factor, chain) });
            }
        }
    }
}

/// Whether no value of the block's keys is infinite or NaN.
#[inline(never)]
unsafe fn all_finite<S: Simd>(s: S, keys: RawMat, block: Block) -> bool {
    s.vectorize(
        #[inline(always)]
        || {
            // 0 x v is 0 or, for what is not finite, NaN, which stays in the sum.
            let mut sums = [s.splat(0.0); 4];
            by_kind!(keys.kind, E => for t in block.from..block.to {
                for c in (0..keys.cols).step_by(4 * S::LANES) {
                    for (c, sum) in (c..keys.cols).step_by(S::LANES).zip(&mut sums) {
                        // SAFETY: columns from `c` on of a key that some row sees.
                        let v = unsafe { crate::elem::load_up_to::<S, E>(s, keys.at(t, c), keys.cols - c) };
                        *sum = s.fma(v, s.splat(0.0), *sum);
                    }
                }
            });
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            let mut lanes = [0.0_f32; crate::simd::MAX_LANES];
            // SAFETY: the array holds a whole vector.
            unsafe { s.store(lanes.as_mut_ptr(), sum) };
            lanes.iter().all(|&x| x == 0.0)
        },
    )
}
