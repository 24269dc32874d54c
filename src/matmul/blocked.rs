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
//! If all rows go at a time, each group of B is copied to the same place, and used up there: few rows want little scratch.
//!
//! The loops and their names are those of Goto and van de Geijn (2008) and Van Zee and van de Geijn
//! (2015). The departure is that A keeps its rows: they are read where they lie, or copied side by side, instead of
//! being interleaved, since the tile broadcasts from rows as well as from columns.

use super::groups::{Room, Source, grouped, widest};
use super::store::Store;

use super::{Product, Rhs, few, lone, small};
use crate::elem::Kind;
use crate::kernel::pack::{Grid, pack};
use crate::kernel::tile::{PANEL_COLS, Rows};
use crate::simd::{Simd, VECTORS};
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
/// Up to this many rows always go at a time: what the narrowest vectors take.
const AT_ONCE: usize = TALL * 4;
/// Columns that then are copied together, the most of any tier.
const GROUP: usize = 4 * PANEL_COLS;
/// Partial sums of the fewest rows.
const PARTIAL: usize = 8192;
/// Rows at a time where there is but one lane, which reads B where it lies.
const LONE: usize = 8;
/// Fewer rows of A at a time are too few.
const LEAST: usize = 16;
/// Up to this in every dimension a product runs straight from the operands.
pub const SMALL: usize = 64;
/// Floats between the rows of packed A beyond their length: no power of two, which would put the rows
/// of a tile into the same sets of the L1.
pub const SKEW: usize = 16;
/// From so many steps on a tile asks for its part of C before it begins, if C or B is not cached.
const LONG: usize = 128;
/// Bytes, as floats, of a C or B that caches hold: nothing of it is asked for.
const CACHED: usize = 512 << 10;
/// A B of up to so many bytes for each lane need not be copied: tiles of wide vectors read it less often.
const IN_PLACE: usize = 16 << 10;
/// Rows, or columns, so many bytes apart, or a multiple, share a set of the L1, which holds eight.
pub const CROWDED: usize = 4096;
/// Floats to move the scratch to a cache line.
pub const ALIGN: usize = 16;

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

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

const fn is_small(m: usize, k: usize, n: usize) -> bool {
    k == 0 || (m <= SMALL && k <= SMALL && n <= SMALL)
}

impl Plan {
    /// All sizes are bounded by the constants, so nothing overflows.
    const fn new(m: usize, k: usize, n: usize, partial: bool) -> Plan {
        let (kc, few) = (min(k, KC), m <= AT_ONCE);
        let (nc, ms) = match partial {
            // Whole panels.
            true if few && VECTORS => {
                (min(n, max(NC_PARTIAL, PARTIAL / max(m, 1) / PANEL_COLS * PANEL_COLS)), m)
            }
            true => (min(n, NC_PARTIAL), min(m, MS_PARTIAL)),
            false => (min(n, NC), m),
        };
        let (mc, ms) =
            if VECTORS { (min(m, if few { m } else { MC }), ms) } else { (min(m, LONE), min(ms, LONE)) };
        let width = nc.next_multiple_of(PANEL_COLS);
        let copied = match VECTORS {
            true if few => min(width, GROUP),
            true => width,
            false => 0,
        };
        let a_at = ALIGN + copied * kc;
        let partial_at = a_at + mc * (kc + SKEW);
        let len = if partial { partial_at + ms * width } else { partial_at };
        Plan { kc, mc, nc, ms, a_at, partial_at, len }
    }

    /// The same with fewer rows of A at a time, for a scratch of `len` floats; `None` if they are too few.
    fn within(self, len: usize) -> Option<Plan> {
        // Not 0, which the compiler does not know: it would panic.
        let stride = (self.kc + SKEW).max(1);
        let less = self.len.saturating_sub(len).div_ceil(stride);
        // All groups of B are then kept, if there are several.
        let kept = self.a_at - ALIGN >= self.nc.next_multiple_of(PANEL_COLS) * self.kc;
        let fits = less == 0 || kept && less + LEAST <= self.mc;
        fits.then(|| Plan { mc: self.mc - less, partial_at: self.partial_at - less * stride, ..self })
    }

    /// That of a product to `c`, with a scratch of `len` floats.
    fn of(k: usize, c: &RawMat, len: usize) -> Option<Plan> {
        Plan::new(c.rows, k, c.cols, k > KC && !Store::is_direct(c)).within(len)
    }
}

/// `f32`s of scratch for a product of these sizes, whatever its types and strides.
#[inline]
pub const fn scratch_len(m: usize, k: usize, n: usize) -> usize {
    if is_small(m, k, n) || m == 0 || n == 0 { 0 } else { blocked_len(m, k, n) }
}

#[inline(never)]
const fn blocked_len(m: usize, k: usize, n: usize) -> usize {
    let len = Plan::new(m, k, n, k > KC).len;
    // Without sums between blocks more of B is copied, if any is.
    if VECTORS && k > KC { max(len, Plan::new(m, k, n, false).len) } else { len }
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
        if const { S::LANES > 1 } && is_small(m, k, n) && small::whole(s, p) {
            return;
        }
        // C by columns is Cᵀ = Bᵀ Aᵀ by rows, with the same chain for each element, and few columns are few rows. A
        // product that would want more scratch that way stays as it is, and stores its rows across.
        let len = scratch_len(m, k, n);
        if p.bias.is_null()
            && let Rhs::Strided(b) = p.b
        {
            let by_columns = p.c.col_stride != 1 && p.c.row_stride == 1;
            let few =
                const { S::LANES > 1 } && few::columns(p) && (len == 0 || few::fit::<S>(len, n, &p.a.t()));
            if few || by_columns && (is_small(n, k, m) || Plan::of(k, &p.c.t(), len).is_some()) {
                return as_transpose(s, p, b, (scratch, len));
            }
        }
        debug_assert!(k == p.b.k());
        blocks(s, p, (scratch, len));
    }
}

/// `Cᵀ = Bᵀ Aᵀ`. Not inlined, so that other products do without its stack.
#[inline(never)]
unsafe fn as_transpose<S: Simd>(s: S, p: &Product, b: RawMat, scratch: (*mut f32, usize)) {
    let transpose = Product { a: b.t(), b: Rhs::Strided(p.a.t()), c: p.c.t(), ..*p };
    // SAFETY: as the caller promises.
    unsafe { blocks(s, &transpose, scratch) };
}

/// Products of all kinds, with a scratch and its length.
unsafe fn blocks<S: Simd>(s: S, p: &Product, scratch: (*mut f32, usize)) {
    // SAFETY: as the caller promises.
    unsafe {
        // Half of each vector would be empty.
        if const { <S::Few as Simd>::LANES < S::LANES } && p.c.cols <= <S::Few as Simd>::LANES {
            blocks(s.few(), p, scratch);
        } else if is_small(p.c.rows, p.a.cols, p.c.cols) {
            small::run(s, p);
        } else {
            blocked(s, p, scratch);
        }
    }
}

/// The five loops round [`tiles`]. Not inlined, as [`as_transpose`].
#[inline(never)]
unsafe fn blocked<S: Simd>(s: S, p: &Product, (scratch, len): (*mut f32, usize)) {
    let (m, k, n) = (p.c.rows, p.a.cols, p.c.cols);
    if let Rhs::Strided(b) = p.b
        && const { S::LANES > 1 }
        && few::fit::<S>(len, m, &b)
    {
        // SAFETY: as the caller promises.
        return unsafe { few::run(s, p, b, (scratch, len)) };
    }
    let Some(plan) = Plan::of(k, &p.c, len) else {
        debug_assert!(false, "a scratch that is too short");
        return;
    };
    let b_packed = scratch.wrapping_add(scratch.align_offset(64).min(ALIGN));
    let a_packed = scratch.wrapping_add(plan.a_at);
    let partial = scratch.wrapping_add(plan.partial_at);
    // A single tile of columns reads each element once.
    let once = n <= S::NV * S::LANES;
    let crowded = p.a.row_stride.saturating_mul(size_of::<f32>()).is_multiple_of(CROWDED);
    let in_place =
        p.a.kind == Kind::F32 && (const { S::LANES == 1 } || p.a.col_stride == 1 && (once || !crowded));
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
                let at_once = ms <= plan.mc || ms <= TALL * S::LANES && (in_place || ms <= fit);
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

/// Rows of A, which are floats, as they lie.
#[inline(always)]
pub fn lying_rows(a: &RawMat) -> Rows {
    Rows { ptr: a.at::<f32>(0, 0), row_stride: a.row_stride, col_stride: a.col_stride }
}

/// Rows of A: `as_they_lie`, if they are floats, or side by side at `to`.
///
/// # Safety
/// - `to` is valid for writing `a.rows` rows, `stride` apart.
pub unsafe fn rows_of<S: Simd>(s: S, a: RawMat, as_they_lie: bool, to: *mut f32, stride: usize) -> Rows {
    if as_they_lie && a.kind == Kind::F32 {
        return lying_rows(&a);
    }
    // SAFETY: as the caller promises.
    unsafe { pack(s, a, Grid { dst: to, stride, width: a.cols }) };
    Rows { ptr: to, row_stride: stride, col_stride: 1 }
}
