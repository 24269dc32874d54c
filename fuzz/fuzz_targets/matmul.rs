//! Any product: within the `f64` bound, with the model's bits, guards intact; or an error and C as it was.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod input;
mod target;

use arbitrary::{Arbitrary, Unstructured};
use common::mat::{Layout, Mat};
use common::product::{Product, Shape};
use common::{nan_scratch, tiers};
use input::{Factor, Numbers, Strides, Type};

#[derive(Arbitrary, Debug)]
struct Input {
    sizes: [u8; 3],
    /// Bits of the sizes that are made longer.
    long: u8,
    types: [Type; 3],
    strides: [Strides; 3],
    alpha: Factor,
    beta: Factor,
    bias: bool,
    numbers: Numbers,
    /// What is wrong, if anything is.
    wrong: Option<Wrong>,
}

#[derive(Arbitrary, Debug)]
enum Wrong {
    Rows(u8),
    Columns(u8),
    Bias(u8),
    Scratch(u16),
}

/// Multiplications of a product, so that there are more than 1,000 runs a second.
const MOST: usize = 1000;

fn one(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let [m, k, n] = input.sizes.map(|size| usize::from(size % 72));
    // One of them may pass the blocks of 512 and of the cache.
    let (m, k, n) = match input.long % 16 {
        1 => (m, k + 500, n),
        2 => (m + 280, k, n),
        3 => (m, k, n + 500),
        4 => (m, k + 1000, n),
        _ => (m, k, n),
    };
    if [m * k * n, m * n, m * k, k * n].iter().any(|&size| size > MOST) {
        return;
    }
    let shape = Shape {
        m,
        k,
        n,
        kinds: input.types.map(Type::kind),
        layouts: input.strides.map(Strides::layout),
        alpha: input.alpha.value(),
        beta: input.beta.value(),
        bias: input.bias,
        seed: 0,
    };
    let product = shape.product_of(0, &mut input.numbers.bits(&mut u));
    let result = match input.wrong {
        None => product.check(),
        Some(wrong) => refuse(&product, &wrong),
    };
    if let Err(message) = result {
        panic!("{message}\n  in {shape:?}");
    }
}
target::target!(one);

/// The product with something wrong: an error, and C as it was.
fn refuse(product: &Product, wrong: &Wrong) -> Result<(), String> {
    let mut bad = product.clone();
    let mut scratch = product.scratch_len();
    let (k, n) = (product.b.rows, product.b.cols);
    match *wrong {
        Wrong::Rows(more) => bad.b = Mat::new(product.b.kind(), k + 1 + usize::from(more), n, Layout::ROWS),
        Wrong::Columns(more) => {
            bad.b = Mat::new(product.b.kind(), k, n + 1 + usize::from(more), Layout::ROWS)
        }
        Wrong::Bias(more) => bad.bias = Some(vec![1.0; n + 1 + usize::from(more)]),
        Wrong::Scratch(less) => match scratch.checked_sub(1 + usize::from(less)) {
            Some(less) => scratch = less,
            None => return Ok(()),
        },
    }
    for tier in tiers() {
        let mut c = product.c.clone();
        if bad.run_into(tier, &mut c, &mut nan_scratch(scratch)).is_ok() {
            return Err(format!("{tier}: {wrong:?} was accepted"));
        }
        c.check_untouched(&product.c)?;
    }
    Ok(())
}
