//! Scores of a few queries, as in a decode step: features in the lanes.
//!
//! Rows would leave most lanes empty. Instead a vector holds four features of each of a few rows of one
//! key head, and four features of a key are broadcast against it as they lie in memory. A few keys of
//! all heads are taken before the next keys, so that memory with tokens outermost is read in order. The
//! scores come out as in [`prefill`](super::prefill), rows in the lanes, for all heads together.

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
    if S::LANES < CHAINS {
        0
    } else if S::LANES < 8 {
        S::LANES
    } else {
        8
    }
}

/// Vectors of four features of each of `rows` rows: 1, 2 or 4.
const fn vectors<S: Simd>(rows: usize) -> usize {
    let per_vector = S::LANES / CHAINS;
    if rows <= per_vector {
        1
    } else if rows <= 2 * per_vector {
        2
    } else {
        4
    }
}

/// Lanes that the `rows` rows of a head take among the scores.
pub const fn lanes<S: Simd>(rows: usize) -> usize {
    vectors::<S>(rows) * (S::LANES / CHAINS)
}

/// Writes a head's queries, times the scale: `[head_dim / 4][vector][row][4]`, zeros where there is no
/// row or no feature.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d) = (panel.p, panel.p.q.head_dim);
    let (unit, row) = (vectors::<S>(panel.rows), x.keys);
    let step = unit * S::LANES;
    // SAFETY: as the caller promises. The room for keys holds a row of `head_dim`, in whole fours.
    unsafe {
        core::slice::from_raw_parts_mut(x.q, d.div_ceil(CHAINS) * step).fill(0.0);
        for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
            let width = d.next_multiple_of(CHAINS);
            pack(s, p.q.head(head).block(query, 0, 1, d), Grid { dst: row, stride: width, width });
            let fours = core::slice::from_raw_parts(row, width).as_chunks::<CHAINS>().0;
            let mut to = x.q.wrapping_add(r % unit * S::LANES + r / unit * CHAINS).cast::<[f32; CHAINS]>();
            for four in fours {
                *to = four.map(|feature| feature * p.scale);
                to = to.wrapping_byte_add(step * size_of::<f32>());
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
                match vectors::<S>(panel.rows) {
                    1 => groups::<S, 8, 1>(s, panel, x, block),
                    2 => groups::<S, 4, 2>(s, panel, x, block),
                    _ => groups::<S, 2, 4>(s, panel, x, block),
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
        for h in 0..panel.heads {
            let lane = h * lanes::<S>(panel.rows);
            // SAFETY: as the caller promises; the lanes of a head that there is.
            unsafe { group::<S, P, NQ>(s, panel.p.k.head(panel.kv_head + h), x, block.start, keys, lane) };
        }
    }
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
    let (fours, rest) = (k.cols / CHAINS, k.cols % CHAINS);
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
    // SAFETY: `head_dim` features of each row; queries are padded to whole fours.
    unsafe {
        features_in_lanes(s, fours, rows, q, &mut acc);
        if rest > 0 {
            let mut last = [[0.0_f32; CHAINS]; P];
            for (last, row) in last.iter_mut().zip(&rows) {
                for (i, x) in last.iter_mut().enumerate().take(rest) {
                    *x = *row.add(fours * CHAINS + i);
                }
            }
            let last = last.each_ref().map(|four| four.as_ptr());
            features_in_lanes(s, 1, last, q.wrapping_add(fours * NQ * S::LANES), &mut acc);
        }
    }
    // Four vectors at a time: all rows of `4 / NQ` keys.
    let mut sums = [0.0_f32; MAX_LANES];
    let width = NQ * (S::LANES / CHAINS);
    for (four, keys) in acc.as_flattened().as_chunks::<4>().0.iter().zip(keys.chunks(4 / NQ)) {
        // SAFETY: the array holds a whole vector; a head's lanes are inside the scores' rows.
        unsafe {
            s.store(sums.as_mut_ptr(), s.sum_fours::<NQ>(*four));
            for (i, key) in keys.iter().enumerate() {
                let to = x.scores.wrapping_add(key * S::PANEL + lane);
                core::ptr::copy_nonoverlapping(sums.as_ptr().add(i * width), to, width);
            }
        }
    }
}
