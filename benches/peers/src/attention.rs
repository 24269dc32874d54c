//! Attention: the shapes, the operands, our calls and the measurement of a shape.
//!
//! Shapes are named heads x tokens x head_dim; 32/8 are 32 query heads on 8 key heads.

use std::cell::RefCell;
use std::hint::black_box;

use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len, bf16, f16};

use crate::buffer::Buffer;
use crate::common::exact::attention_error;
use crate::common::limits::sum_bits;
use crate::common::{Number, Shape, numbers};
use crate::report::Row;
use crate::rounds::{Contender, Failure, Plan, in_turn};

/// A shape, and the type of K and V.
#[derive(Clone, Copy)]
pub struct Case {
    pub group: &'static str,
    pub shape: Shape,
    pub kind: &'static str,
}

impl Case {
    pub fn name(&self) -> String {
        let Shape { kv_len, n_heads, n_kv_heads, head_dim, causal, .. } = self.shape;
        let heads =
            if n_heads == n_kv_heads { n_heads.to_string() } else { format!("{n_heads}/{n_kv_heads}") };
        let causal = if causal { "-causal" } else { "" };
        format!("{heads}x{kv_len}x{head_dim}{causal}-{}", self.kind)
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let grouped = Shape { n_kv_heads: 8, ..Shape::prefill(512, 32, 128) };
    let plain = [128, 512, 2048].map(|len| Shape::prefill(len, 8, 64));
    let shapes = plain.into_iter().flat_map(|shape| [shape, shape.causal()]).chain([
        Shape::prefill(1024, 8, 128).causal(),
        Shape::prefill(128, 12, 32),
        grouped,
        grouped.causal(),
    ]);
    cases.extend(shapes.map(|shape| Case { group: "prefill", shape, kind: "f32" }));
    let halves = ["f16", "bf16"].map(|kind| Case { group: "prefill", shape: plain[1], kind });
    cases.extend(halves);
    for kind in ["f32", "f16", "bf16"] {
        cases.extend([512, 4096, 16384].map(|len| Case {
            group: "decode",
            shape: Shape::decode(len, 32, 8, 128),
            kind,
        }));
    }
    cases
}

/// The operands of our call.
pub struct Work<T> {
    pub shape: Shape,
    pub q: Buffer<f32>,
    pub k: Buffer<T>,
    pub v: Buffer<T>,
    pub out: Buffer<f32>,
    scratch: Vec<f32>,
}

impl<T: Number> Work<T> {
    pub fn new(shape: Shape) -> Work<T> {
        let out = shape.q_len * shape.n_heads * shape.head_dim;
        let [k, v] = [2, 3].map(|seed| Buffer::new(numbers(shape.kv_elements(), seed)));
        Work {
            shape,
            q: Buffer::new(numbers(out, 1)),
            k,
            v,
            out: Buffer::new(vec![f32::NAN; out]),
            scratch: vec![
                0.0;
                attention_scratch_len(shape.q_len, shape.kv_len, shape.head_dim, shape.head_dim)
            ],
        }
    }

    /// The same problem with tokens outermost, from heads outermost.
    fn token_major(&self) -> Work<T> {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, .. } = self.shape;
        let [k, v] = [&self.k, &self.v].map(|x| Buffer::new(swapped(x, n_kv_heads, kv_len, head_dim)));
        Work {
            shape: Shape { head_major: false, ..self.shape },
            q: Buffer::new(swapped(&self.q, n_heads, q_len, head_dim)),
            k,
            v,
            out: Buffer::new(vec![f32::NAN; self.out.len()]),
            scratch: self.scratch.clone(),
        }
    }

    pub fn place(&mut self, round: usize) {
        self.q.place(round);
        self.k.place(round);
        self.v.place(round);
        self.out.place(round);
    }

    /// Our call.
    pub fn run(&mut self) {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim: d, causal, .. } = self.shape;
        let (queries, keys) = (self.shape.strides(q_len, n_heads), self.shape.strides(kv_len, n_kv_heads));
        let q = HeadsRef::with_strides(&self.q, q_len, n_heads, d, queries.0, queries.1).unwrap();
        let k = HeadsRef::with_strides(&self.k, kv_len, n_kv_heads, d, keys.0, keys.1).unwrap();
        let v = HeadsRef::with_strides(&self.v, kv_len, n_kv_heads, d, keys.0, keys.1).unwrap();
        let out = HeadsMut::with_strides(&mut self.out, q_len, n_heads, d, queries.0, queries.1).unwrap();
        let options = if causal { Attention::new().causal() } else { Attention::new() };
        options.run(q, k, v, out, &mut self.scratch).unwrap();
    }
}

/// `[a][b][d]` from `[b][a][d]`.
pub fn swapped<T: Copy>(x: &[T], b: usize, a: usize, d: usize) -> Vec<T> {
    (0..a * b).flat_map(|at| &x[(at % b * a + at / b) * d..][..d]).copied().collect()
}

/// What a peer is given: `[heads][tokens][head_dim]`, all in `f32`, K and V rounded to the type `kind`.
pub struct Problem {
    pub shape: Shape,
    pub kind: &'static str,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// Another library's attention.
pub trait Peer {
    fn name(&self) -> &'static str;

    /// The results `[heads][tokens][head_dim]` of all its ways to compute this, for which it keeps
    /// operands of the type; none if it does not do that.
    fn prepare(&mut self, problem: &Problem) -> Result<Vec<Vec<f32>>, Failure>;

    /// Seconds of CPU time of this many calls of what was prepared, by the quickest way.
    fn time(&mut self, calls: usize) -> Result<f64, Failure>;
}

/// Measures one shape: the limits, ours in both layouts and all peers.
pub fn measure(
    case: Case,
    peers: &mut [Box<dyn Peer>],
    plan: Plan,
    progress: impl FnMut(f64),
) -> Result<Row, Failure> {
    match case.kind {
        "f16" => measure_in::<f16>(case, peers, plan, progress),
        "bf16" => measure_in::<bf16>(case, peers, plan, progress),
        _ => measure_in::<f32>(case, peers, plan, progress),
    }
}

fn measure_in<T: Number>(
    case: Case,
    peers: &mut [Box<dyn Peer>],
    plan: Plan,
    progress: impl FnMut(f64),
) -> Result<Row, Failure> {
    let shape = case.shape.head_major();
    let (heads, tokens) = {
        let heads = Work::<T>::new(shape);
        let tokens = heads.token_major();
        (RefCell::new(heads), RefCell::new(tokens))
    };
    let mut contenders =
        vec![Contender::on("qkv", &heads, Work::run), Contender::on("qkv-tokens", &tokens, Work::run)];
    contenders.iter_mut().try_for_each(Contender::first)?;
    let want = checked(&case, &heads.borrow(), &tokens.borrow())?;

    let mut wrong = Vec::new();
    let problem = problem(case.kind, &heads.borrow());
    for peer in peers {
        let name = peer.name();
        let results = peer.prepare(&problem)?;
        match results.iter().try_for_each(|got| compare(&case, name, got, &want)) {
            _ if results.is_empty() => continue,
            Err(why) => wrong.push(why.to_string()),
            Ok(()) => {
                let mut contender = Contender::new(name, Box::new(|calls| peer.time(calls)));
                contender.first()?;
                contender.drop_if_slower(contenders[0].best);
                contenders.push(contender);
            }
        }
    }
    contenders.push(Contender::chains()?);
    if shape.q_len == 1 {
        let read = |work: &mut Work<T>| _ = black_box(sum_bits(&work.k) ^ sum_bits(&work.v));
        contenders.push(Contender::on("read", &heads, read));
    }
    let place = |round| {
        heads.borrow_mut().place(round);
        tokens.borrow_mut().place(round);
    };
    in_turn(&mut contenders, plan, place, progress)?;
    let bytes = (2 * size_of::<T>() * shape.kv_elements()) as f64;
    let row = Row::new(case.group, case.name(), shape.flops(), bytes, &contenders);
    Ok(Row { wrong, ..row })
}

fn problem<T: Number>(kind: &'static str, work: &Work<T>) -> Problem {
    let [k, v] = [&work.k, &work.v].map(|x| x.iter().map(|x| x.to() as f32).collect());
    Problem { shape: work.shape, kind, q: work.q.to_vec(), k, v }
}

/// Our result, if it is right and has the same bits in both layouts.
fn checked<T: Number>(case: &Case, heads: &Work<T>, tokens: &Work<T>) -> Result<Vec<f32>, Failure> {
    let Shape { q_len, n_heads, head_dim, .. } = heads.shape;
    let error = attention_error(&heads.shape, &heads.q, &heads.k, &heads.v, &heads.out);
    // Exponentials and chains in `f32`: far under this.
    if error.is_nan() || error > 1e-5 {
        return Err(format!("qkv is wrong at {}: an error of {error:e}", case.name()).into());
    }
    let turned = swapped(&tokens.out, q_len, n_heads, head_dim);
    if turned.iter().zip(&*heads.out).any(|(a, b)| a.to_bits() != b.to_bits()) {
        return Err(format!("qkv has other bits with tokens outermost at {}", case.name()).into());
    }
    Ok(turned)
}

/// Averages of numbers of -1 to 1: peers keep queries, weights and results in the type of K and V.
fn compare(case: &Case, peer: &str, got: &[f32], want: &[f32]) -> Result<(), Failure> {
    let tolerance = match case.kind {
        "f16" => 5e-3,
        "bf16" => 2e-2,
        _ => 1e-5,
    };
    let name = case.name();
    if got.len() != want.len() {
        return Err(format!("{peer} is wrong at {name}: {} numbers, not {}", got.len(), want.len()).into());
    }
    let wrong = got.iter().zip(want).position(|(got, want)| got.is_nan() || (got - want).abs() > tolerance);
    let Some(at) = wrong else { return Ok(()) };
    let (got, want) = (got[at], want[at]);
    Err(format!("{peer} is wrong at {name}: element {at} is {got}, of qkv {want}, tolerance {tolerance:e}")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_twice_is_the_same() {
        let x: Vec<usize> = (0..2 * 3 * 4).collect();
        let tokens = swapped(&x, 2, 3, 4);
        assert_eq!(tokens[4..8], [12, 13, 14, 15], "the first token of the second head");
        assert_eq!(swapped(&tokens, 3, 2, 4), x);
    }
}
