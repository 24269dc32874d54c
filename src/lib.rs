//! wip
#![no_std]

mod arch;
mod attention;
mod elem;
mod error;
mod kernel;
mod layer;
mod matmul;
mod simd;
mod softmax;
#[macro_use]
mod tier;
mod view;

pub use attention::{Attention, attention_scratch_len};
pub use elem::Elem;
pub use error::Error;
pub use layer::SelfAttention;
pub use matmul::{Matmul, PackedMat, matmul, matmul_add, matmul_fixed, matmul_scratch_len};
pub use softmax::{Softmax, exp_in_place, log_sum_exp, softmax, softmax_in_place};
pub use tier::Tier;
pub use view::{HeadsMut, HeadsRef, MatMut, MatRef};

#[cfg(feature = "half")]
pub use half::{bf16, f16};
