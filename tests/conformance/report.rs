//! What became of the cases, and which options they feel.

use std::collections::BTreeMap;

use crate::case::Stop;
use crate::setup::{OPTIONS, Setup};

/// For each option, calls with it, and those that fail without it.
#[derive(Default)]
pub struct Felt(BTreeMap<&'static str, (usize, usize)>);

impl Felt {
    /// Runs the call without each of its options; `passes` says whether its output is still right.
    pub fn note(&mut self, setup: &Setup, passes: impl Fn(&Setup) -> bool) {
        for (option, weaker) in setup.weaker() {
            let (calls, failing) = self.0.entry(option).or_default();
            *calls += 1;
            *failing += usize::from(!passes(&weaker));
        }
    }

    /// Options whose loss no call notices, or that no call has.
    pub fn unfelt(&self) -> Vec<&'static str> {
        let felt = |option: &&str| self.0.get(option).is_some_and(|(_, failing)| *failing > 0);
        OPTIONS.into_iter().filter(|option| !felt(option)).collect()
    }

    pub fn print(&self) {
        for (option, (calls, failing)) in &self.0 {
            println!("  without {option}, {failing} of {calls} calls are rejected");
        }
    }
}

/// Results by the name of the case.
#[derive(Default)]
pub struct Report {
    passed: usize,
    out_of_scope: Vec<(String, &'static str)>,
    failed: Vec<(String, String)>,
}

impl Report {
    pub fn add(&mut self, name: String, result: Result<(), Stop>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(Stop::OutOfScope(reason)) => self.out_of_scope.push((name, reason)),
            Err(Stop::Failed(message)) => self.failed.push((name, message)),
        }
    }

    /// All but the passes by name, and how many there are of each; whether all is well.
    pub fn summary(&self) -> (String, bool) {
        let mut text = String::new();
        for (name, reason) in &self.out_of_scope {
            text += &format!("  out of scope: {name}: {reason}\n");
        }
        for (name, message) in &self.failed {
            text += &format!("  FAILED: {name}: {message}\n");
        }
        let (passed, others, failed) = (self.passed, self.out_of_scope.len(), self.failed.len());
        if passed + others + failed == 0 {
            return (text + "no case was found: a case is a folder with a file case.json", false);
        }
        let failures = if failed > 0 { format!(", {failed} FAILED") } else { String::new() };
        (text + &format!("{passed} passed, {others} out of scope{failures}"), failed == 0)
    }
}
