//! Scores and weights: prefill and decode, some of the heads and queries, element types, against plain loops.

use qkv::{Attention, Error, HeadsRef, Scores, TensorMut, Tier, bf16, f16};

use crate::data::{Number, at, close, numbers, unknown};
use crate::{Check, ensure};

/// Queries, keys, key heads, features; two query heads to a key head.
const SHAPES: [[usize; 4]; 3] = [[1, 70, 9, 24], [33, 33, 2, 7], [3, 1_100, 1, 5]];
const MAX: usize = 1_100 * 18;

pub fn run() -> Check {
    all::<f32, f32, f32>()?;
    all::<bf16, f16, f16>()?;
    all::<f16, bf16, bf16>()?;
    let x = numbers::<f32, 64>(10);
    let x = HeadsRef::token_major(unknown(x.as_slice()), 4, 4, unknown(4))?;
    let out = TensorMut::new(&mut [] as &mut [f32], [1, 5, 0, 4])?;
    let (heads, queries) = (0..unknown(5), 0..unknown(0));
    let error = Attention::new().scores(x, x, unknown(Scores::Raw), (heads, queries), out, &mut []);
    ensure(matches!(error, Err(Error::TooLarge { .. })), "a head that does not exist is an error")
}

fn all<Q: Number, K: Number, O: Number>() -> Check {
    let (q, k) = (numbers::<Q, MAX>(7), numbers::<K, MAX>(8));
    let (mut out, mut scratch) = ([O::of(0.0); MAX], [f32::NAN; 16 * 1024]);
    for (tier, shape) in Tier::all().flat_map(|tier| SHAPES.map(|shape| (tier, shape))) {
        for which in [Scores::Raw, Scores::Capped, Scores::Masked, Scores::Weights] {
            let [q_len, kv_len, n_kv_heads, head_dim] = unknown(shape);
            let (q, k, which) = (unknown(q.as_slice()), unknown(k.as_slice()), unknown(which));
            let attention = Attention::new().scale(unknown(0.25)).causal().tier(unknown(tier));
            // All heads but the first, all queries but the first if there are others.
            let (heads, queries) = (1..2 * n_kv_heads, usize::from(q_len > 1)..q_len);
            let sizes = [1, heads.len(), queries.len(), kv_len];
            let out = unknown(out.as_mut_slice());
            out.fill(O::of(f32::NAN));
            attention.scores(
                HeadsRef::token_major(q, q_len, 2 * n_kv_heads, head_dim)?,
                HeadsRef::token_major(k, kv_len, n_kv_heads, head_dim)?,
                which,
                (heads.clone(), queries.clone()),
                TensorMut::new(out, sizes)?,
                unknown(scratch.as_mut_slice()),
            )?;
            let mut row = 0;
            for (h, i) in heads.flat_map(|h| queries.clone().map(move |i| (h, i))) {
                let score = |t: usize| {
                    let (q_at, k_at) =
                        ((i * 2 * n_kv_heads + h) * head_dim, (t * n_kv_heads + h / 2) * head_dim);
                    (0..head_dim).map(|d| at(q, q_at + d) * at(k, k_at + d)).sum::<f32>() * 0.25
                };
                let got = out.get(row..).unwrap_or_default();
                ensure(right(which, got, kv_len, i + kv_len - q_len + 1, score), "a row of scores")?;
                row += kv_len;
            }
        }
    }
    Ok(())
}

/// Whether a row has the scores, or weights, of its first `seen` keys.
fn right<O: Number>(
    which: Scores,
    row: &[O],
    kv_len: usize,
    seen: usize,
    score: impl Fn(usize) -> f32,
) -> bool {
    let hidden = |x: f32| (seen..kv_len).all(|t| at(row, t) == x);
    let scores = |keys: usize| row.iter().take(keys).enumerate().all(|(t, &got)| close(got, score(t), 0.0));
    match which {
        Scores::Raw | Scores::Capped => scores(kv_len),
        Scores::Masked => scores(seen) && hidden(f32::NEG_INFINITY),
        Scores::Weights => {
            let sum: f32 = row.iter().take(seen).map(|weight| weight.to()).sum();
            (sum - 1.0).abs() <= O::UNIT * 1.01 + 1e-5 && hidden(0.0)
        }
    }
}
