//! Softmax, Exp and Tanh.

use crate::attention::{expect_shape, on};
use crate::case::{Case, Stop};
use crate::common::buffer::{Buffer, Kind, Typed};
use crate::common::tiers;
use crate::judge::{self, judge};
use crate::setup::{Order, Setup, View};
use crate::with_type;
use qkv::{MatMut, MatRef, Scores, Softmax, Tier};

/// Softmax-13 along any axis: the lines along it are rows of a matrix, an element apart from each other.
pub fn softmax(case: &Case) -> Result<(), Stop> {
    if case.opset().is_none_or(|opset| opset < 13) {
        return Err("Softmax before opset 13 flattens its operand".into());
    }
    let x = case.needed(0, "input")?;
    let buffer = x.buffer()?;
    let axis = case.integer("axis", -1)?;
    let axis = if axis < 0 { axis + x.shape.len() as isize } else { axis };
    let axis =
        usize::try_from(axis).ok().filter(|axis| *axis < x.shape.len()).ok_or("an axis that is not there")?;
    let cols = x.shape[axis];
    let (outer, rows): (usize, usize) =
        (x.shape[..axis].iter().product(), x.shape[axis + 1..].iter().product());
    each_tier(case, &x.shape, |tier, kind| {
        let mut out = Buffer::new(kind, buffer.len());
        for from in (0..outer).map(|i| i * rows * cols) {
            with_type!(buffer.kind(), T => with_type!(kind, O => {
                let (x, out) = (&T::slice(&buffer)[from..], &mut O::slice_mut(&mut out)[from..]);
                let x = MatRef::with_strides(x, rows, cols, 1, rows)?;
                Softmax::new().tier(tier).run(x, MatMut::with_strides(out, rows, cols, 1, rows)?)?;
            }));
        }
        Ok(out)
    })
}

/// Exp, in `f32`.
pub fn exp(case: &Case) -> Result<(), Stop> {
    let x = case.needed(0, "input")?;
    let buffer = x.buffer()?;
    each_tier(case, &x.shape, |tier, kind| {
        let mut numbers: Vec<f32> = (0..buffer.len()).map(|i| buffer.value(i)).collect();
        Softmax::new().tier(tier).exp_in_place(&mut numbers);
        let mut out = Buffer::new(kind, numbers.len());
        numbers.iter().enumerate().for_each(|(i, x)| out.set_bits(i, kind.bits(*x)));
        Ok(out)
    })
}

/// Tanh, as the softcap with a cap of 1 of the scores of queries `x` and the one key 1.
pub fn tanh(case: &Case) -> Result<(), Stop> {
    let x = case.needed(0, "input")?;
    let buffer = x.buffer()?;
    let view = |buffer: Buffer| {
        let len = buffer.len();
        View { buffer, order: Order::TokenMajor, batch: 1, len, n_heads: 1, head_dim: 1 }
    };
    let key = view(Buffer::F32(vec![1.0]));
    let setup = Setup { scale: Some(1.0), softcap: Some(1.0), ..Setup::new(view(buffer), key.clone(), key) };
    each_tier(case, &x.shape, |tier, kind| setup.scores(tier, Scores::Capped, kind))
}

/// Judges the only output on every tier.
fn each_tier(
    case: &Case,
    shape: &[usize],
    run: impl Fn(Tier, Kind) -> Result<Buffer, Stop>,
) -> Result<(), Stop> {
    let truth = case.wanted(0)?;
    let kind = truth.dtype.kind()?;
    expect_shape(&truth.shape, shape)?;
    for tier in tiers() {
        let bounds = judge::of_operator(kind, &truth);
        judge(&on(&truth.name, tier), &run(tier, kind)?, &truth.values, &bounds)?;
    }
    case.finish()
}
