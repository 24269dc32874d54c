//! However a call is cut, its rows have the same bits: batches, packed sequences, work items on threads,
//! chunks of keys.
#![cfg(feature = "half")]

mod common;

use std::sync::Mutex;

use common::attend::{Lookup, Shape};
use common::buffer::Kind;
use common::heads::{Heads, Order};
use common::options::{Layout, Options};
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{Attention, Error, HeadsMut, HeadsRef, Item, KEYS_PER_STATE, TensorRef, attention_scratch_len};
use qkv::{Paged, Work, states_len};

/// Shapes of `f32`, with any options but the places of keys.
fn shapes(seed: u64) -> impl Iterator<Item = Lookup> {
    let mut rng = Rng::new(seed);
    let lens = [(1, 70), (3, 2100), (9, 70), (50, 130), (200, 65), (230, 1100), (2, 4000), (5, 0), (1, 1024)];
    lens.into_iter().cycle().take(27).map(move |(q_len, kv_len)| {
        let shape = Shape::random(q_len, kv_len, rng.word());
        let kinds = [Kind::F32; 4];
        let (head_dim, v_head_dim) = (shape.head_dim.min(16), shape.v_head_dim.min(17));
        let mut lookup = Shape { kinds, head_dim, v_head_dim, ..shape }.lookup();
        lookup.options.layout = Layout::Plain;
        lookup
    })
}

/// Output and log-sum-exps of `run` on the call.
fn with_lse(lookup: &Lookup, run: impl FnOnce(HeadsMut<'_, f32>, &mut [f32])) -> (Heads, Vec<f32>) {
    let (mut out, mut lse) = (lookup.out.clone(), nan_scratch(lookup.q.n_heads * lookup.q.len));
    run(out.view_mut(), &mut lse);
    (out, lse)
}

fn same((out, lse): &(Heads, Vec<f32>), (whole, whole_lse): &(Heads, Vec<f32>)) -> Result<(), String> {
    let bits = |lse: &[f32]| lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    same_bits(out.kind(), &out.bits(), &whole.bits())?;
    same_bits(out.kind(), &bits(lse), &bits(whole_lse)).map_err(|m| format!("lse: {m}"))
}

/// All items on `threads` threads, each taking the next one.
fn on_threads(work: &mut Work<'_>, threads: usize) {
    let needed = work.scratch_len();
    take_all(work.items(), needed, threads);
}

/// All of `items`, each with `needed` floats of scratch.
fn take_all<'a>(items: impl Iterator<Item = Item<'a>> + Send, needed: usize, threads: usize) {
    let items = Mutex::new(items);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(item) = items.lock().expect("no thread has panicked").next() else { break };
                    item.run(&mut nan_scratch(needed)).expect("enough scratch");
                }
            });
        }
    });
}

#[test]
fn work_items_have_the_bits_of_the_whole_on_any_number_of_threads() {
    for lookup in shapes(1) {
        for tier in tiers() {
            let whole = lookup.run_with_lse(tier);
            let operands = || (lookup.q.view::<f32>(), lookup.k.view::<f32>(), lookup.v.view::<f32>());
            for threads in [1, 2, 16] {
                let split = with_lse(&lookup, |out, lse| {
                    let (q, k, v) = operands();
                    let work = lookup.options(tier).split(q, k, v, out, Some(lse));
                    on_threads(&mut work.expect("sizes agree"), threads);
                });
                expect(same(&split, &whole), (tier, threads, lookup.q.len, lookup.k.len));
            }
            for parts in [1, 3, 7, 1000] {
                let split = with_lse(&lookup, |out, lse| {
                    let (q, k, v) = operands();
                    let work = lookup.options(tier).split(q, k, v, out, Some(lse));
                    let mut work = work.expect("sizes agree");
                    let (needed, there) = (work.scratch_len(), work.len());
                    let items = work.parts(parts);
                    assert_eq!(items.len(), there.min(parts));
                    take_all(items, needed, 2);
                });
                expect(same(&split, &whole), (tier, "parts", parts, lookup.q.len, lookup.k.len));
            }
            let merged = with_lse(&lookup, |out, lse| {
                let (q, k, v) = operands();
                let rows = lookup.q.len * lookup.q.n_heads;
                let chunks = lookup.k.len.div_ceil(KEYS_PER_STATE);
                let mut states = nan_scratch(states_len(chunks, rows, lookup.v.head_dim));
                let work = lookup.options(tier).split_keys(q, k, v, &mut states);
                let mut work = work.expect("sizes agree");
                if chunks % 2 == 0 {
                    let needed = work.scratch_len();
                    take_all(work.parts(3), needed, 2);
                } else {
                    on_threads(&mut work, 4);
                }
                if chunks == 0 {
                    // Nothing to merge: the state of no keys is one chunk that does not exist.
                    states = nan_scratch(states_len(1, rows, lookup.v.head_dim));
                    let mut scratch = nan_scratch(lookup.scratch_len());
                    lookup.options(tier).partial(q, k, v, 0..1, &mut states, &mut scratch).expect("sizes");
                }
                lookup.options(tier).merge(&mut states, out, Some(lse)).expect("sizes agree");
            });
            expect(same(&merged, &whole), (tier, "states", lookup.q.len, lookup.k.len));
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn rayon_has_the_bits_of_the_whole_for_any_scratch() {
    for lookup in shapes(2) {
        for tier in tiers() {
            let whole = lookup.run(tier);
            for workers in [1, 3, 16] {
                let mut out = lookup.out.clone();
                let mut scratch = nan_scratch(lookup.scratch_len() * workers);
                let (q, k, v) = (lookup.q.view::<f32>(), lookup.k.view::<f32>(), lookup.v.view::<f32>());
                lookup
                    .options(tier)
                    .run_parallel(q, k, v, out.view_mut::<f32>(), &mut scratch)
                    .expect("sizes agree");
                expect(same_bits(out.kind(), &out.bits(), &whole.bits()), (tier, workers, lookup.q.len));
            }
        }
    }
}

#[test]
fn keys_split_over_two_calls_merge_to_the_bits_of_one() {
    // A prefix of whole chunks that sequences share, and what follows it.
    for (q_len, prefix, rest) in [(1, 1024, 300), (7, 2048, 1024), (60, 1024, 1)] {
        let lookup = Shape { group: 2, ..Shape::plain(q_len, prefix + rest, 12, 3) }.lookup();
        let rows = q_len * 2;
        for tier in tiers() {
            let whole = lookup.run_with_lse(tier);
            let merged = with_lse(&lookup, |out, lse| {
                let (k, v) = (lookup.k.view::<f32>(), lookup.v.view::<f32>());
                let ((k0, k1), (v0, v1)) =
                    (k.split_at_row(prefix).expect("keys"), v.split_at_row(prefix).expect("values"));
                let chunks = [prefix, rest].map(|keys| keys.div_ceil(KEYS_PER_STATE));
                let mut states = nan_scratch(states_len(chunks[0] + chunks[1], rows, 12));
                let (first, second) = states.split_at_mut(states_len(chunks[0], rows, 12));
                let mut scratch = nan_scratch(lookup.scratch_len());
                for (k, v, chunks, states) in [(k1, v1, chunks[1], second), (k0, v0, chunks[0], first)] {
                    let q = lookup.q.view::<f32>();
                    let options = Attention::new().tier(tier);
                    options.partial(q, k, v, 0..chunks, states, &mut scratch).expect("sizes agree");
                }
                Attention::new().tier(tier).merge(&mut states, out, Some(lse)).expect("sizes agree");
            });
            expect(same(&merged, &whole), (tier, q_len, prefix, rest));
        }
    }
}

/// Numbers for `[tokens][heads][dim]`.
fn numbers(rng: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| 2.0 * rng.unit()).collect()
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;

/// Sequences one by one: output `[q_len][HEADS][DIM]` and log-sum-exps `[HEADS][q_len]` of each.
struct Alone<'a> {
    options: Attention<'a>,
    q_len: usize,
    kv_len: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Alone<'_> {
    fn run(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut lse) = (vec![f32::NAN; self.q.len()], nan_scratch(HEADS * self.q_len));
        let mut scratch = nan_scratch(attention_scratch_len(self.q_len, self.kv_len, DIM, DIM));
        self.options
            .run_with_lse(
                HeadsRef::token_major(self.q, self.q_len, HEADS, DIM).expect("queries"),
                HeadsRef::token_major(self.k, self.kv_len, KV_HEADS, DIM).expect("keys"),
                HeadsRef::token_major(self.v, self.kv_len, KV_HEADS, DIM).expect("values"),
                HeadsMut::token_major(&mut out, self.q_len, HEADS, DIM).expect("output"),
                &mut lse,
                &mut scratch,
            )
            .expect("sizes agree");
        (out, lse)
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn batch_has_the_bits_of_its_sequences_with_lengths_and_masks_of_each() {
    let mut rng = Rng::new(5);
    for (q_len, kv_len) in [(1, 70), (9, 40), (60, 130)] {
        for batch in 1..=8 {
            let [q, mut k, mut v] = [q_len * HEADS, kv_len * KV_HEADS, kv_len * KV_HEADS]
                .map(|n| numbers(&mut rng, batch * n * DIM));
            let lens: Vec<usize> = (0..batch).map(|_| rng.below(kv_len + 1)).collect();
            let starts: Vec<usize> = lens.iter().map(|&len| rng.below(len + 1) / 2).collect();
            // What is before the first key and behind the last one is never used.
            let row = KV_HEADS * DIM;
            for (b, (&start, &len)) in starts.iter().zip(&lens).enumerate() {
                for x in [&mut k, &mut v] {
                    x[b * kv_len * row..][..start * row].fill(f32::NAN);
                    x[(b * kv_len + len) * row..(b + 1) * kv_len * row].fill(f32::NAN);
                }
            }
            let mask: Vec<bool> = (0..batch * q_len * kv_len).map(|_| rng.below(4) > 0).collect();
            for tier in tiers() {
                let (mut out, mut lse) = (vec![f32::NAN; q.len()], nan_scratch(batch * HEADS * q_len));
                let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, DIM, DIM));
                Attention::new()
                    .causal()
                    .kv_lens(&lens)
                    .kv_starts(&starts)
                    .mask(TensorRef::new(&mask, [batch, 1, q_len, kv_len]).expect("a mask"))
                    .tier(tier)
                    .run_with_lse(
                        HeadsRef::batch_token_major(&q, batch, q_len, HEADS, DIM).expect("queries"),
                        HeadsRef::batch_token_major(&k, batch, kv_len, KV_HEADS, DIM).expect("keys"),
                        HeadsRef::batch_token_major(&v, batch, kv_len, KV_HEADS, DIM).expect("values"),
                        HeadsMut::batch_token_major(&mut out, batch, q_len, HEADS, DIM).expect("output"),
                        &mut lse,
                        &mut scratch,
                    )
                    .expect("sizes agree");
                for b in 0..batch {
                    let one = &mask[b * q_len * kv_len..][..q_len * kv_len];
                    let alone = Alone {
                        options: Attention::new()
                            .causal_offset(lens[b] as isize - q_len as isize)
                            .kv_lens(&lens[b..=b])
                            .kv_starts(&starts[b..=b])
                            .mask(TensorRef::new(one, [1, 1, q_len, kv_len]).expect("a mask"))
                            .tier(tier),
                        q_len,
                        kv_len,
                        q: &q[b * q_len * HEADS * DIM..][..q_len * HEADS * DIM],
                        k: &k[b * kv_len * row..][..kv_len * row],
                        v: &v[b * kv_len * row..][..kv_len * row],
                    };
                    let (expected, expected_lse) = alone.run();
                    let got = &out[b * expected.len()..][..expected.len()];
                    assert!(got.iter().all(|x| x.is_finite()), "{tier}: padding has leaked");
                    assert_eq!(
                        bits(got),
                        bits(&expected),
                        "{tier}, {q_len} x {kv_len}, sequence {b} of {batch}"
                    );
                    assert_eq!(bits(&lse[b * HEADS * q_len..][..HEADS * q_len]), bits(&expected_lse));
                }
            }
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_each_alone_also_in_pages() {
    let mut rng = Rng::new(6);
    let lens = [(3, 5), (0, 4), (1, 100), (60, 60), (7, 0), (2, 33)];
    let offsets = |len: fn(&(usize, usize)) -> usize| {
        let ends = lens.iter().scan(0, |end, lens| {
            *end += len(lens);
            Some(*end)
        });
        core::iter::once(0).chain(ends).collect::<Vec<usize>>()
    };
    let (q_offsets, kv_offsets) = (offsets(|lens| lens.0), offsets(|lens| lens.1));
    let (queries, keys) = (q_offsets[lens.len()], kv_offsets[lens.len()]);
    let (q_row, kv_row) = (HEADS * DIM, KV_HEADS * DIM);
    let [q, k, v] = [queries * q_row, keys * kv_row, keys * kv_row].map(|n| numbers(&mut rng, n));
    // The same keys in pages of 8, for sequences of up to 100 keys.
    let (size, pages) = (8, 13);
    let mut table: Vec<u32> = (0..(lens.len() * pages) as u32).collect();
    (1..table.len()).rev().for_each(|i| table.swap(i, rng.below(i + 1)));
    let in_pages = |x: &[f32]| {
        let mut pool = vec![f32::NAN; table.len() * size * kv_row];
        for (b, &(_, len)) in lens.iter().enumerate() {
            for t in 0..len {
                let slot = table[b * pages + t / size] as usize * size + t % size;
                pool[slot * kv_row..][..kv_row].copy_from_slice(&x[(kv_offsets[b] + t) * kv_row..][..kv_row]);
            }
        }
        pool
    };
    let (k_pool, v_pool) = (in_pages(&k), in_pages(&v));
    let kv_lens = lens.map(|(_, len)| len);
    for tier in tiers() {
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], nan_scratch(HEADS * queries));
        let mut paged = (out.clone(), lse.clone());
        let mut scratch = nan_scratch(attention_scratch_len(60, 100, DIM, DIM));
        let packed = Attention::new().causal().q_offsets(&q_offsets).tier(tier);
        let q_view = HeadsRef::token_major(&q, queries, HEADS, DIM).expect("queries");
        let view = |x| HeadsRef::token_major(x, keys, KV_HEADS, DIM).expect("keys");
        let out_view = |x| HeadsMut::token_major(x, queries, HEADS, DIM).expect("output");
        packed
            .kv_offsets(&kv_offsets)
            .run_with_lse(q_view, view(&k), view(&v), out_view(&mut out), &mut lse, &mut scratch)
            .expect("sizes agree");
        let pool = |x| {
            let pool = HeadsRef::batch_token_major(x, table.len(), size, KV_HEADS, DIM).expect("pages");
            Paged::new(pool, &table, lens.len(), 100).expect("a table")
        };
        let (out_pages, lse_pages) = (out_view(&mut paged.0), &mut paged.1);
        packed
            .kv_lens(&kv_lens)
            .run_with_lse(q_view, pool(&k_pool), pool(&v_pool), out_pages, lse_pages, &mut scratch)
            .expect("sizes agree");
        assert_eq!((bits(&paged.0), bits(&paged.1)), (bits(&out), bits(&lse)), "{tier}: pages");
        for (b, &(q_len, kv_len)) in lens.iter().enumerate() {
            let alone = Alone {
                options: Attention::new().causal().tier(tier),
                q_len,
                kv_len,
                q: &q[q_offsets[b] * q_row..q_offsets[b + 1] * q_row],
                k: &k[kv_offsets[b] * kv_row..kv_offsets[b + 1] * kv_row],
                v: &v[kv_offsets[b] * kv_row..kv_offsets[b + 1] * kv_row],
            };
            let (expected, expected_lse) = alone.run();
            let rows = q_offsets[b] * q_row..q_offsets[b + 1] * q_row;
            assert_eq!(bits(&out[rows]), bits(&expected), "{tier}, sequence {b}");
            for h in 0..HEADS {
                let lse = &lse[h * queries + q_offsets[b]..][..q_len];
                assert_eq!(bits(lse), bits(&expected_lse[h * q_len..][..q_len]), "{tier}, sequence {b}");
            }
        }
    }
}

#[test]
fn keys_in_rings_and_pages_of_any_size_have_the_bits_of_keys_side_by_side() {
    let mut rng = Rng::new(7);
    for (q_len, kv_len) in [(1, 200), (3, 1100), (60, 200)] {
        let shape = Shape { n_kv_heads: 2, group: 2, ..Shape::random(q_len, kv_len, rng.word()) };
        let plain = Shape { options: None, ..shape }.lookup();
        let pages = (1..=256).step_by(if q_len == 60 { 17 } else { 5 }).map(|size| Layout::Pages(size, 9));
        let rings = (0..=kv_len).step_by(13).map(|first| Layout::Ring(first % 3, first));
        let layouts: Vec<Layout> = pages.chain(rings).collect();
        for tier in tiers() {
            let expected = plain.run(tier);
            for &layout in &layouts {
                let options = Options { layout, ..Options::NONE };
                let out = Lookup { options, ..plain.clone() }.run(tier);
                expect(same_bits(out.kind(), &out.bits(), &expected.bits()), (tier, layout, q_len, kv_len));
            }
        }
    }
}

#[test]
fn keys_that_come_from_memory_have_the_bits_of_the_model_wherever_they_lie() {
    // More than 4 MiB of keys: a few rows ask for what they read next, up to the last key and not beyond.
    for (kind, kv_len) in [(Kind::F32, 1030), (Kind::F16, 2060)] {
        for order in [Order::TokenMajor, Order::HeadMajor] {
            let shape = Shape::plain(1, kv_len, 128, 4);
            let kinds = [Kind::F32, kind, kind, Kind::F32];
            let plain = Shape { n_kv_heads: 8, v_head_dim: 130, kinds, orders: [order; 4], ..shape }.lookup();
            let models = [false, true].map(|fused| plain.models(fused));
            let layouts = [Layout::Plain, Layout::Ring(5, 700), Layout::Pages(16, 3), Layout::Pages(100, 3)];
            for (layout, tier) in
                layouts.into_iter().flat_map(|layout| tiers().into_iter().map(move |tier| (layout, tier)))
            {
                let options = Options { layout, ..Options::NONE };
                let (out, lse) = Lookup { options, ..plain.clone() }.run_with_lse(tier);
                for (h, (row, sum)) in models[usize::from(tier.is_fused())].iter().enumerate() {
                    let got = (out.token(0, h), lse[h]);
                    assert_eq!(got, (row.clone(), *sum), "{tier} {kind:?} {order:?} {layout:?} head {h}");
                }
            }
        }
    }
}

#[test]
fn values_may_be_a_view_of_the_keys() {
    // As in latent attention: the values are the first features of the keys.
    let mut rng = Rng::new(8);
    for q_len in [1, 5, 70] {
        let (cache, q) = (numbers(&mut rng, 90 * 24), numbers(&mut rng, q_len * 4 * 24));
        let own: Vec<f32> = cache.chunks(24).flat_map(|key| key[..16].to_vec()).collect();
        for tier in tiers() {
            let run = |v: HeadsRef<'_, f32>| {
                let mut out = vec![f32::NAN; q_len * 4 * 16];
                let mut scratch = nan_scratch(attention_scratch_len(q_len, 90, 24, 16));
                let k = HeadsRef::token_major(&cache, 90, 1, 24).expect("keys");
                let q = HeadsRef::token_major(&q, q_len, 4, 24).expect("queries");
                let to = HeadsMut::token_major(&mut out, q_len, 4, 16).expect("output");
                Attention::new().causal().tier(tier).run(q, k, v, to, &mut scratch).expect("sizes agree");
                bits(&out)
            };
            let shared = HeadsRef::with_strides(&cache, 90, 1, 16, 24, 24).expect("values in the keys");
            let apart = HeadsRef::token_major(&own, 90, 1, 16).expect("values");
            assert_eq!(run(shared), run(apart), "{tier}, {q_len} queries");
        }
    }
}

#[test]
fn items_without_scratch_are_refused() {
    let x = [0.5_f32; 4 * 2 * 8];
    let heads = HeadsRef::token_major(&x, 4, 2, 8).expect("heads");
    let mut out = [0.0_f32; 4 * 2 * 8];
    let view = HeadsMut::token_major(&mut out, 4, 2, 8).expect("output");
    let mut work = Attention::new().split(heads, heads, heads, view, None).expect("sizes agree");
    let needed = work.scratch_len();
    assert_eq!(work.len(), 2);
    for item in work.items() {
        assert_eq!(item.run(&mut []), Err(Error::ScratchTooShort { needed, got: 0 }));
    }
    assert_eq!(out, [0.0; 64]);
}
