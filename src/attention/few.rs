//! Weighted values of few rows, where they lie: some keys of all heads before the next keys, so that memory is read
//! in its order.

use super::ahead::{Ahead, Asked, Lines};
use super::block::Block;
use super::mask::bits;
use super::panel::Panel;
use super::scratch::Scratch;
use super::seen;
use super::values::{Run, Strips, add};
use crate::apart::apart;
use crate::elem::{Elem, by_kind};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{
    holds_many, partial_tile, share, side_by_side, tile, tile_while, with_rows, with_vectors, zero,
};
use crate::kernel::unrolled::unrolled;
use crate::simd::Simd;
use crate::view::RawMat;

/// Keys that are taken for all heads before the next keys: more of them load and store chains less often, but from
/// memory are slower. Eight vectors of 32 bytes that lie a power of two apart fill a set of the L1.
const fn at_a_time<S: Simd>() -> usize {
    if S::LANES > 8 { 16 } else { 8 }
}

/// Adds the block's values, weighted.
///
/// # Safety
/// - As `values::apply`.
pub unsafe fn values<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: &Block) {
    let v = &panel.p.v;
    // Heads that lie side by side: all of a few tokens before the next ones, in the order of memory, if a tile takes
    // whole cache lines.
    let in_order = panel.heads > 1 && S::NV * S::LANES * v.kind().size() >= 64;
    let at_a_time = if in_order { at_a_time::<S>() } else { BLOCK };
    let next = match const { S::PREFETCHES } && panel.p.call.v.far() {
        true if in_order => Next::Heads(v.ahead(panel.heads, at_a_time)),
        true if panel.heads == 1 => Next::Keys,
        true => Next::Block,
        false => Next::Nothing,
    };
    let part = Part { x, panel, block: *block, at_a_time, next };
    // SAFETY: as the caller promises.
    unsafe {
        by_kind!(v.kind(), E => strips::<S, E>(s, part));
    }
}

/// What a block of values is weighted with and added to.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: &'a Scratch,
    panel: &'a Panel<'a>,
    block: Block,
    /// Keys that are taken for all columns and heads before the next keys.
    at_a_time: usize,
    next: Next,
}

/// What is asked for meanwhile.
#[derive(Clone, Copy)]
enum Next {
    Nothing,
    /// Values of other heads or of the next keys.
    Heads(Ahead),
    /// The same values of the next block.
    Block,
    /// The next block's keys.
    Keys,
}

/// All rows of all heads.
#[inline(never)]
unsafe fn strips<S: Simd, E: Elem>(s: S, part: Part) {
    let (block, head, k, v) = (part.block, part.panel.kv_head, &part.panel.p.k, &part.panel.p.v);
    let mut found = v.runs(head, block.start, block.keys);
    let (t, run) = found.next().unwrap_or((0, v.run(head, block.start, 0)));
    let (first, row_stride) =
        (Run { t, end: t + run.rows, first: run.at::<E>(0, 0).cast_const() }, run.row_stride);
    let mut more: &[Run<E>] = &[];
    let mut list;
    if block.keys & !bits(first.t, first.end) != 0 {
        list = [first; BLOCK];
        more = listed(&mut list, found);
    }
    s.vectorize(
        #[inline(always)]
        || {
            let strips = Strips::of::<S>(part.x, block, (first, more), row_stride, v.dim());
            let mut from = block.from;
            while from < block.to {
                let to = block.to.min(from + part.at_a_time);
                let (first, more) = between(&strips, from, to);
                for h in 0..part.panel.heads {
                    let asked = match part.next {
                        Next::Nothing => Asked::Nothing,
                        Next::Heads(ahead) => {
                            let (h, t) = ahead.of(h, from);
                            let rows = v.there(head + h, block.start + t, to - from);
                            // What is seen of the next block nobody knows yet.
                            let seen = if t < BLOCK { block.keys >> t } else { u64::MAX };
                            let steps = || (block.keys & bits(from, to)).count_ones() as usize;
                            Asked::rows(s, rows, block.holes.then(|| (seen, steps())))
                        }
                        Next::Block => {
                            Asked::rows(s, v.there(head + h, block.start + from + BLOCK, to - from), None)
                        }
                        Next::Keys => Asked::later(k.there(head + h, block.start + BLOCK, BLOCK), 8),
                    };
                    let shift = h * v.head_stride();
                    let mut head = Head { keys: (from, to), first, more, shift, asked };
                    // SAFETY: as the caller promises.
                    unsafe { rows(s, &strips, &mut head, h * part.panel.lanes, part.panel.rows) };
                }
                from = to;
            }
        },
    );
}

/// The runs that were found, in the list.
#[inline(always)]
fn listed<E: Elem>(
    list: &mut [Run<E>; BLOCK],
    found: impl Iterator<Item = (usize, RawMat)>,
) -> &mut [Run<E>] {
    let mut n = 0;
    for (to, (t, run)) in list.iter_mut().zip(found) {
        *to = Run { t, end: t + run.rows, first: run.at::<E>(0, 0) };
        n += 1;
    }
    list.get_mut(..n).unwrap_or_default()
}

/// Of the runs one that ends behind key `from` and those after it that begin before key `to`, if there are.
#[inline(always)]
fn between<'a, E: Elem>(strips: &Strips<'a, E>, from: usize, to: usize) -> (Run<E>, &'a [Run<E>]) {
    let (mut first, mut more) = (strips.first, strips.more);
    while first.end <= from
        && let Some((&next, rest)) = more.split_first()
    {
        (first, more) = (next, rest);
    }
    let n = more.iter().take_while(|run| run.t < to).count();
    (first, more.get(..n).unwrap_or_default())
}

/// Some keys of one head.
struct Head<'a, E> {
    keys: (usize, usize),
    /// The runs that hold them.
    first: Run<E>,
    more: &'a [Run<E>],
    /// What is added to the runs' addresses.
    shift: usize,
    asked: Asked,
}

impl<E> Head<'_, E> {
    /// The block's first keys: chains start. Else they go on.
    fn open(&self, block: Block) -> bool {
        self.keys.0 == block.from
    }

    /// The block's last keys: chains are added to what there was. Else they are kept.
    fn close(&self, block: Block) -> bool {
        self.keys.1 == block.to
    }
}

/// All rows of a head, which is row `first` and those after it.
#[inline(always)]
unsafe fn rows<S: Simd, E: Elem>(s: S, strips: &Strips<E>, head: &mut Head<E>, first: usize, rows: usize) {
    let (block, mut r) = (strips.block, 0);
    while r < rows {
        let left = rows - r;
        let n = share(left, S::MR);
        // SAFETY: as the caller promises; rows of the panel.
        unsafe {
            let seen = seen::keys_of(strips.x, block, first + r, n);
            let keys = (head.keys.0.max(seen.0), head.keys.1.min(seen.1));
            // What was begun must go on.
            if keys.0 < keys.1 || block.first || !(head.open(block) && head.close(block)) {
                strip(s, strips, head, (first + r, n), keys);
                // Once for all rows.
                if let Asked::Rows(_) = head.asked {
                    head.asked = Asked::Nothing;
                }
            }
        }
        r += n;
    }
}

/// Rows `r..r + n`.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem>(
    s: S,
    strips: &Strips<E>,
    head: &mut Head<E>,
    (r, n): (usize, usize),
    keys: (usize, usize),
) {
    // SAFETY: as the caller promises. Few rows alone have too few chains for the multipliers' latency: they
    // take more columns.
    unsafe {
        let (cols, mut c) = (strips.cols, 0);
        if n == 1 {
            c = wide::<S, E, 1, 8>(s, strips, head, r, keys);
        } else if n == 2 {
            c = wide::<S, E, 2, 4>(s, strips, head, r, keys);
        } else if n == 4 && const { holds_many::<S>() } {
            c = wide::<S, E, 4, 4>(s, strips, head, r, keys);
        }
        with_rows!(S, n, MR => {
            while c < cols {
                // What fills no vector is a tile of its own.
                let vectors = ((cols - c) / S::LANES).clamp(1, S::NV);
                let head = &mut *head;
                with_vectors!(S, vectors, NV => apart!(s => columns::<S, E, MR, NV>(s, strips, head, r, keys, c)));
                c += vectors * S::LANES;
            }
        });
    }
}

/// As many tiles of `NV` vectors as fit; returns the first column that is left.
#[inline(always)]
unsafe fn wide<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    strips: &Strips<E>,
    head: &mut Head<E>,
    r: usize,
    keys: (usize, usize),
) -> usize {
    let mut c = 0;
    while c + NV * S::LANES <= strips.cols {
        let head = &mut *head;
        // SAFETY: as the caller promises.
        apart!(s => unsafe { columns::<S, E, MR, NV>(s, strips, head, r, keys, c) });
        c += NV * S::LANES;
    }
    c
}

/// One tile: `acc = acc f + Σ_t weight(t) v(t)`, or a part of the sum.
#[inline(always)]
unsafe fn columns<S: Simd, E: Elem, const MR: usize, const NV: usize>(
    s: S,
    strips: &Strips<E>,
    head: &mut Head<E>,
    r: usize,
    (from, to): (usize, usize),
    c: usize,
) {
    let (block, x) = (strips.block, strips.x);
    let (begins, ends) = (head.open(block), head.close(block));
    let left = strips.cols - c;
    // Chains that go on lie in the order in which they are used.
    let open = x.values().wrapping_add(r * x.width + c * MR);
    let open = |i: usize, n: usize| open.wrapping_add((i * NV + n) * S::LANES);
    let mut chains = zero::<S, MR, NV>(s);
    // SAFETY: as the caller promises.
    unsafe {
        if !begins {
            unrolled!(I < MR => {
                unrolled!(N < NV => {
                    chains[I][N] = s.load(open(I, N));
                });
            });
        }
        let (mut run, mut more) = (head.first, head.more.iter());
        // Where the columns' lines of a row are asked for.
        let (in_rows, mut lines) = match head.asked {
            Asked::Rows(lines) => (true, lines.from(c * size_of::<E>())),
            _ => (false, Lines::NONE),
        };
        let asks = const { S::PREFETCHES } && (in_rows || matches!(head.asked, Asked::Later(_)));
        loop {
            let t = run.t.max(from);
            // Of a run that ends before, nothing is read.
            let ptr = run
                .first
                .wrapping_add((t - run.t).wrapping_mul(strips.row_stride))
                .wrapping_add(head.shift + c);
            let v = side_by_side(ptr, strips.row_stride);
            let n = run.end.min(to).saturating_sub(t);
            let weights = strips.weights.at(r, t);
            let mut ask = |bytes: usize| {
                if in_rows {
                    lines.row(s, bytes);
                } else if let Asked::Later(later) = &mut head.asked {
                    later.ask(s, bytes);
                }
            };
            chains = if NV == 1 && left < S::LANES {
                let ask = || ask(left * size_of::<E>());
                partial_tile::<S, E, MR, NV>(s, n, weights, (v, left), ask, chains)
            } else if asks {
                let ask = || ask(NV * S::LANES * size_of::<E>());
                tile_while::<S, E, MR, NV>(s, n, weights, v, ask, chains)
            } else {
                tile::<S, E, MR, NV>(s, n, weights, v, chains)
            };
            match more.next() {
                Some(&next) => run = next,
                None => break,
            }
        }
        if ends {
            return add(s, strips, head.shift, (r, c), chains);
        }
        unrolled!(I < MR => {
            unrolled!(N < NV => {
                s.store(open(I, N), chains[I][N]);
            });
        });
    }
}
