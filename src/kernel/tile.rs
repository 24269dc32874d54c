//! The register tile: the one inner loop of every product in the crate.
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

use crate::elem::Elem;
use crate::simd::Simd;

/// Columns in a panel of packed `b`. The layout is the same on every target, so that packed weights
/// can be stored.
pub const PANEL_COLS: usize = 16;

/// The broadcast operand: element `(i, k)` is at `ptr + i * row_stride + k * col_stride`.
#[derive(Clone, Copy)]
pub struct Rows {
    pub ptr: *const f32,
    pub row_stride: usize,
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
        core::array::from_fn(
            #[inline(always)]
            |i| self.ptr.wrapping_add(i * self.row_stride),
        )
    }
}

/// The vector operand: panels of [`PANEL_COLS`] columns. Row `k` of column `j` is at
/// `ptr + k * row_stride + (j / PANEL_COLS) * panel_stride + j % PANEL_COLS`.
/// Row-major memory is the case `panel_stride = PANEL_COLS`.
#[derive(Clone, Copy)]
pub struct Panels<E> {
    pub ptr: *const E,
    pub row_stride: usize,
    pub panel_stride: usize,
}

impl<E: Elem> Panels<E> {
    /// From row `k` of column `j` on; `j` is a multiple of the lanes.
    #[inline(always)]
    pub fn at(self, k: usize, j: usize) -> Panels<E> {
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
    let vector_stride = b.vector_stride::<S>();
    // A pointer for each row and one offset for all: the loop then has no address arithmetic left.
    let rows = a.each::<MR>();
    let (mut at, mut b_row) = (0, b.ptr);
    for _ in 0..k {
        // SAFETY: one of the first `k` columns of the rows and rows of `b`, as the caller promises.
        unsafe { step(s, rows.map(|row| row.wrapping_add(at)), (b_row, vector_stride), &mut acc) };
        meanwhile();
        at += a.col_stride;
        // Past the last step this may point outside; it is not read there.
        b_row = b_row.wrapping_add(b.row_stride);
    }
    acc
}

/// One step of all chains: `acc[i] += a[i] b`. `b` is the first of `NV` vectors and their stride.
///
/// # Safety
/// - Each of `a` is valid for reading, `b` for reading `NV` vectors.
#[inline(always)]
pub unsafe fn step<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    a: [*const f32; MR],
    b: (*const E, usize),
    acc: &mut Acc<S::V, MR, NV>,
) {
    let mut vectors = [s.splat(0.0); NV];
    for (v, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *vector = unsafe { E::load(s, b.0.wrapping_add(v * b.1)) };
    }
    for (sums, a) in acc.iter_mut().zip(&a) {
        // SAFETY: as the caller promises.
        let x = s.splat(unsafe { **a });
        for (sum, &vector) in sums.iter_mut().zip(&vectors) {
            *sum = s.fma(x, vector, *sum);
        }
    }
}

/// Zeroed accumulators.
#[inline(always)]
pub fn zero<S: Simd, const MR: usize, const NV: usize>(s: S) -> Acc<S::V, MR, NV> {
    [[s.splat(0.0); NV]; MR]
}

/// Rows of the tallest tile of `nv` vectors: a single vector leaves registers for more than the tier's `MR`.
pub const fn max_rows<S: Simd>(nv: usize) -> usize {
    if nv == 1 && S::LANES > 1 { 8 } else { S::MR }
}

/// Runs `$body` with the constant `$MR` equal to `$n`, which is at most the tier's `MR`, or at most `$max`.
macro_rules! with_rows {
    ($S:ident, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_rows!(<$S as $crate::simd::Simd>::MR, $n, $MR => $body)
    };
    ($max:expr, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($n, $MR => $body; [1 2 3 4 5 6 7 8] $max)
    };
}
pub(crate) use with_rows;

/// The same for a tile of scores, which has half the rows, but two chains of each.
macro_rules! with_score_rows {
    ($S:ident, $n:expr, $MR:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($n, $MR => $body; [1 2 3 4] <$S as $crate::simd::Simd>::MR / 2)
    };
}
pub(crate) use with_score_rows;

/// Runs `$body` with the constant `$NV` equal to `$n`, which is at most the tier's `NV`.
macro_rules! with_vectors {
    ($S:ident, $n:expr, $NV:ident => $body:expr) => {
        $crate::kernel::tile::with_const!($n, $NV => $body; [1 2 3 4] <$S as $crate::simd::Simd>::NV)
    };
}
pub(crate) use with_vectors;

/// A `match` from a number to a constant. The arms above `$max` are dead code in the tier.
macro_rules! with_const {
    ($n:expr, $N:ident => $body:expr; [$($value:literal)*] $max:expr) => {
        match $n {
            $($value if const { $value <= $max } => {
                const $N: usize = $value;
                $body
            })*
            _ => debug_assert!(false, "a tile larger than the tier's"),
        }
    };
}
pub(crate) use with_const;
