//! What was measured: rows, tables and the file of comma-separated values.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use qkv::Tier;

use crate::common::limits::chains;
use crate::plot::Bars;
use crate::rounds::{Contender, Failure};

/// The best time of one contender.
pub struct Entry {
    pub name: String,
    pub seconds: f64,
    pub rounds: usize,
}

impl Entry {
    fn of(contender: &Contender) -> Entry {
        Entry { name: contender.name.clone(), seconds: contender.best, rounds: contender.rounds }
    }

    fn is_ours(&self) -> bool {
        self.name.starts_with("qkv")
    }
}

/// One shape beside the limits and the peers.
pub struct Row {
    pub group: &'static str,
    pub shape: String,
    pub flops: f64,
    /// FMA peak of the same rounds, FLOP/s; NaN where it is not known.
    pub peak: f64,
    /// Bytes per second of reading the weights, or K and V, in the same rounds, if that may be the limit.
    pub bandwidth: Option<f64>,
    /// The limit: seconds of what takes longer at least.
    pub limit: f64,
    pub entries: Vec<Entry>,
    /// Peers whose result is wrong: their times do not count.
    pub wrong: Vec<String>,
}

impl Row {
    /// `bytes`: what is read by the contender named "read".
    pub fn new(group: &'static str, shape: String, flops: f64, bytes: f64, contenders: &[Contender]) -> Row {
        let best = |name: &str| contenders.iter().find(|it| it.name == name).map(|it| it.best);
        let peak = chains(Tier::detect()).zip(best("chains")).map_or(f64::NAN, |(flops, best)| flops / best);
        let bandwidth = best("read").map(|best| bytes / best);
        let limit = (flops / peak).max(best("read").unwrap_or(f64::NAN));
        let entries = contenders.iter().filter(|it| it.name != "chains" && it.name != "read").map(Entry::of);
        Row { group, shape, flops, peak, bandwidth, limit, entries: entries.collect(), wrong: Vec::new() }
    }

    fn share(&self, entry: &Entry) -> f64 {
        100.0 * self.limit / entry.seconds
    }

    fn limit_name(&self) -> &'static str {
        if self.limit > self.flops / self.peak { "read" } else { "FMA" }
    }

    fn limit_text(&self) -> String {
        match self.bandwidth {
            Some(bandwidth) if self.limit_name() == "read" => format!("read {:.1} GB/s", bandwidth / 1e9),
            _ => format!("FMA {:.1} GFLOP/s", self.peak / 1e9),
        }
    }

    fn quickest(&self, ours: bool) -> Option<&Entry> {
        let of_side = self.entries.iter().filter(|entry| entry.is_ours() == ours);
        of_side.min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// The best peer's time over ours: more than 1 where we are faster.
    fn ratio(&self) -> Option<(f64, &Entry)> {
        let peer = self.quickest(false)?;
        Some((peer.seconds / self.quickest(true)?.seconds, peer))
    }
}

/// Ours beside ours: what a choice or a length costs.
pub struct Relative {
    pub group: &'static str,
    pub shape: String,
    /// With the work of each, in a unit that only matters within the row.
    pub entries: Vec<(Entry, f64)>,
    /// The entry that costs 1.
    pub base: usize,
}

impl Relative {
    pub fn new(
        group: &'static str,
        shape: String,
        works: &[f64],
        base: usize,
        contenders: &[Contender],
    ) -> Relative {
        let entries = contenders.iter().map(Entry::of).zip(works.iter().copied()).collect();
        Relative { group, shape, entries, base }
    }

    /// Time for the work, over that of the base.
    fn cost(&self, at: usize) -> f64 {
        let cost = |(entry, work): &(Entry, f64)| entry.seconds / work;
        cost(&self.entries[at]) / cost(&self.entries[self.base])
    }
}

/// The names of all contenders, in the order in which they come.
fn names<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<String> {
    let mut names = Vec::<String>::new();
    for entry in entries {
        if !names.contains(&entry.name) {
            names.push(entry.name.clone());
        }
    }
    names
}

pub fn table(rows: &[Row]) -> String {
    let names = names(rows.iter().flat_map(|row| &row.entries));
    let mut table = empty_table();
    let head = ["shape", "qkv", "limit"].map(String::from).into_iter();
    let head = head.chain(names.iter().map(|name| format!("{name} %")));
    table.set_header(head.chain(["best peer", "ratio"].map(String::from)));
    for row in rows {
        let ours = row.quickest(true).map_or("".into(), |entry| time(entry.seconds));
        let mut cells = vec![row.shape.clone(), ours, row.limit_text()];
        cells.extend(names.iter().map(|name| {
            let entry = row.entries.iter().find(|entry| entry.name == *name);
            entry.map_or("-".into(), |entry| format!("{:.1}", row.share(entry)))
        }));
        let (peer, ratio) = row
            .ratio()
            .map_or(Default::default(), |(ratio, peer)| (peer.name.clone(), format!("{ratio:.2}")));
        table.add_row(cells.into_iter().chain([peer, ratio]));
    }
    align(&mut table);
    let ratios: Vec<f64> = rows.iter().filter_map(|row| Some(row.ratio()?.0)).collect();
    match mean(&ratios) {
        Some(mean) => format!("{table}\nbest peer's time over ours, geometric mean: {mean:.3}"),
        None => format!("{table}\nno peer was measured"),
    }
}

/// Geometric mean, if there is something.
fn mean(ratios: &[f64]) -> Option<f64> {
    let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (logs / ratios.len() as f64).exp())
}

/// A line on all groups together.
pub fn summary(rows: &[Row]) -> Option<String> {
    let ratios: Vec<f64> = rows.iter().filter_map(|row| Some(row.ratio()?.0)).collect();
    let behind = ratios.iter().filter(|&&ratio| ratio < 1.0).count();
    let mean = mean(&ratios)?;
    Some(format!(
        "{} shapes with peers: ratio {mean:.3} in the geometric mean, {behind} below 1",
        ratios.len()
    ))
}

pub fn relative_table(rows: &[Relative]) -> String {
    let mut table = empty_table();
    table.set_header(["shape", "call", "time", "time for the work, relative"]);
    for row in rows {
        for (i, (entry, _)) in row.entries.iter().enumerate() {
            let shape = if i == 0 { row.shape.as_str() } else { "" };
            table.add_row([shape, &entry.name, &time(entry.seconds), &format!("{:.3}", row.cost(i))]);
        }
    }
    align(&mut table);
    table.to_string()
}

fn empty_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table
}

/// Numbers to the right.
fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.1} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} us", s * 1e6),
        s => format!("{:.3} ms", s * 1e3),
    }
}

/// Percent of the limit.
pub fn bars(group: &str, rows: &[Row]) -> Bars {
    let names = names(rows.iter().flat_map(|row| &row.entries));
    let heights = |row: &Row| {
        let entry = |name: &String| row.entries.iter().find(|entry| entry.name == *name);
        names.iter().map(|name| entry(name).map(|entry| row.share(entry))).collect()
    };
    let groups = rows.iter().map(|row| (row.shape.clone(), heights(row))).collect();
    Bars { title: group.into(), unit: "% of the limit (FMA peak or read bandwidth)".into(), names, groups }
}

/// Time relative to the base.
pub fn relative_bars(group: &str, rows: &[Relative]) -> Bars {
    let names = names(rows.iter().flat_map(|row| row.entries.iter().map(|(entry, _)| entry)));
    let heights = |row: &Relative| {
        let at = |name: &String| row.entries.iter().position(|(entry, _)| entry.name == *name);
        names.iter().map(|name| at(name).map(|at| row.cost(at))).collect()
    };
    let groups = rows.iter().map(|row| (row.shape.clone(), heights(row))).collect();
    Bars { title: group.into(), unit: "time for the work, relative".into(), names, groups }
}

/// One line a time.
pub fn write_csv(path: &Path, rows: &[Row], relatives: &[Relative]) -> Result<(), Failure> {
    let mut file = csv::Writer::from_path(path)?;
    file.write_record([
        "group",
        "shape",
        "contender",
        "rounds",
        "seconds",
        "limit",
        "limit_seconds",
        "percent_of_limit",
        "fma_peak_gflops",
        "read_gbytes_per_s",
        "relative",
    ])?;
    let number = |x: f64| format!("{x:.6e}");
    for row in rows {
        for entry in &row.entries {
            file.write_record([
                row.group,
                &row.shape,
                &entry.name,
                &entry.rounds.to_string(),
                &number(entry.seconds),
                row.limit_name(),
                &number(row.limit),
                &format!("{:.2}", row.share(entry)),
                &format!("{:.2}", row.peak / 1e9),
                &row.bandwidth.map_or(String::new(), |bandwidth| format!("{:.2}", bandwidth / 1e9)),
                "",
            ])?;
        }
    }
    for row in relatives {
        for (i, (entry, _)) in row.entries.iter().enumerate() {
            let (rounds, seconds, cost) =
                (entry.rounds.to_string(), number(entry.seconds), format!("{:.4}", row.cost(i)));
            let cells = [row.group, &row.shape, &entry.name, &rounds, &seconds, "", "", "", "", "", &cost];
            file.write_record(cells)?;
        }
    }
    Ok(file.flush()?)
}
