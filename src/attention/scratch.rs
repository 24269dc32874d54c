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
/// Rows of the room for copied keys, and of that for copied values.
const COPIED: usize = if VECTORS { BLOCK } else { 0 };
/// Rooms for copies: of biases, keys and values. A single lane reads all of them in place.
const COPIES: usize = if VECTORS { 3 } else { 0 };
const COPY_OF_BIASES: usize = 0;
const COPY_OF_KEYS: usize = 1;
const COPY_OF_VALUES: usize = 2;
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

/// The running softmax of each row: over a chunk of keys, or over all chunks before it.
#[derive(Clone, Copy)]
struct State {
    /// Maxima, and `apart` floats behind them the sums.
    m: *mut f32,
    /// Weighted values: `[rows][width]`.
    acc: *mut f32,
}

impl State {
    /// The same from row `r` on, of `width` values.
    #[inline(always)]
    fn at_row(&self, r: usize, width: usize) -> State {
        State { m: self.m.wrapping_add(r), acc: self.acc.wrapping_add(r * width) }
    }
}

/// The parts of the scratch. Rows' arrays have room for a whole panel, one panel's behind the other's;
/// all panels share the scores.
#[derive(Clone, Copy)]
pub struct Scratch {
    chunk: State,
    total: State,
    /// The other arrays of a float a row, the factors first.
    rows: *mut f32,
    /// From one of these arrays to the next, and from maxima to sums.
    apart: usize,
    /// Scaled queries: `[head_dim][lanes]` with rows in the lanes, else as `spread::load_q` has them; in
    /// both cases `q_stride` floats a row.
    pub q: *mut f32,
    pub q_stride: usize,
    /// Scores, then weights: `[BLOCK][PANEL]`.
    pub scores: *mut f32,
    pub width: usize,
    /// Where biases, keys and values are copied to.
    copies: [*mut f32; COPIES],
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
        let (m, total_m) = (take(2 * rows), take(2 * rows));
        // All but the maxima and sums of both states.
        let arrays = take((ROW_ARRAYS - 4 + HOLES) * rows);
        let scores = take(BLOCK * S::PANEL);
        let (biases, values) = (take(BIASES), take(COPIED * width));
        let q = take(q_stride * rows);
        let keys = take(q_stride * COPIED);
        let acc = take(width * rows);
        let total_acc = if p.k.len > CHUNK { take(width * rows) } else { acc };
        let mut copies = [biases; COPIES];
        for (to, copy) in copies.iter_mut().zip([biases, keys, values]) {
            *to = copy;
        }
        Scratch {
            chunk: State { m, acc },
            total: State { m: total_m, acc: total_acc },
            rows: arrays,
            apart: rows,
            q,
            q_stride,
            scores,
            width,
            copies,
        }
    }

    /// One row whose total is kept in `total` and whose chunk is kept in `chunk`, as `m`, `l` and `width`
    /// weighted values each; `factor` is a float.
    pub fn of_states(total: *mut f32, chunk: *mut f32, width: usize, factor: *mut f32) -> Scratch {
        let none = core::ptr::null_mut();
        let of = |m: *mut f32| State { m, acc: m.wrapping_add(STATE) };
        Scratch {
            chunk: of(chunk),
            total: of(total),
            rows: factor,
            apart: 1,
            q: none,
            q_stride: 0,
            scores: none,
            width,
            copies: [none; COPIES],
        }
    }

    /// The same for a panel whose rows have room from row `r` on.
    pub fn panel(&self, r: usize) -> Scratch {
        Scratch { scores: self.scores, copies: self.copies, ..self.at_row(r) }
    }

    /// The same from row `r` on.
    #[inline(always)]
    pub fn at_row(&self, r: usize) -> Scratch {
        let mut copies = self.copies;
        if let Some(values) = copies.get_mut(COPY_OF_VALUES) {
            *values = values.wrapping_add(r * self.width);
        }
        Scratch {
            chunk: self.chunk.at_row(r, self.width),
            total: self.total.at_row(r, self.width),
            rows: self.rows.wrapping_add(r),
            q: self.q.wrapping_add(r * self.q_stride),
            scores: self.scores.wrapping_add(r),
            copies,
            ..*self
        }
    }

    /// Moves the chunk's state into the total, which held nothing.
    pub fn begin_total(&mut self) {
        core::mem::swap(&mut self.chunk, &mut self.total);
    }

    /// Maxima of the chunk.
    #[inline(always)]
    pub fn m(&self) -> *mut f32 {
        self.chunk.m
    }

    /// Sums of the chunk.
    #[inline(always)]
    pub fn l(&self) -> *mut f32 {
        self.chunk.m.wrapping_add(self.apart)
    }

    /// Weighted values of the chunk: `[rows][width]`.
    #[inline(always)]
    pub fn acc(&self) -> *mut f32 {
        self.chunk.acc
    }

    /// Maxima of the chunks before.
    #[inline(always)]
    pub fn total_m(&self) -> *mut f32 {
        self.total.m
    }

    /// Sums of the chunks before.
    #[inline(always)]
    pub fn total_l(&self) -> *mut f32 {
        self.total.m.wrapping_add(self.apart)
    }

    /// Weighted values of the chunks before.
    #[inline(always)]
    pub fn total_acc(&self) -> *mut f32 {
        self.total.acc
    }

    /// What the state shrinks by: `e^(m - m')`.
    #[inline(always)]
    pub fn factor(&self) -> *mut f32 {
        self.rows
    }

    /// The first key that each row sees, within the block; only where they differ.
    #[inline(always)]
    pub fn from(&self) -> *mut f32 {
        self.array(1)
    }

    /// The end of the keys that each row sees.
    #[inline(always)]
    pub fn to(&self) -> *mut f32 {
        self.array(2)
    }

    /// Each row's slope of linear biases, negated, if there are such biases.
    pub fn slope(&self) -> *mut f32 {
        self.array(3)
    }

    /// Each row's own key, if there are linear biases.
    pub fn place(&self) -> *mut f32 {
        self.array(4)
    }

    /// The keys of the block that each row sees, as `seen` has them; only where that is not an interval.
    #[inline(always)]
    pub fn holes(&self) -> [*mut f32; HOLES] {
        [self.array(5), self.array(6)]
    }

    #[inline(always)]
    fn array(&self, i: usize) -> *mut f32 {
        self.rows.wrapping_add(i * self.apart)
    }

    /// A block's biases: `[rows][BIAS_STRIDE]`.
    #[inline(always)]
    pub fn biases(&self) -> *mut f32 {
        self.copy(COPY_OF_BIASES)
    }

    /// A block's keys where they are not read in place: `[BLOCK][head_dim]`.
    #[inline(always)]
    pub fn keys(&self) -> *mut f32 {
        self.copy(COPY_OF_KEYS)
    }

    /// A block's values where they are not read in place: `[BLOCK][width]`. With several heads, the chains of values that
    /// are not complete: `[rows][width]`.
    #[inline(always)]
    pub fn values(&self) -> *mut f32 {
        self.copy(COPY_OF_VALUES)
    }

    #[inline(always)]
    fn copy(&self, i: usize) -> *mut f32 {
        self.copies.get(i).copied().unwrap_or(self.scores)
    }
}
