//! How often "it" looks at the right noun in sentences that training never saw.

use qkv::Error;

use crate::file::{N_HEADS, N_LAYERS};
use crate::model::forward;
use crate::rng::Rng;
use crate::sentences::{Sentence, Shape, sentence};
use crate::vocabulary::number;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    pub sentences: usize,
    /// In how many the last layer's mean weight on the right noun is larger than on the other one.
    pub looked_up: usize,
    /// In how many the right noun scores highest of all words.
    pub named: usize,
}

/// Runs the model on `count` random held-out sentences.
pub fn score(seed: u64, count: usize) -> Result<Score, Error> {
    let mut rng = Rng::new(seed);
    let mut score = Score { sentences: count, ..Score::default() };
    for _ in 0..count {
        let shape = Shape::random(&mut rng);
        let (looked_up, named) = check(&sentence(&mut rng, shape, true))?;
        score.looked_up += usize::from(looked_up);
        score.named += usize::from(named);
    }
    Ok(score)
}

fn check(sentence: &Sentence) -> Result<(bool, bool), Error> {
    let words: Vec<usize> = sentence.words.iter().filter_map(|word| number(word)).collect();
    let trace = forward(&words)?;
    let weights = trace.lookups[N_LAYERS - 1].mean_weights(0..N_HEADS)?[sentence.it];
    let looked_up = weights[sentence.right] > weights[sentence.wrong];
    Ok((looked_up, trace.answer(sentence.it)? == words[sentence.right]))
}
