//! Where a call's keys and values lie: side by side, in a ring, or in pages. Kernels ask for runs of keys
//! that lie at one stride, and never see the difference.

use core::ops::Range;

use super::ahead::Ahead;
use super::block::Block;
use super::call::{Lengths, check_lengths};
use super::lone::{self, InRuns};
use super::mask::{bits, first_ones};
use crate::elem::{Elem, Kind};
use crate::error::{Error, expect_dim, expect_most, expect_one_of};
use crate::view::{HeadsRef, RawHeads, RawMat, Sequence};

/// What [`Attention::run`](super::Attention::run) takes keys and values from: [`HeadsRef`], [`Ring`],
/// [`Paged`], or a `&dyn Keys` where only the running program knows which of them. Sealed.
pub trait Keys: sealed::Source {}

pub(crate) mod sealed {
    /// Gives the untyped form.
    pub trait Source {
        fn raw(&self) -> super::RawKeys<'_>;
    }
}
use sealed::Source;

/// Keys in a ring of slots, as a cache of the last tokens has them: when it is full, the next token takes
/// the slot of the oldest one. Key 0 is the oldest that counts.
///
/// Tokens that are appended together overwrite keys that the first of them may still see: for a causal window of `w` keys
/// before a query's own and `n` new tokens at a time the ring needs `w + n` slots.
///
/// ```
/// use qkv::{HeadsRef, Ring};
/// // Four slots, six tokens appended: slots hold tokens 4, 5, 2, 3, so the oldest is in slot 2.
/// let cache = [4.0_f32, 5.0, 2.0, 3.0];
/// let keys = Ring::new(HeadsRef::token_major(&cache, 4, 1, 1)?, 2, 4)?;
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Ring<'a, T: Elem> {
    slots: HeadsRef<'a, T>,
    first: usize,
    len: usize,
}

impl<'a, T: Elem> Ring<'a, T> {
    /// Key `t` is in slot `(first + t) % slots.len()`, for `len` keys.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are fewer slots than `len`, or no slot `first`.
    pub fn new(slots: HeadsRef<'a, T>, first: usize, len: usize) -> Result<Self, Error> {
        let there = slots.len();
        expect_most("keys in the ring", there, len)?;
        if first > 0 {
            expect_one_of("first slot", there, first)?;
        }
        Ok(Ring { slots, first, len })
    }

    /// The ring after `appended` tokens in all, each in slot `token % slots.len()`: the last of them, as
    /// many as there are slots.
    pub fn last(slots: HeadsRef<'a, T>, appended: usize) -> Self {
        let there = slots.len();
        let len = appended.min(there);
        let first = if appended > there { appended.checked_rem(there).unwrap_or(0) } else { 0 };
        Ring { slots, first, len }
    }
}

/// Keys in pages: a pool of pages, and for each sequence a table of the pages that hold its keys.
///
/// The pool is a batch of views: page `p` is its sequence `p`, and holds `pool.len()` keys. Key `t` is in
/// slot `t % pool.len()` of page `table[t / pool.len()]`. Nothing need be gathered. If keys of packed sequences
/// ([`kv_offsets`](super::Attention::kv_offsets)) lie in pages, the table is that of one sequence with all of them.
///
/// ```
/// use qkv::{HeadsRef, Paged};
/// // Three pages of two keys; five keys lie in pages 2, 0 and 1.
/// let pool = [3.0_f32, 4.0, 5.0, 0.0, 1.0, 2.0];
/// let keys = Paged::new(HeadsRef::batch_token_major(&pool, 3, 2, 1, 1)?, &[2, 0, 1], 1, 5)?;
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Paged<'a, T: Elem> {
    pool: HeadsRef<'a, T>,
    table: &'a [u32],
    sequences: usize,
    len: usize,
}

impl<'a, T: Elem> Paged<'a, T> {
    /// The keys of `sequences` sequences, `len` each, or fewer where [`kv_lens`](super::Attention::kv_lens) says so. `table` is `[sequences][pages]`.
    /// Entries without keys that some query may see for its place are not used: those beyond a sequence's length, before
    /// its [`kv_starts`](super::Attention::kv_starts), or outside the window of all queries, whose pages a cache may have
    /// freed. All others must name pages of the pool, any where a mask or a rule hides all keys; and all up to the length for
    /// [`Scores::Raw`](super::Scores::Raw) and `Capped`, which are those of all keys. Calls for some of the queries or
    /// chunks need what the whole call needs.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if the table is not `sequences` whole rows, [`Error::TooLarge`] if these have too few pages for
    /// `len` keys.
    pub fn new(pool: HeadsRef<'a, T>, table: &'a [u32], sequences: usize, len: usize) -> Result<Self, Error> {
        let pages = table.len().checked_div(sequences).unwrap_or(0);
        let whole = pages.checked_mul(sequences).ok_or(Error::ShapeOverflow)?;
        expect_dim("page table (whole rows)", whole, table.len())?;
        let most = pages.saturating_mul(pool.len());
        if sequences > 0 {
            expect_most("keys in the pages", most, len)?;
        }
        Ok(Paged { pool, table, sequences, len })
    }
}

impl<T: Elem> Keys for HeadsRef<'_, T> {}
impl<T: Elem> Source for HeadsRef<'_, T> {
    fn raw(&self) -> RawKeys<'_> {
        let (batch, len) = (self.batch(), self.len());
        let (table, check, in_runs) = (core::ptr::null(), None, None);
        RawKeys { slots: &self.raw, of: Places { batch, len, first: 0, table, pages: 0, check, in_runs } }
    }
}
impl<T: Elem> Keys for Ring<'_, T> {}
impl<T: Elem> Source for Ring<'_, T> {
    fn raw(&self) -> RawKeys<'_> {
        let RawKeys { slots, of } = self.slots.raw();
        let in_runs: Option<InRuns> = Some(lone::in_runs);
        RawKeys { slots, of: Places { first: self.first, len: self.len, in_runs, ..of } }
    }
}
impl<T: Elem> Keys for Paged<'_, T> {}
impl<T: Elem> Source for Paged<'_, T> {
    fn raw(&self) -> RawKeys<'_> {
        let pages = self.table.len().checked_div(self.sequences).unwrap_or(0);
        let RawKeys { slots, of } = self.pool.raw();
        let (batch, len, table) = (self.sequences, self.len, self.table.as_ptr());
        let (check, in_runs): (Option<Lengths>, Option<InRuns>) = (Some(check_lengths), Some(lone::in_runs));
        RawKeys { slots, of: Places { batch, len, table, pages, check, in_runs, ..of } }
    }
}
impl<K: Keys + ?Sized> Keys for &K {}
impl<K: Keys + ?Sized> Source for &K {
    fn raw(&self) -> RawKeys<'_> {
        (**self).raw()
    }
}

/// The keys of all sequences of a call.
#[derive(Clone, Copy)]
pub struct RawKeys<'a> {
    /// All slots, or the pool of pages.
    pub(crate) slots: &'a RawHeads,
    pub(crate) of: Places,
}

/// Which of the slots hold keys.
#[derive(Clone, Copy)]
pub struct Places {
    pub(crate) batch: usize,
    /// Keys of a sequence.
    pub(crate) len: usize,
    first: usize,
    /// `[batch][pages]`, or null.
    table: *const u32,
    pages: usize,
    /// What has to be checked of pages.
    pub(super) check: Option<Lengths>,
    /// With one lane: the code for keys that need not lie at one stride.
    pub(super) in_runs: Option<InRuns>,
}

impl<'a> RawKeys<'a> {
    /// That `keys` of sequence `b`, counted from key `from` on, lie in pages that exist.
    pub fn check_pages(&self, b: usize, from: usize, keys: Range<usize>) -> Result<(), Error> {
        let size = self.slots.len.max(1);
        let Places { table, pages, .. } = self.of;
        let first = if keys.is_empty() { pages } else { (from + keys.start) / size };
        for i in first..(from + keys.end).div_ceil(size).min(pages) {
            // SAFETY: the table has `pages` entries for each sequence; it is null only if `pages` is 0.
            let page = unsafe { *table.add(b * pages + i) } as usize;
            expect_one_of("page number in the table", self.slots.batch, page)?;
        }
        Ok(())
    }

    /// Whether there are pages, which may not exist.
    pub fn in_pages(&self) -> bool {
        self.of.pages > 0
    }

    /// Whether the keys of all sequences and heads are more than caches hold: then it pays to ask for them early.
    pub(super) fn far(&self) -> bool {
        let slots = self.slots;
        let key = slots.n_heads.saturating_mul(slots.head_dim).saturating_mul(slots.kind.size());
        key.saturating_mul(self.of.batch).saturating_mul(self.of.len) > CACHED
    }

    /// Keys `from..from + len` of sequence `b`.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) fn sequence(&self, b: usize, from: usize, len: usize) -> SequenceKeys<'a> {
        let Places { first, table, pages, .. } = self.of;
        // Without a table there are no pages.
        let of_slots = if table.is_null() { b } else { 0 };
        let (slots, table) = (self.slots.sequence(of_slots), table.wrapping_add(b * pages));
        SequenceKeys { slots, len, first: first + from, table }
    }
}

/// Bytes of all keys from which on they are taken to come from memory: less than caches hold, but between two calls a
/// model reads its weights.
const CACHED: usize = 128 << 10;

/// The keys, or values, of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct SequenceKeys<'a> {
    slots: Sequence<'a>,
    pub len: usize,
    /// The slot of key 0, or with pages its place among those of the table.
    first: usize,
    /// The pages, or null.
    table: *const u32,
}

impl<'a> SequenceKeys<'a> {
    pub fn kind(&self) -> Kind {
        self.slots.of.kind
    }

    /// Features of a head.
    pub fn dim(&self) -> usize {
        self.slots.of.head_dim
    }

    pub fn n_heads(&self) -> usize {
        self.slots.of.n_heads
    }

    pub fn head_stride(&self) -> usize {
        self.slots.of.head_stride
    }

    /// Whether a key's features follow those of the key before.
    pub fn side_by_side(&self) -> bool {
        self.slots.of.token_stride == self.slots.of.head_dim
    }

    /// Whether a token's heads lie between it and the next token.
    pub fn token_major(&self) -> bool {
        self.slots.of.head_stride < self.slots.of.token_stride
    }

    /// Key `t` of head `h` and up to `most` keys in all that follow it at one stride.
    #[inline(always)]
    pub fn run(&self, h: usize, t: usize, most: usize) -> RawMat {
        let (size, t) = (self.slots.len, self.first + t);
        let (page, slot) = if self.table.is_null() {
            (0, if t >= size { t - size } else { t })
        } else {
            let (page, slot) = (t.checked_div(size).unwrap_or(0), t.checked_rem(size).unwrap_or(0));
            // SAFETY: the table has entries for all keys that there are. `check_pages` has seen those of keys that
            // are read; of others, which may be asked for, nothing but a place to look at is made.
            (unsafe { *self.table.add(page) } as usize, slot)
        };
        self.slots.run(h, page, slot, most.min(size - slot))
    }

    /// What is asked for while `keys` keys of each of `heads` heads are worked on: less than the L1 holds, or it
    /// would push out what is used before it. Where a token's heads fill pages, all tokens have the same few sets
    /// of a cache: another head's keys have other ones.
    pub fn ahead(&self, heads: usize, keys: usize) -> Ahead {
        let bytes = self.dim().saturating_mul(self.kind().size()).saturating_mul(keys);
        Ahead::of_size(heads, keys, bytes)
    }

    /// Up to `n` keys of head `h` from `t` on that lie at one stride, if there are.
    #[inline(always)]
    pub fn there(&self, h: usize, t: usize, n: usize) -> Option<RawMat> {
        let there = self.len.checked_sub(t).filter(|&there| there > 0)?;
        Some(self.run(h, t, n.min(there)))
    }

    /// The keys of `keys`, bits relative to key `start`, as runs that lie at one stride, each with its first
    /// key relative to `start`.
    #[inline(always)]
    pub fn runs(&self, h: usize, start: usize, mut keys: u64) -> impl Iterator<Item = (usize, RawMat)> {
        core::iter::from_fn(
            #[inline(always)]
            move || {
                if keys == 0 {
                    return None;
                }
                let (t, n) = first_ones(keys);
                let run = self.run(h, start + t, n);
                keys &= !bits(t, t + run.rows);
                Some((t, run))
            },
        )
    }

    /// Whether all keys of the block that some row sees lie at one stride, without gaps.
    #[inline(always)]
    pub fn one_run(&self, block: &Block) -> bool {
        let n = block.to - block.from;
        block.whole() && self.run(0, block.start + block.from, n).rows == n
    }
}
