//! Attention: `softmax(scale·Q Kᵀ) V` for each head, without storing more than a tile of scores.

mod adjust;
mod ahead;
mod append;
mod block;
mod call;
mod decode;
mod few;
mod keys;
mod lone;
mod mask;
mod merge;
mod options;
mod packed;
mod panel;
mod partial;
mod prefill;
mod rotary;
mod rule;
mod scratch;
mod seen;
mod spread;
mod steps;
mod together;
mod unseen;
mod values;
mod weights;
mod work;

use core::num::NonZeroUsize;

use crate::elem::{Elem, Kind};
use crate::error::Error;
use crate::tier::Tier;
use crate::view::{HeadsMut, HeadsRef, RawTensor};
pub use append::Append;
use call::Call;
pub use keys::{Keys, Paged, Ring};
pub use merge::{KEYS_PER_STATE, states_len};
pub use options::alibi_slopes;
pub use rotary::Rotary;
pub use rule::{MaskRule, ScoreAt, ScoreRule, Tile};
pub use steps::Steps;
pub use weights::Scores;
pub use work::{Item, Work};

/// `f32`s of scratch for [`Attention::run`] of these sizes, for any number of heads and sequences and any types;
/// `usize::MAX` if that is more than fits.
///
/// For packed sequences the lengths are those of the longest; for a ring or pages `kv_len` is theirs, whatever
/// [`kv_lens`](Attention::kv_lens) says. It never falls when a size grows, so that the scratch of the largest call is
/// enough for all. The number is that of this target: one without vectors needs much less.
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
    /// The code that options need, so that a program which does not set them is without it.
    code: Code,
}

/// What is called for options that are set.
#[derive(Clone, Copy, Debug)]
struct Code {
    masks: Option<&'static seen::Masks>,
    adjust: [Option<adjust::Adjust>; adjust::STEPS],
    sink: Option<partial::Sink>,
    lengths: Option<call::Lengths>,
    packed: Option<&'static packed::Packed>,
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

impl Attention<'_> {
    /// Computes the attention.
    ///
    /// # Errors
    /// [`Error::DimMismatch`], [`Error::HeadsDoNotDivide`], [`Error::TooLarge`] for lengths and pages that are not there,
    /// [`Error::ShapeOverflow`], or [`Error::ScratchTooShort`] with less than [`attention_scratch_len`] `f32`s. The output is
    /// untouched then.
    pub fn run<Q: Elem, O: Elem>(
        &self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        out: HeadsMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let mut call = Call::unchecked(&q.raw, k.raw(), v.raw(), &out.raw);
        call.check(self, false, None)?;
        call.run(self, scratch)
    }

    /// As [`run`](Self::run), and writes the natural logarithm of the sum of each row's exponentials,
    /// `lse[(b * n_heads + h) * q_len + i] = ln Σ_t e^score(t)`: outputs over other keys are merged with it, weighted by
    /// `e^(lse - ln Σ e^lse)` each. For a merge with the bits of one call see [`partial`](Self::partial).
    /// A sink counts in the sum. It is minus infinity for a row that sees no key and has no sink.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::DimMismatch`] if `lse` is not `batch * n_heads * q_len` long.
    pub fn run_with_lse<Q: Elem, O: Elem>(
        &self,
        q: HeadsRef<'_, Q>,
        k: impl Keys,
        v: impl Keys,
        out: HeadsMut<'_, O>,
        lse: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let mut call = Call::unchecked(&q.raw, k.raw(), v.raw(), &out.raw);
        call.check(self, false, Some((lse, partial::log_sum)))?;
        call.run(self, scratch)
    }
}

/// Query heads that share a key head; `None` where there are no heads.
///
/// # Errors
/// [`Error::HeadsDoNotDivide`].
pub(crate) fn group(n_heads: usize, n_kv_heads: usize) -> Result<Option<NonZeroUsize>, Error> {
    if n_heads.checked_rem(n_kv_heads).unwrap_or(n_heads) != 0 {
        return Err(Error::HeadsDoNotDivide { n_heads, n_kv_heads });
    }
    Ok(n_heads.checked_div(n_kv_heads).and_then(NonZeroUsize::new))
}
