//! The cases of `cases.rs` have the same bits on every target: those of the committed hashes.
//!
//! There are two groups of tiers, those that fuse multiply and add and those that do not. Firmware and
//! wasm compare with the same files. After a change of the order of arithmetic, write them anew with
//! `QKV_WRITE_HASHES=1 cargo test --test hashes`.
#![cfg(feature = "half")]

mod cases;

use std::path::{Path, PathBuf};
use std::{env, fs};

use qkv::Tier;

/// A line for each case: its hash and its name.
fn lines(tier: Tier) -> Vec<String> {
    let mut lines = Vec::new();
    cases::run(tier, &mut |name, hash| lines.push(format!("{hash:016x} {name}"))).expect("cases are valid");
    lines
}

fn path(tier: Tier) -> PathBuf {
    let name = if tier.is_fused() { "fused.txt" } else { "separate.txt" };
    // A crate below this one runs the test on other processors.
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let folder = roots.map(|root| root.join("tests/data/hashes")).find(|folder| folder.is_dir());
    folder.expect("the repository has the folder tests/data/hashes").join(name)
}

#[test]
fn every_tier_has_the_bits_of_its_group() {
    if env::var_os("QKV_WRITE_HASHES").is_some() {
        for tier in Tier::all() {
            fs::write(path(tier), lines(tier).join("\n") + "\n").expect("the file can be written");
        }
    }
    for tier in Tier::all() {
        let path = path(tier);
        let expected =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected: Vec<&str> = expected.lines().collect();
        let lines = lines(tier);
        assert!(lines.len() > 200, "{tier}: {} cases", lines.len());
        let other: Vec<_> = lines.iter().zip(&expected).filter(|(got, expected)| got != expected).collect();
        assert!(other.is_empty(), "{tier}: {} of {} cases differ, {other:#?}", other.len(), lines.len());
        assert_eq!(lines.len(), expected.len(), "{tier}: number of cases");
        println!("{tier}: all {} cases have the bits of its group", lines.len());
    }
}

/// A hash that was the same for all would prove nothing.
#[test]
fn groups_and_cases_differ() {
    let fused = Tier::all().find(|tier| tier.is_fused()).map(lines);
    let mut separate = lines(Tier::portable());
    if let Some(fused) = fused {
        let different = fused.iter().zip(&separate).filter(|(fused, separate)| fused != separate).count();
        assert!(
            different > fused.len() / 4,
            "{different} of {} cases differ between the groups",
            fused.len()
        );
    }
    let all = separate.len();
    separate.sort_unstable();
    separate.dedup_by(|a, b| a[..16] == b[..16]);
    assert!(separate.len() > all / 2, "{} of {all} hashes are different", separate.len());
}
