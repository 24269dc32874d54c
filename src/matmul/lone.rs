//! Products with one lane: tiles of 4 x 4 sums where the operands lie, and rows of 8 if there is a single one. A
//! small processor has no cache to pack for.

use super::blocked::KC;
use super::store::Store;
use super::{Product, Rhs};
use crate::elem::{Elem, by_kind};
use crate::kernel::lone::{FLOAT, LANES, PLUS_ZERO, Row, Tile, Together, ZEROS, row, tile};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows};

/// Computes a product whose A and C are of `f32`: sums between blocks of `k` lie in C.
///
/// # Safety
/// - As `blocked::run`.
pub unsafe fn run(p: &Product) {
    let (m, k, n) = (p.c.rows, p.a.cols, p.c.cols);
    let (b, kind, row_stride, col_stride, panel_stride) = match &p.b {
        &Rhs::Packed { ptr, kind, .. } => (ptr, kind, PANEL_COLS, 1, k * PANEL_COLS),
        Rhs::Strided(b) => {
            (b.bytes(), b.kind, b.row_stride, b.col_stride, b.col_stride.wrapping_mul(PANEL_COLS))
        }
    };
    let mut pc = 0;
    loop {
        let kc = (k - pc).min(KC);
        let store = Store::block(p, (0, 0), pc..pc + kc, (core::ptr::null_mut(), 0));
        let a = Rows { ptr: p.a.at(0, pc), row_stride: p.a.row_stride, col_stride: p.a.col_stride };
        by_kind!(kind, E => {
            let ptr = b.cast::<E>().wrapping_add(pc * row_stride);
            // SAFETY: as the caller promises.
            unsafe {
                tiles::<E>((m, kc, n), &a, &Panels { ptr, row_stride, panel_stride, col_stride }, (0, 0), &store);
            }
        });
        pc += kc;
        if pc >= k {
            return;
        }
    }
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
    let bytes = |stride: usize| stride.wrapping_mul(FLOAT);
    let (a_row, to_row) = (bytes(a.row_stride), bytes(store.p.c.row_stride));
    let (neighbours, as_it_is) = (b.col_stride == 1, store.is_as_it_is());
    let mut x = Tile {
        a: a.ptr,
        a_row,
        b: b.ptr,
        b_column: b.col_stride.wrapping_mul(size_of::<E>()),
        a_step: bytes(a.col_stride),
        b_step: b.row_stride.wrapping_mul(size_of::<E>()),
        together: Together::Nothing,
        k,
        start: ZEROS.as_ptr(),
        to: core::ptr::null_mut(),
        to_row,
        factor: if as_it_is { PLUS_ZERO } else { core::ptr::null() },
        left: m,
        a_next: a_row.wrapping_mul(4),
        b_next: 0,
        to_next: to_row.wrapping_mul(4),
    };
    let mut j = 0;
    while j < n {
        let cols = match n - j {
            8.. if m == 1 && neighbours => 8,
            4.. => 4,
            _ => 1,
        };
        (x.a, x.b, x.left) = (a.ptr, b.lane(j).ptr, m);
        x.together = match cols {
            _ if a.col_stride != 1 => Together::Nothing,
            1 => Together::Column,
            _ if neighbours => Together::Rows,
            _ => Together::Nothing,
        };
        if cols == 1 {
            x.b_column = 0;
        }
        // SAFETY: columns of the block.
        unsafe {
            if as_it_is && cols > 1 {
                x.to = store.c_at(at.0, at.1 + j);
                columns(&mut x, cols);
            } else {
                through_memory(&mut x, (at.0, at.1 + j), cols, store);
            }
        }
        j += cols;
    }
}

/// All rows of 4 columns, or a single one of 8.
#[inline(always)]
unsafe fn columns<E: Elem>(x: &mut Tile<E>, cols: usize) {
    // SAFETY: as the caller promises.
    unsafe { if cols == 8 { single(x) } else { tile(x) } }
}

/// A single row of 8 columns. Not inlined, so that other products do without its stack.
#[inline(never)]
unsafe fn single<E: Elem>(x: &Tile<E>) {
    let &Tile { k, a, a_step, b, b_step, start, to, factor, .. } = x;
    // SAFETY: as the caller promises.
    unsafe { row(&mut Row { k, a, a_step, b, b_step, start, to, factor, left: 8 }) };
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
            columns(x, cols);
            store.put_lone(&mut sums, (at.0 + i, at.1), ((rows - i).min(4), cols));
        }
    }
    x.to_row = store.p.c.row_stride.wrapping_mul(FLOAT);
}
