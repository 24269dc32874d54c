//! The options of [`Attention`], one method each.

use super::adjust::{self, Adjust};
use super::{Attention, Code, MaskRule, ScoreRule, Shared, call, packed, partial, seen};
use crate::elem::Elem;
use crate::tier::Tier;
use crate::view::TensorRef;

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
            code: Code {
                masks: None,
                adjust: [None; adjust::STEPS],
                sink: None,
                lengths: None,
                packed: None,
            },
        }
    }

    /// The same with the code of masks.
    const fn with_masks(self) -> Self {
        Attention { code: Code { masks: Some(&seen::MASKS), ..self.code }, ..self }
    }

    /// The same with the code of options that have a length of their own.
    const fn with_lengths(mut self) -> Self {
        self.code.lengths = Some(call::check_lengths);
        self
    }

    /// The same with the code of packed sequences.
    const fn with_packed(mut self) -> Self {
        self.code.packed = Some(&packed::PACKED);
        self
    }

    /// The same with the code of a step between product and softmax.
    const fn with_step(mut self, step: usize, adjust: Adjust) -> Self {
        self.code.adjust[step] = Some(adjust);
        self
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
    /// that no query sees are not read; and where they lie in pages, those without a key that a query
    /// sees for its place need not exist (see [`Paged::new`](super::Paged::new)).
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
        Attention { kv_lens: Some(lens), ..self }.with_lengths()
    }

    /// The first key of each sequence of the batch (padding on the left): those before it are not read. From the end of
    /// the keys on there are none, and the rows are zeros.
    pub const fn kv_starts(self, starts: &'a [usize]) -> Self {
        Attention { kv_starts: Some(starts), ..self }.with_lengths()
    }

    /// Sequences of different lengths without padding: the queries, and the output, of sequence `b` are the
    /// tokens `offsets[b]..offsets[b + 1]`: offsets begin with 0 and end with all tokens. The views have a batch of 1, the
    /// log-sum-exps are `[n_heads][tokens]`. Keys and values are a batch, or pages, of as many sequences, or packed by
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
        Attention { q_offsets: Some(offsets), ..self }.with_packed()
    }

    /// The keys and values of sequence `b` are the tokens `offsets[b]..offsets[b + 1]` of views with a batch
    /// of 1.
    pub const fn kv_offsets(self, offsets: &'a [usize]) -> Self {
        Attention { kv_offsets: Some(offsets), ..self }.with_packed()
    }

    /// A query sees a key where the mask says `true`: `[batch, n_heads, q_len, kv_len]`, of which all but
    /// `kv_len` may be 1. With [`q_offsets`](Self::q_offsets) the lengths are those of the longest sequence.
    pub const fn mask(self, mask: TensorRef<'a, bool>) -> Self {
        Attention { mask: Some(Shared(mask.raw)), ..self }.with_masks()
    }

    /// [`mask`](Self::mask) in bits: `[batch, n_heads, q_len, kv_len / 8]` bytes, rounded up, key 0 in the
    /// lowest bit of the first byte. Such as the tree masks of speculative decoding.
    pub const fn mask_bits(self, mask: TensorRef<'a, u8>) -> Self {
        Attention { mask_bits: Some(Shared(mask.raw)), ..self }.with_masks()
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
        Attention { mask_rule: Some(rule), ..self }.with_masks()
    }

    /// A score `s` becomes `cap tanh(s / cap)`, after the scale and before everything else. The sign of `cap` does not
    /// matter; 0, infinity and whatever else is no normal number is no cap.
    pub const fn softcap(self, cap: f32) -> Self {
        let softcap = if cap.is_normal() { Some(cap) } else { None };
        Attention { softcap, ..self }.with_step(adjust::SOFTCAP, adjust::softcap)
    }

    /// Added to the scores, after softcap and linear biases: `[batch, n_heads, q_len, kv_len]`, of which all
    /// but `kv_len` may be 1. A key with minus infinity is not seen, whatever it holds.
    pub const fn bias<B: Elem>(self, bias: TensorRef<'a, B>) -> Self {
        let bias = Some(Shared((bias.raw, B::KIND)));
        Attention { bias, ..self }.with_masks().with_step(adjust::BIAS, adjust::bias)
    }

    /// The last change of a score before the masks, by a rule; see [`ScoreRule`].
    pub const fn score_rule(self, rule: &'a dyn ScoreRule) -> Self {
        Attention { score_rule: Some(rule), ..self }.with_step(adjust::RULE, adjust::rule)
    }

    /// Attention with linear biases: a key that lies `n` keys from the query's own key, on either side, has
    /// `slopes[h] * n` taken off its score for query head `h`. The usual slopes are
    /// [`alibi_slopes`]. Press, Smith and Lewis (2022). Exact up to 2^24 keys.
    pub const fn alibi(self, slopes: &'a [f32]) -> Self {
        Attention { alibi: Some(slopes), ..self }.with_lengths().with_step(adjust::ALIBI, adjust::alibi)
    }

    /// One more score for each query head that takes its share of the weights and has no value:
    /// `out = Σ_t e^s(t) v(t) / (e^sinks[h] + Σ_t e^s(t))`. A sink of minus infinity is none. Xiao et al.
    /// (2024).
    pub const fn sinks(self, sinks: &'a [f32]) -> Self {
        let sink: partial::Sink = partial::with_sink;
        Attention { sinks: Some(sinks), code: Code { sink: Some(sink), ..self.code }, ..self }.with_lengths()
    }

    /// Forces a tier; the default is [`Tier::detect`].
    pub const fn tier(self, tier: Tier) -> Self {
        Attention { tier: Some(tier), ..self }
    }

    pub(crate) const fn chosen_tier(&self) -> Option<Tier> {
        self.tier
    }
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
