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
                let cols = (lanes - lane).min(S::NV * S::LANES);
                let q = x.q.wrapping_add(lane).cast_const();
                let q = Panels { ptr: q, row_stride: S::PANEL, panel_stride: PANEL_COLS };
                let (mut t, mut end) = (block.from, block.to);
                if block.partial {
                    // Both ends of the keys that a row sees grow with the row.
                    // SAFETY: lanes of the panel.
                    (t, end) = unsafe { (*x.from.add(lane) as usize, *x.to.add(lane + cols - 1) as usize) };
                }
                with_vectors!(S, cols / S::LANES, NV => while t < end {
                    let (left, most) = (end - t, S::MR / 2);
                    // No tile of a single key, which has too few chains, if two tiles can share.
                    let n = if left == most + 1 && most > 2 { most - 1 } else { left.min(most) };
                    if copied && S::LANES == 1 {
                        copy(t, n, 0);
                    }
                    let at = if S::LANES == 1 { 0 } else { t };
                    let keys = match copied {
                        true => Rows { ptr: x.keys.wrapping_add(at * k.cols), row_stride: k.cols, col_stride: 1 },
                        false => Rows { ptr: k.at(block.start + t, 0), row_stride: k.row_stride, col_stride: 1 },
                    };
                    let to = x.scores.wrapping_add(t * S::PANEL + lane);
                    // SAFETY: keys `t..t + n` of the block, lanes of the panel.
                    with_score_rows!(S, n, MR => unsafe {
                        let scores = rows_in_lanes::<S, MR, NV>(s, k.cols, keys, q);
                        for (i, row) in scores.iter().enumerate() {
                            for (v, &score) in row.iter().enumerate() {
                                s.store(to.add(i * S::PANEL + v * S::LANES), score);
                            }
                        }
                    });
                    t += n;
                });
            }
        },
    );
}
