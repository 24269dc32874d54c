//! The command line.

use std::path::PathBuf;

use crate::rounds::Plan;

pub const USAGE: &str = "\
Measures qkv and its peers in turn: cargo run --release [-- OPTIONS] [FILTER...]

FILTER         only shapes with one of these in their name, as `--list` prints it
--quick        0.2 seconds a shape, for a first look; leaves out what takes long
--seconds N    how long each shape is measured (default 6)
--out DIR      where CSV and plots go (default target/peers)
--list         print the names of all shapes
--help         print this";

pub struct Args {
    pub filters: Vec<String>,
    pub quick: bool,
    pub plan: Plan,
    pub out: PathBuf,
    pub list: bool,
    pub help: bool,
}

impl Args {
    pub fn parse() -> Result<Args, lexopt::Error> {
        use lexopt::prelude::*;

        let mut parser = lexopt::Parser::from_env();
        let mut seconds = None;
        let mut args = Args {
            filters: Vec::new(),
            quick: false,
            plan: Plan { seconds: 6.0, rounds: 3 },
            out: "target/peers".into(),
            list: false,
            help: false,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("quick") => args.quick = true,
                Long("seconds") => seconds = Some(parser.value()?.parse()?),
                Long("out") => args.out = parser.value()?.into(),
                Long("list") => args.list = true,
                Short('h') | Long("help") => args.help = true,
                Value(filter) => args.filters.push(filter.string()?),
                other => return Err(format!("{}\n\n{USAGE}", other.unexpected()).into()),
            }
        }
        if args.quick {
            args.plan = Plan { seconds: 0.2, rounds: 1 };
        }
        if let Some(seconds) = seconds {
            if !(0.0..=86_400.0).contains(&seconds) {
                return Err("--seconds takes a number of seconds from 0 to 86400".into());
            }
            args.plan.seconds = seconds;
        }
        Ok(args)
    }

    /// Of shapes with their names, those that are asked for.
    pub fn wanted<T>(&self, mut shapes: Vec<(String, T)>) -> Vec<(String, T)> {
        if !self.filters.is_empty() {
            shapes.retain(|(name, _)| self.filters.iter().any(|filter| name.contains(filter.as_str())));
        }
        shapes
    }
}
