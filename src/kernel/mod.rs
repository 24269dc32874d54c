//! Inner loops, each written once over [`Simd`](crate::simd::Simd), and those of one lane ([`lone`]). They validate nothing.

pub mod exp;
pub mod lone;
pub mod pack;
pub mod rotate;
pub mod score;
pub mod softmax;
pub mod tanh;
pub mod tile;
pub mod unrolled;
