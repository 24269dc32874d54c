//! The trained transformer: its weights, and its forward pass in qkv.
//!
//! ```text
//! X = E[word] + P[position]
//! Q = X W_Q,  K = X W_K,  V = X W_V                      in every layer:
//! X = X + softmax(Q Kᵀ / √head_dim) V W_O                a soft lookup, in each head
//! scores = X Eᵀ                                          one per word of the vocabulary
//! ```
//!
//! Nothing here allocates: sizes and weights are known at compile time, so that this file runs as it is
//! on a microcontroller, in `examples/firmware`, where the weights are of another type.

use core::ops::Range;

use qkv::{
    Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, attention_scratch_len, matmul, matmul_add,
    matmul_scratch_len, softmax_in_place,
};

use crate::file::{
    D_MODEL, EMBEDDING_LEN, HEAD_DIM, LAYER_LEN, MATRIX_LEN, MAX_LEN, N_HEADS, N_LAYERS, POSITION_LEN, VOCAB,
};
use crate::weights::{PARAMS, Weight, widen};

/// Features of all heads of a token.
pub const INNER: usize = N_HEADS * HEAD_DIM;

const SCRATCH_LEN: usize = {
    let attention = attention_scratch_len(MAX_LEN, MAX_LEN, HEAD_DIM, HEAD_DIM);
    let scores = matmul_scratch_len(1, D_MODEL, VOCAB);
    if attention > scores { attention } else { scores }
};

/// 1 / √head_dim: how much scores are scaled down, so that their spread does not grow with head_dim.
const SCALE: f32 = 0.353_553_4;
const _: () = assert!((SCALE * SCALE * HEAD_DIM as f32 - 1.0).abs() < 1e-6);

/// A row for each looking token, a column for each one looked at; rows sum to 1.
pub type Weights = [[f32; MAX_LEN]; MAX_LEN];

/// What one layer looked up; one row per token, the heads of a token side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lookup {
    pub len: usize,
    /// What each token looks for.
    pub q: [f32; MAX_LEN * INNER],
    /// How each token is matched.
    pub k: [f32; MAX_LEN * INNER],
    /// What each token passes on.
    pub v: [f32; MAX_LEN * INNER],
    /// What each token got: `softmax(Q Kᵀ / √head_dim) V`.
    pub out: [f32; MAX_LEN * INNER],
}

/// A sentence's way through the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trace {
    pub lookups: [Lookup; N_LAYERS],
    /// The tokens after the last layer, a row each.
    pub x: [f32; MAX_LEN * D_MODEL],
}

/// Runs the model on word numbers, at most [`MAX_LEN`] of them and each below [`VOCAB`].
pub fn forward(words: &[usize]) -> Result<Trace, Error> {
    forward_with(words, |_, _| {})
}

/// As [`forward`], but `edit` may change Q, K and V of a layer before its lookup.
pub fn forward_with(words: &[usize], mut edit: impl FnMut(usize, &mut Lookup)) -> Result<Trace, Error> {
    let len = words.len();
    let mut scratch = [0.0; SCRATCH_LEN];
    let mut x = embed(words)?;
    let mut lookups = [Lookup::new(len); N_LAYERS];
    for (layer, lookup) in lookups.iter_mut().enumerate() {
        let [w_q, w_k, w_v, w_o] = layer_weights(layer)?;
        let tokens = MatRef::new(&x, len, D_MODEL)?;
        matmul(tokens, w_q, MatMut::new(&mut lookup.q, len, INNER)?, &mut scratch)?;
        matmul(tokens, w_k, MatMut::new(&mut lookup.k, len, INNER)?, &mut scratch)?;
        matmul(tokens, w_v, MatMut::new(&mut lookup.v, len, INNER)?, &mut scratch)?;
        edit(layer, lookup);
        lookup.look_up(&mut scratch)?;
        let found = MatRef::new(&lookup.out, len, INNER)?;
        matmul_add(found, w_o, MatMut::new(&mut x, len, D_MODEL)?, &mut scratch)?;
    }
    Ok(Trace { lookups, x })
}

impl Lookup {
    const fn new(len: usize) -> Self {
        let zeros = [0.0; MAX_LEN * INNER];
        Self { len, q: zeros, k: zeros, v: zeros, out: zeros }
    }

    /// `out = softmax(Q Kᵀ / √head_dim) V` in every head.
    fn look_up(&mut self, scratch: &mut [f32]) -> Result<(), Error> {
        let q = HeadsRef::token_major(&self.q, self.len, N_HEADS, HEAD_DIM)?;
        let k = HeadsRef::token_major(&self.k, self.len, N_HEADS, HEAD_DIM)?;
        let v = HeadsRef::token_major(&self.v, self.len, N_HEADS, HEAD_DIM)?;
        let out = HeadsMut::token_major(&mut self.out, self.len, N_HEADS, HEAD_DIM)?;
        Attention::new().run(q, k, v, out, scratch)
    }

    /// `softmax(Q Kᵀ / √head_dim)` of one head: the row of a token says how much it takes from each.
    ///
    /// The lookup itself never stores these weights; this computes them for people to look at.
    pub fn weights(&self, head: usize) -> Result<Weights, Error> {
        let mut weights = [[0.0; MAX_LEN]; MAX_LEN];
        let mut view = MatMut::with_strides(weights.as_flattened_mut(), self.len, self.len, MAX_LEN, 1)?;
        let (q, k) = (self.head(&self.q, head)?, self.head(&self.k, head)?);
        Matmul::new().alpha(SCALE).run(q, k.t(), view.reborrow(), &mut [])?;
        softmax_in_place(view)?;
        Ok(weights)
    }

    /// The mean of the weights of some heads.
    pub fn mean_weights(&self, heads: Range<usize>) -> Result<Weights, Error> {
        let share = 1.0 / heads.len() as f32;
        let mut mean = [[0.0; MAX_LEN]; MAX_LEN];
        for head in heads {
            let weights = self.weights(head)?;
            for (mean, weight) in mean.as_flattened_mut().iter_mut().zip(weights.as_flattened()) {
                *mean += share * weight;
            }
        }
        Ok(mean)
    }

    /// The largest difference between `out` and the weights times V, over all heads.
    pub fn weights_error(&self) -> Result<f32, Error> {
        let mut largest = 0.0_f32;
        for head in 0..N_HEADS {
            let weights = self.weights(head)?;
            let weights = MatRef::with_strides(weights.as_flattened(), self.len, self.len, MAX_LEN, 1)?;
            let mut blend = [0.0; MAX_LEN * HEAD_DIM];
            let view = MatMut::new(&mut blend, self.len, HEAD_DIM)?;
            matmul(weights, self.head(&self.v, head)?, view, &mut [])?;
            for (token, blend) in blend.chunks_exact(HEAD_DIM).take(self.len).enumerate() {
                let out = &self.out[token * INNER + head * HEAD_DIM..][..HEAD_DIM];
                largest = blend.iter().zip(out).fold(largest, |max, (a, b)| max.max((a - b).abs()));
            }
        }
        Ok(largest)
    }

    /// One head of Q, K or V as a matrix with a row per token.
    fn head<'a>(&self, x: &'a [f32], head: usize) -> Result<MatRef<'a, f32>, Error> {
        MatRef::with_strides(&x[head * HEAD_DIM..], self.len, HEAD_DIM, INNER, 1)
    }
}

/// Exchanges the vectors of two tokens in Q, K, V or the output of a [`Lookup`], in all heads.
pub fn swap_tokens(x: &mut [f32; MAX_LEN * INNER], a: usize, b: usize) {
    for d in 0..INNER {
        x.swap(a * INNER + d, b * INNER + d);
    }
}

impl Trace {
    /// How much the token at `position` has become like each word of the vocabulary: `X Eᵀ`.
    pub fn scores(&self, position: usize) -> Result<[f32; VOCAB], Error> {
        let mut scores = [0.0; VOCAB];
        let mut scratch = [0.0; SCRATCH_LEN];
        let row = MatRef::new(&self.x[position * D_MODEL..], 1, D_MODEL)?;
        matmul(row, embedding()?.t(), MatMut::new(&mut scores, 1, VOCAB)?, &mut scratch)?;
        Ok(scores)
    }

    /// The word that the token at `position` has become most like.
    pub fn answer(&self, position: usize) -> Result<usize, Error> {
        let scores = self.scores(position)?;
        Ok((0..VOCAB).fold(0, |best, word| if scores[word] > scores[best] { word } else { best }))
    }
}

/// `E[word] + P[position]`.
fn embed(words: &[usize]) -> Result<[f32; MAX_LEN * D_MODEL], Error> {
    let (embedding, rest) = PARAMS.split_at(EMBEDDING_LEN);
    if words.len() > MAX_LEN {
        return Err(Error::TooLarge { what: "sentence", most: MAX_LEN, got: words.len() });
    }
    let mut x = [0.0; MAX_LEN * D_MODEL];
    let rows = x.chunks_exact_mut(D_MODEL).zip(rest.chunks_exact(D_MODEL));
    for ((x, position), &word) in rows.zip(words) {
        let Some(embedding) = embedding.chunks_exact(D_MODEL).nth(word) else {
            return Err(Error::TooLarge { what: "number of a word", most: VOCAB - 1, got: word });
        };
        for (x, (e, p)) in x.iter_mut().zip(embedding.iter().zip(position)) {
            *x = widen(*e) + widen(*p);
        }
    }
    Ok(x)
}

fn embedding() -> Result<MatRef<'static, Weight>, Error> {
    MatRef::new(&PARAMS, VOCAB, D_MODEL)
}

/// W_Q, W_K, W_V and W_O of a layer.
fn layer_weights(layer: usize) -> Result<[MatRef<'static, Weight>; 4], Error> {
    let weights = &PARAMS[EMBEDDING_LEN + POSITION_LEN + layer * LAYER_LEN..][..LAYER_LEN];
    let (w_qkv, w_o) = weights.split_at(3 * MATRIX_LEN);
    Ok([
        MatRef::new(w_qkv, D_MODEL, INNER)?,
        MatRef::new(&w_qkv[MATRIX_LEN..], D_MODEL, INNER)?,
        MatRef::new(&w_qkv[2 * MATRIX_LEN..], D_MODEL, INNER)?,
        MatRef::new(w_o, INNER, D_MODEL)?,
    ])
}
