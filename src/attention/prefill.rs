//! Scores and softmax with rows in the lanes: many queries at a time.
//!
//! Q is transposed once a panel, scaled, into `[head_dim][PANEL]`. The tile then broadcasts elements
//! of K straight from the caller's rows against vectors of queries, and everything after it is
//! vertical: no K is packed and nothing is reduced across lanes.

use super::mask::bits;
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
                unsafe { turn(s, size, columns, |v, _| s.mul(v, scale), to) };
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
    let (k, d) = (&panel.p.k, panel.p.k.dim());
    let lanes = panel.rows.next_multiple_of(S::LANES);
    // The tile broadcasts single floats that lie at one stride.
    let one_run = k.one_run(block.start, block.together);
    let copied = k.kind() != Kind::F32 || !one_run || (S::LANES > 1 && !k.side_by_side());
    let copy = |keys: u64, first: usize| {
        for (t, rows) in k.runs(panel.kv_head, block.start, keys) {
            let dst = Grid { dst: x.keys.wrapping_add((t - first) * d), stride: d, width: d };
            // SAFETY: the scratch has room for a block's keys, or a tile's. Keys that are not seen keep what
            // was there.
            unsafe { pack(s, rows, dst) };
        }
    };
    if copied && S::LANES > 1 && block.brings {
        copy(block.together, 0);
    }
    let in_place = k.run(panel.kv_head, block.start + block.from, block.to - block.from);
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
                    let seen = unsafe { (*x.from.add(lane) as usize, *x.to.add(lane + cols - 1) as usize) };
                    (t, end) = (t.max(seen.0), end.min(seen.1));
                }
                with_vectors!(S, cols / S::LANES, NV => while t < end {
                    let (left, most) = (end - t, S::MR / 2);
                    // No tile of a single key, which has too few chains, if two tiles can share.
                    let n = if left == most + 1 && most > 2 { most - 1 } else { left.min(most) };
                    if copied && S::LANES == 1 {
                        copy(block.keys & bits(t, t + n), t);
                    }
                    let at = if S::LANES == 1 { 0 } else { t };
                    let keys = match copied {
                        true => Rows { ptr: x.keys.wrapping_add(at * d), row_stride: d, col_stride: 1 },
                        false => {
                            let ptr = in_place.at(t - block.from, 0);
                            Rows { ptr, row_stride: in_place.row_stride, col_stride: 1 }
                        }
                    };
                    let to = x.scores.wrapping_add(t * S::PANEL + lane);
                    // SAFETY: keys `t..t + n` of the block, lanes of the panel.
                    with_score_rows!(S, n, MR => unsafe {
                        let scores = rows_in_lanes::<S, MR, NV>(s, d, keys, q);
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
