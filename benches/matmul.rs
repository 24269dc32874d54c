//! Matrix products on every tier: `matmul/<types>/<m>x<k>x<n>/<tier>`, throughput in FLOPs.

mod common;

use common::{Number, numbers};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qkv::{MatMut, MatRef, Matmul, PackedMat, Tier, bf16, f16, matmul_scratch_len};

/// Rows, inner size, columns.
const SHAPES: [(usize, usize, usize); 4] = [(16, 16, 16), (64, 64, 64), (256, 256, 256), (128, 768, 768)];

fn product<T: Number>(c: &mut Criterion, (m, k, n): (usize, usize, usize)) {
    let (a, b) = (numbers::<T>(m * k, 1), numbers::<T>(k * n, 2));
    let mut storage = vec![T::of(0.0); PackedMat::<T>::len(k, n)];
    let a = MatRef::new(&a, m, k).unwrap();
    let plain = MatRef::new(&b, k, n).unwrap();
    let turned = MatRef::new(&b, n, k).unwrap().t();
    let packed = PackedMat::pack(plain, &mut storage).unwrap();
    let (mut out, mut scratch) = (vec![T::of(0.0); m * n], vec![0.0; matmul_scratch_len(m, k, n)]);

    for (op, b) in [("matmul", Some(plain)), ("matmul_t", Some(turned)), ("matmul_packed", None)] {
        let mut group = c.benchmark_group(op);
        group.sample_size(10).throughput(Throughput::Elements(2 * (m * k * n) as u64));
        for tier in Tier::all() {
            let product = Matmul::new().tier(tier);
            group.bench_function(format!("{}/{m}x{k}x{n}/{tier}", T::NAME), |bencher| {
                bencher.iter(|| {
                    let out = MatMut::new(&mut out, m, n)?;
                    match b {
                        Some(b) => product.run(a, b, out, &mut scratch),
                        None => product.run_packed(a, packed, out, &mut scratch),
                    }
                });
            });
        }
        group.finish();
    }
}

fn all(c: &mut Criterion) {
    for shape in SHAPES {
        product::<f32>(c, shape);
    }
    // One row, as in a decode step: bound by the bandwidth.
    product::<f32>(c, (1, 1024, 1024));
    product::<f16>(c, (256, 256, 256));
    product::<bf16>(c, (256, 256, 256));
}

criterion_group!(benches, all);
criterion_main!(benches);
