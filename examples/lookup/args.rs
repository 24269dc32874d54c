//! The command line of the example.

use std::ops::Range;

use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt;

use crate::file::{N_HEADS, N_LAYERS};
use crate::words::{
    ANIMAL_ADJECTIVES, ANIMAL_VERBS, ANIMALS, DEGREES, OBJECT_ADJECTIVES, OBJECT_VERBS, OBJECTS, OPENINGS,
};

pub const SENTENCE: &str = "The dog chased the ball because it was excited";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    pub sentence: String,
    /// Layers to show, counted from 0.
    pub layers: Range<usize>,
    /// Heads to show, counted from 0.
    pub heads: Range<usize>,
    pub svg: Option<String>,
    pub help: bool,
}

/// Reads the command line; the error is a sentence for the user.
pub fn parse(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let mut words: Vec<String> = Vec::new();
    let mut args =
        Args { sentence: SENTENCE.into(), layers: 0..N_LAYERS, heads: 0..N_HEADS, svg: None, help: false };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("layer") => args.layers = one_of("--layer", parser.value()?.parse()?, N_LAYERS)?,
            Long("head") => args.heads = one_of("--head", parser.value()?.parse()?, N_HEADS)?,
            Long("svg") => args.svg = Some(parser.value()?.string()?),
            Long("help") | Short('h') => args.help = true,
            Value(word) => words.push(word.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    if !words.is_empty() {
        args.sentence = words.join(" ");
    }
    Ok(args)
}

/// The number `given` counts from 1.
fn one_of(option: &str, given: usize, count: usize) -> Result<Range<usize>, lexopt::Error> {
    match given.checked_sub(1) {
        Some(index) if index < count => Ok(index..given),
        _ => Err(format!("{option} goes from 1 to {count}, not {given}").into()),
    }
}

/// What `--help` says, with the words the model knows.
pub fn help() -> String {
    let slots: [(&str, &[&str]); 8] = [
        ("OPENING", &OPENINGS),
        ("ANIMAL", &ANIMALS),
        ("OBJECT", &OBJECTS),
        ("VERB of an animal", &ANIMAL_VERBS),
        ("VERB of an object", &OBJECT_VERBS),
        ("DEGREE", &DEGREES),
        ("ADJECTIVE of an animal", &ANIMAL_ADJECTIVES),
        ("ADJECTIVE of an object", &OBJECT_ADJECTIVES),
    ];
    let words: String = slots.iter().map(|(slot, words)| slot_help(slot, words)).collect();
    format!(
        "\
Shows where a tiny trained transformer looks to find out what \"it\" means.

Usage: cargo run --release --example lookup -- [OPTIONS] [SENTENCE]

SENTENCE is several arguments or a quoted one; without it:
  {SENTENCE}

Options:
  --layer L    show only layer L, from 1 to {N_LAYERS}
  --head H     show only head H, from 1 to {N_HEADS}
  --svg FILE   also draw the heat maps into FILE
  -h, --help   print this

The model knows sentences of two forms, [ ] marking what may be left out:
  [OPENING] the ANIMAL VERB the OBJECT because it was [DEGREE] ADJECTIVE
  [OPENING] the OBJECT VERB the ANIMAL because it was [DEGREE] ADJECTIVE

{words}"
    )
}

/// The name of a slot and the words for it, in lines of up to 80 columns.
fn slot_help(slot: &str, words: &[&str]) -> String {
    let mut lines = String::new();
    let mut line = format!("  {slot:22}");
    for word in words {
        if line.len() + 1 + word.len() > 80 {
            lines += &line;
            line = format!("\n  {:22}", "");
        }
        line += " ";
        line += word;
    }
    lines + &line + "\n"
}
