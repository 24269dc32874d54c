//! Scores of a few queries, as in a decode step: features in the lanes.
//!
//! Rows would leave most lanes empty. Instead a vector holds two or four features of each of some rows of one
//! key head, and as many features of a key are broadcast against it as they lie in memory. A few keys of all
//! heads are taken before the next keys, so that memory with tokens outermost is read in order. The scores come
//! out as in [`prefill`](super::prefill), rows in the lanes, for all heads together.

use super::ahead::{Ahead, Asked};
use super::block::Block;
use super::panel::Panel;
use super::scratch::Scratch;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{self, Grid};
use crate::kernel::score::{chains, features_in_lanes};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::{Acc, zero};
use crate::simd::{LINE, Simd};
use crate::view::RawMat;

/// Up to this many rows of a head, features are in the lanes: as many as a vector has, none with one lane.
pub const fn max_rows<S: Simd>() -> usize {
    if S::LANES > 1 { S::LANES } else { 0 }
}

/// Lanes that the `rows` rows of a head take among the scores: vectors, of which the last may be half of one.
pub const fn lanes<S: Simd>(rows: usize) -> usize {
    rows.next_multiple_of(if S::LANES > 1 { S::LANES / 2 } else { 1 })
}

/// The panel's rows, as many at a time as fit a vector of lanes: the first one, and how many.
pub fn parts<S: Simd>(panel: &Panel) -> impl Iterator<Item = (usize, usize)> {
    let rows = panel.rows;
    (0..rows).step_by(S::LANES).map(move |r| (r, (rows - r).min(S::LANES)))
}

/// Vectors of `rows` queries, of which each has `chains` features beside each other.
pub const fn vectors<S: Simd>(rows: usize, chains: usize) -> usize {
    (rows * chains).div_ceil(S::LANES)
}

/// Whether a vector of the tier holds four chains of as many rows as two of its vectors for few rows.
const fn is_wide<S: Simd>() -> bool {
    S::LANES > <S::Few as Simd>::LANES
}

/// Scores of the block's keys for the rows of all heads.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(wide: S, panel: &Panel, x: &Scratch, block: &Block) {
    if const { max_rows::<S::Few>() == 0 } {
        return;
    }
    let (s, chains) = (wide.few(), chains(panel.p.k.dim()));
    // Caches hold the keys for the parts that follow.
    let mut asks = const { S::PREFETCHES } && panel.p.call.k.far();
    for (r, rows) in parts::<S::Few>(panel) {
        let at = At {
            q: x.q.wrapping_add(r * x.q_stride),
            scores: x.scores.wrapping_add(r),
            head: panel.lanes * x.q_stride,
            buffer: x.keys(),
        };
        // SAFETY: as the caller promises.
        unsafe {
            by_kind!(panel.p.k.kind(), E => match (chains, vectors::<S::Few>(rows, chains)) {
                // Eight rows that lie a power of two apart would fill a set of the L1. From memory four are
                // read faster than more.
                // What a group has too few keys for is the last one once more.
                (2, 1) if block.to - block.from <= 4 => groups::<S::Few, E, 2, 1, 4, 4>(s, panel, &at, block, asks),
                (2, 1) => groups::<S::Few, E, 2, 1, 7, 8>(s, panel, &at, block, asks),
                (2, _) => groups::<S::Few, E, 2, 2, 4, 4>(s, panel, &at, block, asks),
                (_, 1) => groups::<S::Few, E, 4, 1, 7, 8>(s, panel, &at, block, asks),
                // Two vectors may be one of the tier's own.
                (_, 2) if is_wide::<S>() => groups::<S, E, 4, 1, 7, 8>(wide, panel, &at, block, asks),
                (_, 2) => groups::<S::Few, E, 4, 2, 4, 4>(s, panel, &at, block, asks),
                (_, 3) => groups::<S::Few, E, 4, 3, 3, 3>(s, panel, &at, block, asks),
                _ if is_wide::<S>() => groups::<S, E, 4, 2, 4, 4>(wide, panel, &at, block, asks),
                _ => groups::<S::Few, E, 4, 4, 3, 3>(s, panel, &at, block, asks),
            });
        }
        asks = false;
    }
}

/// Where the rows of a part have their queries and scores, those of the first head.
struct At {
    q: *const f32,
    scores: *mut f32,
    /// From one head's queries to the next one's.
    head: usize,
    /// Room for keys.
    buffer: *mut f32,
}

/// The block's keys for `NQ` vectors of queries with features of `C` chains, `FEW` keys at a time for each head,
/// or `MANY` where that leaves none over.
///
/// Heads that lie side by side are read in order, and the keys behind them asked for. A head that lies alone
/// is read on several pages at a time, which memory answers faster, and what is read next is asked for. A function
/// of its own: the time to compile one grows faster than its length.
#[inline(never)]
unsafe fn groups<S: Simd, E: Elem, const C: usize, const NQ: usize, const FEW: usize, const MANY: usize>(
    s: S,
    panel: &Panel,
    at: &At,
    block: &Block,
    asks: bool,
) {
    s.vectorize(
        #[inline(always)]
        || {
            let (k, v) = (&panel.p.k, &panel.p.v);
            let keys = block.count();
            let places;
            let place = if k.one_run(block) {
                Place::Run(k.run(panel.kv_head, block.start + block.from, keys), block.from)
            } else {
                let keys = k.runs(panel.kv_head, block.start, block.keys);
                let keys = keys
                    .flat_map(|(t, run)| (0..run.rows).map(move |i| (run.at::<E>(i, 0).cast_const(), t + i)));
                let mut each = [(core::ptr::null(), 0); BLOCK];
                for (to, key) in each.iter_mut().zip(keys) {
                    *to = key;
                }
                places = each;
                Place::Each(&places)
            };
            let few = keys / FEW;
            let groups = if keys <= few * MANY { few } else { keys.div_ceil(MANY) };
            let alone = panel.heads == 1;
            let mut next = Asked::Nothing;
            if alone && asks {
                let (rows, step) = match v.dim() {
                    // Only scores are wanted.
                    0 => (k.there(panel.kv_head, block.start + BLOCK, BLOCK), 8),
                    _ => (v.there(panel.kv_head, block.start + block.from, keys), keys.div_ceil(8)),
                };
                next = Asked::later(rows, step);
            }
            let asks = !alone && asks;
            // Groups of `MANY` until `FEW` are enough.
            let many = keys.saturating_sub(groups * FEW);
            let mut done = 0;
            for i in 0..groups {
                let p = if i < many { MANY } else { FEW };
                let which =
                    Which { keys, first: if alone { i } else { done }, step: if alone { groups } else { 1 } };
                let ahead = asks.then(|| (k.ahead(panel.heads, p), block));
                // SAFETY: as the caller promises.
                unsafe {
                    if const { MANY > FEW } && i < many {
                        group::<S, E, C, NQ, MANY>(s, panel, at, &place, which, (ahead, &mut next));
                    } else {
                        group::<S, E, C, NQ, FEW>(s, panel, at, &place, which, (ahead, &mut next));
                    }
                }
                done += p;
            }
        },
    );
}

/// Some of a block's keys, counted among those that some row sees.
#[derive(Clone, Copy)]
struct Which {
    /// How many the block has.
    keys: usize,
    first: usize,
    /// From one of them to the next.
    step: usize,
}

/// `P` of the block's keys, for all heads. Meanwhile what is `ahead` of those from a key on is asked for, or what is `next`.
#[inline(always)]
unsafe fn group<S: Simd, E: Elem, const C: usize, const NQ: usize, const P: usize>(
    s: S,
    panel: &Panel,
    at: &At,
    place: &Place<E>,
    which: Which,
    (ahead, next): (Option<(Ahead, &Block)>, &mut Asked),
) {
    let k = &panel.p.k;
    let mut group =
        Group::<E, P> { place, which, shift: 0, d: k.dim(), q: at.q, buffer: at.buffer, to: at.scores };
    for h in 0..panel.heads {
        if let Some((ahead, block)) = ahead {
            let (h, i) = ahead.of(h, which.first);
            let (t, end, seen) = place.of(block, i, P);
            let rows = k.there(panel.kv_head + h, block.start + t, end - t);
            *next = Asked::rows(s, rows, block.holes.then_some((seen, P)));
        }
        // SAFETY: as the caller promises; keys that some row sees, the lanes of a head that there is.
        unsafe { group.scores::<S, C, NQ>(s, next) };
        group.q = group.q.wrapping_add(at.head);
        group.to = group.to.wrapping_add(panel.lanes);
        group.shift += k.head_stride();
    }
}

/// Where the keys of a block lie that some row sees.
enum Place<'a, E> {
    /// At one stride, and where in the block the first is.
    Run(RawMat, usize),
    /// Address and place in the block of each.
    Each(&'a [(*const E, usize); BLOCK]),
}

impl<E> Place<'_, E> {
    /// Where the `i`-th of the keys lies in the block, where those of `n` end, and which between them are seen as far
    /// as somebody knows.
    #[inline(always)]
    fn of(&self, block: &Block, i: usize, n: usize) -> (usize, usize, u64) {
        match self {
            Place::Run(_, from) => (from + i, from + i + n, u64::MAX),
            Place::Each(places) => {
                let keys = block.count();
                let at = |i: usize| places.get(i).map_or(BLOCK, |key| key.1);
                match i < keys {
                    true => (at(i), at((i + n).min(keys) - 1) + 1, block.keys >> at(i)),
                    false => (BLOCK + i - keys, BLOCK + i - keys + n, u64::MAX),
                }
            }
        }
    }
}

/// Some keys of one head.
struct Group<'a, E, const P: usize> {
    place: &'a Place<'a, E>,
    which: Which,
    /// What is added to the keys' addresses.
    shift: usize,
    d: usize,
    q: *const f32,
    /// Room for `P` keys.
    buffer: *mut f32,
    /// The first key's scores.
    to: *mut f32,
}

impl<E: Elem, const P: usize> Group<'_, E, P> {
    /// Address and place in the block of key `i`. Found anew instead of kept: the compiler keeps such arrays in
    /// the vectors that the chains need.
    #[inline(always)]
    fn key(&self, i: usize) -> (*const E, usize) {
        let key = (self.which.first + i * self.which.step).min(self.which.keys - 1);
        let (first, t) = match self.place {
            Place::Run(run, from) => (run.at::<E>(key, 0).cast_const(), from + key),
            Place::Each(places) => places.get(key).copied().unwrap_or((core::ptr::null(), 0)),
        };
        (first.wrapping_add(self.shift), t)
    }

    /// Scores for the rows of the head; meanwhile what is wanted later is asked for.
    ///
    /// # Safety
    /// - All parts are valid; `q` holds the head's queries.
    #[inline(always)]
    unsafe fn scores<S: Simd, const C: usize, const NQ: usize>(&self, s: S, later: &mut Asked) {
        let mut acc = zero::<S, P, NQ>(s);
        let mut rows = [core::ptr::null::<E>(); P];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.key(i).0;
        }
        // SAFETY: `d` features of each row, also of the copies.
        unsafe {
            // Two 16-bit features at a time would be widened more slowly than they are multiplied; many queries leave
            // no registers for it, and wide vectors take as long to widen four as sixteen.
            if const { !matches!(E::KIND, Kind::F32) && (C == 2 || NQ > P || is_wide::<S>()) } {
                let mut copies = [core::ptr::null::<f32>(); P];
                let mut copied = Grid { dst: self.buffer, stride: self.d, width: self.d };
                for (copy, row) in copies.iter_mut().zip(rows) {
                    pack::copy::<S, E>(s, RawMat::row(row, self.d), copied);
                    *copy = copied.dst;
                    copied.dst = copied.dst.wrapping_add(self.d);
                }
                self.chains::<S, f32, C, NQ>(s, copies, later, &mut acc);
            } else {
                self.chains::<S, E, C, NQ>(s, rows, later, &mut acc);
            }
        }
        if const { is_wide::<S>() && NQ == 1 } {
            let place = |i: usize| self.to.wrapping_add(self.key(i).1 * S::PANEL);
            // No index, which would have a path to a panic.
            let sums = |i: usize| acc.get(i).and_then(|key| key.first()).copied().unwrap_or(s.splat(0.0));
            for j in (0..P).step_by(4) {
                let keys: [usize; 4] = core::array::from_fn(|i| (j + i).min(P - 1));
                // SAFETY: as below.
                unsafe { s.store_quarters(keys.map(place), s.sum_fours(keys.map(sums))) };
            }
            return;
        }
        // Two or four vectors of chains give one of sums: of two keys, or of all rows of one.
        let halves = const { (2 * NQ).div_ceil(C) };
        let chains = |j: usize, i: usize| {
            let v = j % halves * (C / 2) + i;
            if v < NQ { acc[j / halves][v] } else { s.splat(0.0) }
        };
        let place =
            |j: usize| self.to.wrapping_add(self.key(j / halves).1 * S::PANEL + j % halves * (S::LANES / 2));
        for j in (0..P * halves).step_by(2) {
            let next = (j + 1).min(P * halves - 1);
            let sums = match C {
                2 => s.sum_twos(chains(j, 0), chains(next, 0)),
                _ => s.sum_fours([chains(j, 0), chains(j, 1), chains(next, 0), chains(next, 1)]),
            };
            // SAFETY: a head's lanes are inside the scores' rows.
            unsafe { s.store_halves(place(j), place(next), sums) };
        }
    }

    /// The chains of the keys in `rows`; meanwhile what is wanted `later` is asked for.
    ///
    /// # Safety
    /// - Each row is valid for reading `d` features; `q` holds the head's queries, padded to whole steps.
    #[inline(always)]
    unsafe fn chains<S: Simd, K: Elem, const C: usize, const NQ: usize>(
        &self,
        s: S,
        rows: [*const K; P],
        later: &mut Asked,
        acc: &mut Acc<S::V, P, NQ>,
    ) {
        let (steps, q) = (self.d / C, self.q);
        // SAFETY: as the caller promises.
        unsafe {
            // Without asking the loop is a shorter one.
            match later {
                Asked::Rows(lines) if const { S::PREFETCHES } => {
                    let (mut lines, mut step) = (*lines, 0);
                    let ask = || {
                        // A line of each key in so many steps.
                        if step & const { LINE / (C * size_of::<E>()) - 1 } == 0 {
                            lines.column(s, P);
                        }
                        step += 1;
                    };
                    features_in_lanes::<S, K, C, P, NQ>(s, steps, rows, q, ask, acc);
                }
                Asked::Later(later) if const { S::PREFETCHES } => {
                    let ask = || later.ask(s, P * C * size_of::<E>());
                    features_in_lanes::<S, K, C, P, NQ>(s, steps, rows, q, ask, acc);
                }
                _ => features_in_lanes::<S, K, C, P, NQ>(s, steps, rows, q, || {}, acc),
            }
            let left = self.d % C;
            if left > 0 {
                let mut last = [[0.0; C]; P];
                for (last, row) in last.iter_mut().zip(rows) {
                    for (i, feature) in last.iter_mut().enumerate() {
                        // A copy of a length that is not constant would be a call.
                        if i < left {
                            *feature = (*row.add(steps * C + i)).widen();
                        }
                    }
                }
                let (last, q) =
                    (last.each_ref().map(|row| row.as_ptr()), q.wrapping_add(steps * NQ * S::LANES));
                features_in_lanes::<S, f32, C, P, NQ>(s, 1, last, q, || {}, acc);
            }
        }
    }
}
