//! Queries as [`decode`](super::decode) takes them: features in the lanes.

use super::decode::{max_rows, parts, vectors};
use super::panel::Panel;
use super::scratch::Scratch;
use crate::elem::{Kind, by_kind};
use crate::kernel::pack::{Grid, pack};
use crate::kernel::score::chains;
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::view::RawMat;

/// Writes a head's queries, times the scale, part by part: `[head_dim / chains][row][chains]`, zeros where there is no
/// row or no feature.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    if const { max_rows::<S>() == 0 } {
        return;
    }
    // SAFETY: as the caller promises.
    unsafe {
        match chains(panel.p.q.of.head_dim) {
            2 => spread::<S, 2>(s, panel, x),
            _ => spread::<S, 4>(s, panel, x),
        }
    }
}

/// [`load_q`] for `C` chains.
#[inline(never)]
unsafe fn spread<S: Simd, const C: usize>(s: S, panel: &Panel, x: &Scratch) {
    let (p, d, scale) = (panel.p, panel.p.q.of.head_dim, panel.p.scale);
    let steps = d.div_ceil(C);
    for (first, rows) in parts::<S>(panel) {
        let step = vectors::<S>(rows, C) * S::LANES;
        let to = x.q.wrapping_add(first * x.q_stride);
        // SAFETY: as the caller promises. The room for keys holds a row of `head_dim`, in whole steps.
        unsafe {
            if rows * C < step {
                core::slice::from_raw_parts_mut(to, steps * step).fill(0.0);
            }
            if p.q.of.kind == Kind::F32 && d.is_multiple_of(C) {
                let queries = p.addresses::<f32>(&p.q, panel.kv_head, panel.first + first);
                for (r, q) in queries.enumerate().take(rows) {
                    spread_row::<C>(q, steps, scale, (to.wrapping_add(r * C), step));
                }
            } else {
                spread_copies::<S, C>(s, panel, x, (first, rows), (to, step));
            }
        }
    }
}

/// Queries that are not of `f32`, or not of whole steps, by way of a copy.
#[inline(never)]
unsafe fn spread_copies<S: Simd, const C: usize>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    (first, rows): (usize, usize),
    (to, step): (*mut f32, usize),
) {
    let (p, d) = (panel.p, panel.p.q.of.head_dim);
    let width = d.next_multiple_of(C);
    let copy = Grid { dst: x.keys(), stride: width, width };
    // SAFETY: as the caller promises.
    by_kind!(p.q.of.kind, E => unsafe {
        let queries = p.addresses::<E>(&p.q, panel.kv_head, panel.first + first);
        for (r, q) in queries.enumerate().take(rows) {
            let to = to.wrapping_add(r * C);
            pack(s, RawMat::row(q, d), copy);
            spread_row::<C>(copy.dst, width / C, p.scale, (to, step));
            // A scale may be infinite, and zeros times it are none. -0 times the 0 of a key leaves each chain as it is.
            for i in d..width {
                *to.add(i / C * step + i % C) = -0.0;
            }
        }
    });
}

/// The features of a query, times the scale: as many as there are chains to every `step` floats.
#[inline(always)]
unsafe fn spread_row<const C: usize>(
    mut row: *const f32,
    steps: usize,
    scale: f32,
    (mut to, step): (*mut f32, usize),
) {
    for _ in 0..steps {
        // SAFETY: as the caller promises.
        unsafe {
            // All are read before one is written, so that the compiler may take them together.
            let x = row.cast::<[f32; C]>().read();
            unrolled!(I < C => {
                *to.add(I) = x[I] * scale;
            });
        }
        (row, to) = (row.wrapping_add(C), to.wrapping_add(step));
    }
}
