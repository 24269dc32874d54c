//! Softmax, log-sum-exp and exponentials of rows.

use qkv::{MatMut, MatRef, Softmax, Tier, bf16, f16};

use crate::data::{Number, at, close, numbers, unknown};
use crate::{Check, ensure};

const MAX: usize = 3 * 150;

pub fn run() -> Check {
    all::<f32, f32>()?;
    all::<f16, f32>()?;
    all::<bf16, f16>()?;
    let mut x = numbers::<f32, 10>(12);
    qkv::softmax_in_place(MatMut::new(unknown(x.as_mut_slice()), unknown(2), unknown(5))?)?;
    ensure((x.iter().sum::<f32>() - 2.0).abs() < 1e-6, "two rows sum to two")
}

fn all<T: Number, O: Number>() -> Check {
    let x = numbers::<T, MAX>(11);
    let (mut out, mut lse) = ([O::of(0.0); MAX], [0.0_f32; 3]);
    for tier in Tier::all() {
        for cols in [0, 1, 7, 64, 150] {
            let (rows, cols) = unknown((3, cols));
            let (x, out) = (unknown(x.as_slice()), unknown(out.as_mut_slice()));
            let (by_rows, softmax) = (MatRef::new(x, rows, cols)?, Softmax::new().tier(unknown(tier)));
            softmax.run(by_rows, MatMut::new(out, rows, cols)?)?;
            softmax.log_sum_exp(by_rows, unknown(lse.as_mut_slice()))?;
            for i in 0..rows {
                let sum: f32 = (0..cols).map(|j| exp(at(x, i * cols + j), softmax)).sum();
                let row = |j: usize| out.get(i * cols + j).copied().unwrap_or(O::of(f32::NAN));
                let right = (0..cols).all(|j| close(row(j), exp(at(x, i * cols + j), softmax) / sum, 8.0));
                ensure(right, "softmax of a row")?;
                let back = exp(at(&lse, i), softmax);
                ensure((back - sum).abs() <= sum * 1e-5, "log-sum-exp of a row")?;
            }
            // By columns, in place: both ways that are not contiguous.
            let turned = MatRef::with_strides(x, rows, cols, unknown(1), rows)?;
            softmax.run(turned, MatMut::with_strides(out, rows, cols, unknown(1), rows)?)?;
            softmax.run_in_place(MatMut::with_strides(out, rows, cols, unknown(1), rows)?)?;
            ensure((0..rows * cols).all(|i| at(out, i) > 0.0), "softmax of columns")?;
        }
    }
    Ok(())
}

fn exp(x: f32, softmax: Softmax) -> f32 {
    let mut x = [x];
    softmax.exp_in_place(unknown(x.as_mut_slice()));
    let [x] = x;
    x
}
