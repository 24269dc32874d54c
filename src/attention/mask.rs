//! Which keys a query sees: an interval that is cheap to ask for, and a block's keys as bits.

use core::ops::Range;

/// The keys that each query of a sequence sees by its place. Conditions compose as a conjunction.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// Query `i` stands at key `i + offset`.
    pub offset: isize,
    /// Keys before that one which it sees, and keys after it; `usize::MAX`: all.
    pub window: (usize, usize),
    /// The first key that exists, and the end of them.
    pub first: usize,
    pub end: usize,
}

impl Mask {
    /// The key that `query` stands at, which need not be one.
    pub fn place(&self, query: usize) -> f32 {
        match query.checked_add_signed(self.offset) {
            Some(place) => place as f32,
            None => -((self.offset.unsigned_abs() - query) as f32),
        }
    }

    /// The keys that `query` sees. Both ends grow with `query`, which the tiles rely on; the range may be
    /// reversed where it is empty.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn seen(&self, query: usize) -> Range<usize> {
        let (before, after) = self.window;
        let after = after.saturating_add(1);
        let (start, end) = match query.checked_add_signed(self.offset) {
            Some(place) => (place.saturating_sub(before), place.saturating_add(after)),
            // It stands before the first key.
            None => (0, after.saturating_sub(self.offset.unsigned_abs() - query)),
        };
        start.min(self.end).max(self.first)..end.min(self.end)
    }

    /// What [`seen`](Self::seen) says of the keys `from..to` of the block at `start`, relative to it, for a few
    /// queries from `query` on: both ends grow by one with each, as far as the keys go.
    pub fn of_block(
        &self,
        query: usize,
        start: usize,
        (from, to): (usize, usize),
    ) -> impl Fn(f32) -> (f32, f32) {
        let inside = |key: usize| key.saturating_sub(start).min(to);
        // So far away all ends are the same, and floats are exact.
        const FAR: i128 = 1 << 20;
        let stands = query as i128 + self.offset as i128 - start as i128;
        let first = (stands - self.window.0 as i128).clamp(-FAR, FAR) as f32;
        let end = (stands + self.window.1 as i128 + 1).clamp(-FAR, FAR) as f32;
        let low = from as f32;
        let high = (inside(self.first.max(self.end)).max(from) as f32, inside(self.end) as f32);
        move |i| ((first + i).max(low).min(high.0), (end + i).max(0.0).min(high.1))
    }
}

/// The keys `from..to` of a block as bits, the block's first key lowest.
#[inline(always)]
pub fn bits(from: usize, to: usize) -> u64 {
    debug_assert!(to <= 64);
    if from < to { (u64::MAX >> (64 - (to - from))) << from } else { 0 }
}

/// The first key of a block's keys that are not empty, and how many follow it without a gap, with it.
#[inline(always)]
pub fn first_ones(keys: u64) -> (usize, usize) {
    let first = keys.trailing_zeros() as usize;
    (first, (keys >> first).trailing_ones() as usize)
}

/// The first key of a block's keys that are not empty, and the end of them.
#[inline(always)]
pub fn hull(keys: u64) -> (usize, usize) {
    (keys.trailing_zeros() as usize, 64 - keys.leading_zeros() as usize)
}
