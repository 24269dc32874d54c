//! From a sentence to word numbers, with help for words the model does not know.

use std::error::Error;
use std::fmt;

use strsim::normalized_damerau_levenshtein;

use crate::file::MAX_LEN;
use crate::vocabulary::{WORDS, number};

/// How many known words to name for an unknown one.
const NEAREST: usize = 3;

/// Why a sentence can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSentence {
    Empty,
    TooLong { len: usize },
    UnknownWord { word: String, nearest: Vec<&'static str> },
}

/// The numbers of the words of a sentence. Case and punctuation don't matter.
pub fn read(sentence: &str) -> Result<Vec<usize>, BadSentence> {
    let words: Vec<String> = sentence
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return Err(BadSentence::Empty);
    }
    if words.len() > MAX_LEN {
        return Err(BadSentence::TooLong { len: words.len() });
    }
    words.into_iter().map(|word| number(&word).ok_or_else(|| unknown(word))).collect()
}

fn unknown(word: String) -> BadSentence {
    let mut nearest: Vec<_> = WORDS.lines().collect();
    // The sort is stable and 1 is the same word, so the order does not depend on anything else.
    nearest.sort_by(|a, b| {
        let likeness = |known: &str| normalized_damerau_levenshtein(&word, known);
        likeness(b).total_cmp(&likeness(a))
    });
    nearest.truncate(NEAREST);
    BadSentence::UnknownWord { word, nearest }
}

impl fmt::Display for BadSentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the sentence has no words"),
            Self::TooLong { len } => {
                write!(f, "the sentence has {len} words; the model was trained on at most {MAX_LEN}")
            }
            Self::UnknownWord { word, nearest } => write!(
                f,
                "the model does not know the word \"{word}\"; the nearest it knows are {}",
                nearest.join(", ")
            ),
        }
    }
}

impl Error for BadSentence {}
