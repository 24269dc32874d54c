//! What becomes of a score between the product and the softmax, in this order: softcap, linear biases, a
//! bias tensor, the user's rule.

use super::Shared;
use super::block::Block;
use super::panel::Panel;
use super::rule::ScoreBlock;
use super::scratch::{BIAS_STRIDE, MAX_PANEL, Scratch};
use super::seen::{self, bias_row, same_for_all};
use crate::elem::by_kind;
use crate::elem::sealed::Lanes;
use crate::kernel::pack::{Columns, Grid, turn};
use crate::kernel::tanh;
use crate::simd::Simd;
use crate::tier::dispatch;

/// What an option does to a block's scores, in place, and before the first block (`None`) to the scratch.
///
/// # Safety
/// - The scratch has room for the panel of one head, and holds the block's scores.
pub type Adjust = unsafe fn(&Panel, &Scratch, Option<&Block>);

/// The order of the steps.
pub const SOFTCAP: usize = 0;
pub const ALIBI: usize = 1;
pub const BIAS: usize = 2;
pub const RULE: usize = 3;
pub const STEPS: usize = 4;

/// Takes all steps that are asked for.
///
/// # Safety
/// - As [`Adjust`].
#[inline(always)]
pub unsafe fn all(panel: &Panel, x: &Scratch, block: Option<&Block>) {
    for step in panel.p.options.code.adjust.iter().flatten() {
        // SAFETY: as the caller promises.
        unsafe { step(panel, x, block) };
    }
}

/// The step of [`Attention::softcap`](super::Attention::softcap).
///
/// # Safety
/// - As [`Adjust`].
pub unsafe fn softcap(panel: &Panel, x: &Scratch, block: Option<&Block>) {
    if let (Some(cap), Some(&block)) = (panel.p.options.softcap, block) {
        // SAFETY: as the caller promises.
        dispatch!(panel.p.tier, s => unsafe { capped(s, panel, x, block, cap) });
    }
}

/// The step of [`Attention::alibi`](super::Attention::alibi). First it notes what each row's scores lose for a
/// key of distance, and the row's place.
///
/// # Safety
/// - As [`Adjust`].
pub unsafe fn alibi(panel: &Panel, x: &Scratch, block: Option<&Block>) {
    let p = panel.p;
    if let Some(&block) = block {
        // SAFETY: as the caller promises.
        return dispatch!(p.tier, s => unsafe { linear(s, panel, x, block) });
    }
    let slopes = p.options.alibi.unwrap_or_default();
    for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
        // SAFETY: rows of the panel.
        unsafe {
            *x.slope().add(r) = -slopes.get(head).copied().unwrap_or(0.0);
            *x.place().add(r) = p.mask.place(query);
        }
    }
}

/// The step of [`Attention::bias`](super::Attention::bias).
///
/// # Safety
/// - As [`Adjust`].
pub unsafe fn bias(panel: &Panel, x: &Scratch, block: Option<&Block>) {
    if let Some(&block) = block {
        // SAFETY: as the caller promises.
        dispatch!(panel.p.tier, s => unsafe { biased(s, panel, x, block) });
    }
}

/// The step of [`Attention::score_rule`](super::Attention::score_rule).
///
/// # Safety
/// - As [`Adjust`].
pub unsafe fn rule(panel: &Panel, x: &Scratch, block: Option<&Block>) {
    if let Some(&block) = block {
        dispatch!(panel.p.tier, s => ruled(s, panel, x, block));
    }
}

/// The keys of a block that some row of the vector from `lane` on sees: the first one and the end of them. All of the
/// block's where a vector holds rows of several heads, or its rows are few.
///
/// # Safety
/// - Lanes of the panel, for which `x` has what each row sees.
#[inline(always)]
unsafe fn keys_of<S: Simd>(panel: &Panel, x: &Scratch, block: Block, lane: usize) -> (usize, usize) {
    match S::LANES > 1 && panel.in_lanes && (panel.heads == 1 || block.holes) {
        // SAFETY: as the caller promises.
        true => unsafe { seen::keys_of(x, block, lane, S::LANES) },
        false => (block.from, block.to),
    }
}

/// Four keys at a time: one test for all whether the short form will do.
#[inline(never)]
unsafe fn capped<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block, cap: f32) {
    s.vectorize(
        #[inline(always)]
        || {
            for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                // SAFETY: lanes of the panel.
                let (from, to) = unsafe { keys_of::<S>(panel, x, block, lane) };
                for t in (from..to).step_by(4) {
                    let at = |i: usize| x.scores.wrapping_add((t + i).min(to - 1) * S::PANEL + lane);
                    // SAFETY: keys of the block, lanes of the panel.
                    unsafe {
                        let scores = core::array::from_fn::<_, 4, _>(
                            #[inline(always)]
                            |i| s.load(at(i)),
                        );
                        for (i, &score) in tanh::softcap(s, scores, cap).iter().enumerate() {
                            s.store(at(i), score);
                        }
                    }
                }
            }
        },
    );
}

/// `score - slope |key - place|`.
#[inline(never)]
unsafe fn linear<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    s.vectorize(
        #[inline(always)]
        || {
            for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                // SAFETY: as the caller promises. Lanes without a row hold anything.
                unsafe {
                    let (slope, place) = (s.load(x.slope().add(lane)), s.load(x.place().add(lane)));
                    let (from, to) = keys_of::<S>(panel, x, block, lane);
                    for t in from..to {
                        let at = x.scores.add(t * S::PANEL + lane);
                        let key = s.splat((block.start + t) as f32);
                        let distance = s.max(s.sub(key, place), s.sub(place, key));
                        s.store(at, s.fma(slope, distance, s.load(at)));
                    }
                }
            }
        },
    );
}

/// Adds the rows of the bias. What minus infinity makes of a score is not used: the row does not see the key.
#[inline(never)]
unsafe fn biased<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let p = panel.p;
    let Some(Shared((bias, kind))) = p.options.bias else { return };
    let (key, len) = (block.start + block.from, block.to - block.from);
    let lanes = panel.all_lanes::<S>();
    let mut rows = panel.all_rows::<S>();
    let at = x.scores.wrapping_add(block.from * S::PANEL);
    s.vectorize(
        #[inline(always)]
        || {
            if S::LANES > 1 && !same_for_all(panel, &bias) {
                // Copied when they were looked at.
                let rows = (0..lanes).map(|lane| bias_row(x, lane).wrapping_add(block.from).cast_const());
                let size = Columns { len, count: lanes, apart: Some(BIAS_STRIDE) };
                let to = Grid { dst: at, stride: S::PANEL, width: lanes };
                // SAFETY: the copies have the block's keys; whole vectors of scores.
                return unsafe {
                    turn(
                        s,
                        size,
                        rows,
                        #[inline(always)]
                        |bias, at| s.add(s.load(at), bias),
                        to,
                    )
                };
            }
            // A vector's scores take the numbers of one row.
            by_kind!(kind, E => for lane in (0..lanes).step_by(S::LANES) {
                let (query, head) = rows.next().unwrap_or_default();
                let row = bias.at::<E>(p.b, head, query, key).cast_const();
                for t in 0..len {
                    // SAFETY: the row has the block's keys; a vector of their scores.
                    unsafe {
                        let at = at.add(t * S::PANEL + lane);
                        s.store(at, s.add(s.load(at), s.splat((*row.add(t)).widen())));
                    }
                }
            });
        },
    );
}

/// The user's rule.
#[inline(never)]
fn ruled<S: Simd>(_: S, panel: &Panel, x: &Scratch, block: Block) {
    let Some(rule) = panel.p.options.score_rule else { return };
    let mut scores = ScoreBlock {
        tier: panel.p.tier,
        scores: x.scores.wrapping_add(block.from * S::PANEL),
        stride: S::PANEL,
        keys: ((block.start + block.from) as i32, block.to - block.from),
        batch: panel.p.b as i32,
        rows: panel.all_lanes::<S>(),
        heads: [0; MAX_PANEL],
        queries: [0; MAX_PANEL],
    };
    let places = scores.heads.iter_mut().zip(&mut scores.queries);
    for ((to_head, to_query), (query, head)) in places.zip(panel.all_rows::<S>()) {
        (*to_head, *to_query) = (head as i32, query as i32);
    }
    rule.change(&mut scores);
}
