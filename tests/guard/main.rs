//! Nothing outside the operands is touched: they lie at the very start or the very end of pages whose
//! neighbours end the process, inputs may only be read, output and scratch have their exact lengths. The
//! results are those of ordinary memory, bit for bit.
#![cfg(all(unix, target_pointer_width = "64", feature = "half"))]

#[path = "../common/mod.rs"]
mod common;
mod far;
mod fence;
mod unseen;

use common::attend::{self, Causal, Lookup};
use common::buffer::{Buffer, Kind, Typed};
use common::heads::Order;
use common::mat::{Layout, Mat};
use common::product::{self, Product};
use common::{Crooked, Rng, expect, nan_scratch, same_bits, tiers};
use fence::{Doing, Fence, Side};
use qkv::{Attention, KEYS_PER_STATE, Scores, SelfAttention, Softmax, Tier, states_len};

#[global_allocator]
static ALLOCATOR: Fence = Fence;

const SIDES: [Side; 2] = [Side::Start, Side::End];

fn read_only(buffer: &Buffer) {
    with_type!(buffer.kind(), T => fence::read_only(T::slice(buffer)));
}

fn read_only_option(numbers: &Option<Vec<f32>>) {
    numbers.iter().for_each(|numbers| fence::read_only(numbers));
}

fn float_bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn fence_ends_who_touches_what_lies_outside() {
    for side in SIDES {
        let mut bytes = fence::at(side, || vec![1_u8; 5000]);
        let (first, last) = (bytes.as_mut_ptr(), bytes.as_mut_ptr().wrapping_add(4999));
        let outside = if side == Side::Start { first.wrapping_sub(1) } else { last.wrapping_add(1) };
        // SAFETY: bytes of the vector; the others are in pages of the arena, which only end the child.
        unsafe {
            assert!(!fence::is_fatal(|| assert!(first.read_volatile() == 1 && last.read_volatile() == 1)));
            assert!(fence::is_fatal(|| assert!(outside.read_volatile() < 2)), "{side:?}: read");
            assert!(fence::is_fatal(|| outside.write_volatile(1)), "{side:?}: written");
            fence::read_only(&bytes);
            assert!(!fence::is_fatal(|| assert!(last.read_volatile() == 1)));
            assert!(fence::is_fatal(|| last.write_volatile(1)), "{side:?}: an input was written");
        }
    }
}

/// The product between fences, as B lies and with B packed into each type.
fn check_product(product: &Product, shape: &product::Shape) -> Result<(), String> {
    let bare = product.bare();
    for tier in tiers() {
        let expected = product.run(tier).bits();
        let storages = Kind::ALL.map(|storage| (storage, product.run_packed(storage, tier).bits()));
        for side in SIDES {
            let _doing = Doing::new(format!("{tier}, {side:?}, {shape:?}"));
            let fenced = fence::at(side, || bare.clone());
            read_only(&fenced.a.buffer);
            read_only(&fenced.b.buffer);
            read_only_option(&fenced.bias);
            let c = fence::at(side, || fenced.run(tier));
            let place = |m: String| format!("{tier}, {side:?}: {m}");
            c.check_guards(&bare.c).map_err(place)?;
            same_bits(c.kind(), &c.bits(), &expected).map_err(place)?;
            let (mut c, mut scratch) = (bare.c.clone(), Crooked::new(bare.scratch_len()));
            bare.run_into(tier, &mut c, scratch.floats()).map_err(|error| error.to_string())?;
            scratch.check().map_err(place)?;
            same_bits(c.kind(), &c.bits(), &expected).map_err(place)?;
            for (storage, expected) in &storages {
                let c = fence::at(side, || fenced.run_packed(*storage, tier));
                same_bits(c.kind(), &c.bits(), expected).map_err(place)?;
            }
        }
    }
    Ok(())
}

#[test]
fn products_of_every_tile_stay_inside_their_operands() {
    // Up to two tiles and one more of the largest tier in each direction: 8 rows, 48 columns.
    let mut rng = Rng::new(1);
    for m in 0..=17 {
        for n in (rng.below(4)..=97).step_by(1 + rng.below(6)) {
            let k = rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64]);
            let shape = product::Shape::random((m, k, n), rng.word());
            expect(check_product(&shape.product(), &shape), &shape);
        }
    }
}

#[test]
fn products_past_the_cache_blocks_stay_inside_their_operands() {
    let mut rng = Rng::new(2);
    for (m, k, n) in [
        (1, 65, 1),
        (65, 3, 50),
        (9, 513, 17),
        (73, 70, 33),
        (3, 1025, 49),
        (290, 520, 5),
        (5, 66, 514),
        (70, 1, 97),
        (90, 600, 12),
        (1000, 17, 1),
        // Few rows want less scratch: chains, last columns, and sums between blocks, also of a C that is transposed.
        (16, 16, 81),
        (24, 24, 600),
        (72, 66, 100),
        (72, 513, 70),
        (8, 513, 1100),
        (17, 514, 12),
        (13, 520, 900),
    ] {
        for _ in 0..4 {
            let shape = product::Shape::random((m, k, n), rng.word());
            expect(check_product(&shape.product(), &shape), &shape);
        }
    }
}

/// The states of all chunks of keys, and what they merge to.
fn merged(lookup: &Lookup, tier: Tier) -> Vec<u32> {
    let rows = lookup.q.len * lookup.q.n_heads;
    let chunks = lookup.k.len.div_ceil(KEYS_PER_STATE).max(1);
    let mut states = nan_scratch(states_len(chunks, rows, lookup.v.head_dim));
    let (mut out, mut lse) = (lookup.out.clone(), nan_scratch(rows));
    let mut scratch = nan_scratch(lookup.scratch_len());
    with_type!(lookup.q.kind(), Q => with_type!(lookup.k.kind(), K => with_type!(lookup.v.kind(), V => {
        let (q, k, v) = (lookup.q.view::<Q>(), lookup.k.view::<K>(), lookup.v.view::<V>());
        lookup.options(tier).partial(q, k, v, 0..chunks, &mut states, &mut scratch).expect("sizes agree");
    })));
    with_type!(out.kind(), O => {
        let to = out.view_mut::<O>();
        lookup.options(tier).merge(&mut states, to, Some(&mut lse)).expect("sizes agree");
    });
    out.bits()
}

/// The call between fences: output, log-sum-exps, every kind of scores, partial states.
fn check_lookup(lookup: &Lookup, shape: &attend::Shape) -> Result<(), String> {
    const WHICH: [Scores; 4] = [Scores::Raw, Scores::Capped, Scores::Masked, Scores::Weights];
    let (bare, kind) = (lookup.bare(), lookup.out.kind());
    for tier in tiers() {
        let (expected, expected_lse) = lookup.run_with_lse(tier);
        let scores = WHICH.map(|which| (which, lookup.scores(tier, which)));
        let states = merged(lookup, tier);
        for side in SIDES {
            let _doing = Doing::new(format!("{tier}, {side:?}, {shape:?}"));
            let fenced = fence::at(side, || bare.clone());
            for heads in [&fenced.q, &fenced.k, &fenced.v] {
                read_only(&heads.buffer);
            }
            read_only_option(&fenced.alibi);
            read_only_option(&fenced.sinks);
            if let Some(bias) = &fenced.options.bias {
                read_only(&bias.values);
            }
            for mask in &fenced.options.masks {
                fence::read_only(&mask.bools.values);
            }
            let place = |m: String| format!("{tier}, {side:?}: {m}");
            let (mut out, mut scratch) = (bare.out.clone(), Crooked::new(bare.scratch_len()));
            bare.run_into(tier, &mut out, None, scratch.floats()).map_err(|error| error.to_string())?;
            scratch.check().map_err(place)?;
            same_bits(kind, &out.bits(), &expected.bits()).map_err(place)?;
            let (out, lse) = fence::at(side, || fenced.run_with_lse(tier));
            out.check_guards(&bare.out).map_err(place)?;
            same_bits(kind, &out.bits(), &expected.bits()).map_err(place)?;
            same_bits(Kind::F32, &float_bits(&lse), &float_bits(&expected_lse)).map_err(place)?;
            for (which, scores) in &scores {
                let got = fence::at(side, || fenced.scores(tier, *which));
                same_bits(Kind::F32, &float_bits(&got), &float_bits(scores))
                    .map_err(|m| place(format!("{which:?}: {m}")))?;
            }
            let got = fence::at(side, || merged(&fenced, tier));
            same_bits(kind, &got, &states).map_err(|m| place(format!("states: {m}")))?;
        }
    }
    Ok(())
}

#[test]
fn attention_of_every_kind_stays_inside_its_operands() {
    let mut rng = Rng::new(3);
    let dims = [0, 1, 2, 3, 5, 7, 9, 15, 17, 24, 31, 33, 49, 65];
    for q_len in [1, 1, 1, 2, 3, 5, 8, 9, 15, 17, 33, 49, 50, 97] {
        for kv_len in [0, 1, 3, 7, 16, 31, 63, 65, 66, 127, 130, 200] {
            let shape = attend::Shape {
                head_dim: rng.pick(&dims),
                v_head_dim: rng.pick(&dims),
                ..attend::Shape::random(q_len, kv_len, rng.word())
            };
            let mut lookup = shape.lookup();
            expect(check_lookup(&lookup, &shape), &shape);
            // Rows that do not see it are computed once more from what they see.
            if kv_len > 0 {
                lookup.v.set_token(rng.below(kv_len), rng.below(shape.n_kv_heads), f32::INFINITY);
                expect(check_lookup(&lookup, &shape), ("an infinite value", &shape));
            }
        }
    }
}

#[test]
fn attention_of_every_head_dim_stays_inside_its_operands() {
    let mut rng = Rng::new(4);
    for dim in 1..=40 {
        for (head_dim, v_head_dim) in [(dim, dim), (dim, 3), (3, dim)] {
            for q_len in [1, 2, 10] {
                let kinds = [(); 4].map(|()| rng.pick(&Kind::ALL));
                let orders = [(); 4].map(|()| Order::random(&mut rng));
                let plain = attend::Shape::plain(q_len, 1 + rng.below(70), head_dim, rng.word());
                let shape = attend::Shape { v_head_dim, kinds, orders, group: 1 + dim % 3, ..plain };
                expect(check_lookup(&shape.lookup(), &shape), &shape);
            }
        }
    }
}

#[test]
fn attention_past_a_chunk_stays_inside_its_operands() {
    let mut rng = Rng::new(5);
    for (q_len, kv_len) in [(1, 1025), (3, 1100), (11, 1030), (1, 2050)] {
        for _ in 0..4 {
            let shape = attend::Shape {
                head_dim: rng.pick(&[1, 5, 9]),
                v_head_dim: rng.pick(&[1, 3, 17]),
                causal: Causal::BottomRight,
                ..attend::Shape::random(q_len, kv_len, rng.word())
            };
            expect(check_lookup(&shape.lookup(), &shape), &shape);
        }
    }
}

fn softmax(tier: Tier, x: &Mat, out: &Mat) -> (Mat, Mat, Vec<f32>) {
    let (mut out, mut over, mut lse) = (out.clone(), x.clone(), nan_scratch(x.rows));
    let softmax = Softmax::new().tier(tier);
    with_type!(x.kind(), X => with_type!(out.kind(), O => {
        softmax.run(x.view::<X>(), out.view_mut::<O>()).expect("sizes agree");
        softmax.run_in_place(over.view_mut::<X>()).expect("sizes agree");
        softmax.log_sum_exp(x.view::<X>(), &mut lse).expect("sizes agree");
    }));
    (out, over, lse)
}

#[test]
fn softmax_and_exponentials_stay_inside_their_operands() {
    let mut rng = Rng::new(6);
    for cols in (0..70).chain([127, 128, 129, 200, 257]) {
        let kinds = [(); 2].map(|()| rng.pick(&Kind::ALL));
        let layouts = [(); 2].map(|()| Layout::random(&mut rng));
        let rows = rng.below(5);
        let x = Mat::new(kinds[0], rows, cols, layouts[0]).random(&mut rng);
        let out = Mat::new(kinds[1], rows, cols, layouts[1]);
        let numbers: Vec<f32> = (0..cols).map(|_| 90.0 * rng.unit()).collect();
        for (tier, side) in tiers().into_iter().flat_map(|tier| SIDES.map(|side| (tier, side))) {
            let expected = softmax(tier, &x, &out);
            let place = (tier, side, rows, cols, kinds, layouts);
            let _doing = Doing::new(format!("{place:?}"));
            let (bare, bare_out) = fence::at(side, || (x.bare(), out.bare()));
            read_only(&bare.buffer);
            let got = fence::at(side, || softmax(tier, &bare, &bare_out));
            expect(same_bits(kinds[1], &got.0.bits(), &expected.0.bits()), place);
            expect(same_bits(kinds[0], &got.1.bits(), &expected.1.bits()), place);
            expect(same_bits(Kind::F32, &float_bits(&got.2), &float_bits(&expected.2)), place);
            let (mut expected, mut fenced) = (numbers.clone(), fence::at(side, || numbers.clone()));
            Softmax::new().tier(tier).exp_in_place(&mut expected);
            Softmax::new().tier(tier).exp_in_place(&mut fenced);
            assert_eq!(float_bits(&fenced), float_bits(&expected), "{place:?}");
        }
    }
}

/// Weights of queries, keys, values and, if there are any, outputs; and the output.
#[derive(Clone)]
struct Layer {
    x: Mat,
    weights: Vec<Mat>,
    out: Mat,
}

impl Layer {
    fn run(&self, tier: Tier) -> Mat {
        let mut out = self.out.clone();
        with_type!(self.x.kind(), X => with_type!(self.weights[0].kind(), W => with_type!(out.kind(), O => {
            let [w_q, w_k, w_v] = [0, 1, 2].map(|i| self.weights[i].view::<W>());
            let options = Attention::new().causal().tier(tier);
            let layer = SelfAttention::new(w_q, w_k, w_v, 4).kv_heads(2).attention(options);
            let layer = match self.weights.get(3) {
                Some(w_o) => layer.output(w_o.view()),
                None => layer,
            };
            let mut scratch = nan_scratch(layer.scratch_len(self.x.rows));
            layer.run(self.x.view::<X>(), out.view_mut::<O>(), &mut scratch).expect("sizes agree");
        })));
        out
    }
}

#[test]
fn layers_stay_inside_their_operands() {
    let mut rng = Rng::new(7);
    for len in [0, 1, 2, 7, 9, 33, 50] {
        for (d_model, head_dim, v_head_dim) in [(1, 1, 1), (7, 3, 5), (33, 9, 7), (70, 17, 18)] {
            let mut mat = |kind, rows, cols| {
                let layout = Layout::random(&mut rng);
                Mat::new(kind, rows, cols, layout).random(&mut rng)
            };
            let kind = Kind::ALL[(len + d_model) % 3];
            let (q, k, v) = (4 * head_dim, 2 * head_dim, 2 * v_head_dim);
            let mut weights = vec![mat(kind, d_model, q), mat(kind, d_model, k), mat(kind, d_model, v)];
            let columns = if len % 2 == 0 { 2 * v } else { 11 };
            if len % 2 == 1 {
                weights.push(mat(kind, 2 * v, columns));
            }
            let (x, out) = (mat(Kind::ALL[len % 3], len, d_model), mat(Kind::ALL[d_model % 3], len, columns));
            let layer = Layer { x, weights, out };
            for (tier, side) in tiers().into_iter().flat_map(|tier| SIDES.map(|side| (tier, side))) {
                let expected = layer.run(tier).bits();
                let place = (tier, side, len, d_model, head_dim, v_head_dim);
                let _doing = Doing::new(format!("{place:?}"));
                let weights = || layer.weights.iter().map(Mat::bare).collect();
                let fenced = fence::at(side, || Layer {
                    x: layer.x.bare(),
                    weights: weights(),
                    out: layer.out.bare(),
                });
                fenced.weights.iter().chain([&fenced.x]).for_each(|mat| read_only(&mat.buffer));
                let out = fence::at(side, || fenced.run(tier));
                expect(same_bits(out.kind(), &out.bits(), &expected), place);
            }
        }
    }
}
