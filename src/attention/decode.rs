//! Scores and softmax with keys in the lanes: a few queries, as in a decode step.
//!
//! Two vectors of keys at a time are transposed into the scratch, where they are the tile's vector
//! operand: so a score is the same chain over the features as with rows in the lanes, and each element
//! of K is loaded once for all rows. Keeping them in registers instead is slower: the compiler spills.

use super::panel::{Block, DECODE_ROWS, Panel};
use super::scratch::Scratch;
use crate::kernel::exp::exp_weight;
use crate::kernel::pack::{Grid, pack, pack_ahead};
use crate::kernel::softmax::{BLOCK, CHAINS, row, row_max};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, tile, with_rows, zero};
use crate::simd::Simd;

/// Rows that share a pass over K: their 4 x 2 chains keep the multipliers busy.
const MAX_ROWS: usize = 4;

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

/// Scores of the block's keys, then their weights in place, the rows' sums and factors.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    const { assert!(S::LANES == 1 || S::PANEL >= DECODE_ROWS + 2 * S::LANES) };
    let k = panel.p.k.head(panel.kv_head);
    let d = k.cols;
    // The keys in the lanes of two vectors, by features, behind the queries.
    let width = 2 * S::LANES;
    let turned = x.q.wrapping_add(DECODE_ROWS * d);
    let q = Rows { ptr: x.q, row_stride: d, col_stride: 1 };
    let keys = Panels { ptr: turned.cast_const(), row_stride: width, panel_stride: PANEL_COLS };
    let mut t = block.from - block.from % width;
    while t < block.to {
        let (from, to) = (t.max(block.from), (t + width).min(block.to));
        // SAFETY: keys `from..to` are inside K; the scratch behind the queries has room for `d` rows of
        // `width`, since a panel has `PANEL >= DECODE_ROWS + width` lanes; the scores have rows of
        // `BLOCK`.
        unsafe {
            let seen = k.block(block.start + from, 0, to - from, d).t();
            let to = Grid { dst: turned.add(from - t), stride: width, width: width - (from - t) };
            pack_ahead(s, seen, BLOCK.wrapping_mul(k.row_stride), to);
            products(s, panel.rows, d, q, keys, x.scores.add(t));
        }
        t += width;
    }
    s.vectorize(
        #[inline(always)]
        || {
            for r in 0..panel.rows {
                // SAFETY: row `r` of the scratch.
                unsafe { weights(s, x, block, r) };
            }
        },
    );
}

/// `scores[r * BLOCK + lane] = q[r] · key[lane]` for two vectors of keys.
#[inline(never)]
unsafe fn products<S: Simd>(s: S, rows: usize, d: usize, q: Rows, keys: Panels<f32>, scores: *mut f32) {
    s.vectorize(
        #[inline(always)]
        || {
            let mut r = 0;
            while r < rows {
                let n = (rows - r).min(MAX_ROWS);
                with_rows!(S, n, MR => {
                    // SAFETY: as the caller promises.
                    unsafe {
                        let chains = tile::<S, f32, MR, 2, false>(s, d, q.at(r, 0), keys, 0, zero(s));
                        for (i, row) in chains.iter().enumerate() {
                            s.store(scores.add((r + i) * BLOCK), row[0]);
                            s.store(scores.add((r + i) * BLOCK + S::LANES), row[1]);
                        }
                    }
                });
                r += n;
            }
        },
    );
}

/// Masks one row's scores; then its weights, sum and factor.
#[inline(always)]
unsafe fn weights<S: Simd>(s: S, x: &Scratch, block: Block, r: usize) {
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
