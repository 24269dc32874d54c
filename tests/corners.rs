//! Corners of attention that random calls seldom meet, each computed by hand or against a plainer call.

mod common;

use common::{nan_scratch, tiers};
use qkv::{
    Attention, HeadsMut, HeadsRef, KEYS_PER_STATE, Keys, Paged, Ring, ScoreAt, Scores, TensorMut, TensorRef,
};
use qkv::{attention_scratch_len, states_len};

/// One head of `dim` features.
fn head(data: &[f32], dim: usize) -> HeadsRef<'_, f32> {
    HeadsRef::token_major(data, data.len() / dim, 1, dim).expect("whole tokens")
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn run(options: Attention, q: HeadsRef<f32>, k: impl Keys, v: impl Keys, dim: usize) -> Vec<f32> {
    let mut out = vec![7.0_f32; q.len() * dim];
    let view = HeadsMut::token_major(&mut out, q.len(), 1, dim).expect("as long");
    let mut scratch = nan_scratch(attention_scratch_len(q.len(), 2000, q.head_dim(), dim));
    options.run(q, k, v, view, &mut scratch).expect("sizes agree");
    out
}

fn scores(options: Attention, q: HeadsRef<f32>, k: HeadsRef<f32>, which: Scores) -> Vec<f32> {
    let mut out = vec![7.0_f32; q.len() * k.len()];
    let view = TensorMut::new(&mut out, [1, 1, q.len(), k.len()]).expect("as long");
    let mut scratch = nan_scratch(attention_scratch_len(q.len(), k.len(), q.head_dim(), 0));
    options.scores(q, k, which, (0..1, 0..q.len()), view, &mut scratch).expect("sizes agree");
    out
}

/// A sink above all scores takes most of the weight, and the weights are those that the output has.
#[test]
fn weights_beside_a_sink_above_all_scores() {
    let (q, k, v) = ([1.0_f32], [0.0_f32, 1.0, 0.5], [1.0_f32, 10.0, 100.0]);
    for (tier, sink) in
        tiers().into_iter().flat_map(|tier| [-3.0_f32, 0.7, 3.0, 20.0].map(|sink| (tier, sink)))
    {
        let sinks = [sink];
        let options = Attention::new().tier(tier).scale(1.0).sinks(&sinks);
        let all: f64 = k.iter().chain(&sinks).map(|&x| f64::from(x).exp()).sum();
        let weights = scores(options, head(&q, 1), head(&k, 1), Scores::Weights);
        for (&weight, &score) in weights.iter().zip(&k) {
            let exact = f64::from(score).exp() / all;
            assert!((f64::from(weight) / exact - 1.0).abs() < 1e-6, "{tier}, {sink}: {weight}, not {exact}");
        }
        let sum: f32 = weights.iter().zip(&v).map(|(w, v)| w * v).sum();
        let [out] = run(options, head(&q, 1), head(&k, 1), head(&v, 1), 1)[..] else { panic!("one number") };
        assert!((sum / out - 1.0).abs() < 1e-6, "{tier}, {sink}: {sum}, not {out}");
    }
}

/// Products that underflow leave a score of minus zero, whichever way the row is computed.
#[test]
fn zero_has_the_same_sign_among_few_queries_and_many() {
    for dim in [1, 3, 5, 63, 65, 66, 67] {
        let (q, k) = (vec![-1e-30_f32; 60 * dim], vec![1e-30_f32; 9 * dim]);
        for tier in tiers() {
            let options = Attention::new().tier(tier).scale(1.0);
            let of = |n: usize| bits(&scores(options, head(&q[..n * dim], dim), head(&k, dim), Scores::Raw));
            let expected = of(60)[0];
            for n in [1, 2, 5, 10, 17, 24, 40] {
                assert!(of(n).iter().all(|&x| x == expected), "{tier}, {dim} features, {n} queries");
            }
        }
    }
}

/// Packed sequences whose keys lie in the pages of one.
#[test]
fn packed_keys_in_pages_have_the_bits_of_keys_in_rows() {
    const DIM: usize = 5;
    const PAGE: usize = 4;
    let tokens: Vec<f32> = (0..43 * DIM).map(|x| (x as f32 * 0.7).sin()).collect();
    let table: Vec<u32> = (0..11).map(|page| page * 7 % 11).collect();
    let mut pool = vec![f32::NAN; 11 * PAGE * DIM];
    for (t, token) in tokens.chunks_exact(DIM).enumerate() {
        let slot = table[t / PAGE] as usize * PAGE + t % PAGE;
        pool[slot * DIM..][..DIM].copy_from_slice(token);
    }
    let pool = HeadsRef::batch_token_major(&pool, 11, PAGE, 1, DIM).expect("eleven pages");
    let pages = Paged::new(pool, &table, 1, 43).expect("enough pages");
    let rows = head(&tokens, DIM);
    for tier in tiers() {
        for (q_offsets, kv_offsets) in [
            ([0, 3, 3, 20], [0, 2, 17, 43]),
            ([0, 17, 19, 20], [0, 0, 43, 43]),
            ([0, 1, 2, 20], [0, 7, 8, 43]),
        ] {
            let options = Attention::new().tier(tier).causal().q_offsets(&q_offsets).kv_offsets(&kv_offsets);
            let q = head(&tokens[..20 * DIM], DIM);
            let expected = run(options, q, rows, rows, DIM);
            for got in [run(options, q, pages, pages, DIM), run(options, q, rows, pages, DIM)] {
                assert_eq!(bits(&got), bits(&expected), "{tier}, {q_offsets:?}, {kv_offsets:?}");
            }
        }
    }
}

/// A table has as many entries as it has: what lies behind it is not looked at, and a page that is not there refused.
#[test]
fn packed_keys_in_pages_are_looked_up_in_the_table_alone() {
    let pool = [0.5_f32; 8];
    let pool = HeadsRef::batch_token_major(&pool, 2, 4, 1, 1).expect("two pages");
    let run = |table: &[u32], kv_offsets: [usize; 3]| {
        let (q_offsets, mut out) = ([0, 1, 2], [7.0_f32; 2]);
        let keys = Paged::new(pool, table, 1, 8).expect("two pages are enough");
        let out = HeadsMut::token_major(&mut out, 2, 1, 1).expect("two numbers");
        let options = Attention::new().q_offsets(&q_offsets).kv_offsets(&kv_offsets);
        options.run(
            head(&[1.0, 1.0], 1),
            keys,
            keys,
            out,
            &mut nan_scratch(attention_scratch_len(2, 8, 1, 1)),
        )
    };
    assert_eq!(run(&[0, 1, 77, 78][..2], [0, 2, 8]), Ok(()));
    assert_eq!(
        run(&[0, 1_000_000_000], [0, 0, 8]),
        common::too_large("page number in the table", 1, 1_000_000_000)
    );
    assert_eq!(run(&[0, 2], [0, 5, 8]), common::too_large("page number in the table", 1, 2));
}

#[test]
fn a_softcap_that_is_no_normal_number_is_none() {
    let x: Vec<f32> = (0..40).map(|x| x as f32 * 0.3 - 5.0).collect();
    for tier in tiers() {
        let plain = Attention::new().tier(tier);
        let expected = bits(&run(plain, head(&x, 1), head(&x, 1), head(&x, 1), 1));
        for cap in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40] {
            let got = run(plain.softcap(2.0).softcap(cap), head(&x, 1), head(&x, 1), head(&x, 1), 1);
            assert_eq!(bits(&got), expected, "{tier}, {cap}");
        }
        let [plus, minus] =
            [2.0, -2.0].map(|cap| bits(&run(plain.softcap(cap), head(&x, 1), head(&x, 1), head(&x, 1), 1)));
        assert!(plus == minus && plus != expected, "{tier}");
    }
}

/// Keys at a stride of 0 may be more than there is memory for.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_score_rule_meets_every_key_beyond_what_its_numbers_count() {
    let one = [1.0_f32];
    for tier in tiers() {
        for len in [(1_usize << 31) - 1, 1 << 31, (1 << 31) + 2] {
            let keys = HeadsRef::with_strides(&one, len, 1, 1, 0, 0).expect("one number");
            let rule = |_: f32, _| 7.0_f32;
            let options = Attention::new().tier(tier).causal().window(3, 0).score_rule(&rule);
            let (mut out, mut lse) = ([0.0_f32], [0.0_f32]);
            let view = HeadsMut::token_major(&mut out, 1, 1, 1).expect("one number");
            let mut scratch = nan_scratch(attention_scratch_len(1, len, 1, 1));
            options
                .run_with_lse(head(&one, 1), keys, keys, view, &mut lse, &mut scratch)
                .expect("sizes agree");
            assert!((lse[0] - 7.0 - 4.0_f32.ln()).abs() < 1e-5, "{tier}, {len} keys: {}", lse[0]);
        }
    }
}

/// Sizes near the largest number, where there is nothing to compute or one element is all there is.
#[test]
#[cfg(target_pointer_width = "64")]
fn sizes_beyond_memory_are_refused_or_nothing() {
    let (none, one, mut scratch) =
        ([0.0_f32; 0], [1.0_f32], nan_scratch(attention_scratch_len(1, 100, 1, 1)));
    let slots = HeadsRef::with_strides(&one, usize::MAX, 1, 1, 0, 0).expect("one number");
    let ring = Ring::new(slots, usize::MAX - 2, 100).expect("a slot");
    let mut out = [7.0_f32];
    let view = HeadsMut::token_major(&mut out, 1, 1, 1).expect("one number");
    let refused = Attention::new().run(head(&one, 1), ring, ring, view, &mut scratch);
    assert_eq!((refused, out), (Err(qkv::Error::ShapeOverflow), [7.0]));
    for (len, heads) in [(1000, usize::MAX / 2), (1000, usize::MAX), (usize::MAX, 3)] {
        for tier in tiers() {
            let mut nothing = [0.0_f32; 0];
            let x = HeadsRef::batch_token_major(&none, 0, len, heads, 0).expect("nothing");
            let out = HeadsMut::batch_token_major(&mut nothing, 0, len, heads, 0).expect("nothing");
            if let Ok(mut work) = Attention::new().tier(tier).split(x, x, x, out, None) {
                assert_eq!((work.len(), work.items().len()), (0, 0));
                assert_eq!(work.parts(3).len(), 0);
            }
        }
    }
    // Rows whose number is beyond `usize` unless they are multiplied in the right order.
    let q = HeadsRef::batch_token_major(&none, 2, 0, usize::MAX, 0).expect("nothing");
    let k = HeadsRef::batch_token_major(&none, 2, 1, 1, 0).expect("nothing");
    let work = Attention::new().split_keys(q, k, k, &mut []).expect("no states");
    assert!(work.is_empty());
    let mut nothing = [0.0_f32; 0];
    let out = HeadsMut::batch_token_major(&mut nothing, 2, 0, usize::MAX, 0).expect("nothing");
    assert_eq!(Attention::new().merge(&mut [], out, None), Ok(()));
    // More rows than can be counted, of which a few are wanted.
    let (len, mut out) = (isize::MAX as usize, [7.0_f32; 6]);
    let two = [1.0_f32, 2.0];
    let q = HeadsRef::with_strides(&two, len, 2, 1, 0, 1).expect("two numbers");
    let view = TensorMut::new(&mut out, [1, 2, 1, 3]).expect("six numbers");
    let k = head(&[1.0, 2.0, 3.0], 1);
    let mut scratch = nan_scratch(attention_scratch_len(len, 3, 1, 0));
    let refused = Attention::new().scores(q, k, Scores::Raw, (0..2, len - 1..len), view, &mut scratch);
    assert_eq!((refused, out), (Err(qkv::Error::ShapeOverflow), [7.0; 6]));
    // What takes no time however many there are of nothing.
    let no_queries = HeadsRef::token_major(&none, 0, 1, 1).expect("nothing");
    let one = head(&one, 1);
    assert_eq!(Attention::new().partial(no_queries, one, one, 0..usize::MAX, &mut [], &mut []), Ok(()));
    let q = HeadsRef::batch_with_strides(&[1.0_f32], [1 << 60, 1, 1, 1], [0; 3]).expect("one number");
    let k = HeadsRef::batch_with_strides(&none, [1 << 60, 0, 1, 1], [0; 3]).expect("nothing");
    let view = TensorMut::new(&mut nothing, [1 << 60, 1, 1, 0]).expect("nothing");
    let mut scratch = nan_scratch(attention_scratch_len(1, 0, 1, 0));
    assert_eq!(Attention::new().alibi(&[0.5]).weights(q, k, view, &mut scratch), Ok(()));
    assert_eq!(qkv::states_len(1, 1, usize::MAX), usize::MAX);
}

#[test]
fn states_hold_nothing_of_the_scratch() {
    for (kv_len, dim) in [(5, 1), (1030, 3), (0, 17)] {
        let data: Vec<f32> = (0..kv_len.max(1) * dim).map(|i| (i % 7) as f32).collect();
        let (q, keys) =
            (head(&data[..dim], dim), HeadsRef::token_major(&data, kv_len, 1, dim).expect("as many"));
        let chunks = kv_len.div_ceil(KEYS_PER_STATE).max(1);
        for tier in tiers() {
            let options = Attention::new().tier(tier);
            let mut scratch = vec![4242.0; attention_scratch_len(1, kv_len, dim, dim)];
            let mut states = vec![f32::NAN; states_len(chunks, 1, dim)];
            let mut work = options.split_keys(q, keys, keys, &mut states).expect("sizes agree");
            work.items().for_each(|item| item.run(&mut scratch).expect("enough"));
            for state in states.chunks(states_len(1, 1, dim)) {
                assert!(
                    state[2 + dim..].iter().all(|x| x.to_bits() == 0),
                    "{tier} {kv_len} {dim}: {state:?}"
                );
            }
            let mut out = vec![f32::NAN; dim];
            let to = HeadsMut::token_major(&mut out, 1, 1, dim).expect("a row");
            options.merge(&mut states, to, None).expect("whole chunks");
            assert_eq!(bits(&out), bits(&run(options, q, keys, keys, dim)), "{tier} {kv_len} {dim}");
        }
    }
}

/// A rule may look up numbers of a query, head or key: it is asked of no others.
#[test]
fn a_score_rule_is_asked_of_queries_heads_and_keys_that_there_are() {
    for (q_len, n_kv_heads, group) in
        [(1, 1, 1), (1, 3, 1), (3, 2, 1), (1, 2, 5), (11, 1, 1), (50, 1, 3), (7, 5, 1)]
    {
        let (heads, kv_len, dim) = (n_kv_heads * group, 70, 2);
        let (queries, keys) = (vec![0.5_f32; q_len * heads * dim], vec![0.25_f32; kv_len * n_kv_heads * dim]);
        let rule = |score: f32, at: ScoreAt| {
            let there = |at: i32, len: usize| usize::try_from(at).is_ok_and(|at| at < len);
            assert!(
                there(at.query, q_len) && there(at.head, heads) && there(at.key, kv_len) && at.batch == 0,
                "{at:?}"
            );
            score
        };
        for tier in tiers() {
            let mut out = vec![7.0_f32; q_len * heads * dim];
            let q = HeadsRef::token_major(&queries, q_len, heads, dim).expect("queries");
            let k = HeadsRef::token_major(&keys, kv_len, n_kv_heads, dim).expect("keys");
            let to = HeadsMut::token_major(&mut out, q_len, heads, dim).expect("output");
            let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, dim, dim));
            Attention::new()
                .causal()
                .tier(tier)
                .score_rule(&rule)
                .run(q, k, k, to, &mut scratch)
                .expect("sizes agree");
        }
    }
}

/// A NaN in another row's bias hides no minus infinity: the value there, which is NaN, is not reached.
#[test]
fn a_bias_of_nan_leaves_minus_infinity_of_other_rows_unseen() {
    let (q, k) = ([1.0_f32; 3], [0.5_f32; 70]);
    for (hidden, t) in (0..3).flat_map(|row| [2, 40, 69].map(|t| (row, t))) {
        let (mut v, mut bias) = ([2.0_f32; 70], [0.0_f32; 3 * 70]);
        v[t] = f32::NAN;
        for row in 0..3 {
            bias[row * 70 + t] = if row == hidden { f32::NEG_INFINITY } else { f32::NAN };
        }
        for tier in tiers() {
            let bias = TensorRef::new(&bias, [1, 1, 3, 70]).expect("a number for each query and key");
            let out = run(Attention::new().tier(tier).bias(bias), head(&q, 1), head(&k, 1), head(&v, 1), 1);
            for (row, &x) in out.iter().enumerate() {
                assert!(if row == hidden { x == 2.0 } else { x.is_nan() }, "{tier}, key {t}, row {row}: {x}");
            }
        }
    }
}

/// A weighted value may underflow to minus zero, which 0 times the value of a key that is not seen would turn into zero.
#[test]
fn values_that_underflow_leave_zero_whatever_is_not_seen() {
    // Weights 1 and e^-80.
    let (q, k, v) = ([1.0_f32; 30], [0.0_f32, -80.0, 0.0], [0.0_f32, -1e-20, 1.0]);
    for (tier, n) in tiers().into_iter().flat_map(|tier| [1, 5, 30].map(|n| (tier, n))) {
        let options = Attention::new().tier(tier).scale(1.0);
        let alone = run(options, head(&q[..n], 1), head(&k[..2], 1), head(&v[..2], 1), 1);
        assert!(bits(&alone).iter().all(|&bits| bits == 0), "{tier}, {n} queries: {alone:?}");
        let hidden = run(options.kv_lens(&[2]), head(&q[..n], 1), head(&k, 1), head(&v, 1), 1);
        let causal = run(options.causal_offset(1), head(&q[..n], 1), head(&k, 1), head(&v, 1), 1);
        assert_eq!((bits(&hidden), bits(&causal[..1])), (bits(&alone), vec![0]), "{tier}, {n} queries");
    }
}
