//! How the caller's scratch is cut up for one panel of rows.

use crate::kernel::softmax::BLOCK;
use crate::simd::{MAX_LANES, Simd};

use super::partial::CHUNK;

/// Whether any tier of this target has vectors.
const VECTORS: bool = cfg!(any(
    target_feature = "sse2",
    all(target_arch = "aarch64", target_feature = "neon"),
    target_feature = "simd128"
));
/// Rows of the largest panel of any tier of this target.
const MAX_PANEL: usize = if VECTORS { 48 } else { 4 };
/// What rows of values are rounded up to, so that whole vectors fit.
const WIDTH: usize = if VECTORS { MAX_LANES } else { 4 };
/// Values that are copied: scalar lanes read them all in place.
const COPIED: usize = if VECTORS { BLOCK } else { 0 };
/// Rows of the largest tile of any tier.
const MAX_MR: usize = 8;
/// Arrays of one float a row: `m`, `l`, their totals, the new maxima, the factors, and each row's keys.
const ROW_ARRAYS: usize = 8;
/// Floats to move the scratch to a cache line.
const ALIGN: usize = 16;

/// The parts of the scratch. All rows' arrays have room for a whole panel.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// Scaled queries: `[head_dim][PANEL]` with queries in the lanes, else `[rows][head_dim]`.
    pub q: *mut f32,
    pub head_dim: usize,
    /// Scores, then weights: `[BLOCK][PANEL]`, else `[rows][BLOCK]`.
    pub scores: *mut f32,
    /// A tile's rows of K, widened.
    pub k_rows: *mut f32,
    /// A block's values where they are not read in place: `[BLOCK][width]`. Scalar lanes always do.
    pub values: *mut f32,
    /// Weighted values of the chunk and of the chunks before: `[rows][width]`.
    pub acc: *mut f32,
    pub total_acc: *mut f32,
    pub width: usize,
    /// Maximum and sum of the chunk and of the chunks before, a float a row.
    pub m: *mut f32,
    pub l: *mut f32,
    pub total_m: *mut f32,
    pub total_l: *mut f32,
    /// The maximum with the current block.
    pub top: *mut f32,
    /// `e^(m - top)`: what the state shrinks by.
    pub factor: *mut f32,
    /// First key and end of the keys that each row sees, within the block; only where they differ.
    pub from: *mut f32,
    pub to: *mut f32,
}

const fn round_up(n: usize, to: usize) -> usize {
    n.saturating_add(to - 1) / to * to
}

/// `f32`s of scratch; `usize::MAX` if that is more than fits.
pub const fn scratch_len(kv_len: usize, head_dim: usize, v_head_dim: usize) -> usize {
    let accs = if kv_len > CHUNK { 2 } else { 1 };
    let values = round_up(v_head_dim, WIDTH).saturating_mul(MAX_PANEL * accs + COPIED);
    let queries = head_dim.saturating_mul(MAX_PANEL + MAX_MR);
    let fixed = ALIGN + MAX_PANEL * (BLOCK + ROW_ARRAYS);
    values.saturating_add(queries).saturating_add(fixed)
}

impl Scratch {
    /// Cuts up `scratch`.
    ///
    /// # Safety
    /// - `scratch` is valid for [`scratch_len`] floats of the same sizes.
    pub unsafe fn cut<S: Simd>(
        _: S,
        scratch: *mut f32,
        kv_len: usize,
        head_dim: usize,
        v_head_dim: usize,
    ) -> Scratch {
        const { assert!(S::PANEL <= MAX_PANEL && S::MR <= MAX_MR && S::LANES <= WIDTH) };
        let width = round_up(v_head_dim, WIDTH);
        let mut at = scratch.wrapping_add(scratch.align_offset(64).min(ALIGN));
        let mut take = |len: usize| {
            let part = at;
            at = at.wrapping_add(len);
            part
        };
        let mut row = || take(S::PANEL);
        let [m, l, total_m, total_l, top, factor, from, to] =
            [row(), row(), row(), row(), row(), row(), row(), row()];
        let scores = take(BLOCK * S::PANEL);
        let values = take(COPIED * width);
        let q = take(head_dim * S::PANEL);
        let k_rows = take(head_dim * MAX_MR);
        let acc = take(width * S::PANEL);
        let total_acc = if kv_len > CHUNK { take(width * S::PANEL) } else { acc };
        Scratch {
            q,
            head_dim,
            scores,
            k_rows,
            values,
            acc,
            total_acc,
            width,
            m,
            l,
            total_m,
            total_l,
            top,
            factor,
            from,
            to,
        }
    }

    /// The same from row `r` on, for rows that do not lie in lanes.
    pub fn at_row(&self, r: usize) -> Scratch {
        let row = |array: *mut f32| array.wrapping_add(r);
        Scratch {
            q: self.q.wrapping_add(r * self.head_dim),
            scores: self.scores.wrapping_add(r * BLOCK),
            acc: self.acc.wrapping_add(r * self.width),
            total_acc: self.total_acc.wrapping_add(r * self.width),
            m: row(self.m),
            l: row(self.l),
            total_m: row(self.total_m),
            total_l: row(self.total_l),
            top: row(self.top),
            factor: row(self.factor),
            from: row(self.from),
            to: row(self.to),
            ..*self
        }
    }
}
