//! Measures qkv beside other libraries, in turn, in one process, on one thread: see README.md.

mod args;
mod attention;
mod attention_peers;
mod blas;
mod buffer;
#[path = "../../common/mod.rs"]
mod common;
mod matmul;
mod matmul_peers;
mod ours;
mod places;
mod plot;
mod report;
mod rounds;

use std::fmt::Display;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use args::{Args, USAGE};
use common::machine::{date, processor};
use places::Found;
use report::{Relative, Row};
use rounds::Failure;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for; whether all results were right.
fn run() -> Result<bool, Failure> {
    let args = Args::parse()?;
    if args.help {
        println!("{USAGE}");
        return Ok(true);
    }
    let matmuls = named(matmul::shapes(args.quick), |it| format!("{}/{}", it.group, it.name()));
    let attentions = named(attention::cases(), |it| format!("{}/{}", it.group, it.name()));
    let ours = named(ours::rows(args.quick), |it| format!("{}/{}", it.group, it.shape));
    if args.list {
        let names = names(&matmuls).chain(names(&attentions)).chain(names(&ours));
        names.for_each(|name| println!("{name}"));
        return Ok(true);
    }
    let (matmuls, attentions, ours) = (args.wanted(matmuls), args.wanted(attentions), args.wanted(ours));
    let count = matmuls.len() + attentions.len() + ours.len();
    if count == 0 {
        return Err(format!("no shape has {} in its name: see --list", args.filters.join(" or ")).into());
    }
    one_thread()?;
    std::fs::create_dir_all(&args.out)?;

    println!("{}, {} tier, 1 thread, {}", processor(), qkv::Tier::detect(), date());
    println!("% of the limit: the FMA peak, or reading the weights, or K and V, where that takes longer\n");
    let mut bench = Bench { bar: bar(count as u64), rows: Vec::new(), relatives: Vec::new(), args };
    if !matmuls.is_empty() {
        bench.matmuls(matmuls)?;
    }
    if !attentions.is_empty() {
        bench.attentions(attentions)?;
    }
    bench.ours(ours)?;
    bench.finish()
}

/// What is measured, with its name.
type Named<T> = (String, T);

fn named<T>(shapes: Vec<T>, name: impl Fn(&T) -> String) -> Vec<Named<T>> {
    shapes.into_iter().map(|shape| (name(&shape), shape)).collect()
}

fn names<T>(shapes: &[Named<T>]) -> impl Iterator<Item = &String> {
    shapes.iter().map(|(name, _)| name)
}

/// Peers are told to use one thread, and all stay on one processor, children too.
fn one_thread() -> Result<(), Failure> {
    for (name, value) in blas::ENVIRONMENT {
        // SAFETY: there is one thread yet.
        unsafe { std::env::set_var(name, value) };
    }
    // The last: the system's own work is mostly on the first.
    if let Some(&last) = core_affinity::get_core_ids().unwrap_or_default().last() {
        core_affinity::set_for_current(last);
    }
    // Crates that share work out find this thread alone.
    Ok(rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?)
}

fn bar(count: u64) -> ProgressBar {
    const PARTS: u64 = 100;
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg} ({elapsed} gone, {eta} left)");
    let bar = ProgressBar::new(count * PARTS);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Bench {
    args: Args,
    bar: ProgressBar,
    rows: Vec<Row>,
    relatives: Vec<Relative>,
}

impl Bench {
    fn say(&self, line: impl Display) {
        self.bar.suspend(|| println!("{line}"));
    }

    fn peers<P>(&self, found: Found<P>) -> Vec<P> {
        let (peers, lines): (Vec<_>, Vec<_>) = found.peers.into_iter().unzip();
        self.say(format!("peers: {}", lines.join("\n       ")));
        found.missing.iter().for_each(|line| self.say(format!("not measured: {line}")));
        self.say("");
        peers
    }

    /// Calls `measure` for each shape and prints a table after the last of each group.
    fn groups<T, R>(
        &mut self,
        shapes: Vec<Named<T>>,
        mut measure: impl FnMut(&T, &Args, &dyn Fn(f64)) -> Result<R, Failure>,
        report: impl Fn(&str, &[R]) -> (String, plot::Bars),
    ) -> Result<Vec<R>, Failure> {
        let (mut rows, mut of_group) = (Vec::new(), Vec::new());
        let group = |name: &str| name.split('/').next().unwrap_or_default().to_string();
        let mut shapes = shapes.into_iter().peekable();
        while let Some((name, shape)) = shapes.next() {
            let before = self.bar.position();
            self.bar.set_message(name.clone());
            let progress = |part: f64| self.bar.set_position(before + (99.0 * part) as u64);
            of_group.push(measure(&shape, &self.args, &progress)?);
            self.bar.set_position(before + 100);
            let group_name = group(&name);
            if shapes.peek().is_none_or(|(next, _)| group(next) != group_name) {
                let (table, bars) = report(&group_name, &of_group);
                self.say(format!("{group_name}\n{table}\n"));
                bars.draw(&self.args.out.join(format!("{group_name}.svg")))?;
                rows.append(&mut of_group);
            }
        }
        Ok(rows)
    }

    fn matmuls(&mut self, shapes: Vec<Named<matmul::Shape>>) -> Result<(), Failure> {
        let mut peers = matmul_peers::peers();
        self.say(format!(
            "peers in Rust: {}",
            peers.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", ")
        ));
        peers.extend(self.peers(blas::peers()));
        let measure = |shape: &matmul::Shape, args: &Args, progress: &dyn Fn(f64)| {
            matmul::measure(*shape, &mut peers, args.plan, progress)
        };
        let report = |group: &str, rows: &[Row]| (report::table(rows), report::bars(group, rows));
        let rows = self.groups(shapes, measure, report)?;
        self.rows.extend(rows);
        Ok(())
    }

    fn attentions(&mut self, cases: Vec<Named<attention::Case>>) -> Result<(), Failure> {
        let mut peers = self.peers(attention_peers::peers());
        let measure = |case: &attention::Case, args: &Args, progress: &dyn Fn(f64)| {
            attention::measure(*case, &mut peers, args.plan, progress)
        };
        let report = |group: &str, rows: &[Row]| (report::table(rows), report::bars(group, rows));
        let rows = self.groups(cases, measure, report)?;
        self.rows.extend(rows);
        Ok(())
    }

    fn ours(&mut self, rows: Vec<Named<ours::Row>>) -> Result<(), Failure> {
        let measure =
            |row: &ours::Row, args: &Args, progress: &dyn Fn(f64)| ours::measure(row, args.plan, progress);
        let report = |group: &str, rows: &[Relative]| {
            (report::relative_table(rows), report::relative_bars(group, rows))
        };
        self.relatives = self.groups(rows, measure, report)?;
        Ok(())
    }

    fn finish(self) -> Result<bool, Failure> {
        self.bar.finish_and_clear();
        if let Some(summary) = report::summary(&self.rows) {
            println!("{summary}");
        }
        report::write_csv(&self.args.out.join("peers.csv"), &self.rows, &self.relatives)?;
        println!("peers.csv and a plot for each group are in {}", self.args.out.display());
        let wrong: Vec<&String> = self.rows.iter().flat_map(|row| &row.wrong).collect();
        wrong.iter().for_each(|line| eprintln!("error: {line}"));
        Ok(wrong.is_empty())
    }
}
