//! B in groups of columns, as the tiles of a block read it.
//!
//! A group is as wide as a tile and has its rows side by side, so that it is one stream of memory. The first tile of each
//! group reads B where the caller has it, and writes the group on its way. Narrow tiles read panels instead, which are
//! copied before, several together.

use super::blocked::lies_well;
use super::store::Store;
use super::tiles::{Next, fills_panels, tiles};
use super::{Product, Rhs, few};
use crate::apart::apart;
use crate::elem::sealed::Lanes;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{
    PANEL_COLS, Panels, Rows, packed, packing_tile, share, side_by_side, with_vectors, zero,
};
use crate::simd::{LINE, Simd};
use crate::view::RawMat;

/// Rows of the first tile of a group.
const FIRST: usize = 8;
/// From so many rows on a B of 16 bits is better copied than widened again and again, and packed weights than read across
/// cache lines. Tiers that do not fuse have no instructions that widen either: from the third tile on.
pub const fn many<S: Simd>() -> usize {
    match (fills_panels::<S>(), S::FUSED) {
        (true, _) => 24,
        (_, true) => 96,
        _ => 2 * S::MR + 1,
    }
}
/// A B of so many bytes is not even copied by tiles that do it on their way: the L1 holds it.
const SMALL: usize = 40 << 10;
/// Rows of B that are asked for ahead of the one that is copied.
const AHEAD: usize = 16;

/// Elements in rows: those of the caller, or of panels.
#[derive(Clone, Copy)]
pub struct InRows {
    ptr: *const u8,
    kind: Kind,
    row_stride: usize,
    panel_stride: usize,
    /// As `Panels` have it.
    col_stride: usize,
}

impl InRows {
    fn panels<E: Elem>(&self) -> Panels<E> {
        let &InRows { ptr, row_stride, panel_stride, col_stride, .. } = self;
        Panels { ptr: ptr.cast(), row_stride, panel_stride, col_stride }
    }
}

/// Where tiles find a block of B.
#[derive(Clone, Copy)]
pub enum Source {
    /// Where it lies.
    Lying(InRows),
    /// In groups that are yet to be written.
    Rows(InRows),
    /// The same, at any strides.
    Strided(RawMat),
    /// In groups.
    There,
}

impl Source {
    /// Rows and columns of B, from `(i, j)` on, for `m` rows of A.
    pub fn of<S: Simd>(p: &Product, (i, j): (usize, usize), [rows, cols]: [usize; 2], m: usize) -> Source {
        match p.b {
            Rhs::Packed { ptr, kind, k, .. } => {
                debug_assert!(j.is_multiple_of(PANEL_COLS));
                let (row_stride, panel_stride) = (PANEL_COLS, k * PANEL_COLS);
                let ptr = ptr.wrapping_add((i * row_stride + j / PANEL_COLS * panel_stride) * kind.size());
                let rows = InRows { ptr, kind, row_stride, panel_stride, col_stride: 1 };
                // Floats are as well read where they lie, if lines do not matter to the tile, or begin with the rows.
                let aligned = const { !fills_panels::<S>() } || (ptr as usize).is_multiple_of(LINE);
                let lying = m < many::<S>() || kind == Kind::F32 && aligned;
                if lying { Source::Lying(rows) } else { Source::Rows(rows) }
            }
            Rhs::Strided(b) => {
                let block = b.block(i, j, rows, cols);
                if const { S::LANES > 1 } && (b.col_stride != 1 || m < FIRST) {
                    return Source::Strided(block);
                }
                let RawMat { kind, row_stride, col_stride, .. } = b;
                let panel_stride = PANEL_COLS.wrapping_mul(col_stride);
                let rows = InRows { ptr: block.bytes(), kind, row_stride, panel_stride, col_stride };
                if const { S::LANES == 1 } {
                    return Source::Lying(rows);
                }
                let lying = kind == Kind::F32 && lies_well::<S>(&b);
                let lying = lying && (const { !fills_panels::<S>() } || few::bytes(&b) <= SMALL);
                if lying { Source::Lying(rows) } else { Source::Rows(rows) }
            }
        }
    }
}

/// Columns of the widest group: those of a tile, or of panels that are copied together.
pub const fn widest<S: Simd>() -> usize {
    if fills_panels::<S>() { S::NV * S::LANES } else { 4 * PANEL_COLS }
}

/// Where groups are.
#[derive(Clone, Copy)]
pub struct Room {
    pub to: *mut f32,
    /// All groups, one behind the other, or one at a time.
    pub keep: bool,
    /// What memory holds is asked for.
    pub far: bool,
}

impl Room {
    /// The group from column `j` on of `n` columns and `k` rows, and its columns: what fills no panel is a group of its
    /// own.
    fn group<S: Simd>(self, (k, n): (usize, usize), j: usize) -> (Panels<f32>, usize) {
        let (left, to) = (n - j, self.to.wrapping_add(if self.keep { j * k } else { 0 }).cast_const());
        let panels = share(left / PANEL_COLS, widest::<S>() / PANEL_COLS);
        let cols = if panels == 0 { left } else { panels * PANEL_COLS };
        let width = cols.next_multiple_of(PANEL_COLS);
        (if fills_panels::<S>() { side_by_side(to, width) } else { packed(to, k) }, cols)
    }
}

/// All tiles of a block, `sizes` = (rows, k, columns), at `at` in C.
///
/// # Safety
/// - As [`tiles`]; the room is valid for writing `k` rows of all columns, in whole panels, or of [`widest`] ones, and has
///   been written if B is `There`.
pub unsafe fn grouped<S: Simd>(
    s: S,
    (m, k, n): (usize, usize, usize),
    a: Rows,
    (source, room): (Source, Room),
    at: (usize, usize),
    store: &Store,
) {
    let far = const { S::PREFETCHES } && room.far;
    let tiles = if far { tiles::<S, f32, true> } else { tiles::<S, f32, false> };
    let mut jr = 0;
    if let Source::Lying(b) = source {
        // SAFETY: as the caller promises.
        jr = unsafe { lying(s, (m, k, n), a, &b, at, store, far) };
    }
    while jr < n {
        let ((to, cols), at) = (room.group::<S>((k, n), jr), (at.0, at.1 + jr));
        // After the last columns the first ones again, for the rows below.
        let last = jr + cols == n;
        let (after, more) = room.group::<S>((k, n), if last { 0 } else { jr + cols });
        let there = last || matches!(source, Source::There);
        let mut next = if far && room.keep && there { Next::of(after, more) } else { Next::NOTHING };
        let mut done = 0;
        // SAFETY: as the caller promises.
        unsafe {
            match source {
                Source::There => {}
                Source::Strided(b) => pack_panels(s, b.block(0, jr, k, cols), to),
                Source::Rows(b) | Source::Lying(b) => by_kind!(b.kind, E => {
                    let (b, row_stride) = (b.panels::<E>().at(0, jr), b.row_stride);
                    if far && !there {
                        next = Next::of(b.at(0, cols), more);
                    }
                    if cols < PANEL_COLS {
                        pack_panels(s, RawMat::of_rows(b.ptr, [k, cols], row_stride), to);
                    } else if const { fills_panels::<S>() } {
                        let to = to.ptr.cast_mut();
                        first_tile::<S, E>(s, (m, k, cols), (a, b, to), at, store, (far, &mut next));
                        done = FIRST;
                    } else {
                        copy_panels(s, (k, cols), b, to);
                    }
                }),
            }
            tiles(s, (m - done, k, cols), a.at(done, 0), to, (at.0 + done, at.1), store, next);
        }
        jr += cols;
    }
}

/// The tiles of columns that are read where they lie: all of panels, or those of rows that fill panels. Returns how many
/// columns these are.
unsafe fn lying<S: Simd>(
    s: S,
    (m, k, n): (usize, usize, usize),
    a: Rows,
    b: &InRows,
    at: (usize, usize),
    store: &Store,
    far: bool,
) -> usize {
    let panels = b.panel_stride != PANEL_COLS;
    let cols = if panels || const { S::LANES == 1 } { n } else { n - n % PANEL_COLS };
    let sizes = (m, k, cols);
    by_kind!(b.kind, E => {
        let b = b.panels::<E>();
        // SAFETY: as the caller promises.
        unsafe {
            if const { S::PREFETCHES } && far && panels && (const { !fills_panels::<S>() } || m < many::<S>()) {
                few::lying(s, sizes, a, b, at.0, store, far);
            } else if const { S::PREFETCHES && matches!(E::KIND, Kind::F32) } && far {
                // The first columns again, for the rows below.
                tiles::<S, E, true>(s, sizes, a, b, at, store, Next::of(b, n.min(widest::<S>())));
            } else {
                tiles::<S, E, false>(s, sizes, a, b, at, store, Next::NOTHING);
            }
        }
    });
    cols
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
                // That row may not be there.
                s.prefetch_all(b.ptr.wrapping_add((i + AHEAD).wrapping_mul(b.row_stride)), cols);
                for j in (0..cols).step_by(S::LANES) {
                    // SAFETY: vectors inside the rows.
                    unsafe { s.store(to.at(i, j).ptr.cast_mut(), E::load(s, b.at(i, j).ptr)) };
                }
            }
        },
    );
}

/// The first tile of a group, of [`FIRST`] rows, which writes the group to `to`.
#[inline(never)]
unsafe fn first_tile<S: Simd, E: Elem>(
    s: S,
    (m, k, cols): (usize, usize, usize),
    (a, b, to): (Rows, Panels<E>, *mut f32),
    at: (usize, usize),
    store: &Store,
    (far, next): (bool, &mut Next),
) {
    s.vectorize(
        #[inline(always)]
        || {
            let vectors = cols / S::LANES;
            let next = next.part((m, k), FIRST);
            if far {
                store.ask(s, (FIRST, at.0), (cols, at.1));
            }
            with_vectors!(S, vectors, NV => apart!(s => {
                // SAFETY: as the caller promises.
                unsafe {
                    let ask = |t, n| next.ask(s, t, n);
                    let acc = packing_tile::<S, E, FIRST, NV>(s, k, a, (b, to), ask, zero(s));
                    store.put(s, acc, at, NV * S::LANES);
                }
            }));
        },
    );
}
