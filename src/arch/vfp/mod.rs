//! The kernels of [`kernel::lone`](crate::kernel::lone) in the instructions of Arm's scalar floating-point unit.
//!
//! A compiler writes a loop like these in several times the flash, and at opt-level "z" keeps its sums in memory:
//! it does not read neighbours by one instruction (`vldm`), and prepares each shape of loop anew.
//!
//! `vmla` rounds the product and the sum, so that bits are those of a multiplication and an addition. A Cortex-M4
//! takes three cycles for it, and one each for a product and a sum that do not wait for each other. `--cfg qkv_fma`
//! makes it `vfma`, which rounds once and takes an M7 or M55 one cycle; `--cfg qkv_mve` beside it, on an M55, gives
//! the inner loops to its vectors: four sums an instruction. A library is not told for which processor it is built.
//!
//! All but `weigh` and `sqrt` are asked for by the kind of elements, and take one pointer to what they are asked for, whose
//! words the comments name in order.

#[cfg(all(qkv_mve, not(qkv_fma)))]
compile_error!("vectors of an M55 fuse, so all else must: build with --cfg qkv_fma too");

#[macro_use]
#[cfg_attr(qkv_fma, path = "fused.rs")]
#[cfg_attr(not(qkv_fma), path = "separate.rs")]
mod steps;
/// `sum += a * b` four times, by the numbers of registers; those at the end are free.
macro_rules! four {
    ($s0:literal += $a0:literal * $b0:literal, $s1:literal += $a1:literal * $b1:literal,
     $s2:literal += $a2:literal * $b2:literal, $s3:literal += $a3:literal * $b3:literal; $f0:literal, $f1:literal) => {
        concat!(
            two!($s0 += $a0 * $b0, $s1 += $a1 * $b1; $f0, $f1),
            two!($s2 += $a2 * $b2, $s3 += $a3 * $b3; $f0, $f1)
        )
    };
}
#[macro_use]
#[cfg_attr(qkv_mve, path = "mve.rs")]
#[cfg_attr(not(qkv_mve), path = "single.rs")]
mod loops;

/// Bytes of an element.
macro_rules! bytes {
    (f32) => {
        4
    };
    ($half:ident) => {
        2
    };
}
/// What only elements of 16 bits have need of.
#[cfg_attr(qkv_mve, allow(unused_macros, reason = "its loops need no more registers"))]
macro_rules! if_half {
    (f32 $instruction:literal) => {
        ""
    };
    ($half:ident $instruction:literal) => {
        concat!($instruction, "\n")
    };
}
/// The 16 bits in a register as a float.
#[cfg(feature = "half")]
macro_rules! element {
    (bf16 $bits:literal, $to:literal) => {
        concat!("lsl ", $bits, ", ", $bits, ", #16\nvmov s", $to, ", ", $bits, "\n")
    };
    (f16 $bits:literal, $to:literal) => {
        concat!("vmov s", $to, ", ", $bits, "\nvcvtb.f32.f16 s", $to, ", s", $to, "\n")
    };
}
/// The function of an element's kind, whose body is a macro's, if there is one: as that of [`kernel::lone`](crate::kernel::lone). All floating-point units of a Cortex-M have
/// instructions for `f16`; Arm's other processors have 64-bit atomics.
macro_rules! of_kind {
    ($name:ident) => {
        pub const fn $name(kind: crate::elem::Kind) -> Option<unsafe extern "C" fn(*mut u32)> {
            use crate::elem::Kind;
            #[unsafe(naked)]
            unsafe extern "C" fn of_f32(_: *mut u32) {
                $name!(f32)
            }
            #[cfg(feature = "half")]
            #[unsafe(naked)]
            unsafe extern "C" fn of_f16(_: *mut u32) {
                $name!(f16)
            }
            #[cfg(feature = "half")]
            #[unsafe(naked)]
            unsafe extern "C" fn of_bf16(_: *mut u32) {
                $name!(bf16)
            }
            match kind {
                Kind::F32 => Some(of_f32),
                #[cfg(feature = "half")]
                _ if cfg!(any(target_endian = "big", target_has_atomic = "64")) => None,
                #[cfg(feature = "half")]
                Kind::F16 => Some(of_f16),
                #[cfg(feature = "half")]
                Kind::Bf16 => Some(of_bf16),
            }
        }
    };
}
mod products;
mod scores;
mod softmax;

pub use products::{row, tile};
pub use scores::{few_scores, scores};
pub use softmax::{sqrt, weigh};
