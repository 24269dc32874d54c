//! `qkv` for C: the functions of `include/qkv.h`. Nothing is allocated, nothing panics, nothing is global.
//!
//! Every call checks pointers, lengths, alignment, overlap and sizes first, and writes nothing but the error's
//! details if it refuses.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

// The planted panic stands alone: the others are not what shows that the proof can fail, and take long to link.
#[cfg(not(feature = "bad"))]
mod append;
#[cfg(not(feature = "bad"))]
mod attention;
#[cfg(not(feature = "bad"))]
mod error;
#[cfg(not(feature = "bad"))]
mod matmul;
#[cfg(not(feature = "bad"))]
mod memory;
#[cfg(not(feature = "bad"))]
mod options;
#[cfg(not(feature = "bad"))]
mod softmax;
#[cfg(not(feature = "bad"))]
mod tensor;
#[cfg(not(feature = "bad"))]
mod tier;

/// A panic that can be reached, for the proof that the proof can fail.
#[cfg(feature = "bad")]
#[unsafe(no_mangle)]
pub extern "C" fn qkv_bad(i: usize) -> u8 {
    [1, 2, 3][i]
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    #[cfg(feature = "prove")]
    {
        unsafe extern "C" {
            safe fn qkv_a_panic_is_reachable() -> !;
        }
        qkv_a_panic_is_reachable()
    }
    #[cfg(not(feature = "prove"))]
    loop {}
}
