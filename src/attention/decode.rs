//! Scores and softmax with keys in the lanes: a few queries, as in a decode step.
//!
//! Keys are turned, a few features of two vectors of them at a time, into a small buffer, where they are
//! the tile's vector operand: so a score is the same chain over the features as with rows in the lanes,
//! and each element of K is loaded once for all rows. The next features are turned while the tile works
//! on the last ones: shuffles and multiplications use different units.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::panel::{Block, DECODE_ROWS, Panel};
use super::scratch::Scratch;
use crate::elem::{Elem, by_kind};
use crate::kernel::exp::exp_weight;
use crate::kernel::pack::{Grid, pack};
use crate::kernel::softmax::{BLOCK, CHAINS, row, row_max};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, ask, tile, with_const, zero};
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// Writes the panel's queries, times the scale, as rows.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.head_dim);
    for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
        let to = Grid { dst: x.q.wrapping_add(r * d), stride: d, width: d };
        // SAFETY: as the caller promises.
        unsafe {
            pack(s, p.q.head(head).block(query, 0, 1, d), to);
            for feature in core::slice::from_raw_parts_mut(to.dst, d) {
                *feature *= p.scale;
            }
        }
    }
}

/// The block's seen keys, in groups of two vectors of them.
pub fn groups<S: Simd>(block: Block) -> impl Iterator<Item = Range<usize>> {
    let width = 2 * S::LANES;
    let first = block.from - block.from % width;
    (first..block.to).step_by(width).map(move |t| t.max(block.from)..(t + width).min(block.to))
}

/// Features that are turned at a time.
const FEATURES: usize = 8;

/// Scores of one group of the block's keys for the rows of one head.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the keys are a group of the block, inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    block: Block,
    keys: Range<usize>,
    next: usize,
) {
    let width = 2 * S::LANES;
    let k = panel.p.k.head(panel.kv_head);
    let t = keys.start - keys.start % width;
    s.vectorize(
        #[inline(always)]
        || {
            let seen = k.block(block.start + keys.start, 0, keys.len(), k.cols);
            let to = x.scores.wrapping_add(t);
            // SAFETY: keys of the block are inside K; the scores have rows of `BLOCK`.
            by_kind!(k.kind, E => with_const!(panel.rows, ROWS => unsafe {
                products::<S, E, ROWS>(s, seen, keys.start - t, x.q, to, next);
            }; [1 2 3 4 5 6 7 8] DECODE_ROWS));
        },
    );
}

/// Two times [`FEATURES`] features of two vectors of keys: no vector of them spans two cache lines.
#[repr(align(64))]
struct Turned {
    _floats: [f32; 2 * FEATURES * 2 * MAX_LANES],
}

/// `scores[r * BLOCK + skip + j] = q[r] · keys[j]`.
///
/// # Safety
/// - As [`scores`]; `keys` has at most `2 * LANES - skip` rows.
#[inline(always)]
unsafe fn products<S: Simd, E: Elem, const ROWS: usize>(
    s: S,
    keys: RawMat,
    skip: usize,
    q: *const f32,
    scores: *mut f32,
    next: usize,
) {
    let (width, d) = (2 * S::LANES, keys.cols);
    let mut buffer = MaybeUninit::<Turned>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<f32>();
    let mut halves = [buffer, buffer.wrapping_add(FEATURES * width)];
    let step = |f: usize, n: usize, turned: *mut f32, acc| {
        let q = Rows { ptr: q, row_stride: d, col_stride: 1 }.at(0, f);
        let turned = Panels { ptr: turned.cast_const(), row_stride: width, panel_stride: PANEL_COLS };
        // SAFETY: `turned` holds features `f..f + n` of all keys.
        unsafe { tile::<S, f32, ROWS, 2>(s, n, q, turned, acc) }
    };
    let mut acc = zero::<S, ROWS, 2>(s);
    let mut asked = 0;
    let whole = if keys.rows == width { d - d % FEATURES } else { 0 };
    // SAFETY: features of the keys; each half of the buffer has room for `FEATURES` of a whole group.
    unsafe {
        if whole > 0 {
            turn(s, keys.at::<E>(0, 0), keys.row_stride, halves[0]);
        }
        for f in (0..whole).step_by(FEATURES) {
            if next != 0 {
                while asked * d < (f + FEATURES) * width {
                    ask(s, keys.at::<E>(asked, 0).cast_const().wrapping_add(next), d);
                    asked += 1;
                }
            }
            if f + FEATURES < whole {
                turn(s, keys.at::<E>(0, f + FEATURES), keys.row_stride, halves[1]);
            }
            acc = step(f, FEATURES, halves[0], acc);
            halves.swap(0, 1);
        }
        for f in (whole..d).step_by(FEATURES) {
            let n = (d - f).min(FEATURES);
            let to = Grid { dst: buffer.add(skip), stride: width, width: width - skip };
            pack(s, keys.block(0, f, keys.rows, n).t(), to);
            acc = step(f, n, buffer, acc);
        }
    }
    for (r, row) in acc.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            // SAFETY: a row of `BLOCK` scores, in which `width` divides the group's place.
            unsafe { s.store(scores.add(r * BLOCK + j * S::LANES), v) };
        }
    }
}

/// [`FEATURES`] features of two vectors of keys, from `keys` on, into rows of `to`.
///
/// # Safety
/// - `keys` is valid for reading the features of `2 * LANES` rows, `to` has room for the rows.
#[inline(always)]
unsafe fn turn<S: Simd, E: Elem>(s: S, keys: *const E, row_stride: usize, to: *mut f32) {
    for j in [0, S::LANES] {
        for i in [0, 4] {
            // SAFETY: as the caller promises.
            unsafe {
                let quad = E::load_columns(s, keys.wrapping_add(j * row_stride + i), row_stride);
                for (r, &v) in quad.iter().enumerate() {
                    s.store(to.add((i + r) * 2 * S::LANES + j), v);
                }
            }
        }
    }
}

/// From the scores of all rows to their weights, sums and factors.
///
/// # Safety
/// - `x` holds the block's scores of `rows` rows.
#[inline(never)]
pub unsafe fn weights<S: Simd>(s: S, x: &Scratch, block: Block, rows: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            for r in 0..rows {
                // SAFETY: row `r` of the scratch.
                unsafe { row_weights(s, x, block, r) };
            }
        },
    );
}

/// Masks one row's scores; then its weights, sum and factor.
#[inline(always)]
unsafe fn row_weights<S: Simd>(s: S, x: &Scratch, block: Block, r: usize) {
    let from = block.from - block.from % CHAINS;
    // SAFETY: row `r` of the scratch, keys of the block.
    unsafe {
        let scores = x.scores.add(r * BLOCK);
        let (mut first, mut end) = (block.from, block.to);
        if block.partial {
            (first, end) = (*x.from.add(r) as usize, *x.to.add(r) as usize);
        }
        for t in (from..block.to).filter(|t| !(first..end).contains(t)) {
            *scores.add(t) = f32::NEG_INFINITY;
        }
        let m = *x.m.add(r);
        let top = row_max(s, scores.add(from), block.to - from, m);
        let sum = row(s, scores.add(from), scores.add(from), block.to - from, top);
        let factor = exp_weight(s, s.splat(m - top));
        s.store_partial(x.l.add(r), 1, s.fma(s.splat(*x.l.add(r)), factor, s.splat(sum)));
        s.store_partial(x.factor.add(r), 1, factor);
        *x.m.add(r) = top;
    }
}
