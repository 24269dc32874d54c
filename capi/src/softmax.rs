//! Softmax and log-sum-exp of rows.

use core::ffi::c_int;

use qkv::Softmax;

use crate::error::{ErrorDetail, Refusal, report};
use crate::memory::{Memory, argument};
use crate::tensor::{AnyMat, AnyMatOut, Mat, MatOut, typed};

/// The softmax of each row of `x` to the same row of `out`.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_softmax_rows(
    x: *const Mat,
    out: *const MatOut,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (x, out) = unsafe {
            (argument("x", x)?.view("x", &mut memory)?, argument("out", out)?.view("out", &mut memory)?)
        };
        let done = typed!(AnyMat, x, x => typed!(AnyMatOut, out, out => Softmax::new().run(x, out)));
        done.map_err(|error| Refusal::of("out", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

/// The softmax of each row of `x` over the row itself.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_softmax_rows_in_place(x: *const MatOut, error: *mut ErrorDetail) -> c_int {
    let run = || {
        // SAFETY: as the caller promises.
        let x = unsafe { argument("x", x)?.view("x", &mut Memory::new(error))? };
        let done = typed!(AnyMatOut, x, x => Softmax::new().run_in_place(x));
        done.map_err(|error| Refusal::of("x", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

/// `out[i]` is the natural logarithm of the sum of e^x over row i of `x`; `out_len` is its rows.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_log_sum_exp_rows(
    x: *const Mat,
    out: *mut f32,
    out_len: usize,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (x, out) =
            unsafe { (argument("x", x)?.view("x", &mut memory)?, memory.write("out", out, out_len)?) };
        typed!(AnyMat, x, x => Softmax::new().log_sum_exp(x, out)).map_err(|error| Refusal::of("out", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}
