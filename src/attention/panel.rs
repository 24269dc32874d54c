//! One panel of rows: its blocks of keys in order, each scored, weighted and applied to the values.
//!
//! ```text
//! for block of 64 keys, at absolute positions             never read if no row sees it
//!   scores   S = K Qᵀ          rows in the lanes (prefill) or keys in the lanes (decode)
//!   softmax  m, l, P           per row, lane by lane
//!   values   acc = acc f + P V
//! ```
//! The rows of a panel are the queries of all heads that share a key head, so K and V are read once.

use super::partial::{self, CHUNK};
use super::scratch::Scratch;
use super::{Problem, decode, prefill, values};
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;
use crate::view::RawHeads;

/// Up to this many rows, keys are in the lanes: rows would leave most of them empty.
pub const DECODE_ROWS: usize = 8;

/// A block of keys as a panel sees it.
#[derive(Clone, Copy)]
pub struct Block {
    /// The block's first key, seen or not.
    pub start: usize,
    /// Keys of the block that some row sees: `from..to`, relative to `start`.
    pub from: usize,
    pub to: usize,
    /// Some row does not see all of them: each row's own keys are in the scratch.
    pub partial: bool,
    /// The first block of its chunk.
    pub first: bool,
}

/// All rows of key head `kv_head`, a panel at a time; with few rows, also those of the heads after it
/// that fit the same panel. Returns how many heads these are.
///
/// # Safety
/// - `p` is a checked problem, `scratch` has the length it asks for.
pub unsafe fn heads<S: Simd>(s: S, p: &Problem, kv_head: usize, scratch: *mut f32) -> usize {
    let rows = p.q.len * p.group.get();
    // SAFETY: as the caller promises.
    let x = unsafe { Scratch::cut(s, scratch, p.k.len, p.q.head_dim, p.v.head_dim) };
    let in_lanes = S::LANES == 1 || rows > DECODE_ROWS;
    let heads = if in_lanes { 1 } else { S::PANEL.checked_div(rows).unwrap_or(1).min(p.k.n_heads - kv_head) };
    for first in (0..rows).step_by(S::PANEL) {
        let rows = (rows - first).min(S::PANEL);
        let end = p.mask.seen((first + rows - 1) / p.group).end;
        let panel = Panel { p, kv_head, heads, first, rows, in_lanes, end };
        // SAFETY: as the caller promises.
        unsafe { panel.run(s, x) };
    }
    heads
}

/// Rows `first..first + rows` of each of some key heads.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    pub p: &'a Problem,
    pub kv_head: usize,
    pub heads: usize,
    pub first: usize,
    pub rows: usize,
    pub in_lanes: bool,
    /// The first key that no row sees any more.
    pub end: usize,
}

impl Panel<'_> {
    /// The keys that row `r` of a head sees.
    fn seen(&self, r: usize) -> core::ops::Range<usize> {
        self.p.mask.seen((self.first + r) / self.p.group)
    }

    /// Each head alone, with its part of the scratch.
    fn each<'a>(&'a self, x: &'a Scratch) -> impl Iterator<Item = (Panel<'a>, Scratch)> {
        (0..self.heads).map(|h| {
            let x = if h == 0 { *x } else { x.at_row(h * self.rows) };
            (Panel { kv_head: self.kv_head + h, heads: 1, ..*self }, x)
        })
    }

    /// How many elements behind the `len` tokens from `start` on of head `h` those lie that are read next:
    /// the same ones of the next head, or the first head's next ones. 0 at the end.
    fn next(&self, heads: &RawHeads, h: usize, start: usize, len: usize) -> usize {
        if h + 1 < self.heads {
            heads.head_stride
        } else if start + 2 * len <= self.end {
            len.wrapping_mul(heads.token_stride).wrapping_sub(h.wrapping_mul(heads.head_stride))
        } else {
            0
        }
    }

    unsafe fn run<S: Simd>(&self, s: S, mut x: Scratch) {
        let first = self.seen(0);
        // SAFETY: the scratch has room for the panel; blocks lie inside K and V.
        unsafe {
            for (head, x) in self.each(&x) {
                if self.in_lanes { prefill::load_q(s, &head, &x) } else { decode::load_q(s, &head, &x) }
            }
            let (mut merged, mut fresh) = (false, true);
            partial::start(&x, S::PANEL);
            let mut start = first.start - first.start % BLOCK;
            while start < self.end {
                if start.is_multiple_of(CHUNK) && !fresh {
                    self.close_chunk(s, &mut x, &mut merged);
                    partial::start(&x, S::PANEL);
                    fresh = true;
                }
                let block = self.block(&x, start, first.start, fresh);
                if self.in_lanes {
                    prefill::scores(s, self, &x, block)
                } else {
                    // All heads' part of a few keys before the next keys: memory with tokens outermost
                    // is then read in order.
                    for keys in decode::groups::<S>(block) {
                        for (h, (head, x)) in self.each(&x).enumerate() {
                            let next = self.next(&self.p.k, h, start + keys.start, keys.len());
                            decode::scores(s, &head, &x, block, keys.clone(), next);
                        }
                    }
                    decode::weights(s, &x, block, self.heads * self.rows);
                }
                for (h, (head, x)) in self.each(&x).enumerate() {
                    let next = if self.in_lanes { 0 } else { self.next(&self.p.v, h, start, BLOCK) };
                    values::apply(s, &head, &x, block, next);
                }
                fresh = false;
                start += BLOCK;
            }
            if fresh {
                // No row sees any key.
                values::clear(&x, self.heads * self.rows);
            }
            self.close_chunk(s, &mut x, &mut merged);
            for (head, x) in self.each(&x) {
                partial::finish(s, self.p, &x, head.kv_head, self.first, self.rows);
            }
        }
    }

    unsafe fn close_chunk<S: Simd>(&self, s: S, x: &mut Scratch, merged: &mut bool) {
        if *merged {
            // SAFETY: both states hold the panel's rows.
            unsafe { partial::merge(s, x, self.heads * self.rows) };
        } else {
            partial::begin_total(x);
            *merged = true;
        }
    }

    /// The block at `start`, with each row's own keys if they differ.
    unsafe fn block(&self, x: &Scratch, start: usize, lowest: usize, first: bool) -> Block {
        let within = |key: usize| key.saturating_sub(start).min(BLOCK);
        let (from, to) = (within(lowest), within(self.end));
        let (early, late) = (self.seen(0), self.seen(self.rows - 1));
        // Both ends grow with the row: the last row starts latest, the first one ends earliest.
        let partial = within(late.start) > from || within(early.end) < to;
        if partial {
            for (r, to) in (0..self.heads).flat_map(|h| (0..self.rows).map(move |r| (r, h * self.rows + r))) {
                let seen = self.seen(r);
                // SAFETY: the arrays have room for the panel's rows.
                unsafe {
                    *x.from.add(to) = within(seen.start) as f32;
                    *x.to.add(to) = within(seen.end) as f32;
                }
            }
        }
        Block { start, from, to, partial, first }
    }
}
