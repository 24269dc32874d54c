//! Attention: `softmax(scale·Q Kᵀ) V` for each head, without storing more than a tile of scores.

mod adjust;
mod call;
mod decode;
mod keys;
mod mask;
mod panel;
mod partial;
mod prefill;
mod rule;
mod scratch;
mod seen;
mod values;

use core::num::NonZeroUsize;

use crate::elem::{Elem, Kind};
use crate::error::Error;
use crate::tier::Tier;
use crate::view::{HeadsMut, HeadsRef, RawTensor, TensorRef};
use call::Call;
pub use keys::{Keys, Paged, Ring};
pub use rule::{MaskRule, ScoreAt, ScoreRule, Tile};

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
    kv_lens: Option<&'a [usize]>,
    kv_starts: Option<&'a [usize]>,
    q_offsets: Option<&'a [usize]>,
    kv_offsets: Option<&'a [usize]>,
    mask: Option<Shared<RawTensor>>,
    mask_bits: Option<Shared<RawTensor>>,
    mask_rule: Option<&'a dyn MaskRule>,
    softcap: Option<f32>,
    alibi: Option<&'a [f32]>,
    bias: Option<Shared<(RawTensor, Kind)>>,
    score_rule: Option<&'a dyn ScoreRule>,
    sinks: Option<&'a [f32]>,
    tier: Option<Tier>,
}

/// What lies in a slice that is borrowed for `'a` of [`Attention`].
#[derive(Clone, Copy, Debug)]
struct Shared<T>(T);
// SAFETY: it is only read, and its elements are numbers.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl Default for Attention<'_> {
    fn default() -> Self {
        Attention::new()
    }
}

impl<'a> Attention<'a> {
    /// Every query sees every key; the scale is `1 / √head_dim`.
    pub const fn new() -> Self {
        Attention {
            scale: None,
            window: (usize::MAX, usize::MAX),
            causal: false,
            offset: None,
            kv_lens: None,
            kv_starts: None,
            q_offsets: None,
            kv_offsets: None,
            mask: None,
            mask_bits: None,
            mask_rule: None,
            softcap: None,
            alibi: None,
            bias: None,
            score_rule: None,
            sinks: None,
            tier: None,
        }
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

    /// Query `i`'s own key is `i + offset`; by default it is `i + kv_len - q_len`, with the sequence's own
    /// lengths. That is what
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

    /// Keys of each sequence of the batch, at most `kv_len`; those from there on are not read.
    pub const fn kv_lens(self, lens: &'a [usize]) -> Self {
        Attention { kv_lens: Some(lens), ..self }
    }

    /// The first key of each sequence of the batch (padding on the left): those before it are not read.
    pub const fn kv_starts(self, starts: &'a [usize]) -> Self {
        Attention { kv_starts: Some(starts), ..self }
    }

    /// Sequences of different lengths without padding: the queries, and the output, of sequence `b` are the
    /// tokens `offsets[b]..offsets[b + 1]`. The views have a batch of 1, the log-sum-exps are
    /// `[n_heads][tokens]`. Keys and values are a batch, or pages, of as many sequences, or packed by
    /// [`kv_offsets`](Self::kv_offsets).
    ///
    /// ```
    /// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
    /// // Two sequences, of one and of two tokens; all keys alike.
    /// let (q, v) = ([1.0_f32; 3], [5.0_f32, 1.0, 3.0]);
    /// let (mut out, mut scratch) = ([0.0_f32; 3], [0.0; attention_scratch_len(3, 3, 1, 1)]);
    /// Attention::new().q_offsets(&[0, 1, 3]).kv_offsets(&[0, 1, 3]).run(
    ///     HeadsRef::token_major(&q, 3, 1, 1)?,
    ///     HeadsRef::token_major(&[0.0_f32; 3], 3, 1, 1)?,
    ///     HeadsRef::token_major(&v, 3, 1, 1)?,
    ///     HeadsMut::token_major(&mut out, 3, 1, 1)?,
    ///     &mut scratch,
    /// )?;
    /// assert_eq!(out, [5.0, 2.0, 2.0]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn q_offsets(self, offsets: &'a [usize]) -> Self {
        Attention { q_offsets: Some(offsets), ..self }
    }

    /// The keys and values of sequence `b` are the tokens `offsets[b]..offsets[b + 1]` of views with a batch
    /// of 1.
    pub const fn kv_offsets(self, offsets: &'a [usize]) -> Self {
        Attention { kv_offsets: Some(offsets), ..self }
    }

    /// A query sees a key where the mask says `true`: `[batch, n_heads, q_len, kv_len]`, of which all but
    /// `kv_len` may be 1. With [`q_offsets`](Self::q_offsets) the lengths are those of the longest sequence.
    pub const fn mask(self, mask: TensorRef<'a, bool>) -> Self {
        Attention { mask: Some(Shared(mask.raw)), ..self }
    }

    /// [`mask`](Self::mask) in bits: `[batch, n_heads, q_len, kv_len / 8]` bytes, rounded up, key 0 in the
    /// lowest bit of the first byte. Such as the tree masks of speculative decoding.
    pub const fn mask_bits(self, mask: TensorRef<'a, u8>) -> Self {
        Attention { mask_bits: Some(Shared(mask.raw)), ..self }
    }

    /// A query sees a key where the rule says so; see [`MaskRule`].
    ///
    /// ```
    /// use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
    /// // Every query sees every other key only.
    /// let (q, k, v) = ([1.0_f32; 4], [0.0_f32; 4], [1.0_f32, 2.0, 3.0, 4.0]);
    /// let (mut out, mut scratch) = ([0.0_f32; 4], [0.0; attention_scratch_len(4, 4, 1, 1)]);
    /// Attention::new().mask_rule(&|query, key| (query + key) % 2 == 0).run(
    ///     HeadsRef::token_major(&q, 4, 1, 1)?,
    ///     HeadsRef::token_major(&k, 4, 1, 1)?,
    ///     HeadsRef::token_major(&v, 4, 1, 1)?,
    ///     HeadsMut::token_major(&mut out, 4, 1, 1)?,
    ///     &mut scratch,
    /// )?;
    /// assert_eq!(out, [2.0, 3.0, 2.0, 3.0]);
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn mask_rule(self, rule: &'a dyn MaskRule) -> Self {
        Attention { mask_rule: Some(rule), ..self }
    }

    /// A score `s` becomes `cap tanh(s / cap)`, after the scale and before everything else. `cap` is more
    /// than 0.
    pub const fn softcap(self, cap: f32) -> Self {
        Attention { softcap: Some(cap), ..self }
    }

    /// Added to the scores, after softcap and linear biases: `[batch, n_heads, q_len, kv_len]`, of which all
    /// but `kv_len` may be 1. A key with minus infinity is not seen, whatever it holds.
    pub const fn bias<B: Elem>(self, bias: TensorRef<'a, B>) -> Self {
        Attention { bias: Some(Shared((bias.raw, B::KIND))), ..self }
    }

    /// The last change of a score before the masks, by a rule; see [`ScoreRule`].
    pub const fn score_rule(self, rule: &'a dyn ScoreRule) -> Self {
        Attention { score_rule: Some(rule), ..self }
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
    pub fn run<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        out: HeadsMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        Call::new(&self, q.raw, k.raw(), v.raw(), out.raw, None)?.run(scratch)
    }

    /// As [`run`](Self::run), and writes the natural logarithm of the sum of each row's exponentials,
    /// `lse[(b * n_heads + h) * q_len + i] = ln Σ_t e^score(t)`: what results over other keys are merged by.
    /// A sink counts in the sum. It is minus infinity for a row that sees no key and has no sink.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::DimMismatch`] if `lse` is not `batch * n_heads * q_len` long.
    pub fn run_with_lse<Q: Elem, O: Elem>(
        self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        out: HeadsMut<'_, O>,
        lse: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        Call::new(&self, q.raw, k.raw(), v.raw(), out.raw, Some(lse))?.run(scratch)
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
