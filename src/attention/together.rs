//! Which rows take each block of keys together, so that keys and values are read in the order of memory: those of a
//! key head, as many as the scratch has room for, and if they are few and the heads lie side by side, those of several
//! heads.

use core::ops::Range;

use super::block::Block;
use super::call::Problem;
use super::panel::{Panel, SoFar, Walk};
use super::scratch::{MAX_PANEL, MAX_PANELS, Scratch, room};
use super::{decode, prefill};
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;

/// Up to so many rows of a head several heads are read together.
pub const FEW: usize = MAX_PANEL / 2;

/// How the rows of a head lie in a panel.
struct Lanes {
    /// Features are in the lanes, not rows.
    few: bool,
    /// From one head to the next.
    of_head: usize,
    /// Those that are used.
    used: usize,
}

impl Lanes {
    /// Of `rows` rows of a head.
    fn of<S: Simd>(p: &Problem, rows: usize) -> Lanes {
        let most = decode::max_rows::<S::Few>();
        // Half-filled long vectors cost more than short ones, unless caches hold keys that need no copy.
        let long = const { S::LANES > <S::Few as Simd>::LANES } && (!p.k.side_by_side() || p.call.k.far());
        if S::LANES == 1 || rows > if long { 3 * most } else { most } {
            return Lanes { few: false, of_head: S::PANEL, used: rows };
        }
        let lanes = decode::lanes::<S::Few>(rows).max(1);
        Lanes { few: true, of_head: lanes, used: lanes }
    }

    /// Heads that fit a panel.
    fn heads<S: Simd>(&self) -> usize {
        S::PANEL / self.of_head.max(1)
    }

    /// Of `n` heads, in whole vectors.
    fn of_heads<S: Simd>(&self, n: usize) -> usize {
        (n * self.used).next_multiple_of(S::LANES)
    }
}

/// Up to how many heads go together, if `rows` rows of each are wanted.
pub fn most_heads<S: Simd>(_: S, p: &Problem, rows: usize) -> usize {
    // Heads that lie side by side are read in order; those that lie apart are better read one by one.
    if S::LANES == 1 || rows > FEW || !p.k.token_major() {
        return 1;
    }
    let lanes = Lanes::of::<S>(p, rows);
    let heads = lanes.heads::<S>();
    match lanes.few || p.call.k.far() && prefill::in_lanes::<S>(rows) == 0 {
        true => (room(p.q.len, S::PANEL) / lanes.of_heads::<S>(heads).max(1)).clamp(1, MAX_PANELS) * heads,
        false => 1,
    }
}

/// Some rows of some key heads, as many heads at a time as go together.
///
/// # Safety
/// - `p` is a checked problem, `scratch` has the length it asks for; the rows and heads exist.
pub unsafe fn heads<S: Simd>(s: S, p: &Problem, heads: Range<usize>, rows: Range<usize>, scratch: *mut f32) {
    let mut head = heads.start;
    // Small calls, often of one head, would notice.
    let most = if heads.len() > 1 { most_heads(s, p, rows.len()) } else { 1 };
    while head < heads.end {
        let n = most.min(heads.end - head);
        // SAFETY: as the caller promises.
        unsafe { self::rows(s, p, (head, n), rows.clone(), scratch) };
        head += n;
    }
}

/// Some rows of some key heads, a few panels at a time.
///
/// # Safety
/// - As [`heads`]; the rows and heads exist, and go together.
pub unsafe fn rows<S: Simd>(s: S, p: &Problem, heads: (usize, usize), rows: Range<usize>, scratch: *mut f32) {
    for first in rows.clone().step_by(rows_together::<S>(p)) {
        // SAFETY: as the caller promises. Not moved to elsewhere: panels are large.
        unsafe {
            let mut found = Walks::default();
            let keys = walks(s, p, heads, (&rows, first), scratch, &mut found);
            walk(s, &mut found, keys);
        }
    }
}

/// Panels that take each block of keys together.
pub type Walks<'a> = [Option<Walk<'a>>; MAX_PANELS];

/// Calls `take` with the panels of some rows of key heads, a few at a time, and with the first key that some row of
/// them sees and the end of them.
///
/// # Safety
/// - As [`rows`].
pub unsafe fn each<'a, S: Simd>(
    s: S,
    p: &'a Problem<'a>,
    heads: (usize, usize),
    rows: Range<usize>,
    scratch: *mut f32,
    mut take: impl FnMut(&mut Walks<'a>, (usize, usize)),
) {
    for first in rows.clone().step_by(rows_together::<S>(p)) {
        let mut found = Walks::default();
        // SAFETY: as the caller promises.
        let keys = unsafe { walks(s, p, heads, (&rows, first), scratch, &mut found) };
        take(&mut found, keys);
    }
}

/// Rows of a head that take each block of keys together.
pub fn rows_together<S: Simd>(p: &Problem) -> usize {
    room(p.q.len, S::PANEL).max(1)
}

/// Writes the panels of some `rows` from row `first` on, and returns the keys that they see, as [`each`] has them.
///
/// # Safety
/// - As [`rows`]; `first` is one of the rows.
#[cfg_attr(target_os = "none", inline(never))]
pub unsafe fn walks<'a, S: Simd>(
    s: S,
    p: &'a Problem<'a>,
    (kv_head, heads): (usize, usize),
    (rows, first): (&Range<usize>, usize),
    scratch: *mut f32,
    found: &mut Walks<'a>,
) -> (usize, usize) {
    // SAFETY: as the caller promises.
    let x = unsafe { Scratch::cut(s, scratch, p) };
    let lanes = Lanes::of::<S>(p, rows.len());
    let together = rows.end.min(first + rows_together::<S>(p));
    let several = S::LANES > 1 && heads > 1;
    // As many heads in each panel.
    let of_panel = if several { heads.div_ceil(heads.div_ceil(lanes.heads::<S>().max(1)).max(1)) } else { 1 };
    let mut keys = (usize::MAX, 0);
    for (i, walk) in found.iter_mut().enumerate() {
        // Panels of further heads, or of further rows.
        let (h, r) = if several { (i * of_panel, 0) } else { (0, i * S::PANEL) };
        let (first, place) = (first + r, if several { i * lanes.of_heads::<S>(of_panel) } else { r });
        if several && h >= heads || first >= together {
            break;
        }
        let rows = (together - first).min(S::PANEL);
        let (early, late) = (p.seen(first), p.seen(first + rows - 1));
        let (some, all) = (early.start..late.end, late.start..early.end);
        // Both ends grow with the row: the last panel's is the end.
        keys = (keys.0.min(some.start), some.end);
        let panel = Panel {
            p,
            kv_head: kv_head + h,
            heads: if several { of_panel.min(heads - h) } else { 1 },
            lanes: lanes.of_head,
            first,
            rows,
            in_lanes: !lanes.few,
            alone: !several,
        };
        *walk = Some(Walk { panel, x: x.panel(place), some, all, so_far: SoFar::default() });
    }
    keys
}

/// Takes each block of the `keys` that the panels see to all of them before the next block.
///
/// # Safety
/// - [`each`] gave the panels and the keys.
pub unsafe fn walk<S: Simd>(s: S, walks: &mut Walks, keys: (usize, usize)) {
    // SAFETY: as the caller promises.
    unsafe {
        open(s, walks);
        blocks(s, walks, first_block(keys)..keys.1);
        close(s, walks);
    }
}

/// Where the first block of some keys begins.
pub fn first_block((first, _): (usize, usize)) -> usize {
    first - first % BLOCK
}

/// The panels, behind which there is nothing. Where there is room for but one, nobody asks.
pub fn panels<'w, 'a>(walks: &'w mut Walks<'a>) -> impl Iterator<Item = &'w mut Walk<'a>> {
    walks.iter_mut().take_while(|walk| MAX_PANELS == 1 || walk.is_some()).flatten()
}

/// Brings the panels' queries to the scratch.
///
/// # Safety
/// - [`walks`] gave the panels.
#[cfg_attr(target_os = "none", inline(never))]
pub unsafe fn open<S: Simd>(s: S, walks: &mut Walks) {
    for walk in panels(walks) {
        // SAFETY: the scratch has room for the panels.
        unsafe { walk.open(s) };
    }
}

/// Takes the blocks that begin in `starts` to all panels.
///
/// # Safety
/// - As [`open`], after it. Blocks come in order, each once.
#[inline(always)]
pub unsafe fn blocks<S: Simd>(s: S, walks: &mut Walks, starts: Range<usize>) {
    for start in starts.step_by(BLOCK) {
        // SAFETY: blocks lie inside K and V.
        unsafe {
            each_block(s, walks, start, |walk, block| {
                if let Some(block) = block {
                    walk.enter(s, block);
                    walk.scores(s, block);
                    walk.weigh(s, block);
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
    walks: &mut Walks,
    start: usize,
    mut take: impl FnMut(&mut Walk, Option<&mut Block>),
) {
    let mut there = (0, 0);
    for walk in panels(walks) {
        // SAFETY: as the caller promises.
        let mut block = unsafe { walk.look(s, start) };
        if let Some(block) = &mut block {
            // Panels of other heads have keys of their own.
            (block.keys_there, block.values_there) =
                if S::LANES == 1 || walk.panel.alone { there } else { (0, 0) };
        }
        take(walk, block.as_mut());
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
pub unsafe fn close<S: Simd>(s: S, walks: &mut Walks) {
    for walk in panels(walks) {
        // SAFETY: as the caller promises.
        unsafe { walk.close(s) };
    }
}
