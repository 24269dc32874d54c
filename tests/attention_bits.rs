//! An attention row has the same bits whatever surrounds it: other rows, heads, strides, scratch, work
//! splits, the tier; and what a row does not see never reaches it.
#![cfg(feature = "half")]

mod common;

use common::attend::{ALL, Causal, Lookup, Shape};
use common::buffer::Kind;
use common::heads::{Heads, Order};
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{HeadsRef, Tier};

/// Shapes that reach decode, prefill, panels, more panels than share a block, chunks, partial blocks and all
/// types.
fn shapes(seed: u64, count: usize) -> impl Iterator<Item = Shape> {
    let mut rng = Rng::new(seed);
    let mut lens = vec![(3, 20), (9, 70), (50, 130), (13, 1100), (97, 65), (2, 2100), (70, 33), (230, 270)];
    lens.truncate(count.max(1));
    lens.into_iter().cycle().take(6 * count).map(move |(q_len, kv_len)| {
        let shape = Shape::random(q_len, kv_len, rng.word());
        let small = kv_len > 1000;
        let dims = if small { (8, 5) } else { (shape.head_dim, shape.v_head_dim) };
        Shape { head_dim: dims.0, v_head_dim: dims.1, ..shape }
    })
}

/// A copy of some tokens and heads, token-major.
fn part(from: &Heads, tokens: core::ops::Range<usize>, heads: core::ops::Range<usize>) -> Heads {
    let mut to = Heads::new(from.kind(), (tokens.len(), heads.len(), from.head_dim), Order::TokenMajor);
    for (t, token) in tokens.enumerate() {
        for (h, head) in heads.clone().enumerate() {
            for d in 0..from.head_dim {
                to.set_bits(t, h, d, from.buffer.bits(from.index(token, head, d)));
            }
        }
    }
    to
}

/// The call with query `i` alone: what a decode step at that position computes.
fn decode_step(lookup: &Lookup, i: usize) -> Lookup {
    let heads = 0..lookup.q.n_heads;
    let end = lookup.options.end.unwrap_or(lookup.k.len) as isize;
    let causal = match lookup.causal {
        Causal::No => Causal::Free(end - lookup.q.len as isize + i as isize),
        Causal::BottomRight => Causal::Offset(end - lookup.q.len as isize + i as isize),
        Causal::Offset(offset) => Causal::Offset(offset + i as isize),
        Causal::Free(offset) => Causal::Free(offset + i as isize),
    };
    Lookup {
        q: part(&lookup.q, i..i + 1, heads.clone()),
        out: part(&lookup.out, i..i + 1, heads.clone()),
        causal,
        ..lookup.clone().options_of(heads, i..i + 1)
    }
}

#[test]
fn prefill_row_has_the_bits_of_its_decode_step() {
    for shape in shapes(1, 8) {
        let lookup = shape.lookup();
        for tier in tiers() {
            let (prefill, lse) = lookup.run_with_lse(tier);
            for i in 0..shape.q_len {
                let (decode, decode_lse) = decode_step(&lookup, i).run_with_lse(tier);
                for h in 0..lookup.q.n_heads {
                    let (row, alone) = (prefill.token_bits(i, h), decode.token_bits(0, h));
                    expect(same_bits(prefill.kind(), &alone, &row), (tier, i, h, &shape));
                    let (row, alone) = (lse[h * shape.q_len + i].to_bits(), decode_lse[h].to_bits());
                    expect(same_bits(Kind::F32, &[alone], &[row]), (tier, "lse", i, h, &shape));
                }
            }
        }
    }
}

/// The first `len` tokens of a cache.
fn filled(cache: &Heads, len: usize) -> HeadsRef<'_, f32> {
    cache.view().first_rows(len).expect("tokens of the cache")
}

#[test]
fn decode_over_a_cache_that_is_cut_off_has_the_bits_of_causal() {
    // `first_rows(pos + 1)` of a cache, as in a decode loop, against one causal prefill.
    let lookup =
        Shape { n_kv_heads: 2, group: 2, causal: Causal::BottomRight, ..Shape::plain(70, 70, 16, 2) }
            .lookup();
    for tier in tiers() {
        let prefill = lookup.run(tier);
        for i in 0..70 {
            let q = part(&lookup.q, i..i + 1, 0..4);
            let mut out = part(&lookup.out, i..i + 1, 0..4);
            let (k, v) = (filled(&lookup.k, i + 1), filled(&lookup.v, i + 1));
            let mut scratch = nan_scratch(lookup.scratch_len());
            lookup
                .options(tier)
                .run(q.view::<f32>(), k, v, out.view_mut::<f32>(), &mut scratch)
                .expect("sizes agree");
            let row: Vec<u32> = (0..4).flat_map(|h| prefill.token_bits(i, h)).collect();
            expect(same_bits(Kind::F32, &out.bits(), &row), (tier, i));
        }
    }
}

#[test]
fn queries_split_anywhere_have_the_same_bits() {
    for shape in shapes(3, 4) {
        let lookup = shape.lookup();
        let heads = 0..lookup.q.n_heads;
        for tier in tiers() {
            let whole = lookup.run(tier);
            for at in [1, shape.q_len / 2, shape.q_len - 1] {
                for (from, to) in [(0, at), (at, shape.q_len)] {
                    let step = decode_step(&lookup, from);
                    let (q, out) = (
                        part(&lookup.q, from..to, heads.clone()),
                        part(&lookup.out, from..to, heads.clone()),
                    );
                    let options = lookup.options.part(heads.clone(), from..to);
                    let out = Lookup { q, out, options, ..step }.run(tier);
                    let expected = part(&whole, from..to, heads.clone());
                    expect(same_bits(out.kind(), &out.bits(), &expected.bits()), (tier, from, to, &shape));
                }
            }
        }
    }
}

#[test]
fn heads_split_anywhere_have_the_same_bits() {
    // Decode steps of more rows than share a panel, over more keys than a chunk.
    let many = [Order::TokenMajor, Order::HeadMajor].map(|order| Shape {
        n_kv_heads: 20,
        group: 3,
        v_head_dim: 16,
        orders: [order; 4],
        causal: Causal::BottomRight,
        ..Shape::plain(1, 1100, 24, 9)
    });
    // More rows of a head than a vector holds, in several panels.
    let wide = [(1, 7), (1, 13), (2, 10)].map(|(q_len, group)| Shape {
        n_kv_heads: 7,
        group,
        causal: Causal::BottomRight,
        ..Shape::plain(q_len, 1100, 20, 9)
    });
    // More keys than a cache holds, of heads that lie apart: their values are asked for early. Of heads that lie side
    // by side several take each block together.
    let far =
        [(2, 3, 4200, Order::HeadMajor), (5, 9, 1700, Order::TokenMajor), (2, 9, 4200, Order::HeadMajor)]
            .map(|(n_kv_heads, group, kv_len, order)| Shape {
                n_kv_heads,
                group,
                orders: [order; 4],
                ..Shape::plain(1, kv_len, 128, 9)
            });
    for shape in shapes(4, 5).chain(many).chain(wide).chain(far) {
        let lookup = shape.lookup();
        for tier in tiers() {
            let whole = lookup.run(tier);
            for g in 0..shape.n_kv_heads {
                let heads = g * shape.group..(g + 1) * shape.group;
                let tokens = 0..shape.q_len;
                let alone = Lookup {
                    q: part(&lookup.q, tokens.clone(), heads.clone()),
                    k: part(&lookup.k, 0..shape.kv_len, g..g + 1),
                    v: part(&lookup.v, 0..shape.kv_len, g..g + 1),
                    out: part(&lookup.out, tokens.clone(), heads.clone()),
                    ..lookup.clone().options_of(heads.clone(), tokens.clone())
                };
                let expected = part(&whole, tokens, heads);
                expect(
                    same_bits(expected.kind(), &alone.run(tier).bits(), &expected.bits()),
                    (tier, g, &shape),
                );
            }
        }
    }
}

#[test]
fn one_head_of_a_group_has_the_bits_it_has_in_the_group() {
    for q_len in [1, 3, 20] {
        let shape = Shape { group: 8, causal: Causal::BottomRight, ..Shape::plain(q_len, 90, 24, 5) };
        let lookup = shape.lookup();
        for tier in tiers() {
            let whole = lookup.run(tier);
            for h in 0..8 {
                let (q, out) = (part(&lookup.q, 0..q_len, h..h + 1), part(&lookup.out, 0..q_len, h..h + 1));
                let alone = Lookup { q, out, ..lookup.clone() }.run(tier);
                let expected = part(&whole, 0..q_len, h..h + 1);
                expect(same_bits(Kind::F32, &alone.bits(), &expected.bits()), (tier, h, &shape));
            }
        }
    }
}

#[test]
fn orders_in_memory_have_the_same_bits() {
    let orders = [Order::TokenMajor, Order::HeadMajor, Order::TokensApart(3, 1), Order::HeadsApart(2, 5)];
    for shape in shapes(6, 5) {
        let lookup = Shape { orders: [Order::TokenMajor; 4], ..shape.clone() }.lookup();
        for tier in tiers() {
            let expected = lookup.run(tier).bits();
            for turn in 1..4 {
                let order = |operand: usize| orders[(turn + operand) % 4];
                let other = Lookup {
                    q: lookup.q.reordered(order(0)),
                    k: lookup.k.reordered(order(1)),
                    v: lookup.v.reordered(order(2)),
                    out: lookup.out.reordered(order(3)),
                    ..lookup.clone()
                };
                let out = other.run(tier);
                expect(out.check_guards(&other.out), (tier, turn, &shape));
                expect(same_bits(out.kind(), &out.bits(), &expected), (tier, turn, &shape));
            }
        }
    }
}

#[test]
fn scratch_contents_change_nothing() {
    for shape in shapes(7, 7) {
        let lookup = shape.lookup();
        for tier in tiers() {
            let expected = lookup.run(tier).bits();
            for fill in [0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY] {
                let mut scratch = vec![fill; lookup.scratch_len() + 7];
                let mut out = lookup.out.clone();
                lookup.run_into(tier, &mut out, None, &mut scratch[5..]).expect("sizes agree");
                expect(same_bits(out.kind(), &out.bits(), &expected), (tier, fill, &shape));
            }
        }
    }
}

#[test]
fn tiers_of_a_group_agree_in_every_bit() {
    for shape in shapes(8, 7) {
        let lookup = shape.lookup();
        for fused in [false, true] {
            let group = || tiers().into_iter().filter(move |tier: &Tier| tier.is_fused() == fused);
            let Some(first) = group().next() else { continue };
            let (expected, expected_lse) = lookup.run_with_lse(first);
            for tier in group() {
                let (out, lse) = lookup.run_with_lse(tier);
                expect(same_bits(out.kind(), &out.bits(), &expected.bits()), (tier, first, &shape));
                let bits = |lse: &[f32]| lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                expect(same_bits(Kind::F32, &bits(&lse), &bits(&expected_lse)), (tier, "lse", &shape));
            }
        }
    }
}

#[test]
fn half_output_is_the_rounded_f32_output() {
    for shape in shapes(9, 4) {
        for kind in [Kind::F16, Kind::Bf16] {
            let kinds = |out| [shape.kinds[0], shape.kinds[1], shape.kinds[2], out];
            let single = Shape { kinds: kinds(Kind::F32), ..shape.clone() }.lookup();
            let half = Shape { kinds: kinds(kind), ..shape.clone() }.lookup();
            for tier in tiers() {
                let rounded: Vec<u32> =
                    single.run(tier).bits().iter().map(|&bits| kind.bits(f32::from_bits(bits))).collect();
                expect(same_bits(kind, &half.run(tier).bits(), &rounded), (tier, kind, &shape));
            }
        }
    }
}

/// Calls with poison at key `t` of the first key head, which only rows that see it may show.
fn poisoned(shape: &Shape, t: usize, key: Option<f32>, value: Option<f32>) -> Lookup {
    let mut lookup = shape.lookup();
    if let Some(x) = key {
        lookup.k.set_token(t, 0, x);
    }
    if let Some(x) = value {
        lookup.v.set_token(t, 0, x);
    }
    lookup
}

#[test]
fn poison_reaches_exactly_the_rows_that_see_it() {
    let dims = [(1, 1), (8, 8), (17, 5), (16, 24)];
    let mut rng = Rng::new(10);
    for (q_len, kv_len) in [(1, 9), (5, 9), (8, 70), (9, 9), (20, 20), (50, 130), (60, 64), (3, 1030)] {
        for (key, value) in [
            (Some(f32::NAN), None),
            (None, Some(f32::NAN)),
            (None, Some(f32::INFINITY)),
            (None, Some(f32::NEG_INFINITY)),
            (Some(f32::NAN), Some(f32::NAN)),
        ] {
            let (head_dim, v_head_dim) = rng.pick(&dims);
            let group = rng.pick(&[1, 1, 2, 5]);
            let kinds = rng.pick(&[[Kind::F32; 4], [Kind::F16; 4], [Kind::Bf16; 4]]);
            let offset = kv_len as isize - q_len as isize - rng.below(4) as isize;
            let plain = Shape::plain(q_len, kv_len, head_dim, rng.word());
            // With every other shape also keys before the window.
            let window = if rng.below(2) == 0 { ALL } else { (rng.below(kv_len), 0) };
            let causal = Causal::Offset(offset);
            let shape = Shape { v_head_dim, group, kinds, causal, window, ..plain };
            let clean = shape.lookup();
            for t in [0, kv_len / 2, kv_len - 2, kv_len - 1] {
                let lookup = poisoned(&shape, t, key, value);
                for tier in tiers() {
                    let (out, expected) = (lookup.run(tier), clean.run(tier));
                    for (i, h) in (0..q_len).flat_map(|i| (0..group).map(move |h| (i, h))) {
                        let place = (tier, t, key, value, i, h, &shape);
                        if lookup.seen(i).contains(&t) {
                            assert!(out.token(i, h).iter().all(|x| !x.is_finite()), "lost: {place:?}");
                        } else {
                            let (row, clean) = (out.token_bits(i, h), expected.token_bits(i, h));
                            assert!(row == clean, "leaked: {place:?}, {:?}", out.token(i, h));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nan_value_reaches_the_rows_that_see_it_when_all_weights_are_zero() {
    for (q_len, kv_len) in [(1, 2), (9, 9), (20, 70), (3, 1030)] {
        let offset = kv_len as isize - q_len as isize;
        let causal = Causal::Offset(offset - 1);
        let shape = Shape { scale: Some(1.0), causal, v_head_dim: 17, ..Shape::plain(q_len, kv_len, 3, 13) };
        let mut lookup = shape.lookup();
        (0..q_len).for_each(|i| lookup.q.set_token(i, 0, 1.0));
        (0..kv_len).for_each(|t| lookup.k.set_token(t, 0, f32::NEG_INFINITY));
        for t in [0, kv_len / 2, kv_len - 1] {
            let mut lookup = lookup.clone();
            lookup.v.set_token(t, 0, f32::NAN);
            expect(lookup.check(), (t, &shape));
            for tier in tiers() {
                let out = lookup.run(tier);
                for i in 0..q_len {
                    let sees = lookup.seen(i).contains(&t);
                    let right = |x: &f32| if sees { x.is_nan() } else { *x == 0.0 };
                    assert!(out.token(i, 0).iter().all(right), "{tier} {shape:?}, key {t}, query {i}");
                }
            }
        }
    }
}

#[test]
fn padding_behind_the_last_key_is_never_used() {
    // A cache of which 70 tokens are filled; the rest, and the other head's gaps, hold NaN.
    for order in [Order::TokenMajor, Order::HeadMajor] {
        for q_len in [1, 30] {
            let shape = Shape { n_kv_heads: 2, orders: [order; 4], ..Shape::plain(q_len, 100, 17, 11) };
            let mut lookup = shape.lookup();
            for (t, h) in (70..100).flat_map(|t| [(t, 0), (t, 1)]) {
                lookup.k.set_token(t, h, f32::NAN);
                lookup.v.set_token(t, h, f32::NAN);
            }
            for tier in tiers() {
                let (k, v) = (filled(&lookup.k, 70), filled(&lookup.v, 70));
                let mut out = lookup.out.clone();
                let mut scratch = nan_scratch(lookup.scratch_len());
                lookup
                    .options(tier)
                    .run(lookup.q.view::<f32>(), k, v, out.view_mut::<f32>(), &mut scratch)
                    .expect("sizes");
                let filled = Lookup {
                    k: part(&lookup.k, 0..70, 0..2),
                    v: part(&lookup.v, 0..70, 0..2),
                    ..lookup.clone()
                };
                expect(same_bits(Kind::F32, &out.bits(), &filled.run(tier).bits()), (tier, &shape));
            }
        }
    }
}

#[test]
fn minus_infinity_weighs_exactly_zero_and_plus_infinity_is_nan() {
    // 2^100: three of them add up exactly.
    const FAR: f32 = f32::from_bits((127 + 100) << 23);
    for tier in tiers() {
        for (q_len, kv_len) in [(1, 5), (12, 5), (1, 70), (12, 130), (2, 1030)] {
            let shape = Shape { scale: Some(1.0), ..Shape::plain(q_len, kv_len, 3, 12) };
            let mut lookup = shape.lookup();
            (0..q_len).for_each(|i| lookup.q.set_token(i, 0, 1.0));
            // All keys but one at minus infinity: its value comes out exactly.
            (0..kv_len).for_each(|t| lookup.k.set_token(t, 0, f32::NEG_INFINITY));
            lookup.k.set_token(kv_len / 2, 0, -FAR);
            let (out, lse) = lookup.run_with_lse(tier);
            for (i, &lse) in lse.iter().enumerate() {
                assert_eq!(out.token(i, 0), lookup.v.token(kv_len / 2, 0), "{tier} {shape:?}");
                assert_eq!(lse, -3.0 * FAR, "{tier} {shape:?}");
            }
            // All of them: zeros.
            lookup.k.set_token(kv_len / 2, 0, f32::NEG_INFINITY);
            let (out, lse) = lookup.run_with_lse(tier);
            assert!(out.bits().iter().all(|&bits| bits == 0), "{tier} {shape:?}");
            assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY), "{tier} {shape:?}");
            // One at plus infinity: NaN.
            lookup.k.set_token(kv_len - 1, 0, f32::INFINITY);
            let (out, lse) = lookup.run_with_lse(tier);
            assert!(out.bits().iter().all(|&bits| f32::from_bits(bits).is_nan()), "{tier} {shape:?}");
            assert!(lse.iter().all(|x| x.is_nan()), "{tier} {shape:?}");
        }
    }
}
