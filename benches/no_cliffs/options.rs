//! The options, each as a call on the operands of the plain one.

use std::hint::black_box;

use super::Case;
use super::common::{Number, Shape, numbers};
use qkv::{Attention, HeadsMut, HeadsRef, Keys, MaskRule, Paged, Ring, ScoreAt, TensorMut, TensorRef, Tier};
use qkv::{Tile, alibi_slopes, attention_scratch_len, bf16, f16};

/// No head has more features than this: what operands have room for.
const WIDEST: usize = 144;

/// A call; where it writes is the same for all.
pub type Call = Box<dyn FnMut(&mut Memory)>;

pub struct Memory {
    out: Vec<f32>,
    scratch: Vec<f32>,
}

/// Prefill or decode: the sizes, the operands and the calls. Operands live as long as the process.
pub struct Setting {
    pub shape: Shape,
    pub plain: Attention<'static>,
    q: &'static [f32],
    k: &'static [f32],
    v: &'static [f32],
    pub memory: Memory,
}

impl Setting {
    pub fn new(shape: Shape, tier: Tier) -> Setting {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, .. } = shape;
        let q = numbers::<f32>(q_len * n_heads * WIDEST, 1).leak();
        let [k, v] = [2, 3].map(|seed| &*numbers::<f32>(kv_len * n_kv_heads * WIDEST, seed).leak());
        let scratch = vec![0.0; attention_scratch_len(q_len, kv_len, WIDEST, WIDEST)];
        let memory = Memory { out: vec![0.0; q_len * n_heads * WIDEST], scratch };
        Setting { shape, plain: Attention::new().tier(tier), q, k, v, memory }
    }

    fn queries(&self, head_dim: usize) -> HeadsRef<'static, f32> {
        HeadsRef::token_major(self.q, self.shape.q_len, self.shape.n_heads, head_dim).unwrap()
    }

    /// Keys or values.
    fn keys<T: Number>(&self, x: &'static [T], head_dim: usize) -> HeadsRef<'static, T> {
        HeadsRef::token_major(x, self.shape.kv_len, self.shape.n_kv_heads, head_dim).unwrap()
    }

    /// The plain operands with other options.
    pub fn with(&self, options: Attention<'static>) -> Call {
        let d = self.shape.head_dim;
        call(options, self.queries(d), self.keys(self.k, d), self.keys(self.v, d), d)
    }

    /// Every option; one that makes no sense in decode is left out there.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = vec![Case::new("plain, as a control", self.with(self.plain))];
        cases.extend(self.places());
        cases.extend(self.masks());
        cases.extend(self.scores());
        cases.extend(self.types());
        cases.extend(self.sizes());
        cases.extend(self.layouts());
        cases.extend(self.outputs());
        cases
    }

    /// The share of the keys that are seen, where query `i` stands at `i + offset`.
    fn seen(&self, offset: usize, (before, after): (usize, usize)) -> f64 {
        let Shape { q_len, kv_len, .. } = self.shape;
        let seen = (offset..offset + q_len).map(|place| {
            let end = place.saturating_add(after).saturating_add(1).min(kv_len);
            end.saturating_sub(place.saturating_sub(before))
        });
        seen.sum::<usize>() as f64 / (q_len * kv_len) as f64
    }

    /// Keys that are seen by their place: what is not seen is not computed.
    fn places(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, .. } = self.shape;
        let (plain, own, all) = (self.plain, kv_len - q_len, usize::MAX);
        let (side, some) = (kv_len / 8, kv_len * 5 / 8 + 3);
        let middle = own / 2;
        let documents: &'static Documents = Box::leak(Box::new(Documents(kv_len / 4)));
        let mut cases = vec![
            Case::new("causal", self.with(plain.causal())).work(self.seen(own, (all, 0))),
            Case::new(
                "causal, with an offset",
                self.with(plain.causal_offset((own - own / 4) as isize + 100)),
            )
            .work(self.seen(own - own / 4 + 100, (all, 0))),
            Case::new("window on both sides", self.with(plain.offset(middle as isize).window(side, side)))
                .work(self.seen(middle, (side, side))),
            Case::new("`kv_lens`", self.with(plain.kv_lens(vec![some].leak())))
                .work(some as f64 / kv_len as f64),
            Case::new("`kv_starts`", self.with(plain.kv_starts(vec![kv_len - some].leak())))
                .work(some as f64 / kv_len as f64),
            Case::new("mask rule with tiles, 4 documents", self.with(plain.mask_rule(documents))).work(0.25),
        ];
        if q_len == kv_len {
            let offsets: &[usize] = (0..=4).map(|b| b * kv_len / 4).collect::<Vec<_>>().leak();
            let packed = self.with(plain.q_offsets(offsets).kv_offsets(offsets));
            cases.push(Case::new("4 packed sequences", packed).work(0.25));
        }
        cases
    }

    /// Masks that say nothing of whole blocks: all keys count as work.
    fn masks(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, n_heads, .. } = self.shape;
        let (plain, len) = (self.plain, q_len * kv_len);
        let half = numbers::<f32>(n_heads * len, 4);
        let half: &'static [bool] = half.iter().map(|&x| x > 0.0).collect::<Vec<_>>().leak();
        let all: &'static [bool] = vec![true; len].leak();
        let bits =
            half[..len].chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, &x| byte << 1 | u8::from(x)));
        let bits: &'static [u8] = bits.collect::<Vec<_>>().leak();
        let mask = |mask: &'static [bool], heads| {
            let mask = TensorRef::new(mask, [1, heads, q_len, kv_len]).unwrap();
            self.with(plain.mask(mask))
        };
        let bits = TensorRef::new(bits, [1, 1, q_len, kv_len / 8]).unwrap();
        vec![
            Case::new("bool mask, random half", mask(half, 1)).moves(len),
            Case::new("the same for each head", mask(half, n_heads)).moves(n_heads * len),
            Case::new("bool mask, all true", mask(all, 1)).moves(len),
            Case::new("bit mask, random half", self.with(plain.mask_bits(bits))).moves(len / 8),
            Case::new("mask rule", self.with(plain.mask_rule(&|query, key| (query ^ key) & 3 != 0))),
        ]
    }

    /// What else a score is made of.
    fn scores(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, n_heads, .. } = self.shape;
        let (plain, len) = (self.plain, q_len * kv_len);
        let single: &'static [f32] = numbers(n_heads * len, 5).leak();
        let half: &'static [f16] = numbers(n_heads * len, 5).leak();
        let holes = |&x: &f32| if x > 0.0 { x } else { f32::NEG_INFINITY };
        let holes: &'static [f32] = single[..len].iter().map(holes).collect::<Vec<_>>().leak();
        let mut slopes = vec![0.0; n_heads];
        alibi_slopes(&mut slopes);
        let slopes: &'static [f32] = slopes.leak();
        let sinks: &'static [f32] = numbers(n_heads, 6).leak();
        let slope = slopes[0];
        let distance = move |score: f32, at: ScoreAt| score - slope * (at.query - at.key).abs() as f32;
        let distance: &'static _ = Box::leak(Box::new(distance));
        let recent = kv_len / 4;
        let composed = plain.causal().window(recent - 1, 0).softcap(20.0).alibi(slopes).sinks(sinks);
        vec![
            self.bias("bias f32 for each head", single, n_heads, q_len),
            self.bias("bias f32 for all heads", single, 1, q_len),
            self.bias("bias f32 for all queries", single, n_heads, 1),
            self.bias("bias f16 for each head", half, n_heads, q_len),
            self.bias("bias f16 for all heads", half, 1, q_len),
            self.bias("bias with minus infinity, random half", holes, 1, q_len),
            Case::new("`scale`", self.with(plain.scale(0.1))),
            Case::new("`softcap`", self.with(plain.softcap(20.0))),
            Case::new("`alibi`", self.with(plain.alibi(slopes))),
            Case::new("`sinks`", self.with(plain.sinks(sinks))),
            Case::new("score rule", self.with(plain.score_rule(distance))),
            Case::new("causal, window, softcap, alibi, sinks", self.with(composed))
                .work(self.seen(kv_len - q_len, (recent - 1, 0))),
        ]
    }

    fn bias<T: Number>(&self, name: &str, bias: &'static [T], heads: usize, queries: usize) -> Case {
        let bytes = heads * queries * self.shape.kv_len * size_of::<T>();
        let bias = TensorRef::new(bias, [1, heads, queries, self.shape.kv_len]).unwrap();
        Case::new(name, self.with(self.plain.bias(bias))).moves(bytes)
    }

    fn types(&self) -> Vec<Case> {
        let d = self.shape.head_dim;
        vec![
            self.kv_type::<f16>(d),
            self.kv_type::<bf16>(d),
            self.out_type::<f16>(d),
            self.out_type::<bf16>(d),
        ]
    }

    fn kv_type<T: Number>(&self, d: usize) -> Case {
        let [k, v] = [2, 3].map(|seed| self.keys(numbers::<T>(self.shape.kv_elements(), seed).leak(), d));
        Case::new(format!("K and V in {}", T::NAME), call(self.plain, self.queries(d), k, v, d))
    }

    fn out_type<T: Number>(&self, d: usize) -> Case {
        let Shape { q_len, n_heads, .. } = self.shape;
        let (options, q, k, v) = (self.plain, self.queries(d), self.keys(self.k, d), self.keys(self.v, d));
        let mut out = vec![T::of(0.0); q_len * n_heads * d];
        let run = move |memory: &mut Memory| {
            let out = HeadsMut::token_major(black_box(&mut out), q_len, n_heads, d).unwrap();
            options.run(q, k, v, out, &mut memory.scratch).unwrap();
        };
        Case::new(format!("output in {}", T::NAME), Box::new(run))
    }

    /// Other sizes than the plain call's: as much time for each multiply-add is 1.
    fn sizes(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim: d, .. } = self.shape;
        let size = |head_dim, v_head_dim| {
            let (k, v) = (self.keys(self.k, head_dim), self.keys(self.v, v_head_dim));
            let name = match head_dim == v_head_dim {
                true => format!("`head_dim` {head_dim}"),
                false => {
                    format!("`v_head_dim` {} `head_dim`", if v_head_dim > head_dim { "2 x" } else { "half" })
                }
            };
            let call = call(self.plain, self.queries(head_dim), k, v, v_head_dim);
            Case::new(name, call).work((head_dim + v_head_dim) as f64 / (2 * d) as f64)
        };
        let mut cases = vec![size(64, 128), size(128, 64), size(80, 80), size(72, 72), size(65, 65)];
        if q_len > 1 {
            let kv = |x| HeadsRef::token_major(x, kv_len, n_kv_heads / 4, d).unwrap();
            let call = call(self.plain, self.queries(d), kv(self.k), kv(self.v), d);
            cases.push(Case::new(format!("{n_heads} heads on {}", n_kv_heads / 4), call));
        }
        cases
    }

    /// The plain operands' memory read in another way.
    fn layouts(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim: d, .. } = self.shape;
        let (plain, queries) = (self.plain, self.queries(d));
        let apart = |x| HeadsRef::with_strides(x, kv_len, n_kv_heads, d, n_kv_heads * d + 16, d).unwrap();
        let ring = |x| Ring::new(self.keys(x, d), kv_len / 3, kv_len).unwrap();
        let heads = |x, len, n_heads| HeadsRef::head_major(x, len, n_heads, d).unwrap();
        let [q, k, v] =
            [(self.q, q_len, n_heads), (self.k, kv_len, n_kv_heads), (self.v, kv_len, n_kv_heads)]
                .map(|(x, len, n_heads)| heads(x, len, n_heads));
        let head_major = move |memory: &mut Memory| {
            let out = black_box(&mut memory.out);
            let out = HeadsMut::head_major(out, q_len, n_heads, d).unwrap();
            plain.run(q, k, v, out, &mut memory.scratch).unwrap();
        };
        let mut cases = vec![
            Case::new("heads outermost", Box::new(head_major)),
            Case::new(
                "16 unused places after each token",
                call(plain, queries, apart(self.k), apart(self.v), d),
            ),
            Case::new("ring", call(plain, queries, ring(self.k), ring(self.v), d)),
        ];
        for size in [16, 64, 256] {
            let order = numbers::<f32>(kv_len / size, 7);
            let mut table: Vec<u32> = (0..(kv_len / size) as u32).collect();
            table.sort_by(|&a, &b| order[a as usize].total_cmp(&order[b as usize]));
            let table: &'static [u32] = table.leak();
            let pages = |x| {
                let pool = HeadsRef::batch_token_major(x, kv_len / size, size, n_kv_heads, d).unwrap();
                Paged::new(pool, table, 1, kv_len).unwrap()
            };
            let call = call(plain, queries, pages(self.k), pages(self.v), d);
            cases.push(Case::new(format!("pages of {size}, in any order"), call));
        }
        cases
    }

    fn outputs(&self) -> Vec<Case> {
        let Shape { q_len, kv_len, n_heads, head_dim: d, .. } = self.shape;
        let (plain, q, k, v) = (self.plain, self.queries(d), self.keys(self.k, d), self.keys(self.v, d));
        let mut lse = vec![0.0; n_heads * q_len];
        let with_lse = move |memory: &mut Memory| {
            let out = HeadsMut::token_major(&mut memory.out, q_len, n_heads, d).unwrap();
            plain.run_with_lse(q, k, v, out, black_box(&mut lse), &mut memory.scratch).unwrap();
        };
        let mut weights = vec![0.0_f32; n_heads * q_len * kv_len];
        let bytes = size_of_val(&*weights);
        let only_weights = move |memory: &mut Memory| {
            let out = TensorMut::new(black_box(&mut weights), [1, n_heads, q_len, kv_len]).unwrap();
            plain.weights(q, k, out, &mut memory.scratch).unwrap();
        };
        vec![
            Case::new("with log-sum-exps", Box::new(with_lse)),
            Case::new("`weights`, written", Box::new(only_weights)).moves(bytes),
        ]
    }
}

fn call<K: Keys + Copy + 'static>(
    options: Attention<'static>,
    q: HeadsRef<'static, f32>,
    k: K,
    v: K,
    v_head_dim: usize,
) -> Call {
    Box::new(move |memory| {
        let out = black_box(&mut memory.out);
        let out = HeadsMut::token_major(out, q.len(), q.n_heads(), v_head_dim).unwrap();
        options.run(q, k, v, out, &mut memory.scratch).unwrap();
    })
}

/// Documents of so many tokens each.
struct Documents(usize);

impl MaskRule for Documents {
    fn sees(&self, query: usize, key: usize) -> bool {
        query / self.0 == key / self.0
    }

    fn tile(&self, queries: std::ops::Range<usize>, keys: std::ops::Range<usize>) -> Tile {
        let of = |tokens: std::ops::Range<usize>| (tokens.start / self.0, (tokens.end - 1) / self.0);
        let ((first, last), (from, to)) = (of(queries), of(keys));
        if last < from || to < first {
            Tile::Skip
        } else if first == last && from == to {
            Tile::Full
        } else {
            Tile::Partial
        }
    }
}
