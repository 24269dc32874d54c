//! A call of [`Attention`] as a value: operands, options, and the same with an option left out.

use std::rc::Rc;

use crate::case::Stop;
use crate::common::buffer::{Buffer, Kind, Typed};
use crate::common::nan_scratch;
use crate::with_type;
use qkv::{
    Attention, Elem, Error, HeadsMut, HeadsRef, MaskRule, ScoreRule, Scores, TensorMut, TensorRef, Tier,
    attention_scratch_len,
};

/// How heads lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[batch, len, heads, head_dim]`.
    TokenMajor,
    /// `[batch, heads, len, head_dim]`.
    HeadMajor,
}

/// Heads of Q, K or V.
#[derive(Clone, Debug)]
pub struct View {
    pub buffer: Buffer,
    pub order: Order,
    pub batch: usize,
    pub len: usize,
    pub n_heads: usize,
    pub head_dim: usize,
}

impl View {
    fn heads<T: Typed>(&self) -> Result<HeadsRef<'_, T>, Error> {
        let (elements, View { batch, len, n_heads, head_dim, .. }) = (T::slice(&self.buffer), self);
        match self.order {
            Order::TokenMajor => HeadsRef::batch_token_major(elements, *batch, *len, *n_heads, *head_dim),
            Order::HeadMajor => HeadsRef::batch_head_major(elements, *batch, *len, *n_heads, *head_dim),
        }
    }

    fn heads_mut<T: Typed>(&mut self) -> Result<HeadsMut<'_, T>, Error> {
        let View { buffer, order, batch, len, n_heads, head_dim } = self;
        let elements = T::slice_mut(buffer);
        match order {
            Order::TokenMajor => HeadsMut::batch_token_major(elements, *batch, *len, *n_heads, *head_dim),
            Order::HeadMajor => HeadsMut::batch_head_major(elements, *batch, *len, *n_heads, *head_dim),
        }
    }

    fn index(&self, b: usize, h: usize, t: usize) -> usize {
        let row = match self.order {
            Order::TokenMajor => (b * self.len + t) * self.n_heads + h,
            Order::HeadMajor => (b * self.n_heads + h) * self.len + t,
        };
        row * self.head_dim
    }

    /// Head-major: the tokens of `past`, and behind them those of `self`.
    pub fn behind(&self, past: Option<&View>) -> Result<View, Stop> {
        let kind = self.buffer.kind();
        let same = |past: &View| {
            (past.batch, past.n_heads, past.head_dim, past.buffer.kind())
                == (self.batch, self.n_heads, self.head_dim, kind)
        };
        if past.is_some_and(|past| !same(past)) {
            return Err("past and new keys or values do not go together".into());
        }
        let len = self.len + past.map_or(0, |past| past.len);
        let buffer = Buffer::new(kind, self.batch * self.n_heads * len * self.head_dim);
        let mut all = View { buffer, order: Order::HeadMajor, len, ..self.clone() };
        for (b, h) in (0..self.batch).flat_map(|b| (0..self.n_heads).map(move |h| (b, h))) {
            let parts = past.into_iter().chain([self]);
            let tokens = parts.flat_map(|part| (0..part.len).map(move |t| (part, part.index(b, h, t))));
            for (t, (part, from)) in tokens.enumerate() {
                let to = all.index(b, h, t);
                for d in 0..self.head_dim {
                    all.buffer.set_bits(to + d, part.buffer.bits(from + d));
                }
            }
        }
        Ok(all)
    }
}

/// Something for each sequence, head, query and key; the first three may have the size 1.
#[derive(Clone, Debug)]
pub struct Table<T> {
    pub values: T,
    pub sizes: [usize; 4],
}

/// The names of all options.
pub const OPTIONS: [&str; 11] = [
    "scale",
    "softcap",
    "causal",
    "window",
    "offset",
    "kv_lens",
    "mask",
    "bias",
    "alibi",
    "mask_rule",
    "score_rule",
];

/// Operands and options of a call.
#[derive(Clone, Debug)]
pub struct Setup {
    pub q: View,
    pub k: View,
    pub v: View,
    pub scale: Option<f32>,
    pub softcap: Option<f32>,
    pub causal: bool,
    /// Keys before a query's own and behind it.
    pub window: Option<(usize, usize)>,
    pub offset: Option<isize>,
    pub kv_lens: Option<Vec<usize>>,
    pub mask: Option<Table<Vec<bool>>>,
    pub bias: Option<Table<Buffer>>,
    pub alibi: Option<Vec<f32>>,
    pub mask_rule: Option<Rc<dyn MaskRule>>,
    pub score_rule: Option<Rc<dyn ScoreRule>>,
}

impl Setup {
    /// Without options.
    pub fn new(q: View, k: View, v: View) -> Setup {
        Setup {
            q,
            k,
            v,
            scale: None,
            softcap: None,
            causal: false,
            window: None,
            offset: None,
            kv_lens: None,
            mask: None,
            bias: None,
            alibi: None,
            mask_rule: None,
            score_rule: None,
        }
    }

    fn options(&self, tier: Tier) -> Result<Attention<'_>, Error> {
        let mut options = Attention::new().tier(tier);
        if let Some(scale) = self.scale {
            options = options.scale(scale);
        }
        if let Some(cap) = self.softcap {
            options = options.softcap(cap);
        }
        if self.causal {
            options = options.causal();
        }
        if let Some((before, after)) = self.window {
            options = options.window(before, after);
        }
        if let Some(offset) = self.offset {
            options = options.offset(offset);
        }
        if let Some(lens) = &self.kv_lens {
            options = options.kv_lens(lens);
        }
        if let Some(mask) = &self.mask {
            options = options.mask(TensorRef::new(&mask.values, mask.sizes)?);
        }
        if let Some(bias) = &self.bias {
            with_type!(bias.values.kind(), B => {
                options = options.bias(TensorRef::new(B::slice(&bias.values), bias.sizes)?);
            });
        }
        if let Some(slopes) = &self.alibi {
            options = options.alibi(slopes);
        }
        if let Some(rule) = &self.mask_rule {
            options = options.mask_rule(&**rule);
        }
        if let Some(rule) = &self.score_rule {
            options = options.score_rule(&**rule);
        }
        Ok(options)
    }

    fn scratch(&self) -> Vec<f32> {
        nan_scratch(attention_scratch_len(self.q.len, self.k.len, self.q.head_dim, self.v.head_dim))
    }

    /// The output, with heads as in Q, and the log-sum-exps. Without those the output must be the same.
    pub fn run(&self, tier: Tier, kind: Kind) -> Result<(Buffer, Vec<f32>), Stop> {
        let View { batch, len, n_heads, .. } = self.q;
        let rows = batch * len * n_heads;
        let buffer = Buffer::new(kind, rows * self.v.head_dim);
        let mut out = View { buffer, head_dim: self.v.head_dim, ..self.q.clone() };
        let (mut plain, mut lse) = (out.clone(), vec![f32::NAN; rows]);
        with_type!(self.q.buffer.kind(), Q => with_type!(kind, O => {
            self.run_as::<Q, O>(tier, out.heads_mut()?, Some(&mut lse))?;
            self.run_as::<Q, O>(tier, plain.heads_mut()?, None)?;
        }));
        let bits = |view: &View| (0..view.buffer.len()).map(|i| view.buffer.bits(i)).collect::<Vec<_>>();
        crate::common::same_bits(kind, &bits(&plain), &bits(&out))?;
        Ok((out.buffer, lse))
    }

    fn run_as<Q: Typed, O: Elem>(
        &self,
        tier: Tier,
        out: HeadsMut<'_, O>,
        lse: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        let (options, q, scratch) = (self.options(tier)?, self.q.heads::<Q>()?, &mut self.scratch());
        with_type!(self.k.buffer.kind(), K => with_type!(self.v.buffer.kind(), V => {
            let (k, v) = (self.k.heads::<K>()?, self.v.heads::<V>()?);
            match lse {
                Some(lse) => options.run_with_lse(q, k, v, out, lse, scratch),
                None => options.run(q, k, v, out, scratch),
            }
        }))
    }

    /// The scores `[batch, heads, queries, keys]`.
    pub fn scores(&self, tier: Tier, which: Scores, kind: Kind) -> Result<Buffer, Stop> {
        let View { batch, len, n_heads, .. } = self.q;
        let sizes = [batch, n_heads, len, self.k.len];
        let mut out = Buffer::new(kind, sizes.iter().product());
        let (options, scratch) = (self.options(tier)?, &mut self.scratch());
        with_type!(self.q.buffer.kind(), Q => with_type!(self.k.buffer.kind(), K => with_type!(kind, O => {
            let out = TensorMut::new(O::slice_mut(&mut out), sizes)?;
            options.scores(self.q.heads::<Q>()?, self.k.heads::<K>()?, which, (0..n_heads, 0..len), out, scratch)?;
        })));
        Ok(out)
    }

    /// The same call without each of the [`OPTIONS`] that it has.
    pub fn weaker(&self) -> Vec<(&'static str, Setup)> {
        let without = OPTIONS.into_iter().map(|option| (option, self.without(option)));
        without.filter_map(|(option, weaker)| Some((option, weaker?))).collect()
    }

    fn without(&self, option: &str) -> Option<Setup> {
        let mut weaker = self.clone();
        let had = match option {
            "scale" => weaker.scale.take().is_some(),
            "softcap" => weaker.softcap.take().is_some(),
            "causal" => core::mem::take(&mut weaker.causal),
            "window" => weaker.window.take().is_some(),
            "offset" => weaker.offset.take().is_some(),
            "kv_lens" => weaker.kv_lens.take().is_some(),
            "mask" => weaker.mask.take().is_some(),
            "bias" => weaker.bias.take().is_some(),
            "alibi" => weaker.alibi.take().is_some(),
            "mask_rule" => weaker.mask_rule.take().is_some(),
            "score_rule" => weaker.score_rule.take().is_some(),
            other => unreachable!("the option {other}"),
        };
        had.then_some(weaker)
    }
}
