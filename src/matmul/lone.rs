//! Products with one lane: tiles of 4 x 4 sums where the operands lie, and rows of 8 if there is a single one. A
//! small processor has no cache to pack for.

use super::blocked::{KC, lying_rows};
use super::store::Store;
use super::{Product, Rhs};
use crate::elem::{Elem, by_kind};
use crate::kernel::lone::{FLOAT, LANES, PLUS_ZERO, Tile, Together, ZEROS, row, tile};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows};

/// Computes a product whose A and C are of `f32`: sums between blocks of `k` lie in C.
///
/// # Safety
/// - As `blocked::run`.
pub unsafe fn run(p: &Product) {
    let (k, n) = (p.a.cols, p.c.cols);
    let (b, kind, row_stride, col_stride, panel_stride) = match &p.b {
        &Rhs::Packed { ptr, kind, .. } => (ptr, kind, PANEL_COLS, 1, k * PANEL_COLS),
        Rhs::Strided(b) => {
            (b.bytes(), b.kind, b.row_stride, b.col_stride, b.col_stride.wrapping_mul(PANEL_COLS))
        }
    };
    let a = lying_rows(&p.a);
    by_kind!(kind, E => {
        let b = Panels { ptr: b.cast::<E>(), row_stride, panel_stride, col_stride };
        let mut x = all_rows(&a, &b, p);
        let plain = Store::whole(p).is_as_it_is();
        let mut pc = 0;
        loop {
            x.k = (k - pc).min(KC);
            let store = Store::block(p, (0, 0), pc..pc + x.k, (core::ptr::null_mut(), 0));
            // SAFETY: as the caller promises.
            unsafe { columns(&mut x, (p.c.rows, n), &b, (0, 0), &store, plain && store.first) };
            pc += x.k;
            if pc >= k {
                return;
            }
            x.a = x.a.wrapping_byte_add(x.k.wrapping_mul(x.a_step));
            x.b = x.b.wrapping_byte_add(x.k.wrapping_mul(x.b_step));
        }
    });
}

/// As [`tiles::tiles`](super::tiles::tiles).
///
/// # Safety
/// - As there.
#[inline(never)]
pub unsafe fn tiles<E: Elem>(
    (m, k, n): (usize, usize, usize),
    a: &Rows,
    b: &Panels<E>,
    at: (usize, usize),
    store: &Store,
) {
    let mut x = all_rows(a, b, store.p);
    x.k = k;
    // SAFETY: as the caller promises.
    unsafe { columns(&mut x, (m, n), b, at, store, store.is_as_it_is()) };
}

/// Tiles of all rows of the first columns; of how many, and for how many steps, is still to be said.
#[inline(always)]
fn all_rows<E: Elem>(a: &Rows, b: &Panels<E>, p: &Product) -> Tile<E> {
    let bytes = |stride: usize| stride.wrapping_mul(FLOAT);
    let (a_row, to_row) = (bytes(a.row_stride), bytes(p.c.row_stride));
    Tile {
        a_row,
        b_column: 0,
        together: Together::Nothing,
        a: a.ptr,
        b: b.ptr,
        a_step: bytes(a.col_stride),
        b_step: b.row_stride.wrapping_mul(size_of::<E>()),
        k: 0,
        start: ZEROS.as_ptr(),
        to: core::ptr::null_mut(),
        factor: core::ptr::null(),
        left: 0,
        to_row,
        a_next: a_row.wrapping_mul(4),
        b_next: 0,
        to_next: to_row.wrapping_mul(4),
    }
}

/// The tiles of `m` rows and `n` columns that belong at `at`. With `as_it_is` their sums are what C gets. At the end `x`
/// points to the first tile again.
#[inline(always)]
unsafe fn columns<E: Elem>(
    x: &mut Tile<E>,
    (m, n): (usize, usize),
    b: &Panels<E>,
    at: (usize, usize),
    store: &Store,
    as_it_is: bool,
) {
    let (first, neighbours) = ((x.a, x.b), b.col_stride == 1);
    x.factor = if as_it_is { PLUS_ZERO } else { core::ptr::null() };
    let mut j = 0;
    while j < n {
        let cols = match n - j {
            8.. if m == 1 && neighbours => 8,
            4.. => 4,
            _ => 1,
        };
        (x.a, x.left) = (first.0, m);
        x.b_column = if cols == 1 { 0 } else { b.col_stride.wrapping_mul(size_of::<E>()) };
        x.together = match cols {
            _ if x.a_step != FLOAT => Together::Nothing,
            1 => Together::Column,
            _ if neighbours => Together::Rows,
            _ => Together::Nothing,
        };
        // SAFETY: columns of the block.
        unsafe {
            if as_it_is && cols > 1 {
                x.to = store.c_at(at.0, at.1 + j);
                some(x, cols);
            } else {
                through_memory(x, (at.0, at.1 + j), cols, store);
            }
        }
        j += cols;
        x.b = x.b.wrapping_add(cols.wrapping_mul(b.col_stride));
        if j.is_multiple_of(PANEL_COLS) {
            x.b = x.b.wrapping_add(b.panel_stride.wrapping_sub(b.col_stride.wrapping_mul(PANEL_COLS)));
        }
    }
    (x.a, x.b) = first;
}

/// All rows of 4 columns, or a single one of 8.
#[inline(always)]
unsafe fn some<E: Elem>(x: &mut Tile<E>, cols: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        if cols == 8 {
            x.left = 8;
            row(x);
            x.b = x.b.wrapping_sub(8);
        } else {
            tile(x);
        }
    }
}

/// The same where C does not take sums as they are.
#[inline(never)]
unsafe fn through_memory<E: Elem>(x: &mut Tile<E>, at: (usize, usize), cols: usize, store: &Store) {
    let (rows, a) = (x.left, x.a);
    let mut sums = [0.0; 16];
    for i in (0..rows).step_by(4) {
        x.a = a.wrapping_byte_add(i * x.a_row);
        (x.to, x.to_row, x.left) = (sums.as_mut_ptr(), LANES, (rows - i).min(4));
        // SAFETY: as the caller promises.
        unsafe {
            some(x, cols);
            store.put_lone(&sums, (at.0 + i, at.1), ((rows - i).min(4), cols));
        }
    }
    x.to_row = store.p.c.row_stride.wrapping_mul(FLOAT);
}
