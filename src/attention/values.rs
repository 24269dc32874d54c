//! The weighted values of one block: `acc = acc f + P V`. Here is what both directions of the scores share, and the
//! tiles of many rows; [`few`] has the tiles of few.

use super::ahead::{Lines, Wanted};
use super::block::Block;
use super::few;
use super::mask::{bits, first_ones};
use super::panel::Panel;
use super::scratch::Scratch;
use super::seen;
use super::unseen::{all_finite, seen_only};
use crate::apart::apart;
use crate::elem::{Elem, Kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{
    Acc, Rows, holds_many, share, side_by_side, tile, tile_while, with_const, with_rows, zero,
};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;

/// Of rows that are no more bytes apart a processor guesses the next ones.
const GUESSED: usize = 512;

/// Up to so many keys some rows are weighted as many are.
const LITTLE: usize = 16;

/// Weighted values of nothing.
///
/// # Safety
/// - `x` has room for `rows` rows.
pub unsafe fn clear(x: &Scratch, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe { core::slice::from_raw_parts_mut(x.acc(), rows * x.width) }.fill(0.0);
}

/// Adds the block's values, weighted.
///
/// # Safety
/// - `x` holds the block's weights and factors; the block is inside V.
#[inline(never)]
pub unsafe fn apply<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: &mut Block) {
    let v = &panel.p.v;
    let dim = v.dim();
    let apart = v.kind() != Kind::F32 || !v.side_by_side() || !v.one_run(block);
    // SAFETY: as the caller promises.
    unsafe {
        // Many rows read each value several times: widened and side by side it costs them less.
        if panel.in_lanes && (apart || !dim.is_multiple_of(S::LANES)) {
            let mut unseen = bits(block.from, block.to) & !block.keys & !block.values_there;
            while unseen != 0 {
                // What no row sees is not read: its weights of 0 need finite values.
                let (t, n) = first_ones(unseen);
                core::slice::from_raw_parts_mut(x.values().add(t * x.width), n * x.width).fill(0.0);
                unseen &= !bits(t, t + n);
            }
            for (t, rows) in v.runs(panel.kv_head, block.start, block.keys & !block.values_there) {
                let to = Grid { dst: x.values().add(t * x.width), stride: x.width, width: x.width };
                pack(s, rows, to);
            }
            block.values_there |= block.keys;
            let first = Run { t: 0, end: BLOCK, first: x.values().cast_const() };
            return many(s, panel, x, *block, (first, x.width), dim.next_multiple_of(S::LANES));
        }
        // The tiles of few rows look at more before they begin.
        let little = panel.rows >= S::MR / 2 && panel.heads == 1 && block.to - block.from <= LITTLE;
        if panel.in_lanes || little && !apart && dim.is_multiple_of(S::LANES) {
            let run = v.run(panel.kv_head, block.start + block.from, block.to - block.from);
            let first = Run { t: block.from, end: block.to, first: run.at::<f32>(0, 0).cast_const() };
            return many(s, panel, x, *block, (first, run.row_stride), dim);
        }
        few::values(s, panel, x, block);
    }
}

/// Rows and vectors of the tiles of columns that four vectors divide: fewer loads and tiles where registers allow.
const fn wide<S: Simd>() -> (usize, usize) {
    if holds_many::<S>() { (6, 4) } else { (S::MR, S::NV) }
}

/// Whether tiles of this size may ask for two columns of lines: there are too few of [`wide`] ones for a bias.
const fn asks_twice<S: Simd>(rows: usize, vectors: usize) -> bool {
    holds_many::<S>() && rows == wide::<S>().0 && vectors == wide::<S>().1
}

/// Many rows of one head, whose values lie at one stride and fill vectors.
#[inline(never)]
unsafe fn many<S: Simd>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    block: Block,
    (first, row_stride): (Run<f32>, usize),
    cols: usize,
) {
    s.vectorize(
        #[inline(always)]
        || {
            let strips = &Strips::of::<S>(x, block, (first, &[]), row_stride, cols);
            let mut wanted = Wanted::of::<S>(panel, &block);
            let (rows, most) = if (cols / S::LANES).is_multiple_of(4) { wide::<S>() } else { (S::MR, S::NV) };
            let mut r = 0;
            while r < panel.rows {
                let n = share(panel.rows - r, rows);
                // SAFETY: as `apply` promises; rows of the panel.
                unsafe {
                    let keys = seen::keys_of(x, block, r, n);
                    if keys.0 < keys.1 || block.first {
                        with_rows!(S, n, MR => {
                            let mut c = 0;
                            while c < cols {
                                let vectors = share((cols - c) / S::LANES, most);
                                with_const!(S, vectors, NV => if const { MR * NV <= S::MR * S::NV } {
                                    if const { asks_twice::<S>(MR, NV) } && wanted.left() > (panel.rows - r) / MR {
                                        let lines = wanted.next(2);
                                        apart!(s => whole::<S, MR, NV, 2>(s, strips, r, keys, c, lines));
                                    } else {
                                        let lines = wanted.next(1);
                                        apart!(s => whole::<S, MR, NV, 1>(s, strips, r, keys, c, lines));
                                    }
                                }; [1 2 3 4] wide::<S>().1);
                                c += vectors * S::LANES;
                            }
                        });
                    }
                }
                r += n;
            }
        },
    );
}

/// One tile: `acc = acc f + Σ_t weight(t) v(t)`. Each step asks for a line of some `COLUMNS`.
#[inline(always)]
unsafe fn whole<S: Simd, const MR: usize, const NV: usize, const COLUMNS: usize>(
    s: S,
    strips: &Strips<f32>,
    r: usize,
    (from, to): (usize, usize),
    c: usize,
    mut later: Lines,
) {
    let first = &strips.first;
    let rows = if later.stride > GUESSED { S::PANEL } else { 0 };
    let ptr = first.first.wrapping_add(from.wrapping_sub(first.t).wrapping_mul(strips.row_stride) + c);
    let v = side_by_side(ptr, strips.row_stride);
    // SAFETY: as the caller promises.
    unsafe {
        let n = to.saturating_sub(from);
        let weights = strips.weights.at(r, from);
        let chains = if const { S::PREFETCHES } {
            let mut ask = || {
                for i in 0..COLUMNS {
                    s.prefetch(later.at.wrapping_add(i * later.step));
                }
                later.at = later.at.wrapping_add(later.stride);
            };
            let chains = tile_while::<S, f32, MR, NV>(s, n, weights, v, &mut ask, zero(s));
            // What few keys have no steps for.
            for _ in n..rows {
                ask();
            }
            chains
        } else {
            tile::<S, f32, MR, NV>(s, n, weights, v, zero(s))
        };
        add(s, strips, 0, (r, c), chains);
    }
}

/// Adds the chains of a tile at row `r` and column `c` to what there was: `acc = acc f + chains`, or `acc = chains` in a
/// chunk's first block. `shift`: of the values' addresses.
///
/// # Safety
/// - As [`apply`]; rows and columns of the panel.
#[inline(always)]
pub unsafe fn add<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    strips: &Strips<E>,
    shift: usize,
    (r, c): (usize, usize),
    mut chains: Acc<S::V, MR, NV>,
) {
    let (block, x) = (strips.block, strips.x);
    let (mut row, factor) = (x.acc().wrapping_add(r * x.width + c), x.factor().wrapping_add(r));
    // SAFETY: as the caller promises.
    unsafe {
        // A key that a row does not see weighs 0, but 0 x NaN is not 0.
        if (block.partial || block.holes) && !all_finite(s, &chains) {
            // A copy, so that the chains themselves need no address.
            let mut seen = chains;
            seen_only(s, strips, shift, (r, MR), (c, NV), seen.as_mut_ptr().cast());
            chains = seen;
        }
        unrolled!(I < MR => {
            let factor = s.splat(*factor.wrapping_add(I));
            unrolled!(N < NV => {
                let at = row.wrapping_add(N * S::LANES);
                s.store(at, if block.first { chains[I][N] } else { s.fma(s.load(at), factor, chains[I][N]) });
            });
            row = row.wrapping_add(x.width);
        });
        let _ = row;
    }
}

/// Keys `t..end` of a block, whose values lie at one stride.
#[derive(Clone, Copy)]
pub struct Run<E> {
    pub t: usize,
    pub end: usize,
    pub first: *const E,
}

/// The values that tiles are made of and where these go.
pub struct Strips<'a, E> {
    pub x: &'a Scratch,
    pub block: Block,
    pub weights: Rows,
    pub first: Run<E>,
    pub more: &'a [Run<E>],
    pub row_stride: usize,
    pub cols: usize,
}

impl<'a, E: Elem> Strips<'a, E> {
    #[inline(always)]
    pub fn of<S: Simd>(
        x: &'a Scratch,
        block: Block,
        (first, more): (Run<E>, &'a [Run<E>]),
        row_stride: usize,
        cols: usize,
    ) -> Self {
        let weights = Rows { ptr: x.scores, row_stride: 1, col_stride: S::PANEL };
        Strips { x, block, weights, first, more, row_stride, cols }
    }
}
