//! Scores with rows in the lanes: many queries at a time.
//!
//! Q is transposed once a panel, scaled, into `[head_dim][lanes]`. The tile then broadcasts elements of K against vectors
//! of queries, and everything after it is vertical: nothing is reduced across lanes. K is read where it lies if a head's
//! keys are floats side by side, and else a block is copied for all panels that take it. Few rows that would fill a vector
//! badly are left to [`decode`].

use super::block::Block;
use super::panel::Panel;
use super::scratch::Scratch;
use super::{decode, seen, spread};
use crate::elem::{Kind, by_kind};
use crate::kernel::pack::{Columns, Grid, pack, turn};
use crate::kernel::score::rows_in_lanes;
use crate::kernel::tile::{Rows, side_by_side, with_score_rows, with_vectors};
use crate::simd::Simd;
use crate::view::RawMat;

/// Vectors of the widest tile of any tier.
const MOST_VECTORS: usize = 4;

/// How many of `rows` rows are in the lanes. Features are in the lanes for the others: all rows where two groups of few
/// cost less than their vectors, or those that would fill at most half of a last vector.
pub fn in_lanes<S: Simd>(rows: usize) -> usize {
    let (few, over) = (decode::max_rows::<S::Few>(), rows % S::LANES);
    match few {
        0 => rows,
        _ if rows <= few + S::LANES / 2 => 0,
        _ if over <= S::LANES / 2 => rows - over,
        _ => rows,
    }
}

/// The panel's rows in the lanes.
fn vectors<'a, S: Simd>(panel: &Panel<'a>) -> Panel<'a> {
    Panel { rows: in_lanes::<S>(panel.rows), ..*panel }
}

/// The others, with their part of the scratch.
fn few<'a, S: Simd>(panel: &Panel<'a>, x: &Scratch) -> (Panel<'a>, Scratch) {
    let r = in_lanes::<S>(panel.rows);
    (Panel { first: panel.first + r, rows: panel.rows - r, in_lanes: false, ..*panel }, x.at_row(r))
}

/// Lanes of a panel, and floats from one feature of its queries to the next.
fn lanes<S: Simd>(panel: &Panel) -> usize {
    panel.rows.next_multiple_of(S::LANES)
}

/// Writes the panel's queries, times the scale, to the scratch; lanes without a row are zero.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
#[inline(never)]
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (few, few_x) = few::<S>(panel, x);
    // SAFETY: as the caller promises.
    unsafe { spread::load_q(s.few(), &few, &few_x) };
    let panel = &vectors::<S>(panel);
    let (p, d) = (panel.p, panel.p.q.of.head_dim);
    let width = lanes::<S>(panel);
    s.vectorize(
        #[inline(always)]
        || {
            by_kind!(p.q.of.kind, E => {
                let columns = p.addresses::<E>(&p.q, panel.kv_head, panel.first).map(|q| q.cast_const());
                let apart = (p.group.get() == 1).then_some(p.q.of.token_stride);
                let scale = s.splat(p.scale);
                let size = Columns { len: d, count: panel.rows, apart };
                let to = Grid { dst: x.q, stride: width, width };
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
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: &mut Block) {
    let vectors = vectors::<S>(panel);
    // SAFETY: as the caller promises, of the panel's rows. The few take the room for keys last: they are in the last
    // panel that wants the copies.
    unsafe {
        if vectors.rows > 0 {
            whole_vectors(s, &vectors, x, block);
        }
        if vectors.rows < panel.rows {
            let (few, x) = few::<S>(panel, x);
            decode::scores(s, &few, &x, block);
        }
    }
}

#[inline(never)]
unsafe fn whole_vectors<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: &mut Block) {
    let (k, lanes) = (&panel.p.k, lanes::<S>(panel));
    // The tile broadcasts single floats that lie at one stride.
    let one_run = k.one_run(block);
    let copied = k.kind() != Kind::F32 || !one_run || !k.side_by_side();
    if copied {
        // SAFETY: the scratch has room for a block's keys.
        unsafe { bring(s, panel, x, block.start, block.keys & !block.keys_there) };
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
                let vectors = ((lanes - lane) / S::LANES).min(S::NV);
                let strip = Strip { panel, x, block, q_stride: lanes, in_place, copied };
                // Keys that all of the vectors want together, the others for each vector that wants them.
                let (mut first, mut end) = (block.from, block.to);
                const { assert!(S::NV <= MOST_VECTORS) };
                let mut wanted = [(first, end); MOST_VECTORS];
                if block.partial || block.holes {
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
    /// Floats from one feature of the queries to the next.
    q_stride: usize,
    /// The block's keys where they lie.
    in_place: RawMat,
    /// Or they are in the scratch.
    copied: bool,
}

impl Strip<'_> {
    /// Scores of the keys `t..end` for the `NV` vectors of rows from `lane` on.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const NV: usize>(&self, s: S, lane: usize, (mut t, end): (usize, usize)) {
        let d = self.panel.p.k.dim();
        let q = side_by_side(self.x.q.wrapping_add(lane).cast_const(), self.q_stride);
        while t < end {
            let (left, most) = (end - t, S::MR / 2);
            // No tile of a single key, which has too few chains, if two tiles can share.
            let n = if left == most + 1 && most > 2 { most - 1 } else { left.min(most) };
            let over = left > most && most > 2 && left % most == 1;
            let tiles = if n == most { left / most - over as usize } else { 1 };
            let (mut keys, mut to) = (self.keys(t, d), self.x.scores.wrapping_add(t * S::PANEL + lane));
            with_score_rows!(S, n, MR => for _ in 0..tiles {
                // SAFETY: as the caller promises: keys of the block, lanes of the panel.
                unsafe { rows_in_lanes::<S, MR, NV>(s, d, keys, q, to) };
                (keys, to) = (keys.at(MR, 0), to.wrapping_add(MR * S::PANEL));
            });
            t += n * tiles;
        }
    }

    /// The keys from `t` on, of `d` features.
    #[inline(always)]
    fn keys(&self, t: usize, d: usize) -> Rows {
        let (ptr, row_stride) = match self.copied {
            false => (self.in_place.at(t - self.block.from, 0), self.in_place.row_stride),
            true => (self.x.keys().wrapping_add(t * d), d),
        };
        Rows { ptr, row_stride, col_stride: 1 }
    }
}

/// Copies keys of a block to the scratch. Others keep what was there.
///
/// # Safety
/// - The scratch has room for a block's keys.
unsafe fn bring<S: Simd>(s: S, panel: &Panel, x: &Scratch, start: usize, keys: u64) {
    let d = panel.p.k.dim();
    for (t, rows) in panel.p.k.runs(panel.kv_head, start, keys) {
        // SAFETY: as the caller promises.
        unsafe { pack(s, rows, Grid { dst: x.keys().wrapping_add(t * d), stride: d, width: d }) };
    }
}
