//! The weighted values of one block with one lane, as [`values`](super::values) has them for vectors. A small
//! processor counts instructions and bytes of flash and stack: tiles are few, apart, and leave their sums in
//! memory.

use super::block::Block;
use super::panel::Panel;
use super::scratch::Scratch;
use super::seen;
use crate::arch::scalar::Scalar;
use crate::elem::{Elem, by_kind};
use crate::kernel::tile::{Acc, lone_columns, panel_rows, take, zero};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::view::RawMat;

/// Chains of the largest tile.
const MOST: usize = 24;
const PANEL: usize = <Scalar as Simd>::PANEL;

/// Keys between two tests whether there are more, for a tile of so many chains: the largest has no registers left.
const fn at_once(chains: usize) -> usize {
    if chains == MOST { 1 } else { 2 }
}

/// Where the chains of a tile go.
struct Out {
    /// `[rows][stride]`.
    to: *mut f32,
    stride: usize,
    /// A float for each row, by which what was there is multiplied before a chain is added. Or null: chains
    /// alone.
    factor: *const f32,
    /// Whether chains that are not finite may not go there.
    finite: bool,
}

/// A tile: `n` keys with their weights, `[key][PANEL]`, and values, rows of a stride. Chains start with what the
/// last pointer gives. Returns whether they have gone where they should.
type Tile<E> = unsafe fn(usize, *const f32, (*const E, usize), *const f32, &Out) -> bool;

/// Adds the block's values, weighted.
///
/// # Safety
/// - As `values::apply`, with one lane.
#[inline(never)]
pub unsafe fn apply(panel: &Panel, x: &Scratch, block: &Block) {
    // SAFETY: as the caller promises.
    by_kind!(panel.p.v.kind(), E => unsafe { strips::<E>(panel, x, block) });
}

unsafe fn strips<E: Elem>(panel: &Panel, x: &Scratch, block: &Block) {
    let (v, mut r) = (&panel.p.v, 0);
    let one = v.one_run(block.start, block.keys);
    let run = v.run(panel.kv_head, block.start + block.from, block.to - block.from);
    while r < panel.rows {
        let rows = take::<Scalar>(panel.rows - r, panel_rows::<Scalar>());
        // SAFETY: rows of the panel.
        let keys = unsafe { seen::keys_of(x, *block, r, rows) };
        let (most, mut c) = (lone_columns::<Scalar>(rows), 0);
        while c < v.dim() && (keys.0 < keys.1 || block.first) {
            let left = v.dim() - c;
            // Eight columns are two times four.
            let cols = if left == 8 && most < 8 { 4 } else { take::<Scalar>(left, most) };
            let tile: Tile<E> = match (rows, cols) {
                (1, 1) => tile::<E, 1, 1>,
                (1, 4) => tile::<E, 1, 4>,
                (1, _) => tile::<E, 1, 16>,
                (_, 1) => tile::<E, 4, 1>,
                (_, 4) => tile::<E, 4, 4>,
                _ => tile::<E, 4, 6>,
            };
            let part = Part { panel, x, block, rows: (r, rows), cols: (c, cols), keys };
            // SAFETY: as the caller promises; weights are those of keys in the block.
            unsafe {
                let factor = x.factor.wrapping_add(r);
                let factor = if block.first { core::ptr::null() } else { factor.cast_const() };
                let to = x.acc.wrapping_add(r * x.width + c);
                // A key that a row does not see weighs 0, but 0 x NaN is not 0.
                let out = Out { to, stride: x.width, factor, finite: block.partial || block.holes };
                if !one || !part.tile(tile, (block.from, run), ZEROS.as_ptr(), &out) {
                    part.in_runs(tile);
                }
            }
            c += cols;
        }
        r += rows;
    }
}

/// What chains start with.
static ZEROS: [f32; MOST] = [0.0; MOST];

/// The place of a tile: rows, columns and keys.
struct Part<'a> {
    panel: &'a Panel<'a>,
    x: &'a Scratch,
    block: &'a Block,
    rows: (usize, usize),
    cols: (usize, usize),
    keys: (usize, usize),
}

impl Part<'_> {
    /// The keys of a run, which begins at key `t` of the block.
    #[inline(always)]
    unsafe fn tile<E: Elem>(
        &self,
        tile: Tile<E>,
        (t, run): (usize, RawMat),
        start: *const f32,
        out: &Out,
    ) -> bool {
        let from = t.max(self.keys.0);
        let n = (t + run.rows).min(self.keys.1).saturating_sub(from);
        let weights = self.x.scores.wrapping_add(from * PANEL + self.rows.0);
        let values = run.at::<E>(from.wrapping_sub(t), self.cols.0).cast_const();
        // SAFETY: as the caller promises.
        unsafe { tile(n, weights, (values, run.row_stride), start, out) }
    }

    /// The same of all runs, and of the keys alone that each row sees where others would do harm.
    #[inline(never)]
    unsafe fn in_runs<E: Elem>(&self, tile: Tile<E>) {
        let &Part { panel, x, block, rows: (r, rows), cols: (c, cols), .. } = self;
        let mut chains = ZEROS;
        let to = chains.as_mut_ptr();
        let out = Out { to, stride: cols, factor: core::ptr::null(), finite: false };
        for run in panel.p.v.runs(panel.kv_head, block.start, block.keys) {
            // SAFETY: as the caller promises; the chains are as many as there is room for.
            unsafe { self.tile(tile, run, to, &out) };
        }
        if (block.partial || block.holes) && chains.iter().fold(false, |any, x| any | !x.is_finite()) {
            // SAFETY: as the caller promises.
            unsafe { self.seen_only::<E>(&mut chains) };
        }
        for (i, chains) in chains.chunks_exact(cols.max(1)).enumerate().take(rows) {
            let to = x.acc.wrapping_add((r + i) * x.width + c);
            // SAFETY: rows and columns of the sums.
            unsafe {
                let factor = *x.factor.add(r + i);
                for (j, &chain) in chains.iter().enumerate() {
                    let to = to.add(j);
                    *to = if block.first { chain } else { *to * factor + chain };
                }
            }
        }
    }

    /// Chains of the keys alone that each row sees.
    #[cold]
    #[inline(never)]
    unsafe fn seen_only<E: Elem>(&self, chains: &mut [f32; MOST]) {
        let &Part { panel, x, block, rows: (r, rows), cols: (c, cols), .. } = self;
        let places = (r..r + rows).flat_map(|r| (c..c + cols).map(move |c| (r, c)));
        for ((r, c), chain) in places.zip(chains) {
            let mut sum = 0.0;
            // SAFETY: keys that the row sees.
            unsafe {
                let (from, to) = seen::keys_of(x, *block, r, 1);
                let bits = if block.holes { seen::of_row(x, r) } else { u64::MAX } & block.keys;
                for t in (from..to).filter(|t| bits >> t & 1 == 1) {
                    let value = panel.p.v.run(panel.kv_head, block.start + t, 1).at::<E>(0, c);
                    sum += *x.scores.add(t * PANEL + r) * (*value).widen();
                }
            }
            *chain = sum;
        }
    }
}

/// `MR` rows of `NV` columns.
unsafe fn tile<E: Elem, const MR: usize, const NV: usize>(
    n: usize,
    weights: *const f32,
    (values, stride): (*const E, usize),
    start: *const f32,
    out: &Out,
) -> bool {
    const { assert!(PANEL == 4 && MR * NV <= MOST) };
    let mut chains = zero::<Scalar, MR, NV>(Scalar);
    // SAFETY: as the caller promises.
    unsafe {
        unrolled!(I < MR => {
            unrolled!(N < NV, 16 => {
                chains[I][N] = *start.add(I * NV + N);
            });
        });
        let (mut weights, mut values) = (weights, values);
        let most = const { at_once(MR * NV) };
        if most == 2 && n % 2 == 1 {
            step(weights, values, &mut chains);
            (weights, values) = (weights.wrapping_add(PANEL), values.wrapping_add(stride));
        }
        for _ in 0..n / most {
            unrolled!(K < at_once(MR * NV) => {
                step(weights.wrapping_add(K * PANEL), values, &mut chains);
                values = values.wrapping_add(stride);
            });
            weights = weights.wrapping_add(most * PANEL);
        }
        if out.finite {
            let mut sum = 0.0;
            unrolled!(I < MR => {
                unrolled!(N < NV, 16 => {
                    sum += chains[I][N];
                });
            });
            // A sum that overflows takes the long way for nothing.
            if !sum.is_finite() {
                return false;
            }
        }
        let mut to = out.to;
        if out.factor.is_null() {
            unrolled!(I < MR => {
                unrolled!(N < NV, 16 => {
                    *to.add(N) = chains[I][N];
                });
                to = to.wrapping_add(out.stride);
            });
            let _ = to;
            return true;
        }
        unrolled!(I < MR => {
            let factor = *out.factor.add(I);
            unrolled!(N < NV, 16 => {
                *to.add(N) = *to.add(N) * factor + chains[I][N];
            });
            to = to.wrapping_add(out.stride);
        });
        let _ = to;
    }
    true
}

/// A key of all chains. Values one by one: they and the chains then fit the registers.
#[inline(always)]
unsafe fn step<E: Elem, const MR: usize, const NV: usize>(
    weights: *const f32,
    values: *const E,
    chains: &mut Acc<f32, MR, NV>,
) {
    let mut weight = [0.0; MR];
    // SAFETY: as the caller promises.
    unsafe {
        unrolled!(I < MR => {
            weight[I] = *weights.wrapping_add(I);
        });
        unrolled!(N < NV, 16 => {
            let value = (*values.wrapping_add(N)).widen();
            unrolled!(I < MR => {
                chains[I][N] += weight[I] * value;
            });
        });
    }
}
