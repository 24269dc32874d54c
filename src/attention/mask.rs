//! Which keys a query sees, as an interval: cheap to ask, and never a tensor.

use core::ops::Range;

/// The keys that each query of a call sees. Conditions compose as a conjunction.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// Query `i` stands at key `i + offset`.
    pub offset: isize,
    /// Keys before that one which it sees, and keys after it; `usize::MAX`: all.
    pub window: (usize, usize),
    /// Keys that exist.
    pub kv_len: usize,
}

impl Mask {
    /// The key that `query` stands at, which need not be one.
    pub fn place(&self, query: usize) -> f32 {
        match query.checked_add_signed(self.offset) {
            Some(place) => place as f32,
            None => -((self.offset.unsigned_abs() - query) as f32),
        }
    }

    /// The keys that `query` sees. Both ends grow with `query`, which the tiles rely on.
    #[inline]
    pub fn seen(&self, query: usize) -> Range<usize> {
        let (before, after) = self.window;
        let after = after.saturating_add(1);
        let (start, end) = match query.checked_add_signed(self.offset) {
            Some(place) => (place.saturating_sub(before), place.saturating_add(after)),
            // It stands before the first key.
            None => (0, after.saturating_sub(self.offset.unsigned_abs() - query)),
        };
        start.min(self.kv_len)..end.min(self.kv_len)
    }
}
