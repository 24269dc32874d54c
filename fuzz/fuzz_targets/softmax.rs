//! Rows of any numbers: softmax and log-sum-exp within the `f64` bound, exponentials within 1 ULP, conversions
//! exact; the same bits on every tier of a group.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod input;
mod target;

use arbitrary::{Arbitrary, Unstructured};
use common::buffer::{Buffer, Kind, Typed};
use common::mat::Mat;
use common::reference::softmax_row;
use common::{nan_scratch, same_bits, tiers};
use input::{Numbers, Strides, Type};
use qkv::{MatMut, MatRef, Matmul, Softmax, Tier};

#[derive(Arbitrary, Debug)]
struct Input {
    rows: u8,
    cols: u8,
    /// Of the input and the output.
    types: [Type; 2],
    strides: [Strides; 2],
    numbers: Numbers,
}

fn one(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let (rows, cols) = (usize::from(input.rows % 40), usize::from(input.cols % 140));
    if rows * cols > 1500 {
        return;
    }
    let [from, to] = input.types.map(Type::kind);
    let [from_layout, to_layout] = input.strides.map(Strides::layout);
    let x = Mat::with_guard(from, rows, cols, from_layout, 0);
    let x = x.fill_bits(&mut input.numbers.bits(&mut u));
    let out = Mat::new(to, rows, cols, to_layout);
    if let Err(message) = check(&x, &out) {
        panic!("{message}\n  in {input:?}");
    }
}
target::target!(one);

fn check(x: &Mat, out: &Mat) -> Result<(), String> {
    let mut before = [None, None];
    for tier in tiers() {
        let place = |m: String| format!("{tier}: {m}");
        let (got, lse) = softmax(tier, x, out);
        check_rows(x, out, &got, &lse).map_err(place)?;
        let exponentials = exponentials(tier, x).map_err(place)?;
        narrow(tier, x, out.kind()).map_err(place)?;
        let bits = [got.bits(), bits(&lse), exponentials];
        let Some(first) = &before[usize::from(tier.is_fused())] else {
            before[usize::from(tier.is_fused())] = Some(bits);
            continue;
        };
        for ((left, right), kind) in bits.iter().zip(first).zip([out.kind(), Kind::F32, Kind::F32]) {
            same_bits(kind, left, right).map_err(|m| format!("{tier} and the tiers like it: {m}"))?;
        }
    }
    Ok(())
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn softmax(tier: Tier, x: &Mat, out: &Mat) -> (Mat, Vec<f32>) {
    let (mut out, mut lse) = (out.clone(), nan_scratch(x.rows));
    with_type!(x.kind(), X => with_type!(out.kind(), O => {
        Softmax::new().tier(tier).run(x.view::<X>(), out.view_mut::<O>()).expect("sizes agree");
        Softmax::new().tier(tier).log_sum_exp(x.view::<X>(), &mut lse).expect("sizes agree");
    }));
    (out, lse)
}

fn check_rows(x: &Mat, out: &Mat, got: &Mat, lse: &[f32]) -> Result<(), String> {
    got.check_guards(out)?;
    let values = x.values();
    for (i, &lse) in lse.iter().enumerate() {
        let expected = softmax_row(&values[i * x.cols..(i + 1) * x.cols]);
        for (j, expected) in expected.out.iter().enumerate() {
            expected.check(out.kind(), got.get(i, j)).map_err(|m| format!("({i}, {j}): {m}"))?;
        }
        if x.cols > 0 {
            expected.lse.check(Kind::F32, lse).map_err(|m| format!("row {i}, log-sum-exp: {m}"))?;
        }
    }
    Ok(())
}

/// `e^x` of all numbers, each within an ULP.
fn exponentials(tier: Tier, x: &Mat) -> Result<Vec<u32>, String> {
    let (values, mut got) = (x.values(), x.values());
    Softmax::new().tier(tier).exp_in_place(&mut got);
    for (&x, &got) in values.iter().zip(&got) {
        let exact = f64::from(x).exp();
        // An ULP of `f32` at the exact value; from the largest `f32` on, infinity is as near.
        let ulp = f64::from(f32::EPSILON) * exact.max(f64::from(f32::MIN_POSITIVE)).log2().floor().exp2();
        let right = match exact {
            _ if exact.is_nan() => got.is_nan(),
            _ if got.is_infinite() => exact + ulp > f64::from(f32::MAX),
            _ => (f64::from(got) - exact).abs() <= ulp,
        };
        if !right {
            return Err(format!("e^{x:e} is {exact:e}, got {got:e}"));
        }
    }
    Ok(bits(&got))
}

/// All numbers times 1, which rounds them to another type.
fn narrow(tier: Tier, x: &Mat, kind: Kind) -> Result<(), String> {
    let (values, one) = (x.values(), [1.0_f32]);
    let n = values.len();
    let mut to = Buffer::new(kind, n);
    with_type!(kind, C => {
        let a = MatRef::new(&one, 1, 1).expect("a number");
        let b = MatRef::new(&values, 1, n).expect("n numbers");
        let c = MatMut::new(C::slice_mut(&mut to), 1, n).expect("n numbers");
        let mut scratch = nan_scratch(qkv::matmul_scratch_len(1, 1, n));
        Matmul::new().tier(tier).run(a, b, c, &mut scratch).expect("sizes agree");
    });
    for (i, &x) in values.iter().enumerate() {
        let (expected, got) = (kind.value(kind.bits(x)), to.value(i));
        if got != expected && !(got.is_nan() && expected.is_nan()) {
            return Err(format!("{x:e} became {got:e} as {kind:?}"));
        }
    }
    Ok(())
}
