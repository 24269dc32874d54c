//! Scores of a few queries, as in a decode step: features in the lanes.
//!
//! Rows would leave most lanes empty. Instead a vector holds two features of each of some rows of one key
//! head, and two features of a key are broadcast against it as they lie in memory. A few keys of all heads
//! are taken before the next keys, so that memory with tokens outermost is read in order. The scores come
//! out as in [`prefill`](super::prefill), rows in the lanes, for all heads together.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Kind, by_kind};
use crate::kernel::pack::{Grid, copy, pack};
use crate::kernel::score::{CHAINS, features_in_lanes};
use crate::kernel::tile::zero;
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// Up to this many rows of a head, features are in the lanes.
pub const fn max_rows<S: Simd>() -> usize {
    if S::LANES < 2 * CHAINS {
        0
    } else if S::LANES < 8 {
        S::LANES
    } else {
        8
    }
}

/// Rows in a vector.
const fn per_vector<S: Simd>() -> usize {
    S::LANES / CHAINS
}

/// Lanes that the `rows` rows of a head take among the scores: one or two vectors of queries.
pub const fn lanes<S: Simd>(rows: usize) -> usize {
    if rows <= per_vector::<S>() { per_vector::<S>() } else { 2 * per_vector::<S>() }
}

/// Writes a head's queries, times the scale: `[head_dim / 2][row][2]`, zeros where there is no row or no
/// feature.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.head_dim);
    let (width, row) = (d.next_multiple_of(CHAINS), x.keys);
    // SAFETY: as the caller promises. The room for keys holds a row of `head_dim`, in whole twos.
    unsafe {
        core::slice::from_raw_parts_mut(x.q, width * panel.lanes).fill(0.0);
        for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
            pack(s, p.q.head(head).block(query, 0, 1, d), Grid { dst: row, stride: width, width });
            let mut to = x.q.wrapping_add(r * CHAINS).cast::<[f32; CHAINS]>();
            for two in core::slice::from_raw_parts(row, width).as_chunks::<CHAINS>().0 {
                *to = two.map(|feature| feature * p.scale);
                to = to.wrapping_add(panel.lanes);
            }
        }
    }
}

/// Scores of the block's keys for the rows of all heads.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises.
            unsafe {
                if panel.rows <= per_vector::<S>() {
                    groups::<S, 8, 1>(s, panel, x, block)
                } else {
                    groups::<S, 4, 2>(s, panel, x, block)
                }
            }
        },
    );
}

/// The block's keys, `P` at a time for each head: as far apart as the block has room, since memory answers
/// faster on several pages at a time.
#[inline(always)]
unsafe fn groups<S: Simd, const P: usize, const NQ: usize>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let apart = (block.to - block.from).div_ceil(P);
    for t in block.from..block.from + apart {
        let keys: [usize; P] = core::array::from_fn(
            #[inline(always)]
            |i| (t + i * apart).min(block.to - 1),
        );
        if panel.heads == 1 {
            // One head's tokens are one stream at a time, unless the values are asked for with the keys.
            let v = panel.p.v.head(panel.kv_head);
            for key in keys {
                ask(s, v, block.start + key);
            }
        }
        for h in 0..panel.heads {
            let lane = h * panel.lanes;
            // SAFETY: as the caller promises; the lanes of a head that there is.
            unsafe { group::<S, P, NQ>(s, panel.p.k.head(panel.kv_head + h), x, block.start, keys, lane) };
        }
    }
}

/// Asks for a row.
#[inline(always)]
fn ask<S: Simd>(s: S, m: RawMat, row: usize) {
    by_kind!(m.kind, E => {
        for offset in (0..m.cols * size_of::<E>()).step_by(64) {
            s.prefetch(m.at::<E>(row, 0).wrapping_byte_add(offset));
        }
    });
}

/// Scores of some keys of the block at `start`, for the rows of the head whose lanes begin at `lane`.
#[inline(always)]
unsafe fn group<S: Simd, const P: usize, const NQ: usize>(
    s: S,
    k: RawMat,
    x: &Scratch,
    start: usize,
    keys: [usize; P],
    lane: usize,
) {
    let twos = k.cols / CHAINS;
    let q = x.q.wrapping_add(lane * x.q_stride).cast_const();
    let mut rows = [core::ptr::null::<f32>(); P];
    for (i, (row, key)) in rows.iter_mut().zip(keys).enumerate() {
        *row = if k.kind == Kind::F32 {
            k.at::<f32>(start + key, 0).cast_const()
        } else {
            let to = Grid { dst: x.keys.wrapping_add(i * k.cols), stride: k.cols, width: k.cols };
            // SAFETY: a key that some row sees; the room for keys holds `P` of them.
            by_kind!(k.kind, E => unsafe { copy::<S, E>(s, k.block(start + key, 0, 1, k.cols), to) });
            to.dst
        };
    }
    let mut acc = zero::<S, P, NQ>(s);
    // SAFETY: `head_dim` features of each row; queries are padded to whole twos.
    unsafe {
        features_in_lanes(s, twos, rows, q, &mut acc);
        if k.cols % CHAINS > 0 {
            let last = rows.map(|row| [*row.add(twos * CHAINS), 0.0]);
            let last = last.each_ref().map(|two| two.as_ptr());
            features_in_lanes(s, 1, last, q.wrapping_add(twos * NQ * S::LANES), &mut acc);
        }
    }
    // Two vectors of chains give one of sums: of two keys, or of all rows of one.
    let mut sums = [0.0_f32; MAX_LANES];
    let half = per_vector::<S>();
    for (i, &[a, b]) in acc.as_flattened().as_chunks::<2>().0.iter().enumerate() {
        // SAFETY: the array holds a whole vector; a head's lanes are inside the scores' rows.
        unsafe {
            s.store(sums.as_mut_ptr(), s.sum_twos(a, b));
            for j in 0..2 {
                let (key, vector) = (keys[(2 * i + j) / NQ], (2 * i + j) % NQ);
                let to = x.scores.wrapping_add(key * S::PANEL + lane + vector * half);
                core::ptr::copy_nonoverlapping(sums.as_ptr().add(j * half), to, half);
            }
        }
    }
}
