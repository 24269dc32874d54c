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
    let sequences = sequences_of(options.q_offsets, q.batch, "batch of packed queries")?;
    let q_len = longest(options.q_offsets, q.len, "last of the offsets of queries")?;
    let kv_len = longest(options.kv_offsets, k.of.len, "last of the offsets of keys")?;
    let got = sequences_of(options.kv_offsets, k.of.batch, "batch of packed keys")?;
    let dim = if options.kv_offsets.is_some() { "sequences of packed keys" } else { "batch of K" };
    expect_dim(dim, sequences, got)?;
    Ok([sequences, q_len, kv_len])
}

/// How many sequences there are: those of the batch, or those that are packed in its only one.
///
/// # Errors
/// [`Error::DimMismatch`] if sequences are packed in a batch of more, or of none.
pub fn sequences_of(offsets: Option<&[usize]>, batch: usize, dim: &'static str) -> Result<usize, Error> {
    let Some(offsets) = offsets else { return Ok(batch) };
    expect_dim(dim, 1, batch)?;
    Ok(offsets.len().saturating_sub(1))
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
