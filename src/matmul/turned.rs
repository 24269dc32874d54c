//! Very few rows against a B whose columns lie together, as weights of `out x in` do: a few columns at a time
//! are turned in registers, in the order of memory, and what is read next is asked for. Nothing is packed.
//!
//! ```text
//! for j in 0..n step LANES
//!   for pc in 0..k step KC
//!     for at in 0..KC step STEPS     a cache line of each column
//!       ask for what is read later; turn; take the steps
//! ```

use super::Product;
use super::blocked::{KC, rows_of};
use super::few::{Room, bytes};
use super::store::Store;
use crate::elem::{Elem, by_kind, load_some_columns};
use crate::kernel::tile::{Acc, Rows, zero};
use crate::simd::Simd;
use crate::view::RawMat;

/// Up to this many rows.
const MAX: usize = 4;
/// A B of so many bytes for each row waits for memory, not for what is done with it.
const FAR: usize = 4 << 20;
/// Steps at a time: a cache line of floats of each column.
const STEPS: usize = 16;
/// What is read so many elements later is asked for.
const AHEAD: usize = 256;

/// Whether a product of `m` rows with `b` is for [`run`].
pub fn takes(m: usize, b: &RawMat) -> bool {
    b.row_stride == 1 && b.col_stride != 1 && m <= MAX && bytes(b) >= m * FAR
}

/// The product's columns that fill vectors; returns how many these are.
///
/// # Safety
/// - As `few::run`; the product is one that [`takes`] has said yes to.
pub unsafe fn run<S: Simd>(s: S, p: &Product, b: RawMat, room: &Room) -> usize {
    // SAFETY: as the caller promises.
    unsafe {
        by_kind!(b.kind, E => match p.c.rows {
            1 => columns::<S, E, 1>(s, p, b, room),
            2 => columns::<S, E, 2>(s, p, b, room),
            3 => columns::<S, E, 3>(s, p, b, room),
            _ => columns::<S, E, MAX>(s, p, b, room),
        })
    }
}

/// `M` rows. One column for each lane at a time: columns that lie a power of two apart share a set of the L1,
/// which holds eight.
unsafe fn columns<S: Simd, E: Elem, const M: usize>(s: S, p: &Product, b: RawMat, room: &Room) -> usize {
    let (k, n) = (b.rows, b.cols - b.cols % S::LANES);
    for j in (0..n).step_by(S::LANES) {
        for pc in (0..k).step_by(KC) {
            let kc = (k - pc).min(KC);
            let store = Store::block(p, (0, j), pc..pc + kc, (room.partial, room.cols));
            // SAFETY: blocks of the operands; the room is as the caller promises.
            unsafe {
                let a = rows_of(s, p.a.block(0, pc, M, kc), true, room.a, room.a_stride);
                let part = Part { a, b: b.block(pc, j, kc, S::LANES), pc, k, store: &store };
                s.vectorize(
                    #[inline(always)]
                    || part.run::<S, E, M>(s),
                );
            }
        }
    }
    n
}

/// One block of `k` of some columns.
struct Part<'a> {
    a: Rows,
    b: RawMat,
    /// Where the block begins, and all of `k`.
    pc: usize,
    k: usize,
    store: &'a Store<'a>,
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, E: Elem, const M: usize>(&self, s: S) {
        let (kc, apart) = (self.b.rows, self.b.col_stride);
        let column = self.b.at::<E>(0, 0).cast_const();
        let mut acc = zero(s);
        for at in (0..kc).step_by(STEPS) {
            self.ask(s, column, at);
            // SAFETY: `kc` elements of each row and of each column; the columns exist.
            unsafe {
                if at + STEPS <= kc {
                    for at in [at, at + 4, at + 8, at + 12] {
                        let b = E::load_columns(s, column.wrapping_add(at), apart);
                        self.steps::<S, M>(s, at, &b, &mut acc);
                    }
                } else {
                    for at in (at..kc).step_by(4) {
                        let n = (kc - at).min(4);
                        let b = load_some_columns(s, n, |c| Some(column.wrapping_add(at + c * apart)));
                        self.steps::<S, M>(s, at, b.get(..n).unwrap_or_default(), &mut acc);
                    }
                }
            }
        }
        // SAFETY: the columns exist.
        unsafe { self.store.put(s, acc, 0, 0, S::LANES) };
    }

    /// Asks for what lies `AHEAD` further on in the columns of the block, or in the columns after those.
    #[inline(always)]
    fn ask<S: Simd, E: Elem>(&self, s: S, column: *const E, at: usize) {
        let (apart, mut ahead) = (self.b.col_stride, at + AHEAD);
        if self.pc + ahead >= self.k {
            ahead = ahead.wrapping_sub(self.k).wrapping_add(S::LANES * apart);
        }
        for c in 0..S::LANES {
            s.prefetch(column.wrapping_add(ahead).wrapping_add(c * apart));
        }
    }

    /// The steps from `at` on with the turned `b`.
    #[inline(always)]
    unsafe fn steps<S: Simd, const M: usize>(&self, s: S, at: usize, b: &[S::V], acc: &mut Acc<S::V, M, 1>) {
        let rows = self.a.each::<M>();
        for (i, &b) in b.iter().enumerate() {
            for (sums, row) in acc.iter_mut().zip(rows) {
                // SAFETY: one of the row's elements, as the caller promises.
                let a = s.splat(unsafe { *row.wrapping_add((at + i) * self.a.col_stride) });
                sums[0] = s.fma(a, b, sums[0]);
            }
        }
    }
}
