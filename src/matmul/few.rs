//! Few rows, as in a decode step: each element of B is used a few times, and packing it would cost more than
//! the product. B is read where it lies, a few rows at a time.
//!
//! ```text
//! for jc in 0..n step cols       columns whose chains fit the L2
//!   for pc in 0..k step KC
//!     for kk in 0..KC step STEPS a few rows of B, in the order of memory
//!       for jr, for i            load the chains, STEPS steps of the tile, keep or store them
//! ```
//! Last columns that fill no vector are packed, and then take one such step. Tiles that ask memory for what they read
//! next also take packed weights: few rows where vectors fill panels, else any number.

use super::Product;
use super::blocked::{ALIGN, KC, SKEW, lies_well, rows_of};
use super::store::Store;
use super::tiles::fills_panels;
use super::turned;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{
    Acc, PANEL_COLS, Panels, Rows, holds_many, share, side_by_side, tile, tile_while, with_rows,
    with_vectors, zero,
};
use crate::kernel::unrolled::unrolled;
use crate::simd::{LINE, Simd};
use crate::view::RawMat;

/// Up to this many rows are few, if `k` is at least as much. A C of few columns is computed transposed if it has so many
/// rows.
const FEW: usize = 16;
/// The same where packing costs more: for a B that lies well in caches, or one of `LARGE` bytes, which memory holds.
const MORE: usize = 24;
const LARGE: usize = 2 << 20;
/// Up to this many columns of a product whose A lies by columns.
const MOST_COLUMNS: usize = 12;
/// Rows of B at a time: eight rows that lie a power of two apart fill a set of the L1.
const STEPS: usize = 8;
/// Chains of all rows: 32 KiB, for the L2.
const CHAINS: usize = 8192;
/// A B of so many bytes waits for memory: what the next steps read is asked for.
const FAR: usize = 512 << 10;
/// Vectors of a packed B that are asked for ahead.
const PACKED_AHEAD: usize = 384;
/// Columns at a time, unless there are fewer.
const LEAST: usize = 4 * PANEL_COLS;

/// Bytes of all elements of B.
pub fn bytes(b: &RawMat) -> usize {
    b.rows.saturating_mul(b.cols).saturating_mul(b.kind.size())
}

/// Where the parts of the scratch are: they are those of the blocked product, and no larger.
pub struct Room {
    /// Chains of `cols` columns, or a panel of last columns of B.
    pub b: *mut f32,
    /// Rows of A.
    pub a: *mut f32,
    pub a_stride: usize,
    pub partial: *mut f32,
    /// Most columns at a time.
    pub cols: usize,
}

/// Of a scratch of `len` floats, those for chains or a panel, and columns at a time; none if there is too little.
fn room_for(len: usize, [m, k, n]: [usize; 3]) -> (usize, usize) {
    let (kc, panel) = (k.min(KC), k.min(KC) * PANEL_COLS);
    let all = len.saturating_sub(ALIGN + m * (kc + SKEW));
    // Sums between blocks of `k` may lie apart: half for them, or what a panel leaves.
    let b = if k > KC { panel.max(all / 2) } else { all };
    let sums = if k > KC { all.saturating_sub(b) } else { all };
    let cols = if all < panel { 0 } else { b.min(sums).checked_div(m).unwrap_or(0) };
    (b, (cols - cols % PANEL_COLS).min(n.next_multiple_of(PANEL_COLS)))
}

/// Whether `m` rows are few, for a B that can be read where it lies, and a scratch of `len` floats suffices.
pub fn fit<S: Simd>(len: usize, m: usize, b: &RawMat) -> bool {
    let (k, n) = (b.rows, b.cols);
    let more =
        (b.kind == Kind::F32 || const { !fills_panels::<S>() }) && (lies_well::<S>(b) || bytes(b) >= LARGE);
    m <= if more { MORE } else { FEW }
        && k >= m.max(FEW)
        && (b.col_stride == 1 || turned::takes::<S>(m, b))
        && room_for(len, [m, k, n]).1 >= n.min(LEAST)
}

/// Whether a product has so few columns that they are better taken as rows: a single one, or where columns of A lie
/// together. Columns of C that do not lie together cost as much as some steps.
pub fn columns(p: &Product) -> bool {
    let Product { a, c, .. } = p;
    let most = if a.row_stride == 1 { MOST_COLUMNS.min(a.cols / STEPS) } else { 0 };
    c.cols <= most.max(1) && c.rows >= FEW
}

/// Computes the product with the strided B.
///
/// # Safety
/// - As `blocked::run`; the sizes [`fit`] a scratch of `len` floats.
pub unsafe fn run<S: Simd>(s: S, p: &Product, b: RawMat, (scratch, len): (*mut f32, usize)) {
    let (m, k, n) = (p.c.rows, p.a.cols, p.c.cols);
    let (a_stride, (b_len, cols)) = (k.min(KC) + SKEW, room_for(len, [m, k, n]));
    let a = scratch.wrapping_add(ALIGN + b_len);
    let b_at = scratch.wrapping_add(scratch.align_offset(64).min(ALIGN));
    let room = &Room { b: b_at, a, a_stride, partial: a.wrapping_add(m * a_stride), cols };
    // Columns that fill vectors are read where they lie.
    let lie = b.col_stride == 1;
    // SAFETY: as the caller promises.
    let whole = if lie { n - n % S::LANES } else { unsafe { turned::run(s, p, b, room) } };
    let cols = (CHAINS / m.max(1)).next_multiple_of(LEAST).min(room.cols);
    let places = (0..if lie { whole } else { 0 }).step_by(cols.max(1)).map(|j| (j, cols.min(whole - j)));
    let rest = (whole < n).then_some((whole, n - whole));
    let is_far = bytes(&b) >= FAR;
    // What the L2 holds need not be read in order, so that chains stay in registers.
    let steps = if lies_well::<S>(&b) { KC } else { STEPS };
    for (jc, nc) in places.chain(rest) {
        for pc in (0..p.a.cols).step_by(KC) {
            let kc = (p.a.cols - pc).min(KC);
            let store = Store::block(p, (0, jc), pc..pc + kc, (room.partial, room.cols));
            // SAFETY: blocks of the operands; the room is as the caller promises.
            unsafe {
                let a = rows_of(s, p.a.block(0, pc, m, kc), true, room.a, room.a_stride);
                let b = b.block(pc, jc, kc, nc);
                if jc < whole {
                    by_kind!(b.kind, E => {
                        let b = side_by_side(b.at::<E>(0, 0).cast_const(), b.row_stride);
                        block::<S, E>(s, (m, kc, nc), a, b, Chains { steps, ptr: room.b, far: is_far }, (0, 0), &store);
                    });
                } else {
                    let width = nc.next_multiple_of(PANEL_COLS);
                    pack(s, b, Grid { dst: room.b, stride: width, width });
                    let b = side_by_side(room.b.cast_const(), width);
                    let none = Chains { steps: kc, ptr: core::ptr::null_mut(), far: false };
                    block::<S, f32>(s, (m, kc, nc), a, b, none, (0, 0), &store);
                }
            }
        }
    }
}

/// A block of a product, from row `at` of C on, with B as it lies. If it is `far`, all rows take some columns, of which the
/// first tiles ask for what the next columns read.
///
/// # Safety
/// - As `tiles`.
pub unsafe fn lying<S: Simd, E: Elem>(
    s: S,
    (m, k, n): (usize, usize, usize),
    a: Rows,
    b: Panels<E>,
    at: usize,
    store: &Store,
    far: bool,
) {
    let chains = Chains { steps: k, ptr: core::ptr::null_mut(), far };
    let cols = if far { S::NV * S::LANES } else { n.max(1) };
    for j in (0..n).step_by(cols) {
        // SAFETY: as the caller promises.
        unsafe { block::<S, E>(s, (m, k, n.min(j + cols)), a, b, chains, (at, j), store) };
    }
}

/// How many steps of all chains are taken before the next steps, and where they are kept meanwhile.
#[derive(Clone, Copy)]
struct Chains {
    steps: usize,
    ptr: *mut f32,
    /// B waits for memory.
    far: bool,
}

/// One block of `k`: `sizes` = (rows, k, columns), of which those from `j` on, for rows from `at` on of C.
unsafe fn block<S: Simd, E: Elem>(
    s: S,
    (m, k, n): (usize, usize, usize),
    a: Rows,
    b: Panels<E>,
    chains: Chains,
    (at, j): (usize, usize),
    store: &Store,
) {
    for from in (0..k).step_by(chains.steps.max(1)) {
        let to = k.min(from + chains.steps);
        let mut i = 0;
        while i < m {
            let strip = Strip { a, b, chains, store, at, i, j, n, k, from, to };
            // Where even tiles of five rows have enough chains.
            let rows = if holds_many::<S>() { share(m - i, S::MR) } else { (m - i).min(S::MR) };
            // SAFETY: as the caller promises. The first rows ask.
            with_rows!(S, rows, MR => unsafe {
                if const { S::PREFETCHES } && i == 0 && chains.far {
                    strip.tiles::<S, true, MR>(s);
                } else {
                    strip.tiles::<S, false, MR>(s);
                }
            });
            i += rows;
        }
    }
}

/// Steps `from..to` of rows from `i` on.
struct Strip<'a, E> {
    a: Rows,
    b: Panels<E>,
    chains: Chains,
    store: &'a Store<'a>,
    /// Where the rows lie in C.
    at: usize,
    i: usize,
    j: usize,
    n: usize,
    k: usize,
    from: usize,
    to: usize,
}

impl<E: Elem> Strip<'_, E> {
    /// All columns of `MR` rows; with `ASK`, what the next steps read is asked for. Few rows have too few chains
    /// for the multipliers' latency: they take more columns. A function of its own: the time to compile one grows
    /// faster than its length.
    #[inline(never)]
    unsafe fn tiles<S: Simd, const ASK: bool, const MR: usize>(&self, s: S) {
        s.vectorize(
            #[inline(always)]
            || {
                let mut j = self.j;
                // Panels that lie one behind the other are better read one by one.
                let wide = self.b.panel_stride == PANEL_COLS;
                // SAFETY: as the caller promises.
                unsafe {
                    if const { MR == 1 && holds_many::<S>() } && wide {
                        j = self.wide::<S, ASK, MR, 16>(s, j);
                    }
                    if const { MR == 1 || MR == 2 && holds_many::<S>() } && wide {
                        j = self.wide::<S, ASK, MR, 8>(s, j);
                    }
                    if const { MR == 2 || (MR == 3 || MR == 4) && holds_many::<S>() } && wide {
                        j = self.wide::<S, ASK, MR, 4>(s, j);
                    }
                    while j < self.n {
                        let vectors = (self.n - j).div_ceil(S::LANES);
                        let vectors = if const { fills_panels::<S>() } {
                            share(vectors, S::NV)
                        } else {
                            vectors.min(S::NV)
                        };
                        with_vectors!(S, vectors, NV => self.tile::<S, ASK, MR, NV>(s, j));
                        j += vectors * S::LANES;
                    }
                }
            },
        );
    }

    /// As many tiles of `NV` vectors from column `j` on as fit; returns the first column that is left.
    #[inline(always)]
    unsafe fn wide<S: Simd, const ASK: bool, const MR: usize, const NV: usize>(
        &self,
        s: S,
        mut j: usize,
    ) -> usize {
        while j + NV * S::LANES <= self.n {
            // SAFETY: as the caller promises.
            unsafe { self.tile::<S, ASK, MR, NV>(s, j) };
            j += NV * S::LANES;
        }
        j
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const ASK: bool, const MR: usize, const NV: usize>(&self, s: S, j: usize) {
        let kept = self.chains.ptr.wrapping_add(self.i * self.n + j * MR);
        let kept = |r: usize, v: usize| kept.wrapping_add((r * NV + v) * S::LANES);
        let mut acc: Acc<S::V, MR, NV> = zero::<S, MR, NV>(s);
        // SAFETY: the tile is inside the block; chains of whole vectors are kept in the order of use.
        unsafe {
            if self.from > 0 {
                for (r, row) in acc.iter_mut().enumerate() {
                    for (v, chain) in row.iter_mut().enumerate() {
                        *chain = s.load(kept(r, v));
                    }
                }
            }
            let steps = self.to - self.from;
            let (a, b) = (self.a.at(self.i, self.from), self.b.at(self.from, j));
            acc = if ASK {
                let (apart, vector) = (self.b.panel_stride != PANEL_COLS, b.vector_stride::<S>());
                // Rows of a packed tile, and then those of the next one.
                let ahead = if apart { PACKED_AHEAD / NV } else { self.chains.steps };
                let mut next = b.at(ahead, 0).ptr;
                let mut left = if apart { steps.saturating_sub(ahead) } else { usize::MAX };
                let ask = || {
                    if left == 0 {
                        (next, left) = (self.b.at(self.from, j + NV * S::LANES).ptr, usize::MAX);
                    }
                    left -= 1;
                    unrolled!(V < NV, 16 => {
                        let begins_line = V.is_multiple_of(const { LINE / (S::LANES * size_of::<E>()) });
                        if begins_line || apart && S::LANES == PANEL_COLS {
                            s.prefetch(next.wrapping_add(V * vector));
                        }
                    });
                    next = next.wrapping_add(b.row_stride);
                };
                tile_while::<S, E, MR, NV>(s, steps, a, b, ask, acc)
            } else {
                tile::<S, E, MR, NV>(s, steps, a, b, acc)
            };
            if self.to == self.k {
                let cols = (self.n - j).min(NV * S::LANES);
                self.store.put(s, acc, (self.at + self.i, j), cols);
                return;
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, &chain) in row.iter().enumerate() {
                    s.store(kept(r, v), chain);
                }
            }
        }
    }
}
