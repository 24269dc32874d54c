//! Weights that are packed at compile time are those that are packed at run time.
#![cfg(feature = "half")]

mod common;

use common::tiers;
use qkv::{Elem, MatMut, MatRef, Matmul, PackedMat, bf16, f16};

const K: usize = 5;
const N: usize = 35;
const LEN: usize = PackedMat::<f32>::len(K, N);

/// Any bits: numbers of every size, of both signs.
const fn any() -> [[f32; N]; K] {
    let mut numbers = [[0.0; N]; K];
    let (mut i, mut state) = (0, 1_u32);
    while i < K * N {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        numbers[i / N][i % N] = f32::from_bits(state ^ state >> 9);
        i += 1;
    }
    numbers
}

/// What rounding has to get right: ties, overflow, subnormals of 16 bits, both zeros, and what is no number.
#[rustfmt::skip]
const fn special() -> [[f32; N]; K] {
    let mut numbers = any();
    let f = f32::from_bits;
    numbers[1] = [
        f(0x3f80_8000), f(0x3f81_8000), f(0x3f80_8001), f(0x3f80_7fff), f(0x3f80_1000), f(0x3f80_3000),
        f(0x3f80_1001), f(0x7f7f_ffff), f(0x7f7f_7fff), 65504.0, 65519.0, 65520.0, -65520.0, f(0x3380_0000),
        f(0x3300_0000), f(0x3300_0001), f(0x3280_0000), f(0x387f_c000), f(0x387f_e000), f(1), f(0x8000_0001),
        0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f(0x7f80_0001), f(0xffff_ffff), f(0x7fff_8000),
        1.0, -1.0, 0.1, -0.1, f32::MIN_POSITIVE, f(0x0000_8000),
    ];
    numbers
}

const WEIGHTS: [[f32; N]; K] = special();
static AS_F32: [f32; LEN] = PackedMat::pack_const(&WEIGHTS);
static AS_F16: [f16; LEN] = PackedMat::<f16>::pack_const_f32(&WEIGHTS);
static AS_BF16: [bf16; LEN] = PackedMat::<bf16>::pack_const_f32(&WEIGHTS);

/// 16-bit weights as they are.
const HALVES: [[bf16; 3]; 2] = [
    [bf16::from_bits(1), bf16::from_bits(2), bf16::from_bits(3)],
    [bf16::from_bits(4), bf16::from_bits(5), bf16::from_bits(6)],
];
static PACKED_HALVES: [bf16; PackedMat::<bf16>::len(2, 3)] = PackedMat::pack_const(&HALVES);

fn packed<B: Elem, T: Elem>(b: &[B], (k, n): (usize, usize), zero: T) -> Vec<T> {
    let mut storage = vec![zero; PackedMat::<T>::len(k, n)];
    PackedMat::pack(MatRef::new(b, k, n).expect("sizes"), &mut storage).expect("enough storage");
    storage
}

#[test]
fn bits_are_those_of_packing_at_run_time() {
    let weights = WEIGHTS.as_flattened();
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&AS_F32), bits(&packed(weights, (K, N), 0.0_f32)));
    let bits = |x: &[f16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&AS_F16), bits(&packed(weights, (K, N), f16::ZERO)));
    let bits = |x: &[bf16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&AS_BF16), bits(&packed(weights, (K, N), bf16::ZERO)));
    assert_eq!(bits(&PACKED_HALVES), bits(&packed(HALVES.as_flattened(), (2, 3), bf16::ZERO)));
}

#[test]
fn rounding_is_to_nearest_even() {
    // By the crate `half`, which rounds by itself.
    for (i, &x) in WEIGHTS.as_flattened().iter().enumerate() {
        let at = (i % N / 16 * K + i / N) * 16 + i % N % 16;
        let (bits, half) =
            ([AS_F16[at].to_bits(), AS_BF16[at].to_bits()], (f16::from_f32(x), bf16::from_f32(x)));
        if x.is_nan() {
            assert!(AS_F16[at].is_nan() && AS_BF16[at].is_nan(), "{:#x}", x.to_bits());
        } else {
            assert_eq!(bits, [half.0.to_bits(), half.1.to_bits()], "{x:e}");
        }
    }
}

#[test]
fn a_static_is_a_matrix_of_products() {
    const FEW: [[f32; N]; K] = {
        let mut few = [[0.0; N]; K];
        let mut i = 0;
        while i < K * N {
            few[i / N][i % N] = (i % 13) as f32 / 4.0 - 1.5;
            i += 1;
        }
        few
    };
    static PACKED: [bf16; LEN] = PackedMat::<bf16>::pack_const_f32(&FEW);
    static WEIGHTS: PackedMat<bf16> = PackedMat::from_array::<K, N, LEN>(&PACKED);
    assert_eq!((WEIGHTS.rows(), WEIGHTS.cols()), (K, N));
    let a: Vec<f32> = (0..7 * K).map(|i| i as f32 / 8.0 - 2.0).collect();
    let a = MatRef::new(&a, 7, K).expect("sizes");
    for tier in tiers() {
        let [mut c, mut expected] = [[f32::NAN; 7 * N]; 2];
        let view = MatMut::new(&mut c, 7, N).expect("sizes");
        Matmul::new().tier(tier).run_packed(a, WEIGHTS, view, &mut []).expect("sizes");
        let (few, view) = (FEW.as_flattened(), MatMut::new(&mut expected, 7, N).expect("sizes"));
        let few = MatRef::new(few, K, N).expect("sizes");
        Matmul::new().tier(tier).run(a, few, view, &mut []).expect("sizes");
        assert_eq!(c, expected, "{tier}");
    }
}

#[test]
fn columns_of_packed_weights_split_at_panels() {
    let packed: [f32; LEN] = PackedMat::pack_const(&any());
    let whole = PackedMat::from_array::<K, N, LEN>(&packed);
    let a = [0.5_f32; 2 * K];
    let product = |weights: PackedMat<f32>| {
        let mut c = vec![7.0_f32; 2 * weights.cols()];
        let (a, view) =
            (MatRef::new(&a, 2, K).expect("sizes"), MatMut::new(&mut c, 2, weights.cols()).expect("sizes"));
        Matmul::new().run_packed(a, weights, view, &mut []).expect("sizes");
        c
    };
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for col in [0, 16, 32, N] {
        let (left, right) = whole.split_at_col(col).expect("panels");
        let (left, right, all) = (product(left), product(right), product(whole));
        for row in 0..2 {
            let of = |part: &[f32], n: usize| bits(&part[row * n..][..n]);
            let parts = [of(&left, col), of(&right, N - col)].concat();
            assert_eq!(parts, of(&all, N), "column {col}, row {row}");
        }
    }
    let within = whole.split_at_col(17).expect_err("within a panel");
    assert_eq!(common::mismatch::<()>("columns of a part (a multiple of 16)", 16, 17), Err(within));
    assert_eq!(
        common::too_large::<()>("columns of a part", N, 36),
        Err(whole.split_at_col(36).expect_err("35"))
    );
}

#[test]
fn nothing_is_packed_to_nothing() {
    const NO_ROWS: [f32; 0] = PackedMat::pack_const::<0, 20, 0>(&[]);
    const NO_COLUMNS: [f32; 0] = PackedMat::pack_const(&[[]; 3]);
    let none = PackedMat::from_array::<0, 20, 0>(&NO_ROWS);
    assert_eq!((none.rows(), none.cols(), NO_COLUMNS.len()), (0, 20, 0));
}
