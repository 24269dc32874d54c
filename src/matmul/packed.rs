//! Weights packed once into the layout that the tile reads, and used many times.

use core::marker::PhantomData;

use crate::elem::Elem;
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

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.n
    }
}
