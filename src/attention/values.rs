//! The weighted values of one block: `acc = acc f + P V`, for both directions of the scores.

use super::keys::SequenceKeys;
use super::mask::{bits, hull};
use super::panel::{Block, Panel};
use super::scratch::Scratch;
use super::seen;
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
    let v = &panel.p.v;
    let cols = v.dim().next_multiple_of(S::LANES);
    let ragged = cols != v.dim();
    let apart = v.kind() != Kind::F32 || !v.side_by_side() || !v.one_run(block.start, block.together);
    let copied = ragged || (panel.in_lanes && S::LANES > 1 && apart);
    let runs = |h: usize, keys: u64| v.runs(panel.kv_head + h, block.start, keys);
    // SAFETY: as the caller promises.
    unsafe {
        // An unseen key's weight is 0, but 0 x NaN is not. Among copied values lie those that only the
        // panels beside this one see.
        let read = if copied { block.together & bits(block.from, block.to) } else { block.keys };
        let finite = |h: usize| runs(h, read).all(|(_, keys)| all_finite(s, keys));
        let careful = (block.partial || block.holes) && !(0..panel.heads).all(finite);
        let all = Part { x: *x, panel, heads: panel.heads, block, careful, at_a_time: BLOCK, cols };
        if copied {
            let (from, to) = hull(block.together);
            for h in 0..panel.heads {
                if block.brings && block.together != bits(from, to) {
                    // What no row sees is not read: its weights of 0 need finite values.
                    core::slice::from_raw_parts_mut(x.values.add(from * x.width), (to - from) * x.width)
                        .fill(0.0);
                }
                if block.brings {
                    for (t, rows) in runs(h, block.together) {
                        let to = Grid { dst: x.values.add(t * x.width), stride: x.width, width: x.width };
                        pack(s, rows, to);
                    }
                }
                let keys = bits(block.from, block.to);
                let part =
                    Part { x: x.at_row(h * panel.lanes), heads: 1, block: Block { keys, ..block }, ..all };
                let v = SequenceKeys::in_scratch(x.values, BLOCK, x.width, cols);
                strips::<S, f32>(s, part, Values { v: &v, head: 0, start: 0 });
            }
        } else {
            // Heads that lie side by side: all of a few tokens before the next ones, in the order of memory.
            let in_order = panel.heads > 1 && v.kind() == Kind::F32 && !block.partial && !block.holes;
            let all = Part { at_a_time: if in_order { TOKENS } else { BLOCK }, ..all };
            let values = Values { v, head: panel.kv_head, start: block.start };
            by_kind!(v.kind(), E => strips::<S, E>(s, all, values));
        }
    }
}

/// A block's values of some heads, where they lie or in the scratch.
#[derive(Clone, Copy)]
struct Values<'a> {
    v: &'a SequenceKeys,
    head: usize,
    /// The block's first key.
    start: usize,
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

/// All rows of all heads.
#[inline(never)]
unsafe fn strips<S: Simd, E: Elem>(s: S, part: Part, v: Values) {
    s.vectorize(
        #[inline(always)]
        || {
            let block = part.block;
            let mut from = block.from;
            while from < block.to {
                let to = block.to.min(from + part.at_a_time);
                for h in 0..part.heads {
                    let v = Values { head: v.head + h, ..v };
                    let x = part.x.at_row(h * part.panel.lanes);
                    let (open, close) = (from == block.from, to == block.to);
                    let weights = Rows { ptr: x.scores, row_stride: 1, col_stride: S::PANEL };
                    let place = Place { weights, x, block, open, close, cols: part.cols };
                    // SAFETY: as the caller promises.
                    unsafe { head::<S, E>(s, part, place, block.keys & bits(from, to), v) };
                }
                from = to;
            }
        },
    );
}

/// All rows of a head.
#[inline(always)]
unsafe fn head<S: Simd, E: Elem>(s: S, part: Part, place: Place, keys: u64, v: Values) {
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
                keys &= bits(*x.from.add(r) as usize, *x.to.add(r + n - 1) as usize);
            }
            if part.careful && place.block.holes {
                keys &= seen::of_row(&x, r);
            }
            if keys != 0 || place.block.first {
                strip::<S, E>(s, place, (r, n), keys, v);
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

/// `rows` = (first row, rows) of one tile, `keys` = the keys that they are given.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem>(s: S, place: Place, rows: (usize, usize), keys: u64, v: Values) {
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
    keys: u64,
    v: Values,
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
    mut keys: u64,
    v: Values,
    c: usize,
) {
    let Scratch { values, acc, factor, width, .. } = place.x;
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
        while keys != 0 {
            let t = keys.trailing_zeros() as usize;
            let run = v.v.run(v.head, v.start + t, (keys >> t).trailing_ones() as usize);
            let rows =
                Panels { ptr: run.at::<E>(0, c), row_stride: run.row_stride, panel_stride: PANEL_COLS };
            chains = tile::<S, E, MR, NV>(s, run.rows, place.weights.at(r, t), rows, chains);
            keys &= !bits(t, t + run.rows);
        }
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
