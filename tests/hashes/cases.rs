//! The cases whose results must have the same bits on a PC and on every other target.
//!
//! Needs no std and no allocator: microcontrollers and wasm run this file too. Operands come from a small
//! integer generator, exact in `f32`; each case has a hash of all bits of its results.

use core::fmt::Arguments;

use qkv::{
    Append, Attention, Elem, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, Paged, Ring,
    Rotary, ScoreAt, SelfAttention, Softmax, TensorMut, TensorRef, Tier, alibi_slopes, attention_scratch_len,
    bf16, f16, matmul_scratch_len,
};

/// Takes the name of a case and its hash.
pub type Report<'a> = dyn FnMut(Arguments<'_>, u64) + 'a;

/// Computes all cases on one tier.
pub fn run(tier: Tier, report: &mut Report<'_>) -> Result<(), Error> {
    let mut scratch = [f32::NAN; SCRATCH];
    let scratch = scratch.as_mut_slice();
    products::<f32, f32, f32>(tier, scratch, report)?;
    products::<f16, f16, f16>(tier, scratch, report)?;
    products::<bf16, bf16, bf16>(tier, scratch, report)?;
    products::<f32, f16, bf16>(tier, scratch, report)?;
    products::<bf16, f32, f16>(tier, scratch, report)?;
    products::<f16, bf16, f32>(tier, scratch, report)?;
    vanishing(tier, scratch, report)?;
    let plain = &OPTIONS[..2];
    attentions::<f32, f32, f32, f32>(tier, &SHAPES, plain, scratch, report)?;
    attentions::<f32, f16, f16, f32>(tier, &SHAPES, plain, scratch, report)?;
    attentions::<bf16, bf16, bf16, bf16>(tier, &SHAPES, plain, scratch, report)?;
    attentions::<f16, f32, bf16, f16>(tier, &SHAPES, plain, scratch, report)?;
    attentions::<bf16, f16, f32, f32>(tier, &SHAPES, plain, scratch, report)?;
    attentions::<f32, f32, f32, f32>(tier, &SHAPES[..2], &OPTIONS[2..], scratch, report)?;
    attentions::<f32, bf16, f16, f32>(tier, &SHAPES[..2], &OPTIONS[2..], scratch, report)?;
    caches::<f32, f32>(tier, scratch, report)?;
    caches::<f32, f16>(tier, scratch, report)?;
    caches::<bf16, bf16>(tier, scratch, report)?;
    layers::<f32, f32>(tier, scratch, report)?;
    layers::<f32, bf16>(tier, scratch, report)?;
    softmaxes::<f32, f32>(tier, report)?;
    softmaxes::<f16, bf16>(tier, report)?;
    exponentials(tier, report);
    Ok(())
}

/// FNV-1a (Fowler, Noll and Vo), 64 bits.
struct Hash(u64);

impl Hash {
    fn of<T: Number>(x: &[T]) -> Hash {
        Hash(0xcbf2_9ce4_8422_2325).and(x)
    }

    fn and<T: Number>(self, x: &[T]) -> Hash {
        let bytes = x.iter().flat_map(|x| x.bits().to_le_bytes());
        Hash(bytes.fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }
}

/// An element type whose numbers can be made and whose bits can be read.
trait Number: Elem {
    const NAME: &'static str;
    fn of(x: f32) -> Self;
    /// Those of one NaN for all: payloads are not part of the contract.
    fn bits(self) -> u32;
}

macro_rules! number {
    ($t:ident, $of:expr) => {
        impl Number for $t {
            const NAME: &'static str = stringify!($t);
            fn of(x: f32) -> $t {
                $of(x)
            }
            fn bits(self) -> u32 {
                if self.is_nan() { u32::MAX } else { self.to_bits().into() }
            }
        }
    };
}
number!(f32, core::convert::identity);
number!(f16, f16::from_f32);
number!(bf16, bf16::from_f32);

/// Numbers of -1..1, multiples of 2^-23, by a linear congruential generator.
fn numbers<T: Number, const N: usize>(seed: u32) -> [T; N] {
    let mut state = seed;
    core::array::from_fn(|_| {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        T::of((state >> 8) as f32 / 8_388_608.0 - 1.0)
    })
}

/// Rows, inner size and columns: straight from the operands, one row, blocked in `m` and in `k`.
const PRODUCTS: [[usize; 3]; 6] =
    [[1, 7, 5], [1, 64, 61], [5, 9, 7], [33, 20, 31], [70, 40, 35], [13, 530, 37]];
const MAX_A: usize = 13 * 530;
const MAX_B: usize = 530 * 37;
const MAX_C: usize = 70 * 35;
const MAX_PACKED: usize = PackedMat::<f32>::len(530, 37);

fn products<A: Number, B: Number, C: Number>(
    tier: Tier,
    scratch: &mut [f32],
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let (a, b) = (numbers::<A, MAX_A>(1), numbers::<B, MAX_B>(2));
    let (c, bias) = (numbers::<C, MAX_C>(3), numbers::<f32, 61>(4));
    let mut storage = [B::of(0.0); MAX_PACKED];
    for [m, k, n] in PRODUCTS {
        let product = Matmul::new().tier(tier);
        let (a_view, b_view) = (MatRef::new(&a, m, k)?, MatRef::new(&b, k, n)?);
        let (mut plain, mut turned, mut packed, mut all) = (c, c, c, c);
        product.run(a_view, b_view, MatMut::new(&mut plain, m, n)?, scratch)?;
        product.run(a_view, MatRef::new(&b, n, k)?.t(), MatMut::new(&mut turned, n, m)?.t(), scratch)?;
        let storage = &mut storage[..PackedMat::<B>::len(k, n)];
        let b_packed = PackedMat::pack(b_view, storage)?;
        product.run_packed(a_view, b_packed, MatMut::new(&mut packed, m, n)?, scratch)?;
        let product = product.alpha(0.3).beta(-0.7).bias(&bias[..n]);
        product.run(a_view, b_view, MatMut::new(&mut all, m, n)?, scratch)?;
        let cases = [("", plain), (", transposed", turned), (", packed", packed), (", alpha beta bias", all)];
        for (what, c) in cases {
            let name = format_args!("matmul {} {} {}, {m} x {k} x {n}{what}", A::NAME, B::NAME, C::NAME);
            report(name, Hash::of(&c[..m * n]).0);
        }
    }
    Ok(())
}

/// Sums so small that they vanish, of numbers below 0: +0, also where one rounding a step leaves -0.
fn vanishing(tier: Tier, scratch: &mut [f32], report: &mut Report<'_>) -> Result<(), Error> {
    let (a, b) = ([-1e-30_f32; 45], [1e-30_f32; 144]);
    for [m, k, n] in [[5, 9, 7], [1, 9, 16], [4, 2, 8]] {
        let (a, b) = (MatRef::new(&a, m, k)?, MatRef::new(&b, k, n)?);
        let mut c = [1.0_f32; 35];
        Matmul::new().tier(tier).run(a, b, MatMut::new(&mut c, m, n)?, scratch)?;
        report(format_args!("matmul f32 f32 f32, {m} x {k} x {n}, vanishing"), Hash::of(&c[..m * n]).0);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Shape {
    q_len: usize,
    kv_len: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    v_head_dim: usize,
}

const fn shape(q_len: usize, kv_len: usize, heads: [usize; 2], dims: [usize; 2]) -> Shape {
    let ([n_heads, n_kv_heads], [head_dim, v_head_dim]) = (heads, dims);
    Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, v_head_dim }
}

/// A prefill and a decode step with grouped heads; more than a panel of queries; more than a chunk of keys,
/// in both; more queries than keys; one of everything; scores of four chains, in both.
const SHAPES: [Shape; 9] = [
    shape(33, 33, [4, 2], [20, 11]),
    shape(1, 70, [6, 2], [24, 24]),
    shape(59, 130, [2, 1], [16, 17]),
    shape(3, 1_100, [2, 1], [7, 9]),
    shape(1, 1_100, [3, 3], [8, 8]),
    shape(20, 5, [1, 1], [65, 3]),
    shape(1, 1, [1, 1], [1, 1]),
    shape(5, 20, [4, 1], [130, 5]),
    shape(1, 70, [4, 1], [128, 3]),
];
const MAX_HEADS: usize = 6;
const MAX_Q: usize = 33 * 4 * 20;
const MAX_K: usize = 1_100 * 3 * 8;
const MAX_V: usize = 1_100 * 3 * 8;
const MAX_OUT: usize = 59 * 2 * 17;
const MAX_ROWS: usize = 33 * 4;
/// Of what there is for each query and key of the first two shapes.
const MAX_PLACES: usize = 33 * 33;

/// What options refer to.
struct Extras<'a> {
    slopes: &'a [f32],
    sinks: &'a [f32],
    mask: TensorRef<'a, bool>,
    bits: TensorRef<'a, u8>,
    bias: TensorRef<'a, f32>,
    half_bias: TensorRef<'a, f16>,
}

type Choose = for<'a> fn(Attention<'a>, &Extras<'a>) -> Attention<'a>;

/// The first two go with every shape, the others with the first two.
const OPTIONS: [(&str, Choose); 16] = [
    ("plain", |all, _| all),
    ("causal", |all, _| all.causal()),
    ("scale", |all, _| all.scale(0.3)),
    ("causal with an offset", |all, _| all.causal_offset(7)),
    ("window", |all, _| all.window(9, 3)),
    ("causal window", |all, _| all.causal().window(4, 0)),
    ("softcap", |all, _| all.softcap(0.7)),
    ("alibi", |all, extras| all.alibi(extras.slopes)),
    ("sinks", |all, extras| all.sinks(extras.sinks)),
    ("mask", |all, extras| all.mask(extras.mask)),
    ("mask in bits", |all, extras| all.mask_bits(extras.bits)),
    ("mask rule", |all, _| all.mask_rule(&|query, key| (query + 2 * key) % 3 != 1)),
    ("bias", |all, extras| all.bias(extras.bias)),
    ("bias f16", |all, extras| all.bias(extras.half_bias)),
    ("score rule", |all, _| all.score_rule(&|score: f32, at: ScoreAt| score * 0.6 - (at.key & 3) as f32)),
    ("everything", |all, extras| {
        let all = all.causal().window(20, 0).softcap(2.5).alibi(extras.slopes).sinks(extras.sinks);
        all.mask(extras.mask).bias(extras.half_bias)
    }),
];

fn attentions<Q: Number, K: Number, V: Number, O: Number>(
    tier: Tier,
    shapes: &[Shape],
    options: &[(&str, Choose)],
    scratch: &mut [f32],
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let (q, k, v) = (numbers::<Q, MAX_Q>(5), numbers::<K, MAX_K>(6), numbers::<V, MAX_V>(7));
    let words = numbers::<f32, MAX_PLACES>(8);
    let mask = words.map(|x| x > -0.2);
    let bits = words.map(|x| (x * 128.0) as i8 as u8);
    let bias = words.map(|x| if x < -0.9 { f32::NEG_INFINITY } else { 2.0 * x });
    let half_bias = bias.map(f16::from_f32);
    let (mut slopes, sinks) = ([0.0; MAX_HEADS], numbers::<f32, MAX_HEADS>(9));
    for &Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, v_head_dim } in shapes {
        alibi_slopes(&mut slopes[..n_heads]);
        // Where no option reads them, shapes may be too large for them.
        let places = |keys: usize| if q_len * keys <= MAX_PLACES { [1, 1, q_len, keys] } else { [1; 4] };
        let extras = Extras {
            slopes: &slopes[..n_heads],
            sinks: &sinks[..n_heads],
            mask: TensorRef::new(&mask, places(kv_len))?,
            bits: TensorRef::new(&bits, places(kv_len.div_ceil(8)))?,
            bias: TensorRef::new(&bias, places(kv_len))?,
            half_bias: TensorRef::new(&half_bias, places(kv_len))?,
        };
        let q = HeadsRef::token_major(&q, q_len, n_heads, head_dim)?;
        let k = HeadsRef::token_major(&k, kv_len, n_kv_heads, head_dim)?;
        let v = HeadsRef::head_major(&v, kv_len, n_kv_heads, v_head_dim)?;
        for (what, choose) in options {
            let attention = choose(Attention::new().tier(tier), &extras);
            let (mut out, mut lse) = ([O::of(f32::NAN); MAX_OUT], [f32::NAN; MAX_ROWS]);
            let (out, lse) = (&mut out[..q_len * n_heads * v_head_dim], &mut lse[..q_len * n_heads]);
            let heads = HeadsMut::token_major(out, q_len, n_heads, v_head_dim)?;
            attention.run_with_lse(q, k, v, heads, lse, scratch)?;
            let mut hash = Hash::of(out).and(lse);
            if q_len * n_heads * kv_len <= WEIGHTS {
                let mut weights = [O::of(f32::NAN); WEIGHTS];
                let weights = &mut weights[..q_len * n_heads * kv_len];
                let view = TensorMut::new(weights, [1, n_heads, q_len, kv_len])?;
                attention.weights(q, k, view, scratch)?;
                hash = hash.and(weights);
            }
            let types = format_args!("{} {} {} {}", Q::NAME, K::NAME, V::NAME, O::NAME);
            let sizes =
                format_args!("{q_len} x {kv_len}, heads {n_heads}/{n_kv_heads} of {head_dim}/{v_head_dim}");
            report(format_args!("attention {types}, {sizes}, {what}"), hash.0);
        }
    }
    Ok(())
}

/// Most attention weights that are hashed too.
const WEIGHTS: usize = 33 * 4 * 33;

/// Tokens, key heads, features, of which some are rotated; slots of the ring, tokens of a page, pages.
const TOKENS: usize = 40;
const CACHE_HEADS: usize = 2;
const CACHE_DIM: usize = 10;
const ROTATED: usize = 6;
const SLOTS: usize = 24;
const PAGE: usize = 16;
const TABLE: [u32; 3] = [2, 0, 1];
const CACHE: usize = 48 * CACHE_HEADS * CACHE_DIM;

/// Keys rotated and appended to a ring and to pages, and a decode step over each.
fn caches<T: Number, C: Number>(
    tier: Tier,
    scratch: &mut [f32],
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let (new, query) = (numbers::<T, CACHE>(10), numbers::<T, CACHE>(11));
    let mut table = [f32::NAN; Rotary::table_len(TOKENS, ROTATED)];
    let rotary = Rotary::fill_table(ROTATED, 10_000.0, &mut table)?.tier(tier);
    let tokens = HeadsRef::token_major(&new, TOKENS, CACHE_HEADS, CACHE_DIM)?;
    let q = HeadsRef::token_major(&query, 1, 2 * CACHE_HEADS, CACHE_DIM)?;
    let attention = Attention::new().tier(tier);
    let types = format_args!("{} {}", T::NAME, C::NAME);

    let (mut slots, mut out) = ([C::of(0.0); CACHE], [T::of(0.0); 2 * CACHE_HEADS * CACHE_DIM]);
    let append = Append::new(&[0]).rotary(rotary);
    append.to_ring(tokens, HeadsMut::token_major(&mut slots, SLOTS, CACHE_HEADS, CACHE_DIM)?)?;
    report(format_args!("rotated into a ring {types}"), Hash::of(&slots).0);
    let ring = Ring::last(HeadsRef::token_major(&slots, SLOTS, CACHE_HEADS, CACHE_DIM)?, TOKENS);
    let heads = HeadsMut::token_major(&mut out, 1, 2 * CACHE_HEADS, CACHE_DIM)?;
    attention.run(q, ring, ring, heads, scratch)?;
    report(format_args!("attention over a ring {types}"), Hash::of(&out).0);

    let mut pool = [C::of(0.0); CACHE];
    let append = Append::new(&[0]).rotary(rotary.interleaved());
    let pages = HeadsMut::batch_token_major(&mut pool, TABLE.len(), PAGE, CACHE_HEADS, CACHE_DIM)?;
    append.to_pages(tokens, pages, &TABLE)?;
    report(format_args!("rotated into pages, interleaved {types}"), Hash::of(&pool).0);
    let pages = HeadsRef::batch_token_major(&pool, TABLE.len(), PAGE, CACHE_HEADS, CACHE_DIM)?;
    let pages = Paged::new(pages, &TABLE, 1, TOKENS)?;
    let heads = HeadsMut::token_major(&mut out, 1, 2 * CACHE_HEADS, CACHE_DIM)?;
    attention.run(q, pages, pages, heads, scratch)?;
    report(format_args!("attention over pages {types}"), Hash::of(&out).0);
    Ok(())
}

const LAYER_LEN: usize = 13;
const D_MODEL: usize = 20;
const LAYER_SCRATCH: usize = 4 * LAYER_LEN * 4 * 6 + attention_scratch_len(LAYER_LEN, LAYER_LEN, 6, 5);

fn layers<X: Number, W: Number>(
    tier: Tier,
    scratch: &mut [f32],
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let x = numbers::<X, { LAYER_LEN * D_MODEL }>(12);
    let weights = [13, 14, 15, 16].map(numbers::<W, { D_MODEL * 24 }>);
    let [w_q, w_k, w_v, w_o] = &weights;
    let mut out = [0.0_f32; LAYER_LEN * D_MODEL];
    SelfAttention::new(
        MatRef::new(w_q, D_MODEL, 4 * 6)?,
        MatRef::new(w_k, D_MODEL, 2 * 6)?,
        MatRef::new(w_v, D_MODEL, 2 * 5)?,
        4,
    )
    .kv_heads(2)
    .output(MatRef::new(w_o, 4 * 5, D_MODEL)?)
    .attention(Attention::new().causal().tier(tier))
    .run(MatRef::new(&x, LAYER_LEN, D_MODEL)?, MatMut::new(&mut out, LAYER_LEN, D_MODEL)?, scratch)?;
    report(format_args!("layer {} {}", X::NAME, W::NAME), Hash::of(&out).0);
    Ok(())
}

fn softmaxes<T: Number, O: Number>(tier: Tier, report: &mut Report<'_>) -> Result<(), Error> {
    const ROWS: usize = 3;
    const MOST: usize = ROWS * 150;
    let x = numbers::<f32, MOST>(17).map(|x| T::of(12.0 * x));
    for cols in [1, 7, 64, 150] {
        let (mut out, mut lse) = ([O::of(0.0); MOST], [0.0_f32; ROWS]);
        let x = MatRef::new(&x, ROWS, cols)?;
        Softmax::new().tier(tier).run(x, MatMut::new(&mut out, ROWS, cols)?)?;
        Softmax::new().tier(tier).log_sum_exp(x, &mut lse)?;
        let hash = Hash::of(&out).and(&lse);
        report(format_args!("softmax {} {}, {ROWS} x {cols}", T::NAME, O::NAME), hash.0);
    }
    Ok(())
}

/// From results of 0 over subnormal ones to infinite ones, and numbers that are not.
fn exponentials(tier: Tier, report: &mut Report<'_>) {
    let mut x = numbers::<f32, 999>(18).map(|x| 110.0 * x);
    x[..5].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 4.0]);
    Softmax::new().tier(tier).exp_in_place(&mut x);
    report(format_args!("exp"), Hash::of(&x).0);
}

/// What the largest case needs.
const SCRATCH: usize = {
    let mut most = LAYER_SCRATCH;
    let mut i = 0;
    while i < PRODUCTS.len() {
        let [m, k, n] = PRODUCTS[i];
        most = max(most, matmul_scratch_len(m, k, n));
        i += 1;
    }
    let mut i = 0;
    while i < SHAPES.len() {
        let Shape { q_len, kv_len, head_dim, v_head_dim, .. } = SHAPES[i];
        most = max(most, attention_scratch_len(q_len, kv_len, head_dim, v_head_dim));
        i += 1;
    }
    most
};

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}
