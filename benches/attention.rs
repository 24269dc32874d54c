//! Attention on every tier: `prefill` and `causal` with throughput in FLOPs, `decode` in the bytes of K
//! and V, each as `<op>/<types>/<shape>/<tier>`; a shape is `<heads>x<tokens or keys>x<head_dim>`.

mod common;

use common::{Number, Shape, numbers};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qkv::{Attention, HeadsMut, HeadsRef, Tier, attention_scratch_len, bf16, f16};

/// Queries and outputs in `f32`, K and V in `T`.
fn attention<T: Number>(c: &mut Criterion, shape: Shape) {
    let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, causal, .. } = shape;
    let q = numbers::<f32>(q_len * n_heads * head_dim, 1);
    let (k, v) = (numbers::<T>(shape.kv_elements(), 2), numbers::<T>(shape.kv_elements(), 3));
    let q = HeadsRef::token_major(&q, q_len, n_heads, head_dim).unwrap();
    let k = HeadsRef::token_major(&k, kv_len, n_kv_heads, head_dim).unwrap();
    let v = HeadsRef::token_major(&v, kv_len, n_kv_heads, head_dim).unwrap();
    let mut out = vec![0.0_f32; q_len * n_heads * head_dim];
    let mut scratch = vec![0.0; attention_scratch_len(q_len, kv_len, head_dim, head_dim)];

    let (op, throughput) = match (q_len, causal) {
        (1, _) => ("decode", Throughput::Bytes((2 * shape.kv_elements() * size_of::<T>()) as u64)),
        (_, true) => ("causal", Throughput::Elements(shape.flops() as u64)),
        (_, false) => ("prefill", Throughput::Elements(shape.flops() as u64)),
    };
    let mut group = c.benchmark_group(op);
    group.sample_size(10).throughput(throughput);
    for tier in Tier::all() {
        let plain = Attention::new().tier(tier);
        let attention = if causal { plain.causal() } else { plain };
        group.bench_function(format!("{}/{n_heads}x{kv_len}x{head_dim}/{tier}", T::NAME), |bencher| {
            bencher.iter(|| {
                let out = HeadsMut::token_major(&mut out, q_len, n_heads, head_dim)?;
                attention.run(q, k, v, out, &mut scratch)
            });
        });
    }
    group.finish();
}

fn all(c: &mut Criterion) {
    for len in [16, 128, 512] {
        attention::<f32>(c, Shape::prefill(len, 8, 64));
        attention::<f32>(c, Shape::prefill(len, 8, 64).causal());
    }
    attention::<f16>(c, Shape::prefill(128, 8, 64));
    attention::<bf16>(c, Shape::prefill(128, 8, 64));
    attention::<f32>(c, Shape::decode(512, 32, 8, 128));
    attention::<f16>(c, Shape::decode(512, 32, 8, 128));
    attention::<f32>(c, Shape::decode(4096, 32, 8, 128));
    attention::<f16>(c, Shape::decode(4096, 32, 8, 128));
}

criterion_group!(benches, all);
criterion_main!(benches);
