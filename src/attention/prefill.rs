//! Scores and softmax with rows in the lanes: many queries at a time.
//!
//! Q is transposed once a panel, scaled, into `[head_dim][PANEL]`. The tile then broadcasts elements
//! of K straight from the caller's rows against vectors of queries, and everything after it is
//! vertical: no K is packed and nothing is reduced across lanes.

use super::block::Block;
use super::mask::bits;
use super::panel::Panel;
use super::scratch::{LONE_KEYS, MAX_PANEL, Scratch};
use super::seen;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Columns, Grid, pack, turn};
use crate::kernel::score::{chains, four_chains, rows_in_lanes, rows_in_one_lane};
use crate::kernel::tile::{
    PANEL_COLS, Panels, Rows, lone_rows, take, with_rows, with_score_rows, with_vectors,
};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::view::RawMat;

/// Writes the panel's queries, times the scale, to the scratch; lanes without a row are zero.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
#[inline(never)]
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.of.head_dim);
    let width = panel.rows.next_multiple_of(S::LANES);
    s.vectorize(
        #[inline(always)]
        || {
            by_kind!(p.q.of.kind, E => {
                let columns = p
                    .rows(panel.kv_head, panel.first)
                    .map(|(query, head)| p.q.head(head).at::<E>(query, 0).cast_const());
                let apart = (p.group.get() == 1).then_some(p.q.of.token_stride);
                let scale = s.splat(p.scale);
                if const { S::LANES == 1 } {
                    for (r, column) in columns.enumerate().take(panel.rows) {
                        // SAFETY: as the caller promises.
                        unsafe { scaled_column::<S, E>(s, column, d, scale, x.q.wrapping_add(r)) };
                    }
                    return;
                }
                let size = Columns { len: d, count: panel.rows, apart };
                let to = Grid { dst: x.q, stride: S::PANEL, width };
                // SAFETY: as the caller promises.
                unsafe { turn(s, size, columns, |v, _| s.mul(v, scale), to) };
            });
        },
    );
}

/// A query times the scale, with one lane.
#[inline(always)]
unsafe fn scaled_column<S: Simd, E: Elem>(s: S, mut q: *const E, d: usize, scale: S::V, mut to: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        for _ in 0..d / 4 {
            unrolled!(I < 4 => {
                s.store(to.add(I * S::PANEL), s.mul(E::load(s, q.add(I)), scale));
            });
            (q, to) = (q.wrapping_add(4), to.wrapping_add(4 * S::PANEL));
        }
        for _ in 0..d % 4 {
            s.store(to, s.mul(E::load(s, q), scale));
            (q, to) = (q.wrapping_add(1), to.wrapping_add(S::PANEL));
        }
    }
}

/// Scores of the block's keys. Those of tiles that no row sees are not written.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: &mut Block) {
    let k = &panel.p.k;
    let lanes = panel.rows.next_multiple_of(S::LANES);
    // The tile broadcasts single floats that lie at one stride.
    let one_run = k.one_run(block.start, block.keys);
    let copied = k.kind() != Kind::F32 || !one_run || (S::LANES > 1 && !k.side_by_side());
    if copied && S::LANES > 1 {
        // SAFETY: the scratch has room for a block's keys.
        unsafe { bring(s, panel, x, block.start, block.keys & !block.keys_there, 0) };
        block.keys_there |= block.keys;
    }
    let block = &*block;
    let in_place = k.run(panel.kv_head, block.start + block.from, block.to - block.from);
    s.vectorize(
        #[inline(always)]
        || {
            // A tile's lanes of Q stay in the L1 while the keys go by, and then the keys for the next lanes.
            let mut lane = 0;
            while lane < lanes {
                let vectors = take::<S>((lanes - lane) / S::LANES, S::NV);
                let strip = Strip { panel, x, block, in_place, copied };
                // Keys that all of the vectors want together, the others for each vector that wants them.
                let (mut first, mut end) = (block.from, block.to);
                let mut wanted = [(first, end); MAX_PANEL];
                // One lane: a few scores that no row wants cost less than the code.
                if S::LANES > 1 && (block.partial || block.holes) {
                    for (v, keys) in wanted.iter_mut().enumerate().take(vectors) {
                        // SAFETY: lanes of the panel.
                        *keys = unsafe { seen::keys_of(x, *block, lane + v * S::LANES, S::LANES) };
                        (first, end) = (first.max(keys.0), end.min(keys.1));
                    }
                    if first >= end {
                        (first, end) = (block.to, block.to);
                    }
                    for (v, keys) in wanted.iter().enumerate().take(vectors) {
                        let lane = lane + v * S::LANES;
                        // SAFETY: as the caller promises.
                        unsafe {
                            strip.tiles::<S, 1>(s, lane, (keys.0, keys.1.min(first)));
                            strip.tiles::<S, 1>(s, lane, (keys.0.max(end), keys.1));
                        }
                    }
                }
                // SAFETY: as the caller promises.
                with_vectors!(S, vectors, NV => unsafe { strip.tiles::<S, NV>(s, lane, (first, end)) });
                lane += vectors * S::LANES;
            }
        },
    );
}

/// A block's keys for some lanes.
struct Strip<'a> {
    panel: &'a Panel<'a>,
    x: &'a Scratch,
    block: &'a Block,
    /// The block's keys where they lie.
    in_place: RawMat,
    /// Or they are in the scratch, or brought there tile by tile.
    copied: bool,
}

impl Strip<'_> {
    /// Scores of the keys `t..end` for the `NV` vectors of rows from `lane` on.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const NV: usize>(&self, s: S, lane: usize, (mut t, end): (usize, usize)) {
        if const { S::LANES == 1 } {
            // SAFETY: as the caller promises.
            return unsafe { self.lone_tiles::<S, NV>(s, lane, (t, end)) };
        }
        let d = self.panel.p.k.dim();
        while t < end {
            let (left, most) = (end - t, S::MR / 2);
            // No tile of a single key, which has too few chains, if two tiles can share.
            let n = if left == most + 1 && most > 2 { most - 1 } else { left.min(most) };
            let keys = match self.copied {
                false => self.keys_in_place(t),
                true => Rows { ptr: self.x.keys.wrapping_add(t * d), row_stride: d, col_stride: 1 },
            };
            // SAFETY: keys `t..t + n` of the block, lanes of the panel.
            with_score_rows!(S, n, MR => unsafe { self.tile::<S, MR, NV>(s, lane, t, keys) });
            t += n;
        }
    }

    /// The same for one lane.
    #[inline(always)]
    unsafe fn lone_tiles<S: Simd, const NV: usize>(&self, s: S, lane: usize, (mut t, end): (usize, usize)) {
        let d = self.panel.p.k.dim();
        let (most, four) = (lone_rows::<S>(NV), chains(d) > 2);
        let copies = Rows { ptr: self.x.keys.cast_const(), row_stride: d, col_stride: 1 };
        let mut keys = if self.copied { copies } else { self.keys_in_place(t) };
        while t < end {
            let left = end - t;
            let n = take::<S>(left, if self.copied { LONE_KEYS } else { most });
            // SAFETY: keys of the block, lanes of the panel; the scratch has room for a tile's keys.
            unsafe {
                if self.copied {
                    let seen = self.block.keys & bits(t, t + n);
                    bring(s, self.panel, self.x, self.block.start, seen, t);
                    keys = copies;
                }
                let q = self.x.q.wrapping_add(lane).cast_const();
                let to = self.x.scores.wrapping_add(t * S::PANEL + lane);
                if four {
                    four_chains(s, d, keys, q, to, (n, NV));
                } else {
                    with_rows!(S, lone_rows::<S>(NV), n, MR => rows_in_one_lane::<S, MR, NV>(s, d, keys, q, to));
                }
            }
            keys = keys.at(n, 0);
            t += n;
        }
    }

    /// The keys from `t` on where they lie.
    #[inline(always)]
    fn keys_in_place(&self, t: usize) -> Rows {
        let ptr = self.in_place.at(t - self.block.from, 0);
        Rows { ptr, row_stride: self.in_place.row_stride, col_stride: 1 }
    }

    /// Scores of `MR` keys, which are the block's from `t` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        lane: usize,
        t: usize,
        keys: Rows,
    ) {
        let q = Panels {
            ptr: self.x.q.wrapping_add(lane).cast_const(),
            row_stride: S::PANEL,
            panel_stride: PANEL_COLS,
            col_stride: 1,
        };
        let to = self.x.scores.wrapping_add(t * S::PANEL + lane);
        // SAFETY: as the caller promises.
        unsafe { rows_in_lanes::<S, MR, NV>(s, self.panel.p.k.dim(), keys, q, to) };
    }
}

/// Copies keys to the scratch, the key `first` of the block to its beginning. Keys that are not seen keep what
/// was there.
///
/// # Safety
/// - The scratch has room for them.
unsafe fn bring<S: Simd>(s: S, panel: &Panel, x: &Scratch, start: usize, keys: u64, first: usize) {
    let d = panel.p.k.dim();
    for (t, rows) in panel.p.k.runs(panel.kv_head, start, keys) {
        let dst = Grid { dst: x.keys.wrapping_add((t - first) * d), stride: d, width: d };
        // SAFETY: as the caller promises.
        unsafe { pack(s, rows, dst) };
    }
}
