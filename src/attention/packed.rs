//! Sequences of different lengths, one behind the other: where each begins and ends.

use super::Attention;
use super::keys::RawKeys;
use crate::error::{Error, expect_dim};
use crate::view::RawHeads;

/// Sequence of a view, first token and number of tokens there.
type Place = (usize, usize, usize);

/// What is called where sequences are packed.
#[derive(Debug)]
pub struct Packed {
    /// Sequences, and queries and keys of the longest.
    pub sizes: fn(&Attention, &RawHeads, &RawKeys) -> Result<[usize; 3], Error>,
    /// Where a sequence's queries and keys are, if these are packed.
    pub places: fn(&Attention, usize, [&mut Place; 2]),
}

pub static PACKED: Packed = Packed {
    sizes: packed_sizes,
    places: |options, b, places| {
        for (place, offsets) in places.into_iter().zip([options.q_offsets, options.kv_offsets]) {
            if let Some((from, len)) = offsets_of(offsets, b) {
                *place = (0, from, len);
            }
        }
    },
};

fn packed_sizes(options: &Attention, q: &RawHeads, k: &RawKeys) -> Result<[usize; 3], Error> {
    let sequences = match options.q_offsets {
        None => q.batch,
        Some(offsets) => {
            expect_dim("batch of packed queries", 1, q.batch)?;
            offsets.len().saturating_sub(1)
        }
    };
    let q_len = longest(options.q_offsets, q.len, "last of the offsets of queries")?;
    let kv_len = longest(options.kv_offsets, k.of.len, "last of the offsets of keys")?;
    match options.kv_offsets {
        None => expect_dim("batch of K", sequences, k.of.batch)?,
        Some(offsets) => {
            expect_dim("batch of packed keys", 1, k.of.batch)?;
            expect_dim("sequences of packed keys", sequences, offsets.len().saturating_sub(1))?;
        }
    }
    Ok([sequences, q_len, kv_len])
}

/// First token and number of tokens of sequence `b`, if sequences are packed.
pub fn offsets_of(offsets: Option<&[usize]>, b: usize) -> Option<(usize, usize)> {
    let (&from, &to) = (offsets?.get(b)?, offsets?.get(b + 1)?);
    Some((from, to.saturating_sub(from)))
}

/// The longest of the packed sequences, or `len`.
///
/// # Errors
/// [`Error::DimMismatch`] if the offsets do not begin with 0, fall, or do not end with `len`.
pub fn longest(offsets: Option<&[usize]>, len: usize, dim: &'static str) -> Result<usize, Error> {
    let Some(offsets) = offsets else { return Ok(len) };
    let (mut before, mut longest) = (0, 0);
    for (i, &offset) in offsets.iter().enumerate() {
        if i == 0 {
            expect_dim("first of the offsets", 0, offset)?;
        } else if offset < before {
            return Err(Error::DimMismatch {
                dim: "offset (at least the one before)",
                expected: before,
                got: offset,
            });
        }
        longest = longest.max(offset - before);
        before = offset;
    }
    expect_dim(dim, len, before)?;
    Ok(longest)
}
