//! Which keys of a block each row sees, where that is not an interval: masks, biases of minus infinity and
//! the user's rule, as 64 bits a row.

use super::block::{Block, within};
use super::call::check_masks;
use super::lone;
use super::mask::{bits, hull};
use super::panel::Panel;
use super::rule::Tile;
use super::scratch::{BIAS_STRIDE, MAX_PANEL, Scratch};
use super::{Attention, Shared};
use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind, load_up_to};
use crate::error::Error;
use crate::kernel::softmax::{BLOCK, CHAINS};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::tier::dispatch;
use crate::view::RawTensor;

/// [`Masks::look`]: of a panel, for the block that begins at a key; and whether every row sees all `from..to` for its
/// place.
pub type Look = unsafe fn(&Panel, &Scratch, usize, (usize, usize), bool) -> Option<(u64, bool)>;

/// What is called where something decides beside a key's place: a mask, a bias of minus infinity or a rule.
#[derive(Debug)]
pub struct Masks {
    /// That their sizes are those of the call.
    pub check: fn(&Attention, [usize; 4]) -> Result<(), Error>,
    /// Of the keys `from..to` of a block those that some row sees, and whether some row does not see them all.
    pub look: Look,
    /// With one lane: those of [`lone`].
    pub next: fn(u64, (usize, usize)) -> (usize, usize),
    pub keys_of: unsafe fn(&Scratch, &Block, usize) -> (usize, usize),
    pub hide: unsafe fn(&Scratch, usize, (usize, usize)),
    pub in_runs: lone::InRuns,
    pub add: unsafe fn(&lone::Part, (*mut f32, *const f32), usize, &mut [f32]),
}

/// Queries that a rule is asked for together where it does not say the same of a whole panel.
const RULED: usize = 16;

pub static MASKS: Masks = Masks {
    check: check_masks,
    look: |panel, x, start, (from, to), placed| {
        let keys = bits(from, to);
        // SAFETY: as the caller promises.
        let (some, all) = dispatch!(panel.p.tier, s => unsafe { look(s, panel, x, start, keys, placed) });
        let (from, to) = hull(some);
        (some != 0).then(|| (some, all != bits(from, to)))
    },
    next: lone::next_seen,
    // SAFETY: as the caller promises.
    keys_of: |x, block, r| unsafe { keys_of(x, *block, r, 1) },
    hide: lone::hide,
    in_runs: lone::in_runs,
    add: lone::add,
};

/// Of the block's `keys`, those that some row sees and those that every row sees. What each row sees goes to
/// the scratch. `placed`: every row sees all `keys` for its place.
///
/// # Safety
/// - `x` has room for the panel; the keys exist.
#[inline(never)]
unsafe fn look<S: Simd>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    start: usize,
    keys: u64,
    placed: bool,
) -> (u64, u64) {
    let (p, options) = (panel.p, panel.p.options);
    let n = p.k.len.saturating_sub(start).min(BLOCK);
    let first = panel.first / p.group;
    let queries = first..(panel.first + panel.rows - 1) / p.group + 1;
    let mut ruled = [u64::MAX; MAX_PANEL];
    if let Some(rule) = options.mask_rule {
        let keys = start..start + n;
        match rule.tile(queries.clone(), keys.clone()) {
            Tile::Skip => return (0, 0),
            Tile::Full => {}
            // Of fewer queries it may know more.
            Tile::Partial => {
                for (first, words) in queries.clone().step_by(RULED).zip(ruled.chunks_mut(RULED)) {
                    let few = first..queries.end.min(first + RULED);
                    match rule.tile(few.clone(), keys.clone()) {
                        Tile::Skip => words.fill(0),
                        Tile::Full => {}
                        Tile::Partial => rule.words(p.tier, few, keys.clone(), words),
                    }
                }
            }
        }
    }
    s.vectorize(
        #[inline(always)]
        || {
            let mut words = [keys; MAX_PANEL];
            let lanes = (0..panel.heads).map(|h| (h, h * panel.lanes..h * panel.lanes + panel.rows));
            let rows = |h: usize| p.rows(panel.kv_head + h, panel.first).take(panel.rows);
            for (h, lanes) in lanes.clone() {
                let copies = bias_row(x, lanes.start);
                let words = words.get_mut(lanes).unwrap_or_default();
                // SAFETY: the tensors have `n` keys of each row from `start` on.
                unsafe {
                    of_masks(s, p.b, rows(h), (start, n), options, words);
                    of_bias(s, panel, rows(h), (start, n), words, copies);
                }
            }
            let all_of = |words: &[u64; MAX_PANEL]| words.iter().fold(u64::MAX, |all, word| all & word);
            // Places alone decide, as without masks.
            if all_of(&words) == keys && all_of(&ruled) == u64::MAX {
                return (keys, keys);
            }
            let (mut some, mut all) = (0, keys);
            for (h, lanes) in lanes {
                let words = words.get_mut(lanes.clone()).unwrap_or_default();
                if options.mask_rule.is_some() {
                    for (word, (query, _)) in words.iter_mut().zip(rows(h)) {
                        *word &= ruled.get(query - first).copied().unwrap_or(u64::MAX);
                    }
                }
                if !placed {
                    for (word, (query, _)) in words.iter_mut().zip(rows(h)) {
                        let seen = p.mask.seen(query);
                        *word &= bits(within(start, seen.start), within(start, seen.end));
                    }
                }
                for (lane, &mut word) in lanes.zip(words) {
                    some |= word;
                    all &= word;
                    // SAFETY: a lane of the panel.
                    unsafe { put(x, lane, word) };
                }
            }
            (some, all)
        },
    )
}

/// Takes from each row's word the keys of `start..start + n` that a tensor does not let it see. One tensor after
/// the other: the shorter the loop, the more rows a processor fetches at once, and rows often lie so far apart
/// that it does not guess them.
#[inline(always)]
unsafe fn of_masks<S: Simd>(
    s: S,
    b: usize,
    rows: impl Iterator<Item = (usize, usize)> + Clone,
    (start, n): (usize, usize),
    options: &Attention,
    words: &mut [u64],
) {
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(Shared(mask)) = options.mask {
            let rows = rows.clone().map(|(query, head)| mask.at::<bool>(b, head, query, start).cast_const());
            each(words, rows, |bools| of_bools(s, bools, n));
        }
        if let Some(Shared(mask)) = options.mask_bits {
            let rows =
                rows.clone().map(|(query, head)| mask.at::<u8>(b, head, query, start / 8).cast_const());
            each(words, rows, |bytes| of_bits(core::slice::from_raw_parts(bytes, n.div_ceil(8))));
        }
    }
}

/// The same for a bias. One that differs from row to row is copied on the way, side by side, to `copies`, for the
/// scores: rows a power of two apart fall into few sets of the L1, and are read once. If none of its numbers is minus
/// infinity, that is seen from their least.
#[inline(always)]
unsafe fn of_bias<S: Simd>(
    s: S,
    panel: &Panel,
    rows: impl Iterator<Item = (usize, usize)> + Clone,
    (start, n): (usize, usize),
    words: &mut [u64],
    copies: *mut f32,
) {
    let Some(Shared((bias, kind))) = panel.p.options.bias else { return };
    // SAFETY: as the caller promises.
    unsafe {
        by_kind!(kind, E => {
            let rows = rows.map(|(query, head)| bias.at::<E>(panel.p.b, head, query, start).cast_const());
            if S::LANES == 1 || same_for_all(panel, &bias) {
                return each(words, rows, |numbers| above_minus_infinity(s, numbers, n));
            }
            let copies = (0..).map(|r| copies.wrapping_add(r * BIAS_STRIDE));
            let mut most = s.splat(0.0);
            let mut keep = |numbers: S::V, copy: *mut f32| {
                s.store(copy, numbers);
                most = s.max(s.sub(s.splat(0.0), numbers), most);
            };
            for (row, copy) in rows.clone().zip(copies.clone()) {
                if n == BLOCK {
                    for i in (0..BLOCK).step_by(S::LANES) {
                        keep(E::load(s, row.add(i)), copy.add(i));
                    }
                    continue;
                }
                for i in (0..n).step_by(S::LANES) {
                    keep(load_up_to::<S, E>(s, row.add(i), n - i), copy.add(i));
                }
            }
            if s.gt_bits(most, s.splat(f32::MAX)) != 0 {
                each(words, rows.zip(copies).map(|(_, copy)| copy.cast_const()), |numbers| {
                    above_minus_infinity(s, numbers, n)
                });
            }
        });
    }
}

/// Whether all rows of the panel have the same numbers: then they are not copied.
pub fn same_for_all(panel: &Panel, bias: &RawTensor) -> bool {
    let one_head = panel.heads == 1 && panel.p.group.get() == 1;
    bias.same_for_queries() && (one_head || bias.same_for_heads())
}

/// Where the block's biases of the row in lane `lane` are copied to.
pub fn bias_row(x: &Scratch, lane: usize) -> *mut f32 {
    x.biases().wrapping_add(lane * BIAS_STRIDE)
}

/// Takes from each row's word what `seen` does not give for it. What rows share is looked at once.
#[inline(always)]
fn each<T>(words: &mut [u64], rows: impl Iterator<Item = *const T>, seen: impl Fn(*const T) -> u64) {
    let mut last = (core::ptr::null(), 0);
    for (word, row) in words.iter_mut().zip(rows) {
        if row != last.0 {
            last = (row, seen(row));
        }
        *word &= last.1;
    }
}

/// Notes what the row in lane `lane` sees: in two floats of 32 bits, so that vectors of rows can test them.
#[inline(always)]
unsafe fn put(x: &Scratch, lane: usize, word: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        x.holes()[0].add(lane).write(f32::from_bits(word as u32));
        x.holes()[1].add(lane).write(f32::from_bits((word >> 32) as u32));
    }
}

/// What [`look`] has found for a row.
///
/// # Safety
/// - `x` has it for row `r`.
pub unsafe fn of_row(x: &Scratch, r: usize) -> u64 {
    // SAFETY: as the caller promises.
    let [low, high] = x.holes().map(|half| u64::from(unsafe { half.add(r).read() }.to_bits()));
    high << 32 | low
}

/// The keys of a block that some of the rows `r..r + n` sees: the first one and the end of them.
///
/// # Safety
/// - `x` has what each row sees. The rows are those of one head, or the block has holes.
#[inline(always)]
pub unsafe fn keys_of(x: &Scratch, block: Block, r: usize, n: usize) -> (usize, usize) {
    // SAFETY: as the caller promises.
    unsafe {
        if block.holes {
            let [low, high] =
                x.holes().map(|half| (r..r + n).fold(0, |some, r| some | half.add(r).read().to_bits()));
            let some = (u64::from(high) << 32 | u64::from(low)) & bits(block.from, block.to);
            if some == 0 { (block.to, block.to) } else { hull(some) }
        } else if block.partial {
            // Both ends grow with the row.
            (*x.from().add(r) as usize, *x.to().add(r + n - 1) as usize)
        } else {
            (block.from, block.to)
        }
    }
}

/// Scores of a vector of rows, minus infinity where a row does not see the key; those of the `keys` of the block, in whole
/// chains. Returns the largest of them and `top`.
///
/// # Safety
/// - `x` holds the scores and what each row sees.
#[inline(always)]
pub unsafe fn hide<S: Simd>(s: S, x: &Scratch, lane: usize, keys: (usize, usize), top: S::V) -> S::V {
    let none = s.splat(f32::NEG_INFINITY);
    // Some chains, since each waits for itself.
    let mut tops = [top; CHAINS];
    for (half, &word) in x.holes().iter().enumerate() {
        // SAFETY: as the caller promises.
        let mut word = unsafe { s.load(word.add(lane)) };
        // The last key's bit is the sign.
        for end in (half * 32 + CHAINS..=half * 32 + 32).rev().step_by(CHAINS) {
            if end <= keys.0 || keys.1 <= end - CHAINS {
                for _ in 0..CHAINS {
                    word = s.next_bit(word);
                }
                continue;
            }
            unrolled!(C < CHAINS => {
                // SAFETY: the scratch has room for whole chains of a block's keys.
                unsafe {
                    let at = x.scores.add((end - 1 - C) * S::PANEL + lane);
                    let score = s.select_sign(word, s.load(at), none);
                    s.store(at, score);
                    tops[C] = s.max(score, tops[C]);
                }
                word = s.next_bit(word);
            });
        }
    }
    s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3]))
}

/// [`hide`] for all rows of a panel.
///
/// # Safety
/// - As there.
#[inline(never)]
pub unsafe fn hide_all<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    s.vectorize(
        #[inline(always)]
        || {
            for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                // SAFETY: as the caller promises.
                unsafe { hide(s, x, lane, (block.from, block.to), s.splat(0.0)) };
            }
        },
    );
}

/// `n <= 64` bools as bits, the first one lowest.
///
/// # Safety
/// - `bools` is valid for reading `n` bools.
#[inline(always)]
pub unsafe fn of_bools<S: Simd>(s: S, bools: *const bool, n: usize) -> u64 {
    // SAFETY: `n` bools are readable.
    unsafe {
        if n == 64 {
            return u64::from(s.load_bools(bools.add(32))) << 32 | u64::from(s.load_bools(bools));
        }
        let bools = core::slice::from_raw_parts(bools, n);
        bools.iter().rev().fold(0, |bits, &seen| bits << 1 | u64::from(seen))
    }
}

/// Up to 8 bytes as bits.
fn of_bits(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(&all) => u64::from_le_bytes(all),
        None => bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte)),
    }
}

/// Which of `n <= 64` numbers are not minus infinity.
#[inline(always)]
unsafe fn above_minus_infinity<S: Simd, E: Elem>(s: S, numbers: *const E, n: usize) -> u64 {
    // Not NaN, which is seen.
    let hidden = |v: S::V| u64::from(s.gt_bits(s.splat(f32::MIN), v));
    let mut word = 0;
    if n == BLOCK {
        for i in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: a vector of numbers from `i` on.
            word |= hidden(unsafe { E::load(s, numbers.add(i)) }) << i;
        }
        return !word;
    }
    for i in (0..n).step_by(S::LANES) {
        // SAFETY: at most as many numbers as there are from `i` on.
        word |= hidden(unsafe { load_up_to::<S, E>(s, numbers.add(i), n - i) }) << i;
    }
    !word
}
