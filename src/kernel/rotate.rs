//! Rotates pairs of features by the angles of a position, on the way from one memory to another.
//!
//! ```text
//! for each pair (x1, x2) of a row:   y1 = x1 cos - x2 sin
//!                                    y2 = x2 cos + x1 sin
//! the other features:                y  = x
//! ```
//! Each operation is rounded by itself: where `fma` rounds once it is not used, so that all tiers give the
//! same bits. Pairs are taken `LANES` at a time. Those of neighbouring features are sorted into the first
//! and the second of each pair through two vectors' worth of stack, which LLVM turns into shuffles.

use crate::elem::{by_kind, load_up_to, store_up_to};
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// The angles of one position: a cosine and a sine for each pair.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    pub cos: &'a [f32],
    /// As many as there are cosines.
    pub sin: &'a [f32],
    /// Features `2 i` and `2 i + 1` are a pair instead of `i` and `i + cos.len()`.
    pub interleaved: bool,
}

impl Angles<'_> {
    /// No pair is rotated.
    pub const NONE: Angles<'static> = Angles { cos: &[], sin: &[], interleaved: false };
}

/// Writes the rows of `src` to `dst`, with their first `2 * cos.len()` features rotated.
///
/// # Safety
/// - Both are valid views of the same sizes, with a column stride of 1; `dst` is valid for writing.
/// - They have no element in common, or they are the same and all features are rotated.
/// - There are as many sines as cosines, and at most `src.cols / 2`.
#[inline(never)]
pub unsafe fn rotate<S: Simd>(s: S, src: RawMat, angles: Angles<'_>, dst: RawMat) {
    let half = angles.cos.len();
    debug_assert!(angles.sin.len() == half && 2 * half <= src.cols);
    debug_assert!((src.rows, src.cols, src.col_stride) == (dst.rows, dst.cols, dst.col_stride));
    s.vectorize(
        #[inline(always)]
        || {
            for i in 0..src.rows {
                // SAFETY: as the caller promises; row `i` and its columns exist in both.
                unsafe {
                    if angles.interleaved {
                        neighbours(s, src, angles, dst, i);
                    } else {
                        halves(s, src, angles, dst, i);
                    }
                    rest(s, src, dst, i, 2 * half);
                }
            }
        },
    );
}

/// Features `j` and `j + half` are a pair.
#[inline(always)]
unsafe fn halves<S: Simd>(s: S, src: RawMat, angles: Angles<'_>, dst: RawMat, i: usize) {
    let half = angles.cos.len();
    let mut j = 0;
    while j < half {
        let n = half - j;
        // SAFETY: `n` pairs from `j` on exist, with their angles. They are read before they are written.
        unsafe {
            let x = [load(s, src, i, j, n), load(s, src, i, half + j, n)];
            let [y1, y2] = turn(s, x, angles, j);
            store(s, dst, i, j, n, y1);
            store(s, dst, i, half + j, n, y2);
        }
        j += S::LANES;
    }
}

/// Features `2 j` and `2 j + 1` are a pair.
#[inline(always)]
unsafe fn neighbours<S: Simd>(s: S, src: RawMat, angles: Angles<'_>, dst: RawMat, i: usize) {
    let mut j = 0;
    while j < angles.cos.len() {
        // Features of the first vector and of the second.
        let n = 2 * (angles.cos.len() - j);
        let (first, second) = (2 * j, 2 * j + S::LANES);
        let behind = n.saturating_sub(S::LANES);
        // SAFETY: `n` features from `2 j` on exist, with their angles. They are read before they are
        // written.
        unsafe {
            let x = apart(s, [load(s, src, i, first, n), load(s, src, i, second, behind)]);
            let [low, high] = together(s, turn(s, x, angles, j));
            store(s, dst, i, first, n, low);
            store(s, dst, i, second, behind, high);
        }
        j += S::LANES;
    }
}

/// Features from `from` on, as they are.
#[inline(always)]
unsafe fn rest<S: Simd>(s: S, src: RawMat, dst: RawMat, i: usize, from: usize) {
    if src.kind == dst.kind {
        // SAFETY: the columns from `from` on exist in both, and are different memory if there are any.
        by_kind!(src.kind, E => unsafe {
            core::ptr::copy_nonoverlapping(src.at::<E>(i, from).cast_const(), dst.at(i, from), src.cols - from);
        });
        return;
    }
    let mut j = from;
    while j < src.cols {
        let n = src.cols - j;
        // SAFETY: `n` columns from `j` on exist in both.
        unsafe { store(s, dst, i, j, n, load(s, src, i, j, n)) };
        j += S::LANES;
    }
}

/// The first and the second features of pairs from `j` on, rotated.
#[inline(always)]
unsafe fn turn<S: Simd>(s: S, [x1, x2]: [S::V; 2], angles: Angles<'_>, j: usize) -> [S::V; 2] {
    let n = angles.cos.len() - j;
    // SAFETY: `n` angles from `j` on exist.
    let (cos, sin) = unsafe {
        (load_up_to(s, angles.cos.as_ptr().add(j), n), load_up_to(s, angles.sin.as_ptr().add(j), n))
    };
    [s.sub(s.mul(x1, cos), s.mul(x2, sin)), s.add(s.mul(x2, cos), s.mul(x1, sin))]
}

/// Two vectors of neighbours: the first of every two, and the second.
#[inline(always)]
fn apart<S: Simd>(s: S, [low, high]: [S::V; 2]) -> [S::V; 2] {
    let mut lanes = [0.0; 2 * MAX_LANES];
    let (mut even, mut odd) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
    // SAFETY: the arrays hold two whole vectors and one.
    unsafe {
        s.store(lanes.as_mut_ptr(), low);
        s.store(lanes.as_mut_ptr().add(S::LANES), high);
        let places = even.iter_mut().zip(&mut odd).take(S::LANES);
        for ((even, odd), &[x1, x2]) in places.zip(lanes.as_chunks::<2>().0) {
            (*even, *odd) = (x1, x2);
        }
        [s.load(even.as_ptr()), s.load(odd.as_ptr())]
    }
}

/// The opposite of [`apart`].
#[inline(always)]
fn together<S: Simd>(s: S, [even, odd]: [S::V; 2]) -> [S::V; 2] {
    let mut lanes = [0.0; 2 * MAX_LANES];
    let (mut evens, mut odds) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
    // SAFETY: as there.
    unsafe {
        s.store(evens.as_mut_ptr(), even);
        s.store(odds.as_mut_ptr(), odd);
        let pairs = evens.iter().zip(&odds).take(S::LANES);
        for ((&even, &odd), pair) in pairs.zip(lanes.as_chunks_mut::<2>().0) {
            *pair = [even, odd];
        }
        [s.load(lanes.as_ptr()), s.load(lanes.as_ptr().add(S::LANES))]
    }
}

/// Up to `n` features of row `i` from `j` on, widened; zero beyond.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, src: RawMat, i: usize, j: usize, n: usize) -> S::V {
    // SAFETY: as the caller promises.
    by_kind!(src.kind, E => unsafe { load_up_to::<S, E>(s, src.at(i, j), n) })
}

/// Up to `n` features of row `i` from `j` on, rounded once.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, dst: RawMat, i: usize, j: usize, n: usize, v: S::V) {
    // SAFETY: as the caller promises.
    by_kind!(dst.kind, E => unsafe { store_up_to::<S, E>(s, dst.at(i, j), n, v) });
}
