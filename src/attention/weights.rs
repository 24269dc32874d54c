//! The weights and scores themselves, for whoever wants to look at them.
//!
//! ```text
//! f32:      scores to the output on their way through the softmax, then each row weighted in place
//! 16 bits:  maxima and sums, as of a call without values; then all scores once more, as weights
//! ```

use super::block::Block;
use super::call::{Call, Problem};
use super::keys::RawKeys;
use super::panel::{Panel, Walk};
use super::scratch::{MAX_PANEL, Scratch};
use super::together::{self, Walks};
use super::{Attention, Keys, lone, seen};
use crate::elem::{Elem, Kind, by_kind, load_up_to, store_up_to};
use crate::error::{Error, expect_most, expect_scratch};
use crate::kernel::exp::{exp_weight, exp_weights};
use crate::kernel::softmax::{self, BLOCK};
use crate::simd::{INDICES, Simd};
use crate::tier::dispatch;
use crate::view::{HeadsRef, RawTensor, TensorMut};
use core::ops::Range;

/// Which numbers [`Attention::scores`] writes for each query and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// `scale q·k`, whether the query sees the key or not.
    Raw,
    /// The same after the softcap.
    Capped,
    /// As the softmax takes them: after biases and rules, minus infinity where the query does not see the
    /// key.
    Masked,
    /// After the softmax: what the values are weighted with. 0 where the query does not see the key, or NaN
    /// for all of a row that sees a NaN.
    Weights,
}

const NAMES: [&str; 4] =
    ["batch of the scores", "heads of the scores", "queries of the scores", "kv_len of the scores"];

impl Attention<'_> {
    /// The attention weights: `softmax(scale·Q Kᵀ)`, `[batch, n_heads, q_len, kv_len]`. K is read once for an
    /// `f32` output, and twice for one of 16 bits, which cannot hold the scores meanwhile.
    ///
    /// ```
    /// use qkv::{Attention, HeadsRef, TensorMut, attention_scratch_len};
    /// // One query and two keys; the second scores ln 3 more.
    /// let (q, k) = ([1.0_f32], [0.0_f32, 1.098_612_3]);
    /// let (mut weights, mut scratch) = ([0.0_f32; 2], [0.0; attention_scratch_len(1, 2, 1, 0)]);
    /// Attention::new().weights(
    ///     HeadsRef::token_major(&q, 1, 1, 1)?,
    ///     HeadsRef::token_major(&k, 2, 1, 1)?,
    ///     TensorMut::new(&mut weights, [1, 1, 1, 2])?,
    ///     &mut scratch,
    /// )?;
    /// assert!((weights[1] - 0.75).abs() < 1e-6);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), where the scratch is for a `v_head_dim` of 0, and [`Error::NotForPacked`] for packed sequences.
    pub fn weights<Q: Elem, O: Elem>(
        &self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        out: TensorMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let all = (0..q.n_heads(), 0..q.len());
        self.scores(q, k, Scores::Weights, all, out, scratch)
    }

    /// Scores of some query heads and some queries: `[batch, heads, queries, kv_len]`. Where a sequence has fewer
    /// keys ([`kv_lens`](Self::kv_lens)), what is behind them is as if it were not seen, and 0 for
    /// [`Raw`](Scores::Raw) and [`Capped`](Scores::Capped). Sequences may not be packed.
    ///
    /// # Errors
    /// As [`weights`](Self::weights); [`Error::TooLarge`] for heads or queries that do not exist,
    /// [`Error::NotForPacked`] for packed sequences.
    pub fn scores<Q: Elem, O: Elem>(
        &self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        which: Scores,
        (heads, queries): (Range<usize>, Range<usize>),
        out: TensorMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let plain = Attention { scale: self.scale, tier: self.tier, ..Attention::new() };
        let plain = self.kv_lens.map_or(plain, |lens| plain.kv_lens(lens));
        let options = match which {
            Scores::Raw => plain,
            Scores::Capped => self.softcap.map_or(plain, |cap| plain.softcap(cap)),
            Scores::Masked | Scores::Weights => *self,
        };
        let k = k.raw();
        let (no_features, unused) = (k.slots.of_dim(0), q.raw.of_dim(0));
        let v = RawKeys { slots: &no_features, ..k };
        if self.code.packed.is_some() {
            return Err(Error::NotForPacked { what: "scores or weights" });
        }
        let call = Call::new(&options, &q.raw, k, v, (&unused, true), None)?;
        expect_most("end of the heads", q.n_heads(), heads.end)?;
        expect_most("end of the queries", q.len(), queries.end)?;
        out.raw.check_sizes(NAMES, [q.batch(), heads.len(), queries.len(), k.of.len])?;
        expect_scratch(call.scratch_len(), scratch.len())?;
        if heads.is_empty() || queries.is_empty() || k.of.len == 0 {
            return Ok(());
        }
        let wanted = Wanted { which, heads, queries, keys: k.of.len, out: out.raw, kind: O::KIND };
        for b in 0..call.of.sequences {
            if let Some(problem) = call.sequence(&options, b) {
                let scratch = scratch.as_mut_ptr();
                // SAFETY: all sizes have been compared; the scratch is long enough.
                dispatch!(problem.tier, s => unsafe { wanted.write(s, &problem, scratch) });
            }
        }
        Ok(())
    }
}

/// What is to be written.
struct Wanted {
    which: Scores,
    heads: Range<usize>,
    queries: Range<usize>,
    keys: usize,
    out: RawTensor,
    kind: Kind,
}

/// Where each row of a panel goes, or null where it is not wanted or there is none.
type Rows = [*mut u8; MAX_PANEL];

impl Wanted {
    unsafe fn write<S: Simd>(&self, s: S, p: &Problem, scratch: *mut f32) {
        let group = p.group.get();
        let rows = self.queries.start * group..self.queries.end * group;
        let (mut kv_head, end) = (self.heads.start / p.group, (self.heads.end - 1) / p.group + 1);
        while kv_head < end {
            let heads = together::most_heads(s, p, rows.len()).min(end - kv_head);
            // SAFETY: as the caller promises; heads and rows that there are.
            unsafe {
                together::each(s, p, (kv_head, heads), rows.clone(), scratch, |walks, seen| {
                    self.panels(s, walks, seen);
                });
            }
            kv_head += heads;
        }
    }

    /// The rows of some panels, which see keys from `seen.0` to `seen.1`.
    unsafe fn panels<S: Simd>(&self, s: S, walks: &mut Walks, seen: (usize, usize)) {
        let to = walks.each_ref().map(|walk| walk.as_ref().map(|walk| self.rows(&walk.panel)));
        let in_place = self.in_place();
        let blocks = if in_place { together::first_block(seen)..seen.1 } else { 0..self.keys };
        // SAFETY: as the caller promises.
        unsafe {
            if self.second_pass() {
                together::walk(s, walks, seen);
            } else {
                together::open(s, walks);
            }
            for start in blocks.step_by(BLOCK) {
                let mut rows = to.iter().flatten();
                together::each_block(s, walks, start, |walk, block| {
                    let Some(to) = rows.next() else { return };
                    let Some(block) = block else {
                        by_kind!(self.kind, E => self.unseen::<E>(walk, to, start));
                        return;
                    };
                    if in_place {
                        walk.enter(s, block);
                    }
                    walk.scores(s, block);
                    if block.holes {
                        seen::hide_all(s, &walk.panel, &walk.x, *block);
                    }
                    by_kind!(self.kind, E => self.block::<S, E>(s, walk, to, *block));
                    if in_place {
                        walk.weigh(s, block);
                    }
                });
            }
            if in_place {
                for (walk, to) in walks.iter_mut().zip(&to) {
                    let (Some(walk), Some(to)) = (walk, to) else { continue };
                    walk.close(s);
                    self.turn_into_weights(s, walk, to);
                }
            }
        }
    }

    /// Whether scores lie in the output until they become weights.
    fn in_place(&self) -> bool {
        self.which == Scores::Weights && self.kind == Kind::F32
    }

    /// Whether scores are computed once more to be written as weights: rounded to 16 bits they are of no use.
    fn second_pass(&self) -> bool {
        self.which == Scores::Weights && self.kind != Kind::F32
    }

    /// Where the panel's rows go.
    fn rows(&self, panel: &Panel) -> Rows {
        let mut to = [core::ptr::null_mut(); MAX_PANEL];
        for h in 0..panel.heads {
            let lanes = to.iter_mut().skip(h * panel.lanes).take(panel.rows);
            for (to, (query, head)) in lanes.zip(panel.p.rows(panel.kv_head + h, panel.first)) {
                if self.heads.contains(&head) {
                    let (h, i) = (head - self.heads.start, query.wrapping_sub(self.queries.start));
                    *to = by_kind!(self.kind, E => self.out.at::<E>(panel.p.b, h, i, 0).cast());
                }
            }
        }
        to
    }

    /// What a score is that its row does not see.
    fn none(&self) -> f32 {
        match self.which {
            // Only keys that do not exist.
            Scores::Raw | Scores::Capped => 0.0,
            Scores::Masked | Scores::Weights => f32::NEG_INFINITY,
        }
    }

    /// Writes a block that no row sees.
    unsafe fn unseen<E: Elem>(&self, walk: &Walk, to: &Rows, start: usize) {
        let keys = (self.keys - start).min(BLOCK);
        for (lane, row) in to.iter().enumerate().filter(|(_, row)| !row.is_null()) {
            // SAFETY: keys of a row that is wanted, a lane of the panel.
            unsafe {
                let number = if self.second_pass() { unseen_weight(&walk.x, lane) } else { self.none() };
                core::slice::from_raw_parts_mut(row.cast::<E>().add(start), keys).fill(E::narrow(number));
            }
        }
    }

    /// Writes a block's scores, or weights, turned: rows lie in the lanes.
    #[inline(never)]
    unsafe fn block<S: Simd, E: Elem>(&self, s: S, walk: &Walk, to: &Rows, block: Block) {
        let (panel, x) = (&walk.panel, &walk.x);
        let keys = (self.keys - block.start).min(BLOCK);
        let weights = self.second_pass();
        let all_seen = !block.partial && block.from == 0 && block.to >= keys;
        s.vectorize(
            #[inline(always)]
            || {
                let lanes = (0..panel.all_lanes::<S>()).step_by(4);
                for (lane, to) in lanes.zip(to.as_chunks::<4>().0) {
                    for t in (0..keys).step_by(S::LANES) {
                        // SAFETY: the scores have room for whole vectors of keys and for fours of lanes.
                        let columns = unsafe { s.load_columns(x.scores.add(t * S::PANEL + lane), S::PANEL) };
                        for (lane, (&row, &column)) in (lane..).zip(to.iter().zip(&columns)) {
                            if row.is_null() {
                                continue;
                            }
                            // SAFETY: keys of a row that is wanted, a lane of the panel.
                            unsafe {
                                let mut number = column;
                                if !all_seen {
                                    number = self.seen(s, walk, block, (lane, t), number);
                                }
                                if weights {
                                    let (m, inverse) =
                                        (s.splat(*x.total_m().add(lane)), s.splat(inverse(x, lane)));
                                    number = s.mul(exp_weight(s, s.sub(number, m)), inverse);
                                }
                                let at = row.cast::<E>().wrapping_add(block.start + t);
                                // The next block's. Rows apart by pages are not guessed.
                                s.prefetch(at.wrapping_add(BLOCK + S::LANES - 1));
                                store_up_to(s, at, keys - t, number);
                            }
                        }
                    }
                }
            },
        );
    }

    /// The scores of a vector of keys from `t` on where the row sees them.
    #[inline(always)]
    unsafe fn seen<S: Simd>(
        &self,
        s: S,
        walk: &Walk,
        block: Block,
        (lane, t): (usize, usize),
        scores: S::V,
    ) -> S::V {
        // SAFETY: as the caller promises.
        unsafe {
            let (mut from, mut to) = (block.from as f32, block.to as f32);
            if block.partial {
                (from, to) = if const { S::LANES == 1 } {
                    let (from, to) = lone::keys_of(&walk.panel, &walk.x, &block, lane);
                    (from as f32, to as f32)
                } else {
                    (*walk.x.from().add(lane), *walk.x.to().add(lane))
                };
            }
            let (keys, none) = (s.add(s.load(INDICES.as_ptr()), s.splat(t as f32)), s.splat(self.none()));
            s.select_gt(s.splat(to), keys, s.select_gt(s.splat(from), keys, none, scores), none)
        }
    }

    /// Turns the rows' scores in the output into weights.
    #[inline(never)]
    unsafe fn turn_into_weights<S: Simd>(&self, s: S, walk: &Walk, to: &Rows) {
        let (panel, x) = (&walk.panel, &walk.x);
        s.vectorize(
            #[inline(always)]
            || {
                for (h, r) in (0..panel.heads).flat_map(|h| (0..panel.rows).map(move |r| (h, r))) {
                    let lane = h * panel.lanes + r;
                    let Some(&row) = to.get(lane).filter(|row| !row.is_null()) else { continue };
                    let (row, seen) = (row.cast::<f32>(), panel.seen(r));
                    let end = seen.end.min(self.keys);
                    let start = seen.start.min(end);
                    // SAFETY: keys of a row that is wanted, a lane of the panel.
                    unsafe {
                        let unseen = unseen_weight(x, lane);
                        core::slice::from_raw_parts_mut(row, start).fill(unseen);
                        core::slice::from_raw_parts_mut(row.add(end), self.keys - end).fill(unseen);
                        let (m, inverse) = (s.splat(*x.total_m().add(lane)), s.splat(inverse(x, lane)));
                        let scores = core::slice::from_raw_parts_mut(row.add(start), end - start);
                        weights_of(s, scores, m, inverse);
                    }
                }
            },
        );
    }
}

/// What a key weighs that its row does not see: 0, or NaN as all of the row if it sees one.
unsafe fn unseen_weight(x: &Scratch, lane: usize) -> f32 {
    // SAFETY: as the caller promises.
    0.0 * unsafe { inverse(x, lane) }
}

/// What exponentials over the total's maximum are multiplied by. The row's factor is for its values, which a sink above
/// all scores shrinks.
#[inline(always)]
unsafe fn inverse(x: &Scratch, lane: usize) -> f32 {
    // SAFETY: as the caller promises.
    softmax::inverse(unsafe { *x.total_l().add(lane) })
}

/// Replaces a row's scores with their weights.
#[inline(always)]
fn weights_of<S: Simd>(s: S, scores: &mut [f32], m: S::V, inverse: S::V) {
    let (n, scores) = (scores.len(), scores.as_mut_ptr());
    let mut t = 0;
    // SAFETY: inside the `n` floats.
    unsafe {
        while t + 4 * S::LANES <= n {
            let at = |i: usize| scores.wrapping_add(t + i * S::LANES);
            let x = core::array::from_fn::<_, 4, _>(
                #[inline(always)]
                |i| s.sub(s.load(at(i)), m),
            );
            for (i, &weight) in exp_weights(s, x).iter().enumerate() {
                s.store(at(i), s.mul(weight, inverse));
            }
            t += 4 * S::LANES;
        }
        while t < n {
            let x = s.sub(load_up_to(s, scores.wrapping_add(t).cast_const(), n - t), m);
            store_up_to(s, scores.wrapping_add(t), n - t, s.mul(exp_weight(s, x), inverse));
            t += S::LANES;
        }
    }
}
