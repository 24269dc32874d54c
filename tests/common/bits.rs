//! Scalar models of the kernels that give the same bits: the contract on the order of arithmetic,
//! written as plain loops over one number at a time.

use super::heads::Heads;
use super::mat::Mat;
use super::reference::Extra;

/// Logical block of k, block of keys, chunk of keys: parts of the contract.
pub const KC: usize = 512;
pub const BLOCK: usize = 64;
pub const CHUNK: usize = 1024;

/// `a * b + c`, rounded once or twice.
pub fn fma(fused: bool, a: f32, b: f32, c: f32) -> f32 {
    if fused { a.mul_add(b, c) } else { a * b + c }
}

/// `Σ a b` from 0, one step after the other.
fn chain(fused: bool, pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    match fused {
        true => pairs.fold(0.0, |sum, (a, b)| a.mul_add(b, sum)),
        false => pairs.fold(0.0, |sum, (a, b)| a * b + sum),
    }
}

/// The bits of `C = alpha A B + beta C + bias`: a chain for each block of k, blocks added in order.
pub fn matmul(
    fused: bool,
    a: &Mat,
    b: &Mat,
    c: &Mat,
    bias: Option<&[f32]>,
    alpha: f32,
    beta: f32,
) -> Vec<u32> {
    let k = if alpha == 0.0 { 0 } else { a.cols };
    let mut bits = Vec::with_capacity(a.rows * b.cols);
    let (rows, columns) = (a.values(), b.columns());
    for i in 0..a.rows {
        for j in 0..b.cols {
            let (row, column) = (&rows[i * a.cols..][..k], &columns[j * b.rows..][..k]);
            let old = if beta == 0.0 { 0.0 } else { c.get(i, j) };
            let mut sum = fma(fused, beta, old, bias.map_or(0.0, |bias| bias[j]));
            let mut from = 0;
            loop {
                let to = (from + KC).min(k);
                let pairs = row[from..to].iter().copied().zip(column[from..to].iter().copied());
                sum = fma(fused, alpha, chain(fused, pairs), sum);
                from = to;
                if from == k {
                    break;
                }
            }
            bits.push(c.kind().bits(sum));
        }
    }
    bits
}

/// The weight of a score that lies `-x` below the maximum: the polynomial of `src/kernel/exp.rs`.
pub fn exp_weight(fused: bool, x: f32) -> f32 {
    const POLYNOMIAL: [f32; 5] = [1.381_45e-3, 8.368_78e-3, 4.166_839e-2, 1.666_652e-1, 4.999_999_3e-1];
    // By how much 2^n is divided, which the polynomial is multiplied by, and where it comes out as 0.
    let (down, least) = if fused { (16, -76.94) } else { (0, -88.03) };
    let x = if least > x { least } else { x };
    let round = 12_582_912.0 + (127 - down) as f32;
    let biased = fma(fused, x, core::f32::consts::LOG2_E, round);
    let n = biased - round;
    let r = match fused {
        true => fma(true, n, -core::f32::consts::LN_2, x),
        false => fma(false, n, -1.428_606_8e-6, fma(false, n, -0.693_145_75, x)),
    };
    let p = POLYNOMIAL[1..].iter().fold(POLYNOMIAL[0], |p, &c| fma(fused, p, r, c));
    let p = if fused { fma(true, fma(true, p, r, 1.0), r, 1.0) } else { (p * r * r + r) + 1.0 };
    // Exact but for what comes out as 0.
    p * (1 << down) as f32 * f32::from_bits(biased.to_bits() << 23)
}

/// The running softmax of some keys: maximum, sum of weights, weighted values.
struct State {
    m: f32,
    l: f32,
    acc: Vec<f32>,
}

/// `cap tanh(score / cap)`: the forms of `src/kernel/tanh.rs`.
fn softcap(fused: bool, score: f32, cap: f32) -> f32 {
    const POLYNOMIAL: [f32; 4] = [0.017_241_492, -0.053_045_495, 0.133_258_79, -0.333_331_44];
    let x = score * (1.0 / cap);
    let z = x * x;
    let far = if z > 0.25 {
        let e = exp_weight(fused, x.abs() * -2.0);
        Some((1.0 - e) / (1.0 + e))
    } else {
        None
    };
    let near = || {
        let p = POLYNOMIAL[1..].iter().fold(POLYNOMIAL[0], |p, &c| fma(fused, p, z, c));
        fma(fused, p, x * z, x)
    };
    far.map_or_else(near, |far| if x > 0.0 { far } else { -far }) * cap
}

/// Query `(i, h)` over the keys `seen` of head `kv_head`: the output before it is rounded to its type,
/// and the log-sum-exp.
pub fn attention_row(
    fused: bool,
    (q, k, v): (&Heads, &Heads, &Heads),
    (i, h): (usize, usize),
    kv_head: usize,
    seen: &[usize],
    scale: f32,
    extra: &Extra,
) -> (Vec<f32>, f32) {
    let (State { m, l, acc }, inverse) = total(fused, (q, k, v), (i, h), kv_head, seen, scale, extra);
    let lse = if l == 0.0 { f32::NEG_INFINITY } else { m + libm::logf(l) };
    (acc.iter().map(|&x| fma(fused, x, inverse, 0.0)).collect(), lse)
}

/// The scores of query `(i, h)` for the keys `seen`, each with the weight of the softmax over all of them;
/// and what a key that is not seen weighs.
pub fn scores_row(
    fused: bool,
    (q, k): (&Heads, &Heads),
    (i, h): (usize, usize),
    kv_head: usize,
    seen: &[usize],
    scale: f32,
    extra: &Extra,
) -> (Vec<(f32, f32)>, f32) {
    let (State { m, l, .. }, _) = total(fused, (q, k, k), (i, h), kv_head, seen, scale, extra);
    let inverse = if l == 0.0 { 0.0 } else { 1.0 / l };
    let query = scaled(q, (i, h), scale);
    let weight = |score: f32| exp_weight(fused, score - m) * inverse;
    let both = seen.iter().map(|&t| {
        let score = score(fused, &query, k, (t, kv_head), (i, h), extra);
        (score, weight(score))
    });
    (both.collect(), weight(f32::NEG_INFINITY))
}

fn scaled(q: &Heads, (i, h): (usize, usize), scale: f32) -> Vec<f32> {
    q.token(i, h).iter().map(|x| x * scale).collect()
}

/// The state of all keys, and what its weighted values are multiplied by.
fn total(
    fused: bool,
    (q, k, v): (&Heads, &Heads, &Heads),
    (i, h): (usize, usize),
    kv_head: usize,
    seen: &[usize],
    scale: f32,
    extra: &Extra,
) -> (State, f32) {
    let query = scaled(q, (i, h), scale);
    let mut total: Option<State> = None;
    for keys in seen.chunk_by(|a, b| a / CHUNK == b / CHUNK) {
        let chunk = attention_chunk(fused, &query, (k, v), kv_head, keys, (i, h), extra);
        total = Some(match total {
            None => chunk,
            Some(left) => merge(fused, &left, &chunk),
        });
    }
    let nothing = || State { m: f32::MIN, l: 0.0, acc: vec![0.0; v.head_dim] };
    let mut state = total.unwrap_or_else(nothing);
    let mut shrunk = 1.0;
    if let Some(sink) = extra.sink {
        let top = if sink > state.m { sink } else { state.m };
        shrunk = exp_weight(fused, state.m - top);
        let l = fma(fused, state.l, shrunk, exp_weight(fused, sink - top));
        state = State { m: top, l, ..state };
    }
    // Of weights that are all 0 the values still count if they are NaN: 0 x NaN is NaN.
    let inverse = if state.l == 0.0 { 0.0 } else { shrunk / state.l };
    (state, inverse)
}

/// The score of key `t` of head `kv_head` for the scaled `query` `(i, h)`.
fn score(
    fused: bool,
    query: &[f32],
    k: &Heads,
    (t, kv_head): (usize, usize),
    (i, h): (usize, usize),
    extra: &Extra,
) -> f32 {
    let (key, options) = (k.token(t, kv_head), extra.options);
    // Two chains, of every second feature, or beyond 64 features four.
    let chains = |n: usize, first: usize| {
        let pairs = query.iter().copied().zip(key.iter().copied());
        chain(fused, pairs.skip(first).step_by(n))
    };
    let mut score = match query.len() {
        0..=64 => chains(2, 0) + chains(2, 1),
        _ => (chains(4, 0) + chains(4, 1)) + (chains(4, 2) + chains(4, 3)),
    };
    if let Some(cap) = options.softcap {
        score = softcap(fused, score, cap);
    }
    if let Some((slope, place)) = extra.alibi {
        score = fma(fused, slope, -(t as f32 - place).abs(), score);
    }
    if let Some(bias) = options.bias(h, i, t) {
        score += bias;
    }
    options.ruled(score, h, i, t)
}

/// The keys of one chunk, block by block.
fn attention_chunk(
    fused: bool,
    query: &[f32],
    (k, v): (&Heads, &Heads),
    kv_head: usize,
    keys: &[usize],
    (i, h): (usize, usize),
    extra: &Extra,
) -> State {
    let mut state = State { m: f32::MIN, l: 0.0, acc: vec![0.0; v.head_dim] };
    for (block, keys) in keys.chunk_by(|a, b| a / BLOCK == b / BLOCK).enumerate() {
        let score = |&t: &usize| score(fused, query, k, (t, kv_head), (i, h), extra);
        let values: Vec<Vec<f32>> = keys.iter().map(|&t| v.token(t, kv_head)).collect();
        let scores: Vec<f32> = keys.iter().map(score).collect();
        let top = scores.iter().fold(state.m, |top, &x| if x > top { x } else { top });
        let weights: Vec<f32> = scores.iter().map(|x| exp_weight(fused, x - top)).collect();
        let mut sums = [0.0_f32; 4];
        for (t, weight) in keys.iter().zip(&weights) {
            sums[t % 4] += weight;
        }
        let sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
        let factor = exp_weight(fused, state.m - top);
        state.l = fma(fused, state.l, factor, sum);
        for (j, acc) in state.acc.iter_mut().enumerate() {
            let weighted = chain(fused, weights.iter().zip(&values).map(|(&weight, v)| (weight, v[j])));
            // A chunk's first block has nothing to rescale.
            *acc = if block == 0 { weighted } else { fma(fused, *acc, factor, weighted) };
        }
        state.m = top;
    }
    state
}

fn merge(fused: bool, left: &State, right: &State) -> State {
    let m = if left.m > right.m { left.m } else { right.m };
    let (f1, f2) = (exp_weight(fused, left.m - m), exp_weight(fused, right.m - m));
    let merged = |a: f32, b: f32| fma(fused, a, f1, b * f2);
    let acc = left.acc.iter().zip(&right.acc).map(|(&a, &b)| merged(a, b)).collect();
    State { m, l: merged(left.l, right.l), acc }
}

/// A head's features turned by the cosines and then the sines of its position.
pub fn rotary(x: &[f32], angles: &[f32], interleaved: bool) -> Vec<f32> {
    let (half, mut y) = (angles.len() / 2, x.to_vec());
    for i in 0..half {
        let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let (cos, sin) = (angles[i], angles[half + i]);
        y[first] = x[first] * cos - x[second] * sin;
        y[second] = x[second] * cos + x[first] * sin;
    }
    y
}
