//! The kernels of [`kernel::lone`](crate::kernel::lone) in the instructions of Arm's scalar floating-point unit.
//!
//! A compiler writes a loop like these in several times the flash, and at opt-level "z" keeps its sums in memory:
//! it does not read neighbours by one instruction (`vldm`), and prepares each shape of loop anew. `vmla` rounds
//! the product and the sum, so that bits are those of a multiplication and an addition. A Cortex-M4 takes three
//! cycles for it, and one each for a product and a sum that do not wait for each other. An M7 takes one
//! for `vmla`: `--cfg qkv_vmla` beside `-C target-cpu=cortex-m7` says so, since a library is not told for which it is.
//!
//! Functions take one pointer to what they are asked for, whose words the comments name in order.

/// Four times `sum += a * b`, by the numbers of registers; those at the end are free.
#[cfg(qkv_vmla)]
macro_rules! four {
    ($($sum:literal += $a:literal * $b:literal),*; $($free:literal),*) => {
        concat!($("vmla.f32 s", $sum, ", s", $a, ", s", $b, "\n"),*)
    };
}
#[cfg(not(qkv_vmla))]
macro_rules! four {
    ($($sum:literal += $a:literal * $b:literal),*; $($free:literal),*) => {
        concat!(
            $("vmul.f32 s", $free, ", s", $a, ", s", $b, "\n",)*
            $("vadd.f32 s", $sum, ", s", $sum, ", s", $free, "\n"),*
        )
    };
}
mod products;
mod scores;
mod softmax;

pub use products::{row, tile};
pub use scores::{few_scores, scores};
pub use softmax::{sqrt, weigh};
