//! The trained weights as the PC has them: in `f32`, as they were trained.

use crate::file::{N_PARAMS, param};

/// The type of a weight in memory.
pub type Weight = f32;

pub static PARAMS: [Weight; N_PARAMS] = {
    let mut params = [0.0; N_PARAMS];
    let mut i = 0;
    while i < N_PARAMS {
        params[i] = param(i);
        i += 1;
    }
    params
};

pub fn widen(weight: Weight) -> f32 {
    weight
}
