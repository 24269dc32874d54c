//! Cases of ONNX's operators and generated ones, against truths in `f64`, on every tier.
//!
//! `QKV_CONFORMANCE=DIR cargo test --release --test conformance` runs every case below DIR; without the
//! variable those in `tests/data` are run. What a case is: `tests/data/README.md`. The test has no harness,
//! so that what is out of scope is always printed, with the reason.

mod common;

#[path = "conformance/attention.rs"]
mod attention;
#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/einsum.rs"]
mod einsum;
#[path = "conformance/json.rs"]
mod json;
#[path = "conformance/judge.rs"]
mod judge;
#[path = "conformance/product.rs"]
mod product;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/rows.rs"]
mod rows;
#[path = "conformance/setup.rs"]
mod setup;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use case::{Case, Stop};
use report::{Felt, Report};

fn main() -> ExitCode {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let given = std::env::var_os("QKV_CONFORMANCE").map(PathBuf::from);
    let root = given.as_deref().unwrap_or(&committed);
    let tiers: Vec<_> = common::tiers().iter().map(|tier| tier.name()).collect();
    println!("\nconformance: cases below {}, on {}", root.display(), tiers.join(", "));

    let mut well = true;
    for (name, check) in [("json", json::check as fn() -> _), ("judge", judge::check), ("outcomes", outcomes)]
    {
        if let Err(message) = check() {
            println!("  FAILED: the test's own {name}: {message}");
            well = false;
        }
    }
    let mut found = Vec::new();
    if let Err(message) = folders(root, &mut found) {
        println!("  FAILED: {message}");
        well = false;
    }
    let (mut report, mut felt) = (Report::default(), Felt::default());
    for folder in &found {
        let name = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
        report.add(name, run(Case::read(folder), &mut felt));
    }
    felt.print();
    let (text, right) = report.summary();
    println!("{text}");
    well &= right;
    // Other folders need not have a case for every option.
    if given.is_none() && !felt.unfelt().is_empty() {
        println!("FAILED: the loss of an option goes unseen: {}", felt.unfelt().join(", "));
        well = false;
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All cases at and below a folder, in order.
fn folders(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let wrong = |error| format!("{}: {error}", folder.display());
    if folder.join("case.json").is_file() {
        found.push(folder.to_owned());
    }
    let entries = fs::read_dir(folder).map_err(wrong)?.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let mut inside: Vec<PathBuf> =
        entries.iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    inside.sort();
    inside.iter().try_for_each(|folder| folders(folder, found))
}

/// Runs a case. A panic is a failure like any other, so that the other cases run.
fn run(case: Result<Case, Stop>, felt: &mut Felt) -> Result<(), Stop> {
    let run = || {
        let case = case?;
        match case.op()? {
            "Attention" => attention::attention(&case, felt),
            "FlexAttention" => attention::flex(&case, felt),
            "MatMul" => product::matmul(&case),
            "Gemm" => product::gemm(&case),
            "MatMulEx" => product::generated(&case),
            "Einsum" => einsum::einsum(&case),
            "Softmax" => rows::softmax(&case),
            "Exp" => rows::exp(&case),
            "Tanh" => rows::tanh(&case),
            op => Err(format!("an unknown operator {op}").into()),
        }
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic, see above".into()))
}

/// That what a case says and this test does not know makes the case fail, and is not left out.
fn outcomes() -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/onnx/test_attention_4d_with_qk_matmul_softcap");
    let text = fs::read_to_string(folder.join("case.json")).map_err(|error| error.to_string())?;
    let outcome = |from: &str, to: &str| {
        if !text.contains(from) {
            return Err(Stop::Failed(format!("no {from} in the case")));
        }
        run(Case::new(&folder, &text.replacen(from, to, 1)), &mut Felt::default())
    };
    for (from, to, expected) in [
        ("\"op\": \"Attention\"", "\"op\": \"Attend\"", "an unknown operator Attend"),
        ("\"attributes\": {", "\"attributes\": {\"more\": 1, ", "unknown: attribute more"),
        ("\"attributes\": {", "\"attributes\": {\"is_causal\": 2, ", "attribute is_causal is Number(2.0)"),
        ("\"attributes\": {", "\"attributes\": {\"left_window_size\": -2, ", "left_window_size is -2"),
        ("_mode\": 1", "_mode\": 4", "an unknown qk_matmul_output_mode 4"),
        ("\"inputs\": [", "\"inputs\": [{\"slot\": 7, \"name\": \"sinks\"},", "unknown: inputs 7"),
        ("\"slot\": 3, \"name\": \"qk", "\"slot\": 4, \"name\": \"qk", "unknown: outputs 4"),
        ("[2, 3, 4, 8]", "[2, 3, 5, 8]", "960 needed"),
    ] {
        match outcome(from, to) {
            Err(Stop::Failed(message)) if message.contains(expected) => {}
            other => return Err(format!("with {to}: {other:?}, not {expected}")),
        }
    }
    let nothing = (outcome("\"op\"", "\"op\""), Report::default().summary());
    if matches!(nothing, (Ok(()), (_, false))) { Ok(()) } else { Err(format!("{nothing:?}")) }
}
