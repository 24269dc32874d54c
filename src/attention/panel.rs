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
use super::scratch::{MAX_PANELS, Scratch, panels};
use super::{adjust, decode, lone, prefill, values};
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;

/// All rows of key head `kv_head`, and with few rows also those of the heads after it that fit the same
/// panel. Returns how many heads these are.
///
/// # Safety
/// - `p` is a checked problem, `scratch` has the length it asks for.
pub unsafe fn heads<S: Simd>(s: S, p: &Problem, kv_head: usize, scratch: *mut f32) -> usize {
    let rows = p.q.len * p.group.get();
    let heads = heads_that_fit::<S>(p, rows).min(p.k.n_heads() - kv_head);
    // SAFETY: as the caller promises.
    unsafe { self::rows(s, p, kv_head, heads, 0..rows, scratch) };
    heads
}

/// How many heads a panel takes together of which `rows` rows each are wanted.
pub fn heads_that_fit<S: Simd>(p: &Problem, rows: usize) -> usize {
    // Heads that lie side by side are read in order; those that lie apart are better read one by one.
    match S::LANES > 1 && rows <= decode::max_rows::<S::Few>() && p.k.token_major() {
        true => S::PANEL.checked_div(decode::lanes::<S::Few>(rows)).unwrap_or(1),
        false => 1,
    }
}

/// Some rows of some key heads, a few panels at a time. Several heads only with few rows.
///
/// # Safety
/// - As [`heads`]; the rows and heads exist, and fit a panel if there are several heads.
pub unsafe fn rows<S: Simd>(
    s: S,
    p: &Problem,
    kv_head: usize,
    heads: usize,
    rows: Range<usize>,
    scratch: *mut f32,
) {
    for first in rows.clone().step_by(rows_together::<S>(p)) {
        // SAFETY: as the caller promises. Not moved to elsewhere: panels are large.
        unsafe {
            let mut found = runs(s, p, (kv_head, heads), (&rows, first), scratch);
            run(s, &mut found.0, found.1);
        }
    }
}

/// Panels that take each block of keys together.
pub type Runs<'a> = [Option<Run<'a>>; MAX_PANELS];

/// Calls `take` with the panels of some rows of key heads `kv_head..kv_head + heads`, a few at a time, and with
/// the first key that some row of them sees and the end of them.
///
/// # Safety
/// - As [`rows`].
pub unsafe fn each<'a, S: Simd>(
    s: S,
    p: &'a Problem<'a>,
    heads: (usize, usize),
    rows: Range<usize>,
    scratch: *mut f32,
    mut take: impl FnMut(Runs<'a>, (usize, usize)),
) {
    for first in rows.clone().step_by(rows_together::<S>(p)) {
        // SAFETY: as the caller promises.
        let (runs, keys) = unsafe { runs(s, p, heads, (&rows, first), scratch) };
        take(runs, keys);
    }
}

/// Rows of all panels that take each block of keys together.
pub fn rows_together<S: Simd>(p: &Problem) -> usize {
    panels(p.q.len).max(1) * S::PANEL
}

/// The panels of some `rows` from row `first` on, and the keys that they see, as [`each`] has them.
///
/// # Safety
/// - As [`rows`]; `first` is one of the rows.
#[cfg_attr(target_os = "none", inline(never))]
pub unsafe fn runs<'a, S: Simd>(
    s: S,
    p: &'a Problem<'a>,
    (kv_head, heads): (usize, usize),
    (rows, first): (&Range<usize>, usize),
    scratch: *mut f32,
) -> (Runs<'a>, (usize, usize)) {
    // SAFETY: as the caller promises.
    let x = unsafe { Scratch::cut(s, scratch, p) };
    let in_lanes = rows.len() > decode::max_rows::<S::Few>();
    let lanes = if in_lanes { S::PANEL } else { decode::lanes::<S::Few>(rows.len()) };
    let together = rows.end.min(first + rows_together::<S>(p));
    let mut keys = (usize::MAX, 0);
    let runs = core::array::from_fn(|i| {
        let first = first + i * S::PANEL;
        (first < together).then(|| {
            let rows = (together - first).min(S::PANEL);
            let (early, late) = (p.seen(first), p.seen(first + rows - 1));
            let (some, all) = (early.start..late.end, late.start..early.end);
            keys = (keys.0.min(some.start), some.end);
            let panel = Panel { p, kv_head, heads, lanes, first, rows, in_lanes };
            Run { panel, x: x.panel(s, i), some, all, so_far: SoFar::default() }
        })
    });
    (runs, keys)
}

/// Takes each block of the `keys` that the panels see to all of them before the next block.
///
/// # Safety
/// - [`each`] gave the panels and the keys.
pub unsafe fn run<S: Simd>(s: S, runs: &mut Runs, keys: (usize, usize)) {
    // SAFETY: as the caller promises.
    unsafe {
        open(s, runs);
        blocks(s, runs, first_block(keys)..keys.1);
        close(s, runs);
    }
}

/// Where the first block of some keys begins.
pub fn first_block((first, _): (usize, usize)) -> usize {
    first - first % BLOCK
}

/// Brings the panels' queries to the scratch.
///
/// # Safety
/// - [`runs`] gave the panels.
#[cfg_attr(target_os = "none", inline(never))]
pub unsafe fn open<S: Simd>(s: S, runs: &Runs) {
    for run in runs.iter().flatten() {
        // SAFETY: the scratch has room for the panels.
        unsafe { run.open(s) };
    }
}

/// Takes the blocks that begin in `starts` to all panels.
///
/// # Safety
/// - As [`open`], after it. Blocks come in order, each once.
#[inline(always)]
pub unsafe fn blocks<S: Simd>(s: S, runs: &mut Runs, starts: Range<usize>) {
    for start in starts.step_by(BLOCK) {
        // SAFETY: blocks lie inside K and V.
        unsafe {
            each_block(s, runs, start, |run, block| {
                if let Some(block) = block {
                    run.enter(s, block);
                    run.scores(s, block);
                    run.weigh(s, block);
                }
            });
        }
    }
}

/// Calls `take` with each of the panels and with the block at `start` as it sees it, or `None` if it sees nothing.
///
/// # Safety
/// - As [`blocks`].
#[inline(always)]
pub unsafe fn each_block<S: Simd>(
    s: S,
    runs: &mut Runs,
    start: usize,
    mut take: impl FnMut(&mut Run, Option<&mut Block>),
) {
    let mut there = (0, 0);
    for run in runs.iter_mut().flatten() {
        // SAFETY: as the caller promises.
        let mut block = unsafe { run.look(s, start) };
        if let Some(block) = &mut block {
            (block.keys_there, block.values_there) = there;
        }
        take(run, block.as_mut());
        if let Some(block) = block {
            there = (block.keys_there, block.values_there);
        }
    }
}

/// Writes what the panels were asked for.
///
/// # Safety
/// - As [`open`], after all blocks.
#[cfg_attr(target_os = "none", inline(never))]
pub unsafe fn close<S: Simd>(s: S, runs: &mut Runs) {
    for run in runs.iter_mut().flatten() {
        // SAFETY: as the caller promises.
        unsafe { run.close(s) };
    }
}

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
}

impl Panel<'_> {
    /// The keys that row `r` of a head sees.
    pub fn seen(&self, r: usize) -> Range<usize> {
        self.p.seen(self.first + r)
    }

    /// Query and head of row `r` of the first key head.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn row(&self, r: usize) -> (usize, usize) {
        let (row, group) = (self.first + r, self.p.group);
        (row / group, self.kv_head * group.get() + row % group)
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
        if S::LANES == 1 {
            return take(self, x);
        }
        for h in 0..self.heads {
            take(&Panel { kv_head: self.kv_head + h, heads: 1, ..*self }, &x.at_row(h * self.lanes));
        }
    }
}

/// A panel on its way through the keys.
pub struct Run<'a> {
    pub panel: Panel<'a>,
    pub x: Scratch,
    /// The keys that some row sees for its place, and those that all rows see.
    some: Range<usize>,
    all: Range<usize>,
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

impl Run<'_> {
    /// Goes on from where an earlier run of the same panel, with the same scratch, was.
    pub fn resume(&mut self, so_far: SoFar) {
        if so_far.merged {
            partial::begin_total(&mut self.x);
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
                    decode::load_q(s.few(), head, x)
                }
            });
            partial::start(&self.x, S::PANEL);
        }
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
                partial::start(&self.x, S::PANEL);
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
                decode::scores(s.few(), panel, x, *block)
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
            self.panel.each(s, &self.x, |h, x| match const { S::LANES == 1 } {
                true => lone::finish(h, x),
                false => partial::finish(s, h.p, x, h.kv_head, h.first, h.rows),
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
            partial::begin_total(&mut self.x);
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
        // Bits say both.
        let partial = !holes && !inside(from, to);
        if partial && const { S::LANES > 1 } {
            // Lanes without a row follow the head's last one.
            let lanes = panel.rows.next_multiple_of(S::LANES).min(panel.lanes);
            for (h, r) in (0..panel.heads).flat_map(|h| (0..lanes).map(move |r| (h, r))) {
                let (seen, lane) = (panel.seen(r.min(panel.rows - 1)), h * panel.lanes + r);
                // SAFETY: the arrays have room for the panel's lanes.
                unsafe {
                    *self.x.from.add(lane) = within(start, seen.start).max(from) as f32;
                    *self.x.to.add(lane) = within(start, seen.end).min(to) as f32;
                }
            }
        }
        let more = const { S::LANES > 1 } && self.some.end > start + BLOCK;
        let (first, keys_there, values_there) = (false, 0, 0);
        Some(Block { start, keys, from, to, partial, holes, first, more, keys_there, values_there })
    }
}
