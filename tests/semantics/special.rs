//! Huge, subnormal, infinite and NaN scores and values.

use crate::common::attend::{Lookup, Shape};
use crate::common::buffer::{Buffer, Kind};
use crate::common::options::{Given, Table};
use crate::common::{expect, nan_scratch, same_bits, tiers};
use crate::{Hidden, give};
use qkv::{Attention, HeadsMut, HeadsRef, ScoreAt, TensorRef, attention_scratch_len};

/// Scores that are the biases alone, since the queries are zeros.
fn only_biases(q_len: usize, kv_len: usize, bias: fn(usize) -> f32) -> Lookup {
    let mut lookup = Shape { v_head_dim: 5, ..Shape::plain(q_len, kv_len, 8, 6) }.lookup();
    (0..q_len).for_each(|i| lookup.q.set_token(i, 0, 0.0));
    let mut values = Buffer::new(Kind::F32, kv_len);
    (0..kv_len).for_each(|t| values.set_bits(t, bias(t).to_bits()));
    lookup.options.bias = Some(Table { heads: 1, rows: 1, keys: kv_len, values });
    lookup
}

#[test]
fn scores_of_any_finite_size_weigh_by_their_differences_alone() {
    for (q_len, kv_len) in [(1, 64), (12, 64), (1, 2048), (12, 2048)] {
        let lookups: [fn(usize) -> f32; 8] = [
            |_| -1e5,
            |_| -1e30,
            |_| f32::MIN,
            |_| 1e30,
            |_| f32::MAX,
            |_| f32::MIN_POSITIVE / 8.0,
            // All but every other key weigh nothing.
            |t| if t % 2 == 0 { f32::MAX } else { f32::MIN },
            |t| if t % 2 == 0 { -3e38 } else { f32::NEG_INFINITY },
        ];
        for (n, bias) in lookups.into_iter().enumerate() {
            let mut lookup = only_biases(q_len, kv_len, bias);
            // Small integers of which a power of two many add up exactly.
            (0..kv_len).for_each(|t| lookup.v.set_token(t, 0, (t / 2 % 4) as f32));
            for tier in tiers() {
                let (out, lse) = lookup.run_with_lse(tier);
                let place = (tier, q_len, kv_len, n);
                assert!((0..q_len).all(|i| out.token(i, 0) == [1.5; 5]), "{place:?}: {:?}", out.token(0, 0));
                let count = if n < 6 { kv_len } else { kv_len / 2 } as f32;
                let expected = bias(0) + count.ln();
                assert!(
                    lse.iter().all(|x| (x - expected).abs() <= 1e-6 * expected.abs()),
                    "{place:?}: {lse:?}"
                );
            }
        }
    }
}

#[test]
fn infinite_and_nan_biases_follow_ieee() {
    for (q_len, kv_len) in [(1, 9), (3, 70), (12, 130), (2, 1100)] {
        for bad in [f32::INFINITY, f32::NAN] {
            let mut lookup = only_biases(q_len, kv_len, |t| t as f32 * 0.01);
            lookup.options.softcap = Some(2.0);
            let clean = lookup.clone();
            let bias = lookup.options.bias.as_mut().expect("a bias");
            bias.values.set_bits(kv_len / 2, bad.to_bits());
            for tier in tiers() {
                let (out, lse) = lookup.run_with_lse(tier);
                let nan = |bits: &u32| f32::from_bits(*bits).is_nan();
                assert!(
                    out.bits().iter().all(nan) && lse.iter().all(|x| x.is_nan()),
                    "{tier}, {q_len}, {bad}"
                );
                // Where the key is not seen, its bias does not count either.
                let not = |lookup: &Lookup| {
                    let mut lookup = lookup.clone();
                    give(&mut lookup, Hidden::Mask(Given::Bits), &|_, t| t != kv_len / 2, |_| 0.0);
                    lookup.run_with_lse(tier)
                };
                let ((out, lse), (expected, expected_lse)) = (not(&lookup), not(&clean));
                assert_eq!(
                    (out.bits(), lse),
                    (expected.bits(), expected_lse),
                    "{tier}, {q_len}, {bad}: leaked"
                );
            }
        }
    }
}

#[test]
fn score_rule_that_gives_special_numbers_follows_ieee() {
    for (q_len, kv_len) in [(1, 70), (11, 130), (2, 1030)] {
        let lookup = Shape { v_head_dim: 5, ..Shape::plain(q_len, kv_len, 8, 7) }.lookup();
        for tier in tiers() {
            let run = |options: Attention<'_>| {
                let mut out = lookup.out.clone();
                let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, 8, 5));
                let (q, k, v): (HeadsRef<'_, f32>, HeadsRef<'_, f32>, HeadsRef<'_, f32>) =
                    (lookup.q.view(), lookup.k.view(), lookup.v.view());
                let to: HeadsMut<'_, f32> = out.view_mut();
                options.tier(tier).run(q, k, v, to, &mut scratch).expect("sizes agree");
                out
            };
            // Minus infinity by a rule weighs 0, as if the key were not seen.
            let none = |score: f32, at: ScoreAt| if at.key % 3 == 0 { f32::NEG_INFINITY } else { score };
            let mask: Vec<bool> = (0..kv_len).map(|t| t % 3 > 0).collect();
            let mask = TensorRef::new(&mask, [1, 1, 1, kv_len]).expect("a mask");
            let (by_rule, by_mask) =
                (run(Attention::new().score_rule(&none)), run(Attention::new().mask(mask)));
            expect(same_bits(Kind::F32, &by_rule.bits(), &by_mask.bits()), (tier, q_len, kv_len));
            // Of keys that are not seen the rule may say anything.
            let wild = |score: f32, at: ScoreAt| if at.key % 3 == 0 { f32::NAN } else { score };
            let both = run(Attention::new().score_rule(&wild).mask(mask));
            assert_eq!(both.bits(), by_mask.bits(), "{tier}, {q_len} x {kv_len}");
            // Plus infinity and NaN for one query reach that query.
            for bad in [f32::INFINITY, f32::NAN] {
                let one = move |score: f32, at: ScoreAt| {
                    if at.query == 0 && at.key == 40 { bad } else { score }
                };
                let (out, plain) = (run(Attention::new().score_rule(&one)), run(Attention::new()));
                assert!(out.token(0, 0).iter().all(|x| x.is_nan()), "{tier}, {q_len} x {kv_len}, {bad}");
                for i in 1..q_len {
                    assert_eq!(out.token_bits(i, 0), plain.token_bits(i, 0), "{tier}, query {i}, {bad}");
                }
            }
        }
    }
}

#[test]
fn subnormal_halves_are_kept_in_keys_and_values() {
    for kind in [Kind::F16, Kind::Bf16] {
        for (q_len, kv_len) in [(1, 4), (12, 4), (3, 64)] {
            let kinds = [Kind::F32, kind, kind, kind];
            let shape = Shape { kinds, scale: Some(1.0), v_head_dim: 5, ..Shape::plain(q_len, kv_len, 2, 8) };
            let mut lookup = shape.lookup();
            // A query that makes the smallest number 1, and values that are multiples of it.
            let tiny = kind.value(1);
            (0..q_len).for_each(|i| lookup.q.set_token(i, 0, 0.5 / tiny.max(f32::MIN_POSITIVE)));
            for t in 0..kv_len {
                (0..2).for_each(|d| lookup.k.set_bits(t, 0, d, 3));
                (0..5).for_each(|d| lookup.v.set_bits(t, 0, d, 8 * (t as u32 % 4) + 4));
            }
            for tier in tiers() {
                let (out, lse) = lookup.run_with_lse(tier);
                // The mean of 4, 12, 20 and 28 times the smallest number.
                assert!(out.bits().iter().all(|&bits| bits == 16), "{tier}, {kind:?}: {:?}", out.token(0, 0));
                let score = 3.0 * (tiny / tiny.max(f32::MIN_POSITIVE));
                let expected = score + (kv_len as f32).ln();
                assert!(lse.iter().all(|x| (x - expected).abs() < 1e-5), "{tier}, {kind:?}: {lse:?}");
            }
        }
    }
}
