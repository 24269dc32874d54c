//! The weights and scores themselves, for whoever wants to look at them: a first pass over the keys for the
//! maximum and sum of each row, as in [`panel`](super::panel), and a second one that writes.

use super::call::{Call, Problem};
use super::panel::Run;
use super::{Attention, Keys, adjust, decode, seen};
use crate::elem::{Elem, Kind, by_kind, store_up_to};
use crate::error::{Error, expect_scratch};
use crate::kernel::exp::exp_weight;
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};
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
    /// After the softmax: what the values are weighted with. 0 where the query does not see the key.
    Weights,
}

const NAMES: [&str; 4] =
    ["batch of the scores", "heads of the scores", "queries of the scores", "kv_len of the scores"];

impl Attention<'_> {
    /// The attention weights: `softmax(scale·Q Kᵀ)`, `[batch, n_heads, q_len, kv_len]`.
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
    /// [`Error::DimMismatch`], or [`Error::ScratchTooShort`] with less than
    /// [`attention_scratch_len`](super::attention_scratch_len) `f32`s, where `v_head_dim` may be 0.
    pub fn weights<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        out: TensorMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let (heads, queries) = (0..q.n_heads(), 0..q.len());
        self.scores(q, k, Scores::Weights, heads, queries, out, scratch)
    }

    /// Scores of some query heads and queries: `[batch, heads, queries, kv_len]`. Where a sequence has fewer
    /// keys ([`kv_lens`](Self::kv_lens)), what is behind them is as if it were not seen, and 0 for
    /// [`Raw`](Scores::Raw) and [`Capped`](Scores::Capped). Sequences may not be packed.
    ///
    /// # Errors
    /// As [`weights`](Self::weights); [`Error::DimMismatch`] also for heads or queries that do not exist and
    /// for packed sequences.
    #[expect(clippy::too_many_arguments, reason = "inputs, which of them, output, scratch")]
    pub fn scores<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        which: Scores,
        heads: Range<usize>,
        queries: Range<usize>,
        out: TensorMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let plain =
            Attention { scale: self.scale, kv_lens: self.kv_lens, tier: self.tier, ..Attention::new() };
        let options = match which {
            Scores::Raw => plain,
            Scores::Capped => Attention { softcap: self.softcap, ..plain },
            Scores::Masked | Scores::Weights => self,
        };
        let k = k.raw();
        let call = Call::new(options, q.raw, k, k.without_features(), None, None)?;
        let packed = self.q_offsets.or(self.kv_offsets).map_or(0, <[usize]>::len);
        for (dim, most, got) in [
            ("packed sequences", 0, packed),
            ("heads (at most)", q.n_heads(), heads.end),
            ("queries (at most)", q.len(), queries.end),
        ] {
            if got > most {
                return Err(Error::DimMismatch { dim, expected: most, got });
            }
        }
        out.raw.expect(NAMES, [q.batch(), heads.len(), queries.len(), k.len], false)?;
        expect_scratch(call.scratch_len(), scratch.len())?;
        if heads.is_empty() || queries.is_empty() || k.len == 0 {
            return Ok(());
        }
        let wanted = Wanted { which, heads, queries, keys: k.len, out: out.raw, kind: O::KIND };
        for b in 0..call.sequences {
            if let Some(problem) = call.sequence(b) {
                let (tier, scratch) = (self.tier.unwrap_or_else(Tier::detect), scratch.as_mut_ptr());
                // SAFETY: all sizes have been compared; the scratch is long enough.
                dispatch!(tier, s => unsafe { wanted.write(s, &problem, scratch) });
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

impl Wanted {
    unsafe fn write<S: Simd>(&self, s: S, p: &Problem, scratch: *mut f32) {
        let kv_heads = self.heads.start / p.group..(self.heads.end - 1) / p.group + 1;
        let group = p.group.get();
        let (first, end) = (self.queries.start * group, self.queries.end * group);
        let in_lanes = end - first > decode::max_rows::<S::Few>();
        for kv_head in kv_heads {
            for first in (first..end).step_by(S::PANEL) {
                let rows = (end - first).min(S::PANEL);
                // SAFETY: as the caller promises.
                unsafe {
                    let mut run = Run::alone(s, p, (kv_head, first, rows), in_lanes, scratch);
                    run.open(s);
                    if self.which == Scores::Weights {
                        for start in (0..p.k.len).step_by(BLOCK) {
                            if let Some(block) = run.look(s, start) {
                                run.block(s, block);
                            }
                        }
                        run.close(s);
                    }
                    for start in (0..self.keys).step_by(BLOCK) {
                        self.block(s, &run, start);
                    }
                }
            }
        }
    }

    /// The panel's scores of a block of keys.
    unsafe fn block<S: Simd>(&self, s: S, run: &Run, start: usize) {
        let (panel, x) = (&run.panel, &run.x);
        let keys = (self.keys - start).min(BLOCK);
        // SAFETY: as the caller promises.
        unsafe {
            let block = run.look(s, start);
            if let Some(block) = block {
                run.scores(s, block);
                adjust::scores(s, panel, x, block);
            }
            let seen_keys = block.map_or((0, 0), |block| (block.from, block.to));
            let partial = block.is_some_and(|block| block.partial);
            s.vectorize(
                #[inline(always)]
                || {
                    for lane in (0..panel.all_lanes::<S>()).step_by(S::LANES) {
                        let (mut from, mut to) = (s.splat(seen_keys.0 as f32), s.splat(seen_keys.1 as f32));
                        if partial {
                            (from, to) = (s.load(x.from.add(lane)), s.load(x.to.add(lane)));
                        }
                        if block.is_some_and(|block| block.holes) {
                            seen::hide(s, x, lane, seen_keys, s.splat(0.0));
                        }
                        let (m, inverse) = (s.load(x.total_m.add(lane)), s.load(x.factor.add(lane)));
                        for t in 0..keys {
                            let at = x.scores.add(t * S::PANEL + lane);
                            let (key, none) = (s.splat(t as f32), s.splat(f32::NEG_INFINITY));
                            let score = s.select_gt(to, key, s.select_gt(from, key, none, s.load(at)), none);
                            let number = match self.which {
                                Scores::Weights => s.mul(exp_weight(s, s.sub(score, m)), inverse),
                                Scores::Masked => score,
                                // Only keys that do not exist are not seen here.
                                Scores::Raw | Scores::Capped => s.select_gt(to, key, score, s.splat(0.0)),
                            };
                            s.store(at, number);
                        }
                    }
                },
            );
            by_kind!(self.kind, E => self.store::<S, E>(s, run, start, keys));
        }
    }

    /// Turns the block: rows lie in the lanes.
    unsafe fn store<S: Simd, E: Elem>(&self, s: S, run: &Run, start: usize, keys: usize) {
        let (panel, x) = (&run.panel, &run.x);
        s.vectorize(
            #[inline(always)]
            || {
                let mut rows = panel.p.rows(panel.kv_head, panel.first).take(panel.rows);
                for lane in (0..panel.rows).step_by(4) {
                    let to = [(); 4].map(|()| {
                        let (query, head) = rows.next()?;
                        let wanted = self.queries.contains(&query) && self.heads.contains(&head);
                        let (h, i) =
                            (head.wrapping_sub(self.heads.start), query.wrapping_sub(self.queries.start));
                        wanted.then(|| self.out.at::<E>(panel.p.b, h, i, start))
                    });
                    for t in (0..keys).step_by(S::LANES) {
                        // SAFETY: the block has room for whole vectors of keys, and 4 lanes from `lane` on.
                        let columns = unsafe { s.load_columns(x.scores.add(t * S::PANEL + lane), S::PANEL) };
                        for (to, &column) in to.iter().zip(&columns) {
                            if let Some(to) = to {
                                // SAFETY: keys of the row.
                                unsafe { store_up_to(s, to.add(t), keys - t, column) };
                            }
                        }
                    }
                }
            },
        );
    }
}
