//! `cargo run --release --example lookup`: where a trained transformer looks to find out what "it" is.
//!
//! The model was trained to name the noun that "it" stands for (see `examples/train`). How it does so
//! can be watched: in the last layer, "it" looks the noun up.

mod args;
mod file;
mod held_out;
mod model;
mod picture;
mod read;
mod rng;
mod roles;
mod sentences;
mod terminal;
mod vocabulary;
mod weights;
mod words;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use args::Args;
use file::{N_HEADS, N_LAYERS, N_PARAMS};
use held_out::{Score, score};
use model::{Trace, forward};
use picture::Panel;
use roles::Roles;
use words::{ANIMALS, OBJECTS};

const SCORE_SEED: u64 = 2024;
const SCORE_SENTENCES: usize = 1000;

fn main() -> ExitCode {
    let input = match read_input() {
        Ok(input) => input,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("Try --help, which also lists the words the model knows.");
            return ExitCode::from(2);
        }
    };
    match show(&input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Input {
    args: Args,
    words: Vec<usize>,
}

fn read_input() -> Result<Input, Box<dyn Error>> {
    let args = args::parse(lexopt::Parser::from_env())?;
    let words = if args.help { Vec::new() } else { read::read(&args.sentence)? };
    Ok(Input { args, words })
}

/// Whoever read the output has seen enough, as `head` has.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn show(Input { args, words }: &Input) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    if args.help {
        write!(out, "{}", args::help())?;
        return Ok(());
    }
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let trace = forward(words)?;
    let it = position(words, |word| word == "it");

    writeln!(out, "{}", args.sentence)?;
    writeln!(
        out,
        "{N_LAYERS} layers of {N_HEADS} heads, {N_PARAMS} parameters. A row says where its word looks."
    )?;
    writeln!(out, "In the last layer only the row of \"it\" was trained for.")?;
    let panels = panels(&trace, args)?;
    for panel in &panels {
        writeln!(out, "\n{}", panel.title)?;
        terminal::heat_map(&mut out, words, &panel.weights, it, colour)?;
    }
    if let Some(path) = &args.svg {
        let picture = picture::draw(words, &panels, it);
        svg::save(path, &picture).map_err(|error| format!("could not write {path}: {error}"))?;
        writeln!(out, "\nThe heat maps are drawn in {path}.")?;
    }

    writeln!(out)?;
    match it {
        Some(it) => explain(&mut out, args, words, &trace, it)?,
        None => writeln!(out, "The sentence has no \"it\" to look into.")?,
    }
    let Score { sentences, looked_up, named } = score(SCORE_SEED, SCORE_SENTENCES)?;
    writeln!(out, "\nOn {sentences} sentences held out from training, \"it\" looks at the right noun in")?;
    writeln!(out, "{looked_up} and becomes it in {named}.")?;
    Ok(())
}

fn panels(trace: &Trace, args: &Args) -> Result<Vec<Panel>, qkv::Error> {
    let places = args.layers.clone().flat_map(|layer| args.heads.clone().map(move |head| (layer, head)));
    let panel = |(layer, head): (usize, usize)| {
        let title = format!("Layer {}, head {}", layer + 1, head + 1);
        let (row, column) = (layer - args.layers.start, head - args.heads.start);
        Ok(Panel { title, row, column, weights: trace.lookups[layer].weights(head)? })
    };
    places.map(panel).collect()
}

/// What "it" looks at, what it becomes, and which of Q, K and V did it.
fn explain(
    out: &mut impl Write,
    args: &Args,
    words: &[usize],
    trace: &Trace,
    it: usize,
) -> Result<(), Box<dyn Error>> {
    let layer = args.layers.end - 1;
    let heads = match args.heads.len() {
        1 => format!("head {}", args.heads.end),
        _ => "mean of the heads".into(),
    };
    writeln!(out, "What \"it\" looks at in layer {} ({heads}):\n", layer + 1)?;
    terminal::bars(out, words, &trace.lookups[layer].mean_weights(args.heads.clone())?[it])?;
    let answer = vocabulary::word(trace.answer(it)?);
    let error = trace.lookups[layer].weights_error()?;
    writeln!(out, "\nAfter the last layer, \"it\" is most like the word \"{answer}\".")?;
    writeln!(out, "(The weights above times V are the fused attention's output to within {error:.0e}.)\n")?;

    let animal = position(words, |word| ANIMALS.contains(&word));
    let object = position(words, |word| OBJECTS.contains(&word));
    match (animal, object) {
        (Some(animal), Some(object)) => {
            let nouns = [animal, object];
            terminal::roles(out, words, nouns, &Roles::of(words, it, nouns)?)?;
        }
        _ => writeln!(out, "With an animal and an object in the sentence, their K and V could be swapped.")?,
    }
    Ok(())
}

fn position(words: &[usize], is: impl Fn(&str) -> bool) -> Option<usize> {
    words.iter().position(|&number| is(vocabulary::word(number)))
}
