//! Products on the threads of rayon's pool: columns of C for each, or rows where columns are few.

use super::{Matmul, PackedMat, Product, Rhs, compute, matmul_scratch_len};
use crate::elem::Elem;
use crate::error::Error;
use crate::tier::Tier;
use crate::view::{MatMut, MatRef};

/// Columns and rows are given to threads by so many: whole tiles.
const COLS: usize = 64;
const ROWS: usize = 48;

impl Matmul<'_> {
    /// [`run`](Self::run) on the threads of rayon's pool: on as many as the scratch has room for, each with
    /// [`matmul_scratch_len`] `f32`s. The same bits as there.
    ///
    /// ```
    /// use qkv::{MatMut, MatRef, Matmul, matmul_scratch_len};
    /// let (x, w, mut y) = (vec![1.0_f32; 100], vec![0.5_f32; 100 * 300], vec![0.0_f32; 300]);
    /// let mut scratch = vec![0.0; 4 * matmul_scratch_len(1, 100, 300)]; // for four threads
    /// let (x, w, to) = (MatRef::new(&x, 1, 100)?, MatRef::new(&w, 100, 300)?, MatMut::new(&mut y, 1, 300)?);
    /// Matmul::new().run_parallel(x, w, to, &mut scratch)?;
    /// assert_eq!(y, [50.0; 300]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_parallel<A: Elem, B: Elem, C: Elem>(
        self,
        a: MatRef<'_, A>,
        b: MatRef<'_, B>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.on_threads(self.product(a.raw, Rhs::Strided(b.raw), c.raw), scratch)
    }

    /// As [`run_parallel`](Self::run_parallel), with B packed.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_packed_parallel<A: Elem, B: Elem, C: Elem>(
        self,
        a: MatRef<'_, A>,
        b: PackedMat<'_, B>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.on_threads(self.product(a.raw, b.rhs(), c.raw), scratch)
    }

    fn on_threads(self, mut product: Product, scratch: &mut [f32]) -> Result<(), Error> {
        let needed = matmul_scratch_len(product.a.rows, product.a.cols, product.c.cols);
        self.check(&mut product, scratch.len())?;
        let room = scratch.len().checked_div(needed).unwrap_or(1);
        let tier = self.tier.unwrap_or_else(Tier::detect);
        Part(product).on(tier, room.min(rayon::current_num_threads()), needed, scratch);
        Ok(())
    }
}

/// A checked product, or some columns or rows of one.
struct Part(Product);
// SAFETY: A and B are only read, and C is an exclusive borrow, of which each part has elements of its own.
unsafe impl Send for Part {}

impl Part {
    /// Computes it on so many threads, each with as much scratch as is `needed`.
    fn on(self, tier: Tier, threads: usize, needed: usize, scratch: &mut [f32]) {
        // Where the threads of the left half end, among units of `each`.
        let cut = |size: usize, each: usize| {
            let units = size.div_ceil(each);
            (threads > 1 && units >= threads).then(|| units * (threads / 2) / threads * each)
        };
        let Product { a, b, c, bias, .. } = self.0;
        let (left, right) = if let Some(col) = cut(c.cols, COLS) {
            let part = |from: usize, n: usize| {
                let bias = if bias.is_null() { bias } else { bias.wrapping_add(from) };
                Product { b: b.cols(from, n), c: c.block(0, from, c.rows, n), bias, ..self.0 }
            };
            (part(0, col), part(col, c.cols - col))
        } else if let Some(row) = cut(c.rows, ROWS) {
            let part = |from: usize, m: usize| Product {
                a: a.block(from, 0, m, a.cols),
                c: c.block(from, 0, m, c.cols),
                ..self.0
            };
            (part(0, row), part(row, c.rows - row))
        } else {
            return compute(tier, &self.0, scratch);
        };
        let (left, right, half) = (Part(left), Part(right), threads / 2);
        let (first, second) = scratch.split_at_mut((needed * half).min(scratch.len()));
        rayon::join(
            move || left.on(tier, half, needed, first),
            move || right.on(tier, threads - half, needed, second),
        );
    }
}

impl Rhs {
    /// `n` columns from column `from` on, which begins a panel.
    fn cols(self, from: usize, n: usize) -> Rhs {
        match self {
            Rhs::Strided(b) => Rhs::Strided(b.block(0, from, b.rows, n)),
            Rhs::Packed { ptr, kind, k, .. } => {
                Rhs::Packed { ptr: ptr.wrapping_add(from * k * kind.size()), kind, k, n }
            }
        }
    }
}
