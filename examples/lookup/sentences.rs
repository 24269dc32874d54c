//! Sentences in which the last word decides what "it" means, and which of them are held out.
//!
//! ```text
//! [OPENING] the ANIMAL ANIMAL_VERB the OBJECT because it was [DEGREE] ADJECTIVE
//! [OPENING] the OBJECT OBJECT_VERB the ANIMAL because it was [DEGREE] ADJECTIVE
//! ```
//!
//! "it" is the animal if the adjective is one of `ANIMAL_ADJECTIVES`, otherwise the object.

use crate::rng::{Rng, mix};
use crate::words::{
    ANIMAL_ADJECTIVES, ANIMAL_VERBS, ANIMALS, DEGREES, OBJECT_ADJECTIVES, OBJECT_VERBS, OBJECTS, OPENINGS,
};

/// Tells the split apart from every other use of the hash.
const SPLIT_SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;

/// One held-out triple in this many.
const HELD_OUT_ONE_IN: u64 = 5;

/// A sentence and what "it" stands for in it; the numbers are positions in `words`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub words: Vec<&'static str>,
    pub it: usize,
    /// The noun that "it" stands for.
    pub right: usize,
    /// The other noun.
    pub wrong: usize,
    pub held_out: bool,
}

/// The optional words, which alone decide how long a sentence is and where "it" stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub opening: bool,
    pub degree: bool,
}

impl Shape {
    pub fn random(rng: &mut Rng) -> Self {
        Self { opening: rng.below(2) == 1, degree: rng.below(2) == 1 }
    }
}

/// A random sentence of the given shape from the training part or the held-out part.
pub fn sentence(rng: &mut Rng, shape: Shape, held_out: bool) -> Sentence {
    loop {
        let candidate = any_sentence(rng, shape);
        if candidate.held_out == held_out {
            return candidate;
        }
    }
}

fn any_sentence(rng: &mut Rng, shape: Shape) -> Sentence {
    let animal = rng.below(ANIMALS.len());
    let object = rng.below(OBJECTS.len());
    let animal_first = rng.below(2) == 0;
    let about_animal = rng.below(2) == 0;
    let adjectives = if about_animal { &ANIMAL_ADJECTIVES } else { &OBJECT_ADJECTIVES };
    let adjective = rng.below(adjectives.len());

    let mut words = Vec::new();
    if shape.opening {
        words.push(pick(rng, &OPENINGS));
    }
    let first = words.len() + 1;
    let second = first + 3;
    if animal_first {
        words.extend(["the", ANIMALS[animal], pick(rng, &ANIMAL_VERBS), "the", OBJECTS[object]]);
    } else {
        words.extend(["the", OBJECTS[object], pick(rng, &OBJECT_VERBS), "the", ANIMALS[animal]]);
    }
    words.extend(["because", "it", "was"]);
    if shape.degree {
        words.push(pick(rng, &DEGREES));
    }
    words.push(adjectives[adjective]);

    let (right, wrong) = if animal_first == about_animal { (first, second) } else { (second, first) };
    let held_out = is_held_out(ANIMALS[animal], OBJECTS[object], adjectives[adjective]);
    Sentence { words, it: second + 2, right, wrong, held_out }
}

fn pick<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    words[rng.below(words.len())]
}

/// Whether training never sees these three words together, whatever the verb and the order.
///
/// All sentences about a dog and a ball are held out, so that the demonstration's own sentence is
/// new to the model, and a seeded fifth of the other triples.
pub fn is_held_out(animal: &str, object: &str, adjective: &str) -> bool {
    let triple = [animal, object, adjective]
        .iter()
        .flat_map(|word| word.bytes().chain([b' ']))
        .fold(SPLIT_SEED, |hash, byte| mix(hash ^ u64::from(byte)));
    (animal, object) == ("dog", "ball") || triple.is_multiple_of(HELD_OUT_ONE_IN)
}
