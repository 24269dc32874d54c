//! Which keys a query sees, as an interval: cheap to ask, and never a tensor.

use core::ops::Range;

/// The keys that each query of a call sees. Conditions compose as a conjunction.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// Query `i` sees keys up to `i + offset`, if set.
    pub causal_offset: Option<isize>,
    /// Keys that exist.
    pub kv_len: usize,
}

impl Mask {
    /// The keys that `query` sees. Both ends grow with `query`, which the tiles rely on.
    #[inline]
    pub fn seen(&self, query: usize) -> Range<usize> {
        let end = match self.causal_offset {
            None => self.kv_len,
            Some(offset) => {
                // The first key that is not seen; below zero there is none.
                let end = query.checked_add_signed(offset).map_or(0, |last| last.saturating_add(1));
                end.min(self.kv_len)
            }
        };
        0..end
    }
}
