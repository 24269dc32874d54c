//! A block of keys as a panel of rows sees it.

use super::mask::bits;
use crate::kernel::softmax::BLOCK;

/// Up to [`BLOCK`] keys, at absolute positions.
#[derive(Clone, Copy)]
pub struct Block {
    /// The block's first key, seen or not.
    pub start: usize,
    /// Keys of the block that some row sees, as bits from `start` on. Others are not read. With one lane only where
    /// a mask says so.
    pub keys: u64,
    /// The first of them and the end of them, relative to `start`.
    pub from: usize,
    pub to: usize,
    /// Some row does not see all of `from..to` for its place: where each row's own begin and end is in the
    /// scratch, but for one lane.
    pub partial: bool,
    /// Instead: some row does not see all of them, for whatever reason. What each sees is in the scratch as
    /// bits.
    pub holes: bool,
    /// The first block of its chunk.
    pub first: bool,
    /// Some row sees keys behind the block.
    pub more: bool,
    /// Of the block's keys, and of its values, those that are in the scratch: some panels take the same block.
    pub keys_there: u64,
    pub values_there: u64,
}

impl Block {
    /// How many keys some row sees.
    pub fn count(&self) -> usize {
        if self.holes { self.keys.count_ones() as usize } else { self.to - self.from }
    }

    /// Whether every key of `from..to` is seen by some row.
    pub fn whole(&self) -> bool {
        !self.holes || self.keys == bits(self.from, self.to)
    }
}

/// `key` relative to the block at `start`, within it.
pub fn within(start: usize, key: usize) -> usize {
    key.saturating_sub(start).min(BLOCK)
}
