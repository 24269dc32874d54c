//! Products on the threads of rayon's pool: columns of C for each, or rows where columns are few.

use super::{Matmul, PackedMat, Rhs, matmul_scratch_len};
use crate::elem::Elem;
use crate::error::Error;
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
        self.check(&mut self.product(a.raw, Rhs::Strided(b.raw), c.raw), scratch.len())?;
        self.shared(a, b, c, scratch)
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
        self.check(&mut self.product(a.raw, b.rhs(), c.raw), scratch.len())?;
        self.shared(a, b, c, scratch)
    }

    /// A product whose sizes agree, with scratch for one thread at least.
    fn shared<A: Elem, B: Columns, C: Elem>(
        self,
        a: MatRef<'_, A>,
        b: B,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let needed = matmul_scratch_len(a.rows(), a.cols(), c.cols());
        let room = scratch.len().checked_div(needed).unwrap_or(1);
        self.on(room.min(rayon::current_num_threads()), needed, a, b, c, scratch)
    }

    /// On so many threads, each with as much scratch as is `needed`.
    fn on<A: Elem, B: Columns, C: Elem>(
        self,
        threads: usize,
        needed: usize,
        a: MatRef<'_, A>,
        b: B,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        // Where the threads of the left half end, among units of `each`.
        let cut = |size: usize, each: usize| {
            let units = size.div_ceil(each);
            (threads > 1 && units >= threads).then(|| units * (threads / 2) / threads * each)
        };
        let (cols, rows) = (cut(c.cols(), COLS), cut(c.rows(), ROWS));
        let (parts, [left, right]) = match (cols, rows) {
            (Some(col), _) => {
                let ((b_left, b_right), (c_left, c_right)) = (b.split(col)?, c.split_at_col(col)?);
                let [bias_left, bias_right] = match self.bias.and_then(|bias| bias.split_at_checked(col)) {
                    Some((left, right)) => [Some(left), Some(right)],
                    None => [None; 2],
                };
                let of = |bias| Matmul { bias, ..self };
                (((a, b_left, c_left), (a, b_right, c_right)), [of(bias_left), of(bias_right)])
            }
            (None, Some(row)) => {
                let ((a_left, a_right), (c_left, c_right)) = (a.split_at_row(row)?, c.split_at_row(row)?);
                (((a_left, b, c_left), (a_right, b, c_right)), [self; 2])
            }
            (None, None) => return b.run(self, a, c, scratch),
        };
        let half = threads / 2;
        let short = Error::ScratchTooShort { needed: needed.saturating_mul(threads), got: scratch.len() };
        let (first, second) = scratch.split_at_mut_checked(needed * half).ok_or(short)?;
        let ((a1, b1, c1), (a2, b2, c2)) = parts;
        let (one, other) = rayon::join(
            move || left.on(half, needed, a1, b1, c1, first),
            move || right.on(threads - half, needed, a2, b2, c2, second),
        );
        one.and(other)
    }
}

/// A B that can be cut by columns.
trait Columns: Copy + Send {
    fn split(self, col: usize) -> Result<(Self, Self), Error>;
    fn run<A: Elem, C: Elem>(
        self,
        product: Matmul,
        a: MatRef<'_, A>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error>;
}

impl<B: Elem> Columns for MatRef<'_, B> {
    fn split(self, col: usize) -> Result<(Self, Self), Error> {
        self.split_at_col(col)
    }
    fn run<A: Elem, C: Elem>(
        self,
        product: Matmul,
        a: MatRef<'_, A>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        product.run(a, self, c, scratch)
    }
}

impl<B: Elem> Columns for PackedMat<'_, B> {
    fn split(self, col: usize) -> Result<(Self, Self), Error> {
        self.split_at_col(col)
    }
    fn run<A: Elem, C: Elem>(
        self,
        product: Matmul,
        a: MatRef<'_, A>,
        c: MatMut<'_, C>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        product.run_packed(a, self, c, scratch)
    }
}
