//! Ours beside ours: 16-bit operands, packed weights, the cost of a call, and lengths.

use std::cell::RefCell;

use qkv::{MatMut, MatRef, Matmul, PackedMat, bf16, f16, matmul_scratch_len};

use crate::attention::Work;
use crate::common::{Number, Shape};
use crate::matmul::{self, Product};
use crate::report::Relative;
use crate::rounds::{Contender, Failure, Plan, in_turn};

/// A row to be measured: its calls are made only then.
pub struct Row {
    pub group: &'static str,
    pub shape: String,
    /// The call that costs 1.
    base: usize,
    calls: Box<dyn Fn() -> Vec<Call>>,
}

/// One call, its name and how much work it is.
struct Call {
    name: String,
    work: f64,
    run: RefCell<Box<dyn Moving>>,
}

impl Call {
    fn new(name: impl Into<String>, work: f64, run: impl Moving + 'static) -> Call {
        Call { name: name.into(), work, run: RefCell::new(Box::new(run)) }
    }
}

/// A call whose operands move between rounds.
trait Moving {
    fn place(&mut self, round: usize);
    fn run(&mut self);
}

impl<T: Number> Moving for Work<T> {
    fn place(&mut self, round: usize) {
        self.place(round);
    }
    fn run(&mut self) {
        self.run();
    }
}

impl<T: Number> Moving for (Product<T>, Vec<f32>) {
    fn place(&mut self, round: usize) {
        self.0.place(round);
    }
    fn run(&mut self) {
        self.0.run(&mut self.1);
    }
}

/// A product, with B packed.
struct Packed(Product, Vec<f32>, Vec<f32>);

impl Moving for Packed {
    fn place(&mut self, round: usize) {
        self.0.place(round);
    }

    fn run(&mut self) {
        let Packed(Product { shape: matmul::Shape { m, n, k, .. }, a, c, .. }, storage, scratch) = self;
        let b = PackedMat::from_packed(storage, *k, *n).unwrap();
        let (a, c) = (MatRef::new(a, *m, *k).unwrap(), MatMut::new(c, *m, *n).unwrap());
        Matmul::new().run_packed(a, b, c, scratch).unwrap();
    }
}

/// The rows of all groups; `quick` leaves the longest lengths out.
pub fn rows(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |group, shape: String, base, calls: Box<dyn Fn() -> Vec<Call>>| {
        rows.push(Row { group, shape, base, calls });
    };
    for [m, n, k] in [[512, 512, 512], [1, 4096, 4096]] {
        let kinds = move || {
            let f32s = Call::new("f32", 1.0, product::<f32>(m, n, k));
            vec![
                f32s,
                Call::new("f16", 1.0, product::<f16>(m, n, k)),
                Call::new("bf16", 1.0, product::<bf16>(m, n, k)),
            ]
        };
        add("types", format!("{m}x{n}x{k}"), 0, Box::new(kinds));
    }
    for m in [1, 8, 32, 128] {
        let ways = move || {
            let plain = Call::new("as it is", 1.0, product::<f32>(m, 768, 768));
            vec![plain, Call::new("packed", 1.0, packed(m, 768, 768))]
        };
        add("packed", format!("{m}x768x768"), 0, Box::new(ways));
    }
    let small = || vec![Call::new("matmul", 1.0, product::<f32>(8, 8, 8))];
    add("call", "8x8x8".into(), 0, Box::new(small));
    let small = || vec![Call::new("attention", 1.0, Work::<f32>::new(Shape::prefill(4, 1, 16)))];
    add("call", "1x4x16".into(), 0, Box::new(small));

    // Relative to a length that neither the cost of a call nor the memory weighs in.
    let lengths: &[usize] =
        if quick { &[128, 256, 512, 1024, 2048] } else { &[128, 256, 512, 1024, 2048, 4096, 8192, 16384] };
    add(
        "growth",
        "1xNx64".into(),
        3,
        Box::new(|| lengths.iter().map(|&len| square(len.to_string(), 1, len)).collect()),
    );
    for n in [128, 256, 512, 1024] {
        let near = move || vec![square("n - 1", 8, n - 1), square("n", 8, n), square("n + 1", 8, n + 1)];
        add("lengths", format!("8x{n}x64"), 1, Box::new(near));
    }
    rows
}

fn product<T: Number>(m: usize, n: usize, k: usize) -> (Product<T>, Vec<f32>) {
    let shape = matmul::Shape { group: "", m, n, k, transposed: false };
    (Product::new(shape), vec![0.0; matmul_scratch_len(m, k, n)])
}

fn packed(m: usize, n: usize, k: usize) -> Packed {
    let (product, scratch) = product::<f32>(m, n, k);
    let mut storage = vec![0.0; PackedMat::<f32>::len(k, n)];
    PackedMat::pack(MatRef::new(&product.b, k, n).unwrap(), &mut storage).unwrap();
    Packed(product, storage, scratch)
}

/// Attention of all tokens to all: its work is the pairs.
fn square(name: impl Into<String>, heads: usize, len: usize) -> Call {
    Call::new(name, (len * len) as f64, Work::<f32>::new(Shape::prefill(len, heads, 64)))
}

pub fn measure(row: &Row, plan: Plan, progress: impl FnMut(f64)) -> Result<Relative, Failure> {
    let calls = (row.calls)();
    let mut contenders: Vec<_> = calls
        .iter()
        .map(|call| Contender::on(call.name.clone(), &call.run, |run: &mut Box<dyn Moving>| run.run()))
        .collect();
    contenders.iter_mut().try_for_each(Contender::first)?;
    let place = |round| calls.iter().for_each(|call| call.run.borrow_mut().place(round));
    in_turn(&mut contenders, plan, place, progress)?;
    let works: Vec<f64> = calls.iter().map(|call| call.work).collect();
    Ok(Relative::new(row.group, row.shape.clone(), &works, row.base, &contenders))
}
