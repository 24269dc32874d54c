//! What a key does that is not seen, however it is hidden, and what special scores and values do to the rows
//! that see them.
#![cfg(feature = "half")]

#[path = "../common/mod.rs"]
mod common;
mod special;

use common::attend::{Causal, Lookup, Shape};
use common::buffer::{Buffer, Kind};
use common::heads::Order;
use common::options::{Given, Layout, Mask, Rule, ScoreFrom, Table};
use common::{Rng, expect, nan_scratch, tiers};
use qkv::Scores;

/// The ways to hide keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Causal,
    Window,
    Lens,
    Starts,
    Mask(Given),
    Bias(Kind),
}

const HIDDEN: [Hidden; 10] = [
    Hidden::Causal,
    Hidden::Window,
    Hidden::Lens,
    Hidden::Starts,
    Hidden::Mask(Given::Bools),
    Hidden::Mask(Given::Bits),
    Hidden::Mask(Given::Rule),
    Hidden::Bias(Kind::F32),
    Hidden::Bias(Kind::F16),
    Hidden::Bias(Kind::Bf16),
];

/// What tells keys apart by query and key.
const TENSORS: [Hidden; 5] = [
    Hidden::Mask(Given::Bools),
    Hidden::Mask(Given::Bits),
    Hidden::Mask(Given::Rule),
    Hidden::Bias(Kind::F32),
    Hidden::Bias(Kind::Bf16),
];

const LAYOUTS: [Layout; 3] = [Layout::Plain, Layout::Ring(3, 50), Layout::Pages(16, 4)];

/// Decode and prefill, with and without partial blocks, of several panels, over a chunk's end.
const SIZES: [(usize, usize); 8] =
    [(1, 70), (3, 130), (8, 64), (9, 200), (50, 130), (97, 70), (2, 1100), (200, 150)];

/// `sees(i, t)` as a tensor of its own for each query; a bias of `bias(t)` where the key is seen.
fn give(lookup: &mut Lookup, hidden: Hidden, sees: &dyn Fn(usize, usize) -> bool, bias: fn(usize) -> f32) {
    let (rows, keys) = (lookup.q.len, lookup.k.len);
    let pairs = || (0..rows).flat_map(|i| (0..keys).map(move |t| (i, t)));
    match hidden {
        Hidden::Mask(given) => {
            let values = pairs().map(|(i, t)| sees(i, t)).collect();
            lookup.options.masks = vec![Mask::new(Table { heads: 1, rows, keys, values }, given)];
        }
        Hidden::Bias(kind) => {
            let mut values = Buffer::new(kind, rows * keys);
            for (at, (i, t)) in pairs().enumerate() {
                values.set_bits(at, kind.bits(if sees(i, t) { bias(t) } else { f32::NEG_INFINITY }));
            }
            lookup.options.bias = Some(Table { heads: 1, rows, keys, values });
        }
        _ => panic!("{hidden:?} is no tensor"),
    }
}

/// Hides some keys from all queries, and others from some.
fn hide(lookup: &mut Lookup, hidden: Hidden) {
    let (q_len, kv_len) = (lookup.q.len, lookup.k.len);
    match hidden {
        Hidden::Causal => lookup.causal = Causal::Offset(kv_len as isize - 5 - q_len as isize),
        Hidden::Window => {
            lookup.window = (kv_len / 3, 2);
            lookup.causal = Causal::Free(kv_len as isize - 9 - q_len as isize);
        }
        Hidden::Lens => lookup.options.end = Some(kv_len - kv_len / 4),
        Hidden::Starts => lookup.options.start = Some(kv_len / 4 + 1),
        Hidden::Mask(_) | Hidden::Bias(_) => {
            // A whole block, single keys, and every third key of a query.
            let sees = |i: usize, t: usize| {
                let block = kv_len > 70 && (64..128).contains(&t);
                !block && t % 7 != 3 && !(i + t).is_multiple_of(3)
            };
            give(lookup, hidden, &sees, |t| 0.25 * (t % 4) as f32);
        }
    }
}

/// Whether query `i` of head `h` sees key `t`.
fn sees(lookup: &Lookup, h: usize, i: usize, t: usize) -> bool {
    lookup.seen(i).contains(&t) && lookup.options.sees(h, i, t)
}

fn rows(lookup: &Lookup) -> impl Iterator<Item = (usize, usize)> {
    let (heads, queries) = (lookup.q.n_heads, lookup.q.len);
    (0..heads).flat_map(move |h| (0..queries).map(move |i| (h, i)))
}

/// Calls of every size and layout with keys hidden in every way; types and dimensions vary.
fn calls() -> impl Iterator<Item = (Lookup, String)> {
    let mut rng = Rng::new(1);
    let all = SIZES.into_iter().flat_map(|sizes| HIDDEN.map(|hidden| (sizes, hidden)));
    all.enumerate().map(move |(n, ((q_len, kv_len), hidden))| {
        let (head_dim, v_head_dim) = rng.pick(&[(8, 8), (17, 5), (3, 16), (16, 24)]);
        let (n_kv_heads, group) = rng.pick(&[(1, 1), (2, 1), (1, 2), (2, 3)]);
        let kind = Kind::ALL[n % 3];
        let kinds = [Kind::F32, kind, kind, Kind::F32];
        let plain = Shape::plain(q_len, kv_len, head_dim, rng.word());
        let orders = [(); 4].map(|()| Order::random(&mut rng));
        let mut lookup = Shape { v_head_dim, n_kv_heads, group, kinds, orders, ..plain }.lookup();
        hide(&mut lookup, hidden);
        lookup.options.layouts = [LAYOUTS[n / 2 % 3]; 2];
        let what = format!("{hidden:?}, {q_len} x {kv_len}, {kind:?}, {:?}", lookup.options.layouts);
        (lookup, what)
    })
}

#[test]
fn numbers_in_keys_that_no_query_sees_change_no_bit() {
    for (lookup, what) in calls() {
        let unseen: Vec<usize> =
            (0..lookup.k.len).filter(|&t| rows(&lookup).all(|(h, i)| !sees(&lookup, h, i, t))).collect();
        assert!(!unseen.is_empty(), "nothing is hidden: {what}");
        let with = |x: f32| {
            let mut lookup = lookup.clone();
            let heads = lookup.k.n_heads;
            for (&t, h) in unseen.iter().flat_map(|t| (0..heads).map(move |h| (t, h))) {
                lookup.k.set_token(t, h, x);
                lookup.v.set_token(t, h, x);
            }
            lookup
        };
        let clean = with(0.0);
        for tier in tiers() {
            let (expected, expected_lse) = clean.run_with_lse(tier);
            let weights = clean.scores(tier, Scores::Weights);
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let poisoned = with(poison);
                let (out, lse) = poisoned.run_with_lse(tier);
                assert_eq!(out.bits(), expected.bits(), "{tier}, {poison}, {what}");
                assert_eq!(lse, expected_lse, "{tier}, {poison}, {what}");
                let got = poisoned.scores(tier, Scores::Weights);
                assert_eq!(got, weights, "{tier}, {poison}, weights, {what}");
            }
        }
    }
}

#[test]
fn nan_in_a_key_or_value_reaches_exactly_the_rows_and_columns_that_see_it() {
    for (clean, what) in calls() {
        let (kv_len, column) = (clean.k.len, clean.v.head_dim / 2);
        // Whatever sees them: the first, the last, and some between.
        for t in [0, kv_len / 3, kv_len / 2 + 1, kv_len - 6] {
            let (mut key, mut value) = (clean.clone(), clean.clone());
            let (nan, head) = (key.k.kind().bits(f32::NAN), t % clean.k.n_heads);
            key.k.set_bits(t, head, clean.k.head_dim - 1, nan);
            value.v.set_bits(t, head, column, nan);
            for tier in tiers() {
                let (expected, expected_lse) = clean.run_with_lse(tier);
                let (by_key, by_key_lse) = key.run_with_lse(tier);
                let (by_value, by_value_lse) = value.run_with_lse(tier);
                assert_eq!(by_value_lse, expected_lse, "{tier}, key {t}: a value reached the sums: {what}");
                for (h, i) in rows(&clean) {
                    let lse = h * clean.q.len + i;
                    let place = || format!("{tier}, key {t}, head {h}, query {i}: {what}");
                    let seen = h / (clean.q.n_heads / clean.k.n_heads) == head && sees(&clean, h, i, t);
                    let bits = expected.token_bits(i, h);
                    if seen {
                        assert!(by_key.token(i, h).iter().all(|x| x.is_nan()), "lost: {}", place());
                        assert!(by_key_lse[lse].is_nan(), "lost: {}", place());
                    } else {
                        assert_eq!(by_key.token_bits(i, h), bits, "leaked: {}", place());
                        assert_eq!(by_key_lse[lse], expected_lse[lse], "leaked: {}", place());
                    }
                    for (d, (&got, &bits)) in by_value.token_bits(i, h).iter().zip(&bits).enumerate() {
                        match seen && d == column {
                            true => assert!(f32::from_bits(got).is_nan(), "lost: {}", place()),
                            false => assert_eq!(got, bits, "leaked into column {d}: {}", place()),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn mask_by_numbers_and_by_tensor_leave_the_same_bits() {
    let mut rng = Rng::new(2);
    for (q_len, kv_len) in [(1, 300), (7, 300), (60, 300), (200, 200), (3, 1300), (40, 1100)] {
        for by_numbers in [Hidden::Causal, Hidden::Window, Hidden::Lens, Hidden::Starts] {
            let plain = Shape::plain(q_len, kv_len, 8, rng.word());
            let shape = Shape { group: 2, v_head_dim: 5, alibi: rng.below(2) == 0, ..plain };
            let mut numbers = shape.lookup();
            // Biases count from the same place either way.
            numbers.causal = Causal::Free(kv_len as isize - q_len as isize);
            let mut tensor = numbers.clone();
            match by_numbers {
                Hidden::Causal => numbers.causal = Causal::BottomRight,
                Hidden::Window => numbers.window = (100, 30),
                Hidden::Lens => numbers.options.end = Some(kv_len / 2 + 3),
                _ => numbers.options.start = Some(kv_len / 2 + 3),
            }
            tensor.options.layouts = [(); 2].map(|()| rng.pick(&LAYOUTS));
            for hidden in TENSORS {
                let mut tensor = tensor.clone();
                give(&mut tensor, hidden, &|i, t| sees(&numbers, 0, i, t), |_| 0.0);
                for tier in tiers() {
                    let (expected, expected_lse) = numbers.run_with_lse(tier);
                    let (out, lse) = tensor.run_with_lse(tier);
                    let place = (tier, q_len, kv_len, by_numbers, hidden);
                    assert_eq!(out.bits(), expected.bits(), "{place:?}");
                    assert_eq!(lse, expected_lse, "{place:?}");
                }
            }
        }
    }
}

/// One option each, beside the masks.
fn with_option(lookup: &mut Lookup, n: usize) -> &'static str {
    let (heads, rows, keys) = (lookup.q.n_heads, lookup.q.len, lookup.k.len);
    let options = &mut lookup.options;
    match n {
        0 => return "nothing",
        1 => options.softcap = Some(3.0),
        2 => lookup.alibi = Some(vec![0.5; heads]),
        3 => lookup.sinks = Some((0..heads).map(|h| h as f32 - 0.5).collect()),
        4 => options.rule = Some(ScoreFrom { rule: Rule::Relative, query: 0, head: 0 }),
        5 => {
            let mut values = Buffer::new(Kind::F16, heads * rows * keys);
            (0..values.len()).for_each(|i| values.set_bits(i, Kind::F16.bits((i % 5) as f32)));
            options.bias = Some(Table { heads, rows, keys, values });
        }
        6 => options.layouts = [Layout::Ring(2, 9); 2],
        7 => options.layouts = [Layout::Pages(7, 3); 2],
        8 => lookup.scale = Some(f32::NAN),
        9 => lookup.scale = Some(f32::INFINITY),
        10 => (options.start, options.end) = (Some(keys / 2), Some(keys)),
        11 => (lookup.causal, lookup.window) = (Causal::BottomRight, (3, 3)),
        12 => {
            let values = (0..heads * rows * keys).map(|i| i % 3 > 0).collect();
            options.masks.push(Mask::new(Table { heads, rows, keys, values }, Given::Bits));
        }
        _ => return "",
    }
    ["", "softcap", "alibi", "sinks", "rule", "bias", "ring", "pages", "NaN", "inf", "lens", "window", "mask"]
        [n]
}

const OPTIONS: usize = 13;

#[test]
fn row_without_keys_is_zero_whatever_the_options_and_however_keys_are_hidden() {
    let nothing = |hidden: Hidden, lookup: &mut Lookup| match hidden {
        Hidden::Causal => lookup.causal = Causal::Offset(-(lookup.q.len as isize)),
        Hidden::Window => (lookup.causal, lookup.window) = (Causal::Free(isize::MAX / 2), (5, 5)),
        Hidden::Lens => lookup.options.end = Some(0),
        Hidden::Starts => lookup.options.start = Some(lookup.k.len + 7),
        _ => give(lookup, hidden, &|_, _| false, |_| 0.0),
    };
    for (q_len, kv_len) in [(1, 70), (5, 130), (60, 90), (2, 1100)] {
        for hidden in HIDDEN {
            for n in 0..OPTIONS {
                let shape = Shape { group: 2, v_head_dim: 5, ..Shape::plain(q_len, kv_len, 8, 4) };
                let mut lookup = shape.lookup();
                let option = with_option(&mut lookup, n);
                nothing(hidden, &mut lookup);
                (0..kv_len).for_each(|t| lookup.k.set_token(t, 0, f32::NAN));
                (0..kv_len).for_each(|t| lookup.v.set_token(t, 0, f32::NAN));
                for tier in tiers() {
                    let (out, lse) = lookup.run_with_lse(tier);
                    let place = (tier, q_len, kv_len, hidden, option);
                    assert!(out.bits().iter().all(|&bits| bits == 0), "{place:?}");
                    for (row, lse) in lse.into_iter().enumerate() {
                        let none = f32::NEG_INFINITY;
                        let sink = lookup.sinks.as_ref().map_or(none, |sinks| sinks[row / q_len]);
                        assert_eq!(lse, sink, "{place:?}");
                    }
                    let weights = lookup.scores(tier, Scores::Weights);
                    assert!(weights.iter().all(|x| x.to_bits() == 0), "{place:?}: weights");
                    let masked = lookup.scores(tier, Scores::Masked);
                    assert!(masked.iter().all(|&x| x == f32::NEG_INFINITY), "{place:?}: scores");
                }
            }
        }
    }
}

#[test]
fn empty_sizes_are_ok_with_every_option() {
    for n in (0..OPTIONS).filter(|&n| n != 8 && n != 9) {
        for (q_len, kv_len, head_dim, v_head_dim) in [
            (0, 70, 8, 8),
            (0, 0, 8, 8),
            (3, 0, 8, 5),
            (60, 0, 8, 5),
            (3, 70, 0, 5),
            (60, 70, 0, 5),
            (3, 70, 5, 0),
            (60, 130, 5, 0),
            (3, 70, 0, 0),
            (0, 0, 0, 0),
            (1, 0, 0, 0),
        ] {
            let shape = Shape { group: 2, v_head_dim, ..Shape::plain(q_len, kv_len, head_dim, 5) };
            let mut lookup = shape.lookup();
            let option = with_option(&mut lookup, n);
            expect(lookup.check(), (option, &shape));
            for tier in tiers() {
                let mut out = lookup.out.clone();
                let result = lookup.run_into(tier, &mut out, None, &mut nan_scratch(lookup.scratch_len()));
                assert_eq!(result, Ok(()), "{tier}, {option}, {shape:?}");
                expect(out.check_guards(&lookup.out), (tier, option, &shape));
                for which in [Scores::Raw, Scores::Weights] {
                    let numbers = lookup.scores(tier, which);
                    assert!(numbers.iter().all(|x| !x.is_nan()), "{tier}, {option}, {which:?}, {shape:?}");
                }
            }
        }
    }
}
