//! How the caller's scratch is cut up for one panel of rows.

use crate::kernel::score::chains;
use crate::kernel::softmax::BLOCK;
use crate::simd::{MAX_LANES, Simd, VECTORS};

use super::call::Problem;
use super::partial::{CHUNK, STATE};

/// Rows of the largest panel of any tier of this target.
pub const MAX_PANEL: usize = if VECTORS { 48 } else { 4 };
/// Panels that the scratch has room for, if queries are few and if they are many. As many take a block of keys together.
const MIN_PANELS: usize = if VECTORS { 3 } else { 1 };
pub const MAX_PANELS: usize = if VECTORS { 4 } else { 1 };
/// What rows of values are rounded up to, so that whole vectors fit.
const WIDTH: usize = if VECTORS { MAX_LANES } else { 4 };
/// Keys and values that are copied: scalar lanes read them all in place.
const COPIED: usize = if VECTORS { BLOCK } else { 0 };
/// Arrays of one float a row: `m`, `l`, their totals, the factors, each row's keys, its slope and place.
const ROW_ARRAYS: usize = 9;
/// Floats of a row that say which keys of the block it sees.
const HOLES: usize = 2;
/// Floats from one row of biases to the next: no power of two, which would put all rows into few sets of the
/// L1. Scalar lanes read biases in place.
pub const BIAS_STRIDE: usize = BLOCK + MAX_LANES;
const BIASES: usize = if VECTORS { MAX_PANEL * BIAS_STRIDE } else { 0 };
/// Floats to move the scratch to a cache line.
const ALIGN: usize = 16;

/// The parts of the scratch. Rows' arrays have room for a whole panel, one panel's behind the other's;
/// all panels share the scores.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// Scaled queries: `[head_dim][lanes]` with rows in the lanes, else as `decode::load_q` has them; in
    /// both cases `q_stride` floats a row.
    pub q: *mut f32,
    pub q_stride: usize,
    /// Scores, then weights: `[BLOCK][PANEL]`.
    pub scores: *mut f32,
    /// A block's biases: `[rows][BIAS_STRIDE]`.
    pub biases: *mut f32,
    /// A block's keys where they are not read in place: `[BLOCK][head_dim]`. Scalar lanes always read them in place.
    pub keys: *mut f32,
    /// A block's values where they are not read in place: `[BLOCK][width]`. Scalar lanes always read them in place. With
    /// several heads, the chains of values that are not complete: `[rows][width]`.
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
    /// What the state shrinks by: `e^(m - m')`.
    pub factor: *mut f32,
    /// First key and end of the keys that each row sees, within the block; only where they differ.
    pub from: *mut f32,
    pub to: *mut f32,
    /// Each row's slope of linear biases, negated, and its own key, if there are such biases.
    pub slope: *mut f32,
    pub place: *mut f32,
    /// The keys of the block that each row sees, as `seen` has them; only where that is not an interval.
    pub holes: [*mut f32; HOLES],
}

/// Floats that a row of `v_head_dim` weighted values takes.
pub const fn width(v_head_dim: usize) -> usize {
    round_up(v_head_dim, WIDTH)
}

/// Floats that a query takes, with features in the lanes in whole groups.
const fn q_stride(head_dim: usize) -> usize {
    if VECTORS { round_up(head_dim, chains(head_dim)) } else { head_dim }
}

const fn round_up(n: usize, to: usize) -> usize {
    n.saturating_add(to - 1) / to * to
}

/// Rows that the scratch has room for, in whole panels: those of several heads where queries are few.
pub const fn room(q_len: usize, panel: usize) -> usize {
    let filled = q_len.div_ceil(MAX_PANEL);
    let filled = if filled < MIN_PANELS { MIN_PANELS } else { filled };
    panel * if filled > MAX_PANELS { MAX_PANELS } else { filled }
}

/// `f32`s of scratch; `usize::MAX` if that is more than fits.
pub const fn scratch_len(q_len: usize, kv_len: usize, head_dim: usize, v_head_dim: usize) -> usize {
    let accs = if kv_len > CHUNK { 2 } else { 1 };
    let rows = room(q_len, MAX_PANEL);
    let values = width(v_head_dim).saturating_mul(rows * accs + COPIED);
    let q_stride = q_stride(head_dim);
    let queries = q_stride.saturating_mul(rows + COPIED);
    let fixed = ALIGN + MAX_PANEL * BLOCK + BIASES + rows * (ROW_ARRAYS + HOLES);
    values.saturating_add(queries).saturating_add(fixed)
}

impl Scratch {
    /// Cuts up `scratch`.
    ///
    /// # Safety
    /// - `scratch` is valid for [`scratch_len`] floats of the problem's sizes.
    pub unsafe fn cut<S: Simd>(_: S, scratch: *mut f32, p: &Problem) -> Scratch {
        const { assert!(S::PANEL <= MAX_PANEL && S::LANES <= WIDTH) };
        const { assert!(S::PANEL == <S::Few as Simd>::PANEL) };
        const { assert!(S::LANES == 1 || COPIED >= S::PANEL) };
        let (q_stride, width) = (q_stride(p.q.of.head_dim), width(p.v.dim()));
        let rows = room(p.q.len, S::PANEL);
        let mut at = scratch.wrapping_add(scratch.align_offset(64).min(ALIGN));
        let mut take = |len: usize| {
            let part = at;
            at = at.wrapping_add(len);
            part
        };
        // One by one: a loop over an array of them would be one at opt-level "s".
        let (m, l, total_m, total_l) = (take(rows), take(rows), take(rows), take(rows));
        let (factor, from, to, slope, place) = (take(rows), take(rows), take(rows), take(rows), take(rows));
        let holes = [take(rows), take(rows)];
        let scores = take(BLOCK * S::PANEL);
        let biases = take(BIASES);
        let values = take(COPIED * width);
        let q = take(q_stride * rows);
        let keys = take(q_stride * COPIED);
        let acc = take(width * rows);
        let total_acc = if p.k.len > CHUNK { take(width * rows) } else { acc };
        Scratch {
            q,
            q_stride,
            scores,
            biases,
            keys,
            values,
            acc,
            total_acc,
            width,
            m,
            l,
            total_m,
            total_l,
            factor,
            from,
            to,
            slope,
            place,
            holes,
        }
    }

    /// One row whose total is kept in `total` and whose chunk is kept in `chunk`, as `m`, `l` and `width`
    /// weighted values each; `factor` is a float.
    pub fn of_states(total: *mut f32, chunk: *mut f32, width: usize, factor: *mut f32) -> Scratch {
        let none = core::ptr::null_mut();
        Scratch {
            q: none,
            q_stride: 0,
            scores: none,
            biases: none,
            keys: none,
            values: none,
            acc: chunk.wrapping_add(STATE),
            total_acc: total.wrapping_add(STATE),
            width,
            m: chunk,
            l: chunk.wrapping_add(1),
            total_m: total,
            total_l: total.wrapping_add(1),
            factor,
            from: none,
            to: none,
            slope: none,
            place: none,
            holes: [none; HOLES],
        }
    }

    /// The same for a panel whose rows have room from row `r` on.
    pub fn panel(&self, r: usize) -> Scratch {
        Scratch { scores: self.scores, values: self.values, ..self.at_row(r) }
    }

    /// The same from row `r` on.
    #[inline(always)]
    pub fn at_row(&self, r: usize) -> Scratch {
        let row = |array: *mut f32| array.wrapping_add(r);
        let wide = |array: *mut f32| array.wrapping_add(r * self.width);
        Scratch {
            q: self.q.wrapping_add(r * self.q_stride),
            scores: row(self.scores),
            values: wide(self.values),
            acc: wide(self.acc),
            total_acc: wide(self.total_acc),
            m: row(self.m),
            l: row(self.l),
            total_m: row(self.total_m),
            total_l: row(self.total_l),
            factor: row(self.factor),
            from: row(self.from),
            to: row(self.to),
            slope: row(self.slope),
            place: row(self.place),
            holes: self.holes.map(row),
            ..*self
        }
    }
}
