//! The smallest firmware: a product and causal attention with a window, `f32`, and nothing else. It is there
//! to be measured: its size, and that no panic, allocator or formatting is linked.

#![no_std]
#![no_main]

use core::hint::black_box;

use qkv::{Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, attention_scratch_len, matmul};
use semihosting::process::ExitCode;

const N: usize = 16;
static X: [f32; N * N] = [1.0; N * N];
const SCRATCH: usize = attention_scratch_len(N, N, N, N);

/// Sizes that the compiler cannot know.
fn run(out: &mut [f32], scratch: &mut [f32]) -> Result<(), Error> {
    let (m, k, n) = black_box((N, N, N));
    let (x, mut c) = (black_box(&X), [0.0; N * N]);
    matmul(MatRef::new(x, m, k)?, MatRef::new(x, k, n)?, MatMut::new(&mut c, m, n)?, scratch)?;
    let heads = |x| HeadsRef::token_major(x, n, 1, k);
    let out = HeadsMut::token_major(out, m, 1, k)?;
    Attention::new().causal().window(black_box(4), 0).run(heads(x)?, heads(x)?, heads(&c)?, out, scratch)
}

#[cfg_attr(target_arch = "arm", cortex_m_rt::entry)]
#[cfg_attr(target_arch = "riscv32", riscv_rt::entry)]
fn main() -> ! {
    let (mut out, mut scratch) = ([0.0; N * N], [0.0; SCRATCH]);
    // All values are N.
    let right = run(&mut out, &mut scratch).is_ok() && black_box(&out).iter().all(|&x| x == N as f32);
    (if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }).exit_process()
}

#[cfg(not(feature = "print"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    unsafe extern "C" {
        safe fn a_panic_path_is_reachable() -> !;
    }
    a_panic_path_is_reachable()
}
