//! The register tile: the inner loop of products and of attention with rows in the lanes.
//!
//! ```text
//!            b: NV vectors of LANES columns
//!            [b0      ][b1      ]
//!   a: MR    [c00     ][c01     ]      for k { load b; for i { broadcast a(i, k); c[i] += a b } }
//!   rows     [c10     ][c11     ]
//!            …
//! ```
//!
//! `a` is read by element, at any row and column stride; `b` by vector, at any row stride. So packed
//! blocks, the caller's own rows and the scores of attention all go through it as they lie.

use super::unrolled::unrolled;
use crate::apart::apart;
use crate::elem::Elem;
use crate::simd::Simd;

/// Columns in a panel of packed `b`. The layout is the same on every target, so that packed weights
/// can be stored.
pub const PANEL_COLS: usize = 16;

/// The broadcast operand: element `(i, k)` is at `ptr + i * row_stride + k * col_stride`.
#[derive(Clone, Copy)]
pub struct Rows {
    // Between the strides: two that lie together are copied at once, which waits for both to have been stored.
    pub row_stride: usize,
    pub ptr: *const f32,
    pub col_stride: usize,
}

impl Rows {
    /// From element `(i, k)` on.
    #[inline(always)]
    pub fn at(self, i: usize, k: usize) -> Rows {
        Rows { ptr: self.ptr.wrapping_add(i * self.row_stride + k * self.col_stride), ..self }
    }

    /// Where the first `MR` rows begin.
    #[inline(always)]
    pub fn each<const MR: usize>(self) -> [*const f32; MR] {
        let mut rows = [core::ptr::null(); MR];
        let mut row = self.ptr;
        unrolled!(I < MR => {
            rows[I] = row;
            row = row.wrapping_add(self.row_stride);
        });
        let _ = row;
        rows
    }
}

/// The vector operand: panels of [`PANEL_COLS`] columns. Row `k` of column `j` is at
/// `ptr + k * row_stride + (j / PANEL_COLS) * panel_stride + j % PANEL_COLS`.
/// Row-major memory is the case `panel_stride = PANEL_COLS`.
#[derive(Clone, Copy)]
pub struct Panels<E> {
    pub ptr: *const E,
    pub panel_stride: usize,
    pub row_stride: usize,
    /// From one column of a panel to the next. Vectors want 1; a single lane takes any.
    pub col_stride: usize,
}

impl<E: Elem> Panels<E> {
    /// From row `k` of column `j` on; `j` is a multiple of the lanes.
    #[inline(always)]
    pub fn at(self, k: usize, j: usize) -> Panels<E> {
        debug_assert!(self.col_stride == 1 || j == 0);
        let offset = k * self.row_stride + j / PANEL_COLS * self.panel_stride + j % PANEL_COLS;
        Panels { ptr: self.ptr.wrapping_add(offset), ..self }
    }

    /// From one vector of a tile to the next: vectors either share a panel or fill one.
    #[inline(always)]
    pub fn vector_stride<S: Simd>(&self) -> usize {
        const { assert!(PANEL_COLS.is_multiple_of(S::LANES)) };
        const { assert!(S::LANES == PANEL_COLS || PANEL_COLS.is_multiple_of(S::LANES * S::NV)) };
        if S::LANES == PANEL_COLS { self.panel_stride } else { S::LANES }
    }
}

/// Panels of `k` rows, one behind the other.
pub fn packed<E>(ptr: *const E, k: usize) -> Panels<E> {
    Panels { ptr, row_stride: PANEL_COLS, panel_stride: k * PANEL_COLS, col_stride: 1 }
}

/// Rows of elements side by side, `row_stride` apart.
#[inline(always)]
pub fn side_by_side<E>(ptr: *const E, row_stride: usize) -> Panels<E> {
    Panels { ptr, row_stride, panel_stride: PANEL_COLS, col_stride: 1 }
}

/// The accumulators of a tile.
pub type Acc<V, const MR: usize, const NV: usize> = [[V; NV]; MR];

/// `acc[i] += Σ_k a(i, k) b(k)` over `k` in order, one chain of fused steps for each element: what
/// `k` was cut into, and which operand was packed, leaves the same bits.
///
/// # Safety
/// - `a` is valid for reading `MR` rows of `k` elements.
/// - `b` is valid for reading `k` rows of `NV` vectors.
#[inline(always)]
pub unsafe fn tile<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    a: Rows,
    b: Panels<E>,
    acc: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    // SAFETY: as the caller promises.
    unsafe { tile_while(s, k, a, b, || {}, acc) }
}

/// [`tile`], in which each step does something else `meanwhile`.
///
/// # Safety
/// - As there.
#[inline(always)]
pub unsafe fn tile_while<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    a: Rows,
    b: Panels<E>,
    mut meanwhile: impl FnMut(),
    mut acc: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    apart!(s => {
        let vector_stride = b.vector_stride::<S>();
        // A pointer for each row and one offset for all: the loop then has no address arithmetic left.
        let rows = a.each::<MR>();
        let (mut at, mut b_row) = (0, b.ptr);
        for _ in 0..k {
            // SAFETY: one of the first `k` columns of the rows and rows of `b`, as the caller promises.
            unsafe { step(s, (&rows, at), (b_row, vector_stride), &mut acc) };
            meanwhile();
            at += a.col_stride;
            // Past the last step this may point outside; it is not read there.
            b_row = b_row.wrapping_add(b.row_stride);
        }
        acc
    })
}

/// Steps of [`tile_between`] that belong together.
const STEPS: usize = 16;

/// [`tile`], which does something else `before` every few steps, of which it says the first one and how many they are.
///
/// In each step, addresses of more than the operands would not fit the registers.
///
/// # Safety
/// - As there.
#[inline(always)]
pub unsafe fn tile_between<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    a: Rows,
    b: Panels<E>,
    mut before: impl FnMut(usize, usize),
    mut acc: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    let mut at = 0;
    while at < k {
        let steps = (k - at).min(STEPS);
        before(at, steps);
        // SAFETY: as the caller promises.
        acc = unsafe { tile_while(s, steps, a.at(0, at), b.at(at, 0), || {}, acc) };
        at += steps;
    }
    acc
}

/// [`tile_between`], which also writes the vectors of `b`, widened, side by side to `to`.
///
/// # Safety
/// - As there; `to` is valid for writing `k` rows of `NV` vectors.
#[inline(always)]
pub unsafe fn packing_tile<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    a: Rows,
    (b, mut to): (Panels<E>, *mut f32),
    mut before: impl FnMut(usize, usize),
    mut acc: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    let stride = b.vector_stride::<S>();
    let mut from = 0;
    while from < k {
        let steps = (k - from).min(STEPS);
        before(from, steps);
        let rows = a.at(0, from).each::<MR>();
        let (mut at, mut row) = (0, b.at(from, 0).ptr);
        for _ in 0..steps {
            // SAFETY: as the caller promises.
            unsafe {
                let vectors = vectors::<S, E, NV>(s, row, stride);
                unrolled!(V < NV, 16 => {
                    s.store(to.wrapping_add(V * S::LANES), vectors[V]);
                });
                multiply(s, (&rows, at), &vectors, &mut acc);
            }
            at += a.col_stride;
            row = row.wrapping_add(b.row_stride);
            to = to.wrapping_add(NV * S::LANES);
        }
        from += steps;
    }
    acc
}

/// [`tile_while`] of a single vector, of which memory has the first `n` lanes: the others become zero.
///
/// # Safety
/// - As there, of `n` elements.
#[inline(always)]
pub unsafe fn partial_tile<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    a: Rows,
    (b, n): (Panels<E>, usize),
    mut meanwhile: impl FnMut(),
    mut acc: Acc<S::V, MR, NV>,
) -> Acc<S::V, MR, NV> {
    let (rows, mut at, mut b_row) = (a.each::<MR>(), 0, b.ptr);
    for _ in 0..k {
        // SAFETY: as the caller promises.
        unsafe {
            let vector = E::load_partial(s, b_row, n);
            unrolled!(I < MR => {
                acc[I][0] = s.fma(s.splat(*rows[I].wrapping_add(at)), vector, acc[I][0]);
            });
        }
        meanwhile();
        at += a.col_stride;
        b_row = b_row.wrapping_add(b.row_stride);
    }
    acc
}

/// One step of all chains: `acc[i] += a[i] b`. `a` is where each row begins and the offset in all of them, `b`
/// the first of `NV` vectors and their stride.
///
/// # Safety
/// - Each of `a` is valid for reading, `b` for reading `NV` vectors.
#[inline(always)]
pub unsafe fn step<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    a: (&[*const f32; MR], usize),
    b: (*const E, usize),
    acc: &mut Acc<S::V, MR, NV>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let vectors = vectors::<S, E, NV>(s, b.0, b.1);
        multiply(s, a, &vectors, acc);
    }
}

/// `NV` vectors from `p` on, `stride` apart.
#[inline(always)]
unsafe fn vectors<S: Simd, E: Elem, const NV: usize>(s: S, p: *const E, stride: usize) -> [S::V; NV] {
    let mut vectors = [s.splat(0.0); NV];
    unrolled!(V < NV, 16 => {
        // SAFETY: as the caller promises.
        vectors[V] = unsafe { E::load(s, p.wrapping_add(V * stride)) };
    });
    vectors
}

#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    (rows, at): (&[*const f32; MR], usize),
    vectors: &[S::V; NV],
    acc: &mut Acc<S::V, MR, NV>,
) {
    unrolled!(I < MR => {
        // SAFETY: as the caller promises.
        let x = s.splat(unsafe { *rows[I].wrapping_add(at) });
        unrolled!(V < NV, 16 => {
            acc[I][V] = s.fma(x, vectors[V], acc[I][V]);
        });
    });
}

/// Zeroed accumulators.
#[inline(always)]
pub fn zero<S: Simd, const MR: usize, const NV: usize>(s: S) -> Acc<S::V, MR, NV> {
    [[s.splat(0.0); NV]; MR]
}

/// Whether the registers hold the chains of tiles that are wider than the tier's where rows are few.
pub const fn holds_many<S: Simd>() -> bool {
    S::MR * S::NV >= 24
}

/// Rows of the tallest tile of any tier.
pub const TALLEST: usize = 8;

/// Rows of the tallest tile of `nv` vectors: a single vector leaves registers for more than the tier's `MR`.
pub const fn max_rows<S: Simd>(nv: usize) -> usize {
    match nv {
        1 => TALLEST,
        _ => S::MR,
    }
}

/// How many of `left` rows the next tile takes, of which the largest tile has `most`: no tile of few rows, which has
/// too few chains, if two tiles can share.
#[inline(always)]
pub fn share(left: usize, most: usize) -> usize {
    if left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) }
}

/// Runs `$body` with the constant `$MR` equal to `$n`, at most `$most` or the tier's `MR`.
macro_rules! with_rows {
    ($S:ident, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_rows!($S, <$S as $crate::simd::Simd>::MR, $n, $MR => $body)
    };
    ($S:ident, $most:expr, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($S, $n, $MR => $body; [1 2 3 4 5 6 7 8] $most)
    };
}
pub(crate) use with_rows;

/// The same for a tile of scores, which has half the rows, but two chains of each.
macro_rules! with_score_rows {
    ($S:ident, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($S, $n, $MR => $body; [1 2 3 4] <$S as $crate::simd::Simd>::MR / 2)
    };
}
pub(crate) use with_score_rows;

/// Runs `$body` with the constant `$NV` equal to `$n`, at most the tier's `NV`.
macro_rules! with_vectors {
    ($S:ident, $n:expr, $NV:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($S, $n, $NV => $body; [1 2 3 4] <$S as $crate::simd::Simd>::NV)
    };
}
pub(crate) use with_vectors;

/// A `match` from a number to a constant. Arms of tiles that the tier does not have are dead code.
macro_rules! with_const {
    ($S:ident, $n:expr, $N:ident => $body:expr; [$($value:literal)*] $most:expr) => {
        match $n {
            $($value if const { $value <= $most } => {
                const $N: usize = $value;
                $body
            })*
            _ => debug_assert!(false, "a tile larger than the tier's"),
        }
    };
}
pub(crate) use with_const;
