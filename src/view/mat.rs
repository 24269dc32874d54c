//! Matrices over slices.

use core::fmt;
use core::marker::PhantomData;

use super::{RawMat, threads};
use crate::elem::Elem;
use crate::error::{Error, expect_most};

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

threads!(MatRef: Elem, MatMut: Elem);

impl<'a, T: Elem> MatRef<'a, T> {
    /// A row-major matrix of `rows` x `cols` at the start of `data`.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
    #[inline(always)]
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let of = (data.as_ptr().cast_mut().cast(), data.len(), T::KIND);
        Ok(MatRef { raw: RawMat::row_major(of, rows, cols)?, slice: PhantomData })
    }

    /// Element `(i, j)` is `data[i * row_stride + j * col_stride]`. Strides may be 0: a row or column
    /// that is read again and again.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
    #[inline]
    pub fn with_strides(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        let of = (data.as_ptr().cast_mut().cast(), data.len(), T::KIND);
        let raw = RawMat::new(of, [rows, cols], [row_stride, col_stride], false)?;
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
    #[inline(always)]
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let of = (data.as_mut_ptr().cast(), data.len(), T::KIND);
        Ok(MatMut { raw: RawMat::row_major(of, rows, cols)?, slice: PhantomData })
    }

    /// Element `(i, j)` is `data[i * row_stride + j * col_stride]`; one stride must step over the
    /// whole extent of the other dimension.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`], [`Error::ShapeOverflow`] or [`Error::OverlappingStrides`].
    #[inline]
    pub fn with_strides(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        let of = (data.as_mut_ptr().cast(), data.len(), T::KIND);
        let raw = RawMat::new(of, [rows, cols], [row_stride, col_stride], true)?;
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

    /// The same matrix to read.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef { raw: self.raw, slice: PhantomData }
    }
}

macro_rules! both {
    ($view:ident) => {
        impl<T: Elem> $view<'_, T> {
            /// Rows `0..row` and `row..rows`, which may go to two threads.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if there are fewer than `row` rows.
            pub fn split_at_row(self, row: usize) -> Result<(Self, Self), Error> {
                let RawMat { rows, cols, .. } = self.raw;
                expect_most("rows of a part", rows, row)?;
                let part = |i, n| $view { raw: self.raw.block(i, 0, n, cols), slice: PhantomData };
                Ok((part(0, row), part(row, rows - row)))
            }

            /// Columns `0..col` and `col..cols`, which may go to two threads.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if there are fewer than `col` columns.
            pub fn split_at_col(self, col: usize) -> Result<(Self, Self), Error> {
                let RawMat { rows, cols, .. } = self.raw;
                expect_most("columns of a part", cols, col)?;
                let part = |j, n| $view { raw: self.raw.block(0, j, rows, n), slice: PhantomData };
                Ok((part(0, col), part(col, cols - col)))
            }

            /// Rows.
            pub fn rows(&self) -> usize {
                self.raw.rows
            }
            /// Columns.
            pub fn cols(&self) -> usize {
                self.raw.cols
            }
        }

        impl<T: Elem> fmt::Debug for $view<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let RawMat { rows, cols, row_stride, col_stride, .. } = self.raw;
                let (sizes, strides) = ([rows, cols], [row_stride, col_stride]);
                f.debug_struct(stringify!($view)).field("sizes", &sizes).field("strides", &strides).finish()
            }
        }
    };
}
both!(MatRef);
both!(MatMut);
