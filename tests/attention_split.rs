//! However a call is cut, its rows have the same bits: work items on threads, chunks of keys, rings and pages.
#![cfg(feature = "half")]

mod common;

use std::sync::Mutex;

use common::attend::{Lookup, Shape};
use common::buffer::Kind;
use common::heads::{Heads, Order};
use common::options::{Layout, Options};
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{Attention, Error, HeadsMut, HeadsRef, Item, KEYS_PER_STATE, Work};
use qkv::{attention_scratch_len, states_len};

/// Shapes of `f32`, with any options but the places of keys.
fn shapes(seed: u64) -> impl Iterator<Item = Lookup> {
    let mut rng = Rng::new(seed);
    let lens = [(1, 70), (3, 2100), (9, 70), (50, 130), (200, 65), (230, 1100), (2, 4000), (5, 0), (1, 1024)];
    lens.into_iter().cycle().take(27).map(move |(q_len, kv_len)| {
        let shape = Shape::random(q_len, kv_len, rng.word());
        let kinds = [Kind::F32; 4];
        let (head_dim, v_head_dim) = (shape.head_dim.min(16), shape.v_head_dim.min(17));
        let mut lookup = Shape { kinds, head_dim, v_head_dim, ..shape }.lookup();
        lookup.options.layouts = [Layout::Plain; 2];
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
            for parts in [0, 1, 3, 7, 1000] {
                let split = with_lse(&lookup, |out, lse| {
                    let (q, k, v) = operands();
                    let work = lookup.options(tier).split(q, k, v, out, Some(lse));
                    let mut work = work.expect("sizes agree");
                    let (needed, there) = (work.scratch_len(), work.len());
                    let items = work.parts(parts);
                    assert_eq!(items.len(), there.min(parts.max(1)));
                    take_all(items, needed, 2);
                });
                expect(same(&split, &whole), (tier, "parts", parts, lookup.q.len, lookup.k.len));
            }
            let merged = with_lse(&lookup, |out, lse| {
                let (q, k, v) = operands();
                let rows = lookup.q.len * lookup.q.n_heads;
                let chunks = lookup.k.len.div_ceil(KEYS_PER_STATE).max(1);
                let mut states = nan_scratch(states_len(chunks, rows, lookup.v.head_dim));
                let work = lookup.options(tier).split_keys(q, k, v, &mut states);
                let mut work = work.expect("sizes agree");
                if chunks % 2 == 0 {
                    let needed = work.scratch_len();
                    take_all(work.parts(3), needed, 2);
                } else {
                    on_threads(&mut work, 4);
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
            for (i, &layout) in layouts.iter().enumerate() {
                let layouts = [layout, if i % 2 == 0 { layout } else { layouts[7 * i % layouts.len()] }];
                let options = Options { layouts, ..Options::NONE };
                let out = Lookup { options, ..plain.clone() }.run(tier);
                expect(same_bits(out.kind(), &out.bits(), &expected.bits()), (tier, layouts, q_len, kv_len));
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
                let options = Options { layouts: [layout; 2], ..Options::NONE };
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
                out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let shared = HeadsRef::with_strides(&cache, 90, 1, 16, 24, 24).expect("values in the keys");
            let apart = HeadsRef::token_major(&own, 90, 1, 16).expect("values");
            assert_eq!(run(shared), run(apart), "{tier}, {q_len} queries");
        }
    }
}

/// Numbers of queries or keys of each sequence, and the sequences' queries if they are packed.
type Lens<'a> = (usize, &'a [usize], Option<&'a [usize]>);

#[test]
fn states_of_sequences_and_of_any_run_of_chunks_merge_to_the_bits_of_one_call() {
    const DIM: usize = 5;
    let mut rng = Rng::new(9);
    let lens: [Lens; 4] = [
        (2, &[4000], None),
        (1, &[3100, 1024, 0], None),
        (9, &[2048, 2500], None),
        (12, &[2100, 0, 1500], Some(&[0, 3, 5, 12])),
    ];
    for (q_len, kv_lens, packed) in lens {
        let (heads, sequences, kv_len) = (2, kv_lens.len(), kv_lens.iter().copied().max().unwrap_or(0));
        let batch = if packed.is_some() { 1 } else { sequences };
        let rows = batch * q_len * heads;
        let (q, kv) = (numbers(&mut rng, rows * DIM), numbers(&mut rng, sequences * kv_len * DIM));
        let q = HeadsRef::batch_token_major(&q, batch, q_len, heads, DIM).expect("queries");
        let kv = HeadsRef::batch_token_major(&kv, sequences, kv_len, 1, DIM).expect("keys");
        let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, DIM, DIM));
        let written = |write: &mut dyn FnMut(HeadsMut<'_, f32>, &mut [f32])| {
            let (mut out, mut lse) = (nan_scratch(rows * DIM), nan_scratch(rows));
            write(HeadsMut::batch_token_major(&mut out, batch, q_len, heads, DIM).expect("output"), &mut lse);
            out.iter().chain(&lse).map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        for tier in tiers() {
            let options = Attention::new().tier(tier).causal().kv_lens(kv_lens).sinks(&[0.5, -1.0]);
            let options = packed.map_or(options, |offsets| options.q_offsets(offsets));
            let whole = written(&mut |out, lse| {
                options.run_with_lse(q, kv, kv, out, lse, &mut scratch).expect("sizes agree");
            });
            let chunks = kv_len.div_ceil(KEYS_PER_STATE);
            let mut states = nan_scratch(states_len(chunks, rows, DIM));
            for at in 0..=chunks {
                let (first, second) = states.split_at_mut(states_len(at, rows, DIM));
                options.partial(q, kv, kv, at..chunks, second, &mut scratch).expect("sizes agree");
                options.partial(q, kv, kv, 0..at, first, &mut scratch).expect("sizes agree");
                let merged = written(&mut |out, lse| {
                    options.merge(&mut states, out, Some(lse)).expect("whole chunks");
                });
                assert_eq!(merged, whole, "{tier}, {kv_lens:?}, chunks before and from {at} on");
            }
            on_threads(&mut options.split_keys(q, kv, kv, &mut states).expect("sizes agree"), 2);
            let merged = written(&mut |out, lse| {
                options.merge(&mut states, out, Some(lse)).expect("whole chunks");
            });
            assert_eq!(merged, whole, "{tier}, {kv_lens:?}, items");
        }
    }
}

#[test]
fn items_write_rows_of_their_own() {
    let lookup = Shape { n_kv_heads: 3, group: 2, ..Shape::plain(400, 20, 4, 4) }.lookup();
    for (tier, parts) in tiers().into_iter().flat_map(|tier| [1000, 4].map(|parts| (tier, parts))) {
        // Three runs of queries for each key head.
        let mut writes = vec![0; lookup.q.n_heads * lookup.q.len];
        for i in 0..parts.min(9) {
            let (_, lse) = with_lse(&lookup, |out, lse| {
                let (q, k, v) = (lookup.q.view::<f32>(), lookup.k.view::<f32>(), lookup.v.view::<f32>());
                let mut work = lookup.options(tier).split(q, k, v, out, Some(lse)).expect("sizes agree");
                let mut scratch = nan_scratch(work.scratch_len());
                work.parts(parts).nth(i).expect("a part").run(&mut scratch).expect("enough scratch");
            });
            lse.iter().zip(&mut writes).for_each(|(lse, writes)| *writes += usize::from(!lse.is_nan()));
        }
        assert!(writes.iter().all(|&writes| writes == 1), "{tier}, {parts} parts: {writes:?}");
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
    #[cfg(feature = "rayon")]
    assert_eq!(
        work.run_parallel(&mut nan_scratch(needed - 1)),
        Err(Error::ScratchTooShort { needed, got: needed - 1 })
    );
    assert_eq!(out, [0.0; 64]);
}
