//! Conversions of the 16-bit types: widened exactly, narrowed to nearest, ties to even, on every tier.
#![cfg(feature = "half")]

mod common;

use common::buffer::{Buffer, Kind, Typed};
use common::{Rng, nan_scratch, tiers};
use qkv::{MatMut, MatRef, Matmul, Tier, matmul_scratch_len};

/// `x * 1` on a tier, from one type to another: A is a column of numbers.
fn convert_column(tier: Tier, from: &Buffer, to: &mut Buffer) {
    let (n, one) = (from.len(), [1.0_f32]);
    let b = MatRef::new(&one, 1, 1).expect("a number");
    let mut scratch = nan_scratch(matmul_scratch_len(n, 1, 1));
    with_type!(from.kind(), A => with_type!(to.kind(), C => {
        let a = MatRef::new(A::slice(from), n, 1).expect("n numbers");
        let c = MatMut::new(C::slice_mut(to), n, 1).expect("n numbers");
        Matmul::new().tier(tier).run(a, b, c, &mut scratch).expect("sizes agree");
    }));
}

/// `1 * x`: B is a row of numbers, which goes through whole vectors.
fn convert_row(tier: Tier, from: &Buffer, to: &mut Buffer) {
    let (n, one) = (from.len(), [1.0_f32]);
    let a = MatRef::new(&one, 1, 1).expect("a number");
    let mut scratch = nan_scratch(matmul_scratch_len(1, 1, n));
    with_type!(from.kind(), B => with_type!(to.kind(), C => {
        let b = MatRef::new(B::slice(from), 1, n).expect("n numbers");
        let c = MatMut::new(C::slice_mut(to), 1, n).expect("n numbers");
        Matmul::new().tier(tier).run(a, b, c, &mut scratch).expect("sizes agree");
    }));
}

#[test]
fn halves_widen_exactly() {
    for tier in tiers() {
        for kind in [Kind::F16, Kind::Bf16] {
            let mut numbers = Buffer::new(kind, 65_536);
            (0..65_536).for_each(|bits| numbers.set_bits(bits, bits as u32));
            for convert in [convert_column, convert_row] {
                let mut wide = Buffer::new(Kind::F32, 65_536);
                convert(tier, &numbers, &mut wide);
                for bits in 0..65_536 {
                    let (expected, got) = (kind.value(bits as u32), wide.value(bits));
                    // A product with 1 is added to 0: -0 becomes 0.
                    assert!(
                        got == expected || got.is_nan() && expected.is_nan(),
                        "{tier} {kind:?} {bits:#x}: {got:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn floats_narrow_to_nearest_even() {
    // Each half, the middle to its neighbour, and the floats next to both; and floats all over.
    let mut rng = Rng::new(20);
    for kind in [Kind::F16, Kind::Bf16] {
        let mut numbers: Vec<f32> = Vec::new();
        for bits in 0..65_536_u32 {
            let x = kind.value(bits);
            let middle = (f64::from(x) + f64::from(kind.value((bits + 1) & 0xffff))) / 2.0;
            for x in [x, middle as f32] {
                numbers.extend([x.next_down(), x, x.next_up()]);
            }
            numbers.push(f32::from_bits(rng.word() as u32));
        }
        numbers.extend([
            65_519.996,
            65_520.0,
            -65_520.0,
            f32::MAX,
            f32::MIN,
            f32::from_bits(1),
            2.980_232e-8,
        ]);
        let numbers = Buffer::F32(numbers);
        for tier in tiers() {
            for convert in [convert_column, convert_row] {
                let mut narrow = Buffer::new(kind, numbers.len());
                convert(tier, &numbers, &mut narrow);
                for i in 0..numbers.len() {
                    let x = numbers.value(i);
                    let (expected, got) = (kind.value(kind.bits(x)), narrow.value(i));
                    assert!(
                        got == expected || got.is_nan() && expected.is_nan(),
                        "{tier} {kind:?} {x:e}: {got:e}"
                    );
                }
            }
        }
    }
}

#[test]
#[ignore = "all 2^32 floats: a minute a tier"]
fn every_float_narrows_to_nearest_even() {
    const AT_A_TIME: usize = 1 << 20;
    for tier in tiers() {
        for kind in [Kind::F16, Kind::Bf16] {
            for from in (0..1_u64 << 32).step_by(AT_A_TIME) {
                let numbers = (from..from + AT_A_TIME as u64).map(|bits| f32::from_bits(bits as u32));
                let numbers = Buffer::F32(numbers.collect());
                let mut narrow = Buffer::new(kind, AT_A_TIME);
                convert_row(tier, &numbers, &mut narrow);
                for i in 0..AT_A_TIME {
                    let x = numbers.value(i);
                    let (expected, got) = (kind.bits(x), narrow.bits(i));
                    // A product with 1 is added to 0: -0 becomes 0.
                    let same = got == expected || x == 0.0 && got == 0;
                    let nan = || x.is_nan() && kind.value(got).is_nan();
                    assert!(same || nan(), "{tier} {kind:?} {x:e}: {got:#x}, not {expected:#x}");
                }
            }
        }
    }
}
