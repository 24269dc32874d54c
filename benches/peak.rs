//! How far the kernels are from what the processor can do:
//! `cargo bench --bench peak [-- --quick] [--tier NAME] [filter]`.
//!
//! Limits and kernels are measured in turn, in one process, and of each the best time counts: the FMA
//! peak (independent chains of fused multiply-adds), for a decode step also the bandwidth of reading
//! the very K and V that it reads. One thread, about a minute.

mod common;

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::exact::{attention_error, product_error};
use common::limits::{chains, sum_bits};
use common::machine::{date, processor};
use common::measure::{Args, best_of};
use common::{Number, Shape, numbers};
use qkv::{Attention, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, Tier, bf16, f16};
use qkv::{attention_scratch_len, matmul_scratch_len};

/// One kernel call, and what it is compared with.
struct Row {
    name: String,
    flops: f64,
    call: Box<dyn FnMut()>,
    best: f64,
    read: Option<Read>,
    /// Largest error of sampled rows against `f64`, over the largest result.
    error: f64,
}

/// Reading the operands and nothing else.
struct Read {
    bytes: f64,
    call: Box<dyn FnMut()>,
    best: f64,
}

fn main() -> Result<(), lexopt::Error> {
    let Some(args) = Args::parse("peak")? else { return Ok(()) };
    let mut rows = rows(&args);
    let peak = measure(&mut rows, args.tier, Duration::from_secs(if args.quick { 5 } else { 60 }));
    print(peak, &rows, args.tier);
    Ok(())
}

fn rows(args: &Args) -> Vec<Row> {
    let tier = args.tier;
    let mut rows = Vec::new();
    let mut add = args.adds_to(&mut rows);
    for n in [64, 256, 512, 1024] {
        add(format!("matmul f32 {n}x{n}x{n}"), &|name| product::<f32>(name, tier, n));
        add(format!("matmul bf16 {n}x{n}x{n}"), &|name| product::<bf16>(name, tier, n));
    }
    for len in [512, 2048] {
        for (shape, order) in
            [(Shape::prefill(len, 8, 64), ""), (Shape::prefill(len, 8, 64).head_major(), " heads")]
        {
            add(format!("attention f32 8x{len}x64{order}"), &|name| attention::<f32>(name, tier, shape));
            add(format!("causal f32 8x{len}x64{order}"), &|name| {
                attention::<f32>(name, tier, shape.causal())
            });
        }
    }
    let shape = Shape::decode(4096, 32, 8, 128);
    add("decode f32 32/8x4096x128".into(), &|name| attention::<f32>(name, tier, shape));
    add("decode f16 32/8x4096x128".into(), &|name| attention::<f16>(name, tier, shape));
    add("decode f32 32/8x4096x128 heads".into(), &|name| attention::<f32>(name, tier, shape.head_major()));
    drop(add);
    rows
}

/// Square, all operands of one type.
fn product<T: Number>(name: String, tier: Tier, n: usize) -> Row {
    let (a, b) = (numbers::<T>(n * n, 1), numbers::<T>(n * n, 2));
    let (mut c, mut scratch) = (vec![T::of(0.0); n * n], vec![0.0; matmul_scratch_len(n, n, n)]);
    let mut run = move |a: &[T], b: &[T], c: &mut [T]| {
        let (a, b) = (MatRef::new(a, n, n).unwrap(), MatRef::new(b, n, n).unwrap());
        Matmul::new().tier(tier).run(a, b, MatMut::new(c, n, n).unwrap(), &mut scratch).unwrap();
    };
    run(&a, &b, &mut c);
    let error = product_error([n, n, n], &a, &b, [n, 1], &c);
    let call = Box::new(move || run(&a, &b, black_box(&mut c)));
    Row { name, flops: 2.0 * (n as f64).powi(3), call, best: f64::MAX, read: None, error }
}

/// Queries and outputs in `f32`, K and V in `T`.
fn attention<T: Number>(name: String, tier: Tier, shape: Shape) -> Row {
    let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim: d, causal, .. } = shape;
    let q = numbers::<f32>(q_len * n_heads * d, 1);
    let [k, v] = [2, 3].map(|seed| Rc::new(numbers::<T>(shape.kv_elements(), seed)));
    let mut out = vec![0.0_f32; q_len * n_heads * d];
    let mut scratch = vec![0.0; attention_scratch_len(q_len, kv_len, d, d)];
    let options = Attention::new().tier(tier);
    let options = if causal { options.causal() } else { options };
    let mut run = move |q: &[f32], k: &[T], v: &[T], out: &mut [f32]| {
        let (queries, keys) = (shape.strides(q_len, n_heads), shape.strides(kv_len, n_kv_heads));
        let q = HeadsRef::with_strides(q, q_len, n_heads, d, queries.0, queries.1).unwrap();
        let k = HeadsRef::with_strides(k, kv_len, n_kv_heads, d, keys.0, keys.1).unwrap();
        let v = HeadsRef::with_strides(v, kv_len, n_kv_heads, d, keys.0, keys.1).unwrap();
        let out = HeadsMut::with_strides(out, q_len, n_heads, d, queries.0, queries.1).unwrap();
        options.run(q, k, v, out, &mut scratch).unwrap();
    };
    run(&q, &k, &v, &mut out);
    let error = attention_error(&shape, &q, &k, &v, &out);
    let bytes = (2 * shape.kv_elements() * size_of::<T>()) as f64;
    let read = {
        let (k, v) = (k.clone(), v.clone());
        move || _ = black_box(sum_bits(&k) ^ sum_bits(&v))
    };
    let read = (q_len == 1).then(|| Read { bytes, call: Box::new(read), best: f64::MAX });
    let call = Box::new(move || run(&q, &k, &v, black_box(&mut out)));
    Row { name, flops: shape.flops(), call, best: f64::MAX, read, error }
}

/// All limits and rows in turn until `time` is over, at least once; the peak in FLOP/s.
fn measure(rows: &mut [Row], tier: Tier, time: Duration) -> Option<f64> {
    let (start, mut best) = (Instant::now(), f64::MAX);
    loop {
        for row in &mut *rows {
            // Each row runs from whatever cache its operands fit: the rows before have emptied it.
            for _ in 0..4 {
                best_of(&mut best, &mut || _ = black_box(chains(tier)));
                if let Some(read) = &mut row.read {
                    best_of(&mut read.best, &mut read.call);
                }
                best_of(&mut row.best, &mut row.call);
            }
        }
        if start.elapsed() >= time {
            return chains(tier).map(|flops| flops / best);
        }
    }
}

fn print(peak: Option<f64>, rows: &[Row], tier: Tier) {
    println!("{}, {} tier, 1 thread, {}", processor(), tier, date());
    match peak {
        Some(peak) => println!("FMA peak {:.1} GFLOP/s", peak / 1e9),
        None => println!("FMA peak unknown: no chains of fused multiply-adds for this processor"),
    }
    println!("error: the largest of sampled rows against f64, relative to their largest result\n");
    println!("{:31} {:>10} {:>14} {:>18} {:>10} {:>8}", "call", "time", "rate", "limit", "of limit", "error");
    for row in rows {
        let fma = peak.map_or(f64::NAN, |peak| row.flops / peak);
        let (unit, work, limit) = match &row.read {
            None => ("GFLOP/s", row.flops, (fma, "FMA")),
            Some(read) if read.best < fma => ("GB/s", read.bytes, (fma, "FMA")),
            Some(read) => ("GB/s", read.bytes, (read.best, "read")),
        };
        let rate = |time: f64, unit: &str| format!("{:.1} {unit}", work / time / 1e9);
        println!(
            "{:31} {:>7.3} ms {:>14} {:>18} {:>8.1} % {:>8.1e}",
            row.name,
            row.best * 1e3,
            rate(row.best, unit),
            rate(limit.0, &format!("{unit} {:4}", limit.1)),
            100.0 * limit.0 / row.best,
            row.error
        );
        if let Some(read) = &row.read {
            let (mb, read, fma) = (read.bytes / 1e6, rate(read.best, unit), rate(fma, unit));
            println!("{:>42} {read} reading these {mb:.1} MB, {fma} at the FMA peak", "limits:");
        }
    }
}
