//! The weighted values of one block: `acc = acc f + P V`, for both directions of the scores.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, tile, with_rows, with_vectors, zero};
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
pub unsafe fn apply<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    // Many rows read each value several times: widened and side by side it costs them less. The last
    // columns must fill a vector.
    let v = panel.p.v.head(panel.kv_head);
    let (v_cols, stride) = (v.cols.next_multiple_of(S::LANES), panel.p.v.head_stride);
    let ragged = v_cols != v.cols;
    let copied =
        ragged || (panel.in_lanes && S::LANES > 1 && (v.kind != Kind::F32 || v.row_stride != v.cols));
    let keys = |h: usize, (from, to): (usize, usize)| {
        panel.p.v.head(panel.kv_head + h).block(block.start + from, 0, to - from, v.cols)
    };
    // SAFETY: as the caller promises.
    unsafe {
        // An unseen key's weight is 0, but 0 x NaN is not.
        let seen = (block.from, block.to);
        let careful = block.partial && !(0..panel.heads).all(|h| all_finite(s, keys(h, seen)));
        let all = Part { x: *x, panel, heads: panel.heads, block, careful, at_a_time: BLOCK, cols: v_cols };
        if copied {
            for h in 0..panel.heads {
                let (from, to) = block.bring;
                if from < to {
                    let to = Grid { dst: x.values.add(from * x.width), stride: x.width, width: x.width };
                    pack(s, keys(h, block.bring), to);
                }
                let v = Panels { ptr: x.values.cast_const(), row_stride: x.width, panel_stride: PANEL_COLS };
                strips(s, Part { x: x.at_row(h * panel.lanes), heads: 1, ..all }, v, 0);
            }
        } else {
            // Heads that lie side by side: all of a few tokens before the next ones, in the order of memory.
            let in_order = panel.heads > 1 && v.kind == Kind::F32 && !block.partial;
            let all = Part { at_a_time: if in_order { TOKENS } else { BLOCK }, ..all };
            by_kind!(v.kind, E => {
                let ptr = v.at::<E>(block.start, 0).cast_const();
                strips(s, all, Panels { ptr, row_stride: v.row_stride, panel_stride: PANEL_COLS }, stride);
            });
        }
    }
}

/// Tokens whose values a few rows take before the next tokens': they are read nearly in order.
const TOKENS: usize = 8;

/// What a block of values is weighted with and added to.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: Scratch,
    panel: &'a Panel<'a>,
    heads: usize,
    block: Block,
    /// Keys that a row does not see must not be touched for it.
    careful: bool,
    /// Keys that are taken for all columns and heads before the next keys.
    at_a_time: usize,
    /// Columns of V, in whole vectors.
    cols: usize,
}

/// All rows of all heads; the values of one head lie `head_stride` behind those of the head before.
#[inline(never)]
unsafe fn strips<S: Simd, E: Elem>(s: S, part: Part, v: Panels<E>, head_stride: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            let block = part.block;
            let mut from = block.from;
            while from < block.to {
                let to = block.to.min(from + part.at_a_time);
                for h in 0..part.heads {
                    let v = Panels { ptr: v.ptr.wrapping_add(h * head_stride), ..v };
                    let x = part.x.at_row(h * part.panel.lanes);
                    let (open, close) = (from == block.from, to == block.to);
                    let weights = Rows { ptr: x.scores, row_stride: 1, col_stride: S::PANEL };
                    let place = Place { weights, x, block, open, close, cols: part.cols };
                    // SAFETY: as the caller promises.
                    unsafe { head(s, part, place, (from, to), v) };
                }
                from = to;
            }
        },
    );
}

/// All rows of a head.
#[inline(always)]
unsafe fn head<S: Simd, E: Elem>(s: S, part: Part, place: Place, keys: (usize, usize), v: Panels<E>) {
    let (rows, x) = (part.panel.rows, place.x);
    let mut r = 0;
    while r < rows {
        let left = rows - r;
        let n = match part.careful {
            true => 1,
            // No tile of few rows, which has too few chains, if two tiles can share.
            false if left > S::MR && left < 2 * S::MR => left.div_ceil(2),
            false => left.min(S::MR),
        };
        let mut keys = keys;
        // SAFETY: as the caller promises; rows of the panel.
        unsafe {
            if place.block.partial {
                // The rows' first keys and ends grow with the row.
                keys = (*x.from.add(r) as usize, *x.to.add(r + n - 1) as usize);
            }
            if keys.0 < keys.1 || place.block.first {
                strip(s, place, (r, n), keys, v);
            }
        }
        r += n;
    }
}

/// How one head's strips of tiles go on.
#[derive(Clone, Copy)]
struct Place {
    weights: Rows,
    x: Scratch,
    block: Block,
    /// The block's first keys: chains start. Else they go on.
    open: bool,
    /// The block's last keys: chains are added to what there was. Else they are kept.
    close: bool,
    cols: usize,
}

/// `rows` = (first row, rows) of one tile, `keys` = (first key, end) that they are given.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem>(
    s: S,
    place: Place,
    rows: (usize, usize),
    keys: (usize, usize),
    v: Panels<E>,
) {
    // SAFETY: as the caller promises. One or two rows alone have too few chains for the multipliers'
    // latency: they take more columns.
    unsafe {
        let (cols, mut c) = (place.cols, 0);
        if rows.1 == 1 {
            c = wide::<S, E, 1, 8>(s, place, rows.0, keys, v);
        } else if rows.1 == 2 {
            c = wide::<S, E, 2, 4>(s, place, rows.0, keys, v);
        }
        with_rows!(S, rows.1, MR => {
            while c < cols {
                let n = (cols - c).min(S::NV * S::LANES);
                with_vectors!(S, n / S::LANES, NV => columns::<S, E, MR, NV>(s, place, rows.0, keys, v, c));
                c += n;
            }
        });
    }
}

/// As many tiles of `NV` vectors as fit; returns the first column that is left.
#[inline(always)]
unsafe fn wide<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: Place,
    r: usize,
    keys: (usize, usize),
    v: Panels<E>,
) -> usize {
    let mut c = 0;
    while c + NV * S::LANES <= place.cols {
        // SAFETY: as the caller promises.
        unsafe { columns::<S, E, MR, NV>(s, place, r, keys, v, c) };
        c += NV * S::LANES;
    }
    c
}

/// One tile: `acc = acc f + Σ_t weight(t) v(t)`, or a part of the sum.
#[inline(always)]
unsafe fn columns<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: Place,
    r: usize,
    (from, to): (usize, usize),
    v: Panels<E>,
    c: usize,
) {
    let Scratch { values, acc, factor, width, .. } = place.x;
    let v = Panels { ptr: v.ptr.wrapping_add(from * v.row_stride + c), ..v };
    let at = |i: usize, n: usize| (r + i) * width + c + n * S::LANES;
    let mut chains = zero::<S, MR, NV>(s);
    // SAFETY: as the caller promises.
    unsafe {
        if !place.open {
            for (i, row) in chains.iter_mut().enumerate() {
                for (n, chain) in row.iter_mut().enumerate() {
                    *chain = s.load(values.add(at(i, n)));
                }
            }
        }
        chains = tile::<S, E, MR, NV>(s, to.saturating_sub(from), place.weights.at(r, from), v, chains);
        for (i, row) in chains.iter().enumerate() {
            let factor = s.splat(*factor.add(r + i));
            for (n, &chain) in row.iter().enumerate() {
                let acc = acc.add(at(i, n));
                if !place.close {
                    s.store(values.add(at(i, n)), chain);
                } else if place.block.first {
                    s.store(acc, chain);
                } else {
                    s.store(acc, s.fma(s.load(acc), factor, chain));
                }
            }
        }
    }
}

/// Whether no value of the keys is infinite or NaN.
#[inline(never)]
unsafe fn all_finite<S: Simd>(s: S, keys: RawMat) -> bool {
    s.vectorize(
        #[inline(always)]
        || {
            // 0 x v is 0 or, for what is not finite, NaN, which stays in the sum.
            let mut sums = [s.splat(0.0); 4];
            by_kind!(keys.kind, E => for t in 0..keys.rows {
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
