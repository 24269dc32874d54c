//! Sentences as tensors of word numbers.

use candle_core::{Device, Result, Tensor, bail};

use crate::rng::Rng;
use crate::sentences::{Sentence, Shape, sentence};
use crate::words::{
    ANIMAL_ADJECTIVES, ANIMAL_VERBS, ANIMALS, DEGREES, OBJECT_ADJECTIVES, OBJECT_VERBS, OBJECTS, OPENINGS,
};

/// Every word the model knows. A word's place here is its row in the embedding.
const VOCABULARY: [&[&str]; 9] = [
    &["the", "because", "it", "was"],
    &OPENINGS,
    &DEGREES,
    &ANIMALS,
    &OBJECTS,
    &ANIMAL_VERBS,
    &OBJECT_VERBS,
    &ANIMAL_ADJECTIVES,
    &OBJECT_ADJECTIVES,
];

/// Equally long sentences, in which "it" stands at the same position.
pub struct Batch {
    pub sentences: Vec<Sentence>,
    /// The position of "it".
    pub it: usize,
    /// Word numbers: [batch, len].
    pub tokens: Tensor,
    /// The word number of the noun that "it" stands for: [batch].
    pub nouns: Tensor,
}

impl Batch {
    pub fn random(rng: &mut Rng, size: usize, held_out: bool) -> Result<Self> {
        let shape = Shape::random(rng);
        let sentences: Vec<_> = (0..size).map(|_| sentence(rng, shape, held_out)).collect();
        let Some(first) = sentences.first() else { bail!("a batch needs at least one sentence") };
        let (len, it) = (first.words.len(), first.it);
        let tokens = sentences.iter().flat_map(|s| &s.words).map(|word| number(word));
        let nouns = sentences.iter().map(|s| number(s.words[s.right]));
        Ok(Self {
            it,
            tokens: Tensor::from_vec(tokens.collect::<Result<_>>()?, (size, len), &Device::Cpu)?,
            nouns: Tensor::from_vec(nouns.collect::<Result<_>>()?, size, &Device::Cpu)?,
            sentences,
        })
    }
}

/// Every word the model knows, in the order of its embedding.
pub fn vocabulary() -> impl Iterator<Item = &'static str> {
    VOCABULARY.into_iter().flatten().copied()
}

fn number(word: &str) -> Result<u32> {
    match vocabulary().position(|known| known == word) {
        Some(number) => Ok(number as u32),
        None => bail!("the grammar makes {word:?}, which is not in the vocabulary"),
    }
}
