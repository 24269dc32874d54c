//! Softmax, log-sum-exp and exponentials on every tier: `<op>/<type>/<rows>x<cols>/<tier>`, throughput
//! in elements.

mod common;

use common::{Number, numbers};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qkv::{MatMut, MatRef, Softmax, Tier, bf16, f16};

fn rows<T: Number>(c: &mut Criterion, (rows, cols): (usize, usize)) {
    let x = numbers::<T>(rows * cols, 1);
    let x = MatRef::new(&x, rows, cols).unwrap();
    let (mut out, mut lse) = (vec![T::of(0.0); rows * cols], vec![0.0; rows]);

    let mut group = c.benchmark_group("softmax");
    group.sample_size(10).throughput(Throughput::Elements((rows * cols) as u64));
    for tier in Tier::all() {
        let softmax = Softmax::new().tier(tier);
        group.bench_function(format!("{}/{rows}x{cols}/{tier}", T::NAME), |bencher| {
            bencher.iter(|| softmax.run(x, MatMut::new(&mut out, rows, cols)?));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("log_sum_exp");
    group.sample_size(10).throughput(Throughput::Elements((rows * cols) as u64));
    for tier in Tier::all() {
        let softmax = Softmax::new().tier(tier);
        group.bench_function(format!("{}/{rows}x{cols}/{tier}", T::NAME), |bencher| {
            bencher.iter(|| softmax.log_sum_exp(x, &mut lse));
        });
    }
    group.finish();
}

fn exp(c: &mut Criterion, len: usize) {
    let x = numbers::<f32>(len, 1);
    let mut y = x.clone();
    let mut group = c.benchmark_group("exp");
    group.sample_size(10).throughput(Throughput::Elements(len as u64));
    for tier in Tier::all() {
        let softmax = Softmax::new().tier(tier);
        group.bench_function(format!("f32/1x{len}/{tier}"), |bencher| {
            bencher.iter(|| {
                y.copy_from_slice(&x);
                softmax.exp_in_place(&mut y);
            });
        });
    }
    group.finish();
}

fn all(c: &mut Criterion) {
    rows::<f32>(c, (16, 64));
    rows::<f32>(c, (64, 1024));
    rows::<f16>(c, (64, 1024));
    rows::<bf16>(c, (64, 1024));
    exp(c, 4096);
}

criterion_group!(benches, all);
criterion_main!(benches);
