//! A call cut into items with disjoint outputs, for the caller's own threads.

use core::marker::PhantomData;
use core::ops::Range;

use super::call::{Call, Problem};
use super::merge::KEYS_PER_STATE;
use super::partial::{self, LogSum};
use super::together;
use super::{Attention, Keys};
use crate::elem::Elem;
use crate::error::{Error, expect_scratch};
use crate::tier::dispatch;
use crate::view::{HeadsMut, HeadsRef};

/// A checked call, cut into [`Item`]s: sequences, key heads, runs of queries and, for partial states, chunks
/// of keys. However it is cut, the bits are those of the whole call.
///
/// ```
/// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
/// let x = [0.5_f32; 2 * 3 * 4]; // 3 tokens of 2 heads of 4 features
/// let heads = HeadsRef::token_major(&x, 3, 2, 4)?;
/// let mut out = [0.0_f32; 2 * 3 * 4];
/// let mut work = Attention::new().split(heads, heads, heads, HeadsMut::token_major(&mut out, 3, 2, 4)?, None)?;
/// std::thread::scope(|threads| {
///     for item in work.items() {
///         threads.spawn(move || item.run(&mut [0.0; attention_scratch_len(3, 3, 4, 4)]));
///     }
/// });
/// assert_eq!(out, x);
/// # Ok::<(), qkv::Error>(())
/// ```
pub struct Work<'a> {
    options: Attention<'a>,
    call: Call,
    /// Where the states go, and of which chunks; or null.
    states: *mut f32,
    chunks: Range<usize>,
    borrowed: PhantomData<&'a mut [f32]>,
}

/// A part of a call that writes rows of its own.
pub struct Item<'a> {
    options: Attention<'a>,
    call: Call,
    /// The sequence, the key head and a run of queries.
    b: usize,
    kv_head: usize,
    queries: Range<usize>,
}

// SAFETY: both borrow inputs that are only read and outputs of which each item writes rows of its own.
unsafe impl Send for Work<'_> {}
// SAFETY: as above.
unsafe impl Sync for Work<'_> {}
// SAFETY: as above.
unsafe impl Send for Item<'_> {}

/// Queries of an item: whole panels on every tier, for any group.
const QUERIES: usize = 192;

impl<'a> Attention<'a> {
    /// [`run`](Self::run), or [`run_with_lse`](Self::run_with_lse), cut into items.
    ///
    /// # Errors
    /// As there.
    pub fn split<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'a, Q>,
        k: impl Keys + 'a,
        v: impl Keys + 'a,
        out: HeadsMut<'a, O>,
        lse: Option<&'a mut [f32]>,
    ) -> Result<Work<'a>, Error> {
        let lse = lse.map(|lse| (lse, partial::log_sum as LogSum));
        let call = Call::new(&self, q.raw, k.raw(), v.raw(), Some(out.raw), lse)?;
        Ok(Work { options: self, call, states: core::ptr::null_mut(), chunks: 0..1, borrowed: PhantomData })
    }

    /// [`partial`](Self::partial) of all chunks of keys, cut into items: for few rows over many keys, when
    /// heads are too few for the threads. `states` are then for [`merge`](Self::merge).
    ///
    /// # Errors
    /// As there, for `kv_len` keys in chunks of [`KEYS_PER_STATE`].
    pub fn split_keys<Q: Elem>(
        self,
        q: HeadsRef<'a, Q>,
        k: impl Keys + 'a,
        v: impl Keys + 'a,
        states: &'a mut [f32],
    ) -> Result<Work<'a>, Error> {
        let call = Call::new(&self, q.raw, k.raw(), v.raw(), None, None)?;
        let chunks = 0..call.kv_len.div_ceil(KEYS_PER_STATE);
        call.expect_states(chunks.len(), states.len())?;
        Ok(Work { options: self, call, states: states.as_mut_ptr(), chunks, borrowed: PhantomData })
    }

    /// [`run`](Self::run) on the threads of rayon's pool: as many at a time as the scratch has room for, each
    /// with [`attention_scratch_len`](super::attention_scratch_len) `f32`s. The same bits as there.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    #[cfg(feature = "rayon")]
    pub fn run_parallel<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        out: HeadsMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let call = Call::new(&self, q.raw, k.raw(), v.raw(), Some(out.raw), None)?;
        let states = core::ptr::null_mut();
        Work { options: self, call, states, chunks: 0..1, borrowed: PhantomData }.run_parallel(scratch)
    }
}

impl<'a> Work<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.call.sequences * self.per_sequence()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `f32`s of scratch that an item needs.
    pub fn scratch_len(&self) -> usize {
        self.call.scratch_len()
    }

    /// The items, each for one thread.
    pub fn items(&mut self) -> impl ExactSizeIterator<Item = Item<'_>> {
        (0..self.len()).map(|i| self.item(i))
    }

    /// Runs all items on rayon's threads: as many at a time as the scratch has room for.
    ///
    /// # Errors
    /// [`Error::ScratchTooShort`] with less than [`scratch_len`](Self::scratch_len) `f32`s.
    #[cfg(feature = "rayon")]
    pub fn run_parallel(self, scratch: &mut [f32]) -> Result<(), Error> {
        use core::sync::atomic::{AtomicUsize, Ordering};
        let needed = self.scratch_len();
        expect_scratch(needed, scratch.len())?;
        let (work, next) = (&self, &AtomicUsize::new(0));
        rayon::scope(|threads| {
            for scratch in scratch.chunks_exact_mut(needed.max(1)).take(work.len()) {
                threads.spawn(move |_| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= work.len() {
                            break;
                        }
                        work.item(i).compute(scratch);
                    }
                });
            }
        });
        Ok(())
    }

    fn runs(&self) -> usize {
        self.call.q_len.div_ceil(QUERIES)
    }

    fn per_sequence(&self) -> usize {
        self.call.k.slots.n_heads * self.runs() * self.chunks.len()
    }

    /// Item `i`; whoever asks asks for each once.
    fn item(&self, i: usize) -> Item<'a> {
        let part = |i: usize, n: usize| (i.checked_div(n).unwrap_or(0), i.checked_rem(n).unwrap_or(0));
        let (b, i) = part(i, self.per_sequence());
        let (chunk, i) = part(i, self.call.k.slots.n_heads * self.runs());
        let (kv_head, run) = part(i, self.runs());
        let call = match self.states.is_null() {
            true => self.call,
            false => self.call.chunk(self.chunks.start + chunk, self.states, chunk),
        };
        Item { options: self.options, call, b, kv_head, queries: run * QUERIES..(run + 1) * QUERIES }
    }
}

impl Item<'_> {
    /// Computes the item.
    ///
    /// # Errors
    /// [`Error::ScratchTooShort`] with less than [`Work::scratch_len`] `f32`s.
    pub fn run(self, scratch: &mut [f32]) -> Result<(), Error> {
        expect_scratch(self.call.scratch_len(), scratch.len())?;
        self.compute(scratch);
        Ok(())
    }

    fn compute(&self, scratch: &mut [f32]) {
        let Some(problem) = self.call.sequence(&self.options, self.b) else { return };
        let problem: &Problem = &problem;
        let group = problem.group.get();
        let rows = self.queries.start.min(problem.q.len) * group..self.queries.end.min(problem.q.len) * group;
        let scratch = scratch.as_mut_ptr();
        // SAFETY: the call is checked, the scratch is long enough, and the rows are this item's own.
        dispatch!(problem.tier, s => unsafe { together::rows(s, problem, (self.kv_head, 1), rows, scratch) });
    }
}
