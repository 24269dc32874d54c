//! The kernels of one lane: what a small processor does instead of the tiles of vectors.
//!
//! ```text
//! tile        c[4][4] = start + Σ_k a(k)[4] b(k)[4]     products, and values of four rows
//! row         c[8]    = start + Σ_k a(k) b(k)[8]        the same of a single row
//! chain       c       = start + Σ_k a(k) b(k)           what is left over
//! scores      K q for four queries, two chains of each
//! few_scores  K q for one query
//! ```
//! Few loops, each for any strides: flash is small. Sums start with what is said, and may be added to what is in
//! memory, times a factor: `to = to factor + c`. All steps are in bytes. All but `chain` are the loops of
//! `arch::vfp` where there are such instructions, for elements of 16 bits too, with the same bits.

use super::exp::exp_weight;
use super::softmax::{CHAINS, join_row};
use super::unrolled::unrolled;
use crate::arch::scalar::Scalar;
use crate::elem::Elem;
use crate::simd::Simd;

/// From a query's feature, or a key's weight, to the next one: bytes of a row of four lanes.
pub const LANES: usize = 4 * FLOAT;
pub const FLOAT: usize = size_of::<f32>();

/// What sums start with, as many as the largest tile has.
pub static ZEROS: [f32; 16] = [0.0; 16];

/// In the place of factors: 0 is added, so that no sum is -0. Two roundings a step never give that.
pub const PLUS_ZERO: *const f32 = core::ptr::without_provenance(if Scalar::FUSED { 1 } else { 0 });

/// The sum, or what is at `to` times a factor plus the sum.
#[inline(always)]
unsafe fn finished(sum: f32, to: *const f32, factor: *const f32, i: usize) -> f32 {
    match factor {
        _ if factor.is_null() => sum,
        PLUS_ZERO => sum + 0.0,
        // SAFETY: as the caller promises.
        _ => unsafe { Scalar.fma(*to, *factor.wrapping_add(i), sum) },
    }
}

/// Returns what a function of `arch::vfp` gives, if there is such a unit and one for elements `$E`.
macro_rules! own {
    ($name:ident($($x:expr),*)) => {
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
        if const { true } {
            // SAFETY: as the caller promises.
            return unsafe { crate::arch::vfp::$name($($x),*) };
        }
    };
    ($E:ty: $name:ident($($x:expr),*)) => {
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
        if let Some(own) = const { crate::arch::vfp::$name(<$E as crate::elem::sealed::Lanes>::KIND) } {
            // SAFETY: as the caller promises.
            return unsafe { own($($x),*) };
        }
    };
}

/// `√x`.
pub fn sqrt(x: f32) -> f32 {
    own!(sqrt(x));
    crate::arch::scalar::sqrt(x)
}

/// Tiles of 4 x 4 sums, or a row of them.
#[repr(C)]
pub struct Tile<E> {
    /// From one row of `a` to the next, and the same of the columns of `b`, which are neighbours for a row of sums.
    pub a_row: usize,
    pub b_column: usize,
    /// How a tile's places lie together.
    pub together: Together,
    pub a: *const f32,
    pub b: *const E,
    pub a_step: usize,
    pub b_step: usize,
    pub k: usize,
    /// 16 floats.
    pub start: *const f32,
    /// Rows of four floats, or one row.
    pub to: *mut f32,
    /// A float for each row, of tiles that have four; null: nothing is added to; or [`PLUS_ZERO`].
    pub factor: *const f32,
    /// Rows, or columns, that are wanted: four a tile. The last tile may have fewer rows. Of a row, its sums.
    pub left: usize,
    /// From one row of `to` to the next.
    pub to_row: usize,
    /// From one tile to the next.
    pub a_next: usize,
    pub b_next: usize,
    pub to_next: usize,
}

/// What is known of a tile's places.
#[repr(usize)]
#[derive(Clone, Copy)]
pub enum Together {
    Nothing,
    /// Columns of `b` are neighbours, and so are a row's elements in `a`.
    Rows,
    /// Columns of `b` are neighbours, and so are rows of `a`.
    Both,
    /// Only the first column is wanted, and a row's elements in `a` are neighbours.
    Column,
}

/// Computes tiles; what `x` says is used up.
///
/// # Safety
/// - Operands are valid for `k` steps, outputs for rows of four floats.
#[inline(always)]
pub unsafe fn tile<E: Elem>(x: &mut Tile<E>) {
    debug_assert!(x.left > 0);
    debug_assert!(x.left.is_multiple_of(4) || x.factor.is_null() || x.factor == PLUS_ZERO);
    own!(E: tile(core::ptr::from_mut(x).cast()));
    // SAFETY: as the caller promises.
    unsafe { any_tile(x) }
}

#[inline(never)]
unsafe fn any_tile<E: Elem>(x: &mut Tile<E>) {
    loop {
        let rows = x.left.min(4);
        let mut a = [0, 1, 2, 3].map(|i: usize| x.a.wrapping_byte_add(i.min(rows - 1) * x.a_row));
        let mut b = [0, 1, 2, 3].map(|j| x.b.wrapping_byte_add(j * x.b_column));
        let mut sums = [[0.0; 4]; 4];
        // SAFETY: as the caller promises.
        unsafe {
            unrolled!(I < 4 => {
                unrolled!(J < 4 => {
                    sums[I][J] = *x.start.wrapping_add(4 * I + J);
                });
            });
            for _ in 0..x.k {
                let mut column = [0.0; 4];
                unrolled!(J < 4 => {
                    column[J] = (*b[J]).widen();
                    b[J] = b[J].wrapping_byte_add(x.b_step);
                });
                unrolled!(I < 4 => {
                    let row = *a[I];
                    a[I] = a[I].wrapping_byte_add(x.a_step);
                    unrolled!(J < 4 => {
                        sums[I][J] = Scalar.fma(row, column[J], sums[I][J]);
                    });
                });
            }
            for (i, row) in sums.iter().enumerate().take(rows) {
                let to = x.to.wrapping_byte_add(i * x.to_row);
                for (j, &sum) in row.iter().enumerate() {
                    let to = to.wrapping_add(j);
                    *to = finished(sum, to, x.factor, i);
                }
            }
        }
        if x.left <= 4 {
            return;
        }
        (x.a, x.b) = (x.a.wrapping_byte_add(x.a_next), x.b.wrapping_byte_add(x.b_next));
        (x.to, x.left) = (x.to.wrapping_byte_add(x.to_next), x.left - 4);
    }
}

/// Computes a row of whole eights; `b`, `to` and `left` may be used up.
///
/// # Safety
/// - Operands are valid for `k` steps, the output for `left` floats.
#[inline(always)]
pub unsafe fn row<E: Elem>(x: &mut Tile<E>) {
    debug_assert!(x.left > 0);
    own!(E: row(core::ptr::from_mut(x).cast()));
    // SAFETY: as the caller promises.
    unsafe { any_row::<E, 8>(x) }
}

/// The same of any number of sums, one after the other.
///
/// # Safety
/// - As there.
pub unsafe fn chain<E: Elem>(x: &mut Tile<E>) {
    // SAFETY: as the caller promises.
    unsafe { any_row::<E, 1>(x) }
}

#[inline(never)]
unsafe fn any_row<E: Elem, const N: usize>(x: &mut Tile<E>) {
    for _ in 0..x.left / N {
        let (mut a, mut b) = (x.a, x.b);
        let mut sums = [0.0; N];
        // SAFETY: as the caller promises.
        unsafe {
            unrolled!(J < N => {
                sums[J] = *x.start.wrapping_add(J);
            });
            for _ in 0..x.k {
                let weight = *a;
                unrolled!(J < N => {
                    sums[J] = Scalar.fma(weight, (*b.wrapping_add(J)).widen(), sums[J]);
                });
                (a, b) = (a.wrapping_byte_add(x.a_step), b.wrapping_byte_add(x.b_step));
            }
            for &sum in &sums {
                *x.to = finished(sum, x.to, x.factor, 0);
                x.to = x.to.wrapping_add(1);
            }
        }
        x.b = x.b.wrapping_add(N);
    }
}

/// Two chains of the scores of some keys for four queries, or one: of the features 0 and 1 of each step.
#[repr(C)]
pub struct Scores<E> {
    pub keys: *const E,
    /// From one key to the next.
    pub apart: usize,
    /// Keys, at least 1.
    pub n: usize,
    /// Queries, four lanes a feature.
    pub q: *const f32,
    pub step: usize,
    pub q_step: usize,
    /// Steps, and whether there is feature 0 of another one.
    pub steps: usize,
    pub one: usize,
    /// Four lanes a key.
    pub to: *mut f32,
    /// Whether they are added to what is there.
    pub add: usize,
}

/// Computes the scores for four queries.
///
/// # Safety
/// - Keys and queries are valid for all steps, the output for `n` rows, and for reading another one.
#[inline(always)]
pub unsafe fn scores<E: Elem>(x: &mut Scores<E>) {
    debug_assert!(x.n > 0);
    own!(E: scores(core::ptr::from_mut(x).cast()));
    // SAFETY: as the caller promises.
    unsafe { any_scores::<E, 4>(x) }
}

/// Computes the scores for the query of the first lane.
///
/// # Safety
/// - As [`scores`].
#[inline(always)]
pub unsafe fn few_scores<E: Elem>(x: &mut Scores<E>) {
    debug_assert!(x.n > 0);
    own!(E: few_scores(core::ptr::from_mut(x).cast()));
    // SAFETY: as the caller promises.
    unsafe { any_scores::<E, 1>(x) }
}

#[inline(never)]
unsafe fn any_scores<E: Elem, const N: usize>(x: &mut Scores<E>) {
    for _ in 0..x.n {
        let (mut key, mut q) = (x.keys, x.q);
        let mut sums = [[0.0; N]; 2];
        // SAFETY: as the caller promises.
        unsafe {
            for _ in 0..x.steps {
                unrolled!(C < 2 => {
                    let feature = (*key.wrapping_add(C)).widen();
                    unrolled!(L < N => {
                        sums[C][L] = Scalar.fma(feature, *q.wrapping_add(4 * C + L), sums[C][L]);
                    });
                });
                (key, q) = (key.wrapping_byte_add(x.step), q.wrapping_byte_add(x.q_step));
            }
            unrolled!(L < N => {
                if x.one != 0 {
                    sums[0][L] = Scalar.fma((*key).widen(), *q.wrapping_add(L), sums[0][L]);
                }
                let to = x.to.wrapping_add(L);
                let sum = sums[0][L] + sums[1][L];
                *to = if x.add != 0 { *to + sum } else { sum };
            });
        }
        (x.keys, x.to) = (x.keys.wrapping_byte_add(x.apart), x.to.wrapping_add(4));
    }
}

/// Turns `n` scores, a row of four lanes apart, into weights; returns their sum, in the order of
/// [`columns`](super::softmax::columns). `n` is a multiple of its chains, or 1.
///
/// # Safety
/// - The scores are valid.
#[inline(always)]
pub unsafe fn weigh(score: *mut f32, n: usize, top: f32) -> f32 {
    own!(weigh(score, n, top));
    // SAFETY: as the caller promises.
    unsafe { any_weigh(score, n, top) }
}

#[inline(never)]
unsafe fn any_weigh(mut score: *mut f32, n: usize, top: f32) -> f32 {
    let mut sums = [0.0; CHAINS];
    for _ in 0..n {
        // SAFETY: as the caller promises.
        let weight = unsafe { exp_weight(Scalar, *score - top) };
        // SAFETY: as above.
        unsafe { *score = weight };
        let [a, b, c, d] = sums;
        sums = [b, c, d, a + weight];
        score = score.wrapping_byte_add(LANES);
    }
    join_row(sums)
}
