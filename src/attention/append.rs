//! Appending tokens to a cache, in each of the forms in which attention reads keys and values.

use super::rotary::{Rotary, Tokens};
use crate::elem::Elem;
use crate::error::{Error, expect_dim, expect_most, expect_one_of};
use crate::tier::Tier;
use crate::view::{HeadsMut, HeadsRef, RawHeads};

/// Appending new tokens to a cache of keys or values: converted to the cache's type, and rotated if wanted.
///
/// Token `i` of sequence `b` is number `appended[b] + i` of its sequence. That number says where it goes and
/// is its position for [`rotary`](Self::rotary), unless [`positions`](Self::positions) has another. Tokens that are
/// appended one by one leave the same bits as all at once, and the rest of the cache is not touched. A number that is
/// stored in its own type keeps its bits.
///
/// ```
/// use qkv::{Append, Attention, HeadsMut, HeadsRef, Rotary, attention_scratch_len};
/// // Decode steps of one head over a cache for 8 tokens.
/// let (max_len, head_dim) = (8, 2);
/// let (mut k_cache, mut v_cache) = ([0.0_f32; 8 * 2], [0.0_f32; 8 * 2]);
/// let mut table = [0.0; Rotary::table_len(8, 2)];
/// let rotary = Rotary::fill_table(head_dim, 10_000.0, &mut table)?;
/// let (mut out, mut scratch) = ([0.0_f32; 2], [0.0; attention_scratch_len(1, 8, 2, 2)]);
/// for pos in 0..3 {
///     // From your projections: the new token's query, key and value.
///     let (mut q, k, v) = ([1.0_f32, 0.0], [1.0_f32, 0.0], [pos as f32, 1.0]);
///     rotary.rotate(HeadsMut::token_major(&mut q, 1, 1, head_dim)?, &[pos])?;
///     let (k, v) = (HeadsRef::token_major(&k, 1, 1, head_dim)?, HeadsRef::token_major(&v, 1, 1, head_dim)?);
///     let k_to = HeadsMut::token_major(&mut k_cache, max_len, 1, head_dim)?;
///     Append::new(&[pos]).rotary(rotary).to(k, k_to)?;
///     Append::new(&[pos]).to(v, HeadsMut::token_major(&mut v_cache, max_len, 1, head_dim)?)?;
///     Attention::new().run(
///         HeadsRef::token_major(&q, 1, 1, head_dim)?,
///         HeadsRef::token_major(&k_cache, pos + 1, 1, head_dim)?,
///         HeadsRef::token_major(&v_cache, pos + 1, 1, head_dim)?,
///         HeadsMut::token_major(&mut out, 1, 1, head_dim)?,
///         &mut scratch,
///     )?;
/// }
/// // The nearest value counts most: of 0, 1 and 2 more than their average.
/// assert!(out[0] > 1.2);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is appended until `to`, `to_ring` or `to_pages`"]
pub struct Append<'a> {
    appended: &'a [usize],
    offsets: Option<&'a [usize]>,
    positions: Option<&'a [usize]>,
    rotary: Option<Rotary<'a>>,
    tier: Option<Tier>,
}

impl<'a> Append<'a> {
    /// Each sequence of the batch has so many tokens already.
    pub const fn new(appended: &'a [usize]) -> Self {
        Append { appended, offsets: None, positions: None, rotary: None, tier: None }
    }

    /// New tokens of sequences of different lengths without padding: those of sequence `b` are the tokens
    /// `offsets[b]..offsets[b + 1]` of a view with a batch of 1, as queries of
    /// [`q_offsets`](super::Attention::q_offsets).
    ///
    /// ```
    /// use qkv::{Append, HeadsMut, HeadsRef};
    /// // Rows of three tokens for two sequences, which have 0 and 2; the first gets two more, the second one.
    /// let (new, mut cache) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 6]);
    /// let rows = HeadsMut::batch_token_major(&mut cache, 2, 3, 1, 1)?;
    /// Append::new(&[0, 2]).offsets(&[0, 2, 3]).to(HeadsRef::token_major(&new, 3, 1, 1)?, rows)?;
    /// assert_eq!(cache, [1.0, 2.0, 0.0, 0.0, 0.0, 3.0]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn offsets(self, offsets: &'a [usize]) -> Self {
        Append { offsets: Some(offsets), ..self }
    }

    /// The position for [`rotary`](Self::rotary) of each sequence's first new token, where that is not its number: behind
    /// padding on the left, or after a prefix that lies elsewhere.
    pub const fn positions(self, positions: &'a [usize]) -> Self {
        Append { positions: Some(positions), ..self }
    }

    /// Tokens are rotated on their way, as keys are. The rotary embedding's own [`offsets`](Rotary::offsets) do not count.
    pub const fn rotary(self, rotary: Rotary<'a>) -> Self {
        Append { rotary: Some(rotary), ..self }
    }

    /// Forces a tier; the default is that of the [`Rotary`], or [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Self {
        Append { tier: Some(tier), ..self }
    }

    /// Token number `n` of a sequence goes to token `n` of the cache.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if batches, offsets, positions, heads or features disagree; [`Error::TooLarge`] if the
    /// cache has too few tokens, the rotary table too few positions, or heads fewer features than are rotated;
    /// [`Error::ShapeOverflow`] if a number is beyond `usize`. The cache is untouched then.
    pub fn to<T: Elem, C: Elem>(self, tokens: HeadsRef<'_, T>, cache: HeadsMut<'_, C>) -> Result<(), Error> {
        let (tokens, cache) = (self.checked(tokens.raw, cache.raw)?, cache.raw);
        expect_dim("batch of the cache", self.appended.len(), cache.batch)?;
        for b in 0..self.appended.len() {
            room(cache.len, end(&tokens, b)?.1)?;
        }
        // SAFETY: `checked` has compared the sizes and `room` the numbers.
        unsafe { tokens.move_to(self.tier, cache, |b, number, _| (b, number)) };
        Ok(())
    }

    /// Token number `n` of a sequence goes to slot `n % slots.len()`, where [`Ring::last`](super::Ring::last)
    /// finds it. Of more new tokens than slots only the last ones are written.
    ///
    /// ```
    /// use qkv::{Append, Attention, HeadsMut, HeadsRef, Ring, attention_scratch_len};
    /// // Four slots for keys and four for values; two tokens are there, three more come.
    /// let (mut k_slots, mut v_slots) = ([0.0_f32; 4], [1.0_f32, 2.0, 0.0, 0.0]);
    /// let (k, v) = ([0.0_f32; 3], [3.0_f32, 4.0, 5.0]);
    /// let append = Append::new(&[2]);
    /// append.to_ring(HeadsRef::token_major(&k, 3, 1, 1)?, HeadsMut::token_major(&mut k_slots, 4, 1, 1)?)?;
    /// append.to_ring(HeadsRef::token_major(&v, 3, 1, 1)?, HeadsMut::token_major(&mut v_slots, 4, 1, 1)?)?;
    /// assert_eq!(v_slots, [5.0, 2.0, 3.0, 4.0]);
    /// // Keys are alike: the result is the average of the last four values.
    /// let (mut out, mut scratch) = ([0.0_f32], [0.0; attention_scratch_len(1, 4, 1, 1)]);
    /// Attention::new().run(
    ///     HeadsRef::token_major(&[1.0_f32], 1, 1, 1)?,
    ///     Ring::last(HeadsRef::token_major(&k_slots, 4, 1, 1)?, 5),
    ///     Ring::last(HeadsRef::token_major(&v_slots, 4, 1, 1)?, 5),
    ///     HeadsMut::token_major(&mut out, 1, 1, 1)?,
    ///     &mut scratch,
    /// )?;
    /// assert_eq!(out, [3.5]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`to`](Self::to), except that there is always room.
    pub fn to_ring<T: Elem, C: Elem>(
        self,
        tokens: HeadsRef<'_, T>,
        slots: HeadsMut<'_, C>,
    ) -> Result<(), Error> {
        let (tokens, slots) = (self.checked(tokens.raw, slots.raw)?, slots.raw);
        expect_dim("batch of the cache", self.appended.len(), slots.batch)?;
        for b in 0..self.appended.len() {
            end(&tokens, b)?;
        }
        let tokens = Tokens { most: slots.len, ..tokens };
        let slot = |number: usize| number.checked_rem(slots.len).unwrap_or(0);
        // SAFETY: `checked` has compared the sizes; a remainder is less than the number of slots, and without
        // slots no token is moved.
        unsafe { tokens.move_to(self.tier, slots, |b, number, _| (b, slot(number))) };
        Ok(())
    }

    /// Token number `n` of sequence `b` goes to slot `n % pool.len()` of page `table[b][n / pool.len()]`,
    /// where [`Paged`](super::Paged) finds it. `table` is `[sequences][pages]`; entries for numbers that are
    /// not appended are not used. Where two tokens have the same slot, that of the later sequence stays, and
    /// of one sequence the later token.
    ///
    /// ```
    /// use qkv::{Append, HeadsMut, HeadsRef, Paged};
    /// // A pool of four pages of two tokens. The sequences have 1 and 2 tokens, in page 3 and in page 0.
    /// let mut pool = [0.0_f32; 4 * 2];
    /// let (table, new) = ([3, 1, 0, 2], [10.0_f32, 11.0, 20.0, 21.0]);
    /// let pages = HeadsMut::batch_token_major(&mut pool, 4, 2, 1, 1)?;
    /// Append::new(&[1, 2]).to_pages(HeadsRef::batch_token_major(&new, 2, 2, 1, 1)?, pages, &table)?;
    /// assert_eq!(pool, [0.0, 0.0, 11.0, 0.0, 20.0, 21.0, 0.0, 10.0]);
    /// // What attention takes, with `kv_lens(&[3, 4])`.
    /// let keys = Paged::new(HeadsRef::batch_token_major(&pool, 4, 2, 1, 1)?, &table, 2, 4)?;
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`to`](Self::to), [`Error::DimMismatch`] if the table is not as many whole rows as there are
    /// sequences, and [`Error::TooLarge`] if it names a page that the pool does not have.
    pub fn to_pages<T: Elem, C: Elem>(
        self,
        tokens: HeadsRef<'_, T>,
        pool: HeadsMut<'_, C>,
        table: &[u32],
    ) -> Result<(), Error> {
        let (tokens, pool) = (self.checked(tokens.raw, pool.raw)?, pool.raw);
        let sequences = self.appended.len();
        let pages = table.len().checked_div(sequences).unwrap_or(0);
        expect_dim("page table (whole rows)", pages.saturating_mul(sequences), table.len())?;
        let page = |b: usize, number: usize| {
            let page = number.checked_div(pool.len).and_then(|page| table.get(b * pages + page));
            page.map_or(0, |&page| page as usize)
        };
        for b in 0..sequences {
            let (mut number, end) = end(&tokens, b)?;
            room(pages.saturating_mul(pool.len), end)?;
            // One number in each page that is written to. Without room for any there is none.
            while number < end {
                let got = page(b, number);
                expect_one_of("page number in the table", pool.batch, got)?;
                let slot = number.checked_rem(pool.len).unwrap_or(0);
                number = number.saturating_add(pool.len - slot);
            }
        }
        let slot = |number: usize| number.checked_rem(pool.len).unwrap_or(0);
        // SAFETY: `checked` has compared the sizes, `room` the numbers, and the loop the pages.
        unsafe { tokens.move_to(self.tier, pool, |b, number, _| (page(b, number), slot(number))) };
        Ok(())
    }

    /// The tokens, if their sizes that do not depend on the form of the cache agree, and there are their positions.
    fn checked(&self, heads: RawHeads, cache: RawHeads) -> Result<Tokens<'_>, Error> {
        let &Append { appended: first, offsets, rotary, .. } = self;
        let positions = self.positions.unwrap_or(first);
        let tokens = Tokens { heads, offsets, first, positions, rotary, most: usize::MAX };
        tokens.check("batch (length of appended)")?;
        expect_dim("n_heads of the cache", heads.n_heads, cache.n_heads)?;
        expect_dim("head_dim of the cache", heads.head_dim, cache.head_dim)?;
        Ok(tokens)
    }
}

/// The number of the first new token of sequence `b`, and the end of them.
fn end(tokens: &Tokens, b: usize) -> Result<(usize, usize), Error> {
    let first = tokens.first.get(b).copied().unwrap_or(0);
    Ok((first, first.checked_add(tokens.of(b).1).ok_or(Error::ShapeOverflow)?))
}

/// That a cache for `most` tokens holds so many.
fn room(most: usize, tokens: usize) -> Result<(), Error> {
    expect_most("tokens in the cache", most, tokens)
}
