//! Matrix products: `C = alpha A B + beta C + bias`, of `f32`, `f16` and `bf16` in any mix.

mod blocked;
mod few;
mod groups;
mod lone;
mod packed;
#[cfg(feature = "rayon")]
mod parallel;
mod small;
mod store;
mod tiles;
mod turned;

pub use packed::PackedMat;

use crate::elem::{Elem, Kind};
use crate::error::{Error, expect_dim, expect_dims, expect_scratch};
use crate::tier::{Tier, dispatch};
use crate::view::{MatMut, MatRef, RawMat};

/// `C = A B`; A is m x k, B is k x n, C is m x n. Accumulates in `f32` and rounds once.
///
/// Strides are free, and a transposed operand is a [`t()`](MatRef::t) view.
///
/// # Errors
/// [`Error::DimMismatch`], or [`Error::ScratchTooShort`] with less than [`matmul_scratch_len`] `f32`s.
///
/// ```
/// use qkv::{MatMut, MatRef, matmul};
/// let (a, b, mut c) = ([1.0_f32, 2.0], [3.0_f32, 4.0, 5.0, 6.0], [0.0_f32; 2]);
/// matmul(MatRef::new(&a, 1, 2)?, MatRef::new(&b, 2, 2)?, MatMut::new(&mut c, 1, 2)?, &mut [])?;
/// assert_eq!(c, [13.0, 16.0]);
/// # Ok::<(), qkv::Error>(())
/// ```
#[inline]
pub fn matmul<A: Elem, B: Elem, C: Elem>(
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    c: MatMut<'_, C>,
    scratch: &mut [f32],
) -> Result<(), Error> {
    Matmul::new().run(a, b, c, scratch)
}

/// `C += A B`; otherwise as [`matmul`].
///
/// # Errors
/// As [`matmul`].
#[inline]
pub fn matmul_add<A: Elem, B: Elem, C: Elem>(
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    c: MatMut<'_, C>,
    scratch: &mut [f32],
) -> Result<(), Error> {
    Matmul::new().beta(1.0).run(a, b, c, scratch)
}

/// `f32`s of scratch for an m x k by k x n product of any types and strides, packed or not: 0 up to 64 in each, and for
/// few rows no more than some rows of A and columns of B. The number is that of this target: targets without vectors
/// need less. It never falls when a size grows.
#[inline]
pub const fn matmul_scratch_len(m: usize, k: usize, n: usize) -> usize {
    blocked::scratch_len(m, k, n)
}

/// `C = A B` with the sizes in the types: a wrong shape, or too short a scratch, does not compile.
///
/// ```
/// let a = [[1.0_f32, 2.0]];
/// let b = [[3.0_f32, 4.0], [5.0, 6.0]];
/// let mut c = [[0.0_f32; 2]];
/// qkv::matmul_fixed(&a, &b, &mut c, &mut [0.0; qkv::matmul_scratch_len(1, 2, 2)]);
/// assert_eq!(c, [[13.0, 16.0]]);
/// ```
/// ```compile_fail
/// let (a, b) = ([[1.0_f32, 2.0]], [[3.0_f32, 4.0]]); // 1 x 2 by 1 x 2
/// qkv::matmul_fixed(&a, &b, &mut [[0.0_f32; 2]], &mut [0.0; 0]);
/// ```
/// ```compile_fail
/// let (a, b, mut c) = ([[1.0_f32; 80]; 80], [[1.0_f32; 80]; 80], [[0.0_f32; 80]; 80]);
/// qkv::matmul_fixed(&a, &b, &mut c, &mut [0.0; 10]); // needs more scratch
/// ```
pub fn matmul_fixed<
    A: Elem,
    B: Elem,
    C: Elem,
    const M: usize,
    const K: usize,
    const N: usize,
    const SCRATCH: usize,
>(
    a: &[[A; K]; M],
    b: &[[B; N]; K],
    c: &mut [[C; N]; M],
    scratch: &mut [f32; SCRATCH],
) {
    const { assert!(SCRATCH >= matmul_scratch_len(M, K, N), "scratch is shorter than matmul_scratch_len") };
    let views = (
        MatRef::new(a.as_flattened(), M, K),
        MatRef::new(b.as_flattened(), K, N),
        MatMut::new(c.as_flattened_mut(), M, N),
    );
    // The types have proved every check.
    if let (Ok(a), Ok(b), Ok(c)) = views {
        let done = matmul(a, b, c, scratch);
        debug_assert!(done.is_ok());
    }
}

/// A product with options: `C = alpha A B + beta C + bias`.
///
/// ```
/// use qkv::{MatMut, MatRef, Matmul};
/// let (a, b, bias) = ([1.0_f32, 2.0], [3.0_f32, 4.0, 5.0, 6.0], [100.0_f32, 200.0]);
/// let mut c = [f32::NAN; 2]; // beta is 0: C is not read
/// Matmul::new().alpha(0.5).bias(&bias).run(
///     MatRef::new(&a, 1, 2)?, MatRef::new(&b, 2, 2)?, MatMut::new(&mut c, 1, 2)?, &mut [],
/// )?;
/// assert_eq!(c, [106.5, 208.0]);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing until `run`"]
pub struct Matmul<'a> {
    alpha: f32,
    beta: f32,
    bias: Option<&'a [f32]>,
    tier: Option<Tier>,
}

impl Default for Matmul<'_> {
    fn default() -> Self {
        Matmul::new()
    }
}

impl<'a> Matmul<'a> {
    /// `C = A B`.
    pub const fn new() -> Matmul<'a> {
        Matmul { alpha: 1.0, beta: 0.0, bias: None, tier: None }
    }

    /// Factor of the product. With 0, A and B are not read.
    pub const fn alpha(self, alpha: f32) -> Matmul<'a> {
        Matmul { alpha, ..self }
    }

    /// Factor of what C held. With 0, C is not read.
    pub const fn beta(self, beta: f32) -> Matmul<'a> {
        Matmul { beta, ..self }
    }

    /// A row of n numbers that is added to every row of C.
    pub const fn bias(self, bias: &'a [f32]) -> Matmul<'a> {
        Matmul { bias: Some(bias), ..self }
    }

    /// Forces a tier; the default is [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Matmul<'a> {
        Matmul { tier: Some(tier), ..self }
    }

    /// Computes `C = alpha A B + beta C + bias`; A is m x k, B is k x n, C is m x n.
    ///
    /// # Errors
    /// [`Error::DimMismatch`], or [`Error::ScratchTooShort`] with less than [`matmul_scratch_len`]
    /// `f32`s. C is untouched then.
    #[inline]
    pub fn run<A: Elem, B: Elem, C: Elem>(
        self,
        a: MatRef<'_, A>,
        b: MatRef<'_, B>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.compute(&mut self.product(a.raw, Rhs::Strided(b.raw), c.raw), scratch)
    }

    /// As [`run`](Self::run), with B packed.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[inline]
    pub fn run_packed<A: Elem, B: Elem, C: Elem>(
        self,
        a: MatRef<'_, A>,
        b: PackedMat<'_, B>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.compute(&mut self.product(a.raw, b.rhs(), c.raw), scratch)
    }

    #[inline(always)]
    fn product(&self, a: RawMat, b: Rhs, c: RawMat) -> Product {
        let bias = self.bias.map_or(core::ptr::null(), <[f32]>::as_ptr);
        Product { a, b, c, alpha: self.alpha, beta: self.beta, bias }
    }

    /// In firmware inlined, so that the stack of the check is free again.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(always))]
    fn compute(&self, product: &mut Product, scratch: &mut [f32]) -> Result<(), Error> {
        self.check(product, scratch.len())?;
        compute(self.tier.unwrap_or_else(Tier::detect), product, scratch);
        Ok(())
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn check(&self, product: &mut Product, scratch: usize) -> Result<(), Error> {
        static SIZES: [&str; 3] = ["k (rows of B)", "n (columns of C)", "m (rows of C)"];
        let Product { a, b, c, .. } = product;
        let (m, k, n) = (a.rows, a.cols, c.cols);
        expect_dims(&SIZES, &[(k, b.k()), (b.n(), n), (m, c.rows)])?;
        if let Some(bias) = self.bias {
            expect_dim("n (length of the bias)", n, bias.len())?;
        }
        expect_scratch(matmul_scratch_len(m, k, n), scratch)?;
        if self.alpha == 0.0 {
            (a.cols, *b.k_mut()) = (0, 0);
        }
        Ok(())
    }
}

/// A product. Not generic: compiled once for each tier.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    a: RawMat,
    b: Rhs,
    c: RawMat,
    alpha: f32,
    beta: f32,
    bias: *const f32,
}

/// B, as the caller has it.
#[derive(Clone, Copy)]
pub(crate) enum Rhs {
    Strided(RawMat),
    Packed { ptr: *const u8, kind: Kind, k: usize, n: usize },
}

impl Rhs {
    fn kind(&self) -> Kind {
        match *self {
            Rhs::Strided(RawMat { kind, .. }) | Rhs::Packed { kind, .. } => kind,
        }
    }

    fn k(&self) -> usize {
        match *self {
            Rhs::Strided(b) => b.rows,
            Rhs::Packed { k, .. } => k,
        }
    }

    fn n(&self) -> usize {
        match *self {
            Rhs::Strided(b) => b.cols,
            Rhs::Packed { n, .. } => n,
        }
    }

    fn k_mut(&mut self) -> &mut usize {
        match self {
            Rhs::Strided(b) => &mut b.rows,
            Rhs::Packed { k, .. } => k,
        }
    }
}

#[inline(never)]
fn compute(tier: Tier, product: &Product, scratch: &mut [f32]) {
    let scratch = scratch.as_mut_ptr();
    // SAFETY: `check` has compared all sizes; views are valid by construction; C is an exclusive
    // borrow, so it overlaps nothing; the scratch is long enough.
    dispatch!(tier, s => unsafe { blocked::run(s, product, scratch) });
}
