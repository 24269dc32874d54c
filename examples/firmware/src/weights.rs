//! The trained weights as flash has them: rounded to bf16 while compiling, two bytes each.

use qkv::bf16;

use crate::file::{N_PARAMS, param};

/// The type of a weight in memory.
pub type Weight = bf16;

pub static PARAMS: [Weight; N_PARAMS] = {
    let mut params = [bf16::ZERO; N_PARAMS];
    let mut i = 0;
    while i < N_PARAMS {
        params[i] = bf16::from_f32_const(param(i));
        i += 1;
    }
    params
};

pub fn widen(weight: Weight) -> f32 {
    weight.to_f32()
}
