//! Views over the caller's slices, checked once: the only place where pointers are made from slices.
//!
//! A view is a pointer, sizes and strides, all in elements. Constructors prove that every element
//! lies inside the slice and, for mutable views, that no two elements share a place. Kernels then
//! take the untyped forms ([`RawMat`], [`RawHeads`]) and check nothing.

mod heads;
mod mat;
mod tensor;

use crate::elem::{Elem, Kind};
use crate::error::Error;

pub use heads::{HeadsMut, HeadsRef};
pub use mat::{MatMut, MatRef};
pub(crate) use tensor::RawTensor;
pub use tensor::{TensorMut, TensorRef};

/// A matrix whose element type is a value. All offsets of existing elements fit in `isize`.
#[derive(Clone, Copy)]
pub(crate) struct RawMat {
    ptr: *mut u8,
    // Strides that lie together are copied at once, which waits for both to have been stored.
    pub row_stride: usize,
    pub rows: usize,
    pub col_stride: usize,
    pub cols: usize,
    pub kind: Kind,
}

impl RawMat {
    /// `rows` x `cols` elements, `len` from `ptr` on; for one that is `exclusive`, no two share a place.
    ///
    /// # Errors
    /// Those of the views.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn new(
        (ptr, len, kind): (*mut u8, usize, Kind),
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
        exclusive: bool,
    ) -> Result<RawMat, Error> {
        check(&[(cols, col_stride), (rows, row_stride), (1, 0)], 1, len, exclusive)?;
        // The stride of a dimension that is never stepped along is free: the plain one keeps every offset in range
        // and the contiguous paths open.
        let empty = rows == 0 || cols == 0;
        let of = |size: usize, stride: usize, plain: usize| if size == 1 { plain } else { stride };
        let (row_stride, col_stride) =
            if empty { (0, 0) } else { (of(rows, row_stride, cols), of(cols, col_stride, 1)) };
        Ok(RawMat { ptr, kind, rows, cols, row_stride, col_stride })
    }

    /// [`new`](Self::new) of rows side by side, of which there is less to check.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    fn row_major(
        (ptr, len, kind): (*mut u8, usize, Kind),
        rows: usize,
        cols: usize,
    ) -> Result<RawMat, Error> {
        let needed = rows.checked_mul(cols).ok_or(Error::ShapeOverflow)?;
        if needed > len {
            return Err(Error::SliceTooShort { needed, got: len });
        }
        let (row_stride, col_stride) = if needed == 0 { (0, 0) } else { (cols, 1) };
        Ok(RawMat { ptr, kind, rows, cols, row_stride, col_stride })
    }

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

    /// Rows of elements side by side.
    #[inline(always)]
    pub fn of_rows<E: Elem>(ptr: *const E, [rows, cols]: [usize; 2], row_stride: usize) -> RawMat {
        RawMat { rows, row_stride, ..RawMat::row(ptr, cols) }
    }

    /// The address of the first element.
    pub fn bytes(&self) -> *const u8 {
        self.ptr
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

/// The heads of Q, K, V or the output: `len` rows of `head_dim` contiguous elements for each head, for
/// each sequence of a batch.
#[derive(Clone, Copy)]
pub(crate) struct RawHeads {
    ptr: *mut u8,
    pub kind: Kind,
    pub batch: usize,
    pub len: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub batch_stride: usize,
    pub token_stride: usize,
    pub head_stride: usize,
}

impl RawHeads {
    /// `sizes` are `[batch, len, n_heads, head_dim]`, strides those of all but the features, for `len` elements from
    /// `ptr` on; for one that is `exclusive`, no two share a place.
    ///
    /// # Errors
    /// Those of the views.
    #[cfg_attr(target_os = "none", inline(never))]
    #[cfg_attr(not(target_os = "none"), inline)]
    fn new(
        (ptr, len, kind): (*mut u8, usize, Kind),
        sizes: [usize; 4],
        strides: [usize; 3],
        exclusive: bool,
    ) -> Result<RawHeads, Error> {
        let [batch, tokens, n_heads, head_dim] = sizes;
        let [batch_stride, token_stride, head_stride] = strides;
        let dims = [(n_heads, head_stride), (tokens, token_stride), (batch, batch_stride)];
        check(&dims, head_dim, len, exclusive)?;
        let empty = sizes.contains(&0);
        // As for matrices: what is never stepped along has a stride that cannot overflow.
        let [head_stride, token_stride, batch_stride] =
            dims.map(|(size, stride)| if empty || size == 1 { 0 } else { stride });
        Ok(RawHeads {
            ptr,
            kind,
            batch,
            len: tokens,
            n_heads,
            head_dim,
            batch_stride,
            token_stride,
            head_stride,
        })
    }

    /// [`new`](Self::new) of `[batch][len][n_heads][head_dim]` side by side, of which there is less to check.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    fn token_major(
        (ptr, len, kind): (*mut u8, usize, Kind),
        [batch, tokens, n_heads, head_dim]: [usize; 4],
    ) -> Result<RawHeads, Error> {
        let [head_stride, token_stride, batch_stride] =
            side_by_side(head_dim, [n_heads, tokens, batch], len)?;
        let len = tokens;
        Ok(RawHeads { ptr, kind, batch, len, n_heads, head_dim, batch_stride, token_stride, head_stride })
    }

    /// The same of `[batch][n_heads][len][head_dim]`.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    fn head_major(
        (ptr, len, kind): (*mut u8, usize, Kind),
        [batch, tokens, n_heads, head_dim]: [usize; 4],
    ) -> Result<RawHeads, Error> {
        // Tokens and heads change places.
        let turned = RawHeads::token_major((ptr, len, kind), [batch, n_heads, tokens, head_dim])?;
        let RawHeads { token_stride, head_stride, .. } = turned;
        Ok(RawHeads { len: tokens, n_heads, token_stride: head_stride, head_stride: token_stride, ..turned })
    }

    /// The same sizes with other features, which nobody reads.
    pub fn of_dim(self, head_dim: usize) -> RawHeads {
        RawHeads { head_dim, ..self }
    }

    /// Token `t` of sequence `b`: a row for each head.
    #[inline(always)]
    pub fn token(&self, b: usize, t: usize) -> RawMat {
        debug_assert!(b < self.batch && t < self.len);
        let offset = (b * self.batch_stride + t * self.token_stride) * self.kind.size();
        RawMat {
            ptr: self.ptr.wrapping_add(offset),
            kind: self.kind,
            rows: self.n_heads,
            cols: self.head_dim,
            row_stride: self.head_stride,
            col_stride: 1,
        }
    }

    /// Sequence `b` alone.
    #[inline(always)]
    pub fn sequence(&self, b: usize) -> Sequence<'_> {
        self.tokens(b, 0, self.len)
    }

    /// `len` tokens of sequence `b` from `token` on.
    #[inline(always)]
    pub fn tokens(&self, b: usize, token: usize, len: usize) -> Sequence<'_> {
        debug_assert!((b < self.batch || b == 0) && token + len <= self.len);
        let offset = (b * self.batch_stride + token * self.token_stride) * self.kind.size();
        Sequence { of: self, ptr: self.ptr.wrapping_add(offset), len }
    }

    /// `len` tokens from `token` on of `n_heads` heads from `head` on.
    pub fn part(&self, token: usize, head: usize, len: usize, n_heads: usize) -> RawHeads {
        debug_assert!(token + len <= self.len && head + n_heads <= self.n_heads);
        let offset = (token * self.token_stride + head * self.head_stride) * self.kind.size();
        RawHeads { ptr: self.ptr.wrapping_add(offset), len, n_heads, ..*self }
    }
}

/// Some tokens of heads.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a> {
    pub of: &'a RawHeads,
    ptr: *mut u8,
    pub len: usize,
}

impl Sequence<'_> {
    /// Head `h` as a matrix of `len` x `head_dim`.
    #[inline(always)]
    pub fn head(&self, h: usize) -> RawMat {
        debug_assert!(h < self.of.n_heads);
        RawMat {
            ptr: self.ptr.wrapping_add(h * self.of.head_stride * self.of.kind.size()),
            kind: self.of.kind,
            rows: self.len,
            cols: self.of.head_dim,
            row_stride: self.of.token_stride,
            col_stride: 1,
        }
    }

    /// `n` tokens of head `h` from token `t` on, so many sequences further on.
    #[inline(always)]
    pub fn run(&self, h: usize, sequences: usize, t: usize, n: usize) -> RawMat {
        debug_assert!(t + n <= self.len);
        // A page that is only asked for need not exist.
        let offset = sequences.wrapping_mul(self.of.batch_stride).wrapping_add(t * self.of.token_stride);
        let offset = offset.wrapping_mul(self.of.kind.size());
        let head = self.head(h);
        RawMat { ptr: head.ptr.wrapping_add(offset), rows: n, ..head }
    }
}

/// Strides of dimensions of these `sizes`, from the inside out, whose elements lie side by side in `len` of them;
/// `width` is how many contiguous ones there are at each place.
#[inline(always)]
fn side_by_side(width: usize, sizes: [usize; 3], len: usize) -> Result<[usize; 3], Error> {
    let [a, b, c] = sizes;
    let times = |x: usize, y: usize| x.checked_mul(y).ok_or(Error::ShapeOverflow);
    // In a row: opt-level "s" unrolls no loop, and arrays would lie in memory.
    let second = times(width, a)?;
    let third = times(second, b)?;
    let needed = times(third, c)?;
    if needed > len {
        return Err(Error::SliceTooShort { needed, got: len });
    }
    // What is never stepped along has a stride that cannot overflow.
    let of = |size: usize, stride: usize| if needed == 0 || size == 1 { 0 } else { stride };
    Ok([of(a, width), of(b, second), of(c, third)])
}

/// That all elements lie in `len` of them and, for a view that is `exclusive`, that no two coincide. `dims` are
/// sizes and strides from the inside out; `width` is how many contiguous elements there are at each place.
#[cfg_attr(not(target_os = "none"), inline)]
#[cfg_attr(target_os = "none", inline(never))]
fn check(dims: &[(usize, usize); 3], width: usize, len: usize, exclusive: bool) -> Result<(), Error> {
    let mut needed = width;
    if width == 0 || dims.iter().any(|&(size, _)| size == 0) {
        return Ok(());
    }
    for &(size, stride) in dims {
        let step = (size - 1).checked_mul(stride).ok_or(Error::ShapeOverflow)?;
        needed = needed.checked_add(step).ok_or(Error::ShapeOverflow)?;
    }
    if needed > len {
        return Err(Error::SliceTooShort { needed, got: len });
    }
    if exclusive { check_disjoint(*dims, width) } else { Ok(()) }
}

/// That no two elements coincide: each dimension steps over the whole of those with smaller strides. The sizes are
/// not 0.
#[inline(always)]
fn check_disjoint(mut dims: [(usize, usize); 3], width: usize) -> Result<(), Error> {
    // Stable for equal strides, and without the sort of core, which may panic. Who repeats is outermost.
    for end in [2, 1] {
        for i in 0..end {
            // At opt-level "z" the compiler does not see that an index is inside.
            if let Some([a, b]) = dims.get_mut(i..i + 2)
                && a.1.wrapping_sub(1) > b.1.wrapping_sub(1)
            {
                core::mem::swap(a, b);
            }
        }
    }
    let mut inside = width;
    for (size, stride) in dims {
        // What is never stepped along has any stride.
        if size > 1 {
            if stride < inside {
                return Err(Error::OverlappingStrides { stride, needed: inside });
            }
            // No more than all elements are.
            inside += (size - 1) * stride;
        }
    }
    Ok(())
}

/// Views may go to other threads.
macro_rules! threads {
    ($($view:ident: $bound:ident),*) => { $(
        // SAFETY: a view is the borrow of a slice of `T` that its lifetime names: shared for the `Ref`
        // types, exclusive and without overlap for the `Mut` types. Its elements are numbers.
        unsafe impl<T: $bound> Send for $view<'_, T> {}
        // SAFETY: as above.
        unsafe impl<T: $bound> Sync for $view<'_, T> {}
    )* };
}
use threads;
