//! What the integration tests and the fuzz targets share: buffers with guard values, cases, the plain
//! `f64` reference with its error bounds, and bit-exact scalar models of the kernels.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

pub mod attend;
pub mod batch;
pub mod bits;
pub mod buffer;
pub mod heads;
pub mod mat;
pub mod options;
pub mod product;
pub mod reference;
pub mod views;

use qkv::{Error, Tier};

/// Elements of sentinel before and after every operand: an odd number, so that nothing is aligned.
pub const GUARD: usize = 19;

/// A seeded generator (xorshift64*, Vigna 2016): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// One multiplication spreads small seeds.
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng((seed ^ 0x6a09_e667_f3bc_c909).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.word();
        rng
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.word() >> 32) as usize) % n.max(1)
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A multiple of 2^-23 in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

/// Every tier of this CPU.
pub fn tiers() -> Vec<Tier> {
    Tier::all().collect()
}

/// Scratch full of NaN: a kernel that reads what it has not written is seen in its output.
pub fn nan_scratch(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// A scratch that begins a float behind a cache line, where aligning it takes the most, and must end where it ends.
pub struct Crooked {
    memory: Vec<f32>,
    at: usize,
    len: usize,
}

impl Crooked {
    pub fn new(len: usize) -> Crooked {
        let memory = nan_scratch(len + 32);
        let at = (memory.as_ptr().align_offset(64) + 1) % 16;
        Crooked { memory, at, len }
    }

    pub fn floats(&mut self) -> &mut [f32] {
        &mut self.memory[self.at..][..self.len]
    }

    /// That nothing round it was written.
    pub fn check(&self) -> Result<(), String> {
        let (before, rest) = self.memory.split_at(self.at);
        match before.iter().chain(&rest[self.len..]).all(|x| x.is_nan()) {
            true => Ok(()),
            false => Err("memory beside the scratch was written".into()),
        }
    }
}

/// Whether two lists of bits agree; a NaN equals every NaN, as payloads are not part of the contract.
pub fn same_bits(kind: buffer::Kind, left: &[u32], right: &[u32]) -> Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("{} elements against {}", left.len(), right.len()));
    }
    for (i, (&x, &y)) in left.iter().zip(right).enumerate() {
        let (a, b) = (kind.value(x), kind.value(y));
        if x != y && !(a.is_nan() && b.is_nan()) {
            return Err(format!("element {i}: {a:e} ({x:#x}) against {b:e} ({y:#x})"));
        }
    }
    Ok(())
}

/// The refusal of a size that disagrees.
pub fn mismatch<T>(dim: &'static str, expected: usize, got: usize) -> Result<T, Error> {
    Err(Error::DimMismatch { dim, expected, got })
}

/// The refusal of what is larger than another argument allows.
pub fn too_large<T>(what: &'static str, most: usize, got: usize) -> Result<T, Error> {
    Err(Error::TooLarge { what, most, got })
}

/// Fails the test with where it happened.
pub fn expect(result: Result<(), String>, what: impl core::fmt::Debug) {
    if let Err(message) = result {
        panic!("{message}\n  in {what:?}");
    }
}
