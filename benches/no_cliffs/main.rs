//! What each option of `Attention` costs over the plain call:
//! `cargo bench --bench no_cliffs [-- --quick] [--tier NAME] [filter]`.
//!
//! Plain and option are timed in turn, in one process, on the same operands, output and scratch: a
//! ratio is the time of the option over that of the plain call, at equal useful work. The median of
//! the ratios of such pairs counts: a slow spell of the machine falls on both calls of a pair, and an
//! outlier on one side moves it little, while a ratio of best times hangs on two single timings. It is
//! printed as well. One thread, about a minute.

#[path = "../common/mod.rs"]
mod common;
mod options;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::Shape;
use common::limits::sum_bits;
use common::machine::{date, processor};
use common::measure::{Args, best_of};
use options::{Call, Setting};
use qkv::Tier;

/// A ratio to plain that no option exceeds, beside what reading or writing its tensor takes.
const GOAL: f64 = 1.15;
/// An option is timed for at least so long before the next one's turn (seconds).
const TURN: f64 = 0.15;
/// Read to see how fast reading is: more than caches hold (bytes).
const READ: usize = 128 << 20;

/// An option, and its times in pairs with the plain call.
struct Case {
    name: String,
    /// Multiply-adds that the result needs, over those of the plain call.
    work: f64,
    /// Bytes of a mask, bias or output that the plain call does not have.
    bytes: f64,
    call: Call,
    best: f64,
    best_plain: f64,
    ratios: Vec<f64>,
}

impl Case {
    fn new(name: impl Into<String>, call: Call) -> Case {
        let (best, best_plain, ratios) = (f64::MAX, f64::MAX, Vec::new());
        Case { name: name.into(), work: 1.0, bytes: 0.0, call, best, best_plain, ratios }
    }

    fn work(self, work: f64) -> Case {
        Case { work, ..self }
    }

    fn moves(self, bytes: usize) -> Case {
        Case { bytes: bytes as f64, ..self }
    }

    /// Of the times in pairs.
    fn median(&self) -> f64 {
        let mut ratios = self.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2] / self.work
    }

    fn of_best(&self) -> f64 {
        self.best / self.best_plain / self.work
    }
}

fn main() -> Result<(), lexopt::Error> {
    let Some(args) = Args::parse("no_cliffs")? else { return Ok(()) };
    let shapes = [Shape::prefill(1024, 8, 64), Shape::decode(4096, 32, 8, 128)];
    let mut settings = shapes.map(|shape| {
        let setting = Setting::new(shape, args.tier);
        let mut cases = setting.cases();
        cases.retain(|case| case.name.contains(&args.filter));
        (setting, cases)
    });
    let read = measure(&mut settings, Duration::from_secs(if args.quick { 5 } else { 60 }));
    print(&settings, read, args.tier);
    Ok(())
}

/// All pairs in turn until `time` is over, at least once; the bytes a second of reading.
fn measure(settings: &mut [(Setting, Vec<Case>)], time: Duration) -> f64 {
    let (start, mut reading, read) = (Instant::now(), f64::MAX, vec![1.0_f32; READ / 4]);
    loop {
        for (setting, cases) in &mut *settings {
            let mut plain = setting.with(setting.plain);
            best_of(&mut reading, &mut || _ = black_box(sum_bits(&read)));
            for case in cases {
                let turn = Instant::now();
                while turn.elapsed().as_secs_f64() < TURN {
                    let alone = best_of(&mut case.best_plain, &mut || plain(&mut setting.memory));
                    let option = best_of(&mut case.best, &mut || (case.call)(&mut setting.memory));
                    case.ratios.push(option / alone);
                }
            }
        }
        if start.elapsed() >= time {
            return READ as f64 / reading;
        }
    }
}

fn print(settings: &[(Setting, Vec<Case>); 2], read: f64, tier: Tier) {
    println!("{}, {} tier, 1 thread, {}, reading {:.1} GB/s\n", processor(), tier, date(), read / 1e9);
    for (setting, cases) in settings {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, .. } = setting.shape;
        let best = cases.iter().map(|case| case.best_plain).fold(f64::NAN, f64::min);
        let (name, ms) = (if q_len == 1 { "decode" } else { "prefill" }, best * 1e3);
        let sizes = format!("{n_heads}/{n_kv_heads} heads, {q_len} x {kv_len} x {head_dim}");
        println!("{name}: {sizes}, f32, plain {ms:.2} ms");
    }
    println!(
        "
Time over plain at equal useful work: the median of pairs (in brackets of best times). Useful work is
the multiply-adds of keys that a query sees by its place or a rule of tiles, over plain's; hidden keys of
other masks count. A tensor's bytes take the time that reading as many takes, over plain's. **Bold**: more
than {GOAL} and that time.

| option | useful work | prefill | decode | tensor in prefill | tensor in decode |
| --- | --- | --- | --- | --- | --- |"
    );
    let mut names: Vec<&str> = Vec::new();
    for case in settings.iter().flat_map(|(_, cases)| cases) {
        if !names.contains(&&*case.name) {
            names.push(&case.name);
        }
    }
    for name in names {
        let both = settings.each_ref().map(|(_, cases)| cases.iter().find(|case| case.name == name));
        let cells =
            |cell: &dyn Fn(&Case) -> String| both.map(|case| case.map_or("".into(), cell)).join(" | ");
        println!(
            "| {name} | {} | {} | {} |",
            work(both),
            cells(&|case| ratio(case, read)),
            cells(&|case| tensor(case, read)),
        );
    }
}

/// Of prefill and decode, where it is not 1.
fn work(both: [Option<&Case>; 2]) -> String {
    let mut work: Vec<_> = both.iter().flatten().map(|case| format!("{:.2}", case.work)).collect();
    work.dedup();
    let work = work.join(", ");
    if work == "1.00" { String::new() } else { work }
}

fn ratio(case: &Case, read: f64) -> String {
    let (median, goal) = (case.median(), GOAL + case.bytes / read / case.best_plain);
    let bold = if median > goal { "**" } else { "" };
    format!("{bold}{median:.2}{bold} ({:.2})", case.of_best())
}

fn tensor(case: &Case, read: f64) -> String {
    if case.bytes == 0.0 {
        return String::new();
    }
    let (size, unit) = if case.bytes < 1e6 { (case.bytes / 1e3, "kB") } else { (case.bytes / 1e6, "MB") };
    format!("{size:.1} {unit}: {:.2}", case.bytes / read / case.best_plain)
}
