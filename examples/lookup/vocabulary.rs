//! The words that the model knows, by number.

/// One word a line, in the order of the embedding.
pub const WORDS: &str = include_str!("vocab.txt");

pub fn number(word: &str) -> Option<usize> {
    WORDS.lines().position(|known| known == word)
}

/// The word with this number; empty if there is none.
pub fn word(number: usize) -> &'static str {
    WORDS.lines().nth(number).unwrap_or_default()
}
