//! A call cut into items with disjoint outputs, for the caller's own threads.

use core::marker::PhantomData;
use core::ops::Range;

use super::call::{Call, Kept};
use super::merge::KEYS_PER_STATE;
use super::partial::{self, LogSum};
use super::{Attention, Keys};
use crate::elem::Elem;
use crate::error::{Error, expect_scratch};
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
#[must_use = "nothing is computed until its items run"]
pub struct Work<'a> {
    options: Attention<'a>,
    call: Kept,
    /// Where the states go, or null, and of how many chunks, from the first one on.
    states: *mut f32,
    chunks: usize,
    /// Items.
    len: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

/// A part of a call that writes rows of its own.
#[must_use = "nothing is computed until `run`"]
pub struct Item<'a> {
    work: &'a Work<'a>,
    /// Each is a run of queries of a key head, of a chunk of keys, of a sequence.
    range: Range<usize>,
}

// SAFETY: both borrow inputs that are only read and outputs of which each item writes rows of its own.
unsafe impl Send for Work<'_> {}
// SAFETY: as above.
unsafe impl Sync for Work<'_> {}

/// Queries of an item: whole panels on every tier, for any group.
const QUERIES: usize = 192;

impl<'a> Attention<'a> {
    /// [`run`](Self::run), or [`run_with_lse`](Self::run_with_lse), cut into items.
    ///
    /// # Errors
    /// As there, and [`Error::ShapeOverflow`] if there are more items than can be counted.
    pub fn split<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'a, Q>,
        k: impl Keys + 'a,
        v: impl Keys + 'a,
        out: HeadsMut<'a, O>,
        lse: Option<&'a mut [f32]>,
    ) -> Result<Work<'a>, Error> {
        let lse = lse.map(|lse| (lse, partial::log_sum as LogSum));
        let call = Call::new(&self, &q.raw, k.raw(), v.raw(), (&out.raw, false), lse)?;
        Work::of(self, &call, core::ptr::null_mut(), 1)
    }

    /// [`partial`](Self::partial) of all chunks of keys, cut into items: for few rows over many keys, when
    /// heads are too few for the threads. `states` are then for [`merge`](Self::merge): of as many chunks of
    /// [`KEYS_PER_STATE`] as the keys of a sequence take, the longest if they are packed, and of one if there are none.
    ///
    /// # Errors
    /// As there.
    pub fn split_keys<Q: Elem>(
        self,
        q: HeadsRef<'a, Q>,
        k: impl Keys + 'a,
        v: impl Keys + 'a,
        states: &'a mut [f32],
    ) -> Result<Work<'a>, Error> {
        let (k, v) = (k.raw(), v.raw());
        let unused = q.raw.of_dim(v.slots.head_dim);
        let call = Call::new(&self, &q.raw, k, v, (&unused, true), None)?;
        let chunks = call.of.kv_len.div_ceil(KEYS_PER_STATE).max(1);
        call.expect_states(chunks, states.len())?;
        Work::of(self, &call, states.as_mut_ptr(), chunks)
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
        let call = Call::new(&self, &q.raw, k.raw(), v.raw(), (&out.raw, false), None)?;
        Work::of(self, &call, core::ptr::null_mut(), 1)?.run_parallel(scratch)
    }
}

impl<'a> Work<'a> {
    /// # Errors
    /// [`Error::ShapeOverflow`] if there are more items than can be counted: most sequences are empty then.
    fn of(options: Attention<'a>, call: &Call, states: *mut f32, chunks: usize) -> Result<Self, Error> {
        let mut work = Work { options, call: call.keep(), states, chunks, len: 0, borrowed: PhantomData };
        // No sequences come first: sizes of nothing may be any.
        let sizes = [call.of.sequences, call.k.slots.n_heads, work.runs(), chunks];
        let len = sizes.into_iter().try_fold(1_usize, usize::checked_mul);
        work.len = len.ok_or(Error::ShapeOverflow)?;
        Ok(work)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `f32`s of scratch that an item needs.
    pub fn scratch_len(&self) -> usize {
        self.call.call().scratch_len()
    }

    /// The items, each for one thread.
    pub fn items(&mut self) -> impl ExactSizeIterator<Item = Item<'_>> {
        (0..self.len()).map(|i| self.part(i, 1, 0))
    }

    /// The same in up to `n` items of as many heads or queries each: one for each of `n` threads. A decode step over tokens
    /// whose heads lie side by side is faster so, since a thread reads all of its heads together. How much scratch an
    /// item needs is to be asked before: the items borrow the work.
    pub fn parts(&mut self, n: usize) -> impl ExactSizeIterator<Item = Item<'_>> {
        let n = n.max(1);
        let (work, (each, more)) = (&*self, divided(self.len(), n));
        (0..work.len().min(n)).map(move |i| work.part(i, each, more))
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
        let threads = (scratch.len() / needed.max(1)).min(rayon::current_num_threads());
        // Heads of a decode step are read together; a sequence may be longer than others.
        let of = &self.call.of;
        let few = of.group.map_or(0, |group| group.get()).saturating_mul(of.q_len) <= super::together::FEW;
        let parts = if few { threads.max(of.sequences) } else { self.len() }.min(self.len());
        let (work, next, (each, more)) = (&self, &AtomicUsize::new(0), divided(self.len(), parts));
        rayon::scope(|scope| {
            for scratch in scratch.chunks_exact_mut(needed.max(1)).take(threads.min(parts)) {
                scope.spawn(move |_| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= parts {
                            break;
                        }
                        work.part(i, each, more).compute(scratch);
                    }
                });
            }
        });
        Ok(())
    }

    fn runs(&self) -> usize {
        self.call.of.q_len.div_ceil(QUERIES)
    }

    fn per_sequence(&self) -> usize {
        self.call.call().k.slots.n_heads * self.runs() * self.chunks
    }

    /// Part `i`, of parts of `each` items, of which the first `more` have one more. Whoever asks asks for each once.
    fn part(&self, i: usize, each: usize, more: usize) -> Item<'_> {
        let first = |i: usize| i * each + i.min(more);
        Item { work: self, range: first(i)..first(i + 1) }
    }
}

impl Item<'_> {
    /// Computes the item.
    ///
    /// # Errors
    /// [`Error::ScratchTooShort`] with less than [`Work::scratch_len`] `f32`s. The item is used up; [`Work::items`] gives it
    /// once more.
    pub fn run(self, scratch: &mut [f32]) -> Result<(), Error> {
        expect_scratch(self.work.scratch_len(), scratch.len())?;
        self.compute(scratch);
        Ok(())
    }

    fn compute(&self, scratch: &mut [f32]) {
        let (work, mut i) = (self.work, self.range.start);
        let whole = work.call.call();
        let (heads, runs) = (whole.k.slots.n_heads, work.runs());
        while i < self.range.end {
            let (b, rest) = divided(i, work.per_sequence());
            let (chunk, rest) = divided(rest, heads * runs);
            let (head, run) = divided(rest, runs);
            // All queries of some heads, or some of one.
            let n = if runs == 1 { (heads - head).min(self.range.end - i) } else { 1 };
            let chunk = (!work.states.is_null()).then(|| whole.chunk(chunk, work.states, chunk));
            let call = chunk.as_ref().unwrap_or(&whole);
            if let Some(problem) = call.sequence(&work.options, b) {
                problem.compute(head..head + n, run * QUERIES..(run + 1) * QUERIES, scratch);
            }
            i += n;
        }
    }
}

/// Quotient and remainder; of nothing nothing.
fn divided(i: usize, n: usize) -> (usize, usize) {
    (i.checked_div(n).unwrap_or(0), i.checked_rem(n).unwrap_or(0))
}
