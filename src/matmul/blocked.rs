//! The loops round the tile: straight from the operands for small products, cache-blocked for others.
//!
//! ```text
//! for jc in 0..n step nc                        B columns that fit the L3
//!   for is in 0..m step ms                      C rows whose partial sums fit (all of m if C is f32)
//!     for pc in 0..k step KC
//!       for ic in is..is+ms step mc             copy A[ic.., pc..] into rows, unless it has rows: it fits the L2
//!         for jr in 0..nc step NR               a group of columns of B, copied by its first tile
//!           for ir in 0..mc step MR             the tile
//! ```
//! If all rows go at a time, each group of B is copied to the same place, and used up there.
//!
//! The loops and their names are those of Goto and van de Geijn (2008) and Van Zee and van de Geijn
//! (2015). The departure is that A keeps its rows: they are read where they lie, or copied side by side, instead of
//! being interleaved, since the tile broadcasts from rows as well as from columns.

use core::mem::MaybeUninit;

use super::groups::{Room, Source, grouped, widest};
use super::store::Store;
use super::tiles::{Next, tiles};
use super::{Product, Rhs, few, lone};
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{PANEL_COLS, Panels, Rows, packed};
use crate::simd::Simd;
use crate::view::RawMat;

/// The logical block of `k`, part of the contract: an element is one chain over a block, and the
/// blocks are added in order. It is also the cache block: 512 rows of a 16-column panel fill the L1.
pub const KC: usize = 512;
/// Rows of A at a time: 72 x 512 floats are 144 KiB, a part of the L2. 12 tiles of 6 rows, 9 of 8.
const MC: usize = 72;
/// The same for each lane, if A is read where it lies, or the room of other groups of B is free.
const TALL: usize = 18;
/// Columns of B packed at a time: 512 x 2,048 floats are 4 MiB, a part of the L3.
const NC: usize = 2048;
/// The same when C holds no partial sums: they take the rest of the same scratch.
const NC_PARTIAL: usize = 512;
/// Rows of partial sums.
const MS_PARTIAL: usize = 288;
/// Up to this in every dimension a product runs straight from the operands.
const SMALL: usize = 64;
/// Floats between the rows of packed A beyond their length: no power of two, which would put the rows
/// of a tile into the same sets of the L1.
const SKEW: usize = 16;
/// Steps of a tile from which on it asks for its part of C before it begins, if C has more bytes than so many.
const LONG: usize = 128;
const CACHED: usize = 512 << 10;
/// A B of up to so many bytes for each lane need not be copied: tiles of wide vectors read it less often.
const IN_PLACE: usize = 16 << 10;
/// Rows so many bytes apart, or a multiple, share a set of the L1, which holds eight.
const CROWDED: usize = 4096;
/// Floats to move the scratch to a cache line.
const ALIGN: usize = 16;

/// Rows and columns of each block, and where the parts of the scratch begin.
struct Plan {
    kc: usize,
    mc: usize,
    nc: usize,
    ms: usize,
    a_at: usize,
    partial_at: usize,
    len: usize,
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

const fn is_small(m: usize, k: usize, n: usize) -> bool {
    k == 0 || (m <= SMALL && k <= SMALL && n <= SMALL)
}

impl Plan {
    /// All sizes are bounded by the constants, so nothing overflows.
    const fn new(m: usize, k: usize, n: usize, partial: bool) -> Plan {
        let (kc, mc) = (min(k, KC), min(m, MC));
        let (nc, ms) = if partial { (min(n, NC_PARTIAL), min(m, MS_PARTIAL)) } else { (min(n, NC), m) };
        let panels = nc.div_ceil(PANEL_COLS);
        let a_at = ALIGN + panels * PANEL_COLS * kc;
        let partial_at = a_at + mc * (kc + SKEW);
        let len = if partial { partial_at + ms * panels * PANEL_COLS } else { partial_at };
        Plan { kc, mc, nc, ms, a_at, partial_at, len }
    }
}

/// `f32`s of scratch for a product of these sizes, whatever its types and strides.
pub const fn scratch_len(m: usize, k: usize, n: usize) -> usize {
    if is_small(m, k, n) || m == 0 || n == 0 {
        return 0;
    }
    let direct = Plan::new(m, k, n, false).len;
    let partial = if k > KC { Plan::new(m, k, n, true).len } else { 0 };
    if direct > partial { direct } else { partial }
}

/// Computes the product.
///
/// # Safety
/// - The views and the bias of `p` are valid and agree in their sizes; C overlaps nothing else.
/// - `scratch` is valid for reading and writing `scratch_len(m, k, n)` floats.
pub unsafe fn run<S: Simd>(s: S, p: &Product, scratch: *mut f32) {
    let (m, k, n) = (p.c.rows, p.a.cols, p.c.cols);
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: as the caller promises.
    unsafe {
        if const { S::LANES == 1 } && p.a.kind == Kind::F32 && p.c.kind == Kind::F32 {
            return lone::run(p);
        }
        // C by columns is Cᵀ = Bᵀ Aᵀ by rows, with the same chain for each element. A product that would
        // want more scratch that way stays as it is, and stores its rows across.
        if p.c.col_stride != 1
            && p.c.row_stride == 1
            && p.bias.is_null()
            && scratch_len(n, k, m) <= scratch_len(m, k, n)
            && let Rhs::Strided(b) = p.b
        {
            return turned(s, p, b, scratch);
        }
        debug_assert!(k == p.b.k());
        blocks(s, p, scratch);
    }
}

/// `Cᵀ = Bᵀ Aᵀ`. Not inlined, so that other products do without its stack.
#[inline(never)]
unsafe fn turned<S: Simd>(s: S, p: &Product, b: RawMat, scratch: *mut f32) {
    let turned = Product { a: b.t(), b: Rhs::Strided(p.a.t()), c: p.c.t(), ..*p };
    // SAFETY: as the caller promises.
    unsafe { blocks(s, &turned, scratch) };
}

unsafe fn blocks<S: Simd>(s: S, p: &Product, scratch: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        // Half of each vector would be empty.
        if const { <S::Few as Simd>::LANES < S::LANES } && p.c.cols <= <S::Few as Simd>::LANES {
            blocks(s.few(), p, scratch);
        } else if is_small(p.c.rows, p.a.cols, p.c.cols) {
            small(s, p);
        } else {
            blocked(s, p, scratch);
        }
    }
}

/// Straight from the operands, one block of `k`. What the tile cannot read as it lies goes through a
/// buffer on the stack: a panel of B that is not row-major or not whole, rows of A that are not `f32`.
unsafe fn small<S: Simd>(s: S, p: &Product) {
    let (k, n) = (p.a.cols, p.c.cols);
    let store = Store::whole(p);
    match &p.b {
        Rhs::Packed { ptr, kind, .. } => by_kind!(*kind, E => {
            // SAFETY: packed B has `k` rows and at least `n` columns.
            unsafe { strips::<S, E>(s, &p.a, packed::<E>(ptr.cast(), k), 0, n, &store) };
        }),
        Rhs::Strided(b) => {
            // One lane reads all columns as they lie.
            let one_lane = const { S::LANES == 1 };
            let direct = if one_lane || b.col_stride == 1 { n - n % S::LANES } else { 0 };
            if direct > 0 {
                by_kind!(b.kind, E => {
                    let (ptr, col_stride) = (b.at::<E>(0, 0).cast_const(), b.col_stride);
                    let panel_stride = PANEL_COLS.wrapping_mul(col_stride);
                    let panels = Panels { ptr, row_stride: b.row_stride, panel_stride, col_stride };
                    // SAFETY: the first `direct` columns fill whole vectors of the caller's rows.
                    unsafe { strips::<S, E>(s, &p.a, panels, 0, direct, &store) };
                });
            }
            if !one_lane && direct < n {
                let run =
                    if n - direct > PANEL_COLS { through::<S, SMALL> } else { through::<S, PANEL_COLS> };
                // SAFETY: `k <= SMALL` rows, and as many columns as are said.
                unsafe { run(s, p, b, direct, &store) };
            }
        }
    }
}

/// All rows of a small A against up to `COLS` columns of B, those from `j` on, through a buffer. Not inlined, so that
/// it is on the stack only then.
#[inline(never)]
unsafe fn through<S: Simd, const COLS: usize>(s: S, p: &Product, b: &RawMat, j: usize, store: &Store) {
    let mut panels = MaybeUninit::<[[f32; COLS]; SMALL]>::uninit();
    let panels = panels.as_mut_ptr().cast::<f32>();
    let (k, n) = (b.rows, b.cols - j);
    // SAFETY: `k <= SMALL` rows of `n <= COLS` columns fit the panels.
    unsafe {
        for x in (0..n).step_by(PANEL_COLS) {
            let to = Grid { dst: panels.add(x * k), stride: PANEL_COLS, width: PANEL_COLS };
            pack(s, b.block(0, j + x, k, (n - x).min(PANEL_COLS)), to);
        }
        strips::<S, f32>(s, &p.a, packed(panels.cast_const(), k), j, n, store);
    }
}

/// All rows of a small A against `cols` columns of B that belong at column `j` of C.
unsafe fn strips<S: Simd, E: Elem>(s: S, a: &RawMat, b: Panels<E>, j: usize, cols: usize, store: &Store) {
    if a.kind == Kind::F32 {
        let rows = Rows { ptr: a.at::<f32>(0, 0), row_stride: a.row_stride, col_stride: a.col_stride };
        // SAFETY: A has `a.rows` rows of `a.cols`; the rest is as the caller promises.
        return unsafe {
            tiles::<S, E, false>(s, (a.rows, a.cols, cols), rows, b, (0, j), store, Next::NOTHING)
        };
    }
    // SAFETY: as above.
    unsafe { widened(s, a, b, j, cols, store) }
}

/// The same of an A that is not `f32`, a few rows at a time. Not inlined, so that its buffer is on the stack only
/// then.
#[inline(never)]
unsafe fn widened<S: Simd, E: Elem>(s: S, a: &RawMat, b: Panels<E>, j: usize, cols: usize, store: &Store) {
    let mut strip = MaybeUninit::<[f32; 8 * SMALL]>::uninit();
    let strip = strip.as_mut_ptr().cast::<f32>();
    let rows = Rows { ptr: strip, row_stride: SMALL, col_stride: 1 };
    let mut i = 0;
    while i < a.rows && cols > 0 {
        let mr = (a.rows - i).min(S::MR);
        // SAFETY: `mr <= 8` rows of `a.cols <= SMALL` columns fit the strip.
        unsafe {
            pack(s, a.block(i, 0, mr, a.cols), Grid { dst: strip, stride: SMALL, width: a.cols });
            tiles::<S, E, false>(s, (mr, a.cols, cols), rows, b, (i, j), store, Next::NOTHING);
        }
        i += mr;
    }
}

/// The five loops round [`tiles`]. Not inlined, as [`turned`].
#[inline(never)]
unsafe fn blocked<S: Simd>(s: S, p: &Product, scratch: *mut f32) {
    let (m, k, n) = (p.c.rows, p.a.cols, p.c.cols);
    let plan = Plan::new(m, k, n, k > KC && !Store::is_direct(&p.c));
    let b_packed = scratch.wrapping_add(scratch.align_offset(64).min(ALIGN));
    let a_packed = scratch.wrapping_add(plan.a_at);
    let partial = scratch.wrapping_add(plan.partial_at);
    if let Rhs::Strided(b) = p.b
        && const { S::LANES > 1 }
        && m <= few::FEW
        && k >= few::FEW
    {
        let room = few::Room { b: b_packed, a: a_packed, a_stride: plan.kc + SKEW, partial, cols: plan.nc };
        // SAFETY: the plan has room for `kc` floats of each column, in whole panels, and for the rows of A.
        return unsafe { few::run(s, p, b, &room) };
    }
    // A single tile of columns reads each element once.
    let once = n <= S::NV * S::LANES;
    let crowded = p.a.row_stride.saturating_mul(size_of::<f32>()).is_multiple_of(CROWDED);
    let in_place =
        p.a.kind == Kind::F32 && p.a.col_stride == 1 && (once || const { S::LANES > 1 } && !crowded);
    let group = min(widest::<S>() * plan.kc, plan.a_at - ALIGN);
    let far = m.saturating_mul(n).max(k.saturating_mul(n)).saturating_mul(size_of::<f32>()) > CACHED;
    // No size is 0 here, which `max` tells the compiler: a step of 0 would panic.
    for jc in (0..n).step_by(plan.nc.max(1)) {
        let nc = (n - jc).min(plan.nc);
        for is in (0..m).step_by(plan.ms.max(1)) {
            let ms = (m - is).min(plan.ms);
            for pc in (0..k).step_by(plan.kc.max(1)) {
                let kc = (k - pc).min(plan.kc);
                let store = Store::block(p, (is, jc), pc..pc + kc, (partial, plan.nc));
                let mut source = Source::of::<S>(p, (pc, jc), [kc, nc], ms);
                // If all rows go at a time, there is one group of B at a time, and room for A behind it.
                let stride = kc + SKEW;
                let fit = (plan.partial_at - ALIGN - group).checked_div(stride).unwrap_or(0);
                let at_once = const { S::LANES > 1 } && ms <= TALL * S::LANES && (in_place || ms <= fit);
                let (mc, a_packed) = match in_place {
                    _ if at_once => (ms, b_packed.wrapping_add(group)),
                    true if const { S::LANES > 1 } => (TALL * S::LANES, a_packed),
                    _ => (plan.mc, a_packed),
                };
                let room = Room { to: b_packed, keep: !at_once, far: far && kc >= LONG };
                for ic in (0..ms).step_by(mc.max(1)) {
                    let mc = (ms - ic).min(mc);
                    // SAFETY: the plan has room for `mc` rows of `kc + SKEW`, and for the panels; blocks are inside.
                    unsafe {
                        let a = rows_of(s, p.a.block(is + ic, pc, mc, kc), in_place, a_packed, stride);
                        grouped(s, (mc, kc, nc), a, (source, room), (ic, 0), &store);
                    }
                    if !matches!(source, Source::Lying(_)) {
                        source = Source::There;
                    }
                }
            }
        }
    }
}

/// Whether rows of B may be read again and again where they lie: all with what is between them fits the L2, and their
/// lines fill the sets of the L1 evenly.
pub fn lies_well<S: Simd>(b: &RawMat) -> bool {
    let apart = b.row_stride.saturating_mul(b.kind.size());
    b.col_stride == 1 && b.rows.saturating_mul(apart) <= S::LANES * IN_PLACE && !apart.is_multiple_of(CROWDED)
}

/// Rows of A: `as_they_lie`, if they are floats, or side by side at `to`.
///
/// # Safety
/// - `to` is valid for writing `a.rows` rows, `stride` apart.
pub unsafe fn rows_of<S: Simd>(s: S, a: RawMat, as_they_lie: bool, to: *mut f32, stride: usize) -> Rows {
    if as_they_lie && a.kind == Kind::F32 {
        return Rows { ptr: a.at::<f32>(0, 0), row_stride: a.row_stride, col_stride: a.col_stride };
    }
    // SAFETY: as the caller promises.
    unsafe { pack(s, a, Grid { dst: to, stride, width: a.cols }) };
    Rows { ptr: to, row_stride: stride, col_stride: 1 }
}
