//! Results against `f64`, in sampled rows.

use super::{Number, Shape};

/// The largest error, and the largest result that it is relative to.
#[derive(Default)]
pub struct Error {
    largest: f64,
    scale: f64,
}

impl Error {
    pub fn add(&mut self, got: f64, want: f64) {
        // In the total order NaN is the largest of all.
        let error = (got - want).abs();
        self.largest = if error.total_cmp(&self.largest).is_gt() { error } else { self.largest };
        self.scale = self.scale.max(want.abs());
    }

    pub fn relative(&self) -> f64 {
        self.largest / self.scale
    }
}

/// `C = A B`; A is m x k, C is m x n, both in rows; B has its strides of a row and of a column.
pub fn product_error<A: Number, C: Number>(
    [m, k, n]: [usize; 3],
    a: &[A],
    b: &[A],
    b_strides: [usize; 2],
    c: &[C],
) -> f64 {
    let b = |t: usize, j: usize| b[t * b_strides[0] + j * b_strides[1]].to();
    let mut error = Error::default();
    for i in [0, m / 3, m / 2, m - 1] {
        for j in 0..n {
            error.add(c[i * n + j].to(), (0..k).map(|t| a[i * k + t].to() * b(t, j)).sum());
        }
    }
    error.relative()
}

/// Attention of the first and the last head.
pub fn attention_error<T: Number>(shape: &Shape, q: &[f32], k: &[T], v: &[T], out: &[f32]) -> f64 {
    let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim: d, causal, .. } = *shape;
    let (queries, keys) = (shape.strides(q_len, n_heads), shape.strides(kv_len, n_kv_heads));
    let mut error = Error::default();
    for (h, i) in [0, n_heads - 1].into_iter().flat_map(|h| [0, q_len / 2, q_len - 1].map(|i| (h, i))) {
        let at = |t: usize| t * keys.0 + h / (n_heads / n_kv_heads) * keys.1;
        let row = i * queries.0 + h * queries.1;
        let q = &q[row..][..d];
        let dot = |t: usize| q.iter().zip(&k[at(t)..]).map(|(q, k)| f64::from(*q) * k.to()).sum::<f64>();
        let seen = if causal { i + 1 } else { kv_len };
        // Scores of numbers of -1 to 1 are small: no maximum is needed.
        let weights: Vec<f64> = (0..seen).map(|t| (dot(t) / (d as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for e in 0..d {
            let blend = weights.iter().enumerate().map(|(t, w)| w * v[at(t) + e].to()).sum::<f64>();
            error.add(out[row + e].into(), blend / sum);
        }
    }
    error.relative()
}
