//! A call in slices of time: some tiles of work, then back to the caller.

use super::call::{Call, Kept, Problem};
use super::panel::SoFar;
use super::partial::{self, LogSum};
use super::scratch::MAX_PANELS;
use super::together;
use super::{Attention, Keys};
use crate::elem::Elem;
use crate::error::{Error, expect_scratch};
use crate::kernel::softmax::BLOCK;
use crate::simd::Simd;
use crate::tier::dispatch;
use crate::view::{HeadsMut, HeadsRef};

/// A checked call that is computed a few tiles at a time, for schedulers and watchdogs that want the processor
/// back: see [`Attention::steps`].
///
/// It borrows the operands and the scratch: keep it in one function, or in an `async` task. What is under way lies in the scratch. Rows whose last tile has been taken are in the output; the others
/// hold what they held. Dropping it leaves the call unfinished.
#[must_use = "nothing is computed until `step`"]
pub struct Steps<'a> {
    options: Attention<'a>,
    call: Kept,
    scratch: &'a mut [f32],
    at: Place,
}

// SAFETY: inputs are only read; outputs and scratch are exclusive borrows.
unsafe impl Send for Steps<'_> {}

/// How far a call is.
#[derive(Clone, Copy)]
struct Place {
    /// The sequence, its key head, and the first row of the panels that are next or under way.
    b: usize,
    kv_head: usize,
    first: usize,
    /// Of the panels under way, where the next block of keys begins and how far each of them is.
    under_way: Option<(usize, [SoFar; MAX_PANELS])>,
}

impl<'a> Attention<'a> {
    /// [`run`](Self::run), or [`run_with_lse`](Self::run_with_lse), a few tiles at a time: the bits are those of
    /// one call, however many tiles a step takes. All checks are here; a step cannot fail.
    ///
    /// ```
    /// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
    /// const KEYS: usize = 200;
    /// let (q, k, v) = ([1.0_f32], [0.5_f32; KEYS], [3.0_f32; KEYS]);
    /// let (mut out, mut scratch) = ([0.0_f32], [0.0; attention_scratch_len(1, KEYS, 1, 1)]);
    /// let q = HeadsRef::token_major(&q, 1, 1, 1)?;
    /// let (k, v) = (HeadsRef::token_major(&k, KEYS, 1, 1)?, HeadsRef::token_major(&v, KEYS, 1, 1)?);
    /// let place = HeadsMut::token_major(&mut out, 1, 1, 1)?;
    /// let mut steps = Attention::new().steps(q, k, v, place, None, &mut scratch)?;
    /// let mut fed = 0;
    /// while steps.step(1) {
    ///     fed += 1; // Feed the watchdog, let others run.
    /// }
    /// // Tiles of 64 keys: four of them, with three pauses between.
    /// assert_eq!((fed, out), (3, [3.0]));
    /// # Ok::<(), qkv::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run_with_lse`](Self::run_with_lse).
    pub fn steps<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'a, Q>,
        k: impl Keys + 'a,
        v: impl Keys + 'a,
        out: HeadsMut<'a, O>,
        lse: Option<&'a mut [f32]>,
        scratch: &'a mut [f32],
    ) -> Result<Steps<'a>, Error> {
        let lse = lse.map(|lse| (lse, partial::log_sum as LogSum));
        let call = Call::new(&self, &q.raw, k.raw(), v.raw(), (&out.raw, false), lse)?;
        expect_scratch(call.scratch_len(), scratch.len())?;
        Ok(Steps {
            options: self,
            call: call.keep(),
            scratch,
            at: Place { b: 0, kv_head: 0, first: 0, under_way: None },
        })
    }
}

impl Steps<'_> {
    /// Computes up to `tiles` tiles; returns whether any are left.
    ///
    /// A tile is a block of up to 64 keys, for all rows that take it together: 4 rows on targets without
    /// vectors, up to 192 elsewhere, of one key head or, with few queries, of several. So a tile is at most
    /// `64 * 192 * (head_dim + v_head_dim)` multiply-adds and as many exponentials as it has scores. The first
    /// tile of some rows also reads their queries, the last one writes their outputs. Rows without keys take
    /// one tile. Beside its tiles a step only passes over sequences without queries.
    pub fn step(&mut self, tiles: usize) -> bool {
        let (call, scratch, mut left) = (self.call.call(), self.scratch.as_mut_ptr(), tiles);
        while self.at.b < call.of.sequences {
            if let Some(problem) = call.sequence(&self.options, self.at.b) {
                // SAFETY: the call is checked, its borrows last, and the scratch is long enough and as the
                // step before has left it.
                if !dispatch!(problem.tier, s => unsafe { self.at.go(s, &problem, scratch, &mut left) }) {
                    return true;
                }
            }
            self.at.b += 1;
        }
        false
    }
}

impl Place {
    /// Goes on with the sequence; returns whether it is done.
    ///
    /// # Safety
    /// - `p` is the checked problem of this sequence, whose output is this call's alone; `scratch` has the
    ///   length it asks for, and what was left there.
    unsafe fn go<S: Simd>(&mut self, s: S, p: &Problem, scratch: *mut f32, left: &mut usize) -> bool {
        let rows = 0..p.q.len * p.group.get();
        while self.kv_head < p.k.n_heads() {
            let heads = together::most_heads(s, p, rows.len()).min(p.k.n_heads() - self.kv_head);
            while self.first < rows.end {
                if *left == 0 {
                    return false;
                }
                // SAFETY: rows of heads that there are; the queries and sums of panels that are under way are
                // in the scratch, and their blocks come in order.
                unsafe {
                    let mut walks = together::Walks::default();
                    let heads = (self.kv_head, heads);
                    let keys = together::walks(s, p, heads, (&rows, self.first), scratch, &mut walks);
                    let mut from = together::first_block(keys);
                    if let Some((next, so_far)) = self.under_way.take() {
                        from = next;
                        for (walk, so_far) in together::panels(&mut walks).zip(so_far) {
                            walk.resume(so_far);
                        }
                    } else {
                        together::open(s, &mut walks);
                    }
                    let blocks = keys.1.saturating_sub(from).div_ceil(BLOCK);
                    let to = if blocks > *left { from + *left * BLOCK } else { keys.1 };
                    together::blocks(s, &mut walks, from..to);
                    *left -= blocks.clamp(1, *left);
                    if to < keys.1 {
                        let so_far = walks.map(|walk| walk.map_or_else(SoFar::default, |walk| walk.so_far));
                        self.under_way = Some((to, so_far));
                        return false;
                    }
                    together::close(s, &mut walks);
                }
                self.first += together::rows_together::<S>(p);
            }
            (self.kv_head, self.first) = (self.kv_head + heads, 0);
        }
        self.kv_head = 0;
        true
    }
}
