//! Prints the hashes of the cases of `tests/hashes/cases.rs` through the host's `print`.

#![no_std]

#[path = "../../../hashes/cases.rs"]
mod cases;

use core::fmt::{self, Write};

use qkv::Tier;

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    fn print(text: *const u8, len: usize);
}

struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the pointer and length of a string, which the host only reads.
        unsafe { print(text.as_ptr(), text.len()) };
        Ok(())
    }
}

/// Whether all cases were accepted.
#[unsafe(no_mangle)]
extern "C" fn run() -> bool {
    let mut printed = true;
    let done = cases::run(Tier::detect(), &mut |name, hash| {
        printed &= writeln!(Out, "{hash:016x} {name}").is_ok();
    });
    done.is_ok() && printed
}

/// 1 if the code has vectors.
#[unsafe(no_mangle)]
extern "C" fn has_vectors() -> bool {
    Tier::detect() != Tier::scalar()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
