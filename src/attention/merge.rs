//! Partial states: a chunk of keys at a time, on whatever thread, and the merge that gives the output.

use super::call::Call;
use super::partial::{self, CHUNK, STATE};
use super::scratch::{Scratch, width};
use super::{Attention, Keys};
use crate::elem::{Elem, by_kind};
use crate::error::{Error, expect_dim, expect_scratch};
use crate::simd::Simd;
use crate::tier::{Tier, dispatch};
use crate::view::{HeadsMut, HeadsRef, RawHeads};

/// Keys of a partial state: state `c` is that of keys `1,024 c` to `1,024 (c + 1)`.
pub const KEYS_PER_STATE: usize = CHUNK;

/// `f32`s of the partial states of `states` chunks of keys for `rows = batch * n_heads * q_len` rows;
/// `usize::MAX` if that is more than fits. Fewer on targets without vectors, whose states are not merged elsewhere.
pub const fn states_len(states: usize, rows: usize, v_head_dim: usize) -> usize {
    // Rounding up has no room there.
    if v_head_dim > isize::MAX as usize && rows > 0 && states > 0 {
        return usize::MAX;
    }
    STATE.saturating_add(width(v_head_dim)).saturating_mul(rows).saturating_mul(states)
}

impl Attention<'_> {
    /// The partial states of the chunks `chunks` of [`KEYS_PER_STATE`] keys, `[chunk][row][..]`: for each row
    /// the maximum of its scores, the sum of its weights and its weighted values. Chunks may be computed
    /// apart, in any order; [`merge`](Self::merge) then gives the bits of [`run`](Self::run). Sinks are left
    /// to the merge. Chunks behind the last key are states of nothing. Rows are `batch * n_heads * q_len`, those of packed
    /// sequences all of their tokens.
    ///
    /// If the keys are the part `from..` of a longer cache, the mask must be told:
    /// `.causal().offset(kv_len - q_len - from)`, with the whole `kv_len`; masks, biases and rules are then those of that
    /// part, and `from` is a multiple of [`KEYS_PER_STATE`] if the bits are to be those of one call.
    ///
    /// ```
    /// use qkv::{Attention, HeadsMut, HeadsRef, KEYS_PER_STATE, attention_scratch_len, states_len};
    /// const KEYS: usize = 2 * KEYS_PER_STATE;
    /// let (q, k, v) = ([1.0_f32], [0.5_f32; KEYS], [3.0_f32; KEYS]);
    /// let (mut scratch, mut states) = ([0.0; attention_scratch_len(1, KEYS, 1, 1)], [0.0; states_len(2, 1, 1)]);
    /// let (first, second) = states.split_at_mut(states_len(1, 1, 1));
    /// let q = HeadsRef::token_major(&q, 1, 1, 1)?;
    /// let (k, v) = (HeadsRef::token_major(&k, KEYS, 1, 1)?, HeadsRef::token_major(&v, KEYS, 1, 1)?);
    /// Attention::new().partial(q, k, v, 1..2, second, &mut scratch)?;
    /// Attention::new().partial(q, k, v, 0..1, first, &mut scratch)?;
    /// let mut out = [0.0_f32];
    /// Attention::new().merge(&mut states, HeadsMut::token_major(&mut out, 1, 1, 1)?, None)?;
    /// assert_eq!(out, [3.0]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::DimMismatch`] if `states` is not [`states_len`] long.
    pub fn partial<Q: Elem>(
        &self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        chunks: core::ops::Range<usize>,
        states: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let (k, v) = (k.raw(), v.raw());
        let unused = q.raw.of_dim(v.slots.head_dim);
        let call = Call::new(self, &q.raw, k, v, (&unused, true), None)?;
        call.expect_states(chunks.len(), states.len())?;
        // Of no rows there may be any number of chunks.
        if call.of.sequences == 0 {
            return expect_scratch(call.scratch_len(), scratch.len());
        }
        for (place, chunk) in chunks.enumerate() {
            call.chunk(chunk, states.as_mut_ptr(), place).run(self, scratch)?;
        }
        Ok(())
    }

    /// Merges partial states, in their order, into the output and, if asked, the log-sum-exps. They may be
    /// those of several calls over different keys, such as a prefix that sequences share and what follows
    /// it. The states are used up. Of the options only the sinks and the tier count.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] if `states` does not hold whole chunks of the output's rows, if it holds none,
    /// or if the sinks or `lse` do not fit; [`Error::ShapeOverflow`] if rows are more than can be counted.
    pub fn merge<O: Elem>(
        &self,
        states: &mut [f32],
        out: HeadsMut<'_, O>,
        lse: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        let out = out.raw;
        let rows = out.batch.checked_mul(out.len).and_then(|rows| rows.checked_mul(out.n_heads));
        let rows = rows.ok_or(Error::ShapeOverflow)?;
        if let Some(sinks) = self.sinks {
            expect_dim("n_heads (length of the sinks)", out.n_heads, sinks.len())?;
        }
        let lse = match lse {
            None => core::ptr::null_mut(),
            Some(lse) => {
                expect_dim("batch * n_heads * q_len (length of lse)", rows, lse.len())?;
                lse.as_mut_ptr()
            }
        };
        if rows == 0 {
            return Ok(());
        }
        let chunk = states_len(1, rows, out.head_dim);
        let chunks = states.len().checked_div(chunk).unwrap_or(0).max(1);
        expect_dim("states (whole chunks)", chunk.saturating_mul(chunks), states.len())?;
        let tier = self.tier.unwrap_or_else(Tier::detect);
        let all = States { ptr: states.as_mut_ptr(), chunks, rows, out, lse, sinks: self.sinks, tier };
        // SAFETY: the states hold `chunks` chunks of `rows` rows; the sizes have been compared.
        dispatch!(tier, s => unsafe { all.merge(s) });
        Ok(())
    }
}

/// The states of all rows of an output.
struct States<'a> {
    ptr: *mut f32,
    chunks: usize,
    rows: usize,
    out: RawHeads,
    lse: *mut f32,
    sinks: Option<&'a [f32]>,
    tier: Tier,
}

impl States<'_> {
    unsafe fn merge<S: Simd>(&self, s: S) {
        let (width, out) = (width(self.out.head_dim), self.out);
        let size = STATE + width;
        for row in 0..self.rows {
            let (i, head) = (row % out.len, row / out.len % out.n_heads);
            let sequence = out.sequence(row / out.len / out.n_heads);
            let at = |chunk: usize| self.ptr.wrapping_add((chunk * self.rows + row) * size);
            let sink = self.sinks.and_then(|sinks| sinks.get(head).copied());
            let mut factor = 0.0;
            // SAFETY: one of the rows of the states and of the output.
            unsafe {
                for chunk in 1..self.chunks {
                    partial::merge(s, &Scratch::of_states(at(0), at(chunk), width, &raw mut factor), 1);
                }
                let x = Scratch::of_states(at(0), at(0), width, &raw mut factor);
                partial::divide(&x, 0, sink.map_or(1.0, |score| partial::with_sink(self.tier, &x, 0, score)));
                if !self.lse.is_null() {
                    *self.lse.add(row) = partial::log_sum(&x, 0);
                }
                by_kind!(out.kind, E => s.vectorize(
                    #[inline(always)]
                    || partial::scaled_row::<S, E>(s, &x, 0, sequence.head(head).at(i, 0), out.head_dim),
                ));
            }
        }
    }
}
