//! Attention: `softmax(scale·Q Kᵀ) V` for each head, without storing more than a tile of scores.

mod adjust;
mod decode;
mod mask;
mod panel;
mod partial;
mod prefill;
mod scratch;
mod values;

use core::num::NonZeroUsize;

use crate::elem::Elem;
use crate::error::{Error, expect_dim, expect_scratch};
use crate::tier::{Tier, dispatch};
use crate::view::{HeadsMut, HeadsRef, RawHeads};
use mask::Mask;

/// `f32`s of scratch for [`Attention::run`] of these sizes, for any number of heads and any types;
/// `usize::MAX` if that is more than fits.
pub const fn attention_scratch_len(q_len: usize, kv_len: usize, head_dim: usize, v_head_dim: usize) -> usize {
    if q_len == 0 { 0 } else { scratch::scratch_len(q_len, kv_len, head_dim, v_head_dim) }
}

/// Attention with its options: `out = softmax(scale·Q Kᵀ) V` for each head.
///
/// Q has `q_len` tokens of `n_heads` heads of `head_dim` features; K and V have `kv_len` tokens of
/// `n_kv_heads` heads of `head_dim` and `v_head_dim`. `n_heads` is a multiple of `n_kv_heads`: query
/// head `h` reads key head `h / (n_heads / n_kv_heads)`. With few queries this is a decode step, with
/// many a prefill; an output row has the same bits in both.
///
/// ```
/// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
/// // Two tokens, one head of two features: each query is most like its own key.
/// let (q, k, v) = ([8.0_f32, 0.0, 0.0, 8.0], [8.0_f32, 0.0, 0.0, 8.0], [1.0_f32, 2.0, 3.0, 4.0]);
/// let (mut out, mut scratch) = ([0.0_f32; 4], [0.0; attention_scratch_len(2, 2, 2, 2)]);
/// Attention::new().run(
///     HeadsRef::token_major(&q, 2, 1, 2)?,
///     HeadsRef::token_major(&k, 2, 1, 2)?,
///     HeadsRef::token_major(&v, 2, 1, 2)?,
///     HeadsMut::token_major(&mut out, 2, 1, 2)?,
///     &mut scratch,
/// )?;
/// assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing until `run`"]
pub struct Attention<'a> {
    scale: Option<f32>,
    /// Keys before the query's own and after it.
    window: (usize, usize),
    causal: bool,
    offset: Option<isize>,
    alibi: Option<&'a [f32]>,
    sinks: Option<&'a [f32]>,
    tier: Option<Tier>,
}

impl Default for Attention<'_> {
    fn default() -> Self {
        Attention::new()
    }
}

impl<'a> Attention<'a> {
    /// Every query sees every key; the scale is `1 / √head_dim`.
    pub const fn new() -> Self {
        let window = (usize::MAX, usize::MAX);
        Attention { scale: None, window, causal: false, offset: None, alibi: None, sinks: None, tier: None }
    }

    /// Factor of the scores.
    pub const fn scale(self, scale: f32) -> Self {
        Attention { scale: Some(scale), ..self }
    }

    /// A query sees its own key and those before it. The last query's own key is the last one, unless
    /// [`offset`](Self::offset) says otherwise: query `i` sees keys `0..=i + kv_len - q_len`. A query that
    /// sees none gives zeros.
    pub const fn causal(self) -> Self {
        Attention { causal: true, ..self }
    }

    /// [`causal`](Self::causal) and [`offset`](Self::offset): query `i` sees keys `0..=i + offset`. With 0,
    /// query `i` sees key `i` and those before it.
    pub const fn causal_offset(self, offset: isize) -> Self {
        self.causal().offset(offset)
    }

    /// Query `i`'s own key is `i + offset`; by default it is `i + kv_len - q_len`. That is what
    /// [`causal`](Self::causal) and [`window`](Self::window) count from.
    pub const fn offset(self, offset: isize) -> Self {
        Attention { offset: Some(offset), ..self }
    }

    /// A query sees up to `before` keys before its own key and `after` keys behind it, and its own;
    /// `usize::MAX` is all of them. A sliding window of `n` keys is `.causal().window(n - 1, 0)`. Keys
    /// that no query sees are not read.
    ///
    /// ```
    /// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
    /// // Five tokens of one head of one feature, all keys alike: each sees itself and its neighbours.
    /// let (q, k, v) = ([1.0_f32; 5], [0.0_f32; 5], [3.0_f32, 6.0, 0.0, 9.0, 3.0]);
    /// let (mut out, mut scratch) = ([0.0_f32; 5], [0.0; attention_scratch_len(5, 5, 1, 1)]);
    /// Attention::new().window(1, 1).run(
    ///     HeadsRef::token_major(&q, 5, 1, 1)?,
    ///     HeadsRef::token_major(&k, 5, 1, 1)?,
    ///     HeadsRef::token_major(&v, 5, 1, 1)?,
    ///     HeadsMut::token_major(&mut out, 5, 1, 1)?,
    ///     &mut scratch,
    /// )?;
    /// assert!([4.5, 3.0, 5.0, 4.0, 6.0].iter().zip(out).all(|(mean, x)| (mean - x).abs() < 1e-5));
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn window(self, before: usize, after: usize) -> Self {
        Attention { window: (before, after), ..self }
    }

    /// Attention with linear biases: a key that lies `n` keys from the query's own key, on either side, has
    /// `slopes[h] * n` taken off its score for query head `h`. The usual slopes are
    /// [`alibi_slopes`]. Press, Smith and Lewis (2022). Exact up to 2^24 keys.
    pub const fn alibi(self, slopes: &'a [f32]) -> Self {
        Attention { alibi: Some(slopes), ..self }
    }

    /// One more score for each query head that takes its share of the weights and has no value:
    /// `out = Σ_t e^s(t) v(t) / (e^sinks[h] + Σ_t e^s(t))`. A sink of minus infinity is none. Xiao et al.
    /// (2024).
    pub const fn sinks(self, sinks: &'a [f32]) -> Self {
        Attention { sinks: Some(sinks), ..self }
    }

    /// Forces a tier; the default is [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Self {
        Attention { tier: Some(tier), ..self }
    }

    pub(crate) const fn chosen_tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Computes the attention.
    ///
    /// # Errors
    /// [`Error::DimMismatch`], or [`Error::ScratchTooShort`] with less than [`attention_scratch_len`]
    /// `f32`s. The output is untouched then.
    pub fn run<Q: Elem, K: Elem, V: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: HeadsRef<'_, K>,
        v: HeadsRef<'_, V>,
        out: HeadsMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.check(q.raw, k.raw, v.raw, out.raw, None, scratch)
    }

    /// As [`run`](Self::run), and writes the natural logarithm of the sum of each row's exponentials,
    /// `lse[h * q_len + i] = ln Σ_t e^score(t)`: what partial results over other keys are merged by.
    /// A sink counts in the sum. It is minus infinity for a row that sees no key and has no sink.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::DimMismatch`] if `lse` is not `n_heads * q_len` long.
    pub fn run_with_lse<Q: Elem, K: Elem, V: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: HeadsRef<'_, K>,
        v: HeadsRef<'_, V>,
        out: HeadsMut<'_, O>,
        lse: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.check(q.raw, k.raw, v.raw, out.raw, Some(lse), scratch)
    }

    fn check(
        self,
        q: RawHeads,
        k: RawHeads,
        v: RawHeads,
        out: RawHeads,
        lse: Option<&mut [f32]>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        expect_dim("head_dim of K", q.head_dim, k.head_dim)?;
        expect_dim("kv_len of V", k.len, v.len)?;
        expect_dim("n_kv_heads of V", k.n_heads, v.n_heads)?;
        expect_dim("q_len of the output", q.len, out.len)?;
        expect_dim("n_heads of the output", q.n_heads, out.n_heads)?;
        expect_dim("v_head_dim of the output", v.head_dim, out.head_dim)?;
        let group = group(q.n_heads, k.n_heads)?;
        let alibi = each_head("n_heads (length of the slopes)", q.n_heads, self.alibi)?;
        let sinks = each_head("n_heads (length of the sinks)", q.n_heads, self.sinks)?;
        let rows = q.len.checked_mul(q.n_heads).ok_or(Error::ShapeOverflow)?;
        let lse = match lse {
            None => core::ptr::null_mut(),
            Some(lse) => {
                expect_dim("n_heads * q_len (length of lse)", rows, lse.len())?;
                lse.as_mut_ptr()
            }
        };
        expect_scratch(attention_scratch_len(q.len, k.len, q.head_dim, v.head_dim), scratch.len())?;
        // Longer ones exist only without elements.
        if q.len.max(k.len) > isize::MAX as usize {
            return Err(Error::ShapeOverflow);
        }
        let Some(group) = group else { return Ok(()) };
        if rows == 0 || (v.head_dim == 0 && lse.is_null()) {
            return Ok(());
        }
        let offset = self.offset.unwrap_or(k.len as isize - q.len as isize);
        let (before, after) = self.window;
        let window = (before, if self.causal { 0 } else { after });
        let scale = self.scale.unwrap_or_else(|| default_scale(q.head_dim));
        let mask = Mask { offset, window, kv_len: k.len };
        let problem = Problem { q, k, v, out, group, lse, scale, mask, alibi, sinks };
        compute(self.tier.unwrap_or_else(Tier::detect), &problem, scratch);
        Ok(())
    }
}

/// Query heads that share a key head; `None` where there are no heads.
///
/// # Errors
/// [`Error::DimMismatch`] if the key heads do not divide the query heads.
pub(crate) fn group(n_heads: usize, n_kv_heads: usize) -> Result<Option<NonZeroUsize>, Error> {
    if n_heads.checked_rem(n_kv_heads).unwrap_or(n_heads) != 0 {
        let dim = "n_heads (a multiple of n_kv_heads)";
        return Err(Error::DimMismatch { dim, expected: n_kv_heads, got: n_heads });
    }
    Ok(n_heads.checked_div(n_kv_heads).and_then(NonZeroUsize::new))
}

/// A float for each query head, or null where the option is not used.
fn each_head(dim: &'static str, n_heads: usize, option: Option<&[f32]>) -> Result<*const f32, Error> {
    let Some(values) = option else { return Ok(core::ptr::null()) };
    expect_dim(dim, n_heads, values.len())?;
    Ok(values.as_ptr())
}

/// Writes the slopes of [`Attention::alibi`] for `slopes.len()` heads: `2^(-8 h / n)` for `h` in `1..=n`
/// where `n` is a power of two. Else those of the largest power of two below `n`, and for the heads that
/// are left every other slope of twice that many heads.
///
/// ```
/// let mut slopes = [0.0; 4];
/// qkv::alibi_slopes(&mut slopes);
/// assert_eq!(slopes, [0.25, 0.0625, 0.015625, 0.00390625]);
/// ```
pub fn alibi_slopes(slopes: &mut [f32]) {
    let Some(log2) = slopes.len().checked_ilog2() else { return };
    let power = 1_usize << log2;
    let slope = |h: usize, n: usize| libm::exp2f(-8.0 * h as f32 / n as f32);
    for (h, to) in slopes.iter_mut().enumerate() {
        *to =
            if h < power { slope(h + 1, power) } else { slope(2 * (h - power) + 1, power.saturating_mul(2)) };
    }
}

/// `1 / √head_dim`, and 1 for no features.
fn default_scale(head_dim: usize) -> f32 {
    if head_dim == 0 { 1.0 } else { 1.0 / libm::sqrtf(head_dim as f32) }
}

/// A checked call. Not generic: compiled once for each tier.
pub(crate) struct Problem {
    q: RawHeads,
    k: RawHeads,
    v: RawHeads,
    out: RawHeads,
    /// Query heads that share a key head.
    group: NonZeroUsize,
    /// Log-sum-exps, `[n_heads][q_len]`, or null.
    lse: *mut f32,
    scale: f32,
    mask: Mask,
    /// A float for each query head, or null.
    alibi: *const f32,
    sinks: *const f32,
}

impl Problem {
    /// The first key that some of `count` rows of a key head from `first` on sees, and the end of them:
    /// both grow with the row.
    fn seen(&self, first: usize, count: usize) -> (usize, usize) {
        let query = |row: usize| self.mask.seen(row / self.group);
        (query(first).start, query((first + count).saturating_sub(1)).end)
    }

    /// Query and head of the rows of a key head from `first` on: the heads of the group follow each
    /// other, so that neighbouring rows see nearly the same keys.
    fn rows(&self, kv_head: usize, first: usize) -> impl Iterator<Item = (usize, usize)> {
        let (group, base) = (self.group.get(), kv_head * self.group.get());
        let (mut query, mut member) = (first / self.group, first % self.group);
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
}

fn compute(tier: Tier, p: &Problem, scratch: &mut [f32]) {
    let scratch = scratch.as_mut_ptr();
    let mut kv_head = 0;
    while kv_head < p.k.n_heads {
        // SAFETY: `check` has compared all sizes; views are valid by construction; the output is an
        // exclusive borrow; the scratch is long enough.
        kv_head += dispatch!(tier, s => unsafe { panel::heads(s, p, kv_head, scratch) });
    }
}
