//! The public API without std, allocator or panic, called with values that the compiler cannot know.
//!
//! The panic handler calls a function that exists nowhere. Fat LTO removes what is unreachable, so if
//! this links, no panic can be reached from any call below, whatever its arguments. It also runs, and
//! compares each result with a plain computation.

#![no_std]
#![no_main]

mod attention;
mod cache;
mod data;
mod layer;
mod matmul;
mod scores;
mod softmax;
mod views;

use core::ffi::{c_char, c_int, c_void};

/// What was found to be wrong.
pub enum Failure {
    /// A result, by the name of the check.
    Wrong(&'static str),
    /// A call that should have been accepted.
    Refused,
}

impl From<qkv::Error> for Failure {
    fn from(_: qkv::Error) -> Failure {
        Failure::Refused
    }
}

pub type Check = Result<(), Failure>;

/// The check called `what` holds.
pub fn ensure(holds: bool, what: &'static str) -> Check {
    if holds { Ok(()) } else { Err(Failure::Wrong(what)) }
}

#[link(name = "c")]
unsafe extern "C" {
    fn write(file: c_int, bytes: *const c_void, len: usize) -> isize;
}

fn print(text: &str) {
    // SAFETY: the pointer and length of a string. What is not written is only a message.
    unsafe { write(1, text.as_ptr().cast(), text.len()) };
}

#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    #[cfg(feature = "bad")]
    print(["\n", "\n\n"][core::hint::black_box(_argc as usize)]);
    // Alone, since the library is not what shows that the proof can fail, and takes long to link.
    if cfg!(feature = "bad") {
        return 0;
    }
    let parts = [
        ("views", views::run as fn() -> Check),
        ("matmul", matmul::run),
        ("attention", attention::run),
        ("cache", cache::run),
        ("scores", scores::run),
        ("softmax", softmax::run),
        ("layer", layer::run),
    ];
    let mut status = 0;
    for (name, run) in parts {
        print(name);
        match run() {
            Ok(()) => print(": ok\n"),
            Err(failure) => {
                status = 1;
                print(": FAILED: ");
                print(match failure {
                    Failure::Wrong(what) => what,
                    Failure::Refused => "a call was refused",
                });
                print("\n");
            }
        }
    }
    status
}

#[cfg(not(feature = "locate"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    unsafe extern "C" {
        safe fn a_panic_path_is_reachable() -> !;
    }
    a_panic_path_is_reachable()
}

#[cfg(feature = "locate")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    unsafe extern "C" {
        safe fn abort() -> !;
    }
    abort()
}
