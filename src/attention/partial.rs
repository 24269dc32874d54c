//! The running softmax of a panel of rows: maximum, sum and weighted values, and how two of them merge.
//!
//! ```text
//! block:  m' = max(m, scores)    f = e^(m - m')    l' = l f + Σ weights    acc' = acc f + Σ weights v
//! merge:  m  = max(m1, m2)       f1 = e^(m1 - m)   f2 = e^(m2 - m)
//!         l  = l1 f1 + l2 f2     acc = acc1 f1 + acc2 f2
//! ```
//! Milakov and Gimelshein (2018), Rabe and Staats (2021), Dao et al. (2022). A chunk of [`CHUNK`] keys
//! starts fresh and is merged to the left, so that chunks can be computed apart and still leave the
//! same bits.

use super::block::Block;
use super::call::{Checked, Problem};
use super::panel::Panel;
use super::scratch::Scratch;
use super::seen;
use crate::elem::{Elem, by_kind};
use crate::kernel::exp::exp_weight;
use crate::kernel::softmax::{self, BLOCK, CHAINS, NO_MAX, columns};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};

/// Keys whose weights are summed before they are merged with what came before; part of the contract.
pub const CHUNK: usize = 1024;

/// Floats of a row's state before its weighted values: `m` and `l`.
pub const STATE: usize = 2;

/// Starts a chunk: nothing seen. The weighted values are written by its first block.
///
/// # Safety
/// - `x` has room for `rows` rows.
pub unsafe fn start(x: &Scratch, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        core::slice::from_raw_parts_mut(x.m(), rows).fill(NO_MAX);
        core::slice::from_raw_parts_mut(x.l(), rows).fill(0.0);
    }
}

/// From the block's scores to its weights, in place, and the rows' maxima, sums and factors. Whatever
/// stands where a row does not see a key is not used.
///
/// # Safety
/// - `x` holds the block's scores, rows in `lanes` lanes.
#[inline(never)]
pub unsafe fn weights<S: Simd>(s: S, x: &Scratch, block: &Block, lanes: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            for lane in (0..lanes).step_by(S::LANES) {
                // SAFETY: `LANES` lanes from `lane` on are inside the scores and the row arrays.
                unsafe { lane_weights(s, x, block, lane) };
            }
        },
    );
}

#[inline(always)]
unsafe fn lane_weights<S: Simd>(s: S, x: &Scratch, block: &Block, lane: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        // The keys that each row sees, those that some row sees and those that all rows see.
        let (mut first, mut end) = (s.splat(block.from as f32), s.splat(block.to as f32));
        let (mut some, mut all) = ((block.from, block.to), (block.from, block.to));
        if block.holes {
            some = seen::keys_of(x, *block, lane, S::LANES);
            all = some;
            (first, end) = (s.splat(some.0 as f32), s.splat(some.1 as f32));
        } else if block.partial {
            (first, end) = (s.load(x.from().add(lane)), s.load(x.to().add(lane)));
            let (mut latest, mut earliest) = (0.0, BLOCK as f32);
            let (mut least, mut most) = (BLOCK as f32, 0.0);
            for row in lane..lane + S::LANES {
                let (first, end) = (*x.from().add(row), *x.to().add(row));
                latest = if first > latest { first } else { latest };
                earliest = if end < earliest { end } else { earliest };
                least = if first < least { first } else { least };
                most = if end > most { end } else { most };
            }
            // Lanes without a row may hold anything.
            all = ((latest as usize).min(block.to), earliest as usize);
            some = ((least as usize).max(block.from), (most as usize).min(block.to));
        }
        // The sum's chains count from the block's first key: whole groups of them.
        let (from, to) = match some.0 < some.1 {
            true => (some.0 - some.0 % CHAINS, some.1.next_multiple_of(CHAINS)),
            false => (block.to, block.to),
        };
        let at = |t: usize| x.scores.add(t * S::PANEL + lane);
        // A tile of values may hold rows of two vectors.
        for t in (block.from..from).chain(to..block.to) {
            s.store(at(t), s.splat(0.0));
        }
        let m = s.load(x.m().add(lane));
        let mut top = m;
        let unseen = s.splat(f32::NEG_INFINITY);
        if block.holes {
            top = seen::hide(s, x, lane, all, top);
        } else {
            // Some chains, since each waits for itself.
            let mut tops = [top; CHAINS];
            let mut t = all.0;
            while t + CHAINS <= all.1 {
                unrolled!(C < CHAINS => {
                    tops[C] = s.max(s.load(at(t + C)), tops[C]);
                });
                t += CHAINS;
            }
            top = s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3]));
            for t in t..all.1.max(t) {
                top = s.max(s.load(at(t)), top);
            }
        }
        // None if no row of the vector sees a key: zeros stay.
        for t in (from..all.0.min(to)).chain(all.1.max(all.0).max(from)..to) {
            let key = s.splat(t as f32);
            // Numbers of keys: what is less than another has a negative difference.
            let score = s.select_sign(s.sub(key, first), unseen, s.load(at(t)));
            let score = s.select_sign(s.sub(key, end), score, unseen);
            s.store(at(t), score);
            top = s.max(score, top);
        }
        let sum = columns(s, at(from), S::PANEL, to - from, top);
        let factor = exp_weight(s, s.sub(m, top));
        s.store(x.l().add(lane), s.fma(s.load(x.l().add(lane)), factor, sum));
        s.store(x.m().add(lane), top);
        s.store(x.factor().add(lane), factor);
    }
}

/// Merges the chunk's state into the total, on its right.
///
/// # Safety
/// - Both states hold `rows` rows of `x.width` values.
#[inline(never)]
pub unsafe fn merge<S: Simd>(s: S, x: &Scratch, rows: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            for r in 0..rows {
                // SAFETY: as the caller promises. One row at a time: a chunk is merged once in 1,024 keys.
                unsafe {
                    let (m1, m2) = (*x.total_m().add(r), *x.m().add(r));
                    let m = if m1 > m2 { m1 } else { m2 };
                    let f1 = exp_weight(s, s.splat(m1 - m));
                    let f2 = exp_weight(s, s.splat(m2 - m));
                    let merged = |a, b| s.fma(a, f1, s.mul(b, f2));
                    let l = merged(s.splat(*x.total_l().add(r)), s.splat(*x.l().add(r)));
                    *x.total_m().add(r) = m;
                    s.store_partial(x.total_l().add(r), 1, l);
                    let (to, from) = (x.total_acc().add(r * x.width), x.acc().add(r * x.width));
                    let mut c = 0;
                    while c < x.width {
                        s.store(to.add(c), merged(s.load(to.add(c)), s.load(from.add(c))));
                        c += S::LANES;
                    }
                }
            }
        },
    );
}

/// Writes `acc / l` of the total's rows to the output and, if asked, `m + ln l` to the log-sum-exps; or the
/// total as it is, if that is asked for.
///
/// # Safety
/// - The total holds the rows of the panel, which is one of one head.
#[inline(never)]
pub unsafe fn finish<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    let &Panel { p, kv_head, first, rows, .. } = panel;
    // SAFETY: as the caller promises.
    unsafe {
        let Checked { states, lse, .. } = p.call.of;
        if p.options.sinks.is_none() && states.is_none() && lse.is_none() {
            (0..rows).for_each(|r| divide(x, r, 1.0));
        } else {
            for (r, row) in p.rows(kv_head, first).enumerate().take(rows) {
                close_row(p, x, r, row);
            }
        }
        if states.is_some() {
            return;
        }
        by_kind!(p.out.of.kind, E => s.vectorize(
            #[inline(always)]
            || for (r, to) in p.addresses::<E>(&p.out, kv_head, first).enumerate().take(rows) {
                scaled_row(s, x, r, to, p.out.of.head_dim);
            },
        ));
    }
}

/// Keeps the state of row `r` of the total, or notes what its values are multiplied by, and its log-sum-exp.
///
/// # Safety
/// - The total holds row `r`, which is that of a query and head of the call.
#[inline(always)]
pub unsafe fn close_row(p: &Problem, x: &Scratch, r: usize, (query, head): (usize, usize)) {
    let row = p.first_row + head * p.call.q.len + query;
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(states) = p.call.of.states {
            return (states.keep)(states.ptr, x, r, row, p.v.dim());
        }
        let mut shrunk = 1.0;
        if let (Some(sinks), Some(with_sink)) = (p.options.sinks, p.options.code.sink) {
            shrunk = with_sink(p.tier, x, r, sinks.get(head).copied().unwrap_or(f32::NEG_INFINITY));
        }
        divide(x, r, shrunk);
        if let Some((lse, log_sum)) = p.call.of.lse {
            *lse.add(row) = log_sum(x, r);
        }
    }
}

/// [`keep_state`], linked only where it is asked for.
pub type Keep = unsafe fn(*mut f32, &Scratch, usize, usize, usize);

/// Writes row `r` of the total, of `dim` values, to the states, as that of row `row` of the call, and zeros behind it.
///
/// # Safety
/// - The total holds row `r`, the states have row `row`.
pub unsafe fn keep_state(states: *mut f32, x: &Scratch, r: usize, row: usize, dim: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let state = states.add(row * (STATE + x.width));
        state.write(*x.total_m().add(r));
        state.add(1).write(*x.total_l().add(r));
        core::ptr::copy_nonoverlapping(x.total_acc().add(r * x.width), state.add(STATE), dim);
        state.add(STATE + dim).write_bytes(0, x.width.saturating_sub(dim));
    }
}

/// Notes what row `r` of the total is multiplied by: `shrunk / l`, or 0 if it has seen no key.
///
/// # Safety
/// - The total holds row `r`.
pub unsafe fn divide(x: &Scratch, r: usize, shrunk: f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let l = *x.total_l().add(r);
        *x.factor().add(r) = if l == 0.0 { 0.0 } else { shrunk / l };
    }
}

/// [`log_sum`], linked only where it is asked for.
pub type LogSum = unsafe fn(&Scratch, usize) -> f32;

/// `m + ln l` of row `r` of the total; minus infinity if it has seen no key.
///
/// # Safety
/// - The total holds row `r`.
pub unsafe fn log_sum(x: &Scratch, r: usize) -> f32 {
    // SAFETY: as the caller promises.
    unsafe { softmax::log_sum(*x.total_m().add(r), *x.total_l().add(r)) }
}

/// Adds a score without a value to row `r` of the total; returns what its values shrink by.
///
/// # Safety
/// - The total holds row `r`.
pub unsafe fn with_sink(tier: Tier, x: &Scratch, r: usize, score: f32) -> f32 {
    // SAFETY: as the caller promises.
    dispatch!(tier, s => unsafe { one_more(s, x, r, score) })
}

/// [`with_sink`].
pub type Sink = unsafe fn(Tier, &Scratch, usize, f32) -> f32;

#[inline(never)]
unsafe fn one_more<S: Simd>(s: S, x: &Scratch, r: usize, score: f32) -> f32 {
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises.
            unsafe {
                let m = *x.total_m().add(r);
                let top = if score > m { score } else { m };
                let old = exp_weight(s, s.splat(m - top));
                let new = exp_weight(s, s.splat(score - top));
                *x.total_m().add(r) = top;
                s.store_partial(x.factor().add(r), 1, old);
                s.store_partial(x.total_l().add(r), 1, s.fma(s.splat(*x.total_l().add(r)), old, new));
                *x.factor().add(r)
            }
        },
    )
}

/// Row `r` of the total, divided by its sum.
///
/// # Safety
/// - The total holds row `r`; `out` is valid for writing `cols <= x.width` elements.
#[inline(always)]
pub unsafe fn scaled_row<S: Simd, E: Elem>(s: S, x: &Scratch, r: usize, out: *mut E, cols: usize) {
    // SAFETY: as the caller promises; `width` is at least `cols`, in whole vectors.
    unsafe {
        let (acc, inverse) = (x.total_acc().add(r * x.width), s.splat(*x.factor().add(r)));
        // Adding 0 turns -0 into 0: whether a masked key's 0 x v was added shows in nothing else.
        let value = |c: usize| s.fma(s.load(acc.add(c)), inverse, s.splat(0.0));
        let mut c = 0;
        while c + S::LANES <= cols {
            E::store(s, out.add(c), value(c));
            c += S::LANES;
        }
        if c < cols {
            E::store_partial(s, out.add(c), cols - c, value(c));
        }
    }
}
