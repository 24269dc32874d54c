//! All tiles of a block.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::blocked::lying_rows;
use super::store::Store;
use super::{Product, Rhs, few, lone};
use crate::apart::apart;
use crate::elem::{Elem, Kind};
use crate::kernel::tile::{
    PANEL_COLS, Panels, Rows, TALLEST, max_rows, share, side_by_side, tile, tile_between, with_rows,
    with_vectors, zero,
};
use crate::simd::{LINE, Simd, lines};

/// Lines of rows that are read next. The tiles of some columns ask for those of the columns that follow, each for a
/// part, so that memory is asked for no more than it can bring meanwhile.
#[derive(Clone, Copy)]
pub struct Next {
    at: *const u8,
    /// From one row to the next, and from one line of a row to the next, in bytes.
    row: usize,
    line: usize,
    lines: usize,
    /// `2^tiles` tiles share the asking; `tile` of them have begun.
    tiles: u32,
    tile: usize,
}

impl Next {
    pub const NOTHING: Next = Next { at: core::ptr::null(), row: 0, line: 0, lines: 0, tiles: 0, tile: 0 };

    /// `cols` columns in panels.
    #[inline(always)]
    pub fn of<E: Elem>(b: Panels<E>, cols: usize) -> Next {
        let [row, line, bytes] = [b.row_stride, b.panel_stride, cols].map(|n| n.wrapping_mul(size_of::<E>()));
        let at = b.ptr.cast::<u8>();
        if b.panel_stride != PANEL_COLS {
            return Next { at, row, line, lines: cols.div_ceil(PANEL_COLS), ..Next::NOTHING };
        }
        let (at, lines) = lines(at, row, bytes);
        Next { at, row, line: LINE, lines, ..Next::NOTHING }
    }

    /// The part of the next tile, of those of `m` rows, `tall` of them a tile.
    #[inline(always)]
    pub fn part(&mut self, (m, k): (usize, usize), tall: usize) -> Next {
        if self.tile == 0 {
            self.tiles = (m / tall).checked_ilog2().unwrap_or(0);
        }
        let mut part = *self;
        if self.tile >> self.tiles > 0 {
            part.lines = 0;
        }
        part.at = part.at.wrapping_add((self.tile * k.div_ceil(1 << self.tiles)).wrapping_mul(self.row));
        self.tile += 1;
        part
    }

    /// Asks for what belongs to steps `from..from + n`.
    #[inline(always)]
    pub fn ask<S: Simd>(&self, s: S, from: usize, n: usize) {
        if self.lines == 0 {
            return;
        }
        for row in from >> self.tiles..(from + n) >> self.tiles {
            let mut at = self.at.wrapping_add(row.wrapping_mul(self.row));
            for _ in 0..self.lines {
                s.prefetch(at);
                at = at.wrapping_add(self.line);
            }
        }
    }
}

/// Whether a vector fills a panel. Then tiles write the groups of B on their way, and ask for what is read next; narrower ones
/// read too little of each row, and do too little in a step.
pub const fn fills_panels<S: Simd>() -> bool {
    S::LANES == PANEL_COLS
}

/// All tiles of one block: `sizes` = (rows, k, columns), at row and column `at` of C. This is the hot loop, compiled once
/// for each tier, and once more for operands that are `FAR`: those tiles ask memory for C, for the next columns of B, and
/// in the last columns for what is `next`. A B of 16 bits goes to [`few::lying`]: these tiles would widen it again for each
/// tile of rows.
///
/// # Safety
/// - `a` is valid for reading that many rows of `k` elements, `b` for `k` rows of these columns, in whole vectors.
/// - The block lies inside the C of `store`, which overlaps neither.
/// - Of a B of 16 bits, `k` is not 0 and the columns are the first ones of `store`.
#[inline(never)]
pub unsafe fn tiles<S: Simd, E: Elem, const FAR: bool>(
    s: S,
    sizes: (usize, usize, usize),
    a: Rows,
    b: Panels<E>,
    at: (usize, usize),
    store: &Store,
    next: Next,
) {
    if const { S::LANES == 1 } {
        // SAFETY: as the caller promises.
        return unsafe { lone::tiles(sizes, &a, &b, at, store) };
    }
    if const { !matches!(E::KIND, Kind::F32) } {
        debug_assert!(sizes.1 > 0 && at.1 == 0);
        // SAFETY: as the caller promises.
        return unsafe { few::lying(s, sizes, a, b, at.0, store, false) };
    }
    s.vectorize(
        #[inline(always)]
        // SAFETY: as the caller promises.
        || unsafe { columns::<S, E, FAR, false>(s, sizes, (&a, &b), at, store, next) },
    );
}

/// All tiles of `n` columns, from column `j` on, of a product of floats whose sums are what C gets, in whole vectors,
/// straight from the operands: nothing is left to decide for each tile.
///
/// # Safety
/// - As [`tiles`]. These columns of B are read from a copy in rows that fill panels, or as they lie: then B has strides,
///   columns that lie together, and `j` is 0.
#[inline(never)]
pub unsafe fn whole<S: Simd>(s: S, p: &Product, (j, n): (usize, usize), copy: Option<NonNull<f32>>) {
    s.vectorize(
        #[inline(always)]
        move || {
            let b = match (copy, &p.b) {
                (Some(rows), _) => side_by_side(rows.as_ptr().cast_const(), n.next_multiple_of(PANEL_COLS)),
                (None, Rhs::Strided(b)) => side_by_side(b.at::<f32>(0, 0).cast_const(), b.row_stride),
                _ => return,
            };
            let (sizes, rows, store) = ((p.c.rows, p.a.cols, n), lying_rows(&p.a), Store::whole(p));
            // SAFETY: as the caller promises.
            unsafe { columns::<S, f32, false, true>(s, sizes, (&rows, &b), (0, j), &store, Next::NOTHING) };
        },
    );
}

/// The loop of [`tiles`]; with `WHOLE` that of [`whole`].
#[inline(always)]
unsafe fn columns<S: Simd, E: Elem, const FAR: bool, const WHOLE: bool>(
    s: S,
    (m, k, n): (usize, usize, usize),
    (a, b): (&Rows, &Panels<E>),
    at: (usize, usize),
    store: &Store,
    next: Next,
) {
    let mut jr = 0;
    while jr < n {
        // Not a vector of which half would be empty.
        let left = n - jr;
        let few = const { <S::Few as Simd>::LANES < S::LANES && !WHOLE }
            && (1..=<S::Few as Simd>::LANES).contains(&(left % S::LANES));
        let vectors = if few || WHOLE { left / S::LANES } else { left.div_ceil(S::LANES) };
        // Tiles of narrower vectors begin at panels.
        let vectors = match const { fills_panels::<S>() } {
            true => share(vectors, S::NV),
            false => vectors.min(S::NV),
        };
        let cols = left.min(if few && vectors == 0 { left } else { vectors * S::LANES });
        let next = match left - cols {
            _ if !FAR => Next::NOTHING,
            0 => next,
            left => Next::of(b.at(0, jr + cols), left.min(S::NV * S::LANES)),
        };
        let (sizes, from) = ((m, k, cols), (a, b, jr));
        // SAFETY: as the caller promises.
        unsafe {
            if const { <S::Few as Simd>::LANES < S::LANES && !WHOLE } && vectors == 0 {
                column::<S::Few, E, 1, FAR, false>(s.few(), sizes, from, at, store, next);
            } else {
                with_vectors!(S, vectors, NV => column::<S, E, NV, FAR, WHOLE>(s, sizes, from, at, store, next));
            }
        }
        jr += cols;
    }
}

/// The tiles of the columns of `b` from `jr` on: `cols` of them, in up to `NV` vectors.
#[inline(always)]
unsafe fn column<S: Simd, E: Elem, const NV: usize, const FAR: bool, const WHOLE: bool>(
    s: S,
    (m, k, cols): (usize, usize, usize),
    (a, b, jr): (&Rows, &Panels<E>, usize),
    at: (usize, usize),
    store: &Store,
    mut next: Next,
) {
    let mut sums = MaybeUninit::<[[S::V; NV]; TALLEST]>::uninit();
    let sums = sums.as_mut_ptr().cast();
    let mut ir = 0;
    while ir < m {
        let rows = share(m - ir, max_rows::<S>(NV));
        let next = if FAR { next.part((m, k), max_rows::<S>(NV)) } else { Next::NOTHING };
        let (a, b, at) = (a.at(ir, 0), b.at(0, jr), (at.0 + ir, at.1 + jr));
        if const { FAR && S::PREFETCHES } {
            store.ask(s, (rows, at.0), (cols, at.1));
        }
        let mut plain = true;
        // SAFETY: the tile is inside the block; columns beyond `cols` are padding of the panel.
        unsafe {
            with_rows!(S, max_rows::<S>(NV), rows, MR => plain = apart!(s => {
                let acc = if const { FAR && fills_panels::<S>() } {
                    tile_between::<S, E, MR, NV>(s, k, a, b, |t, n| next.ask(s, t, n), zero(s))
                } else {
                    tile::<S, E, MR, NV>(s, k, a, b, zero(s))
                };
                if WHOLE {
                    store.put_whole(s, acc, at);
                    true
                } else {
                    store.put_plain(s, acc, at, cols, sums)
                }
            }));
            // Once for all heights.
            if !plain {
                store.put_sums(s, sums, (rows, NV), at, cols);
            }
        }
        ir += rows;
    }
}
