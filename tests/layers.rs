//! The source keeps its shape: a file imports only from the layers above it, none is too long, and
//! CPU instructions are named in one place.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers. A file may use those of a smaller number, and its own folder.
const LAYERS: [(&str, usize); 24] = [
    ("error", 0),
    ("simd", 0),
    ("attention/mask", 0),
    ("elem", 2),
    ("apart", 1),
    ("kernel/unrolled", 0),
    ("kernel/exp", 2),
    ("view/", 3),
    ("arch/", 3),
    ("kernel/tile", 3),
    ("kernel/lone", 4),
    ("kernel/softmax", 3),
    ("kernel/tanh", 3),
    ("kernel/score", 4),
    ("tier", 4),
    ("kernel/pack", 4),
    ("kernel/rotate", 4),
    ("matmul/", 5),
    ("softmax", 5),
    ("attention/mod", 6),
    ("attention/", 5),
    ("layer", 7),
    ("lib", 8),
    ("kernel/mod", 8),
];
const MAX_LINES: usize = 450;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the crate") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `attention/mod` for `src/attention/mod.rs`.
fn name(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).expect("a file of src").with_extension("");
    inside.to_str().expect("a name in UTF-8").replace('\\', "/")
}

fn layer(name: &str) -> Option<usize> {
    LAYERS
        .iter()
        .find(|(prefix, _)| if prefix.ends_with('/') { name.starts_with(prefix) } else { name == *prefix })
        .map(|&(_, layer)| layer)
}

/// A file without comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source file");
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that a file names after `crate::`, by the names of their files.
fn imports(text: &str, names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in text.split("crate::").skip(1) {
        let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(path.len());
        let (plain, rest) = path.split_at(end);
        // `kernel::{exp, pack}` names two.
        let listed = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("x");
        for item in listed.split(',') {
            let parts: Vec<&str> =
                plain.split("::").chain(item.trim().split("::")).filter(|part| !part.is_empty()).collect();
            let file = match parts[..] {
                [folder, file, ..] if names.contains(&format!("{folder}/{file}")) => {
                    format!("{folder}/{file}")
                }
                [folder, ..] if names.contains(&format!("{folder}/mod")) => format!("{folder}/mod"),
                [file, ..] => file.to_owned(),
                [] => continue,
            };
            // What is not a module is a macro of the crate.
            if names.contains(&file) {
                found.push(file);
            }
        }
    }
    found
}

#[test]
fn files_import_only_from_the_layers_above() {
    let files = files(&root().join("src"));
    let names: Vec<String> = files.iter().map(|file| name(file)).collect();
    let folder = |name: &str| name.split_once('/').map(|(folder, _)| folder.to_owned());
    let mut edges = 0;
    for (file, user) in files.iter().zip(&names) {
        let own = layer(user).unwrap_or_else(|| panic!("{user} has no place in the table of layers"));
        // `super` is the folder, but in `mod` files the crate.
        let above = folder(user).filter(|_| !user.ends_with("/mod"));
        let above = above.map_or("crate::".to_owned(), |folder| format!("crate::{folder}::"));
        for used in imports(&code(file).replace("super::", &above), &names) {
            let other = layer(&used).unwrap_or_else(|| panic!("{used} has no place in the table of layers"));
            let siblings = folder(user).is_some()
                && folder(user) == folder(&used)
                && folder(user).as_deref() != Some("kernel");
            assert!(
                other < own || siblings || *user == used,
                "{user} (layer {own}) uses {used} (layer {other})"
            );
            edges += 1;
        }
    }
    assert!(edges > 40, "only {edges} imports were found: the search is broken");
}

#[test]
fn matmul_and_attention_meet_only_in_the_kernels() {
    let files = files(&root().join("src"));
    let names: Vec<String> = files.iter().map(|file| name(file)).collect();
    for (file, user) in files.iter().zip(&names) {
        for used in imports(&code(file), &names) {
            let apart = |a: &str, b: &str| user.starts_with(a) && used.starts_with(b);
            assert!(!apart("matmul/", "attention/") && !apart("attention/", "matmul/"), "{user} uses {used}");
        }
    }
}

#[test]
fn no_file_is_longer_than_450_lines() {
    for folder in ["src", "tests", "fuzz", "benches", "examples"] {
        let folder = root().join(folder);
        // A published crate has only some of them.
        if !folder.exists() {
            continue;
        }
        for file in files(&folder) {
            let lines = fs::read_to_string(&file).expect("a source file").lines().count();
            assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn cpu_instructions_are_named_in_one_place() {
    let mut found = 0;
    for file in files(&root().join("src")) {
        if code(&file).contains("core::arch") {
            let name = name(&file);
            // `tier` asks CPUID.
            assert!(name.starts_with("arch/") || name == "tier", "{name} names core::arch");
            found += 1;
        }
    }
    assert!(found > 1, "the search is broken");
}

/// Cargo.toml says that the library has no unit tests: one would never run.
#[test]
fn tests_are_outside_the_library() {
    for file in files(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file");
        for attribute in ["#[test]", "#[cfg(test)]"] {
            assert!(!text.contains(attribute), "{}: {attribute} in the library", file.display());
        }
    }
}

#[test]
fn first_line_says_what_a_file_is() {
    for file in files(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//! "), "{} does not start with what it is", file.display());
    }
}
