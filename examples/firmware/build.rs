//! Gives the linker the memory of the board that `QKV_BOARD` names.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=QKV_BOARD");
    println!("cargo::rerun-if-changed=memory");
    let board = env::var("QKV_BOARD").expect("QKV_BOARD names a file of memory/; run.sh sets it");
    let from = Path::new("memory").join(board).with_extension("x");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::copy(&from, Path::new(&out).join("memory.x"))
        .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    println!("cargo::rustc-link-search={out}");
    // The linker scripts of cortex-m-rt and riscv-rt have the same name.
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
