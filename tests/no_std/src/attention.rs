//! Attention: prefill and decode, every mask, grouped heads and element types, against plain loops.

use qkv::{Attention, Error, HeadsMut, HeadsRef, Tier, alibi_slopes, attention_scratch_len, bf16, f16};

use crate::data::{Number, at, close, numbers, unknown};
use crate::{Check, ensure};

const MAX: usize = 1_100 * 2 * 24;
const MAX_KEYS: usize = 1_100;

#[derive(Clone, Copy)]
struct Shape {
    q_len: usize,
    kv_len: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    v_head_dim: usize,
}

const SHAPES: [Shape; 4] = [
    // A decode step, a short prefill, more than one chunk of keys, more queries than keys.
    Shape { q_len: 1, kv_len: 70, n_heads: 6, n_kv_heads: 2, head_dim: 24, v_head_dim: 24 },
    Shape { q_len: 33, kv_len: 33, n_heads: 4, n_kv_heads: 2, head_dim: 20, v_head_dim: 11 },
    Shape { q_len: 3, kv_len: 1_100, n_heads: 2, n_kv_heads: 1, head_dim: 9, v_head_dim: 16 },
    Shape { q_len: 20, kv_len: 5, n_heads: 1, n_kv_heads: 1, head_dim: 8, v_head_dim: 8 },
];

pub fn run() -> Check {
    all::<f32, f32, f32, f32>()?;
    all::<f32, f16, f16, f32>()?;
    all::<bf16, bf16, bf16, bf16>()?;
    all::<f16, f32, bf16, f16>()?;
    let mut slopes = unknown([0.0_f32; 6]);
    alibi_slopes(unknown(slopes.as_mut_slice()));
    ensure(slopes == [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125], "slopes")?;
    refused()
}

fn all<Q: Number, K: Number, V: Number, O: Number>() -> Check {
    let (q, k, v) = (numbers::<Q, MAX>(7), numbers::<K, MAX>(8), numbers::<V, MAX>(9));
    let mut out = [O::of(0.0); MAX];
    let (mut lse, mut scratch) = ([0.0_f32; 256], [f32::NAN; attention_scratch_len(33, 1_100, 24, 24)]);
    for tier in Tier::all() {
        for shape in SHAPES {
            // Offset `None`: every key is seen.
            for offset in [None, Some(shape.kv_len as isize - shape.q_len as isize), Some(-2)] {
                let s = unknown(shape);
                let (q, k, v) = (unknown(q.as_slice()), unknown(k.as_slice()), unknown(v.as_slice()));
                let out = unknown(out.as_mut_slice());
                out.fill(O::of(f32::NAN));
                // Options that change nothing, with values that the compiler does not know.
                let (all, none) = (unknown([0.0_f32; 6]), unknown([f32::NEG_INFINITY; 6]));
                let (Some(slopes), Some(sinks)) = (all.get(..s.n_heads), none.get(..s.n_heads)) else {
                    return ensure(false, "options");
                };
                let plain = Attention::new().scale(unknown(0.25)).tier(unknown(tier));
                let plain = plain.window(unknown(usize::MAX), unknown(usize::MAX)).alibi(slopes).sinks(sinks);
                let attention = match unknown(offset) {
                    None => plain,
                    Some(-2) => plain.causal_offset(unknown(-2)),
                    Some(_) => plain.causal(),
                };
                let lse = unknown(lse.as_mut_slice()).get_mut(..s.n_heads * s.q_len);
                let Some(lse) = lse else { return ensure(false, "lse") };
                let q_view = HeadsRef::token_major(q, s.q_len, s.n_heads, s.head_dim)?;
                let k_view = HeadsRef::token_major(k, s.kv_len, s.n_kv_heads, s.head_dim)?;
                let v_view = HeadsRef::head_major(v, s.kv_len, s.n_kv_heads, s.v_head_dim)?;
                let scratch = unknown(scratch.as_mut_slice());
                let view = HeadsMut::token_major(out, s.q_len, s.n_heads, s.v_head_dim)?;
                attention.run_with_lse(q_view, k_view, v_view, view, lse, scratch)?;
                for h in 0..s.n_heads {
                    for i in 0..s.q_len {
                        let right = row(q, k, v, out, s, offset, (h, i), at(lse, h * s.q_len + i));
                        ensure(right, "a row of attention")?;
                    }
                }
                let first = at(out, 0);
                let view = HeadsMut::token_major(out, s.q_len, s.n_heads, s.v_head_dim)?;
                attention.run(q_view, k_view, v_view, view, scratch)?;
                ensure(at(out, 0) == first, "the same without log-sum-exps")?;
                out.fill(O::of(f32::NAN));
                let view = HeadsMut::token_major(out, s.q_len, s.n_heads, s.v_head_dim)?;
                let mut steps = attention.steps(q_view, k_view, v_view, view, Some(lse), scratch)?;
                while unknown(&mut steps).step(unknown(3)) {}
                ensure(at(out, 0) == first, "the same in steps")?;
            }
        }
    }
    Ok(())
}

/// Whether query `i` of head `h` has the weighted average of the values that it sees.
#[expect(clippy::too_many_arguments, reason = "the operands of attention")]
fn row<Q: Number, K: Number, V: Number, O: Number>(
    q: &[Q],
    k: &[K],
    v: &[V],
    out: &[O],
    s: Shape,
    offset: Option<isize>,
    (h, i): (usize, usize),
    lse: f32,
) -> bool {
    let Some(kv_head) = (h * s.n_kv_heads).checked_div(s.n_heads) else { return false };
    let seen = match offset {
        None => s.kv_len,
        Some(offset) => (i as isize + offset + 1).max(0).min(s.kv_len as isize) as usize,
    };
    let mut weights = [0.0_f32; MAX_KEYS];
    let Some(weights) = weights.get_mut(..seen) else { return false };
    let mut top = f32::MIN;
    for (t, weight) in weights.iter_mut().enumerate() {
        let (q_at, k_at) = ((i * s.n_heads + h) * s.head_dim, (t * s.n_kv_heads + kv_head) * s.head_dim);
        *weight = (0..s.head_dim).map(|d| at(q, q_at + d) * at(k, k_at + d)).sum::<f32>() * 0.25;
        top = top.max(*weight);
    }
    weights.iter_mut().for_each(|weight| *weight -= top);
    qkv::exp_in_place(weights);
    let sum = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
    let values = (0..s.v_head_dim).all(|d| {
        let value = |t: usize| at(v, (kv_head * s.kv_len + t) * s.v_head_dim + d);
        let blend = weights.iter().enumerate().map(|(t, &weight)| f64::from(weight) * f64::from(value(t)));
        let want = if seen == 0 { 0.0 } else { blend.sum::<f64>() / sum };
        out.get((i * s.n_heads + h) * s.v_head_dim + d).is_some_and(|&got| close(got, want as f32, 8.0))
    });
    // e^(lse - top) is the sum again.
    let mut back = [lse - top];
    qkv::exp_in_place(&mut back);
    let lse_is_right =
        if seen == 0 { lse == f32::NEG_INFINITY } else { (back[0] - sum as f32).abs() <= sum as f32 * 1e-5 };
    values && lse_is_right
}

fn refused() -> Check {
    let x = numbers::<f32, 64>(10);
    let x = unknown(x.as_slice());
    let mut out = [0.0_f32; 64];
    let (q, k) = (HeadsRef::token_major(x, 4, 4, unknown(4))?, HeadsRef::token_major(x, 5, 3, unknown(4))?);
    let run = |out: &mut [f32], k, scratch: &mut [f32]| -> Result<(), Error> {
        Attention::new().run(q, k, k, HeadsMut::token_major(out, 4, 4, unknown(4))?, scratch)
    };
    let error = run(&mut out, k, &mut []);
    ensure(matches!(error, Err(Error::HeadsDoNotDivide { .. })), "heads that do not divide are an error")?;
    let needed = attention_scratch_len(unknown(4), unknown(5), unknown(4), unknown(4));
    let error = run(&mut out, k.split_at_head(unknown(2))?.0, &mut []);
    ensure(error == Err(Error::ScratchTooShort { needed, got: 0 }), "too little scratch is an error")
}
