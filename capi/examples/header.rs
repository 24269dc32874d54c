//! Writes `include/qkv.h` from the source: `cargo run --example header`, or `-- --check` to see whether it is
//! current.

use std::path::Path;
use std::process::ExitCode;

const SOURCES: [&str; 8] = ["tensor", "tier", "error", "matmul", "options", "attention", "append", "softmax"];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src").join(source).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().expect("sources that cbindgen understands").write(&mut header);
    // What Rust asks of documentation says nothing in C.
    let header = String::from_utf8(header).expect("a header in UTF-8");
    let safety = "//\n// # Safety\n// Pointers and lengths are as the header's first lines say.\n";
    let header = header.replace(safety, "");

    let path = root.join("include/qkv.h");
    match std::env::args().nth(1).as_deref() {
        None => {
            std::fs::write(&path, header).expect("include/qkv.h can be written");
            ExitCode::SUCCESS
        }
        Some("--check") if std::fs::read_to_string(&path).is_ok_and(|there| there == header) => {
            println!("include/qkv.h is current");
            ExitCode::SUCCESS
        }
        Some("--check") => {
            eprintln!("include/qkv.h is not what the source says: cargo run --example header");
            ExitCode::FAILURE
        }
        Some(other) => {
            eprintln!("{other}: only --check is understood");
            ExitCode::FAILURE
        }
    }
}
