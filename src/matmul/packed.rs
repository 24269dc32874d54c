//! Weights packed once into the layout that the tile reads, and used many times.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::Rhs;
use crate::elem::{Elem, Kind, by_kind};
#[cfg(feature = "half")]
use crate::elem::{f32_to_bf16, f32_to_f16};
use crate::error::{Error, expect_dim, expect_most};
use crate::kernel::pack::{Grid, pack, unpack_row};
use crate::kernel::tile::PANEL_COLS;
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};
use crate::view::{MatRef, RawMat};

/// Rows that are widened before they are rounded.
const ROWS: usize = 16;

/// A `k` x `n` matrix in panels of 16 columns: `[ceil(n / 16)][k][16]`, padded with zeros.
///
/// The layout is the same on every target and for every tier, so packed weights may be stored. `T`
/// may be a 16-bit type: it is widened as the tile reads it.
///
/// ```
/// use qkv::{MatMut, MatRef, Matmul, PackedMat};
/// let weights = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let mut storage = [0.0_f32; PackedMat::<f32>::len(2, 3)];
/// let packed = PackedMat::pack(MatRef::new(&weights, 2, 3)?, &mut storage)?;
///
/// let (a, mut c) = ([1.0_f32, 10.0], [0.0_f32; 3]);
/// Matmul::new().run_packed(MatRef::new(&a, 1, 2)?, packed, MatMut::new(&mut c, 1, 3)?, &mut [])?;
/// assert_eq!(c, [41.0, 52.0, 63.0]);
/// # Ok::<(), qkv::Error>(())
/// ```
///
/// Weights that are known at compile time are packed then, for flash: [`pack_const`](Self::pack_const), and
/// `pack_const_f32` to 16 bits.
///
/// ```
/// use qkv::{MatMut, MatRef, Matmul, PackedMat};
/// # #[cfg(feature = "half")] {
/// use qkv::bf16;
/// const WEIGHTS: [[f32; 3]; 2] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
/// static PACKED: [bf16; PackedMat::<bf16>::len(2, 3)] = PackedMat::<bf16>::pack_const_f32(&WEIGHTS);
///
/// let (a, mut c) = ([1.0_f32, 10.0], [0.0_f32; 3]);
/// let weights = PackedMat::from_array::<2, 3, _>(&PACKED);
/// Matmul::new().run_packed(MatRef::new(&a, 1, 2)?, weights, MatMut::new(&mut c, 1, 3)?, &mut [])?;
/// assert_eq!(c, [41.0, 52.0, 63.0]);
/// # }
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct PackedMat<'a, T: Elem> {
    ptr: *const T,
    k: usize,
    n: usize,
    slice: PhantomData<&'a [T]>,
}

// SAFETY: the shared borrow of a slice of `T`, which is `Sync`.
unsafe impl<T: Elem> Send for PackedMat<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Elem> Sync for PackedMat<'_, T> {}

impl<'a, T: Elem> PackedMat<'a, T> {
    /// Elements of storage for a `k` x `n` matrix; `usize::MAX` if that is more than fits.
    pub const fn len(k: usize, n: usize) -> usize {
        n.div_ceil(PANEL_COLS).saturating_mul(k).saturating_mul(PANEL_COLS)
    }

    /// Packs `b`, rounding to `T` where `T` is narrower.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] if `storage` is shorter than [`len`](Self::len).
    pub fn pack<B: Elem>(b: MatRef<'_, B>, storage: &'a mut [T]) -> Result<Self, Error> {
        let (k, n) = (b.rows(), b.cols());
        let needed = Self::len(k, n);
        let got = storage.len();
        let Some(storage) = storage.get_mut(..needed) else {
            return Err(Error::SliceTooShort { needed, got });
        };
        if needed > 0 {
            let to = storage.as_mut_ptr();
            // SAFETY: the view is valid by construction; the storage has room for all panels.
            dispatch!(Tier::detect(), s => unsafe { panels(s, b.raw, to.cast(), T::KIND) });
        }
        Self::from_packed(storage, k, n)
    }

    /// A matrix that was packed earlier.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if `storage` is not exactly [`len(k, n)`](Self::len) elements long.
    pub fn from_packed(storage: &'a [T], k: usize, n: usize) -> Result<Self, Error> {
        expect_dim("packed length", Self::len(k, n), storage.len())?;
        Ok(PackedMat { ptr: storage.as_ptr(), k, n, slice: PhantomData })
    }

    /// The packed elements of `b`, also at compile time; `LEN` is [`len(K, N)`](Self::len), and anything else
    /// does not compile.
    ///
    /// 1,024 x 512 elements compile as they are; for many more the compiler asks to
    /// `#[allow(long_running_const_eval)]`.
    ///
    /// ```
    /// use qkv::PackedMat;
    /// static PACKED: [f32; PackedMat::<f32>::len(1, 2)] = PackedMat::pack_const(&[[1.0, 2.0]]);
    /// assert_eq!(PACKED[..3], [1.0, 2.0, 0.0]);
    /// ```
    /// ```compile_fail,E0080
    /// use qkv::PackedMat;
    /// static PACKED: [f32; 17] = PackedMat::pack_const(&[[1.0, 2.0]]); // 16 are needed
    /// ```
    pub const fn pack_const<const K: usize, const N: usize, const LEN: usize>(b: &[[T; N]; K]) -> [T; LEN] {
        const { assert!(LEN == Self::len(K, N), "LEN is not PackedMat::len(K, N)") };
        let mut packed = [T::ZERO; LEN];
        let mut at = 0;
        while at < LEN {
            let (t, column) = (at / PANEL_COLS % K, at / (PANEL_COLS * K) * PANEL_COLS + at % PANEL_COLS);
            if column < N {
                packed[at] = b[t][column];
            }
            at += 1;
        }
        packed
    }

    /// A matrix of `K` x `N` that was packed earlier; another length than [`len(K, N)`](Self::len) does not
    /// compile.
    ///
    /// ```compile_fail,E0080
    /// let packed = qkv::PackedMat::from_array::<1, 2, 15>(&[0.0_f32; 15]); // 16 are needed
    /// ```
    pub const fn from_array<const K: usize, const N: usize, const LEN: usize>(packed: &'a [T; LEN]) -> Self {
        const { assert!(LEN == Self::len(K, N), "LEN is not PackedMat::len(K, N)") };
        PackedMat { ptr: packed.as_ptr(), k: K, n: N, slice: PhantomData }
    }

    /// Columns `0..col` and `col..cols`, for two threads: of a product of few rows each thread takes some columns of C.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are fewer than `col` columns, [`Error::DimMismatch`] if `col` is within a panel: no
    /// multiple of 16.
    ///
    /// ```
    /// use qkv::{MatMut, MatRef, Matmul, PackedMat};
    /// let weights = [0.5_f32; 3 * 40];
    /// let mut storage = [0.0_f32; PackedMat::<f32>::len(3, 40)];
    /// let packed = PackedMat::pack(MatRef::new(&weights, 3, 40)?, &mut storage)?;
    /// let (x, mut y) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 40]);
    /// let x = MatRef::new(&x, 1, 3)?;
    /// let ((left, right), y_parts) = (packed.split_at_col(32)?, MatMut::new(&mut y, 1, 40)?.split_at_col(32)?);
    /// std::thread::scope(|threads| {
    ///     for (weights, y) in [(left, y_parts.0), (right, y_parts.1)] {
    ///         threads.spawn(move || Matmul::new().run_packed(x, weights, y, &mut []));
    ///     }
    /// });
    /// assert_eq!(y, [3.0; 40]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub fn split_at_col(self, col: usize) -> Result<(Self, Self), Error> {
        expect_most("columns of a part", self.n, col)?;
        if col < self.n {
            expect_dim("columns of a part (a multiple of 16)", col - col % PANEL_COLS, col)?;
        }
        let part = |from: usize, n| {
            // Behind the last column nothing may be.
            let ptr = if n == 0 { self.ptr } else { self.ptr.wrapping_add(from * self.k) };
            PackedMat { ptr, n, ..self }
        };
        Ok((part(0, col), part(col, self.n - col)))
    }

    #[inline(always)]
    pub(super) fn rhs(&self) -> Rhs {
        Rhs::Packed { ptr: self.ptr.cast(), kind: T::KIND, k: self.k, n: self.n }
    }

    /// Rows of the matrix.
    pub const fn rows(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    pub const fn cols(&self) -> usize {
        self.n
    }
}

impl<T: Elem> fmt::Debug for PackedMat<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedMat").field("sizes", &[self.k, self.n]).finish()
    }
}

/// Writes `b` in panels, a few rows at a time: of four panels together if rows lie together, since memory answers faster
/// in order.
///
/// # Safety
/// - `b` is valid for reading; `to` for writing all of its panels, of elements of `kind`.
#[inline(never)]
unsafe fn panels<S: Simd>(s: S, b: RawMat, to: *mut u8, kind: Kind) {
    let mut wide = MaybeUninit::<[[f32; PANEL_COLS]; ROWS]>::uninit();
    let wide = wide.as_mut_ptr().cast::<f32>();
    let together = if b.col_stride == 1 { 4 * PANEL_COLS } else { PANEL_COLS };
    for jc in (0..b.cols).step_by(together) {
        for i in (0..b.rows).step_by(ROWS) {
            for j in (jc..b.cols.min(jc + together)).step_by(PANEL_COLS) {
                let (rows, cols) = (ROWS.min(b.rows - i), PANEL_COLS.min(b.cols - j));
                // SAFETY: a part of `b`, which the buffer has room for, and its place in a panel.
                unsafe {
                    pack(
                        s,
                        b.block(i, j, rows, cols),
                        Grid { dst: wide, stride: PANEL_COLS, width: PANEL_COLS },
                    );
                    let to = to.wrapping_add((j * b.rows + i * PANEL_COLS) * kind.size());
                    rounded(s, wide, (to, kind), rows * PANEL_COLS);
                }
            }
        }
    }
}

/// Writes `n` floats as elements of another kind.
#[inline(never)]
unsafe fn rounded<S: Simd>(s: S, from: *const f32, (to, kind): (*mut u8, Kind), n: usize) {
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises.
            by_kind!(kind, T => unsafe { unpack_row(s, from, RawMat::row(to.cast::<T>(), n), 0) });
        },
    );
}

/// From `f32`, as weights are written in source code.
#[cfg(feature = "half")]
macro_rules! from_f32 {
    ($t:ty, $narrow:ident) => {
        impl PackedMat<'_, $t> {
            /// [`pack_const`](Self::pack_const) of `f32`s, each rounded to nearest, ties to even, as
            /// [`pack`](Self::pack) rounds them.
            ///
            /// 512 x 512 elements compile as they are; from 768 x 512 on the compiler asks to
            /// `#[allow(long_running_const_eval)]`.
            pub const fn pack_const_f32<const K: usize, const N: usize, const LEN: usize>(
                b: &[[f32; N]; K],
            ) -> [$t; LEN] {
                let wide: [f32; LEN] = PackedMat::pack_const(b);
                let mut packed = [<$t>::ZERO; LEN];
                let mut at = 0;
                while at < LEN {
                    packed[at] = <$t>::from_bits($narrow(wide[at]));
                    at += 1;
                }
                packed
            }
        }
    };
}
#[cfg(feature = "half")]
from_f32!(half::f16, f32_to_f16);
#[cfg(feature = "half")]
from_f32!(half::bf16, f32_to_bf16);
