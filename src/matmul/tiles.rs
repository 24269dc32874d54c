//! All tiles of a block.

use super::lone;
use super::store::Store;
use crate::apart::apart;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{
    PANEL_COLS, Panels, Rows, max_rows, packed, packing_tile, share, side_by_side, tile, tile_between,
    with_const, with_rows, with_vectors, zero,
};
use crate::simd::{LINE, Simd};
use crate::view::RawMat;

/// Rows of the tallest tile.
pub const TALLEST: usize = 8;

/// Lines of rows that are read next. The tiles of some columns ask for those of the columns that follow, each for a
/// part, so that memory is asked for no more than it can bring meanwhile.
#[derive(Clone, Copy)]
pub struct Next {
    at: *const u8,
    /// From one row to the next, and from one line of a row to the next, in bytes.
    row: usize,
    line: usize,
    lines: usize,
    /// Two to this many tiles ask, of which so many have.
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
        // Rows that do not all begin at the same place of a line may end in one more.
        let (before, after) = (at as usize % LINE, if row.is_multiple_of(LINE) { 0 } else { LINE - 1 });
        let lines = (before + bytes + after).div_ceil(LINE);
        Next { at: at.wrapping_sub(before), row, line: LINE, lines, ..Next::NOTHING }
    }

    /// The part of the next tile, of those of `m` rows, `tall` of them a tile.
    #[inline(always)]
    fn part(&mut self, (m, k): (usize, usize), tall: usize) -> Next {
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
    fn ask<S: Simd>(&self, s: S, from: usize, n: usize) {
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

/// `sizes` = (rows, k, columns) of one block, which lies at `at` in C: all its tiles. This is the hot
/// loop, compiled once for each tier and type of B, and once more for operands that are `FAR`, so that small products need not
/// ask: for C, for the next columns, and after the last ones for `next`.
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
    s.vectorize(
        #[inline(always)]
        || {
            let (m, k, n) = sizes;
            let mut jr = 0;
            while jr < n {
                // Not a vector of which half would be empty.
                let left = n - jr;
                let few = const { <S::Few as Simd>::LANES < S::LANES }
                    && (1..=<S::Few as Simd>::LANES).contains(&(left % S::LANES));
                let vectors = if few { left / S::LANES } else { left.div_ceil(S::LANES) };
                let vectors = share(vectors, S::NV);
                let cols = left.min(if few && vectors == 0 { left } else { vectors * S::LANES });
                let next = match left - cols {
                    _ if !FAR => Next::NOTHING,
                    0 => next,
                    left => Next::of(b.at(0, jr + cols), left.min(S::NV * S::LANES)),
                };
                let (sizes, from) = ((m, k, cols), (&a, &b, jr));
                // SAFETY: as the caller promises.
                unsafe {
                    if const { <S::Few as Simd>::LANES < S::LANES } && vectors == 0 {
                        column::<S::Few, E, 1, FAR>(s.few(), sizes, from, at, store, next);
                    } else {
                        with_vectors!(S, vectors, NV => column::<S, E, NV, FAR>(s, sizes, from, at, store, next));
                    }
                }
                jr += cols;
            }
        },
    );
}

/// The tiles of the columns of `b` from `jr` on: `cols` of them, in up to `NV` vectors.
#[inline(always)]
unsafe fn column<S: Simd, E: Elem, const NV: usize, const FAR: bool>(
    s: S,
    (m, k, cols): (usize, usize, usize),
    (a, b, jr): (&Rows, &Panels<E>, usize),
    at: (usize, usize),
    store: &Store,
    mut next: Next,
) {
    let mut ir = 0;
    while ir < m {
        let rows = share(m - ir, max_rows::<S>(NV));
        let next = if FAR { next.part((m, k), max_rows::<S>(NV)) } else { Next::NOTHING };
        with_rows!(S, max_rows::<S>(NV), rows, MR => {
            // SAFETY: the tile is inside the block; columns beyond `cols` are padding of the panel.
            unsafe {
                let (a, b, at) = (a.at(ir, 0), b.at(0, jr), (at.0 + ir, at.1 + jr));
                if const { FAR && S::PREFETCHES } {
                    store.ask(s, (MR, at.0), (cols, at.1));
                }
                apart!(s => {
                    let acc = if const { FAR && fused::<S>() } {
                        tile_between::<S, E, MR, NV>(s, k, a, b, |t, n| next.ask(s, t, n), zero(s))
                    } else {
                        tile::<S, E, MR, NV>(s, k, a, b, zero(s))
                    };
                    store.put(s, acc, at.0, at.1, cols);
                });
            }
        });
        ir += rows;
    }
}

/// Where [`grouped`] finds B.
#[derive(Clone, Copy)]
pub enum Source {
    /// In rows: those of the caller, or of panels.
    Rows { ptr: *const u8, kind: Kind, row_stride: usize, panel_stride: usize },
    /// In rows of floats that are read where they lie.
    InPlace(RawMat),
    /// As the caller has it, at any strides.
    Strided(RawMat),
    /// In groups already.
    There,
}

/// Whether tiles write the groups of B, and ask. Narrower ones read too little of each row, and do too little in a step.
pub const fn fused<S: Simd>() -> bool {
    S::LANES == PANEL_COLS
}

/// Columns of the widest group: those of a tile, or of panels that are copied together.
pub const fn widest<S: Simd>() -> usize {
    if fused::<S>() { S::NV * S::LANES } else { 4 * PANEL_COLS }
}

/// The group from column `j` on of `n` columns and `k` rows in `to`, if it is to `keep` all groups, and its columns: what
/// fills no panel is a group of its own.
fn group<S: Simd>((to, keep): (*mut f32, bool), (k, n): (usize, usize), j: usize) -> (Panels<f32>, usize) {
    let (left, to) = (n - j, to.wrapping_add(if keep { j * k } else { 0 }).cast_const());
    let panels = share(left / PANEL_COLS, widest::<S>() / PANEL_COLS);
    let cols = if panels == 0 { left } else { panels * PANEL_COLS };
    (if fused::<S>() { side_by_side(to, cols.next_multiple_of(PANEL_COLS)) } else { packed(to, k) }, cols)
}

/// All tiles of a block whose columns go to `to` in groups, one at a time or, if it is to `keep` them, one behind the other.
/// Groups of wide tiles have their rows side by side, and the first tile of each writes it on its way; others are copied
/// before.
///
/// # Safety
/// - As [`tiles`]; `to` is valid for writing `k` rows of `n` columns, in whole panels. [`Source::Rows`] are for at least
///   [`TALLEST`] rows of A.
pub unsafe fn grouped<S: Simd>(
    s: S,
    (m, k, n): (usize, usize, usize),
    a: Rows,
    (b, to, keep): (Source, *mut f32, bool),
    at: (usize, usize),
    store: &Store,
    far: bool,
) {
    let tiles = if const { S::PREFETCHES } && far { tiles::<S, f32, true> } else { tiles::<S, f32, false> };
    let mut jr = 0;
    while jr < n {
        let ((mut panels, cols), at) = (group::<S>((to, keep), (k, n), jr), (at.0, at.1 + jr));
        // After the last columns the first ones again, for the rows below.
        let (j, there) = if jr + cols < n { (jr + cols, matches!(b, Source::There)) } else { (0, true) };
        let (after, more) = group::<S>((to, keep), (k, n), j);
        let mut next = if far && keep && there { Next::of(after, more) } else { Next::NOTHING };
        let mut done = 0;
        // SAFETY: as the caller promises.
        unsafe {
            match b {
                Source::There => {}
                Source::InPlace(b) if cols >= PANEL_COLS => {
                    let (ptr, row_stride) = (b.at::<f32>(0, jr).cast_const(), b.row_stride);
                    panels = Panels { ptr, row_stride, panel_stride: PANEL_COLS, col_stride: 1 };
                }
                Source::InPlace(b) | Source::Strided(b) => pack_panels(s, b.block(0, jr, k, cols), panels),
                Source::Rows { ptr, kind, row_stride, panel_stride } => by_kind!(kind, E => {
                    let b = Panels { ptr: ptr.cast::<E>(), row_stride, panel_stride, col_stride: 1 };
                    let here = b.at(0, jr);
                    if far && !there {
                        next = Next::of(b.at(0, j), more);
                    }
                    if cols < PANEL_COLS {
                        pack_panels(s, RawMat::of_rows(here.ptr, [k, cols], row_stride), panels);
                    } else if fused::<S>() {
                        let operands = (a, here, panels.ptr.cast_mut());
                        done = first_tile::<S, E>(s, (m, k, cols), operands, at, store, (far, &mut next));
                    } else {
                        copy_panels(s, (k, cols), here, panels);
                    }
                }),
            }
            tiles(s, (m - done, k, cols), a.at(done, 0), panels, (at.0 + done, at.1), store, next);
        }
        jr += cols;
    }
}

/// `b` in panels, the last one padded with zeros.
///
/// # Safety
/// - `to` is valid for writing.
unsafe fn pack_panels<S: Simd>(s: S, b: RawMat, to: Panels<f32>) {
    for j in (0..b.cols).step_by(PANEL_COLS) {
        let to = Grid { dst: to.at(0, j).ptr.cast_mut(), stride: to.row_stride, width: PANEL_COLS };
        // SAFETY: as the caller promises.
        unsafe { pack(s, b.block(0, j, b.rows, (b.cols - j).min(PANEL_COLS)), to) };
    }
}

/// Rows of B that are asked for ahead of the one that is copied.
const AHEAD: usize = 16;

/// Rows of whole panels, all panels together: memory answers faster in order.
///
/// # Safety
/// - `b` is valid for reading, `to` for writing.
#[inline(never)]
unsafe fn copy_panels<S: Simd, E: Elem>(s: S, (k, cols): (usize, usize), b: Panels<E>, to: Panels<f32>) {
    s.vectorize(
        #[inline(always)]
        || {
            for i in 0..k {
                s.prefetch_all(b.at(i + AHEAD, 0).ptr, cols);
                for j in (0..cols).step_by(S::LANES) {
                    // SAFETY: vectors inside the rows.
                    unsafe { s.store(to.at(i, j).ptr.cast_mut(), E::load(s, b.at(i, j).ptr)) };
                }
            }
        },
    );
}

/// The first tile of a group, which writes it to `to`; returns its rows.
#[inline(never)]
unsafe fn first_tile<S: Simd, E: Elem>(
    s: S,
    (m, k, cols): (usize, usize, usize),
    (a, b, to): (Rows, Panels<E>, *mut f32),
    at: (usize, usize),
    store: &Store,
    (far, next): (bool, &mut Next),
) -> usize {
    s.vectorize(
        #[inline(always)]
        || {
            let vectors = cols / S::LANES;
            let rows = if vectors == 1 { max_rows::<S>(1) } else { S::MR };
            let next = next.part((m, k), rows);
            if far {
                store.ask(s, (rows, at.0), (cols, at.1));
            }
            with_vectors!(S, vectors, NV => with_const!(S, max_rows::<S>(NV), MR => apart!(s => {
                // SAFETY: as the caller promises.
                unsafe {
                    let acc = packing_tile::<S, E, MR, NV>(s, k, a, (b, to), |t, n| next.ask(s, t, n), zero(s));
                    store.put(s, acc, at.0, at.1, NV * S::LANES);
                }
            }); [6 8] max_rows::<S>(NV)));
            rows
        },
    )
}
