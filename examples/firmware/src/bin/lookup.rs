//! The model of `examples/lookup` on a microcontroller: prints where "it" looks in two sentences, and
//! exits with 0 if it finds the right noun in both.

#![no_std]
#![no_main]

#[allow(dead_code, reason = "other users of the model need more of it")]
#[path = "../../../lookup/file.rs"]
mod file;
#[allow(dead_code, reason = "other users of the model need more of it")]
#[path = "../../../lookup/model.rs"]
mod model;
#[path = "../../../lookup/vocabulary.rs"]
mod vocabulary;
#[path = "../weights.rs"]
mod weights;

use file::{N_HEADS, N_LAYERS, N_PARAMS};
use semihosting::process::ExitCode;
use semihosting::{print, println};

/// Sentences that training never saw, which differ in the last word only.
const SENTENCES: [Sentence; 2] =
    [Sentence { adjective: "excited", noun: "dog" }, Sentence { adjective: "deflated", noun: "ball" }];
const START: [&str; 8] = ["the", "dog", "chased", "the", "ball", "because", "it", "was"];
const LEN: usize = START.len() + 1;
const IT: usize = 6;

/// The last word of a sentence and the noun that "it" then stands for.
struct Sentence {
    adjective: &'static str,
    noun: &'static str,
}

enum Failure {
    UnknownWord(&'static str),
    Refused(qkv::Error),
    WrongNoun,
}

impl From<qkv::Error> for Failure {
    fn from(error: qkv::Error) -> Failure {
        Failure::Refused(error)
    }
}

#[cfg_attr(target_arch = "arm", cortex_m_rt::entry)]
#[cfg_attr(target_arch = "riscv32", riscv_rt::entry)]
fn main() -> ! {
    println!(
        "{N_LAYERS} layers of {N_HEADS} heads, {N_PARAMS} parameters in bf16, tier {}.",
        qkv::Tier::detect()
    );
    let code = match SENTENCES.iter().try_for_each(show) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match failure {
                Failure::UnknownWord(word) => println!("error: the model does not know the word \"{word}\""),
                Failure::Refused(error) => println!("error: {error}"),
                Failure::WrongNoun => println!("error: that is the wrong noun"),
            }
            ExitCode::FAILURE
        }
    };
    code.exit_process()
}

/// Prints what "it" looks at, head by head, and what it becomes.
fn show(sentence: &Sentence) -> Result<(), Failure> {
    let mut words = [0; LEN];
    for (number, word) in words.iter_mut().zip(START.into_iter().chain([sentence.adjective])) {
        *number = vocabulary::number(word).ok_or(Failure::UnknownWord(word))?;
    }
    let trace = model::forward(&words)?;

    println!("\nWhere \"it\" looks in \"{} ... {}\":\n", START[1], sentence.adjective);
    print!("{:>10}", "");
    for (layer, head) in heads() {
        print!("  {}.{}", layer + 1, head + 1);
    }
    println!("   by layer.head");
    let mut rows = [[0.0; N_LAYERS * N_HEADS]; LEN];
    for (column, (layer, head)) in heads().enumerate() {
        let weights = trace.lookups[layer].weights(head)?;
        for (row, weight) in rows.iter_mut().zip(weights[IT]) {
            row[column] = weight;
        }
    }
    let mut looked_at = ("", 0.0);
    for (row, &word) in rows.iter().zip(&words) {
        let word = vocabulary::word(word);
        let last = &row[(N_LAYERS - 1) * N_HEADS..];
        let mean = last.iter().sum::<f32>() / N_HEADS as f32;
        if mean > looked_at.1 {
            looked_at = (word, mean);
        }
        print!("{word:>10}");
        row.iter().for_each(|&weight| print!(" {:3}%", percent(weight)));
        println!("   {:#<1$}", "", percent(mean) as usize / 4);
    }
    let answer = vocabulary::word(trace.answer(IT)?);
    println!("\n\"it\" looks at \"{}\" most and becomes most like \"{answer}\".", looked_at.0);
    if looked_at.0 == sentence.noun && answer == sentence.noun { Ok(()) } else { Err(Failure::WrongNoun) }
}

fn heads() -> impl Iterator<Item = (usize, usize)> {
    (0..N_LAYERS).flat_map(|layer| (0..N_HEADS).map(move |head| (layer, head)))
}

fn percent(weight: f32) -> u32 {
    (100.0 * weight + 0.5) as u32
}
