//! Scores and softmax with keys in the lanes: a few queries, as in a decode step.
//!
//! Squares of K are transposed in registers as they are read, so that a score is the same chain over
//! the features as with rows in the lanes, and each element of K is loaded once for all rows.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Elem, by_kind, load_some_columns};
use crate::kernel::exp::exp_weight;
use crate::kernel::pack::pack;
use crate::kernel::softmax::{BLOCK, CHAINS, row, row_max};
use crate::simd::Simd;
use crate::view::RawMat;

/// Rows that share a pass over K: their 4 x 2 chains keep the multipliers busy.
const MAX_ROWS: usize = 4;

/// Writes the panel's queries, times the scale, as rows.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.head_dim);
    for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
        // SAFETY: as the caller promises.
        unsafe { pack(s, p.q.head(head).block(query, 0, 1, d), p.scale, x.q.add(r * d), d, d) };
    }
}

/// Scores of the block's keys, then their weights in place, the rows' sums and factors.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let k = panel.p.k.head(panel.kv_head);
    for r in (0..panel.rows).step_by(MAX_ROWS) {
        let rows = (panel.rows - r).min(MAX_ROWS);
        // SAFETY: rows `r..r + rows` are inside the scratch.
        let (q, to) = unsafe { (x.q.add(r * k.cols).cast_const(), x.scores.add(r * BLOCK)) };
        // SAFETY: the block is inside K.
        by_kind!(k.kind, E => unsafe { products::<S, E>(s, rows, q, k, block, to) });
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

/// `scores[r * BLOCK + t] = q[r] · k[start + t]` for the block's keys.
#[inline(never)]
unsafe fn products<S: Simd, E: Elem>(
    s: S,
    rows: usize,
    q: *const f32,
    k: RawMat,
    block: Block,
    scores: *mut f32,
) {
    // SAFETY: as the caller promises.
    s.vectorize(
        #[inline(always)]
        || unsafe {
            match rows {
                1 => all_keys::<S, E, 1>(s, q, k, block, scores),
                2 => all_keys::<S, E, 2>(s, q, k, block, scores),
                3 => all_keys::<S, E, 3>(s, q, k, block, scores),
                _ => all_keys::<S, E, 4>(s, q, k, block, scores),
            }
        },
    );
}

#[inline(always)]
unsafe fn all_keys<S: Simd, E: Elem, const R: usize>(
    s: S,
    q: *const f32,
    k: RawMat,
    block: Block,
    scores: *mut f32,
) {
    // Whole vectors of the block, two at a time: a tile of R x 2 chains.
    let mut t = block.from - block.from % (2 * S::LANES);
    while t < block.to {
        let keys = Keys { k: k.block(block.start, 0, k.rows - block.start, k.cols), block, t };
        let seen = block.from <= t && t + 2 * S::LANES <= block.to;
        let mut acc = [[s.splat(0.0); 2]; R];
        let mut d = 0;
        // SAFETY: `d` is a feature of the keys at `t`, all of which are seen or marked as an edge.
        unsafe {
            while d + 4 <= k.cols && seen {
                acc = keys.columns::<S, E, R, false>(s, q, d, acc);
                d += 4;
            }
            while d < k.cols {
                acc = keys.columns::<S, E, R, true>(s, q, d, acc);
                d += 4;
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &v) in acc.iter().enumerate() {
                // SAFETY: `BLOCK` is a multiple of two vectors.
                unsafe { s.store(scores.add(r * BLOCK + t + half * S::LANES), v) };
            }
        }
        t += 2 * S::LANES;
    }
}

/// Two vectors of keys of a block, from key `t` of it on.
struct Keys {
    k: RawMat,
    block: Block,
    t: usize,
}

impl Keys {
    /// Four features from `d` on: continues the chains of `R` rows. At an `EDGE` some of the keys are
    /// not seen or some of the features do not exist: they are not read.
    #[inline(always)]
    unsafe fn columns<S: Simd, E: Elem, const R: usize, const EDGE: bool>(
        &self,
        s: S,
        q: *const f32,
        d: usize,
        mut acc: [[S::V; 2]; R],
    ) -> [[S::V; 2]; R] {
        let n = (self.k.cols - d).min(4);
        for half in 0..2 {
            let first = self.t + half * S::LANES;
            let seen = |c: usize| (self.block.from..self.block.to).contains(&(first + c));
            // SAFETY: keys that some row sees; `n` features from `d` on.
            let features = unsafe {
                if EDGE {
                    load_some_columns(s, n, |c| seen(c).then(|| self.k.at::<E>(first + c, d).cast_const()))
                } else {
                    E::load_columns(s, self.k.at(first, d), self.k.row_stride)
                }
            };
            for (e, &feature) in features.iter().enumerate() {
                if !EDGE || e < n {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: feature `d + e < head_dim` of row `r`.
                        let x = s.splat(unsafe { *q.add(r * self.k.cols + d + e) });
                        acc[half] = s.fma(x, feature, acc[half]);
                    }
                }
            }
        }
        acc
    }
}
