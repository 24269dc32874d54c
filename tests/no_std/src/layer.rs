//! The layer in one call, which must leave the bits of its parts called one by one.

use qkv::{Attention, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, Rotary, SelfAttention, Tier, bf16};

use crate::data::{Number, at, numbers, unknown};
use crate::{Check, ensure};

const MAX: usize = 40 * 40;
const MAX_SCRATCH: usize = 64 * 1024;

pub fn run() -> Check {
    all::<f32, f32>()?;
    all::<f32, bf16>()?;
    all::<bf16, bf16>()
}

fn all<X: Number, W: Number>() -> Check {
    let (x, w_q, w_k) = (numbers::<X, MAX>(13), numbers::<W, MAX>(14), numbers::<W, MAX>(15));
    let (w_v, w_o) = (numbers::<W, MAX>(16), numbers::<W, MAX>(17));
    let [mut q, mut k, mut v, mut heads] = [[0.0_f32; MAX]; 4];
    let (mut out, mut want) = ([f32::NAN; MAX], [f32::NAN; MAX]);
    let mut scratch = [f32::NAN; MAX_SCRATCH];
    for tier in Tier::all() {
        let [len, d_model, n_heads, n_kv_heads, d, dv, d_out] = unknown([13, 20, 4, 2, 6, 5, 17]);
        let x = MatRef::new(unknown(x.as_slice()), len, d_model)?;
        let w_q = MatRef::new(unknown(w_q.as_slice()), d_model, n_heads * d)?;
        let w_k = MatRef::new(unknown(w_k.as_slice()), d_model, n_kv_heads * d)?;
        let w_v = MatRef::new(unknown(w_v.as_slice()), d_model, n_kv_heads * dv)?;
        let w_o = MatRef::new(unknown(w_o.as_slice()), n_heads * dv, d_out)?;
        let scratch = unknown(scratch.as_mut_slice());
        let [q, k, v] = [&mut q, &mut k, &mut v].map(|x| unknown(x.as_mut_slice()));
        let (heads, want) = (unknown(heads.as_mut_slice()), unknown(want.as_mut_slice()));
        let attention = Attention::new().causal().tier(unknown(tier));
        let layer = SelfAttention::new(w_q, w_k, w_v, n_heads).kv_heads(n_kv_heads).attention(attention);

        let product = Matmul::new().tier(unknown(tier));
        product.run(x, w_q, MatMut::new(q, len, n_heads * d)?, scratch)?;
        product.run(x, w_k, MatMut::new(k, len, n_kv_heads * d)?, scratch)?;
        product.run(x, w_v, MatMut::new(v, len, n_kv_heads * dv)?, scratch)?;
        attention.run(
            HeadsRef::token_major(q, len, n_heads, d)?,
            HeadsRef::token_major(k, len, n_kv_heads, d)?,
            HeadsRef::token_major(v, len, n_kv_heads, dv)?,
            HeadsMut::token_major(heads, len, n_heads, dv)?,
            scratch,
        )?;
        product.run(MatRef::new(heads, len, n_heads * dv)?, w_o, MatMut::new(want, len, d_out)?, scratch)?;

        let out = unknown(out.as_mut_slice());
        ensure(layer.scratch_len(len) <= scratch.len(), "scratch")?;
        layer.run(x, MatMut::new(out, len, n_heads * dv)?, scratch)?;
        ensure(same(out, heads, len * n_heads * dv), "a layer without output projection")?;
        layer.output(w_o).run(x, MatMut::new(out, len, d_out)?, scratch)?;
        ensure(same(out, want, len * d_out), "a layer")?;
        // Nothing is added, and every angle is 0.
        let (zeros, mut table) = ([0.0; MAX], [0.0; 13 * 6]);
        table.chunks_exact_mut(6).for_each(|row| row[..3].fill(1.0));
        let rotary = Rotary::new(unknown(table.as_slice()), unknown(6))?;
        let bias = |n: usize| zeros.get(..n).unwrap_or_default();
        let (q, k, v) = (bias(n_heads * d), bias(n_kv_heads * d), bias(n_kv_heads * dv));
        let more = layer.output(w_o).biases(q, k, v).output_bias(bias(d_out)).rotary(rotary);
        more.run(x, MatMut::new(out, len, d_out)?, scratch)?;
        ensure(same(out, want, len * d_out), "a layer with biases and rotation")?;
        let wrong = layer.output(w_o).run(x, MatMut::new(out, len, unknown(16))?, scratch);
        ensure(wrong.is_err(), "a wrong shape is an error")?;
    }
    Ok(())
}

fn same(a: &[f32], b: &[f32], n: usize) -> bool {
    (0..n).all(|i| at(a, i).to_bits() == at(b, i).to_bits())
}
