//! Every refusal carries its numbers, has a message that names them, and leaves the output as it was.
#![cfg(feature = "half")]

mod common;

use common::attend;
use common::buffer::Kind;
use common::mat::{Layout, Mat};
use common::product;
use common::{Rng, mismatch, nan_scratch, tiers};
use qkv::{Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, Tier};
use qkv::{attention_scratch_len, matmul_scratch_len};
use quickcheck::{Arbitrary, Gen, QuickCheck};

/// A product of these shapes; the second result is whether C is as it was.
fn multiply(
    a: (usize, usize),
    b: (usize, usize),
    c: (usize, usize),
    bias: usize,
    scratch: usize,
) -> (Result<(), Error>, bool) {
    let new = |(rows, cols)| Mat::new(Kind::F32, rows, cols, Layout::ROWS);
    let (a, b, c) = (new(a), new(b), new(c));
    let mut written = c.clone();
    let bias = vec![1.0; bias];
    let result = Matmul::new().bias(&bias).run(
        a.view::<f32>(),
        b.view::<f32>(),
        written.view_mut::<f32>(),
        &mut nan_scratch(scratch),
    );
    (result, written.check_untouched(&c).is_ok())
}

#[test]
fn matmul_refuses_each_size_that_disagrees_by_name() {
    assert_eq!(multiply((2, 3), (4, 5), (2, 5), 5, 0), (mismatch("k (rows of B)", 3, 4), true));
    assert_eq!(multiply((2, 3), (3, 6), (2, 5), 5, 0), (mismatch("n (columns of C)", 6, 5), true));
    assert_eq!(multiply((2, 3), (3, 5), (7, 5), 5, 0), (mismatch("m (rows of C)", 2, 7), true));
    assert_eq!(multiply((2, 3), (3, 5), (2, 5), 4, 0), (mismatch("n (length of the bias)", 5, 4), true));
    let needed = matmul_scratch_len(2, 3, 70);
    assert!(needed > 0);
    let short = Err(Error::ScratchTooShort { needed, got: needed - 1 });
    assert_eq!(multiply((2, 3), (3, 70), (2, 70), 70, needed - 1), (short, true));
    assert_eq!(multiply((2, 3), (3, 70), (2, 70), 70, needed).0, Ok(()));
    assert_eq!(multiply((0, 3), (4, 0), (0, 0), 0, 0).0, mismatch("k (rows of B)", 3, 4), "empty, but wrong");
}

#[test]
fn packing_refuses_storage_that_is_too_short_or_of_another_length() {
    let b = [1.0_f32; 6];
    let mut storage = [0.0_f32; 40];
    let view = MatRef::new(&b, 2, 3).expect("six numbers");
    let refused = PackedMat::pack(view, &mut storage[..31]).err();
    assert_eq!(refused, Some(Error::SliceTooShort { needed: 32, got: 31 }));
    let packed = PackedMat::pack(view, &mut storage).expect("long enough");
    assert_eq!((packed.rows(), packed.cols()), (2, 3));
    let refused = PackedMat::from_packed(&storage, 2, 3).err();
    assert_eq!(refused, mismatch::<()>("packed length", 32, 40).err());
    let packed = PackedMat::from_packed(&storage[..32], 2, 3).expect("exactly as long");
    let (a, mut c) = ([1.0_f32; 3], [7.0_f32; 3]);
    let a = MatRef::new(&a, 1, 3).expect("three numbers");
    let c_view = MatMut::new(&mut c, 1, 3).expect("three numbers");
    let refused = Matmul::new().run_packed(a, packed, c_view, &mut []);
    assert_eq!((refused, c), (mismatch("k (rows of B)", 3, 2), [7.0; 3]));
}

/// Sizes of an attention call: (tokens, heads, features) of Q, K, V and the output, length of the
/// log-sum-exps and of the scratch.
type Sizes = ([(usize, usize, usize); 4], usize, usize);

fn attend((shapes, lse, scratch): Sizes) -> (Result<(), Error>, bool) {
    let data = [0.5_f32; 400];
    let view = |(len, heads, dim)| HeadsRef::token_major(&data, len, heads, dim).expect("400 are enough");
    let (mut out, mut sums) = ([7.0_f32; 400], vec![7.0_f32; lse]);
    let (len, heads, dim) = shapes[3];
    let result = Attention::new().run_with_lse(
        view(shapes[0]),
        view(shapes[1]),
        view(shapes[2]),
        HeadsMut::token_major(&mut out, len, heads, dim).expect("400 are enough"),
        &mut sums,
        &mut nan_scratch(scratch),
    );
    (result, out.iter().chain(&sums).all(|&x| x == 7.0))
}

#[test]
fn attention_refuses_each_size_that_disagrees_by_name() {
    let good: Sizes = ([(5, 4, 3), (6, 2, 3), (6, 2, 8), (5, 4, 8)], 20, attention_scratch_len(5, 6, 3, 8));
    assert_eq!(attend(good), (Ok(()), false));
    let with = |operand: usize, shape| {
        let mut sizes = good;
        sizes.0[operand] = shape;
        attend(sizes)
    };
    assert_eq!(with(1, (6, 2, 4)), (mismatch("head_dim of K", 3, 4), true));
    assert_eq!(with(2, (7, 2, 8)), (mismatch("kv_len of V", 6, 7), true));
    assert_eq!(with(2, (6, 4, 8)), (mismatch("n_kv_heads of V", 2, 4), true));
    assert_eq!(with(3, (4, 4, 8)), (mismatch("q_len of the output", 5, 4), true));
    assert_eq!(with(3, (5, 2, 8)), (mismatch("n_heads of the output", 4, 2), true));
    assert_eq!(with(3, (5, 4, 7)), (mismatch("v_head_dim of the output", 8, 7), true));
    assert_eq!(
        attend((good.0, 19, good.2)),
        (mismatch("batch * n_heads * q_len (length of lse)", 20, 19), true)
    );
    let (needed, got) = (good.2, good.2 - 1);
    assert_eq!(attend((good.0, 20, got)), (Err(Error::ScratchTooShort { needed, got }), true));
    let odd = ([(5, 4, 3), (6, 3, 3), (6, 3, 8), (5, 4, 8)], 20, good.2);
    assert_eq!(attend(odd), (Err(Error::HeadsDoNotDivide { n_heads: 4, n_kv_heads: 3 }), true));
    let none = ([(5, 4, 3), (6, 0, 3), (6, 0, 8), (5, 4, 8)], 20, good.2);
    assert_eq!(attend(none), (Err(Error::HeadsDoNotDivide { n_heads: 4, n_kv_heads: 0 }), true));
}

#[test]
fn messages_name_the_numbers() {
    let all = [
        (Error::SliceTooShort { needed: 61, got: 59 }, "slice too short", vec!["61", "59"]),
        (Error::ShapeOverflow, "shape overflow", vec!["usize"]),
        (Error::OverlappingStrides { stride: 61, needed: 67 }, "overlapping strides", vec!["61", "67"]),
        (
            Error::DimMismatch { dim: "k", expected: 61, got: 59 },
            "dimension mismatch",
            vec!["k ", "61", "59"],
        ),
        (Error::TooLarge { what: "rows", most: 61, got: 67 }, "rows too large", vec!["61", "67"]),
        (Error::HeadsDoNotDivide { n_heads: 61, n_kv_heads: 59 }, "61 query heads", vec!["59", "multiple"]),
        (Error::NotForPacked { what: "weights" }, "no weights of packed sequences", vec!["its own"]),
        (
            Error::ScratchTooShort { needed: 61, got: 59 },
            "scratch too short",
            vec!["61", "59", "scratch_len"],
        ),
    ];
    for (error, start, words) in all {
        let message = error.to_string();
        assert!(message.starts_with(start), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        assert_eq!(boxed.to_string(), message);
    }
}

/// Sizes that agree or nearly do.
#[derive(Clone, Debug)]
struct Nearly([usize; 10]);

impl Arbitrary for Nearly {
    fn arbitrary(g: &mut Gen) -> Nearly {
        let mut rng = Rng::new(u64::arbitrary(g));
        let base = [(); 10].map(|()| rng.below(4));
        let off = rng.below(14);
        Nearly(core::array::from_fn(|i| if i == off { base[i] + 1 } else { base[i] }))
    }
}

#[test]
fn prop_refused_product_leaves_c_as_it_was() {
    fn property(Nearly([m, k, n, dm, dk, dn, short, ..]): Nearly) -> Result<(), String> {
        let shape = product::Shape { bias: true, ..product::Shape::plain(m, k + 64 * (dm / 2), n, 1) };
        let good = shape.product();
        let b = Mat::new(Kind::F32, shape.k + dk / 3, n + dn / 3, Layout::ROWS);
        let bad = product::Product { b, ..good.clone() };
        let len = good.scratch_len().saturating_sub(short / 3);
        for tier in tiers() {
            let mut c = good.c.clone();
            let right = dk / 3 == 0 && dn / 3 == 0 && len == good.scratch_len();
            let result = bad.run_into(tier, &mut c, &mut nan_scratch(len));
            if result.is_ok() != right {
                return Err(format!("{tier}: {result:?}"));
            }
            if result.is_err() {
                c.check_untouched(&good.c)?;
            }
        }
        Ok(())
    }
    QuickCheck::new().rng(Gen::from_size_and_seed(10, 1)).tests(500).quickcheck(property as fn(Nearly) -> _);
}

#[test]
fn prop_refused_attention_leaves_the_output_as_it_was() {
    fn property(
        Nearly([q_len, kv_len, heads, dim, dq, dk, dv, dl, dh, short]): Nearly,
    ) -> Result<(), String> {
        let plain = attend::Shape::plain(q_len + 1, kv_len, dim, 1);
        let shape = attend::Shape { n_kv_heads: heads + 1, ..plain };
        let good = shape.lookup();
        let mut k = shape.clone();
        (k.head_dim, k.kv_len) = (dim + dk / 3, kv_len + dl / 3);
        let mut q = shape.clone();
        (q.q_len, q.n_kv_heads, q.v_head_dim) = (q_len + 1 + dq / 3, heads + 1 + dh / 3, dim + dv / 3);
        let bad = attend::Lookup { k: k.lookup().k, out: q.lookup().out, ..good.clone() };
        let len = good.scratch_len().saturating_sub(short / 3);
        let right = [dq, dk, dv, dl, dh, short].iter().all(|&off| off < 3);
        for tier in tiers() {
            let mut out = bad.out.clone();
            let result = bad.run_into(tier, &mut out, None, &mut nan_scratch(len));
            if result.is_ok() != right {
                return Err(format!("{tier}: {result:?}"));
            }
            if result.is_err() {
                out.check_untouched(&bad.out)?;
            }
        }
        Ok(())
    }
    QuickCheck::new().rng(Gen::from_size_and_seed(10, 2)).tests(500).quickcheck(property as fn(Nearly) -> _);
}

#[test]
fn rows_beyond_usize_are_refused() {
    let data = [0.0_f32; 1];
    let many = |len, heads| HeadsRef::token_major(&data[..0], len, heads, 0).expect("no elements");
    let out = HeadsMut::token_major(&mut [] as &mut [f32], usize::MAX, 2, 0).expect("no elements");
    let refused = Attention::new().tier(Tier::detect()).run(
        many(usize::MAX, 2),
        many(1, 1),
        many(1, 1),
        out,
        &mut nan_scratch(attention_scratch_len(usize::MAX, 1, 0, 0)),
    );
    assert_eq!(refused, Err(Error::ShapeOverflow));
}

#[test]
fn empty_products_of_extreme_sizes_are_ok() {
    const MAX: usize = usize::MAX;
    let none = [0.0_f32; 0];
    let view = |rows, cols| MatRef::new(&none, rows, cols).expect("no elements");
    for tier in tiers() {
        for (m, k, n) in [(MAX, 0, 0), (0, MAX, 0), (0, 0, MAX), (MAX / 2, 0, 0)] {
            let (a, b) = (view(m, k), view(k, n));
            let c = || MatMut::new(&mut [] as &mut [f32], m, n).expect("no elements");
            for options in [Matmul::new(), Matmul::new().alpha(0.0).beta(1.0)] {
                assert_eq!(options.tier(tier).run(a, b, c(), &mut []), Ok(()), "{tier} {m} x {k} x {n}");
                let packed = PackedMat::from_packed(&none, k, n).expect("no elements");
                assert_eq!(
                    options.tier(tier).run_packed(a, packed, c(), &mut []),
                    Ok(()),
                    "{tier} {m} x {k} x {n}"
                );
            }
        }
        assert_eq!(
            PackedMat::<f32>::pack(view(MAX, 0), &mut []).map(|packed| packed.rows()),
            Ok(MAX),
            "{tier}"
        );
    }
}

#[test]
fn calls_without_elements_return_at_once_whatever_their_length() {
    const LONG: usize = isize::MAX as usize;
    let none = [0.0_f32; 0];
    let x = MatRef::new(&none, usize::MAX, 0).expect("no elements");
    let mut out = [0.0_f32; 0];
    assert_eq!(qkv::softmax(x, MatMut::new(&mut out, usize::MAX, 0).expect("no elements")), Ok(()));
    assert_eq!(qkv::softmax_in_place(MatMut::new(&mut out, usize::MAX, 0).expect("no elements")), Ok(()));
    let heads = |len| HeadsRef::token_major(&none, len, 1, 0).expect("no elements");
    let scratch = &mut nan_scratch(attention_scratch_len(LONG, LONG, 0, 0));
    for (len, expected) in [(LONG, Ok(())), (usize::MAX, Err(Error::ShapeOverflow))] {
        for (q_len, kv_len) in [(len, len), (len, 1), (1, len)] {
            let out = HeadsMut::token_major(&mut out, q_len, 1, 0).expect("no elements");
            let (q, keys) = (heads(q_len), heads(kv_len));
            let result = Attention::new().causal().run(q, keys, keys, out, scratch);
            assert_eq!(result, expected, "{q_len} queries, {kv_len} keys");
        }
    }
}
