//! The transformer in candle, for its gradients; `../lookup/model.rs` is the same in qkv.
//!
//! ```text
//! X = E[word] + P[position]
//! X = X + softmax(X W_Q (X W_K)ᵀ / √head_dim) (X W_V) W_O      once per layer, both heads
//! scores at a token = X Eᵀ
//! ```

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::ops::softmax;

use crate::rng::Rng;

#[derive(Clone, Copy)]
pub struct Config {
    pub vocab: usize,
    pub max_len: usize,
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub head_dim: usize,
}

pub struct Layer {
    w_q: Var,
    w_k: Var,
    w_v: Var,
    w_o: Var,
}

pub struct Model {
    pub config: Config,
    embedding: Var,
    position: Var,
    layers: Vec<Layer>,
}

/// What a batch of equally long sentences yields.
pub struct Output {
    /// One score per word of the vocabulary: [batch, vocab].
    pub scores: Tensor,
    /// The last layer's weights from "it" on every token: [batch, n_heads, len].
    pub weights: Tensor,
}

impl Model {
    pub fn new(config: Config, rng: &mut Rng) -> Result<Self> {
        let Config { vocab, max_len, d_model, n_layers, n_heads, head_dim } = config;
        let inner = n_heads * head_dim;
        let embedding = random(rng, vocab, d_model, d_model)?;
        let position = random(rng, max_len, d_model, d_model)?;
        let layers = (0..n_layers)
            .map(|_| {
                Ok(Layer {
                    w_q: random(rng, d_model, inner, d_model)?,
                    w_k: random(rng, d_model, inner, d_model)?,
                    w_v: random(rng, d_model, inner, d_model)?,
                    w_o: random(rng, inner, d_model, inner)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, embedding, position, layers })
    }

    /// Every parameter, in the order of the weight file.
    pub fn vars(&self) -> Vec<Var> {
        let mut vars = vec![self.embedding.clone(), self.position.clone()];
        for Layer { w_q, w_k, w_v, w_o } in &self.layers {
            vars.extend([w_q, w_k, w_v, w_o].map(Var::clone));
        }
        vars
    }

    /// `tokens` is [batch, len]; the scores are those of the token at position `it`.
    pub fn forward(&self, tokens: &Tensor, it: usize) -> Result<Output> {
        let Config { d_model, n_heads, head_dim, .. } = self.config;
        let (batch, len) = tokens.dims2()?;
        let inner = n_heads * head_dim;
        let scale = (head_dim as f64).sqrt().recip();

        let words = self.embedding.index_select(&tokens.flatten_all()?, 0)?;
        let words = words.reshape((batch, len, d_model))?;
        let mut x = words.broadcast_add(&self.position.narrow(0, 0, len)?)?;
        let mut last_weights = None;
        for layer in &self.layers {
            let rows = x.reshape((batch * len, d_model))?;
            let heads = |w: &Var| {
                let y = rows.matmul(w)?.reshape((batch, len, n_heads, head_dim))?;
                y.transpose(1, 2)?.contiguous()
            };
            let (q, k, v) = (heads(&layer.w_q)?, heads(&layer.w_k)?, heads(&layer.w_v)?);
            let weights = softmax(&(q.matmul(&k.t()?)? * scale)?, 3)?;
            let out = weights.matmul(&v)?.transpose(1, 2)?.reshape((batch * len, inner))?;
            x = (x + out.matmul(&layer.w_o)?.reshape((batch, len, d_model))?)?;
            last_weights = Some(weights);
        }
        let x_it = x.narrow(1, it, 1)?.squeeze(1)?;
        let scores = x_it.matmul(&self.embedding.t()?)?;
        let weights = match last_weights {
            Some(weights) => weights.narrow(2, it, 1)?.squeeze(2)?,
            None => candle_core::bail!("a model needs at least one layer"),
        };
        Ok(Output { scores, weights })
    }
}

/// A matrix of uniform numbers with variance 1 / fan_in.
fn random(rng: &mut Rng, rows: usize, cols: usize, fan_in: usize) -> Result<Var> {
    let bound = (3.0 / fan_in as f32).sqrt();
    let numbers: Vec<f32> = (0..rows * cols).map(|_| signed_unit(rng) * bound).collect();
    Var::from_vec(numbers, (rows, cols), &Device::Cpu)
}

/// A number in [-1, 1) from the top 24 bits, which an f32 holds exactly.
fn signed_unit(rng: &mut Rng) -> f32 {
    (rng.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}
