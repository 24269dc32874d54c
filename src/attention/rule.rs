//! The user's own rules: which keys a query sees, and what becomes of a score.

use core::fmt;
use core::ops::Range;

use super::scratch::MAX_PANEL;
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};

/// What a [`MaskRule`] knows of a tile of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// No query sees any of the keys: they are not read.
    Skip,
    /// Every query sees every key: the rule is not asked again.
    Full,
    /// The rule is asked for each query and key.
    Partial,
}

/// Which keys a query sees, by a rule. Closures `Fn(query, key) -> bool` are such rules.
///
/// Queries and keys are counted from 0 in each sequence, whatever [`offset`](super::Attention::offset) is.
/// The rule must give the same answer whenever it is asked.
///
/// ```
/// use qkv::{MaskRule, Tile};
/// /// Documents one behind the other, each of a thousand tokens.
/// struct Documents;
/// impl MaskRule for Documents {
///     fn sees(&self, query: usize, key: usize) -> bool {
///         query / 1000 == key / 1000
///     }
///     fn tile(&self, queries: core::ops::Range<usize>, keys: core::ops::Range<usize>) -> Tile {
///         let of = |tokens: core::ops::Range<usize>| (tokens.start / 1000, (tokens.end - 1) / 1000);
///         let ((first, last), (from, to)) = (of(queries), of(keys));
///         if last < from || to < first {
///             Tile::Skip
///         } else if first == last && from == to {
///             Tile::Full
///         } else {
///             Tile::Partial
///         }
///     }
/// }
/// ```
pub trait MaskRule: Sync {
    /// Whether `query` sees `key`.
    fn sees(&self, query: usize, key: usize) -> bool;

    /// What is known of all of `queries` and `keys`; both have at least one. Mostly these are a block of 64 keys and up
    /// to 48 queries, but a rule is also asked whether it skips all keys that follow.
    fn tile(&self, queries: Range<usize>, keys: Range<usize>) -> Tile {
        let _ = (queries, keys);
        Tile::Partial
    }

    /// [`sees`](Self::sees) of up to 64 keys for some queries, as bits, the first key lowest. Here so that it
    /// is inlined.
    #[doc(hidden)]
    fn words(&self, tier: Tier, queries: Range<usize>, keys: Range<usize>, words: &mut [u64]) {
        dispatch!(tier, s => {
            words_of(s, queries, keys, words, #[inline(always)] |query, key| self.sees(query, key))
        });
    }
}

/// Bits that the compiler can find for several keys at a time.
#[inline(always)]
fn words_of<S: Simd>(
    s: S,
    queries: Range<usize>,
    keys: Range<usize>,
    words: &mut [u64],
    sees: impl Fn(usize, usize) -> bool,
) {
    s.vectorize(
        #[inline(always)]
        || {
            for (query, word) in queries.zip(words) {
                *word = keys
                    .clone()
                    .zip(0..64)
                    .fold(0, |word, (key, bit)| word | u64::from(sees(query, key)) << bit);
            }
        },
    );
}

impl<F: Fn(usize, usize) -> bool + Sync> MaskRule for F {
    #[inline]
    fn sees(&self, query: usize, key: usize) -> bool {
        self(query, key)
    }
}

impl fmt::Debug for dyn MaskRule + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskRule")
    }
}

/// Where a score stands: all counted from 0, as in [`MaskRule`]; numbers from 2^31 on wrap round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreAt {
    /// The sequence.
    pub batch: i32,
    /// The query head.
    pub head: i32,
    /// The query.
    pub query: i32,
    /// The key.
    pub key: i32,
}

/// What becomes of a score, by a rule. Closures `Fn(score, at) -> f32` are such rules.
///
/// A rule is compiled into a loop over a vector of queries and uses the instructions of the tier, if it is
/// arithmetic that the compiler can do for several scores at a time: no calls, no early returns. One of more
/// than a few operations is marked `#[inline(always)]`, or it is a call itself. It may be asked for scores of
/// keys that are not seen; what it says of them is not used.
///
/// ```
/// use qkv::{ScoreAt, ScoreRule};
/// // A bias that falls with the distance.
/// fn takes(_: &dyn ScoreRule) {}
/// takes(&|score: f32, at: ScoreAt| score - 0.5 * (at.query - at.key).abs() as f32);
/// ```
pub trait ScoreRule: Sync {
    /// What becomes of `score`.
    fn score(&self, score: f32, at: ScoreAt) -> f32;

    /// Changes the scores of a block. Here so that [`score`](Self::score) is inlined.
    #[doc(hidden)]
    fn change(&self, block: &mut ScoreBlock) {
        dispatch!(block.tier, s => block.each(s, #[inline(always)] move |score, at| self.score(score, at)));
    }
}

impl<F: Fn(f32, ScoreAt) -> f32 + Sync> ScoreRule for F {
    #[inline(always)]
    fn score(&self, score: f32, at: ScoreAt) -> f32 {
        self(score, at)
    }
}

impl fmt::Debug for dyn ScoreRule + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScoreRule")
    }
}

/// Scores of some keys for some rows.
#[doc(hidden)]
pub struct ScoreBlock {
    pub(super) tier: Tier,
    /// `[keys][stride]`, rows in the lanes.
    pub(super) scores: *mut f32,
    pub(super) stride: usize,
    /// The first key, and how many.
    pub(super) keys: (i32, usize),
    pub(super) batch: i32,
    /// Rows, and head and query of each.
    pub(super) rows: usize,
    pub(super) heads: [i32; MAX_PANEL],
    pub(super) queries: [i32; MAX_PANEL],
}

impl ScoreBlock {
    #[inline(always)]
    fn each<S: Simd>(&mut self, s: S, rule: impl Fn(f32, ScoreAt) -> f32) {
        // Moved into the loop: what is behind a reference to them a store to a score might change, and then
        // nothing is done for several scores at a time.
        let ScoreBlock {
            scores: mut row,
            stride,
            keys: (mut key, keys),
            batch,
            rows,
            ref heads,
            ref queries,
            ..
        } = *self;
        s.vectorize(
            #[inline(always)]
            move || {
                for _ in 0..keys {
                    // SAFETY: whoever makes a block promises `rows` scores at each of its keys.
                    let scores = unsafe { core::slice::from_raw_parts_mut(row, rows) };
                    for (score, (&head, &query)) in scores.iter_mut().zip(heads.iter().zip(queries)) {
                        *score = rule(*score, ScoreAt { batch, head, query, key });
                    }
                    (row, key) = (row.wrapping_add(stride), key.wrapping_add(1));
                }
            },
        );
    }
}
