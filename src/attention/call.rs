//! A call with everything checked, and each of its sequences as the kernels take it.

use core::num::NonZeroUsize;
use core::ops::Range;

use super::keys::{Places, RawKeys, SequenceKeys};
use super::mask::Mask;
use super::merge::states_len;
use super::packed::offsets_of;
use super::partial::{CHUNK, Keep, LogSum, STATE, keep_state};
use super::scratch::width;
use super::{Attention, attention_scratch_len, group, together};
use crate::elem::Elem;
use crate::error::{Error, expect_dim, expect_dims, expect_most, expect_scratch};
use crate::kernel::lone::sqrt;
use crate::simd::VECTORS;
use crate::tier::{Tier, dispatch};
use crate::view::{RawHeads, RawTensor, Sequence};

static SIZES: [&str; 9] = [
    "head_dim of K",
    "kv_len of V",
    "batch of V",
    "n_kv_heads of V",
    "batch of the output",
    "q_len of the output",
    "n_heads of the output",
    "v_head_dim of the output",
    "batch of K",
];
const MASK: [&str; 4] =
    ["batch of the mask", "n_heads of the mask", "q_len of the mask", "kv_len of the mask"];
const BITS: [&str; 4] =
    ["batch of the mask", "n_heads of the mask", "q_len of the mask", "bytes of a mask row"];
const BIAS: [&str; 4] =
    ["batch of the bias", "n_heads of the bias", "q_len of the bias", "kv_len of the bias"];

/// Where the state of a chunk of keys goes instead of the output, with the code for it.
#[derive(Clone, Copy)]
pub struct States {
    /// Where that of chunk 0 goes.
    pub ptr: *mut f32,
    pub keep: Keep,
    /// The only chunk of keys that counts, and what hides the others.
    number: usize,
    chunk: fn(&mut Mask, usize),
}

/// A checked call.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub q: &'a RawHeads,
    pub k: RawKeys<'a>,
    pub v: RawKeys<'a>,
    /// The output; if something else is wanted of the rows, a view with its sizes that is never written.
    out: &'a RawHeads,
    pub of: Checked,
}

/// What the checks have found, and what else is wanted.
#[derive(Clone, Copy)]
pub struct Checked {
    /// Log-sum-exps of all sequences, and what computes them.
    pub lse: Option<(*mut f32, LogSum)>,
    pub states: Option<States>,
    pub sequences: usize,
    /// The longest sequence's.
    pub q_len: usize,
    pub kv_len: usize,
    /// Query heads of a key head; `None` where there are no heads.
    pub group: Option<NonZeroUsize>,
}

/// A call that owns the views which a [`Call`] borrows.
pub struct Kept {
    q: RawHeads,
    k: (RawHeads, Places),
    v: (RawHeads, Places),
    out: RawHeads,
    pub of: Checked,
}

impl Kept {
    pub fn call(&self) -> Call<'_> {
        let k = RawKeys { slots: &self.k.0, of: self.k.1 };
        let v = RawKeys { slots: &self.v.0, of: self.v.1 };
        Call { q: &self.q, k, v, out: &self.out, of: self.of }
    }
}

impl<'a> Call<'a> {
    /// `others`: something else is wanted of the rows than the output.
    ///
    /// # Errors
    /// [`Error::DimMismatch`], [`Error::HeadsDoNotDivide`], [`Error::TooLarge`] and [`Error::ShapeOverflow`].
    pub fn new(
        options: &Attention,
        q: &'a RawHeads,
        k: RawKeys<'a>,
        v: RawKeys<'a>,
        (out, others): (&'a RawHeads, bool),
        lse: Option<(&mut [f32], LogSum)>,
    ) -> Result<Self, Error> {
        let mut call = Call::unchecked(q, k, v, out);
        call.check(options, others, lse)?;
        Ok(call)
    }

    /// Made in its place, since it is large.
    #[inline(always)]
    pub fn unchecked(q: &'a RawHeads, k: RawKeys<'a>, v: RawKeys<'a>, out: &'a RawHeads) -> Self {
        let (lse, states, group) = (None, None, None);
        Call { q, k, v, out, of: Checked { lse, states, sequences: 0, q_len: 0, kv_len: 0, group } }
    }

    /// The same with its views, for whoever needs them longer than the caller has them.
    pub fn keep(&self) -> Kept {
        let &Call { q, k, v, out, of } = self;
        Kept { q: *q, k: (*k.slots, k.of), v: (*v.slots, v.of), out: *out, of }
    }

    /// Checks the call and notes its sizes; `others` as for [`new`](Self::new).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn check(
        &mut self,
        options: &Attention,
        others: bool,
        lse: Option<(&mut [f32], LogSum)>,
    ) -> Result<(), Error> {
        let Call { q, k, v, out, .. } = self;
        let wanted = others || lse.is_some();
        let packed = options.code.packed;
        let sizes = [
            (q.head_dim, k.slots.head_dim),
            (k.of.len, v.of.len),
            (k.of.batch, v.of.batch),
            (k.slots.n_heads, v.slots.n_heads),
            (q.batch, out.batch),
            (q.len, out.len),
            (q.n_heads, out.n_heads),
            (v.slots.head_dim, out.head_dim),
            (if packed.is_some() { k.of.batch } else { q.batch }, k.of.batch),
        ];
        expect_dims(&SIZES, &sizes)?;
        let group = group(q.n_heads, k.slots.n_heads)?;
        let [sequences, q_len, kv_len] = match packed {
            None => [q.batch, q.len, k.of.len],
            Some(packed) => (packed.sizes)(options, q, k)?,
        };
        let rows = q.batch.checked_mul(q.len).and_then(|rows| rows.checked_mul(q.n_heads));
        let rows = rows.ok_or(Error::ShapeOverflow)?;
        let lse = match lse {
            None => None,
            Some((lse, log_sum)) => {
                expect_dim("batch * n_heads * q_len (length of lse)", rows, lse.len())?;
                Some((lse.as_mut_ptr(), log_sum))
            }
        };
        // Longer ones exist only without elements, or as one that is repeated.
        if q.len | k.of.len | k.slots.len | v.slots.len > isize::MAX as usize {
            return Err(Error::ShapeOverflow);
        }
        // A batch of nothing may be of any size.
        let nothing = rows == 0 || (out.head_dim == 0 && !wanted);
        // An output of all rows cannot have more; but scores may be wanted of a few of them.
        if !nothing && rows > isize::MAX as usize {
            return Err(Error::ShapeOverflow);
        }
        let sizes = [sequences, q.n_heads, q_len, kv_len];
        if let Some(masks) = options.code.masks {
            (masks.check)(options, sizes)?;
        }
        if let Some(check) = options.code.lengths.or(k.of.check).or(v.of.check) {
            check(options, [k, v], sizes, !nothing)?;
        }
        let sequences = if nothing { 0 } else { sequences };
        self.of = Checked { lse, states: None, sequences, q_len, kv_len, group };
        Ok(())
    }

    /// Computes all sequences.
    ///
    /// # Errors
    /// [`Error::ScratchTooShort`].
    pub fn run(&self, options: &Attention, scratch: &mut [f32]) -> Result<(), Error> {
        expect_scratch(self.scratch_len(), scratch.len())?;
        for b in 0..self.of.sequences {
            if let Some(problem) = &self.sequence(options, b) {
                problem.compute(0..problem.k.n_heads(), 0..problem.q.len, scratch);
            }
        }
        Ok(())
    }

    pub fn scratch_len(&self) -> usize {
        attention_scratch_len(self.of.q_len, self.of.kv_len, self.q.head_dim, self.v.slots.head_dim)
    }

    /// Rows of all sequences and heads.
    fn rows(&self) -> usize {
        // In the order that is known not to overflow.
        self.q.batch * self.q.len * self.q.n_heads
    }

    /// # Errors
    /// [`Error::DimMismatch`] if `got` is not the length of as many states.
    pub fn expect_states(&self, chunks: usize, got: usize) -> Result<(), Error> {
        let needed = states_len(chunks, self.rows(), self.v.slots.head_dim);
        expect_dim("chunks * rows * state (length of the states)", needed, got)
    }

    /// The same for one chunk of keys, whose state goes to `states` as that of chunk `place`.
    pub fn chunk(&self, chunk: usize, states: *mut f32, place: usize) -> Self {
        let size = self.rows() * (STATE + width(self.v.slots.head_dim));
        let hide = |mask: &mut Mask, chunk: usize| {
            mask.first = mask.first.max(chunk.saturating_mul(CHUNK));
            mask.end = mask.end.min(chunk.saturating_add(1).saturating_mul(CHUNK));
        };
        let ptr = states.wrapping_add(place * size);
        let states = Some(States { ptr, keep: keep_state, number: chunk, chunk: hide });
        Call { of: Checked { states, ..self.of }, ..*self }
    }

    /// Sequence `b`, unless it has no rows.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn sequence<'b>(&'b self, options: &'b Attention<'b>, b: usize) -> Option<Problem<'b>> {
        // The sequence of each view, its first token and number of tokens there.
        let mut at_q = (b, 0, self.q.len);
        let mut at_kv = (b, 0, self.k.of.len);
        if let Some(packed) = options.code.packed {
            (packed.places)(options, b, [&mut at_q, &mut at_kv]);
        }
        let tokens = |of: &'b RawHeads| of.tokens(at_q.0, at_q.1, at_q.2);
        let (q, out) = (tokens(self.q), tokens(self.out));
        let first_row = at_q.0 * self.q.n_heads * self.q.len + at_q.1;
        if q.len == 0 || self.q.n_heads == 0 {
            return None;
        }
        let kv_len = at(options.kv_lens, b).unwrap_or(at_kv.2);
        let mut mask = mask_of(options, b, q.len, kv_len);
        if let Some(states) = self.of.states {
            (states.chunk)(&mut mask, states.number);
        }
        Some(Problem {
            options,
            b,
            q,
            k: self.k.sequence(at_kv.0, at_kv.1, kv_len),
            v: self.v.sequence(at_kv.0, at_kv.1, kv_len),
            out,
            group: self.of.group?,
            call: self,
            first_row,
            scale: options.scale.unwrap_or_else(|| default_scale(self.q.head_dim)),
            mask,
            tier: options.tier.unwrap_or_else(Tier::detect),
        })
    }
}

/// Which of the `kv_len` keys of sequence `b` its `q_len` queries see for their places.
#[inline(always)]
fn mask_of(options: &Attention, b: usize, q_len: usize, kv_len: usize) -> Mask {
    let (before, after) = options.window;
    Mask {
        offset: options.offset.unwrap_or(kv_len as isize - q_len as isize),
        window: (before, if options.causal { 0 } else { after }),
        first: at(options.kv_starts, b).unwrap_or(0),
        end: kv_len,
    }
}

/// What has to be checked for each sequence, or head: options of their own lengths, and pages.
pub type Lengths = fn(&Attention, [&RawKeys; 2], [usize; 4], bool) -> Result<(), Error>;

/// That options have the sizes of a call: sequences, query heads, and the longest sequence's queries and keys; and
/// that all keys exist that a query may see, if there is `something` to compute.
///
/// # Errors
/// [`Error::DimMismatch`] and [`Error::TooLarge`].
pub fn check_lengths(
    options: &Attention,
    [k, v]: [&RawKeys; 2],
    [sequences, n_heads, q_len, _]: [usize; 4],
    something: bool,
) -> Result<(), Error> {
    let &Attention { alibi, sinks, kv_lens, kv_starts, .. } = options;
    each("n_heads (length of the slopes)", n_heads, alibi)?;
    each("n_heads (length of the sinks)", n_heads, sinks)?;
    each("batch (length of kv_lens)", sequences, kv_lens)?;
    each("batch (length of kv_starts)", sequences, kv_starts)?;
    // Else nothing is left to check, and only these have an entry for each sequence, which bounds the loop.
    let any = something && (kv_lens.is_some() || k.in_pages() || v.in_pages());
    for b in 0..if any { sequences } else { 0 } {
        let there = offsets_of(options.kv_offsets, b).map_or(k.of.len, |(_, len)| len);
        let got = at(kv_lens, b).unwrap_or(there);
        expect_most("a number of kv_lens", there, got)?;
        let q_len = offsets_of(options.q_offsets, b).map_or(q_len, |(_, len)| len);
        // Both ends grow with the query.
        let mask = mask_of(options, b, q_len, got);
        let (first, end) = (mask.seen(0).start, mask.seen(q_len.saturating_sub(1)).end);
        let seen = if q_len == 0 || first >= end { 0..0 } else { first..end };
        // Packed sequences have their keys in the pages of one.
        let (row, from) = offsets_of(options.kv_offsets, b).map_or((b, 0), |(from, _)| (0, from));
        k.check_pages(row, from, seen.clone())?;
        v.check_pages(row, from, seen)?;
    }
    Ok(())
}

/// That masks and biases have these sizes.
///
/// # Errors
/// [`Error::DimMismatch`].
pub fn check_masks(options: &Attention, sizes: [usize; 4]) -> Result<(), Error> {
    let &Attention { mask, mask_bits, bias, .. } = options;
    let [batch, n_heads, q_len, kv_len] = sizes;
    let tensor = |tensor: Option<RawTensor>, names, keys| match tensor {
        Some(tensor) => tensor.check_broadcast(names, [batch, n_heads, q_len, keys]),
        None => Ok(()),
    };
    tensor(mask.map(|mask| mask.0), MASK, kv_len)?;
    tensor(mask_bits.map(|mask| mask.0), BITS, kv_len.div_ceil(8))?;
    tensor(bias.map(|bias| bias.0.0), BIAS, kv_len)
}

/// That an option's slice has as many elements as it must.
fn each<T>(dim: &'static str, needed: usize, option: Option<&[T]>) -> Result<(), Error> {
    option.map_or(Ok(()), |values| expect_dim(dim, needed, values.len()))
}

fn at(option: Option<&[usize]>, b: usize) -> Option<usize> {
    option.and_then(|values| values.get(b).copied())
}

/// `1 / √head_dim`, and 1 for no features.
fn default_scale(head_dim: usize) -> f32 {
    if head_dim == 0 { 1.0 } else { 1.0 / sqrt(head_dim as f32) }
}

/// One sequence of a checked call. Not generic: compiled once for each tier.
pub struct Problem<'a> {
    pub options: &'a Attention<'a>,
    /// The sequence.
    pub b: usize,
    pub q: Sequence<'a>,
    pub k: SequenceKeys<'a>,
    pub v: SequenceKeys<'a>,
    pub out: Sequence<'a>,
    pub call: &'a Call<'a>,
    /// Query heads that share a key head.
    pub group: NonZeroUsize,
    /// Of all sequences' rows, the first of head 0. From one head to the next it is the `q.len` of the call.
    pub first_row: usize,
    pub scale: f32,
    pub mask: Mask,
    pub tier: Tier,
}

impl Problem<'_> {
    /// The keys that row `row` of a key head sees. Both ends grow with the row.
    pub fn seen(&self, row: usize) -> Range<usize> {
        self.mask.seen(self.query(row).0)
    }

    /// The query of row `row` of a key head, and which of the head's query heads it is of.
    #[inline(always)]
    pub fn query(&self, row: usize) -> (usize, usize) {
        // Small calls would notice the divisions.
        if VECTORS && self.group.get() == 1 { (row, 0) } else { (row / self.group, row % self.group) }
    }

    /// Query and head of the rows of a key head from `first` on: the heads of the group follow each
    /// other, so that neighbouring rows see nearly the same keys.
    pub fn rows(&self, kv_head: usize, first: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
        let (group, base) = (self.group.get(), kv_head * self.group.get());
        let (mut query, mut member) = self.query(first);
        // Stepping instead of a division for each row.
        core::iter::repeat_with(move || {
            let row = (query, base + member);
            member += 1;
            if member == group {
                (query, member) = (query + 1, 0);
            }
            row
        })
    }

    /// Where these rows lie in Q or the output.
    #[inline(always)]
    pub fn addresses<E: Elem>(
        &self,
        of: &Sequence,
        kv_head: usize,
        first: usize,
    ) -> impl Iterator<Item = *mut E> {
        let (of, start) = (of.of, of.head(0).at::<E>(0, 0));
        let (next, step) = (of.token_stride, of.head_stride);
        self.rows(kv_head, first).map(move |(query, head)| start.wrapping_add(query * next + head * step))
    }

    /// Computes some queries of some key heads. Not inlined, so that the checks' stack is free again.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn compute(&self, heads: Range<usize>, queries: Range<usize>, scratch: &mut [f32]) {
        let (group, len, scratch) = (self.group.get(), self.q.len, scratch.as_mut_ptr());
        let rows = queries.start.min(len) * group..queries.end.min(len) * group;
        // SAFETY: `Call` has compared all sizes; views are valid by construction; the output is an exclusive borrow; the
        // scratch is long enough.
        dispatch!(self.tier, s => unsafe { together::heads(s, self, heads, rows, scratch) });
    }
}
