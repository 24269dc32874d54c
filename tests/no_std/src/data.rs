//! Operands: small multiples of 1/8, which every element type holds exactly.

use core::hint::black_box;

use qkv::{Elem, bf16, f16};

/// An element type whose numbers can be made and read.
pub trait Number: Elem {
    /// Half the distance of neighbouring numbers, relative.
    const UNIT: f32;
    fn of(x: f32) -> Self;
    fn to(self) -> f32;
}

impl Number for f32 {
    const UNIT: f32 = 6e-8;
    fn of(x: f32) -> f32 {
        x
    }
    fn to(self) -> f32 {
        self
    }
}
impl Number for f16 {
    const UNIT: f32 = 4.9e-4;
    fn of(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn to(self) -> f32 {
        self.to_f32()
    }
}
impl Number for bf16 {
    const UNIT: f32 = 3.91e-3;
    fn of(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn to(self) -> f32 {
        self.to_f32()
    }
}

/// Numbers of -1..=1, the same for the same seed.
pub fn numbers<T: Number, const N: usize>(seed: u32) -> [T; N] {
    let mut state = seed | 1;
    core::array::from_fn(|_| {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        T::of(((state >> 20) % 17) as f32 / 8.0 - 1.0)
    })
}

/// Element `i`, and NaN where there is none.
pub fn at<T: Number>(x: &[T], i: usize) -> f32 {
    x.get(i).map_or(f32::NAN, |x| x.to())
}

/// The same value, of which the compiler knows nothing any more.
pub fn unknown<T>(value: T) -> T {
    black_box(value)
}

/// Whether `got` is `want` up to its type's rounding and `slack` units of `f32` per size of 1.
pub fn close<T: Number>(got: T, want: f32, slack: f32) -> bool {
    let bound = want.abs() * T::UNIT * 1.01 + slack * 1.2e-7;
    (got.to() - want).abs() <= bound
}
