//! What becomes of a score between the product and the softmax, in this order: softcap, linear biases, a
//! bias tensor, the user's rule; and minus infinity where a key is not seen.

use super::mask::bits;
use super::panel::{Block, Panel};
use super::rule::{ScoreBlock, ScoreRule};
use super::scratch::{HOLES, MAX_PANEL, Scratch};
use crate::elem::{Kind, by_kind};
use crate::kernel::pack::{Columns, Grid, turn};
use crate::kernel::tanh::softcap;
use crate::simd::Simd;
use crate::view::RawTensor;

/// Notes what each row's scores lose for a key of distance, and its place, if they depend on them.
///
/// # Safety
/// - `x` has room for the panel of one head.
pub unsafe fn start(panel: &Panel, x: &Scratch) {
    let p = panel.p;
    if p.alibi.is_null() {
        return;
    }
    for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
        // SAFETY: rows of the panel; a slope for each query head.
        unsafe {
            *x.slope.add(r) = -*p.alibi.add(head);
            *x.place.add(r) = p.mask.place(query);
        }
    }
}

/// Changes the block's scores in place.
///
/// # Safety
/// - `x` holds the block's scores, and what each row sees if there are holes.
#[inline(always)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    let p = panel.p;
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(cap) = p.softcap {
            capped(s, panel, x, block, cap);
        }
        if !p.alibi.is_null() {
            linear(s, panel, x, block);
        }
        if let Some((bias, kind)) = p.sources.bias {
            biased(s, panel, x, block, bias, kind);
        }
        if let Some(rule) = p.score_rule {
            ruled::<S>(panel, x, block, rule);
        }
        if block.holes {
            unseen(s, panel, x, block);
        }
    }
}

/// Four keys at a time: one test for all whether the short form will do.
#[inline(never)]
unsafe fn capped<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block, cap: f32) {
    s.vectorize(
        #[inline(always)]
        || {
            // The scratch has room for whole fours.
            for t in (block.from..block.to).step_by(4) {
                for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                    let at = |i: usize| x.scores.wrapping_add((t + i).min(block.to - 1) * S::PANEL + lane);
                    // SAFETY: keys of the block, lanes of the panel.
                    unsafe {
                        let scores = core::array::from_fn::<_, 4, _>(
                            #[inline(always)]
                            |i| s.load(at(i)),
                        );
                        for (i, &score) in softcap(s, scores, cap).iter().enumerate() {
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
                    let (slope, place) = (s.load(x.slope.add(lane)), s.load(x.place.add(lane)));
                    for t in block.from..block.to {
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

/// Adds the rows of the bias, turned. Minus infinity stays, whatever the score is.
#[inline(never)]
unsafe fn biased<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block, bias: RawTensor, kind: Kind) {
    let p = panel.p;
    s.vectorize(
        #[inline(always)]
        || {
            by_kind!(kind, E => {
                let key = block.start + block.from;
                let rows = panel
                    .all_rows::<S>()
                    .map(|(query, head)| bias.at::<E>(p.b, head, query, key).cast_const());
                let apart = (p.group.get() == 1 && panel.in_lanes).then_some(bias.query_stride());
                // Lanes without a row: behind the last row's there may be no more bias.
                let count = if apart.is_some() { panel.rows } else { panel.all_lanes::<S>() };
                let size = Columns { len: block.to - block.from, count, apart };
                let to = x.scores.wrapping_add(block.from * S::PANEL);
                let to = Grid { dst: to, stride: S::PANEL, width: panel.all_lanes::<S>() };
                // SAFETY: each row of the bias has the block's keys; whole vectors of scores.
                unsafe {
                    turn(
                        s,
                        size,
                        rows,
                        #[inline(always)]
                        |bias, at| {
                            let sum = s.add(s.load(at), bias);
                            s.select_gt(bias, s.splat(f32::NEG_INFINITY), sum, bias)
                        },
                        to,
                    );
                }
            });
        },
    );
}

/// The user's rule.
#[inline(never)]
unsafe fn ruled<S: Simd>(panel: &Panel, x: &Scratch, block: Block, rule: &dyn ScoreRule) {
    let mut scores = ScoreBlock {
        tier: panel.p.tier,
        scores: x.scores.wrapping_add(block.from * S::PANEL),
        stride: S::PANEL,
        keys: (block.start + block.from) as i32..(block.start + block.to) as i32,
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

/// Minus infinity where a row has a hole. A row's bits are floats of 16, the next key's highest.
#[inline(never)]
unsafe fn unseen<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    s.vectorize(
        #[inline(always)]
        || {
            let (none, top) = (s.splat(f32::NEG_INFINITY), s.splat(32767.5));
            for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                // SAFETY: as the caller promises.
                let parts = unsafe { s.load_columns(x.holes.add(lane * HOLES), HOLES) };
                for (part, &rows) in parts.iter().enumerate() {
                    let (from, to) = (part * 16, part * 16 + 16);
                    let mut rows = rows;
                    if bits(from, to) & bits(block.from, block.to) == 0 {
                        continue;
                    }
                    for t in from..to.min(block.to) {
                        // SAFETY: a key of the block's room.
                        unsafe {
                            let at = x.scores.add(t * S::PANEL + lane);
                            s.store(at, s.select_gt(rows, top, s.load(at), none));
                        }
                        let taken = s.select_gt(rows, top, s.splat(-65536.0), s.splat(0.0));
                        rows = s.fma(rows, s.splat(2.0), taken);
                    }
                }
            }
        },
    );
}
