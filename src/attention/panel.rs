//! One panel of rows: its blocks of keys in order, each scored, weighted and applied to the values.
//!
//! ```text
//! for block of 64 keys, at absolute positions             never read if no row sees it
//!   scores   S = K Qᵀ          rows in the lanes (prefill) or features in the lanes (decode)
//!   softmax  m, l, P           per row, lane by lane
//!   values   acc = acc f + P V
//! ```
//! The rows of a panel are the queries of all heads that share a key head, so K and V are read once.

use core::ops::Range;

use super::block::{Block, within};
use super::call::Problem;
use super::mask::{bits, hull};
use super::partial::{self, CHUNK};
use super::scratch::Scratch;
use super::{adjust, decode, lone, prefill, spread, values};
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;

/// Rows `first..first + rows` of each of some key heads.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    pub p: &'a Problem<'a>,
    pub kv_head: usize,
    pub heads: usize,
    /// Lanes, and rows of the other arrays, from one head to the next.
    pub lanes: usize,
    pub first: usize,
    pub rows: usize,
    /// Rows are in the lanes of the scores' tiles, but for few left over; else features are.
    pub in_lanes: bool,
    /// No panel of other heads takes each block too.
    pub alone: bool,
}

impl Panel<'_> {
    /// The keys that row `r` of a head sees.
    pub fn seen(&self, r: usize) -> Range<usize> {
        self.p.seen(self.first + r)
    }

    /// Query and head of row `r` of the first key head.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn row(&self, r: usize) -> (usize, usize) {
        let (query, member) = self.p.query(self.first + r);
        (query, self.kv_head * self.p.group.get() + member)
    }

    /// Lanes of all heads, in whole vectors.
    pub fn all_lanes<S: Simd>(&self) -> usize {
        ((self.heads - 1) * self.lanes + self.rows).next_multiple_of(S::LANES)
    }

    /// Query and head of each of these lanes. Lanes without a row have those of one.
    pub fn all_rows<S: Simd>(&self) -> impl Iterator<Item = (usize, usize)> {
        let head = |h: usize| {
            let mut last = (0, 0);
            let mut rows = self.p.rows(self.kv_head + h, self.first).take(self.rows);
            core::iter::repeat_with(move || {
                last = rows.next().unwrap_or(last);
                last
            })
        };
        let lanes = self.lanes.min(self.all_lanes::<S>());
        let heads = (0..self.heads).flat_map(move |h| head(h).take(lanes));
        heads.chain(head(0)).take(self.all_lanes::<S>())
    }

    /// Each head alone, with its part of the scratch.
    #[inline(always)]
    fn each<S: Simd>(&self, _: S, x: &Scratch, mut take: impl FnMut(&Panel, &Scratch)) {
        // With one lane there is one head. Small calls, often of one, would notice the copies.
        if S::LANES == 1 || self.heads == 1 {
            return take(self, x);
        }
        for h in 0..self.heads {
            take(&Panel { kv_head: self.kv_head + h, heads: 1, ..*self }, &x.at_row(h * self.lanes));
        }
    }
}

/// A panel on its way through the keys.
pub struct Walk<'a> {
    pub panel: Panel<'a>,
    pub x: Scratch,
    /// The keys that some row sees for its place, and those that all rows see.
    pub some: Range<usize>,
    pub all: Range<usize>,
    pub so_far: SoFar,
}

/// How far the sums of a panel are.
#[derive(Clone, Copy, Default)]
pub struct SoFar {
    /// The total holds the chunks before.
    merged: bool,
    /// The chunk that is under way, and whether it holds something.
    chunk: usize,
    begun: bool,
}

impl Walk<'_> {
    /// Goes on from where an earlier run of the same panel, with the same scratch, was.
    pub fn resume(&mut self, so_far: SoFar) {
        if so_far.merged {
            self.x.begin_total();
        }
        self.so_far = so_far;
    }

    /// # Safety
    /// - The panel is one of a checked problem, with its scratch.
    pub unsafe fn open<S: Simd>(&self, s: S) {
        // SAFETY: as the caller promises.
        unsafe {
            self.panel.each(s, &self.x, |head, x| {
                adjust::all(head, x, None);
                if const { S::LANES == 1 } {
                    lone::load_q(head, x)
                } else if head.in_lanes {
                    prefill::load_q(s, head, x)
                } else {
                    spread::load_q(s.few(), head, x)
                }
            });
            self.start::<S>();
        }
    }

    /// Starts a chunk. With one lane a constant number of rows costs less.
    unsafe fn start<S: Simd>(&self) {
        let rows = if S::LANES == 1 { S::PANEL } else { self.panel.all_lanes::<S>() };
        // SAFETY: the scratch has room for the panel's lanes.
        unsafe { partial::start(&self.x, rows) };
    }

    /// Tells the block where the sums have come to: its chunk is under way.
    ///
    /// # Safety
    /// - As [`open`](Self::open), after it; [`each_block`] gave the block.
    pub unsafe fn enter<S: Simd>(&mut self, s: S, block: &mut Block) {
        if block.start / CHUNK != self.so_far.chunk && self.so_far.begun {
            // SAFETY: as the caller promises.
            unsafe {
                self.close_chunk(s);
                self.start::<S>();
            }
            self.so_far.begun = false;
        }
        self.so_far.chunk = block.start / CHUNK;
        block.first = !core::mem::replace(&mut self.so_far.begun, true);
    }

    /// The block's scores, as the softmax takes them where a row sees a key for its place.
    ///
    /// # Safety
    /// - As [`enter`](Self::enter).
    pub unsafe fn scores<S: Simd>(&self, s: S, block: &mut Block) {
        let (panel, x) = (&self.panel, &self.x);
        // SAFETY: as the caller promises.
        unsafe {
            if const { S::LANES == 1 } {
                lone::scores(panel, x, block)
            } else if panel.in_lanes {
                prefill::scores(s, panel, x, block)
            } else {
                decode::scores(s, panel, x, block)
            }
            adjust::all(panel, x, Some(block));
        }
    }

    /// Adds what the scores say to the sums, and the values if they have features.
    ///
    /// # Safety
    /// - As [`enter`](Self::enter), after it and [`scores`](Self::scores).
    pub unsafe fn weigh<S: Simd>(&self, s: S, block: &mut Block) {
        let (panel, x) = (&self.panel, &self.x);
        // SAFETY: as the caller promises.
        unsafe {
            if const { S::LANES == 1 } {
                lone::weights(panel, x, block);
                return lone::values(panel, x, block);
            }
            partial::weights(s, x, block, panel.all_lanes::<S>());
            if panel.p.v.dim() > 0 {
                values::apply(s, panel, x, block);
            }
        }
    }

    /// Writes what was asked for.
    ///
    /// # Safety
    /// - As [`open`](Self::open), after all blocks.
    pub unsafe fn close<S: Simd>(&mut self, s: S) {
        // SAFETY: as the caller promises.
        unsafe {
            if !self.so_far.begun {
                // No row sees any key.
                values::clear(&self.x, self.panel.all_lanes::<S>());
            }
            self.close_chunk(s);
            self.panel.each(s, &self.x, |head, x| match const { S::LANES == 1 } {
                true => lone::finish(head, x),
                false => partial::finish(s, head, x),
            });
        }
    }

    unsafe fn close_chunk<S: Simd>(&mut self, s: S) {
        if self.so_far.merged {
            // SAFETY: both states hold the panel's rows.
            unsafe {
                if const { S::LANES == 1 } {
                    lone::merge(&self.x, self.panel.rows);
                } else {
                    partial::merge(s, &self.x, self.panel.all_lanes::<S>());
                }
            }
        } else {
            self.x.begin_total();
            self.so_far.merged = true;
        }
    }

    /// The block at `start`, with each row's own keys if they differ; `None` if no row sees any.
    ///
    /// # Safety
    /// - As [`open`](Self::open).
    pub unsafe fn look<S: Simd>(&self, _: S, start: usize) -> Option<Block> {
        let panel = &self.panel;
        let (mut from, mut to) = (within(start, self.some.start), within(start, self.some.end));
        if from >= to {
            return None;
        }
        // With one lane only masks ask for bits.
        let (mut keys, mut holes) = (if const { S::LANES == 1 } { 0 } else { bits(from, to) }, false);
        let inside = |from, to| within(start, self.all.start) <= from && within(start, self.all.end) >= to;
        if let Some(masks) = panel.p.options.code.masks {
            // SAFETY: the arrays have room for the panel's lanes.
            let seen = unsafe { (masks.look)(panel, &self.x, start, (from, to), inside(from, to)) };
            (keys, holes) = seen?;
            (from, to) = hull(keys);
        }
        // With holes each row's bits say where its keys begin and end, too.
        let partial = !holes && !inside(from, to);
        if partial && const { S::LANES > 1 } {
            // Lanes without a row follow the head's last one.
            let lanes = panel.rows.next_multiple_of(S::LANES).min(panel.lanes);
            let (group, (first, member)) = (panel.p.group, panel.p.query(panel.first));
            let seen = panel.p.mask.of_block(first, start, (from, to));
            let (mut query, mut left) = (0.0, group.get() - member);
            for r in 0..lanes {
                // SAFETY: the arrays have room for the panel's lanes.
                unsafe { (*self.x.from().add(r), *self.x.to().add(r)) = seen(query) };
                if r + 1 < panel.rows {
                    left -= 1;
                    if left == 0 {
                        (query, left) = (query + 1.0, group.get());
                    }
                }
            }
            for array in [self.x.from(), self.x.to()] {
                for h in 1..panel.heads {
                    // SAFETY: as above.
                    unsafe { core::ptr::copy_nonoverlapping(array, array.add(h * panel.lanes), lanes) };
                }
            }
        }
        let more = const { S::LANES > 1 } && self.some.end > start + BLOCK;
        let (first, keys_there, values_there) = (false, 0, 0);
        Some(Block { start, keys, from, to, partial, holes, first, more, keys_there, values_there })
    }
}
