//! Products of `f32`: the shapes, the operands, our call and the measurement of a shape.
//!
//! Shapes are named m x n x k: C is m x n, A m x k, B k x n. With `t`, B is stored n x k and used transposed.

use std::cell::RefCell;
use std::hint::black_box;

use qkv::{MatMut, MatRef, Matmul, matmul_scratch_len};

use crate::buffer::Buffer;
use crate::common::exact::product_error;
use crate::common::limits::sum_bits;
use crate::common::{Number, numbers};
use crate::report::Row;
use crate::rounds::{Contender, Failure, Plan, in_turn};

#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    pub group: &'static str,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub transposed: bool,
}

impl Shape {
    pub fn name(&self) -> String {
        let Shape { m, n, k, transposed, .. } = self;
        format!("{m}x{n}x{k}{}", if *transposed { "t" } else { "" })
    }

    pub fn flops(&self) -> f64 {
        2.0 * (self.m * self.n * self.k) as f64
    }

    /// Strides of a row and of a column of B.
    pub fn b_strides(&self) -> [usize; 2] {
        if self.transposed { [1, self.k] } else { [self.n, 1] }
    }

    /// Length of a row of B as it is stored.
    pub fn b_row(&self) -> usize {
        if self.transposed { self.k } else { self.n }
    }

    /// The weights are read once for few rows, or for a column: then memory may be what limits.
    fn reads(&self) -> bool {
        self.n == 1 || self.m <= 16 && self.n > self.m && self.k > self.m
    }
}

pub fn shapes(quick: bool) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut add = |group, [m, n, k]: [usize; 3], kinds: &[bool]| {
        shapes.extend(kinds.iter().map(|&transposed| Shape { group, m, n, k, transposed }));
    };
    let (plain, turned, both) = ([false], [true], [false, true]);
    for kind in [plain, turned] {
        for n in [8, 16, 32, 64, 128, 256, 512, 1024] {
            add("squares", [n, n, n], &kind);
        }
        if !quick {
            add("squares", [2048, 2048, 2048], &kind);
        }
    }
    for sizes in [[37, 53, 101], [127, 127, 127], [255, 257, 129]] {
        add("odd", sizes, &plain);
    }
    add("layers", [128, 768, 768], &both);
    add("layers", [128, 3072, 768], &both);
    add("layers", [512, 64, 512], &plain);
    add("layers", [512, 512, 64], &turned);
    add("tall", [4096, 8, 256], &plain);
    add("tall", [4096, 16, 256], &plain);
    for n in [256, 768, 4096] {
        add("column", [n, 1, n], &plain);
    }
    for kind in [plain, turned] {
        for m in [1, 2, 4, 8, 16] {
            add("few-rows", [m, 4096, 4096], &kind);
        }
        for m in [1, 4, 8] {
            add("few-rows", [m, 256, 256], &kind);
        }
    }
    shapes
}

/// The operands of all contenders.
pub struct Product<T = f32> {
    pub shape: Shape,
    pub a: Buffer<T>,
    pub b: Buffer<T>,
    pub c: Buffer<f32>,
}

impl<T: Number> Product<T> {
    pub fn new(shape: Shape) -> Product<T> {
        let Shape { m, n, k, .. } = shape;
        let [a, b] = [(m * k, 1), (k * n, 2)].map(|(len, seed)| Buffer::new(numbers(len, seed)));
        Product { shape, a, b, c: Buffer::new(vec![f32::NAN; m * n]) }
    }

    pub fn place(&mut self, round: usize) {
        self.a.place(round);
        self.b.place(round);
        self.c.place(round);
    }

    /// Our call.
    pub fn run(&mut self, scratch: &mut [f32]) {
        let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = self;
        let (m, n, k) = (*m, *n, *k);
        let a = MatRef::new(a, m, k).unwrap();
        let b = if *transposed { MatRef::new(b, n, k).unwrap().t() } else { MatRef::new(b, k, n).unwrap() };
        Matmul::new().run(a, b, MatMut::new(c, m, n).unwrap(), scratch).unwrap();
    }
}

/// Another library's product.
pub struct Peer {
    pub name: &'static str,
    pub run: Run,
}

pub type Run = Box<dyn FnMut(&mut Product)>;

/// Measures one shape: the limits, ours and all peers.
pub fn measure(
    shape: Shape,
    peers: &mut [Peer],
    plan: Plan,
    progress: impl FnMut(f64),
) -> Result<Row, Failure> {
    let Shape { m, n, k, .. } = shape;
    let product = RefCell::new(Product::new(shape));
    let mut scratch = vec![0.0; matmul_scratch_len(m, k, n)];
    let mut wrong = Vec::new();

    let ours = |product: &mut Product| product.run(&mut scratch);
    let mut contenders = vec![Contender::on("qkv", &product, ours)];
    contenders[0].first()?;
    let want = checked(&product.borrow())?;
    for peer in peers {
        let mut contender = Contender::on(peer.name, &product, |product: &mut Product| (peer.run)(product));
        product.borrow_mut().c.fill(f32::NAN);
        contender.first()?;
        match compare(&shape, peer.name, &product.borrow().c, &want) {
            Err(why) => wrong.push(why.to_string()),
            Ok(()) => {
                contender.drop_if_slower(contenders[0].best);
                contenders.push(contender);
            }
        }
    }
    contenders.push(Contender::chains()?);
    if shape.reads() {
        let read = |product: &mut Product| {
            black_box(sum_bits(if product.shape.n == 1 { &product.a } else { &product.b }));
        };
        contenders.push(Contender::on("read", &product, read));
    }
    in_turn(&mut contenders, plan, |round| product.borrow_mut().place(round), progress)?;
    let bytes = (size_of::<f32>() * k * if n == 1 { m } else { n }) as f64;
    let row = Row::new(shape.group, shape.name(), shape.flops(), bytes, &contenders);
    Ok(Row { wrong, ..row })
}

/// Our result, if it is right.
fn checked(product: &Product) -> Result<Vec<f32>, Failure> {
    let Product { shape, a, b, c } = product;
    let Shape { m, n, k, .. } = *shape;
    let error = product_error([m, k, n], a, b, shape.b_strides(), c);
    // Chains of 512 in `f32`: far under this, and a type of fewer bits far over it.
    if error.is_nan() || error > 1e-5 {
        return Err(format!("qkv is wrong at {}: an error of {error:e}", shape.name()).into());
    }
    Ok(c.to_vec())
}

/// Sums of k products of numbers of -1 to 1, in `f32` in any order.
fn compare(shape: &Shape, peer: &str, got: &[f32], want: &[f32]) -> Result<(), Failure> {
    let tolerance = 8.0 * f32::EPSILON * shape.k as f32;
    let wrong = got.iter().zip(want).position(|(got, want)| got.is_nan() || (got - want).abs() > tolerance);
    let Some(at) = wrong else { return Ok(()) };
    let (got, want, name) = (got[at], want[at], shape.name());
    Err(format!("{peer} is wrong at {name}: element {at} is {got}, of qkv {want}, tolerance {tolerance:e}")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_refuses_what_is_wrong() {
        let shape = Shape { group: "", m: 1, n: 3, k: 100, transposed: false };
        let want = [1.0, -2.0, 3.0];
        assert!(compare(&shape, "peer", &want, &want).is_ok());
        for wrong in [f32::NAN, f32::INFINITY, 3.01] {
            assert!(compare(&shape, "peer", &[1.0, -2.0, wrong], &want).is_err(), "{wrong}");
        }
    }

    /// Every shape that the peers of Rust are given, where it is small.
    #[test]
    fn peers_are_right() {
        for shape in shapes(true).into_iter().filter(|shape| shape.flops() < 1e7) {
            let mut peers = crate::matmul_peers::peers();
            let row = measure(shape, &mut peers, Plan { seconds: 0.0, rounds: 1 }, |_| ()).unwrap();
            assert!(row.wrong.is_empty(), "{:?}", row.wrong);
            assert_eq!(row.entries.len(), 1 + peers.len());
        }
    }

    #[test]
    fn wrong_peer_is_named_and_not_counted() {
        let shape = Shape { group: "", m: 8, n: 8, k: 8, transposed: false };
        let mut peers = [Peer { name: "none", run: Box::new(|_| ()) }];
        let row = measure(shape, &mut peers, Plan { seconds: 0.0, rounds: 1 }, |_| ()).unwrap();
        assert!(row.wrong[0].contains("none is wrong at 8x8x8"), "{:?}", row.wrong);
        assert_eq!(row.entries.len(), 1);
    }
}
