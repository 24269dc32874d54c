//! The weighted values of one block: `acc = acc f + P V`, for both directions of the scores.

use super::keys::{Later, SequenceKeys};
use super::mask::{bits, first_ones, hull};
use super::panel::{Block, Panel};
use super::scratch::Scratch;
use super::seen;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, tile, with_rows, with_vectors, zero};
use crate::simd::Simd;
use crate::view::RawMat;

/// Weighted values of nothing.
///
/// # Safety
/// - `x` has room for `rows` rows.
pub unsafe fn clear(x: &Scratch, rows: usize) {
    // SAFETY: as the caller promises.
    unsafe { core::slice::from_raw_parts_mut(x.acc, rows * x.width) }.fill(0.0);
}

/// Adds the block's values, weighted.
///
/// # Safety
/// - `x` holds the block's weights and factors; the block is inside V.
#[inline(never)]
pub unsafe fn apply<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    // Many rows read each value several times: widened and side by side it costs them less. The last
    // columns must fill a vector.
    let v = &panel.p.v;
    let cols = v.dim().next_multiple_of(S::LANES);
    let ragged = cols != v.dim();
    let apart = v.kind() != Kind::F32 || !v.side_by_side() || !v.one_run(block.start, block.together);
    let copied = ragged || (panel.in_lanes && S::LANES > 1 && apart);
    let runs = |h: usize, keys: u64| v.runs(panel.kv_head + h, block.start, keys);
    // SAFETY: as the caller promises.
    unsafe {
        // An unseen key's weight is 0, but 0 x NaN is not.
        let finite = |h: usize| runs(h, block.keys).all(|(_, keys)| all_finite(s, keys));
        let careful = (block.partial || block.holes) && !(0..panel.heads).all(finite);
        let all = Part {
            x: *x,
            panel,
            heads: panel.heads,
            block,
            careful,
            at_a_time: BLOCK,
            cols,
            ahead: Ahead::Nothing,
        };
        if copied {
            let (from, to) = hull(block.together);
            for h in 0..panel.heads {
                if block.brings && block.together != bits(from, to) {
                    // What no row sees is not read: its weights of 0 need finite values.
                    core::slice::from_raw_parts_mut(x.values.add(from * x.width), (to - from) * x.width)
                        .fill(0.0);
                }
                if block.brings {
                    for (t, rows) in runs(h, block.together) {
                        let to = Grid { dst: x.values.add(t * x.width), stride: x.width, width: x.width };
                        pack(s, rows, to);
                    }
                }
                let keys = bits(block.from, block.to);
                let part =
                    Part { x: x.at_row(h * panel.lanes), heads: 1, block: Block { keys, ..block }, ..all };
                let v = SequenceKeys::in_scratch(x.values, BLOCK, x.width, cols);
                strips::<S, f32>(s, part, Values { v: &v, head: 0, start: 0 });
            }
        } else {
            // Heads that lie side by side: all of a few tokens before the next ones, in the order of memory.
            let in_order = panel.heads > 1 && !block.partial && !block.holes;
            let at_a_time = if in_order { TOKENS * size_of::<f32>() / v.kind().size() } else { BLOCK };
            let ahead = match () {
                () if panel.in_lanes || !v.far() => Ahead::Nothing,
                () if panel.heads > 1 => Ahead::Values(v.ahead(panel.heads)),
                () => Ahead::Keys,
            };
            let all = Part { at_a_time, ahead, ..all };
            let values = Values { v, head: panel.kv_head, start: block.start };
            by_kind!(v.kind(), E => strips::<S, E>(s, all, values));
        }
    }
}

/// A block's values of some heads, where they lie or in the scratch.
#[derive(Clone, Copy)]
struct Values<'a> {
    v: &'a SequenceKeys,
    head: usize,
    /// The block's first key.
    start: usize,
}

/// Tokens whose values a few rows take before the next tokens': they are read nearly in order.
const TOKENS: usize = 8;

/// What a block of values is weighted with and added to.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: Scratch,
    panel: &'a Panel<'a>,
    heads: usize,
    block: Block,
    /// Keys that a row does not see must not be touched for it.
    careful: bool,
    /// Keys that are taken for all columns and heads before the next keys.
    at_a_time: usize,
    /// Columns of V, in whole vectors.
    cols: usize,
    /// What is asked for meanwhile: for each head, values so many keys further on, or the next block of keys.
    ahead: Ahead,
}

#[derive(Clone, Copy)]
enum Ahead {
    Nothing,
    Values(usize),
    Keys,
}

/// All rows of all heads.
#[inline(never)]
unsafe fn strips<S: Simd, E: Elem>(s: S, part: Part, v: Values) {
    s.vectorize(
        #[inline(always)]
        || {
            let block = part.block;
            let mut from = block.from;
            while from < block.to {
                let to = block.to.min(from + part.at_a_time);
                for h in 0..part.heads {
                    let v = Values { head: v.head + h, ..v };
                    let x = part.x.at_row(h * part.panel.lanes);
                    let (open, close) = (from == block.from, to == block.to);
                    let weights = Rows { ptr: x.scores, row_stride: 1, col_stride: S::PANEL };
                    let later = match part.ahead {
                        Ahead::Nothing => None,
                        Ahead::Values(ahead) => v.v.later(v.head, v.start + from + ahead, to - from, 1),
                        Ahead::Keys => part.panel.p.k.later(v.head, v.start + BLOCK, BLOCK, 8),
                    };
                    let place = Place { weights, x, block, open, close, cols: part.cols, later };
                    // SAFETY: as the caller promises.
                    unsafe { head::<S, E>(s, part, place, block.keys & bits(from, to), v) };
                }
                from = to;
            }
        },
    );
}

/// All rows of a head.
#[inline(always)]
unsafe fn head<S: Simd, E: Elem>(s: S, part: Part, mut place: Place, keys: u64, v: Values) {
    let (rows, x) = (part.panel.rows, place.x);
    let mut r = 0;
    while r < rows {
        let left = rows - r;
        let n = match part.careful {
            true => 1,
            // No tile of few rows, which has too few chains, if two tiles can share.
            false if left > S::MR && left < 2 * S::MR => left.div_ceil(2),
            false => left.min(S::MR),
        };
        let mut keys = keys;
        // SAFETY: as the caller promises; rows of the panel.
        unsafe {
            if place.block.partial {
                // The rows' first keys and ends grow with the row.
                keys &= bits(*x.from.add(r) as usize, *x.to.add(r + n - 1) as usize);
            }
            if part.careful && place.block.holes {
                keys &= seen::of_row(&x, r);
            }
            if keys != 0 || place.block.first {
                strip::<S, E>(s, &mut place, (r, n), Run::first(keys, v));
            }
        }
        r += n;
    }
}

/// How one head's strips of tiles go on.
#[derive(Clone, Copy)]
struct Place {
    weights: Rows,
    x: Scratch,
    block: Block,
    /// The block's first keys: chains start. Else they go on.
    open: bool,
    /// The block's last keys: chains are added to what there was. Else they are kept.
    close: bool,
    cols: usize,
    /// Values that are wanted soon.
    later: Option<Later>,
}

/// Values of keys that lie at one stride, and the keys behind them.
#[derive(Clone, Copy)]
struct Run<'a> {
    /// The first of them in the block.
    t: usize,
    rows: RawMat,
    /// The keys behind them.
    rest: u64,
    of: Values<'a>,
}

impl<'a> Run<'a> {
    /// The first run of `keys`, without rows if there are none.
    #[inline(always)]
    fn first(keys: u64, of: Values<'a>) -> Run<'a> {
        let (t, n) = if keys == 0 { (0, 0) } else { first_ones(keys) };
        let rows = of.v.run(of.head, of.start + t, n);
        Run { t, rows, rest: keys & !bits(t, t + rows.rows), of }
    }
}

/// Rows `r..r + n` of a head.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem>(s: S, place: &mut Place, (r, n): (usize, usize), run: Run) {
    // SAFETY: as the caller promises. One or two rows alone have too few chains for the multipliers'
    // latency: they take more columns.
    unsafe {
        let (cols, mut c) = (place.cols, 0);
        if n == 1 {
            c = wide::<S, E, 1, 8>(s, place, r, run);
        } else if n == 2 {
            c = wide::<S, E, 2, 4>(s, place, r, run);
        } else if n == 4 && const { S::MR * S::NV >= 24 } {
            c = wide::<S, E, 4, 4>(s, place, r, run);
        }
        with_rows!(S, n, MR => {
            while c < cols {
                let n = (cols - c).min(S::NV * S::LANES);
                with_vectors!(S, n / S::LANES, NV => columns::<S, E, MR, NV>(s, place, r, run, c));
                c += n;
            }
        });
    }
}

/// As many tiles of `NV` vectors as fit; returns the first column that is left.
#[inline(always)]
unsafe fn wide<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: &mut Place,
    r: usize,
    run: Run,
) -> usize {
    let mut c = 0;
    while c + NV * S::LANES <= place.cols {
        // SAFETY: as the caller promises.
        unsafe { columns::<S, E, MR, NV>(s, place, r, run, c) };
        c += NV * S::LANES;
    }
    c
}

/// One tile: `acc = acc f + Σ_t weight(t) v(t)`, or a part of the sum.
#[inline(always)]
unsafe fn columns<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    place: &mut Place,
    r: usize,
    mut run: Run,
    c: usize,
) {
    let Scratch { values, acc, factor, width, .. } = place.x;
    // Chains that go on lie in the order in which they are used.
    let open = values.wrapping_add(r * width + c * MR);
    let open = |i: usize, n: usize| open.wrapping_add((i * NV + n) * S::LANES);
    if let Some(later) = &mut place.later {
        later.ask(s, c + NV * S::LANES, place.cols);
    }
    let mut chains = zero::<S, MR, NV>(s);
    // SAFETY: as the caller promises.
    unsafe {
        if !place.open {
            for (i, row) in chains.iter_mut().enumerate() {
                for (n, chain) in row.iter_mut().enumerate() {
                    *chain = s.load(open(i, n));
                }
            }
        }
        loop {
            let RawMat { rows, row_stride, .. } = run.rows;
            let v = Panels { ptr: run.rows.at::<E>(0, c), row_stride, panel_stride: PANEL_COLS };
            chains = tile::<S, E, MR, NV>(s, rows, place.weights.at(r, run.t), v, chains);
            if run.rest == 0 {
                break;
            }
            run = Run::first(run.rest, run.of);
        }
        if !place.close {
            for (i, row) in chains.iter().enumerate() {
                for (n, &chain) in row.iter().enumerate() {
                    s.store(open(i, n), chain);
                }
            }
            return;
        }
        for (i, row) in chains.iter().enumerate() {
            let acc = acc.wrapping_add((r + i) * width + c);
            let factor = s.splat(*factor.add(r + i));
            for (n, &chain) in row.iter().enumerate() {
                let acc = acc.wrapping_add(n * S::LANES);
                let old = if place.block.first { None } else { Some(s.load(acc)) };
                s.store(acc, old.map_or(chain, |old| s.fma(old, factor, chain)));
            }
        }
    }
}

/// Whether no value of the keys is infinite or NaN.
#[inline(never)]
unsafe fn all_finite<S: Simd>(s: S, keys: RawMat) -> bool {
    s.vectorize(
        #[inline(always)]
        || {
            // 0 x v is 0 or, for what is not finite, NaN, which stays in the sum.
            let mut sums = [s.splat(0.0); 4];
            by_kind!(keys.kind, E => for t in 0..keys.rows {
                for c in (0..keys.cols).step_by(4 * S::LANES) {
                    for (c, sum) in (c..keys.cols).step_by(S::LANES).zip(&mut sums) {
                        // SAFETY: columns from `c` on of a key that some row sees.
                        let v = unsafe { crate::elem::load_up_to::<S, E>(s, keys.at(t, c), keys.cols - c) };
                        *sum = s.fma(v, s.splat(0.0), *sum);
                    }
                }
            });
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            let mut lanes = [0.0_f32; crate::simd::MAX_LANES];
            // SAFETY: the array holds a whole vector.
            unsafe { s.store(lanes.as_mut_ptr(), sum) };
            lanes.iter().all(|&x| x == 0.0)
        },
    )
}
