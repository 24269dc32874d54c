//! The weighted values of one block with one lane.

use super::{PANEL, Run, keys_of, masks, next};
use crate::arch::scalar::Scalar;
use crate::attention::block::Block;
use crate::attention::panel::Panel;
use crate::attention::scratch::Scratch;
use crate::attention::seen;
use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind};
use crate::kernel::lone::{FLOAT, LANES, Tile, Together, ZEROS, chain, row, tile};
use crate::simd::Simd;

/// Adds the block's values, weighted.
///
/// # Safety
/// - As `values::apply`.
#[inline(never)]
pub unsafe fn values(panel: &Panel, x: &Scratch, block: &Block) {
    // SAFETY: as the caller promises.
    by_kind!(panel.p.v.kind(), E => unsafe { weighted::<E>(panel, x, block) });
}

unsafe fn weighted<E: Elem>(panel: &Panel, x: &Scratch, block: &Block) {
    let dim = panel.p.v.dim();
    // Rows that do not see the same keys are taken one by one: a key that a row does not see would weigh 0, but
    // 0 x NaN is not 0.
    let together = if panel.rows > 1 && !block.partial && !block.holes { dim - dim % 4 } else { 0 };
    // SAFETY: as the caller promises.
    unsafe {
        for r in 0..panel.rows {
            let keys = keys_of(panel, x, block, r);
            if keys.0 >= keys.1 && !block.first {
                continue;
            }
            let part = Part::new(panel, x, block, r, keys);
            if r == 0 {
                part.sums::<E>((0, together), 4);
            }
            if together == dim {
                return;
            }
            let eights = dim - (dim - together) % 8;
            part.sums::<E>((together, eights), 8);
            part.sums::<E>((eights, dim), 1);
        }
    }
}

/// The weighted values of row `r`, or of four rows.
pub struct Part<'a> {
    panel: &'a Panel<'a>,
    x: &'a Scratch,
    block: &'a Block,
    r: usize,
    /// The first keys that lie at one stride, and those after them.
    first: Run,
    more: (usize, usize),
}

impl<'a> Part<'a> {
    fn new(panel: &'a Panel, x: &'a Scratch, block: &'a Block, r: usize, mut more: (usize, usize)) -> Self {
        let first = next(panel, &panel.p.v, block, &mut more);
        Part { panel, x, block, r, first, more }
    }

    /// Sums of the columns `c..end`, 1 or 8 at a time, or 4 of four rows.
    unsafe fn sums<E: Elem>(&self, (c, end): (usize, usize), at_a_time: usize) {
        let &Part { panel, x, block, r, more, .. } = self;
        let factor = if block.first { core::ptr::null() } else { x.factor().wrapping_add(r).cast_const() };
        let to = (x.acc().wrapping_add(r * x.width + c), x.width * FLOAT, factor);
        // SAFETY: as the caller promises.
        unsafe {
            let apart = panel.p.call.v.of.in_runs.filter(|_| more.0 < more.1);
            if c == end {
                return;
            }
            if let Some(in_runs) = masks(panel, block).map(|masks| masks.in_runs).or(apart) {
                in_runs(self, (c, end), at_a_time, to);
            } else {
                self.of_run::<E>(&self.first, (c, end), at_a_time, ZEROS.as_ptr(), to);
            }
        }
    }

    /// [`in_runs`].
    unsafe fn in_runs<E: Elem>(
        &self,
        (c, end): (usize, usize),
        at_a_time: usize,
        (to, to_row, factor): (*mut f32, usize, *const f32),
    ) {
        let &Part { panel, block, .. } = self;
        for first in (c..end).step_by(at_a_time.max(1)) {
            let (mut run, mut more) = (&self.first, self.more);
            let mut another;
            let (mut sums, mut start) = (ZEROS, ZEROS.as_ptr());
            let at = sums.as_mut_ptr();
            let into = (at, LANES, core::ptr::null());
            let columns = (first, first + at_a_time);
            let to = to.wrapping_add(first - c);
            // SAFETY: as the caller promises.
            unsafe {
                while more.0 < more.1 {
                    self.of_each_run::<E>(run, columns, at_a_time, start, into);
                    another = next(panel, &panel.p.v, block, &mut more);
                    run = &another;
                    start = at.cast_const();
                }
                if let Some(masks) = masks(panel, block) {
                    self.of_each_run::<E>(run, columns, at_a_time, start, into);
                    (masks.add)(self, (to, factor), first, core::slice::from_raw_parts_mut(at, at_a_time));
                } else {
                    self.of_each_run::<E>(run, columns, at_a_time, start, (to, to_row, factor));
                }
            }
        }
    }

    /// [`of_run`](Self::of_run), not inlined.
    #[inline(never)]
    unsafe fn of_each_run<E: Elem>(
        &self,
        run: &Run,
        columns: (usize, usize),
        at_a_time: usize,
        start: *const f32,
        to: (*mut f32, usize, *const f32),
    ) {
        // SAFETY: as the caller promises.
        unsafe { self.of_run::<E>(run, columns, at_a_time, start, to) }
    }

    /// Sums of some keys, which begin with what is at `start`.
    #[inline(always)]
    unsafe fn of_run<E: Elem>(
        &self,
        run: &Run,
        (c, end): (usize, usize),
        at_a_time: usize,
        start: *const f32,
        (to, to_row, factor): (*mut f32, usize, *const f32),
    ) {
        let a = self.x.scores.wrapping_add(run.t * PANEL + self.r).cast_const();
        let (b, left) = (run.at::<E>(c), end - c);
        let (k, a_step, b_step) = (run.n, LANES, run.apart);
        // SAFETY: as the caller promises.
        unsafe {
            let (together, a_row, b_column) = (Together::Both, FLOAT, size_of::<E>());
            let (a_next, b_next, to_next) = (0, 4 * b_column, 4 * FLOAT);
            let x = &mut Tile {
                a_row,
                b_column,
                together,
                a,
                b,
                a_step,
                b_step,
                k,
                start,
                to,
                factor,
                left,
                to_row,
                a_next,
                b_next,
                to_next,
            };
            match at_a_time {
                4 => tile(x),
                8 => row(x),
                _ => chain(x),
            }
        }
    }
}

/// Sums of keys that do not lie at one stride, or that not every row sees; linked where there may be such.
pub type InRuns = unsafe fn(&Part, (usize, usize), usize, (*mut f32, usize, *const f32));

/// [`InRuns`].
///
/// # Safety
/// - As [`values`]; the pointers are where sums go.
pub unsafe fn in_runs(
    part: &Part,
    columns: (usize, usize),
    at_a_time: usize,
    to: (*mut f32, usize, *const f32),
) {
    // SAFETY: as the caller promises.
    by_kind!(part.panel.p.v.kind(), E => unsafe { part.in_runs::<E>(columns, at_a_time, to) });
}

/// Adds sums that keys took part in which the row does not see, if that did no harm; else those of the keys alone
/// that it sees.
///
/// # Safety
/// - As [`values`]; `acc` is where the sums go.
pub unsafe fn add(part: &Part, (acc, factor): (*mut f32, *const f32), c: usize, sums: &mut [f32]) {
    let &Part { panel, x, block, r, .. } = part;
    // SAFETY: keys that the row sees.
    unsafe {
        if sums.iter().any(|sum| !sum.is_finite()) {
            by_kind!(panel.p.v.kind(), E => for (c, sum) in (c..).zip(sums.iter_mut()) {
                *sum = 0.0;
                let keys = seen::of_row(x, r) & block.keys;
                for t in (block.from..block.to).filter(|t| keys >> t & 1 == 1) {
                    let value = panel.p.v.run(panel.kv_head, block.start + t, 1).at::<E>(0, c);
                    *sum = Scalar.fma(*x.scores.add(t * PANEL + r), (*value).widen(), *sum);
                }
            });
        }
        for (i, &mut sum) in sums.iter_mut().enumerate() {
            let acc = acc.add(i);
            *acc = if factor.is_null() { sum } else { Scalar.fma(*acc, *factor, sum) };
        }
    }
}
