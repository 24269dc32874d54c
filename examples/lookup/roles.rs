//! Three experiments on the last layer that tell Q, K and V apart: as trained, K swapped, V swapped.

use qkv::Error;

use crate::file::{MAX_LEN, N_HEADS, N_LAYERS};
use crate::model::{INNER, Trace, forward, forward_with, swap_tokens};

const LAST: usize = N_LAYERS - 1;

/// What became of "it" in one experiment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The mean of the heads' weights from "it" on every token.
    pub weights: [f32; MAX_LEN],
    /// The word that "it" became most like.
    pub answer: usize,
    /// The blend of values that "it" carried away, the heads side by side.
    pub blend: [f32; INNER],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roles {
    pub as_trained: Outcome,
    pub keys_swapped: Outcome,
    pub values_swapped: Outcome,
}

impl Roles {
    /// Runs a sentence three times; `nouns` are the positions of the two whose vectors change places.
    pub fn of(words: &[usize], it: usize, nouns: [usize; 2]) -> Result<Self, Error> {
        let [a, b] = nouns;
        let keys_swapped = forward_with(words, |layer, lookup| {
            if layer == LAST {
                swap_tokens(&mut lookup.k, a, b);
            }
        })?;
        let values_swapped = forward_with(words, |layer, lookup| {
            if layer == LAST {
                swap_tokens(&mut lookup.v, a, b);
            }
        })?;
        Ok(Self {
            as_trained: Outcome::of(&forward(words)?, it)?,
            keys_swapped: Outcome::of(&keys_swapped, it)?,
            values_swapped: Outcome::of(&values_swapped, it)?,
        })
    }
}

impl Outcome {
    fn of(trace: &Trace, it: usize) -> Result<Self, Error> {
        let weights = trace.lookups[LAST].mean_weights(0..N_HEADS)?[it];
        let mut blend = [0.0; INNER];
        blend.copy_from_slice(&trace.lookups[LAST].out[it * INNER..][..INNER]);
        Ok(Self { weights, answer: trace.answer(it)?, blend })
    }
}
