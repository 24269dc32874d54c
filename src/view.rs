//! Views over the caller's slices, checked once: the only place where pointers are made from slices.
//!
//! A view is a pointer, sizes and strides, all in elements. Constructors prove that every element
//! lies inside the slice and, for mutable views, that no two elements share a place. Kernels then
//! take the untyped forms ([`RawMat`], [`RawHeads`]) and check nothing.

use core::marker::PhantomData;

use crate::elem::{Elem, Kind};
use crate::error::Error;

/// A matrix whose element type is a value. All offsets of existing elements fit in `isize`.
#[derive(Clone, Copy)]
pub(crate) struct RawMat {
    ptr: *mut u8,
    pub kind: Kind,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl RawMat {
    pub fn t(self) -> RawMat {
        RawMat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// One row of elements side by side.
    #[inline(always)]
    pub fn row<E: Elem>(ptr: *const E, cols: usize) -> RawMat {
        RawMat { ptr: ptr.cast_mut().cast(), rows: 1, cols, row_stride: 0, col_stride: 1, kind: E::KIND }
    }

    /// The address of element `(i, j)`, which need not be read; `E` is the view's own type.
    #[inline(always)]
    pub fn at<E: Elem>(&self, i: usize, j: usize) -> *mut E {
        debug_assert!(E::KIND == self.kind);
        self.ptr.cast::<E>().wrapping_add(i * self.row_stride + j * self.col_stride)
    }

    /// The part of `rows` x `cols` that starts at `(i, j)` and must lie inside.
    #[inline(always)]
    pub fn block(&self, i: usize, j: usize, rows: usize, cols: usize) -> RawMat {
        debug_assert!(i + rows <= self.rows && j + cols <= self.cols);
        let offset = (i * self.row_stride + j * self.col_stride) * self.kind.size();
        RawMat { ptr: self.ptr.wrapping_add(offset), rows, cols, ..*self }
    }
}

/// The heads of Q, K, V or the output: `len` rows of `head_dim` contiguous elements for each head.
#[derive(Clone, Copy)]
pub(crate) struct RawHeads {
    ptr: *mut u8,
    pub kind: Kind,
    pub len: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub token_stride: usize,
    pub head_stride: usize,
}

impl RawHeads {
    /// Head `h` as a matrix of `len` x `head_dim`.
    #[inline(always)]
    pub fn head(&self, h: usize) -> RawMat {
        debug_assert!(h < self.n_heads);
        RawMat {
            ptr: self.ptr.wrapping_add(h * self.head_stride * self.kind.size()),
            kind: self.kind,
            rows: self.len,
            cols: self.head_dim,
            row_stride: self.token_stride,
            col_stride: 1,
        }
    }

    fn part(&self, token: usize, head: usize, len: usize, n_heads: usize) -> RawHeads {
        let offset = (token * self.token_stride + head * self.head_stride) * self.kind.size();
        RawHeads { ptr: self.ptr.wrapping_add(offset), len, n_heads, ..*self }
    }
}

/// `1 + Σ (size - 1) * stride`: the elements from the first to the last one of a view; 0 if a size is.
fn extent(dims: &[(usize, usize)]) -> Result<usize, Error> {
    let mut last = 0_usize;
    if dims.iter().any(|&(size, _)| size == 0) {
        return Ok(0);
    }
    for &(size, stride) in dims {
        let step = (size - 1).checked_mul(stride).ok_or(Error::ShapeOverflow)?;
        last = last.checked_add(step).ok_or(Error::ShapeOverflow)?;
    }
    last.checked_add(1).ok_or(Error::ShapeOverflow)
}

fn check_len(dims: &[(usize, usize)], len: usize) -> Result<(), Error> {
    let needed = extent(dims)?;
    if needed <= len { Ok(()) } else { Err(Error::SliceTooShort { needed, got: len }) }
}

/// That no two elements coincide: one of the two dimensions steps over the whole of the other.
/// `width` is how many contiguous elements there are at each place.
fn check_disjoint(a: (usize, usize), b: (usize, usize), width: usize) -> Result<(), Error> {
    if a.0 == 0 || b.0 == 0 || width == 0 {
        return Ok(());
    }
    // The smallest stride that steps over what lies inside, where there is anything to step over.
    let steps_over = |dim: (usize, usize), needed: usize| {
        if dim.0 == 1 || dim.1 >= needed {
            Ok(())
        } else {
            Err(Error::OverlappingStrides { stride: dim.1, needed })
        }
    };
    let nested = |outer: (usize, usize), inner: (usize, usize)| {
        steps_over(inner, width)?;
        steps_over(outer, extent(&[inner])?.checked_add(width - 1).ok_or(Error::ShapeOverflow)?)
    };
    nested(a, b).or_else(|error| nested(b, a).map_err(|_| error))
}

/// A matrix to read: `rows` x `cols` over a slice, with any strides (in elements).
///
/// ```
/// use qkv::MatRef;
/// let data = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let a = MatRef::new(&data, 2, 3)?;
/// assert_eq!((a.t().rows(), a.t().cols()), (3, 2));
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct MatRef<'a, T: Elem> {
    pub(crate) raw: RawMat,
    slice: PhantomData<&'a [T]>,
}

/// A matrix to write: `rows` x `cols` over a slice, with strides under which no two elements meet.
pub struct MatMut<'a, T: Elem> {
    pub(crate) raw: RawMat,
    slice: PhantomData<&'a mut [T]>,
}

/// The heads of Q, K or V to read: `len` tokens, `n_heads` heads, `head_dim` contiguous elements each.
///
/// ```
/// use qkv::HeadsRef;
/// // A cache for 8 tokens, laid out [token][head][feature]; 3 tokens are filled.
/// let cache = [0.0_f32; 8 * 2 * 4];
/// let k = HeadsRef::token_major(&cache, 8, 2, 4)?.first_rows(3)?;
/// assert_eq!((k.len(), k.n_heads(), k.head_dim()), (3, 2, 4));
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

// SAFETY: a view is the borrow of a slice of `T` that its lifetime names: shared for the `Ref` types,
// exclusive and without overlap for the `Mut` types. `Elem` types are `Send` and `Sync`.
unsafe impl<T: Elem> Send for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Sync for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Send for MatMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Sync for MatMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Send for HeadsRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Sync for HeadsRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Send for HeadsMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Sync for HeadsMut<'_, T> {}

fn raw_mat<T: Elem>(ptr: *mut T, rows: usize, cols: usize, strides: (usize, usize)) -> RawMat {
    // The stride of a dimension that is never stepped along is free: the plain one keeps every
    // offset in range and the contiguous paths open.
    let empty = rows == 0 || cols == 0;
    let col_stride = if empty {
        0
    } else if cols == 1 {
        1
    } else {
        strides.1
    };
    let row_stride = if empty {
        0
    } else if rows == 1 {
        cols
    } else {
        strides.0
    };
    RawMat { ptr: ptr.cast(), kind: T::KIND, rows, cols, row_stride, col_stride }
}

fn raw_heads<T: Elem>(ptr: *mut T, sizes: (usize, usize, usize), strides: (usize, usize)) -> RawHeads {
    let (len, n_heads, head_dim) = sizes;
    let empty = len == 0 || n_heads == 0 || head_dim == 0;
    // As for matrices: what is never stepped along has a stride that cannot overflow.
    let token_stride = if empty || len == 1 { 0 } else { strides.0 };
    let head_stride = if empty || n_heads == 1 { 0 } else { strides.1 };
    RawHeads { ptr: ptr.cast(), kind: T::KIND, len, n_heads, head_dim, token_stride, head_stride }
}

impl<'a, T: Elem> MatRef<'a, T> {
    /// A row-major matrix of `rows` x `cols` at the start of `data`.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// Element `(i, j)` is `data[i * row_stride + j * col_stride]`. Strides may be 0: a row or column
    /// that is read again and again.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
    pub fn with_strides(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        check_len(&[(rows, row_stride), (cols, col_stride)], data.len())?;
        let raw = raw_mat(data.as_ptr().cast_mut(), rows, cols, (row_stride, col_stride));
        Ok(MatRef { raw, slice: PhantomData })
    }

    /// The transposed view; nothing is moved.
    pub fn t(self) -> Self {
        MatRef { raw: self.raw.t(), ..self }
    }
}

impl<'a, T: Elem> MatMut<'a, T> {
    /// A row-major matrix of `rows` x `cols` at the start of `data`.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// Element `(i, j)` is `data[i * row_stride + j * col_stride]`; one stride must step over the
    /// whole extent of the other dimension.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`], [`Error::ShapeOverflow`] or [`Error::OverlappingStrides`].
    pub fn with_strides(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        check_len(&[(rows, row_stride), (cols, col_stride)], data.len())?;
        check_disjoint((rows, row_stride), (cols, col_stride), 1)?;
        let raw = raw_mat(data.as_mut_ptr(), rows, cols, (row_stride, col_stride));
        Ok(MatMut { raw, slice: PhantomData })
    }

    /// The transposed view; nothing is moved.
    pub fn t(self) -> Self {
        MatMut { raw: self.raw.t(), ..self }
    }

    /// A shorter borrow of the same matrix.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { raw: self.raw, slice: PhantomData }
    }

    /// Rows `0..row` and `row..rows`, which may go to two threads.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if there are fewer than `row` rows.
    pub fn split_at_row(self, row: usize) -> Result<(Self, Self), Error> {
        let RawMat { rows, cols, .. } = self.raw;
        check_part(row, rows)?;
        let part = |i, n| MatMut { raw: self.raw.block(i, 0, n, cols), slice: PhantomData };
        Ok((part(0, row), part(row, rows - row)))
    }
}

fn check_part(asked: usize, there: usize) -> Result<(), Error> {
    if asked <= there { Ok(()) } else { Err(Error::DimMismatch { dim: "part", expected: there, got: asked }) }
}

macro_rules! mat_sizes {
    ($view:ident) => {
        impl<T: Elem> $view<'_, T> {
            /// Rows.
            pub fn rows(&self) -> usize {
                self.raw.rows
            }
            /// Columns.
            pub fn cols(&self) -> usize {
                self.raw.cols
            }
        }
    };
}
mat_sizes!(MatRef);
mat_sizes!(MatMut);

macro_rules! heads {
    ($view:ident, [$($mutability:tt)?], [$($as_ptr:tt)*], $check_disjoint:expr) => {
        impl<'a, T: Elem> $view<'a, T> {
            /// Memory `[len][n_heads][head_dim]`: one token's heads lie together.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            pub fn token_major(
                data: &'a $($mutability)? [T],
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                let token_stride = n_heads.checked_mul(head_dim).ok_or(Error::ShapeOverflow)?;
                Self::with_strides(data, len, n_heads, head_dim, token_stride, head_dim)
            }

            /// Memory `[n_heads][len][head_dim]`: one head's tokens lie together. The arguments come
            /// in the same order as in [`token_major`](Self::token_major).
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            pub fn head_major(
                data: &'a $($mutability)? [T],
                len: usize,
                n_heads: usize,
                head_dim: usize,
            ) -> Result<Self, Error> {
                let head_stride = len.checked_mul(head_dim).ok_or(Error::ShapeOverflow)?;
                Self::with_strides(data, len, n_heads, head_dim, head_dim, head_stride)
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
                check_len(&[(len, token_stride), (n_heads, head_stride), (head_dim, 1)], data.len())?;
                if $check_disjoint {
                    check_disjoint((len, token_stride), (n_heads, head_stride), head_dim)?;
                }
                let ptr = data.$($as_ptr)*;
                let raw = raw_heads(ptr, (len, n_heads, head_dim), (token_stride, head_stride));
                Ok($view { raw, slice: PhantomData })
            }

            /// The first `len` tokens: the filled part of a cache.
            ///
            /// # Errors
            /// [`Error::DimMismatch`] if there are fewer.
            pub fn first_rows(self, len: usize) -> Result<Self, Error> {
                check_part(len, self.raw.len)?;
                Ok($view { raw: self.raw.part(0, 0, len, self.raw.n_heads), slice: PhantomData })
            }

            /// Tokens `0..row` and `row..len`.
            ///
            /// # Errors
            /// [`Error::DimMismatch`] if there are fewer than `row` tokens.
            pub fn split_at_row(self, row: usize) -> Result<(Self, Self), Error> {
                let RawHeads { len, n_heads, .. } = self.raw;
                check_part(row, len)?;
                let part = |t, n| $view { raw: self.raw.part(t, 0, n, n_heads), slice: PhantomData };
                Ok((part(0, row), part(row, len - row)))
            }

            /// Heads `0..head` and `head..n_heads`.
            ///
            /// # Errors
            /// [`Error::DimMismatch`] if there are fewer than `head` heads.
            pub fn split_at_head(self, head: usize) -> Result<(Self, Self), Error> {
                let RawHeads { len, n_heads, .. } = self.raw;
                check_part(head, n_heads)?;
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

            /// Tokens.
            #[expect(clippy::len_without_is_empty, reason = "a view without tokens is not a special case")]
            pub fn len(&self) -> usize {
                self.raw.len
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
    };
}
heads!(HeadsRef, [], [as_ptr().cast_mut()], false);
heads!(HeadsMut, [mut], [as_mut_ptr()], true);

impl<T: Elem> HeadsMut<'_, T> {
    /// A shorter borrow of the same heads.
    pub fn reborrow(&mut self) -> HeadsMut<'_, T> {
        HeadsMut { raw: self.raw, slice: PhantomData }
    }
}
