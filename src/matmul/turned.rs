//! Very few rows against a B whose columns lie together, as weights of `out x in` do: a few columns at a time
//! are turned in registers, in the order of memory. Nothing is packed.
//!
//! ```text
//! for j in 0..n step G LANES         groups of columns: chains that hide each other's latency
//!   for pc in 0..k step KC
//!     for at in 0..KC step 8         16 for more groups from memory
//!       for g in 0..G                turn; take the steps
//! ```
//! A B that comes from memory takes groups of narrow vectors: columns that lie a power of two apart share a set
//! of the L1, which holds eight. What is read later is asked for.

use core::hint::black_box;
use core::ops::Range;
use core::sync::atomic::{Ordering, compiler_fence};

use super::Product;
use super::blocked::{CROWDED, KC, rows_of};
use super::few::{Room, bytes};
use super::store::Store;
use crate::elem::{Elem, by_kind, load_some_columns};
use crate::kernel::tile::{Acc, Rows, zero};
use crate::kernel::unrolled::unrolled;
use crate::simd::{LINE, MAX_LANES, Simd};
use crate::view::RawMat;

/// Up to this many rows of a B from memory.
const FAR_ROWS: usize = 4;
/// A B of so many bytes for each row waits for memory, not for what is done with it.
const FAR: usize = 512 << 10;
/// A B of up to so many bytes is held by caches.
const NEAR: usize = 16 << 20;
/// Elements of each group that are read in turn from memory: the columns of others may share their sets. More are more
/// than a processor looks ahead.
const TURN: usize = 16;
/// What is read so many lines later is asked for.
const AHEAD: usize = 16;

/// Whether [`run`] takes a product of `m` rows with `b`.
pub fn takes<S: Simd>(m: usize, b: &RawMat) -> bool {
    let is_near = bytes(b) <= NEAR && m <= S::MR && !bytes_apart(b).is_multiple_of(CROWDED);
    b.row_stride == 1 && b.col_stride != 1 && (is_far(m, b) || is_near)
}

/// From column to column.
fn bytes_apart(b: &RawMat) -> usize {
    b.col_stride.wrapping_mul(b.kind.size())
}

fn is_far(m: usize, b: &RawMat) -> bool {
    m <= FAR_ROWS && bytes(b) >= m * FAR
}

/// The product's columns that fill vectors; returns how many these are.
///
/// # Safety
/// - As `few::run`; the product is one that [`takes`] has said yes to.
pub unsafe fn run<S: Simd>(s: S, p: &Product, b: RawMat, room: &Room) -> usize {
    let m = p.c.rows;
    // SAFETY: as the caller promises.
    unsafe {
        by_kind!(b.kind, E => {
            if is_far(m, &b) {
                // One group of narrow vectors has too few chains for 16-bit numbers, and for what caches hold.
                let short = const { size_of::<E>() == 2 && S::FUSED };
                let cached = bytes(&b) <= NEAR && !bytes_apart(&b).is_multiple_of(CROWDED);
                let wide = const { S::LANES == 16 } && (short || cached);
                match m {
                    1 if wide => far::<S, E, 1, 1>(s, p, b, room),
                    1 if short => far::<S::Few, E, 1, 2>(s.few(), p, b, room),
                    1 => far::<S::Few, E, 1, 1>(s.few(), p, b, room),
                    2 if wide => far::<S, E, 2, 1>(s, p, b, room),
                    2 if short => far::<S::Few, E, 2, 2>(s.few(), p, b, room),
                    2 => far::<S::Few, E, 2, 1>(s.few(), p, b, room),
                    3 => far::<S::Few, E, 3, 1>(s.few(), p, b, room),
                    _ => far::<S::Few, E, FAR_ROWS, 1>(s.few(), p, b, room),
                }
            } else {
                match m {
                    1 => near::<S, E, 1, 2>(s, p, b, room),
                    2 if const { S::FUSED && S::LANES < 16 } => near::<S, E, 2, 2>(s, p, b, room),
                    2 => near::<S, E, 2, 1>(s, p, b, room),
                    3 if const { S::FUSED && S::LANES < 16 } => near::<S, E, 3, 2>(s, p, b, room),
                    3 => near::<S, E, 3, 1>(s, p, b, room),
                    4 => near::<S, E, 4, 1>(s, p, b, room),
                    5 => near::<S, E, 5, 1>(s, p, b, room),
                    6 => near::<S, E, 6, 1>(s, p, b, room),
                    7 if const { S::MR > 6 } => near::<S, E, 7, 1>(s, p, b, room),
                    _ if const { S::MR > 6 } => near::<S, E, 8, 1>(s, p, b, room),
                    // `takes` has seen that no tile has more.
                    _ => 0,
                }
            }
        })
    }
}

/// `M` rows with a B from memory, in its order. As [`near`] not inlined: the time to compile a function grows faster
/// than its length.
#[inline(never)]
unsafe fn far<S: Simd, E: Elem, const M: usize, const G: usize>(
    s: S,
    p: &Product,
    b: RawMat,
    room: &Room,
) -> usize {
    let (k, n) = (b.rows, b.cols - b.cols % S::LANES);
    let mut j = 0;
    while j < n {
        let together = j + G * S::LANES <= n;
        let cols = if together { G * S::LANES } else { S::LANES };
        for pc in (0..k).step_by(KC) {
            // SAFETY: blocks of the operands; the room is as the caller promises.
            unsafe {
                let part = Part::new(s, p, b, room, (pc, j, cols));
                s.vectorize(
                    #[inline(always)]
                    || match together {
                        true => part.run::<S, E, M, G, true>(s, 0),
                        false => part.run::<S, E, M, 1, true>(s, 0),
                    },
                );
            }
        }
        j += cols;
    }
    n
}

/// `M` rows with a B that caches hold, `G` groups at a time.
#[inline(never)]
unsafe fn near<S: Simd, E: Elem, const M: usize, const G: usize>(
    s: S,
    p: &Product,
    b: RawMat,
    room: &Room,
) -> usize {
    let (k, n) = (b.rows, b.cols - b.cols % S::LANES);
    // Columns that share two sets, which hold 16.
    let crowded = bytes_apart(&b).is_multiple_of(CROWDED / 2) && G * S::LANES > 16;
    // As many columns as there is room for sums between blocks of `k`.
    for jc in (0..n).step_by(room.cols.max(1)) {
        let nc = (n - jc).min(room.cols);
        for pc in (0..k).step_by(KC) {
            // SAFETY: as in `far`.
            unsafe {
                let part = Part::new(s, p, b, room, (pc, jc, nc));
                s.vectorize(
                    #[inline(always)]
                    || {
                        let mut j = 0;
                        while const { G > 1 } && !crowded && j + G * S::LANES <= nc {
                            part.run::<S, E, M, G, false>(s, j);
                            j += G * S::LANES;
                        }
                        while j < nc {
                            part.run::<S, E, M, 1, false>(s, j);
                            j += S::LANES;
                        }
                    },
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
    store: Store<'a>,
}

impl<'a> Part<'a> {
    /// The block that begins at row `pc` and column `jc` of B, of `nc` columns.
    unsafe fn new<S: Simd>(
        s: S,
        p: &'a Product,
        b: RawMat,
        room: &Room,
        (pc, jc, nc): (usize, usize, usize),
    ) -> Part<'a> {
        let (k, kc) = (b.rows, (b.rows - pc).min(KC));
        let store = Store::block(p, (0, jc), pc..pc + kc, (room.partial, room.cols));
        let a = p.a.block(0, pc, p.a.rows, kc);
        // SAFETY: there is room for a block of A.
        let a = unsafe { rows_of(s, a, a.col_stride == 1, room.a, room.a_stride) };
        Part { a, b: b.block(pc, jc, kc, nc), pc, k, store }
    }

    /// `G` groups of columns from `j` on, a column for each lane.
    #[inline(always)]
    unsafe fn run<S: Simd, E: Elem, const M: usize, const G: usize, const FAR: bool>(&self, s: S, j: usize) {
        let (kc, apart, a) = (self.b.rows, self.b.col_stride, self.a.each::<M>());
        let mut acc = [zero::<S, M, 1>(s); G];
        let column = |g: usize| self.b.at::<E>(0, j + g * S::LANES).cast_const();
        let mut at = 0;
        let turn = if const { FAR && G > 1 } { TURN } else { 8 };
        while at + turn <= kc {
            if FAR && at.is_multiple_of(LINE / size_of::<E>()) {
                for g in 0..G {
                    self.ask(s, column(g), G * S::LANES, at);
                }
            }
            unrolled!(I < G => {
                for at in (at..at + turn).step_by(8) {
                    // SAFETY: eight elements of each row and of each column; the columns exist.
                    unsafe { eight(s, &a, (column(I), apart), at, &mut acc[I]) };
                }
                // The compiler would read all groups first, for which there are too few registers.
                compiler_fence(Ordering::SeqCst);
            });
            at += turn;
        }
        if const { FAR && G > 1 } && at + 8 <= kc {
            unrolled!(I < G => {
                // SAFETY: as above.
                unsafe { eight(s, &a, (column(I), apart), at, &mut acc[I]) };
            });
            at += 8;
        }
        unrolled!(I < G => {
            // SAFETY: the other elements.
            unsafe { rest(s, &a, (column(I), apart), at..kc, &mut acc[I]) };
        });
        unrolled!(I < G => {
            // SAFETY: the columns exist.
            unsafe { self.store.put(s, acc[I], (0, j + I * S::LANES), S::LANES) };
        });
    }

    /// Asks for what lies `AHEAD` further on in the columns from `column` on, or in those `cols` further on.
    #[inline(always)]
    fn ask<S: Simd, E: Elem>(&self, s: S, column: *const E, cols: usize, at: usize) {
        let (apart, mut ahead) = (self.b.col_stride, at + AHEAD * LINE / size_of::<E>());
        if self.pc + ahead >= self.k {
            ahead = ahead.wrapping_sub(self.k).wrapping_add(cols * apart);
        }
        for c in 0..S::LANES {
            s.prefetch(column.wrapping_add(ahead).wrapping_add(c * apart));
        }
    }
}

/// Eight steps from `at` on, with the columns from `column` on, which are `apart`.
#[inline(always)]
unsafe fn eight<S: Simd, E: Elem, const M: usize>(
    s: S,
    a: &[*const f32; M],
    (column, apart): (*const E, usize),
    at: usize,
    acc: &mut Acc<S::V, M, 1>,
) {
    // Addresses from a stride that is not known: sixteen that are would be kept in memory.
    let apart = black_box(apart);
    // SAFETY: as the caller promises.
    unsafe {
        let b = E::load_eight_columns(s, column.wrapping_add(at), apart);
        steps(s, a, at, &b, acc);
    }
}

/// The `last` steps, fewer than eight, of the rows `a` with the columns from `column` on, which are `apart`.
#[inline(always)]
unsafe fn rest<S: Simd, E: Elem, const M: usize>(
    s: S,
    a: &[*const f32; M],
    (column, apart): (*const E, usize),
    last: Range<usize>,
    acc: &mut Acc<S::V, M, 1>,
) {
    for at in last.clone().step_by(4) {
        let (n, mut turned) = ((last.end - at).min(4), [[0.0; MAX_LANES]; 4]);
        // SAFETY: as the caller promises.
        unsafe {
            turn(s, n, (column.wrapping_add(at), apart), &mut turned);
            for (i, b) in turned.iter().enumerate().take(n) {
                steps(s, a, at + i, &[s.load(b.as_ptr())], acc);
            }
        }
    }
}

/// `n <= 4` elements of each column. A function of its own, so that it is compiled once for all numbers of rows.
#[inline(never)]
unsafe fn turn<S: Simd, E: Elem>(
    s: S,
    n: usize,
    (column, apart): (*const E, usize),
    to: &mut [[f32; MAX_LANES]; 4],
) {
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises; each of the arrays holds a vector.
            unsafe {
                let b = load_some_columns(s, n, |c| Some(column.wrapping_add(c * apart)));
                unrolled!(I < 4 => {
                    s.store(to[I].as_mut_ptr(), b[I]);
                });
            }
        },
    );
}

/// The steps from `at` on with the turned `b`.
#[inline(always)]
unsafe fn steps<S: Simd, const M: usize>(
    s: S,
    a: &[*const f32; M],
    at: usize,
    b: &[S::V],
    acc: &mut Acc<S::V, M, 1>,
) {
    for (i, &b) in b.iter().enumerate() {
        unrolled!(I < M => {
            // SAFETY: one of the row's elements, as the caller promises.
            let a = s.splat(unsafe { *a[I].wrapping_add(at + i) });
            acc[I][0] = s.fma(a, b, acc[I][0]);
        });
    }
}
