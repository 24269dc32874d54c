//! Scores, weights and values of one block with one lane, as [`prefill`](super::prefill),
//! [`partial`](super::partial) and `values` have them for vectors. A panel has four rows: the loops
//! of [`kernel::lone`](crate::kernel::lone) take all four, or a single one.

mod values;

use super::block::{Block, within};
use super::keys::SequenceKeys;
use super::mask::{bits, first_ones};
use super::panel::Panel;
use super::partial;
use super::scratch::Scratch;
use super::seen::{self, Masks};
use crate::arch::scalar::Scalar;
use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind};
use crate::kernel::lone::{LANES, Scores, few_scores, scores as four_scores, weigh};
use crate::kernel::score::{chains, steps};
use crate::kernel::softmax::CHAINS;
use crate::simd::Simd;

pub use values::{InRuns, Part, add, in_runs, values};

const PANEL: usize = <Scalar as Simd>::PANEL;

/// Some keys, or values, of a block that lie at one stride.
struct Run {
    /// The first one's place in the block.
    t: usize,
    n: usize,
    first: *const u8,
    /// Bytes from one to the next.
    apart: usize,
}

impl Run {
    /// Feature `i` of the first key.
    fn at<E: Elem>(&self, i: usize) -> *const E {
        self.first.cast::<E>().wrapping_add(i)
    }
}

/// The next keys of `at.0..at.1` in the block that some row sees and that lie at one stride.
#[inline(never)]
fn next(panel: &Panel, k: &SequenceKeys, block: &Block, at: &mut (usize, usize)) -> Run {
    let (mut t, mut n) = (at.0, at.1.saturating_sub(at.0));
    if let Some(masks) = masks(panel, block) {
        (t, n) = (masks.next)(block.keys, *at);
    }
    // Behind the last key there may be no page.
    let key = if n == 0 { block.from } else { t };
    let run = k.run(panel.kv_head, block.start + key, n);
    at.0 = t + run.rows;
    Run { t, n: run.rows, first: run.bytes(), apart: run.row_stride * run.kind.size() }
}

/// What is called where not every row sees all keys that are there for its place.
fn masks(panel: &Panel, block: &Block) -> Option<&'static Masks> {
    panel.p.options.code.masks.filter(|_| block.holes)
}

/// The first key of the block that row `r` sees and the end of them.
///
/// # Safety
/// - As `seen::keys_of`.
#[inline(never)]
pub unsafe fn keys_of(panel: &Panel, x: &Scratch, block: &Block, r: usize) -> (usize, usize) {
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(masks) = masks(panel, block) {
            (masks.keys_of)(x, block, r)
        } else if block.partial {
            let seen = panel.seen(r);
            (within(block.start, seen.start).max(block.from), within(block.start, seen.end).min(block.to))
        } else {
            (block.from, block.to)
        }
    }
}

/// The first of `from..to` that some row sees, and how many follow it without a gap; `(to, 0)` if none, for [`Masks`].
pub fn next_seen(keys: u64, (from, to): (usize, usize)) -> (usize, usize) {
    match keys & bits(from, to) {
        0 => (to, 0),
        keys => first_ones(keys),
    }
}

/// Writes the panel's queries, times the scale, to the scratch.
///
/// # Safety
/// - As `prefill::load_q`.
pub unsafe fn load_q(panel: &Panel, x: &Scratch) {
    let p = panel.p;
    by_kind!(p.q.of.kind, E => {
        for r in 0..panel.rows {
            let (query, head) = panel.row(r);
            let from = p.q.head(head).at::<E>(query, 0);
            for i in 0..p.q.of.head_dim {
                // SAFETY: a feature of a row, which there is room for.
                unsafe { *x.q.add(i * PANEL + r) = (*from.add(i)).widen() * p.scale };
            }
        }
    });
}

/// Scores of the block's keys that some row sees.
///
/// # Safety
/// - As `prefill::scores`.
#[inline(never)]
pub unsafe fn scores(panel: &Panel, x: &Scratch, block: &Block) {
    let k = &panel.p.k;
    let mut at = (block.from, block.to);
    while at.0 < at.1 {
        let run = next(panel, k, block, &mut at);
        // SAFETY: keys of the block.
        by_kind!(k.kind(), E => unsafe { of_run::<E>(panel, x, &run) });
    }
}

/// Scores of some keys.
unsafe fn of_run<E: Elem>(panel: &Panel, x: &Scratch, run: &Run) {
    let (d, size) = (panel.p.k.dim(), size_of::<E>());
    let chains = chains(d);
    for first in (0..chains).step_by(2) {
        let (steps, one) = steps(d, chains, first);
        let (one, add) = (one.into(), (first > 0).into());
        let (q, step, q_step) = (x.q.wrapping_add(first * PANEL), chains * size, chains * LANES);
        let (keys, to) = (run.at::<E>(first), x.scores.wrapping_add(run.t * PANEL));
        // SAFETY: as the caller promises.
        unsafe {
            let &Run { n, apart, .. } = run;
            let mut x = Scores { keys, apart, n, q, step, q_step, steps, one, to, add };
            if panel.rows > 1 { four_scores(&mut x) } else { few_scores(&mut x) }
        }
    }
}

/// As `partial::weights`.
///
/// # Safety
/// - As there.
#[inline(never)]
pub unsafe fn weights(panel: &Panel, x: &Scratch, block: &Block) {
    for r in 0..panel.rows {
        // SAFETY: as the caller promises.
        unsafe {
            let (first, end) = keys_of(panel, x, block, r);
            let at = |t: usize| x.scores.wrapping_add(t * PANEL + r);
            if let Some(masks) = masks(panel, block) {
                (masks.hide)(x, r, (first, end));
            }
            // The sum's chains count from the block's first key: whole groups of them.
            let from = first - first % CHAINS;
            let to = if first < end { end.next_multiple_of(CHAINS) } else { from };
            for t in (from..first).chain(end..to) {
                *at(t) = f32::NEG_INFINITY;
            }
            let m = *x.m().add(r);
            let mut top = m;
            for t in from..to {
                let score = *at(t);
                top = if score > top { score } else { top };
            }
            let sum = weigh(at(from), to - from, top);
            *x.l().add(r) = Scalar.fma(*x.l().add(r), exp(x, r, m, top), sum);
            *x.m().add(r) = top;
        }
    }
}

/// `e^(m - top)` by the same loop, since flash counts: noted, and returned, as the factor of row `r`.
unsafe fn exp(x: &Scratch, r: usize, m: f32, top: f32) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let factor = x.factor().add(r);
        *factor = m;
        weigh(factor, 1, top);
        *factor
    }
}

/// As `partial::merge`.
///
/// # Safety
/// - As there.
#[inline(never)]
pub unsafe fn merge(x: &Scratch, rows: usize) {
    for r in 0..rows {
        // SAFETY: as the caller promises.
        unsafe {
            let (m1, m2) = (*x.total_m().add(r), *x.m().add(r));
            let m = if m1 > m2 { m1 } else { m2 };
            let (f1, f2) = (exp(x, r, m1, m), exp(x, r, m2, m));
            let merged = |total: *mut f32, chunk: *mut f32| *total = Scalar.fma(*total, f1, *chunk * f2);
            *x.total_m().add(r) = m;
            merged(x.total_l().add(r), x.l().add(r));
            for c in r * x.width..(r + 1) * x.width {
                merged(x.total_acc().add(c), x.acc().add(c));
            }
        }
    }
}

/// Makes scores minus infinity where row `r` does not see the key; those in `from..to`.
///
/// # Safety
/// - `x` holds the scores and what the row sees.
pub unsafe fn hide(x: &Scratch, r: usize, (from, to): (usize, usize)) {
    // SAFETY: as the caller promises.
    unsafe {
        let keys = seen::of_row(x, r);
        for t in (from..to).filter(|t| keys >> t & 1 == 0) {
            *x.scores.add(t * PANEL + r) = f32::NEG_INFINITY;
        }
    }
}

/// As `partial::finish`.
///
/// # Safety
/// - As there.
#[inline(never)]
pub unsafe fn finish(panel: &Panel, x: &Scratch) {
    let p = panel.p;
    for r in 0..panel.rows {
        let (query, head) = panel.row(r);
        // SAFETY: as the caller promises.
        unsafe {
            partial::close_row(p, x, r, (query, head));
            if p.call.of.states.is_some() {
                continue;
            }
            let (acc, inverse) = (x.total_acc().add(r * x.width), *x.factor().add(r));
            by_kind!(p.out.of.kind, E => {
                let to = p.out.head(head).at::<E>(query, 0);
                for c in 0..p.out.of.head_dim {
                    // As in `partial::scaled_row`.
                    *to.add(c) = E::narrow(Scalar.fma(*acc.add(c), inverse, 0.0));
                }
            });
        }
    }
}
