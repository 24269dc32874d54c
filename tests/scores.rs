//! The scores and weights that a call writes have the bits of the model, for every kind of them, type and
//! tier, whichever heads and queries are wanted; and nothing else is written.
#![cfg(feature = "half")]

mod common;

use core::ops::Range;

use common::attend::{Causal, Lookup, Shape};
use common::buffer::{Buffer, Kind, Typed};
use common::heads::Order;
use common::options::{Given, Mask, Options, Table};
use common::{GUARD, Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{Attention, Error, HeadsRef, Scores, TensorMut, Tier, attention_scratch_len};

const ALL: [Scores; 4] = [Scores::Raw, Scores::Capped, Scores::Masked, Scores::Weights];

/// Which of a call's scores are wanted, and of which type.
#[derive(Clone, Debug)]
struct Wanted {
    which: Scores,
    kind: Kind,
    heads: Range<usize>,
    queries: Range<usize>,
    /// Unused places behind each query, and behind each head.
    gaps: (usize, usize),
}

impl Wanted {
    fn all(lookup: &Lookup, which: Scores, kind: Kind) -> Wanted {
        Wanted { which, kind, heads: 0..lookup.q.n_heads, queries: 0..lookup.q.len, gaps: (0, 0) }
    }

    /// Some of the heads and queries.
    fn some(lookup: &Lookup, which: Scores, kind: Kind, rng: &mut Rng) -> Wanted {
        let mut part = |n: usize| {
            let from = rng.below(n);
            from..from + 1 + rng.below(n - from)
        };
        let (heads, queries) = (part(lookup.q.n_heads), part(lookup.q.len));
        Wanted { which, kind, heads, queries, gaps: (rng.pick(&[0, 1, 7]), rng.pick(&[0, 3])) }
    }

    fn strides(&self, keys: usize) -> [usize; 2] {
        let query = keys + self.gaps.0;
        [self.queries.len() * query + self.gaps.1, query]
    }

    /// What the call writes, a row after the other; that it writes nothing else.
    fn scores(&self, lookup: &Lookup, tier: Tier) -> Result<Vec<u32>, String> {
        let keys = lookup.k.len;
        let [head, query] = self.strides(keys);
        let len = (self.heads.len() - 1) * head + (self.queries.len() - 1) * query + keys;
        let before = Buffer::new(self.kind, len + 2 * GUARD);
        let mut after = before.clone();
        let sizes = [1, self.heads.len(), self.queries.len(), keys];
        let mut scratch = nan_scratch(attention_scratch_len(lookup.q.len, keys, lookup.q.head_dim, 0));
        let placed = lookup.placed_for(self.which);
        let [k, _] = lookup.sources(&placed);
        with_type!(lookup.q.kind(), Q => with_type!(self.kind, O => {
            let out = &mut O::slice_mut(&mut after)[GUARD..GUARD + len];
            let out = TensorMut::with_strides(out, sizes, [0, head, query]).expect("a valid tensor");
            let (q, options) = (lookup.q.view::<Q>(), lookup.options(tier));
            let (heads, queries, scratch) = (self.heads.clone(), self.queries.clone(), &mut scratch);
            options.scores(q, &*k, self.which, (heads, queries), out, scratch)
        }))
        .map_err(|error| error.to_string())?;
        let rows = (0..self.heads.len()).flat_map(|h| (0..self.queries.len()).map(move |i| (h, i)));
        let places = rows.flat_map(|(h, i)| (0..keys).map(move |t| GUARD + h * head + i * query + t));
        after.check_untouched(&before, places.clone())?;
        Ok(places.map(|at| after.bits(at)).collect())
    }

    /// Every tier against the model's rows, `[n_heads][q_len]`, not fused and fused.
    fn check(&self, lookup: &Lookup, models: &[Vec<Vec<f32>>; 2]) -> Result<(), String> {
        for tier in tiers() {
            let model = &models[usize::from(tier.is_fused())];
            let rows = self.heads.clone().flat_map(|h| self.queries.clone().map(move |i| (h, i)));
            let rows = rows.flat_map(|(h, i)| &model[h * lookup.q.len + i]);
            let expected: Vec<u32> = rows.map(|&x| self.kind.bits(x)).collect();
            let got = self.scores(lookup, tier).map_err(|message| format!("{tier}: {message}"))?;
            same_bits(self.kind, &got, &expected).map_err(|message| format!("{tier}: {message}"))?;
        }
        Ok(())
    }
}

/// All scores in all types, and some of them.
fn check(shape: &Shape, lookup: &Lookup, rng: &mut Rng) {
    for which in ALL {
        let rows = || (0..lookup.q.n_heads).flat_map(|h| (0..lookup.q.len).map(move |i| (h, i)));
        let models = [false, true]
            .map(|fused| rows().map(|(h, i)| lookup.scores_model(fused, which, i, h)).collect::<Vec<_>>());
        for kind in Kind::ALL {
            for wanted in [Wanted::all(lookup, which, kind), Wanted::some(lookup, which, kind, rng)] {
                expect(wanted.check(lookup, &models), (&wanted, shape));
            }
        }
    }
}

#[test]
fn scores_of_random_calls_have_the_bits_of_the_model() {
    let mut rng = Rng::new(1);
    let lens = [(1, 1), (3, 20), (9, 70), (50, 130), (97, 65), (70, 33), (1, 200), (8, 129)];
    for (q_len, kv_len) in lens.into_iter().cycle().take(48) {
        let shape = Shape::random(q_len, kv_len, rng.word());
        check(&shape, &shape.lookup(), &mut rng);
    }
}

#[test]
fn scores_past_a_chunk_have_the_bits_of_the_model() {
    let mut rng = Rng::new(2);
    for (q_len, kv_len) in [(1, 1025), (13, 1100), (2, 2100), (1, 3000)] {
        for _ in 0..3 {
            let shape = Shape { head_dim: 5, ..Shape::random(q_len, kv_len, rng.word()) };
            check(&shape, &shape.lookup(), &mut rng);
        }
    }
}

#[test]
fn scores_of_more_rows_than_share_a_block_have_the_bits_of_the_model() {
    for (causal, order) in [(Causal::No, Order::TokenMajor), (Causal::BottomRight, Order::HeadMajor)] {
        let shape = Shape {
            n_kv_heads: 2,
            causal,
            orders: [order; 4],
            window: if causal == Causal::No { common::attend::ALL } else { (70, 0) },
            ..Shape::plain(230, 250, 6, 3)
        };
        check(&shape, &shape.lookup(), &mut Rng::new(3));
    }
}

#[test]
fn scores_of_decode_steps_have_the_bits_of_the_model_for_any_heads() {
    // More heads than fill a panel; heads side by side and apart.
    let mut rng = Rng::new(4);
    for (q_len, group, n_kv_heads) in [(1, 1, 50), (1, 3, 20), (2, 4, 9), (1, 8, 8), (1, 5, 3)] {
        for order in [Order::TokenMajor, Order::HeadMajor, Order::TokensApart(1, 5)] {
            let causal = rng.pick(&[Causal::No, Causal::BottomRight]);
            let (orders, kinds) = ([order; 4], [rng.pick(&Kind::ALL); 4]);
            let (window, options) = ((rng.pick(&[90, usize::MAX]), 0), Some(rng.word()));
            let plain = Shape::plain(q_len, 150, 7, rng.word());
            let shape = Shape { n_kv_heads, group, causal, orders, kinds, window, options, ..plain };
            check(&shape, &shape.lookup(), &mut rng);
        }
    }
}

#[test]
fn scores_that_are_not_finite_have_the_bits_of_the_model() {
    let mut rng = Rng::new(5);
    for (q_len, kv_len) in [(1, 9), (5, 70), (20, 70), (60, 130), (2, 1100)] {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (causal, before) in [
                (Causal::No, usize::MAX),
                (Causal::BottomRight, usize::MAX),
                (Causal::BottomRight, kv_len / 3),
            ] {
                let (sinks, window) = (rng.below(2) == 0, (before, usize::MAX));
                let shape = Shape { causal, window, sinks, ..Shape::plain(q_len, kv_len, 3, rng.word()) };
                let mut lookup = shape.lookup();
                for t in [kv_len / 2, kv_len - 1] {
                    lookup.k.set_token(t, 0, x);
                }
                check(&shape, &lookup, &mut rng);
                // No other keys.
                (0..kv_len).for_each(|t| lookup.k.set_token(t, 0, x));
                check(&shape, &lookup, &mut rng);
            }
        }
    }
}

#[test]
fn keys_hidden_in_whole_blocks_have_the_bits_of_the_model() {
    // Blocks that no row of a panel sees, before, between and behind those that some rows see.
    let mut rng = Rng::new(6);
    for (q_len, given) in [(1, Given::Bools), (9, Given::Bits), (60, Given::Rule), (210, Given::Bits)] {
        for seen in [70..75, 130..131, 64..128, 300..400] {
            let shape = Shape { sinks: q_len == 9, ..Shape::plain(q_len, 400, 4, rng.word()) };
            let mut lookup = shape.lookup();
            let values = (0..400).map(|t| seen.contains(&t) || t == 250).collect();
            let mask = Mask::new(Table { heads: 1, rows: 1, keys: 400, values }, given);
            lookup.options = Options { masks: vec![mask], ..Options::NONE };
            check(&shape, &lookup, &mut rng);
        }
    }
}

#[test]
fn sequences_of_a_batch_have_the_scores_that_each_has_alone() {
    let (q_len, kv_len, n_kv_heads, group, head_dim) = (5, 90, 2, 2, 6);
    let (n_heads, lens) = (n_kv_heads * group, [90, 33, 0]);
    let mut rng = Rng::new(7);
    let mut numbers = |n: usize| (0..n).map(|_| 2.0 * rng.unit()).collect::<Vec<f32>>();
    let (q, k) = (numbers(3 * q_len * n_heads * head_dim), numbers(3 * kv_len * n_kv_heads * head_dim));
    let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, head_dim, 0));
    for (which, tier) in ALL.into_iter().flat_map(|which| tiers().into_iter().map(move |tier| (which, tier)))
    {
        let options = Attention::new().causal().softcap(3.0).tier(tier);
        let mut all = nan_scratch(3 * n_heads * q_len * kv_len);
        let out = TensorMut::new(&mut all, [3, n_heads, q_len, kv_len]).expect("sizes");
        let queries = HeadsRef::batch_token_major(&q, 3, q_len, n_heads, head_dim).expect("sizes");
        let keys = HeadsRef::batch_token_major(&k, 3, kv_len, n_kv_heads, head_dim).expect("sizes");
        options
            .kv_lens(&lens)
            .scores(queries, keys, which, (0..n_heads, 0..q_len), out, &mut scratch)
            .expect("sizes agree");
        for (b, len) in lens.into_iter().enumerate() {
            let mut alone = nan_scratch(n_heads * q_len * kv_len);
            let out = TensorMut::new(&mut alone, [1, n_heads, q_len, kv_len]).expect("sizes");
            let (q, k) = (&q[b * q_len * n_heads * head_dim..], &k[b * kv_len * n_kv_heads * head_dim..]);
            let queries = HeadsRef::token_major(q, q_len, n_heads, head_dim).expect("sizes");
            let keys = HeadsRef::token_major(k, kv_len, n_kv_heads, head_dim).expect("sizes");
            options
                .kv_lens(&[len])
                .scores(queries, keys, which, (0..n_heads, 0..q_len), out, &mut scratch)
                .expect("sizes agree");
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let part = &all[b * alone.len()..][..alone.len()];
            expect(same_bits(Kind::F32, &bits(part), &bits(&alone)), (tier, which, b));
        }
    }
}

#[test]
fn no_heads_and_no_queries_have_no_scores() {
    let lookup = Shape { n_kv_heads: 2, group: 2, ..Shape::plain(5, 9, 3, 8) }.lookup();
    let mut scratch = nan_scratch(attention_scratch_len(5, 9, 3, 0));
    for (which, tier) in ALL.into_iter().flat_map(|which| tiers().into_iter().map(move |tier| (which, tier)))
    {
        for (heads, queries) in
            [(0..0, 0..5), (3..3, 0..5), (4..4, 1..2), (0..4, 0..0), (1..3, 5..5), (0..0, 0..0)]
        {
            let sizes = [1, heads.len(), queries.len(), 9];
            let out = TensorMut::new(&mut [0.0_f32; 0][..], sizes).expect("nothing");
            let (q, k) = (lookup.q.view::<f32>(), lookup.k.view::<f32>());
            let result = lookup.options(tier).scores(q, k, which, (heads, queries), out, &mut scratch);
            assert_eq!(result, Ok(()), "{which:?} {tier} {sizes:?}");
        }
    }
}

#[test]
fn lengths_of_no_sequence_or_beyond_the_keys_are_refused() {
    let (q, k, mut scratch) = ([1.0_f32; 8], [1.0_f32; 10], nan_scratch(attention_scratch_len(8, 10, 1, 0)));
    for (which, tier) in ALL.into_iter().flat_map(|which| tiers().into_iter().map(move |tier| (which, tier)))
    {
        for lens in [&[11][..], &[100], &[usize::MAX], &[], &[3, 3]] {
            let mut weights = [7.0_f32; 80];
            let result = Attention::new().tier(tier).kv_lens(lens).scores(
                HeadsRef::token_major(&q, 8, 1, 1).expect("sizes"),
                HeadsRef::token_major(&k, 10, 1, 1).expect("sizes"),
                which,
                (0..1, 0..8),
                TensorMut::new(&mut weights, [1, 1, 8, 10]).expect("sizes"),
                &mut scratch,
            );
            let refused = match lens.len() {
                1 => matches!(result, Err(Error::TooLarge { most: 10, .. })),
                _ => matches!(result, Err(Error::DimMismatch { .. })),
            };
            assert!(refused, "{which:?} {tier} {lens:?}: {result:?}");
            assert_eq!(weights, [7.0; 80]);
        }
    }
}
