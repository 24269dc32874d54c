//! The kernels of [`kernel::lone`](crate::kernel::lone) in the instructions of Arm's scalar floating-point unit.
//!
//! A compiler writes a loop like these in several times the flash, and at opt-level "z" keeps its sums in memory:
//! it does not read neighbours by one instruction (`vldm`), and prepares each shape of loop anew. `vmla` rounds
//! the product and the sum, so that bits are those of a multiplication and an addition.
//!
//! Functions take one pointer to what they are asked for, whose words the comments name in order.

mod products;
mod scores;
mod softmax;

pub use products::{row, tile};
pub use scores::{few_scores, scores};
pub use softmax::{sqrt, weigh};
