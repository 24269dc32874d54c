//! Buffers whose element type is a value, so that a test body is compiled once for all mixes of types.

use qkv::{Elem, bf16, f16};

/// An element type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    F32,
    F16,
    Bf16,
}

/// Runs `$body` with `$T` naming the type that `$kind` stands for.
#[macro_export]
macro_rules! with_type {
    ($kind:expr, $T:ident => $body:expr) => {
        match $kind {
            $crate::common::buffer::Kind::F32 => {
                type $T = f32;
                $body
            }
            $crate::common::buffer::Kind::F16 => {
                type $T = qkv::f16;
                $body
            }
            $crate::common::buffer::Kind::Bf16 => {
                type $T = qkv::bf16;
                $body
            }
        }
    };
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::F32, Kind::F16, Kind::Bf16];

    /// The bits of `x` rounded to nearest, ties to even.
    pub fn bits(self, x: f32) -> u32 {
        match self {
            Kind::F32 => x.to_bits(),
            Kind::F16 => f16::from_f32(x).to_bits().into(),
            Kind::Bf16 => bf16::from_f32(x).to_bits().into(),
        }
    }

    /// The number that `bits` stand for; the upper half is ignored for 16-bit types.
    pub fn value(self, bits: u32) -> f32 {
        match self {
            Kind::F32 => f32::from_bits(bits),
            Kind::F16 => f16::from_bits(bits as u16).to_f32(),
            Kind::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        }
    }

    /// Largest relative and absolute error of rounding to the type.
    pub fn rounding(self) -> (f64, f64) {
        match self {
            // The last operation has rounded to `f32` already.
            Kind::F32 => (0.0, 0.0),
            Kind::F16 => (2.0_f64.powi(-11), 2.0_f64.powi(-25)),
            Kind::Bf16 => (2.0_f64.powi(-8), 2.0_f64.powi(-134)),
        }
    }

    /// From here on rounding gives infinity.
    pub fn overflow(self) -> f64 {
        match self {
            Kind::F32 => f64::from(f32::MAX) * (1.0 + 2.0_f64.powi(-25)),
            Kind::F16 => 65_520.0,
            Kind::Bf16 => (2.0 - 2.0_f64.powi(-8)) * 2.0_f64.powi(127),
        }
    }

    /// A quiet NaN with a payload that tells places apart.
    pub fn sentinel(self, i: usize) -> u32 {
        match self {
            Kind::F32 => 0x7fc0_0000 | (i as u32 & 0x3f_ffff),
            Kind::F16 => 0x7e00 | (i as u32 & 0x1ff),
            Kind::Bf16 => 0x7fc0 | (i as u32 & 0x3f),
        }
    }
}

/// Memory of one of the types.
#[derive(Clone, Debug)]
pub enum Buffer {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Buffer {
    /// `len` sentinels.
    pub fn new(kind: Kind, len: usize) -> Buffer {
        let bits = (0..len).map(|i| kind.sentinel(i));
        match kind {
            Kind::F32 => Buffer::F32(bits.map(f32::from_bits).collect()),
            Kind::F16 => Buffer::F16(bits.map(|bits| f16::from_bits(bits as u16)).collect()),
            Kind::Bf16 => Buffer::Bf16(bits.map(|bits| bf16::from_bits(bits as u16)).collect()),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Buffer::F32(_) => Kind::F32,
            Buffer::F16(_) => Kind::F16,
            Buffer::Bf16(_) => Kind::Bf16,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Buffer::F32(x) => x.len(),
            Buffer::F16(x) => x.len(),
            Buffer::Bf16(x) => x.len(),
        }
    }

    /// A copy of some elements.
    pub fn part(&self, range: core::ops::Range<usize>) -> Buffer {
        match self {
            Buffer::F32(x) => Buffer::F32(x[range].to_vec()),
            Buffer::F16(x) => Buffer::F16(x[range].to_vec()),
            Buffer::Bf16(x) => Buffer::Bf16(x[range].to_vec()),
        }
    }

    pub fn bits(&self, i: usize) -> u32 {
        match self {
            Buffer::F32(x) => x[i].to_bits(),
            Buffer::F16(x) => x[i].to_bits().into(),
            Buffer::Bf16(x) => x[i].to_bits().into(),
        }
    }

    pub fn set_bits(&mut self, i: usize, bits: u32) {
        match self {
            Buffer::F32(x) => x[i] = f32::from_bits(bits),
            Buffer::F16(x) => x[i] = f16::from_bits(bits as u16),
            Buffer::Bf16(x) => x[i] = bf16::from_bits(bits as u16),
        }
    }

    pub fn value(&self, i: usize) -> f32 {
        self.kind().value(self.bits(i))
    }

    /// That nothing but the places in `written` differs from `before`, bit for bit.
    pub fn check_untouched(
        &self,
        before: &Buffer,
        written: impl Iterator<Item = usize>,
    ) -> Result<(), String> {
        let mut free = vec![false; self.len()];
        for i in written {
            free[i] = true;
        }
        for (i, free) in free.iter().enumerate() {
            let (x, y) = (before.bits(i), self.bits(i));
            if !free && x != y {
                return Err(format!("guard value at {i} of {} became {y:#x}, was {x:#x}", self.len()));
            }
        }
        Ok(())
    }
}

/// The typed side of a [`Buffer`].
pub trait Typed: Elem {
    fn slice(buffer: &Buffer) -> &[Self];
    fn slice_mut(buffer: &mut Buffer) -> &mut [Self];
}

macro_rules! typed {
    ($T:ty, $variant:ident) => {
        impl Typed for $T {
            fn slice(buffer: &Buffer) -> &[Self] {
                match buffer {
                    Buffer::$variant(x) => x,
                    other => panic!("a buffer of {:?}", other.kind()),
                }
            }
            fn slice_mut(buffer: &mut Buffer) -> &mut [Self] {
                match buffer {
                    Buffer::$variant(x) => x,
                    other => panic!("a buffer of {:?}", other.kind()),
                }
            }
        }
    };
}
typed!(f32, F32);
typed!(f16, F16);
typed!(bf16, Bf16);
