//! Operands of the benches: seeded numbers of -1 to 1 in each element type.

#![allow(dead_code, reason = "each bench is a crate of its own and uses a part")]

pub mod exact;
pub mod limits;
pub mod machine;
pub mod measure;

use qkv::{Elem, bf16, f16};

/// An element type that the benches make and read.
pub trait Number: Elem {
    const NAME: &'static str;
    fn of(x: f32) -> Self;
    fn to(self) -> f64;
}

impl Number for f32 {
    const NAME: &'static str = "f32";
    fn of(x: f32) -> f32 {
        x
    }
    fn to(self) -> f64 {
        f64::from(self)
    }
}
impl Number for f16 {
    const NAME: &'static str = "f16";
    fn of(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn to(self) -> f64 {
        self.to_f64()
    }
}
impl Number for bf16 {
    const NAME: &'static str = "bf16";
    fn of(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn to(self) -> f64 {
        self.to_f64()
    }
}

/// `len` numbers, evenly spread over -1 to 1: the same for the same seed.
pub fn numbers<T: Number>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    let next = || {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        T::of(((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    core::iter::repeat_with(next).take(len).collect()
}

/// The sizes of one call of attention.
#[derive(Clone, Copy)]
pub struct Shape {
    pub q_len: usize,
    pub kv_len: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub causal: bool,
    /// Heads outermost in memory, not tokens.
    pub head_major: bool,
}

impl Shape {
    pub const fn prefill(len: usize, n_heads: usize, head_dim: usize) -> Shape {
        Shape {
            q_len: len,
            kv_len: len,
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            causal: false,
            head_major: false,
        }
    }

    /// One query over a filled cache.
    pub const fn decode(kv_len: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Shape {
        Shape { q_len: 1, kv_len, n_heads, n_kv_heads, head_dim, causal: false, head_major: false }
    }

    pub const fn causal(self) -> Shape {
        Shape { causal: true, ..self }
    }

    pub const fn head_major(self) -> Shape {
        Shape { head_major: true, ..self }
    }

    /// Strides of a token and of a head, of `len` tokens of `n_heads` heads.
    pub const fn strides(&self, len: usize, n_heads: usize) -> (usize, usize) {
        if self.head_major {
            (self.head_dim, len * self.head_dim)
        } else {
            (n_heads * self.head_dim, self.head_dim)
        }
    }

    /// Elements of K, and as many of V.
    pub const fn kv_elements(&self) -> usize {
        self.kv_len * self.n_kv_heads * self.head_dim
    }

    /// Floating-point operations of both products; a causal call needs half of them.
    pub fn flops(&self) -> f64 {
        let all = 4.0 * (self.q_len * self.kv_len * self.n_heads * self.head_dim) as f64;
        if self.causal { all / 2.0 } else { all }
    }
}
