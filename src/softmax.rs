//! Softmax and log-sum-exp of rows, and `e^x`, as public functions.

use core::mem::MaybeUninit;

use crate::elem::{Elem, Kind, load_up_to, store_up_to};
use crate::error::{Error, expect_dim};
use crate::kernel::exp;
use crate::kernel::pack::{Grid, pack, unpack_row};
use crate::kernel::softmax::{BLOCK, CHAINS, NO_MAX, PART, columns, highest, inverse, log_sum, row, row_max};
use crate::simd::{MAX_LANES, Simd};
use crate::tier::{Tier, dispatch};
use crate::view::{MatMut, MatRef, RawMat};

/// `out[i][j] = e^x[i][j] / Σ_t e^x[i][t]`: the softmax of each row.
///
/// The largest element is subtracted first, so nothing overflows. A row of minus infinities gives
/// zeros; a NaN or plus infinity makes its row NaN. The exponential of a rounded difference `x - max` is within 1 ULP,
/// or 4.5 below e^-9, and 0 below `2^-110.5` (`2^-126.5` where multiply-adds are not fused). That rounding and the sum's weigh
/// more: in rows of up to 4,096 a result is off by about `(max - x + 10) 2^-24` of itself.
///
/// # Errors
/// [`Error::DimMismatch`] if the shapes differ.
///
/// ```
/// use qkv::{MatMut, MatRef, softmax};
/// let (x, mut p) = ([0.0_f32, 3.0_f32.ln()], [0.0_f32; 2]);
/// softmax(MatRef::new(&x, 1, 2)?, MatMut::new(&mut p, 1, 2)?)?;
/// assert!((p[0] - 0.25).abs() < 1e-7 && (p[1] - 0.75).abs() < 1e-7);
/// # Ok::<(), qkv::Error>(())
/// ```
pub fn softmax<T: Elem, O: Elem>(x: MatRef<'_, T>, out: MatMut<'_, O>) -> Result<(), Error> {
    Softmax::new().run(x, out)
}

/// [`softmax`] of each row, over the row itself.
///
/// # Errors
/// None: the shape agrees with itself. The `Result` is for symmetry.
pub fn softmax_in_place<T: Elem>(x: MatMut<'_, T>) -> Result<(), Error> {
    Softmax::new().run_in_place(x)
}

/// `out[i] = ln Σ_t e^x[i][t]`, the natural log-sum-exp of each row: minus infinity for an empty row or
/// one of minus infinities, NaN for a row with a NaN or plus infinity.
///
/// # Errors
/// [`Error::DimMismatch`] if `out` is not as long as there are rows.
///
/// ```
/// use qkv::{MatRef, log_sum_exp};
/// let (x, mut lse) = ([1000.0_f32, 1000.0], [0.0]);
/// log_sum_exp(MatRef::new(&x, 1, 2)?, &mut lse)?;
/// assert!((lse[0] - (1000.0 + 2.0_f32.ln())).abs() < 1e-4);
/// # Ok::<(), qkv::Error>(())
/// ```
pub fn log_sum_exp<T: Elem>(x: MatRef<'_, T>, out: &mut [f32]) -> Result<(), Error> {
    Softmax::new().log_sum_exp(x, out)
}

/// `x[i] = e^x[i]`: within 1 ULP for every `f32`, subnormal results kept, overflow to infinity.
///
/// But on a Cortex-M55 subnormal results may become 0: the compiler uses its vectors of floats (MVE), which
/// flush subnormal numbers, unless the firmware is built with `-C target-feature=-mve.fp`.
///
/// ```
/// let mut x = [0.0_f32, f32::NEG_INFINITY, 89.0];
/// qkv::exp_in_place(&mut x);
/// assert_eq!(x, [1.0, 0.0, f32::INFINITY]);
/// ```
pub fn exp_in_place(x: &mut [f32]) {
    Softmax::new().exp_in_place(x);
}

/// The functions of this module on a chosen tier.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "options do nothing until a method runs"]
pub struct Softmax {
    tier: Option<Tier>,
}

impl Softmax {
    /// The best tier of this CPU.
    pub const fn new() -> Softmax {
        Softmax { tier: None }
    }

    /// Forces a tier; the default is [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Softmax {
        Softmax { tier: Some(tier) }
    }

    fn chosen(self) -> Tier {
        self.tier.unwrap_or_else(Tier::detect)
    }

    /// As [`softmax`].
    ///
    /// # Errors
    /// As [`softmax`].
    pub fn run<T: Elem, O: Elem>(self, x: MatRef<'_, T>, out: MatMut<'_, O>) -> Result<(), Error> {
        expect_dim("rows of the output", x.rows(), out.rows())?;
        expect_dim("columns of the output", x.cols(), out.cols())?;
        if x.cols() == 0 {
            return Ok(());
        }
        // SAFETY: views are valid by construction, and their shapes agree.
        dispatch!(self.chosen(), s => unsafe { all_rows(s, x.raw, out.raw) });
        Ok(())
    }

    /// As [`softmax_in_place`].
    ///
    /// # Errors
    /// As [`softmax_in_place`].
    pub fn run_in_place<T: Elem>(self, x: MatMut<'_, T>) -> Result<(), Error> {
        if x.cols() == 0 {
            return Ok(());
        }
        // SAFETY: the view is valid by construction.
        dispatch!(self.chosen(), s => unsafe { all_rows(s, x.raw, x.raw) });
        Ok(())
    }

    /// As [`log_sum_exp`](crate::log_sum_exp).
    ///
    /// # Errors
    /// As [`log_sum_exp`](crate::log_sum_exp).
    pub fn log_sum_exp<T: Elem>(self, x: MatRef<'_, T>, out: &mut [f32]) -> Result<(), Error> {
        expect_dim("length of the output (rows)", x.rows(), out.len())?;
        // SAFETY: the view is valid by construction; `out` has a place for each row.
        dispatch!(self.chosen(), s => unsafe { all_log_sum_exps(s, x.raw, out) });
        Ok(())
    }

    /// As [`exp_in_place`](crate::exp_in_place).
    pub fn exp_in_place(self, x: &mut [f32]) {
        dispatch!(self.chosen(), s => exp_slice(s, x));
    }
}

#[inline(never)]
fn exp_slice<S: Simd>(s: S, x: &mut [f32]) {
    s.vectorize(
        #[inline(always)]
        || {
            let mut i = 0;
            while i < x.len() {
                let (p, n) = (x.as_mut_ptr().wrapping_add(i), x.len() - i);
                // SAFETY: `n` floats from `i` on are inside the slice.
                unsafe { store_up_to(s, p, n, exp::exp(s, load_up_to(s, p, n))) };
                i += S::LANES;
            }
        },
    );
}

#[inline(never)]
unsafe fn all_rows<S: Simd>(s: S, x: RawMat, out: RawMat) {
    s.vectorize(
        #[inline(always)]
        || {
            if lie_together::<S>(x) {
                // SAFETY: the rows of both.
                return unsafe { down(s, x, Some(out), |_, _, _| ()) };
            }
            for i in 0..x.rows {
                // SAFETY: row `i` of both.
                unsafe {
                    let m = max(s, x, i);
                    let sum = weights(s, x, i, m, Some(out));
                    normalise(s, x, i, m, inverse(sum), out);
                }
            }
        },
    );
}

#[inline(never)]
unsafe fn all_log_sum_exps<S: Simd>(s: S, x: RawMat, out: &mut [f32]) {
    s.vectorize(
        #[inline(always)]
        || {
            if lie_together::<S>(x) {
                let put = |i: usize, m, sum| {
                    if let Some(to) = out.get_mut(i) {
                        *to = log_sum(m, sum);
                    }
                };
                // SAFETY: the rows of `x`.
                return unsafe { down(s, x, None, put) };
            }
            for (i, to) in out.iter_mut().enumerate() {
                // SAFETY: there is a row for each output.
                unsafe {
                    let m = max(s, x, i);
                    *to = log_sum(m, weights(s, x, i, m, None));
                }
            }
        },
    );
}

/// Whether columns lie apart, but rows together, enough of them for a vector that holds an element of each. Parts of
/// portable vectors are slow.
#[inline(always)]
fn lie_together<S: Simd>(x: RawMat) -> bool {
    let enough = const { if S::FUSED { 3 } else { S::LANES } };
    S::LANES > 1 && x.rows >= enough && x.row_stride == 1 && x.col_stride != 1
}

/// Softmax of rows that [`lie_together`], in the lanes: the same steps for each as row by row. Calls `each` with every
/// row, its maximum and its sum.
///
/// # Safety
/// - The views are valid, and of one shape.
#[inline(always)]
unsafe fn down<S: Simd>(s: S, x: RawMat, out: Option<RawMat>, mut each: impl FnMut(usize, f32, f32)) {
    let mut room = MaybeUninit::<[S::V; BLOCK]>::uninit();
    let room = room.as_mut_ptr().cast();
    // Weights are kept where they are no less exact there.
    let kept = out.filter(|out| out.kind == Kind::F32);
    for i in (0..x.rows).step_by(S::LANES) {
        let rows = Lanes { s, room, first: i, n: (x.rows - i).min(S::LANES) };
        let (mut top, mut sum) = (s.splat(NO_MAX), s.splat(0.0));
        // SAFETY: blocks of these rows.
        unsafe {
            for j in (0..x.cols).step_by(BLOCK) {
                let cols = rows.bring(x, j);
                for t in 0..cols {
                    top = s.max(s.load(rows.at(t)), top);
                }
            }
            for j in (0..x.cols).step_by(BLOCK) {
                let cols = rows.bring(x, j);
                sum = s.add(sum, rows.weigh(cols, top));
                if let Some(out) = kept {
                    rows.put(out, (j, cols), None);
                }
            }
            let [mut tops, mut sums] = [[0.0; MAX_LANES]; 2];
            s.store(tops.as_mut_ptr(), top);
            s.store(sums.as_mut_ptr(), sum);
            for (r, (&m, sum)) in tops.iter().zip(&mut sums).enumerate().take(rows.n) {
                each(i + r, m, *sum);
                *sum = inverse(*sum);
            }
            let Some(out) = out else { continue };
            for j in (0..x.cols).step_by(BLOCK) {
                let cols = rows.bring(kept.unwrap_or(x), j);
                if kept.is_none() {
                    rows.weigh(cols, top);
                }
                rows.put(out, (j, cols), Some(s.load(sums.as_ptr())));
            }
        }
    }
}

/// `n` rows from the first one on, one in each lane, and room for a block of their columns.
struct Lanes<S> {
    s: S,
    room: *mut f32,
    first: usize,
    n: usize,
}

impl<S: Simd> Lanes<S> {
    /// Column `t` of the block.
    #[inline(always)]
    fn at(&self, t: usize) -> *mut f32 {
        self.room.wrapping_add(t * S::LANES)
    }

    /// Reads the block of the columns from `j` on, and returns how many it has.
    #[inline(always)]
    unsafe fn bring(&self, x: RawMat, j: usize) -> usize {
        let cols = (x.cols - j).min(BLOCK);
        let to = Grid { dst: self.room, stride: S::LANES, width: S::LANES };
        // SAFETY: rows and columns of `x`, which there is room for.
        unsafe { pack(self.s, x.block(self.first, j, self.n, cols).t(), to) };
        cols
    }

    /// Scores become weights; returns the sums.
    #[inline(always)]
    unsafe fn weigh(&self, cols: usize, m: S::V) -> S::V {
        // The sum's chains take whole groups.
        let whole = cols.next_multiple_of(CHAINS);
        // SAFETY: a block has whole groups.
        unsafe {
            for t in cols..whole {
                self.s.store(self.at(t), self.s.splat(f32::NEG_INFINITY));
            }
            columns(self.s, self.room, S::LANES, whole, m)
        }
    }

    /// Writes the block to the columns from `j` on, times `factor`.
    #[inline(always)]
    unsafe fn put(&self, out: RawMat, (j, cols): (usize, usize), factor: Option<S::V>) {
        for t in 0..cols {
            // SAFETY: rows and columns of `out`.
            unsafe {
                if let Some(factor) = factor {
                    self.s.store(self.at(t), self.s.mul(self.s.load(self.at(t)), factor));
                }
                unpack_row(self.s, self.at(t), out.block(self.first, j + t, self.n, 1).t(), 0);
            }
        }
    }
}

/// Whether rows are contiguous floats, which need no buffer.
fn is_plain(x: RawMat) -> bool {
    x.kind == Kind::F32 && x.col_stride == 1
}

/// Columns of a part of a row. On small processors a block, since stack counts.
const fn part<S: Simd>() -> usize {
    if S::LANES == 1 { BLOCK } else { PART }
}

/// Calls `take` with the parts of row `i` as floats, in their order: the first column of each, where it lies, room for as
/// many floats, which may be where it lies, and how many columns it has.
#[inline(always)]
unsafe fn parts<S: Simd>(
    s: S,
    x: RawMat,
    i: usize,
    mut take: impl FnMut(usize, *const f32, *mut f32, usize),
) {
    // Large enough for a part with one lane and with more.
    let mut room = MaybeUninit::<[S::V; BLOCK]>::uninit();
    let room = room.as_mut_ptr().cast::<f32>();
    const { assert!(part::<S>() <= BLOCK * S::LANES) };
    for j in (0..x.cols).step_by(const { part::<S>() }) {
        let n = (x.cols - j).min(part::<S>());
        let scores = if is_plain(x) {
            x.at::<f32>(i, j)
        } else {
            // SAFETY: columns from `j` on are inside the row and fit the room.
            unsafe { pack(s, x.block(i, j, 1, n), Grid { dst: room, stride: n, width: n }) };
            room
        };
        take(j, scores.cast_const(), room, n);
    }
}

/// The largest element of row `i`, NaNs apart.
#[inline(always)]
unsafe fn max<S: Simd>(s: S, x: RawMat, i: usize) -> f32 {
    let mut top = s.splat(NO_MAX);
    // SAFETY: row `i`, as a whole or in parts.
    unsafe {
        if is_plain(x) {
            top = row_max(s, x.at::<f32>(i, 0), x.cols, top);
        } else {
            parts(
                s,
                x,
                i,
                #[inline(always)]
                |_, scores, _, n| top = row_max(s, scores, n, top),
            );
        }
    }
    highest(s, top)
}

/// The sum of row `i`'s weights, block by block, which also go to `out` if it takes floats as they are.
#[inline(always)]
unsafe fn weights<S: Simd>(s: S, x: RawMat, i: usize, m: f32, out: Option<RawMat>) -> f32 {
    let (m, mut sum) = (s.splat(m), 0.0);
    // SAFETY: parts of row `i`.
    unsafe {
        parts(
            s,
            x,
            i,
            #[inline(always)]
            |j, scores, room, n| {
                let to = match out {
                    Some(out) if is_plain(out) => out.at::<f32>(i, j),
                    _ => room,
                };
                row(s, scores, to, n, m, &mut sum);
            },
        );
    }
    sum
}

/// Row `i` of the output: its weights times `factor`, found again if `out` could not keep them.
#[inline(always)]
unsafe fn normalise<S: Simd>(s: S, x: RawMat, i: usize, m: f32, factor: f32, out: RawMat) {
    let m = s.splat(m);
    if is_plain(out) {
        // SAFETY: row `i`.
        return unsafe { scale(s, out.at(i, 0), out.cols, factor) };
    }
    // SAFETY: parts of row `i`.
    unsafe {
        parts(
            s,
            x,
            i,
            #[inline(always)]
            |j, scores, room, n| {
                row(s, scores, room, n, m, &mut 0.0);
                scale(s, room, n, factor);
                unpack_row(s, room, out.block(i, j, 1, n), 0);
            },
        );
    }
}

/// `n` floats times `factor`.
#[inline(always)]
unsafe fn scale<S: Simd>(s: S, p: *mut f32, n: usize, factor: f32) {
    for t in (0..n).step_by(S::LANES) {
        let p = p.wrapping_add(t);
        // SAFETY: `n - t` floats, as the caller promises.
        unsafe { store_up_to(s, p, n - t, s.mul(load_up_to(s, p.cast_const(), n - t), s.splat(factor))) };
    }
}
