//! Weights packed once into the layout that the tile reads, and used many times.

use core::marker::PhantomData;

use crate::elem::Elem;
#[cfg(feature = "half")]
use crate::elem::{f32_to_bf16, f32_to_f16};
use crate::error::{Error, expect_dim};
use crate::kernel::tile::PANEL_COLS;
use crate::view::MatRef;

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
    pub(crate) ptr: *const T,
    pub(crate) k: usize,
    pub(crate) n: usize,
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
        for (j, panel) in storage.chunks_exact_mut(k.saturating_mul(PANEL_COLS).max(1)).enumerate() {
            for (t, row) in panel.chunks_exact_mut(PANEL_COLS).enumerate() {
                for (x, out) in row.iter_mut().enumerate() {
                    let column = j * PANEL_COLS + x;
                    // SAFETY: `t < k`, and the column exists where it is read.
                    let value = if column < n { unsafe { *b.raw.at::<B>(t, column) }.widen() } else { 0.0 };
                    *out = T::narrow(value);
                }
            }
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

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.n
    }
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
