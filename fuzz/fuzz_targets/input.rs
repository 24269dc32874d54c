//! What the targets make of their bytes: numbers of several kinds, types, layouts.
#![allow(dead_code, reason = "every target uses its own part of this module")]

use super::common::Rng;
use super::common::buffer::Kind;
use super::common::mat::Layout;
use arbitrary::{Arbitrary, Unstructured};

/// An element type.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Type {
    F32,
    F16,
    Bf16,
}

impl Type {
    pub fn kind(self) -> Kind {
        match self {
            Type::F32 => Kind::F32,
            Type::F16 => Kind::F16,
            Type::Bf16 => Kind::Bf16,
        }
    }
}

/// How a matrix lies in memory.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Strides {
    by_columns: bool,
    turned: bool,
    gaps: u8,
}

impl Strides {
    pub fn layout(self) -> Layout {
        let (gap, outer_gap) = (usize::from(self.gaps % 4), usize::from(self.gaps / 4 % 8));
        Layout { by_columns: self.by_columns, gap, outer_gap, turned: self.turned }
    }
}

/// A factor: plain ones often, any bits sometimes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Factor {
    Zero,
    One,
    Half,
    Bits(u32),
}

impl Factor {
    pub fn value(self) -> f32 {
        match self {
            Factor::Zero => 0.0,
            Factor::One => 1.0,
            Factor::Half => -0.5,
            Factor::Bits(bits) => f32::from_bits(bits),
        }
    }
}

/// Where the numbers of the operands come from.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Numbers {
    /// -1 to 1, from a seed.
    Plain(u32),
    /// The same, and one in 16 is special.
    Mixed(u32),
    /// All bit patterns, from a seed.
    Wild(u32),
    /// The input's own bytes, then a seed.
    Raw,
}

impl Numbers {
    /// A source of elements' bits.
    pub fn bits<'a>(self, u: &'a mut Unstructured<'_>) -> impl FnMut(Kind) -> u32 + 'a {
        const SPECIAL: [f32; 10] = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            1e-42,
            -0.0,
            1e20,
            -1e4,
        ];
        let mut rng = match self {
            Numbers::Plain(seed) | Numbers::Mixed(seed) | Numbers::Wild(seed) => Rng::new(seed.into()),
            Numbers::Raw => Rng::new(0),
        };
        move |kind| match self {
            Numbers::Plain(_) => kind.bits(rng.unit()),
            Numbers::Mixed(_) if rng.below(16) == 0 => kind.bits(rng.pick(&SPECIAL)),
            Numbers::Mixed(_) => kind.bits(rng.unit()),
            Numbers::Raw if !u.is_empty() => u.arbitrary().unwrap_or_default(),
            Numbers::Wild(_) | Numbers::Raw => rng.word() as u32,
        }
    }
}
