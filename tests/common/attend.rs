//! An attention call as a value: random or fuzzed, run on any tier, checked against both twins.

use core::ops::Range;

use super::buffer::Kind;
use super::heads::{Heads, Order};
use super::options::{Layout, Options, Placed};
use super::reference::{self, Extra, Row};
use super::{GUARD, Rng, bits, nan_scratch, same_bits, tiers};
use crate::with_type;
use qkv::{Attention, Error, Keys, Scores, TensorMut, Tier, attention_scratch_len};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causal {
    No,
    BottomRight,
    Offset(isize),
    /// Not causal, but windows count from there.
    Free(isize),
}

/// Every key.
pub const ALL: (usize, usize) = (usize::MAX, usize::MAX);

/// Sizes, types, orders in memory and options.
#[derive(Clone, Debug)]
pub struct Shape {
    pub q_len: usize,
    pub kv_len: usize,
    pub n_kv_heads: usize,
    /// Query heads of each key head.
    pub group: usize,
    pub head_dim: usize,
    pub v_head_dim: usize,
    pub causal: Causal,
    /// Keys before a query's own and behind it.
    pub window: (usize, usize),
    /// Linear biases, sinks.
    pub alibi: bool,
    pub sinks: bool,
    /// A seed of random options; none without it.
    pub options: Option<u64>,
    pub scale: Option<f32>,
    /// Of Q, K, V and the output.
    pub kinds: [Kind; 4],
    pub orders: [Order; 4],
    pub seed: u64,
}

impl Shape {
    /// One head of `f32`.
    pub fn plain(q_len: usize, kv_len: usize, head_dim: usize, seed: u64) -> Shape {
        Shape {
            q_len,
            kv_len,
            n_kv_heads: 1,
            group: 1,
            head_dim,
            v_head_dim: head_dim,
            causal: Causal::No,
            window: ALL,
            alibi: false,
            sinks: false,
            options: None,
            scale: None,
            kinds: [Kind::F32; 4],
            orders: [Order::TokenMajor; 4],
            seed,
        }
    }

    /// Everything but the lengths at random.
    pub fn random(q_len: usize, kv_len: usize, seed: u64) -> Shape {
        let mut rng = Rng::new(seed);
        let (n_kv_heads, group) = rng.pick(&[(1, 1), (2, 1), (1, 2), (2, 3), (1, 8), (3, 1), (2, 4)]);
        let dims = [1, 2, 5, 8, 16, 17, 40, 64, 72, 131];
        let head_dim = rng.pick(&dims);
        let v_head_dim = if rng.below(2) == 0 { head_dim } else { rng.pick(&dims) };
        let offset = rng.below(kv_len + 9) as isize - 4 - rng.below(q_len + 1) as isize;
        let causal =
            rng.pick(&[Causal::No, Causal::BottomRight, Causal::Offset(offset), Causal::Free(offset)]);
        let mut side = || rng.pick(&[0, 1, 5, 40, 100, usize::MAX, usize::MAX]);
        let window = (side(), side());
        let scale = rng.pick(&[None, None, Some(1.0), Some(-0.7), Some(3.0)]);
        let kinds = [(); 4].map(|()| rng.pick(&Kind::ALL));
        let orders = [(); 4].map(|()| Order::random(&mut rng));
        let sizes = Shape { n_kv_heads, group, v_head_dim, ..Shape::plain(q_len, kv_len, head_dim, seed) };
        let (alibi, sinks) = (rng.below(3) == 0, rng.below(3) == 0);
        let options = (rng.below(2) == 0).then(|| rng.word());
        Shape { causal, window, alibi, sinks, options, scale, kinds, orders, ..sizes }
    }

    pub fn n_heads(&self) -> usize {
        self.n_kv_heads * self.group
    }

    /// Operands with random numbers: scores of a few units, so that weights differ but none is 0.
    pub fn lookup(&self) -> Lookup {
        let mut rng = Rng::new(self.seed ^ 0x5eed);
        self.lookup_of(GUARD, &mut |kind| kind.bits(2.0 * rng.unit()))
    }

    /// Operands whose bits come from `bits`. Inputs end with their slice's allocation if `guard` is 0.
    pub fn lookup_of(&self, guard: usize, bits: &mut dyn FnMut(Kind) -> u32) -> Lookup {
        let &Shape { q_len, kv_len, n_kv_heads, head_dim, v_head_dim, kinds, orders, .. } = self;
        let n_heads = self.n_heads();
        let q = Heads::with_guard(kinds[0], (q_len, n_heads, head_dim), orders[0], guard).fill_bits(bits);
        let k = Heads::with_guard(kinds[1], (kv_len, n_kv_heads, head_dim), orders[1], guard).fill_bits(bits);
        let v =
            Heads::with_guard(kinds[2], (kv_len, n_kv_heads, v_head_dim), orders[2], guard).fill_bits(bits);
        let out = Heads::new(kinds[3], (q_len, n_heads, v_head_dim), orders[3]);
        let mut rng = Rng::new(self.seed ^ 0xa11b1);
        let mut each = |used: bool, size: f32| {
            used.then(|| (0..n_heads).map(|_| size * rng.unit()).collect::<Vec<f32>>())
        };
        let (alibi, sinks) = (each(self.alibi, 0.1), each(self.sinks, 5.0));
        let &Shape { causal, window, scale, .. } = self;
        let random = |seed| Options::random(&mut Rng::new(seed), n_heads, q_len, kv_len);
        let options = self.options.map_or(Options::NONE, random);
        Lookup { q, k, v, out, causal, window, alibi, sinks, options, scale }
    }
}

/// `out = softmax(scale·Q Kᵀ) V` with its operands.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
    pub out: Heads,
    pub causal: Causal,
    /// Keys before a query's own and behind it.
    pub window: (usize, usize),
    /// A number for each query head.
    pub alibi: Option<Vec<f32>>,
    pub sinks: Option<Vec<f32>>,
    pub options: Options,
    pub scale: Option<f32>,
}

impl Lookup {
    pub fn options(&self, tier: Tier) -> Attention<'_> {
        let options = match self.causal {
            Causal::No => Attention::new(),
            Causal::BottomRight => Attention::new().causal(),
            Causal::Offset(offset) => Attention::new().causal_offset(offset),
            Causal::Free(offset) => Attention::new().offset(offset),
        };
        let options = if self.window == ALL { options } else { options.window(self.window.0, self.window.1) };
        let options = self.alibi.as_ref().map_or(options, |slopes| options.alibi(slopes));
        let options = self.sinks.as_ref().map_or(options, |sinks| options.sinks(sinks));
        let options = self.options.set(options);
        match self.scale {
            Some(scale) => options.scale(scale).tier(tier),
            None => options.tier(tier),
        }
    }

    /// The same without anything round the operands.
    pub fn bare(&self) -> Lookup {
        let (q, k, v, out) = (self.q.bare(), self.k.bare(), self.v.bare(), self.out.bare());
        Lookup { q, k, v, out, ..self.clone() }
    }

    pub fn scratch_len(&self) -> usize {
        attention_scratch_len(self.q.len, self.k.len, self.q.head_dim, self.v.head_dim)
    }

    /// Query 0's own key.
    fn offset(&self) -> i128 {
        match self.causal {
            Causal::No | Causal::BottomRight => {
                self.options.end.unwrap_or(self.k.len) as i128 - self.q.len as i128
            }
            Causal::Offset(offset) | Causal::Free(offset) => offset as i128,
        }
    }

    /// The keys that query `i` of head `h` sees.
    pub fn keys(&self, i: usize, h: usize) -> Vec<usize> {
        self.seen(i).filter(|&t| self.options.sees(h, i, t)).collect()
    }

    /// The keys that query `i` sees for its place.
    pub fn seen(&self, i: usize) -> Range<usize> {
        let (kv_len, offset) = (self.k.len as i128, self.offset());
        let causal = matches!(self.causal, Causal::BottomRight | Causal::Offset(_));
        let place = i as i128 + offset;
        let first = place - self.window.0 as i128;
        let last = if causal { place } else { place + self.window.1 as i128 };
        let [start, end] = [first, last + 1].map(|t| t.clamp(0, kv_len) as usize);
        start..end
    }

    fn kv_head(&self, h: usize) -> usize {
        h / (self.q.n_heads / self.k.n_heads.max(1)).max(1)
    }

    /// The output after the call, from scratch of the exact length that is full of NaN.
    pub fn run(&self, tier: Tier) -> Heads {
        let mut out = self.out.clone();
        self.run_into(tier, &mut out, None, &mut nan_scratch(self.scratch_len())).expect("sizes agree");
        out
    }

    /// The same with the log-sum-exps, `[n_heads][q_len]`.
    pub fn run_with_lse(&self, tier: Tier) -> (Heads, Vec<f32>) {
        let (mut out, mut lse) = (self.out.clone(), nan_scratch(self.q.n_heads * self.q.len));
        self.run_into(tier, &mut out, Some(&mut lse), &mut nan_scratch(self.scratch_len()))
            .expect("sizes agree");
        (out, lse)
    }

    pub fn run_into(
        &self,
        tier: Tier,
        out: &mut Heads,
        lse: Option<&mut [f32]>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.run_placed(&self.placed(), tier, out, lse, scratch)
    }

    /// Keys and values where the options' layout has them, without pages of which no query sees a key for its place.
    pub fn placed(&self) -> [Option<Placed>; 2] {
        let end = self.options.end.unwrap_or(self.k.len).min(self.seen(self.q.len.saturating_sub(1)).end);
        let seen = self.seen(0).start.max(self.options.start.unwrap_or(0))..end;
        self.placed_with(if self.q.len == 0 { 0..0 } else { seen })
    }

    /// The same with the pages of these keys.
    fn placed_with(&self, keys: Range<usize>) -> [Option<Placed>; 2] {
        let [k, v] = self.options.layouts;
        [(&self.k, k), (&self.v, v)].map(|(heads, layout)| {
            (layout != Layout::Plain).then(|| Placed::new(heads, layout).with_pages_of(&keys))
        })
    }

    /// As [`placed`](Self::placed), for scores, some of which are those of all keys.
    pub fn placed_for(&self, which: Scores) -> [Option<Placed>; 2] {
        match which {
            Scores::Raw | Scores::Capped => self.placed_with(0..self.options.end.unwrap_or(self.k.len)),
            Scores::Masked | Scores::Weights => self.placed(),
        }
    }

    /// The same as a call takes them.
    pub fn sources<'a>(&'a self, [k, v]: &'a [Option<Placed>; 2]) -> [Box<dyn Keys + 'a>; 2] {
        [(&self.k, k), (&self.v, v)].map(|(heads, placed)| -> Box<dyn Keys> {
            with_type!(heads.kind(), T => match placed {
                None => Box::new(heads.view::<T>()),
                Some(placed) => placed.keys::<T>(),
            })
        })
    }

    pub fn run_placed(
        &self,
        placed: &[Option<Placed>; 2],
        tier: Tier,
        out: &mut Heads,
        lse: Option<&mut [f32]>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let (options, [k, v]) = (self.options(tier), self.sources(placed));
        with_type!(self.q.kind(), Q => with_type!(out.kind(), O => {
            let (q, out) = (self.q.view::<Q>(), out.view_mut::<O>());
            match lse {
                None => options.run(q, &*k, &*v, out, scratch),
                Some(lse) => options.run_with_lse(q, &*k, &*v, out, lse, scratch),
            }
        }))
    }

    /// Scores of all heads and queries, `[n_heads][q_len][kv_len]`.
    pub fn scores(&self, tier: Tier, which: Scores) -> Vec<f32> {
        let (heads, queries, keys) = (self.q.n_heads, self.q.len, self.k.len);
        let mut numbers = nan_scratch(heads * queries * keys);
        let mut scratch = nan_scratch(attention_scratch_len(queries, keys, self.q.head_dim, 0));
        let placed = self.placed_for(which);
        let [k, _] = self.sources(&placed);
        let out = TensorMut::new(&mut numbers, [1, heads, queries, keys]).expect("as many numbers");
        with_type!(self.q.kind(), Q => {
            self.options(tier).scores(self.q.view::<Q>(), &*k, which, (0..heads, 0..queries), out, &mut scratch)
        })
        .expect("sizes agree");
        numbers
    }

    /// Every tier: guards, the `f64` bound and the bit model, of output and log-sum-exps.
    pub fn check(&self) -> Result<(), String> {
        let expected = self.expected();
        let mut models = [None, None];
        for tier in tiers() {
            let fused = tier.is_fused();
            let model = models[usize::from(fused)].get_or_insert_with(|| self.models(fused));
            let (out, lse) = self.run_with_lse(tier);
            self.check_result(&out, &lse, &expected, model)
                .map_err(|message| format!("{tier}: {message}"))?;
        }
        Ok(())
    }

    pub fn check_result(
        &self,
        out: &Heads,
        lse: &[f32],
        expected: &[Row],
        models: &[(Vec<f32>, f32)],
    ) -> Result<(), String> {
        out.check_guards(&self.out)?;
        let kind = out.kind();
        for (row, &lse) in lse.iter().enumerate() {
            let (h, i) = (row / self.q.len, row % self.q.len);
            let place = |m: String| format!("query {i}, head {h}, keys {:?}: {m}", self.keys(i, h));
            for (j, expected) in expected[row].out.iter().enumerate() {
                expected.check(kind, out.get(i, h, j)).map_err(|m| place(format!("feature {j}: {m}")))?;
            }
            expected[row].lse.check(Kind::F32, lse).map_err(|m| place(format!("lse: {m}")))?;
            let (model, model_lse) = &models[row];
            let model: Vec<u32> = model.iter().map(|&x| kind.bits(x)).collect();
            same_bits(kind, &out.token_bits(i, h), &model)
                .map_err(|m| place(format!("against the model, {m}")))?;
            same_bits(Kind::F32, &[lse.to_bits()], &[model_lse.to_bits()])
                .map_err(|m| place(format!("lse, {m}")))?;
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.q.n_heads).flat_map(|h| (0..self.q.len).map(move |i| (i, h)))
    }

    /// All rows as `f64` has them, `[n_heads][q_len]`.
    pub fn expected(&self) -> Vec<Row> {
        let scale = match self.scale {
            Some(scale) => f64::from(scale),
            None if self.q.head_dim == 0 => 1.0,
            None => 1.0 / (self.q.head_dim as f64).sqrt(),
        };
        let (q, k, v) = (&self.q, &self.k, &self.v);
        self.rows()
            .map(|(i, h)| {
                let extra = self.extra(i, h);
                let keys = self.keys(i, h);
                reference::attention_row((q, k, v), (i, h), self.kv_head(h), &keys, scale, &extra)
            })
            .collect()
    }

    /// All rows as the model has them, `[n_heads][q_len]`.
    pub fn models(&self, fused: bool) -> Vec<(Vec<f32>, f32)> {
        self.rows().map(|(i, h)| self.model(fused, i, h)).collect()
    }

    /// The row of query `i` of head `h` before it is rounded, and its log-sum-exp.
    pub fn model(&self, fused: bool, i: usize, h: usize) -> (Vec<f32>, f32) {
        let (operands, scale) = ((&self.q, &self.k, &self.v), self.scale_used());
        let extra = self.extra(i, h);
        bits::attention_row(fused, operands, (i, h), self.kv_head(h), &self.keys(i, h), scale, &extra)
    }

    /// The scores of query `i` of head `h` as the model has them, a number for each key.
    pub fn scores_model(&self, fused: bool, which: Scores, i: usize, h: usize) -> Vec<f32> {
        let plain = matches!(which, Scores::Raw | Scores::Capped);
        let softcap = self.options.softcap.filter(|_| which == Scores::Capped);
        let options = Options { softcap, ..Options::NONE };
        let (extra, keys) = match plain {
            true => {
                let end = self.options.end.unwrap_or(self.k.len);
                (Extra { alibi: None, sink: None, options: &options }, (0..end).collect())
            }
            false => (self.extra(i, h), self.keys(i, h)),
        };
        let (operands, scale) = ((&self.q, &self.k), self.scale_used());
        let (seen, unseen) = bits::scores_row(fused, operands, (i, h), self.kv_head(h), &keys, scale, &extra);
        let unseen = match which {
            Scores::Raw | Scores::Capped => 0.0,
            Scores::Masked => f32::NEG_INFINITY,
            Scores::Weights => unseen,
        };
        let mut row = vec![unseen; self.k.len];
        for (&t, (score, weight)) in keys.iter().zip(seen) {
            row[t] = if which == Scores::Weights { weight } else { score };
        }
        row
    }

    fn scale_used(&self) -> f32 {
        self.scale.unwrap_or_else(|| match self.q.head_dim {
            0 => 1.0,
            d => 1.0 / libm::sqrtf(d as f32),
        })
    }

    /// Slope and place of query `i` of head `h`, and the head's sink.
    fn extra(&self, i: usize, h: usize) -> Extra<'_> {
        let place = (i as i128 + self.offset()) as f32;
        let alibi = self.alibi.as_ref().map(|slopes| (slopes[h], place));
        Extra { alibi, sink: self.sinks.as_ref().map(|sinks| sinks[h]), options: &self.options }
    }

    /// The same call for some of the query heads and queries.
    pub fn options_of(mut self, heads: Range<usize>, rows: Range<usize>) -> Lookup {
        for option in [&mut self.alibi, &mut self.sinks] {
            *option = option.as_ref().map(|of| of[heads.clone()].to_vec());
        }
        self.options = self.options.part(heads, rows);
        self
    }
}
