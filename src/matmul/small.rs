//! Small products, straight from the operands.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::blocked::{SMALL, lying_rows};
use super::groups::many;
use super::store::Store;
use super::tiles::{self, Next, fills_panels, tiles};
use super::{Product, Rhs};
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, packed, share, side_by_side};
use crate::simd::Simd;
use crate::view::RawMat;

/// Computes the product if it is one of floats in whole vectors and there is nothing to decide for each tile; says
/// whether it was.
///
/// # Safety
/// - As [`run`].
#[inline(always)]
pub unsafe fn whole<S: Simd>(s: S, p: &Product) -> bool {
    let short = const { <S::Few as Simd>::LANES < S::LANES } && p.c.cols == <S::Few as Simd>::LANES;
    if !short && !p.c.cols.is_multiple_of(S::LANES) {
        return false;
    }
    let (Rhs::Strided(b), n) = (&p.b, p.c.cols) else { return false };
    let whole =
        b.col_stride == 1 && p.a.kind == Kind::F32 && b.kind == Kind::F32 && Store::whole(p).is_as_it_is();
    if whole {
        // SAFETY: as the caller promises; all of it is as the tiles ask.
        unsafe {
            if short { tiles::whole(s.few(), p, (0, n), None) } else { tiles::whole(s, p, (0, n), None) }
        }
    }
    whole
}

/// Straight from the operands, one block of `k`. What the tile cannot read as it lies goes through a
/// buffer on the stack: a panel of B that is not row-major or not whole, rows of A that are not `f32`.
///
/// # Safety
/// - As `blocked::run`; the product is small, and not empty.
pub unsafe fn run<S: Simd>(s: S, p: &Product) {
    let (k, n) = (p.a.cols, p.c.cols);
    let store = Store::whole(p);
    // One lane reads all columns as they lie. What is read for each tile of rows is widened once.
    let one_lane = const { S::LANES == 1 };
    let lying = |kind, most| one_lane || kind == Kind::F32 || k > 0 && p.c.rows <= most;
    // Rows are sooner copied to rows than panels are.
    let few = if const { fills_panels::<S>() } { S::MR } else { many::<S>() };
    let direct = match &p.b {
        Rhs::Packed { kind, .. } if lying(*kind, many::<S>()) => n,
        Rhs::Strided(b) if (one_lane || b.col_stride == 1) && lying(b.kind, few) => n - n % S::LANES,
        _ => 0,
    };
    if direct > 0 {
        by_kind!(p.b.kind(), E => {
            let panels = match &p.b {
                Rhs::Packed { ptr, .. } => packed::<E>(ptr.cast(), k),
                Rhs::Strided(b) => {
                    let (ptr, col_stride) = (b.at::<E>(0, 0).cast_const(), b.col_stride);
                    let panel_stride = PANEL_COLS.wrapping_mul(col_stride);
                    Panels { ptr, row_stride: b.row_stride, panel_stride, col_stride }
                }
            };
            // SAFETY: packed B has whole vectors of `k` rows; others have them in the first `direct` columns.
            unsafe { strips::<S, E>(s, &p.a, panels, 0, direct, &store) };
        });
    }
    if one_lane || direct == n {
        return;
    }
    // SAFETY: `k <= SMALL` rows, and as many columns as are said.
    unsafe {
        if n - direct <= PANEL_COLS {
            return through::<S, 1>(s, p, (direct, n - direct), &store);
        }
        // With a buffer for A there is room for less of B.
        let (run, most): (Through<S>, usize) =
            if p.a.kind == Kind::F32 { (through::<S, 3>, 3) } else { (through::<S, 2>, 2) };
        let mut j = direct;
        while j < n {
            let left = n - j;
            let panels = if left <= most * PANEL_COLS { most } else { share(left / PANEL_COLS, most) };
            let cols = left.min(panels * PANEL_COLS);
            run(s, p, (j, cols), &store);
            j += cols;
        }
    }
}

type Through<S> = unsafe fn(S, &Product, (usize, usize), &Store);

/// All rows of a small A against `n` columns of B, up to `PANELS` panels, from column `j` on, through a buffer. Not
/// inlined, so that it is on the stack only then.
#[inline(never)]
unsafe fn through<S: Simd, const PANELS: usize>(s: S, p: &Product, (j, n): (usize, usize), store: &Store) {
    let mut rows = MaybeUninit::<[[[f32; PANEL_COLS]; PANELS]; SMALL]>::uninit();
    let rows = rows.as_mut_ptr().cast::<f32>();
    let (k, width) = (p.a.cols, n.next_multiple_of(PANEL_COLS));
    // SAFETY: `k <= SMALL` rows of `n` columns fit the buffer.
    unsafe {
        match p.b {
            Rhs::Strided(b) => pack(s, b.block(0, j, k, n), Grid { dst: rows, stride: width, width }),
            Rhs::Packed { ptr, kind, .. } => by_kind!(kind, E => {
                for at in (0..width).step_by(PANEL_COLS) {
                    let panel = packed::<E>(ptr.cast(), k).at(0, j + at).ptr;
                    let to = Grid { dst: rows.wrapping_add(at), stride: width, width: PANEL_COLS };
                    pack(s, RawMat::of_rows(panel, [k, PANEL_COLS], PANEL_COLS), to);
                }
            }),
        }
        if n.is_multiple_of(S::LANES) && p.a.kind == Kind::F32 && store.is_as_it_is() {
            return tiles::whole(s, p, (j, n), NonNull::new(rows));
        }
        strips::<S, f32>(s, &p.a, side_by_side(rows.cast_const(), width), j, n, store);
    }
}

/// All rows of a small A against `cols` columns of B that belong at column `j` of C.
unsafe fn strips<S: Simd, E: Elem>(s: S, a: &RawMat, b: Panels<E>, j: usize, cols: usize, store: &Store) {
    if a.kind == Kind::F32 {
        let sizes = (a.rows, a.cols, cols);
        // SAFETY: A has `a.rows` rows of `a.cols`; the rest is as the caller promises.
        return unsafe { tiles::<S, E, false>(s, sizes, lying_rows(a), b, (0, j), store, Next::NOTHING) };
    }
    let run = if const { S::LANES == 1 } { widened::<S, E, 8> } else { widened::<S, E, 24> };
    // SAFETY: as above.
    unsafe { run(s, a, b, j, cols, store) }
}

/// The same of an A that is not `f32`, some rows at a time. Not inlined, so that its buffer is on the stack only
/// then.
#[inline(never)]
unsafe fn widened<S: Simd, E: Elem, const ROWS: usize>(
    s: S,
    a: &RawMat,
    b: Panels<E>,
    j: usize,
    cols: usize,
    store: &Store,
) {
    let mut wide = MaybeUninit::<[[f32; SMALL]; ROWS]>::uninit();
    let wide = wide.as_mut_ptr().cast::<f32>();
    let rows = Rows { ptr: wide, row_stride: SMALL, col_stride: 1 };
    for i in (0..a.rows).step_by(ROWS) {
        let m = (a.rows - i).min(ROWS);
        // SAFETY: `m` rows of `a.cols <= SMALL` columns fit the buffer.
        unsafe {
            pack(s, a.block(i, 0, m, a.cols), Grid { dst: wide, stride: SMALL, width: a.cols });
            tiles::<S, E, false>(s, (m, a.cols, cols), rows, b, (i, j), store, Next::NOTHING);
        }
    }
}
