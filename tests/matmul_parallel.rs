//! Products on rayon's threads have the bits of those on one, whatever the threads and the scratch.
#![cfg(all(feature = "half", feature = "rayon"))]

mod common;

use common::buffer::Kind;
use common::mat::{Layout, Mat};
use common::{Rng, expect, mismatch, nan_scratch, same_bits, tiers};
use qkv::{Error, MatMut, MatRef, Matmul, PackedMat, matmul_scratch_len};

#[test]
fn prop_products_on_threads_have_the_bits_of_one() {
    let mut rng = Rng::new(5);
    for n in 0..150 {
        let threads = 1 + rng.below(7);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let kinds = [(); 3].map(|()| rng.pick(&Kind::ALL));
        let m = rng.pick(&[0, 1, 2, 7, 48, 49, 96, 200, 500]);
        let (k, cols) = (rng.pick(&[0, 1, 17, 64, 520]), rng.pick(&[0, 1, 16, 63, 64, 65, 130, 300, 700]));
        let [a, b] = [(kinds[0], m, k), (kinds[1], k, cols)]
            .map(|(kind, rows, cols)| Mat::new(kind, rows, cols, Layout::random(&mut rng)).random(&mut rng));
        let c = Mat::new(kinds[2], m, cols, Layout::random(&mut rng)).random(&mut rng);
        let bias: Vec<f32> = (0..cols).map(|j| j as f32 * 0.125 - 3.0).collect();
        let product = Matmul::new().alpha(rng.pick(&[1.0, 1.0, 0.5, 0.0])).beta(rng.pick(&[0.0, 0.0, 1.0]));
        let product = if rng.below(2) == 0 { product.bias(&bias) } else { product };
        let needed = matmul_scratch_len(m, k, cols);
        let scratch = (1 + rng.below(threads + 2)) * needed + rng.below(50);
        for tier in tiers() {
            let product = product.tier(tier);
            let (mut one, mut many, mut packed) = (c.clone(), c.clone(), c.clone());
            with_type!(a.kind(), A => with_type!(b.kind(), B => with_type!(c.kind(), C => {
                let (a, b) = (a.view::<A>(), b.view::<B>());
                product.run(a, b, one.view_mut::<C>(), &mut nan_scratch(needed)).expect("sizes agree");
                let mut storage = vec![B::default(); PackedMat::<B>::len(k, cols)];
                let weights = PackedMat::pack(b, &mut storage).expect("as long");
                pool.install(|| {
                    product.run_parallel(a, b, many.view_mut::<C>(), &mut nan_scratch(scratch))?;
                    product.run_packed_parallel(a, weights, packed.view_mut::<C>(), &mut nan_scratch(scratch))
                })
                .expect("sizes agree");
            })));
            let what = (tier, n, threads, (m, k, cols), kinds);
            for got in [&many, &packed] {
                expect(got.check_guards(&c), what);
                expect(same_bits(c.kind(), &got.bits(), &one.bits()), what);
            }
        }
    }
}

#[test]
fn products_on_threads_are_refused_as_on_one() {
    let (data, bias) = ([0.5_f32; 200 * 200], [0.0_f32; 199]);
    let mat = |rows, cols| MatRef::new(&data, rows, cols).expect("40,000 are enough");
    let needed = matmul_scratch_len(200, 200, 200);
    let (plain, none) = (Matmul::new(), Error::ScratchTooShort { needed, got: needed - 1 });
    for (product, b, less, expected) in [
        (plain, mat(199, 200), 0, mismatch("k (rows of B)", 200, 199)),
        (plain, mat(200, 199), 0, mismatch("n (columns of C)", 199, 200)),
        (plain.bias(&bias), mat(200, 200), 0, mismatch("n (length of the bias)", 200, 199)),
        (plain, mat(200, 200), 1, Err(none)),
    ] {
        let mut out = vec![7.0_f32; 200 * 200];
        let c = MatMut::new(&mut out, 200, 200).expect("40,000 numbers");
        let result = product.run_parallel(mat(200, 200), b, c, &mut nan_scratch(needed - less));
        assert_eq!(result, expected);
        assert!(out.iter().all(|&x| x == 7.0), "{result:?}");
    }
}
