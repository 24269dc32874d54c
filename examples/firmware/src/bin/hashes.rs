//! Prints the hashes of the cases of `tests/hashes/cases.rs`, for `tests/targets/compare.sh`.

#![no_std]
#![no_main]

#[path = "../../../../tests/hashes/cases.rs"]
mod cases;

use qkv::Tier;
use semihosting::println;
use semihosting::process::ExitCode;

#[cfg_attr(target_arch = "arm", cortex_m_rt::entry)]
#[cfg_attr(target_arch = "riscv32", riscv_rt::entry)]
fn main() -> ! {
    let done = cases::run(Tier::detect(), &mut |name, hash| println!("{hash:016x} {name}"));
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    };
    code.exit_process()
}
