//! Scores and softmax with rows in the lanes: many queries at a time.
//!
//! Q is transposed once a panel, scaled, into `[head_dim][PANEL]`. The tile then broadcasts elements
//! of K straight from the caller's rows against vectors of queries, and everything after it is
//! vertical: no K is packed and nothing is reduced across lanes.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Kind, by_kind};
use crate::kernel::exp::exp_weight;
use crate::kernel::pack::{Columns, Grid, pack, turn};
use crate::kernel::softmax::{CHAINS, columns};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, tile, with_rows, with_vectors, zero};
use crate::simd::Simd;

/// Writes the panel's queries, times the scale, to the scratch; lanes without a row are zero.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
#[inline(never)]
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.head_dim);
    let width = panel.rows.next_multiple_of(S::LANES);
    s.vectorize(
        #[inline(always)]
        || {
            by_kind!(p.q.kind, E => {
                let columns = p
                    .rows(panel.kv_head, panel.first)
                    .map(|(query, head)| p.q.head(head).at::<E>(query, 0).cast_const());
                let apart = (p.group.get() == 1).then_some(p.q.token_stride);
                let scale = s.splat(p.scale);
                let size = Columns { len: d, count: panel.rows, apart };
                let to = Grid { dst: x.q, stride: S::PANEL, width };
                // SAFETY: as the caller promises.
                unsafe { turn(s, size, columns, |v| s.mul(v, scale), to) };
            });
        },
    );
}

/// Scores of the block's keys, then their weights in place, the rows' sums and factors.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let k = panel.p.k.head(panel.kv_head);
    let lanes = panel.rows.next_multiple_of(S::LANES);
    // Lanes without a row follow the last one.
    if block.partial {
        for r in panel.rows..lanes {
            // SAFETY: inside the arrays of a panel.
            unsafe {
                *x.from.add(r) = *x.from.add(panel.rows - 1);
                *x.to.add(r) = *x.to.add(panel.rows - 1);
            }
        }
    }
    // SAFETY: the row arrays do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(x.m, x.top, lanes) };
    // The tile broadcasts single floats.
    let copied = k.kind != Kind::F32;
    let copy = |t: usize, n: usize, to: usize| {
        let to = Grid { dst: x.keys.wrapping_add(to * k.cols), stride: k.cols, width: k.cols };
        // SAFETY: rows `t..t + n` of the block are inside K, and the scratch has room for them.
        unsafe { pack(s, k.block(block.start + t, 0, n, k.cols), to) };
    };
    let (bring, end) = block.bring;
    if copied && S::LANES > 1 && bring < end {
        copy(bring, end - bring, bring);
    }
    s.vectorize(
        #[inline(always)]
        || {
            let mut t = block.from;
            while t < block.to {
                let n = (block.to - t).min(S::MR);
                let rows = if copied {
                    let at = if S::LANES > 1 { t } else { 0 };
                    if S::LANES == 1 {
                        copy(t, n, 0);
                    }
                    Rows { ptr: x.keys.wrapping_add(at * k.cols), row_stride: k.cols, col_stride: 1 }
                } else {
                    Rows { ptr: k.at(block.start + t, 0), row_stride: k.row_stride, col_stride: 1 }
                };
                // SAFETY: rows `t..t + n` of the block.
                unsafe { strip(s, x, block, lanes, (t, n, k.cols), rows) };
                t += n;
            }
            // SAFETY: as the caller promises.
            unsafe { weights(s, x, block, lanes) };
        },
    );
}

/// `sizes` = (first key, keys, head_dim): scores of a tile's keys for all lanes.
#[inline(always)]
unsafe fn strip<S: Simd>(
    s: S,
    x: &Scratch,
    block: Block,
    lanes: usize,
    sizes: (usize, usize, usize),
    k: Rows,
) {
    let (t, n, d) = sizes;
    with_rows!(S, n, MR => {
        let mut lane = 0;
        while lane < lanes {
            let cols = (lanes - lane).min(S::NV * S::LANES);
            with_vectors!(S, cols / S::LANES, NV => {
                // SAFETY: `cols` lanes from `lane` on; the strip is inside the scores.
                unsafe { score_tile::<S, MR, NV>(s, x, block, lane, t, d, k) };
            });
            lane += cols;
        }
    });
}

/// One tile of scores, masked, and the lanes' maxima with them.
#[inline(always)]
unsafe fn score_tile<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    x: &Scratch,
    block: Block,
    lane: usize,
    t: usize,
    d: usize,
    k: Rows,
) {
    let unseen = s.splat(f32::NEG_INFINITY);
    let q =
        Panels { ptr: x.q.wrapping_add(lane).cast_const(), row_stride: S::PANEL, panel_stride: PANEL_COLS };
    // SAFETY: as the caller promises.
    unsafe {
        // Both ends of the keys that a row sees grow with the row.
        let last = lane + NV * S::LANES - 1;
        let dead = block.partial && (*x.to.add(last) <= t as f32 || *x.from.add(lane) >= (t + MR) as f32);
        let full = !block.partial || (*x.to.add(lane) >= (t + MR) as f32 && *x.from.add(last) <= t as f32);
        let mut acc = [[unseen; NV]; MR];
        if !dead {
            acc = tile::<S, f32, MR, NV>(s, d, k, q, zero(s));
            if !full {
                for (i, row) in acc.iter_mut().enumerate() {
                    let key = s.splat((t + i) as f32);
                    for (v, score) in row.iter_mut().enumerate() {
                        let at = lane + v * S::LANES;
                        let (from, to) = (s.load(x.from.add(at)), s.load(x.to.add(at)));
                        *score = s.select_gt(to, key, s.select_gt(from, key, unseen, *score), unseen);
                    }
                }
            }
            for v in 0..NV {
                let top = x.top.add(lane + v * S::LANES);
                let mut max = s.load(top);
                for row in &acc {
                    max = s.max(row[v], max);
                }
                s.store(top, max);
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (v, &score) in row.iter().enumerate() {
                s.store(x.scores.add((t + i) * S::PANEL + lane + v * S::LANES), score);
            }
        }
    }
}

/// From scores and maxima to weights, sums and factors.
#[inline(always)]
unsafe fn weights<S: Simd>(s: S, x: &Scratch, block: Block, lanes: usize) {
    // The sum's chains count from the block's first key: whole groups of them, the others unseen.
    let (from, to) = (block.from - block.from % CHAINS, block.to.next_multiple_of(CHAINS));
    let mut lane = 0;
    while lane < lanes {
        // SAFETY: `LANES` lanes from `lane` on are inside the scores and the row arrays.
        unsafe {
            let at = |t: usize| x.scores.add(t * S::PANEL + lane);
            for t in (from..block.from).chain(block.to..to) {
                s.store(at(t), s.splat(f32::NEG_INFINITY));
            }
            let (m, top) = (s.load(x.m.add(lane)), s.load(x.top.add(lane)));
            let sum = columns(s, at(from), S::PANEL, to - from, top);
            let factor = exp_weight(s, s.sub(m, top));
            s.store(x.l.add(lane), s.fma(s.load(x.l.add(lane)), factor, sum));
            s.store(x.m.add(lane), top);
            s.store(x.factor.add(lane), factor);
        }
        lane += S::LANES;
    }
}
