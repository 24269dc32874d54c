//! What calls take whose operands no cache holds, as between two layers of a model, whose weights are read meanwhile:
//! `cargo bench --bench cold [-- --quick] [--tier NAME] [filter]`.
//!
//! Each call, and reading its keys and values or weights and nothing else, is timed after [`OTHERS`] bytes of other
//! memory were read, and the call also right after itself. All in turn in one process, on one thread; the best time
//! counts. About a minute and a half.

mod common;

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::limits::sum_bits;
use common::machine::{date, processor};
use common::measure::{Args, best_of};
use common::{Number, numbers};
use qkv::{Attention, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, Tier, f16};
use qkv::{attention_scratch_len, matmul_scratch_len};

/// More than caches hold.
const OTHERS: usize = 96 << 20;

/// A call, and reading what it reads.
struct Row {
    name: String,
    bytes: usize,
    call: Box<dyn FnMut()>,
    read: Box<dyn FnMut()>,
    warm: f64,
    cold: f64,
    read_cold: f64,
}

fn main() -> Result<(), lexopt::Error> {
    let Some(args) = Args::parse("cold")? else { return Ok(()) };
    let mut rows = rows(&args);
    let (others, start) = (vec![1_u64; OTHERS / 8], Instant::now());
    let time = Duration::from_secs(if args.quick { 5 } else { 90 });
    let cold = |best: &mut f64, call: &mut dyn FnMut()| {
        black_box(others.iter().fold(0, |sum, x| sum ^ x));
        let start = Instant::now();
        call();
        *best = best.min(start.elapsed().as_secs_f64());
    };
    while start.elapsed() < time {
        for row in &mut rows {
            cold(&mut row.cold, &mut row.call);
            best_of(&mut row.warm, &mut row.call);
            cold(&mut row.read_cold, &mut row.read);
        }
    }
    println!("{}, {} tier, 1 thread, {}\n", processor(), args.tier, date());
    println!("{:38} {:>10} {:>10} {:>10} {:>10}", "call", "warm", "cold", "rate", "of reading");
    for row in &rows {
        println!(
            "{:38} {:>7.1} us {:>7.1} us {:>5.1} GB/s {:>8.1} %",
            row.name,
            row.warm * 1e6,
            row.cold * 1e6,
            row.bytes as f64 / row.cold / 1e9,
            100.0 * row.read_cold / row.cold
        );
    }
    Ok(())
}

fn rows(args: &Args) -> Vec<Row> {
    let tier = args.tier;
    let mut rows = Vec::new();
    let mut add = args.adds_to(&mut rows);
    for [batch, kv_len, n_heads] in [
        [1, 128, 8],
        [1, 128, 32],
        [1, 512, 8],
        [1, 512, 32],
        [1, 512, 64],
        [1, 4096, 64],
        [1, 4096, 128],
        [8, 512, 32],
    ] {
        let name = |kind| format!("decode {kind} {batch} x {n_heads}/8 x {kv_len} x 128");
        let sizes = [batch, kv_len, n_heads, 8, 128];
        add(name("f32"), &|name| decode::<f32>(name, tier, sizes));
        add(name("f16"), &|name| decode::<f16>(name, tier, sizes));
    }
    for [k, n] in [[768, 768], [768, 3072], [3072, 768], [2048, 2048]] {
        for m in [1, 4, 16] {
            for form in [Form::Rows, Form::Columns, Form::Packed] {
                let name = format!("matmul f32 {m} x {k} x {n}{}", form.name());
                add(name, &|name| product(name, tier, [m, k, n], form));
            }
        }
    }
    drop(add);
    rows
}

/// One query a sequence, tokens outermost, queries and outputs in `f32`, K and V in `T`.
fn decode<T: Number>(name: String, tier: Tier, [batch, len, n_heads, n_kv_heads, d]: [usize; 5]) -> Row {
    let q = numbers::<f32>(batch * n_heads * d, 1);
    let [k, v] = [2, 3].map(|seed| Rc::new(numbers::<T>(batch * len * n_kv_heads * d, seed)));
    let (mut out, mut scratch) = (vec![0.0_f32; q.len()], vec![0.0; attention_scratch_len(1, len, d, d)]);
    let (bytes, read) = (2 * k.len() * size_of::<T>(), [k.clone(), v.clone()]);
    let call = move || {
        let keys = |x| HeadsRef::batch_token_major(x, batch, len, n_kv_heads, d).unwrap();
        let q = HeadsRef::batch_token_major(&q, batch, 1, n_heads, d).unwrap();
        let to = HeadsMut::batch_token_major(&mut out, batch, 1, n_heads, d).unwrap();
        Attention::new().tier(tier).run(q, keys(&k[..]), keys(&v[..]), to, &mut scratch).unwrap();
        black_box(&out);
    };
    Row::new(name, bytes, call, move || _ = black_box(read.each_ref().map(|x| sum_bits(x))))
}

/// How B lies.
#[derive(Clone, Copy)]
enum Form {
    Rows,
    Columns,
    Packed,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Rows => "",
            Form::Columns => " transposed",
            Form::Packed => " packed",
        }
    }
}

/// `m` rows, all in `f32`.
fn product(name: String, tier: Tier, [m, k, n]: [usize; 3], form: Form) -> Row {
    let (a, mut b) = (numbers::<f32>(m * k, 1), numbers::<f32>(k * n, 2));
    if let Form::Packed = form {
        let mut packed = vec![0.0; PackedMat::<f32>::len(k, n)];
        PackedMat::pack(MatRef::new(&b, k, n).unwrap(), &mut packed).unwrap();
        b = packed;
    }
    let (b, mut c, mut scratch) = (Rc::new(b), vec![0.0_f32; m * n], vec![0.0; matmul_scratch_len(m, k, n)]);
    let read = b.clone();
    let call = move || {
        let (a, to) = (MatRef::new(&a, m, k).unwrap(), MatMut::new(&mut c, m, n).unwrap());
        let product = Matmul::new().tier(tier);
        match form {
            Form::Rows => product.run(a, MatRef::new(&b, k, n).unwrap(), to, &mut scratch),
            Form::Columns => product.run(a, MatRef::new(&b, n, k).unwrap().t(), to, &mut scratch),
            Form::Packed => {
                product.run_packed(a, PackedMat::from_packed(&b, k, n).unwrap(), to, &mut scratch)
            }
        }
        .unwrap();
        black_box(&c);
    };
    Row::new(name, 4 * k * n, call, move || _ = black_box(sum_bits(&read)))
}

impl Row {
    fn new(name: String, bytes: usize, call: impl FnMut() + 'static, read: impl FnMut() + 'static) -> Row {
        let [warm, cold, read_cold] = [f64::MAX; 3];
        Row { name, bytes, call: Box::new(call), read: Box::new(read), warm, cold, read_cold }
    }
}
