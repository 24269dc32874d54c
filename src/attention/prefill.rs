//! Scores and softmax with rows in the lanes: many queries at a time.
//!
//! Q is transposed once a panel, scaled, into `[head_dim][PANEL]`. The tile then broadcasts elements
//! of K straight from the caller's rows against vectors of queries, and everything after it is
//! vertical: no K is packed and nothing is reduced across lanes.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Kind, by_kind};
use crate::kernel::pack::{Columns, Grid, pack, turn};
use crate::kernel::score::rows_in_lanes;
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, with_score_rows, with_vectors};
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

/// Scores of the block's keys. Those of tiles that no row sees are not written.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let k = panel.p.k.head(panel.kv_head);
    let lanes = panel.rows.next_multiple_of(S::LANES);
    // The tile broadcasts single floats.
    let copied = k.kind != Kind::F32 || (S::LANES > 1 && k.row_stride != k.cols);
    let copy = |t: usize, n: usize, to: usize| {
        let dst = Grid { dst: x.keys.wrapping_add(to * k.cols), stride: k.cols, width: k.cols };
        // SAFETY: rows `t..t + n` of the block are inside K, and the scratch has room for them.
        unsafe { pack(s, k.block(block.start + t, 0, n, k.cols), dst) };
        to
    };
    let (bring, end) = block.bring;
    if copied && S::LANES > 1 && bring < end {
        copy(bring, end - bring, bring);
    }
    s.vectorize(
        #[inline(always)]
        || {
            // A tile's lanes of Q stay in the L1 while the keys go by, and then the keys for the next lanes.
            for lane in (0..lanes).step_by(S::NV * S::LANES) {
                let vectors = (lanes - lane).min(S::NV * S::LANES) / S::LANES;
                with_vectors!(S, vectors, NV => {
                    let mut t = block.from;
                    while t < block.to {
                        let (left, most) = (block.to - t, S::MR / 2);
                        // No tile of a single key, which has too few chains, if two tiles can share.
                        let n = if left == most + 1 && most > 2 { most - 1 } else { left.min(most) };
                        let mut rows = Rows { ptr: k.at(block.start + t, 0), row_stride: k.row_stride, col_stride: 1 };
                        if copied {
                            let at = if S::LANES > 1 { t } else { copy(t, n, 0) };
                            rows = Rows { ptr: x.keys.wrapping_add(at * k.cols), row_stride: k.cols, ..rows };
                        }
                        // SAFETY: rows `t..t + n` of the block, lanes of the panel.
                        with_score_rows!(S, n, MR => unsafe {
                            score_tile::<S, MR, NV>(s, x, block, lane, t, k.cols, rows);
                        });
                        t += n;
                    }
                });
            }
        },
    );
}

/// One tile of scores.
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
    let q =
        Panels { ptr: x.q.wrapping_add(lane).cast_const(), row_stride: S::PANEL, panel_stride: PANEL_COLS };
    let scores = x.scores;
    let place = |i: usize, v: usize| scores.wrapping_add((t + i) * S::PANEL + lane + v * S::LANES);
    // SAFETY: as the caller promises.
    unsafe {
        // Both ends of the keys that a row sees grow with the row.
        let last = lane + NV * S::LANES - 1;
        if block.partial && (*x.to.add(last) <= t as f32 || *x.from.add(lane) >= (t + MR) as f32) {
            return;
        }
        let scores = rows_in_lanes::<S, MR, NV>(s, d, k, q, place);
        for (i, row) in scores.iter().enumerate() {
            for (v, &score) in row.iter().enumerate() {
                s.store(place(i, v), score);
            }
        }
    }
}
