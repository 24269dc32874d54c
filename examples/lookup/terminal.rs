//! What the example prints: heat maps and bars of characters, a table; mostly within 80 columns.

use std::io::{self, Write};

use crate::file::N_LAYERS;
use crate::model::Weights;
use crate::roles::{Outcome, Roles};
use crate::vocabulary::word;

const WIDTH: usize = 80;
/// The width of "100%".
const PERCENT: usize = 4;
/// Room for the arrow before "it".
const SHORTEST_LABEL: usize = 4;

/// What a weight looks like without colour: the shade of the first limit that it is below.
const SHADES: [(f32, char); 4] = [(0.05, ' '), (0.25, '░'), (0.5, '▒'), (0.75, '▓')];
const FULL: char = '█';

/// The same with colour: a background and a text colour of the 256.
const COLOURS: [(f32, u8, u8); 5] =
    [(0.05, 17, 244), (0.25, 19, 252), (0.5, 26, 255), (0.75, 38, 16), (f32::INFINITY, 51, 16)];

/// A row for each looking token, a column for each one looked at, weights in percent.
///
/// The row of `marked` has an arrow.
pub fn heat_map(
    out: &mut impl Write,
    words: &[usize],
    weights: &Weights,
    marked: Option<usize>,
    colour: bool,
) -> io::Result<()> {
    let label = longest(words).max(SHORTEST_LABEL);
    let cell = ((WIDTH - label) / words.len()).clamp(6, 9);
    write!(out, "{:label$}", "")?;
    for &looked_at in words {
        write!(out, " {:>1$}", shortened(word(looked_at), cell - 1), cell - 1)?;
    }
    writeln!(out)?;
    for (i, (&looking, row)) in words.iter().zip(weights).enumerate() {
        let arrow = if marked == Some(i) { "► " } else { "" };
        write!(out, "{:>label$}", format!("{arrow}{}", word(looking)))?;
        for &weight in &row[..words.len()] {
            let percent = percent(weight);
            if colour {
                let (background, text) = colours(weight);
                write!(out, " \x1b[48;5;{background};38;5;{text}m{percent:>0$}\x1b[0m", cell - 1)?;
            } else {
                let shades = shade(weight).to_string().repeat(cell - 1 - PERCENT);
                write!(out, " {shades}{percent:>PERCENT$}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// At most [`PERCENT`] characters; what rounds to nothing is a dot, so that the map stays quiet there.
fn percent(weight: f32) -> String {
    if weight < 0.005 { "·".into() } else { format!("{:.0}%", 100.0 * weight) }
}

/// A bar for each token, as long as the weight on it.
pub fn bars(out: &mut impl Write, words: &[usize], weights: &[f32]) -> io::Result<()> {
    const FULL_BAR: f32 = 50.0;
    let label = longest(words);
    for (&looked_at, weight) in words.iter().zip(weights) {
        let bar = "█".repeat((FULL_BAR * weight).round() as usize);
        let line = format!("{:>label$} {:5.1}% {bar}", word(looked_at), 100.0 * weight);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The experiments that tell Q, K and V apart; `nouns` are the positions of what was swapped.
pub fn roles(out: &mut impl Write, words: &[usize], nouns: [usize; 2], roles: &Roles) -> io::Result<()> {
    let [a, b] = nouns.map(|position| word(words[position]));
    let experiments = [
        ("as trained".to_owned(), &roles.as_trained),
        (format!("K of {a} and {b} swapped"), &roles.keys_swapped),
        (format!("V of {a} and {b} swapped"), &roles.values_swapped),
    ];
    let width = experiments.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    writeln!(out, "Which does what? In layer {N_LAYERS}, exchange one thing at a time:\n")?;
    writeln!(out, "  {:width$}  {:>8}  {:>8}   \"it\"", "", "on", "on")?;
    writeln!(out, "  {:width$}  {a:>8}  {b:>8}   becomes", "")?;
    for (what, Outcome { weights, answer, .. }) in &experiments {
        let [on_a, on_b] = nouns.map(|position| 100.0 * weights[position]);
        writeln!(out, "  {what:width$}  {on_a:7.2}%  {on_b:7.2}%   {}", word(*answer))?;
    }
    let bits = |outcome: &Outcome| outcome.weights.map(f32::to_bits);
    let unchanged = bits(&roles.as_trained) == bits(&roles.values_swapped);
    let unchanged = if unchanged { "not a bit of the" } else { "only the last bits of the" };
    writeln!(
        out,
        "
Q of \"it\" is what it looks for, K is how each noun is matched: with the keys
swapped, the same question finds the other noun. V is what is carried away: with
the values swapped, \"it\" looks where it looked ({unchanged}
weights has changed) and comes back with something else.
Q and K decide the routing, V carries the content."
    )
}

fn longest(words: &[usize]) -> usize {
    words.iter().map(|&number| word(number).len()).max().unwrap_or(0)
}

fn shortened(word: &str, width: usize) -> String {
    if word.len() <= width { word.to_owned() } else { format!("{}…", &word[..width - 1]) }
}

fn shade(weight: f32) -> char {
    SHADES.into_iter().find(|&(limit, _)| weight < limit).map_or(FULL, |(_, shade)| shade)
}

fn colours(weight: f32) -> (u8, u8) {
    let found = COLOURS.into_iter().find(|&(limit, ..)| weight < limit);
    found.map_or((0, 255), |(_, background, text)| (background, text))
}
