//! Rotary position embedding: pairs of features turn by an angle that grows with the position.

use super::packed::{longest, offsets_of, sequences_of};
use crate::elem::Elem;
use crate::error::{Error, expect_dim, expect_most};
use crate::kernel::rotate::{Angles, rotate};
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};
use crate::view::{HeadsMut, HeadsRef, RawHeads};

/// Rotary position embedding of Su et al. (2021), with the angles of all positions in a table of yours.
///
/// Each pair of features is turned by its angle at the token's position. A score of a rotated query and a
/// rotated key then depends on the two positions by their difference only:
/// ```text
/// y1 = x1 cos - x2 sin        y2 = x2 cos + x1 sin
/// ```
/// The table is `[positions][2][dim / 2]`: for each position the cosines of all pairs, then their sines. It
/// is filled by [`fill_table`](Self::fill_table), or by you: for other frequencies, or scaled ones.
/// Feature `i` and feature `i + dim / 2` are a pair, unless [`interleaved`](Self::interleaved) says
/// otherwise: halves are what GPT-NeoX has, and weights of Llama as Hugging Face lays them out; neighbours are what GPT-J and
/// the original weights of Llama have. Of a head only the first `dim` features are rotated.
///
/// Features are widened to `f32`, each of the six operations is rounded by itself, and the result is rounded
/// to its type once: all tiers of all targets give the same bits.
///
/// ```
/// use qkv::{HeadsMut, Rotary};
/// let (positions, dim) = (8, 2);
/// let mut table = vec![0.0; Rotary::table_len(positions, dim)];
/// let rotary = Rotary::fill_table(dim, 10_000.0, &mut table)?;
/// // One query at position 3: its only pair is turned by 3 radians.
/// let mut q = [1.0_f32, 0.0];
/// rotary.rotate(HeadsMut::token_major(&mut q, 1, 1, 2)?, &[3])?;
/// assert_eq!(q, [3.0_f32.cos(), 3.0_f32.sin()]);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// `[positions][2][dim / 2]`.
    table: &'a [f32],
    dim: usize,
    interleaved: bool,
    offsets: Option<&'a [usize]>,
    tier: Option<Tier>,
}

impl<'a> Rotary<'a> {
    /// `f32`s of the table of so many positions; `usize::MAX` if that is more than fits.
    pub const fn table_len(positions: usize, dim: usize) -> usize {
        positions.saturating_mul(dim)
    }

    /// The angles of a table that is full. It has as many positions as it has rows of `dim`.
    ///
    /// Where positions grow for ever, as over a ring, a table of one row with the angles of the next token will do: tokens are
    /// rotated by it at position 0, and then appended without rotation.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if `dim` is odd, or the table is not whole rows of `dim`.
    pub fn new(table: &'a [f32], dim: usize) -> Result<Self, Error> {
        check_table(dim, table.len())?;
        Ok(Rotary { table, dim, interleaved: false, offsets: None, tier: None })
    }

    /// Fills the table: pair `i` has the angle `position * base^(-2 i / dim)`, for as many positions as the
    /// table has rows of `dim`. `base` is more than 0, often 10,000.
    ///
    /// Angles, cosines and sines are computed in `f64` and rounded once. For a `base` of at least 1 an element
    /// is off by at most half a unit in its last place and `position * 2^-51`.
    ///
    /// # Errors
    /// As [`new`](Self::new). The table is untouched then.
    ///
    /// ```
    /// use qkv::Rotary;
    /// let mut table = [0.0; Rotary::table_len(2, 4)];
    /// let _rotary = Rotary::fill_table(4, 100.0, &mut table)?;
    /// // Two cosines and two sines of position 0, and of position 1: angles of 1 and 0.1.
    /// let one = [1.0_f64.cos(), 0.1_f64.cos(), 1.0_f64.sin(), 0.1_f64.sin()].map(|x| x as f32);
    /// assert_eq!(table, [[1.0, 1.0, 0.0, 0.0], one].as_flattened());
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub fn fill_table(dim: usize, base: f32, table: &'a mut [f32]) -> Result<Self, Error> {
        check_table(dim, table.len())?;
        // Without positions there may be any number of pairs.
        let half = if table.is_empty() { 0 } else { dim / 2 };
        for i in 0..half {
            let frequency = libm::pow(f64::from(base), -((2 * i) as f64) / dim as f64);
            for (position, row) in table.chunks_exact_mut(dim.max(1)).enumerate() {
                let (sin, cos) = libm::sincos(position as f64 * frequency);
                for (at, x) in [(i, cos), (half + i, sin)] {
                    if let Some(to) = row.get_mut(at) {
                        *to = x as f32;
                    }
                }
            }
        }
        Rotary::new(table, dim)
    }

    /// Features `2 i` and `2 i + 1` are pair `i`, instead of `i` and `i + dim / 2`.
    ///
    /// ```
    /// use qkv::{HeadsMut, Rotary};
    /// // The angles of position 0: a quarter of a turn, and none.
    /// let rotary = Rotary::new(&[0.0, 1.0, 1.0, 0.0], 4)?;
    /// let (mut halves, mut neighbours) = ([1.0_f32, 2.0, 3.0, 4.0], [1.0_f32, 2.0, 3.0, 4.0]);
    /// rotary.rotate(HeadsMut::token_major(&mut halves, 1, 1, 4)?, &[0])?;
    /// rotary.interleaved().rotate(HeadsMut::token_major(&mut neighbours, 1, 1, 4)?, &[0])?;
    /// assert_eq!((halves, neighbours), ([-3.0, 2.0, 1.0, 4.0], [-2.0, 1.0, 3.0, 4.0]));
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn interleaved(self) -> Self {
        Rotary { interleaved: true, ..self }
    }

    /// Forces a tier; the default is [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Self {
        Rotary { tier: Some(tier), ..self }
    }

    /// What is rotated are sequences of different lengths without padding: the tokens `offsets[b]..offsets[b + 1]` of
    /// views with a batch of 1 are sequence `b`, as queries of [`q_offsets`](super::Attention::q_offsets).
    pub const fn offsets(self, offsets: &'a [usize]) -> Self {
        Rotary { offsets: Some(offsets), ..self }
    }

    /// Rotates heads where they are: token `i` of sequence `b` is at position `first[b] + i`.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if `first` is not one position for each sequence, or the offsets do not fit the tokens;
    /// [`Error::TooLarge`] if the table has too few positions, or heads have fewer features than are rotated;
    /// [`Error::ShapeOverflow`] if a position is beyond `usize`. The heads are untouched then.
    pub fn rotate<T: Elem>(&self, heads: HeadsMut<'_, T>, first: &[usize]) -> Result<(), Error> {
        let tokens = self.checked(heads.raw, first)?;
        // The other features stay as they are.
        let rotated = heads.raw.of_dim(self.dim);
        // SAFETY: the view is an exclusive borrow, with at least `dim` features, all of which are rotated.
        unsafe { Tokens { heads: rotated, ..tokens }.move_to(None, rotated, |_, _, at| at) };
        Ok(())
    }

    /// Writes the rotated heads to `out`: token `i` of sequence `b` is at position `first[b] + i`. Features
    /// that are not rotated are copied.
    ///
    /// ```
    /// use qkv::{HeadsMut, HeadsRef, Rotary};
    /// let mut table = [0.0; Rotary::table_len(16, 2)];
    /// let rotary = Rotary::fill_table(2, 10_000.0, &mut table)?;
    /// // Two queries of one head, at positions 4 and 5; only two of three features are rotated.
    /// let (q, mut rotated) = ([1.0_f32, 0.0, 7.0, 1.0, 0.0, 7.0], [0.0_f32; 6]);
    /// let out = HeadsMut::token_major(&mut rotated, 2, 1, 3)?;
    /// rotary.rotate_to(HeadsRef::token_major(&q, 2, 1, 3)?, &[4], out)?;
    /// assert_eq!(rotated, [4.0_f32.cos(), 4.0_f32.sin(), 7.0, 5.0_f32.cos(), 5.0_f32.sin(), 7.0]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and [`Error::DimMismatch`] if the sizes of the output are others. It is
    /// untouched then.
    pub fn rotate_to<T: Elem, O: Elem>(
        &self,
        heads: HeadsRef<'_, T>,
        first: &[usize],
        out: HeadsMut<'_, O>,
    ) -> Result<(), Error> {
        expect_dim("batch of the output", heads.batch(), out.batch())?;
        expect_dim("tokens of the output", heads.len(), out.len())?;
        expect_dim("n_heads of the output", heads.n_heads(), out.n_heads())?;
        expect_dim("head_dim of the output", heads.head_dim(), out.head_dim())?;
        let tokens = self.checked(heads.raw, first)?;
        // SAFETY: both are views of the same sizes, and the output is an exclusive borrow.
        unsafe { tokens.move_to(None, out.raw, |_, _, at| at) };
        Ok(())
    }

    fn checked<'b>(&'b self, heads: RawHeads, first: &'b [usize]) -> Result<Tokens<'b>, Error> {
        let &Rotary { offsets, .. } = self;
        let tokens =
            Tokens { heads, offsets, first, positions: first, rotary: Some(*self), most: usize::MAX };
        tokens.check("batch (length of first)")?;
        Ok(tokens)
    }

    /// That the table has positions `first..first + len`.
    fn check_positions(&self, first: usize, len: usize) -> Result<(), Error> {
        let got = first.checked_add(len).ok_or(Error::ShapeOverflow)?;
        match self.table.len().checked_div(self.dim) {
            Some(there) if len > 0 => expect_most("positions, for the rotary table,", there, got),
            _ => Ok(()),
        }
    }

    /// The angles of a position that the table has.
    fn angles(&self, position: usize) -> Angles<'a> {
        let row = position.saturating_mul(self.dim);
        let pairs = |from: usize| self.table.get(from..from.saturating_add(self.dim / 2));
        match (pairs(row), pairs(row.saturating_add(self.dim / 2))) {
            (Some(cos), Some(sin)) => Angles { cos, sin, interleaved: self.interleaved },
            _ => Angles::NONE,
        }
    }
}

/// That a table of `len` floats has whole positions of an even `dim`.
fn check_table(dim: usize, len: usize) -> Result<(), Error> {
    expect_dim("rotary dim (even)", dim & !1, dim)?;
    let rest = len.checked_rem(dim).unwrap_or(len);
    expect_dim("rotary table (whole positions)", len - rest, len)
}

/// Tokens on their way to another place.
pub(super) struct Tokens<'a> {
    pub heads: RawHeads,
    /// Where each sequence begins, and the last one's end, if they are packed.
    pub offsets: Option<&'a [usize]>,
    /// The number of token 0 of each sequence, and its position.
    pub first: &'a [usize],
    pub positions: &'a [usize],
    pub rotary: Option<Rotary<'a>>,
    /// So many tokens of each sequence are moved, the last ones.
    pub most: usize,
}

impl Tokens<'_> {
    /// That there is a number and a position for each sequence, and what is rotated.
    ///
    /// # Errors
    /// [`Error::DimMismatch`], [`Error::TooLarge`] and [`Error::ShapeOverflow`].
    pub fn check(&self, first: &'static str) -> Result<(), Error> {
        longest(self.offsets, self.heads.len, "last of the offsets of tokens")?;
        let sequences = sequences_of(self.offsets, self.heads.batch, "batch of packed tokens")?;
        expect_dim(first, sequences, self.first.len())?;
        expect_dim("batch (length of positions)", sequences, self.positions.len())?;
        if let Some(rotary) = self.rotary {
            expect_most("rotary dim", self.heads.head_dim, rotary.dim)?;
            for (b, &position) in self.positions.iter().enumerate() {
                rotary.check_positions(position, self.of(b).1)?;
            }
        }
        Ok(())
    }

    /// Where sequence `b` begins, and how many tokens it has.
    pub fn of(&self, b: usize) -> ((usize, usize), usize) {
        match offsets_of(self.offsets, b) {
            Some((from, len)) => ((0, from), len),
            None => ((b, 0), self.heads.len),
        }
    }

    /// Moves each token to the sequence and token of `to` that `place(sequence, number, at)` names, where `at` are those
    /// of the token itself.
    ///
    /// # Safety
    /// - Both are valid views with as many heads of as many features, `to` for writing.
    /// - No number overflows, and `place` names a token of `to` for each token that is moved.
    /// - [`check`](Self::check) has passed.
    /// - The views have no element in common, or they are the same, `place` changes nothing, and all features
    ///   are rotated.
    pub unsafe fn move_to(
        &self,
        tier: Option<Tier>,
        to: RawHeads,
        place: impl Fn(usize, usize, (usize, usize)) -> (usize, usize),
    ) {
        let tier = tier.or_else(|| self.rotary?.tier).unwrap_or_else(Tier::detect);
        // Without elements there may be any number of tokens.
        if self.heads.n_heads > 0 && self.heads.head_dim > 0 {
            // SAFETY: as the caller promises.
            dispatch!(tier, s => unsafe { self.move_with(s, to, place) });
        }
    }

    /// # Safety
    /// - As [`move_to`](Self::move_to).
    unsafe fn move_with<S: Simd>(
        &self,
        s: S,
        to: RawHeads,
        place: impl Fn(usize, usize, (usize, usize)) -> (usize, usize),
    ) {
        for (b, (&first, &position)) in self.first.iter().zip(self.positions).enumerate() {
            let ((row, from), len) = self.of(b);
            for i in len.saturating_sub(self.most)..len {
                let angles = self.rotary.map_or(Angles::NONE, |rotary| rotary.angles(position + i));
                let (sequence, token) = place(b, first + i, (row, from + i));
                // SAFETY: tokens that exist, of the same sizes, with at least twice as many features as
                // there are angles.
                unsafe { rotate(s, self.heads.token(row, from + i), angles, to.token(sequence, token)) };
            }
        }
    }
}
