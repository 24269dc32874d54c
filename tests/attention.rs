//! `Attention` against the `f64` reference and the bit model, over shapes, masks, orders and types.
#![cfg(feature = "half")]

mod common;

use common::attend::{Causal, Lookup, Shape};
use common::buffer::{Buffer, Kind};
use common::heads::Order;
use common::options::{Given, Mask, Options, Table};
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use quickcheck::{Arbitrary, Gen, QuickCheck};

/// Round tiles (4, 6, 8, 16, 48), the rows of a decode step (8) and two panels.
const Q_LENS: [usize; 16] = [1, 1, 1, 2, 3, 5, 7, 8, 9, 15, 17, 33, 47, 48, 49, 97];
/// Round tiles and the blocks of 64 keys.
const KV_LENS: [usize; 15] = [0, 1, 2, 3, 7, 16, 31, 63, 64, 65, 66, 127, 128, 130, 200];

/// A call of any kind.
#[derive(Clone, Debug)]
struct Call(Shape);

impl Arbitrary for Call {
    fn arbitrary(g: &mut Gen) -> Call {
        let mut rng = Rng::new(u64::arbitrary(g));
        Call(Shape::random(rng.pick(&Q_LENS), rng.pick(&KV_LENS), rng.word()))
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Call>> {
        let shape = self.0.clone();
        let sizes =
            (shape.q_len, shape.kv_len, shape.group, shape.n_kv_heads, shape.head_dim, shape.v_head_dim);
        Box::new(sizes.shrink().filter(|sizes| sizes.0 > 0 && sizes.2 > 0 && sizes.3 > 0).map(
            move |(q_len, kv_len, group, n_kv_heads, head_dim, v_head_dim)| {
                Call(Shape { q_len, kv_len, group, n_kv_heads, head_dim, v_head_dim, ..shape.clone() })
            },
        ))
    }
}

fn check(seed: u64, tests: u64, property: fn(Call) -> Result<(), String>) {
    QuickCheck::new().rng(Gen::from_size_and_seed(100, seed)).tests(tests).quickcheck(property);
}

#[test]
fn prop_calls_agree_with_the_reference_and_the_bit_model() {
    check(1, 300, |Call(shape)| shape.lookup().check());
}

#[test]
fn every_q_len_agrees_with_the_reference_and_the_bit_model() {
    for q_len in (1..20).chain([31, 47, 48, 49, 64, 95, 96, 97, 129, 130]) {
        let shape =
            Shape { causal: Causal::BottomRight, group: 1 + q_len % 2, ..Shape::plain(q_len, 70, 9, 2) };
        expect(shape.lookup().check(), &shape);
    }
}

#[test]
fn every_kv_len_agrees_with_the_reference_and_the_bit_model() {
    for kv_len in 0..=132 {
        for q_len in [1, 11] {
            let shape = Shape { v_head_dim: 3, ..Shape::plain(q_len, kv_len, 5, 3) };
            expect(shape.lookup().check(), &shape);
        }
    }
}

#[test]
fn an_infinite_scale_meets_only_features_that_there_are() {
    for head_dim in 1..10 {
        for (q_len, scale) in
            [1, 2, 4, 11].into_iter().flat_map(|n| [(n, f32::INFINITY), (n, -f32::INFINITY)])
        {
            for kind in Kind::ALL {
                let (causal, scale) = (Causal::BottomRight, Some(scale));
                let shape = Shape { causal, scale, kinds: [kind; 4], ..Shape::plain(q_len, 5, head_dim, 7) };
                expect(shape.lookup().check(), &shape);
            }
        }
    }
}

#[test]
fn every_head_dim_agrees_with_the_reference_and_the_bit_model() {
    for dim in (0..40).chain([63, 64, 65, 72, 80, 96, 127, 128, 129, 256]) {
        for q_len in [1, 2, 10] {
            for (head_dim, v_head_dim) in [(dim, dim), (dim, 3), (3, dim)] {
                let kinds = if dim % 2 == 0 { [Kind::F32; 4] } else { [Kind::F16; 4] };
                let shape = Shape { head_dim, v_head_dim, kinds, ..Shape::plain(q_len, 19, 0, 4) };
                expect(shape.lookup().check(), &shape);
            }
        }
    }
}

#[test]
fn keys_past_a_chunk_agree_with_the_reference_and_the_bit_model() {
    let mut rng = Rng::new(5);
    for kv_len in [1000, 1023, 1024, 1025, 1087, 1100, 2048, 2049, 2100] {
        for (q_len, group) in [(1, 1), (1, 4), (3, 1), (11, 1)] {
            let (head_dim, v_head_dim) = rng.pick(&[(8, 8), (5, 17), (16, 1)]);
            let causal = rng.pick(&[Causal::No, Causal::BottomRight, Causal::Offset(1020)]);
            let kinds =
                if rng.below(2) == 0 { [Kind::F32; 4] } else { [(); 4].map(|()| rng.pick(&Kind::ALL)) };
            let plain = Shape::plain(q_len, kv_len, head_dim, rng.word());
            let shape = Shape { group, v_head_dim, causal, kinds, ..plain };
            expect(shape.lookup().check(), &shape);
        }
    }
}

#[test]
fn maxima_that_grow_and_fall_from_block_to_block_agree_with_the_bit_model() {
    // Scores of very different size: every rescaling, and weights that come out as exactly 0.
    let mut rng = Rng::new(6);
    for kv_len in [130, 300, 1300, 2100] {
        for q_len in [1, 10] {
            let shape =
                Shape { v_head_dim: 4, scale: Some(1.0), ..Shape::plain(q_len, kv_len, 2, rng.word()) };
            let mut lookup = shape.lookup();
            for t in 0..kv_len {
                let size = rng.pick(&[1.0, 1.0, 10.0, 80.0]);
                lookup.k.set_token(t, 0, size * rng.unit());
            }
            expect(lookup.check(), &shape);
        }
    }
}

#[test]
fn causal_offset_agrees_with_the_bit_model_at_both_ends() {
    let offsets = [isize::MIN, -1000, -50, -9, -8, -1, 0, 1, 30, 62, 63, 64, 65, 99, 100, 5000, isize::MAX];
    for offset in offsets {
        for q_len in [1, 8, 9, 50] {
            for group in [1, 3] {
                let causal = Causal::Offset(offset);
                let shape = Shape { group, causal, v_head_dim: 5, ..Shape::plain(q_len, 100, 4, 7) };
                expect(shape.lookup().check(), &shape);
            }
        }
    }
}

#[test]
fn windows_agree_with_the_bit_model_at_both_ends() {
    let sides = [0, 1, 7, 63, 64, 65, 99, 1000, usize::MAX];
    for (before, after) in sides.into_iter().flat_map(|before| sides.map(|after| (before, after))) {
        for q_len in [1, 9, 50] {
            for causal in [
                Causal::No,
                Causal::BottomRight,
                Causal::Free(isize::MIN),
                Causal::Free(-70),
                Causal::Free(30),
                Causal::Offset(99),
                Causal::Free(5000),
                Causal::Free(isize::MAX),
            ] {
                let window = (before, after);
                let shape = Shape { causal, window, v_head_dim: 5, ..Shape::plain(q_len, 130, 4, 7) };
                expect(shape.lookup().check(), &shape);
            }
        }
    }
}

#[test]
fn windows_far_into_the_keys_agree_with_the_bit_model() {
    for (q_len, kv_len, before) in [(1, 3000, 100), (1, 3000, 2047), (60, 2100, 63), (200, 1200, 130)] {
        for after in [0, 70] {
            let causal = if after == 0 { Causal::BottomRight } else { Causal::Free(-40) };
            let shape =
                Shape { causal, window: (before, after), group: 2, ..Shape::plain(q_len, kv_len, 8, 3) };
            expect(shape.lookup().check(), &shape);
        }
    }
}

#[test]
fn heads_and_panels_that_see_other_keys_of_a_block_agree_with_the_bit_model() {
    for (q_len, n_kv_heads, group) in [(1, 2, 1), (1, 4, 3), (2, 3, 2), (150, 1, 1), (60, 2, 3)] {
        for (from, to) in [(64, 73), (64, 90), (64, 126), (70, 100), (0, 20), (80, 128)] {
            let shape = Shape { n_kv_heads, group, v_head_dim: 69, ..Shape::plain(q_len, 140, 8, 3) };
            let heads = shape.n_heads();
            // Neither the second head, nor rows of the second panel, see most of the keys `from..to`.
            let sees = |h: usize, i: usize, t: usize| {
                !(h / group == 1 || (48..96).contains(&i)) || !(from..to).contains(&t) || t % 32 == 31
            };
            let rows = (0..heads).flat_map(|h| (0..q_len).map(move |i| (h, i)));
            let values = rows.flat_map(|(h, i)| (0..140).map(move |t| sees(h, i, t))).collect();
            let mask = Mask::new(Table { heads, rows: q_len, keys: 140, values }, Given::Bits);
            let options = Options { masks: vec![mask], ..Options::NONE };
            expect(Lookup { options, ..shape.lookup() }.check(), (from, to, &shape));
        }
    }
}

#[test]
fn a_softcap_and_biases_from_any_first_key_on_agree_with_the_bit_model() {
    for (start, q_len) in (0..9).flat_map(|start| [1, 3, 20, 50].map(|q_len| (start, q_len))) {
        let shape = Shape { v_head_dim: 3, ..Shape::plain(q_len, 67, 4, 5) };
        let (mut rng, mut values) = (Rng::new(start as u64), Buffer::new(Kind::F32, q_len * 67));
        (0..values.len()).for_each(|i| values.set_bits(i, rng.unit().to_bits()));
        let bias = Some(Table { heads: 1, rows: q_len, keys: 67, values });
        let options = Options { softcap: Some(0.7), bias, start: Some(start), ..Options::NONE };
        expect(Lookup { options, ..shape.lookup() }.check(), (start, &shape));
    }
}

#[test]
fn causal_aligns_the_last_query_with_the_last_key() {
    for tier in tiers() {
        for (q_len, kv_len) in [(5, 5), (5, 70), (70, 5), (1, 3), (9, 0)] {
            let right = Shape { causal: Causal::BottomRight, ..Shape::plain(q_len, kv_len, 3, 8) }.lookup();
            let causal = Causal::Offset(kv_len as isize - q_len as isize);
            let offset = Shape { causal, ..Shape::plain(q_len, kv_len, 3, 8) }.lookup();
            let (left, right) = (right.run(tier).bits(), offset.run(tier).bits());
            expect(same_bits(Kind::F32, &left, &right), (tier, q_len, kv_len));
        }
    }
}

#[test]
fn row_without_keys_is_zero_and_its_lse_minus_infinity() {
    for tier in tiers() {
        for kind in Kind::ALL {
            for (q_len, kv_len, causal) in [
                (1, 0, Causal::No),
                (70, 0, Causal::No),
                (70, 0, Causal::BottomRight),
                (9, 4, Causal::BottomRight),
                (60, 30, Causal::Offset(-20)),
                (1, 30, Causal::Offset(-1)),
            ] {
                let kinds = [Kind::F32, Kind::F32, Kind::F32, kind];
                let shape = Shape { group: 2, causal, kinds, ..Shape::plain(q_len, kv_len, 7, 9) };
                let lookup = shape.lookup();
                let (out, lse) = lookup.run_with_lse(tier);
                let dead = (0..q_len).filter(|&i| lookup.seen(i).is_empty());
                for (i, h) in dead.flat_map(|i| [(i, 0), (i, 1)]) {
                    assert!(out.token_bits(i, h).iter().all(|&bits| bits == 0), "{tier} {shape:?} query {i}");
                    assert_eq!(lse[h * q_len + i], f32::NEG_INFINITY, "{tier} {shape:?} query {i}");
                }
            }
        }
    }
}

#[test]
fn grouped_heads_read_the_key_head_of_their_group() {
    for tier in tiers() {
        for (n_kv_heads, group) in [(1, 8), (2, 3), (4, 2), (3, 5), (8, 1)] {
            for q_len in [1, 6] {
                let shape = Shape { n_kv_heads, group, v_head_dim: 2, ..Shape::plain(q_len, 9, 4, 10) };
                let mut lookup = shape.lookup();
                // The values of key head g are all g: so is what its query heads find.
                for (t, g) in (0..9).flat_map(|t| (0..n_kv_heads).map(move |g| (t, g))) {
                    lookup.v.set_token(t, g, g as f32);
                }
                let out = lookup.run(tier);
                for (i, h) in (0..q_len).flat_map(|i| (0..n_kv_heads * group).map(move |h| (i, h))) {
                    for x in out.token(i, h) {
                        assert!((x - (h / group) as f32).abs() < 1e-5, "{tier} {shape:?} head {h} found {x}");
                    }
                }
            }
        }
    }
}

#[test]
fn run_writes_what_run_with_lse_writes() {
    for tier in tiers() {
        for q_len in [1, 20] {
            let shape = Shape { group: 3, causal: Causal::BottomRight, ..Shape::plain(q_len, 90, 17, 11) };
            let lookup = shape.lookup();
            assert_eq!(lookup.run(tier).bits(), lookup.run_with_lse(tier).0.bits(), "{tier} {shape:?}");
        }
    }
}

#[test]
fn scratch_is_never_exceeded() {
    for tier in tiers() {
        for (q_len, kv_len, head_dim, v_head_dim) in [
            (1, 1, 1, 1),
            (1, 1030, 3, 17),
            (60, 70, 9, 33),
            (60, 1030, 5, 3),
            (8, 64, 0, 0),
            (50, 3, 72, 72),
        ] {
            let kinds = [Kind::F16, Kind::Bf16, Kind::F32, Kind::F32];
            let shape = Shape { v_head_dim, kinds, group: 2, ..Shape::plain(q_len, kv_len, head_dim, 12) };
            let lookup = shape.lookup();
            let expected = lookup.run(tier);
            let len = lookup.scratch_len();
            // At every offset from a cache line.
            for shift in 0..16 {
                let mut memory: Vec<f32> = (0..shift + len + 100).map(|i| i as f32).collect();
                let mut out = lookup.out.clone();
                lookup.run_into(tier, &mut out, None, &mut memory[shift..shift + len]).expect("sizes agree");
                let kept = memory
                    .iter()
                    .enumerate()
                    .all(|(i, &x)| (shift..shift + len).contains(&i) || x == i as f32);
                assert!(kept, "{tier} wrote outside {len} floats of scratch, shift {shift}, {shape:?}");
                expect(same_bits(Kind::F32, &out.bits(), &expected.bits()), (tier, &shape, shift));
            }
        }
    }
}

#[test]
fn weights_of_one_key_pass_its_value_on_exactly() {
    for tier in tiers() {
        for (kind, order) in
            Kind::ALL.into_iter().zip([Order::TokenMajor, Order::HeadMajor, Order::TokensApart(1, 2)])
        {
            let shape = Shape { kinds: [kind; 4], orders: [order; 4], ..Shape::plain(30, 1, 20, 13) };
            let lookup = shape.lookup();
            let out = lookup.run(tier);
            for i in 0..30 {
                assert_eq!(out.token(i, 0), lookup.v.token(0, 0), "{tier} {shape:?}");
            }
        }
    }
}

#[test]
fn subnormal_values_are_kept() {
    for tier in tiers() {
        for q_len in [1, 12] {
            let shape = Shape { scale: Some(1.0), ..Shape::plain(q_len, 2, 8, 14) };
            let mut lookup = shape.lookup();
            // Equal weights of 1/2: sums of even multiples of the smallest subnormal are exact.
            lookup.q.set_token(0, 0, 0.0);
            for (t, n) in [(0, 6), (1, 2)] {
                lookup.v.set_token(t, 0, f32::from_bits(n));
            }
            let out = lookup.run(tier);
            assert!(
                out.token_bits(0, 0).iter().all(|&bits| bits == 4),
                "{tier}: {:x?}",
                out.token_bits(0, 0)
            );
        }
    }
}

#[test]
fn huge_logits_stay_finite() {
    for q_len in [1, 12] {
        for size in [1e4, 1e18] {
            let shape = Shape { scale: Some(1.0), ..Shape::plain(q_len, 100, 4, 15) };
            let mut lookup = shape.lookup();
            let mut rng = Rng::new(15);
            (0..q_len).for_each(|i| lookup.q.set_token(i, 0, size * rng.unit()));
            (0..100).for_each(|t| lookup.k.set_token(t, 0, size * rng.unit()));
            expect(lookup.check(), (&shape, size));
            for tier in tiers() {
                let (out, lse) = lookup.run_with_lse(tier);
                let finite = out.bits().iter().all(|&bits| f32::from_bits(bits).is_finite());
                assert!(finite && lse.iter().all(|x| x.is_finite()), "{tier} {shape:?} {size}");
            }
        }
    }
}

#[test]
fn empty_calls_are_ok() {
    for tier in tiers() {
        for (q_len, kv_len, heads, head_dim) in
            [(0, 5, 2, 4), (0, 0, 2, 4), (3, 5, 0, 4), (3, 5, 2, 0), (0, 0, 0, 0)]
        {
            let shape = Shape {
                n_kv_heads: heads,
                v_head_dim: head_dim,
                ..Shape::plain(q_len, kv_len, head_dim, 16)
            };
            let lookup = shape.lookup();
            let mut out = lookup.out.clone();
            let mut lse = nan_scratch(q_len * heads);
            let mut scratch = nan_scratch(lookup.scratch_len());
            lookup.run_into(tier, &mut out, Some(&mut lse), &mut scratch).expect("an empty call is no error");
            expect(out.check_untouched(&lookup.out), (tier, &shape));
        }
    }
}

#[test]
fn sink_of_minus_infinity_is_none_and_a_sink_alone_is_the_log_sum_exp() {
    for (q_len, kv_len) in [(1, 70), (60, 1100), (3, 0)] {
        let plain =
            Shape { group: 2, causal: Causal::Offset(-1), ..Shape::plain(q_len, kv_len, 8, 4) }.lookup();
        for tier in tiers() {
            let (out, lse) = plain.run_with_lse(tier);
            let with = |sinks: [f32; 2]| Lookup { sinks: Some(sinks.to_vec()), ..plain.clone() };
            let (same, same_lse) = with([f32::NEG_INFINITY; 2]).run_with_lse(tier);
            assert_eq!((out.bits(), lse), (same.bits(), same_lse), "{tier} {q_len} {kv_len}");
            let (out, lse) = with([2.5, -3.0]).run_with_lse(tier);
            for (h, sink) in [2.5, -3.0].into_iter().enumerate() {
                // Query 0 sees no key.
                assert_eq!(
                    (lse[h * q_len], out.token(0, h)),
                    (sink, vec![0.0; 8]),
                    "{tier} {q_len} {kv_len}"
                );
            }
        }
    }
}

#[test]
fn slopes_of_any_number_of_heads_are_those_of_the_powers_of_two() {
    for n in 0..70_usize {
        let mut slopes = vec![0.0; n];
        qkv::alibi_slopes(&mut slopes);
        let power = (1..=n).rev().find(|n| n.is_power_of_two()).unwrap_or(1);
        let all = |heads: usize| (1..=heads).map(move |h| (-8.0 * h as f64 / heads as f64).exp2());
        let expected: Vec<f64> = all(power).chain(all(2 * power).step_by(2)).take(n).collect();
        for (h, (got, want)) in slopes.iter().zip(expected).enumerate() {
            assert!((f64::from(*got) / want - 1.0).abs() < 2e-7, "head {h} of {n}: {got}, {want}");
        }
    }
}
