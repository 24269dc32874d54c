//! The naive twins in `f64`, as plain loops, each number with a bound for what `f32` may make of it.
//!
//! `u = 2^-24`: one rounding multiplies a number by `1 + d`, `|d| <= u`, or, where it is subnormal,
//! adds up to `2^-150`. A number that passes through `n` roundings is off by `n u / (1 - n u)`.

use super::buffer::Kind;
use super::heads::Heads;
use super::mat::Mat;
use super::options::Options;

pub const U: f64 = 1.0 / (1_u64 << 24) as f64;
/// One ULP, relative: the error of an exponential.
const ULP: f64 = 2.0 * U;
/// `f32::MAX`, less what the bounds may be short of it by.
const PEAK: f64 = f32::MAX as f64 * (1.0 - 1e-5);
/// The smallest subnormal `f32`.
const TINY: f64 = f32::from_bits(1) as f64;
/// Below `2^-110.5` of the largest, a weight may be 0.
const FLUSH: f64 = 5.5e-34;

/// What one number must be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// In exact arithmetic.
    pub value: f64,
    /// The most an `f32` computation is off by, before it is rounded to the output's type.
    pub error: f64,
    /// The largest partial result. If it is more than an `f32` holds, the result may be infinite or NaN.
    pub peak: f64,
    /// A NaN enters: the result is NaN.
    pub nan: bool,
    /// An infinity enters: the result is infinite or NaN.
    pub infinite: bool,
    /// Infinities cancel or weigh 0: only the bit model decides.
    pub undecided: bool,
}

impl Expected {
    pub fn exactly(value: f64) -> Expected {
        Expected { value, ..Expected::default() }
    }

    /// Whether `got`, rounded to `kind`, is what it must be.
    pub fn check(&self, kind: Kind, got: f32) -> Result<(), String> {
        let (relative, absolute) = kind.rounding();
        let most = self.value.abs() + self.error;
        let bound = self.error + relative * most + absolute;
        let right = if self.nan {
            got.is_nan()
        } else if self.undecided {
            true
        } else if self.infinite {
            !got.is_finite()
        } else if got.is_finite() {
            (f64::from(got) - self.value).abs() <= bound
        } else if self.value.is_infinite() {
            f64::from(got) == self.value
        } else {
            // Of a sign that it may have.
            let most = f64::from(got.signum()) * self.value + self.error;
            self.peak >= PEAK || (!got.is_nan() && most >= kind.overflow())
        };
        if right { Ok(()) } else { Err(format!("got {got:e}, bound {bound:e}, {self:?}")) }
    }
}

/// `C = alpha A B + beta C + bias`, row by row.
///
/// An element of A B passes through at most 512 roundings in a block's chain and 2 at its end, then
/// one for each later block: at most `k + 2` in all; `beta C` and the bias through fewer. The bound
/// `(k + 3) u` covers `1 / (1 - (k + 2) u)` up to k = 4,000.
pub fn matmul(a: &Mat, b: &Mat, c: &Mat, bias: Option<&[f32]>, alpha: f32, beta: f32) -> Vec<Expected> {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(k <= 4000, "the bound is for k up to 4,000");
    let (alpha, beta) = (f64::from(alpha), f64::from(beta));
    let steps = (k + 3) as f64;
    let mut all = Vec::with_capacity(m * n);
    // Widened before, not where they are multiplied: qemu-s390x 7.2 computes MDEBR, the product in `f64` of
    // two `f32`, from one of them as it lies.
    let (rows, columns, old) = (widened(a.values()), widened(b.columns()), widened(c.values()));
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (0.0_f64, 0.0_f64);
            let (mut nan, mut infinite) = (false, false);
            let mut used = |x: f64| {
                nan |= x.is_nan();
                infinite |= x.is_infinite();
                x
            };
            let (mut value, mut total) = (0.0, 0.0);
            if alpha != 0.0 {
                for t in 0..k {
                    let (x, y) = (used(rows[i * k + t]), used(columns[j * k + t]));
                    sum += x * y;
                    size += (x * y).abs();
                }
                value = used(alpha) * sum;
                total = alpha.abs() * size;
            }
            if beta != 0.0 {
                let x = used(old[i * n + j]);
                value += used(beta) * x;
                total += (beta * x).abs();
            }
            if let Some(bias) = bias {
                let x = used(bias[j].into());
                value += x;
                total += x.abs();
            }
            all.push(Expected {
                value,
                error: steps * (U * total + TINY * (1.0 + alpha.abs())),
                peak: total.max(size),
                nan,
                infinite: infinite && !nan,
                undecided: false,
            });
        }
    }
    all
}

fn widened(x: Vec<f32>) -> Vec<f64> {
    x.into_iter().map(f64::from).collect()
}

/// What else a row's scores are made of.
pub struct Extra<'a> {
    /// Slope of linear biases, and the query's own key.
    pub alibi: Option<(f32, f32)>,
    /// A score without a value.
    pub sink: Option<f32>,
    pub options: &'a Options,
}

/// The output of one query and its log-sum-exp.
#[derive(Clone, Debug)]
pub struct Row {
    pub out: Vec<Expected>,
    pub lse: Expected,
}

/// `softmax(scale·q Kᵀ) V` of query `(i, h)` over the `keys` of head `kv_head`.
///
/// The bound follows the errors forward. `q·scale`, the products and their sum are off by
/// `(head_dim + 4) u Σ |scale q k|` (2 for the default scale). A weight is `e^(s - m)`: the maximum
/// cancels between numerator and denominator, the difference is rounded (`u |s - m|`), each
/// exponential is off by an ULP, and there is one more for each of the blocks and chunks in which the
/// maximum may grow. The sums take up to 64 roundings in a block, 2 a block and 3 a chunk.
pub fn attention_row(
    (q, k, v): (&Heads, &Heads, &Heads),
    (i, h): (usize, usize),
    kv_head: usize,
    keys: &[usize],
    scale: f64,
    extra: &Extra,
) -> Row {
    let (d, seen) = (q.head_dim, keys.len());
    let (Some(&first), Some(&last)) = (keys.first(), keys.last()) else {
        return Row {
            out: vec![Expected::exactly(0.0); v.head_dim],
            lse: Expected::exactly(extra.sink.map_or(f64::NEG_INFINITY, f64::from)),
        };
    };
    let (mut scores, mut errors) = (vec![0.0_f64; seen], vec![0.0_f64; seen]);
    let (mut nan, mut wild) = (false, false);
    let query: Vec<f64> = q.token(i, h).iter().map(|&x| f64::from(x) * scale).collect();
    for (t, &key) in keys.iter().enumerate() {
        let mut size = 0.0;
        for (&x, y) in query.iter().zip(k.token(key, kv_head)) {
            let y = f64::from(y);
            nan |= x.is_nan() || y.is_nan();
            wild |= !y.is_finite() || x.abs() >= PEAK;
            scores[t] += x * y;
            size += (x * y).abs();
            errors[t] += TINY * (1.0 + y.abs());
        }
        errors[t] += (d + 4) as f64 * U * size;
        wild |= size >= PEAK;
        if let Some(cap) = extra.options.softcap {
            let cap = f64::from(cap);
            scores[t] = cap * (scores[t] / cap).tanh();
            // Two roundings of the argument, which count at most as much in the result; the polynomial or
            // the quotient of an exponential; the cap.
            errors[t] += 10.0 * U * scores[t].abs() + TINY * (1.0 + cap);
        }
        if let Some((slope, place)) = extra.alibi {
            // The distance, the product and the sum are rounded.
            let bias = -f64::from(slope) * (key as f64 - f64::from(place)).abs();
            errors[t] += U * (scores[t].abs() + errors[t] + 3.0 * bias.abs());
            wild |= bias.abs() >= PEAK - size;
            scores[t] += bias;
        }
        if let Some(bias) = extra.options.bias(h, i, key).map(f64::from) {
            errors[t] += U * (scores[t].abs() + errors[t] + bias.abs());
            wild |= !bias.is_finite() || bias.abs() >= PEAK - size;
            nan |= bias.is_nan();
            scores[t] += bias;
        }
        let (ruled, rounded) = extra.options.ruled_exactly(scores[t], h, i, key);
        if extra.options.rule.is_some() {
            // A rule at most doubles a score.
            wild |= 2.0 * scores[t].abs() >= PEAK;
            errors[t] = 2.0 * errors[t] + 3.0 * U * (rounded + errors[t]);
        }
        scores[t] = ruled;
    }
    let sink = extra.sink.map_or(f64::NEG_INFINITY, f64::from);
    let top = scores.iter().copied().fold(sink, f64::max);
    let top_error = errors.iter().copied().fold(0.0, f64::max);
    let within = |n: usize| (last + 1).div_ceil(n) - first / n;
    let (blocks, chunks) = (within(64), within(1024));
    let roundings = (seen.min(64) + 1 + 2 * blocks.min(16) + 3 * chunks + 3) as f64;
    let rescales = (1 + blocks + chunks + usize::from(extra.sink.is_some())) as f64;
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = weights.iter().sum::<f64>() + (sink - top).exp();
    // The logarithm of what each weight, with its part in a sum, may be multiplied by.
    let slack = |t: usize| {
        let distance = top - scores[t] + 2.0 * top_error;
        (errors[t] + U * distance + rescales * ULP + 1.01 * roundings * U).min(50.0)
    };
    let off: Vec<f64> = (0..seen).map(|t| weights[t] / sum * slack(t).exp_m1()).collect();
    let sink_off = (sink - top).exp() / sum * (U * (top - sink).min(200.0) + rescales * ULP);
    let sum_off: f64 = off.iter().sum::<f64>() + sink_off + seen as f64 * FLUSH;
    let column = |j: usize| {
        let values = keys.iter().map(|&t| f64::from(v.get(t, kv_head, j)));
        let (mut value, mut error, mut largest, mut peak) = (0.0, 0.0, 0.0_f64, 0.0);
        for (t, x) in values.clone().enumerate() {
            value += weights[t] / sum * x;
            error += off[t] * x.abs();
            largest = largest.max(x.abs());
            peak += x.abs();
        }
        let error = if sum_off < 0.5 {
            (error + value.abs() * sum_off) / (1.0 - sum_off) + seen as f64 * (FLUSH * largest + 2.0 * TINY)
        } else {
            // Whatever the weights: an average of the values.
            2.5 * largest
        };
        let nan = nan || values.clone().any(f64::is_nan);
        let infinite = !nan && values.clone().any(f64::is_infinite);
        Expected { value, error, peak, nan, infinite, undecided: wild }
    };
    let value = top + sum.ln();
    let error = if sum_off < 0.5 { sum_off / (1.0 - sum_off) } else { 2.0 * top_error + 1.0 }
        + 2.0 * ULP * (1.0 + seen as f64).ln()
        + 2.0 * U * (value.abs() + top_error);
    let lse = Expected { value, error, peak: value.abs(), nan, infinite: false, undecided: wild };
    Row { out: (0..v.head_dim).map(column).collect(), lse }
}

/// The softmax of one row, and its log-sum-exp. The weights as in [`attention_row`], their sum with up
/// to 18 roundings in a block and one more a block.
pub fn softmax_row(x: &[f32]) -> Row {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if x.iter().any(|x| x.is_nan() || *x == f64::INFINITY) {
        let nan = Expected { nan: true, ..Expected::default() };
        return Row { out: vec![nan; x.len()], lse: nan };
    }
    if top == f64::NEG_INFINITY {
        let lse = Expected::exactly(f64::NEG_INFINITY);
        return Row { out: vec![Expected::exactly(0.0); x.len()], lse };
    }
    let weights: Vec<f64> = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let roundings = (18 + x.len().div_ceil(64) + 2) as f64;
    let off: Vec<f64> = (0..x.len())
        .map(|t| weights[t] / sum * (U * (top - x[t]) + ULP + 1.01 * roundings * U).min(50.0).exp_m1())
        .collect();
    let sum_off: f64 = off.iter().sum::<f64>() + x.len() as f64 * FLUSH;
    let out = (0..x.len()).map(|t| {
        let p = weights[t] / sum;
        let error = (off[t] + p * sum_off) / (1.0 - sum_off) + FLUSH;
        Expected { value: p, error, ..Expected::default() }
    });
    let value = top + sum.ln();
    let error = sum_off / (1.0 - sum_off) + ULP * sum.ln() + U * (value.abs() + sum.ln());
    Row { out: out.collect(), lse: Expected { value, error, peak: value.abs(), ..Expected::default() } }
}
