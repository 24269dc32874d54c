//! Heads of Q, K, V and the output over slices.

use core::fmt;
use core::marker::PhantomData;

use super::{RawHeads, threads};
use crate::elem::Elem;
use crate::error::{Error, expect_most};

/// The heads of Q, K or V to read: `len` tokens, `n_heads` heads, `head_dim` contiguous elements each.
///
/// ```
/// use qkv::HeadsRef;
/// // A cache for 8 tokens, laid out [token][head][feature]; 3 tokens are filled.
/// let cache = [0.0_f32; 8 * 2 * 4];
/// let k = HeadsRef::token_major(&cache, 8, 2, 4)?.first_rows(3)?;
/// assert_eq!((k.len(), k.n_heads(), k.head_dim()), (3, 2, 4));
///
/// // Q, K and V of one product, side by side in each token: 4 query heads and 2 of keys and of values.
/// let projected = [0.0_f32; 3 * 8 * 4];
/// let (q, rest) = HeadsRef::token_major(&projected, 3, 8, 4)?.split_at_head(4)?;
/// let (k, v) = rest.split_at_head(2)?;
/// # assert_eq!((q.n_heads(), k.n_heads(), v.n_heads()), (4, 2, 2));
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct HeadsRef<'a, T: Elem> {
    pub(crate) raw: RawHeads,
    slice: PhantomData<&'a [T]>,
}

/// The heads of an attention output: `len` tokens, `n_heads` heads, `head_dim` elements each.
pub struct HeadsMut<'a, T: Elem> {
    pub(crate) raw: RawHeads,
    slice: PhantomData<&'a mut [T]>,
}

threads!(HeadsRef: Elem, HeadsMut: Elem);

macro_rules! heads {
    ($view:ident, [$($mutability:tt)?], [$($as_ptr:tt)*], $exclusive:expr) => {
        impl<'a, T: Elem> $view<'a, T> {
            /// Memory `[len][n_heads][head_dim]`: one token's heads lie together.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            #[inline(always)]
            pub fn token_major(
                data: &'a $($mutability)? [T],
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                Self::batch_token_major(data, 1, len, n_heads, head_dim)
            }

            /// Memory `[n_heads][len][head_dim]`: one head's tokens lie together. The arguments come
            /// in the same order as in [`token_major`](Self::token_major).
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            #[inline(always)]
            pub fn head_major(
                data: &'a $($mutability)? [T],
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                Self::batch_head_major(data, 1, len, n_heads, head_dim)
            }

            /// Feature `d` of token `t` of head `h` is `data[t * token_stride + h * head_stride + d]`.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`], [`Error::ShapeOverflow`], and for an output
            /// [`Error::OverlappingStrides`].
            pub fn with_strides(
                data: &'a $($mutability)? [T],
                len: usize,
                n_heads: usize,
                head_dim: usize,
                token_stride: usize,
                head_stride: usize,
            ) -> Result<Self, Error> {
                Self::batch_with_strides(data, [1, len, n_heads, head_dim], [0, token_stride, head_stride])
            }

            /// Memory `[batch][len][n_heads][head_dim]`: sequences one behind the other.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            #[inline(always)]
            pub fn batch_token_major(
                data: &'a $($mutability)? [T],
                batch: usize,
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                let of = (data.$($as_ptr)*.cast(), data.len(), T::KIND);
                let raw = RawHeads::token_major(of, [batch, len, n_heads, head_dim])?;
                Ok($view { raw, slice: PhantomData })
            }

            /// Memory `[batch][n_heads][len][head_dim]`; the arguments come in the same order as in
            /// [`batch_token_major`](Self::batch_token_major).
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            #[inline(always)]
            pub fn batch_head_major(
                data: &'a $($mutability)? [T],
                batch: usize,
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                let of = (data.$($as_ptr)*.cast(), data.len(), T::KIND);
                let raw = RawHeads::head_major(of, [batch, len, n_heads, head_dim])?;
                Ok($view { raw, slice: PhantomData })
            }

            /// `sizes` are `[batch, len, n_heads, head_dim]`, `strides` those of batch, tokens and heads:
            /// feature `d` of token `t` of head `h` of sequence `b` is
            /// `data[b * strides[0] + t * strides[1] + h * strides[2] + d]`.
            ///
            /// # Errors
            /// As [`with_strides`](Self::with_strides).
            pub fn batch_with_strides(
                data: &'a $($mutability)? [T],
                sizes: [usize; 4],
                strides: [usize; 3],
            ) -> Result<Self, Error> {
                let of = (data.$($as_ptr)*.cast(), data.len(), T::KIND);
                Ok($view { raw: RawHeads::new(of, sizes, strides, $exclusive)?, slice: PhantomData })
            }

            /// The first `len` tokens: the filled part of a cache.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if there are fewer.
            pub fn first_rows(self, len: usize) -> Result<Self, Error> {
                expect_most("rows of a part", self.raw.len, len)?;
                Ok($view { raw: self.raw.part(0, 0, len, self.raw.n_heads), slice: PhantomData })
            }

            /// Tokens `0..row` and `row..len`.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if there are fewer than `row` tokens.
            pub fn split_at_row(self, row: usize) -> Result<(Self, Self), Error> {
                let RawHeads { len, n_heads, .. } = self.raw;
                expect_most("rows of a part", len, row)?;
                let part = |t, n| $view { raw: self.raw.part(t, 0, n, n_heads), slice: PhantomData };
                Ok((part(0, row), part(row, len - row)))
            }

            /// Heads `0..head` and `head..n_heads`.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if there are fewer than `head` heads.
            pub fn split_at_head(self, head: usize) -> Result<(Self, Self), Error> {
                let RawHeads { len, n_heads, .. } = self.raw;
                expect_most("heads of a part", n_heads, head)?;
                let part = |h, n| $view { raw: self.raw.part(0, h, len, n), slice: PhantomData };
                Ok((part(0, head), part(head, n_heads - head)))
            }

            /// Runs of `heads` heads (at least 1; the last may be shorter), each a view of its own that
            /// may go to another thread.
            pub fn head_chunks(self, heads: usize) -> impl Iterator<Item = Self> {
                let RawHeads { len, n_heads, .. } = self.raw;
                let size = heads.max(1);
                (0..n_heads).step_by(size).map(move |h| $view {
                    raw: self.raw.part(0, h, len, size.min(n_heads - h)),
                    slice: PhantomData,
                })
            }

            /// Sequences.
            pub fn batch(&self) -> usize {
                self.raw.batch
            }
            /// Tokens of a sequence.
            pub fn len(&self) -> usize {
                self.raw.len
            }
            /// Whether sequences have no tokens.
            pub fn is_empty(&self) -> bool {
                self.raw.len == 0
            }
            /// Heads.
            pub fn n_heads(&self) -> usize {
                self.raw.n_heads
            }
            /// Features of a head.
            pub fn head_dim(&self) -> usize {
                self.raw.head_dim
            }
        }

        impl<T: Elem> fmt::Debug for $view<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let RawHeads { batch, len, n_heads, head_dim, batch_stride, token_stride, head_stride, .. } = self.raw;
                let sizes = [batch, len, n_heads, head_dim];
                let strides = [batch_stride, token_stride, head_stride];
                f.debug_struct(stringify!($view)).field("sizes", &sizes).field("strides", &strides).finish()
            }
        }
    };
}
heads!(HeadsRef, [], [as_ptr().cast_mut()], false);
heads!(HeadsMut, [mut], [as_mut_ptr()], true);

impl<T: Elem> HeadsMut<'_, T> {
    /// A shorter borrow of the same heads.
    pub fn reborrow(&mut self) -> HeadsMut<'_, T> {
        HeadsMut { raw: self.raw, slice: PhantomData }
    }

    /// The same heads to read.
    pub fn as_ref(&self) -> HeadsRef<'_, T> {
        HeadsRef { raw: self.raw, slice: PhantomData }
    }
}
