//! Scores of a few queries, as in a decode step: features in the lanes.
//!
//! Rows would leave most lanes empty. Instead a vector holds two features of each of some rows of one key
//! head, and two features of a key are broadcast against it as they lie in memory. A few keys of all heads
//! are taken before the next keys, so that memory with tokens outermost is read in order. The scores come
//! out as in [`prefill`](super::prefill), rows in the lanes, for all heads together.

use super::keys::Later;
use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::elem::{Elem, Kind, by_kind};
use crate::kernel::pack::{Grid, copy, pack};
use crate::kernel::score::{CHAINS, features_in_lanes};
use crate::kernel::softmax::BLOCK;
use crate::kernel::tile::zero;
use crate::simd::Simd;
use crate::view::RawMat;

/// Up to this many rows of a head, features are in the lanes.
pub const fn max_rows<S: Simd>() -> usize {
    if S::LANES < 2 * CHAINS {
        0
    } else if S::LANES < 8 {
        S::LANES
    } else {
        8
    }
}

/// Rows in a vector.
const fn per_vector<S: Simd>() -> usize {
    S::LANES / CHAINS
}

/// Lanes that the `rows` rows of a head take among the scores: one or two vectors of queries.
pub const fn lanes<S: Simd>(rows: usize) -> usize {
    if rows <= per_vector::<S>() { per_vector::<S>() } else { 2 * per_vector::<S>() }
}

/// Writes a head's queries, times the scale: `[head_dim / 2][row][2]`, zeros where there is no row or no
/// feature.
///
/// # Safety
/// - `x` has room for the panel; the panel's rows are inside Q.
pub unsafe fn load_q<S: Simd>(s: S, panel: &Panel, x: &Scratch) {
    if const { max_rows::<S>() == 0 } {
        return;
    }
    let (p, d, scale) = (panel.p, panel.p.q.head_dim, panel.p.scale);
    let (width, row) = (d.next_multiple_of(CHAINS), x.keys);
    // SAFETY: as the caller promises. The room for keys holds a row of `head_dim`, in whole twos.
    unsafe {
        core::slice::from_raw_parts_mut(x.q, width * panel.lanes).fill(0.0);
        for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
            pack(s, p.q.head(head).block(query, 0, 1, d), Grid { dst: row, stride: width, width });
            let mut to = x.q.wrapping_add(r * CHAINS);
            for two in core::slice::from_raw_parts(row, width).as_chunks::<CHAINS>().0 {
                for (i, feature) in two.iter().enumerate() {
                    *to.add(i) = feature * scale;
                }
                to = to.wrapping_add(panel.lanes * CHAINS);
            }
        }
    }
}

/// Scores of the block's keys for the rows of all heads.
///
/// # Safety
/// - `x` has room for the panel and holds its queries; the block is inside K.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block) {
    if const { max_rows::<S>() == 0 } {
        return;
    }
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises.
            unsafe {
                by_kind!(panel.p.k.kind(), E => {
                    if panel.rows <= per_vector::<S>() {
                        // Eight rows that lie a power of two apart would fill a set of the L1.
                        groups::<S, E, 7, 8, 1>(s, panel, x, block)
                    } else {
                        groups::<S, E, 4, 4, 2>(s, panel, x, block)
                    }
                });
            }
        },
    );
}

/// The block's keys, `FEW` at a time for each head, or `MANY` where that leaves none over.
///
/// Heads that lie side by side are read in order, and the keys behind them asked for. A head that lies alone
/// is read on several pages at a time, which memory answers faster, and what is read next is asked for.
#[inline(always)]
unsafe fn groups<S: Simd, E: Elem, const FEW: usize, const MANY: usize, const NQ: usize>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    block: Block,
) {
    let (k, v) = (&panel.p.k, &panel.p.v);
    let keys = block.keys.count_ones() as usize;
    let mut places = [(core::ptr::null(), 0); BLOCK];
    let place = if k.one_run(block.start, block.keys) {
        Place::Run(k.run(panel.kv_head, block.start + block.from, keys))
    } else {
        let keys = k.runs(panel.kv_head, block.start, block.keys);
        let keys =
            keys.flat_map(|(t, run)| (0..run.rows).map(move |i| (run.at::<E>(i, 0).cast_const(), t + i)));
        for (to, key) in places.iter_mut().zip(keys) {
            *to = key;
        }
        Place::Each(&places)
    };
    let few = keys / FEW;
    let groups = if keys <= few * MANY { few } else { keys.div_ceil(MANY) };
    let (alone, far) = (panel.heads == 1, k.far());
    let mut next = None;
    if alone && far {
        next = match v.dim() {
            // Only scores are wanted.
            0 => k.later(panel.kv_head, block.start + BLOCK, BLOCK, 8),
            _ => v.later(panel.kv_head, block.start + block.from, keys, keys.div_ceil(8)),
        };
    }
    let ahead = (!alone && far).then(|| k.ahead(panel.heads));
    // Groups of `MANY` until `FEW` are enough.
    let many = keys.saturating_sub(groups * FEW);
    let mut at = 0;
    for i in 0..groups {
        let p = if i < many { MANY } else { FEW };
        let which = Which { keys, first: if alone { i } else { at }, step: if alone { groups } else { 1 } };
        let ahead = ahead.map(|ahead| block.start + block.from + at + ahead);
        // SAFETY: as the caller promises.
        unsafe {
            if i < many {
                group::<S, E, MANY, NQ>(s, panel, x, &place, block, which, (ahead, &mut next));
            } else {
                group::<S, E, FEW, NQ>(s, panel, x, &place, block, which, (ahead, &mut next));
            }
        }
        at += p;
    }
}

/// Some of a block's `keys`.
#[derive(Clone, Copy)]
struct Which {
    keys: usize,
    first: usize,
    step: usize,
}

/// `P` of the block's keys, for all heads. Meanwhile the keys from `ahead` on are asked for, or what is `next`.
#[inline(always)]
unsafe fn group<S: Simd, E: Elem, const P: usize, const NQ: usize>(
    s: S,
    panel: &Panel,
    x: &Scratch,
    k: &Place<E>,
    block: Block,
    which: Which,
    (ahead, next): (Option<usize>, &mut Option<Later>),
) {
    let (rows, d) = ([core::ptr::null(); P], panel.p.k.dim());
    let mut group = Group { rows, to: [x.scores; P], buffer: x.keys, d };
    for (i, (row, to)) in group.rows.iter_mut().zip(&mut group.to).enumerate() {
        let key = (which.first + i * which.step).min(which.keys - 1);
        let t = match k {
            Place::Run(run) => {
                *row = run.at::<E>(key, 0).cast_const();
                block.from + key
            }
            Place::Each(places) => {
                let (place, t) = places.get(key).copied().unwrap_or((*row, 0));
                *row = place;
                t
            }
        };
        *to = to.wrapping_add(t * S::PANEL);
    }
    let mut q = x.q.cast_const();
    for h in 0..panel.heads {
        if let Some(t) = ahead {
            *next = panel.p.k.later(panel.kv_head + h, t, P, 1);
        }
        // SAFETY: as the caller promises; keys that some row sees, the lanes of a head that there is.
        unsafe { group.scores::<S, NQ>(s, q, next) };
        q = q.wrapping_add(panel.lanes * x.q_stride);
        group.rows = group.rows.map(|row| row.wrapping_add(panel.p.k.head_stride()));
        group.to = group.to.map(|to| to.wrapping_add(panel.lanes));
    }
}

/// Where the keys of a block lie that some row sees.
enum Place<'a, E> {
    Run(RawMat),
    /// Address and place in the block of each.
    Each(&'a [(*const E, usize); BLOCK]),
}

/// Some keys of one head.
struct Group<E, const P: usize> {
    rows: [*const E; P],
    /// Where each key's scores go.
    to: [*mut f32; P],
    /// Room for `P` keys.
    buffer: *mut f32,
    d: usize,
}

impl<E: Elem, const P: usize> Group<E, P> {
    /// Scores for the rows of the head; meanwhile what is wanted later is asked for.
    ///
    /// # Safety
    /// - All parts are valid; `q` holds the head's queries.
    #[inline(always)]
    unsafe fn scores<S: Simd, const NQ: usize>(&self, s: S, q: *const f32, later: &mut Option<Later>) {
        let (d, twos) = (self.d, self.d / CHAINS);
        let mut rows = self.rows.map(<*const E>::cast::<f32>);
        let mut acc = zero::<S, P, NQ>(s);
        // SAFETY: `d` features of each row; queries are padded to whole twos.
        unsafe {
            if E::KIND != Kind::F32 {
                let mut to = Grid { dst: self.buffer, stride: d, width: d };
                for (row, &from) in rows.iter_mut().zip(&self.rows) {
                    copy::<S, E>(s, RawMat::row(from, d), to);
                    *row = to.dst;
                    to.dst = to.dst.wrapping_add(d);
                }
            }
            // Without asking the loop is a shorter one.
            match later {
                Some(later) => {
                    let ask = || later.ask(s, P * CHAINS * size_of::<E>());
                    features_in_lanes(s, twos, rows, q, ask, &mut acc);
                }
                None => features_in_lanes(s, twos, rows, q, || {}, &mut acc),
            }
            if d % CHAINS > 0 {
                let last = rows.map(|row| [*row.add(twos * CHAINS), 0.0]);
                let last = last.each_ref().map(|two| two.as_ptr());
                features_in_lanes(s, 1, last, q.wrapping_add(twos * NQ * S::LANES), || {}, &mut acc);
            }
        }
        // Two vectors of chains give one of sums: of two keys, or of all rows of one.
        let half = per_vector::<S>();
        let to: [[*mut f32; NQ]; P] = self.to.map(
            #[inline(always)]
            |to| core::array::from_fn(|v| to.wrapping_add(v * half)),
        );
        let (chains, one) = acc.as_flattened().as_chunks::<2>();
        let (halves, last) = to.as_flattened().as_chunks::<2>();
        // SAFETY: a head's lanes are inside the scores' rows.
        unsafe {
            for (&[a, b], &[low, high]) in chains.iter().zip(halves) {
                s.store_halves(low, high, s.sum_twos(a, b));
            }
            for (&a, &to) in one.iter().zip(last) {
                s.store_halves(to, to, s.sum_twos(a, a));
            }
        }
    }
}
