//! From a tile's accumulators to C: `C = alpha·chain + (beta·C + bias)`, rounded once.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::Product;
use crate::arch::scalar::Scalar;
use crate::elem::{Elem, Kind, by_kind, load_up_to, store_up_to};
use crate::kernel::tile::Acc;
use crate::kernel::unrolled::unrolled;
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// Where the sums of one block of `k` come from and go to.
///
/// With more than one block of `k`, the sums between blocks lie in C itself where it is `f32`, and
/// else in `partial`, so that C is rounded once, at the last block.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    pub p: &'a Product,
    /// Row and column of C where the block begins.
    pub at: (usize, usize),
    /// Sums between blocks: element `(i, j)` of C at `partial + i * partial_stride + j`.
    pub partial: *mut f32,
    pub partial_stride: usize,
    /// The first block of `k`: start from `beta C + bias`.
    pub first: bool,
    /// The last block of `k`: finish.
    pub last: bool,
}

impl Store<'_> {
    /// All of C in one block of `k`.
    pub fn whole(p: &Product) -> Store<'_> {
        Store { p, at: (0, 0), partial: core::ptr::null_mut(), partial_stride: 0, first: true, last: true }
    }

    /// The steps `k` of the product, for the block of C that begins at `at`; sums between blocks may lie in
    /// `partial`, rows `stride` apart.
    pub fn block<'a>(
        p: &'a Product,
        at: (usize, usize),
        k: Range<usize>,
        partial: (*mut f32, usize),
    ) -> Store<'a> {
        let ((partial, partial_stride), all) = (partial, p.a.cols);
        Store { p, at, partial, partial_stride, first: k.start == 0, last: k.end == all }
    }

    /// Whether C takes vectors of `f32` as they are.
    pub fn is_direct(c: &RawMat) -> bool {
        c.kind == Kind::F32 && c.col_stride == 1
    }

    /// [`put`](Self::put) of whole vectors of sums that are what C gets.
    ///
    /// # Safety
    /// - As there; the columns fill the vectors.
    #[inline(always)]
    pub unsafe fn put_whole<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        acc: Acc<S::V, MR, NV>,
        at: (usize, usize),
    ) {
        let zero = s.splat(0.0);
        // A sum gives the bits of a product with 1, without the units that the next chains wait for.
        // SAFETY: as the caller promises.
        unsafe { self.put_each(s, acc, at, |chain| s.add(chain, zero)) };
    }

    /// Stores whole vectors of a C that takes them.
    #[inline(always)]
    unsafe fn put_each<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        acc: Acc<S::V, MR, NV>,
        (i, j): (usize, usize),
        last: impl Fn(S::V) -> S::V,
    ) {
        let (mut row, apart) = (self.c_at(i, j), self.p.c.row_stride);
        unrolled!(R < MR => {
            unrolled!(V < NV, 16 => {
                // SAFETY: as the caller promises.
                unsafe { s.store(row.wrapping_add(V * S::LANES), last(acc[R][V])) };
            });
            row = row.wrapping_add(apart);
        });
        let _ = row;
    }

    /// Stores a tile at row `i`, column `j`, of which the first `cols` columns exist. What is not plain is a call: there are
    /// many tiles of few rows.
    ///
    /// # Safety
    /// - Rows `i..i + MR` and columns `j..j + cols` are inside C, `bias` and, if used, `partial`.
    /// - `1 <= cols <= NV * LANES`.
    #[inline(always)]
    pub unsafe fn put<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        acc: Acc<S::V, MR, NV>,
        (i, j): (usize, usize),
        cols: usize,
    ) {
        let mut sums = MaybeUninit::<[[S::V; NV]; MR]>::uninit();
        let sums = sums.as_mut_ptr().cast();
        // SAFETY: as the caller promises; there is room for all chains, and they are written.
        unsafe {
            if !self.put_plain(s, acc, (i, j), cols, sums) {
                self.put_sums_apart(s, sums, (MR, NV), (i, j), cols);
            }
        }
    }

    /// Stores a whole tile for which there is nothing to decide for each vector, and says whether it was one. If not, its
    /// chains are at `sums`, for [`put_sums`](Self::put_sums).
    ///
    /// # Safety
    /// - As [`put`](Self::put); there is room for the chains.
    #[inline(always)]
    pub unsafe fn put_plain<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        acc: Acc<S::V, MR, NV>,
        at: (usize, usize),
        cols: usize,
        sums: *mut f32,
    ) -> bool {
        let plain = cols == NV * S::LANES && Self::is_direct(&self.p.c) && self.is_plain();
        // SAFETY: as the caller promises.
        unsafe {
            if plain {
                let (alpha, zero) = (s.splat(self.p.alpha), s.splat(0.0));
                self.put_each(s, acc, at, |chain| s.fma(alpha, chain, zero));
            } else {
                spill::<S, MR, NV>(s, acc, sums);
            }
        }
        plain
    }

    /// Asks for the lines of `rows` rows of a direct C from row `i` on, in which a tile of `cols` columns from column `j`
    /// on lies.
    #[inline(always)]
    pub fn ask<S: Simd>(&self, s: S, (rows, i): (usize, usize), (cols, j): (usize, usize)) {
        if !Store::is_direct(&self.p.c) {
            return;
        }
        for r in i..i + rows {
            s.prefetch_all(self.p.c.at::<f32>(self.at.0 + r, self.at.1 + j), cols);
        }
    }

    /// Stores the tile at `sums`, `rows` rows of `nv` vectors.
    ///
    /// # Safety
    /// - As [`put`](Self::put); the chains of these columns are written.
    #[inline(always)]
    pub unsafe fn put_sums<S: Simd>(
        &self,
        s: S,
        sums: *mut f32,
        (rows, nv): (usize, usize),
        (i, j): (usize, usize),
        cols: usize,
    ) {
        let row = |r: usize| sums.wrapping_add(r * nv * S::LANES);
        if Self::is_direct(&self.p.c) {
            let (alpha, plain) = (s.splat(self.p.alpha), self.is_plain());
            for r in 0..rows {
                for v in (0..cols).step_by(S::LANES) {
                    let p = self.c_at(i + r, j + v);
                    // SAFETY: `cols - v` columns from there on exist, and the chains of these are written.
                    unsafe {
                        let chain = s.load(row(r).add(v));
                        let base = if plain { s.splat(0.0) } else { self.base(s, p, j + v, cols - v) };
                        store_up_to(s, p, cols - v, s.fma(alpha, chain, base));
                    }
                }
            }
            return;
        }
        // SAFETY: as the caller promises; the `nv` vectors with the `cols` columns are written.
        unsafe { self.put_rows(s, (sums, nv * S::LANES), rows, (i, j), cols) };
    }

    #[inline(never)]
    unsafe fn put_sums_apart<S: Simd>(
        &self,
        s: S,
        sums: *mut f32,
        sizes: (usize, usize),
        at: (usize, usize),
        cols: usize,
    ) {
        // SAFETY: as the caller promises.
        s.vectorize(
            #[inline(always)]
            || unsafe { self.put_sums(s, sums, sizes, at, cols) },
        );
    }

    /// Whether nothing is added to the chains, times `alpha`.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        // As an integer, here and below: floats of a small processor would be kept on the stack.
        self.first && self.p.beta.to_bits() << 1 == 0 && self.p.bias.is_null()
    }

    /// Whether chains are what C gets, plus 0.
    pub fn is_as_it_is(&self) -> bool {
        self.is_plain() && self.p.alpha.to_bits() == 1.0_f32.to_bits() && Self::is_direct(&self.p.c)
    }

    /// Stores rows of up to four sums of one lane, or a row of eight, at row `i` and column `j`.
    ///
    /// # Safety
    /// - These rows and columns are inside C, `bias` and, if used, `partial`.
    pub unsafe fn put_lone(&self, sums: &[f32; 16], (i, j): (usize, usize), (rows, cols): (usize, usize)) {
        let sums = sums.as_ptr();
        if self.p.c.kind != Kind::F32 {
            // SAFETY: as the caller promises.
            return unsafe { self.put_rows(Scalar, (sums, 4), rows, (i, j), cols) };
        }
        for r in 0..rows {
            for x in 0..cols {
                let to = self.c_at(i + r, j + x);
                // SAFETY: as the caller promises.
                unsafe {
                    let base = self.base(Scalar, to, j + x, 1);
                    *to = Scalar.fma(self.p.alpha, *sums.add(4 * r + x), base);
                }
            }
        }
    }

    /// Where element `(i, j)` of the block lies in C, which is `f32`.
    #[inline(always)]
    pub fn c_at(&self, i: usize, j: usize) -> *mut f32 {
        self.p.c.at(self.at.0 + i, self.at.1 + j)
    }

    /// What a chain of a C of `f32` is added to: the sums so far, or `beta C + bias`. `old` holds either.
    #[inline(always)]
    unsafe fn base<S: Simd>(&self, s: S, old: *const f32, column: usize, n: usize) -> S::V {
        // SAFETY: `n` columns are inside `old` and the bias, as the callers promise.
        unsafe { if self.first { self.beta_c(s, old, 1, column, n) } else { load_up_to(s, old, n) } }
    }

    /// `beta C + bias` of `n` columns, `apart` elements from each other; C is read only if it counts.
    #[inline(always)]
    unsafe fn beta_c<S: Simd, E: Elem>(
        &self,
        s: S,
        c: *const E,
        apart: usize,
        column: usize,
        n: usize,
    ) -> S::V {
        let zero = s.splat(0.0);
        let bias = self.p.bias.wrapping_add(self.at.1 + column);
        // SAFETY: as the callers promise.
        unsafe {
            let bias = if self.p.bias.is_null() { zero } else { load_up_to(s, bias, n) };
            let old = match self.p.beta == 0.0 {
                true => zero,
                false if apart == 1 => load_up_to(s, c, n),
                false => {
                    let mut lanes = [0.0_f32; MAX_LANES];
                    for (x, lane) in lanes.iter_mut().enumerate().take(n.min(S::LANES)) {
                        *lane = (*c.wrapping_add(x * apart)).widen();
                    }
                    s.load(lanes.as_ptr())
                }
            };
            s.fma(s.splat(self.p.beta), old, bias)
        }
    }

    /// Rows of a tile when C is strided or not `f32`: chains are at `sums.0`, rows `sums.1` apart, in whole vectors.
    #[inline(never)]
    unsafe fn put_rows<S: Simd>(
        &self,
        s: S,
        sums: (*const f32, usize),
        rows: usize,
        at: (usize, usize),
        cols: usize,
    ) {
        s.vectorize(
            #[inline(always)]
            || {
                // SAFETY: as the caller promises.
                by_kind!(self.p.c.kind, E => unsafe { self.put_rows_of::<S, E>(s, sums, rows, at, cols) });
            },
        );
    }

    #[inline(always)]
    unsafe fn put_rows_of<S: Simd, E: Elem>(
        &self,
        s: S,
        (sums, sums_stride): (*const f32, usize),
        rows: usize,
        (i, j): (usize, usize),
        cols: usize,
    ) {
        let (alpha, apart, plain) = (s.splat(self.p.alpha), self.p.c.col_stride, self.is_plain());
        if plain && self.last && apart == 1 && cols.is_multiple_of(S::LANES) {
            let (mut c, mut sums) = (self.p.c.at::<E>(self.at.0 + i, self.at.1 + j), sums);
            for _ in 0..rows {
                for x in (0..cols).step_by(S::LANES) {
                    // SAFETY: as the caller promises.
                    unsafe {
                        E::store(s, c.wrapping_add(x), s.fma(alpha, s.load(sums.add(x)), s.splat(0.0)))
                    };
                }
                (c, sums) = (c.wrapping_add(self.p.c.row_stride), sums.wrapping_add(sums_stride));
            }
            return;
        }
        for r in 0..rows {
            let c = self.p.c.at::<E>(self.at.0 + i + r, self.at.1 + j);
            let partial = self.partial.wrapping_add((i + r) * self.partial_stride + j);
            for x in (0..cols).step_by(S::LANES) {
                let (n, c, partial) = (cols - x, c.wrapping_add(x * apart), partial.wrapping_add(x));
                // SAFETY: `n` columns from there on are inside C, and inside `partial` where that is used.
                unsafe {
                    let base = match self.first {
                        true if plain => s.splat(0.0),
                        true => self.beta_c(s, c.cast_const(), apart, j + x, n),
                        false => load_up_to(s, partial.cast_const(), n),
                    };
                    let sum = s.fma(alpha, s.load(sums.add(r * sums_stride + x)), base);
                    if !self.last {
                        store_up_to(s, partial, n, sum);
                    } else if apart == 1 {
                        store_up_to(s, c, n, sum);
                    } else {
                        let mut lanes = [0.0_f32; MAX_LANES];
                        s.store(lanes.as_mut_ptr(), sum);
                        for (x, &lane) in lanes.iter().enumerate().take(n.min(S::LANES)) {
                            *c.wrapping_add(x * apart) = E::narrow(lane);
                        }
                    }
                }
            }
        }
    }
}

/// Writes the accumulators, row by row.
#[inline(always)]
unsafe fn spill<S: Simd, const MR: usize, const NV: usize>(s: S, acc: Acc<S::V, MR, NV>, to: *mut f32) {
    unrolled!(R < MR => {
        unrolled!(V < NV, 16 => {
            // SAFETY: there is room for all vectors, as the caller promises.
            unsafe { s.store(to.add((R * NV + V) * S::LANES), acc[R][V]) };
        });
    });
}
