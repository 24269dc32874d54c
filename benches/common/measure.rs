//! The command line of the benches that keep the best times, and their clock.

use std::time::Instant;

use qkv::Tier;

/// The least that a timing lasts, so that the clock's resolution does not matter (seconds).
const SHORTEST: f64 = 100e-6;

/// `[--quick] [--tier NAME] [filter]`.
pub struct Args {
    /// For a first look.
    pub quick: bool,
    /// The tier of the calls: by default the fastest.
    pub tier: Tier,
    /// Measure only what has this in its name.
    pub filter: String,
}

impl Args {
    /// `None`, after a note, if the bench is only run to see that it starts.
    pub fn parse(bench: &str) -> Result<Option<Args>, lexopt::Error> {
        let mut args = Args { quick: false, tier: Tier::detect(), filter: String::new() };
        let mut benching = false;
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                lexopt::Arg::Long("quick") => args.quick = true,
                lexopt::Arg::Long("bench") => benching = true,
                lexopt::Arg::Long("tier") => args.tier = tier(&parser.value()?.to_string_lossy())?,
                lexopt::Arg::Value(name) => args.filter = name.to_string_lossy().into_owned(),
                other => return Err(other.unexpected()),
            }
        }
        if !benching {
            println!("measures only under `cargo bench --bench {bench}`");
        }
        Ok(benching.then_some(args))
    }
}

impl Args {
    /// What adds rows by name to a list, if they are wanted.
    pub fn adds_to<'a, R>(&'a self, rows: &'a mut Vec<R>) -> impl FnMut(String, &dyn Fn(String) -> R) + 'a {
        |name, row| {
            if name.contains(&self.filter) {
                rows.push(row(name));
            }
        }
    }
}

fn tier(name: &str) -> Result<Tier, lexopt::Error> {
    let there = || Tier::all().map(|tier| tier.to_string());
    let unknown = || format!("no tier {name:?} here: there are {}", there().collect::<Vec<_>>().join(", "));
    Tier::all().find(|tier| tier.to_string() == name).ok_or_else(|| unknown().into())
}

/// Times one call, or as many as take long enough, and keeps the best: the seconds of this time.
pub fn best_of(best: &mut f64, call: &mut dyn FnMut()) -> f64 {
    let calls = (SHORTEST / *best).ceil().max(1.0);
    let start = Instant::now();
    (0..calls as usize).for_each(|_| call());
    let time = start.elapsed().as_secs_f64() / calls;
    *best = best.min(time);
    time
}
